//! How many connections an upstream may have, of all workers together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::{Instant, timeout_at};

/// How many exchanges wait for a connection at most. The next one is told at once that there is none.
const MAX_WAITING: usize = 1024;

/// The connections that may be, and those who wait for one in the order they came.
#[derive(Debug)]
pub(super) struct Slots {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// The right to one connection, given back when it is dropped.
pub(super) type Slot = OwnedSemaphorePermit;

impl Slots {
    pub(super) fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), waiting: AtomicUsize::new(0) }
    }

    /// Takes a slot, or waits for one.
    pub(super) async fn take(&self, due: Instant) -> Option<Slot> {
        match Arc::clone(&self.free).try_acquire_owned() {
            Ok(slot) => return Some(slot),
            Err(TryAcquireError::NoPermits) => {}
            Err(TryAcquireError::Closed) => return None,
        }
        let _place = self.line_up()?;
        timeout_at(due, Arc::clone(&self.free).acquire_owned()).await.ok()?.ok()
    }

    /// Returns how many wait: each of them needs a connection to end.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn line_up(&self) -> Option<Place<'_>> {
        // The place first: whoever is told that there is none gives it back by dropping it.
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Place(&self.waiting);
        (before < MAX_WAITING).then_some(place)
    }
}

/// A place in the line.
struct Place<'s>(&'s AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_gets_the_slot_that_is_given_back_or_gives_up() {
        let slots = Slots::new(1);
        let slot = slots.take(soon()).await.unwrap();
        assert!(slots.take(soon()).await.is_none());
        assert_eq!(slots.waiting(), 0);
        let (got, ()) = tokio::join!(slots.take(soon()), async {
            assert_eq!(slots.waiting(), 1);
            drop(slot);
        });
        assert!(got.is_some());
        assert_eq!(slots.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_line_is_bounded() {
        let slots = Slots::new(1);
        let _slot = slots.take(soon()).await.unwrap();
        let line: Vec<_> = (0..MAX_WAITING).map(|_| slots.line_up().unwrap()).collect();
        let asked = Instant::now();
        assert!(slots.take(soon()).await.is_none());
        assert_eq!((asked.elapsed(), slots.waiting()), (Duration::ZERO, MAX_WAITING));
        drop(line);
        assert_eq!(slots.waiting(), 0);
    }
}
