//! The sessions that callgate issued, and their accounts. They tell an issued session from a foreign one, and the
//! sessions of a frozen account from others.
//!
//! Only a SHA-256 of each id is kept, so the table opens no session. All workers share it; a restart clears it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::account::Role;
use crate::model::digest::{Digest, sha256};
use crate::model::session::SessionId;

/// How many sessions are remembered; beyond it, the oldest is dropped.
const SESSIONS: usize = 50_000;
/// How long a session is remembered.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long after its issue a link with a session may reach its landing page.
const LANDING: Duration = Duration::from_secs(120);

/// The recently issued sessions, each with its account.
#[derive(Debug, Default)]
pub(crate) struct IssuedSessions(Mutex<SessionTable>);

#[derive(Debug, Default)]
struct SessionTable {
    by_id: HashMap<Digest, IssuedSession>,
    /// In the order of issue, which is the order of removal.
    order: VecDeque<(Digest, Instant)>,
}

#[derive(Debug)]
struct IssuedSession {
    role: Role,
    since: Instant,
}

impl IssuedSessions {
    /// Remembers a session, or the cookie that the PBX gave for it, with its account.
    pub(crate) fn note(&self, session: &SessionId, role: &Role, now: Instant) {
        self.note_text(session.expose(), role, now);
    }

    /// Remembers the text of a session cookie with its account.
    pub(crate) fn note_text(&self, session: &str, role: &Role, now: Instant) {
        let id = sha256(session.as_bytes());
        let mut sessions = self.sessions();
        sessions.forget(now);
        sessions.by_id.insert(id, IssuedSession { role: role.clone(), since: now });
        sessions.order.push_back((id, now));
    }

    /// Returns whether a session was issued so recently that its browser may just be landing.
    #[must_use]
    pub(crate) fn is_landing(&self, session: &str, now: Instant) -> bool {
        let sessions = self.sessions();
        sessions.by_id.get(&sha256(session.as_bytes())).is_some_and(|out| now.duration_since(out.since) < LANDING)
    }

    /// Returns the account of a session that was issued here within a day.
    #[must_use]
    pub(crate) fn account(&self, session: &str, now: Instant) -> Option<Role> {
        let sessions = self.sessions();
        let out = sessions.by_id.get(&sha256(session.as_bytes()))?;
        (now.duration_since(out.since) < LIFE).then(|| out.role.clone())
    }

    /// Locks even after a panic elsewhere: entries are moved in and out whole.
    fn sessions(&self) -> MutexGuard<'_, SessionTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionTable {
    /// Drops expired sessions, and the oldest if there is no room for one more.
    fn forget(&mut self, now: Instant) {
        while let Some(&(id, since)) = self.order.front() {
            if self.order.len() < SESSIONS && now.duration_since(since) < LIFE {
                return;
            }
            self.order.pop_front();
            // An id that was issued twice lives from its last issue.
            if self.by_id.get(&id).is_some_and(|out| out.since == since) {
                self.by_id.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::account::Account;

    fn account(user: &str) -> Role {
        Role::User(Account::new(user, "acme.test".parse().unwrap()).unwrap())
    }

    fn session(number: usize) -> SessionId {
        format!("session{number:08}").parse().unwrap()
    }

    #[test]
    fn a_session_is_its_accounts_for_a_day() {
        let (issued, now) = (IssuedSessions::default(), Instant::now());
        issued.note(&session(1), &account("40"), now);
        issued.note_text("cookie", &account("41"), now);
        assert_eq!(issued.account("session00000001", now), Some(account("40")));
        assert_eq!(issued.account("cookie", now + LIFE / 2), Some(account("41")));
        assert_eq!(issued.account("SESSION00000001", now), None);
        assert_eq!(issued.account("cookie", now + LIFE), None);
    }

    #[test]
    fn a_link_lands_within_two_minutes() {
        let (issued, now) = (IssuedSessions::default(), Instant::now());
        issued.note(&session(1), &account("40"), now);
        assert!(issued.is_landing("session00000001", now + LANDING - Duration::from_nanos(1)));
        assert!(!issued.is_landing("session00000001", now + LANDING));
        assert!(!issued.is_landing("session00000002", now));
    }

    #[test]
    fn the_oldest_makes_room_and_no_more_are_kept() {
        let (issued, now) = (IssuedSessions::default(), Instant::now());
        for number in 0..=SESSIONS {
            issued.note(&session(number), &account("40"), now);
        }
        assert_eq!(issued.account("session00000000", now), None);
        assert!(issued.account("session00000001", now).is_some());
        let sessions = issued.sessions();
        assert_eq!((sessions.by_id.len(), sessions.order.len()), (SESSIONS, SESSIONS));
    }

    #[test]
    fn a_session_that_went_out_twice_is_as_young_as_its_last_time() {
        let (issued, now) = (IssuedSessions::default(), Instant::now());
        issued.note(&session(1), &account("40"), now);
        issued.note(&session(1), &account("40"), now + LIFE / 2);
        issued.note(&session(2), &account("41"), now + LIFE);
        assert!(issued.account("session00000001", now + LIFE).is_some());
    }

    #[test]
    fn no_id_is_kept() {
        let (issued, now) = (IssuedSessions::default(), Instant::now());
        issued.note(&session(1), &account("40"), now);
        assert!(!format!("{issued:?}").contains("session00000001"));
    }
}
