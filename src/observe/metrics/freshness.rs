//! The freshness of the keys of an identity provider.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use jiff::Timestamp;

use super::labels::{FetchResult, Label};

/// Counts the fetches of one key set.
#[derive(Debug, Default)]
pub struct Freshness {
    fetches: [AtomicU64; FetchResult::COUNT],
    /// In seconds of Unix time; 0: never.
    loaded: AtomicI64,
}

impl Freshness {
    /// Counts a fetch, which succeeded or failed.
    pub fn note(&self, success: bool, now: Timestamp) {
        let result = if success { FetchResult::Ok } else { FetchResult::Failed };
        self.fetches[result.index()].fetch_add(1, Ordering::Relaxed);
        if success {
            self.loaded.store(now.as_second(), Ordering::Relaxed);
        }
    }

    pub(super) fn fetches(&self, result: FetchResult) -> u64 {
        self.fetches[result.index()].load(Ordering::Relaxed)
    }

    /// Returns when keys were last fetched, in seconds of Unix time; 0: never.
    pub(super) fn loaded(&self) -> i64 {
        self.loaded.load(Ordering::Relaxed)
    }
}
