//! The sessions as one process writes them for the next one. Their cookies go along, in memory alone: with them the next
//! process ends the sessions at the PBX.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;

use super::entry::{IssuedSession, KnownState, SessionLogin};
use super::packed::PackedIds;
use super::table::{LIFE, SESSIONS, SessionRow, SessionTable};
use crate::memory::nanos;
use crate::model::credential_mark::MarkDigest;
use crate::model::digest::Digest;
use crate::model::secret::Secret;
use crate::model::session::EndReason;
use crate::model::stored_role::StoredRole;

/// The name of the sessions in a memory.
pub(super) const PART: &str = "sessions";
/// The part of the numbers that only the hand-over changes: each process that has handed over goes on with numbers that no
/// other one has.
const GENERATION: u32 = 32;
/// The most bytes of all sessions; the oldest are left out.
const MOST_BYTES: usize = 64 << 20;
/// The most marks that more than one caller has shown.
const MOST_SHARED: usize = 100_000;
/// The most bytes of a session in JSON without its texts, and of a mark or a digest.
const FRAME: usize = 640;
const PACKED: usize = 44;

/// The table for the next process, of one moment.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SessionTableMemory<R> {
    /// The last number that was given.
    last: u64,
    /// How many hand-overs were begun.
    generation: u64,
    /// The sessions, from the oldest to the youngest.
    sessions: R,
    /// The marks that more than one caller has shown.
    shared: Vec<MarkDigest>,
    /// When a caller logged out last.
    last_logout: Option<Timestamp>,
}

/// The rows of a table, written one after the other.
#[derive(Debug)]
pub(super) struct SessionRows {
    rows: Vec<SessionRow>,
    now: Instant,
}

/// One session.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SessionMemory {
    number: u64,
    role: StoredRole,
    login: SessionLogin,
    opened: Timestamp,
    /// How long ago it was opened, in nanoseconds.
    age: u64,
    ids: PackedIds,
    cookie: Option<StoredCookie>,
    is_over: bool,
    is_over_at_pbx: bool,
}

/// The cookie by which the PBX knows a session.
struct StoredCookie(Secret);

// === The old process ===

impl SessionTable {
    /// Describes the table for the next process, and goes on with numbers that the next process does not give. The sessions
    /// of WebSockets that this process keeps stay with it.
    pub(super) fn pass_on(&mut self, now: Instant) -> SessionTableMemory<SessionRows> {
        let last = self.last;
        self.generation += 1;
        self.last = last.max(self.generation << GENERATION);
        let is_live = |row: &&SessionRow| now.duration_since(row.since) < LIFE && !row.session.is_held();
        let mut left = MOST_BYTES;
        let fits = |row: &&SessionRow| {
            let rest = left.checked_sub(length(row));
            left = rest.unwrap_or_default();
            rest.is_some()
        };
        let mut rows: Vec<_> = self.by_number.values().filter(is_live).rev().take_while(fits).cloned().collect();
        rows.reverse();
        rows.iter().filter(|row| row.session.is_over()).for_each(|row| row.session.pass_end_on());
        SessionTableMemory {
            last,
            generation: self.generation,
            sessions: SessionRows { rows, now },
            shared: self.marks.shared(MOST_SHARED),
            last_logout: self.marks.last_logout(),
        }
    }
}

/// Returns the longest text that a row may become, in bytes.
fn length(row: &SessionRow) -> usize {
    let IssuedSession { login, role, .. } = &*row.session;
    let texts = [&login.method, &login.subject, &login.rule].into_iter().chain(&login.sid);
    let texts = texts.chain(&login.host).chain(&login.node);
    let texts = texts.map(|text| escaped(text)).chain(row.session.cookie().map(|cookie| escaped(cookie.expose())));
    let packed = (login.marks.len() + row.digests.len()) * PACKED;
    FRAME + texts.sum::<usize>() + role.to_string().len() + packed
}

/// Returns the length of a text in JSON.
fn escaped(text: &str) -> usize {
    let byte = |byte: u8| match byte {
        0..=0x1f => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    text.bytes().map(byte).sum()
}

impl Serialize for SessionRows {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.rows.iter().map(|row| SessionMemory::of(row, self.now)))
    }
}

// === The new process ===

impl SessionTable {
    /// Goes on with a table that was written `age` ago. Of more sessions than a table may have, the oldest are left out.
    pub(super) fn take_over(memory: SessionTableMemory<Vec<SessionMemory>>, age: Duration, now: Instant) -> Self {
        let SessionTableMemory { last, generation, sessions, shared, last_logout } = memory;
        let mut table = Self { last, generation, ..Self::default() };
        let surplus = sessions.len().saturating_sub(SESSIONS);
        for row in sessions.into_iter().skip(surplus) {
            if let Some(row) = row.restore(age, now) {
                table.restore(row);
            }
        }
        table.marks.restore(&shared, last_logout);
        table
    }

    /// Takes over a session that another member opened `age` ago, under a number of this table. Returns whether it did.
    pub(super) fn adopt(&mut self, memory: SessionMemory, digest: &Digest, age: Duration, now: Instant) -> bool {
        self.forget(now);
        if self.find_digest(digest, now).is_some() {
            return false;
        }
        let memory = SessionMemory { number: self.last + 1, age: 0, ..memory };
        let Some(row) = memory.restore(age, now).filter(|row| row.digests.contains(digest)) else { return false };
        let number = row.session.number;
        let has_logged_out = self.marks.has_logged_out(&row.session.login).then_some(EndReason::Logout);
        self.restore(row);
        let row = &self.by_number[&number];
        let missed = self.recent_ends.reason_for(age, now, |filter| self.chooses(filter, row));
        if let Some(reason) = has_logged_out.or(missed) {
            let session = Arc::clone(&row.session);
            // The member that opened it tells the PBX.
            self.end(&session, reason);
            session.confirm_end();
        }
        true
    }

    fn restore(&mut self, row: SessionRow) {
        let session = &row.session;
        self.last = self.last.max(session.number);
        if !session.is_over() {
            self.marks.add(&session.login.marks, &session.login, &session.role);
        }
        self.by_digest.extend(row.digests.iter().map(|digest| (*digest, session.number)));
        self.by_number.insert(session.number, row);
    }

    /// Returns the sessions that the PBX has not ended, although they are over.
    pub(super) fn unconfirmed(&self) -> Vec<Arc<IssuedSession>> {
        let unconfirmed = self.by_number.values().map(|row| &row.session).filter(|session| session.is_unconfirmed());
        unconfirmed.cloned().collect()
    }
}

impl SessionMemory {
    /// Describes a session, as of now.
    pub(super) fn of(row: &SessionRow, now: Instant) -> Self {
        let session = &row.session;
        Self {
            number: session.number,
            role: StoredRole::of(&session.role),
            login: session.login.clone(),
            opened: session.opened,
            age: nanos(now.duration_since(row.since)),
            ids: PackedIds(row.digests.clone()),
            cookie: session.cookie().cloned().map(StoredCookie),
            is_over: session.is_over(),
            is_over_at_pbx: session.is_over() && !session.is_unconfirmed(),
        }
    }

    /// Returns the row; `None` if its time has passed, or it is of no account.
    fn restore(self, age: Duration, now: Instant) -> Option<SessionRow> {
        let Self { number, role, mut login, opened, age: before, ids, cookie, is_over, is_over_at_pbx } = self;
        let age = Duration::from_nanos(before).saturating_add(age);
        let since = now.checked_sub(age).filter(|_| age < LIFE)?;
        login.marks.truncate(super::MARKS);
        let state = KnownState { opened, is_over, is_over_at_pbx };
        let cookie = cookie.map(|StoredCookie(cookie)| cookie);
        let session = Arc::new(IssuedSession::restored(number, role.restore()?, login, cookie, state));
        Some(SessionRow { session, since, digests: ids.0 })
    }
}

// === Texts ===

impl Serialize for StoredCookie {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.expose())
    }
}

impl<'de> Deserialize<'de> for StoredCookie {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Secret::new(String::deserialize(deserializer)?)))
    }
}

impl std::fmt::Debug for StoredCookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::account::{Account, Role};
    use crate::model::credential_mark::CredentialMark;
    use crate::pbx::issued_sessions::filter::SessionFilter;

    const SECRET: &[u8] = b"9f86d081884c7d65";
    const SHARED: &[u8] = b"c0ns3nt-0f-every-visit0r";

    fn role(user: &str) -> Role {
        Role::User(Account::new(user, "acme.test".parse().unwrap()).unwrap())
    }

    fn login(subject: &str, marks: &[CredentialMark]) -> SessionLogin {
        SessionLogin {
            sid: Some("s\"1".to_owned()),
            node: Some("north".to_owned()),
            marks: marks.to_vec(),
            ..SessionLogin::for_test(subject)
        }
    }

    fn mark(value: &[u8]) -> CredentialMark {
        CredentialMark::likely(b"sid", value).unwrap()
    }

    /// Returns a table as the next process has it, which reads it after `age`.
    fn passed_on(table: &mut SessionTable, now: Instant, age: Duration) -> SessionTable {
        let text = serde_json::to_string(&table.pass_on(now)).unwrap();
        SessionTable::take_over(serde_json::from_str(&text).unwrap(), age, now + age)
    }

    fn numbers(table: &SessionTable, filter: &SessionFilter) -> Vec<u64> {
        table.select(filter, Instant::now()).iter().map(|session| session.number).collect()
    }

    #[test]
    fn the_next_process_knows_each_session_as_the_old_one_did() {
        let (mut table, now) = (SessionTable::default(), Instant::now());
        let marks = [mark(SECRET), CredentialMark::named(b"a", b"b"), CredentialMark::whole([&b"c"[..]])];
        let cookie = Secret::new("c00kie\"\\".to_owned());
        let first = table.add(&["token", "c00kie"], Some(cookie.clone()), role("40"), login("ann", &marks), now);
        let second = table.add(&["other"], None, role("41"), login("bob", &[]), now);
        table.end(&second, EndReason::Logout);
        second.confirm_end();
        let next = passed_on(&mut table, now, Duration::from_secs(1));
        for id in ["token", "c00kie"] {
            let (session, since) = next.find(id, now).unwrap();
            assert_eq!((session.number, since, session.opened), (first.number, now, first.opened), "{id}");
            assert_eq!((&session.role, &session.login, session.cookie()), (&first.role, &first.login, Some(&cookie)));
            assert!(!session.is_over());
        }
        let (other, _) = next.find("other", now).unwrap();
        assert!(other.is_over() && !other.is_unconfirmed() && other.cookie().is_none());
        for mark in marks {
            assert_eq!(numbers(&next, &SessionFilter::Credential { marks: vec![mark] }), [1], "{mark:?}");
        }
        assert_eq!(numbers(&next, &SessionFilter::All), [1]);
    }

    #[test]
    fn a_session_has_its_day_in_both_processes_together() {
        let (mut table, now) = (SessionTable::default(), Instant::now());
        table.add(&["one"], None, role("40"), login("ann", &[]), now);
        let half = LIFE / 2;
        let mut next = passed_on(&mut table, now + half, Duration::from_secs(3));
        assert!(next.find("one", now + LIFE - Duration::from_millis(1)).is_some());
        assert!(next.find("one", now + LIFE).is_none());
        assert!(passed_on(&mut next, now + half, half).find("one", now).is_none(), "its time has passed on the way");
        assert!(passed_on(&mut table, now + LIFE, Duration::ZERO).find("one", now).is_none());
    }

    #[test]
    fn what_a_mark_says_and_who_has_logged_out_is_known_to_the_next_process() {
        let (mut table, now) = (SessionTable::default(), Instant::now());
        let first = table.add(&["1"], None, role("40"), login("ann", &[mark(SHARED)]), now);
        table.add(&["2"], None, role("41"), login("bob", &[mark(SHARED), mark(SECRET)]), now);
        table.end(&first, EndReason::Logout);
        let before = login("eve", &[CredentialMark::named(b"sid", b"eve")]);
        table.log_out(&before.marks);
        let mut next = passed_on(&mut table, now, Duration::ZERO);
        let by = |mark| SessionFilter::Credential { marks: vec![mark] };
        assert_eq!(numbers(&next, &by(mark(SHARED))), [0; 0], "two callers have shown it");
        assert_eq!(numbers(&next, &by(mark(SECRET))), [2]);
        assert!(next.add(&["3"], None, role("40"), before, now).is_over());
    }

    #[test]
    fn no_two_processes_give_one_number() {
        let now = Instant::now();
        let add = |table: &mut SessionTable| table.add(&[], None, role("40"), login("ann", &[]), now).number;
        let mut first = SessionTable::default();
        let mut numbers = vec![add(&mut first)];
        drop(passed_on(&mut first, now, Duration::ZERO));
        numbers.push(add(&mut first));
        let mut second = passed_on(&mut first, now, Duration::ZERO);
        let mut third = passed_on(&mut second, now, Duration::ZERO);
        for table in [&mut first, &mut second, &mut third] {
            numbers.extend([add(table), add(table)]);
        }
        let mut different = numbers.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), numbers.len(), "{numbers:?}");
        assert_eq!(passed_on(&mut SessionTable::default(), now, Duration::ZERO).last, 0);
    }

    #[test]
    fn no_more_sessions_are_taken_over_than_a_table_has_and_none_without_an_account() {
        let now = Instant::now();
        let row = |number: u64, user: &str| {
            let session = IssuedSession::new(number, role("40"), login("ann", &[]), None);
            let row = SessionRow { session: Arc::new(session), since: now, digests: Vec::new() };
            let mut text = serde_json::to_value(SessionRows { rows: vec![row], now }).unwrap();
            text[0]["role"]["user"] = user.into();
            serde_json::from_value::<SessionMemory>(text[0].take()).unwrap()
        };
        let memory =
            |sessions| SessionTableMemory { last: 0, generation: 1, sessions, shared: vec![], last_logout: None };
        let many = (1..=SESSIONS as u64 + 3).map(|number| row(number, "40")).collect();
        let table = SessionTable::take_over(memory(many), Duration::ZERO, now);
        assert_eq!((table.by_number.len(), table.last), (SESSIONS, SESSIONS as u64 + 3));
        assert!(!table.by_number.contains_key(&3) && table.by_number.contains_key(&4));
        let table = SessionTable::take_over(memory(vec![row(1, "admin"), row(2, "41")]), Duration::ZERO, now);
        assert_eq!(numbers(&table, &SessionFilter::All), [2]);
    }

    #[test]
    fn long_texts_leave_room_for_the_youngest_and_no_row_is_longer_than_counted() {
        let (mut table, now) = (SessionTable::default(), Instant::now());
        let subject = "\0\"\u{7f}x".repeat(1 << 20);
        let ids: Vec<_> = (0..20).map(|number| number.to_string()).collect();
        for id in &ids {
            table.add(&[id], Some(Secret::new(id.repeat(50))), role("40"), login(&subject, &[mark(SECRET)]), now);
        }
        let rows = table.pass_on(now).sessions;
        assert_eq!(rows.rows.iter().map(|row| row.session.number).collect::<Vec<_>>(), (15..=20).collect::<Vec<_>>());
        let text = serde_json::to_string(&rows).unwrap();
        let counted: usize = rows.rows.iter().map(length).sum();
        assert!((counted - 6 * FRAME..counted).contains(&text.len()), "{counted} {}", text.len());
    }

    #[test]
    fn the_session_of_a_socket_stays_with_its_process() {
        let (mut table, now) = (SessionTable::default(), Instant::now());
        table.add(&["one"], None, role("40"), login("ann", &[]), now).hold();
        assert!(passed_on(&mut table, now, Duration::ZERO).find("one", now).is_none());
    }

    #[test]
    fn no_cookie_is_printed() {
        assert_eq!(format!("{:?}", StoredCookie(Secret::new("c00kie".to_owned()))), "***");
    }
}
