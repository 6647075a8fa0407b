//! One worker: a thread with a runtime, its sockets and its connections.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::runtime::LocalOptions;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

use super::acceptor::Door;
use super::admission::{Crowd, Place};
use super::client_io::Stream;
use super::listener::Listener;
use super::redirect::HttpsPort;
use super::registry::Registry;
use super::snapshot::Snapshot;
use super::{BACK_OFF, GRACE, State, connection, redirect};
use crate::budget::{Budget, Pressure, WorkerBudget};
use crate::observe::heartbeat::Heartbeat;
use crate::observe::metrics::{Metrics, Tally};
use crate::proxy::Proxy;

/// How long nobody must come until a queue is believed to be empty.
const QUIET: Duration = Duration::from_millis(20);
/// How often idle upstream connections are looked through, and the worker says that it moves.
const SWEEP: Duration = Duration::from_secs(1);
/// How often it is looked, while much waits in buffers, who is slow.
const RELIEF: Duration = Duration::from_millis(50);

/// What a worker is made of, before it has a thread.
pub(super) struct Parts {
    pub(super) live: watch::Receiver<Arc<Snapshot>>,
    /// Told of what the worker goes on with.
    pub(super) taken: watch::Sender<Arc<Snapshot>>,
    pub(super) crowd: Arc<Crowd>,
    pub(super) budget: Arc<Budget>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) heartbeat: Heartbeat,
    pub(super) listeners: Vec<Listener>,
    pub(super) redirect: Option<Listener>,
    /// Where `redirect_http` leads to.
    pub(super) https: HttpsPort,
    pub(super) state: watch::Receiver<State>,
    /// Told once that connections are accepted, or why they cannot be.
    pub(super) started: mpsc::Sender<io::Result<()>>,
}

/// One worker, as its connections see it.
pub(super) struct Worker {
    pub(super) crowd: Arc<Crowd>,
    /// What waits in the buffers of this worker's connections.
    pub(super) budget: Arc<WorkerBudget>,
    pub(super) registry: Rc<Registry>,
    /// The connections that are only sent on to HTTPS. A drain does not wait for them.
    pub(super) plain: Rc<Registry>,
    pub(super) tally: Tally,
    live: RefCell<Live>,
    /// Where `redirect_http` leads to.
    pub(super) https: HttpsPort,
}

/// What the next handshake and the next request meet.
struct Live {
    snapshot: Arc<Snapshot>,
    proxy: Rc<Proxy>,
}

impl Worker {
    /// Runs on this thread until drained; returns how many connections were cut off.
    pub(super) fn run(parts: Parts) -> usize {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        match runtime {
            Ok(runtime) => runtime.block_on(Self::work(parts)),
            Err(error) => not_started(&parts.started, error),
        }
    }

    async fn work(mut parts: Parts) -> usize {
        let doors = parts.listeners.drain(..).map(Door::open).collect::<io::Result<Vec<_>>>();
        let redirect = parts.redirect.take().map(Door::open).transpose();
        let (doors, redirect) = match (doors, redirect) {
            (Ok(doors), Ok(redirect)) => (doors, redirect),
            (Err(error), _) | (_, Err(error)) => return not_started(&parts.started, error),
        };
        let snapshot = Arc::clone(&parts.live.borrow_and_update());
        let tally = parts.metrics.tally();
        let worker = Rc::new(Self {
            crowd: parts.crowd,
            budget: WorkerBudget::new(parts.budget),
            registry: Rc::default(),
            plain: Rc::default(),
            live: RefCell::new(Live::new(snapshot, None, &tally)),
            tally,
            https: parts.https,
        });
        let mut accepting = JoinSet::new();
        for door in doors {
            accepting.spawn_local(accept(door, Rc::clone(&worker), Self::welcome, parts.state.clone()));
        }
        if let Some(door) = redirect {
            accepting.spawn_local(accept(door, Rc::clone(&worker), Self::send_on, parts.state.clone()));
        }
        // An error means that the server is gone, which is noticed below.
        let _ = parts.started.send(Ok(()));
        let heartbeat = Rc::new(parts.heartbeat);
        let mut chores = JoinSet::new();
        chores.spawn_local(sweep(Rc::clone(&worker), Rc::clone(&heartbeat)));
        chores.spawn_local(relieve(Rc::clone(&worker)));
        chores.spawn_local(renew(Rc::clone(&worker), parts.live, parts.taken));
        // An error means that the server is gone, which ends the day as well.
        let _ = parts.state.wait_for(|state| *state != State::Ready).await;
        worker.registry.close();
        let deadline = worker.live.borrow().snapshot.config.server.drain;
        let ended = async {
            while accepting.join_next().await.is_some() {}
            worker.registry.emptied().await;
        };
        drop(timeout(deadline, ended).await);
        worker.registry.cut();
        heartbeat.end();
        worker.registry.count()
    }

    fn welcome(self: &Rc<Self>, stream: Stream, address: SocketAddr, place: Place) {
        self.tally.accepted(true);
        tokio::task::spawn_local(connection::serve(stream, address, place, Rc::clone(self)));
    }

    fn send_on(self: &Rc<Self>, stream: Stream, address: SocketAddr, place: Place) {
        tokio::task::spawn_local(redirect::serve(stream, address, place, Rc::clone(self)));
    }

    /// Waits for room for one more connection; what rests longest makes it.
    async fn place(&self) -> Place {
        let most = self.snapshot().config.server.max_connections;
        if let Some(place) = self.crowd.enter(most) {
            return place;
        }
        self.tell_full();
        self.make_room();
        self.crowd.wait(most).await
    }

    /// Lets what rests longest make room. What is only sent on to HTTPS goes first.
    fn make_room(&self) {
        if !self.plain.make_room() {
            self.registry.make_room();
        }
    }

    /// Says that there is no room, but not for every connection anew.
    fn tell_full(&self) {
        if self.crowd.told.full.is_due() {
            tracing::warn!("as many connections are open as `max_connections` permits");
        }
    }

    /// Makes do with what the system has: a descriptor that is given back is as good as a new one.
    fn run_short(&self, error: &io::Error) {
        self.make_room();
        if self.crowd.told.short.is_due() {
            tracing::warn!(%error, "cannot accept for now");
        }
    }

    /// Closes the slowest connections while too much waits in buffers: of the client that holds most; of all, when many
    /// clients hold little.
    fn relieve(&self) {
        let budget = self.budget.process();
        let pressure = budget.pressure();
        self.registry.look(Instant::now());
        if pressure < Pressure::Tight {
            return;
        }
        let largest = budget.largest();
        if largest.is_none() && pressure < Pressure::Full {
            return;
        }
        let connections = self.registry.shed(largest.as_ref(), budget.excess());
        self.tally.shed(connections);
        if connections > 0 && self.crowd.told.slow.is_due() {
            tracing::warn!(connections, "slow connections are closed: `buffer_budget` is used up");
        }
    }

    /// Returns what a new connection begins with.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.live.borrow().snapshot)
    }

    /// Returns the proxy that the next request meets.
    pub(super) fn proxy(&self) -> Rc<Proxy> {
        Rc::clone(&self.live.borrow().proxy)
    }
}

impl Live {
    fn new(snapshot: Arc<Snapshot>, before: Option<&Proxy>, tally: &Tally) -> Self {
        let proxy = snapshot.proxy(before, tally).expect("the server built the same one before");
        Self { snapshot, proxy: Rc::new(proxy) }
    }
}

/// Goes on with each new configuration. Exchanges in flight end with the one they began with.
async fn renew(worker: Rc<Worker>, mut snapshots: watch::Receiver<Arc<Snapshot>>, taken: watch::Sender<Arc<Snapshot>>) {
    while snapshots.changed().await.is_ok() {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let before = worker.proxy();
        let live = Live::new(Arc::clone(&snapshot), Some(&before), &worker.tally);
        before.retire(&live.proxy);
        worker.live.replace(live);
        taken.send_replace(snapshot);
    }
}

/// What is done with a connection.
type Welcome = fn(&Rc<Worker>, Stream, SocketAddr, Place);

/// Accepts connections until the server drains, and then those who are in the queue.
async fn accept(door: Door, worker: Rc<Worker>, welcome: Welcome, mut state: watch::Receiver<State>) {
    // An error means that the server is gone, which ends this as well.
    let ended = async { drop(state.wait_for(|state| *state != State::Ready).await) };
    accept_until(ended, &door, &worker, welcome).await;
    // The queue stays, and those in it are served by the next process.
    if door.is_lent || *state.borrow() == State::HandedOver {
        return;
    }
    // Closing a socket resets what waits in its queue. So the server has let nobody new in at any socket, and those who
    // are in, or whose handshake is under way, are served first.
    accept_until(sleep(GRACE), &door, &worker, welcome).await;
    drop(timeout(GRACE, empty(&door, &worker, welcome)).await);
}

/// Accepts who is left in a queue, until nobody comes for a moment.
async fn empty(door: &Door, worker: &Rc<Worker>, welcome: Welcome) {
    while let Ok(Ok((stream, address))) = timeout(QUIET, door.accept()).await {
        let place = worker.place().await;
        welcome(worker, stream, address, place);
    }
}

/// Tells why a worker accepts no connections.
fn not_started(started: &mpsc::Sender<io::Result<()>>, error: io::Error) -> usize {
    // The server waits for this.
    let _ = started.send(Err(error));
    0
}

/// Accepts connections. One that fails is the stranger's; a system without sockets is waited for. Who is accepted waits
/// for a place, also beyond the end.
async fn accept_until(end: impl Future<Output = ()>, door: &Door, worker: &Rc<Worker>, welcome: Welcome) {
    let mut end = pin!(end);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut end => return,
            accepted = door.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let place = worker.place().await;
                welcome(worker, stream, address, place);
            }
            Err(error) => {
                worker.tally.accepted(false);
                worker.run_short(&error);
                sleep(BACK_OFF).await;
            }
        }
    }
}

async fn sweep(worker: Rc<Worker>, heartbeat: Rc<Heartbeat>) {
    let mut ticks = interval(SWEEP);
    loop {
        ticks.tick().await;
        heartbeat.stamp(Instant::now());
        worker.proxy().sweep();
        if worker.crowd.is_wanted() {
            worker.make_room();
        }
    }
}

/// Closes the connections that hold much and move little, for as long as too much waits in buffers, and lets the others go
/// on as there is room.
async fn relieve(worker: Rc<Worker>) {
    loop {
        let is_low = worker.budget.process().pressure() == Pressure::Low;
        let is_wanted = tokio::select! {
            () = sleep(if is_low { SWEEP } else { RELIEF }) => !is_low,
            () = worker.budget.someone_waits(), if is_low => true,
        };
        if is_wanted || worker.budget.process().pressure() > Pressure::Low {
            worker.relieve();
        }
    }
}
