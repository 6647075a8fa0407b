//! A quota for each key, by governor's GCRA: the quota refills evenly, without fixed windows.

use std::io;
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::{Quota, RateLimiter};
use serde::{Deserialize, Serialize};

use super::gcra_script::GcraParameters;
use super::limit_rate::LimitRate;
use super::packed::LifeLeft;
use super::seeds::{Fingerprint, HashSeed};
use super::source::{LimitSource, probe};
use super::table::{ArrivalTable, TableKey, TableMemory, TableQuery};
use super::usage::{self, LimitUsage};
use crate::memory::{MemoryWriter, ProcessMemory};
use crate::model::rate::Rate;

/// A quota for each key; the number of keys told apart is bounded.
pub struct Limiter<C: Clock = MonotonicClock> {
    name: &'static str,
    /// The PBX node that it is of; `None`: of all.
    node: Option<Box<str>>,
    rate: LimitRate,
    seed: HashSeed,
    table: ArrivalTable,
    /// The time 0 of the table.
    start: C::Instant,
    limiter: RateLimiter<TableQuery, ArrivalTable, C, NoOpMiddleware<C::Instant>>,
}

/// The counts of a limiter, for one with the same rate in the next process.
#[derive(Serialize, Deserialize)]
struct LimiterMemory {
    rate: Rate,
    seed: HashSeed,
    probe: Fingerprint,
    table: TableMemory,
}

/// A key has used up its quota.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("more than {limit} in {window:?} for one {name}")]
pub struct Limited {
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
    pub fn new(name: &'static str, rate: impl Into<LimitRate>, cap: usize) -> Self {
        Self::with_clock(name, rate.into(), cap, MonotonicClock)
    }

    /// Returns the limiter of one PBX node.
    #[must_use]
    pub(crate) fn of_node(self, node: &str) -> Self {
        Self { node: Some(node.into()), ..self }
    }

    /// Makes a limiter that goes on with the counts that a process before had under the same name, if its rate was the same.
    /// `node`: the PBX node that it is of.
    #[must_use]
    pub(crate) fn take_over(
        name: &'static str,
        node: Option<&str>,
        rate: impl Into<LimitRate>,
        cap: usize,
        memory: &mut ProcessMemory,
    ) -> Self {
        let rate = rate.into();
        let part = memory.take(&part(name, node));
        let counted = part.and_then(|part| Self::from_memory(name, rate, cap, MonotonicClock, part, memory.age()));
        let limiter = counted.unwrap_or_else(|| Self::new(name, rate, cap));
        Self { node: node.map(Into::into), ..limiter }
    }

    /// Writes the counts for the next process.
    ///
    /// # Errors
    /// As the writer.
    pub(crate) fn pass_on(&self, writer: &mut MemoryWriter<'_>) -> io::Result<()> {
        writer.add(&part(self.name, self.node()), &self.to_memory())
    }
}

/// Returns the name of the counts in a memory.
fn part(name: &str, node: Option<&str>) -> String {
    node.map_or_else(|| format!("limit {name}"), |node| format!("limit {name} {node}"))
}

impl<C: Clock> Limiter<C> {
    /// Returns the name of the quota, as in `[limits]`.
    #[must_use]
    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the name of the PBX node that it is of; `None`: of all.
    #[must_use]
    pub(crate) fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Returns the quota.
    #[must_use]
    pub(crate) const fn rate(&self) -> LimitRate {
        self.rate
    }

    /// Returns how much of it is used at this moment, by what this member knows.
    #[must_use]
    pub(crate) fn usage(&self) -> LimitUsage {
        let now = self.limiter.clock().now().duration_since(self.start);
        let (keys, left) = self.table.usage(now);
        let whole = quota(self.rate.own).burst_size_replenished_in();
        LimitUsage {
            limit: self.name,
            pbx: self.node().map(str::to_owned),
            rate: self.rate.shared.to_string(),
            fullest_percent: usage::percent(left.into(), whole),
            keys,
            most_keys: self.table.capacity(),
        }
    }

    /// Returns the quota of all members, for the engine that they share.
    pub(super) fn shared_parameters(&self) -> GcraParameters {
        GcraParameters::of(quota(self.rate.shared))
    }

    /// Describes the quota of all members as used up.
    pub(super) fn limited_after(&self, retry_after: Duration) -> Limited {
        let Rate { count, period, .. } = self.rate.shared;
        Limited { name: self.name, limit: count.get(), window: period, retry_after }
    }

    /// Makes a limiter with this clock.
    pub(super) fn with_clock(name: &'static str, rate: LimitRate, cap: usize, clock: C) -> Self {
        let quota = quota(rate.own);
        let table = ArrivalTable::new(cap, quota.replenish_interval().into());
        let start = clock.now();
        let limiter = RateLimiter::new(quota, table.clone(), clock);
        Self { name, node: None, rate, seed: HashSeed::default(), table, start, limiter }
    }

    fn to_memory(&self) -> LimiterMemory {
        let now = self.limiter.clock().now().duration_since(self.start);
        let Self { rate, seed, table, .. } = self;
        LimiterMemory { rate: rate.own, seed: *seed, probe: probe(*seed), table: table.to_memory(now) }
    }

    /// Makes a limiter with counts that were written `age` ago; nothing if they were those of another rate or size, or under
    /// other hashes.
    fn from_memory(
        name: &'static str,
        rate: LimitRate,
        cap: usize,
        clock: C,
        memory: LimiterMemory,
        age: Duration,
    ) -> Option<Self> {
        let LimiterMemory { rate: before, seed, probe: expected, table } = memory;
        let limiter = Self { seed, ..Self::with_clock(name, rate, cap, clock) };
        let life = LifeLeft { longest: quota(rate.own).burst_size_replenished_in(), age };
        let goes_on = before == rate.own && probe(seed) == expected && limiter.table.take_over(table, life);
        goes_on.then_some(limiter)
    }

    /// Counts one event of a key. If the table is full, the event of a client counts with those of the networks around it.
    ///
    /// # Errors
    /// When the key has used up its quota; such an event is not counted.
    pub(super) fn admit<K: TableKey + ?Sized>(&self, key: &K) -> Result<(), Limited> {
        self.check(TableQuery::Admit(key.places(self.seed)))
    }

    /// Checks whether an event of a key would be admitted. Counts nothing.
    ///
    /// # Errors
    /// When it would not.
    pub(super) fn peek<K: TableKey + ?Sized>(&self, key: &K) -> Result<(), Limited> {
        self.check(TableQuery::Peek(key.places(self.seed)))
    }

    /// Counts one event of a source, by the memory of this member alone.
    ///
    /// # Errors
    /// When the source has used up its quota; such an event is not counted.
    pub fn admit_source(&self, source: &LimitSource) -> Result<(), Limited> {
        self.admit(source)
    }

    /// Checks whether an event of a source would be admitted, by the memory of this member alone. Counts nothing.
    ///
    /// # Errors
    /// When it would not.
    pub fn peek_source(&self, source: &LimitSource) -> Result<(), Limited> {
        self.peek(source)
    }

    fn check(&self, query: TableQuery) -> Result<(), Limited> {
        self.limiter.check_key(&query).map_err(|not_until| Limited {
            name: self.name,
            limit: self.rate.own.count.get(),
            window: self.rate.own.period,
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

pub(super) fn quota(rate: Rate) -> Quota {
    let interval = (rate.period / rate.count.get()).max(Duration::from_nanos(1));
    // governor counts in 64 bits of nanoseconds and overflows beyond, so a burst holds a century at most.
    let most = (CENTURY.as_nanos() / interval.as_nanos()).try_into().unwrap_or(u32::MAX);
    let burst = rate.burst.get().clamp(1, most).try_into().expect("at least one");
    Quota::with_period(interval).expect("at least a nanosecond").allow_burst(burst)
}

/// The longest that counts reach into the future.
pub(super) const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

#[cfg(test)]
mod tests {
    use std::thread;

    use governor::clock::FakeRelativeClock;

    use super::*;

    fn limiter(rate: &str) -> (Limiter<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Limiter::with_clock("client", rate.parse::<Rate>().unwrap().into(), 100, clock.clone()), clock)
    }

    /// Uses up the burst, then tries as often as possible within a period, and compares both counts.
    #[track_caller]
    fn check(rate: &str, burst: usize, in_period: usize) {
        let (limiter, clock) = limiter(rate);
        let at_once = (0..1000).take_while(|_| limiter.admit("key").is_ok()).count();
        assert_eq!(at_once, burst, "{rate} at once");
        let period = limiter.rate.own.period;
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

    /// Passes a limiter on, in a memory that comes `age` later, to one of another rate or size.
    fn passed_on(
        limiter: &Limiter<FakeRelativeClock>,
        rate: &str,
        cap: usize,
        age: Duration,
    ) -> Option<(Limiter<FakeRelativeClock>, FakeRelativeClock)> {
        let text = serde_json::to_string(&limiter.to_memory()).unwrap();
        let (memory, clock) = (serde_json::from_str(&text).unwrap(), FakeRelativeClock::default());
        // No two processes start at the same time.
        clock.advance(Duration::from_secs(12_345));
        let rate = rate.parse::<Rate>().unwrap().into();
        Some((Limiter::from_memory("client", rate, cap, clock.clone(), memory, age)?, clock))
    }

    #[test]
    fn the_next_process_counts_on_where_this_one_ends() {
        let (limiter, clock) = limiter("2/min");
        let source = LimitSource::address([192, 0, 2, 1].into());
        clock.advance(Duration::from_secs(1000));
        for _ in 0..2 {
            limiter.admit("key").unwrap();
            limiter.admit_source(&source).unwrap();
        }
        limiter.admit("other").unwrap();
        clock.advance(Duration::from_secs(10));
        let (next, clock) = passed_on(&limiter, "2/min", 100, Duration::from_secs(5)).unwrap();
        assert_eq!(next.admit("key").unwrap_err().retry_after, Duration::from_secs(15));
        assert_eq!(next.admit_source(&source).unwrap_err().retry_after, Duration::from_secs(15));
        next.admit("other").unwrap();
        assert!(next.admit("other").is_err());
        next.admit("third").unwrap();
        clock.advance(Duration::from_secs(15));
        next.admit("key").unwrap();
        // And so does the one after it.
        let (third, _) = passed_on(&next, "2/min", 100, Duration::ZERO).unwrap();
        assert_eq!(third.admit("key").unwrap_err().retry_after, Duration::from_secs(30));
    }

    #[test]
    fn another_rate_or_size_or_hash_begins_anew() {
        let (limiter, _) = limiter("2/min");
        assert!(passed_on(&limiter, "2/min", 100, Duration::ZERO).is_some());
        for (rate, cap) in [("3/min", 100), ("2/h", 100), ("2/min burst 1", 100), ("2/min", 1000)] {
            assert!(passed_on(&limiter, rate, cap, Duration::ZERO).is_none(), "{rate}, {cap} keys");
        }
        let (mut memory, clock) = (limiter.to_memory(), FakeRelativeClock::default());
        memory.probe[0] ^= 1;
        assert!(Limiter::from_memory("client", limiter.rate, 100, clock, memory, Duration::ZERO).is_none());
    }

    #[test]
    fn no_clock_locks_out_for_longer_than_a_full_burst_or_admits_more() {
        let (limiter, clock) = limiter("2/min burst 4");
        clock.advance(Duration::from_secs(1_000_000));
        for _ in 0..4 {
            limiter.admit("key").unwrap();
        }
        let mut memory = limiter.to_memory();
        memory.table = limiter.table.to_memory(0.into());
        let clock = FakeRelativeClock::default();
        let next = Limiter::from_memory("client", limiter.rate, 100, clock, memory, Duration::ZERO).unwrap();
        assert_eq!(next.admit("key").unwrap_err().retry_after, Duration::from_secs(30));
        let (late, _) = passed_on(&limiter, "2/min burst 4", 100, Duration::MAX).unwrap();
        assert_eq!((0..10).filter(|_| late.admit("key").is_ok()).count(), 4);
    }

    #[test]
    fn a_limiter_finds_its_own_counts_in_a_memory() {
        let pass_on = |limiters: &[&Limiter]| {
            let mut bytes = Vec::new();
            let mut writer = MemoryWriter::begin(&mut bytes).unwrap();
            limiters.iter().for_each(|limiter| limiter.pass_on(&mut writer).unwrap());
            writer.end().unwrap();
            ProcessMemory::read(&*bytes).unwrap()
        };
        let rate = "1/24h".parse::<Rate>().unwrap();
        let [one, other] = ["one", "other"].map(|name| Limiter::new(name, rate, 100));
        one.admit("key").unwrap();
        let mut memory = pass_on(&[&one, &other]);
        let [one, other, third] =
            ["one", "other", "third"].map(|name| Limiter::take_over(name, None, rate, 100, &mut memory));
        assert!(one.admit("key").is_err());
        assert!(other.admit("key").is_ok() && third.admit("key").is_ok());
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
