//! The quota of all members, and the part of one of them.

use std::num::NonZeroU32;

use crate::model::rate::Rate;

/// A quota, and the part of it that one member has while it is alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitRate {
    /// What this member admits by itself.
    pub(crate) own: Rate,
    /// What all members admit together.
    pub(crate) shared: Rate,
}

impl From<Rate> for LimitRate {
    fn from(rate: Rate) -> Self {
        Self { own: rate, shared: rate }
    }
}

impl LimitRate {
    /// Divides a quota among members: each has its part of the burst, one event at least, and refills so much slower.
    pub(crate) fn among(rate: Rate, members: NonZeroU32) -> Self {
        let burst = NonZeroU32::new(rate.burst.get() / members).unwrap_or(NonZeroU32::MIN);
        Self { own: Rate { period: rate.period * members.get(), burst, ..rate }, shared: rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_are_alone_admit_no_more_together_than_the_quota() {
        for (text, members, expected) in [
            ("30/min burst 10", 4, (30, 240, 2)),
            ("5/15min", 4, (5, 3600, 1)),
            ("10/min", 1, (10, 60, 10)),
            ("1/24h", 50, (1, 50 * 86_400, 1)),
        ] {
            let LimitRate { own, shared } = LimitRate::among(text.parse().unwrap(), NonZeroU32::new(members).unwrap());
            assert_eq!((own.count.get(), own.period.as_secs(), own.burst.get()), expected, "{text}");
            assert_eq!(shared, text.parse().unwrap());
        }
    }
}
