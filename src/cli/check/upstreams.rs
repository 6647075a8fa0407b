//! The app and the nodes of the PBX: each `url`.

use std::rc::Rc;

use rustls::ProtocolVersion;

use super::diagnosis::{Diagnosis, Fault};
use super::finding::{Finding, PartQuestion};
use crate::config::{Config, UpstreamConfig, UpstreamUrl};
use crate::model::upstream_name::UpstreamName;
use crate::observe::causes;
use crate::observe::metrics::Tally;
use crate::upstream::{Connector, EndpointProbe, Upstream};

/// The configuration of an upstream, with its name for people.
#[derive(Debug, Clone, Copy)]
pub(super) struct UpstreamPart<'c> {
    pub(super) settings: &'c UpstreamConfig,
    pub(super) name: UpstreamName,
    /// Its table, with the name of the PBX node.
    pub(super) part: &'c str,
}

impl UpstreamPart<'_> {
    /// Connects to every `url`. Returns the upstream as well, if one of them works.
    pub(super) async fn open(&self, config: &Config) -> (Option<Rc<Upstream>>, Vec<Finding>) {
        let connector = match Connector::new(self.settings, self.name) {
            Ok(connector) => connector,
            Err(error) => {
                let advice = "correct `ca`, `pin` or `server_name`";
                return (
                    None,
                    vec![PartQuestion::new(self.part, "TLS").fail(Fault::Configuration, causes(&error), advice)],
                );
            }
        };
        let (mut findings, mut works) = (Vec::new(), false);
        for (probe, url) in connector.probe_all().await.into_iter().zip(&self.settings.urls) {
            works |= probe.connected.is_ok();
            findings.push(self.of_probe(probe, url));
        }
        let idle = config.server.timeouts.body_idle;
        let open = || Upstream::new(connector, self.settings.timeouts, idle, self.name, &Tally::default());
        (works.then(open), findings)
    }

    fn of_probe(&self, probe: EndpointProbe, url: &UpstreamUrl) -> Finding {
        let question = PartQuestion::new(self.part, format!("connect to {}", url.text()));
        let key = probe.pin.map(|pin| format!(", pin = \"{pin}\"")).unwrap_or_default();
        let finding = match probe.connected {
            Ok(version) => {
                let tls = version.map(|version| format!(", {}", tls_name(version))).unwrap_or_default();
                question.ok(format!("connected{tls}{key}"))
            }
            Err(error) => {
                let found = Diagnosis::of(&error);
                let answer = format!("{}{key}", found.answer);
                question.failed(Diagnosis { answer, ..found }, "does the server run there, and is `url` right?")
            }
        };
        Finding { took: Some(probe.took), ..finding }
    }

    /// Adds a finding for each address that speaks TLS although `url` says plain HTTP. Where everything works, it does not
    /// look.
    pub(super) async fn with_tls_hint(&self, mut findings: Vec<Finding>) -> Vec<Finding> {
        let is_failing = findings.iter().any(|finding| finding.verdict.fault().is_some());
        if let (true, Ok(connector)) = (is_failing, Connector::new(self.settings, self.name)) {
            let question = PartQuestion::new(self.part, "TLS, although `url` is for plain HTTP");
            for address in connector.plain_urls_that_speak_tls().await {
                let answer = format!("{address} speaks TLS");
                findings.push(question.fail(Fault::Configuration, answer, "write https:// in `url`"));
            }
        }
        findings
    }
}

/// Returns the name of a version of TLS.
pub(super) fn tls_name(version: ProtocolVersion) -> String {
    match version {
        ProtocolVersion::TLSv1_3 => "TLS 1.3".to_owned(),
        ProtocolVersion::TLSv1_2 => "TLS 1.2".to_owned(),
        other => format!("{other:?}"),
    }
}
