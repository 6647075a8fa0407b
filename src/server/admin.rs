//! The admin listener: plain HTTP, for programs on this machine. It reports health, metrics and status, and takes orders from
//! the operator.
//!
//! It has a thread of its own, so it answers while workers are busy, and to the end of a drain.

mod connections;
mod log_level;
mod order;
mod service;
mod sessions;
mod status;

use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use self::connections::AdminConnections;
use self::service::AdminService;
use super::ACCEPT_BACK_OFF;
use super::acceptor::Acceptor;
use super::listener::Listener;
use super::reload_orders::ReloadOrderSender;
use super::runtime_thread;
use super::sampler::Sampler;
use super::snapshot::Snapshot;
use super::succession::Predecessors;
use crate::config::Listen;
use crate::observe::heartbeat::Heartbeats;
use crate::observe::metrics::Metrics;
use crate::observe::trace;

/// The most connections at once. The next one replaces the one that has been open for longest.
pub(super) const MAX_CONNECTIONS: usize = 64;
/// How long the thread may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// The parts of the server that the admin listener reports on.
pub(super) struct AdminContext {
    pub(super) reloads: ReloadOrderSender,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) metrics: Arc<Metrics>,
    /// The counts of the last hour.
    pub(super) sampler: Arc<Sampler>,
    pub(super) heartbeats: Arc<Heartbeats>,
    pub(super) workers: usize,
    /// The old processes that keep tunnels.
    pub(super) predecessors: Arc<Predecessors>,
}

/// A running admin listener. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct AdminListener {
    listener: Listener,
    running: oneshot::Sender<Infallible>,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl AdminListener {
    /// Starts to answer, with at most `most` connections at once.
    ///
    /// # Errors
    /// When the socket cannot be copied, or no thread or runtime can be made.
    pub(super) fn start(listener: Listener, most: usize, context: AdminContext) -> io::Result<Self> {
        let (running, mut shall_end) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let socket = listener.try_clone()?;
        let thread = runtime_thread::start("callgate-admin", move |runtime| {
            let service = Rc::new(AdminService::new(context));
            // A proxy is not `Send`: one that `explain` builds stays on this thread.
            LocalSet::new().block_on(&runtime, async move {
                tokio::select! {
                    served = serve(socket, most, service) => {
                        let Err(error) = served;
                        tracing::error!(%error, "cannot answer at the admin listener");
                    }
                    never = trace::end_ordered_levels() => match never {},
                    _ = &mut shall_end => {}
                }
            });
            // The server may have given up waiting for the end.
            let _ = end.send(());
        })?;
        Ok(Self { listener, running, ended, thread })
    }

    pub(super) fn address(&self) -> Option<Listen> {
        self.listener.address()
    }

    /// Copies the listening socket.
    pub(super) fn listener(&self) -> io::Result<Listener> {
        self.listener.try_clone()
    }

    /// Ends, and removes the name of a unix socket.
    pub(super) async fn end(self) {
        self.listener.remove_name();
        self.leave().await;
    }

    /// Ends, and leaves the address to another process. A thread that does not end soon is left behind.
    pub(super) async fn leave(self) {
        drop(self.running);
        if timeout(END_TIMEOUT, self.ended).await.is_err() {
            tracing::error!("the admin listener does not end, and is left behind");
        } else if self.thread.join().is_err() {
            tracing::error!("the admin listener panicked");
        }
    }
}

async fn serve(listener: Listener, most: usize, service: Rc<AdminService>) -> io::Result<Infallible> {
    let acceptor = Acceptor::new(listener)?;
    let mut connections = AdminConnections::new(most);
    loop {
        match acceptor.accept().await {
            Ok((stream, _)) => connections.serve(|order| Rc::clone(&service).serve(stream, order)).await,
            Err(error) => {
                tracing::warn!(%error, "cannot accept at the admin listener for now");
                // If no descriptor is left, this releases one.
                connections.close_oldest();
                sleep(ACCEPT_BACK_OFF).await;
            }
        }
    }
}
