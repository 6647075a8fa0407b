//! One worker: a thread with a runtime, its sockets and its connections.

use std::cell::Cell;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep, timeout};

use super::crowd::{Crowd, Place};
use super::registry::Registry;
use super::{connection, redirect};
use crate::config::{self, Config, ServerTimeouts};
use crate::observe::Logs;
use crate::proxy::{Proxy, Shared};
use crate::tls::server::Doors;

/// How long a worker waits when the system has no socket left for it.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How long it is not said again that there is no room.
const SILENCE: Duration = Duration::from_secs(60);
/// How often idle upstream connections are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// What a worker is made of, before it has a thread.
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) shared: Arc<Shared>,
    pub(super) doors: Arc<Doors>,
    pub(super) crowd: Arc<Crowd>,
    pub(super) logs: Logs,
    pub(super) listeners: Vec<StdListener>,
    pub(super) redirect: Option<StdListener>,
    /// The port that `redirect` leads to.
    pub(super) port: u16,
    pub(super) drain: watch::Receiver<bool>,
}

/// One worker, as its connections see it.
pub(super) struct Worker {
    pub(super) doors: Arc<Doors>,
    pub(super) crowd: Arc<Crowd>,
    pub(super) registry: Rc<Registry>,
    config: Arc<Config>,
    /// The port that `redirect_http` leads to.
    pub(super) port: u16,
    proxy: Rc<Proxy>,
    /// When it was last said that there is no room.
    full_since: Cell<Option<Instant>>,
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
        let proxy = Proxy::new(Arc::clone(&parts.config), parts.shared, parts.logs)
            .expect("the server built the same one before");
        let worker = Rc::new(Self {
            doors: parts.doors,
            crowd: parts.crowd,
            registry: Rc::default(),
            config: parts.config,
            port: parts.port,
            proxy: Rc::new(proxy),
            full_since: Cell::default(),
        });
        let mut accepting = Vec::new();
        for listener in parts.listeners {
            accepting.push(tokio::task::spawn_local(accept(listener, Rc::clone(&worker), Self::welcome)));
        }
        if let Some(listener) = parts.redirect {
            accepting.push(tokio::task::spawn_local(accept(listener, Rc::clone(&worker), Self::send_on)));
        }
        accepting.push(tokio::task::spawn_local(sweep(Rc::clone(&worker))));
        // An error means that the server is gone, which ends the day as well.
        let _ = parts.drain.wait_for(|drain| *drain).await;
        for task in accepting {
            task.abort();
        }
        worker.registry.close();
        drop(timeout(worker.config.server.drain, worker.registry.emptied()).await);
        worker.registry.count()
    }

    fn welcome(self: &Rc<Self>, stream: TcpStream, address: SocketAddr, place: Place) {
        tokio::task::spawn_local(connection::serve(stream, address, place, Rc::clone(self)));
    }

    fn send_on(self: &Rc<Self>, stream: TcpStream, address: SocketAddr, place: Place) {
        tokio::task::spawn_local(redirect::serve(stream, address, place, Rc::clone(self)));
    }

    /// Waits for room for one more connection; what rests longest makes it.
    async fn place(&self) -> Place {
        let most = self.settings().max_connections;
        if let Some(place) = self.crowd.enter(most) {
            return place;
        }
        self.tell_full();
        self.registry.make_room();
        self.crowd.wait(most).await
    }

    /// Says that there is no room, but not for every connection anew.
    fn tell_full(&self) {
        let now = Instant::now();
        if self.full_since.get().is_none_or(|told| now - told > SILENCE) {
            self.full_since.set(Some(now));
            tracing::warn!("as many connections are open as `max_connections` permits");
        }
    }

    /// Returns `[server]`.
    pub(super) fn settings(&self) -> &config::Server {
        &self.config.server
    }

    pub(super) fn timeouts(&self) -> ServerTimeouts {
        self.config.server.timeouts
    }

    /// Returns the proxy that the next request meets.
    pub(super) fn proxy(&self) -> Rc<Proxy> {
        Rc::clone(&self.proxy)
    }
}

/// Accepts connections for ever. One that fails is the stranger's; a system without sockets is waited for.
async fn accept(listener: StdListener, worker: Rc<Worker>, welcome: fn(&Rc<Worker>, TcpStream, SocketAddr, Place)) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot accept"),
    };
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let place = worker.place().await;
                welcome(&worker, stream, address, place);
            }
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
        worker.proxy.sweep();
        if worker.crowd.is_wanted() {
            worker.registry.make_room();
        }
    }
}
