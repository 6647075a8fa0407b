//! Sessions of a PBX that no node of the configuration is: its `url` was changed, or another member writes it in another way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use super::{IssuedSession, IssuedSessions, SessionFilter};
use crate::config::PbxNodes;

/// The most PBXs that are told of, so that the events have a bound.
const MOST: usize = 16;

/// The PBXs of such sessions that an event has told of under the current configuration, by what they are recognized by.
#[derive(Debug, Default)]
pub(super) struct ToldOrphans(Mutex<BTreeSet<String>>);

impl ToldOrphans {
    /// Begins anew, under another configuration.
    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Notes a PBX. Tells whether an event is due.
    fn is_new(&self, pbx: &str) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < MOST && told.insert(pbx.to_owned())
    }
}

impl IssuedSessions {
    /// Says at which PBX sessions go on that no node of a configuration has opened, and how many.
    pub(in crate::pbx) fn warn_of_orphans(&self, nodes: &PbxNodes) {
        self.orphans.clear();
        let all = self.list(&SessionFilter::All);
        let mut orphans = BTreeMap::<&str, usize>::new();
        for session in all.iter().filter(|session| session.login.node_in(nodes).is_none()) {
            *orphans.entry(pbx_of(session)).or_default() += 1;
        }
        for (pbx, sessions) in orphans.into_iter().filter(|(pbx, _)| self.orphans.is_new(pbx)) {
            tracing::warn!(
                pbx,
                sessions,
                "no [[pbx]] has the `url` of a PBX that opened sessions: callgate tells it no end of a session"
            );
        }
    }

    /// Says once that a request shows a session that no node of the configuration has opened.
    pub(crate) fn note_orphan(&self, session: &IssuedSession) {
        let pbx = pbx_of(session);
        if self.orphans.is_new(pbx) {
            tracing::warn!(
                pbx,
                "no [[pbx]] has the `url` of the PBX that opened a session, which counts as a foreign one here: do all members \
                 write that `url` alike?"
            );
        }
    }
}

fn pbx_of(session: &IssuedSession) -> &str {
    session.login.pbx.as_deref().unwrap_or_default()
}
