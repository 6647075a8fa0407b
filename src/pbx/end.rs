//! Tells the PBX which sessions are over: `DELETE /rest/system/session` with the cookie of each, as its own pages do.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join, join_all};
use http::header::{self, HeaderValue};
use http::{Method, Request, StatusCode};
use tokio::time::timeout;

use super::issued_sessions::{IssuedSession, IssuedSessions, PendingEnd};
use super::{Error, SESSION, unreachable};
use crate::config::{NodeIndex, PbxNodes, PerNode};
use crate::model::session;
use crate::observe::metrics::DeleteOutcome;
use crate::upstream::Connector;

/// How many sessions are ended at once.
const AT_ONCE: usize = 8;
/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Ends the sessions that are over at the PBX, for ever: each at the node that has opened it. No node waits for another.
pub(crate) async fn end_sessions(
    sessions: Arc<IssuedSessions>,
    nodes: PbxNodes,
    connectors: PerNode<Connector>,
) -> Infallible {
    sessions.warn_of_orphans(&nodes);
    let of = |session: &IssuedSession| session.login.node_in(&nodes);
    let end_at = async |node: Option<NodeIndex>| -> Infallible {
        let target = node.map(|node| (&connectors[node], nodes[node].timeout));
        loop {
            let pending = sessions.pending().next(AT_ONCE, |session| of(session) == node).await;
            join_all(pending.into_iter().map(|one| end_one(&sessions, target, one))).await;
        }
    };
    let at_nodes = join_all(nodes.indexed().map(|(node, _)| end_at(Some(node))));
    // A reload may bring a node back.
    join(end_at(None), at_nodes).await.0
}

/// Ends a session at the node that has opened it; `None`: that is no longer configured, and no other PBX shall see its cookie.
async fn end_one(sessions: &IssuedSessions, target: Option<(&Connector, Duration)>, pending: PendingEnd) {
    let session = Arc::clone(&pending.session);
    let (number, account) = (session.number, session.role.to_string());
    let deleted = match target {
        Some((pbx, deadline)) => timeout(deadline, delete(pbx, &session)).await.unwrap_or(Err(Error::Timeout)),
        None => Err(Error::NoNode),
    };
    match deleted {
        Ok(outcome) => {
            sessions.pending().settle(&pending);
            sessions.counts().deleted(outcome);
        }
        Err(error) => {
            let error = &error as &dyn StdError;
            if sessions.pending().try_again(pending) {
                tracing::debug!(number, account, error, "the PBX has not ended a session yet");
                return;
            }
            sessions.counts().deleted(DeleteOutcome::Failed);
            let pbx = session.login.pbx.as_deref();
            tracing::warn!(number, account, pbx, error, "the PBX did not end a session");
        }
    }
}

/// Ends a session at the PBX.
async fn delete(pbx: &Connector, session: &IssuedSession) -> Result<DeleteOutcome, Error> {
    let Some(cookie) = session.cookie() else { return Ok(DeleteOutcome::Gone) };
    let cookie = HeaderValue::try_from(format!("{}={}", session::SESSION, cookie.expose()));
    let mut cookie = cookie.map_err(|_| Error::BadResponse)?;
    cookie.set_sensitive(true);
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = Method::DELETE;
    *request.uri_mut() = http::Uri::from_static(SESSION);
    request.headers_mut().insert(header::COOKIE, cookie);
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    if let Some(host) = session.login.host.as_deref().and_then(|host| HeaderValue::from_str(host).ok()) {
        request.headers_mut().insert(header::HOST, host);
    }
    match pbx.send_once(request, MAX_ANSWER).await.map_err(unreachable)?.status() {
        StatusCode::OK | StatusCode::NO_CONTENT => Ok(DeleteOutcome::Ok),
        // The PBX does not know the session any more.
        StatusCode::UNAUTHORIZED => Ok(DeleteOutcome::Gone),
        _ => Err(Error::BadResponse),
    }
}
