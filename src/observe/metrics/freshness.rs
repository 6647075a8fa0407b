//! The freshness of the keys of an identity provider.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use super::labels::{FetchResult, Label};

/// The fetches of one key set.
#[derive(Debug, Default)]
pub struct Freshness {
    fetches: [AtomicU64; FetchResult::COUNT],
    /// In seconds of Unix time; 0: never.
    loaded: AtomicI64,
    /// Why the last fetch failed; nothing if it succeeded.
    problem: Mutex<Option<String>>,
}

impl Freshness {
    /// Notes a fetch, with its problem if it failed.
    pub fn note(&self, problem: Option<String>, now: Timestamp) {
        let result = if problem.is_none() { FetchResult::Ok } else { FetchResult::Failed };
        self.fetches[result.index()].fetch_add(1, Ordering::Relaxed);
        if problem.is_none() {
            self.loaded.store(now.as_second(), Ordering::Relaxed);
        }
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Checks that the last fetch succeeded; returns the age of the keys.
    ///
    /// # Errors
    /// Returns why it failed, and the age of the keys that stay in use.
    pub fn check(&self, now: Timestamp) -> Result<String, String> {
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let age = now.as_second().saturating_sub(self.loaded()).max(0);
        match (self.is_loaded(), problem) {
            (true, None) => Ok(format!("keys fetched {age} s ago")),
            (true, Some(problem)) => Err(format!("{problem}; the keys of {age} s ago stay in use")),
            (false, problem) => Err(problem.unwrap_or_else(|| "not fetched yet".to_owned())),
        }
    }

    /// Tells whether keys have ever been fetched.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.loaded() != 0
    }

    pub(super) fn fetches(&self, result: FetchResult) -> u64 {
        self.fetches[result.index()].load(Ordering::Relaxed)
    }

    /// Returns when keys were last fetched, in seconds of Unix time; 0: never.
    pub(super) fn loaded(&self) -> i64 {
        self.loaded.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_fetch_is_a_problem_until_the_next_one_succeeds() {
        let freshness = Freshness::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        let check = |problem: Option<&str>, found: Result<&str, &str>| {
            freshness.note(problem.map(str::to_owned), at(100));
            assert_eq!(freshness.check(at(107)), found.map(str::to_owned).map_err(str::to_owned));
        };
        assert_eq!(freshness.check(at(100)), Err("not fetched yet".to_owned()));
        check(Some("away"), Err("away"));
        check(None, Ok("keys fetched 7 s ago"));
        check(Some("away"), Err("away; the keys of 7 s ago stay in use"));
        check(None, Ok("keys fetched 7 s ago"));
        assert_eq!((freshness.fetches(FetchResult::Ok), freshness.fetches(FetchResult::Failed)), (2, 2));
        assert_eq!(freshness.check(at(90)), Ok("keys fetched 0 s ago".to_owned()));
    }
}
