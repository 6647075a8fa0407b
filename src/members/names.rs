//! The names of keys in the shared engine. They hold no names of people and no addresses: each is an HMAC under a key of
//! the ring.

use std::fmt::Write as _;

use aws_lc_rs::hmac;

use crate::model::digest::sha256_of;
use crate::model::key_ring::KeyRing;

/// The bytes of an HMAC that a name has: as many as keep two names apart.
const NAME_BYTES: usize = 16;
/// The use for which a key of the ring is derived.
const PURPOSE: &str = "names in the shared engine";

/// Makes the names of one installation.
pub(crate) struct KeyNames {
    prefix: String,
    /// The keys of the ring, the one that writes first.
    keys: Vec<hmac::Key>,
}

/// The name of a key in the engine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct EngineKey(String);

impl EngineKey {
    /// Returns the name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl KeyNames {
    pub(super) fn new(prefix: &str, ring: &KeyRing) -> Self {
        let keys = ring.keys().iter().map(|key| hmac::Key::new(hmac::HMAC_SHA256, &key.derive(PURPOSE)[..]));
        Self { prefix: prefix.to_owned(), keys: keys.collect() }
    }

    /// Returns a name that is no secret, such as that of the table of freezes.
    pub(crate) fn plain(&self, kind: &str) -> EngineKey {
        EngineKey(format!("{}:{kind}", self.prefix))
    }

    /// Returns the name under which an item is written.
    pub(crate) fn of(&self, kind: &str, item: &[&[u8]]) -> EngineKey {
        self.under(&self.keys[0], kind, item)
    }

    /// Returns all names under which members may have written an item, the own one first. All have the same hash tag.
    pub(crate) fn all_of(&self, kind: &str, item: &[&[u8]]) -> Vec<EngineKey> {
        self.keys.iter().map(|key| self.under(key, kind, item)).collect()
    }

    /// The hash tag depends on the item alone, so that a cluster keeps its names under all keys at one node. It is one
    /// byte, which tells nothing about the item.
    fn under(&self, key: &hmac::Key, kind: &str, item: &[&[u8]]) -> EngineKey {
        let digest = sha256_of([kind.as_bytes()].into_iter().chain(item.iter().copied()));
        let mut name = format!("{}:{kind}:{{{:02x}}}:", self.prefix, digest[0]);
        for byte in &hmac::sign(key, &digest).as_ref()[..NAME_BYTES] {
            let _ = write!(name, "{byte:02x}");
        }
        EngineKey(name)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    fn names(keys: &[u8]) -> KeyNames {
        let lines: Vec<_> = keys.iter().map(|byte| BASE64_STANDARD.encode([*byte; 32])).collect();
        KeyNames::new("callgate", &KeyRing::parse(&lines.join("\n")).unwrap())
    }

    #[test]
    fn a_name_shows_its_kind_and_no_item() {
        let name = names(&[1]).of("limit", &[b"client", b"192.0.2.1"]);
        let rest = name.as_str().strip_prefix("callgate:limit:{").unwrap();
        assert_eq!((&rest[2..4], rest.len()), ("}:", 2 + 2 + 2 * NAME_BYTES));
        assert_eq!(names(&[1]).plain("freezes").as_str(), "callgate:freezes");
    }

    #[test]
    fn items_kinds_and_keys_have_names_of_their_own() {
        let item: [&[u8]; 2] = [b"a", b"b"];
        let names = names(&[1, 2]);
        let all = [
            names.of("limit", &item),
            names.of("mark", &item),
            names.of("limit", &[b"ab"]),
            names.of("limit", &[b"a", b"c"]),
            names.all_of("limit", &item).remove(1),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one), "{one:?}");
        }
    }

    #[test]
    fn members_in_the_middle_of_a_rotation_know_each_others_names() {
        let (before, after) = (names(&[1, 2]), names(&[2, 1]));
        let (one, other) = (before.all_of("mark", &[b"x"]), after.all_of("mark", &[b"x"]));
        assert_eq!(one.iter().rev().collect::<Vec<_>>(), other.iter().collect::<Vec<_>>());
        let tag = |key: &EngineKey| key.as_str()[..18].to_owned();
        assert_eq!(tag(&one[0]), tag(&one[1]));
    }
}
