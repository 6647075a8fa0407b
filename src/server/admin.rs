//! The admin listener: health, metrics and state, told over plain HTTP to whoever is on this machine, and orders taken
//! from the operator.
//!
//! It has a thread of its own, so it answers while workers are busy, and to the end of a drain.

mod desk;
mod order;

use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

use self::desk::Desk;
use super::BACK_OFF;
use super::door::Door;
use super::listener::Listener;
use super::snapshot::Snapshot;
use crate::config::Listen;
use crate::observe::metrics::Metrics;

/// How many questions are answered at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;

/// What whoever answers at the admin listener knows of the gate.
pub(super) struct Known {
    pub(super) live: watch::Receiver<Arc<Snapshot>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) workers: usize,
}

/// A running admin listener. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Admin {
    listener: Listener,
    running: oneshot::Sender<Infallible>,
    thread: JoinHandle<()>,
}

impl Admin {
    /// Begins to answer.
    pub(super) fn start(listener: Listener, known: Known) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (running, mut ended) = oneshot::channel();
        let is_tcp = matches!(listener.address(), Some(Listen::Tcp(_)));
        let socket = listener.try_clone()?;
        let thread = thread::Builder::new().name("callgate-admin".to_owned()).spawn(move || {
            let desk = Rc::new(Desk::new(known, is_tcp));
            // What a worker judges with stays on its thread; what an order is judged with stays on this one.
            LocalSet::new().block_on(&runtime, async move {
                tokio::select! {
                    served = serve(socket, desk) => {
                        let Err(error) = served;
                        tracing::error!(%error, "cannot answer at the admin listener");
                    }
                    _ = &mut ended => {}
                }
            });
        })?;
        Ok(Self { listener, running, thread })
    }

    pub(super) fn address(&self) -> Option<Listen> {
        self.listener.address()
    }

    /// Opens the listening socket once more.
    pub(super) fn listener(&self) -> io::Result<Listener> {
        self.listener.try_clone()
    }

    /// Ends, and waits until the address is free.
    pub(super) fn end(self) {
        self.listener.remove_name();
        self.leave();
    }

    /// Ends, and leaves the address to another process.
    pub(super) fn leave(self) {
        drop(self.running);
        if self.thread.join().is_err() {
            tracing::error!("the admin listener panicked");
        }
    }
}

async fn serve(listener: Listener, desk: Rc<Desk>) -> io::Result<Infallible> {
    let door = Door::open(listener)?;
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await.expect("nobody closes the semaphore");
        match door.accept().await {
            Ok((stream, _)) => {
                let desk = Rc::clone(&desk);
                spawn_local(async move {
                    desk.serve(stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept for now");
                sleep(BACK_OFF).await;
            }
        }
    }
}
