//! One worker, as its connections see it: what the next handshake and the next request meet, and what bounds them.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::admission::{AdmissionPermit, ConnectionLimits};
use super::foreign_challenges::ForeignChallenges;
use super::registry::Registry;
use super::snapshot::Snapshot;
use crate::budget::{Budget, Ledger, Pressure, WorkerBudget};
use crate::limit::client_key;
use crate::observe::metrics::Tally;
use crate::proxy::Proxy;
use crate::tls::current::CurrentPolicies;

/// One worker, as its connections see it.
pub(super) struct Worker {
    pub(super) limits: Arc<ConnectionLimits>,
    /// The bytes in the buffers of this worker's connections.
    pub(super) budget: Arc<WorkerBudget>,
    pub(super) registry: Rc<Registry>,
    /// The connections of `redirect_http`. A drain does not wait for them.
    pub(super) redirects: Rc<Registry>,
    pub(super) tally: Tally,
    current: RefCell<Current>,
    /// The TLS policies of the current configuration, which tunnels of former ones meet too.
    tls: Rc<CurrentPolicies>,
    /// The port that `redirect_http` leads to.
    pub(super) https_port: HttpsPort,
    /// Bounds the answers to challenges of other ACME clients.
    pub(super) foreign_challenges: ForeignChallenges,
}

/// The configuration that the next handshake and the next request meet.
struct Current {
    snapshot: Arc<Snapshot>,
    proxy: Rc<Proxy>,
}

impl Current {
    fn new(snapshot: Arc<Snapshot>, tls: &Rc<CurrentPolicies>, before: Option<&Proxy>, tally: &Tally) -> Self {
        let proxy = snapshot.proxy(Rc::clone(tls), before, tally).expect("the server built the same one before");
        Self { snapshot, proxy: Rc::new(proxy) }
    }
}

/// The port that a browser is redirected to. In front of a container or a router it differs from the one listened on.
#[derive(Debug, Clone, Copy)]
pub(super) struct HttpsPort {
    /// `redirect_http.port`.
    pub(super) configured: Option<u16>,
    /// The first port of `listen`.
    pub(super) tls: u16,
    /// The port of `redirect_http`.
    pub(super) plain: u16,
}

impl Worker {
    /// Starts without a connection.
    pub(super) fn new(
        snapshot: Arc<Snapshot>,
        limits: Arc<ConnectionLimits>,
        budget: Arc<Budget>,
        tally: Tally,
        https_port: HttpsPort,
    ) -> Rc<Self> {
        let tls = Rc::new(CurrentPolicies::new(Arc::clone(&snapshot.tls)));
        Rc::new(Self {
            limits,
            budget: WorkerBudget::new(budget),
            registry: Rc::default(),
            redirects: Rc::default(),
            current: RefCell::new(Current::new(snapshot, &tls, None, &tally)),
            tls,
            tally,
            https_port,
            foreign_challenges: ForeignChallenges::default(),
        })
    }

    // === The configuration ===

    /// Returns the snapshot that a new connection begins with.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.borrow().snapshot)
    }

    /// Returns the proxy that answers the next request.
    pub(super) fn proxy(&self) -> Rc<Proxy> {
        Rc::clone(&self.current.borrow().proxy)
    }

    /// Replaces the configuration. Exchanges in flight end with the one they began with.
    pub(super) fn replace(&self, snapshot: Arc<Snapshot>) {
        let (before, policies) = (self.proxy(), Arc::clone(&snapshot.tls));
        let next = Current::new(snapshot, &self.tls, Some(&before), &self.tally);
        before.retire(&next.proxy);
        self.current.replace(next);
        self.tls.replace(policies);
    }

    /// Opens the ledger of a connection. A trusted proxy carries many clients, so no client's share bounds its buffers.
    pub(super) fn open_ledger(&self, client: IpAddr, is_one_client: bool) -> Arc<Ledger> {
        let budget = self.budget.process();
        self.budget.open(is_one_client.then(|| budget.client(client_key(client))))
    }

    // === Shortages ===

    /// Waits until one more connection is admitted; the longest idle one is evicted for it.
    pub(super) async fn admit(&self) -> AdmissionPermit {
        let most = self.snapshot().config.server.max_connections;
        if let Some(permit) = self.limits.try_acquire(most) {
            return permit;
        }
        if self.limits.notices.full.is_due() {
            tracing::warn!("as many connections are open as `max_connections` permits");
        }
        self.evict_idle();
        self.limits.acquire(most).await
    }

    /// Evicts the longest idle connection, one of `redirect_http` first.
    fn evict_idle(&self) {
        if !self.redirects.evict_idle() {
            self.registry.evict_idle();
        }
    }

    /// Evicts a connection while one waits to be admitted.
    pub(super) fn evict_for_waiting(&self) {
        if self.limits.has_waiting() {
            self.evict_idle();
        }
    }

    /// Evicts a connection because the system accepts none: its descriptor is as good as a new one.
    pub(super) fn evict_after(&self, error: &io::Error) {
        self.evict_idle();
        if self.limits.notices.accept_failed.is_due() {
            tracing::warn!(%error, "cannot accept for now");
        }
    }

    /// Closes the slowest connections while `buffer_budget` is short: those of the client that holds most; those of all
    /// clients when many hold little.
    pub(super) fn shed_slowest(&self) {
        let budget = self.budget.process();
        let pressure = budget.pressure();
        self.registry.measure(Instant::now());
        if pressure < Pressure::Tight {
            return;
        }
        let largest = budget.largest();
        if largest.is_none() && pressure < Pressure::Full {
            return;
        }
        let connections = self.registry.shed(largest.as_ref(), budget.excess());
        self.tally.shed(connections);
        if connections > 0 && self.limits.notices.shed.is_due() {
            tracing::warn!(connections, "slow connections are closed: `buffer_budget` is used up");
        }
    }
}
