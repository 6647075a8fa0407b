//! One worker: a thread with a runtime, its sockets and its connections.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::registry::Registry;
use super::snapshot::Snapshot;
use super::{connection, redirect};
use crate::config::ServerTimeouts;
use crate::observe::metrics::{Metrics, Tally};
use crate::proxy::Proxy;

/// How long a worker waits when the system has no socket left for it.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How often idle upstream connections are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// What a worker is made of, before it has a thread.
pub(super) struct Parts {
    pub(super) live: Arc<Snapshot>,
    pub(super) renewals: mpsc::Receiver<Renewal>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) listeners: Vec<StdListener>,
    pub(super) redirect: Option<StdListener>,
    /// The port that `redirect` leads to.
    pub(super) port: u16,
    pub(super) drain: watch::Receiver<bool>,
}

/// What a worker shall go on with, and whom to tell when it does.
pub(super) struct Renewal {
    pub(super) live: Arc<Snapshot>,
    pub(super) done: oneshot::Sender<()>,
}

/// One worker, as its connections see it.
pub(super) struct Worker {
    pub(super) registry: Rc<Registry>,
    pub(super) tally: Tally,
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
        let tally = parts.metrics.tally();
        let live = RefCell::new(Live::new(parts.live, None, &tally));
        let worker = Rc::new(Self { registry: Rc::default(), tally, live, port: parts.port });
        let mut accepting = Vec::new();
        for listener in parts.listeners {
            accepting.push(tokio::task::spawn_local(accept(listener, Rc::clone(&worker), Self::welcome)));
        }
        if let Some(listener) = parts.redirect {
            accepting.push(tokio::task::spawn_local(accept(listener, Rc::clone(&worker), Self::send_on)));
        }
        let mut chores = JoinSet::new();
        chores.spawn_local(sweep(Rc::clone(&worker)));
        chores.spawn_local(renew(Rc::clone(&worker), parts.renewals));
        // An error means that the server is gone, which ends the day as well.
        let _ = parts.drain.wait_for(|drain| *drain).await;
        for task in accepting {
            task.abort();
        }
        worker.registry.close();
        let deadline = worker.live.borrow().snapshot.config.server.drain;
        drop(timeout(deadline, worker.registry.emptied()).await);
        worker.registry.count()
    }

    fn welcome(self: &Rc<Self>, stream: TcpStream, address: SocketAddr) {
        self.tally.accepted(true);
        tokio::task::spawn_local(connection::serve(stream, address, Rc::clone(self)));
    }

    fn send_on(self: &Rc<Self>, stream: TcpStream, address: SocketAddr) {
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
    fn new(snapshot: Arc<Snapshot>, before: Option<&Proxy>, tally: &Tally) -> Self {
        let proxy = snapshot.proxy(before, tally).expect("the server built the same one before");
        Self { snapshot, proxy: Rc::new(proxy) }
    }
}

/// Goes on with each new configuration. Exchanges in flight end with the one they began with.
async fn renew(worker: Rc<Worker>, mut renewals: mpsc::Receiver<Renewal>) {
    while let Some(Renewal { live, done }) = renewals.recv().await {
        let before = worker.proxy();
        let live = Live::new(live, Some(&before), &worker.tally);
        before.retire(&live.proxy);
        worker.live.replace(live);
        // Nobody waits for an answer that came too late.
        let _ = done.send(());
    }
}

/// Accepts connections for ever. One that fails is the stranger's; a system without sockets is waited for.
async fn accept(listener: StdListener, worker: Rc<Worker>, welcome: fn(&Rc<Worker>, TcpStream, SocketAddr)) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot accept"),
    };
    loop {
        match listener.accept().await {
            Ok((stream, address)) => welcome(&worker, stream, address),
            Err(error) => {
                worker.tally.accepted(false);
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
