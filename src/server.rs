//! Floor 7: sockets, worker threads, connections; reload, hand-over to another process, graceful shutdown.
//!
//! One worker thread per core, each with its own listening sockets (`SO_REUSEPORT`) and upstream connections: a
//! connection lives and dies on one thread.

mod accept;
mod acceptor;
mod admin;
mod admission;
mod certificate_alarms;
mod client_io;
mod connection;
mod control;
mod deadlines;
mod fd_limit;
mod filtered_io;
mod first_message;
mod foreign_challenges;
mod frame_filter;
mod handover;
mod head_filter;
mod listener;
mod old_process;
mod own_connections;
mod paced_body;
mod passed_connection;
mod passthrough;
mod proxy_header;
mod proxy_protocol;
mod redirect;
mod refuse_new;
mod registry;
mod reload_orders;
mod resting_io;
mod runtime_thread;
mod sampler;
mod snapshot;
mod sockets;
mod stream_executor;
mod succession;
mod worker;
mod worker_thread;

use std::future::pending;
use std::io::Error as IoError;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, available_parallelism};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use self::admin::{AdminContext, AdminListener};
use self::admission::ConnectionLimits;
use self::control::{Chore, ControlThread};
use self::fd_limit::FdLimit;
use self::handover::HandOver;
pub use self::handover::{HandOverError, InheritedSockets};
use self::listener::Listener;
pub use self::old_process::KeptTunnels;
use self::old_process::OldProcessDuties;
pub use self::reload_orders::{ReloadOrder, ReloadOrders, ReloadOutcome};
use self::sampler::Sampler;
pub use self::snapshot::ReloadError;
use self::snapshot::Snapshot;
use self::sockets::ListeningSockets;
use self::succession::{Predecessors, SuccessionOrder, SuccessorLink, pass_ends_on};
use self::worker::HttpsPort;
use self::worker_thread::{WorkerContext, WorkerHandle, WorkerParts};
use crate::budget::Budget;
use crate::config::{Config, Listen};
use crate::observe::Logs;
use crate::observe::heartbeat::Heartbeats;
use crate::observe::metrics::Metrics;
use crate::observe::sink::{ClosingLog, FlushRequest};
use crate::observe::trace;
use crate::state::{OpenError, Store};
use crate::upstream;

/// How long an accept loop pauses when the system accepts no connection.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);
/// How long a reload waits for the workers.
const RELOAD_WAIT: Duration = Duration::from_secs(2);
/// How long an ending server still serves new exchanges: TCP handshakes were under way, and clients have not learned of the
/// end.
const GRACE: Duration = Duration::from_secs(1);
/// How long an ending server waits for the last lines of the logs, and for its other threads.
const LAST_LINES: Duration = Duration::from_secs(2);
/// How long an ending server waits until the PBX has ended the sessions that are over.
const LAST_ENDS: Duration = Duration::from_secs(2);
/// How often the logs are polled for their last lines, and those sessions.
const LAST_LINES_POLL: Duration = Duration::from_millis(5);
/// How much longer than `drain` the end may take: graceful shutdowns of connections, the last lines of the logs and
/// on standard error.
const SPARE: Duration = Duration::from_secs(8);
/// How long a graceful shutdown of a connection may take.
const MAX_SHUTDOWN: Duration = Duration::from_secs(5);

/// A running server.
pub struct Server {
    addresses: BoundAddresses,
    /// A copy of each listening socket, for another process; empty once the server drains.
    sockets: Mutex<Vec<Listener>>,
    state: watch::Sender<ServerState>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    workers: Vec<WorkerHandle>,
    metrics: Arc<Metrics>,
    heartbeats: Arc<Heartbeats>,
    budget: Arc<Budget>,
    control: ControlThread,
    sampler: Arc<Sampler>,
    admin: Mutex<Option<AdminListener>>,
    store: Arc<Store>,
    fd_limit: FdLimit,
    /// The old processes that keep tunnels.
    predecessors: Arc<Predecessors>,
    /// Leads to the process that this one handed over to.
    successor: Option<SuccessorLink>,
    /// The orders to reload, until their taker asks for them.
    reload_orders: Option<ReloadOrders>,
    /// The logs of former configurations, which may still have lines to write.
    former_logs: Vec<ClosingLog>,
}

/// The addresses that were bound, with their ports.
struct BoundAddresses {
    tls: Vec<Listen>,
    /// Those of `tls` that have a port.
    tls_tcp: Vec<SocketAddr>,
    redirect: Option<SocketAddr>,
}

/// The state of a server in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// Connections are accepted.
    Ready,
    /// Exchanges in flight go on; no connection is accepted.
    Draining,
    /// Another process accepts connections at the same sockets. Exchanges in flight go on, tunnels longest.
    HandedOver,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen at {address}")]
    Listen {
        /// The address.
        address: Listen,
        /// The error of the system.
        #[source]
        source: IoError,
    },
    /// A socket was passed to this process that the configuration does not name.
    #[error("a socket was passed for {0}, which neither `listen` nor `redirect_http` nor `[admin]` names")]
    LeftOver(Listen),
    /// A certificate or a trust root cannot be used.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// `whoami` of the app is not a path.
    #[error("whoami is not a path")]
    Whoami(#[from] http::uri::InvalidUri),
    /// The state file cannot be used.
    #[error(transparent)]
    State(#[from] OpenError),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] IoError),
    /// The socket of an old process cannot be used.
    #[error("cannot reach an old process")]
    OldProcess(#[source] IoError),
}

impl Server {
    /// Binds all addresses and starts the workers. When it returns, connections are accepted.
    ///
    /// # Errors
    /// When an address cannot be bound, or a part of the configuration turns out to be unusable.
    pub fn start(config: Config, logs: Logs) -> Result<Self, StartError> {
        Self::start_with(config, logs, &mut InheritedSockets::default())
    }

    /// As [`Server::start`], with sockets that another process has opened in the place of those that it would bind.
    ///
    /// # Errors
    /// As [`Server::start`], and when an inherited socket is left over.
    pub fn start_with(mut config: Config, logs: Logs, inherited: &mut InheritedSockets) -> Result<Self, StartError> {
        trace::export(logs.records());
        let count = config.workers.map_or_else(cores, NonZeroUsize::get);
        let fd_limit = FdLimit::raise(&config, count);
        fd_limit.fit(&mut config);
        // Built first, so that an error in it is reported before a port is bound.
        let store = Arc::new(
            config.state.as_deref().map_or_else(|| Ok(Store::in_memory()), |path| open_store(path, inherited))?,
        );
        // Asked for last: what the old process counts from now on is not counted here.
        let mut memory = inherited.ask_for_memory();
        let first = Arc::new(Snapshot::new(config, logs, Arc::clone(&store), &mut memory)?);
        drop(memory);
        upstream::start_lookups().map_err(StartError::Thread)?;
        let budget = Budget::new(first.config.server.buffer_budget);
        let metrics = Metrics::start(&first.config, first.logs(), &budget);
        let (snapshots, snapshot) = watch::channel(Arc::clone(&first));
        let (state, states) = watch::channel(ServerState::Ready);
        let heartbeats = Heartbeats::start(count);
        let mut sockets = ListeningSockets::open(&first.config, count, inherited)?;
        if let Some(address) = inherited.left_over() {
            return Err(StartError::LeftOver(address.clone()));
        }
        let context = WorkerContext {
            snapshots: snapshot.clone(),
            state: states,
            limits: Arc::<ConnectionLimits>::default(),
            budget: Arc::clone(&budget),
            metrics: Arc::clone(&metrics),
            https_port: HttpsPort {
                configured: first.config.redirect_http.as_ref().and_then(|redirect| redirect.port),
                tls: sockets.addresses.iter().find_map(Listen::tcp).map_or(443, |address| address.port()),
                plain: sockets.redirect_address.map_or(80, |address| address.port()),
            },
        };
        watch_parts(&metrics, &first, state.subscribe());
        let workers = start_workers(&context, &heartbeats, &mut sockets, count).map_err(StartError::Thread)?;
        let predecessors = Arc::new(inherited.take_predecessors().map_err(StartError::OldProcess)?);
        if predecessors.are_any() {
            first.sessions().orders().open();
        }
        let (reloads, reload_orders) = reload_orders::channel();
        let sampler = Sampler::new(&metrics);
        let admin = AdminContext {
            reloads,
            snapshots: snapshot,
            metrics: Arc::clone(&metrics),
            sampler: Arc::clone(&sampler),
            heartbeats: Arc::clone(&heartbeats),
            workers: count,
            predecessors: Arc::clone(&predecessors),
        };
        let admin = sockets.admin.map(|listener| AdminListener::start(listener, fd_limit.admin(), admin)).transpose();
        let admin = Mutex::new(admin.map_err(StartError::Thread)?);
        let control = ControlThread::start().map_err(StartError::Thread)?;
        control.replace_chores(chores(&first, &predecessors, &sampler, &metrics));
        Ok(Self {
            addresses: BoundAddresses {
                tls_tcp: sockets.addresses.iter().filter_map(Listen::tcp).collect(),
                tls: sockets.addresses,
                redirect: sockets.redirect_address,
            },
            sockets: Mutex::new(sockets.all),
            state,
            snapshots,
            workers,
            metrics,
            heartbeats,
            budget,
            control,
            sampler,
            admin,
            store,
            fd_limit,
            predecessors,
            successor: None,
            reload_orders: Some(reload_orders),
            former_logs: Vec::new(),
        })
    }

    // === Reload ===

    /// Replaces the configuration, whole or not at all. When it returns, each new request and each new handshake meets the
    /// new one; connections, tunnels and counts go on.
    ///
    /// # Errors
    /// When it changes a setting that only a new process can change, or a part of it turns out to be unusable.
    pub async fn reload(&mut self, mut config: Config) -> Result<(), ReloadError> {
        self.fd_limit.fit(&mut config);
        let next = Arc::new(self.snapshot().successor(config).inspect_err(|_| self.not_reloaded())?);
        self.former_logs.retain(|logs| !logs.is_over());
        self.former_logs.extend(self.snapshot().logs().closing());
        self.budget.set_limit(next.config.server.buffer_budget);
        self.snapshots.send_replace(Arc::clone(&next));
        self.control.replace_chores(chores(&next, &self.predecessors, &self.sampler, &self.metrics));
        trace::export(next.logs().records());
        self.metrics.reloaded(&next.config, next.logs());
        self.watch_parts();
        let all_serve_it = async {
            for worker in &mut self.workers {
                worker.wait_for(&next).await;
            }
        };
        // A worker that waits for a disk follows later; signals do not wait for it.
        if timeout(RELOAD_WAIT, all_serve_it).await.is_err() {
            tracing::warn!("a worker is busy, and takes the new configuration when it can");
        }
        Ok(())
    }

    /// Returns the orders to reload that come in at the admin listener; nothing at a second call.
    pub fn take_reload_orders(&mut self) -> Option<ReloadOrders> {
        self.reload_orders.take()
    }

    /// Counts a reload whose configuration is wrong.
    pub fn not_reloaded(&self) {
        self.metrics.not_reloaded();
    }

    /// Points health checks and metrics at the running configuration.
    fn watch_parts(&self) {
        watch_parts(&self.metrics, &self.snapshot(), self.state.subscribe());
    }

    /// Opens the log files again, because they may have been moved away; old processes do so, too. Does not wait for it.
    pub fn reopen_logs(&self) {
        self.snapshot().logs().reopen();
        self.predecessors.post(&SuccessionOrder::Reopen);
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    // === Addresses and state ===

    /// Returns the addresses of `listen`, with the ports that were bound.
    #[must_use]
    pub fn listening(&self) -> &[Listen] {
        &self.addresses.tls
    }

    /// Returns those of [`Server::listening`] that have a port.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses.tls_tcp
    }

    /// Returns the address of `redirect_http`.
    #[must_use]
    pub const fn redirect_address(&self) -> Option<SocketAddr> {
        self.addresses.redirect
    }

    /// Returns the state of the server, now and as it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ServerState> {
        self.state.subscribe()
    }

    /// Returns the heartbeats of the workers.
    #[must_use]
    pub fn heartbeats(&self) -> Arc<Heartbeats> {
        Arc::clone(&self.heartbeats)
    }

    /// Returns the address of the admin listener, with the port that was bound.
    #[must_use]
    pub fn admin_address(&self) -> Option<Listen> {
        lock(&self.admin).as_ref().and_then(AdminListener::address)
    }

    // === The end ===

    /// Starts a process with the listening sockets, waits until it accepts connections, and leaves them to it: exchanges in
    /// flight here go on as with [`Server::drain`], tunnels until `drain_tunnels` is over. Returns the id of the process. One
    /// call at a time; if the call is dropped, the new process is ended.
    ///
    /// # Errors
    /// When the process does not accept connections in time. Then this server goes on as before.
    pub async fn hand_over(&mut self, command: Command) -> Result<u32, HandOverError> {
        let sockets = self.copies().map_err(HandOverError::Start)?;
        let older = self.predecessors.sockets().map_err(HandOverError::Start)?;
        let snapshot = self.snapshot();
        let given = HandOver { sockets, older, store: &self.store, snapshot: &snapshot };
        let (id, successor) = handover::start(command, given).await?;
        snapshot.sessions().leave();
        while let Some(order) = snapshot.sessions().orders().take() {
            self.predecessors.post(&SuccessionOrder::EndSessions(order));
        }
        self.predecessors.leave();
        self.successor = Some(successor);
        lock(&self.sockets).clear();
        // The new process answers health checks.
        let admin = lock(&self.admin).take();
        if let Some(admin) = admin {
            admin.leave().await;
        }
        self.control.replace_chores(self.snapshot().chores_of_tunnels());
        self.state.send_replace(ServerState::HandedOver);
        Ok(id)
    }

    /// Keeps the tunnels after [`Server::hand_over`], and obeys the newest process, until the last tunnel has ended, at the
    /// latest until `drain_tunnels` is over, or until the newest process is gone.
    pub async fn keep_tunnels(&mut self) -> KeptTunnels {
        let longest = self.snapshot().config.server.drain_tunnels + MAX_SHUTDOWN;
        let duties = self.duties();
        let workers = &mut self.workers;
        let all_end = async {
            for worker in workers {
                worker.wait_for_end().await;
            }
        };
        tokio::select! {
            // A worker that hangs is left to `join`.
            _ = timeout(longest, all_end) => KeptTunnels::Ended,
            is_child = duties.obey(self.successor.as_mut()) => KeptTunnels::SuccessorGone { is_child },
        }
    }

    fn duties(&self) -> OldProcessDuties {
        OldProcessDuties::new(&self.snapshot(), &self.metrics, &self.state)
    }

    /// Copies every listening socket.
    fn copies(&self) -> Result<Vec<Listener>, IoError> {
        let admin = lock(&self.admin).as_ref().map(AdminListener::listener).transpose()?;
        lock(&self.sockets).iter().map(Listener::try_clone).chain(admin.map(Ok)).collect()
    }

    /// Stops accepting; exchanges in flight, also tunnels that a hand-over has left here, go on until they end, or until the
    /// drain deadline.
    pub fn drain(&self) {
        // All sockets before a worker closes its own: see `refuse_new`.
        for socket in lock(&self.sockets).drain(..) {
            socket.retire();
        }
        self.state.send_replace(ServerState::Draining);
    }

    /// Returns the longest time that [`Server::join`] takes after [`Server::drain`], unless a worker hangs.
    #[must_use]
    pub fn longest_drain(&self) -> Duration {
        self.snapshot().config.server.drain + SPARE
    }

    /// Waits for the workers, and for older processes, to end after [`Server::drain`], and returns how many connections were
    /// aborted here. A worker that has not ended five seconds after the drain deadline is left behind, and lines that a log
    /// does not take within two seconds are lost.
    pub async fn join(mut self) -> usize {
        let due = Instant::now() + self.snapshot().config.server.drain + MAX_SHUTDOWN;
        let (duties, mut successor) = (self.duties(), self.successor.take());
        let is_handed_over = successor.is_some();
        let ended =
            async { tokio::join!(end_workers(std::mem::take(&mut self.workers), due), self.predecessors.end(due)).0 };
        let aborted = tokio::select! {
            aborted = ended => aborted,
            // Ordered also while this process ends; it ends by itself.
            never = async { duties.obey(successor.as_mut()).await; pending().await } => never,
        };
        let admin = lock(&self.admin).take();
        if let Some(admin) = admin {
            admin.end().await;
        }
        if timeout(LAST_ENDS, self.last_ends()).await.is_err() {
            tracing::warn!("the PBX does not know of all sessions that are over");
        }
        let last_exports = timeout(LAST_LINES, Box::pin(self.last_exports(is_handed_over)));
        let (lines, exports) = tokio::join!(timeout(LAST_LINES, self.last_lines()), last_exports);
        if lines.is_err() {
            tracing::warn!("a log is stuck, and its last lines are lost");
        }
        if exports.is_err() {
            tracing::warn!("the collector does not answer, and the last telemetry is lost");
        }
        end_apart(self).await;
        aborted
    }

    /// Waits until the PBX has ended the sessions that are over: those of tunnels may have ended just now.
    async fn last_ends(&self) {
        while self.snapshot().sessions().pending().has_queued() {
            sleep(LAST_LINES_POLL).await;
        }
    }

    /// Waits until the collector has the last telemetry, if one is configured. After a hand-over the metrics are the new process's.
    async fn last_exports(&self, is_handed_over: bool) {
        let snapshot = self.snapshot();
        snapshot.logs().hurry_exports();
        let settled = async {
            while !snapshot.logs().are_exports_settled() {
                sleep(LAST_LINES_POLL).await;
            }
        };
        let metrics = async {
            if !is_handed_over {
                snapshot.post_last_metrics(&self.metrics).await;
            }
        };
        tokio::join!(settled, metrics);
    }

    /// Waits until the lines of the workers are written, also those in the logs of former configurations.
    async fn last_lines(&self) {
        let logs = self.snapshot().logs().clone();
        let (asked, closing) = (logs.request_flush(), logs.closing());
        let is_former = |former: &&ClosingLog| !closing.iter().any(|log| log.is(former));
        let former: Vec<_> = self.former_logs.iter().filter(is_former).collect();
        while !asked.iter().all(FlushRequest::is_done) || !former.iter().all(|former| former.is_over()) {
            sleep(LAST_LINES_POLL).await;
        }
    }
}

/// Returns the background work of a configuration, and of the process.
fn chores(
    snapshot: &Snapshot,
    predecessors: &Arc<Predecessors>,
    sampler: &Arc<Sampler>,
    metrics: &Arc<Metrics>,
) -> Vec<Chore> {
    let ends = pass_ends_on(Arc::clone(snapshot.sessions()), Arc::clone(predecessors));
    let samples = Arc::clone(sampler).run(snapshot.limit_usage());
    let of_process = [ends.boxed(), samples.boxed()].into_iter().chain(snapshot.metric_posts(metrics));
    snapshot.chores(predecessors).into_iter().chain(of_process).collect()
}

/// Starts the workers one after the other.
fn start_workers(
    context: &WorkerContext,
    heartbeats: &Arc<Heartbeats>,
    sockets: &mut ListeningSockets,
    count: usize,
) -> Result<Vec<WorkerHandle>, IoError> {
    let start = |index| {
        let (listeners, redirect) = (sockets.take_worker(index), sockets.take_redirect(index));
        let parts = WorkerParts { index, heartbeat: heartbeats.of(index), listeners, redirect };
        WorkerHandle::start(context.clone(), parts)
    };
    (0..count).map(start).collect()
}

/// Waits for the workers to end, and returns how many connections they aborted.
async fn end_workers(workers: Vec<WorkerHandle>, due: Instant) -> usize {
    let mut aborted = 0;
    for worker in workers {
        aborted += worker.join(due).await;
    }
    aborted
}

/// Points health checks and metrics at a configuration. Nothing is asked before that.
fn watch_parts(metrics: &Metrics, snapshot: &Snapshot, state: watch::Receiver<ServerState>) {
    let mut parts = snapshot.parts();
    parts.add("drain", move || match *state.borrow() {
        ServerState::Ready => Ok(()),
        ServerState::Draining | ServerState::HandedOver => Err("draining".to_owned()),
    });
    metrics.health.watch(parts);
    metrics.watch_keys(snapshot.freshness());
    metrics.watch_urls(snapshot.counted_urls());
    metrics.watch_issued(snapshot.acme().report());
    metrics.watch_users(snapshot.phones().counts());
    metrics.watch_sessions(snapshot.sessions().counts());
}

/// Drops the rest of a server on a thread of its own, and waits for that, but not for long: the threads of the state file and
/// of control may wait for a disk or a name server.
async fn end_apart(server: Server) {
    let (end, ended) = oneshot::channel::<()>();
    let rest = Builder::new().name("callgate-end".to_owned()).spawn(move || {
        drop(server);
        drop(end);
    });
    // Without a thread the server is dropped by now.
    if rest.is_ok() && timeout(LAST_LINES, ended).await.is_err() {
        tracing::warn!("a thread does not end, and is left behind");
    }
}

/// Opens the state file. An old process that holds it is asked to release it.
fn open_store(path: &Path, inherited: &InheritedSockets) -> Result<Store, OpenError> {
    match Store::open(path) {
        Err(OpenError::Locked(_)) if inherited.ask_for_state() => Store::open(path),
        opened => opened,
    }
}

/// Locks even after a panic elsewhere: the value is moved in and out whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cores() -> usize {
    available_parallelism().map_or(1, NonZeroUsize::get)
}
