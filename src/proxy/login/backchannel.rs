//! `/auth/callgate/backchannel-logout`: an identity provider reports that it has ended a login (OpenID Connect Back-Channel
//! Logout 1.0). The logout token alone proves it; the endpoint is open to everybody.

use http::header::HeaderMap;
use http::{Method, Request, Response, StatusCode};

use super::form::{self, BodyFormat};
use super::session::PbxLogins;
use crate::auth::{self, BadLogoutToken, OidcError, ReportedLogout};
use crate::exchange::Body;
use crate::model::digest::sha256;
use crate::model::login::{LogoutKind, LogoutOutcome};
use crate::model::session::EndReason;
use crate::pbx::{LoginFilter, SessionFilter};
use crate::proxy::answer::response;
use crate::proxy::context::{LoginRequest, RequestContext};
use crate::proxy::error::Error;
use crate::proxy::gate::Gate;
use crate::proxy::gate::attempt::Attempt;
use crate::proxy::gate::audit::Facts;
use crate::state::MarkError;
use crate::upstream::RequestBody;

/// The longest form, in bytes: a token of 8 KiB with its name.
const MAX_FORM: usize = 9 << 10;

/// Ends the logins that a logout token names.
///
/// # Errors
/// When there is no identity provider, the token ends no login, or the end cannot be stored.
pub(in crate::proxy) async fn answer(
    gate: &Gate,
    pbx: Option<PbxLogins<'_>>,
    request: Request<RequestBody>,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    if !gate.has_providers() {
        return Err(Error::NotFound);
    }
    if *request.method() != Method::POST {
        return Err(Error::MethodNotAllowed("POST"));
    }
    let (head, body) = request.into_parts();
    let token = token(&head.headers, body, gate).await?;
    let attempt = gate.admit_credential(LoginRequest::of_head(&head), sha256(token.as_bytes()), context).await?;
    let verified = auth::verify_logout(gate.chain.providers(), &token).await;
    attempt.check_failures(&gate.state.limits).await?;
    let reported = match verified {
        Ok(reported) if reported.is_used().await => Err(BadLogoutToken::used()),
        verified => verified,
    };
    let reported = match reported {
        Ok(reported) => reported,
        Err(bad) => return Err(refuse(gate, bad, &attempt).await),
    };
    end(gate, pbx, &reported, context).await?;
    Ok(response::empty(StatusCode::OK))
}

/// Reads the token from the form.
async fn token(headers: &HeaderMap, body: RequestBody, gate: &Gate) -> Result<String, Error> {
    let missing = || Error::LogoutToken(BadLogoutToken::missing());
    if form::format(headers, None)? != BodyFormat::Urlencoded {
        return Err(Error::UnsupportedMediaType);
    }
    let deadline = gate.config().server.timeouts.header;
    match form::read_within(body, MAX_FORM, BodyFormat::Urlencoded, deadline).await {
        Ok(mut fields) => fields.take("logout_token").ok_or_else(missing),
        Err(Error::Malformed(_)) => Err(missing()),
        Err(error) => Err(error),
    }
}

/// Ends the logins, then marks the token as used: a provider whose logout could not be stored reports it again.
async fn end(
    gate: &Gate,
    pbx: Option<PbxLogins<'_>>,
    reported: &ReportedLogout,
    context: &RequestContext,
) -> Result<(), Error> {
    // The logins first: one that is under way finds out that it has ended, once the PBX has opened its session.
    reported.end_logins().await.map_err(Error::NotStored)?;
    if let Some(logins) = pbx {
        let methods = reported.methods.iter().map(|method| method.name().to_owned()).collect();
        let logout = &reported.logout;
        let ended = LoginFilter::new(methods, logout.sid.as_deref(), logout.sub.as_deref());
        let filter = SessionFilter::Login { login: ended };
        logins.issued().end_everywhere(filter, EndReason::Backchannel.into(), &gate.logs);
    }
    for method in &reported.methods {
        let (method, subject) = (Some(method.name()), reported.logout.sub.as_deref());
        let facts = Facts { method, subject, ..Facts::default() };
        gate.audit_logout(LogoutKind::Provider, LogoutOutcome::Done, context, &facts, None);
    }
    match reported.mark().await {
        // The same token came twice at once: it has ended the same logins.
        Ok(()) | Err(MarkError::AlreadyUsed) => Ok(()),
        Err(MarkError::Unkept(error)) => Err(Error::NotStored(error)),
    }
}

/// Audits a refusal, and counts a token that no provider signed as a guess. Tokens of the provider count as requests: it may
/// report many logouts at once, and send one again.
async fn refuse(gate: &Gate, bad: BadLogoutToken, attempt: &Attempt<'_>) -> Error {
    let counted = match &bad {
        BadLogoutToken::Unverifiable => return Error::Oidc(OidcError::unfetched(), None),
        BadLogoutToken::Forged(_) => attempt.count_guess(&gate.state.limits).await,
        BadLogoutToken::Unfit(_) => attempt.count_request(&gate.state.limits).await,
    };
    if let Err(limited) = counted {
        return limited.into();
    }
    let reason = bad.to_string();
    gate.audit_logout(LogoutKind::Provider, LogoutOutcome::Refused, attempt.context, &Facts::default(), Some(&reason));
    Error::LogoutToken(bad)
}
