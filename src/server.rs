//! Floor 7: sockets, threads and the end of the day.
//!
//! One worker thread per core, each with its own listening sockets (`SO_REUSEPORT`) and upstream connections: a
//! connection lives and dies on one thread.

mod acceptor;
mod admin;
mod admission;
mod client_io;
mod connection;
mod control;
mod deadlines;
mod fd_limit;
mod guarded;
mod handover;
mod listener;
mod paced_body;
mod proxy_protocol;
mod redirect;
mod refuse_new;
mod registry;
mod runtime_thread;
mod screened;
mod snapshot;
mod sockets;
mod worker;

use std::io::Error as IoError;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{Builder, JoinHandle, available_parallelism};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use self::admin::{Admin, Known};
use self::admission::Crowd;
use self::control::Control;
use self::fd_limit::Files;
pub use self::handover::{HandOverError, Inherited};
use self::listener::Listener;
use self::redirect::HttpsPort;
pub use self::snapshot::ReloadError;
use self::snapshot::Snapshot;
use self::sockets::Sockets;
use self::worker::{Parts, Worker};
use crate::budget::Budget;
use crate::config::{Config, Listen};
use crate::observe::Logs;
use crate::observe::heartbeat::Heartbeats;
use crate::observe::metrics::Metrics;
use crate::observe::sink::{ClosingLog, FlushRequest};
use crate::state::{OpenError, Store};
use crate::upstream;

/// A running gate.
pub struct Server {
    listening: Vec<Listen>,
    addresses: Vec<SocketAddr>,
    redirect: Option<SocketAddr>,
    /// Each listening socket once more, for another process; none when the gate ends.
    sockets: Mutex<Vec<Listener>>,
    state: watch::Sender<State>,
    live: watch::Sender<Arc<Snapshot>>,
    workers: Vec<Hand>,
    metrics: Arc<Metrics>,
    budget: Arc<Budget>,
    control: Control,
    admin: Mutex<Option<Admin>>,
    store: Arc<Store>,
    files: Files,
    /// The logs of configurations before, which may have lines to write still.
    former_logs: Vec<ClosingLog>,
}

/// Where a gate is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Connections are accepted.
    Ready,
    /// What is in flight goes on; nobody new comes in.
    Draining,
    /// As `Draining`, while another process accepts connections at the same sockets.
    HandedOver,
}

/// One worker, as the server holds it.
struct Hand {
    thread: JoinHandle<()>,
    /// How many connections the worker cut off, once it has ended.
    ended: oneshot::Receiver<usize>,
    /// What the worker goes on with.
    taken: watch::Receiver<Arc<Snapshot>>,
}

/// Why the gate did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened at.
    #[error("cannot listen at {address}")]
    Listen {
        /// The address.
        address: Listen,
        /// What the system said.
        #[source]
        source: IoError,
    },
    /// A socket was handed to this process, and nothing says what to do with it.
    #[error("a socket was passed for {0}, which neither `listen` nor `redirect_http` nor `[admin]` names")]
    LeftOver(Listen),
    /// A certificate or a trust root cannot be used.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The app's path for whoami is none.
    #[error("whoami is not a path")]
    Whoami(#[from] http::uri::InvalidUri),
    /// The state file cannot be used.
    #[error(transparent)]
    State(#[from] OpenError),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] IoError),
}

impl Server {
    /// Binds all addresses and starts the workers. When it returns, connections are accepted.
    ///
    /// # Errors
    /// When an address cannot be bound, or something in the configuration cannot be used after all.
    pub fn start(config: Config, logs: Logs) -> Result<Self, StartError> {
        Self::start_with(config, logs, &mut Inherited::default())
    }

    /// As [`Server::start`], with sockets that another process has opened in the place of those that it would bind.
    ///
    /// # Errors
    /// As [`Server::start`], and when a socket is left over.
    pub fn start_with(mut config: Config, logs: Logs, inherited: &mut Inherited) -> Result<Self, StartError> {
        let count = config.workers.map_or_else(cores, NonZeroUsize::get);
        let files = Files::find(&config, count);
        files.fit(&mut config);
        // Built first, so that what cannot be built is said before a port is bound.
        let store = Arc::new(
            config.state.as_deref().map_or_else(|| Ok(Store::in_memory()), |path| open_store(path, inherited))?,
        );
        let first = Arc::new(Snapshot::new(config, logs, Arc::clone(&store))?);
        upstream::start_lookups().map_err(StartError::Thread)?;
        let crowd = Arc::<Crowd>::default();
        let budget = Budget::new(first.config.server.buffer_budget);
        let metrics = Metrics::start(&first.config, first.logs(), &budget);
        let (live, snapshots) = watch::channel(Arc::clone(&first));
        let (state, states) = watch::channel(State::Ready);
        let heartbeats = Heartbeats::start(count);
        let mut sockets = Sockets::open(&first.config, count, inherited)?;
        if let Some(address) = inherited.left_over() {
            return Err(StartError::LeftOver(address.clone()));
        }
        let addresses: Vec<_> = sockets.addresses.iter().filter_map(Listen::tcp).collect();
        let mut workers = Vec::with_capacity(count);
        for index in 0..count {
            let (taken, is_taken) = watch::channel(Arc::clone(&first));
            let (started, has_started) = mpsc::channel();
            let (end, ended) = oneshot::channel();
            let parts = Parts {
                live: snapshots.clone(),
                taken,
                crowd: Arc::clone(&crowd),
                budget: Arc::clone(&budget),
                metrics: Arc::clone(&metrics),
                heartbeat: heartbeats.of(index),
                listeners: sockets.take_worker(index),
                redirect: sockets.take_redirect(index),
                https: HttpsPort {
                    configured: first.config.redirect_http.and_then(|redirect| redirect.port),
                    tls: addresses.first().map_or(443, SocketAddr::port),
                    plain: sockets.redirect_address.map_or(80, |address| address.port()),
                },
                state: states.clone(),
                started,
            };
            let thread = Builder::new().name(format!("callgate-{index}"));
            let work = move || {
                // Whether anybody waits for the end is the server's concern.
                let _ = end.send(Worker::run(parts));
            };
            let thread = thread.spawn(work).map_err(StartError::Thread)?;
            let has_started = has_started.recv().unwrap_or_else(|_| Err(IoError::other("it panicked")));
            has_started.map_err(StartError::Thread)?;
            workers.push(Hand { thread, ended, taken: is_taken });
        }
        let known = || Known {
            live: snapshots.clone(),
            metrics: Arc::clone(&metrics),
            heartbeats: Arc::clone(&heartbeats),
            workers: count,
        };
        let admin = sockets.admin.map(|listener| Admin::start(listener, files.admin(), known())).transpose();
        let admin = Mutex::new(admin.map_err(StartError::Thread)?);
        let (listening, redirect) = (sockets.addresses, sockets.redirect_address);
        let sockets = Mutex::new(sockets.all);
        let control = Control::start().map_err(StartError::Thread)?;
        control.take_up(first.chores());
        let former_logs = Vec::new();
        let server = Self {
            listening,
            addresses,
            redirect,
            sockets,
            state,
            live,
            workers,
            metrics,
            budget,
            control,
            admin,
            store,
            files,
            former_logs,
        };
        server.watch();
        Ok(server)
    }

    /// Puts another configuration in the place of the running one, whole or not at all. When it returns, each request
    /// and each handshake that begins meets the new one; connections, tunnels and counts go on.
    ///
    /// # Errors
    /// When it says something that only a new process can do, or something in it cannot be used after all.
    pub async fn reload(&mut self, mut config: Config) -> Result<(), ReloadError> {
        self.files.fit(&mut config);
        let next = Arc::new(self.snapshot().successor(config).inspect_err(|_| self.not_reloaded())?);
        self.former_logs.retain(|logs| !logs.is_over());
        self.former_logs.extend(self.snapshot().logs().closing());
        self.budget.set_limit(next.config.server.buffer_budget);
        self.live.send_replace(Arc::clone(&next));
        self.control.take_up(next.chores());
        self.metrics.reloaded(&next.config, next.logs());
        self.watch();
        let all_took = async {
            for worker in &mut self.workers {
                // An error means that the thread is gone, which a reload does not mend.
                let _ = worker.taken.wait_for(|taken| Arc::ptr_eq(taken, &next)).await;
            }
        };
        // A worker that waits for a disk takes it later, and signals are not kept waiting for that.
        if timeout(TAKEN, all_took).await.is_err() {
            tracing::warn!("a worker is busy, and takes the new configuration when it can");
        }
        Ok(())
    }

    /// Counts a configuration that was read to take the place of the running one, and is wrong.
    pub fn not_reloaded(&self) {
        self.metrics.not_reloaded();
    }

    /// Lets health checks ask what runs now.
    fn watch(&self) {
        let (mut parts, drained) = (self.snapshot().parts(), self.state.subscribe());
        parts.add("drain", move || match *drained.borrow() {
            State::Ready => Ok(()),
            State::Draining | State::HandedOver => Err("draining".to_owned()),
        });
        self.metrics.health.watch(parts);
        self.metrics.watch_keys(self.snapshot().freshness());
    }

    /// Opens the log files again: they may have been moved away. Does not wait for it.
    pub fn reopen_logs(&self) {
        self.snapshot().logs().reopen();
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.live.borrow())
    }

    /// Returns where TLS is spoken, with the ports that were bound.
    #[must_use]
    pub fn listening(&self) -> &[Listen] {
        &self.listening
    }

    /// Returns those of [`Server::listening`] that have a port.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the address that redirects plain HTTP.
    #[must_use]
    pub const fn redirect_address(&self) -> Option<SocketAddr> {
        self.redirect
    }

    /// Returns where the gate is in its life, now and as it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Returns where health and metrics are told, with the port that was bound.
    #[must_use]
    pub fn admin_address(&self) -> Option<Listen> {
        lock(&self.admin).as_ref().and_then(Admin::address)
    }

    /// Starts a process with the listening sockets, waits until it accepts connections, and leaves them to it: what is
    /// in flight here goes on as with [`Server::drain`]. Returns the id of the process. To be waited for once at a time;
    /// when that is given up, the new process is ended.
    ///
    /// # Errors
    /// When the process does not come to accept connections. Then everything goes on as before.
    pub async fn hand_over(&self, command: Command) -> Result<u32, HandOverError> {
        let sockets = self.copies().map_err(HandOverError::Start)?;
        let id = handover::start(command, sockets, &self.store).await?;
        lock(&self.sockets).clear();
        // Health is the new process's to tell.
        let admin = lock(&self.admin).take();
        if let Some(admin) = admin {
            admin.leave().await;
        }
        self.state.send_replace(State::HandedOver);
        Ok(id)
    }

    /// Opens every listening socket once more.
    fn copies(&self) -> Result<Vec<Listener>, IoError> {
        let admin = lock(&self.admin).as_ref().map(Admin::listener).transpose()?;
        lock(&self.sockets).iter().map(Listener::try_clone).chain(admin.map(Ok)).collect()
    }

    /// Stops accepting; what is in flight goes on until it ends, or until the drain deadline.
    pub fn drain(&self) {
        // Every socket before the first is closed: see `refuse_new`.
        for socket in lock(&self.sockets).drain(..) {
            socket.retire();
        }
        self.state.send_if_modified(|state| {
            let is_ready = *state == State::Ready;
            if is_ready {
                *state = State::Draining;
            }
            is_ready
        });
    }

    /// Returns the longest that [`Server::join`] takes after [`Server::drain`], if every worker moves.
    #[must_use]
    pub fn longest_drain(&self) -> Duration {
        self.snapshot().config.server.drain + SPARE
    }

    /// Waits for the workers to end after [`Server::drain`], and returns how many connections were cut off. Needs no
    /// further thread. A worker that does not end soon after the drain deadline is not waited for, and what a log does not
    /// take within two seconds is lost.
    pub async fn join(mut self) -> usize {
        let due = Instant::now() + self.snapshot().config.server.drain + FAREWELL;
        let mut cut = 0;
        for worker in std::mem::take(&mut self.workers) {
            cut += worker.join(due).await;
        }
        let admin = lock(&self.admin).take();
        if let Some(admin) = admin {
            admin.end().await;
        }
        if timeout(LAST_LINES, self.last_lines()).await.is_err() {
            tracing::warn!("a log is stuck, and its last lines are lost");
        }
        end_apart(self).await;
        cut
    }

    /// Waits until the lines are written that the workers have left, also in the logs of configurations before.
    async fn last_lines(&self) {
        let logs = self.snapshot().logs().clone();
        let (asked, closing) = (logs.request_flush(), logs.closing());
        let is_former = |former: &&ClosingLog| !closing.iter().any(|log| log.is(former));
        let former: Vec<_> = self.former_logs.iter().filter(is_former).collect();
        while !asked.iter().all(FlushRequest::is_done) || !former.iter().all(|former| former.is_over()) {
            sleep(LOOK).await;
        }
    }
}

/// Drops the rest of a server on a thread of its own, whose end is waited for, but not for long: the threads of state and
/// control may wait for a disk or a name server.
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

impl Hand {
    /// Waits for the end of a worker, and returns how many connections it cut off.
    async fn join(self, due: Instant) -> usize {
        let Ok(ended) = timeout_at(due, self.ended).await else {
            tracing::error!("a worker does not end, and is left behind");
            // At least what keeps it.
            return 1;
        };
        if self.thread.join().is_err() {
            tracing::error!("a worker panicked");
        }
        ended.unwrap_or_default()
    }
}

/// Opens the state file, which an old gate lets go of when it is asked.
fn open_store(path: &Path, inherited: &Inherited) -> Result<Store, OpenError> {
    match Store::open(path) {
        Err(OpenError::Locked(_)) if inherited.ask_for_state() => Store::open(path),
        opened => opened,
    }
}

/// Locks even after a panic elsewhere: what is inside is moved in and out whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cores() -> usize {
    available_parallelism().map_or(1, NonZeroUsize::get)
}

/// How long nothing is accepted when the system has no socket left.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How long a reload waits for the workers.
const TAKEN: Duration = Duration::from_secs(2);
/// How long a gate that ends goes on with what was under way toward it: connections that are being made, and requests
/// of clients that do not know yet.
const GRACE: Duration = Duration::from_secs(1);
/// How long the last lines of the logs may take, and the end of the other threads.
const LAST_LINES: Duration = Duration::from_secs(2);
/// How often it is looked whether they are written.
const LOOK: Duration = Duration::from_millis(5);
/// How long the end may take beyond `drain`: the goodbyes, the last lines, the last words on standard error.
const SPARE: Duration = Duration::from_secs(8);
/// How long a connection that is told to end may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(5);
