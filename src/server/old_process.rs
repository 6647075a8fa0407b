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
use crate::pbx::{EndOrder, IssuedSessions};
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
    sessions: Arc<IssuedSessions>,
    logs: Logs,
    metrics: Arc<Metrics>,
    state: watch::Sender<ServerState>,
}

impl OldProcessDuties {
    pub(super) fn new(snapshot: &Snapshot, metrics: &Arc<Metrics>, state: &watch::Sender<ServerState>) -> Self {
        Self {
            freezes: Arc::clone(snapshot.freezes()),
            sessions: Arc::clone(snapshot.sessions()),
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
            let ended = self.carry_out(order);
            link.answer(ended.is_some(), ended.unwrap_or_default(), self.metrics.tunnels()).await;
        }
        link.has_child_ended().await
    }

    /// Carries out an order. Returns how many sessions it ended; `None`: it is one of another version.
    fn carry_out(&self, order: SuccessionOrder) -> Option<u64> {
        match order {
            SuccessionOrder::EndSessions(order) => return self.end_sessions(&order),
            SuccessionOrder::Freeze { whom, freeze } => self.change_freeze(&whom, Some(freeze)),
            SuccessionOrder::Thaw { whom } => self.change_freeze(&whom, None),
            SuccessionOrder::Reopen => self.logs.reopen(),
            SuccessionOrder::Drain => drop(self.state.send_replace(ServerState::Draining)),
            SuccessionOrder::Status => {}
            SuccessionOrder::Unknown => return None,
        }
        Some(0)
    }

    fn end_sessions(&self, order: &EndOrder) -> Option<u64> {
        let ended = self.sessions.follow(order, &self.logs)? as u64;
        if ended > 0 {
            tracing::info!(ended, reason = order.reason.as_str(), "the newest process orders the end of sessions");
        }
        Some(ended)
    }

    fn change_freeze(&self, whom: &str, freeze: Option<Freeze>) {
        tracing::info!(whom, frozen = freeze.is_some(), "the newest process orders a freeze or its end");
        self.freezes.follow(whom, freeze);
    }
}
