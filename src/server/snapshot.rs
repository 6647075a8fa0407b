//! A configuration with everything that is built from it once for all workers. A reload replaces it whole.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt;
use rustls::ServerConfig;
use tokio::time::Instant;

use super::StartError;
use super::certificate_alarms;
use super::control::Chore;
use super::passthrough::PassthroughRoutes;
use super::succession::{Predecessors, SuccessionOrder};
use crate::acme::{Acme, AskTenant};
use crate::config::{AcmeConfig, Config, UpstreamConfig};
use crate::freeze::Freezes;
use crate::limit::{LimitReport, LimitUsage, client_key};
use crate::memory::{MemoryWriter, ProcessMemory};
use crate::model::freeze_target::FreezeTarget;
use crate::model::member_name::MemberName;
use crate::model::session::EndReason;
use crate::model::tenant_answer::TenantAnswer;
use crate::model::upstream_name::UpstreamName;
use crate::observe::Logs;
use crate::observe::health::ReadinessParts;
use crate::observe::metrics::{CountedUrl, DemandResult, Freshness, Metrics, Tally};
use crate::observe::trace;
use crate::pbx::{BreakerReport, IssuedSessions, SessionEnd, SessionFilter, Tenants};
use crate::proxy::{Proxy, SharedState};
use crate::state::{Freeze, Store};
use crate::telemetry::Exporter;
use crate::tls::current::CurrentPolicies;
use crate::tls::server::TlsPolicies;
use crate::upstream::EndpointReport;
use crate::voximplant::Phones;

/// A configuration with everything that is built from it once for all workers.
#[derive(Clone)]
pub(super) struct Snapshot {
    pub(super) config: Arc<Config>,
    pub(super) tls: Arc<TlsPolicies>,
    acme: Arc<Acme>,
    tenants: Arc<Tenants>,
    pub(super) passthrough: Arc<PassthroughRoutes>,
    shared: Arc<SharedState>,
    logs: Logs,
}

/// What is known about an upstream.
pub(super) struct UpstreamReport<'s> {
    pub(super) name: UpstreamName,
    /// The name of the PBX node, where there are several.
    pub(super) node: Option<&'s str>,
    pub(super) settings: &'s UpstreamConfig,
    /// Each `url`, if there are several.
    pub(super) urls: Vec<EndpointReport>,
}

/// Why a reload did not replace the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It changes a setting that only a new process can change.
    #[error("{} cannot change while the gate runs: hand over to a new process (kill -USR2)", .0.join(", "))]
    Fixed(Vec<&'static str>),
    /// A part of it turned out to be unusable.
    #[error(transparent)]
    Unusable(#[from] StartError),
    /// A log cannot be opened.
    #[error("cannot open the logs")]
    Logs(#[from] io::Error),
}

impl Snapshot {
    /// Builds the first one, with what a process before remembered.
    pub(super) fn new(
        config: Config,
        logs: Logs,
        store: Arc<Store>,
        memory: &mut ProcessMemory,
    ) -> Result<Self, StartError> {
        let acme = Acme::new(&config, Arc::clone(&store));
        let tls = TlsPolicies::new(&config, acme.issued())?;
        let shared = Arc::new(SharedState::new(&config, store, memory)?);
        let passthrough = PassthroughRoutes::new(&config.passthrough);
        let tenants = Arc::new(shared.tenants(&config));
        Self { config: Arc::new(config), tls, acme, tenants, passthrough, shared, logs }.tried()
    }

    /// Builds the successor. Parts whose settings did not change are kept, with their counts and connections.
    pub(super) fn successor(&self, config: Config) -> Result<Self, ReloadError> {
        let before = &*self.config;
        let fixed = fixed(before, &config);
        if !fixed.is_empty() {
            return Err(ReloadError::Fixed(fixed));
        }
        // The keys of the session tickets are in it: with the same certificates, clients go on resuming their sessions.
        let is_same = config.certificates == before.certificates
            && config.missing_certificates == before.missing_certificates
            && gets_same_certificates(&config, before)
            && config.ring() == before.ring();
        let tls = match is_same {
            true => Arc::clone(&self.tls),
            false => TlsPolicies::new(&config, self.acme.issued()).map_err(StartError::Tls)?,
        };
        let shared = Arc::new(self.shared.successor(before, &config).map_err(StartError::Tls)?);
        let logs = self.logs.successor(before, &config)?;
        let passthrough = self.passthrough.successor(&config.passthrough);
        let (acme, tenants) = (Arc::clone(&self.acme), Arc::new(shared.tenants(&config)));
        let next = Self { config: Arc::new(config), tls, acme, tenants, passthrough, shared, logs }.tried()?;
        self.acme.adopt(&next.config);
        Ok(next)
    }

    /// Builds one worker's proxy, which takes over the upstream connections of the one `before`. `tls`: the policies that are
    /// valid now, once this snapshot is.
    pub(super) fn proxy(
        &self,
        tls: Rc<CurrentPolicies>,
        before: Option<&Proxy>,
        tally: &Tally,
    ) -> Result<Proxy, http::uri::InvalidUri> {
        Proxy::new(Arc::clone(&self.config), tls, &self.shared, self.logs.clone(), before, tally.clone())
    }

    /// Builds a proxy that no connection uses.
    pub(super) fn lone_proxy(&self) -> Result<Proxy, http::uri::InvalidUri> {
        self.proxy(Rc::new(CurrentPolicies::new(Arc::clone(&self.tls))), None, &Tally::default())
    }

    /// Writes what the next process is to remember.
    ///
    /// # Errors
    /// As the writer.
    pub(super) fn pass_on(&self, writer: &mut MemoryWriter<'_>) -> io::Result<()> {
        self.shared.pass_on(writer)
    }

    /// Returns the part that all workers share.
    pub(super) fn shared(&self) -> &SharedState {
        &self.shared
    }

    /// Returns what the operator has frozen.
    pub(super) fn freezes(&self) -> &Arc<Freezes> {
        self.shared.freezes()
    }

    /// Returns the phones of frozen users at Voximplant.
    pub(super) fn phones(&self) -> &Phones {
        self.shared.phones()
    }

    /// Returns the certificates that this process gets by itself.
    pub(super) const fn acme(&self) -> &Arc<Acme> {
        &self.acme
    }

    /// Waits until there is a certificate for a name that may be a tenant's, or it is known that it gets none now. The caller has
    /// a deadline. An unknown name costs the PBX nothing while its latest list counts.
    pub(super) async fn obtain_certificate(&self, name: &str) {
        let refused = match self.tenants.look(name, Instant::now()) {
            TenantAnswer::Known | TenantAnswer::Unasked => return self.acme.obtain(name).await,
            TenantAnswer::Unknown => DemandResult::Unknown,
            TenantAnswer::NoAnswer => DemandResult::NoAnswer,
        };
        self.acme.report().count_demand(refused);
    }

    /// Returns the answer to a challenge over HTTP that another member has to give. `host`: in lower case.
    pub(super) async fn member_answer(&self, client: IpAddr, host: &str, token: &str) -> Option<String> {
        self.acme.member_answer(self.config.acme.as_ref()?, client_key(client), host, token).await
    }

    /// Returns the handshake that answers a challenge which another member has to answer. `name`: in lower case.
    pub(super) async fn member_handshake(&self, client: IpAddr, name: &str) -> Option<Arc<ServerConfig>> {
        self.acme.member_handshake(self.config.acme.as_ref()?, client_key(client), name).await
    }

    /// Returns the tasks that order certificates.
    fn orders(&self) -> impl Iterator<Item = Chore> + use<> {
        let tenants = Arc::clone(&self.tenants);
        let ask: AskTenant = Arc::new(move |name: String| {
            let tenants = Arc::clone(&tenants);
            async move { tenants.ask(&name).await }.boxed()
        });
        let acme = || Arc::clone(&self.acme);
        self.acme.share(self.shared.engine());
        let settings = self.config.acme.as_ref();
        let demand = settings.map(|settings| acme().answer_demand(settings.clone(), Arc::clone(&ask)).boxed());
        let orders = settings.map(|settings| acme().keep_valid(settings.clone(), ask).boxed());
        let members = settings.map(|settings| acme().follow_members(settings.clone()).boxed());
        demand.into_iter().chain(orders).chain(members)
    }

    /// Returns the sessions that callgate opened at the PBX.
    pub(super) fn sessions(&self) -> &Arc<IssuedSessions> {
        self.shared.sessions()
    }

    /// Describes the breaker of each PBX node, with its name where there are several.
    pub(super) fn breakers(&self) -> impl Iterator<Item = (Option<&str>, BreakerReport)> {
        self.shared.breakers(&self.config)
    }

    /// Describes all limits, and what those in shadow have measured.
    pub(super) fn limits(&self) -> Vec<LimitReport> {
        self.shared.limits()
    }

    /// Returns what tells how full the limits are.
    pub(super) fn limit_usage(&self) -> impl Fn() -> Vec<LimitUsage> + use<> {
        let shared = Arc::clone(&self.shared);
        move || shared.limit_usage()
    }

    pub(super) const fn logs(&self) -> &Logs {
        &self.logs
    }

    /// Returns the background work of this configuration. Old processes get the orders of other members.
    pub(super) fn chores(&self, predecessors: &Arc<Predecessors>) -> Vec<Chore> {
        let managed = self.config.voximplant.clone().filter(|voximplant| voximplant.management.is_some());
        let phones = managed.map(|managed| Arc::clone(self.shared.phones()).keep_settled(managed, self.logs.clone()));
        let freezes = self.shared.follow_freezes(self.on_freeze(predecessors));
        let ends = self.config.shared.is_some().then(|| {
            let sessions = || Arc::clone(self.sessions());
            let chores = [sessions().tell_ends().boxed(), sessions().follow_ends(self.logs.clone()).boxed()];
            chores.map(|chore| chore.map(|never| match never {}).boxed())
        });
        let of_members = freezes.into_iter().chain(ends.into_iter().flatten());
        let alarms = certificate_alarms::repeat(Arc::clone(&self.config)).boxed();
        let own = [alarms]
            .into_iter()
            .chain(self.exports())
            .chain(self.orders())
            .chain(phones.map(FutureExt::boxed))
            .chain(of_members);
        self.shared.chores(&self.config).into_iter().chain(own).collect()
    }

    /// Returns the tasks that post spans and log records to a collector, if one is configured.
    fn exports(&self) -> Vec<Chore> {
        let Some((telemetry, exporter)) = self.config.telemetry.as_ref().zip(self.exporter()) else {
            return Vec::new();
        };
        let spans = self.logs.tracer().cloned().map(|tracer| {
            let (exporter, to) = (exporter.clone(), telemetry.traces.clone());
            export(async move { exporter.post_queue(to, tracer.queue()).await })
        });
        let records = self.logs.records().cloned().zip(telemetry.logs.clone());
        let records = records.map(|(records, to)| export(async move { exporter.post_queue(to, &records).await }));
        spans.into_iter().chain(records).collect()
    }

    /// Returns the task that posts metrics to a collector, if one gets them.
    pub(super) fn metric_posts(&self, metrics: &Arc<Metrics>) -> Option<Chore> {
        let (metrics, posts) = (Arc::clone(metrics), self.config.telemetry.as_ref()?.metrics.clone()?);
        let exporter = self.exporter()?;
        Some(export(async move { exporter.post_metrics(posts, &metrics).await }))
    }

    /// Posts metrics for the last time, if a collector gets them.
    pub(super) async fn post_last_metrics(&self, metrics: &Metrics) {
        let posts = self.config.telemetry.as_ref().and_then(|telemetry| telemetry.metrics.as_ref());
        if let Some((posts, exporter)) = posts.zip(self.exporter()) {
            trace::unexported(exporter.post_last_metrics(&posts.to, metrics)).await;
        }
    }

    fn exporter(&self) -> Option<Exporter> {
        let member = self.config.member.as_ref().map(MemberName::as_str);
        let exporter = Exporter::new(self.config.telemetry.as_ref()?, member).inspect_err(|error| {
            tracing::error!(error = error as &dyn Error, "nothing can be exported: `ca` of [telemetry] is of no use");
        });
        exporter.ok()
    }

    /// Returns what is done when another member has frozen or thawed a target.
    fn on_freeze(&self, predecessors: &Arc<Predecessors>) -> impl Fn(&FreezeTarget, Option<&Freeze>) + 'static {
        let (sessions, logs) = (Arc::clone(self.sessions()), self.logs.clone());
        let predecessors = Arc::clone(predecessors);
        move |target, freeze| {
            let whom = target.to_string();
            let Some(freeze) = freeze else {
                tracing::warn!(whom, "thawed by another member");
                return predecessors.post(&SuccessionOrder::Thaw { whom });
            };
            let end = SessionEnd { reason: EndReason::Freeze, by: Some(&freeze.by) };
            let ended = sessions.end_in_processes(SessionFilter::Target { whom: target.clone() }, end, &logs).len();
            tracing::warn!(whom, by = freeze.by, ended, "frozen by another member");
            predecessors.post(&SuccessionOrder::Freeze { whom, freeze: freeze.clone() });
        }
    }

    /// Returns the part of the background work that tunnels need. Their metrics stay here: the new process posts its own.
    pub(super) fn chores_of_tunnels(&self) -> Vec<Chore> {
        self.shared.session_ends(&self.config).into_iter().chain(self.exports()).collect()
    }

    /// Returns the freshness of fetched keys, by the names of their methods.
    pub(super) fn freshness(&self) -> BTreeMap<String, Arc<Freshness>> {
        self.shared.freshness()
    }

    /// Returns what is known about each upstream.
    pub(super) fn upstreams(&self) -> Vec<UpstreamReport<'_>> {
        let app = self.config.app.iter().map(|app| UpstreamReport {
            name: UpstreamName::App,
            node: None,
            settings: &app.upstream,
            urls: self.shared.urls_of_app(),
        });
        let pbx = self.config.pbx.indexed().map(|(node, pbx)| UpstreamReport {
            name: UpstreamName::Pbx,
            node: self.config.pbx.label(node),
            settings: &pbx.upstream,
            urls: self.shared.urls_of_pbx(node),
        });
        app.chain(pbx).collect()
    }

    /// Returns the counts of exchanges at each `url` of an upstream with several.
    pub(super) fn counted_urls(&self) -> Vec<CountedUrl> {
        let counted = |UpstreamReport { name, node, urls, .. }: UpstreamReport<'_>| {
            let node = node.map(str::to_owned);
            let count = |(position, url): (usize, EndpointReport)| CountedUrl {
                upstream: name,
                node: node.clone(),
                position,
                exchanges: url.exchanges,
            };
            urls.into_iter().enumerate().map(count).collect::<Vec<_>>()
        };
        self.upstreams().into_iter().flat_map(counted).collect()
    }

    /// Returns the parts of this configuration that health checks ask.
    pub(super) fn parts(&self) -> ReadinessParts {
        let (config, logs, mut parts) = (Arc::clone(&self.config), self.logs.clone(), self.shared.parts(&self.config));
        // The other hosts do not need it, and a load balancer must not take this machine out of service for it.
        parts.add_unneeded("certificates", move || certificate_alarms::check(&config));
        if self.config.acme.is_some() {
            let acme = Arc::clone(&self.acme);
            parts.add_unneeded("acme", move || acme.check());
        }
        let other = self.logs.clone();
        parts.add("log", move || logs.check());
        if !self.passthrough.is_empty() {
            let passthrough = Arc::clone(&self.passthrough);
            // The hosts that are served here do not need it.
            parts.add_unneeded("passthrough", move || passthrough.check());
        }
        if other.check_syslog().is_some() {
            parts.add_unneeded("syslog", move || other.check_syslog().unwrap_or(Ok(())));
        }
        if trace::check().is_some() {
            parts.add_unneeded("events", || trace::check().unwrap_or(Ok(())));
        }
        parts
    }

    /// Makes sure that each worker can build its proxy.
    fn tried(self) -> Result<Self, StartError> {
        drop(self.lone_proxy()?);
        Ok(self)
    }
}

/// Makes a task of an export.
fn export(work: impl Future<Output = Infallible> + Send + 'static) -> Chore {
    trace::unexported(work).map(|never| match never {}).boxed()
}

/// Tells whether two configurations get certificates for the same names, and ask the same of clients there.
fn gets_same_certificates(one: &Config, other: &Config) -> bool {
    let on_demand = |acme: &AcmeConfig| acme.on_demand.as_ref().map(|on_demand| on_demand.hosts.clone());
    match (&one.acme, &other.acme) {
        (Some(one), Some(other)) => {
            one.names == other.names && on_demand(one) == on_demand(other) && one.client_auth == other.client_auth
        }
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// Returns where plain HTTP is answered, and where it leads. The answers to challenges may change.
fn plain_ports(config: &Config) -> Option<(SocketAddr, Option<u16>)> {
    config.redirect_http.as_ref().map(|redirect| (redirect.listen, redirect.port))
}

/// Returns the settings that differ and cannot change: those of sockets, threads and the state file, which last as long as the
/// process.
fn fixed(before: &Config, config: &Config) -> Vec<&'static str> {
    let keys = [
        ("`listen`", before.listen == config.listen),
        ("`redirect_http`", plain_ports(before) == plain_ports(config)),
        ("`workers`", before.workers == config.workers),
        ("`admin.listen`", before.admin == config.admin),
        ("`state.file`", before.state == config.state),
    ];
    keys.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect()
}
