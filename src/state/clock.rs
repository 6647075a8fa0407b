//! The time by which the store forgets: never later than it is.
//!
//! A wall clock may jump a day ahead and come back: a wrong answer of a time server, a host that wakes up, an operator's
//! slip. What was forgotten meanwhile stays forgotten, and a link that was used works again. So the store counts from a
//! moment that it knows by the steady clock, which nobody sets, and of the two times the earlier one holds. Only a wall
//! clock that has told the same other time for an hour is believed. By then, whatever was marked before it jumped has
//! expired by any clock, as links and tokens live for minutes; and a freeze that ends too early by such a clock is in
//! force again when the clock is right, because it is kept for [`KEPT`](super::tables::KEPT) beyond its end.
//!
//! The file tells the last time that was believed, so that a restart while the wall clock is wrong believes no more.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// For how long a wall clock must tell another time before it is believed.
const PROBATION: Duration = Duration::from_secs(60 * 60);
/// How far apart two times are that count as the same.
const TOLERANCE: SignedDuration = SignedDuration::from_mins(1);

/// The store's clock.
#[derive(Debug)]
pub(super) struct BelievedClock {
    begun: Instant,
    /// A time that was believed, and when that was, since the beginning.
    known: (Duration, Timestamp),
    /// By how much the wall clock tells another time, and since when.
    apart: Option<(Duration, SignedDuration)>,
}

impl Default for BelievedClock {
    fn default() -> Self {
        Self::since(Timestamp::now())
    }
}

impl BelievedClock {
    /// Begins with a time that was believed.
    pub(super) fn since(known: Timestamp) -> Self {
        Self { begun: Instant::now(), known: (Duration::ZERO, known), apart: None }
    }

    /// Returns the time: it is at least this late.
    pub(super) fn now(&mut self) -> Timestamp {
        let elapsed = self.begun.elapsed();
        self.at(elapsed, Timestamp::now())
    }

    fn at(&mut self, elapsed: Duration, wall: Timestamp) -> Timestamp {
        let (since, known) = self.known;
        let steady = known.saturating_add(elapsed.saturating_sub(since)).unwrap_or(known);
        let offset = wall.duration_since(steady);
        if is_small(offset) {
            self.apart = None;
            return wall.min(steady);
        }
        match self.apart {
            Some((since, before)) if is_small(offset - before) => {
                if elapsed.saturating_sub(since) >= PROBATION {
                    self.known = (elapsed, wall);
                    self.apart = None;
                    tracing::info!(%wall, "the wall clock was set, and is believed from now on");
                    return wall;
                }
            }
            Some(_) | None => self.apart = Some((elapsed, offset)),
        }
        wall.min(steady)
    }
}

fn is_small(offset: SignedDuration) -> bool {
    offset.abs() <= TOLERANCE
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::constant(1_700_000_000, 0);

    /// Minutes since the start, what the wall clock says, and what is believed.
    #[track_caller]
    fn check(steps: &[(u64, i64, i64)]) {
        let mut clock = BelievedClock::since(START);
        for (minutes, wall, expected) in steps {
            let at = |minutes: i64| START + SignedDuration::from_mins(minutes);
            let told = clock.at(Duration::from_secs(minutes * 60), at(*wall));
            assert_eq!(told, at(*expected), "{minutes} minutes after the start");
        }
    }

    const DAY: i64 = 24 * 60;

    #[test]
    fn a_clock_that_is_right_is_followed() {
        check(&[(0, 0, 0), (1, 1, 1), (60, 60, 60), (600, 600, 600)]);
    }

    #[test]
    fn a_clock_that_jumps_ahead_and_back_changes_nothing() {
        check(&[
            (5, 5, 5),
            (6, DAY + 6, 6),
            (50, DAY + 50, 50),
            (51, 51, 51),
            (52, DAY + 52, 52),
            (110, DAY + 110, 110),
        ]);
    }

    #[test]
    fn a_clock_that_goes_on_to_tell_another_time_is_believed() {
        check(&[(5, DAY + 5, 5), (64, DAY + 64, 64), (65, DAY + 65, DAY + 65), (66, DAY + 66, DAY + 66)]);
        check(&[(5, 5 - DAY, 5 - DAY), (65, 65 - DAY, 65 - DAY), (66, 66, 66 - DAY)]);
    }

    #[test]
    fn one_that_wanders_is_not() {
        check(&[(0, DAY, 0), (30, DAY + 60, 30), (60, DAY + 60, 60), (91, DAY + 121, 91), (120, DAY + 120, 120)]);
    }

    #[test]
    fn of_one_that_is_late_the_earlier_time_holds() {
        check(&[(5, 5 - DAY, 5 - DAY), (6, 6, 6)]);
    }
}
