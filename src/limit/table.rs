//! The counts of a limiter, in a table of bounded size.
//!
//! Clients choose the keys (above all their addresses). So keys are stored as hashes of fixed size under secret seeds,
//! in sets of fixed size. A key whose set is full of live entries counts with its neighbours: in the entry of a wider
//! network, at last in a shared cell. A network may use only a part of the sets, IPv4 and IPv6 have halves of their
//! own, and no count is dropped to make room.

mod places;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use governor::nanos::Nanos;
use governor::state::StateStore;
use serde::{Deserialize, Serialize};

use self::places::{KeyPlace, SetRegion};
pub(super) use self::places::{KeyPlaces, TableKey, TableQuery};
use super::packed::{LifeLeft, PackedEntry, PackedSet};
use super::seeds::Fingerprint;

/// A bounded store of theoretical arrival times (a term of GCRA), by hashed key.
///
/// It holds at most 26 bytes for each key of its capacity, and 16 KiB for the shared cells. Its clones are the same table.
#[derive(Clone)]
pub(super) struct ArrivalTable {
    sets: Arc<[Mutex<ArrivalSet>]>,
    ways: usize,
    shared: Arc<[Mutex<Nanos>]>,
    interval: Nanos,
}

/// The entries of one set.
struct ArrivalSet {
    /// A byte of each key.
    tags: [u8; WAYS],
    /// No entry is dead before this time.
    earliest: Nanos,
    entries: Vec<ArrivalEntry>,
}

impl Default for ArrivalSet {
    fn default() -> Self {
        Self { tags: [0; WAYS], earliest: Nanos::default(), entries: Vec::new() }
    }
}

/// The entry of one key. After its arrival time it is dead, which equals absent.
struct ArrivalEntry {
    key: Fingerprint,
    arrival: Nanos,
}

/// The live entries of a table, for a table of the same size in the next process.
#[derive(Serialize, Deserialize)]
pub(super) struct TableMemory {
    ways: usize,
    sets: Vec<PackedSet>,
    /// The shared cells that live: the number of each, and the nanoseconds that it has left.
    shared: Vec<(usize, u64)>,
}

impl ArrivalTable {
    /// Makes a table for `cap` keys (at least one) of a limiter that replenishes one event each `interval`.
    pub(super) fn new(cap: usize, interval: Nanos) -> Self {
        let sets = cap.max(1).div_ceil(WAYS);
        Self {
            sets: (0..sets).map(|_| Mutex::default()).collect(),
            ways: cap.max(1) / sets,
            shared: (0..SHARED).map(|_| Mutex::default()).collect(),
            interval,
        }
    }

    /// Writes down what is alive at a time.
    pub(super) fn to_memory(&self, now: Nanos) -> TableMemory {
        let left = |arrival: Nanos| Some(arrival.saturating_sub(now).as_u64()).filter(|left| *left > 0);
        let packed = |entry: &ArrivalEntry| left(entry.arrival).map(|left| PackedEntry { key: entry.key, left });
        let sets = self.sets.iter().map(|set| PackedSet(lock(set).entries.iter().filter_map(packed).collect()));
        let shared = self.shared.iter().enumerate().filter_map(|(cell, arrival)| Some((cell, left(*lock(arrival))?)));
        TableMemory { ways: self.ways, sets: sets.collect(), shared: shared.collect() }
    }

    /// Returns how many keys are alive at a time, and the longest time that one of them, or a shared cell, has left.
    pub(super) fn usage(&self, now: Nanos) -> (usize, Nanos) {
        let (mut keys, mut longest) = (0, Nanos::default());
        for set in &*self.sets {
            for entry in lock(set).entries.iter().filter(|entry| entry.arrival > now) {
                keys += 1;
                longest = longest.max(entry.arrival.saturating_sub(now));
            }
        }
        let cells = self.shared.iter().map(|cell| lock(cell).saturating_sub(now));
        (keys, cells.fold(longest, Ord::max))
    }

    /// Returns how many keys are told apart at most.
    pub(super) fn capacity(&self) -> usize {
        self.sets.len() * self.ways
    }

    /// Fills this new table, whose time is 0, with what another one held; returns whether that had the same size.
    pub(super) fn take_over(&self, memory: TableMemory, life: LifeLeft) -> bool {
        let is_full = |set: &PackedSet| set.0.len() > self.ways;
        let fits = memory.ways == self.ways && memory.sets.len() == self.sets.len() && !memory.sets.iter().any(is_full);
        if !fits || memory.shared.iter().any(|(cell, _)| *cell >= self.shared.len()) {
            return false;
        }
        for (set, packed) in self.sets.iter().zip(memory.sets) {
            let live = |PackedEntry { key, left }| Some(ArrivalEntry { key, arrival: life.of(left)?.into() });
            let mut set = lock(set);
            packed.0.into_iter().filter_map(live).for_each(|entry| set.push(entry));
        }
        for (cell, left) in memory.shared {
            *lock(&self.shared[cell]) = life.of(left).unwrap_or_default().into();
        }
        true
    }

    /// Returns the set of a place: one of its region, within the window of its networks.
    fn set(&self, place: &KeyPlace) -> &Mutex<ArrivalSet> {
        let half = self.sets.len().div_ceil(2);
        let region = match place.region {
            SetRegion::Whole => &self.sets[..],
            SetRegion::V4 => &self.sets[..half],
            // With one set, both share it.
            SetRegion::V6 => &self.sets[half.min(self.sets.len() - 1)..],
        };
        let window = (region.len() / NETWORKS).max(1);
        &region[place.set_index(region.len(), window)]
    }

    /// Answers a query in the entry of a place; nothing if its set is full of other live keys.
    fn answer_in_set<T, E>(
        &self,
        query: &TableQuery,
        place: &KeyPlace,
        now: Nanos,
        measure: impl Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    ) -> Option<Result<T, E>> {
        let mut set = lock(self.set(place));
        if let Some(entry) = set.find(place.key) {
            return Some(query.answer(&mut entry.arrival, now, place.share, measure));
        }
        if query.is_peek() {
            let has_room = set.entries.len() < self.ways || set.dead(now).is_some();
            return has_room.then(|| measure(None).map(|(outcome, _)| outcome));
        }
        let entry = set.make(place.key, now, self.ways)?;
        Some(query.answer(&mut entry.arrival, now, place.share, measure))
    }
}

impl ArrivalSet {
    /// Finds the entry of a key.
    fn find(&mut self, key: Fingerprint) -> Option<&mut ArrivalEntry> {
        let pattern = u64::from_ne_bytes([tag(key); 8]);
        let (words, _) = self.tags.as_chunks::<8>();
        for (nth, word) in words.iter().enumerate() {
            let mut equal = zero_bytes(u64::from_le_bytes(*word) ^ pattern);
            while equal != 0 {
                let index = nth * 8 + equal.trailing_zeros() as usize / 8;
                if self.entries.get(index).is_some_and(|entry| entry.key == key) {
                    return self.entries.get_mut(index);
                }
                equal &= equal - 1;
            }
        }
        None
    }

    /// Makes an entry for a new key in the place of a dead one, or behind the others while there are fewer than `ways`.
    fn make(&mut self, key: Fingerprint, now: Nanos, ways: usize) -> Option<&mut ArrivalEntry> {
        let entry = ArrivalEntry { key, arrival: Nanos::default() };
        match self.dead(now) {
            Some(dead) => {
                (self.tags[dead], self.entries[dead]) = (tag(key), entry);
                self.entries.get_mut(dead)
            }
            None if self.entries.len() < ways => {
                self.push(entry);
                self.entries.last_mut()
            }
            None => None,
        }
    }

    /// Finds a dead entry.
    fn dead(&mut self, now: Nanos) -> Option<usize> {
        if self.earliest > now {
            return None;
        }
        let dead = self.entries.iter().position(|entry| entry.arrival <= now);
        if dead.is_none() {
            self.earliest = self.entries.iter().map(|entry| entry.arrival).min().unwrap_or_default();
        }
        dead
    }

    fn push(&mut self, entry: ArrivalEntry) {
        self.tags[self.entries.len()] = tag(entry.key);
        self.earliest = self.earliest.min(entry.arrival);
        self.entries.push(entry);
    }
}

/// Returns the byte of a key by which most others are told from it without a look at them.
const fn tag([_, key]: Fingerprint) -> u8 {
    (key >> 56) as u8
}

/// Returns the highest bit of each byte that is 0.
const fn zero_bytes(word: u64) -> u64 {
    const LOW: u64 = u64::from_ne_bytes([0x7f; 8]);
    !(((word & LOW) + LOW) | word | LOW)
}

impl StateStore for ArrivalTable {
    type Key = TableQuery;

    fn measure_and_replace<T, F, E>(&self, query: &TableQuery, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        // governor does not pass the time, but it always admits an unknown key until now + interval.
        let now = measure(None)?.1.saturating_sub(self.interval);
        let places = query.places();
        for place in places.iter() {
            if let Some(answer) = self.answer_in_set(query, &place, now, &measure) {
                return answer;
            }
        }
        let mut cell = lock(&self.shared[(places.cell() % SHARED as u64) as usize]);
        query.answer(&mut cell, now, places.cell_share(), measure)
    }
}

impl TableQuery {
    /// Lets governor decide on an arrival time, and stores its new value unless the query is a peek. Where `share` keys
    /// may count together, an event counts for only a `share`th.
    fn answer<T, E>(
        &self,
        arrival: &mut Nanos,
        now: Nanos,
        share: u64,
        measure: impl Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    ) -> Result<T, E> {
        let (outcome, next) = measure(Some(*arrival))?;
        if !self.is_peek() {
            let from = (*arrival).max(now);
            *arrival = from + Nanos::new(next.saturating_sub(from).as_u64().div_ceil(share));
        }
        Ok(outcome)
    }
}

/// Locks even after a panic elsewhere: plain numbers are never half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The entries of one set, all of which a query may read. Sets of this size are rarely full before the table is.
const WAYS: usize = 64;

/// The number of cells shared by keys without an entry.
const SHARED: usize = 1024;

/// How many of the widest networks (IPv4: /16, IPv6: /32) fill a region: each may use one part of so many.
const NETWORKS: usize = 8;

#[cfg(test)]
mod tests;
