//! Floor 0: bytes from the system's generator of random numbers.

use aws_lc_rs::rand;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

/// Returns `N` bytes that cannot be guessed.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system's generator is seeded before main");
    bytes
}

/// Returns `N` random bytes as a text of `[A-Za-z0-9_-]`.
pub(crate) fn text<const N: usize>() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes::<N>())
}
