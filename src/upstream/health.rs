//! Whether a `url` is well enough for new connections. Shared by all workers; the time is an argument.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How long a place is passed over the first time; each time it falls again before it has answered, twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// How often that doubles: about a minute at most.
const DOUBLINGS: u32 = 6;
/// How many answers in a row must be broken. One request that breaks its own answer must not move everybody.
const STRIKES: u32 = 3;

/// The health of one place. Read for every exchange, so it is atomics alone: each stands for itself.
#[derive(Debug, Default)]
pub(super) struct EndpointHealth {
    /// Since the beginning of time, in ms: when a place that is passed over is tried again. 0: it is well.
    retry_at: AtomicU64,
    /// How often it fell since it last answered.
    falls: AtomicU32,
    /// How many answers in a row were broken.
    strikes: AtomicU32,
}

impl EndpointHealth {
    pub(super) fn is_well(&self) -> bool {
        self.retry_at.load(Ordering::Relaxed) == 0
    }

    /// Notes that there was no connection. Tells whether the place falls by that.
    pub(super) fn unreachable(&self, now: Duration) -> bool {
        let falls = self.falls.load(Ordering::Relaxed);
        // Those that fail together fail once.
        let fallen = self.retry_at.compare_exchange(0, later(now, falls), Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if fallen {
            self.falls.store(falls.saturating_add(1), Ordering::Relaxed);
            self.strikes.store(0, Ordering::Relaxed);
        }
        fallen
    }

    /// Notes that a connection gave no valid answer. Tells whether the place falls by that.
    pub(super) fn broke(&self, now: Duration) -> bool {
        self.strikes.fetch_add(1, Ordering::Relaxed) + 1 >= STRIKES && self.unreachable(now)
    }

    /// Notes a valid answer, whatever it says.
    pub(super) fn answered(&self) {
        // Writing takes the cache line from all other workers, and there is hardly ever anything to write.
        for count in [&self.strikes, &self.falls] {
            if count.load(Ordering::Relaxed) != 0 {
                count.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Notes that there is a connection. Tells whether the place rises by that.
    pub(super) fn reached(&self) -> bool {
        self.retry_at.load(Ordering::Relaxed) != 0 && self.retry_at.swap(0, Ordering::Relaxed) != 0
    }

    /// Tells whether it is time to try again; only one who asks is told so, and has `lease` for it.
    pub(super) fn claim(&self, now: Duration, lease: Duration) -> bool {
        let due = self.retry_at.load(Ordering::Relaxed);
        let leased = millis(now + lease);
        due != 0
            && due <= millis(now)
            && self.retry_at.compare_exchange(due, leased, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Notes that the attempt of a claim failed.
    pub(super) fn still_unreachable(&self, now: Duration) {
        let falls = self.falls.fetch_add(1, Ordering::Relaxed);
        self.retry_at.store(later(now, falls), Ordering::Relaxed);
    }
}

/// Between half the back-off and all of it, so that many gates do not come back as one.
fn later(now: Duration, falls: u32) -> u64 {
    let whole = millis(FIRST) << falls.min(DOUBLINGS);
    let jitter = RandomState::new().hash_one(now) % (whole / 2);
    millis(now) + whole - jitter
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
    fn the_first_failure_to_connect_fells_and_the_next_do_nothing() {
        let health = EndpointHealth::default();
        assert!(health.is_well() && health.unreachable(NOW) && !health.is_well());
        let wait_before = wait(&health);
        assert!(!health.unreachable(NOW + FIRST));
        assert_eq!(wait(&health), wait_before);
        assert!(health.reached() && health.is_well() && !health.reached());
    }

    #[test]
    fn only_broken_answers_in_a_row_fell() {
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
    fn one_alone_tries_again_and_when_he_is_lost_another() {
        let health = EndpointHealth::default();
        assert!(!health.claim(NOW, LEASE));
        health.unreachable(NOW);
        assert!(!health.claim(NOW, LEASE));
        let due = NOW + FIRST;
        assert!(health.claim(due, LEASE) && !health.claim(due, LEASE));
        assert!(health.claim(due + LEASE, LEASE));
    }
}
