//! Ends of sessions that old processes carry out, too: they keep tunnels after an upgrade.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::SessionEnd;
use super::filter::SessionFilter;
use crate::model::session::EndReason;

/// How many orders may wait; further ones are dropped. An old process that is stuck takes one in a second.
const WAITING: usize = 4096;

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
}

impl EndOrder {
    /// Orders what this process does itself. A session that a request shows is ended at the PBX from here, even if this
    /// process does not know it.
    pub(crate) fn new(filter: SessionFilter, end: SessionEnd<'_>) -> Self {
        let is_told = matches!(filter, SessionFilter::Id { .. }) || end.reason == EndReason::Pbx;
        Self { filter, reason: end.reason, by: end.by.map(str::to_owned), is_told }
    }
}

/// The orders that wait to be sent.
#[derive(Debug, Default)]
pub(crate) struct EndOrders {
    queue: Mutex<VecDeque<EndOrder>>,
    added: Notify,
    /// Whether there is an old process.
    is_open: AtomicBool,
}

impl EndOrders {
    /// Keeps orders from now on, because there is an old process.
    pub(crate) fn open(&self) {
        self.is_open.store(true, Ordering::Release);
    }

    /// Adds an order, if there is an old process.
    pub(super) fn add(&self, order: impl FnOnce() -> EndOrder) {
        if !self.is_open.load(Ordering::Acquire) {
            return;
        }
        let mut queue = self.queue();
        if queue.len() < WAITING {
            queue.push_back(order());
            drop(queue);
            self.added.notify_one();
        } else {
            tracing::warn!("an old process does not follow: its tunnels of a session that is over go on");
        }
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

    #[tokio::test]
    async fn orders_are_kept_in_turn_and_not_without_end() {
        let orders = EndOrders::default();
        let order = |number| EndOrder::new(SessionFilter::number(number), EndReason::Logout.into());
        orders.add(|| order(0));
        assert_eq!(orders.take(), None, "there is no old process");
        orders.open();
        for number in 0..=WAITING as u64 {
            orders.add(|| order(number));
        }
        assert_eq!(orders.queue().len(), WAITING);
        assert_eq!((orders.next().await, orders.take()), (order(0), Some(order(1))));
        let (next, ()) = tokio::join!(
            async {
                while orders.take().is_some() {}
                orders.next().await
            },
            async { orders.add(|| order(7)) }
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
            assert_eq!(EndOrder::new(filter.clone(), reason.into()).is_told, expected, "{filter:?}");
        }
    }
}
