//! Bytes that wait in memory for a slow client or upstream, counted for each connection, each client and the process.
//!
//! A [`Ledger`] counts the bytes of one connection that were handed over and not yet taken. As the budget fills up,
//! callgate first reads only a small piece for each stream, then nothing; at last the worker closes the connections
//! that hold much and move little ([`Ledger::shed`]). A connection that moves much hands the thread on after each [`TURN`].
//!
//! Only one thread changes a ledger, so counting needs no locked instructions. It is `Send` because hyper requires that
//! of a body's data.

mod clients;
mod flow;
mod ledger;
mod room;
mod turn;

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use self::clients::Clients;
pub(crate) use self::clients::{ClientUsage, ConnectionCounts};
pub(crate) use self::flow::{CountedBytes, Flow};
pub(crate) use self::ledger::Ledger;
pub(crate) use self::room::Pressure;
use self::room::SMALL_CLIENT;
pub(crate) use self::turn::{TURN, end_turn};

/// The worker reports a change to the budget of the process once it is this large, in bytes.
const WORKER_STEP: usize = 64 << 10;

/// The bytes that all connections of the process may hold, and the bytes that each client holds. All workers share it.
#[derive(Debug)]
pub struct Budget {
    limit: AtomicUsize,
    held: AtomicUsize,
    clients: Clients,
}

impl Budget {
    /// Makes a budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: AtomicUsize::new(limit), held: AtomicUsize::new(0), clients: Clients::default() })
    }

    /// Changes the limit, in bytes.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Returns the limit, in bytes.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Returns how many bytes are held, to within 64 KiB for each worker.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Returns how much of the budget is in use.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        room::pressure(self.held(), self.limit())
    }

    /// Returns how many bytes the slowest connections must give up: those beyond five eighths of the budget.
    #[must_use]
    pub fn excess(&self) -> usize {
        self.held().saturating_sub(room::eighths(self.limit(), 5))
    }

    /// Returns the client that holds the most bytes, unless even that is a small client.
    #[must_use]
    pub fn largest(&self) -> Option<ClientUsage> {
        self.clients.largest().filter(|client| client.held() >= self.limit() / SMALL_CLIENT)
    }

    /// Finds the counts of a client by its key: an address, or the network of one household.
    #[must_use]
    pub fn client(self: &Arc<Self>, key: IpAddr) -> ClientUsage {
        self.clients.find(self, key)
    }
}

/// The bytes that the connections of one worker thread hold. It stays on that thread.
#[derive(Debug)]
pub(crate) struct WorkerBudget {
    budget: Arc<Budget>,
    held: LocalCount,
    /// The part of `held` that the budget of the process knows.
    reported: LocalCount,
    /// Wakes the worker when a flow waits for room.
    starved: Notify,
}

impl WorkerBudget {
    /// Makes the budget of a worker that holds nothing yet.
    #[must_use]
    pub(crate) fn new(budget: Arc<Budget>) -> Arc<Self> {
        let (held, reported) = Default::default();
        Arc::new(Self { budget, held, reported, starved: Notify::new() })
    }

    /// Returns the budget of the process.
    #[must_use]
    pub(crate) const fn process(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Opens the ledger of a connection. Without a client, its bytes count for the process alone.
    #[must_use]
    pub(crate) fn open(self: &Arc<Self>, client: Option<ClientUsage>) -> Arc<Ledger> {
        Arc::new(Ledger::new(Arc::clone(self), client))
    }

    /// Waits until a flow waits for room.
    pub(crate) async fn someone_waits(&self) {
        self.starved.notified().await;
    }

    fn set_held(&self, held: usize) {
        self.held.set(held);
        let reported = self.reported.get();
        if held.abs_diff(reported) >= WORKER_STEP {
            change(&self.budget.held, reported, held);
            self.reported.set(held);
        }
    }
}

impl Drop for WorkerBudget {
    fn drop(&mut self) {
        change(&self.budget.held, self.reported.get(), 0);
    }
}

/// Adds `after - before` to a count that several threads change.
fn change(count: &AtomicUsize, before: usize, after: usize) {
    if after >= before {
        count.fetch_add(after - before, Ordering::Relaxed);
    } else {
        count.fetch_sub(before - after, Ordering::Relaxed);
    }
}

/// A number that only one thread changes, so that a change needs no locked instruction.
#[derive(Debug, Default)]
struct LocalCount(AtomicUsize);

impl LocalCount {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, number: usize) {
        self.0.store(number, Ordering::Relaxed);
    }

    fn replace(&self, number: usize) -> usize {
        let before = self.get();
        self.set(number);
        before
    }
}

/// Locks a mutex even after a panic elsewhere: its content is only ever changed as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
