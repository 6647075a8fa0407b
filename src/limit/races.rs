//! Two devices that log in as one Voximplant user at the same time.
//!
//! A new key invalidates the one before, so each device makes the other's login fail. Callgate refuses neither, and
//! informs the operator.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::seeds::HashSeed;
use crate::memory::{MemoryWriter, ProcessMemory, nanos};

/// How close in time two keys of one user must be to collide.
const NEAR: Duration = Duration::from_secs(60);
/// For how long no further race of one user is reported.
const QUIET: Duration = Duration::from_secs(15 * 60);

/// The last answered key of each user.
///
/// It has at most as many users as the users files: no other user reaches it.
#[derive(Default)]
pub(crate) struct Races {
    last: Mutex<HashMap<String, LastKey>>,
    seed: HashSeed,
}

struct LastKey {
    key_id: [u8; 32],
    /// A hash of the caller: the key of its limit, or more.
    who: u64,
    client: IpAddr,
    since: Instant,
    reported: Option<Instant>,
}

/// The keys that may still race or keep a race quiet, for the next process.
#[derive(Serialize, Deserialize)]
struct RacesMemory {
    seed: HashSeed,
    last: Vec<LastKeyMemory>,
}

#[derive(Serialize, Deserialize)]
struct LastKeyMemory {
    user: String,
    #[serde(with = "hex")]
    key_id: [u8; 32],
    who: u64,
    client: IpAddr,
    /// How long ago it was answered, in nanoseconds.
    age: u64,
    /// How long ago a race was reported, in nanoseconds.
    reported: Option<u64>,
}

/// The name of the keys in a memory.
const PART: &str = "races";

/// A collision of two clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Race {
    /// The client of the earlier key.
    pub earlier: IpAddr,
    /// Whether no race of this user was reported lately.
    pub is_news: bool,
}

impl Races {
    /// Goes on with the keys that a process before has answered.
    #[must_use]
    pub(crate) fn take_over(memory: &mut ProcessMemory) -> Self {
        let part = memory.take(PART);
        part.map(|part| Self::from_memory(part, memory.age(), Instant::now())).unwrap_or_default()
    }

    /// Writes the keys for the next process.
    ///
    /// # Errors
    /// As the writer.
    pub(crate) fn pass_on(&self, writer: &mut MemoryWriter<'_>) -> io::Result<()> {
        writer.add(PART, &self.to_memory(writer.now()))
    }

    fn to_memory(&self, now: Instant) -> RacesMemory {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let last = last.iter().filter(|(_, key)| key.matters(now)).map(|(user, key)| LastKeyMemory {
            user: user.clone(),
            key_id: key.key_id,
            who: key.who,
            client: key.client,
            age: nanos(now.duration_since(key.since)),
            reported: key.reported.map(|reported| nanos(now.duration_since(reported))),
        });
        RacesMemory { seed: self.seed, last: last.collect() }
    }

    /// Goes on with what was written `age` ago.
    fn from_memory(memory: RacesMemory, age: Duration, now: Instant) -> Self {
        let before = |nanos| now.checked_sub(Duration::from_nanos(nanos).saturating_add(age));
        let live = |last: LastKeyMemory| {
            let LastKeyMemory { user, key_id, who, client, age, reported } = last;
            let key = LastKey { key_id, who, client, since: before(age)?, reported: reported.and_then(before) };
            key.matters(now).then_some((user, key))
        };
        Self { last: Mutex::new(memory.last.into_iter().filter_map(live).collect()), seed: memory.seed }
    }

    /// Notes an answered key; returns the race if another client's key of the same user was answered just before.
    pub(crate) fn note(
        &self,
        user: &str,
        key_id: [u8; 32],
        who: &impl Hash,
        client: IpAddr,
        now: Instant,
    ) -> Option<Race> {
        let who = self.seed.hash_one(who);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = last.get_mut(user) else {
            last.insert(user.to_owned(), LastKey { key_id, who, client, since: now, reported: None });
            return None;
        };
        let met = last.who != who && last.key_id != key_id && now.duration_since(last.since) < NEAR;
        let is_news = last.reported.is_none_or(|reported| now.duration_since(reported) >= QUIET);
        let race = met.then_some(Race { earlier: last.client, is_news });
        let reported = if met && is_news { Some(now) } else { last.reported };
        *last = LastKey { key_id, who, client, since: now, reported };
        race
    }
}

impl LastKey {
    /// Returns whether it may still race, or keep a race quiet.
    fn matters(&self, now: Instant) -> bool {
        now.duration_since(self.since) < NEAR
            || self.reported.is_some_and(|reported| now.duration_since(reported) < QUIET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Presents keys as (user, key, who, seconds), and compares the result: nothing, a race, a race that is news.
    #[track_caller]
    fn check(asked: &[(&str, u8, u8, u64)], expected: &[Option<bool>]) {
        let (races, start) = (Races::default(), Instant::now());
        let told = asked.iter().map(|&(user, key, who, at)| {
            let client = IpAddr::from([192, 0, 2, who]);
            let race = races.note(user, [key; 32], &who, client, start + Duration::from_secs(at));
            race.map(|race| race.is_news)
        });
        assert_eq!(told.collect::<Vec<_>>(), expected, "{asked:?}");
    }

    #[test]
    fn two_clients_with_a_key_each_race() {
        check(&[("ann", 1, 1, 0), ("ann", 2, 2, 59)], &[None, Some(true)]);
    }

    #[test]
    fn one_client_may_try_again() {
        check(&[("ann", 1, 1, 0), ("ann", 2, 1, 1), ("ann", 2, 1, 2)], &[None, None, None]);
    }

    #[test]
    fn one_key_from_two_addresses_is_one_login() {
        check(&[("ann", 1, 1, 0), ("ann", 1, 2, 1)], &[None, None]);
    }

    #[test]
    fn users_and_minutes_apart_nobody_races() {
        check(&[("ann", 1, 1, 0), ("bob", 2, 2, 1), ("ann", 2, 2, 60)], &[None, None, None]);
    }

    #[test]
    fn a_race_is_told_once_in_a_quarter_of_an_hour() {
        check(
            &[
                ("ann", 1, 1, 0),
                ("ann", 2, 2, 1),
                ("ann", 3, 1, 2),
                ("ann", 4, 1, 890),
                ("ann", 5, 2, 900),
                ("ann", 6, 1, 901),
            ],
            &[None, Some(true), Some(false), None, Some(false), Some(true)],
        );
    }

    #[test]
    fn tells_where_the_earlier_key_went() {
        let (races, now) = (Races::default(), Instant::now());
        let [one, two] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
        races.note("ann", [1; 32], &1, one, now);
        assert_eq!(races.note("ann", [2; 32], &2, two, now), Some(Race { earlier: one, is_news: true }));
    }

    #[test]
    fn the_next_process_goes_on_with_the_races() {
        let [one, two] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let races = Races::default();
        races.note("old", [1; 32], &1, one, start);
        races.note("ann", [1; 32], &1, one, at(100));
        races.note("bob", [1; 32], &1, one, at(0));
        races.note("bob", [2; 32], &2, two, at(1));
        let next = || {
            let text = serde_json::to_string(&races.to_memory(at(110))).unwrap();
            Races::from_memory(serde_json::from_str(&text).unwrap(), Duration::from_secs(10), at(120))
        };
        assert_eq!(next().last.lock().unwrap().len(), 2, "the key of old matters no more");
        let race = Race { earlier: one, is_news: true };
        assert_eq!(next().note("ann", [2; 32], &2, two, at(159)), Some(race));
        assert_eq!(next().note("ann", [2; 32], &1, two, at(159)), None, "the same caller");
        assert_eq!(next().note("ann", [2; 32], &2, two, at(160)), None);
        let quiet = next();
        quiet.note("bob", [3; 32], &1, one, at(890));
        assert_eq!(quiet.note("bob", [4; 32], &2, two, at(900)), Some(Race { earlier: one, is_news: false }));
        assert_eq!(quiet.note("bob", [5; 32], &1, one, at(901)), Some(Race { earlier: two, is_news: true }));
    }

    #[test]
    fn a_memory_without_races_or_a_very_old_one_begins_anew() {
        assert!(Races::take_over(&mut ProcessMemory::default()).last.lock().unwrap().is_empty());
        let (races, now) = (Races::default(), Instant::now());
        races.note("ann", [1; 32], &1, [192, 0, 2, 1].into(), now);
        let late = Races::from_memory(races.to_memory(now), Duration::MAX, now);
        assert!(late.last.lock().unwrap().is_empty());
    }
}
