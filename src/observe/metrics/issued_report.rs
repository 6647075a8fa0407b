//! The certificates that callgate gets by itself, as metrics and `/status` show them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use super::labels::{DemandResult, FetchResult, Label};

/// Counts the orders, and lists the certificates.
#[derive(Debug, Default)]
pub struct IssuedReport {
    orders: [AtomicU64; FetchResult::COUNT],
    demands: [AtomicU64; DemandResult::COUNT],
    names: Mutex<Vec<IssuedName>>,
}

/// A name with a certificate that callgate gets by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedName {
    /// The name, from the configuration.
    pub name: String,
    /// The end of its certificate; nothing: there is none yet.
    pub not_after: Option<Timestamp>,
    /// Whether the last order failed.
    pub is_failing: bool,
}

impl IssuedReport {
    /// Counts an order, which succeeded or failed.
    pub fn count(&self, success: bool) {
        let result = if success { FetchResult::Ok } else { FetchResult::Failed };
        self.orders[result.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a handshake for a name that had no certificate yet.
    pub fn count_demand(&self, result: DemandResult) {
        self.demands[result.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Replaces the names.
    pub fn show(&self, names: Vec<IssuedName>) {
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// Returns the names.
    #[must_use]
    pub fn names(&self) -> Vec<IssuedName> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn demands(&self, result: DemandResult) -> u64 {
        self.demands[result.index()].load(Ordering::Relaxed)
    }

    pub(super) fn orders(&self, result: FetchResult) -> u64 {
        self.orders[result.index()].load(Ordering::Relaxed)
    }
}
