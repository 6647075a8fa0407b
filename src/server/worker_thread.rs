//! The thread of one worker: a runtime that accepts connections, and the chores beside them.

use std::io::{self, Error as IoError};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::runtime::LocalOptions;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout, timeout_at};

use super::ServerState;
use super::accept::{self, accept};
use super::acceptor::Acceptor;
use super::admission::ConnectionLimits;
use super::listener::Listener;
use super::snapshot::Snapshot;
use super::worker::{HttpsPort, Worker};
use crate::budget::{Budget, Pressure};
use crate::observe::heartbeat::Heartbeat;
use crate::observe::metrics::Metrics;

/// How often idle upstream connections are swept, and the heartbeat is stamped.
const SWEEP: Duration = Duration::from_secs(1);
/// How often idle connections are looked for, to let them rest.
const REST_INTERVAL: Duration = Duration::from_millis(250);
/// How many exchanges begin in such a time at most while a worker is not busy.
const BUSY: u64 = 250;
/// How many of them rest at once, and the pause before more do: other connections get their turns, and the allocator gives back the
/// memory of those before.
const REST_AT_ONCE: usize = 512;
const REST_PAUSE: Duration = Duration::from_millis(20);
/// How often slow connections are looked for while `buffer_budget` is short.
const SHED_INTERVAL: Duration = Duration::from_millis(50);

/// What all workers share.
#[derive(Clone)]
pub(super) struct WorkerContext {
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) state: watch::Receiver<ServerState>,
    pub(super) limits: Arc<ConnectionLimits>,
    pub(super) budget: Arc<Budget>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) https_port: HttpsPort,
}

/// What belongs to one worker.
pub(super) struct WorkerParts {
    pub(super) index: usize,
    pub(super) heartbeat: Heartbeat,
    pub(super) listeners: Vec<Listener>,
    /// The socket of `redirect_http`, which one worker has.
    pub(super) redirect: Option<Listener>,
}

/// A running worker, as the server holds it.
pub(super) struct WorkerHandle {
    thread: JoinHandle<()>,
    /// How many connections the worker aborted, once it has ended.
    ended: oneshot::Receiver<usize>,
    /// The snapshot that the worker serves.
    served: watch::Receiver<Arc<Snapshot>>,
}

impl WorkerHandle {
    /// Starts a worker. When it returns, connections are accepted.
    ///
    /// # Errors
    /// When no thread or no runtime can be made, or a socket cannot be used.
    pub(super) fn start(context: WorkerContext, parts: WorkerParts) -> io::Result<Self> {
        let (served, is_served) = watch::channel(Arc::clone(&context.snapshots.borrow()));
        let (started, has_started) = mpsc::channel();
        let (end, ended) = oneshot::channel();
        let thread = Builder::new().name(format!("callgate-{}", parts.index));
        let thread = thread.spawn(move || {
            // The server may have given up waiting for the end.
            let _ = end.send(run(context, parts, served, &started));
        })?;
        has_started.recv().unwrap_or_else(|_| Err(IoError::other("it panicked")))?;
        Ok(Self { thread, ended, served: is_served })
    }

    /// Waits until the worker serves a snapshot.
    pub(super) async fn wait_for(&mut self, snapshot: &Arc<Snapshot>) {
        // An error means that the thread is gone, which a reload does not mend.
        let _ = self.served.wait_for(|served| Arc::ptr_eq(served, snapshot)).await;
    }

    /// Waits until the worker serves nothing any more.
    pub(super) async fn wait_for_end(&mut self) {
        while self.served.changed().await.is_ok() {}
    }

    /// Waits for the end of the worker, and returns how many connections it aborted. A worker that has not ended when `due`
    /// is reached is left behind, and counts as one connection.
    pub(super) async fn join(self, due: Instant) -> usize {
        let Ok(ended) = timeout_at(due, self.ended).await else {
            tracing::error!("a worker does not end, and is left behind");
            return 1;
        };
        if self.thread.join().is_err() {
            tracing::error!("a worker panicked");
        }
        ended.unwrap_or_default()
    }
}

/// Tells the server once that connections are accepted, or why they are not.
type Started = mpsc::Sender<io::Result<()>>;

/// Runs a worker on this thread until it is drained. Returns how many connections it aborted.
fn run(context: WorkerContext, parts: WorkerParts, served: watch::Sender<Arc<Snapshot>>, started: &Started) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let run = runtime.and_then(|runtime| runtime.block_on(work(context, parts, served, started)));
    run.unwrap_or_else(|error| {
        // The server waits for this.
        let _ = started.send(Err(error));
        0
    })
}

/// Works until the server drains.
///
/// # Errors
/// When a listening socket cannot be used.
async fn work(
    mut context: WorkerContext,
    parts: WorkerParts,
    served: watch::Sender<Arc<Snapshot>>,
    started: &Started,
) -> io::Result<usize> {
    let acceptors = parts.listeners.into_iter().map(Acceptor::new).collect::<io::Result<Vec<_>>>()?;
    let redirect = parts.redirect.map(Acceptor::new).transpose()?;
    let snapshot = Arc::clone(&context.snapshots.borrow_and_update());
    let tally = context.metrics.tally();
    let worker = Worker::new(snapshot, context.limits, context.budget, tally, context.https_port);
    let mut accepting = JoinSet::new();
    for acceptor in acceptors {
        accepting.spawn_local(accept(acceptor, Rc::clone(&worker), accept::serve_tls, context.state.clone()));
    }
    if let Some(acceptor) = redirect {
        accepting.spawn_local(accept(acceptor, Rc::clone(&worker), accept::serve_redirect, context.state.clone()));
    }
    // An error means that the server is gone, which is noticed below.
    let _ = started.send(Ok(()));
    let heartbeat = Rc::new(parts.heartbeat);
    let mut chores = JoinSet::new();
    chores.spawn_local(sweep(Rc::clone(&worker), Rc::clone(&heartbeat)));
    chores.spawn_local(shed(Rc::clone(&worker)));
    chores.spawn_local(rest(Rc::clone(&worker)));
    chores.spawn_local(follow(Rc::clone(&worker), context.snapshots, served));
    // An error means that the server is gone, which ends the worker as well.
    let _ = context.state.wait_for(|state| *state != ServerState::Ready).await;
    let aborted = drain(&worker, accepting, context.state).await;
    heartbeat.end();
    Ok(aborted)
}

/// Waits until the last connection has ended, or the drain deadline passes. After a hand-over, tunnels have a deadline of
/// their own. Returns how many connections were aborted.
async fn drain(worker: &Worker, mut accepting: JoinSet<()>, mut state: watch::Receiver<ServerState>) -> usize {
    worker.registry.close();
    let ended = async {
        while accepting.join_next().await.is_some() {}
        worker.registry.emptied().await;
    };
    let mut ended = pin!(ended);
    let mut aborted = 0;
    if *state.borrow() == ServerState::HandedOver {
        // An error means that the server is gone, which ends the tunnels as well.
        let stopped = async { drop(state.wait_for(|state| *state == ServerState::Draining).await) };
        let lasted = keep_tunnels(worker, ended.as_mut(), &mut aborted);
        tokio::select! {
            () = lasted => {
                worker.registry.abort();
                return aborted + worker.registry.count();
            }
            () = stopped => {}
        }
    }
    drop(timeout(worker.snapshot().config.server.drain, ended).await);
    worker.registry.abort();
    aborted + worker.registry.count()
}

/// Waits until the last connection has ended; at the drain deadline, ends every exchange that is no tunnel; waits until the
/// last tunnel has ended, or the deadline of tunnels passes. Counts the connections with an exchange that was ended.
async fn keep_tunnels(worker: &Worker, mut ended: Pin<&mut impl Future<Output = ()>>, aborted: &mut usize) {
    let since = Instant::now();
    let (drain, drain_tunnels) = {
        let server = &worker.snapshot().config.server;
        (server.drain, server.drain_tunnels)
    };
    if timeout_at(since + drain, ended.as_mut()).await.is_err() {
        *aborted = worker.registry.keep_tunnels();
        drop(timeout_at(since + drain_tunnels, ended).await);
    }
}

// === Chores ===

/// Takes over each new configuration, and records which one is served.
async fn follow(
    worker: Rc<Worker>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    served: watch::Sender<Arc<Snapshot>>,
) {
    while snapshots.changed().await.is_ok() {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        worker.replace(Arc::clone(&snapshot));
        served.send_replace(snapshot);
    }
}

/// Stamps the heartbeat, closes idle upstream connections, and evicts for connections that wait.
async fn sweep(worker: Rc<Worker>, heartbeat: Rc<Heartbeat>) {
    let mut ticks = interval(SWEEP);
    loop {
        ticks.tick().await;
        heartbeat.stamp(Instant::now());
        worker.proxy().sweep();
        worker.evict_for_waiting();
    }
}

/// Lets connections rest that are idle: soon while there are few exchanges that would wake them, and a part of them at a time.
async fn rest(worker: Rc<Worker>) {
    let mut ticks = interval(REST_INTERVAL);
    loop {
        ticks.tick().await;
        let is_busy = worker.registry.count_begun() > BUSY;
        while worker.registry.rest(Instant::now(), is_busy, REST_AT_ONCE) == REST_AT_ONCE {
            sleep(REST_PAUSE).await;
        }
    }
}

/// Closes slow connections for as long as `buffer_budget` is short, and lets the others go on as there is room.
async fn shed(worker: Rc<Worker>) {
    loop {
        let is_low = worker.budget.process().pressure() == Pressure::Low;
        let is_wanted = tokio::select! {
            () = sleep(if is_low { SWEEP } else { SHED_INTERVAL }) => !is_low,
            () = worker.budget.someone_waits(), if is_low => true,
        };
        if is_wanted || worker.budget.process().pressure() > Pressure::Low {
            worker.shed_slowest();
        }
    }
}
