//! What `/status` reports: one document, as JSON for programs and as a page for people.

mod chart;
mod page;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

pub(super) use self::page::status_page;
use super::AdminContext;
use super::sessions;
use crate::config::{Config, EffectiveConfig, SharedConfig, UpstreamUrl};
use crate::limit::{LimitReport, LimitUsage};
use crate::observe::health::PartReport;
use crate::observe::metrics::{ClientProtocol, DurationCounts, LoginTotals, Metrics, Percentiles};
use crate::observe::refusals::Refusal;
use crate::pbx::BreakerReport;
use crate::server::snapshot::{Snapshot, UpstreamReport};
use crate::server::succession::OldProcess;
use crate::upstream::EndpointReport;

/// How many sessions are listed, the youngest.
const MOST_SESSIONS: usize = 200;

/// What a reader may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// All: as the operator, who may list sessions.
    Identities,
    /// Figures, and no identity of a person.
    Figures,
}

/// The state of the gate at one moment.
#[derive(Debug, Serialize)]
pub(super) struct StatusReport {
    version: &'static str,
    member: Option<String>,
    started: Timestamp,
    uptime_seconds: i64,
    now: Timestamp,
    ready: bool,
    parts: Vec<PartStatus>,
    workers: usize,
    connections: OpenConnections,
    exchanges_in_flight: u64,
    tunnels: u64,
    old_processes: Vec<OldProcessStatus>,
    config: ConfigStatus,
    certificates: Vec<CertificateStatus>,
    upstreams: Vec<UpstreamStatus>,
    breakers: Vec<BreakerStatus>,
    limits: Vec<LimitReport>,
    /// The fullest first.
    limit_usage: Vec<LimitUsage>,
    /// Since the start, as the next three.
    logins: LoginTotals,
    exchanges: u64,
    answers: DurationStatus,
    mints: DurationStatus,
    shared: Option<SharedStatus>,
    /// The fullest first.
    caps: Vec<Cap>,
    /// How many sessions are not over; nothing, as for the next: the reader may not see them.
    sessions_open: Option<usize>,
    /// The youngest of these, first the youngest one.
    sessions: Option<Vec<Value>>,
    /// The latest first; nothing: the reader may not see them.
    refusals: Option<Vec<Refusal>>,
    /// What takes effect; nothing: the reader may not see it.
    configuration: Option<EffectiveConfig>,
}

/// A part of `/readyz`.
#[derive(Debug, Serialize)]
pub(super) struct PartStatus {
    name: String,
    ready: bool,
    needed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Debug, Serialize)]
struct OpenConnections {
    h1: u64,
    h2: u64,
    passthrough: u64,
}

/// An old process that keeps tunnels. One that is stuck has only an id.
#[derive(Debug, Serialize)]
pub(super) struct OldProcessStatus {
    pid: i32,
    obeyed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnels: Option<u64>,
}

#[derive(Debug, Serialize)]
struct ConfigStatus {
    file: String,
    loaded: Timestamp,
}

#[derive(Debug, Serialize)]
struct CertificateStatus {
    names: Vec<String>,
    expires: Timestamp,
    /// Whole days; negative after the end.
    days_left: i64,
}

#[derive(Debug, Serialize)]
struct UpstreamStatus {
    name: &'static str,
    urls: Vec<String>,
    /// The PBX node, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pbx: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    load: Vec<UrlStatus>,
}

/// The breaker of a PBX node.
#[derive(Debug, Serialize)]
struct BreakerStatus {
    /// The node, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pbx: Option<String>,
    state: &'static str,
    refusals: u64,
    since: Option<Timestamp>,
    /// When a login may ask the PBX again.
    next_try: Option<Timestamp>,
}

/// One `url` of several.
#[derive(Debug, Serialize)]
struct UrlStatus {
    url: String,
    healthy: bool,
    exchanges: usize,
}

/// How long something took.
#[derive(Debug, Serialize)]
struct DurationStatus {
    count: u64,
    #[serde(flatten)]
    times: Option<Percentiles>,
}

#[derive(Debug, Serialize)]
struct SharedStatus {
    nodes: Vec<String>,
    members: u32,
}

/// A bound, and how much of it is used.
#[derive(Debug, Serialize)]
struct Cap {
    name: &'static str,
    used: u64,
    most: u64,
}

impl StatusReport {
    /// Reports the state of this moment, with the answers of the old processes.
    pub(super) fn of(context: &AdminContext, old: Vec<OldProcess>, sight: Sight) -> Self {
        let (metrics, now) = (&*context.metrics, Timestamp::now());
        let loaded = metrics.loaded();
        let config = &loaded.config;
        let snapshot = Snapshot::clone(&context.snapshots.borrow());
        let findings = metrics.health.check();
        let totals = metrics.totals();
        let sees = sight == Sight::Identities;
        let sessions = || snapshot.sessions().youngest(MOST_SESSIONS);
        let mut limit_usage = context.sampler.limits();
        limit_usage.sort_by_key(|usage| std::cmp::Reverse(usage.fullest_percent));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            member: config.member.as_ref().map(ToString::to_string),
            started: metrics.started,
            uptime_seconds: now.as_second() - metrics.started.as_second(),
            now,
            ready: !findings.iter().any(PartReport::makes_unready),
            parts: findings.into_iter().map(PartStatus::from).collect(),
            workers: context.workers,
            connections: OpenConnections::of(metrics),
            exchanges_in_flight: metrics.in_flight(),
            tunnels: totals.tunnels,
            old_processes: old.into_iter().map(OldProcessStatus::from).collect(),
            config: ConfigStatus { file: config.file.clone(), loaded: loaded.at },
            certificates: CertificateStatus::all(config, metrics, now),
            upstreams: snapshot.upstreams().iter().map(UpstreamStatus::of).collect(),
            breakers: snapshot.breakers().map(|(node, report)| BreakerStatus::of(node, report, now)).collect(),
            limits: snapshot.limits(),
            limit_usage,
            logins: totals.logins,
            exchanges: totals.exchanges,
            answers: DurationStatus::of(&totals.answers),
            mints: DurationStatus::of(&totals.mints),
            shared: config.shared.as_ref().map(SharedStatus::of),
            caps: caps(metrics, &snapshot),
            sessions_open: sees.then(|| snapshot.sessions().open()),
            sessions: sees.then(|| sessions().iter().map(|session| sessions::shown(session)).collect()),
            refusals: sees.then(|| metrics.refusals.list()),
            configuration: sees.then(|| EffectiveConfig::of(config).without_digests()),
        }
    }
}

impl From<PartReport> for PartStatus {
    fn from(found: PartReport) -> Self {
        let PartReport { part, is_needed, problem, detail } = found;
        Self { name: part.into_owned(), ready: problem.is_none(), needed: is_needed, problem, detail }
    }
}

impl OpenConnections {
    fn of(metrics: &Metrics) -> Self {
        let [h1, h2, passthrough] = [ClientProtocol::H1, ClientProtocol::H2, ClientProtocol::Passthrough]
            .map(|protocol| metrics.open(protocol));
        Self { h1, h2, passthrough }
    }

    const fn all(&self) -> u64 {
        self.h1 + self.h2 + self.passthrough
    }
}

impl From<OldProcess> for OldProcessStatus {
    fn from(old: OldProcess) -> Self {
        let report = old.report.as_ref();
        Self {
            pid: old.id,
            obeyed: old.obeys(),
            since: report.map(|report| report.since),
            tunnels: report.map(|report| report.tunnels),
        }
    }
}

impl CertificateStatus {
    /// Describes the certificates of files, and those that callgate got by itself.
    fn all(config: &Config, metrics: &Metrics, now: Timestamp) -> Vec<Self> {
        let issued = metrics.issued().names().into_iter();
        let issued = issued.filter_map(|one| Some(Self::of(vec![one.name], one.not_after?, now)));
        let files = config.certificates.iter().map(|one| Self::of(one.names.clone(), one.not_after, now));
        files.chain(issued).collect()
    }

    fn of(names: Vec<String>, expires: Timestamp, now: Timestamp) -> Self {
        Self { names, expires, days_left: days_left(expires, now) }
    }
}

/// Returns the whole days until a time; negative after it.
fn days_left(until: Timestamp, now: Timestamp) -> i64 {
    (until.as_second() - now.as_second()).div_euclid(24 * 3600)
}

impl UpstreamStatus {
    fn of(upstream: &UpstreamReport<'_>) -> Self {
        let UpstreamReport { name, node, settings, urls: known } = upstream;
        let urls: Vec<_> = settings.urls.iter().map(UpstreamUrl::text).collect();
        let row = |(url, known): (&String, &EndpointReport)| UrlStatus {
            url: url.clone(),
            healthy: known.is_healthy,
            exchanges: known.exchanges.count(),
        };
        Self {
            name: name.as_str(),
            pbx: node.map(str::to_owned),
            policy: (!known.is_empty()).then(|| settings.policy.as_str()),
            load: urls.iter().zip(known).map(row).collect(),
            urls,
        }
    }
}

impl BreakerStatus {
    fn of(node: Option<&str>, report: BreakerReport, now: Timestamp) -> Self {
        let BreakerReport { state, refusals, since, wait } = report;
        let next_try = wait.and_then(|wait| now.checked_add(wait).ok());
        Self { pbx: node.map(str::to_owned), state, refusals, since, next_try }
    }
}

impl DurationStatus {
    fn of(durations: &DurationCounts) -> Self {
        Self { count: durations.count(), times: durations.percentiles() }
    }
}

impl SharedStatus {
    fn of(shared: &SharedConfig) -> Self {
        Self { nodes: shared.nodes.iter().map(ToString::to_string).collect(), members: shared.members.get() }
    }
}

/// Returns the bounds that a busy gate may reach, the fullest first.
fn caps(metrics: &Metrics, snapshot: &Snapshot) -> Vec<Cap> {
    let (held, budget) = metrics.buffered();
    let (sessions, most_sessions) = snapshot.sessions().room();
    let connections = OpenConnections::of(metrics).all();
    let most_connections = snapshot.config.server.max_connections as u64;
    let files = metrics.open_files().map(|(used, most)| Cap { name: "open files", used, most });
    let mut caps = vec![
        Cap { name: "connections", used: connections, most: most_connections },
        Cap { name: "bytes in buffers", used: held, most: budget },
        Cap { name: "sessions remembered", used: sessions as u64, most: most_sessions as u64 },
    ];
    caps.extend(files);
    caps.sort_by_key(|cap| std::cmp::Reverse(cap.percent()));
    caps
}

impl Cap {
    /// Returns how much is used, in whole percent.
    const fn percent(&self) -> u64 {
        match self.used.saturating_mul(100).checked_div(self.most) {
            Some(percent) => percent,
            None => 100,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_count_beyond_the_end() {
        let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        let day = 24 * 3600;
        for (seconds, days) in [(0, 0), (day - 1, 0), (day, 1), (90 * day + 5, 90), (-1, -1), (-day - 1, -2)] {
            let until = Timestamp::from_second(now.as_second() + seconds).unwrap();
            assert_eq!(days_left(until, now), days, "{seconds}");
        }
    }

    #[test]
    fn a_cap_is_full_at_its_bound() {
        let percent = |used, most| Cap { name: "", used, most }.percent();
        assert_eq!([percent(0, 4), percent(1, 4), percent(4, 4), percent(0, 0)], [0, 25, 100, 100]);
    }
}
