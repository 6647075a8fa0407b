//! One session that callgate opened at the PBX.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::config::{NodeIndex, PbxNodes};
use crate::model::account::Role;
use crate::model::credential_mark::CredentialMark;
use crate::model::secret::Secret;
use crate::model::session::EndReason;

/// A session that callgate opened at the PBX. The token and the cookie of one login are one session.
#[derive(Debug)]
pub(crate) struct IssuedSession {
    /// Its number in lists and orders. It says nothing about the session itself.
    pub number: u64,
    /// The identity that it is for.
    pub role: Role,
    /// The login that it was opened for.
    pub login: SessionLogin,
    /// When it was opened.
    pub opened: Timestamp,
    /// The cookie by which the PBX knows it. A page that exchanges a token itself keeps the cookie from callgate.
    cookie: Option<Secret>,
    is_over: AtomicBool,
    /// Whether a freeze of its account ended it.
    is_frozen: AtomicBool,
    /// Whether the PBX has ended it, too.
    is_over_at_pbx: AtomicBool,
    /// Whether it is of a WebSocket that this process keeps.
    is_held: AtomicBool,
    /// Whether a process that takes over was told that it is over.
    is_end_passed_on: AtomicBool,
    ended: Notify,
}

/// The state of a session in its life.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownState {
    /// When it was opened.
    pub(super) opened: Timestamp,
    /// Whether it was ended.
    pub(super) is_over: bool,
    /// Whether the PBX has ended it, too.
    pub(super) is_over_at_pbx: bool,
}

/// The login that a session is opened for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionLogin {
    /// The auth method that proved the caller.
    pub method: String,
    /// The subject of the caller.
    pub subject: String,
    /// The rule that granted the session.
    pub rule: String,
    /// The claim `sid`: the session at the identity provider.
    pub sid: Option<String>,
    /// The address of the client.
    pub client: IpAddr,
    /// The host, with its port, under which the browser meets the PBX; `None`: that of the PBX's `url`.
    pub host: Option<String>,
    /// The name of the PBX node that opened it; `None`: there was one PBX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What the PBX that opened it is recognized by, whatever its node is called now; `None`: a version before did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pbx: Option<String>,
    /// When the login began. A logout after that ends its session too.
    pub began: Timestamp,
    /// The marks of the caller's credential.
    #[serde(with = "super::packed::marks")]
    pub marks: Vec<CredentialMark>,
}

impl SessionLogin {
    /// Finds the PBX node that opened the session; `None`: it is not configured any more.
    #[must_use]
    pub(crate) fn node_in(&self, nodes: &PbxNodes) -> Option<NodeIndex> {
        nodes.of_session(self.node.as_deref(), self.pbx.as_deref())
    }
}

impl IssuedSession {
    pub(super) fn new(number: u64, role: Role, login: SessionLogin, cookie: Option<Secret>) -> Self {
        let state = KnownState { opened: Timestamp::now(), is_over: false, is_over_at_pbx: false };
        Self::restored(number, role, login, cookie, state)
    }

    /// Makes a session in a state.
    pub(super) const fn restored(
        number: u64,
        role: Role,
        login: SessionLogin,
        cookie: Option<Secret>,
        state: KnownState,
    ) -> Self {
        let KnownState { opened, is_over, is_over_at_pbx } = state;
        Self {
            number,
            role,
            login,
            opened,
            cookie,
            is_over: AtomicBool::new(is_over),
            is_frozen: AtomicBool::new(false),
            is_over_at_pbx: AtomicBool::new(is_over_at_pbx),
            is_held: AtomicBool::new(false),
            is_end_passed_on: AtomicBool::new(false),
            ended: Notify::const_new(),
        }
    }

    // === Where it lives ===

    /// Notes that it is of a WebSocket that this process keeps: the next process does not get it.
    pub(in crate::pbx) fn hold(&self) {
        self.is_held.store(true, Ordering::Release);
    }

    /// Returns whether it is of a WebSocket that this process keeps.
    pub(super) fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Acquire)
    }

    /// Notes that a process that takes over is told that it is over.
    pub(super) fn pass_end_on(&self) {
        self.is_end_passed_on.store(true, Ordering::Release);
    }

    /// Returns whether a process that takes over was told that it is over.
    pub(super) fn is_end_passed_on(&self) -> bool {
        self.is_end_passed_on.load(Ordering::Acquire)
    }

    // === Its end ===

    /// Returns whether it was ended.
    #[must_use]
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Returns whether it was ended, and the PBX may accept it all the same.
    #[must_use]
    pub(crate) fn is_unconfirmed(&self) -> bool {
        self.is_over() && !self.is_over_at_pbx.load(Ordering::Acquire)
    }

    /// Notes that the PBX has ended it.
    pub(super) fn confirm_end(&self) {
        self.is_over_at_pbx.store(true, Ordering::Release);
    }

    /// Waits until it is ended. Returns whether a freeze of its account ended it.
    pub(crate) async fn until_over(&self) -> bool {
        let mut ended = pin!(self.ended.notified());
        // From here on no end is missed.
        ended.as_mut().enable();
        if !self.is_over() {
            ended.await;
        }
        self.is_frozen.load(Ordering::Acquire)
    }

    /// Returns the cookie by which the PBX knows it.
    pub(in crate::pbx) const fn cookie(&self) -> Option<&Secret> {
        self.cookie.as_ref()
    }

    /// Ends it, and the tunnels that wait for that.
    pub(super) fn end(&self, reason: EndReason) {
        self.is_frozen.store(reason == EndReason::Freeze, Ordering::Release);
        self.is_over.store(true, Ordering::Release);
        self.ended.notify_waiters();
    }
}

#[cfg(test)]
impl SessionLogin {
    /// Makes the login of a caller.
    pub(crate) fn for_test(subject: &str) -> Self {
        Self {
            method: "app".to_owned(),
            subject: subject.to_owned(),
            rule: "staff".to_owned(),
            sid: None,
            client: IpAddr::from([192, 0, 2, 7]),
            host: Some("pbx.test".to_owned()),
            node: None,
            pbx: None,
            began: Timestamp::now(),
            marks: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;
    use crate::model::account::Account;

    #[tokio::test]
    async fn a_waiter_is_woken_by_the_end_and_does_not_miss_one_before() {
        let role = Role::User(Account::new("40", "acme.test".parse().unwrap()).unwrap());
        for (reason, is_frozen) in [(EndReason::Logout, false), (EndReason::Freeze, true)] {
            let session = IssuedSession::new(1, role.clone(), SessionLogin::for_test("ann"), None);
            let mut waits = Box::pin(session.until_over());
            let is_pending = poll_fn(|cx| Poll::Ready(waits.as_mut().poll(cx).is_pending())).await;
            assert!(is_pending);
            session.end(reason);
            assert_eq!((waits.await, session.until_over().await), (is_frozen, is_frozen));
        }
    }
}
