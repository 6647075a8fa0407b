//! Floor 4: single-use tickets, by which one host hands a value to another host through the browser.
//!
//! The store knows a ticket by its SHA-256, and its value sealed under a key derived from the ticket: neither the
//! memory nor the file of the store redeems anything.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::{constant_time, hmac};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::model::digest::{Digest, sha256};
use crate::model::key_ring::KeyRing;
use crate::model::secret::Secret;
use crate::once::OnceStore;
use crate::random;
use crate::state::KeepError;

/// How many characters of a ticket are random: 144 bits.
const RANDOM: usize = 24;
/// How many bytes mark a ticket as issued here.
const MARK: usize = 6;
/// How many characters they are.
const MARK_TEXT: usize = 8;
/// The purpose of a ticket's key, for its derivation.
const PURPOSE: &[u8] = b"callgate ticket 1";
/// The use for which keys of a ring are derived.
const MARKS: &str = "marks of tickets";

/// A ticket, which the browser carries to the other host. Only [`Ticket::expose`] shows it.
///
/// It vouches for a text that is no secret: the text can be read even if the ticket is used or expired.
pub(crate) struct Ticket(Secret);

impl Ticket {
    /// Returns the text in `[A-Za-z0-9_-]`, for the redirect that hands it over: 24 random characters, a mark of 8, and the
    /// text that it vouches for.
    #[must_use]
    pub(crate) fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Issues and redeems tickets.
#[derive(Debug)]
pub(crate) struct Tickets {
    once: Arc<OnceStore>,
    ttl: Duration,
    /// The keys that mark tickets as issued by this process or, with a ring of keys, by any member. The first one writes.
    marks: Arc<[hmac::Key]>,
}

impl Tickets {
    /// Issues tickets into a memory, each valid for `ttl`.
    #[must_use]
    pub(crate) fn new(once: Arc<OnceStore>, ttl: Duration) -> Self {
        let own = || [hmac::Key::new(hmac::HMAC_SHA256, &random::bytes::<32>())].into();
        Self { marks: once.ring().map_or_else(own, marks_of), once, ttl }
    }

    /// Returns the same for another configuration, with the same marks unless members share others.
    #[must_use]
    pub(crate) fn successor(&self, once: Arc<OnceStore>) -> Self {
        let marks = once.ring().map_or_else(|| Arc::clone(&self.marks), marks_of);
        Self { once, ttl: self.ttl, marks }
    }

    /// Returns the text that a ticket vouches for, if the ticket was issued here, redeemed or not. Such a ticket cannot be
    /// guessed.
    #[must_use]
    pub(crate) fn vouched(&self, ticket: &str) -> Option<String> {
        let (random, rest) = ticket.split_at_checked(RANDOM)?;
        let (mark, text) = rest.split_at_checked(MARK_TEXT)?;
        let is_of = |key: &hmac::Key| {
            constant_time::verify_slices_are_equal(mark_of(key, random, text).as_bytes(), mark.as_bytes()).is_ok()
        };
        self.marks.iter().find(|key| is_of(key))?;
        String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()
    }

    /// Issues a ticket for a value. It vouches for `text`, which is no secret.
    ///
    /// # Errors
    /// When the store is full of unredeemed tickets, or cannot be written.
    pub(crate) async fn issue(&self, value: &Secret, text: &str) -> Result<Ticket, KeepError> {
        let text = BASE64_URL_SAFE_NO_PAD.encode(text);
        let until = self.once.now().checked_add(self.ttl).map_err(|_| KeepError::Unavailable)?;
        let ticket = self.make(&text);
        match self.once.keep_ticket(name_of(&ticket), seal(ticket.expose(), value), until).await {
            // The engine may have kept this one, so that it could be redeemed there and here: it is not used.
            Err(KeepError::EngineDown) => {}
            kept => return kept.map(|()| ticket),
        }
        let ticket = self.make(&text);
        self.once.keep_ticket_here(name_of(&ticket), seal(ticket.expose(), value), until).await?;
        Ok(ticket)
    }

    fn make(&self, text: &str) -> Ticket {
        let random = random::text::<18>();
        Ticket(Secret::new(format!("{random}{}{text}", mark_of(&self.marks[0], &random, text))))
    }

    /// Takes the value of a ticket out, so that no second call finds it; nothing if the ticket is unknown, used or
    /// expired.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) async fn redeem(&self, ticket: &str) -> Result<Option<Secret>, KeepError> {
        let sealed = self.once.take_ticket(sha256(ticket.as_bytes())).await?;
        Ok(sealed.and_then(|sealed| unseal(ticket, sealed)))
    }
}

/// Derives the keys of marks from those that members share.
fn marks_of(ring: &KeyRing) -> Arc<[hmac::Key]> {
    ring.keys().iter().map(|key| hmac::Key::new(hmac::HMAC_SHA256, &key.derive(MARKS)[..])).collect()
}

fn mark_of(key: &hmac::Key, random: &str, text: &str) -> String {
    // All random parts have one length, so that both parts have one reading.
    let tag = hmac::sign(key, format!("{random}{text}").as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(&tag.as_ref()[..MARK])
}

/// Returns the name of a ticket in the store.
fn name_of(ticket: &Ticket) -> Digest {
    sha256(ticket.expose().as_bytes())
}

fn seal(ticket: &str, value: &Secret) -> Vec<u8> {
    let mut sealed = value.expose().as_bytes().to_vec();
    key_of(ticket).seal_in_place_append_tag(nonce(), Aad::empty(), &mut sealed).expect("a text is short enough");
    sealed
}

fn unseal(ticket: &str, mut sealed: Vec<u8>) -> Option<Secret> {
    let length = key_of(ticket).open_in_place(nonce(), Aad::empty(), &mut sealed).ok()?.len();
    sealed.truncate(length);
    String::from_utf8(sealed).ok().map(Secret::new)
}

/// Derives the key of a ticket. The ticket's name in the store does not reveal it.
fn key_of(ticket: &str) -> LessSafeKey {
    let key = Salt::new(HKDF_SHA256, &[]).extract(ticket.as_bytes());
    let key = key.expand(&[PURPOSE], &AES_256_GCM).map(UnboundKey::from);
    LessSafeKey::new(key.expect("the length is that of the key"))
}

/// A key seals one value only, so its nonce may be constant.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::state::Store;

    fn alone(store: Store) -> Arc<OnceStore> {
        OnceStore::new(Arc::new(store), None)
    }

    fn tickets() -> Tickets {
        Tickets::new(alone(Store::in_memory()), Duration::from_secs(30))
    }

    async fn issue(tickets: &Tickets, value: &str) -> Ticket {
        tickets.issue(&Secret::new(value.to_owned()), "app.test/").await.unwrap()
    }

    #[track_caller]
    fn check(redeemed: Result<Option<Secret>, KeepError>, expected: Option<&str>) {
        assert_eq!(redeemed.unwrap().as_ref().map(Secret::expose), expected);
    }

    #[tokio::test]
    async fn a_ticket_works_once() {
        let tickets = tickets();
        let ticket = issue(&tickets, "session").await;
        check(tickets.redeem(ticket.expose()).await, Some("session"));
        check(tickets.redeem(ticket.expose()).await, None);
    }

    #[tokio::test]
    async fn each_ticket_stands_for_its_own_value() {
        let tickets = tickets();
        let (one, two) = (issue(&tickets, "one").await, issue(&tickets, "two").await);
        check(tickets.redeem(two.expose()).await, Some("two"));
        check(tickets.redeem(one.expose()).await, Some("one"));
    }

    #[tokio::test]
    async fn a_used_ticket_is_no_guess() {
        let tickets = tickets();
        let ticket = issue(&tickets, "session").await;
        for _ in 0..2 {
            for tickets in [&tickets, &tickets.successor(Arc::clone(&tickets.once))] {
                assert_eq!(tickets.vouched(ticket.expose()).as_deref(), Some("app.test/"));
            }
            let _ = tickets.redeem(ticket.expose()).await;
        }
        let guess = format!("{}{}", &ticket.expose()[..24], "A".repeat(8));
        for text in [&guess, "", "x", &ticket.expose()[..31], &random::text::<24>()] {
            assert_eq!(tickets.vouched(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_ticket_vouches_for_its_own_text_only() {
        let tickets = tickets();
        let ticket = issue(&tickets, "session").await;
        let (stem, text) = ticket.expose().split_at(32);
        let evil = BASE64_URL_SAFE_NO_PAD.encode("evil.test/");
        let longer = BASE64_URL_SAFE_NO_PAD.encode("app.test/x");
        for text in ["", &evil, &longer, &text[..text.len() - 1], &format!("{text}A"), &format!("{text}=")] {
            assert_eq!(tickets.vouched(&format!("{stem}{text}")), None, "{text}");
        }
        assert_eq!(Tickets::new(alone(Store::in_memory()), Duration::ZERO).vouched(ticket.expose()), None);
    }

    #[tokio::test]
    async fn an_expired_ticket_is_worthless() {
        let tickets = Tickets { ttl: Duration::ZERO, ..tickets() };
        let ticket = issue(&tickets, "late").await;
        check(tickets.redeem(ticket.expose()).await, None);
    }

    #[tokio::test]
    async fn texts_nobody_issued_are_unknown() {
        let tickets = tickets();
        let ticket = issue(&tickets, "session").await;
        let stem = &ticket.expose()[..31];
        for text in ["", "x", stem, &format!("{}=", ticket.expose()), &ticket.expose().to_ascii_uppercase().repeat(2)] {
            check(tickets.redeem(text).await, None);
        }
        check(tickets.redeem(ticket.expose()).await, Some("session"));
    }

    #[tokio::test]
    async fn a_ticket_outlives_a_restart_and_its_file_redeems_nothing() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("state");
        let open = || Tickets { once: alone(Store::open(&path).unwrap()), ..tickets() };
        let before = open();
        let ticket = issue(&before, "canary-of-a-session").await;
        drop(before);
        let bytes = std::fs::read(&path).unwrap();
        for secret in [&b"canary"[..], ticket.expose().as_bytes()] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        }
        let after = open();
        check(after.redeem(ticket.expose()).await, Some("canary-of-a-session"));
        drop(after);
        check(open().redeem(ticket.expose()).await, None);
    }

    #[tokio::test]
    async fn tickets_are_long_random_and_fit_a_url() {
        let tickets = tickets();
        let mut texts = HashSet::new();
        for _ in 0..1000 {
            texts.insert(issue(&tickets, "").await.expose().to_owned());
        }
        assert_eq!(texts.len(), 1000);
        for text in texts {
            let fits = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
            assert!(fits && text.len() == 32 + 12, "{text}");
        }
    }

    #[tokio::test]
    async fn a_ticket_does_not_print() {
        assert_eq!(format!("{:?}", issue(&tickets(), "").await), "***");
    }
}
