//! Secret seeds under which keys are hashed. Unlike those of the standard library they can be passed to the next process.

use std::hash::{BuildHasher, Hash};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;
use siphasher::sip128::{self, Hasher128};

use crate::random;

/// The hash of a key: 128 bits under a random seed, enough to rule out collisions.
pub(super) type Fingerprint = [u64; 2];

/// The secret key of SipHash-1-3. By default a random one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct HashSeed(u64, u64);

impl Default for HashSeed {
    fn default() -> Self {
        Self(u64::from_ne_bytes(random::bytes()), u64::from_ne_bytes(random::bytes()))
    }
}

impl HashSeed {
    /// Returns the fingerprint of a key. The number of keys in a table is bounded, so that 128 bits tell them apart.
    pub(super) fn fingerprint<K: Hash + ?Sized>(self, key: &K) -> Fingerprint {
        let mut hasher = sip128::SipHasher13::new_with_keys(self.0, self.1);
        key.hash(&mut hasher);
        let hash = hasher.finish128();
        [hash.h1, hash.h2]
    }
}

impl BuildHasher for HashSeed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_that_were_passed_on_hash_as_before_and_no_two_alike() {
        let seed = HashSeed::default();
        let passed: HashSeed = serde_json::from_str(&serde_json::to_string(&seed).unwrap()).unwrap();
        assert_eq!(passed.fingerprint("key"), seed.fingerprint("key"));
        assert_ne!(HashSeed::default().fingerprint("key"), seed.fingerprint("key"));
        let [one, other] = seed.fingerprint("key");
        assert_ne!(one, other);
    }
}
