//! Sessions that callgate did not open, such as those of a password, while tunnels are open with them: a logout ends these
//! tunnels, too.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use crate::model::digest::{Digest, sha256};

/// How many are known before those without a tunnel are looked for.
const FEW: usize = 64;

/// A session that callgate did not open.
#[derive(Debug, Default)]
pub(crate) struct UnissuedSession {
    is_over: AtomicBool,
    ended: Notify,
}

impl UnissuedSession {
    /// Ends the tunnels that were opened with it.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.ended.notify_waiters();
    }

    /// Waits until it is ended.
    pub(crate) async fn until_over(&self) {
        let mut ended = pin!(self.ended.notified());
        // From here on no end is missed.
        ended.as_mut().enable();
        if !self.is_over.load(Ordering::Acquire) {
            ended.await;
        }
    }
}

/// The sessions that requests for a tunnel have shown. There are about as many as tunnels.
#[derive(Debug, Default)]
pub(super) struct UnissuedSessions(Mutex<UnissuedTable>);

#[derive(Debug, Default)]
struct UnissuedTable {
    by_digest: HashMap<Digest, Weak<UnissuedSession>>,
    /// How many there were after the last sweep.
    kept: usize,
}

impl UnissuedSessions {
    /// Returns the session with an id. All tunnels of one session have the same.
    pub(super) fn watch(&self, id: &str) -> Arc<UnissuedSession> {
        let mut table = self.table();
        if table.by_digest.len() >= FEW + 2 * table.kept {
            table.by_digest.retain(|_, session| session.strong_count() > 0);
            table.kept = table.by_digest.len();
        }
        let place = table.by_digest.entry(sha256(id.as_bytes())).or_default();
        place.upgrade().unwrap_or_else(|| {
            let session = Arc::default();
            *place = Arc::downgrade(&session);
            session
        })
    }

    /// Ends the tunnels of the session whose id has a digest.
    pub(super) fn end(&self, id: &Digest) {
        let session = self.table().by_digest.get(id).and_then(Weak::upgrade);
        if let Some(session) = session {
            session.end();
        }
    }

    /// Locks even after a panic elsewhere: entries are moved in and out whole.
    fn table(&self) -> MutexGuard<'_, UnissuedTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_reaches_every_tunnel_of_the_session_and_no_other() {
        let sessions = UnissuedSessions::default();
        let (one, same, other) = (sessions.watch("one"), sessions.watch("one"), sessions.watch("other"));
        sessions.end(&sha256(b"unknown"));
        let acts = async { sessions.end(&sha256(b"one")) };
        tokio::join!(one.until_over(), same.until_over(), acts);
        one.until_over().await;
        assert!(!other.is_over.load(Ordering::Acquire));
        drop((one, same));
        assert!(!sessions.watch("one").is_over.load(Ordering::Acquire), "a later tunnel is another");
    }

    #[test]
    fn sessions_without_tunnels_are_forgotten() {
        let sessions = UnissuedSessions::default();
        let kept: Vec<_> = (0..10).map(|number| sessions.watch(&format!("kept {number}"))).collect();
        for number in 0..10_000 {
            sessions.watch(&number.to_string());
        }
        assert!(sessions.table().by_digest.len() <= FEW + 2 * kept.len());
        assert!(Arc::ptr_eq(&kept[3], &sessions.watch("kept 3")));
    }
}
