//! One worker: a thread with a runtime, its sockets and its connections.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::registry::Registry;
use super::{connection, redirect};
use crate::config::{Config, ServerTimeouts};
use crate::observe::Logs;
use crate::observe::metrics::{Metrics, Tally};
use crate::proxy::{Proxy, Shared};

/// How long a worker waits when the system has no socket left for it.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How often idle upstream connections are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// What a worker is made of, before it has a thread.
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) shared: Arc<Shared>,
    pub(super) tls: Arc<ServerConfig>,
    pub(super) logs: Logs,
    pub(super) metrics: Arc<Metrics>,
    pub(super) listeners: Vec<StdListener>,
    pub(super) redirect: Option<StdListener>,
    /// The port that `redirect` leads to.
    pub(super) port: u16,
    pub(super) drain: watch::Receiver<bool>,
}

/// One worker, as its connections see it.
pub(super) struct Worker {
    pub(super) acceptor: TlsAcceptor,
    pub(super) registry: Rc<Registry>,
    pub(super) tally: Tally,
    config: Arc<Config>,
    port: u16,
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
        let proxy = Proxy::new(Arc::clone(&parts.config), parts.shared, parts.logs, tally.clone())
            .expect("the server built the same one before");
        let worker = Rc::new(Self {
            acceptor: TlsAcceptor::from(parts.tls),
            registry: Rc::default(),
            tally,
            config: parts.config,
            port: parts.port,
            proxy: Rc::new(proxy),
        });
        let mut accepting = Vec::new();
        for listener in parts.listeners {
            accepting.push(tokio::task::spawn_local(accept(listener, Rc::clone(&worker), Self::welcome)));
        }
        if let Some(listener) = parts.redirect {
            accepting.push(tokio::task::spawn_local(accept(listener, Rc::clone(&worker), Self::send_on)));
        }
        accepting.push(tokio::task::spawn_local(sweep(Rc::clone(&worker.proxy))));
        // An error means that the server is gone, which ends the day as well.
        let _ = parts.drain.wait_for(|drain| *drain).await;
        for task in accepting {
            task.abort();
        }
        worker.registry.close();
        drop(timeout(worker.config.server.drain, worker.registry.emptied()).await);
        worker.registry.count()
    }

    fn welcome(self: &Rc<Self>, stream: TcpStream, address: SocketAddr) {
        self.tally.accepted(true);
        tokio::task::spawn_local(connection::serve(stream, address, Rc::clone(self)));
    }

    fn send_on(self: &Rc<Self>, stream: TcpStream, _: SocketAddr) {
        tokio::task::spawn_local(redirect::serve(stream, self.port));
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

async fn sweep(proxy: Rc<Proxy>) {
    let mut ticks = interval(SWEEP);
    loop {
        ticks.tick().await;
        proxy.sweep();
    }
}
