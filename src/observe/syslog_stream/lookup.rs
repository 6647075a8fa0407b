//! Looks the name of a server up, with a deadline.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::config::HostPort;

/// How long an answer of the name server is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The look-ups of one name. The system's resolver blocks its thread, perhaps for many seconds: it has one of its own,
/// and there is one at a time.
#[derive(Default)]
pub(super) struct NameLookup {
    late: Option<Receiver<io::Result<Vec<SocketAddr>>>>,
}

impl NameLookup {
    /// Returns the addresses of a server.
    pub(super) fn addresses(&mut self, at: &HostPort) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = at.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, at.port)]);
        }
        let answer = match self.late.take() {
            Some(late) => late,
            None => ask(at.clone())?,
        };
        match answer.recv_timeout(PATIENCE) {
            Ok(found) => found,
            Err(RecvTimeoutError::Timeout) => {
                self.late = Some(answer);
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("the name server does not answer for {}", at.host)))
            }
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the look-up of the name failed")),
        }
    }
}

fn ask(at: HostPort) -> io::Result<Receiver<io::Result<Vec<SocketAddr>>>> {
    let (sender, answer) = mpsc::channel();
    let look_up = move || {
        let found = (at.host.as_str(), at.port).to_socket_addrs().map(Iterator::collect);
        let found = found.map_err(|error| io::Error::new(error.kind(), format!("cannot find {}: {error}", at.host)));
        // The log may have ended meanwhile.
        let _ = sender.send(found);
    };
    thread::Builder::new().name("callgate-lookup".to_owned()).spawn(look_up)?;
    Ok(answer)
}
