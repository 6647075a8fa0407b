//! Floor 7: sockets, threads and the end of the day.
//!
//! One worker thread per core, each with its own listening sockets (`SO_REUSEPORT`) and upstream connections: a
//! connection lives and dies on one thread.

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

pub use self::snapshot::ReloadError;
use self::snapshot::Snapshot;
use self::worker::{Parts, Renewal, Worker};
use crate::config::Config;
use crate::observe::Logs;

/// A running gate.
pub struct Server {
    addresses: Vec<SocketAddr>,
    redirect: Option<SocketAddr>,
    drain: watch::Sender<bool>,
    live: Arc<Snapshot>,
    workers: Vec<Hand>,
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
        let mut sockets = listener::Sockets::bind(&live.config, count)?;
        let (addresses, redirect) = (sockets.addresses.clone(), sockets.redirect_address);
        let mut workers = Vec::with_capacity(count);
        for index in 0..count {
            let (renewals, renewed) = mpsc::channel(1);
            let parts = Parts {
                live: Arc::clone(&live),
                renewals: renewed,
                listeners: sockets.take_worker(index),
                redirect: sockets.take_redirect(index),
                port: addresses.first().map_or(443, SocketAddr::port),
                drain: drained.clone(),
            };
            let thread = thread::Builder::new().name(format!("callgate-{index}"));
            let thread = thread.spawn(move || Worker::run(parts)).map_err(StartError::Thread)?;
            workers.push(Hand { thread, renewals });
        }
        Ok(Self { addresses, redirect, drain, live, workers })
    }

    /// Puts another configuration in the place of the running one, whole or not at all. When it returns, each request
    /// and each handshake that begins meets the new one; connections, tunnels and counts go on.
    ///
    /// # Errors
    /// When it says something that only a new process can do, or something in it cannot be used after all.
    pub async fn reload(&mut self, config: Config) -> Result<(), ReloadError> {
        self.live = Arc::new(self.live.successor(config)?);
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

    /// Stops accepting; what is in flight goes on until it ends, or until the drain deadline.
    pub fn drain(&self) {
        self.drain.send_replace(true);
    }

    /// Waits for the workers to end after [`Server::drain`], and returns how many connections were cut off.
    #[must_use]
    pub fn join(self) -> usize {
        let cut = self.workers.into_iter().map(|worker| worker.thread.join().unwrap_or_default()).sum();
        self.live.logs().flush();
        cut
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// How long a reload waits for one worker.
const TAKEN: Duration = Duration::from_secs(2);
/// How long a connection that is told to end may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(5);
