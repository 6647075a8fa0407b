//! The last hour of some counts, in steps of 10 s, for the charts of the operator's page.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::metrics::MetricTotals;

/// How long one step lasts. After a pause of the process it lasts longer.
pub const STEP: Duration = Duration::from_secs(10);
/// How many steps are kept: an hour.
pub const STEPS: usize = 360;

/// The steps of the last hour: 90 KiB at most.
#[derive(Debug)]
pub struct History(Mutex<HistoryRing>);

#[derive(Debug)]
struct HistoryRing {
    /// The counts at the end of the last step, and when that was.
    last: (Instant, MetricTotals),
    steps: VecDeque<HistoryStep>,
}

/// What was counted in one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HistoryStep {
    /// When it ended.
    pub at: Timestamp,
    /// How many seconds it lasted.
    pub seconds: f64,
    /// What was counted meanwhile.
    pub counts: MetricTotals,
}

impl History {
    /// Begins with these counts.
    #[must_use]
    pub fn begin(totals: MetricTotals, now: Instant) -> Self {
        Self(Mutex::new(HistoryRing { last: (now, totals), steps: VecDeque::with_capacity(STEPS) }))
    }

    /// Returns when the step that runs is to end.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.ring().last.0 + STEP
    }

    /// Ends the step that runs, and begins the next one. The oldest step makes room.
    pub fn record(&self, totals: MetricTotals, now: Instant, at: Timestamp) {
        let mut ring = self.ring();
        let (began, before) = std::mem::replace(&mut ring.last, (now, totals));
        if ring.steps.len() == STEPS {
            ring.steps.pop_front();
        }
        let seconds = now.saturating_duration_since(began).as_secs_f64().max(0.001);
        ring.steps.push_back(HistoryStep { at, seconds, counts: totals.since(&before) });
    }

    /// Returns the steps, the oldest first.
    #[must_use]
    pub fn steps(&self) -> Vec<HistoryStep> {
        self.ring().steps.iter().copied().collect()
    }

    fn ring(&self) -> MutexGuard<'_, HistoryRing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_steps_is_kept() {
        let start = Instant::now();
        let totals = |exchanges| MetricTotals { exchanges, ..MetricTotals::default() };
        let history = History::begin(totals(7), start);
        assert_eq!((history.due(), history.steps()), (start + STEP, Vec::new()));
        for number in 1..=STEPS as u32 + 1 {
            history.record(totals(7 + 2 * u64::from(number)), start + STEP * number, Timestamp::UNIX_EPOCH);
        }
        let steps = history.steps();
        assert_eq!((steps.len(), steps[0].seconds, steps[0].counts.exchanges), (STEPS, 10.0, 2));
        let size = size_of::<HistoryStep>() * history.ring().steps.capacity();
        assert!(size <= 90 << 10, "{size}");
    }

    #[test]
    fn a_step_after_a_pause_lasts_longer() {
        let start = Instant::now();
        let history = History::begin(MetricTotals::default(), start);
        history.record(MetricTotals::default(), start + Duration::from_secs(60), Timestamp::UNIX_EPOCH);
        assert_eq!((history.steps()[0].seconds, history.due()), (60.0, start + Duration::from_secs(70)));
    }
}
