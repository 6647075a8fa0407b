//! A proposal for a limit, by what was measured while it was in shadow.

use std::num::NonZeroU32;

use super::rate::Rate;

/// What a limit in shadow has measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShadowCounts {
    /// The events that it counts.
    pub events: u64,
    /// The most events of one key at once: with this burst, the rate would have admitted all of them.
    pub most_at_once: u64,
    /// The requests that it would have refused.
    pub would_refuse: u64,
}

/// A proposal for a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitProposal {
    /// Nothing was counted yet.
    Wait,
    /// The rate as it is admits everything that came, with a quarter more to spare.
    Fits,
    /// This rate does.
    Raise(Rate),
}

impl LimitProposal {
    /// Proposes a rate: the same, with a burst of a quarter more than the most that came at once.
    #[must_use]
    pub fn of(rate: Rate, counts: ShadowCounts) -> Self {
        let ShadowCounts { events, most_at_once, would_refuse } = counts;
        let (burst, room) = (u64::from(rate.burst.get()), with_room(most_at_once));
        match (would_refuse, room <= burst) {
            (0, true) if events == 0 => Self::Wait,
            (0, true) => Self::Fits,
            // It refused by counts of the time before.
            (_, true) => Self::with_burst(rate, with_room(burst)),
            (_, false) => Self::with_burst(rate, room),
        }
    }

    fn with_burst(rate: Rate, burst: u64) -> Self {
        let burst = u32::try_from(burst).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX);
        Self::Raise(Rate { burst, ..rate })
    }

    /// Returns its word for programs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Fits => "fits",
            Self::Raise(_) => "raise",
        }
    }
}

/// Returns a quarter more, as a round number: two digits and zeros, and from 20 to 100 a multiple of 5.
fn with_room(number: u64) -> u64 {
    let number = number.saturating_add(number.div_ceil(4));
    let step = match number {
        ..20 => 1,
        20..100 => 5,
        _ => 10_u64.pow(number.ilog10() - 1),
    };
    number.checked_next_multiple_of(step).unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rate: &str, (events, most_at_once, would_refuse): (u64, u64, u64), expected: &str) {
        let counts = ShadowCounts { events, most_at_once, would_refuse };
        let proposal = LimitProposal::of(rate.parse().unwrap(), counts);
        let told = match proposal {
            LimitProposal::Raise(rate) => rate.to_string(),
            LimitProposal::Wait | LimitProposal::Fits => proposal.word().to_owned(),
        };
        assert_eq!(told, expected, "{rate} {counts:?}");
    }

    #[test]
    fn a_limit_that_nothing_came_near_fits() {
        check("3000/min", (0, 0, 0), "wait");
        check("3000/min", (1, 1, 0), "fits");
        check("10/min", (500, 8, 0), "fits");
    }

    #[test]
    fn a_limit_that_would_refuse_or_nearly_would_gets_a_larger_burst() {
        check("10/min", (500, 9, 0), "10/min burst 12");
        check("5/min", (900, 37, 12), "5/min burst 50");
        check("20/min burst 250", (9000, 410, 160), "20/min burst 520");
        check("3/h", (9, 4, 1), "3/h burst 5");
        check("1/24h", (9, u64::MAX, u64::MAX), "1/24h burst 4294967295");
    }

    #[test]
    fn a_limit_that_was_used_up_before_gets_a_larger_burst_too() {
        check("10/min", (1, 1, 3), "10/min burst 13");
        check("10/min", (0, 0, 3), "10/min burst 13");
    }

    #[test]
    fn bursts_are_round() {
        for (number, round) in [(1, 2), (4, 5), (16, 20), (19, 25), (79, 100), (80, 100), (81, 110), (1000, 1300)] {
            assert_eq!(with_room(number), round, "{number}");
        }
    }
}
