//! What a process that has handed over still does: it keeps its tunnels, and obeys the newest process.

use std::future::pending;
use std::sync::Arc;

use tokio::sync::watch;

use super::ServerState;
use super::snapshot::Snapshot;
use super::succession::{SuccessionOrder, SuccessorLink};
use crate::freeze::Freezes;
use crate::observe::Logs;
use crate::observe::metrics::Metrics;
use crate::state::Freeze;

/// Why [`super::Server::keep_tunnels`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptTunnels {
    /// The last tunnel has ended, or `drain_tunnels` is over.
    Ended,
    /// The newest process is gone, so that no freeze reaches this one any more.
    SuccessorGone {
        /// Whether it was a child of this process.
        is_child: bool,
    },
}

/// The parts of a process that has handed over which the newest process gives orders to.
pub(super) struct OldProcessDuties {
    freezes: Arc<Freezes>,
    logs: Logs,
    metrics: Arc<Metrics>,
    state: watch::Sender<ServerState>,
}

impl OldProcessDuties {
    pub(super) fn new(snapshot: &Snapshot, metrics: &Arc<Metrics>, state: &watch::Sender<ServerState>) -> Self {
        Self {
            freezes: Arc::clone(snapshot.freezes()),
            logs: snapshot.logs().clone(),
            metrics: Arc::clone(metrics),
            state: state.clone(),
        }
    }

    /// Carries out orders until the newest process is gone; without a hand-over, for ever. Returns whether the newest process
    /// was a child of this one.
    pub(super) async fn obey(&self, link: Option<&mut SuccessorLink>) -> bool {
        let Some(link) = link else { return pending().await };
        link.greet().await;
        while let Some(order) = link.next().await {
            let obeyed = self.carry_out(order);
            link.answer(obeyed, self.metrics.tunnels()).await;
        }
        link.has_child_ended().await
    }

    /// Carries out an order. Returns whether it is known and possible.
    fn carry_out(&self, order: SuccessionOrder) -> bool {
        match order {
            SuccessionOrder::Freeze { whom, freeze } => self.change_freeze(&whom, Some(freeze)),
            SuccessionOrder::Thaw { whom } => self.change_freeze(&whom, None),
            SuccessionOrder::Reopen => self.logs.reopen(),
            SuccessionOrder::Drain => drop(self.state.send_replace(ServerState::Draining)),
            SuccessionOrder::Status => {}
            SuccessionOrder::Unknown => return false,
        }
        true
    }

    fn change_freeze(&self, whom: &str, freeze: Option<Freeze>) {
        tracing::info!(whom, frozen = freeze.is_some(), "the newest process orders a freeze or its end");
        self.freezes.follow(whom, freeze);
    }
}
