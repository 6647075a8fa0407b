//! Floor 7: sockets, threads and the end of the day.
//!
//! One worker thread per core, each with its own listening sockets (`SO_REUSEPORT`) and upstream connections: a
//! connection lives and dies on one thread.

mod admin;
mod connection;
mod guarded;
mod io;
mod listener;
mod pace;
mod proxy_protocol;
mod redirect;
mod registry;
mod snapshot;
mod worker;

use std::io::Error as IoError;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use self::admin::Admin;
pub use self::snapshot::ReloadError;
use self::snapshot::Snapshot;
use self::worker::{Parts, Renewal, Worker};
use crate::config::{Config, Listen};
use crate::observe::Logs;
use crate::observe::metrics::Metrics;

/// A running gate.
pub struct Server {
    addresses: Vec<SocketAddr>,
    redirect: Option<SocketAddr>,
    drain: watch::Sender<bool>,
    live: Arc<Snapshot>,
    workers: Vec<Hand>,
    metrics: Arc<Metrics>,
    admin: Option<Admin>,
}

/// One worker, as the server holds it.
struct Hand {
    thread: JoinHandle<usize>,
    renewals: mpsc::Sender<Renewal>,
}

/// Why the gate did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened at.
    #[error("cannot listen at {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: IoError,
    },
    /// The address of `[admin]` cannot be listened at.
    #[error("cannot listen at {listen}")]
    Admin {
        /// The address.
        listen: Listen,
        /// What the system said.
        #[source]
        source: IoError,
    },
    /// A certificate or a trust root cannot be used.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The app's path for whoami is none.
    #[error("whoami is not a path")]
    Whoami(#[from] http::uri::InvalidUri),
    /// A thread could not be started.
    #[error("cannot start a worker")]
    Thread(#[source] IoError),
}

impl Server {
    /// Binds all addresses and starts the workers. When it returns, connections are accepted.
    ///
    /// # Errors
    /// When an address cannot be bound, or something in the configuration cannot be used after all.
    pub fn start(config: Config, logs: Logs) -> Result<Self, StartError> {
        let count = config.workers.map_or_else(cores, NonZeroUsize::get);
        // Built first, so that what cannot be built is said before a port is bound.
        let live = Arc::new(Snapshot::new(config, logs)?);
        let (drain, drained) = watch::channel(false);
        let metrics = Metrics::start(&live.config, live.logs());
        let mut sockets = listener::Sockets::bind(&live.config, count)?;
        let admin = live.config.admin.as_ref().map(bind_admin).transpose()?;
        let (addresses, redirect) = (sockets.addresses.clone(), sockets.redirect_address);
        let mut workers = Vec::with_capacity(count);
        for index in 0..count {
            let (renewals, renewed) = mpsc::channel(1);
            let parts = Parts {
                live: Arc::clone(&live),
                renewals: renewed,
                metrics: Arc::clone(&metrics),
                listeners: sockets.take_worker(index),
                redirect: sockets.take_redirect(index),
                port: addresses.first().map_or(443, SocketAddr::port),
                drain: drained.clone(),
            };
            let thread = thread::Builder::new().name(format!("callgate-{index}"));
            let thread = thread.spawn(move || Worker::run(parts)).map_err(StartError::Thread)?;
            workers.push(Hand { thread, renewals });
        }
        let admin = admin.map(|bound| Admin::start(bound, Arc::clone(&metrics), count)).transpose();
        let admin = admin.map_err(StartError::Thread)?;
        let server = Self { addresses, redirect, drain, live, workers, metrics, admin };
        server.watch();
        Ok(server)
    }

    /// Puts another configuration in the place of the running one, whole or not at all. When it returns, each request
    /// and each handshake that begins meets the new one; connections, tunnels and counts go on.
    ///
    /// # Errors
    /// When it says something that only a new process can do, or something in it cannot be used after all.
    pub async fn reload(&mut self, config: Config) -> Result<(), ReloadError> {
        self.live = Arc::new(self.live.successor(config).inspect_err(|_| self.not_reloaded())?);
        self.metrics.reloaded(&self.live.config, self.live.logs());
        self.watch();
        for worker in &self.workers {
            let (done, is_done) = oneshot::channel();
            let renewal = Renewal { live: Arc::clone(&self.live), done };
            // A worker that waits for a disk takes it later, and signals are not kept waiting for that.
            let taken = async { worker.renewals.send(renewal).await.is_ok() && is_done.await.is_ok() };
            if timeout(TAKEN, taken).await.is_err() {
                tracing::warn!("a worker is busy, and takes the new configuration when it can");
            }
        }
        Ok(())
    }

    /// Counts a configuration that was read to take the place of the running one, and is wrong.
    pub fn not_reloaded(&self) {
        self.metrics.not_reloaded();
    }

    /// Lets health checks ask what runs now.
    fn watch(&self) {
        let (mut parts, drained) = (self.live.parts(), self.drain.subscribe());
        parts.add("drain", move || if *drained.borrow() { Err("draining".to_owned()) } else { Ok(()) });
        self.metrics.health.watch(parts);
    }

    /// Opens the log files again: they may have been moved away.
    pub fn reopen_logs(&self) {
        self.live.logs().reopen();
    }

    /// Returns the addresses that speak TLS, with the ports that were bound.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the address that redirects plain HTTP.
    #[must_use]
    pub const fn redirect_address(&self) -> Option<SocketAddr> {
        self.redirect
    }

    /// Returns where health and metrics are told, with the port that was bound.
    #[must_use]
    pub fn admin_address(&self) -> Option<&Listen> {
        self.admin.as_ref().map(|admin| &admin.listen)
    }

    /// Stops accepting; what is in flight goes on until it ends, or until the drain deadline.
    pub fn drain(&self) {
        self.drain.send_replace(true);
    }

    /// Waits for the workers to end after [`Server::drain`], and returns how many connections were cut off.
    #[must_use]
    pub fn join(self) -> usize {
        let cut = self.workers.into_iter().map(|worker| worker.thread.join().unwrap_or_default()).sum();
        if let Some(admin) = self.admin {
            admin.end();
        }
        self.live.logs().flush();
        cut
    }
}

fn bind_admin(listen: &Listen) -> Result<admin::Bound, StartError> {
    admin::Bound::bind(listen).map_err(|source| StartError::Admin { listen: listen.clone(), source })
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// How long a reload waits for one worker.
const TAKEN: Duration = Duration::from_secs(2);
/// How long a connection that is told to end may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(5);
