//! The credentials seen lately at an address, as keyed hashes, each with an expiry.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::seeds::{Fingerprint, HashSeeds};
use super::source::LimitSource;

/// A memory of bounded size. A full one drops the entry that expires first.
///
/// It holds at most 33 bytes for each source of its capacity.
pub(crate) struct SeenCredentials {
    life: Duration,
    seeds: HashSeeds,
    sets: Box<[Mutex<Vec<SeenCredential>>]>,
}

struct SeenCredential {
    key: Fingerprint,
    until: Instant,
}

/// The entries of one set.
const WAYS: usize = 64;

impl SeenCredentials {
    /// Makes a memory of `cap` sources, each kept for `life` after it was last noted.
    #[must_use]
    pub(crate) fn new(cap: usize, life: Duration) -> Self {
        let sets = (0..cap.div_ceil(WAYS).max(1)).map(|_| Mutex::default()).collect();
        Self { life, seeds: HashSeeds::default(), sets }
    }

    /// Returns whether a source is remembered.
    #[must_use]
    pub(crate) fn has(&self, source: &LimitSource, now: Instant) -> bool {
        let key = self.seeds.fingerprint(source);
        self.set(key).iter().any(|entry| entry.key == key && now < entry.until)
    }

    /// Remembers a source from now on. Returns whether it is new.
    pub(crate) fn note(&self, source: &LimitSource, now: Instant) -> bool {
        let (key, until) = (self.seeds.fingerprint(source), now + self.life);
        let mut set = self.set(key);
        if let Some(entry) = set.iter_mut().find(|entry| entry.key == key) {
            let is_new = entry.until <= now;
            entry.until = until;
            return is_new;
        }
        if set.len() < WAYS {
            set.push(SeenCredential { key, until });
        } else if let Some(oldest) = set.iter_mut().min_by_key(|entry| entry.until) {
            *oldest = SeenCredential { key, until };
        }
        true
    }

    /// Forgets a source.
    pub(crate) fn forget(&self, source: &LimitSource) {
        let key = self.seeds.fingerprint(source);
        self.set(key).retain(|entry| entry.key != key);
    }

    fn set(&self, key: Fingerprint) -> MutexGuard<'_, Vec<SeenCredential>> {
        let set = &self.sets[(key[0] % self.sets.len() as u64) as usize];
        set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(60);

    fn source(number: u8) -> LimitSource {
        LimitSource::credential([192, 0, 2, 1].into(), [number; 32])
    }

    #[test]
    fn a_source_is_remembered_for_its_time() {
        let (memory, start) = (SeenCredentials::new(100, LIFE), Instant::now());
        assert!(!memory.has(&source(1), start));
        assert!(memory.note(&source(1), start));
        assert!(!memory.note(&source(1), start + LIFE / 2));
        assert!(memory.has(&source(1), start + LIFE));
        assert!(!memory.has(&source(1), start + LIFE + LIFE / 2));
        assert!(memory.note(&source(1), start + LIFE * 2), "it is new again");
        memory.forget(&source(1));
        assert!(!memory.has(&source(1), start + LIFE * 2));
    }

    #[test]
    fn a_credential_is_remembered_at_its_address_alone() {
        let (memory, now) = (SeenCredentials::new(100, LIFE), Instant::now());
        memory.note(&source(1), now);
        assert!(!memory.has(&source(2), now));
        assert!(!memory.has(&LimitSource::credential([192, 0, 2, 2].into(), [1; 32]), now));
        assert!(!memory.has(&LimitSource::address([192, 0, 2, 1].into()), now));
    }

    #[test]
    fn a_full_memory_forgets_the_oldest() {
        let (memory, start) = (SeenCredentials::new(64, LIFE), Instant::now());
        for number in 0..=64 {
            memory.note(&source(number), start + Duration::from_millis(number.into()));
        }
        assert!(!memory.has(&source(0), start));
        assert!((1..=64).all(|number| memory.has(&source(number), start)));
    }
}
