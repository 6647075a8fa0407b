//! Tickets that work once: what one host hands to a browser for the other host to take back.
//!
//! The table refuses when it is full and never evicts early: one caller's haste must not cost another the login.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

use crate::model::secret::Secret;

/// As many tickets are out as the table may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many hand-overs are under way")]
pub struct Full;

/// What a browser carries from one host to the other. Shown only on purpose, by [`Ticket::expose`].
pub struct Ticket(Secret);

impl Ticket {
    /// Returns the text: 32 characters of `[A-Za-z0-9_-]`, for the redirect that hands it over.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The tickets that are out, each with the value it stands for.
///
/// Only a SHA-256 of each ticket is kept, so the memory of the table redeems nothing.
pub struct Tickets<T> {
    cap: usize,
    ttl: Duration,
    out: Mutex<HashMap<Digest, Held<T>>>,
}

type Digest = [u8; digest::SHA256_OUTPUT_LEN];

struct Held<T> {
    value: T,
    until: Instant,
}

impl<T> Tickets<T> {
    /// Makes a table for at most `cap` tickets at a time, each good for `ttl`.
    #[must_use]
    pub fn new(cap: usize, ttl: Duration) -> Self {
        Self { cap, ttl, out: Mutex::default() }
    }

    /// Issues a ticket for a value.
    ///
    /// # Errors
    /// When as many tickets are out, neither redeemed nor expired, as the table may hold.
    pub fn issue(&self, value: T, now: Instant) -> Result<Ticket, Full> {
        let mut out = self.out();
        // Swept at each issue, not only when full: the values are sessions, and an expired one has no reason to stay.
        out.retain(|_, held| now < held.until);
        if out.len() >= self.cap {
            return Err(Full);
        }
        let ticket = Ticket(Secret::new(random_text()));
        out.insert(digest_of(ticket.expose()), Held { value, until: now + self.ttl });
        Ok(ticket)
    }

    /// Takes the value of a ticket out, so no second call finds it; `None` when unknown, used or expired.
    #[must_use]
    pub fn redeem(&self, text: &str, now: Instant) -> Option<T> {
        let held = self.out().remove(&digest_of(text))?;
        (now < held.until).then_some(held.value)
    }

    /// Locks even after a panic elsewhere: entries are moved in and out whole.
    fn out(&self) -> MutexGuard<'_, HashMap<Digest, Held<T>>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random_text() -> String {
    let mut bytes = [0; 24];
    rand::fill(&mut bytes).expect("the system's generator is seeded before main");
    URL_SAFE_NO_PAD.encode(bytes)
}

fn digest_of(text: &str) -> Digest {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    fn tickets(cap: usize) -> (Tickets<&'static str>, Instant) {
        (Tickets::new(cap, TTL), Instant::now())
    }

    #[test]
    fn a_ticket_works_once() {
        let (tickets, now) = tickets(2);
        let ticket = tickets.issue("session", now).unwrap();
        assert_eq!(tickets.redeem(ticket.expose(), now), Some("session"));
        assert_eq!(tickets.redeem(ticket.expose(), now), None);
    }

    #[test]
    fn each_ticket_stands_for_its_own_value() {
        let (tickets, now) = tickets(2);
        let (one, two) = (tickets.issue("one", now).unwrap(), tickets.issue("two", now).unwrap());
        assert_eq!(tickets.redeem(two.expose(), now), Some("two"));
        assert_eq!(tickets.redeem(one.expose(), now), Some("one"));
    }

    #[test]
    fn an_expired_ticket_is_worthless() {
        let (tickets, now) = tickets(2);
        let (early, late) = (tickets.issue("early", now).unwrap(), tickets.issue("late", now).unwrap());
        assert_eq!(tickets.redeem(early.expose(), now + TTL - Duration::from_nanos(1)), Some("early"));
        assert_eq!(tickets.redeem(late.expose(), now + TTL), None);
        assert_eq!(tickets.redeem(late.expose(), now), None, "and stays so");
    }

    #[test]
    fn texts_nobody_issued_are_unknown() {
        let (tickets, now) = tickets(2);
        let ticket = tickets.issue("session", now).unwrap();
        let stem = &ticket.expose()[..31];
        for text in ["", "x", stem, &format!("{}=", ticket.expose()), &ticket.expose().to_ascii_uppercase().repeat(2)] {
            assert_eq!(tickets.redeem(text, now), None, "{text}");
        }
        assert_eq!(tickets.redeem(ticket.expose(), now), Some("session"));
    }

    #[test]
    fn refuses_when_full_and_keeps_what_is_out() {
        let (tickets, now) = tickets(2);
        let first = tickets.issue("first", now).unwrap();
        tickets.issue("second", now).unwrap();
        assert_eq!(tickets.issue("third", now).unwrap_err(), Full);
        assert_eq!(tickets.redeem(first.expose(), now), Some("first"));
        tickets.issue("third", now).unwrap();
    }

    #[test]
    fn the_expired_make_room() {
        let (tickets, now) = tickets(1);
        tickets.issue("first", now).unwrap();
        assert!(tickets.issue("second", now + TTL - Duration::from_nanos(1)).is_err());
        tickets.issue("second", now + TTL).unwrap();
    }

    #[test]
    fn tickets_are_long_random_and_fit_a_url() {
        let (tickets, now) = tickets(1000);
        let texts: HashSet<_> = (0..1000).map(|_| tickets.issue("", now).unwrap().expose().to_owned()).collect();
        assert_eq!(texts.len(), 1000);
        for text in texts {
            let fits = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
            assert!(fits && text.len() == 32, "{text}");
        }
    }

    #[test]
    fn a_ticket_does_not_print() {
        let (tickets, now) = tickets(1);
        assert_eq!(format!("{:?}", tickets.issue("", now).unwrap()), "***");
    }
}
