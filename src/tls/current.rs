//! The TLS policies that are valid now: each request meets them, and tunnels end by them.

use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;

use super::server::{HostCoverage, TlsPolicies, TlsPolicy};

/// The TLS policies that are valid now, as the connections of one worker see them.
#[derive(Debug)]
pub struct CurrentPolicies {
    now: watch::Sender<Arc<TlsPolicies>>,
}

impl CurrentPolicies {
    /// Begins with these policies.
    #[must_use]
    pub fn new(policies: Arc<TlsPolicies>) -> Self {
        Self { now: watch::Sender::new(policies) }
    }

    /// Replaces them after a reload, and wakes the tunnels unless they are the same.
    pub fn replace(&self, policies: Arc<TlsPolicies>) {
        self.now.send_if_modified(|now| {
            let is_new = !Arc::ptr_eq(now, &policies);
            *now = policies;
            is_new
        });
    }

    /// Tells whether requests for a host may come over a connection of this policy. `host`: in lower case, IPv6 in brackets.
    #[must_use]
    pub fn coverage(&self, policy: &TlsPolicy, host: &str) -> HostCoverage {
        policy.coverage(host, &self.now.borrow())
    }
}

/// Ends a tunnel when its connection does not cover its host any more.
#[derive(Debug)]
pub struct PolicyGuard {
    current: Rc<CurrentPolicies>,
    policy: TlsPolicy,
    host: Box<str>,
}

impl PolicyGuard {
    /// Guards a tunnel for a host over a connection of this policy. `host`: in lower case, IPv6 in brackets.
    #[must_use]
    pub fn new(current: &Rc<CurrentPolicies>, policy: &TlsPolicy, host: &str) -> Self {
        Self { current: Rc::clone(current), policy: policy.clone(), host: host.into() }
    }

    /// Waits until a reload changes what the handshakes of the host ask of clients.
    pub async fn until_outdated(&self) {
        let mut changed = self.current.now.subscribe();
        while self.current.coverage(&self.policy, &self.host) == HostCoverage::Covered {
            // The sender lives in `current`, so this is never an error.
            if changed.changed().await.is_err() {
                return pending().await;
            }
        }
    }
}
