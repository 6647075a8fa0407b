//! Floor 7: sockets, threads and the end of the day.
//!
//! One worker thread per core, each with its own listening sockets (`SO_REUSEPORT`) and upstream connections: a
//! connection lives and dies on one thread.

mod admin;
mod connection;
mod io;
mod listener;
mod pace;
mod redirect;
mod registry;
mod worker;

use std::io::Error as IoError;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::watch;

use self::admin::Admin;
use self::worker::{Parts, Worker};
use crate::config::{Config, Listen};
use crate::observe::Logs;
use crate::observe::metrics::{Metrics, Tally};
use crate::proxy::{Proxy, Shared};
use crate::tls;

/// A running gate.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    redirect: Option<SocketAddr>,
    drain: watch::Sender<bool>,
    workers: Vec<JoinHandle<usize>>,
    admin: Option<Admin>,
    logs: Logs,
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
        let config = Arc::new(config);
        let count = config.workers.map_or_else(cores, NonZeroUsize::get);
        let tls = tls::server::config(&config.certificates)?;
        let shared = Arc::new(Shared::new(&config)?);
        // Built once here, so that what cannot be built is said before a port is bound.
        drop(Proxy::new(Arc::clone(&config), Arc::clone(&shared), logs.clone(), Tally::default())?);
        let (drain, drained) = watch::channel(false);
        let metrics = Metrics::start(&config, &logs);
        watch_over(&metrics, &config, &shared, &drained);
        let mut sockets = listener::Sockets::bind(&config, count)?;
        let admin = config.admin.as_ref().map(bind_admin).transpose()?;
        let (addresses, redirect) = (sockets.addresses.clone(), sockets.redirect_address);
        let mut workers = Vec::with_capacity(count);
        for index in 0..count {
            let parts = Parts {
                config: Arc::clone(&config),
                shared: Arc::clone(&shared),
                tls: Arc::clone(&tls),
                logs: logs.clone(),
                metrics: Arc::clone(&metrics),
                listeners: sockets.take_worker(index),
                redirect: sockets.take_redirect(index),
                port: addresses.first().map_or(443, SocketAddr::port),
                drain: drained.clone(),
            };
            let thread = thread::Builder::new().name(format!("callgate-{index}"));
            workers.push(thread.spawn(move || Worker::run(parts)).map_err(StartError::Thread)?);
        }
        let admin = admin.map(|bound| Admin::start(bound, metrics, count)).transpose().map_err(StartError::Thread)?;
        Ok(Self { addresses, redirect, drain, workers, admin, logs })
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
        let cut = self.workers.into_iter().map(|worker| worker.join().unwrap_or_default()).sum();
        if let Some(admin) = self.admin {
            admin.end();
        }
        self.logs.flush();
        cut
    }
}

/// Lets health checks ask what only the server knows, and what all workers share.
fn watch_over(metrics: &Metrics, config: &Config, shared: &Shared, drained: &watch::Receiver<bool>) {
    let drained = drained.clone();
    metrics.health.watch("drain", move || if *drained.borrow() { Err("draining".to_owned()) } else { Ok(()) });
    shared.watch(config, &metrics.health);
}

fn bind_admin(listen: &Listen) -> Result<admin::Bound, StartError> {
    admin::Bound::bind(listen).map_err(|source| StartError::Admin { listen: listen.clone(), source })
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// How long a connection that is told to end may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(5);
