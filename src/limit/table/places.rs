//! Where a key of a table has its places: its own, then those of the networks around it.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A key as the table knows it: 128 bits under two random seeds, too many to meet another key's.
pub(crate) type Fingerprint = [u64; 2];

/// A question to the table.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum TableQuery {
    /// May this key come, and if so, count it.
    Admit(KeyPlaces),
    /// Might this key come? Counts nothing.
    Peek(KeyPlaces),
}

impl TableQuery {
    pub(super) const fn spot(&self) -> &KeyPlaces {
        match self {
            Self::Admit(spot) | Self::Peek(spot) => spot,
        }
    }

    pub(super) const fn is_peek(&self) -> bool {
        matches!(self, Self::Peek(_))
    }
}

/// The places of a key, in the order in which they are tried.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KeyPlaces {
    homes: [KeyPlace; 3],
    /// How many of `homes` there are.
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

/// Which sets a place may be in.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum SetRegion {
    /// Any.
    Whole,
    /// Those of IPv4 addresses.
    V4,
    /// Those of IPv6 networks.
    V6,
}

/// Which part of the region it may be in.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum SetWindow {
    /// All of it.
    Open,
    /// What the widest network around the key may use.
    Wide(u64),
    /// The few sets of a narrower network, within what the widest one may use.
    Narrow { wide: u64, narrow: u64 },
}

/// How many sets the keys of one IPv6 /48 may use.
const NARROW_SETS: u64 = 4;
/// How much more often the keys of a network may come together than one of them.
const TOGETHER: u64 = 16;

impl KeyPlaces {
    /// Returns the places of a key that has no neighbours.
    pub(super) const fn alone(key: Fingerprint) -> Self {
        let home = KeyPlace { key, region: SetRegion::Whole, share: 1, window: SetWindow::Open };
        Self { homes: [home; 3], count: 1, cell: key[1], cell_share: 1 }
    }

    pub(super) fn homes(&self) -> &[KeyPlace] {
        &self.homes[..self.count]
    }

    /// Returns the number of the shared cell, of any size.
    pub(super) const fn cell(&self) -> u64 {
        self.cell
    }

    /// Returns how many keys may count together in the cell.
    pub(super) const fn cell_share(&self) -> u64 {
        self.cell_share
    }
}

impl KeyPlace {
    /// Returns the number of its set, of any size; each window has `sets` of them.
    pub(super) fn at(&self, sets: u64) -> u64 {
        let [key, _] = self.key;
        match self.window {
            SetWindow::Open => key,
            SetWindow::Wide(wide) => mix(wide, key % sets),
            SetWindow::Narrow { wide, narrow } => mix(wide, mix(narrow, key % NARROW_SETS) % sets),
        }
    }
}

/// Mixes two numbers, one of them a secret hash, into one that is spread evenly.
fn mix(hash: u64, number: u64) -> u64 {
    // The finalizer of SplitMix64.
    let mut mixed = hash ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Hashes keys under seeds of its own.
#[derive(Default)]
pub(crate) struct HashSeeds([RandomState; 2]);

impl HashSeeds {
    /// Returns the table's name for a key.
    pub(crate) fn fingerprint<K: Hash + ?Sized>(&self, key: &K) -> Fingerprint {
        self.0.each_ref().map(|seed| seed.hash_one(key))
    }

    /// Returns the places of a key that has no neighbours.
    pub(crate) fn spot<K: Hash + ?Sized>(&self, key: &K) -> KeyPlaces {
        KeyPlaces::alone(self.fingerprint(key))
    }

    /// Returns the places of a key that belongs to an address: an IPv4 address, or an IPv6 network of /64.
    pub(crate) fn spot_at<K: Hash + ?Sized>(&self, address: IpAddr, key: &K) -> KeyPlaces {
        let key = self.fingerprint(key);
        match address {
            IpAddr::V4(address) => self.spot_v4(address, key),
            IpAddr::V6(network) => self.spot_v6(network, key),
        }
    }

    fn spot_v4(&self, address: Ipv4Addr, key: Fingerprint) -> KeyPlaces {
        let bits = address.to_bits();
        let [wide, cell] = self.fingerprint(&(4, 16, bits >> 16));
        let home = |key, share| KeyPlace { key, region: SetRegion::V4, share, window: SetWindow::Wide(wide) };
        let neighbours = home(self.fingerprint(&(4, 24, bits >> 8)), TOGETHER);
        KeyPlaces { homes: [home(key, 1), neighbours, neighbours], count: 2, cell, cell_share: TOGETHER }
    }

    fn spot_v6(&self, network: Ipv6Addr, key: Fingerprint) -> KeyPlaces {
        let bits = network.to_bits();
        let of = |prefix: u32| self.fingerprint(&(6, prefix, bits >> (128 - prefix)));
        let ([wide, cell], site) = (of(32), of(48));
        let narrow = SetWindow::Narrow { wide, narrow: site[1] };
        let home = |key, share, window| KeyPlace { key, region: SetRegion::V6, share, window };
        let homes = [home(key, 1, narrow), home(of(56), TOGETHER, narrow), home(site, TOGETHER, SetWindow::Wide(wide))];
        KeyPlaces { homes, count: 3, cell, cell_share: TOGETHER }
    }
}
