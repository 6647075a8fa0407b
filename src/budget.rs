//! What clients may hold of this machine: bytes that wait for a slow side, counted for each connection, each client and
//! the process.
//!
//! A connection's [`Ledger`] counts what is handed over and not yet taken. Beyond a share of the budget nothing more is
//! read for it than a small piece for each stream; beyond the next, nothing at all; and where that is not enough, the
//! worker closes the connections that hold much and move little ([`Ledger::shed`]).
//!
//! A ledger is changed on one thread only, so it counts without locked instructions. That it could be sent is hyper's wish.

mod clients;
mod flow;

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use self::clients::Clients;
pub use self::clients::{ClientUsage, ConnectionCounts};
pub use self::flow::{CountedBytes, Flow};

/// The bytes of one connection that go over it at full speed; beyond, each stream has one small piece under way.
const POOL: usize = 512 << 10;
/// That small piece, in bytes.
const LEAST: usize = 8 << 10;
/// What a piece costs besides its bytes.
const OVERHEAD: usize = 256;
/// A client that holds less than this part of the budget is a small one: it is the last that is restrained.
const SMALL: usize = 16;
/// A connection that holds less than this is a small one.
const MUCH: usize = 64 << 10;
/// How many wait for room on one connection: more than it has streams, with their uploads.
const MAX_STARVED: usize = 256;
/// A connection tells its client's count after so many bytes, a worker the process's.
const STEP: usize = 16 << 10;
const WORKER_STEP: usize = 64 << 10;
/// What a connection may send ahead of its uploads (HTTP/2), however many they are.
const MAX_AHEAD: usize = 1 << 20;

/// The bytes that all connections of the process may hold, and what their clients hold. Shared by all workers.
#[derive(Debug)]
pub struct Budget {
    limit: AtomicUsize,
    held: AtomicUsize,
    clients: Clients,
}

/// How much is in use of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Less than half.
    Low,
    /// Half or more: only small pieces are read for clients that hold much.
    High,
    /// Three quarters or more: nothing is read for them, and the slowest of their connections are closed.
    Tight,
    /// Seven eighths or more: small clients are restrained as well.
    Full,
}

impl Budget {
    /// Makes a budget of so many bytes.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: AtomicUsize::new(limit), held: AtomicUsize::new(0), clients: Clients::default() })
    }

    /// Changes how many bytes there may be.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Returns how many bytes there may be.
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
        pressure(self.held(), self.limit())
    }

    /// Returns the bytes to give up, when the slowest are to give some up.
    #[must_use]
    pub fn excess(&self) -> usize {
        self.held().saturating_sub(part(self.limit(), 5))
    }

    /// Returns the client that holds most, unless that is little.
    #[must_use]
    pub fn largest(&self) -> Option<ClientUsage> {
        self.clients.largest().filter(|client| client.held() >= self.limit() / SMALL)
    }

    /// Finds the counts of a client by its key: an address, or a network of one household.
    #[must_use]
    pub fn client(self: &Arc<Self>, key: IpAddr) -> ClientUsage {
        self.clients.find(self, key)
    }
}

/// So many eighths.
const fn part(limit: usize, eighths: usize) -> usize {
    limit / 8 * eighths
}

const fn pressure(held: usize, limit: usize) -> Pressure {
    match held {
        _ if held >= part(limit, 7) => Pressure::Full,
        _ if held >= part(limit, 6) => Pressure::Tight,
        _ if held >= part(limit, 4) => Pressure::High,
        _ => Pressure::Low,
    }
}

/// How much may be handed over next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    /// As much as there is.
    Plenty,
    /// A small piece, when none is under way.
    Least,
    /// Nothing.
    None,
}

/// What somebody holds, beside others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UsageClass {
    /// A client that holds little.
    SmallClient,
    /// A connection that holds little, of a client that holds much.
    SmallConnection,
    /// A connection that holds much, of a client that does.
    Large,
}

/// Decides how much may be handed over, by what the connection has under way, its part, and what the process holds.
const fn room(under_way: usize, whose: UsageClass, held: usize, limit: usize) -> Room {
    let (plenty, least) = match whose {
        UsageClass::SmallClient => (part(limit, 7), limit),
        UsageClass::SmallConnection => (part(limit, 6), part(limit, 7)),
        UsageClass::Large => (part(limit, 4), part(limit, 6)),
    };
    if held >= least {
        Room::None
    } else if held >= plenty || under_way >= POOL {
        Room::Least
    } else {
        Room::Plenty
    }
}

/// One worker's sum. It stays on its thread.
#[derive(Debug)]
pub struct WorkerBudget {
    budget: Arc<Budget>,
    held: LocalCount,
    /// How much of it the process knows.
    told: LocalCount,
    /// Something waits for room.
    starved: Notify,
}

impl WorkerBudget {
    /// Begins with nothing.
    #[must_use]
    pub fn new(budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { budget, held: LocalCount::default(), told: LocalCount::default(), starved: Notify::new() })
    }

    /// Returns the budget of the process.
    #[must_use]
    pub const fn process(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Opens the ledger of a connection. Without a client, only the process counts what it holds.
    #[must_use]
    pub fn open(self: &Arc<Self>, client: Option<ClientUsage>) -> Arc<Ledger> {
        Arc::new(Ledger {
            worker: Arc::clone(self),
            client,
            serving: ConnectionCounts::default(),
            held: LocalCount::default(),
            told: LocalCount::default(),
            under_way: LocalCount::default(),
            ahead: LocalCount::default(),
            moved: LocalCount::default(),
            measured: Mutex::default(),
            starved: Mutex::default(),
            is_shed: AtomicBool::new(false),
        })
    }

    /// Waits until something waits for room.
    pub async fn someone_waits(&self) {
        self.starved.notified().await;
    }

    fn change(&self, held: usize) {
        self.held.set(held);
        let told = self.told.get();
        if held.abs_diff(told) >= WORKER_STEP {
            change(&self.budget.held, told, held);
            self.told.set(held);
        }
    }
}

impl Drop for WorkerBudget {
    fn drop(&mut self) {
        change(&self.budget.held, self.told.get(), 0);
    }
}

/// Changes a count that others change as well by the difference of two.
fn change(count: &AtomicUsize, before: usize, after: usize) {
    if after >= before {
        count.fetch_add(after - before, Ordering::Relaxed);
    } else {
        count.fetch_sub(before - after, Ordering::Relaxed);
    }
}

/// A number that one thread changes.
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

/// Locks even after a panic elsewhere: what is inside is changed whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How fast a connection moved until some time, in bytes a second.
#[derive(Debug)]
struct SpeedSample {
    at: Instant,
    /// All that was taken until then.
    moved: usize,
    /// Unknown at the first look.
    speed: Option<usize>,
}

/// What one connection holds.
#[derive(Debug)]
pub struct Ledger {
    worker: Arc<WorkerBudget>,
    client: Option<ClientUsage>,
    serving: ConnectionCounts,
    held: LocalCount,
    /// How much of it the client's count knows.
    told: LocalCount,
    /// What of it is on its way to one of the sides.
    under_way: LocalCount,
    /// What the client may have sent ahead of what its uploads' upstreams take.
    ahead: LocalCount,
    /// What was taken so far.
    moved: LocalCount,
    /// How fast it moved lately.
    measured: Mutex<Option<SpeedSample>>,
    /// Those who wait for room.
    starved: Mutex<Vec<Waker>>,
    is_shed: AtomicBool,
}

/// The shortest time over which a speed is measured.
const SHORTEST: Duration = Duration::from_millis(500);
/// A connection that would be through with what it holds in less time is not slow.
const SLOW: usize = 5;

impl Ledger {
    /// Returns whose connection it is, where one client's are counted together.
    #[must_use]
    pub const fn client(&self) -> Option<&ClientUsage> {
        self.client.as_ref()
    }

    /// Returns how many connections to each upstream serve it.
    #[must_use]
    pub const fn serving(&self) -> &ConnectionCounts {
        &self.serving
    }

    /// Finds the counts of a client for whom something is done on this connection.
    #[must_use]
    pub fn client_at(&self, key: IpAddr) -> ClientUsage {
        match &self.client {
            Some(client) if client.key() == key => client.clone(),
            Some(_) | None => self.worker.budget.client(key),
        }
    }

    /// Returns the bytes that it holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// Counts bytes in the place of those counted `before`, and returns how many they are.
    pub fn replace(&self, before: usize, now: usize) -> usize {
        if before == now {
            return now;
        }
        let held = (self.held.get() + now).saturating_sub(before);
        self.held.set(held);
        if held.abs_diff(self.told.get()) >= STEP {
            self.tell();
        }
        let worker = &self.worker;
        worker.change((worker.held.get() + now).saturating_sub(before));
        now
    }

    /// Tells the client's count exactly.
    fn tell(&self) {
        let (told, held) = (self.told.replace(self.held.get()), self.held.get());
        if let Some(client) = &self.client {
            client.change(told, held);
        }
    }

    /// Counts what the client may send ahead of its uploads, in the place of what it might `before`.
    fn replace_ahead(&self, before: usize, now: usize) {
        let ahead = self.ahead.get();
        let next = (ahead + now).saturating_sub(before);
        self.ahead.set(next);
        self.replace(ahead.min(MAX_AHEAD), next.min(MAX_AHEAD));
    }

    fn room(&self) -> Room {
        let budget = &self.worker.budget;
        let limit = budget.limit();
        let part = match &self.client {
            Some(client) if client.held() >= limit / SMALL && self.held.get() >= MUCH => UsageClass::Large,
            Some(client) if client.held() >= limit / SMALL => UsageClass::SmallConnection,
            Some(_) | None => UsageClass::SmallClient,
        };
        room(self.under_way.get(), part, budget.held(), limit)
    }

    /// Tells how many bytes an answer that begins now may bring at once.
    #[must_use]
    pub fn most(&self) -> usize {
        match self.room() {
            Room::Plenty => usize::MAX,
            Room::Least | Room::None => LEAST,
        }
    }

    fn starve(&self, waker: &Waker) {
        let mut starved = lock(&self.starved);
        if !starved.iter().any(|known| known.will_wake(waker)) {
            starved.push(waker.clone());
        }
        if starved.len() > MAX_STARVED {
            // Most of them are gone; the others look again.
            starved.drain(..).for_each(Waker::wake);
        }
        self.worker.starved.notify_one();
    }

    /// Looks at how fast it moves, and lets those look again who wait for room. To be called now and then while the
    /// pressure is high.
    pub fn refresh(&self, now: Instant) {
        self.tell();
        self.measure(now);
        if !matches!(self.room(), Room::None) {
            std::mem::take(&mut *lock(&self.starved)).into_iter().for_each(Waker::wake);
        }
    }

    fn measure(&self, now: Instant) {
        let (moved, mut measured) = (self.moved.get(), lock(&self.measured));
        let speed = match &*measured {
            None => None,
            Some(before) if now - before.at < SHORTEST => return,
            Some(before) => Some((moved - before.moved) * 1000 / (now - before.at).as_millis().max(1) as usize),
        };
        *measured = Some(SpeedSample { at: now, moved, speed });
    }

    /// Returns in how many seconds it would be through with what it holds, if that is long.
    #[must_use]
    pub fn slowness(&self) -> Option<usize> {
        let speed = lock(&self.measured).as_ref()?.speed?;
        let seconds = self.held.get() / speed.max(1);
        (seconds >= SLOW && !self.is_shed()).then_some(seconds)
    }

    /// Lets the connection end, once its task is woken.
    pub fn shed(&self) {
        self.is_shed.store(true, Ordering::Relaxed);
    }

    /// Tells whether the connection shall end.
    #[must_use]
    pub fn is_shed(&self) -> bool {
        self.is_shed.load(Ordering::Relaxed)
    }

    /// Goes on with something until the connection shall end.
    pub async fn unless_shed<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| match self.is_shed() {
            true => Poll::Ready(None),
            false => future.as_mut().poll(cx).map(Some),
        })
        .await
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.replace(self.held.get(), 0);
        self.tell();
    }
}

#[cfg(test)]
mod tests;
