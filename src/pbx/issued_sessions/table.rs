//! The table of the sessions that callgate opened, with its indexes. It has no clock and no lock of its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::entry::{IssuedSession, SessionLogin};
use super::filter::SessionFilter;
use super::mark_index::{MARKS, MarkIndex};
use super::recent_ends::RecentEnds;
use crate::model::account::Role;
use crate::model::credential_mark::CredentialMark;
use crate::model::digest::{Digest, sha256};
use crate::model::freeze_target::FreezeTarget;
use crate::model::secret::Secret;
use crate::model::session::EndReason;

/// How many sessions are remembered; beyond it, the oldest is dropped.
pub(super) const SESSIONS: usize = 50_000;
/// How long a session is remembered.
pub(super) const LIFE: Duration = Duration::from_secs(24 * 3600);

/// The sessions, from the oldest to the youngest. Those that are over stay until their time has passed, so that requests
/// with them are recognized.
#[derive(Debug, Default)]
pub(super) struct SessionTable {
    pub(super) by_number: BTreeMap<u64, SessionRow>,
    pub(super) by_digest: HashMap<Digest, u64>,
    pub(super) marks: MarkIndex,
    pub(super) recent_ends: RecentEnds,
    /// The last number that was given.
    pub(super) last: u64,
    /// How many hand-overs were begun, by this process and those before it.
    pub(super) generation: u64,
}

#[derive(Debug, Clone)]
pub(super) struct SessionRow {
    pub(super) session: Arc<IssuedSession>,
    pub(super) since: Instant,
    /// The digests of its id, its token and its cookies.
    pub(super) digests: Vec<Digest>,
}

impl SessionTable {
    /// Adds a session with the digests of its ids. Drops those whose time has passed, and the oldest if there is no room.
    pub(super) fn add(
        &mut self,
        ids: &[&str],
        cookie: Option<Secret>,
        role: Role,
        mut login: SessionLogin,
        now: Instant,
    ) -> Arc<IssuedSession> {
        self.forget(now);
        login.marks.truncate(MARKS);
        self.last += 1;
        let session = Arc::new(IssuedSession::new(self.last, role, login, cookie));
        let row = SessionRow { session: Arc::clone(&session), since: now, digests: Vec::new() };
        self.by_number.insert(self.last, row);
        for id in ids {
            self.add_digest(self.last, id);
        }
        match self.marks.has_logged_out(&session.login) {
            true => session.end(EndReason::Refused),
            false => self.marks.add(&session.login.marks, &session.login, &session.role),
        }
        session
    }

    /// Adds another id under which a session is known.
    fn add_digest(&mut self, number: u64, id: &str) {
        let digest = sha256(id.as_bytes());
        if let Some(row) = self.by_number.get_mut(&number) {
            row.digests.push(digest);
            // An id that was issued twice is that of its last issue.
            self.by_digest.insert(digest, number);
        }
    }

    /// Drops sessions whose time has passed, and the oldest if there is no room for one more.
    pub(super) fn forget(&mut self, now: Instant) {
        let has_room = |table: &Self| table.by_number.len() < SESSIONS;
        let is_fresh = |row: &SessionRow| now.duration_since(row.since) < LIFE;
        while let Some((_, oldest)) = self.by_number.first_key_value() {
            if is_fresh(oldest) && has_room(self) {
                return;
            }
            let Some((number, row)) = self.by_number.pop_first() else { return };
            for digest in row.digests {
                if self.by_digest.get(&digest) == Some(&number) {
                    self.by_digest.remove(&digest);
                }
            }
            if !row.session.is_over() {
                self.marks.remove(&row.session.login.marks);
            }
        }
    }

    // === Lookups ===

    /// Finds the session with an id, over or not, and when it was opened.
    pub(super) fn find(&self, id: &str, now: Instant) -> Option<(&Arc<IssuedSession>, Instant)> {
        self.find_digest(&sha256(id.as_bytes()), now)
    }

    pub(super) fn find_digest(&self, id: &Digest, now: Instant) -> Option<(&Arc<IssuedSession>, Instant)> {
        let row = self.by_number.get(self.by_digest.get(id)?)?;
        (now.duration_since(row.since) < LIFE).then_some((&row.session, row.since))
    }

    /// Returns the sessions of a choice that are not over, the oldest first.
    pub(super) fn select(&self, filter: &SessionFilter, now: Instant) -> Vec<Arc<IssuedSession>> {
        let live = |row: &&SessionRow| !row.session.is_over();
        let fresh = |row: &&SessionRow| now.duration_since(row.since) < LIFE;
        let one = |number: Option<&u64>| number.and_then(|number| self.by_number.get(number));
        let found: Vec<_> = match filter {
            SessionFilter::Number { number } => one(Some(number)).into_iter().collect(),
            SessionFilter::Id { digest } => one(self.by_digest.get(digest)).into_iter().filter(fresh).collect(),
            // Most requests show no mark of any session: then no session is looked at.
            SessionFilter::Credential { marks } if !marks.iter().any(|mark| self.marks.identifies(mark)) => Vec::new(),
            SessionFilter::All
            | SessionFilter::Target { .. }
            | SessionFilter::Login { .. }
            | SessionFilter::Credential { .. }
            | SessionFilter::Unknown => {
                self.by_number.values().filter(fresh).filter(|row| self.chooses(filter, row)).collect()
            }
        };
        found.into_iter().filter(live).map(|row| Arc::clone(&row.session)).collect()
    }

    /// Returns the youngest sessions that are not over, the youngest first, `most` at most.
    pub(super) fn youngest(&self, most: usize, now: Instant) -> Vec<Arc<IssuedSession>> {
        let rows = self.by_number.values().rev().take_while(|row| now.duration_since(row.since) < LIFE);
        rows.filter(|row| !row.session.is_over()).take(most).map(|row| Arc::clone(&row.session)).collect()
    }

    /// Returns how many sessions are not over.
    pub(super) fn open(&self, now: Instant) -> usize {
        let rows = self.by_number.values().rev().take_while(|row| now.duration_since(row.since) < LIFE);
        rows.filter(|row| !row.session.is_over()).count()
    }

    /// Returns whether a choice is of a session.
    pub(super) fn chooses(&self, filter: &SessionFilter, row: &SessionRow) -> bool {
        let SessionRow { session, digests, .. } = row;
        match filter {
            SessionFilter::All => true,
            SessionFilter::Number { number } => session.number == *number,
            SessionFilter::Id { digest } => digests.contains(digest),
            SessionFilter::Target { whom } => is_of(&session.role, whom),
            SessionFilter::Login { login } => login.fits(&session.login),
            SessionFilter::Credential { marks } => {
                let shows = |one: &CredentialMark| {
                    marks.iter().any(|mark| mark.digest == one.digest && self.marks.identifies(mark))
                };
                session.login.marks.iter().any(shows)
            }
            SessionFilter::Unknown => false,
        }
    }

    // === Ends ===

    /// Ends a session. Returns whether it was not over before.
    pub(super) fn end(&mut self, session: &IssuedSession, reason: EndReason) -> bool {
        let ends = !session.is_over();
        if ends {
            session.end(reason);
            self.marks.remove(&session.login.marks);
        }
        ends
    }

    /// Ends the session with a number, if it is known and not over. Returns it.
    pub(super) fn end_number(&mut self, number: u64, reason: EndReason) -> Option<Arc<IssuedSession>> {
        let session = Arc::clone(&self.by_number.get(&number)?.session);
        self.end(&session, reason).then_some(session)
    }

    /// Ends the session with an id, if it is known and not over. Returns it.
    pub(super) fn end_digest(
        &mut self,
        digest: &Digest,
        reason: EndReason,
        now: Instant,
    ) -> Option<Arc<IssuedSession>> {
        self.recent_ends.note(&SessionFilter::Id { digest: *digest }, reason, now);
        self.end_number(*self.by_digest.get(digest)?, reason)
    }

    /// Returns the digests of the ids of sessions.
    pub(super) fn digests_of(&self, sessions: &[Arc<IssuedSession>]) -> Vec<Digest> {
        let rows = sessions.iter().filter_map(|session| self.by_number.get(&session.number));
        rows.flat_map(|row| row.digests.iter().copied()).collect()
    }

    /// Remembers that the caller with these marks logged out: a login that began before ends with it.
    /// Returns those that do not identify several callers.
    pub(super) fn log_out(&mut self, marks: &[CredentialMark]) -> Vec<CredentialMark> {
        self.marks.log_out(marks, Timestamp::now());
        marks.iter().filter(|mark| !self.marks.is_of_many(mark)).copied().collect()
    }

    /// Returns whether no session is known.
    pub(super) fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }
}

/// Tells whether a role falls under a target.
fn is_of(role: &Role, target: &FreezeTarget) -> bool {
    match target {
        FreezeTarget::Account(account) => matches!(role, Role::User(_)) && role.limit_key() == account.limit_key(),
        FreezeTarget::Domain(domain) => role.domain() == domain,
        FreezeTarget::User(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::model::account::Account;
    use crate::pbx::issued_sessions::filter::LoginFilter;

    fn role(user: &str) -> Role {
        Role::User(Account::new(user, "acme.test".parse().unwrap()).unwrap())
    }

    fn mark(value: &str) -> CredentialMark {
        CredentialMark::likely(b"sid", value.as_bytes()).unwrap()
    }

    fn login(subject: &str, marks: &[CredentialMark]) -> SessionLogin {
        SessionLogin { marks: marks.to_vec(), ..SessionLogin::for_test(subject) }
    }

    /// Adds a session of extension 40.
    fn add(table: &mut SessionTable, id: &str, now: Instant) -> Arc<IssuedSession> {
        table.add(&[id], None, role("40"), login("ann", &[]), now)
    }

    fn numbers(table: &SessionTable, filter: SessionFilter) -> Vec<u64> {
        table.select(&filter, Instant::now()).iter().map(|session| session.number).collect()
    }

    #[test]
    fn a_session_is_known_by_each_of_its_ids_for_a_day() {
        let (mut table, now) = (SessionTable::default(), Instant::now());
        table.add(&["token", "cookie"], None, role("40"), login("ann", &[]), now);
        for id in ["token", "cookie"] {
            assert_eq!(table.find(id, now + LIFE / 2).unwrap().0.number, 1, "{id}");
            assert!(table.find(id, now + LIFE).is_none(), "{id}");
        }
        assert!(table.find("TOKEN", now).is_none());
    }

    #[test]
    fn the_oldest_makes_room_with_all_its_ids_and_no_more_are_kept() {
        let (mut table, now) = (SessionTable::default(), Instant::now());
        for number in 0..=SESSIONS {
            let ids = [format!("token{number}"), format!("cookie{number}")];
            table.add(&[&ids[0], &ids[1]], None, role("40"), login("ann", &[]), now);
        }
        assert!(table.find("token0", now).is_none() && table.find("cookie0", now).is_none());
        assert!(table.find("token1", now).is_some());
        assert_eq!((table.by_number.len(), table.by_digest.len()), (SESSIONS, 2 * SESSIONS));
    }

    #[test]
    fn an_id_that_went_out_twice_is_that_of_its_last_time() {
        let (mut table, now) = (SessionTable::default(), Instant::now());
        add(&mut table, "one", now);
        add(&mut table, "one", now + LIFE / 2);
        add(&mut table, "two", now + LIFE);
        assert_eq!(table.find("one", now + LIFE).unwrap().0.number, 2);
    }

    #[test]
    fn a_choice_is_of_those_that_are_not_over() {
        let (mut table, now) = (SessionTable::default(), Instant::now());
        table.add(&["1"], None, role("40"), login("ann", &[]), now);
        table.add(&["2"], None, role("41"), login("bob", &[]), now);
        table.add(&["3"], None, role("Bob"), SessionLogin { sid: Some("s".to_owned()), ..login("ann", &[]) }, now);
        let target = |text: &str| text.parse::<FreezeTarget>().unwrap();
        assert_eq!(numbers(&table, SessionFilter::All), [1, 2, 3]);
        assert_eq!(numbers(&table, SessionFilter::Number { number: 2 }), [2]);
        assert_eq!(numbers(&table, SessionFilter::id("3")), [3]);
        assert_eq!(numbers(&table, SessionFilter::id("4")), [0; 0]);
        for (text, expected) in [
            ("account 41@acme.test", &[2][..]),
            ("account bob@acme.test", &[3]),
            ("account 40@other.test", &[]),
            ("domain acme.test", &[1, 2, 3]),
            ("domain other.test", &[]),
            ("user ann", &[]),
        ] {
            assert_eq!(numbers(&table, SessionFilter::Target { whom: target(text) }), expected, "{text}");
        }
        assert_eq!(
            numbers(&table, SessionFilter::Login { login: LoginFilter::new(vec!["app".to_owned()], Some("s"), None) }),
            [3]
        );
        let second = Arc::clone(table.find("2", now).unwrap().0);
        let mut end = || table.end(&second, EndReason::Logout);
        assert!(end() && !end() && second.is_over());
        assert_eq!(numbers(&table, SessionFilter::All), [1, 3]);
        assert_eq!(numbers(&table, SessionFilter::Number { number: 2 }), [0; 0]);
        assert!(table.find("2", now).unwrap().0.is_over(), "it is still known");
    }

    // === Marks ===

    const SECRET: &str = "9f86d081884c7d65";
    const SHARED: &str = "c0ns3nt-0f-every-visit0r";

    /// Returns the sessions that a request with these marks ends.
    fn of(table: &SessionTable, marks: &[CredentialMark]) -> Vec<u64> {
        numbers(table, SessionFilter::Credential { marks: marks.to_vec() })
    }

    #[test]
    fn a_caller_is_known_by_a_cookie_of_its_own_and_not_by_one_that_others_show() {
        let (mut table, now) = (SessionTable::default(), Instant::now());
        table.add(&["1"], None, role("40"), login("ann", &[mark(SECRET), mark(SHARED)]), now);
        table.add(&["2"], None, role("41"), login("bob", &[mark("0a1b2c3d4e5f6a7b"), mark(SHARED)]), now);
        table.add(&["3"], None, role("40"), login("ann", &[mark(SECRET)]), now);
        table.add(&["4"], None, role("40"), login("ann", &[mark("another0browser1of2ann")]), now);
        assert_eq!(of(&table, &[mark(SHARED)]), [0; 0]);
        assert_eq!(of(&table, &[mark(SECRET), mark(SHARED)]), [1, 3]);
        assert_eq!(of(&table, &[mark("1234abcd5678ef90")]), [0; 0]);
        // A cookie that the configuration calls a credential identifies its caller, even if another caller shows it.
        let named = CredentialMark::named(b"sid", SHARED.as_bytes());
        assert_eq!(of(&table, &[named]), [1, 2]);
    }

    #[test]
    fn one_person_may_have_two_methods_or_two_accounts() {
        let (mut table, now) = (SessionTable::default(), Instant::now());
        let by_redirect = SessionLogin { method: "redirect".to_owned(), ..login("40@acme.test", &[mark(SECRET)]) };
        table.add(&["1"], None, role("40"), login("ann", &[mark(SECRET)]), now);
        table.add(&["2"], None, role("40"), by_redirect, now);
        table.add(&["3"], None, role("50"), login("ann", &[mark(SECRET)]), now);
        assert_eq!(of(&table, &[mark(SECRET)]), [1, 2, 3]);
    }

    #[test]
    fn marks_are_forgotten_with_their_sessions() {
        let (mut table, now) = (SessionTable::default(), Instant::now());
        let first = table.add(&["1"], None, role("40"), login("ann", &[mark(SHARED), mark(SHARED)]), now);
        table.add(&["2"], None, role("41"), login("bob", &[mark(SHARED)]), now);
        table.end(&first, EndReason::Logout);
        assert_eq!(of(&table, &[mark(SHARED)]), [0; 0], "two callers have shown it");
        let second = Arc::clone(table.find("2", now).unwrap().0);
        table.end(&second, EndReason::Logout);
        table.add(&["3"], None, role("40"), login("ann", &[mark(SHARED)]), now);
        assert_eq!(of(&table, &[mark(SHARED)]), [3]);
        add(&mut table, "4", now + LIFE);
        assert_eq!(of(&table, &[mark(SHARED)]), [0; 0], "its time has passed");
    }

    #[test]
    fn no_more_marks_are_kept_than_a_login_may_have() {
        let (mut table, now) = (SessionTable::default(), Instant::now());
        let marks: Vec<_> = (0..=MARKS).map(|number| mark(&format!("a0b1c2d3e4f5{number:06}"))).collect();
        table.add(&["1"], None, role("40"), login("ann", &marks), now);
        assert_eq!(of(&table, &marks[MARKS - 1..MARKS]), [1]);
        assert_eq!(of(&table, &marks[MARKS..]), [0; 0]);
    }

    #[test]
    fn a_login_under_way_ends_with_its_callers_logout() {
        let (mut table, now) = (SessionTable::default(), Instant::now());
        let marks = [CredentialMark::named(b"sid", SECRET.as_bytes())];
        let before = login("ann", &marks);
        table.log_out(&marks);
        assert!(table.add(&["1"], None, role("40"), before, now).is_over());
        let later = SessionLogin { began: Timestamp::now() + SignedDuration::from_secs(1), ..login("ann", &marks) };
        assert!(!table.add(&["2"], None, role("40"), later, now).is_over());
        let another = login("bob", &[CredentialMark::named(b"sid", b"0a1b2c3d4e5f6a7b")]);
        assert!(!table.add(&["3"], None, role("41"), another, now).is_over());
        assert_eq!(numbers(&table, SessionFilter::All), [2, 3]);
    }
}
