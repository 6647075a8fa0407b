//! Where a limiter keeps its counts: a table that has a size, not a growth.
//!
//! Strangers choose the keys (addresses, above all), so keys are kept as hashes of fixed size, under a seed nobody
//! knows, in sets of fixed size. A key whose set is full of live entries counts in one of the shared cells: strangers
//! who flood the table share with strangers, and nobody's count is ever forgotten to make room.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use governor::nanos::Nanos;
use governor::state::StateStore;

/// A bounded store of theoretical arrival times (GCRA's word), by hashed key.
///
/// It holds at most 25 bytes for each key of its capacity, and 16 KiB for the shared cells.
pub(super) struct Table {
    sets: Box<[Mutex<Vec<Slot>>]>,
    ways: usize,
    shared: Box<[Mutex<Nanos>]>,
    interval: Nanos,
}

/// One key's entry. It is dead, as good as absent, once its arrival time has passed.
struct Slot {
    key: Fingerprint,
    arrival: Nanos,
}

/// A key as the table knows it: 128 bits under two random seeds, too many to meet another key's.
type Fingerprint = [u64; 2];

/// A question to the table.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Ask {
    /// May this key come, and if so, count it.
    Admit(Fingerprint),
    /// Might this key come? Counts nothing.
    Peek(Fingerprint),
}

/// Hashes keys under seeds of its own.
#[derive(Default)]
pub(super) struct Seeds([RandomState; 2]);

impl Seeds {
    /// Returns the table's name for a key.
    pub(super) fn fingerprint<K: Hash + ?Sized>(&self, key: &K) -> Fingerprint {
        self.0.each_ref().map(|seed| seed.hash_one(key))
    }
}

impl Table {
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

    /// Returns a slot for a new key: a dead one, or a fresh one while the set may grow.
    fn vacancy<'set>(&self, set: &'set mut Vec<Slot>, now: Nanos) -> Option<&'set mut Slot> {
        if let Some(dead) = set.iter().position(|slot| slot.arrival <= now) {
            return set.get_mut(dead);
        }
        if set.len() == self.ways {
            return None;
        }
        set.push(Slot { key: Fingerprint::default(), arrival: Nanos::default() });
        set.last_mut()
    }
}

impl StateStore for Table {
    type Key = Ask;

    fn measure_and_replace<T, F, E>(&self, ask: &Ask, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        // The store is not told the time, but an unknown key is always admitted until now + interval.
        let now = measure(None)?.1.saturating_sub(self.interval);
        let key = ask.key();
        let mut set = lock(pick(&self.sets, key[0]));
        if let Some(slot) = set.iter_mut().find(|slot| slot.key == key) {
            return ask.settle(&mut slot.arrival, measure);
        }
        let mut shared = lock(pick(&self.shared, key[1]));
        if matches!(ask, Ask::Peek(_)) {
            return ask.settle(&mut shared, measure);
        }
        let Some(slot) = self.vacancy(&mut set, now) else {
            return ask.settle(&mut shared, measure);
        };
        // The count moves along from the shared cell: else a flood that ebbs would give a second allowance.
        *slot = Slot { key, arrival: *shared };
        ask.settle(&mut slot.arrival, measure)
    }
}

impl Ask {
    const fn key(self) -> Fingerprint {
        match self {
            Self::Admit(key) | Self::Peek(key) => key,
        }
    }

    /// Lets governor decide on an arrival time, and keeps its new one unless the question was a peek.
    fn settle<T, E>(
        self,
        arrival: &mut Nanos,
        measure: impl Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    ) -> Result<T, E> {
        let (outcome, next) = measure(Some(*arrival))?;
        match self {
            Self::Admit(_) => *arrival = next,
            Self::Peek(_) => {}
        }
        Ok(outcome)
    }
}

fn pick<T>(places: &[T], hash: u64) -> &T {
    &places[(hash % places.len() as u64) as usize]
}

/// Locks even after a panic elsewhere: plain numbers are never half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The slots of one set: all that one call looks at. A set this large is rarely full before the table is.
const WAYS: usize = 64;

/// The cells shared by those who find no slot.
const SHARED: usize = 1024;

#[cfg(test)]
mod tests {
    use std::mem::{size_of, size_of_val};

    use super::*;

    const INTERVAL: Nanos = Nanos::new(10);

    /// Asks at a time as governor does for a quota of one at once; returns whether the key may come.
    fn ask(table: &Table, now: u64, ask: Ask) -> bool {
        let now = Nanos::new(now);
        let decide =
            |arrival: Option<Nanos>| if now < arrival.unwrap_or(now) { Err(()) } else { Ok(((), now + INTERVAL)) };
        table.measure_and_replace(&ask, decide).is_ok()
    }

    fn admit(table: &Table, now: u64, key: Fingerprint) -> bool {
        ask(table, now, Ask::Admit(key))
    }

    fn bytes(table: &Table) -> usize {
        let slots: usize = table.sets.iter().map(|set| lock(set).capacity() * size_of::<Slot>()).sum();
        size_of::<Table>() + size_of_val(&*table.sets) + size_of_val(&*table.shared) + slots
    }

    fn keys(table: &Table) -> usize {
        table.sets.iter().map(|set| lock(set).len()).sum()
    }

    #[test]
    fn counts_each_key_by_itself() {
        let table = Table::new(100, INTERVAL);
        for key in 0..50 {
            assert!(admit(&table, 100, [key, 0]));
            assert!(!admit(&table, 100, [key, 0]));
        }
    }

    #[test]
    fn a_peek_counts_nothing_and_takes_no_room() {
        let table = Table::new(1, INTERVAL);
        for _ in 0..3 {
            assert!(ask(&table, 100, Ask::Peek([1, 1])));
        }
        assert_eq!(keys(&table), 0);
        assert!(admit(&table, 100, [1, 1]));
        assert!(!ask(&table, 100, Ask::Peek([1, 1])));
    }

    #[test]
    fn a_newcomer_to_a_full_table_shares_a_cell() {
        let table = Table::new(1, INTERVAL);
        assert!(admit(&table, 100, [1, 1]));
        assert!(admit(&table, 100, [2, 7]), "the cell is unused");
        assert!(!admit(&table, 100, [3, 7]), "another stranger used it");
        assert!(!ask(&table, 100, Ask::Peek([3, 7])), "a peek sees it too");
        assert!(admit(&table, 100, [4, 8]), "another cell");
    }

    #[test]
    fn a_flood_resets_nobodys_count() {
        let table = Table::new(200, INTERVAL);
        assert!(admit(&table, 100, [42, 42]));
        for stranger in 1000..10_000 {
            admit(&table, 100, [stranger, stranger]);
        }
        assert!(!admit(&table, 100, [42, 42]));
    }

    #[test]
    fn the_room_of_the_dead_is_used_again() {
        let table = Table::new(1, INTERVAL);
        assert!(admit(&table, 100, [1, 7]));
        assert!(admit(&table, 110, [2, 7]));
        assert!(!admit(&table, 110, [2, 7]));
        assert!(admit(&table, 110, [3, 7]), "the second key is in a slot, so the cell is unused");
        assert_eq!(keys(&table), 1);
    }

    #[test]
    fn a_key_that_leaves_a_shared_cell_takes_the_count_along() {
        let table = Table::new(1, INTERVAL);
        assert!(admit(&table, 100, [1, 1]));
        assert!(admit(&table, 105, [2, 7]), "in the cell until 115");
        assert!(!admit(&table, 110, [2, 7]), "in a slot of its own, still until 115");
        assert!(admit(&table, 115, [2, 7]));
    }

    #[test]
    fn never_holds_more_keys_than_its_capacity() {
        for cap in [0, 1, 2, 63, 64, 65, 100, 1000] {
            let table = Table::new(cap, INTERVAL);
            let seeds = Seeds::default();
            for key in 0..5000 {
                admit(&table, 100, seeds.fingerprint(&key));
            }
            let held = keys(&table);
            assert!(held <= cap.max(1) && held * 10 >= cap * 9, "{held} of {cap}");
        }
    }

    #[test]
    fn a_million_addresses_stay_within_the_documented_bytes() {
        let cap = 100_000;
        let table = Table::new(cap, INTERVAL);
        let seeds = Seeds::default();
        for address in 0..1_000_000u32 {
            admit(&table, 100, seeds.fingerprint(&std::net::Ipv4Addr::from_bits(address)));
        }
        assert!(keys(&table) > 90_000, "the table is in use");
        assert!(bytes(&table) <= 25 * cap + 16 * 1024 + 256, "{} bytes", bytes(&table));
    }

    #[test]
    fn keys_rarely_share_before_the_table_is_nearly_full() {
        let table = Table::new(100_000, INTERVAL);
        let seeds = Seeds::default();
        for key in 0..80_000 {
            admit(&table, 100, seeds.fingerprint(&key));
        }
        assert!(keys(&table) > 79_000, "{}", keys(&table));
    }
}
