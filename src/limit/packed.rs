//! The entries of a table as one process writes them for the next one: hashed keys, each with the time it has left.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::seeds::Fingerprint;

/// An entry, with the nanoseconds until it is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackedEntry {
    pub(super) key: Fingerprint,
    pub(super) left: u64,
}

/// The entries of one set: in JSON one text, of 32 letters for each.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PackedSet(pub(super) Vec<PackedEntry>);

impl PackedEntry {
    fn words(&self) -> [u64; 3] {
        let [one, other] = self.key;
        [one, other, self.left]
    }
}

impl Serialize for PackedSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(PackedEntry::words).flat_map(u64::to_le_bytes).collect();
        serializer.serialize_str(&BASE64_STANDARD_NO_PAD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for PackedSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'_, str>::deserialize(deserializer)?;
        let bytes =
            BASE64_STANDARD_NO_PAD.decode(text.as_bytes()).map_err(|_| D::Error::custom("a set is no Base64"))?;
        let (words, []) = bytes.as_chunks::<8>() else { return Err(D::Error::custom("a set has half a number")) };
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let (entries, []) = words.as_chunks::<3>() else { return Err(D::Error::custom("a set has half an entry")) };
        Ok(Self(entries.iter().map(|[one, other, left]| PackedEntry { key: [*one, *other], left: *left }).collect()))
    }
}

/// How long an entry lives on: what it had left, at most the `longest` life, without the time since then.
#[derive(Debug, Clone, Copy)]
pub(super) struct LifeLeft {
    pub(super) longest: Duration,
    /// How long ago the entries were written.
    pub(super) age: Duration,
}

impl LifeLeft {
    /// Returns the life of an entry; nothing if it is dead by now.
    pub(super) fn of(self, left: u64) -> Option<Duration> {
        let left = Duration::from_nanos(left).min(self.longest);
        left.checked_sub(self.age).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_read_as_it_was_written() {
        let entry = |key, left| PackedEntry { key: [key, !key], left };
        for entries in [vec![], vec![entry(1, 2)], vec![entry(u64::MAX, 0), entry(0, u64::MAX), entry(7, 8)]] {
            let text = serde_json::to_string(&PackedSet(entries.clone())).unwrap();
            assert_eq!(text.len(), 2 + 32 * entries.len());
            assert_eq!(serde_json::from_str::<PackedSet>(&text).unwrap(), PackedSet(entries));
        }
    }

    #[test]
    fn a_damaged_set_is_refused() {
        let whole = serde_json::to_string(&PackedSet(vec![PackedEntry { key: [1, 2], left: 3 }])).unwrap();
        for bad in
            [whole.replacen('A', "?", 1), whole.replacen("AAAA", "", 1), format!("\"{}\"", &whole[1..12]), "7".into()]
        {
            assert!(serde_json::from_str::<PackedSet>(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_entry_lives_no_longer_than_a_new_one_and_dies_on_the_way() {
        let life = |longest, age| LifeLeft { longest: Duration::from_nanos(longest), age: Duration::from_nanos(age) };
        for (longest, age, left, expected) in [
            (100, 0, 7, Some(7)),
            (100, 3, 7, Some(4)),
            (100, 7, 7, None),
            (100, u64::MAX, 7, None),
            (100, 0, 0, None),
            (100, 3, u64::MAX, Some(97)),
        ] {
            assert_eq!(
                life(longest, age).of(left),
                expected.map(Duration::from_nanos),
                "{left} of {longest}, {age} ago"
            );
        }
    }
}
