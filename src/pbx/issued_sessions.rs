//! The sessions that callgate opened at the PBX: whose each one is, by which login it was opened, and how it is ended.
//!
//! All workers share the table, and it outlives every configuration and goes along to the next process; a restart clears it. It finds a session by the SHA-256
//! of its id. Of the ids it keeps only the cookie with which a session is ended at the PBX.

mod end_orders;
mod entry;
mod filter;
mod followed_ends;
mod logout_times;
mod mark_index;
mod members;
mod memory;
mod orphans;
mod packed;
mod pending_ends;
mod recent_ends;
mod table;
mod unissued;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use self::end_orders::EndOrder;
use self::end_orders::EndOrders;
pub(crate) use self::entry::{IssuedSession, SessionLogin};
pub(crate) use self::filter::{LoginFilter, SessionFilter};
pub(crate) use self::mark_index::MARKS;
use self::members::MemberSessions;
use self::memory::SessionMemory;
use self::orphans::ToldOrphans;
pub(crate) use self::pending_ends::{PendingEnd, PendingEnds};
use self::table::{SESSIONS, SessionTable};
pub(crate) use self::unissued::UnissuedSession;
use self::unissued::UnissuedSessions;
use crate::memory::{MemoryWriter, ProcessMemory};
use crate::model::account::Role;
use crate::model::credential_mark::CredentialMark;
use crate::model::digest::Digest;
use crate::model::secret::Secret;
use crate::model::session::EndReason;
use crate::observe::Logs;
use crate::observe::audit::{AuditEvent, EventRecord};
use crate::observe::metrics::SessionCounts;

/// How long after its issue a link with a session may reach its landing page.
const LANDING: Duration = Duration::from_secs(120);

/// The sessions that callgate opened, each with its login.
#[derive(Debug, Default)]
pub(crate) struct IssuedSessions {
    table: Mutex<SessionTable>,
    /// Whether there may be one: all that most requests ask.
    any: AtomicBool,
    /// Those that are to be ended at the PBX.
    pending: PendingEnds,
    /// Those of others, while tunnels are open with them.
    unissued: UnissuedSessions,
    /// The ends that old processes carry out, too.
    orders: EndOrders,
    /// What other members know, and are told.
    members: MemberSessions,
    orphans: ToldOrphans,
    counts: Arc<SessionCounts>,
}

/// Why sessions are ended, for the audit log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionEnd<'e> {
    /// The reason.
    pub reason: EndReason,
    /// The user of this machine who ordered it.
    pub by: Option<&'e str>,
}

impl From<EndReason> for SessionEnd<'_> {
    fn from(reason: EndReason) -> Self {
        Self { reason, by: None }
    }
}

impl IssuedSessions {
    // === Hand-over ===

    /// Goes on with the sessions that a process before has opened. The PBX is told of those that are over and that it has not
    /// ended.
    pub(crate) fn take_over(memory: &mut ProcessMemory) -> Self {
        let sessions = Self::default();
        let Some(known) = memory.take(memory::PART) else { return sessions };
        let table = SessionTable::take_over(known, memory.age(), Instant::now());
        sessions.any.store(!table.is_empty(), Ordering::Release);
        table.unconfirmed().iter().for_each(|session| sessions.pending.take_over(session));
        *sessions.table() = table;
        sessions
    }

    /// Writes the sessions for the next process, except those of WebSockets that this one keeps.
    ///
    /// # Errors
    /// As the writer.
    pub(crate) fn pass_on(&self, writer: &mut MemoryWriter<'_>) -> io::Result<()> {
        let table = self.table().pass_on(writer.now());
        writer.add(memory::PART, &table)
    }

    /// Leaves the ends that the next process was told of to that process.
    pub(crate) fn leave(&self) {
        self.pending.leave();
    }

    // === Sessions that begin ===

    /// Remembers a session that the PBX opened, with all ids under which requests show it, and the cookie by which the PBX
    /// knows it. If the caller has logged out since the login began, the session is over at once.
    pub(crate) fn note(
        &self,
        ids: &[&str],
        cookie: Option<Secret>,
        role: &Role,
        login: SessionLogin,
    ) -> Arc<IssuedSession> {
        let session = self.table().add(ids, cookie, role.clone(), login, Instant::now());
        self.any.store(true, Ordering::Release);
        self.counts.opened();
        if session.is_over() {
            self.counts.ended(EndReason::Refused);
            self.pending.add(&session);
        }
        session
    }

    /// Takes over a session that another member had opened `age` before `asked`.
    fn adopt(&self, memory: SessionMemory, digest: &Digest, age: Duration, asked: Instant) {
        if self.table().adopt(memory, digest, age, asked) {
            self.any.store(true, Ordering::Release);
        }
    }

    // === Lookups ===

    /// Returns whether a session was issued so recently that its browser may just be landing.
    #[must_use]
    pub(crate) fn is_landing(&self, id: &str) -> bool {
        let now = Instant::now();
        let table = self.table();
        table.find(id, now).is_some_and(|(session, since)| !session.is_over() && now.duration_since(since) < LANDING)
    }

    /// Finds a session by its id, token or cookie. One that was ended is found for a day, too.
    #[must_use]
    pub(crate) fn find(&self, id: &str) -> Option<Arc<IssuedSession>> {
        if self.are_none() {
            return None;
        }
        self.table().find(id, Instant::now()).map(|(session, _)| Arc::clone(session))
    }

    /// Returns whether the PBX may still accept a session that is over here.
    #[must_use]
    pub(crate) fn has_unconfirmed(&self) -> bool {
        self.pending.has_any()
    }

    /// Returns the sessions that are not over, the oldest first.
    #[must_use]
    pub(crate) fn list(&self, filter: &SessionFilter) -> Vec<Arc<IssuedSession>> {
        self.table().select(filter, Instant::now())
    }

    /// Returns the youngest sessions that are not over, the youngest first, `most` at most.
    #[must_use]
    pub(crate) fn youngest(&self, most: usize) -> Vec<Arc<IssuedSession>> {
        self.table().youngest(most, Instant::now())
    }

    /// Returns how many sessions are not over.
    #[must_use]
    pub(crate) fn open(&self) -> usize {
        self.table().open(Instant::now())
    }

    /// Returns how many sessions are remembered, and how many can be. Those that are over are among them for a day.
    #[must_use]
    pub(crate) fn room(&self) -> (usize, usize) {
        (self.table().by_number.len(), SESSIONS)
    }

    /// Returns whether no session was opened yet: then no request can show one.
    #[must_use]
    pub(crate) fn are_none(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    /// Returns the counts for the metrics.
    #[must_use]
    pub(crate) fn counts(&self) -> &Arc<SessionCounts> {
        &self.counts
    }

    /// Returns the sessions that are to be ended at the PBX.
    #[must_use]
    pub(crate) const fn pending(&self) -> &PendingEnds {
        &self.pending
    }

    /// Returns the ends that old processes carry out, too.
    #[must_use]
    pub(crate) const fn orders(&self) -> &EndOrders {
        &self.orders
    }

    /// Returns a session that callgate did not open, for a tunnel that is opened with it.
    pub(crate) fn watch_unissued(&self, id: &str) -> Arc<UnissuedSession> {
        self.unissued.watch(id)
    }

    // === Ends ===

    /// Ends sessions, on all workers at once: their tunnels are cut, and requests with them reach the PBX without them. The
    /// PBX is told in the background, and told again if it cannot be reached. Returns the sessions that ended.
    pub(crate) fn end(&self, filter: &SessionFilter, end: SessionEnd<'_>, logs: &Logs) -> Vec<Arc<IssuedSession>> {
        // A person who logged out at the PBX did so there already.
        self.end_telling(filter, end, end.reason != EndReason::Pbx, logs)
    }

    /// As [`IssuedSessions::end_in_processes`], and lets the other members do the same in the background.
    pub(crate) fn end_everywhere(
        &self,
        filter: SessionFilter,
        end: SessionEnd<'_>,
        logs: &Logs,
    ) -> Vec<Arc<IssuedSession>> {
        let ended = self.end_in_processes(filter.clone(), end, logs);
        self.tell_end_to_members(&filter, end, &ended);
        ended
    }

    /// Lets the other members end the sessions of a choice, too. `ended`: those that ended here.
    pub(crate) fn tell_end_to_members(
        &self,
        filter: &SessionFilter,
        end: SessionEnd<'_>,
        ended: &[Arc<IssuedSession>],
    ) {
        self.members.add(|| EndOrder::for_members(filter.clone(), end, self.table().digests_of(ended)));
    }

    /// As [`IssuedSessions::end`], and lets old processes do the same in the background. A choice by an id also ends the
    /// tunnels of a session that callgate did not open.
    pub(crate) fn end_in_processes(
        &self,
        filter: SessionFilter,
        end: SessionEnd<'_>,
        logs: &Logs,
    ) -> Vec<Arc<IssuedSession>> {
        self.end_unissued(&filter);
        let ended = self.end(&filter, end, logs);
        self.orders.add(|| EndOrder::all(filter, end, &ended));
        ended
    }

    /// Carries out an order of the newest process, to which this one has handed over. Returns how many sessions ended; `None`:
    /// the order is one of another version.
    pub(crate) fn follow(&self, order: &EndOrder, logs: &Logs) -> Option<usize> {
        self.carry_out(order, logs).map(|ended| ended.len())
    }

    /// Carries out an order of another member, here and in the old processes. Returns the sessions of its choice that ended.
    fn follow_member(&self, order: &EndOrder, logs: &Logs) -> Vec<Arc<IssuedSession>> {
        let end = SessionEnd { reason: order.reason, by: order.by.as_deref() };
        let ended = self.carry_out(order, logs).unwrap_or_default();
        let by_id = order.ids.iter().map(|digest| SessionFilter::Id { digest: *digest });
        for filter in by_id.chain([order.filter.clone()]) {
            self.orders.add(|| EndOrder::all(filter, end, &ended));
        }
        ended
    }

    fn carry_out(&self, order: &EndOrder, logs: &Logs) -> Option<Vec<Arc<IssuedSession>>> {
        for digest in &order.ids {
            self.unissued.end(digest);
            // The member that gives the order has it in its audit log and its counts.
            self.table().end_digest(digest, order.reason, Instant::now()).inspect(|session| session.confirm_end());
        }
        for number in &order.told {
            // The newest process has it in its audit log and its counts.
            self.table().end_number(*number, order.reason).inspect(|session| session.confirm_end());
        }
        match &order.filter {
            SessionFilter::Unknown => return None,
            SessionFilter::Credential { marks } => drop(self.table().log_out(marks)),
            SessionFilter::Id { .. }
            | SessionFilter::All
            | SessionFilter::Number { .. }
            | SessionFilter::Target { .. }
            | SessionFilter::Login { .. } => self.end_unissued(&order.filter),
        }
        let end = SessionEnd { reason: order.reason, by: order.by.as_deref() };
        Some(self.end_telling(&order.filter, end, !order.is_told, logs))
    }

    /// Ends every session of the caller that shows a credential with these marks, and of a login of it that is under way.
    pub(crate) fn log_out(&self, marks: &[CredentialMark], reason: EndReason, logs: &Logs) -> Vec<Arc<IssuedSession>> {
        let marks = self.table().log_out(marks);
        self.end_everywhere(SessionFilter::Credential { marks }, reason.into(), logs)
    }

    fn end_telling(
        &self,
        filter: &SessionFilter,
        end: SessionEnd<'_>,
        tells: bool,
        logs: &Logs,
    ) -> Vec<Arc<IssuedSession>> {
        let ended = self.take(filter, end.reason, tells);
        for session in &ended {
            self.counts.ended(end.reason);
            logs.write_note(&record(session, end));
        }
        ended
    }

    /// Marks sessions as over, in one step with the choice among them. `tells`: this process tells the PBX.
    fn take(&self, filter: &SessionFilter, reason: EndReason, tells: bool) -> Vec<Arc<IssuedSession>> {
        let (mut table, now) = (self.table(), Instant::now());
        table.recent_ends.note(filter, reason, now);
        let ended = table.select(filter, now);
        for session in &ended {
            table.end(session, reason);
            match tells {
                true => self.pending.add(session),
                false => session.confirm_end(),
            }
        }
        ended
    }

    /// Ends the tunnels of a session that callgate did not open, if the choice is by an id.
    fn end_unissued(&self, filter: &SessionFilter) {
        if let SessionFilter::Id { digest } = filter {
            self.unissued.end(digest);
        }
    }

    /// Locks even after a panic elsewhere: entries are moved in and out whole.
    fn table(&self) -> MutexGuard<'_, SessionTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Describes the end of a session to the audit log.
fn record(session: &IssuedSession, end: SessionEnd<'_>) -> EventRecord {
    EventRecord {
        event: AuditEvent::SessionEnd,
        account: session.role.to_string(),
        session: Some(session.number),
        subject: Some(session.login.subject.clone()),
        by: end.by.map(str::to_owned),
        until: None,
        reason: Some(end.reason.as_str().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;
    use crate::model::account::Account;

    fn note(sessions: &IssuedSessions, id: &str, is_cookie: bool) -> Arc<IssuedSession> {
        let role = Role::User(Account::new("40", "acme.test".parse().unwrap()).unwrap());
        let cookie = is_cookie.then(|| Secret::new(id.to_owned()));
        sessions.note(&[id], cookie, &role, SessionLogin::for_test("ann"))
    }

    fn end(sessions: &IssuedSessions, reason: EndReason) -> usize {
        sessions.end(&SessionFilter::All, reason.into(), &logs()).len()
    }

    fn logs() -> Logs {
        Logs::discarding(LogFormat::Text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_lands_within_two_minutes_and_not_after_its_end() {
        let sessions = IssuedSessions::default();
        assert!(sessions.find("session00000001").is_none());
        note(&sessions, "session00000001", true);
        assert!(!sessions.is_landing("session00000002"));
        tokio::time::advance(LANDING - Duration::from_millis(1)).await;
        assert!(sessions.is_landing("session00000001"));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!sessions.is_landing("session00000001"));
        note(&sessions, "session00000003", true);
        assert_eq!(end(&sessions, EndReason::Operator), 2);
        assert!(!sessions.is_landing("session00000003"));
        assert!(sessions.find("session00000003").unwrap().is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn the_pbx_is_told_of_each_end_that_it_does_not_know() {
        let sessions = IssuedSessions::default();
        note(&sessions, "session00000001", true);
        end(&sessions, EndReason::Freeze);
        let first = sessions.pending().next(8, |_| true).await;
        assert_eq!(first.iter().map(|one| one.session.number).collect::<Vec<_>>(), [1]);
        sessions.pending().settle(&first[0]);
        note(&sessions, "session00000002", true);
        // Its own page logged this one out, and the cookie of that one is unknown.
        end(&sessions, EndReason::Pbx);
        note(&sessions, "token000000003", false);
        end(&sessions, EndReason::Freeze);
        let waits = tokio::time::timeout(Duration::from_secs(3600), sessions.pending().next(8, |_| true));
        assert!(waits.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_an_end_learns_how_it_went() {
        let sessions = IssuedSessions::default();
        let [one, two] = ["session00000001", "session00000002"].map(|id| note(&sessions, id, true).number);
        assert!(sessions.pending().until_settled(|_| true).await, "nothing is to be ended");
        end(&sessions, EndReason::Logout);
        let pending = sessions.pending().next(8, |_| true).await;
        let waits = |number| sessions.pending().until_settled(move |session| session.number == number);
        let acts = async {
            sessions.pending().settle(&pending[0]);
            assert!(sessions.pending().try_again(pending[1].clone()));
        };
        let (first, second, ()) = tokio::join!(waits(one), waits(two), acts);
        assert_eq!((first, second), (true, false));
        assert!(!waits(two).await, "a later try is not waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_fails_is_tried_again_later_and_not_for_ever() {
        let sessions = IssuedSessions::default();
        note(&sessions, "session00000001", true);
        end(&sessions, EndReason::Operator);
        let begun = Instant::now();
        let mut tries = 1;
        while let [pending] = &*sessions.pending().next(8, |_| true).await {
            if !sessions.pending().try_again(pending.clone()) {
                break;
            }
            tries += 1;
        }
        assert_eq!(tries, 8);
        assert!((63..=127).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_process_ends_what_the_newest_one_orders_and_tells_the_pbx_of_the_rest() {
        let sessions = IssuedSessions::default();
        let [one, two] = ["session00000001", "session00000002"].map(|id| note(&sessions, id, true));
        let tunnel = sessions.watch_unissued("session00000003");
        let order = |filter, reason: EndReason| EndOrder::all(filter, reason.into(), &[]).remove(0);
        assert_eq!(sessions.follow(&order(SessionFilter::Unknown, EndReason::Logout), &logs()), None);
        assert_eq!(sessions.follow(&order(SessionFilter::id("session00000003"), EndReason::Logout), &logs()), Some(0));
        tunnel.until_over().await;
        assert_eq!(sessions.follow(&order(SessionFilter::id("session00000001"), EndReason::Logout), &logs()), Some(1));
        assert!(
            one.is_over() && !two.is_over() && !sessions.pending().has_queued(),
            "the newest process tells the PBX"
        );
        assert_eq!(sessions.follow(&order(SessionFilter::All, EndReason::Operator), &logs()), Some(1));
        let pending = sessions.pending().next(8, |_| true).await;
        assert_eq!(pending.iter().map(|one| one.session.number).collect::<Vec<_>>(), [two.number]);
        assert_eq!(sessions.orders().take(), None, "an old process orders nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_both_processes_know_is_ended_at_the_pbx_by_the_newest_one() {
        let old = IssuedSessions::default();
        let [one, two, held] = ["session00000001", "session00000002", "session00000003"].map(|id| note(&old, id, true));
        held.hold();
        end_number(&old, two.number);
        let new = passed_on(&old);
        new.orders().open();
        assert!(new.find("session00000001").is_some() && new.find("session00000003").is_none());
        let pending = old.pending().next(8, |_| true).await;
        old.leave();
        assert!(!old.pending().has_queued() && old.pending().try_again(pending[0].clone()));
        assert!(!old.pending().has_queued(), "the newest process tells the PBX of it");
        assert_eq!(new.pending().next(8, |_| true).await[0].session.number, two.number);
        assert_eq!(end(&new, EndReason::Operator), 1);
        new.end_everywhere(SessionFilter::All, EndReason::Operator.into(), &logs());
        let ended = [new.find("session00000001").unwrap()];
        for order in EndOrder::all(SessionFilter::All, EndReason::Operator.into(), &ended) {
            assert_eq!(old.follow(&order, &logs()), Some(1), "that of the socket");
        }
        assert!(one.is_over() && held.is_over());
        let pending = old.pending().next(8, |_| true).await;
        assert_eq!(pending.iter().map(|one| one.session.number).collect::<Vec<_>>(), [held.number]);
        assert_eq!(new.orders().take().unwrap().told, [0; 0]);
    }

    fn end_number(sessions: &IssuedSessions, number: u64) {
        sessions.end(&SessionFilter::number(number), EndReason::Logout.into(), &logs());
    }

    /// Returns the sessions as the next process has them.
    fn passed_on(old: &IssuedSessions) -> IssuedSessions {
        let mut bytes = Vec::new();
        let mut writer = MemoryWriter::begin(&mut bytes).unwrap();
        old.pass_on(&mut writer).unwrap();
        writer.end().unwrap();
        IssuedSessions::take_over(&mut ProcessMemory::read(&*bytes).unwrap())
    }

    #[test]
    fn a_logout_is_ordered_after_the_session_that_it_shows() {
        let sessions = IssuedSessions::default();
        sessions.orders().open();
        let marks = [CredentialMark::named(b"sid", b"9f86d081884c7d65")];
        sessions.end_everywhere(SessionFilter::id("session00000001"), EndReason::Logout.into(), &logs());
        sessions.log_out(&marks, EndReason::Logout, &logs());
        end(&sessions, EndReason::Socket);
        let filters = [SessionFilter::id("session00000001"), SessionFilter::Credential { marks: marks.to_vec() }];
        let taken = [sessions.orders().take(), sessions.orders().take(), sessions.orders().take()];
        assert_eq!(
            taken.map(|order| order.map(|order| order.filter)),
            [Some(filters[0].clone()), Some(filters[1].clone()), None]
        );
    }

    #[test]
    fn no_id_and_no_cookie_is_printed() {
        let sessions = IssuedSessions::default();
        note(&sessions, "session00000001", true);
        end(&sessions, EndReason::Operator);
        assert!(!format!("{sessions:?}").contains("session00000001"));
    }
}
