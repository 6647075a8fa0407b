//! Secret seeds under which keys are hashed. Unlike those of the standard library they can be passed to the next process.

#[expect(deprecated, reason = "its algorithm is fixed and takes a key; its successors have neither")]
use std::hash::SipHasher;
use std::hash::{BuildHasher, Hash};

use serde::{Deserialize, Serialize};

use crate::random;

/// The hash of a key: 128 bits under two random seeds, enough to rule out collisions.
pub(super) type Fingerprint = [u64; 2];

/// Hashes keys of tables whose size is bounded, so that 128 bits tell them apart.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct HashSeeds([HashSeed; 2]);

impl HashSeeds {
    /// Returns the fingerprint of a key.
    pub(super) fn fingerprint<K: Hash + ?Sized>(&self, key: &K) -> Fingerprint {
        self.0.each_ref().map(|seed| seed.hash_one(key))
    }
}

/// The secret key of SipHash-2-4. By default a random one.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct HashSeed(u64, u64);

impl Default for HashSeed {
    fn default() -> Self {
        Self(u64::from_ne_bytes(random::bytes()), u64::from_ne_bytes(random::bytes()))
    }
}

#[expect(deprecated, reason = "its algorithm is fixed and takes a key; its successors have neither")]
impl BuildHasher for HashSeed {
    type Hasher = SipHasher;

    fn build_hasher(&self) -> SipHasher {
        SipHasher::new_with_keys(self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_that_were_passed_on_hash_as_before_and_no_two_alike() {
        let seeds = HashSeeds::default();
        let passed: HashSeeds = serde_json::from_str(&serde_json::to_string(&seeds).unwrap()).unwrap();
        assert_eq!(passed.fingerprint("key"), seeds.fingerprint("key"));
        assert_ne!(HashSeeds::default().fingerprint("key"), seeds.fingerprint("key"));
        let [one, other] = seeds.fingerprint("key");
        assert_ne!(one, other);
    }
}
