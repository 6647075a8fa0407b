//! Floor 1: sealed texts, which the browser keeps and can neither read nor change (AES-256-GCM).

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::model::key_ring::KeyRing;
use crate::random;

/// The purpose of a sealed text. Under another purpose it does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A login that has begun.
    Attempt,
    /// A login that succeeded.
    Login,
    /// A page of the PBX that a login leads back to.
    Page,
}

/// Keys that seal texts: the first one seals, all of them open.
pub(crate) struct SealKey(Vec<RandomizedNonceKey>);

impl SealKey {
    /// Derives a key from a secret that an operator chose (HKDF-SHA256).
    #[must_use]
    pub(crate) fn of(secret: &str) -> Self {
        let drawn = Salt::new(HKDF_SHA256, b"callgate").extract(secret.as_bytes());
        let mut key = [0; 32];
        drawn
            .expand(&[b"login cookies"], &AES_256_GCM)
            .and_then(|drawn| drawn.fill(&mut key))
            .expect("HKDF gives as many bytes as AES-256 takes");
        Self::new([&key])
    }

    /// Derives keys from those that all members share, so that each member opens what another sealed.
    #[must_use]
    pub(crate) fn of_ring(ring: &KeyRing) -> Self {
        let keys: Vec<_> = ring.keys().iter().map(|key| key.derive("sealed texts")).collect();
        Self::new(keys.iter().map(|key| &**key))
    }

    /// Makes a random key, which lives as long as the process.
    #[must_use]
    pub(crate) fn random() -> Self {
        Self::new([&random::bytes()])
    }

    fn new<'k>(keys: impl IntoIterator<Item = &'k [u8; 32]>) -> Self {
        let key = |key| RandomizedNonceKey::new(&AES_256_GCM, key).expect("AES-256 takes 32 bytes");
        Self(keys.into_iter().map(|bytes| key(&bytes[..])).collect())
    }

    /// Seals a text. It opens only for the same purpose and context.
    pub(crate) fn seal(&self, text: &[u8], purpose: Purpose, context: &[&str]) -> String {
        let mut sealed = text.to_vec();
        let nonce = self.0[0].seal_in_place_append_tag(aad(purpose, context), &mut sealed);
        let nonce = nonce.expect("the text is shorter than 64 GiB");
        sealed.splice(..0, nonce.as_ref().iter().copied());
        URL_SAFE_NO_PAD.encode(sealed)
    }

    /// Opens a text that one of the keys sealed for the same purpose and context. Returns `None` for all others.
    pub(crate) fn open(&self, sealed: &str, purpose: Purpose, context: &[&str]) -> Option<Vec<u8>> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, text) = bytes.split_at_checked(NONCE_LEN)?;
        self.0.iter().find_map(|key| open(key, nonce, text, aad(purpose, context)))
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

fn open(key: &RandomizedNonceKey, nonce: &[u8], sealed: &[u8], aad: Aad<Vec<u8>>) -> Option<Vec<u8>> {
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut text = sealed.to_vec();
    let length = key.open_in_place(nonce, aad, &mut text).ok()?.len();
    text.truncate(length);
    Some(text)
}

/// Encodes the context with the length of each part, so that two contexts never have the same bytes.
fn aad(purpose: Purpose, context: &[&str]) -> Aad<Vec<u8>> {
    let mut bytes = format!("callgate 1 {purpose:?}").into_bytes();
    for part in context {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    Aad::from(bytes)
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    #[test]
    fn members_open_each_others_texts_at_each_step_of_a_rotation() {
        let of = |keys: &[u8]| {
            let lines: Vec<_> = keys.iter().map(|byte| BASE64_STANDARD.encode([*byte; 32])).collect();
            SealKey::of_ring(&KeyRing::parse(&lines.join("\n")).unwrap())
        };
        let steps = [of(&[1]), of(&[1, 2]), of(&[2, 1]), of(&[2])];
        let opens = |by: &SealKey, sealed: &str| by.open(sealed, Purpose::Login, &[]).as_deref() == Some(&b"text"[..]);
        for (one, other) in [(0, 1), (1, 0), (1, 2), (2, 1), (2, 3)] {
            assert!(opens(&steps[other], &steps[one].seal(b"text", Purpose::Login, &[])), "{one} {other}");
        }
        assert!(!opens(&steps[3], &steps[0].seal(b"text", Purpose::Login, &[])));
    }

    #[test]
    fn opens_what_it_sealed_and_nothing_else() {
        let key = SealKey::of("a secret of the operator's");
        let sealed = key.seal(b"text", Purpose::Login, &["name", "host"]);
        let open = |key: &SealKey, sealed: &str| key.open(sealed, Purpose::Login, &["name", "host"]);
        assert_eq!(open(&key, &sealed).as_deref(), Some(&b"text"[..]));
        assert_eq!(open(&SealKey::of("a secret of the operator's"), &sealed).as_deref(), Some(&b"text"[..]));
        assert_eq!(open(&SealKey::of("another"), &sealed), None);
        assert_eq!(open(&SealKey::random(), &sealed), None);
        assert_eq!(key.open(&sealed, Purpose::Attempt, &["name", "host"]), None);
        assert_eq!(key.open(&sealed, Purpose::Login, &["nameh", "ost"]), None);
        assert_eq!(key.open(&sealed, Purpose::Login, &["name"]), None);
        for at in 0..sealed.len() {
            let mut forged = sealed.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(open(&key, std::str::from_utf8(&forged).unwrap()), None, "byte {at}");
        }
        for short in ["", "AAAA", &sealed[..sealed.len() - 4], "not base64!", &format!("{sealed}AAAA")] {
            assert_eq!(open(&key, short), None, "{short}");
        }
    }

    #[test]
    fn never_seals_twice_alike() {
        let key = SealKey::random();
        assert_ne!(key.seal(b"text", Purpose::Login, &[]), key.seal(b"text", Purpose::Login, &[]));
    }
}
