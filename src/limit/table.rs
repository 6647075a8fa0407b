//! The counts of a limiter, in a table of bounded size.
//!
//! Clients choose the keys (above all their addresses). So keys are stored as hashes of fixed size under secret seeds,
//! in sets of fixed size. A key whose set is full of live entries counts with its neighbours: in the entry of a wider
//! network, at last in a shared cell. A network may use only a part of the sets, IPv4 and IPv6 have halves of their
//! own, and no count is dropped to make room.

mod places;

use std::sync::{Mutex, MutexGuard, PoisonError};

use governor::nanos::Nanos;
use governor::state::StateStore;

pub(super) use self::places::{Fingerprint, HashSeeds, TableQuery};
use self::places::{KeyPlace, SetRegion};

/// A bounded store of theoretical arrival times (a term of GCRA), by hashed key.
///
/// It holds at most 25 bytes for each key of its capacity, and 16 KiB for the shared cells.
pub(super) struct ArrivalTable {
    sets: Box<[Mutex<Vec<ArrivalEntry>>]>,
    ways: usize,
    shared: Box<[Mutex<Nanos>]>,
    interval: Nanos,
}

/// The entry of one key. After its arrival time it is dead, which equals absent.
struct ArrivalEntry {
    key: Fingerprint,
    arrival: Nanos,
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

    /// Returns the set of a place: one of its region, within the window of its networks.
    fn set(&self, place: &KeyPlace) -> &Mutex<Vec<ArrivalEntry>> {
        let half = self.sets.len().div_ceil(2);
        let region = match place.region {
            SetRegion::Whole => &self.sets[..],
            SetRegion::V4 => &self.sets[..half],
            // With one set, both share it.
            SetRegion::V6 => &self.sets[half.min(self.sets.len() - 1)..],
        };
        let window = (region.len() / NETWORKS).max(1) as u64;
        &region[(place.set_number(window) % region.len() as u64) as usize]
    }

    /// Returns an entry for a new key: a dead one, or a new one while the set may grow.
    fn free_entry<'set>(&self, set: &'set mut Vec<ArrivalEntry>, now: Nanos) -> Option<&'set mut ArrivalEntry> {
        if let Some(dead) = set.iter().position(|slot| slot.arrival <= now) {
            return set.get_mut(dead);
        }
        if set.len() == self.ways {
            return None;
        }
        set.push(ArrivalEntry { key: Fingerprint::default(), arrival: Nanos::default() });
        set.last_mut()
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
        if let Some(slot) = set.iter_mut().find(|slot| slot.key == place.key) {
            return Some(query.answer(&mut slot.arrival, now, place.share, measure));
        }
        if query.is_peek() {
            let has_room = set.len() < self.ways || set.iter().any(|slot| slot.arrival <= now);
            return has_room.then(|| measure(None).map(|(outcome, _)| outcome));
        }
        let slot = self.free_entry(&mut set, now)?;
        *slot = ArrivalEntry { key: place.key, arrival: Nanos::default() };
        Some(query.answer(&mut slot.arrival, now, place.share, measure))
    }
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
        for place in places.places() {
            if let Some(settled) = self.answer_in_set(query, place, now, &measure) {
                return settled;
            }
        }
        let mut cell = lock(&self.shared[(places.cell() % self.shared.len() as u64) as usize]);
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
mod tests {
    use std::mem::{size_of, size_of_val};
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::places::KeyPlaces;
    use super::*;

    const INTERVAL: Nanos = Nanos::new(10);

    /// Queries as governor does for a quota of one; returns whether the key is admitted.
    fn ask(table: &ArrivalTable, now: u64, query: TableQuery) -> bool {
        let now = Nanos::new(now);
        let decide =
            |arrival: Option<Nanos>| if now < arrival.unwrap_or(now) { Err(()) } else { Ok(((), now + INTERVAL)) };
        table.measure_and_replace(&query, decide).is_ok()
    }

    fn admit(table: &ArrivalTable, now: u64, key: Fingerprint) -> bool {
        ask(table, now, TableQuery::Admit(KeyPlaces::alone(key)))
    }

    fn bytes(table: &ArrivalTable) -> usize {
        let slots: usize = table.sets.iter().map(|set| lock(set).capacity() * size_of::<ArrivalEntry>()).sum();
        size_of::<ArrivalTable>() + size_of_val(&*table.sets) + size_of_val(&*table.shared) + slots
    }

    fn keys(table: &ArrivalTable) -> usize {
        table.sets.iter().map(|set| lock(set).len()).sum()
    }

    #[test]
    fn counts_each_key_by_itself() {
        let table = ArrivalTable::new(100, INTERVAL);
        for key in 0..50 {
            assert!(admit(&table, 100, [key, 0]));
            assert!(!admit(&table, 100, [key, 0]));
        }
    }

    #[test]
    fn a_peek_counts_nothing_and_takes_no_room() {
        let table = ArrivalTable::new(1, INTERVAL);
        for _ in 0..3 {
            assert!(ask(&table, 100, TableQuery::Peek(KeyPlaces::alone([1, 1]))));
        }
        assert_eq!(keys(&table), 0);
        assert!(admit(&table, 100, [1, 1]));
        assert!(!ask(&table, 100, TableQuery::Peek(KeyPlaces::alone([1, 1]))));
    }

    #[test]
    fn a_newcomer_to_a_full_table_shares_a_cell() {
        let table = ArrivalTable::new(1, INTERVAL);
        assert!(admit(&table, 100, [1, 1]));
        assert!(admit(&table, 100, [2, 7]), "the cell is unused");
        assert!(!admit(&table, 100, [3, 7]), "another stranger used it");
        assert!(!ask(&table, 100, TableQuery::Peek(KeyPlaces::alone([3, 7]))), "a peek sees it too");
        assert!(admit(&table, 100, [4, 8]), "another cell");
    }

    #[test]
    fn a_flood_resets_nobodys_count() {
        let table = ArrivalTable::new(200, INTERVAL);
        assert!(admit(&table, 100, [42, 42]));
        for stranger in 1000..10_000 {
            admit(&table, 100, [stranger, stranger]);
        }
        assert!(!admit(&table, 100, [42, 42]));
    }

    #[test]
    fn the_room_of_the_dead_is_used_again() {
        let table = ArrivalTable::new(1, INTERVAL);
        assert!(admit(&table, 100, [1, 7]));
        assert!(admit(&table, 110, [2, 7]));
        assert!(!admit(&table, 110, [2, 7]));
        assert!(admit(&table, 110, [3, 7]), "the second key is in a slot, so the cell is unused");
        assert_eq!(keys(&table), 1);
    }

    #[test]
    fn a_peek_sees_room_where_the_cell_is_in_use() {
        let table = ArrivalTable::new(2 * WAYS, INTERVAL);
        let peek = |now: u64, key: u64| ask(&table, now, TableQuery::Peek(KeyPlaces::alone([key, 7])));
        for even in 0..WAYS as u64 {
            assert!(admit(&table, 100, [2 * even, 7]));
        }
        assert!(admit(&table, 105, [1000, 7]), "in the cell until 115");
        assert!(!peek(105, 1002), "the set of even keys is full");
        assert!(peek(105, 1001), "that of odd ones is not");
        assert!(peek(110, 1002), "even ones have died");
    }

    // === Networks ===

    /// The replenish interval of a quota with a burst of five.
    const SLOW: Nanos = Nanos::new(160);

    /// Counts one more event of an address; returns whether it is admitted.
    fn comes(table: &ArrivalTable, seeds: &HashSeeds, address: impl Into<IpAddr>) -> bool {
        let address = address.into();
        let decide = |arrival: Option<Nanos>| {
            let (now, arrival) = (Nanos::new(1000), arrival.unwrap_or_default().max(Nanos::new(1000)));
            if arrival > now + SLOW + SLOW + SLOW + SLOW { Err(()) } else { Ok(((), arrival + SLOW)) }
        };
        table.measure_and_replace(&TableQuery::Admit(seeds.places_at(address, &address)), decide).is_ok()
    }

    /// Returns how many events of an address are admitted at once.
    fn times(table: &ArrivalTable, seeds: &HashSeeds, address: impl Into<IpAddr>) -> usize {
        let address = address.into();
        (0..1000).take_while(|_| comes(table, seeds, address)).count()
    }

    fn v6(prefix: u128) -> Ipv6Addr {
        Ipv6Addr::from_bits(prefix << 64)
    }

    /// A table of the size of a limit, after events of 120,000 networks of /64.
    fn flooded(network: impl Fn(u128) -> u128) -> (ArrivalTable, HashSeeds) {
        let (table, seeds) = (ArrivalTable::new(100_000, SLOW), HashSeeds::default());
        for number in 0..120_000 {
            comes(&table, &seeds, v6(network(number)));
        }
        (table, seeds)
    }

    #[track_caller]
    fn check_newcomers(table: &ArrivalTable, seeds: &HashSeeds) {
        for number in 0..200 {
            let newcomer = Ipv4Addr::new(198, 51, 100, number);
            assert!(comes(table, seeds, newcomer), "{newcomer}");
            let site = v6(0x2a02_0810_0000_0000 + (u128::from(number) << 16));
            assert!(comes(table, seeds, site), "{site}");
        }
    }

    #[test]
    fn a_flood_from_one_site_leaves_room_for_its_neighbours_too() {
        let (table, seeds) = flooded(|number| 0x2001_0db8_0001_0000 + number % 65_536);
        check_newcomers(&table, &seeds);
        for site in 2..202 {
            let neighbour = v6(0x2001_0db8_0000_0000 + (site << 16));
            assert!(times(&table, &seeds, neighbour) >= 5, "{neighbour}");
        }
        assert!(keys(&table) < 1000, "{} keys", keys(&table));
    }

    #[test]
    fn a_flood_from_many_sites_of_one_network_leaves_room_for_others() {
        let (table, seeds) = flooded(|number| (0x2001_0000_0000_0001) + (number << 16));
        check_newcomers(&table, &seeds);
    }

    #[test]
    fn a_flood_of_ipv4_leaves_room_for_others() {
        let (table, seeds) = (ArrivalTable::new(100_000, SLOW), HashSeeds::default());
        for number in 0..120_000 {
            comes(&table, &seeds, Ipv4Addr::from_bits(0x0a00_0000 + number));
        }
        check_newcomers(&table, &seeds);
    }

    #[test]
    fn a_flood_from_everywhere_resets_nobodys_count() {
        let (table, seeds) = (ArrivalTable::new(2000, SLOW), HashSeeds::default());
        let known: Vec<IpAddr> = vec![Ipv4Addr::new(192, 0, 2, 1).into(), v6(0x2a02_0810_0000_0000).into()];
        for address in &known {
            assert_eq!(times(&table, &seeds, *address), 5);
        }
        for number in 0..100_000u32 {
            comes(&table, &seeds, Ipv4Addr::from_bits(number.wrapping_mul(2_654_435_761)));
            comes(&table, &seeds, v6(u128::from(number) << 32));
        }
        for address in known {
            assert!(!comes(&table, &seeds, address), "{address}");
        }
        assert!(keys(&table) <= 2000);
    }

    #[test]
    fn one_set_is_for_all() {
        let (table, seeds) = (ArrivalTable::new(2, SLOW), HashSeeds::default());
        assert_eq!(times(&table, &seeds, Ipv4Addr::new(192, 0, 2, 1)), 5);
        assert_eq!(times(&table, &seeds, v6(0x2001_0db8_0000_0000)), 5);
    }

    #[test]
    fn those_who_count_together_may_come_more_often() {
        let (table, seeds) = (ArrivalTable::new(1, Nanos::new(16)), HashSeeds::default());
        let come = |now: u64, host| {
            let places = seeds.places_at(Ipv4Addr::new(192, 0, 2, host).into(), &host);
            let decide = |arrival: Option<Nanos>| {
                let now = Nanos::new(now);
                if now < arrival.unwrap_or(now) { Err(()) } else { Ok(((), now + Nanos::new(16))) }
            };
            table.measure_and_replace(&TableQuery::Admit(places), decide).is_ok()
        };
        assert!(come(100, 1), "in the one slot until 116");
        assert!(come(100, 2) && !come(100, 3), "in the cell of the network until 101");
        assert!(come(101, 3) && come(102, 2) && !come(102, 1));
    }

    #[test]
    fn never_holds_more_keys_than_its_capacity() {
        for cap in [0, 1, 2, 63, 64, 65, 100, 1000] {
            let table = ArrivalTable::new(cap, INTERVAL);
            let seeds = HashSeeds::default();
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
        let table = ArrivalTable::new(cap, INTERVAL);
        let seeds = HashSeeds::default();
        for address in 0..1_000_000u32 {
            admit(&table, 100, seeds.fingerprint(&Ipv4Addr::from_bits(address)));
        }
        assert!(keys(&table) > 90_000, "the table is in use");
        assert!(bytes(&table) <= 25 * cap + 16 * 1024 + 256, "{} bytes", bytes(&table));
    }

    #[test]
    fn keys_rarely_share_before_the_table_is_nearly_full() {
        let table = ArrivalTable::new(100_000, INTERVAL);
        let seeds = HashSeeds::default();
        for key in 0..80_000 {
            admit(&table, 100, seeds.fingerprint(&key));
        }
        assert!(keys(&table) > 79_000, "{}", keys(&table));
    }
}
