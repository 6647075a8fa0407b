//! Ends tunnels whose account is frozen, whose session is ended, or whose connection does not cover their host any more.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::select_all;

use crate::freeze::FreezeGuard;
use crate::observe::metrics::TunnelEnd;
use crate::pbx::{HeldSession, IssuedSession, UnissuedSession};
use crate::tls::current::PolicyGuard;

/// Ends a tunnel when an account that it serves is frozen, a session that it was opened with is ended, or a reload changes
/// what its host asks of clients in the handshake.
#[derive(Debug)]
pub(crate) struct TunnelGuard {
    pub(crate) freeze: FreezeGuard,
    pub(crate) policy: PolicyGuard,
    pub(crate) sessions: Vec<Arc<IssuedSession>>,
    /// The sessions that it was opened with, of those that callgate did not open.
    pub(crate) unissued: Vec<Arc<UnissuedSession>>,
    /// A session of the tunnel alone, which ends with it.
    pub(crate) held: Option<HeldSession>,
}

/// The end of a session.
type End<'s> = Pin<Box<dyn Future<Output = TunnelEnd> + 's>>;

impl TunnelGuard {
    /// Waits until the tunnel must end, and returns why. A freeze ends sessions too, of which another member may tell before it
    /// tells of the freeze.
    pub(super) async fn until_cut(&self) -> TunnelEnd {
        let ended = async {
            let sessions = self.sessions.iter().chain(self.held.as_ref().map(HeldSession::session));
            let sessions = sessions.map(|session| Box::pin(until_over(session)) as End<'_>);
            let others = self.unissued.iter().map(|session| {
                Box::pin(async {
                    session.until_over().await;
                    TunnelEnd::SessionEnded
                }) as End<'_>
            });
            let ends: Vec<_> = sessions.chain(others).collect();
            match ends.is_empty() {
                true => pending().await,
                false => select_all(ends).await.0,
            }
        };
        tokio::select! {
            biased;
            () = self.freeze.until_frozen() => TunnelEnd::Frozen,
            end = ended => end,
            () = self.policy.until_outdated() => TunnelEnd::CertificatePolicyChanged,
        }
    }
}

async fn until_over(session: &IssuedSession) -> TunnelEnd {
    if session.until_over().await { TunnelEnd::Frozen } else { TunnelEnd::SessionEnded }
}
