//! Counts for `/metrics`. Labels have closed sets of values, so that no identity and no request creates a series.
//!
//! Each worker counts in a block of its own ([`Tally`]); a scrape sums over the blocks.

mod counters;
mod exposition;
mod family;
mod freshness;
mod issued_report;
mod labels;
mod process;
mod sessions;
mod totals;
mod url_exchanges;
mod user_changes;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use prometheus_client::encoding;
use prometheus_client::registry::Registry;

use self::counters::{Counter, WorkerCounts};
pub use self::family::{HistogramSums, Labels, MetricFamily, MetricPoints, MetricUnit, Series};
pub use self::freshness::Freshness;
pub use self::issued_report::{IssuedName, IssuedReport};
use self::labels::Label;
pub use self::labels::{
    AutoStep, BlockedAttempt, CheckedState, ClientProtocol, ConnectResult, ConnectionUse, CountedMethod,
    CountedVerdict, DeleteOutcome, DemandResult, Direction, ExchangeRoute, ExportResult, FetchResult, HandshakeResult,
    KeyOutcome, LimitName, MintOutcome, ReloadResult, StatusClass, TlsVersion, TunnelEnd, UpstreamFault,
    UserChangeKind, UserChangeResult,
};
use self::process::ProcessUsage;
pub use self::sessions::SessionCounts;
pub use self::totals::{DurationCounts, LoginTotals, MetricTotals, Percentiles};
pub use self::url_exchanges::UrlExchanges;
pub use self::user_changes::UserChanges;
use super::Logs;
use super::audit::LoginRecord;
use super::export_queue::ExportCounts;
use super::health::Readiness;
use super::refusals::RecentRefusals;
use crate::budget::Budget;
use crate::config::Config;
use crate::model::login::{LoginKind, LoginOutcome, LogoutKind, LogoutOutcome};
use crate::model::session_state::SessionState;
use crate::model::upstream_name::UpstreamName;

/// The content type of `/metrics`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All counts of the gate, and the other facts that `/metrics` shows.
#[derive(Debug)]
pub struct Metrics {
    /// The readiness of the gate.
    pub health: Readiness,
    /// When the gate started.
    pub started: Timestamp,
    /// The latest refused logins.
    pub refusals: Arc<RecentRefusals>,
    /// The posts of these metrics to a collector of OpenTelemetry.
    pub posts: ExportCounts,
    blocks: Mutex<Vec<Arc<WorkerCounts>>>,
    loaded: Mutex<Arc<ConfigInUse>>,
    reloads: [AtomicU64; ReloadResult::COUNT],
    keys: Mutex<BTreeMap<String, Arc<Freshness>>>,
    urls: Mutex<Vec<CountedUrl>>,
    users: Mutex<Arc<UserChanges>>,
    issued: Mutex<Arc<IssuedReport>>,
    sessions: Mutex<Arc<SessionCounts>>,
    budget: Arc<Budget>,
    /// How many old processes there are, and how many tunnels they have.
    old_processes: [AtomicU64; 2],
}

/// One `url` of an upstream with several.
#[derive(Debug, Clone)]
pub struct CountedUrl {
    /// Its upstream.
    pub upstream: UpstreamName,
    /// The name of the PBX node, where there are several.
    pub node: Option<String>,
    /// Its position there, from 0.
    pub position: usize,
    /// Its exchanges.
    pub exchanges: Arc<UrlExchanges>,
}

/// The configuration in use.
#[derive(Debug)]
pub struct ConfigInUse {
    /// The configuration.
    pub config: Arc<Config>,
    /// When it was read.
    pub at: Timestamp,
    /// Its logs.
    logs: Logs,
}

impl ConfigInUse {
    fn now(config: &Arc<Config>, logs: &Logs) -> Arc<Self> {
        Arc::new(Self { config: Arc::clone(config), at: Timestamp::now(), logs: logs.clone() })
    }
}

impl Metrics {
    /// Starts the counts of a gate with this configuration.
    #[must_use]
    pub fn start(config: &Arc<Config>, logs: &Logs, budget: &Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            health: Readiness::default(),
            started: Timestamp::now(),
            refusals: Arc::default(),
            posts: ExportCounts::default(),
            blocks: Mutex::default(),
            loaded: Mutex::new(ConfigInUse::now(config, logs)),
            reloads: Default::default(),
            keys: Mutex::default(),
            urls: Mutex::default(),
            users: Mutex::default(),
            issued: Mutex::default(),
            sessions: Mutex::default(),
            budget: Arc::clone(budget),
            old_processes: Default::default(),
        })
    }

    /// Makes a block for one worker thread, which counts there as long as the gate runs.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let tally = Tally { refusals: Arc::clone(&self.refusals), ..Tally::default() };
        lock(&self.blocks).push(Arc::clone(&tally.block));
        tally
    }

    /// Counts a reload that succeeded, and shows the new configuration.
    pub fn reloaded(&self, config: &Arc<Config>, logs: &Logs) {
        *lock(&self.loaded) = ConfigInUse::now(config, logs);
        self.reloads[ReloadResult::Ok.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a reload that failed.
    pub fn not_reloaded(&self) {
        self.reloads[ReloadResult::Failed.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Replaces the number of old processes that keep tunnels after a hand-over, and that of their tunnels.
    pub fn show_old_processes(&self, processes: u64, tunnels: u64) {
        for (shown, value) in self.old_processes.iter().zip([processes, tunnels]) {
            shown.store(value, Ordering::Relaxed);
        }
    }

    /// Replaces the key sets whose freshness is shown, each with the name of its method.
    pub fn watch_keys(&self, keys: BTreeMap<String, Arc<Freshness>>) {
        *lock(&self.keys) = keys;
    }

    /// Replaces the counts of exchanges at each `url` that are shown, each with its upstream and its position there.
    pub fn watch_urls(&self, urls: Vec<CountedUrl>) {
        *lock(&self.urls) = urls;
    }

    /// Replaces the counts of changes at Voximplant that are shown.
    pub fn watch_users(&self, users: &Arc<UserChanges>) {
        *lock(&self.users) = Arc::clone(users);
    }

    /// Replaces the issued certificates that are shown.
    pub fn watch_issued(&self, issued: &Arc<IssuedReport>) {
        *lock(&self.issued) = Arc::clone(issued);
    }

    /// Returns the issued certificates.
    #[must_use]
    pub fn issued(&self) -> Arc<IssuedReport> {
        Arc::clone(&lock(&self.issued))
    }

    /// Replaces the counts of sessions that are shown.
    pub fn watch_sessions(&self, sessions: &Arc<SessionCounts>) {
        *lock(&self.sessions) = Arc::clone(sessions);
    }

    /// Returns the configuration in use.
    #[must_use]
    pub fn loaded(&self) -> Arc<ConfigInUse> {
        Arc::clone(&lock(&self.loaded))
    }

    /// Returns how many connections of a protocol are open.
    #[must_use]
    pub fn open(&self, protocol: ClientProtocol) -> u64 {
        self.sum(|block| block.open.at(protocol))
    }

    /// Returns how many tunnels are open.
    #[must_use]
    pub fn tunnels(&self) -> u64 {
        self.sum(|block| &block.tunnels_open)
    }

    /// Returns how many exchanges are in flight.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.sum(|block| &block.in_flight)
    }

    /// Returns how many requests a limit has refused, by its name in the configuration.
    #[must_use]
    pub fn limited(&self, name: &str) -> u64 {
        LimitName::named(name).map_or(0, |limit| self.sum(|block| block.limited.at(limit)))
    }

    /// Returns how many bytes wait in buffers, and how many may.
    #[must_use]
    pub fn buffered(&self) -> (u64, u64) {
        (self.budget.held() as u64, self.budget.limit() as u64)
    }

    /// Returns how many file descriptors are open, and how many may be; nothing where the system does not say it.
    #[must_use]
    pub fn open_files(&self) -> Option<(u64, u64)> {
        let process = ProcessUsage::read();
        process.open_files.zip(process.most_files)
    }

    /// Writes all metrics as OpenMetrics text.
    ///
    /// # Panics
    /// Never: writing to a string does not fail.
    #[must_use]
    pub fn text(self: &Arc<Self>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(self)));
        let mut text = String::new();
        encoding::text::encode(&mut text, &registry).expect("writing to a string does not fail");
        text
    }

    fn sum(&self, pick: impl Fn(&WorkerCounts) -> &Counter) -> u64 {
        lock(&self.blocks).iter().fold(0, |sum, block| sum.wrapping_add(pick(block).get()))
    }

    fn keys(&self) -> BTreeMap<String, Arc<Freshness>> {
        lock(&self.keys).clone()
    }

    fn urls(&self) -> Vec<CountedUrl> {
        lock(&self.urls).clone()
    }

    fn users(&self) -> Arc<UserChanges> {
        Arc::clone(&lock(&self.users))
    }

    fn sessions(&self) -> Arc<SessionCounts> {
        Arc::clone(&lock(&self.sessions))
    }

    fn reloads(&self) -> Vec<Series<u64>> {
        let count = |result: ReloadResult| self.reloads[result.index()].load(Ordering::Relaxed);
        ReloadResult::ALL.iter().map(|&result| (vec![exposition::label(result)], count(result))).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The counts of one worker. It stays on its thread: a second writer would lose counts of the first.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    block: Arc<WorkerCounts>,
    /// The refusals of all workers.
    refusals: Arc<RecentRefusals>,
    here: PhantomData<Rc<()>>,
}

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
pub struct OpenConnection {
    tally: Tally,
    protocol: ClientProtocol,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.tally.block.open.at(self.protocol).sub(1);
    }
}

impl Tally {
    // === Connections ===

    /// Counts an accepted TCP connection, or an error of accept.
    pub fn accepted(&self, success: bool) {
        let cell = if success { &self.block.accepted } else { &self.block.accept_errors };
        cell.add(1);
    }

    /// Counts a TLS handshake.
    pub fn handshake(&self, result: HandshakeResult, version: TlsVersion) {
        self.block.handshakes.at(result, version).add(1);
    }

    /// Counts a connection, which is open until the returned value is dropped.
    #[must_use]
    pub fn connection(&self, protocol: ClientProtocol) -> OpenConnection {
        self.block.connections.at(protocol).add(1);
        self.block.open.at(protocol).add(1);
        OpenConnection { tally: self.clone(), protocol }
    }

    /// Counts connections that were closed because they held much memory and moved few bytes.
    pub fn shed(&self, connections: u64) {
        self.block.shed.add(connections);
    }

    // === Exchanges ===

    /// Counts the begin of an exchange.
    pub fn begun(&self) {
        self.block.in_flight.add(1);
    }

    /// Counts the end of an exchange, or of its tunnel.
    pub fn over(&self) {
        self.block.in_flight.sub(1);
    }

    /// Counts the time from the head of a request to the head of its answer.
    pub fn answered(&self, route: ExchangeRoute, took: Duration) {
        self.block.answers[route.index()].note(took);
    }

    /// Counts an exchange that has ended, with or without an answer.
    pub fn exchange(&self, route: ExchangeRoute, status: Option<StatusCode>, complete: bool) {
        self.block.exchanges.at(route, status.map_or(StatusClass::None, StatusClass::of)).add(1);
        if !complete {
            self.block.aborted.at(route).add(1);
        }
    }

    /// Counts the bytes of bodies.
    pub fn carried(&self, received: u64, sent: u64) {
        self.block.bytes.at(Direction::Received).add(received);
        self.block.bytes.at(Direction::Sent).add(sent);
    }

    /// Counts a tunnel that begins.
    pub fn tunnel_opened(&self) {
        self.block.tunnels.add(1);
        self.block.tunnels_open.add(1);
    }

    /// Counts a tunnel that has ended.
    pub fn tunnel_ended(&self, end: TunnelEnd) {
        self.block.tunnels_open.sub(1);
        self.block.tunnel_ends.at(end).add(1);
    }

    // === Upstreams ===

    /// Counts an attempt to connect to an upstream.
    pub fn connect(&self, upstream: UpstreamName, result: ConnectResult) {
        self.block.connects.at(upstream, result).add(1);
    }

    /// Counts an attempt to connect to a target of `[[passthrough]]`.
    pub fn passthrough_connect(&self, result: ConnectResult) {
        self.block.passthrough_connects.at(result).add(1);
    }

    /// Counts a request to an upstream.
    pub fn request(&self, upstream: UpstreamName, carrier: ConnectionUse) {
        self.block.requests.at(upstream, carrier).add(1);
    }

    /// Counts a request that is sent a second time.
    pub fn retry(&self, upstream: UpstreamName) {
        self.block.retries.at(upstream).add(1);
    }

    /// Counts a request without an answer.
    pub fn fault(&self, upstream: UpstreamName, fault: UpstreamFault) {
        self.block.faults.at(upstream, fault).add(1);
    }

    // === Logins ===

    /// Counts a request over a limit, by its name in the configuration.
    pub fn limited(&self, name: &str) {
        if let Some(limit) = LimitName::named(name) {
            self.block.limited.at(limit).add(1);
        }
    }

    /// Counts a request that a limit in shadow would have refused, by its name in the configuration.
    pub fn would_limit(&self, name: &str) {
        if let Some(limit) = LimitName::named(name) {
            self.block.would_limit.at(limit).add(1);
        }
    }

    /// Counts an attempt that the shield of the PBX blocked.
    pub fn kept_out(&self, attempt: BlockedAttempt) {
        self.block.kept_out.at(attempt).add(1);
    }

    /// Counts the outcome of a Voximplant one-time key.
    pub fn key(&self, answered: KeyOutcome) {
        self.block.keys.at(answered).add(1);
    }

    /// Counts two clients that ask for one Voximplant user at the same time.
    pub fn race(&self) {
        self.block.races.add(1);
    }

    /// Counts the verdict of an auth method.
    pub fn verdict(&self, method: CountedMethod, verdict: CountedVerdict) {
        self.block.verdicts.at(method, verdict).add(1);
    }

    /// Counts a login, granted or refused.
    pub fn login(&self, kind: LoginKind, outcome: LoginOutcome) {
        self.block.logins.at(kind, outcome).add(1);
    }

    /// Counts a logout.
    pub fn logout(&self, kind: LogoutKind, outcome: LogoutOutcome) {
        self.block.logouts.at(kind, outcome).add(1);
    }

    /// Counts an attempt to mint a session.
    pub fn mint(&self, mint: MintOutcome) {
        self.block.mints.at(mint).add(1);
    }

    /// Counts the time from a request for a session to its answer, or to the failure.
    pub fn mint_took(&self, took: Duration) {
        self.block.mint_times.note(took);
    }

    /// Remembers a refused login for the operator's page.
    pub fn refused(&self, record: &LoginRecord) {
        self.refusals.note(record);
    }

    /// Counts a step of an automatic login.
    pub fn auto(&self, step: AutoStep) {
        self.block.auto_steps.at(step).add(1);
    }

    /// Counts an answer of the PBX about the session of a browser.
    pub fn session_check(&self, state: SessionState) {
        let state = match state {
            SessionState::Alive => CheckedState::Alive,
            SessionState::Over => CheckedState::Over,
            SessionState::Unknown => CheckedState::Unknown,
        };
        self.block.session_checks.at(state).add(1);
    }

    /// Counts that the breaker opened.
    pub fn breaker_opened(&self) {
        self.block.breaker_openings.add(1);
    }
}
