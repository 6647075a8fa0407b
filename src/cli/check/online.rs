//! Tries everything that a configuration names: all parts at the same time.

use std::pin::Pin;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::clock::ClockDifferences;
use super::diagnosis::{Diagnosis, Fault};
use super::finding::{Finding, PartQuestion};
use super::{acme, app, engine, pbx, providers, syslog};
use crate::config::{Config, PassthroughConfig};
use crate::upstream::PassthroughTarget;

/// How long a part may take, with all its questions. Each question has a shorter deadline of its own.
const PATIENCE: Duration = Duration::from_secs(60);

/// The findings of one part.
type Part<'c> = Pin<Box<dyn Future<Output = Vec<Finding>> + 'c>>;

/// Returns what was found, in the order of the configuration.
pub(super) async fn findings(config: &Config) -> Vec<Finding> {
    let clock = ClockDifferences::default();
    let found = join_all(parts(config, &clock)).await;
    let mut findings: Vec<_> = found.into_iter().flatten().collect();
    findings.extend(clock.findings());
    findings
}

fn parts<'c>(config: &'c Config, clock: &'c ClockDifferences) -> Vec<Part<'c>> {
    let mut parts = Vec::new();
    if let Some(app) = &config.app {
        parts.push(within("app", async move { app::findings(config, app, clock).await }));
    }
    for (node, settings) in config.pbx.indexed() {
        let part = config.pbx.label(node).map_or_else(|| "pbx".to_owned(), |label| format!("pbx {label}"));
        let name = part.clone();
        parts.push(within(name, async move { pbx::findings(config, settings, &part, clock).await }));
    }
    for target in &config.passthrough {
        parts.push(within("passthrough", of_target(target)));
    }
    if let Some(shared) = &config.shared {
        let is_unseen = config.unseen.iter().any(|unseen| unseen.path.starts_with("shared."));
        parts.push(within(engine::PART, engine::findings(shared, is_unseen)));
    }
    for method in &config.methods {
        parts.push(within(format!("method {:?}", method.name), providers::findings(method, clock)));
    }
    if let Some(acme) = &config.acme {
        parts.push(within("tls.acme", acme::findings(acme, clock)));
    }
    if let Some(to) = &config.audit.syslog {
        parts.push(within("audit.syslog", syslog::findings(to)));
    }
    parts
}

/// Ends the questions to a part after [`PATIENCE`].
fn within<'c>(part: impl Into<String>, findings: impl Future<Output = Vec<Finding>> + 'c) -> Part<'c> {
    let question = PartQuestion::new(&part.into(), "all questions");
    Box::pin(async move {
        timeout(PATIENCE, findings).await.unwrap_or_else(|_| {
            let answer = format!("no answer within {} s", PATIENCE.as_secs());
            vec![question.fail(Fault::Outside, answer, "look into the log of the server")]
        })
    })
}

/// Connects to a target of `[[passthrough]]`. Which TLS it speaks is between it and its clients.
async fn of_target(passthrough: &PassthroughConfig) -> Vec<Finding> {
    let question = PartQuestion::new("passthrough", format!("connect to {}", passthrough.to));
    vec![match PassthroughTarget::new(&passthrough.to, passthrough.connect).probe().await {
        Ok(()) => question.ok("connected"),
        Err(error) => question.failed(Diagnosis::of(&error), "does the server run there, and is `to` right?"),
    }]
}
