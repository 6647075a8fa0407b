//! The health of one endpoint: whether new connections go to it. All workers share it; the time is an argument.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::backoff;

/// An endpoint is passed over this long when it fails. Each further failure before a valid answer doubles the time.
const FIRST: Duration = Duration::from_secs(1);
/// The longest such time.
const LONGEST: Duration = Duration::from_secs(64);
/// An endpoint fails after this many broken answers in a row: one request that breaks its own answer must not move all
/// clients to another endpoint.
const STRIKES: u32 = 3;

/// The health of one endpoint. Every exchange reads it, so it consists of atomics; they are independent of each other.
#[derive(Debug, Default)]
pub(super) struct EndpointHealth {
    /// When the endpoint is tried again, in ms since the connector was made. 0: it is healthy.
    retry_at: AtomicU64,
    /// How often it failed since its last valid answer.
    failures: AtomicU32,
    /// The number of broken answers in a row.
    strikes: AtomicU32,
}

impl EndpointHealth {
    pub(super) fn is_healthy(&self) -> bool {
        self.retry_at.load(Ordering::Relaxed) == 0
    }

    /// Notes that no connection could be opened. Returns whether this makes the endpoint unhealthy.
    pub(super) fn unreachable(&self, now: Duration) -> bool {
        let failures = self.failures.load(Ordering::Relaxed);
        // Attempts that fail at the same time count once.
        let has_failed =
            self.retry_at.compare_exchange(0, later(now, failures), Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if has_failed {
            self.failures.store(failures.saturating_add(1), Ordering::Relaxed);
            self.strikes.store(0, Ordering::Relaxed);
        }
        has_failed
    }

    /// Notes that a connection gave no valid answer. Returns whether this makes the endpoint unhealthy.
    pub(super) fn broke(&self, now: Duration) -> bool {
        self.strikes.fetch_add(1, Ordering::Relaxed) + 1 >= STRIKES && self.unreachable(now)
    }

    /// Notes a valid answer, whatever its status.
    pub(super) fn answered(&self) {
        // Writing takes the cache line from all other workers, and there is rarely anything to write.
        for count in [&self.strikes, &self.failures] {
            if count.load(Ordering::Relaxed) != 0 {
                count.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Notes that a connection was opened. Returns whether this makes the endpoint healthy again.
    pub(super) fn reached(&self) -> bool {
        self.retry_at.load(Ordering::Relaxed) != 0 && self.retry_at.swap(0, Ordering::Relaxed) != 0
    }

    /// Tells whether it is time to try again. Only one caller gets `true`, and has the time of `lease` to try.
    pub(super) fn claim(&self, now: Duration, lease: Duration) -> bool {
        let due = self.retry_at.load(Ordering::Relaxed);
        let leased = millis(now + lease);
        due != 0
            && due <= millis(now)
            && self.retry_at.compare_exchange(due, leased, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Notes that the attempt after a claim failed.
    pub(super) fn still_unreachable(&self, now: Duration) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        self.retry_at.store(later(now, failures), Ordering::Relaxed);
    }
}

/// Returns when to try again: after half of the back-off to all of it, at random.
fn later(now: Duration, failures: u32) -> u64 {
    millis(now + backoff::jittered(backoff::after(failures.saturating_add(1), FIRST, LONGEST)))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);
    const LEASE: Duration = Duration::from_secs(4);

    fn wait(health: &EndpointHealth) -> Duration {
        Duration::from_millis(health.retry_at.load(Ordering::Relaxed)) - NOW
    }

    #[test]
    fn the_first_failure_to_connect_makes_an_endpoint_unhealthy_and_further_ones_change_nothing() {
        let health = EndpointHealth::default();
        assert!(health.is_healthy() && health.unreachable(NOW) && !health.is_healthy());
        let wait_before = wait(&health);
        assert!(!health.unreachable(NOW + FIRST));
        assert_eq!(wait(&health), wait_before);
        assert!(health.reached() && health.is_healthy() && !health.reached());
    }

    #[test]
    fn only_broken_answers_in_a_row_make_an_endpoint_unhealthy() {
        let health = EndpointHealth::default();
        assert!(!health.broke(NOW) && !health.broke(NOW));
        health.answered();
        assert!(!health.broke(NOW) && !health.broke(NOW) && health.broke(NOW));
    }

    #[test]
    fn the_back_off_grows_to_its_bound_until_the_next_answer() {
        let health = EndpointHealth::default();
        health.unreachable(NOW);
        let mut whole = FIRST;
        for _ in 0..10 {
            assert!((whole / 2..=whole).contains(&wait(&health)), "{:?} of {whole:?}", wait(&health));
            health.still_unreachable(NOW);
            whole = (whole * 2).min(FIRST * 64);
        }
        assert!(health.reached());
        health.unreachable(NOW);
        assert!(wait(&health) >= FIRST * 32);
        assert!(health.reached());
        health.answered();
        health.unreachable(NOW);
        assert!(wait(&health) <= FIRST);
    }

    #[test]
    fn one_worker_alone_tries_again_and_another_if_it_is_lost() {
        let health = EndpointHealth::default();
        assert!(!health.claim(NOW, LEASE));
        health.unreachable(NOW);
        assert!(!health.claim(NOW, LEASE));
        let due = NOW + FIRST;
        assert!(health.claim(due, LEASE) && !health.claim(due, LEASE));
        assert!(health.claim(due + LEASE, LEASE));
    }
}
