//! What one worker counts. Only its own thread writes, so counting is a load and a store: no lock, no locked instruction.

use std::array;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::labels::{
    Answered, Attempt, Carrier, Class, Connect, Direction, Fault, Handshake, Label, Limit, Method, Mint, Protocol,
    Route, TlsVersion, TunnelEnd, Verdict,
};
use crate::model::login::{LoginKind, LoginOutcome};
use crate::model::upstream_name::UpstreamName;

/// The upper bounds of the histogram, in microseconds; a last bucket has no bound.
pub(super) const BUCKETS: [u64; 9] = [1_000, 2_500, 10_000, 25_000, 100_000, 250_000, 1_000_000, 2_500_000, 10_000_000];

/// A number that one thread changes and others read.
#[derive(Debug, Default)]
pub(super) struct Cell(AtomicU64);

impl Cell {
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

/// A number for each value of a label.
#[derive(Debug)]
pub(super) struct By<A, const N: usize>([Cell; N], PhantomData<A>);

impl<A: Label, const N: usize> By<A, N> {
    pub(super) fn at(&self, a: A) -> &Cell {
        &self.0[a.index()]
    }
}

impl<A, const N: usize> Default for By<A, N> {
    fn default() -> Self {
        Self(array::from_fn(|_| Cell::default()), PhantomData)
    }
}

/// A number for each pair of the values of two labels.
#[derive(Debug)]
pub(super) struct ByTwo<A, B, const M: usize, const N: usize>([By<B, N>; M], PhantomData<A>);

impl<A: Label, B: Label, const M: usize, const N: usize> ByTwo<A, B, M, N> {
    pub(super) fn at(&self, a: A, b: B) -> &Cell {
        self.0[a.index()].at(b)
    }
}

impl<A, B, const M: usize, const N: usize> Default for ByTwo<A, B, M, N> {
    fn default() -> Self {
        Self(array::from_fn(|_| By::default()), PhantomData)
    }
}

/// How long something took, by buckets.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    pub(super) buckets: [Cell; BUCKETS.len() + 1],
    pub(super) microseconds: Cell,
}

impl Histogram {
    pub(super) fn note(&self, duration: Duration) {
        let microseconds = duration.as_micros() as u64;
        let bucket = BUCKETS.iter().position(|bound| microseconds <= *bound).unwrap_or(BUCKETS.len());
        self.buckets[bucket].add(1);
        self.microseconds.add(microseconds);
    }
}

/// All that one worker counts. Its first and last bytes share no cache line with another's.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Block {
    pub(super) exchanges: ByTwo<Route, Class, { Route::COUNT }, { Class::COUNT }>,
    pub(super) aborted: By<Route, { Route::COUNT }>,
    pub(super) answers: [Histogram; Route::COUNT],
    pub(super) in_flight: Cell,
    pub(super) bytes: By<Direction, { Direction::COUNT }>,
    pub(super) accepted: Cell,
    pub(super) accept_errors: Cell,
    pub(super) connections: By<Protocol, { Protocol::COUNT }>,
    pub(super) open: By<Protocol, { Protocol::COUNT }>,
    pub(super) shed: Cell,
    pub(super) handshakes: ByTwo<Handshake, TlsVersion, { Handshake::COUNT }, { TlsVersion::COUNT }>,
    pub(super) connects: ByTwo<UpstreamName, Connect, { UpstreamName::COUNT }, { Connect::COUNT }>,
    pub(super) requests: ByTwo<UpstreamName, Carrier, { UpstreamName::COUNT }, { Carrier::COUNT }>,
    pub(super) retries: By<UpstreamName, { UpstreamName::COUNT }>,
    pub(super) faults: ByTwo<UpstreamName, Fault, { UpstreamName::COUNT }, { Fault::COUNT }>,
    pub(super) limited: By<Limit, { Limit::COUNT }>,
    pub(super) kept_out: By<Attempt, { Attempt::COUNT }>,
    pub(super) keys: By<Answered, { Answered::COUNT }>,
    pub(super) races: Cell,
    pub(super) verdicts: ByTwo<Method, Verdict, { Method::COUNT }, { Verdict::COUNT }>,
    pub(super) logins: ByTwo<LoginKind, LoginOutcome, { LoginKind::COUNT }, { LoginOutcome::COUNT }>,
    pub(super) mints: By<Mint, { Mint::COUNT }>,
    pub(super) breaker_openings: Cell,
    pub(super) tunnels: Cell,
    pub(super) tunnels_open: Cell,
    pub(super) tunnel_ends: By<TunnelEnd, { TunnelEnd::COUNT }>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(microseconds: u64, bucket: usize) {
        let histogram = Histogram::default();
        histogram.note(Duration::from_micros(microseconds));
        let counts: Vec<_> = histogram.buckets.iter().map(Cell::get).collect();
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
        let cell = Cell::default();
        cell.add(2);
        cell.sub(2);
        assert_eq!(cell.get(), 0);
    }

    #[test]
    fn blocks_share_no_cache_line() {
        assert_eq!((align_of::<Block>(), size_of::<Block>() % 128), (128, 0));
    }
}
