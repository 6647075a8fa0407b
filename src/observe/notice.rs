//! Warnings that come again and again, and are given once a minute.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a notice is not repeated.
const SILENCE: Duration = Duration::from_secs(60);

/// A warning that is given once a minute at most.
#[derive(Debug, Default)]
pub(crate) struct Notice(Mutex<Option<Instant>>);

impl Notice {
    /// Returns whether the warning is due, and counts it as given then.
    pub(crate) fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = given.is_none_or(|given| now - given > SILENCE);
        if is_due {
            *given = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_given_again_after_a_minute() {
        let notice = Notice::default();
        assert!(notice.is_due() && !notice.is_due());
        *notice.0.lock().unwrap() = Instant::now().checked_sub(SILENCE + Duration::from_secs(1));
        assert!(notice.is_due() && !notice.is_due());
    }
}
