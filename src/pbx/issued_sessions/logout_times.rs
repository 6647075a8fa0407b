//! When the callers with given marks logged out last, in bounded memory that no flood of logouts can empty.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use jiff::Timestamp;

use crate::model::credential_mark::MarkDigest;

/// How many times are kept: 1 MiB.
const TIMES: usize = 1 << 17;
/// In how many places the time of a mark stands.
const PLACES: u64 = 4;

/// The time of the last logout for each mark, in microseconds of Unix time (a Bloom filter with times instead of bits).
///
/// The time of a mark is the earliest of its places. Other marks may make it later, and never earlier: a logout is not
/// forgotten, and in a flood some login that is under way may count as logged out, which its person begins again.
#[derive(Default)]
pub(super) struct LogoutTimes {
    /// Empty before the first logout.
    times: Box<[i64]>,
    /// The last logout of any mark in a process before. Of which mark it was is not known here, so it counts for all: a login
    /// that goes on in another process, with its ticket, began before it and is begun again.
    before: Option<Timestamp>,
    /// The last logout of any mark.
    last: Option<Timestamp>,
    hashes: RandomState,
}

impl LogoutTimes {
    /// Goes on after the last logout that a process before has noted.
    pub(super) fn after(last: Option<Timestamp>) -> Self {
        Self { before: last, last, ..Self::default() }
    }

    /// Returns when the last logout was.
    pub(super) const fn last(&self) -> Option<Timestamp> {
        self.last
    }

    /// Notes a logout.
    pub(super) fn note(&mut self, mark: &MarkDigest, now: Timestamp) {
        if self.times.is_empty() {
            self.times = vec![i64::MIN; TIMES].into();
        }
        self.last = self.last.max(Some(now));
        for place in places(&self.hashes, mark) {
            self.times[place] = self.times[place].max(now.as_microsecond());
        }
    }

    /// Returns whether a logout was noted at this time or later.
    pub(super) fn has_since(&self, mark: &MarkDigest, began: Timestamp) -> bool {
        let is_before = self.before.is_some_and(|last| last >= began);
        is_before
            || !self.times.is_empty()
                && places(&self.hashes, mark).into_iter().all(|place| self.times[place] >= began.as_microsecond())
    }
}

impl fmt::Debug for LogoutTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogoutTimes").finish_non_exhaustive()
    }
}

fn places(hashes: &RandomState, mark: &MarkDigest) -> [usize; PLACES as usize] {
    std::array::from_fn(|nth| (hashes.hash_one((nth, mark)) % TIMES as u64) as usize)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    const SECOND: SignedDuration = SignedDuration::from_secs(1);

    #[test]
    fn a_logout_holds_for_what_began_before_it() {
        let (mut logouts, now) = (LogoutTimes::default(), Timestamp::now());
        assert!(!logouts.has_since(&[1, 2], Timestamp::UNIX_EPOCH));
        logouts.note(&[1, 2], now);
        for (began, is_over) in [(now - SECOND, true), (now, true), (now + SECOND, false)] {
            assert_eq!(logouts.has_since(&[1, 2], began), is_over, "{began}");
        }
        assert!(!logouts.has_since(&[2, 1], now - SECOND));
        // A clock that was set back takes nothing away.
        logouts.note(&[1, 2], now - SECOND);
        assert!(logouts.has_since(&[1, 2], now));
    }

    #[test]
    fn a_logout_in_a_process_before_holds_for_every_login_that_began_before_it() {
        let (mut logouts, now) = (LogoutTimes::default(), Timestamp::now());
        assert_eq!((LogoutTimes::after(logouts.last()).has_since(&[1, 2], now), logouts.last()), (false, None));
        logouts.note(&[1, 2], now);
        logouts.note(&[3, 4], now - SECOND);
        let mut next = LogoutTimes::after(logouts.last());
        for (began, is_over) in [(now - SECOND, true), (now, true), (now + SECOND, false)] {
            assert_eq!(next.has_since(&[5, 6], began), is_over, "{began}");
        }
        assert_eq!(next.last(), Some(now));
        next.note(&[5, 6], now + SECOND);
        assert!(next.has_since(&[5, 6], now + SECOND) && !next.has_since(&[1, 2], now + SECOND));
    }

    #[test]
    fn a_flood_of_logouts_neither_hides_one_nor_ends_other_logins() {
        let (mut logouts, now) = (LogoutTimes::default(), Timestamp::now());
        logouts.note(&[0, 0], now);
        let floods = 20_000;
        (1..=floods).for_each(|number| logouts.note(&[number, 1], now + SECOND));
        assert!(logouts.has_since(&[0, 0], now));
        // 80 000 of 131 072 places are hit by chance at most: less than half of them, so one login of 16.
        let others = (1..=1000).filter(|number| logouts.has_since(&[*number, 2], now)).count();
        assert!(others < 125, "{others}");
        // Many more, each a second later.
        (1..=200_000).for_each(|number| logouts.note(&[number, 3], now + SECOND * 2));
        assert!(logouts.has_since(&[0, 0], now), "it is not forgotten");
        assert!(!logouts.has_since(&[5, 5], now + SECOND * 3), "what begins after the flood is not concerned");
    }
}
