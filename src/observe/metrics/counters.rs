//! The counters of one worker. Only its own thread writes, so counting is a load and a store: no lock, no locked
//! instruction.

use std::array;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::labels::{
    AutoStep, BlockedAttempt, CheckedState, ClientProtocol, ConnectResult, ConnectionUse, CountedMethod,
    CountedVerdict, Direction, ExchangeRoute, HandshakeResult, KeyOutcome, Label, LimitName, MintOutcome, StatusClass,
    TlsVersion, TunnelEnd, UpstreamFault,
};
use crate::model::login::{LoginKind, LoginOutcome, LogoutKind, LogoutOutcome};
use crate::model::upstream_name::UpstreamName;

/// The upper bounds of the histogram, in microseconds; the last bucket has none.
pub(super) const BUCKETS: [u64; 9] = [1_000, 2_500, 10_000, 25_000, 100_000, 250_000, 1_000_000, 2_500_000, 10_000_000];

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, more: u64) {
        self.0.store(self.get().wrapping_add(more), Ordering::Relaxed);
    }

    pub(super) fn sub(&self, less: u64) {
        self.0.store(self.get().wrapping_sub(less), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter for each value of a label.
#[derive(Debug)]
pub(super) struct PerLabel<A, const N: usize>([Counter; N], PhantomData<A>);

impl<A: Label, const N: usize> PerLabel<A, N> {
    pub(super) fn at(&self, a: A) -> &Counter {
        &self.0[a.index()]
    }
}

impl<A, const N: usize> Default for PerLabel<A, N> {
    fn default() -> Self {
        Self(array::from_fn(|_| Counter::default()), PhantomData)
    }
}

/// A counter for each pair of values of two labels.
#[derive(Debug)]
pub(super) struct PerPair<A, B, const M: usize, const N: usize>([PerLabel<B, N>; M], PhantomData<A>);

impl<A: Label, B: Label, const M: usize, const N: usize> PerPair<A, B, M, N> {
    pub(super) fn at(&self, a: A, b: B) -> &Counter {
        self.0[a.index()].at(b)
    }

    /// Returns the sum of all pairs.
    pub(super) fn sum(&self) -> u64 {
        self.0.iter().flat_map(|row| &row.0).map(Counter::get).sum()
    }
}

impl<A, B, const M: usize, const N: usize> Default for PerPair<A, B, M, N> {
    fn default() -> Self {
        Self(array::from_fn(|_| PerLabel::default()), PhantomData)
    }
}

/// A histogram of durations.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    pub(super) buckets: [Counter; BUCKETS.len() + 1],
    pub(super) microseconds: Counter,
}

impl Histogram {
    pub(super) fn note(&self, duration: Duration) {
        let microseconds = duration.as_micros() as u64;
        let bucket = BUCKETS.iter().position(|bound| microseconds <= *bound).unwrap_or(BUCKETS.len());
        self.buckets[bucket].add(1);
        self.microseconds.add(microseconds);
    }
}

/// All counters of one worker, aligned so that two workers share no cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct WorkerCounts {
    pub(super) exchanges: PerPair<ExchangeRoute, StatusClass, { ExchangeRoute::COUNT }, { StatusClass::COUNT }>,
    pub(super) aborted: PerLabel<ExchangeRoute, { ExchangeRoute::COUNT }>,
    pub(super) answers: [Histogram; ExchangeRoute::COUNT],
    pub(super) in_flight: Counter,
    pub(super) bytes: PerLabel<Direction, { Direction::COUNT }>,
    pub(super) accepted: Counter,
    pub(super) accept_errors: Counter,
    pub(super) connections: PerLabel<ClientProtocol, { ClientProtocol::COUNT }>,
    pub(super) open: PerLabel<ClientProtocol, { ClientProtocol::COUNT }>,
    pub(super) shed: Counter,
    pub(super) handshakes: PerPair<HandshakeResult, TlsVersion, { HandshakeResult::COUNT }, { TlsVersion::COUNT }>,
    pub(super) connects: PerPair<UpstreamName, ConnectResult, { UpstreamName::COUNT }, { ConnectResult::COUNT }>,
    pub(super) passthrough_connects: PerLabel<ConnectResult, { ConnectResult::COUNT }>,
    pub(super) requests: PerPair<UpstreamName, ConnectionUse, { UpstreamName::COUNT }, { ConnectionUse::COUNT }>,
    pub(super) retries: PerLabel<UpstreamName, { UpstreamName::COUNT }>,
    pub(super) faults: PerPair<UpstreamName, UpstreamFault, { UpstreamName::COUNT }, { UpstreamFault::COUNT }>,
    pub(super) limited: PerLabel<LimitName, { LimitName::COUNT }>,
    pub(super) would_limit: PerLabel<LimitName, { LimitName::COUNT }>,
    pub(super) kept_out: PerLabel<BlockedAttempt, { BlockedAttempt::COUNT }>,
    pub(super) keys: PerLabel<KeyOutcome, { KeyOutcome::COUNT }>,
    pub(super) races: Counter,
    pub(super) verdicts: PerPair<CountedMethod, CountedVerdict, { CountedMethod::COUNT }, { CountedVerdict::COUNT }>,
    pub(super) logins: PerPair<LoginKind, LoginOutcome, { LoginKind::COUNT }, { LoginOutcome::COUNT }>,
    pub(super) logouts: PerPair<LogoutKind, LogoutOutcome, { LogoutKind::COUNT }, { LogoutOutcome::COUNT }>,
    pub(super) mints: PerLabel<MintOutcome, { MintOutcome::COUNT }>,
    pub(super) mint_times: Histogram,
    pub(super) breaker_openings: Counter,
    pub(super) auto_steps: PerLabel<AutoStep, { AutoStep::COUNT }>,
    pub(super) session_checks: PerLabel<CheckedState, { CheckedState::COUNT }>,
    pub(super) tunnels: Counter,
    pub(super) tunnels_open: Counter,
    pub(super) tunnel_ends: PerLabel<TunnelEnd, { TunnelEnd::COUNT }>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(microseconds: u64, bucket: usize) {
        let histogram = Histogram::default();
        histogram.note(Duration::from_micros(microseconds));
        let counts: Vec<_> = histogram.buckets.iter().map(Counter::get).collect();
        assert_eq!(counts.iter().position(|count| *count == 1), Some(bucket), "{microseconds}");
        assert_eq!((counts.iter().sum::<u64>(), histogram.microseconds.get()), (1, microseconds));
    }

    #[test]
    fn a_duration_is_in_the_first_bucket_that_holds_it() {
        check(0, 0);
        check(1_000, 0);
        check(1_001, 1);
        check(10_000_000, 8);
        check(10_000_001, 9);
    }

    #[test]
    fn what_opens_closes() {
        let cell = Counter::default();
        cell.add(2);
        cell.sub(2);
        assert_eq!(cell.get(), 0);
    }

    #[test]
    fn blocks_share_no_cache_line() {
        assert_eq!((align_of::<WorkerCounts>(), size_of::<WorkerCounts>() % 128), (128, 0));
    }
}
