//! How many different one-time keys are answered for one Voximplant user.
//!
//! Each answer permits one guess at the password offline, so the number of different keys is limited. An answer to the
//! same key again reveals nothing new.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::Limited;
use crate::model::rate::Rate;

/// The recently answered keys of each user: at most `rate.count` different ones in any `rate.period`.
///
/// It has at most as many users as the users file: no other user reaches it.
pub(crate) struct DistinctKeys {
    rate: Rate,
    answered: Mutex<HashMap<String, Vec<AnsweredKey>>>,
}

struct AnsweredKey {
    key_id: [u8; 32],
    since: Instant,
}

/// Whether a key was answered before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Novelty {
    /// It was not.
    New,
    /// It was: the answer reveals nothing new.
    Repeated,
}

impl DistinctKeys {
    /// Makes an empty memory. The burst of the rate is not used.
    #[must_use]
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, answered: Mutex::default() }
    }

    /// Counts a key of a known user, unless it is counted already in this period.
    ///
    /// # Errors
    /// When the user has had as many different keys in this period as the rate permits.
    pub(crate) fn admit(&self, user: &str, key_id: [u8; 32], now: Instant) -> Result<Novelty, Limited> {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = answered.entry(user.to_owned()).or_default();
        keys.retain(|key| now.duration_since(key.since) < self.rate.period);
        if keys.iter().any(|key| key.key_id == key_id) {
            return Ok(Novelty::Repeated);
        }
        if keys.len() >= self.rate.count.get() as usize {
            return Err(self.limited(keys, now));
        }
        keys.push(AnsweredKey { key_id, since: now });
        Ok(Novelty::New)
    }

    fn limited(&self, keys: &[AnsweredKey], now: Instant) -> Limited {
        let oldest = keys.iter().map(|key| now.duration_since(key.since)).max().unwrap_or_default();
        Limited {
            name: "distinct_keys",
            limit: self.rate.count.get(),
            window: self.rate.period,
            retry_after: self.rate.period.saturating_sub(oldest),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Presents keys at these seconds, at a rate of two in five minutes, and compares which are admitted.
    #[track_caller]
    fn check(asked: &[(&str, u8, u64)], expected: &[bool]) {
        let keys = DistinctKeys::new("2/5min".parse().unwrap());
        let start = Instant::now();
        let admitted =
            asked.iter().map(|&(user, key, at)| keys.admit(user, [key; 32], start + Duration::from_secs(at)).is_ok());
        assert_eq!(admitted.collect::<Vec<_>>(), expected, "{asked:?}");
    }

    #[test]
    fn refuses_a_key_too_many() {
        check(&[("ann", 1, 0), ("ann", 2, 1), ("ann", 3, 2)], &[true, true, false]);
    }

    #[test]
    fn the_same_key_counts_once_and_is_always_answered() {
        check(
            &[("ann", 1, 0), ("ann", 1, 1), ("ann", 2, 2), ("ann", 3, 3), ("ann", 1, 4)],
            &[true, true, true, false, true],
        );
    }

    #[test]
    fn each_user_has_keys_of_their_own() {
        check(&[("ann", 1, 0), ("ann", 2, 0), ("bob", 3, 0), ("ann", 3, 0)], &[true, true, true, false]);
    }

    #[test]
    fn keys_expire_with_the_window() {
        check(
            &[("ann", 1, 0), ("ann", 2, 100), ("ann", 3, 299), ("ann", 3, 300), ("ann", 4, 399)],
            &[true, true, false, true, false],
        );
    }

    #[test]
    fn a_repeated_key_does_not_live_longer() {
        check(
            &[("ann", 1, 0), ("ann", 2, 0), ("ann", 1, 299), ("ann", 3, 300), ("ann", 1, 300)],
            &[true, true, true, true, true],
        );
    }

    #[test]
    fn a_time_before_the_last_one_does_no_harm() {
        check(&[("ann", 1, 10), ("ann", 2, 5), ("ann", 3, 0)], &[true, true, false]);
    }

    #[test]
    fn says_when_the_oldest_key_is_forgotten() {
        let keys = DistinctKeys::new("2/5min".parse().unwrap());
        let start = Instant::now();
        keys.admit("ann", [1; 32], start).unwrap();
        keys.admit("ann", [2; 32], start + Duration::from_secs(50)).unwrap();
        let limited = keys.admit("ann", [3; 32], start + Duration::from_secs(100)).unwrap_err();
        assert_eq!((limited.name, limited.limit), ("distinct_keys", 2));
        assert_eq!((limited.window.as_secs(), limited.retry_after.as_secs()), (300, 200));
    }
}
