//! The places of a key in a table: its own, then those of the networks around it.

use std::hash::Hash;
use std::net::IpAddr;

use crate::limit::seeds::{Fingerprint, HashSeed};

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

/// A key of a table.
pub(crate) trait TableKey {
    /// Returns its places under a seed.
    fn places(&self, seed: HashSeed) -> KeyPlaces;
}

/// The places of a key, in the order in which they are tried.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KeyPlaces {
    key: Fingerprint,
    around: KeyNetworks,
}

/// The networks around a key. Those that are seldom needed are hashed when they are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum KeyNetworks {
    None,
    V4 { seed: HashSeed, bits: u32, wide: Fingerprint },
    V6 { seed: HashSeed, bits: u64, wide: Fingerprint, site: Fingerprint },
}

/// One place: an entry of a set.
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
const NARROW_SETS: usize = 4;
/// How many times the quota of one key the keys of a network share.
const TOGETHER: u64 = 16;

impl KeyPlaces {
    /// Returns the place of a key that belongs to no network.
    pub(super) const fn alone(key: Fingerprint) -> Self {
        Self { key, around: KeyNetworks::None }
    }

    /// Returns the places, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = KeyPlace> {
        (0..3).map_while(|nth| self.nth(nth))
    }

    fn nth(&self, nth: usize) -> Option<KeyPlace> {
        let key = self.key;
        let place = |key, region, share, window| Some(KeyPlace { key, region, share, window });
        match (self.around, nth) {
            (KeyNetworks::None, 0) => place(key, SetRegion::Whole, 1, SetWindow::Open),
            (KeyNetworks::V4 { wide, .. }, 0) => place(key, SetRegion::V4, 1, SetWindow::Wide(wide[0])),
            (KeyNetworks::V4 { seed, bits, wide }, 1) => {
                place(network(seed, 24, (bits >> 8).into()), SetRegion::V4, TOGETHER, SetWindow::Wide(wide[0]))
            }
            (KeyNetworks::V6 { wide, site, .. }, 0) => place(key, SetRegion::V6, 1, narrow(wide, site)),
            (KeyNetworks::V6 { seed, bits, wide, site }, 1) => {
                place(network(seed, 56, bits >> 8), SetRegion::V6, TOGETHER, narrow(wide, site))
            }
            (KeyNetworks::V6 { wide, site, .. }, 2) => place(site, SetRegion::V6, TOGETHER, SetWindow::Wide(wide[0])),
            _ => None,
        }
    }

    /// Returns the number of the shared cell, to be reduced to the number of cells.
    pub(super) const fn cell(&self) -> u64 {
        match self.around {
            KeyNetworks::None => self.key[1],
            KeyNetworks::V4 { wide, .. } | KeyNetworks::V6 { wide, .. } => wide[1],
        }
    }

    /// Returns how many keys may count together in the cell.
    pub(super) const fn cell_share(&self) -> u64 {
        match self.around {
            KeyNetworks::None => 1,
            KeyNetworks::V4 { .. } | KeyNetworks::V6 { .. } => TOGETHER,
        }
    }
}

impl KeyPlace {
    /// Returns the index of its set among those of its region; a window has `window` sets of them.
    pub(super) const fn set_index(&self, sets: usize, window: usize) -> usize {
        let [key, _] = self.key;
        let number = match self.window {
            SetWindow::Open => key,
            SetWindow::Wide(wide) => mix(wide, reduced(key, window)),
            SetWindow::Narrow { wide, narrow } => mix(wide, reduced(mix(narrow, reduced(key, NARROW_SETS)), window)),
        };
        reduced(number, sets)
    }
}

/// Combines a secret hash and a number into an evenly spread number (SplitMix64).
const fn mix(hash: u64, number: usize) -> u64 {
    let mixed = hash.wrapping_add((number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Reduces an evenly spread number to an index below `count`.
const fn reduced(number: u64, count: usize) -> usize {
    ((number as u128 * count as u128) >> 64) as usize
}

/// Returns the fingerprint of a network: the first `prefix` bits of an address, 56 at most. No prefix is of both families.
fn network(seed: HashSeed, prefix: u64, bits: u64) -> Fingerprint {
    seed.fingerprint(&(prefix << 56 | bits))
}

const fn narrow([wide, _]: Fingerprint, [_, narrow]: Fingerprint) -> SetWindow {
    SetWindow::Narrow { wide, narrow }
}

#[cfg(test)]
impl TableKey for str {
    fn places(&self, seed: HashSeed) -> KeyPlaces {
        seed.places(self)
    }
}

impl HashSeed {
    /// Returns the place of a key that belongs to no network.
    pub(in crate::limit) fn places<K: Hash + ?Sized>(self, key: &K) -> KeyPlaces {
        KeyPlaces::alone(self.fingerprint(key))
    }

    /// Returns the places of a key that belongs to an address: an IPv4 address, or an IPv6 network of /64.
    pub(in crate::limit) fn places_at<K: Hash + ?Sized>(self, address: IpAddr, key: &K) -> KeyPlaces {
        let around = match address {
            IpAddr::V4(address) => {
                let bits = address.to_bits();
                KeyNetworks::V4 { seed: self, bits, wide: network(self, 16, (bits >> 16).into()) }
            }
            IpAddr::V6(address) => {
                let bits = (address.to_bits() >> 64) as u64;
                let (wide, site) = (network(self, 32, bits >> 32), network(self, 48, bits >> 16));
                KeyNetworks::V6 { seed: self, bits, wide, site }
            }
        };
        KeyPlaces { key: self.fingerprint(key), around }
    }
}
