//! Pauses between questions to an identity provider.

use std::time::Duration;

use crate::random;

/// How long a server is left alone after `failures` in a row: a second, which each more doubles.
pub(super) fn after(failures: u32, longest: Duration) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(16)).min(longest)
}

/// Spreads a pause, so that many gates do not ask at once: to between a half and the whole of it.
pub(super) fn spread(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + f64::from(u32::from_ne_bytes(random::bytes())) / f64::from(u32::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let seconds = [1, 2, 3, 9, 10, u32::MAX].map(|failures| after(failures, Duration::from_secs(300)).as_secs());
        assert_eq!(seconds, [1, 2, 4, 256, 300, 300]);
    }

    #[test]
    fn pauses_are_spread() {
        let pauses = [(); 100].map(|()| spread(Duration::from_secs(2)));
        assert!(pauses.iter().all(|pause| (1.0..=2.0).contains(&pause.as_secs_f64())), "{pauses:?}");
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
