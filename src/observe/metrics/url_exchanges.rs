//! The exchanges under way at one `url` of an upstream.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the exchanges under way at one `url`, WebSockets included. All workers share it.
#[derive(Debug, Default)]
pub struct UrlExchanges(AtomicUsize);

impl UrlExchanges {
    /// Counts an exchange that begins.
    pub fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of one that began.
    pub fn end(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns how many are under way.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}
