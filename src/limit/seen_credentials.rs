//! The credentials seen lately at an address, as keyed hashes, each with an expiry.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::packed::{LifeLeft, PackedEntry, PackedSet};
use super::seeds::{Fingerprint, HashSeed};
use super::source::{LimitSource, probe};
use crate::memory::{MemoryWriter, ProcessMemory, nanos};

/// A memory of bounded size. A full one drops the entry that expires first.
///
/// It holds at most 33 bytes for each source of its capacity.
pub(crate) struct SeenCredentials {
    name: &'static str,
    life: Duration,
    seed: HashSeed,
    sets: Box<[Mutex<Vec<SeenCredential>>]>,
}

struct SeenCredential {
    key: Fingerprint,
    until: Instant,
}

/// The entries that have not expired, for a memory of the same size in the next process.
#[derive(Serialize, Deserialize)]
struct SeenMemory {
    seed: HashSeed,
    probe: Fingerprint,
    sets: Vec<PackedSet>,
}

/// The entries of one set.
const WAYS: usize = 64;

impl SeenCredentials {
    /// Makes a memory of `cap` sources, each kept for `life` after it was last noted. No other memory has its name.
    #[must_use]
    pub(crate) fn new(name: &'static str, cap: usize, life: Duration) -> Self {
        let sets = (0..cap.div_ceil(WAYS).max(1)).map(|_| Mutex::default()).collect();
        Self { name, life, seed: HashSeed::default(), sets }
    }

    /// Makes a memory with the entries that a process before had under the same name.
    #[must_use]
    pub(crate) fn take_over(name: &'static str, cap: usize, life: Duration, memory: &mut ProcessMemory) -> Self {
        let new = Self::new(name, cap, life);
        match memory.take(name) {
            Some(part) => new.with(part, memory.age(), Instant::now()),
            None => new,
        }
    }

    /// Writes the entries for the next process.
    ///
    /// # Errors
    /// As the writer.
    pub(crate) fn pass_on(&self, writer: &mut MemoryWriter<'_>) -> io::Result<()> {
        writer.add(self.name, &self.to_memory(writer.now()))
    }

    fn to_memory(&self, now: Instant) -> SeenMemory {
        let packed = |entry: &SeenCredential| {
            let left = nanos(entry.until.saturating_duration_since(now));
            (left > 0).then_some(PackedEntry { key: entry.key, left })
        };
        let sets = self.sets.iter().map(|set| PackedSet(lock(set).iter().filter_map(packed).collect()));
        SeenMemory { seed: self.seed, probe: probe(self.seed), sets: sets.collect() }
    }

    /// Adds entries that were written `age` ago to this empty memory, unless they come from one of another size or with other
    /// hashes.
    fn with(mut self, memory: SeenMemory, age: Duration, now: Instant) -> Self {
        let SeenMemory { seed, probe: expected, sets } = memory;
        let fits = sets.len() == self.sets.len() && sets.iter().all(|set| set.0.len() <= WAYS);
        if !fits || probe(seed) != expected {
            return self;
        }
        self.seed = seed;
        let life = LifeLeft { longest: self.life, age };
        for (set, packed) in self.sets.iter().zip(sets) {
            let live = |PackedEntry { key, left }| Some(SeenCredential { key, until: now + life.of(left)? });
            lock(set).extend(packed.0.into_iter().filter_map(live));
        }
        self
    }

    /// Returns whether a source is remembered.
    #[must_use]
    pub(crate) fn has(&self, source: &LimitSource, now: Instant) -> bool {
        let key = self.seed.fingerprint(source);
        self.set(key).iter().any(|entry| entry.key == key && now < entry.until)
    }

    /// Remembers a source from now on. Returns whether it is new.
    pub(crate) fn note(&self, source: &LimitSource, now: Instant) -> bool {
        let (key, until) = (self.seed.fingerprint(source), now + self.life);
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
        let key = self.seed.fingerprint(source);
        self.set(key).retain(|entry| entry.key != key);
    }

    fn set(&self, key: Fingerprint) -> MutexGuard<'_, Vec<SeenCredential>> {
        lock(&self.sets[(key[0] % self.sets.len() as u64) as usize])
    }
}

/// Locks even after a panic elsewhere: an entry is never half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (memory, start) = (SeenCredentials::new("proven", 100, LIFE), Instant::now());
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
        let (memory, now) = (SeenCredentials::new("proven", 100, LIFE), Instant::now());
        memory.note(&source(1), now);
        assert!(!memory.has(&source(2), now));
        assert!(!memory.has(&LimitSource::credential([192, 0, 2, 2].into(), [1; 32]), now));
        assert!(!memory.has(&LimitSource::address([192, 0, 2, 1].into()), now));
    }

    #[test]
    fn a_full_memory_forgets_the_oldest() {
        let (memory, start) = (SeenCredentials::new("proven", 64, LIFE), Instant::now());
        for number in 0..=64 {
            memory.note(&source(number), start + Duration::from_millis(number.into()));
        }
        assert!(!memory.has(&source(0), start));
        assert!((1..=64).all(|number| memory.has(&source(number), start)));
    }

    /// Passes a memory on, which comes `age` later.
    fn passed_on(memory: &SeenCredentials, cap: usize, now: Instant, age: Duration) -> SeenCredentials {
        let text = serde_json::to_string(&memory.to_memory(now)).unwrap();
        SeenCredentials::new("proven", cap, LIFE).with(serde_json::from_str(&text).unwrap(), age, now + age)
    }

    #[test]
    fn the_next_process_remembers_each_credential_for_the_rest_of_its_time() {
        let (memory, start) = (SeenCredentials::new("proven", 100, LIFE), Instant::now());
        memory.note(&source(1), start);
        memory.note(&source(2), start + LIFE / 2);
        let next = passed_on(&memory, 100, start + LIFE / 2, Duration::from_secs(1));
        assert!(next.has(&source(1), start + LIFE - Duration::from_nanos(1)));
        assert!(!next.has(&source(1), start + LIFE));
        assert!(next.has(&source(2), start + LIFE) && !next.has(&source(3), start));
        assert!(!next.note(&source(2), start + LIFE), "it is not new");
        let late = passed_on(&memory, 100, start + LIFE, Duration::ZERO);
        assert!(late.has(&source(2), start + LIFE));
        assert_eq!(late.sets.iter().map(|set| lock(set).len()).sum::<usize>(), 1, "the dead stay behind");
    }

    #[test]
    fn no_clock_makes_a_credential_last_longer_than_its_life() {
        let (memory, start) = (SeenCredentials::new("proven", 100, LIFE), Instant::now());
        memory.note(&source(1), start + LIFE * 100);
        let next = passed_on(&memory, 100, start, Duration::ZERO);
        assert!(next.has(&source(1), start) && !next.has(&source(1), start + LIFE));
        assert!(!passed_on(&memory, 100, start, LIFE).has(&source(1), start + LIFE));
    }

    #[test]
    fn a_memory_of_another_size_or_hash_is_not_taken_over() {
        let (memory, now) = (SeenCredentials::new("proven", 100, LIFE), Instant::now());
        memory.note(&source(1), now);
        assert!(!passed_on(&memory, 1000, now, Duration::ZERO).has(&source(1), now));
        let refused = |change: &dyn Fn(&mut SeenMemory)| {
            let mut memory = memory.to_memory(now);
            change(&mut memory);
            !SeenCredentials::new("proven", 100, LIFE).with(memory, Duration::ZERO, now).has(&source(1), now)
        };
        assert!(!refused(&|_| ()));
        assert!(refused(&|memory| memory.probe[1] ^= 1));
        assert!(refused(&|memory| memory.sets[0].0 = vec![PackedEntry { key: [0, 0], left: 1 }; WAYS + 1]));
    }
}
