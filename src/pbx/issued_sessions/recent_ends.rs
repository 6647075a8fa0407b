//! The ends of sessions of the last moments. A member learns of a session from the engine, and may have heard of its end
//! before: that end counts for it, too.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::filter::SessionFilter;
use crate::model::session::EndReason;

/// How long an end is kept. By then the member that opened the session has removed it from the engine.
const LIFE: Duration = Duration::from_secs(30);
/// By how much the age of a session may be too low: the engine counts in milliseconds.
const TOLERANCE: Duration = Duration::from_millis(10);
/// The most ends that are kept; beyond it, the oldest is dropped.
const MOST: usize = 4096;

/// The last ends, from the oldest to the youngest.
#[derive(Debug, Default)]
pub(super) struct RecentEnds(VecDeque<RecentEnd>);

#[derive(Debug)]
struct RecentEnd {
    at: Instant,
    filter: SessionFilter,
    reason: EndReason,
}

impl RecentEnds {
    /// Notes an end. One by a number is of a session that this process knows.
    pub(super) fn note(&mut self, filter: &SessionFilter, reason: EndReason, now: Instant) {
        let is_fresh = |end: &RecentEnd| now.duration_since(end.at) < LIFE;
        while self.0.front().is_some_and(|end| !is_fresh(end) || self.0.len() >= MOST) {
            self.0.pop_front();
        }
        if !matches!(filter, SessionFilter::Number { .. }) {
            self.0.push_back(RecentEnd { at: now, filter: filter.clone(), reason });
        }
    }

    /// Returns the reason of the first end that came while a session of this age was open and that `chooses` it.
    pub(super) fn reason_for(
        &self,
        age: Duration,
        now: Instant,
        chooses: impl Fn(&SessionFilter) -> bool,
    ) -> Option<EndReason> {
        let came_later = |end: &&RecentEnd| now.duration_since(end.at) <= (age + TOLERANCE).min(LIFE);
        self.0.iter().filter(came_later).find(|end| chooses(&end.filter)).map(|end| end.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_counts_for_what_was_open_before_and_for_half_a_minute() {
        let (mut ends, now) = (RecentEnds::default(), Instant::now());
        let seconds = Duration::from_secs;
        ends.note(&SessionFilter::All, EndReason::Freeze, now);
        ends.note(&SessionFilter::number(1), EndReason::Logout, now);
        for (age, later, expected) in [
            (10, 9, Some(EndReason::Freeze)),
            (9, 9, Some(EndReason::Freeze)),
            (8, 9, None),
            (3600, 30, Some(EndReason::Freeze)),
            (3600, 31, None),
        ] {
            assert_eq!(ends.reason_for(seconds(age), now + seconds(later), |_| true), expected, "{age} {later}");
        }
        assert_eq!(ends.reason_for(seconds(9), now, |filter| *filter != SessionFilter::All), None);
    }

    #[test]
    fn no_more_ends_are_kept_than_there_is_room_for() {
        let (mut ends, now) = (RecentEnds::default(), Instant::now());
        for _ in 0..=MOST {
            ends.note(&SessionFilter::All, EndReason::Freeze, now);
        }
        assert_eq!(ends.0.len(), MOST);
        ends.note(&SessionFilter::All, EndReason::Freeze, now + LIFE);
        assert_eq!(ends.0.len(), 1);
    }
}
