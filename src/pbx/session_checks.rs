//! What the PBX said about the sessions of browsers: each session is asked about once a minute at most, whichever worker
//! has the request, and however many requests come at once.
//!
//! The table knows a session by a SHA-256 only, so it opens none. A restart clears it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::digest::Digest;
use crate::model::session_state::SessionState;

/// How many sessions are remembered; beyond it, the oldest is dropped.
const SESSIONS: usize = 20_000;
/// How long an answer counts.
const LIFE: Duration = Duration::from_secs(60);
/// The most questions at once. More would keep a slow PBX from its users.
const QUESTIONS: usize = 64;

/// The latest answers about sessions.
#[derive(Debug, Default, Clone)]
pub(crate) struct SessionChecks(Arc<Mutex<CheckTable>>);

#[derive(Debug, Default)]
struct CheckTable {
    by_session: HashMap<Digest, CheckEntry>,
    /// In the order of the questions, which is the order of removal.
    order: VecDeque<(Digest, Instant)>,
    /// How many questions have no answer yet.
    open: usize,
}

#[derive(Debug)]
struct CheckEntry {
    /// `None` until there is an answer.
    answer: watch::Receiver<Option<SessionState>>,
    since: Instant,
}

/// What there is to do for a session.
#[derive(Debug)]
pub(crate) enum Check {
    /// The state is known.
    Known(SessionState),
    /// Another request has asked: wait for its answer.
    Asked(CheckAnswer),
    /// Ask the PBX.
    Ask(Question, CheckAnswer),
}

/// An answer that is on its way.
#[derive(Debug)]
pub(crate) struct CheckAnswer(watch::Receiver<Option<SessionState>>);

/// The right to ask the PBX. Dropped without an answer, it leaves the state unknown for a minute.
#[derive(Debug)]
pub(crate) struct Question {
    checks: SessionChecks,
    answer: watch::Sender<Option<SessionState>>,
}

impl SessionChecks {
    /// Looks a session up.
    pub(crate) fn look(&self, session: Digest, now: Instant) -> Check {
        let mut table = self.table();
        if let Some(entry) = table.by_session.get(&session).filter(|entry| now.duration_since(entry.since) < LIFE) {
            let known = *entry.answer.borrow();
            return known.map_or_else(|| Check::Asked(CheckAnswer(entry.answer.clone())), Check::Known);
        }
        if table.open >= QUESTIONS {
            return Check::Known(SessionState::Unknown);
        }
        let (answer, coming) = watch::channel(None);
        table.note(session, coming.clone(), now);
        table.open += 1;
        drop(table);
        Check::Ask(Question { checks: self.clone(), answer }, CheckAnswer(coming))
    }

    /// Sets the state of a session that is known otherwise, for a minute.
    pub(crate) fn set(&self, session: Digest, state: SessionState, now: Instant) {
        let (_, known) = watch::channel(Some(state));
        self.table().note(session, known, now);
    }

    /// Locks even after a panic elsewhere: entries are moved in and out whole.
    fn table(&self) -> MutexGuard<'_, CheckTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CheckTable {
    fn note(&mut self, session: Digest, answer: watch::Receiver<Option<SessionState>>, now: Instant) {
        self.forget(now);
        self.by_session.insert(session, CheckEntry { answer, since: now });
        self.order.push_back((session, now));
    }

    /// Drops answers that no longer count, and the oldest if there is no room for one more.
    fn forget(&mut self, now: Instant) {
        while let Some(&(session, since)) = self.order.front() {
            if self.order.len() < SESSIONS && now.duration_since(since) < LIFE {
                return;
            }
            self.order.pop_front();
            if self.by_session.get(&session).is_some_and(|entry| entry.since == since) {
                self.by_session.remove(&session);
            }
        }
    }
}

impl CheckAnswer {
    /// Waits for the answer.
    pub(crate) async fn wait(mut self) -> SessionState {
        let answered = self.0.wait_for(Option::is_some).await;
        answered.ok().and_then(|state| *state).unwrap_or(SessionState::Unknown)
    }
}

impl Question {
    /// Gives the answer to all who wait for it.
    pub(crate) fn settle(self, state: SessionState) {
        self.answer.send_replace(Some(state));
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.answer.send_if_modified(|answer| {
            let is_open = answer.is_none();
            answer.get_or_insert(SessionState::Unknown);
            is_open
        });
        let mut table = self.checks.table();
        table.open = table.open.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(number: usize) -> Digest {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_be_bytes());
        digest
    }

    #[track_caller]
    fn ask(checks: &SessionChecks, number: usize, now: Instant) -> (Question, CheckAnswer) {
        match checks.look(session(number), now) {
            Check::Ask(question, answer) => (question, answer),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn check_known(checks: &SessionChecks, number: usize, now: Instant, expected: SessionState) {
        let look = checks.look(session(number), now);
        assert!(matches!(look, Check::Known(state) if state == expected), "{look:?}");
    }

    #[tokio::test]
    async fn one_question_answers_all_for_a_minute() {
        let (checks, now) = (SessionChecks::default(), Instant::now());
        let (question, first) = ask(&checks, 1, now);
        let Check::Asked(second) = checks.look(session(1), now) else { panic!("asked twice") };
        question.settle(SessionState::Over);
        assert_eq!((first.wait().await, second.wait().await), (SessionState::Over, SessionState::Over));
        check_known(&checks, 1, now + LIFE - Duration::from_nanos(1), SessionState::Over);
        ask(&checks, 1, now + LIFE);
        ask(&checks, 2, now);
    }

    #[tokio::test]
    async fn a_question_without_an_answer_leaves_the_state_unknown() {
        let (checks, now) = (SessionChecks::default(), Instant::now());
        let (question, answer) = ask(&checks, 1, now);
        drop(question);
        assert_eq!(answer.wait().await, SessionState::Unknown);
        check_known(&checks, 1, now, SessionState::Unknown);
    }

    #[test]
    fn questions_at_once_are_few() {
        let (checks, now) = (SessionChecks::default(), Instant::now());
        let mut open: Vec<_> = (0..QUESTIONS).map(|number| ask(&checks, number, now)).collect();
        check_known(&checks, QUESTIONS, now, SessionState::Unknown);
        open.pop();
        ask(&checks, QUESTIONS, now);
    }

    #[test]
    fn the_oldest_makes_room_and_no_more_are_kept() {
        let (checks, now) = (SessionChecks::default(), Instant::now());
        for number in 0..=SESSIONS {
            checks.set(session(number), SessionState::Alive, now);
        }
        ask(&checks, 0, now);
        check_known(&checks, SESSIONS, now, SessionState::Alive);
        let table = checks.table();
        assert!(table.by_session.len() <= SESSIONS && table.order.len() <= SESSIONS);
    }
}
