//! Ends of sessions that others carry out, too: old processes, which keep tunnels after an upgrade, and other members.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::SessionEnd;
use super::entry::IssuedSession;
use super::filter::SessionFilter;
use crate::model::digest::Digest;
use crate::model::session::EndReason;

/// How many orders may wait; further ones are dropped. An old process that is stuck takes one in a second.
const WAITING: usize = 4096;
/// How many numbers of sessions an order has at most.
const MOST: usize = 2000;
/// How many digests of sessions an order has at most.
const MOST_IDS: usize = 200;

/// An order to an old process: end the sessions of a choice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndOrder {
    /// The sessions.
    pub filter: SessionFilter,
    /// The reason.
    pub reason: EndReason,
    /// The user of this machine who ordered it.
    pub by: Option<String>,
    /// Whether the process that gives the order tells the PBX, so that the old one does not.
    pub is_told: bool,
    /// The numbers of the sessions that ended in the process that gives the order, which tells the PBX of them.
    #[serde(default)]
    pub told: Vec<u64>,
    /// The SHA-256 of the ids of the sessions that ended at the member that gives the order, which tells the PBX of them.
    #[serde(default)]
    pub ids: Vec<Digest>,
}

impl EndOrder {
    /// Orders what this process does itself. A session that a request shows is ended at the PBX from here, even if this
    /// process does not know it.
    ///
    /// `ended`: the sessions that ended here. An order has a bounded length, so many of them make several orders.
    pub(crate) fn all(filter: SessionFilter, end: SessionEnd<'_>, ended: &[Arc<IssuedSession>]) -> Vec<Self> {
        let order = |filter, told| Self::new(filter, end, told);
        let told: Vec<_> = ended.iter().map(|session| session.number).collect();
        let (parts, rest) = told.as_chunks::<MOST>();
        let parts = parts.iter().map(|part| order(SessionFilter::number(part[0]), part.to_vec()));
        // Last the choice: what it finds then is in the old process alone.
        parts.chain([order(filter, rest.to_vec())]).collect()
    }

    /// Orders other members what this one does itself. Its numbers mean nothing to them.
    ///
    /// `ids`: the digests of the ids of the sessions that ended here.
    pub(super) fn for_members(filter: SessionFilter, end: SessionEnd<'_>, ids: Vec<Digest>) -> Vec<Self> {
        let is_by_number = matches!(filter, SessionFilter::Number { .. });
        let parts = ids.chunks(MOST_IDS).map(|part| {
            let order = Self::new(SessionFilter::Id { digest: part[0] }, end, Vec::new());
            Self { ids: part.to_vec(), ..order }
        });
        let rest = (!is_by_number).then(|| Self::new(filter, end, Vec::new()));
        parts.chain(rest).collect()
    }

    fn new(filter: SessionFilter, end: SessionEnd<'_>, told: Vec<u64>) -> Self {
        let is_told = matches!(filter, SessionFilter::Id { .. }) || end.reason == EndReason::Pbx;
        Self { filter, reason: end.reason, by: end.by.map(str::to_owned), is_told, told, ids: Vec::new() }
    }
}

/// The orders that wait to be sent.
#[derive(Debug, Default)]
pub(crate) struct EndOrders {
    queue: Mutex<VecDeque<EndOrder>>,
    added: Notify,
    /// Whether there is another one to carry them out.
    is_open: AtomicBool,
}

impl EndOrders {
    /// Keeps orders from now on, because there is another one to carry them out.
    pub(crate) fn open(&self) {
        self.is_open.store(true, Ordering::Release);
    }

    /// Adds orders, if there is another one to carry them out.
    pub(super) fn add(&self, orders: impl FnOnce() -> Vec<EndOrder>) {
        if !self.is_open.load(Ordering::Acquire) {
            return;
        }
        for order in orders() {
            let mut queue = self.queue();
            if queue.len() >= WAITING {
                drop(queue);
                tracing::warn!("an end of a session is not passed on, because too many wait: tunnels of it may go on");
                return;
            }
            queue.push_back(order);
        }
        self.added.notify_one();
    }

    /// Takes the next order, if one waits.
    pub(crate) fn take(&self) -> Option<EndOrder> {
        self.queue().pop_front()
    }

    /// Waits for the next order, and takes it.
    pub(crate) async fn next(&self) -> EndOrder {
        loop {
            if let Some(order) = self.take() {
                return order;
            }
            self.added.notified().await;
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<EndOrder>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::account::{Account, Role};
    use crate::pbx::issued_sessions::entry::SessionLogin;

    #[tokio::test]
    async fn orders_are_kept_in_turn_and_not_without_end() {
        let orders = EndOrders::default();
        let order = |number| EndOrder::new(SessionFilter::number(number), EndReason::Logout.into(), Vec::new());
        orders.add(|| vec![order(0)]);
        assert_eq!(orders.take(), None, "there is no old process");
        orders.open();
        for number in 0..=WAITING as u64 {
            orders.add(|| vec![order(number)]);
        }
        assert_eq!(orders.queue().len(), WAITING);
        assert_eq!((orders.next().await, orders.take()), (order(0), Some(order(1))));
        let (next, ()) = tokio::join!(
            async {
                while orders.take().is_some() {}
                orders.next().await
            },
            async { orders.add(|| vec![order(7)]) }
        );
        assert_eq!(next, order(7));
    }

    #[test]
    fn the_pbx_is_told_by_the_process_that_saw_the_session() {
        for (filter, reason, expected) in [
            (SessionFilter::id("session00000001"), EndReason::Logout, true),
            (SessionFilter::All, EndReason::Pbx, true),
            (SessionFilter::All, EndReason::Operator, false),
            (SessionFilter::Credential { marks: Vec::new() }, EndReason::App, false),
        ] {
            let orders = EndOrder::all(filter.clone(), reason.into(), &[]);
            assert_eq!(orders.iter().map(|order| order.is_told).collect::<Vec<_>>(), [expected], "{filter:?}");
        }
    }

    #[test]
    fn many_sessions_make_several_orders_of_bounded_length() {
        let role = Role::User(Account::new("40", "acme.test".parse().unwrap()).unwrap());
        let session = |number| Arc::new(IssuedSession::new(number, role.clone(), SessionLogin::for_test("ann"), None));
        let ended: Vec<_> = (0..2 * MOST as u64 + 3).map(|number| session(u64::MAX - number)).collect();
        let orders = EndOrder::all(SessionFilter::All, EndReason::Operator.into(), &ended);
        assert!(orders.iter().all(|order| serde_json::to_string(order).unwrap().len() < 60_000));
        let told: Vec<_> = orders.iter().flat_map(|order| order.told.iter().copied()).collect();
        assert_eq!(told, ended.iter().map(|session| session.number).collect::<Vec<_>>());
        let filters: Vec<_> = orders.iter().map(|order| order.filter.clone()).collect();
        let [one, two] = [0, MOST].map(|at| SessionFilter::number(told[at]));
        assert_eq!(filters, [one, two, SessionFilter::All]);
    }
}
