//! The clock by which state expires: never later than the real time.
//!
//! A wall clock may jump a day ahead and back: by a wrong answer of a time server, a host that resumes, or a slip of
//! the operator. State that expired meanwhile is lost, and a used link works again. So the store counts from a known
//! time by the monotonic clock, which cannot be set, and the earlier of the two times holds. A wall clock is believed
//! after it has shown the same other time for an hour. By then, each mark made before the jump has expired by any
//! clock, since links and tokens live for minutes. A freeze that ends too early by such a clock is in force again when
//! the clock is right, because it is kept for [`KEPT`](super::tables::KEPT) beyond its end.
//!
//! The file stores the last believed time, so that a restart does not believe a wrong wall clock either.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// How long a wall clock must show another time before it is believed.
const PROBATION: Duration = Duration::from_secs(60 * 60);
/// How far two times may differ that count as the same.
const TOLERANCE: SignedDuration = SignedDuration::from_mins(1);

/// The store's clock.
#[derive(Debug)]
pub(super) struct BelievedClock {
    begun: Instant,
    /// A believed time, and when it was believed, after the start.
    known: (Duration, Timestamp),
    /// Since when, and by how much, the wall clock shows another time.
    deviation: Option<(Duration, SignedDuration)>,
}

impl Default for BelievedClock {
    fn default() -> Self {
        Self::since(Timestamp::now())
    }
}

impl BelievedClock {
    /// Begins with a believed time.
    pub(super) fn since(known: Timestamp) -> Self {
        Self { begun: Instant::now(), known: (Duration::ZERO, known), deviation: None }
    }

    /// Returns the believed time. The real time is not earlier.
    pub(super) fn now(&mut self) -> Timestamp {
        let elapsed = self.begun.elapsed();
        self.at(elapsed, Timestamp::now())
    }

    fn at(&mut self, elapsed: Duration, wall: Timestamp) -> Timestamp {
        let (since, known) = self.known;
        let steady = known.saturating_add(elapsed.saturating_sub(since)).unwrap_or(known);
        let offset = wall.duration_since(steady);
        if is_small(offset) {
            self.deviation = None;
            return wall.min(steady);
        }
        match self.deviation {
            Some((since, before)) if is_small(offset - before) => {
                if elapsed.saturating_sub(since) >= PROBATION {
                    self.known = (elapsed, wall);
                    self.deviation = None;
                    tracing::info!(%wall, "the wall clock was set, and is believed from now on");
                    return wall;
                }
            }
            Some(_) | None => self.deviation = Some((elapsed, offset)),
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

    /// Minutes since the start, the wall clock, and the expected time.
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
