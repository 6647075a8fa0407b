//! Session tickets under the keys that all members share, so that a client resumes its session at each of them.
//!
//! Each key of the ring gives a key for each policy and each window of six hours, by the wall clock. The ring's first key
//! encrypts, in the window of the moment; all of them decrypt, in that window, the one before, and the one after for members
//! whose clocks are ahead.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use rustls::server::ProducesTickets;

use crate::model::key_ring::{KeyRing, RingKey};

/// The length of a window, in seconds.
const WINDOW: u64 = 6 * 60 * 60;
/// How long a ticket may live, in seconds: to the end of the window after its own.
const LIFETIME: u32 = 12 * 60 * 60;
/// The bytes that name the key of a ticket.
const NAME: usize = 16;

/// Encrypts and decrypts the tickets of one policy (RFC 5077 §4, RFC 8446 §4.6.1).
pub(super) struct RingTickets {
    ring: KeyRing,
    /// Tells the policy from others: no ticket of one opens under another.
    policy: String,
    keys: RwLock<Arc<WindowKeys>>,
}

/// The keys of the windows around a moment.
struct WindowKeys {
    window: u64,
    /// The one that encrypts first.
    keys: Vec<TicketKey>,
}

struct TicketKey {
    name: [u8; NAME],
    key: RandomizedNonceKey,
}

impl RingTickets {
    /// Prepares the tickets of a policy. Members with the same policy and ring read each other's.
    pub(super) fn new(ring: &KeyRing, policy: String) -> Self {
        let keys = RwLock::new(Arc::new(WindowKeys::new(ring, &policy, window(now()))));
        Self { ring: ring.clone(), policy, keys }
    }

    /// Returns the keys for a time, in seconds since 1970.
    fn keys(&self, now: u64) -> Arc<WindowKeys> {
        let window = window(now);
        // The keys are whole even if a thread panicked, because they are replaced at once.
        let known = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        if known.window == window {
            return known;
        }
        let next = Arc::new(WindowKeys::new(&self.ring, &self.policy, window));
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&next);
        next
    }

    fn encrypt_at(&self, now: u64, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys(now).keys.first()?.encrypt(plain)
    }

    fn decrypt_at(&self, now: u64, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, sealed) = ticket.split_at_checked(NAME)?;
        // Names are no secrets: they stand in the tickets.
        self.keys(now).keys.iter().find(|key| key.name == name)?.decrypt(sealed)
    }
}

impl WindowKeys {
    fn new(ring: &KeyRing, policy: &str, window: u64) -> Self {
        let windows = [Some(window), window.checked_sub(1), window.checked_add(1)];
        let windows = windows.into_iter().flatten();
        let keys = windows.flat_map(|window| ring.keys().iter().map(move |key| TicketKey::new(key, policy, window)));
        Self { window, keys: keys.collect() }
    }
}

impl TicketKey {
    fn new(key: &RingKey, policy: &str, window: u64) -> Self {
        let purpose = |what| format!("tls ticket {what}, policy {policy}, window {window}");
        let mut name = [0; NAME];
        name.copy_from_slice(&key.derive(&purpose("name"))[..NAME]);
        let key = RandomizedNonceKey::new(&AES_256_GCM, &key.derive(&purpose("key"))[..]);
        Self { name, key: key.expect("AES-256 takes 32 bytes") }
    }

    /// Returns the name of the key, the nonce, and the encrypted text.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        let nonce = self.key.seal_in_place_append_tag(Aad::from(self.name), &mut sealed).ok()?;
        Some([&self.name[..], nonce.as_ref(), &sealed].concat())
    }

    fn decrypt(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = sealed.to_vec();
        let length = self.key.open_in_place(nonce, Aad::from(self.name), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

impl ProducesTickets for RingTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_at(now(), plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_at(now(), cipher)
    }
}

impl fmt::Debug for RingTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RingTickets")
    }
}

/// Returns the wall-clock time, in seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

const fn window(now: u64) -> u64 {
    now / WINDOW
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    const NOW: u64 = 1_000 * WINDOW;

    fn tickets(keys: &[u8], policy: &str) -> RingTickets {
        let lines: Vec<_> = keys.iter().map(|byte| BASE64_STANDARD.encode([*byte; 32])).collect();
        RingTickets::new(&KeyRing::parse(&lines.join("\n")).unwrap(), policy.to_owned())
    }

    fn opens(by: &RingTickets, at: u64, ticket: &[u8]) -> bool {
        by.decrypt_at(at, ticket).is_some_and(|text| text == b"session")
    }

    #[test]
    fn members_open_each_others_tickets_at_each_step_of_a_rotation() {
        let steps = [&[1][..], &[1, 2], &[2, 1], &[2]].map(|keys| tickets(keys, ""));
        for (one, other) in steps.iter().zip(&steps[1..]).flat_map(|(one, other)| [(one, other), (other, one)]).take(4)
        {
            assert!(opens(other, NOW, &one.encrypt_at(NOW, b"session").unwrap()));
        }
        let old = steps[0].encrypt_at(NOW, b"session").unwrap();
        assert_eq!(steps.map(|step| opens(&step, NOW, &old)), [true, true, true, false]);
    }

    #[test]
    fn another_policy_or_ring_opens_nothing() {
        let ticket = tickets(&[1], "one").encrypt_at(NOW, b"session").unwrap();
        assert!(opens(&tickets(&[1], "one"), NOW, &ticket));
        for other in [tickets(&[1], "other"), tickets(&[2], "one")] {
            assert!(!opens(&other, NOW, &ticket));
        }
    }

    #[test]
    fn a_ticket_lives_for_two_windows_at_most() {
        let tickets = tickets(&[1], "");
        let ticket = tickets.encrypt_at(NOW + 5, b"session").unwrap();
        for (at, expected) in [
            (NOW - WINDOW - 1, false),
            (NOW - 1, true),
            (NOW, true),
            (NOW + u64::from(LIFETIME) - 1, true),
            (NOW + u64::from(LIFETIME), false),
            (0, false),
            (u64::MAX, false),
        ] {
            assert_eq!(opens(&tickets, at, &ticket), expected, "{at}");
        }
    }

    #[test]
    fn other_bytes_open_nothing_and_two_tickets_are_never_alike() {
        let tickets = tickets(&[1], "");
        let ticket = tickets.encrypt_at(NOW, b"session").unwrap();
        assert_ne!(ticket, tickets.encrypt_at(NOW, b"session").unwrap());
        for length in 0..ticket.len() {
            assert!(!opens(&tickets, NOW, &ticket[..length]), "{length}");
            let mut other = ticket.clone();
            other[length] ^= 1;
            assert!(!opens(&tickets, NOW, &other), "{length}");
        }
    }
}
