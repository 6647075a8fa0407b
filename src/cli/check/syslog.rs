//! The syslog server, as `check --online` finds it. It gets no message.

use super::diagnosis::{Diagnosis, Fault};
use super::finding::{Finding, PartQuestion};
use super::upstreams::tls_name;
use crate::config::SyslogConfig;
use crate::observe::probe_syslog;

/// Connects to the syslog daemon or server.
pub(super) async fn findings(to: &SyslogConfig) -> Vec<Finding> {
    let question = PartQuestion::new("audit.syslog", format!("connect to {to}"));
    if matches!(to, SyslogConfig::Udp(_)) {
        return vec![question.untried("UDP has no answers, so it is not known whether it gets the lines")];
    }
    let to = to.clone();
    vec![match tokio::task::spawn_blocking(move || probe_syslog(&to)).await {
        Ok(Ok(None)) => question.ok("connected"),
        Ok(Ok(Some(version))) => question.ok(format!("connected, {}", tls_name(version))),
        Ok(Err(error)) => question.failed(Diagnosis::of(&error), "does the server run there, and is `syslog` right?"),
        Err(error) => question.fail(Fault::Outside, error.to_string(), "report this as a fault of callgate"),
    }]
}
