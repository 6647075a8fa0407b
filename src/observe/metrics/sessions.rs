//! The counts of the sessions that callgate opened at the PBX.

use std::sync::atomic::{AtomicU64, Ordering};

use super::labels::{DeleteOutcome, Label};
use crate::model::session::EndReason;

/// The counts of the sessions that callgate opened at the PBX. All threads count here: logins and logouts are rare.
#[derive(Debug, Default)]
pub struct SessionCounts {
    opened: AtomicU64,
    ends: [AtomicU64; EndReason::ALL.len()],
    deletes: [AtomicU64; DeleteOutcome::COUNT],
}

impl SessionCounts {
    /// Counts a session that was opened.
    pub fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a session that was ended.
    pub fn ended(&self, reason: EndReason) {
        self.ends[reason.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the outcome of ending a session at the PBX.
    pub fn deleted(&self, outcome: DeleteOutcome) {
        self.deletes[outcome.index()].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn all_opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    pub(super) fn all_ended(&self, reason: EndReason) -> u64 {
        self.ends[reason.index()].load(Ordering::Relaxed)
    }

    pub(super) fn all_deleted(&self, outcome: DeleteOutcome) -> u64 {
        self.deletes[outcome.index()].load(Ordering::Relaxed)
    }
}
