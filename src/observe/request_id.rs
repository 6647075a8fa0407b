//! The id of an exchange, which connects its answer, its access line and its events.

use std::cell::Cell;
use std::fmt;

use http::HeaderValue;
use serde::{Deserialize, Serialize};

use crate::random;

/// 128 bits as 32 lower-case hex digits: unique across workers and restarts, without visible order; not a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct RequestId([u8; 32]);

thread_local! {
    /// The state of this thread's sequence. Random starts keep threads and restarts apart.
    static STATE: Cell<u128> = Cell::new(seed());
}

impl RequestId {
    /// Returns a new id.
    #[must_use]
    pub fn next() -> Self {
        let state = STATE.get().wrapping_add(STEP);
        STATE.set(state);
        let mut digits = [0; 32];
        hex::encode_to_slice(mix(state).to_be_bytes(), &mut digits).expect("16 bytes are 32 digits");
        Self(digits)
    }

    /// Returns the digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hex digits are ASCII")
    }

    /// Returns the id as a field value, for `X-Request-Id`.
    #[must_use]
    pub fn header_value(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).expect("hex digits are visible ASCII")
    }
}

impl From<RequestId> for String {
    fn from(id: RequestId) -> Self {
        id.as_str().to_owned()
    }
}

impl TryFrom<String> for RequestId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let digits: [u8; 32] = text.into_bytes().try_into().map_err(|_| "an id has 32 digits")?;
        if digits.iter().copied().all(is_digit) { Ok(Self(digits)) } else { Err("an id is hexadecimal") }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn seed() -> u128 {
    u128::from_ne_bytes(random::bytes())
}

/// Scatters neighbouring states. Each step is invertible, so different states have different ids.
const fn mix(state: u128) -> u128 {
    let state = (state ^ (state >> 64)).wrapping_mul(STEP);
    state ^ (state >> 64)
}

/// 2^128 divided by the golden ratio. Odd, so that a sequence visits all states before it repeats.
const STEP: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use super::*;

    #[test]
    fn an_id_is_32_lower_case_hex_digits() {
        let id = RequestId::next();
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        assert!(id.as_str().len() == 32 && id.as_str().bytes().all(digit), "{id}");
        assert_eq!(id.header_value(), id.to_string());
        assert_eq!(format!("{id:?}"), id.as_str());
    }

    #[test]
    fn no_two_workers_share_an_id() {
        let ids = || (0..10_000).map(|_| RequestId::next()).collect::<Vec<_>>();
        let workers: Vec<_> = (0..4).map(|_| thread::spawn(ids)).collect();
        let all: HashSet<_> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
        assert_eq!(all.len(), 40_000);
    }

    #[test]
    fn neighbours_look_unrelated() {
        let (one, two) = (RequestId::next(), RequestId::next());
        let same = one.as_str().bytes().zip(two.as_str().bytes()).filter(|(one, two)| one == two).count();
        assert!(same < 16, "{one} {two}");
    }
}
