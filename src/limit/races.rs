//! Two devices that log in as one Voximplant user at the same time.
//!
//! A new key invalidates the one before, so each device makes the other's login fail. Callgate refuses neither, and
//! informs the operator.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::seeds::HashSeed;

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

/// A collision of two clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Race {
    /// The client of the earlier key.
    pub earlier: IpAddr,
    /// Whether no race of this user was reported lately.
    pub is_news: bool,
}

impl Races {
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
}
