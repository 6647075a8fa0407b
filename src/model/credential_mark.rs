//! Marks of a caller's credential: digests by which a later request of the same caller is recognized without whoami.
//!
//! A browser's `Cookie` line changes between two requests of one person: tokens against forgery and cookies of the PBX
//! come and go. So each cookie has a mark of its own. But a cookie such as `theme=dark` is shared by many people, and
//! guessed by anybody. So a cookie that is not known to be a credential counts only while it looks random and one caller
//! alone has shown it.

use serde::{Deserialize, Serialize};

use super::digest::{Digest, sha256_of};

/// The shortest value that may be a secret, in bytes.
const SHORTEST_SECRET: usize = 16;
/// How often letters and digits must take turns in a value that looks random.
const TURNS: usize = 2;

/// A digest of a part of a credential: the first half of its SHA-256.
pub type MarkDigest = [u64; 2];

/// What a mark says of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MarkKind {
    /// The whole credential, as an auth method saw it.
    Whole,
    /// A part that the configuration calls a credential.
    Named,
    /// A cookie that looks random, among others.
    Likely,
}

/// A mark of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CredentialMark {
    /// The digest.
    pub digest: MarkDigest,
    /// What it says.
    pub kind: MarkKind,
}

impl CredentialMark {
    /// Marks a whole credential by the parts that an auth method looks at.
    pub fn whole<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> Self {
        Self::of_digest(sha256_of(parts))
    }

    /// Marks a whole credential by the digest of these parts.
    #[must_use]
    pub fn of_digest(parts: Digest) -> Self {
        Self { digest: half(parts), kind: MarkKind::Whole }
    }

    /// Marks a part that the configuration calls a credential, such as a listed cookie.
    #[must_use]
    pub fn named(name: &[u8], value: &[u8]) -> Self {
        Self { digest: half(sha256_of([&b"part"[..], name, value])), kind: MarkKind::Named }
    }

    /// Marks a cookie that may be a credential; `None` if it can be guessed.
    #[must_use]
    pub fn likely(name: &[u8], value: &[u8]) -> Option<Self> {
        looks_random(value).then(|| Self { kind: MarkKind::Likely, ..Self::named(name, value) })
    }

    /// Tells whether the mark identifies its caller even if another caller has shown it too.
    #[must_use]
    pub const fn is_certain(self) -> bool {
        matches!(self.kind, MarkKind::Whole | MarkKind::Named)
    }
}

fn half(digest: Digest) -> MarkDigest {
    let word = |at: usize| u64::from_be_bytes(digest[at..at + 8].try_into().expect("eight bytes are eight bytes"));
    [word(0), word(8)]
}

/// Tells whether a value is long, and has letters and digits in turn: words, languages and dates do not.
fn looks_random(value: &[u8]) -> bool {
    let kinds = value.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::is_ascii_digit);
    let turns = kinds.clone().zip(kinds.skip(1)).filter(|(one, next)| one != next).count();
    value.len() >= SHORTEST_SECRET && turns >= TURNS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_random_may_be_a_credential() {
        for value in [
            "9f86d081884c7d65",
            "s%3Aq8V3w1Zt0s4kX2m.Nn0pQ7",
            "550e8400-e29b-41d4-a716-446655440000",
            "eyJhbGciOiJIUzI1NiJ9.e30.Et9HFtf9R3GEMA0IICOfFMVXY7kkTX1wr4qCyhIf58U",
        ] {
            assert!(CredentialMark::likely(b"sid", value.as_bytes()).is_some(), "{value}");
        }
        for value in [
            "",
            "dark",
            "9f86d081884c7d6",
            "solarized-dark-high-contrast",
            "GA1.2.1234567890.1700000000",
            "12345678901234567890",
            "necessary:true,marketing:false",
        ] {
            assert_eq!(CredentialMark::likely(b"sid", value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn marks_of_other_names_values_and_parts_differ() {
        let marks = [
            CredentialMark::named(b"a", b"bc"),
            CredentialMark::named(b"ab", b"c"),
            CredentialMark::named(b"a", b"b"),
            CredentialMark::whole([&b"a"[..], b"bc"]),
        ];
        for (at, mark) in marks.iter().enumerate() {
            assert!(marks[..at].iter().all(|other| other.digest != mark.digest), "{at}");
        }
        let value = b"9f86d081884c7d65";
        let likely = CredentialMark::likely(b"sid", value).unwrap();
        assert_eq!(likely.digest, CredentialMark::named(b"sid", value).digest);
        assert!(!likely.is_certain() && marks.iter().all(|mark| mark.is_certain()));
    }
}
