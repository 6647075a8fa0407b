//! A look at the syslog daemon or server, for `callgate check --online`. It sends no message.

use std::io;

use rustls::ProtocolVersion;

use super::syslog::{self, DatagramAddress};
use super::syslog_stream::SyslogStream;
use crate::config::SyslogConfig;

/// Connects, and returns the version of TLS, where it is spoken. UDP has no connection: there only the address is tried.
///
/// # Errors
/// When there is no connection in time.
pub(crate) fn probe_syslog(to: &SyslogConfig) -> io::Result<Option<ProtocolVersion>> {
    match to {
        SyslogConfig::Unix(path) => syslog::probe(&DatagramAddress::Unix(path.clone())).map(|()| None),
        SyslogConfig::Udp(address) => syslog::probe(&DatagramAddress::Udp(*address)).map(|()| None),
        SyslogConfig::Tcp(at) => SyslogStream::tcp(at.clone()).probe(),
        SyslogConfig::Tls(to) => SyslogStream::tls(to)?.probe(),
    }
}
