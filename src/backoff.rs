//! Floor 1: pauses between attempts that fail.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Returns the pause after `failures` in a row: `first`, doubled with each failure after the first, at most `longest`.
pub(crate) fn after(failures: u32, first: Duration, longest: Duration) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest)
}

/// Shortens a pause by chance, by up to a half, so that many gates do not try again at the same moment.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let chance = RandomState::new().hash_one(pause) as u32;
    pause.mul_f64(0.5 + f64::from(chance) / f64::from(u32::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let after = |failures| after(failures, Duration::from_secs(1), Duration::from_secs(300)).as_secs();
        assert_eq!([1, 2, 3, 9, 10, u32::MAX].map(after), [1, 2, 4, 256, 300, 300]);
    }

    #[test]
    fn pauses_are_spread() {
        let pauses = [(); 100].map(|()| jittered(Duration::from_secs(2)));
        assert!(pauses.iter().all(|pause| (1.0..=2.0).contains(&pause.as_secs_f64())), "{pauses:?}");
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
