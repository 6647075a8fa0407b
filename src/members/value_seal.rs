//! Seals values that the engine holds: it can neither read nor change them (AES-256-GCM).

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};

use crate::model::key_ring::{KeyRing, RingKey};

/// The use for which a key of the ring is derived.
const PURPOSE: &str = "values in the shared engine";

/// Seals under the first key of the ring, and opens what any of them sealed.
pub(super) struct ValueSeal {
    prefix: String,
    keys: Vec<RandomizedNonceKey>,
}

impl ValueSeal {
    pub(super) fn new(prefix: &str, ring: &KeyRing) -> Self {
        Self { prefix: prefix.to_owned(), keys: ring.keys().iter().map(key_of).collect() }
    }

    /// Returns what a value is bound to: neither a prefix nor a kind has a space.
    fn place(&self, kind: &str) -> Aad<String> {
        Aad::from(format!("{} {kind}", self.prefix))
    }

    /// Seals a value. It opens for the same prefix and kind only.
    pub(super) fn seal(&self, kind: &str, value: &[u8]) -> Vec<u8> {
        let mut sealed = value.to_vec();
        let nonce = self.keys[0].seal_in_place_append_tag(self.place(kind), &mut sealed);
        let nonce = nonce.expect("the value is shorter than 64 GiB");
        sealed.splice(..0, nonce.as_ref().iter().copied());
        sealed
    }

    /// Opens a value of a kind. Returns `None` if no key of the ring sealed it for that.
    pub(super) fn open(&self, kind: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        self.keys.iter().find_map(|key| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut text = text.to_vec();
            let length = key.open_in_place(nonce, self.place(kind), &mut text).ok()?.len();
            text.truncate(length);
            Some(text)
        })
    }
}

fn key_of(key: &RingKey) -> RandomizedNonceKey {
    RandomizedNonceKey::new(&AES_256_GCM, &key.derive(PURPOSE)[..]).expect("AES-256 takes 32 bytes")
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    fn seal_of(prefix: &str, keys: &[u8]) -> ValueSeal {
        let lines: Vec<_> = keys.iter().map(|byte| BASE64_STANDARD.encode([*byte; 32])).collect();
        ValueSeal::new(prefix, &KeyRing::parse(&lines.join("\n")).unwrap())
    }

    fn seal(keys: &[u8]) -> ValueSeal {
        seal_of("callgate", keys)
    }

    #[test]
    fn members_in_the_middle_of_a_rotation_read_each_others_values() {
        let (before, after) = (seal(&[1, 2]), seal(&[2, 1]));
        for (writer, reader) in [(&before, &after), (&after, &before), (&before, &before)] {
            let sealed = writer.seal("freeze", b"text");
            assert_eq!(reader.open("freeze", &sealed).as_deref(), Some(&b"text"[..]));
            assert!(!sealed.windows(4).any(|part| part == b"text"));
        }
    }

    #[test]
    fn a_value_opens_for_its_prefix_kind_and_ring_and_unchanged() {
        let sealed = seal(&[1]).seal("freeze", b"text");
        assert_eq!(seal_of("callgate2", &[1]).open("freeze", &sealed), None);
        assert_eq!(seal(&[1]).open("session", &sealed), None);
        assert_eq!(seal(&[3]).open("freeze", &sealed), None);
        assert_eq!(seal(&[1]).open("freeze", &sealed[..5]), None);
        for at in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[at] ^= 1;
            assert_eq!(seal(&[1]).open("freeze", &forged), None, "byte {at}");
        }
    }
}
