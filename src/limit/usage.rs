//! How much of its quota the busiest key of a limit has used, and how many keys there are.

use std::time::Duration;

use serde::Serialize;

/// The use of one limit at a moment, by what this member knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LimitUsage {
    /// Its name in `[limits]` or `[voximplant]`.
    pub limit: &'static str,
    /// The PBX node that it is of; `None`: of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pbx: Option<String>,
    /// The quota.
    pub rate: String,
    /// How much of its quota the busiest key has used, in whole percent. At 100 its next event is refused.
    pub fullest_percent: u64,
    /// How many keys have used a part of their quotas.
    pub keys: usize,
    /// How many keys are told apart at most.
    pub most_keys: usize,
}

/// Returns which part of a quota is used while it needs `left` until it is whole again, of `whole` at most, in percent.
pub(super) fn percent(left: Duration, whole: Duration) -> u64 {
    (left.as_nanos() * 100).checked_div(whole.as_nanos()).unwrap_or_default() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Limiter;
    use crate::model::rate::Rate;

    #[test]
    fn the_busiest_key_counts() {
        let limiter = Limiter::new("client", "4/h".parse::<Rate>().unwrap(), 1000);
        let usage = || {
            let usage = limiter.usage();
            (usage.fullest_percent, usage.keys, usage.most_keys >= 900)
        };
        assert_eq!(usage(), (0, 0, true));
        for key in ["a", "b", "b", "b"] {
            limiter.admit(key).unwrap();
        }
        // A part of a second has passed.
        assert_eq!(usage(), (74, 2, true));
        for _ in 0..3 {
            let _ = limiter.admit("b");
        }
        assert_eq!(usage(), (99, 2, true));
    }

    #[test]
    fn a_part_is_of_the_whole() {
        let [one, two, none] = [1, 2, 0].map(Duration::from_secs);
        assert_eq!([percent(one, two), percent(two, two), percent(none, two), percent(one, none)], [50, 100, 0, 0]);
    }
}
