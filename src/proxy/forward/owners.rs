//! The accounts behind a request to the PBX: those that its sessions went out to, and those that it may name.

use http::header::{COOKIE, HeaderMap, HeaderValue};
use http::{Request, Uri};
use tokio::time::Instant;

use crate::freeze::{Freezes, Owners};
use crate::model::mentions::AccountMentions;
use crate::pbx::IssuedSessions;
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
    if freezes.has_any() && freezes.covers_any(&of(issued, request.headers(), request.uri(), host)) {
        return Err(Error::Forbidden);
    }
    Ok(())
}

/// Finds the accounts behind a request.
pub(super) fn of(issued: &IssuedSessions, headers: &HeaderMap, uri: &Uri, host: &str) -> Owners {
    let cookies = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let mentions = AccountMentions::read(uri.path(), uri.query(), cookies, host);
    let now = Instant::now();
    let known = mentions.sessions().filter_map(|session| issued.account(session, now)).collect();
    Owners { known, named: mentions.mentioned() }
}
