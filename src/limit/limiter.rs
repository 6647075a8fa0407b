//! A quota for each key, by governor's GCRA: the quota refills evenly, without fixed windows.

use std::hash::Hash;
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::{Quota, RateLimiter};

use super::seeds::HashSeeds;
use super::source::LimitSource;
use super::table::{ArrivalTable, TableQuery};
use crate::model::rate::Rate;

/// A quota for each key; the number of keys told apart is bounded.
pub(crate) struct Limiter<C: Clock = MonotonicClock> {
    name: &'static str,
    rate: Rate,
    seeds: HashSeeds,
    limiter: RateLimiter<TableQuery, ArrivalTable, C, NoOpMiddleware<C::Instant>>,
}

/// A key has used up its quota.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("more than {limit} in {window:?} for one {name}")]
pub(crate) struct Limited {
    /// The name of the quota, as in `[limits]`.
    pub name: &'static str,
    /// How many events are admitted in `window`.
    pub limit: u32,
    /// The period of the quota.
    pub window: Duration,
    /// How long until the next event is admitted.
    pub retry_after: Duration,
}

impl Limiter {
    /// Makes a limiter that tells `cap` keys apart; further keys share entries.
    #[must_use]
    pub(crate) fn new(name: &'static str, rate: Rate, cap: usize) -> Self {
        Self::with_clock(name, rate, cap, MonotonicClock)
    }
}

impl<C: Clock> Limiter<C> {
    /// Returns the name of the quota, as in `[limits]`.
    #[must_use]
    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the quota.
    #[must_use]
    pub(crate) const fn rate(&self) -> Rate {
        self.rate
    }

    /// Makes a limiter with this clock.
    fn with_clock(name: &'static str, rate: Rate, cap: usize, clock: C) -> Self {
        let quota = quota(rate);
        let table = ArrivalTable::new(cap, quota.replenish_interval().into());
        Self { name, rate, seeds: HashSeeds::default(), limiter: RateLimiter::new(quota, table, clock) }
    }

    /// Counts one event of a key.
    ///
    /// # Errors
    /// When the key has used up its quota; such an event is not counted.
    pub(crate) fn admit<K: Hash + ?Sized>(&self, key: &K) -> Result<(), Limited> {
        self.check(TableQuery::Admit(self.seeds.places(key)))
    }

    /// Checks whether an event of a key would be admitted. Counts nothing.
    ///
    /// # Errors
    /// When it would not.
    pub(crate) fn peek<K: Hash + ?Sized>(&self, key: &K) -> Result<(), Limited> {
        self.check(TableQuery::Peek(self.seeds.places(key)))
    }

    /// Counts one event of a source. If the table is full, the event counts with those of the networks around the
    /// source.
    ///
    /// # Errors
    /// When the source has used up its quota; such an event is not counted.
    pub(crate) fn admit_source(&self, source: &LimitSource) -> Result<(), Limited> {
        self.check(TableQuery::Admit(self.seeds.places_at(source.client, source)))
    }

    /// Checks whether an event of a source would be admitted. Counts nothing.
    ///
    /// # Errors
    /// When it would not.
    pub(crate) fn peek_source(&self, source: &LimitSource) -> Result<(), Limited> {
        self.check(TableQuery::Peek(self.seeds.places_at(source.client, source)))
    }

    fn check(&self, query: TableQuery) -> Result<(), Limited> {
        self.limiter.check_key(&query).map_err(|not_until| Limited {
            name: self.name,
            limit: self.rate.count.get(),
            window: self.rate.period,
            retry_after: not_until.wait_time_from(self.limiter.clock().now()),
        })
    }
}

impl Limited {
    /// Returns the fields of the 429 answer, names in lower case: `Retry-After` in whole seconds, `RateLimit` and
    /// `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10).
    #[must_use]
    pub(crate) fn header_values(&self) -> [(&'static str, String); 3] {
        let Self { name, limit, window, .. } = self;
        // Rounded up: a retry a moment too early would be refused again.
        let wait = self.retry_after.as_nanos().div_ceil(1_000_000_000).max(1);
        [
            ("retry-after", wait.to_string()),
            ("ratelimit", format!("\"{name}\";r=0;t={wait}")),
            ("ratelimit-policy", format!("\"{name}\";q={limit};w={}", window.as_secs())),
        ]
    }
}

fn quota(rate: Rate) -> Quota {
    let interval = (rate.period / rate.count.get()).max(Duration::from_nanos(1));
    // governor counts in 64 bits of nanoseconds and overflows beyond, so a burst holds a century at most.
    let most = (CENTURY.as_nanos() / interval.as_nanos()).try_into().unwrap_or(u32::MAX);
    let burst = rate.burst.get().clamp(1, most).try_into().expect("at least one");
    Quota::with_period(interval).expect("at least a nanosecond").allow_burst(burst)
}

const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

#[cfg(test)]
mod tests {
    use std::thread;

    use governor::clock::FakeRelativeClock;

    use super::*;

    fn limiter(rate: &str) -> (Limiter<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Limiter::with_clock("client", rate.parse().unwrap(), 100, clock.clone()), clock)
    }

    /// Uses up the burst, then tries as often as possible within a period, and compares both counts.
    #[track_caller]
    fn check(rate: &str, burst: usize, in_period: usize) {
        let (limiter, clock) = limiter(rate);
        let at_once = (0..1000).take_while(|_| limiter.admit("key").is_ok()).count();
        assert_eq!(at_once, burst, "{rate} at once");
        let period = limiter.rate.period;
        let later = (0..500)
            .filter(|_| {
                clock.advance(period / 500);
                limiter.admit("key").is_ok()
            })
            .count();
        assert_eq!(later, in_period, "{rate} in a period");
    }

    #[test]
    fn admits_the_burst_and_then_the_rate() {
        check("30/min burst 10", 10, 30);
        check("10/min", 10, 10);
        check("5/15min", 5, 5);
        check("1/s", 1, 1);
        check("2/h burst 1", 1, 2);
    }

    #[test]
    fn the_next_event_is_admitted_after_retry_after() {
        let (limiter, clock) = limiter("30/min burst 1");
        limiter.admit("key").unwrap();
        clock.advance(Duration::from_millis(500));
        let limited = limiter.admit("key").unwrap_err();
        assert_eq!(limited.retry_after, Duration::from_millis(1500));
        clock.advance(limited.retry_after - Duration::from_nanos(1));
        assert!(limiter.admit("key").is_err());
        clock.advance(Duration::from_nanos(1));
        assert!(limiter.admit("key").is_ok());
    }

    #[test]
    fn a_peek_answers_like_admit_and_counts_nothing() {
        let (limiter, clock) = limiter("2/min");
        for _ in 0..10 {
            limiter.peek("key").unwrap();
        }
        limiter.admit("key").unwrap();
        limiter.admit("key").unwrap();
        assert_eq!(limiter.peek("key"), limiter.admit("key"));
        assert!(limiter.peek("key").is_err());
        clock.advance(Duration::from_secs(30));
        limiter.peek("key").unwrap();
        limiter.admit("key").unwrap();
        assert!(limiter.admit("key").is_err());
    }

    #[test]
    fn each_key_has_a_quota_of_its_own() {
        let (limiter, _) = limiter("1/min");
        limiter.admit("one").unwrap();
        limiter.admit("two").unwrap();
        assert!(limiter.admit("one").is_err());
    }

    #[test]
    fn a_source_is_admitted_as_a_key_is() {
        let (limiter, _) = limiter("1/min");
        let [one, other] = [1, 2].map(|last| LimitSource::address([192, 0, 2, last].into()));
        limiter.peek_source(&one).unwrap();
        limiter.admit_source(&one).unwrap();
        assert_eq!(limiter.peek_source(&one), limiter.admit_source(&one));
        assert!(limiter.peek_source(&one).is_err());
        limiter.admit_source(&other).unwrap();
    }

    #[test]
    fn extreme_rates_neither_panic_nor_refuse_everything() {
        for rate in ["4294967295/s", "4294967295/24h burst 4294967295", "1/24h burst 4294967295", "1/24h"] {
            let (limiter, clock) = limiter(rate);
            for _ in 0..3 {
                clock.advance(Duration::from_secs(86_400));
                assert_eq!(limiter.admit("key"), Ok(()), "{rate}");
            }
        }
    }

    #[test]
    fn a_burst_holds_a_century_at_most() {
        for (rate, burst) in [
            ("1/24h burst 36500", 36_500),
            ("1/24h burst 36501", 36_500),
            ("1/s burst 4294967295", 3_153_600_000),
            ("4294967295/s", u32::MAX),
        ] {
            assert_eq!(quota(rate.parse().unwrap()).burst_size().get(), burst, "{rate}");
        }
    }

    #[test]
    fn workers_share_one_count() {
        let (limiter, _) = limiter("100/h");
        let admitted: usize = thread::scope(|scope| {
            let come = || (0..100).filter(|_| limiter.admit("key").is_ok()).count();
            let workers = [scope.spawn(come), scope.spawn(come), scope.spawn(come)];
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(admitted, 100);
    }

    #[track_caller]
    fn check_headers(retry_after_ms: u64, expected: [&str; 3]) {
        let retry_after = Duration::from_millis(retry_after_ms);
        let limited = Limited { name: "client", limit: 30, window: Duration::from_secs(60), retry_after };
        assert_eq!(limited.header_values().map(|(name, value)| format!("{name}: {value}")), expected);
    }

    #[test]
    fn the_headers_round_up_to_whole_seconds() {
        let policy = "ratelimit-policy: \"client\";q=30;w=60";
        check_headers(12_000, ["retry-after: 12", "ratelimit: \"client\";r=0;t=12", policy]);
        check_headers(11_001, ["retry-after: 12", "ratelimit: \"client\";r=0;t=12", policy]);
        check_headers(1, ["retry-after: 1", "ratelimit: \"client\";r=0;t=1", policy]);
        check_headers(0, ["retry-after: 1", "ratelimit: \"client\";r=0;t=1", policy]);
    }
}
