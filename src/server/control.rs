//! The control thread: the background work of a configuration, apart from any request. It fetches the keys of identity
//! providers and sweeps expired marks from the state.

use std::io;
use std::thread::JoinHandle;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::runtime_thread;

/// Background work that goes on for as long as a configuration is in use.
pub(super) type Chore = BoxFuture<'static, ()>;

/// The control thread. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct ControlThread {
    /// Carries one message for each reload; closing it ends the thread.
    chores: Option<mpsc::UnboundedSender<Vec<Chore>>>,
    thread: Option<JoinHandle<()>>,
}

impl ControlThread {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<Self> {
        let (chores, given) = mpsc::unbounded_channel();
        let thread = runtime_thread::start("callgate-control", move |runtime| runtime.block_on(work(given)))?;
        Ok(Self { chores: Some(chores), thread: Some(thread) })
    }

    /// Starts the chores of a configuration, and drops those of the one before.
    pub(super) fn replace_chores(&self, chores: Vec<Chore>) {
        if self.chores.as_ref().is_none_or(|control| control.send(chores).is_err()) {
            tracing::error!("the control thread is gone");
        }
    }
}

impl Drop for ControlThread {
    fn drop(&mut self) {
        drop(self.chores.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the control thread panicked");
        }
    }
}

async fn work(mut given: mpsc::UnboundedReceiver<Vec<Chore>>) {
    let mut chores = JoinSet::new();
    loop {
        tokio::select! {
            next = given.recv() => match next {
                Some(next) => chores = next.into_iter().collect(),
                None => return,
            },
            Some(ended) = chores.join_next() => if let Err(error) = ended {
                tracing::error!(%error, "a chore ended");
            },
        }
    }
}
