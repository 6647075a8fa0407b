//! All metrics with name, type and help.
//!
//! Each series exists from the first scrape on, at zero, so that its rate is defined.

use std::fmt::Error;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::counters::{BUCKETS, Counter, Histogram, PerLabel, PerPair, WorkerCounts};
use super::family::{HistogramSums, Labels, MetricFamily, MetricPoints, MetricUnit, Series};
use super::labels::{
    DeleteOutcome, DemandResult, ExchangeRoute, ExportResult, FetchResult, Label, LimitName, UserChangeKind,
    UserChangeResult,
};
use super::process::ProcessUsage;
use super::{ConfigInUse, CountedUrl, Metrics};
use crate::model::limit_set::LIMITS;
use crate::model::session::EndReason;
use crate::observe::export_queue::ExportCounts;

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        self.families().iter().try_for_each(|family| family.encode(&mut encoder))
    }
}

impl Metrics {
    /// Returns all metrics as they are now.
    #[must_use]
    pub fn families(&self) -> Vec<MetricFamily> {
        let mut page = Exposition::default();
        self.write_exchanges(&mut page);
        self.write_connections(&mut page);
        self.write_upstreams(&mut page);
        self.write_logins(&mut page);
        self.write_state(&mut page);
        self.write_process(&mut page);
        page.0
    }

    fn write_exchanges(&self, page: &mut Exposition) {
        page.counter("callgate_exchanges", "Requests with their answers.", self.two(|all| &all.exchanges));
        page.counter(
            "callgate_exchanges_aborted",
            "Exchanges without a complete answer.",
            self.one(|all| &all.aborted),
        );
        page.gauge(
            "callgate_exchanges_in_flight",
            "Exchanges in flight, tunnels included.",
            self.bare(|all| &all.in_flight),
        );
        page.histogram("callgate_answer", "From the head of a request to the head of its answer.", self.answers());
        page.bytes("callgate_body", "Bytes of bodies and tunnels.", self.one(|all| &all.bytes));
    }

    fn write_connections(&self, page: &mut Exposition) {
        page.counter("callgate_connections_accepted", "TCP connections accepted.", self.bare(|all| &all.accepted));
        page.counter("callgate_accept_errors", "Errors of accept.", self.bare(|all| &all.accept_errors));
        page.counter("callgate_tls_handshakes", "TLS handshakes of clients.", self.two(|all| &all.handshakes));
        page.counter("callgate_connections", "Connections past their handshake.", self.one(|all| &all.connections));
        page.gauge("callgate_connections_open", "Connections open now.", self.one(|all| &all.open));
        page.counter(
            "callgate_connections_shed",
            "Slow connections closed to free memory.",
            self.bare(|all| &all.shed),
        );
        let (held, limit) = (bare(self.budget.held() as u64), bare(self.budget.limit() as u64));
        page.gauges(
            "callgate_buffered",
            "Bytes that wait for a slow client or upstream.",
            Some(MetricUnit::Bytes),
            held,
        );
        page.gauges("callgate_buffer_budget", "The most bytes that may wait.", Some(MetricUnit::Bytes), limit);
        page.counter(
            "callgate_tunnels",
            "WebSockets, and connections passed on, that were opened.",
            self.bare(|all| &all.tunnels),
        );
        page.gauge("callgate_tunnels_open", "Such tunnels open now.", self.bare(|all| &all.tunnels_open));
        page.counter("callgate_tunnels_ended", "Such tunnels that ended.", self.one(|all| &all.tunnel_ends));
        let [processes, tunnels] = self.old_processes.each_ref().map(|shown| bare(shown.load(Ordering::Relaxed)));
        page.gauge("callgate_old_processes", "Processes that keep tunnels after an upgrade.", processes);
        page.gauge("callgate_old_process_tunnels", "Tunnels of these processes.", tunnels);
    }

    fn write_upstreams(&self, page: &mut Exposition) {
        page.counter("callgate_upstream_connects", "Connections to upstreams.", self.two(|all| &all.connects));
        page.counter(
            "callgate_passthrough_connects",
            "Connections to targets of [[passthrough]].",
            self.one(|all| &all.passthrough_connects),
        );
        page.counter("callgate_upstream_requests", "Requests sent to upstreams.", self.two(|all| &all.requests));
        page.counter("callgate_upstream_retries", "Requests sent a second time.", self.one(|all| &all.retries));
        page.counter("callgate_upstream_errors", "Requests without an answer.", self.two(|all| &all.faults));
        let urls = self.urls().into_iter().map(|CountedUrl { upstream, node, position, exchanges }| {
            let node = node.map(|node| ("pbx", node));
            let labels = [label(upstream)].into_iter().chain(node).chain([("url", position.to_string())]);
            (labels.collect(), exchanges.count() as u64)
        });
        page.gauge("callgate_upstream_exchanges", "Exchanges under way at each of several urls.", urls.collect());
    }

    fn write_logins(&self, page: &mut Exposition) {
        page.counter("callgate_limited", "Requests beyond a limit.", self.one(|all| &all.limited));
        self.write_shadowed(page);
        page.counter("callgate_auth_verdicts", "Verdicts of auth methods.", self.two(|all| &all.verdicts));
        page.counter("callgate_logins", "Logins, as in the audit log.", self.two(|all| &all.logins));
        page.counter("callgate_logouts", "Logouts by people and providers.", self.two(|all| &all.logouts));
        page.counter("callgate_pbx_mints", "Attempts to mint a session at the PBX.", self.one(|all| &all.mints));
        page.histogram(
            "callgate_pbx_mint_time",
            "From a request for a session of the PBX to its answer.",
            bare(self.histogram(|block| &block.mint_times)),
        );
        self.write_sessions(page);
        page.counter("callgate_auto_steps", "Steps of automatic logins.", self.one(|all| &all.auto_steps));
        page.counter("callgate_session_checks", "Sessions asked about.", self.one(|all| &all.session_checks));
        page.counter("callgate_kept_out", "Attempts that the shield blocked.", self.one(|all| &all.kept_out));
        page.counter("callgate_ott_keys", "Voximplant one-time keys.", self.one(|all| &all.keys));
        page.counter("callgate_ott_races", "Keys of one user from two clients.", self.bare(|all| &all.races));
        page.counter("callgate_breaker_openings", "Times the breaker opened.", self.bare(|all| &all.breaker_openings));
        self.write_users(page);
    }

    /// Writes what limits in shadow would have refused. Only limits of `[limits]` can be in shadow.
    fn write_shadowed(&self, page: &mut Exposition) {
        let limits = LimitName::ALL.iter().filter(|limit| LIMITS.contains(&limit.text()));
        let rows = limits.map(|&limit| (vec![label(limit)], self.sum(|block| block.would_limit.at(limit))));
        page.counter("callgate_limits_shadowed", "Requests that a limit in shadow would have refused.", rows.collect());
    }

    /// Writes the changes of users at Voximplant.
    fn write_users(&self, page: &mut Exposition) {
        let users = self.users();
        let pairs = UserChangeKind::ALL
            .iter()
            .flat_map(|&change| UserChangeResult::ALL.iter().map(move |&result| (change, result)));
        let changes =
            pairs.map(|(change, result)| (vec![label(change), label(result)], users.count(change, result))).collect();
        page.counter("callgate_voximplant_changes", "Changes of users at Voximplant.", changes);
        page.gauge("callgate_voximplant_pending", "Phones still to be stopped or started.", bare(users.pending()));
    }

    fn write_state(&self, page: &mut Exposition) {
        let found = self.health.check().into_iter();
        let ready =
            found.map(|found| (vec![("part", found.part.to_string())], u64::from(found.problem.is_none()))).collect();
        page.gauge("callgate_ready", "Whether a part is ready, as /readyz says.", ready);
        self.write_keys(page);
        let loaded = self.loaded();
        let certificates = loaded.config.certificates.iter().enumerate().map(|(index, certificate)| {
            let labels = vec![("certificate", index.to_string()), ("name", certificate.name().to_owned())];
            (labels, certificate.not_after.as_second())
        });
        let issued = self.issued();
        let names = issued.names();
        let of_issued = names.iter().filter_map(|one| {
            let labels = vec![("certificate", "acme".to_owned()), ("name", one.name.clone())];
            Some((labels, one.not_after?.as_second()))
        });
        let ends = certificates.chain(of_issued).collect();
        page.seconds("callgate_certificate_expiry_timestamp", "When a certificate expires.", ends);
        let orders = FetchResult::ALL.iter().map(|&result| (vec![label(result)], issued.orders(result))).collect();
        page.counter("callgate_acme_orders", "Orders of certificates at the ACME server.", orders);
        let demands = DemandResult::ALL.iter().map(|&result| (vec![label(result)], issued.demands(result))).collect();
        page.counter("callgate_acme_demands", "Handshakes for names that had no certificate yet.", demands);
        let failing = names.iter().filter(|one| one.is_failing).count() as u64;
        page.gauge("callgate_acme_failing", "Names whose last order failed.", bare(failing));
        let unreadable = bare(loaded.config.certificate_problems.len() as u64);
        page.gauge("callgate_certificate_problems", "Files of certificates that cannot be used.", unreadable);
        let lost = loaded.logs.lost().into_iter().map(|(log, lines)| (vec![("log", log.to_owned())], lines));
        self.write_exports(page, &loaded);
        page.counter("callgate_log_lines_lost", "Log lines that were not written.", lost.collect());
        page.counter("callgate_config_reloads", "Times the configuration was read again.", self.reloads());
        let at = bare(loaded.at.as_second());
        page.seconds("callgate_config_loaded_timestamp", "When the configuration in use was read.", at);
        let member = loaded.config.member.as_ref().map(|member| ("member", member.as_str().to_owned()));
        let version = ("version", env!("CARGO_PKG_VERSION").to_owned());
        page.info("callgate_build", "The version that runs.", [version].into_iter().chain(member).collect());
    }

    /// Writes what became of telemetry for a collector.
    fn write_exports(&self, page: &mut Exposition, loaded: &ConfigInUse) {
        let rows = |counts: &ExportCounts| {
            let (sent, lost) = counts.read();
            vec![(vec![label(ExportResult::Sent)], sent), (vec![label(ExportResult::Lost)], lost)]
        };
        let totals = loaded.logs.export_totals();
        page.counter("callgate_spans", "Spans for a collector of OpenTelemetry.", rows(&totals.spans));
        page.counter("callgate_log_records", "Log records for a collector of OpenTelemetry.", rows(&totals.records));
        page.counter("callgate_metric_posts", "Posts of metrics to a collector of OpenTelemetry.", rows(&self.posts));
    }

    /// Writes the sessions that were opened at the PBX, and how they ended.
    fn write_sessions(&self, page: &mut Exposition) {
        let counts = self.sessions();
        page.counter("callgate_sessions", "Sessions opened at the PBX.", bare(counts.all_opened()));
        let ends = EndReason::ALL.iter().map(|&reason| (vec![label(reason)], counts.all_ended(reason)));
        page.counter("callgate_sessions_ended", "Sessions ended before their time.", ends.collect());
        let deletes = DeleteOutcome::ALL.iter().map(|&outcome| (vec![label(outcome)], counts.all_deleted(outcome)));
        page.counter("callgate_session_deletes", "Sessions that the PBX was told to end.", deletes.collect());
    }

    /// Writes the freshness of the keys of identity providers.
    fn write_keys(&self, page: &mut Exposition) {
        let keys = self.keys();
        let fetches = keys.iter().flat_map(|(method, freshness)| {
            let row = |result| (vec![("method", method.clone()), label(result)], freshness.fetches(result));
            [row(FetchResult::Ok), row(FetchResult::Failed)]
        });
        page.counter("callgate_jwks_fetches", "Times keys were fetched.", fetches.collect());
        let loaded = keys.iter().map(|(method, freshness)| (vec![("method", method.clone())], freshness.loaded()));
        page.seconds("callgate_jwks_loaded_timestamp", "When the keys in use were fetched.", loaded.collect());
    }

    /// Writes the metrics that every program has under the same names.
    fn write_process(&self, page: &mut Exposition) {
        let process = ProcessUsage::read();
        let row = |value: Option<u64>| value.map_or_else(Vec::new, bare);
        page.seconds("process_start_time", "When the process started.", bare(self.started.as_second()));
        page.gauge("process_open_fds", "Open file descriptors.", row(process.open_files));
        page.gauge("process_max_fds", "The most file descriptors.", row(process.most_files));
        page.gauges("process_resident_memory", "Memory in use.", Some(MetricUnit::Bytes), row(process.resident_bytes));
    }

    // === Rows: the sums over all workers ===

    fn bare(&self, pick: impl Fn(&WorkerCounts) -> &Counter) -> Vec<Series<u64>> {
        bare(self.sum(pick))
    }

    fn one<A: Label, const N: usize>(&self, pick: impl Fn(&WorkerCounts) -> &PerLabel<A, N>) -> Vec<Series<u64>> {
        let row = |&a: &A| (vec![label(a)], self.sum(|block| pick(block).at(a)));
        A::ALL.iter().map(row).collect()
    }

    fn two<A: Label, B: Label, const M: usize, const N: usize>(
        &self,
        pick: impl Fn(&WorkerCounts) -> &PerPair<A, B, M, N>,
    ) -> Vec<Series<u64>> {
        let pairs = A::ALL.iter().flat_map(|&a| B::ALL.iter().map(move |&b| (a, b)));
        pairs.map(|(a, b)| (vec![label(a), label(b)], self.sum(|block| pick(block).at(a, b)))).collect()
    }

    fn answers(&self) -> Vec<Series<HistogramSums>> {
        let row = |&route: &ExchangeRoute| (vec![label(route)], self.histogram(|block| &block.answers[route.index()]));
        ExchangeRoute::ALL.iter().map(row).collect()
    }

    fn histogram(&self, pick: impl Fn(&WorkerCounts) -> &Histogram) -> HistogramSums {
        let buckets = (0..=BUCKETS.len()).map(|index| self.sum(|block| &pick(block).buckets[index])).collect();
        HistogramSums { buckets, microseconds: self.sum(|block| &pick(block).microseconds) }
    }
}

fn bare<T>(value: T) -> Vec<Series<T>> {
    vec![(Vec::new(), value)]
}

pub(super) fn label<A: Label>(value: A) -> (&'static str, String) {
    (A::KEY, value.text().to_owned())
}

/// The metrics that were written so far.
#[derive(Default)]
struct Exposition(Vec<MetricFamily>);

impl Exposition {
    fn counter(&mut self, name: &'static str, help: &'static str, rows: Vec<Series<u64>>) {
        self.add(name, help, None, MetricPoints::Counter(rows));
    }

    fn bytes(&mut self, name: &'static str, help: &'static str, rows: Vec<Series<u64>>) {
        self.add(name, help, Some(MetricUnit::Bytes), MetricPoints::Counter(rows));
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, rows: Vec<Series<u64>>) {
        self.gauges(name, help, None, rows);
    }

    fn gauges(&mut self, name: &'static str, help: &'static str, unit: Option<MetricUnit>, rows: Vec<Series<u64>>) {
        let signed = |(labels, value)| (labels, i64::try_from(value).unwrap_or(i64::MAX));
        self.add(name, help, unit, MetricPoints::Gauge(rows.into_iter().map(signed).collect()));
    }

    fn seconds(&mut self, name: &'static str, help: &'static str, rows: Vec<Series<i64>>) {
        self.add(name, help, Some(MetricUnit::Seconds), MetricPoints::Gauge(rows));
    }

    fn histogram(&mut self, name: &'static str, help: &'static str, rows: Vec<Series<HistogramSums>>) {
        self.add(name, help, Some(MetricUnit::Seconds), MetricPoints::Histogram(rows));
    }

    fn info(&mut self, name: &'static str, help: &'static str, labels: Labels) {
        self.add(name, help, None, MetricPoints::Info(labels));
    }

    fn add(&mut self, name: &'static str, help: &'static str, unit: Option<MetricUnit>, points: MetricPoints) {
        self.0.push(MetricFamily { name, help, unit, points });
    }
}
