//! How many events of one key are at once, without a limit to them.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use governor::nanos::Nanos;
use governor::state::StateStore;

use super::key::LimitKey;
use super::limiter::{CENTURY, quota};
use super::seeds::HashSeed;
use super::table::{ArrivalTable, TableKey, TableQuery};
use crate::model::rate::Rate;

/// Counts events by the same algorithm as a [`Limiter`](super::Limiter), and never refuses one. Of each key it knows the
/// burst that would have been enough.
pub(super) struct BacklogMeter {
    seed: HashSeed,
    table: ArrivalTable,
    interval: u64,
    start: Instant,
}

impl BacklogMeter {
    /// Makes a meter that tells `cap` keys apart; further keys share entries.
    pub(super) fn new(rate: Rate, cap: usize) -> Self {
        let interval = Nanos::from(quota(rate).replenish_interval());
        let table = ArrivalTable::new(cap, interval);
        Self { seed: HashSeed::default(), table, interval: interval.as_u64(), start: Instant::now() }
    }

    /// Counts an event of a key, and returns how many of its events are at once: those that the rate has not yet worked
    /// off, this one included.
    pub(super) fn count(&self, key: &LimitKey) -> u64 {
        self.count_at(key, self.start.elapsed())
    }

    fn count_at(&self, key: &LimitKey, now: Duration) -> u64 {
        let now = Nanos::from(now).as_u64();
        let end = Nanos::from(CENTURY).as_u64().saturating_add(now);
        let admit = |arrival: Option<Nanos>| {
            let from = arrival.unwrap_or_default().as_u64().max(now);
            let next = from.saturating_add(self.interval).min(end);
            Ok::<_, Infallible>((next, Nanos::new(next)))
        };
        let Ok(next) = self.table.measure_and_replace(&TableQuery::Admit(key.places(self.seed)), admit);
        (next - now).div_ceil(self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::super::LimitSource;
    use super::super::limiter::Limiter;
    use super::*;

    fn key(last: u8) -> LimitKey {
        LimitKey::from(&LimitSource::address([192, 0, 2, last].into()))
    }

    #[test]
    fn events_are_at_once_until_the_rate_has_worked_them_off() {
        let meter = BacklogMeter::new("6/min burst 2".parse().unwrap(), 100);
        let at = |seconds: u64, last: u8| meter.count_at(&key(last), Duration::from_secs(seconds));
        assert_eq!([at(100, 1), at(100, 1), at(100, 1), at(100, 2)], [1, 2, 3, 1]);
        // One event each ten seconds.
        assert_eq!(at(105, 1), 4, "a part of an event is one");
        assert_eq!(at(120, 1), 3);
        assert_eq!(at(1000, 1), 1);
    }

    #[test]
    fn a_limiter_with_the_burst_that_was_met_admits_everything() {
        // Times that look random.
        let times: Vec<_> = (0..500_u64).map(|number| number * 700 + number.wrapping_mul(7919) % 9000).collect();
        let mut times = times;
        times.sort_unstable();
        let meter = BacklogMeter::new("30/min".parse().unwrap(), 100);
        let most = times.iter().map(|time| meter.count_at(&key(1), Duration::from_millis(*time))).max().unwrap();
        for (burst, is_enough) in [(most, true), (most - 1, false)] {
            let clock = governor::clock::FakeRelativeClock::default();
            let rate: Rate = format!("30/min burst {burst}").parse().unwrap();
            let limiter = Limiter::with_clock("client", rate.into(), 100, clock.clone());
            let mut now = 0;
            let refused = times.iter().filter(|time| {
                clock.advance(Duration::from_millis(*time - now));
                now = **time;
                limiter.admit("key").is_err()
            });
            assert_eq!(refused.count() == 0, is_enough, "burst {burst}");
        }
    }

    #[test]
    fn an_endless_flood_overflows_nothing() {
        let meter = BacklogMeter::new("1/24h".parse().unwrap(), 100);
        for _ in 0..100_000 {
            meter.count_at(&key(1), Duration::from_secs(1));
        }
        assert_eq!(meter.count_at(&key(1), Duration::from_secs(1)), 36_500, "a century");
    }
}
