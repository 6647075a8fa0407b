//! The sessions that are to be ended at the PBX. One that the PBX does not end is tried again, a bounded number of times.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
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
    added: Notify,
}

/// A session that is to be ended at the PBX.
#[derive(Debug, Clone)]
pub(crate) struct PendingEnd {
    pub(in crate::pbx) session: Arc<IssuedSession>,
    due: Instant,
    failures: u32,
}

impl PendingEnds {
    /// Adds a session, unless its cookie is not known: then the PBX has none for it, or gave it to somebody else.
    pub(super) fn add(&self, session: &Arc<IssuedSession>) {
        if session.cookie().is_some() {
            self.put(PendingEnd { session: Arc::clone(session), due: Instant::now(), failures: 0 });
            self.added.notify_one();
        }
    }

    /// Waits until some are due, and returns up to `most` of them. They stay here until they are settled, so that a reload
    /// forgets none.
    pub(in crate::pbx) async fn next(&self, most: usize) -> Vec<PendingEnd> {
        loop {
            let now = Instant::now();
            let (due, first): (Vec<_>, _) = {
                let queue = self.queue();
                let due = queue.values().take_while(|pending| pending.due <= now).take(most).cloned().collect();
                (due, queue.first_key_value().map(|((due, _), _)| *due))
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
                () = self.added.notified() => {}
            }
        }
    }

    /// Takes out one that the PBX has ended.
    pub(in crate::pbx) fn settle(&self, pending: &PendingEnd) {
        self.queue().remove(&(pending.due, pending.session.number));
    }

    /// Puts one back that the PBX did not end. Returns whether it will be tried again.
    pub(in crate::pbx) fn try_again(&self, pending: PendingEnd) -> bool {
        self.settle(&pending);
        let failures = pending.failures + 1;
        let goes_on = failures < TRIES;
        if goes_on {
            let pause = backoff::jittered(backoff::after(failures, FIRST_PAUSE, LONGEST_PAUSE));
            self.put(PendingEnd { due: Instant::now() + pause, failures, ..pending });
        }
        goes_on
    }

    fn put(&self, pending: PendingEnd) {
        self.queue().insert((pending.due, pending.session.number), pending);
    }

    fn queue(&self) -> MutexGuard<'_, BTreeMap<(Instant, u64), PendingEnd>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
