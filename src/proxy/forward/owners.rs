//! The accounts behind a request to the PBX: those that its sessions went out to, and those that it may name.

use std::sync::Arc;

use http::header::{COOKIE, HeaderMap, HeaderValue};
use http::{Request, Uri};

use crate::freeze::{Freezes, Owners};
use crate::model::mentions::AccountMentions;
use crate::pbx::{IssuedSession, IssuedSessions};
use crate::proxy::error::Error;
use crate::upstream::RequestBody;

/// Refuses a request with the session of a frozen account: with it, calls could be made.
///
/// # Errors
/// When an account behind the request is frozen.
pub(super) fn refuse_frozen(
    freezes: &Freezes,
    issued: &IssuedSessions,
    request: &Request<RequestBody>,
    host: &str,
) -> Result<(), Error> {
    if freezes.has_any() && freezes.covers_any(&of(issued, request.headers(), request.uri(), host).owners) {
        return Err(Error::Forbidden);
    }
    Ok(())
}

/// Whom a request to the PBX acts for.
#[derive(Debug, Default)]
pub(super) struct Behind {
    pub(super) owners: Owners,
    /// The sessions that it shows, of those that callgate opened.
    pub(super) sessions: Vec<Arc<IssuedSession>>,
}

/// Finds the sessions and accounts behind a request.
pub(super) fn of(issued: &IssuedSessions, headers: &HeaderMap, uri: &Uri, host: &str) -> Behind {
    let cookies = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let mentions = AccountMentions::read(uri.path(), uri.query(), cookies, host);
    let sessions: Vec<_> = mentions.sessions().filter_map(|session| issued.find(session)).collect();
    let known = sessions.iter().map(|session| session.role.clone()).collect();
    Behind { owners: Owners { known, named: mentions.mentioned() }, sessions }
}
