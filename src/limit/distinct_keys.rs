//! How many different one-time keys are answered for one Voximplant user.
//!
//! Each answer permits one guess at the password offline, so the number of different keys is limited. An answer to the
//! same key again reveals nothing new.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Limited;
use crate::memory::{MemoryWriter, ProcessMemory, nanos};
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

/// The keys that count, for the same rate in the next process.
#[derive(Serialize, Deserialize)]
struct KeysMemory {
    rate: Rate,
    users: Vec<(String, Vec<KeyMemory>)>,
}

#[derive(Serialize, Deserialize)]
struct KeyMemory {
    #[serde(with = "hex")]
    key_id: [u8; 32],
    /// How long ago it was answered, in nanoseconds.
    age: u64,
}

/// The name of the keys in a memory.
const PART: &str = "distinct_keys";

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

    /// Makes a memory with the keys that a process before has answered, if its rate was the same.
    #[must_use]
    pub(crate) fn take_over(rate: Rate, memory: &mut ProcessMemory) -> Self {
        let part = memory.take(PART).filter(|part: &KeysMemory| part.rate == rate);
        part.map_or_else(|| Self::new(rate), |part| Self::from_memory(part, memory.age(), Instant::now()))
    }

    /// Writes the keys for the next process.
    ///
    /// # Errors
    /// As the writer.
    pub(crate) fn pass_on(&self, writer: &mut MemoryWriter<'_>) -> io::Result<()> {
        writer.add(PART, &self.to_memory(writer.now()))
    }

    fn to_memory(&self, now: Instant) -> KeysMemory {
        let written = |key: &AnsweredKey| {
            let age = now.duration_since(key.since);
            (age < self.rate.period).then(|| KeyMemory { key_id: key.key_id, age: nanos(age) })
        };
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let users = answered.iter().map(|(user, keys)| (user.clone(), keys.iter().filter_map(written).collect()));
        KeysMemory { rate: self.rate, users: users.filter(|(_, keys): &(_, Vec<_>)| !keys.is_empty()).collect() }
    }

    /// Makes a memory of what was written `age` ago.
    fn from_memory(memory: KeysMemory, age: Duration, now: Instant) -> Self {
        let KeysMemory { rate, users } = memory;
        let live = |key: KeyMemory| {
            let age = Duration::from_nanos(key.age).saturating_add(age);
            let since = now.checked_sub(age).filter(|_| age < rate.period)?;
            Some(AnsweredKey { key_id: key.key_id, since })
        };
        let users = users.into_iter().map(|(user, keys)| (user, keys.into_iter().filter_map(live).collect()));
        Self { rate, answered: Mutex::new(users.filter(|(_, keys): &(_, Vec<_>)| !keys.is_empty()).collect()) }
    }

    /// Counts a key of a known user, unless it is counted already in this period.
    ///
    /// # Errors
    /// When the user has had as many different keys in this period as the rate permits.
    pub(crate) fn admit(&self, user: &str, key_id: [u8; 32], now: Instant) -> Result<Novelty, Limited> {
        self.admit_among(NonZeroU32::MIN, user, key_id, now)
    }

    /// As [`DistinctKeys::admit`], with the part of the rate that one of several members has: one key at least.
    ///
    /// # Errors
    /// When the user has had as many different keys here.
    pub(super) fn admit_among(
        &self,
        members: NonZeroU32,
        user: &str,
        key_id: [u8; 32],
        now: Instant,
    ) -> Result<Novelty, Limited> {
        let most = (self.rate.count.get() / members).max(1) as usize;
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = self.counted(&mut answered, user, now);
        if keys.iter().any(|key| key.key_id == key_id) {
            return Ok(Novelty::Repeated);
        }
        if keys.len() >= most {
            return Err(self.limited_after(self.wait(keys, most, now)));
        }
        keys.push(AnsweredKey { key_id, since: now });
        Ok(Novelty::New)
    }

    /// Notes a key that was admitted for all members.
    pub(super) fn note(&self, user: &str, key_id: [u8; 32], now: Instant) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = self.counted(&mut answered, user, now);
        let is_known = keys.iter().any(|key| key.key_id == key_id);
        // An engine that lost what it knew may admit more.
        if !is_known && keys.len() < self.rate.count.get() as usize {
            keys.push(AnsweredKey { key_id, since: now });
        }
    }

    /// Returns the rate.
    pub(super) const fn rate(&self) -> Rate {
        self.rate
    }

    /// Returns the keys of a user that count now.
    fn counted<'a>(
        &self,
        answered: &'a mut HashMap<String, Vec<AnsweredKey>>,
        user: &str,
        now: Instant,
    ) -> &'a mut Vec<AnsweredKey> {
        let keys = answered.entry(user.to_owned()).or_default();
        keys.retain(|key| now.duration_since(key.since) < self.rate.period);
        keys
    }

    /// Returns how long until fewer than `most` of the keys count.
    fn wait(&self, keys: &[AnsweredKey], most: usize, now: Instant) -> Duration {
        let mut ages: Vec<_> = keys.iter().map(|key| now.duration_since(key.since)).collect();
        ages.sort_unstable_by(|one, other| other.cmp(one));
        let last = ages.get(ages.len().saturating_sub(most)).copied().unwrap_or_default();
        self.rate.period.saturating_sub(last)
    }

    /// Returns the answer when the next key is admitted after a wait.
    pub(super) const fn limited_after(&self, retry_after: Duration) -> Limited {
        Limited { name: "distinct_keys", limit: self.rate.count.get(), window: self.rate.period, retry_after }
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

    /// Passes keys on at a time, in a memory that comes `age` later.
    fn passed_on(keys: &DistinctKeys, now: Instant, age: Duration) -> DistinctKeys {
        let text = serde_json::to_string(&keys.to_memory(now)).unwrap();
        DistinctKeys::from_memory(serde_json::from_str(&text).unwrap(), age, now + age)
    }

    #[test]
    fn the_next_process_counts_the_same_keys_for_the_rest_of_the_period() {
        let (keys, start) = (DistinctKeys::new("2/5min".parse().unwrap()), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        keys.admit("ann", [1; 32], start).unwrap();
        keys.admit("ann", [2; 32], at(100)).unwrap();
        keys.admit("bob", [1; 32], start).unwrap();
        let next = passed_on(&keys, at(200), Duration::from_secs(1));
        assert_eq!(next.admit("ann", [2; 32], at(201)), Ok(Novelty::Repeated));
        assert_eq!(next.admit("ann", [3; 32], at(201)).unwrap_err().retry_after.as_secs(), 99);
        assert_eq!(next.admit("bob", [2; 32], at(201)), Ok(Novelty::New));
        assert_eq!(next.admit("ann", [3; 32], at(300)), Ok(Novelty::New));
        let late = passed_on(&keys, at(200), Duration::from_secs(100));
        assert_eq!(late.answered.lock().unwrap().len(), 1, "those of bob have expired");
        let lost = DistinctKeys::from_memory(keys.to_memory(at(200)), Duration::MAX, at(200));
        assert!(lost.answered.lock().unwrap().is_empty());
    }

    #[test]
    fn a_key_from_the_future_counts_for_a_period_at_most() {
        let (keys, start) = (DistinctKeys::new("1/5min".parse().unwrap()), Instant::now());
        keys.admit("ann", [1; 32], start + Duration::from_secs(1000)).unwrap();
        let next = passed_on(&keys, start, Duration::ZERO);
        assert_eq!(next.admit("ann", [2; 32], start).unwrap_err().retry_after.as_secs(), 300);
    }

    #[test]
    fn keys_are_taken_over_at_the_same_rate_alone() {
        let (rate, now) = ("1/24h".parse().unwrap(), Instant::now());
        let keys = DistinctKeys::new(rate);
        keys.admit("ann", [1; 32], now).unwrap();
        let admits = |rate: &str, passed: bool| {
            let mut bytes = Vec::new();
            let mut writer = MemoryWriter::begin(&mut bytes).unwrap();
            if passed {
                keys.pass_on(&mut writer).unwrap();
            }
            writer.end().unwrap();
            let mut memory = ProcessMemory::read(&*bytes).unwrap();
            let next = DistinctKeys::take_over(rate.parse().unwrap(), &mut memory);
            next.admit("ann", [2; 32], Instant::now()).is_ok()
        };
        assert!(!admits("1/24h", true) && admits("1/12h", true) && admits("1/24h", false));
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
