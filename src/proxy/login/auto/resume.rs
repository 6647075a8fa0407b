//! Back from the app's login page: the app shows a person its own pages after a login, and does not know of the page of
//! the PBX that they wanted. So a cookie on the app's host keeps it. When a window opens a page of the app and the caller is
//! proven by now, the login goes on.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};

use super::{VisitOutcome, cookie, place};
use crate::auth::Verdict;
use crate::message::cookies;
use crate::model::login::LoginKind;
use crate::model::path::PBX_PATH;
use crate::observe::metrics::AutoStep;
use crate::proxy::answer::response;
use crate::proxy::context::{LoginRequest, RequestContext};
use crate::proxy::gate::effects::Effects;
use crate::proxy::login::link_options::STATE;
use crate::proxy::login::session::PbxLogins;

/// The cookie with the sealed place.
const PENDING: &str = "__Host-callgate.page";
/// Its life in seconds. The place lives as long.
const MAX_AGE: u64 = 600;

/// Returns the cookie that keeps a place during a login at the app.
pub(super) fn keep(place: &str) -> HeaderValue {
    cookie(PENDING, place, MAX_AGE)
}

/// Returns the place of a login that waits for the app.
pub(super) fn pending(headers: &HeaderMap) -> Option<String> {
    let mut values = cookies::values(headers, PENDING);
    let place = values.next().filter(|place| !place.is_empty())?;
    values.next().is_none().then(|| place.to_owned())
}

/// Goes on with the login, if the caller is proven now. A request that is not is passed on: it may be for the login page.
pub(super) async fn go_on(
    logins: PbxLogins<'_>,
    sealed: &str,
    headers: &HeaderMap,
    context: &RequestContext,
) -> VisitOutcome {
    if place::place_of(logins, Some(sealed), context).is_none() || !is_proven(logins, headers, context).await {
        return VisitOutcome::PassedOn(None);
    }
    logins.gate.tally.auto(AutoStep::Resumed);
    let mut response = response::redirect(StatusCode::SEE_OTHER, &format!("{PBX_PATH}?{STATE}={sealed}"));
    response.headers_mut().append(header::SET_COOKIE, cookie(PENDING, "", 0));
    VisitOutcome::Answered(response.into())
}

/// Tells whether the browser shows a credential that proves a caller. It counts as a request of the client's, and a bad
/// credential is not told from none.
async fn is_proven(logins: PbxLogins<'_>, headers: &HeaderMap, context: &RequestContext) -> bool {
    let request = LoginRequest { method: &Method::GET, headers, query: None };
    let attempt = logins.gate.admit(LoginKind::Pbx, request, context, Effects::Live).await;
    let Ok(attempt) = attempt else { return false };
    matches!(logins.gate.ask(request, &attempt).await, Ok(Verdict::Admit(_)))
}
