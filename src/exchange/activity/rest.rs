//! When a connection that is idle releases the buffers of HTTP, until the client's next byte.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::Activity;

/// How long a connection is idle before it rests for the first time.
pub(super) const REST: Duration = Duration::from_millis(250);
/// The same while its worker is busy: longer than between the requests of one client of thousands. To make the buffers anew
/// costs as much as a small request.
const REST_OF_BUSY: Duration = Duration::from_secs(5);
/// How long a connection is idle at most before it rests.
const LATEST_REST: Duration = Duration::from_secs(40);
/// A rest that is shorter makes the next one begin later.
const LONG_REST: Duration = Duration::from_secs(30);

/// When the connection rests: releases the buffers of HTTP because it is idle.
#[derive(Debug)]
pub(super) struct RestWait {
    pub(super) state: Cell<RestState>,
    /// How long it is idle before, at least.
    pub(super) after: Cell<Duration>,
}

/// Whether a connection keeps the buffers of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RestState {
    /// It does.
    Awake,
    /// It is to release them, unless an exchange has begun after so many.
    Ordered(u64),
    /// It released them at this time, until the client's next byte.
    AtRest(Instant),
    /// It always does (HTTP/2).
    Never,
}

impl Activity {
    /// Orders a connection to rest that has been idle for long enough. Returns whether that is new.
    #[must_use]
    pub(crate) fn order_rest(&self, now: Instant, worker_is_busy: bool) -> bool {
        let is_awake = self.rest.state.get() == RestState::Awake;
        let after = self.rest.after.get().max(if worker_is_busy { REST_OF_BUSY } else { REST });
        let is_idle = || self.evictable_since().is_some_and(|since| now - since >= after);
        let is_answered = self.exchanges_begun() > 0 && self.write_blocked_since().is_none();
        let is_ordered = is_awake && is_answered && is_idle();
        if is_ordered {
            self.rest.state.set(RestState::Ordered(self.exchanges_begun()));
        }
        is_ordered
    }

    /// Begins to rest if that was ordered, and nothing has gone on since. Returns whether it did.
    ///
    /// An exchange that has begun and ended since then may have left the body of its request unread.
    #[must_use]
    pub(crate) fn begin_rest(&self) -> bool {
        let RestState::Ordered(begun) = self.rest.state.get() else { return false };
        let is_quiet =
            self.exchanges_begun() == begun && self.evictable_since().is_some() && self.write_blocked_since().is_none();
        self.rest.state.set(if is_quiet { RestState::AtRest(Instant::now()) } else { RestState::Awake });
        is_quiet
    }

    /// Ends the rest. After a short one the next one begins later: its buffers are made anew for nothing.
    pub(crate) fn end_rest(&self, now: Instant) {
        if let RestState::AtRest(since) = self.rest.state.replace(RestState::Awake) {
            let is_short = now - since < LONG_REST;
            self.rest.after.set(if is_short { LATEST_REST.min(2 * self.rest.after.get()) } else { REST });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::Tally;

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_wakes_soon_rests_later() {
        let activity = Activity::new(Instant::now(), false, Tally::default());
        let rest = async |idle: Duration| {
            drop(activity.begin_exchange());
            tokio::time::advance(idle - Duration::from_millis(1)).await;
            assert!(!activity.order_rest(Instant::now(), false), "{idle:?}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(activity.order_rest(Instant::now(), false) && activity.begin_rest(), "{idle:?}");
            assert!(!activity.order_rest(Instant::now(), false), "it rests");
        };
        let mut after = REST;
        for _ in 0..11 {
            rest(after).await;
            tokio::time::advance(Duration::from_secs(1)).await;
            activity.end_rest(Instant::now());
            after = LATEST_REST.min(after * 2);
        }
        assert_eq!(after, LATEST_REST);
        rest(after).await;
        tokio::time::advance(LONG_REST).await;
        activity.end_rest(Instant::now());
        rest(REST).await;
    }

    #[tokio::test(start_paused = true)]
    async fn connections_of_a_busy_worker_rest_later() {
        let activity = Activity::new(Instant::now(), false, Tally::default());
        drop(activity.begin_exchange());
        tokio::time::advance(REST_OF_BUSY - Duration::from_millis(1)).await;
        assert!(!activity.order_rest(Instant::now(), true));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(activity.order_rest(Instant::now(), true));
    }

    #[tokio::test]
    async fn a_connection_that_is_fresh_busy_or_multiplexed_does_not_rest() {
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        let tally = Tally::default();
        let fresh = Activity::new(now, false, tally.clone());
        assert!(!fresh.order_rest(later, false));
        let multiplexed = Activity::new(now, true, tally);
        drop(multiplexed.begin_exchange());
        assert!(!multiplexed.order_rest(later, false));
        let exchange = fresh.begin_exchange();
        assert!(!fresh.order_rest(later, false));
        drop(exchange);
        assert!(fresh.order_rest(later, false));
        fresh.on_write(true);
        assert!(!fresh.begin_rest(), "an answer waits for the client");
        assert!(!fresh.order_rest(later, false), "each order would wake the connection for nothing");
        fresh.on_write(false);
        assert!(fresh.order_rest(later, false));
        drop(fresh.begin_exchange());
        assert!(!fresh.begin_rest(), "hyper may not have read the last body");
        fresh.on_read();
        assert!(!fresh.order_rest(later, false), "a head arrives");
    }
}
