//! The keys that all members share: a file of several, so that they can be replaced one after the other.

use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

/// The length of a key, in bytes.
pub const KEY_LENGTH: usize = 32;
/// The most keys of a ring. Each is tried for a text that an older one sealed.
pub const MOST_KEYS: usize = 8;

/// A ring of keys, at least one. The first one writes; all of them read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRing(Vec<RingKey>);

/// A key of a ring. No key is used as it is: each use derives a key of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct RingKey(Zeroizing<[u8; KEY_LENGTH]>);

/// The text is not a ring of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// It has no line with a key.
    #[error("has no key")]
    Empty,
    /// It has more than [`MOST_KEYS`] keys.
    #[error("has more than {MOST_KEYS} keys")]
    TooMany,
    /// A line is not a key.
    #[error("line {0} is not the base64 of {KEY_LENGTH} bytes")]
    NotAKey(usize),
    /// A key stands on two lines.
    #[error("line {0} repeats a key")]
    Repeated(usize),
}

impl KeyRing {
    /// Reads a file: on each line the base64 of 32 bytes. Empty lines and those that begin with `#` are comments.
    ///
    /// # Errors
    /// Says which line is wrong, and never shows it.
    pub fn parse(text: &str) -> Result<Self, KeyRingError> {
        let mut keys: Vec<RingKey> = Vec::new();
        for (index, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = RingKey::parse(line).ok_or(KeyRingError::NotAKey(index + 1))?;
            if keys.contains(&key) {
                return Err(KeyRingError::Repeated(index + 1));
            }
            keys.push(key);
        }
        match keys.len() {
            0 => Err(KeyRingError::Empty),
            1..=MOST_KEYS => Ok(Self(keys)),
            _ => Err(KeyRingError::TooMany),
        }
    }

    /// Returns the key that writes.
    #[must_use]
    pub fn first(&self) -> &RingKey {
        &self.0[0]
    }

    /// Returns all keys, the one that writes first.
    #[must_use]
    pub fn keys(&self) -> &[RingKey] {
        &self.0
    }
}

impl RingKey {
    fn parse(line: &str) -> Option<Self> {
        let bytes = Zeroizing::new(BASE64_STANDARD.decode(line).ok()?);
        <[u8; KEY_LENGTH]>::try_from(&bytes[..]).ok().map(|key| Self(Zeroizing::new(key)))
    }

    /// Derives the key of one use (HKDF-SHA256, RFC 5869). Other uses have other keys.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; KEY_LENGTH]> {
        let mut derived = Zeroizing::new([0; KEY_LENGTH]);
        Salt::new(HKDF_SHA256, b"callgate ring 1")
            .extract(&self.0[..])
            .expand(&[purpose.as_bytes()], DerivedLength)
            .and_then(|key| key.fill(&mut derived[..]))
            .expect("HKDF-SHA256 gives 32 bytes");
        derived
    }
}

/// The length of derived keys, for HKDF.
struct DerivedLength;

impl KeyType for DerivedLength {
    fn len(&self) -> usize {
        KEY_LENGTH
    }
}

impl fmt::Debug for RingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(byte: u8) -> String {
        BASE64_STANDARD.encode([byte; KEY_LENGTH])
    }

    #[test]
    fn the_first_key_writes_and_all_are_read() {
        let ring = KeyRing::parse(&format!("# of 2026\n\n {} \r\n{}\n", line(1), line(2))).unwrap();
        assert_eq!(ring.keys().len(), 2);
        assert_eq!(*ring.first(), RingKey(Zeroizing::new([1; KEY_LENGTH])));
        assert_eq!(format!("{ring:?}"), "KeyRing([***, ***])");
    }

    #[test]
    fn wrong_lines_are_named_and_not_shown() {
        let many: Vec<_> = (0..9).map(line).collect();
        for (text, expected) in [
            (String::new(), KeyRingError::Empty),
            ("# none\n".to_owned(), KeyRingError::Empty),
            (format!("{}\nsecret\n", line(1)), KeyRingError::NotAKey(2)),
            (BASE64_STANDARD.encode([1; 31]), KeyRingError::NotAKey(1)),
            (format!("{}\n\n{}", line(1), line(1)), KeyRingError::Repeated(3)),
            (many.join("\n"), KeyRingError::TooMany),
        ] {
            let error = KeyRing::parse(&text).unwrap_err();
            assert!(!error.to_string().contains("secret"));
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn each_use_and_each_key_has_a_derived_key_of_its_own() {
        let ring = KeyRing::parse(&format!("{}\n{}", line(1), line(2))).unwrap();
        let [one, other] = ring.keys() else { panic!("two keys") };
        let derived = [one.derive("a"), one.derive("b"), other.derive("a")];
        assert!(derived[0] != derived[1] && derived[0] != derived[2] && derived[1] != derived[2]);
        assert_eq!(derived[0], one.derive("a"));
        assert_ne!(&derived[0][..], &one.0[..]);
    }
}
