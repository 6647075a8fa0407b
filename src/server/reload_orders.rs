//! Orders to reload, from the admin listener to the owner of the configuration files, and their outcomes.

use std::future::pending;

use tokio::sync::{mpsc, oneshot};

/// The most orders that wait to be taken.
const MOST_WAITING: usize = 16;

/// The outcome of a reload that was ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// The gate serves the new configuration.
    Taken {
        /// The file of the configuration.
        file: String,
        /// The files that had changed.
        changed: Vec<String>,
        /// Settings that are allowed but probably not meant.
        warnings: Vec<String>,
    },
    /// Everything stays as it was.
    Refused {
        /// The reason.
        reason: String,
        /// The problems of the configuration, in the order of the file; empty if it has none by itself.
        problems: Vec<String>,
    },
}

/// An order to reload. Dropping it says that it is not carried out.
#[derive(Debug)]
pub struct ReloadOrder(oneshot::Sender<ReloadOutcome>);

impl ReloadOrder {
    /// Tells the outcome. The client that gave the order may have left.
    pub fn answer(self, outcome: ReloadOutcome) {
        let _ = self.0.send(outcome);
    }

    /// Tells whether the sender still waits for the outcome.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        !self.0.is_closed()
    }
}

/// The orders that come in.
#[derive(Debug)]
pub struct ReloadOrders(mpsc::Receiver<ReloadOrder>);

impl ReloadOrders {
    /// Waits for the next order; for ever once the admin listener has ended.
    pub async fn next(&mut self) -> ReloadOrder {
        match self.0.recv().await {
            Some(order) => order,
            None => pending().await,
        }
    }
}

/// The admin listener's end: gives orders.
#[derive(Debug)]
pub(super) struct ReloadOrderSender(mpsc::Sender<ReloadOrder>);

impl ReloadOrderSender {
    /// Gives an order, and returns its outcome; nothing if it is not carried out.
    pub(super) async fn order(&self) -> Option<ReloadOutcome> {
        let (sender, outcome) = oneshot::channel();
        self.0.try_send(ReloadOrder(sender)).ok()?;
        outcome.await.ok()
    }
}

/// Makes both ends.
pub(super) fn channel() -> (ReloadOrderSender, ReloadOrders) {
    let (sender, orders) = mpsc::channel(MOST_WAITING);
    (ReloadOrderSender(sender), ReloadOrders(orders))
}
