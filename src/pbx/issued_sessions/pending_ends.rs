//! The sessions that are to be ended at the PBX. One that the PBX does not end is tried again, a bounded number of times.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::entry::IssuedSession;
use crate::backoff;

/// How often the PBX is told that a session is over.
const TRIES: u32 = 8;
/// The pause after the first try that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The sessions that are to be ended at the PBX, by when, and in the order of their numbers. There are no more of them than
/// the table of sessions holds.
#[derive(Debug, Default)]
pub(crate) struct PendingEnds {
    queue: Mutex<BTreeMap<(Instant, u64), PendingEnd>>,
    /// Wakes those who wait for one that is due.
    added: watch::Sender<()>,
    /// Whether the queue may hold one, or the PBX did not end one in all tries.
    any: AtomicBool,
    gave_up: AtomicBool,
    /// Whether another process has taken over, with the ends that it was told of.
    is_left: AtomicBool,
    /// Wakes those who wait for an end.
    tried: watch::Sender<()>,
}

/// A session that is to be ended at the PBX.
#[derive(Debug, Clone)]
pub(crate) struct PendingEnd {
    pub(in crate::pbx) session: Arc<IssuedSession>,
    due: Instant,
    failures: u32,
}

impl PendingEnd {
    /// Returns its place in the queue.
    fn key(&self) -> (Instant, u64) {
        (self.due, self.session.number)
    }
}

impl PendingEnds {
    /// Adds a session, unless its cookie is not known: then the PBX has none for it, or gave it to somebody else.
    pub(super) fn add(&self, session: &Arc<IssuedSession>) {
        if session.cookie().is_some() {
            self.put(PendingEnd { session: Arc::clone(session), due: Instant::now(), failures: 0 });
            self.added.send_replace(());
        }
    }

    /// Adds a session whose end a process before has begun: that may tell the PBX at this moment.
    pub(super) fn take_over(&self, session: &Arc<IssuedSession>) {
        if session.cookie().is_some() {
            self.put(PendingEnd { session: Arc::clone(session), due: Instant::now() + FIRST_PAUSE, failures: 0 });
            self.added.send_replace(());
        }
    }

    /// Leaves the ends to the process that took over, if that was told of them.
    pub(super) fn leave(&self) {
        self.is_left.store(true, Ordering::Release);
        {
            let mut queue = self.queue();
            queue.retain(|_, pending| !pending.session.is_end_passed_on());
            self.any.store(!queue.is_empty(), Ordering::Release);
        }
        self.tried.send_replace(());
    }

    /// Returns whether there is a session that is over here and may not be over at the PBX.
    pub(super) fn has_any(&self) -> bool {
        self.any.load(Ordering::Acquire) || self.gave_up.load(Ordering::Acquire)
    }

    /// Returns whether there is a session that the PBX is still to end.
    pub(crate) fn has_queued(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Waits until some of a choice are due, and returns up to `most` of them. They stay here until they are settled, so that a
    /// reload forgets none.
    pub(in crate::pbx) async fn next(
        &self,
        most: usize,
        is_chosen: impl Fn(&IssuedSession) -> bool,
    ) -> Vec<PendingEnd> {
        let mut added = self.added.subscribe();
        loop {
            added.mark_unchanged();
            let now = Instant::now();
            let (due, first): (Vec<_>, _) = {
                let queue = self.queue();
                let chosen = || queue.values().filter(|pending| is_chosen(&pending.session));
                let due = chosen().take_while(|pending| pending.due <= now).take(most).cloned().collect();
                (due, chosen().next().map(|pending| pending.due))
            };
            if !due.is_empty() {
                return due;
            }
            let until_due = async {
                match first {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = until_due => {}
                _ = added.changed() => {}
            }
        }
    }

    /// Takes out one that the PBX has ended.
    pub(in crate::pbx) fn settle(&self, pending: &PendingEnd) {
        pending.session.confirm_end();
        self.replace(pending, None);
    }

    /// Puts one back that the PBX did not end. Returns whether it will be tried again.
    pub(in crate::pbx) fn try_again(&self, pending: PendingEnd) -> bool {
        if self.is_left.load(Ordering::Acquire) && pending.session.is_end_passed_on() {
            self.replace(&pending, None);
            return true;
        }
        let failures = pending.failures + 1;
        let goes_on = failures < TRIES;
        self.gave_up.fetch_or(!goes_on, Ordering::AcqRel);
        let pause = backoff::jittered(backoff::after(failures, FIRST_PAUSE, LONGEST_PAUSE));
        let again = PendingEnd { due: Instant::now() + pause, failures, ..pending.clone() };
        self.replace(&pending, goes_on.then_some(again));
        goes_on
    }

    /// Waits until the PBX has ended all sessions of a choice. Returns whether it has: not if a try has failed.
    pub(crate) async fn until_settled(&self, is_chosen: impl Fn(&IssuedSession) -> bool) -> bool {
        let mut tried = self.tried.subscribe();
        loop {
            let failures: Vec<_> = {
                let queue = self.queue();
                queue.values().filter(|pending| is_chosen(&pending.session)).map(|pending| pending.failures).collect()
            };
            if failures.is_empty() || failures.iter().any(|failures| *failures > 0) {
                return failures.is_empty();
            }
            if tried.changed().await.is_err() {
                return false;
            }
        }
    }

    /// Takes one out, and puts another in its place, in one step: no thread sees the queue without both.
    fn replace(&self, pending: &PendingEnd, next: Option<PendingEnd>) {
        {
            let mut queue = self.queue();
            queue.remove(&pending.key());
            queue.extend(next.map(|next| (next.key(), next)));
            self.any.store(!queue.is_empty(), Ordering::Release);
        }
        self.tried.send_replace(());
    }

    fn put(&self, pending: PendingEnd) {
        let mut queue = self.queue();
        queue.insert(pending.key(), pending);
        self.any.store(true, Ordering::Release);
    }

    fn queue(&self) -> MutexGuard<'_, BTreeMap<(Instant, u64), PendingEnd>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
