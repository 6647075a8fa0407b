//! The places of a key in a table: its own, then those of the networks around it.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limit::seeds::{Fingerprint, HashSeeds};

/// A query to the table.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum TableQuery {
    /// Counts an event of a key if it is admitted.
    Admit(KeyPlaces),
    /// Checks whether an event of a key would be admitted. Counts nothing.
    Peek(KeyPlaces),
}

impl TableQuery {
    pub(super) const fn places(&self) -> &KeyPlaces {
        match self {
            Self::Admit(places) | Self::Peek(places) => places,
        }
    }

    pub(super) const fn is_peek(&self) -> bool {
        matches!(self, Self::Peek(_))
    }
}

/// The places of a key, in the order in which they are tried.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KeyPlaces {
    places: [KeyPlace; 3],
    /// How many of `places` are used.
    count: usize,
    cell: u64,
    cell_share: u64,
}

/// One place: an entry of a set.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct KeyPlace {
    pub(super) key: Fingerprint,
    pub(super) region: SetRegion,
    /// How many keys may count together there.
    pub(super) share: u64,
    window: SetWindow,
}

/// The sets that a place may be in.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum SetRegion {
    /// All sets.
    Whole,
    /// The sets of IPv4 addresses.
    V4,
    /// The sets of IPv6 networks.
    V6,
}

/// The part of the region that a place may be in.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum SetWindow {
    /// The whole region.
    Open,
    /// The sets of the widest network around the key.
    Wide(u64),
    /// The few sets of a narrower network, within those of the widest one.
    Narrow { wide: u64, narrow: u64 },
}

/// How many sets the keys of one IPv6 /48 may use.
const NARROW_SETS: u64 = 4;
/// How many times the quota of one key the keys of a network share.
const TOGETHER: u64 = 16;

impl KeyPlaces {
    /// Returns the place of a key that belongs to no network.
    pub(super) const fn alone(key: Fingerprint) -> Self {
        let place = KeyPlace { key, region: SetRegion::Whole, share: 1, window: SetWindow::Open };
        Self { places: [place; 3], count: 1, cell: key[1], cell_share: 1 }
    }

    pub(super) fn places(&self) -> &[KeyPlace] {
        &self.places[..self.count]
    }

    /// Returns the number of the shared cell, to be reduced to the number of cells.
    pub(super) const fn cell(&self) -> u64 {
        self.cell
    }

    /// Returns how many keys may count together in the cell.
    pub(super) const fn cell_share(&self) -> u64 {
        self.cell_share
    }
}

impl KeyPlace {
    /// Returns the number of its set, to be reduced to the number of sets of its region; a window has `sets` sets.
    pub(super) fn set_number(&self, sets: u64) -> u64 {
        let [key, _] = self.key;
        match self.window {
            SetWindow::Open => key,
            SetWindow::Wide(wide) => mix(wide, key % sets),
            SetWindow::Narrow { wide, narrow } => mix(wide, mix(narrow, key % NARROW_SETS) % sets),
        }
    }
}

/// Combines a secret hash and a number into an evenly spread number.
fn mix(hash: u64, number: u64) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one((hash, number))
}

impl HashSeeds {
    /// Returns the place of a key that belongs to no network.
    pub(in crate::limit) fn places<K: Hash + ?Sized>(&self, key: &K) -> KeyPlaces {
        KeyPlaces::alone(self.fingerprint(key))
    }

    /// Returns the places of a key that belongs to an address: an IPv4 address, or an IPv6 network of /64.
    pub(in crate::limit) fn places_at<K: Hash + ?Sized>(&self, address: IpAddr, key: &K) -> KeyPlaces {
        let key = self.fingerprint(key);
        match address {
            IpAddr::V4(address) => self.places_v4(address, key),
            IpAddr::V6(network) => self.places_v6(network, key),
        }
    }

    fn places_v4(&self, address: Ipv4Addr, key: Fingerprint) -> KeyPlaces {
        let bits = address.to_bits();
        let [wide, cell] = self.fingerprint(&(4, 16, bits >> 16));
        let place = |key, share| KeyPlace { key, region: SetRegion::V4, share, window: SetWindow::Wide(wide) };
        let neighbours = place(self.fingerprint(&(4, 24, bits >> 8)), TOGETHER);
        KeyPlaces { places: [place(key, 1), neighbours, neighbours], count: 2, cell, cell_share: TOGETHER }
    }

    fn places_v6(&self, network: Ipv6Addr, key: Fingerprint) -> KeyPlaces {
        let bits = network.to_bits();
        let of = |prefix: u32| self.fingerprint(&(6, prefix, bits >> (128 - prefix)));
        let ([wide, cell], site) = (of(32), of(48));
        let narrow = SetWindow::Narrow { wide, narrow: site[1] };
        let place = |key, share, window| KeyPlace { key, region: SetRegion::V6, share, window };
        let places =
            [place(key, 1, narrow), place(of(56), TOGETHER, narrow), place(site, TOGETHER, SetWindow::Wide(wide))];
        KeyPlaces { places, count: 3, cell, cell_share: TOGETHER }
    }
}
