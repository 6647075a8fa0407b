//! The sums over all workers that the operator's page shows, and those between two moments.

use std::array;

use serde::Serialize;

use super::counters::{BUCKETS, Histogram, WorkerCounts};
use super::labels::Label;
use super::{Metrics, lock};
use crate::model::login::{LoginKind, LoginOutcome};

/// Some counts of all workers, since the start or between two moments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MetricTotals {
    /// Logins by their outcomes.
    pub logins: LoginTotals,
    /// Exchanges that ended.
    pub exchanges: u64,
    /// From the head of a request to the head of its answer.
    pub answers: DurationCounts,
    /// From a request for a session of the PBX to its answer.
    pub mints: DurationCounts,
    /// The tunnels that are open at the end of the time.
    pub tunnels: u64,
}

/// Logins of all kinds by their outcomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LoginTotals {
    /// The caller received a session or a token.
    pub granted: u64,
    /// The caller received a ticket for another host.
    pub ticket: u64,
    /// The caller received nothing.
    pub refused: u64,
}

/// How many durations there were in each bucket of the histograms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DurationCounts([u64; BUCKETS.len() + 1]);

/// Estimated percentiles in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half of the durations are shorter.
    pub p50_ms: f64,
    /// Nine tenths are shorter.
    pub p90_ms: f64,
    /// All but one in a hundred are shorter.
    pub p99_ms: f64,
}

impl Metrics {
    /// Returns the sums over all workers since the start.
    #[must_use]
    pub fn totals(&self) -> MetricTotals {
        let mut totals = MetricTotals::default();
        for block in lock(&self.blocks).iter() {
            totals.add(block);
        }
        totals
    }
}

impl MetricTotals {
    fn add(&mut self, block: &WorkerCounts) {
        for &kind in LoginKind::ALL {
            let logins = |outcome| block.logins.at(kind, outcome).get();
            self.logins.granted += logins(LoginOutcome::Granted);
            self.logins.ticket += logins(LoginOutcome::Ticket);
            self.logins.refused += logins(LoginOutcome::Refused);
        }
        for histogram in &block.answers {
            self.answers.add(histogram);
        }
        self.mints.add(&block.mint_times);
        self.exchanges += block.exchanges.sum();
        self.tunnels = self.tunnels.wrapping_add(block.tunnels_open.get());
    }

    /// Returns what was counted after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            logins: LoginTotals {
                granted: self.logins.granted.saturating_sub(before.logins.granted),
                ticket: self.logins.ticket.saturating_sub(before.logins.ticket),
                refused: self.logins.refused.saturating_sub(before.logins.refused),
            },
            exchanges: self.exchanges.saturating_sub(before.exchanges),
            answers: self.answers.since(&before.answers),
            mints: self.mints.since(&before.mints),
            tunnels: self.tunnels,
        }
    }
}

impl DurationCounts {
    fn add(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.0.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.get();
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self(array::from_fn(|bucket| self.0[bucket].saturating_sub(before.0[bucket])))
    }

    /// Returns how many durations there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Estimates percentiles, as if the durations of a bucket lay evenly in it; nothing without durations. One in the last
    /// bucket, beyond 10 s, counts as 10 s.
    #[must_use]
    pub fn percentiles(&self) -> Option<Percentiles> {
        (self.count() > 0).then(|| {
            let [p50_ms, p90_ms, p99_ms] = [0.5, 0.9, 0.99].map(|share| self.quantile(share));
            Percentiles { p50_ms, p90_ms, p99_ms }
        })
    }

    /// Estimates the duration in milliseconds below which a share of all durations lie.
    fn quantile(&self, share: f64) -> f64 {
        let rank = share * self.count() as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for (bound, count) in BUCKETS.iter().zip(self.0) {
            let (upper, count) = (*bound as f64 / 1e3, count as f64);
            if count > 0.0 && below + count >= rank {
                return lower + (upper - lower) * (rank - below) / count;
            }
            (below, lower) = (below + count, upper);
        }
        lower
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(counts: &[(usize, u64)], expected: Option<[f64; 3]>) {
        let mut durations = DurationCounts::default();
        counts.iter().for_each(|(bucket, count)| durations.0[*bucket] = *count);
        let found = durations.percentiles().map(|found| [found.p50_ms, found.p90_ms, found.p99_ms]);
        assert_eq!(found, expected, "{counts:?}");
    }

    #[test]
    fn percentiles_are_estimated_within_buckets() {
        check(&[], None);
        check(&[(0, 100)], Some([0.5, 0.9, 0.99]));
        check(&[(0, 50), (2, 50)], Some([1.0, 8.5, 9.85]));
        check(&[(4, 1)], Some([62.5, 92.5, 99.25]));
        check(&[(9, 3)], Some([10_000.0; 3]));
    }

    #[test]
    fn what_was_before_does_not_count() {
        let mut before = MetricTotals { exchanges: 3, tunnels: 9, ..MetricTotals::default() };
        before.answers.0[2] = 4;
        let mut after = MetricTotals { exchanges: 5, tunnels: 2, ..before };
        after.answers.0[2] = 5;
        let since = after.since(&before);
        assert_eq!((since.exchanges, since.tunnels, since.answers.count()), (2, 2, 1));
    }
}
