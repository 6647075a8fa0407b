//! One worker: a thread with a runtime, its sockets and its connections.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::LocalOptions;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::io::Stream;
use super::listener::{Door, Listener};
use super::registry::Registry;
use super::snapshot::Snapshot;
use super::{GRACE, State, connection, redirect};
use crate::config::ServerTimeouts;
use crate::proxy::Proxy;

/// How long a worker waits when the system has no socket left for it.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How often idle upstream connections are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// What a worker is made of, before it has a thread.
pub(super) struct Parts {
    pub(super) live: watch::Receiver<Arc<Snapshot>>,
    /// Told of what the worker goes on with.
    pub(super) taken: watch::Sender<Arc<Snapshot>>,
    pub(super) listeners: Vec<Listener>,
    pub(super) redirect: Option<Listener>,
    /// The port that `redirect` leads to.
    pub(super) port: u16,
    pub(super) state: watch::Receiver<State>,
}

/// One worker, as its connections see it.
pub(super) struct Worker {
    pub(super) registry: Rc<Registry>,
    live: RefCell<Live>,
    /// The port that `redirect_http` leads to.
    pub(super) port: u16,
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
            Err(error) => {
                tracing::error!(%error, "a worker cannot start");
                0
            }
        }
    }

    async fn work(mut parts: Parts) -> usize {
        let snapshot = Arc::clone(&parts.live.borrow_and_update());
        let live = RefCell::new(Live::new(snapshot, None));
        let worker = Rc::new(Self { registry: Rc::default(), live, port: parts.port });
        let mut accepting = JoinSet::new();
        for listener in parts.listeners {
            accepting.spawn_local(accept(listener, Rc::clone(&worker), Self::welcome, parts.state.clone()));
        }
        if let Some(listener) = parts.redirect {
            accepting.spawn_local(accept(listener, Rc::clone(&worker), Self::send_on, parts.state.clone()));
        }
        let mut chores = JoinSet::new();
        chores.spawn_local(sweep(Rc::clone(&worker)));
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
        worker.registry.count()
    }

    fn welcome(self: &Rc<Self>, stream: Stream, address: SocketAddr) {
        tokio::task::spawn_local(connection::serve(stream, address, Rc::clone(self)));
    }

    fn send_on(self: &Rc<Self>, stream: Stream, address: SocketAddr) {
        tokio::task::spawn_local(redirect::serve(stream, address, Rc::clone(self)));
    }

    /// Returns what a new connection begins with.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.live.borrow().snapshot)
    }

    /// Returns the deadlines that a connection begins with, and keeps.
    pub(super) fn timeouts(&self) -> ServerTimeouts {
        self.live.borrow().snapshot.config.server.timeouts
    }

    /// Returns the certificates that the next handshake meets.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.live.borrow().snapshot.tls))
    }

    /// Returns the proxy that the next request meets.
    pub(super) fn proxy(&self) -> Rc<Proxy> {
        Rc::clone(&self.live.borrow().proxy)
    }
}

impl Live {
    fn new(snapshot: Arc<Snapshot>, before: Option<&Proxy>) -> Self {
        let proxy = snapshot.proxy(before).expect("the server built the same one before");
        Self { snapshot, proxy: Rc::new(proxy) }
    }
}

/// Goes on with each new configuration. Exchanges in flight end with the one they began with.
async fn renew(
    worker: Rc<Worker>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    taken: watch::Sender<Arc<Snapshot>>,
) {
    while snapshots.changed().await.is_ok() {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let before = worker.proxy();
        let live = Live::new(Arc::clone(&snapshot), Some(&before));
        before.retire(&live.proxy);
        worker.live.replace(live);
        taken.send_replace(snapshot);
    }
}

/// What is done with a connection.
type Welcome = fn(&Rc<Worker>, Stream, SocketAddr);

/// Accepts connections until the day ends.
async fn accept(listener: Listener, worker: Rc<Worker>, welcome: Welcome, mut state: watch::Receiver<State>) {
    let door = match listener.open() {
        Ok(door) => door,
        Err(error) => return tracing::error!(%error, "cannot accept"),
    };
    tokio::select! {
        () = accept_all(&door, &worker, welcome) => {}
        // An error means that the server is gone, which ends the day as well.
        _ = state.wait_for(|state| *state != State::Ready) => {}
    }
    // The queue stays, and those in it are served by the next process.
    if door.is_lent || *state.borrow() == State::HandedOver {
        return;
    }
    // Closing a socket resets what waits in its queue. So nobody new is let in, and those who are in are served first.
    if let Err(error) = door.shut() {
        tracing::debug!(%error, "connections are accepted until the end");
    }
    drop(timeout(GRACE, accept_all(&door, &worker, welcome)).await);
}

/// Accepts connections for ever. One that fails is the stranger's; a system without sockets is waited for.
async fn accept_all(door: &Door, worker: &Rc<Worker>, welcome: Welcome) {
    loop {
        match door.accept().await {
            Ok((stream, address)) => welcome(worker, stream, address),
            Err(error) => {
                tracing::warn!(%error, "cannot accept for now");
                sleep(BACK_OFF).await;
            }
        }
    }
}

async fn sweep(worker: Rc<Worker>) {
    let mut ticks = interval(SWEEP);
    loop {
        ticks.tick().await;
        worker.proxy().sweep();
    }
}
