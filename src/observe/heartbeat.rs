//! Heartbeats of the workers: each worker stamps the time once a second, and a check finds those that have not for too
//! long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long after its last stamp a worker counts as stuck.
pub const MAX_STILL: Duration = Duration::from_secs(10);
/// The stamp of a worker that has ended.
const ENDED: u64 = u64::MAX;

/// The last stamps of all workers.
#[derive(Debug)]
pub struct Heartbeats {
    started: Instant,
    /// When each worker last stamped, in milliseconds after the start.
    stamps: Box<[AtomicU64]>,
}

/// The heartbeat of one worker.
#[derive(Debug)]
pub struct Heartbeat {
    all: Arc<Heartbeats>,
    index: usize,
}

/// A worker that is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StuckWorker {
    /// The number in the name of its thread.
    pub worker: usize,
    /// The time since its last stamp.
    pub since: Duration,
}

impl Heartbeats {
    /// Starts the heartbeats of so many workers.
    #[must_use]
    pub fn start(workers: usize) -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), stamps: (0..workers).map(|_| AtomicU64::new(0)).collect() })
    }

    /// Returns the heartbeat of one worker.
    ///
    /// # Panics
    /// When there is no such worker.
    #[must_use]
    pub fn of(self: &Arc<Self>, worker: usize) -> Heartbeat {
        assert!(worker < self.stamps.len(), "the server starts as many workers as it has heartbeats");
        Heartbeat { all: Arc::clone(self), index: worker }
    }

    /// Returns the workers that are stuck.
    #[must_use]
    pub fn stuck(&self, now: Instant) -> Vec<StuckWorker> {
        let since = |stamp: u64| now.duration_since(self.started).saturating_sub(Duration::from_millis(stamp));
        let all = self.stamps.iter().map(|stamp| stamp.load(Ordering::Relaxed)).enumerate();
        let all =
            all.filter(|(_, stamp)| *stamp != ENDED).map(|(worker, stamp)| StuckWorker { worker, since: since(stamp) });
        all.filter(|stuck| stuck.since > MAX_STILL).collect()
    }
}

impl Heartbeat {
    /// Stamps the time.
    pub fn stamp(&self, now: Instant) {
        let millis = now.duration_since(self.all.started).as_millis() as u64;
        self.all.stamps[self.index].store(millis, Ordering::Relaxed);
    }

    /// Marks the worker as ended.
    pub fn end(&self) {
        self.all.stamps[self.index].store(ENDED, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_does_not_stamp_is_named_until_it_does() {
        let all = Heartbeats::start(3);
        let later = all.started + MAX_STILL + Duration::from_secs(2);
        assert_eq!(all.stuck(all.started + MAX_STILL), []);
        all.of(0).stamp(later);
        all.of(2).end();
        assert_eq!(all.stuck(later), [StuckWorker { worker: 1, since: MAX_STILL + Duration::from_secs(2) }]);
        all.of(1).stamp(later);
        assert_eq!(all.stuck(later), []);
        assert_eq!(all.stuck(later + Duration::from_secs(3600)).len(), 2);
    }
}
