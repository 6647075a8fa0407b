//! Logouts reach the old processes: a chore of the control thread passes the ends of sessions on, so that no request waits for
//! them.

use std::sync::Arc;

use super::{Predecessors, SuccessionOrder};
use crate::pbx::IssuedSessions;

/// Orders the old processes to end the sessions that logouts end here, for ever.
pub(in crate::server) async fn pass_ends_on(sessions: Arc<IssuedSessions>, predecessors: Arc<Predecessors>) {
    loop {
        let order = sessions.orders().next().await;
        let reason = order.reason.as_str();
        // Its answer is waited for before the next order is taken, so that an old process that is slow misses none.
        for one in predecessors.ask(&SuccessionOrder::EndSessions(order)).await {
            if !one.obeys() {
                tracing::warn!(
                    id = one.id,
                    reason,
                    "an old process does not end sessions: its tunnels of them may go on"
                );
            }
        }
    }
}
