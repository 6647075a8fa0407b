//! Sessions as members tell each other of them. Each member looks a session up in its own table first, and asks the engine for
//! one that it does not know; each end of sessions is passed on to the other members.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout};

use super::IssuedSessions;
use super::end_orders::{EndOrder, EndOrders};
use super::entry::IssuedSession;
use super::followed_ends::{FollowedEnds, NotFollowed};
use super::memory::SessionMemory;
use super::table::LIFE;
use crate::members::{EngineKey, EngineScript, SharedEngine, content};
use crate::model::digest::{Digest, sha256};
use crate::observe::Logs;
use crate::random;

/// The kind of the records of sessions.
const SESSION: &str = "session";
/// The kind of the messages about their ends.
const END: &str = "end";
/// How long a session that the engine does not know is not asked for again. A member writes a session before its browser
/// has it.
const UNKNOWN: Duration = Duration::from_secs(30);
/// The most sessions that are known to be unknown.
const MOST_UNKNOWN: usize = 10_000;
/// How many records are removed at the same time.
const AT_ONCE: usize = 128;
/// How long an end waits for an engine that is away.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest record that is read, in bytes.
const LONGEST: usize = 64 << 10;

/// Finds a record under the keys of the ring, with its life. One that is too long is none.
static FIND: LazyLock<EngineScript> = LazyLock::new(|| {
    EngineScript::new(
        "for _, key in ipairs(KEYS) do local value = redis.call('GET', key) \
         if value and #value <= tonumber(ARGV[1]) then return { value, tostring(redis.call('PTTL', key)) } end end return {}",
    )
});

/// What members tell each other of sessions.
#[derive(Default)]
pub(super) struct MemberSessions {
    number: OwnNumber,
    engine: Mutex<Option<Arc<SharedEngine>>>,
    /// The ends that other members carry out, too.
    ends: EndOrders,
    /// How many messages this process has sent.
    sent: AtomicU64,
    followed: Mutex<FollowedEnds>,
    /// Sessions that the engine does not know, and until when that is believed.
    unknown: Mutex<HashMap<Digest, Instant>>,
}

impl std::fmt::Debug for MemberSessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemberSessions").finish_non_exhaustive()
    }
}

/// An end of sessions, as a member tells it.
#[derive(Debug, Serialize, Deserialize)]
struct EndMessage {
    /// A number of the member's process.
    from: u64,
    /// The number of the message among those of the process.
    number: u64,
    sent: Timestamp,
    order: EndOrder,
}

impl MemberSessions {
    fn engine(&self) -> Option<Arc<SharedEngine>> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds ends for the other members, if there are any.
    pub(super) fn add(&self, orders: impl FnOnce() -> Vec<EndOrder>) {
        self.ends.add(orders);
    }

    /// Makes the message about an end.
    fn message(&self, order: &EndOrder) -> EndMessage {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        EndMessage { from: self.number.0, number, sent: Timestamp::now(), order: order.clone() }
    }

    /// Returns whether a message is one of another member that has not come before.
    fn is_to_be_followed(&self, told: &EndMessage) -> bool {
        if told.from == self.number.0 {
            return false;
        }
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        match followed.note(told.from, told.number, told.sent, Timestamp::now()) {
            Ok(()) => true,
            Err(NotFollowed::Again) => false,
            Err(NotFollowed::Untimely) => {
                tracing::warn!(
                    sent = %told.sent,
                    "an end of sessions is not followed: it is old and was sent again, or the clocks of members are an hour \
                     apart"
                );
                false
            }
        }
    }

    /// Returns whether the engine may know a session: it was not asked for it a short time ago.
    fn may_be_known(&self, digest: &Digest, now: Instant) -> bool {
        self.unknown().get(digest).is_none_or(|until| *until <= now)
    }

    /// Notes that the engine does not know a session, which is then not asked for again soon.
    fn note_unknown(&self, digest: Digest, now: Instant) {
        let mut unknown = self.unknown();
        if unknown.len() >= MOST_UNKNOWN {
            unknown.retain(|_, until| now < *until);
            if unknown.len() >= MOST_UNKNOWN {
                unknown.clear();
            }
        }
        unknown.insert(digest, now + UNKNOWN);
    }

    fn unknown(&self) -> MutexGuard<'_, HashMap<Digest, Instant>> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keys(engine: &SharedEngine, digest: &Digest) -> Vec<EngineKey> {
    engine.names().all_of(SESSION, &[digest])
}

/// Reads the record of a session, and for how long it is kept; nothing if there is none.
fn record(engine: &SharedEngine, found: &[Vec<u8>]) -> Option<(SessionMemory, Duration)> {
    let [sealed, left] = found else { return None };
    let left = str::from_utf8(left).ok()?.parse().ok().map(Duration::from_millis)?;
    Some((engine.open(SESSION, sealed)?, left))
}

/// Removes the records of sessions. Returns whether the engine answered.
async fn remove(engine: &SharedEngine, digests: &[Digest]) -> bool {
    for part in digests.chunks(AT_ONCE) {
        let removed = part.iter().map(async |digest| {
            let mut delete = redis::cmd("DEL");
            for key in keys(engine, digest) {
                delete.arg(key.as_str());
            }
            engine.ask::<u64>(&delete).await
        });
        if join_all(removed).await.iter().any(Result::is_err) {
            return false;
        }
    }
    true
}

impl IssuedSessions {
    /// Shares the sessions with the members of an engine from now on, or with none.
    pub(crate) fn share(&self, engine: Option<Arc<SharedEngine>>) {
        if engine.is_some() {
            self.members.ends.open();
        }
        *self.members.engine.lock().unwrap_or_else(PoisonError::into_inner) = engine;
    }

    /// Returns whether another member may have opened sessions.
    #[must_use]
    pub(crate) fn has_members(&self) -> bool {
        self.members.engine().is_some()
    }

    /// Returns whether the engine passes ends on to the other members now; nothing: there are none.
    #[must_use]
    pub(crate) fn reaches_members(&self) -> Option<bool> {
        self.members.engine().map(|engine| engine.problem().is_none())
    }

    /// Tells the other members of a session, before its browser has it. Without an answer of the engine they do not know it.
    pub(crate) async fn tell_members(&self, session: &IssuedSession) {
        let Some(engine) = self.members.engine() else { return };
        let Some(row) = self.table().by_number.get(&session.number).cloned() else { return };
        let sealed = engine.seal(SESSION, &SessionMemory::of(&row, Instant::now()));
        let life = u64::try_from(LIFE.as_millis()).unwrap_or(u64::MAX);
        let writes = row.digests.iter().map(|digest| {
            let mut write = redis::cmd("SET");
            write.arg(keys(&engine, digest)[0].as_str()).arg(&sealed[..]).arg("PX").arg(life);
            let engine = &engine;
            async move { engine.ask::<()>(&write).await }
        });
        join_all(writes).await;
    }

    /// Asks the engine for a session that this member does not know. Then it does, if another one has opened it.
    pub(crate) async fn learn(&self, id: &str) {
        let Some(engine) = self.members.engine() else { return };
        let (digest, now) = (sha256(id.as_bytes()), Instant::now());
        if self.table().find(id, now).is_some() || !self.members.may_be_known(&digest, now) {
            return;
        }
        // Requests that come at the same time each wait for an answer: none goes on before the session is known.
        let found = engine
            .run_script::<Vec<Vec<u8>>>(&FIND, &keys(&engine, &digest), &[LONGEST.to_string().into_bytes()])
            .await;
        let Ok(found) = found else { return };
        match record(&engine, &found) {
            Some((memory, left)) => self.adopt(memory, &digest, LIFE.saturating_sub(left), now),
            None => self.members.note_unknown(digest, now),
        }
    }

    /// Waits for ends of sessions here, and tells the other members, for as long as the configuration is in use.
    pub(crate) async fn tell_ends(self: Arc<Self>) -> Infallible {
        let Some(engine) = self.members.engine() else { return pending().await };
        loop {
            let order = self.members.ends.next().await;
            let reason = order.reason.as_str();
            let mut reached = engine.reached();
            if !self.tell_end(&engine, &order).await {
                drop(timeout(PATIENCE, reached.changed()).await);
                if !self.tell_end(&engine, &order).await {
                    tracing::warn!(
                        reason,
                        "the other members do not know of an end of sessions: their tunnels may go on"
                    );
                }
            }
        }
    }

    async fn tell_end(&self, engine: &SharedEngine, order: &EndOrder) -> bool {
        if !remove(engine, &order.ids).await {
            return false;
        }
        let message = self.members.message(order);
        let message = [END.as_bytes(), b" ", &engine.seal(END, &message)[..]].concat();
        engine.ask::<u64>(redis::cmd("PUBLISH").arg(engine.channel().as_str()).arg(message)).await.is_ok()
    }

    /// Ends the sessions that other members end, for as long as the configuration is in use.
    pub(crate) async fn follow_ends(self: Arc<Self>, logs: Logs) -> Infallible {
        let Some(engine) = self.members.engine() else { return pending().await };
        let mut messages = engine.messages();
        loop {
            match messages.recv().await {
                Ok(message) => {
                    let told = content(&message, END).and_then(|sealed| engine.open::<EndMessage>(END, sealed));
                    if let Some(told) = told.filter(|told| self.members.is_to_be_followed(told)) {
                        let ended = self.follow_member(&told.order, &logs);
                        let digests = self.table().digests_of(&ended);
                        // The member that gave the order does not know these. Without an answer their records expire.
                        remove(&engine, &digests).await;
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "this member missed ends of sessions of others: tunnels may go on");
                }
                Err(RecvError::Closed) => return pending().await,
            }
        }
    }
}

/// A random number by which a member knows its own messages.
struct OwnNumber(u64);

impl Default for OwnNumber {
    fn default() -> Self {
        Self(u64::from_ne_bytes(random::bytes()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;
    use crate::config::LogFormat;
    use crate::members::TestEngine;
    use crate::model::account::{Account, Role};
    use crate::model::credential_mark::CredentialMark;
    use crate::model::secret::Secret;
    use crate::model::session::EndReason;
    use crate::pbx::{SessionFilter, SessionLogin};

    const COOKIE: &[u8] = b"9f86d081884c7d65";

    async fn member(engine: &TestEngine) -> Arc<IssuedSessions> {
        let sessions = Arc::<IssuedSessions>::default();
        sessions.share(Some(engine.reach().await));
        sessions
    }

    fn logs() -> Logs {
        Logs::discarding(LogFormat::Text).unwrap()
    }

    async fn open(sessions: &IssuedSessions, id: &str) -> Arc<IssuedSession> {
        let role = Role::User(Account::new("40", "acme.test".parse().unwrap()).unwrap());
        let marks = vec![CredentialMark::likely(b"sid", COOKIE).unwrap()];
        let login = SessionLogin { marks, ..SessionLogin::for_test("ann") };
        let session = sessions.note(&[id], Some(Secret::new(id.to_owned())), &role, login);
        sessions.tell_members(&session).await;
        session
    }

    #[tokio::test]
    async fn a_session_of_one_member_is_known_to_another_that_is_asked_for_it() {
        let Some(engine) = TestEngine::start() else { return };
        let (one, other) = (member(&engine).await, member(&engine).await);
        let session = open(&one, "session00000001").await;
        assert!(other.find("session00000001").is_none());
        other.learn("session00000001").await;
        let known = other.find("session00000001").unwrap();
        assert_eq!((&known.role, &known.login, known.cookie()), (&session.role, &session.login, session.cookie()));
        assert!(other.is_landing("session00000001"));
        other.learn("session00000001").await;
        assert_eq!(other.list(&SessionFilter::All).len(), 1, "once");
        let keys: Vec<String> = {
            let engine = one.members.engine().unwrap();
            engine.ask(redis::cmd("KEYS").arg("test:session:*")).await.unwrap()
        };
        assert_eq!(keys.len(), 1);
        assert!(!keys[0].contains("session00000001"));
    }

    #[tokio::test]
    async fn requests_that_come_at_the_same_time_all_wait_until_their_session_is_known() {
        let Some(engine) = TestEngine::start() else { return };
        let (one, other) = (member(&engine).await, member(&engine).await);
        open(&one, "session00000001").await;
        let ask = async || {
            other.learn("session00000001").await;
            assert!(other.find("session00000001").is_some());
        };
        tokio::join!(ask(), ask(), ask());
        assert_eq!(other.list(&SessionFilter::All).len(), 1);
    }

    #[tokio::test]
    async fn a_session_that_no_member_opened_is_asked_for_once_in_a_while() {
        let Some(engine) = TestEngine::start() else { return };
        let (one, other) = (member(&engine).await, member(&engine).await);
        other.learn("session00000001").await;
        assert!(other.find("session00000001").is_none());
        // Only an id that was guessed is asked for before its time.
        open(&one, "session00000001").await;
        other.learn("session00000001").await;
        assert!(other.find("session00000001").is_none());
        let now = Instant::now();
        for number in 0..=MOST_UNKNOWN as u64 {
            let digest = sha256(&number.to_be_bytes());
            assert!(other.members.may_be_known(&digest, now));
            other.members.note_unknown(digest, now);
            assert!(!other.members.may_be_known(&digest, now));
        }
        assert!(other.members.unknown.lock().unwrap().len() <= MOST_UNKNOWN);
    }

    #[tokio::test]
    async fn a_message_that_is_sent_again_ends_nothing() {
        let Some(engine) = TestEngine::start() else { return };
        let (one, other) = (member(&engine).await, member(&engine).await);
        one.end_everywhere(SessionFilter::All, EndReason::Operator.into(), &logs());
        let message = one.members.message(&one.members.ends.take().unwrap());
        assert!(!one.members.is_to_be_followed(&message), "its own");
        assert!(other.members.is_to_be_followed(&message));
        assert!(!other.members.is_to_be_followed(&message));
        let next = one.members.message(&message.order);
        assert!(other.members.is_to_be_followed(&next));
        let old = EndMessage { sent: Timestamp::UNIX_EPOCH, ..one.members.message(&message.order) };
        assert!(!other.members.is_to_be_followed(&old));
    }

    #[tokio::test]
    async fn a_session_that_ends_while_it_is_asked_for_is_over() {
        let Some(engine) = TestEngine::start() else { return };
        let (one, other) = (member(&engine).await, member(&engine).await);
        let ids = ["session00000001", "session00000002", "session00000003"];
        open(&one, ids[0]).await;
        // The member that opened it has not carried the order out yet.
        let whom = "account 40@acme.test".parse().unwrap();
        let order =
            EndOrder::for_members(SessionFilter::Target { whom }, EndReason::Freeze.into(), Vec::new()).remove(0);
        other.follow_member(&order, &logs());
        let session = open(&one, ids[1]).await;
        let told =
            EndOrder::for_members(SessionFilter::number(1), EndReason::Logout.into(), vec![sha256(ids[1].as_bytes())]);
        other.follow_member(&told[0], &logs());
        assert!(!session.is_over());
        // One that is opened later is another.
        sleep(Duration::from_millis(50)).await;
        open(&one, ids[2]).await;
        for id in ids {
            other.learn(id).await;
        }
        assert_eq!(ids.map(|id| other.find(id).unwrap().is_over()), [true, true, false]);
        assert!(!other.has_unconfirmed() && !other.pending().has_queued(), "the other member tells the PBX");
    }

    #[tokio::test]
    async fn an_end_at_one_member_is_one_at_the_others() {
        let Some(engine) = TestEngine::start() else { return };
        let (one, other) = (member(&engine).await, member(&engine).await);
        let sessions = [open(&one, "session00000001").await, open(&one, "session00000002").await];
        other.learn("session00000002").await;
        let orders =
            |sessions: &IssuedSessions| std::iter::from_fn(|| sessions.members.ends.take()).collect::<Vec<_>>();
        // By its number, which means nothing at the other one.
        one.end_everywhere(SessionFilter::number(sessions[1].number), EndReason::Operator.into(), &logs());
        for order in orders(&one) {
            other.follow_member(&order, &logs());
        }
        assert!(other.find("session00000002").unwrap().is_over());
        assert!(!sessions[0].is_over());
        // By the credential, which only the member knows that opened the session.
        let marks = [CredentialMark::likely(b"sid", COOKIE).unwrap()];
        assert_eq!(other.log_out(&marks, EndReason::App, &logs()).len(), 0);
        for order in orders(&other) {
            assert!(one.tell_end(&one.members.engine().unwrap(), &order).await);
            one.follow_member(&order, &logs());
        }
        assert!(sessions[0].is_over());
        assert_eq!(orders(&one).len(), 0, "what a member follows it does not tell");
    }
}
