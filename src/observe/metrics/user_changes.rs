//! The changes of users at Voximplant.

use std::sync::atomic::{AtomicU64, Ordering};

use super::labels::{Label, UserChangeKind, UserChangeResult};

/// Counts the changes of users at Voximplant. All threads count here: the changes are rare.
#[derive(Debug, Default)]
pub struct UserChanges {
    counts: [[AtomicU64; UserChangeResult::COUNT]; UserChangeKind::COUNT],
    pending: AtomicU64,
}

impl UserChanges {
    /// Counts a change, which Voximplant confirmed or not.
    pub fn note(&self, change: UserChangeKind, is_confirmed: bool) {
        let result = if is_confirmed { UserChangeResult::Ok } else { UserChangeResult::Failed };
        self.counts[change.index()][result.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Sets how many phones are still to be stopped or started.
    pub fn set_pending(&self, pending: u64) {
        self.pending.store(pending, Ordering::Relaxed);
    }

    pub(super) fn count(&self, change: UserChangeKind, result: UserChangeResult) -> u64 {
        self.counts[change.index()][result.index()].load(Ordering::Relaxed)
    }

    pub(super) fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }
}
