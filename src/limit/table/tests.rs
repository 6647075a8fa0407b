use std::mem::{size_of, size_of_val};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::places::KeyPlaces;
use super::*;
use crate::limit::seeds::HashSeed;

const INTERVAL: Nanos = Nanos::new(10);

/// Queries as governor does for a quota of one; returns whether the key is admitted.
fn ask(table: &ArrivalTable, now: u64, query: TableQuery) -> bool {
    let now = Nanos::new(now);
    let decide = |arrival: Option<Nanos>| if now < arrival.unwrap_or(now) { Err(()) } else { Ok(((), now + INTERVAL)) };
    table.measure_and_replace(&query, decide).is_ok()
}

fn admit(table: &ArrivalTable, now: u64, key: Fingerprint) -> bool {
    ask(table, now, TableQuery::Admit(KeyPlaces::alone(key)))
}

fn bytes(table: &ArrivalTable) -> usize {
    let entries: usize = table.sets.iter().map(|set| lock(set).entries.capacity() * size_of::<ArrivalEntry>()).sum();
    size_of::<ArrivalTable>() + size_of_val(&*table.sets) + size_of_val(&*table.shared) + entries
}

fn keys(table: &ArrivalTable) -> usize {
    table.sets.iter().map(|set| lock(set).entries.len()).sum()
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
    assert!(admit(&table, 110, [3, 7]), "the second key is in a entry, so the cell is unused");
    assert_eq!(keys(&table), 1);
}

#[test]
fn a_peek_sees_room_where_the_cell_is_in_use() {
    let table = ArrivalTable::new(2 * WAYS, INTERVAL);
    // Of two sets, the highest bit chooses one.
    let key = |number: u64| [number.rotate_right(1), 7];
    let peek = |now: u64, number: u64| ask(&table, now, TableQuery::Peek(KeyPlaces::alone(key(number))));
    for even in 0..WAYS as u64 {
        assert!(admit(&table, 100, key(2 * even)));
    }
    assert!(admit(&table, 105, key(1000)), "in the cell until 115");
    assert!(!peek(105, 1002), "the set of even keys is full");
    assert!(peek(105, 1001), "that of odd ones is not");
    assert!(peek(110, 1002), "even ones have died");
}

// === The next process ===

const LIFE: LifeLeft = LifeLeft { longest: Duration::from_nanos(10), age: Duration::ZERO };

/// Passes a table on at a time, to one for `cap` keys. Returns it if it takes over.
fn passed_on(table: &ArrivalTable, now: u64, cap: usize, life: LifeLeft) -> Option<ArrivalTable> {
    let text = serde_json::to_string(&table.to_memory(Nanos::new(now))).unwrap();
    let next = ArrivalTable::new(cap, INTERVAL);
    next.take_over(serde_json::from_str(&text).unwrap(), life).then_some(next)
}

#[test]
fn the_next_table_counts_on_from_the_time_that_is_left() {
    let table = ArrivalTable::new(100, INTERVAL);
    assert!(admit(&table, 100, [1, 1]) && admit(&table, 95, [2, 2]) && admit(&table, 90, [3, 3]));
    let next = passed_on(&table, 102, 100, LIFE).unwrap();
    assert_eq!(keys(&next), 2, "one is dead");
    assert!(!admit(&next, 2, [2, 2]) && admit(&next, 3, [2, 2]));
    assert!(!admit(&next, 7, [1, 1]) && admit(&next, 8, [1, 1]));
    assert!(admit(&next, 0, [3, 3]));
    let late = passed_on(&table, 102, 100, LifeLeft { age: Duration::from_nanos(5), ..LIFE }).unwrap();
    assert!(!admit(&late, 2, [1, 1]) && admit(&late, 3, [1, 1]) && admit(&late, 0, [2, 2]));
}

#[test]
fn the_next_table_has_the_shared_cells_too() {
    let table = ArrivalTable::new(1, INTERVAL);
    assert!(admit(&table, 100, [1, 1]) && admit(&table, 100, [2, 7]));
    let next = passed_on(&table, 104, 1, LIFE).unwrap();
    assert!(!admit(&next, 5, [3, 7]) && admit(&next, 5, [4, 8]));
    let dead = passed_on(&table, 104, 1, LifeLeft { age: Duration::from_nanos(6), ..LIFE }).unwrap();
    assert!(admit(&dead, 0, [3, 7]));
}

#[test]
fn nothing_is_passed_on_that_lives_longer_than_a_new_entry() {
    let table = ArrivalTable::new(100, INTERVAL);
    assert!(admit(&table, 1_000_000, [1, 1]));
    let next = passed_on(&table, 5, 100, LIFE).unwrap();
    assert!(!admit(&next, 9, [1, 1]) && admit(&next, 10, [1, 1]));
}

#[test]
fn a_table_of_another_size_takes_nothing_over() {
    let table = ArrivalTable::new(100, INTERVAL);
    for cap in [1, 64, 1000] {
        assert!(passed_on(&table, 0, cap, LIFE).is_none(), "{cap}");
    }
    let refused = |change: &dyn Fn(&mut TableMemory)| {
        let mut memory = table.to_memory(Nanos::new(0));
        change(&mut memory);
        !ArrivalTable::new(100, INTERVAL).take_over(memory, LIFE)
    };
    assert!(!refused(&|_| ()));
    assert!(refused(&|memory| memory.ways = 49));
    assert!(refused(&|memory| memory.sets[0].0 = vec![PackedEntry { key: [0, 0], left: 1 }; 51]));
    assert!(refused(&|memory| memory.shared.push((SHARED, 1))));
}

// === Networks ===

/// The replenish interval of a quota with a burst of five.
const SLOW: Nanos = Nanos::new(160);

/// Counts one more event of an address; returns whether it is admitted.
fn comes(table: &ArrivalTable, seed: HashSeed, address: impl Into<IpAddr>) -> bool {
    let address = address.into();
    let decide = |arrival: Option<Nanos>| {
        let (now, arrival) = (Nanos::new(1000), arrival.unwrap_or_default().max(Nanos::new(1000)));
        if arrival > now + SLOW + SLOW + SLOW + SLOW { Err(()) } else { Ok(((), arrival + SLOW)) }
    };
    table.measure_and_replace(&TableQuery::Admit(seed.places_at(address, &address)), decide).is_ok()
}

/// Returns how many events of an address are admitted at once.
fn times(table: &ArrivalTable, seed: HashSeed, address: impl Into<IpAddr>) -> usize {
    let address = address.into();
    (0..1000).take_while(|_| comes(table, seed, address)).count()
}

fn v6(prefix: u128) -> Ipv6Addr {
    Ipv6Addr::from_bits(prefix << 64)
}

/// A table of the size of a limit, after one event of each of 120,000 addresses.
fn flooded<A: Into<IpAddr>>(address: impl Fn(u32) -> A) -> (ArrivalTable, HashSeed) {
    let (table, seed) = (ArrivalTable::new(100_000, SLOW), HashSeed::default());
    for number in 0..120_000 {
        comes(&table, seed, address(number));
    }
    (table, seed)
}

/// Returns the newcomers whom a table refuses.
fn refused_newcomers(table: &ArrivalTable, seed: HashSeed) -> Vec<IpAddr> {
    let addresses = (0..200).map(|number| Ipv4Addr::new(198, 51, 100, number).into());
    let sites = (0..200).map(|number| v6(0x2a02_0810_0000_0000 + (number << 16)).into());
    addresses.chain(sites).filter(|newcomer: &IpAddr| !comes(table, seed, *newcomer)).collect()
}

/// Checks that a flood leaves room under random seeds. Under one of about a thousand seeds, all places of a newcomer
/// are among those of the flood, so one of three tables may refuse some.
#[track_caller]
fn check_flood(refused_under_new_seeds: impl Fn() -> Vec<IpAddr>) {
    let refused: Vec<Vec<IpAddr>> = (0..3).map(|_| refused_under_new_seeds()).collect();
    assert!(refused.iter().filter(|refused| refused.is_empty()).count() >= 2, "{refused:?}");
}

#[test]
fn a_flood_from_one_site_leaves_room_for_its_neighbours_too() {
    check_flood(|| {
        let (table, seed) = flooded(|number| v6(0x2001_0db8_0001_0000 + u128::from(number) % 65_536));
        let mut refused = refused_newcomers(&table, seed);
        let neighbours = (2..202).map(|site| IpAddr::from(v6(0x2001_0db8_0000_0000 + (site << 16))));
        refused.extend(neighbours.filter(|neighbour| times(&table, seed, *neighbour) < 5));
        assert!(keys(&table) < 1000, "{} keys", keys(&table));
        refused
    });
}

#[test]
fn a_flood_from_many_sites_of_one_network_leaves_room_for_others() {
    check_flood(|| {
        let (table, seed) = flooded(|number| v6(0x2001_0000_0000_0001 + (u128::from(number) << 16)));
        refused_newcomers(&table, seed)
    });
}

#[test]
fn a_flood_of_ipv4_leaves_room_for_others() {
    check_flood(|| {
        let (table, seed) = flooded(|number| Ipv4Addr::from_bits(0x0a00_0000 + number));
        refused_newcomers(&table, seed)
    });
}

#[test]
fn a_flood_from_everywhere_resets_nobodys_count() {
    let (table, seed) = (ArrivalTable::new(2000, SLOW), HashSeed::default());
    let known: Vec<IpAddr> = vec![Ipv4Addr::new(192, 0, 2, 1).into(), v6(0x2a02_0810_0000_0000).into()];
    for address in &known {
        assert_eq!(times(&table, seed, *address), 5);
    }
    for number in 0..100_000u32 {
        comes(&table, seed, Ipv4Addr::from_bits(number.wrapping_mul(2_654_435_761)));
        comes(&table, seed, v6(u128::from(number) << 32));
    }
    for address in known {
        assert!(!comes(&table, seed, address), "{address}");
    }
    assert!(keys(&table) <= 2000);
}

#[test]
fn one_set_is_for_all() {
    let (table, seed) = (ArrivalTable::new(2, SLOW), HashSeed::default());
    assert_eq!(times(&table, seed, Ipv4Addr::new(192, 0, 2, 1)), 5);
    assert_eq!(times(&table, seed, v6(0x2001_0db8_0000_0000)), 5);
}

#[test]
fn those_who_count_together_may_come_more_often() {
    let (table, seed) = (ArrivalTable::new(1, Nanos::new(16)), HashSeed::default());
    let come = |now: u64, host| {
        let places = seed.places_at(Ipv4Addr::new(192, 0, 2, host).into(), &host);
        let decide = |arrival: Option<Nanos>| {
            let now = Nanos::new(now);
            if now < arrival.unwrap_or(now) { Err(()) } else { Ok(((), now + Nanos::new(16))) }
        };
        table.measure_and_replace(&TableQuery::Admit(places), decide).is_ok()
    };
    assert!(come(100, 1), "in the one entry until 116");
    assert!(come(100, 2) && !come(100, 3), "in the cell of the network until 101");
    assert!(come(101, 3) && come(102, 2) && !come(102, 1));
}

#[test]
fn never_holds_more_keys_than_its_capacity() {
    for cap in [0, 1, 2, 63, 64, 65, 100, 1000] {
        let table = ArrivalTable::new(cap, INTERVAL);
        let seed = HashSeed::default();
        for key in 0..5000 {
            admit(&table, 100, seed.fingerprint(&key));
        }
        let held = keys(&table);
        assert!(held <= cap.max(1) && held * 10 >= cap * 9, "{held} of {cap}");
    }
}

#[test]
fn a_million_addresses_stay_within_the_documented_bytes() {
    let cap = 100_000;
    let table = ArrivalTable::new(cap, INTERVAL);
    let seed = HashSeed::default();
    for address in 0..1_000_000u32 {
        admit(&table, 100, seed.fingerprint(&Ipv4Addr::from_bits(address)));
    }
    assert!(keys(&table) > 90_000, "the table is in use");
    assert!(bytes(&table) <= 26 * cap + 16 * 1024 + 256, "{} bytes", bytes(&table));
}

#[test]
fn keys_rarely_share_before_the_table_is_nearly_full() {
    let table = ArrivalTable::new(100_000, INTERVAL);
    let seed = HashSeed::default();
    for key in 0..80_000 {
        admit(&table, 100, seed.fingerprint(&key));
    }
    assert!(keys(&table) > 79_000, "{}", keys(&table));
}
