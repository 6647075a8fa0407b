//! Which failures of a collector are told: one each minute at most, and none again while it goes on failing.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest time from one notice to the next.
const PAUSE: Duration = Duration::from_secs(60);

/// What the log says about a collector.
#[derive(Debug, Default)]
pub(super) struct CollectorNotices {
    told: Option<Instant>,
    /// The last notice tells that the collector fails.
    is_failing: bool,
}

impl CollectorNotices {
    /// Records a failure, and returns whether to tell of it.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        let is_quiet = self.told.is_some_and(|told| now.duration_since(told) < PAUSE);
        if self.is_failing || is_quiet {
            return false;
        }
        (self.told, self.is_failing) = (Some(now), true);
        true
    }

    /// Records a success, and returns whether to tell of it: the last notice was a failure.
    pub(super) const fn succeeded(&mut self) -> bool {
        std::mem::replace(&mut self.is_failing, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_once_and_once_a_minute() {
        let (mut notices, begun) = (CollectorNotices::default(), Instant::now());
        assert!(!notices.succeeded());
        assert!(notices.failed(begun));
        assert!(!notices.failed(begun + PAUSE * 2));
        assert!(notices.succeeded());
        assert!(!notices.succeeded());
        assert!(notices.failed(begun + PAUSE * 3));
        assert!(notices.succeeded());
        assert!(!notices.failed(begun + PAUSE * 3 + PAUSE / 2));
        assert!(!notices.succeeded());
        assert!(notices.failed(begun + PAUSE * 4));
    }
}
