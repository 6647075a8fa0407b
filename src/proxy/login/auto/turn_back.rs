//! An automatic login that ends at `/auth/pbx`: without a proven caller, or without a rule.

use http::header;
use http::{Response, StatusCode};

use super::place::place_of;
use super::resume;
use crate::exchange::Body;
use crate::observe::metrics::AutoStep;
use crate::proxy::answer::audience::Audience;
use crate::proxy::answer::response;
use crate::proxy::context::{LoginRequest, RequestContext};
use crate::proxy::error::Error;
use crate::proxy::login::selectors::Selectors;
use crate::proxy::login::session::PbxLogins;

/// Leads a person on whose automatic login has failed: to the app's login page, and back from there later; or, where there
/// is no such page or no rule grants a session, to the PBX's own page, as if there were no automatic login.
///
/// # Errors
/// The same error where the login is not an automatic one, or a person can do nothing about it.
pub(in crate::proxy::login) fn turn_back(
    logins: PbxLogins<'_>,
    error: Error,
    link: LoginRequest<'_>,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    let is_navigation = Audience::of(link, context.id).is_navigation;
    let Some(sealed) = Selectors::of_query(link.query).ok().and_then(|selectors| selectors.options.back) else {
        return Err(error);
    };
    let Some((_, place)) = place_of(logins, Some(&sealed), context).filter(|_| is_navigation) else {
        return Err(error);
    };
    match error {
        Error::Unauthenticated { login: Some(page) } if logins.gate.config().app.as_ref().is_some_and(has_login) => {
            let mut response = response::redirect(StatusCode::FOUND, &page);
            response.headers_mut().append(header::SET_COOKIE, resume::keep(&sealed));
            Ok(response)
        }
        Error::Unauthenticated { login: None } | Error::Forbidden | Error::UnknownUser => {
            logins.gate.tally.auto(AutoStep::TurnedBack);
            let authority = context.authority.with_host(&place.host);
            let own = format!("https://{authority}{}", place.page.left_alone());
            Ok(response::redirect(StatusCode::SEE_OTHER, &own))
        }
        error => Err(error),
    }
}

const fn has_login(app: &crate::config::AppConfig) -> bool {
    app.login.is_some()
}
