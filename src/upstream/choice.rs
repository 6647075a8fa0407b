//! Which endpoint of an upstream serves an exchange, by `policy`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::permits::ConnectionUsage;
use crate::config::UpstreamPolicy;
use crate::observe::metrics::UrlExchanges;

/// An endpoint of an upstream, by its position in the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct EndpointIndex(pub(super) usize);

/// The endpoint that was chosen for an exchange, which counts there from now on.
#[derive(Debug)]
pub(super) struct EndpointChoice {
    pub(super) index: EndpointIndex,
    /// No endpoint is healthy: an open connection to any of them is better than a new one.
    pub(super) is_last_resort: bool,
    /// `None` for an upstream with one endpoint, unless its policy is `least`.
    pub(super) under_way: Option<UnderWay>,
}

/// One exchange under way at an endpoint, a WebSocket included, counted until this is dropped.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<UrlExchanges>);

impl UnderWay {
    pub(super) fn begin(exchanges: &Arc<UrlExchanges>) -> Self {
        exchanges.begin();
        Self(Arc::clone(exchanges))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What an exchange counts as while it has a connection.
#[derive(Debug, Default)]
pub(super) struct ExchangeCounts {
    /// The use of the connection by its requester.
    pub(super) _usage: Option<ConnectionUsage>,
    pub(super) under_way: Option<UnderWay>,
}

/// The policy of an upstream, and whose turn it is. All workers share it, so that the turns are fair over all of them.
#[derive(Debug)]
pub(super) struct Chooser {
    policy: UpstreamPolicy,
    /// The position whose turn is next.
    next: AtomicUsize,
}

impl Chooser {
    pub(super) const fn new(policy: UpstreamPolicy) -> Self {
        Self { policy, next: AtomicUsize::new(0) }
    }

    /// Tells whether the order of the endpoints is the order of preference.
    pub(super) fn prefers_first(&self) -> bool {
        self.policy == UpstreamPolicy::First
    }

    /// Tells whether the exchanges under way at the endpoints decide.
    pub(super) fn compares_exchanges(&self) -> bool {
        self.policy == UpstreamPolicy::Least
    }

    /// Chooses one of `count` endpoints, by their positions; nothing if none `may` be chosen. `exchanges` counts those
    /// under way at an endpoint.
    pub(super) fn choose(
        &self,
        count: usize,
        may: impl Fn(usize) -> bool,
        exchanges: impl Fn(usize) -> usize,
    ) -> Option<usize> {
        match self.policy {
            UpstreamPolicy::First => (0..count).find(|&index| may(index)),
            UpstreamPolicy::RoundRobin => self.choose_in_turn(count, may, |_| 0),
            UpstreamPolicy::Least => self.choose_in_turn(count, may, exchanges),
        }
    }

    /// Chooses the endpoint with the least `load`; among equal ones, the one whose turn is next.
    fn choose_in_turn(
        &self,
        count: usize,
        may: impl Fn(usize) -> bool,
        load: impl Fn(usize) -> usize,
    ) -> Option<usize> {
        let mut chosen = None;
        let take_turn = |next| {
            let candidates = (0..count).filter(|&index| may(index));
            chosen = candidates.min_by_key(|&index| (load(index), turns_until(index, next, count)));
            chosen.map(|index| (index + 1) % count)
        };
        self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take_turn).ok()?;
        chosen
    }
}

/// Returns how many turns others have before `index`, when `next` has the next turn of `count`.
pub(super) const fn turns_until(index: usize, next: usize, count: usize) -> usize {
    (index + count - next) % count
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Chooses `times` times among endpoints of which those in `away` are not healthy.
    fn chosen(policy: UpstreamPolicy, times: usize, away: &[usize], exchanges: [usize; 3]) -> Vec<usize> {
        let chooser = Chooser::new(policy);
        let once = |_| chooser.choose(3, |index| !away.contains(&index), |index| exchanges[index]);
        (0..times).map_while(once).collect()
    }

    #[test]
    fn the_first_healthy_endpoint_is_chosen_whatever_it_has_to_do() {
        assert_eq!(chosen(UpstreamPolicy::First, 3, &[], [9, 0, 0]), [0, 0, 0]);
        assert_eq!(chosen(UpstreamPolicy::First, 2, &[0], [0, 9, 0]), [1, 1]);
    }

    #[test]
    fn healthy_endpoints_have_their_turns_and_the_neighbour_of_one_that_is_away_has_no_more_than_others() {
        assert_eq!(chosen(UpstreamPolicy::RoundRobin, 7, &[], [9, 0, 0]), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(chosen(UpstreamPolicy::RoundRobin, 4, &[1], [0; 3]), [0, 2, 0, 2]);
    }

    #[test]
    fn the_endpoint_with_the_fewest_exchanges_is_chosen_and_equal_ones_in_turn() {
        assert_eq!(chosen(UpstreamPolicy::Least, 3, &[], [2, 1, 3]), [1, 1, 1]);
        assert_eq!(chosen(UpstreamPolicy::Least, 4, &[], [1, 1, 2]), [0, 1, 0, 1]);
        assert_eq!(chosen(UpstreamPolicy::Least, 4, &[], [2, 1, 1]), [1, 2, 1, 2]);
        assert_eq!(chosen(UpstreamPolicy::Least, 2, &[1], [2, 1, 3]), [0, 0]);
    }

    #[test]
    fn without_a_healthy_endpoint_none_is_chosen() {
        for policy in [UpstreamPolicy::First, UpstreamPolicy::RoundRobin, UpstreamPolicy::Least] {
            assert!(chosen(policy, 1, &[0, 1, 2], [0; 3]).is_empty());
        }
    }

    #[test]
    fn threads_share_the_turns() {
        let (chooser, counts) = (Chooser::new(UpstreamPolicy::RoundRobin), [const { AtomicUsize::new(0) }; 3]);
        let choose = || {
            for _ in 0..3000 {
                let index = chooser.choose(3, |_| true, |_| 0).unwrap();
                counts[index].fetch_add(1, Ordering::Relaxed);
            }
        };
        thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(choose))));
        assert_eq!(counts.map(AtomicUsize::into_inner), [4000; 3]);
    }

    #[test]
    fn an_exchange_is_under_way_until_it_ends() {
        let exchanges = Arc::default();
        let (one, other) = (UnderWay::begin(&exchanges), UnderWay::begin(&exchanges));
        assert_eq!(exchanges.count(), 2);
        drop(one);
        assert_eq!(exchanges.count(), 1);
        drop(other);
        assert_eq!(exchanges.count(), 0);
    }
}
