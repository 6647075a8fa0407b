//! `GET /auth/pbx`: a link that a person clicks, and the button that may come between it and the session.

use http::{Method, Request, Response};

use super::auto;
use super::confirm;
use super::form::{self, BodyFormat};
use super::hand_over;
use super::landing_place;
use super::oidc;
use super::order::{self, Delivery, SessionOrder};
use super::selectors::Selectors;
use super::session::PbxLogins;
use crate::auth::Verdict;
use crate::exchange::Body;
use crate::model::login::LoginKind;
use crate::proxy::answer::page;
use crate::proxy::browser::cors::Initiator;
use crate::proxy::browser::fetch_metadata;
use crate::proxy::context::{LoginRequest, RequestContext};
use crate::proxy::error::Error;
use crate::proxy::gate::attempt::Attempt;
use crate::proxy::gate::effects::Effects;
use crate::upstream::RequestBody;

/// The answer to a link.
pub(in crate::proxy) enum LinkStep<'a> {
    /// The browser tries again at this path, and then sends the cookies that it held back.
    TryAgain(String),
    /// A person must confirm first.
    Confirm,
    /// The session is granted.
    Granted(Box<SessionOrder<'a>>, Attempt<'a>),
}

/// Answers a link.
pub(super) async fn answer(
    logins: PbxLogins<'_>,
    request: &Request<RequestBody>,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    let link = LoginRequest::of(request);
    let decided = match decide(logins, link, context, Effects::Live).await {
        Ok(decided) => decided,
        Err(error) => {
            let turned = auto::turn_back(logins, error, link, context);
            return turned.map_err(|error| oidc::offer_other_account(logins.gate, error, link.query));
        }
    };
    let reader = logins.gate.reader(link.query, link.headers);
    match decided {
        LinkStep::TryAgain(path) => Ok(page::continue_to(reader, &path).respond()),
        LinkStep::Confirm => Ok(confirm::page(reader, link.query.unwrap_or_default())),
        LinkStep::Granted(order, attempt) => hand_over::send_browser(*order, link.headers, &attempt).await,
    }
}

/// Decides on a link. Nothing is spent or minted for it yet.
///
/// # Errors
/// When the link grants no session.
pub(in crate::proxy) async fn decide<'a>(
    logins: PbxLogins<'a>,
    link: LoginRequest<'_>,
    context: &'a RequestContext,
    effects: Effects<'a>,
) -> Result<LinkStep<'a>, Error> {
    let (gate, headers) = (logins.gate, link.headers);
    if fetch_metadata::is_prefetch(link.method, headers) {
        return Err(Error::Prefetch);
    }
    let attempt = gate.admit(LoginKind::Pbx, link, context, effects).await?;
    let selectors = Selectors::of_query(link.query)?;
    landing_place::check(&selectors.options, logins.all().map(|login| login.settings))?;
    let verdict = gate.ask(link, &attempt).await?;
    // The app's cookie may be missing only because it is `SameSite=Strict`.
    let may_lack_cookies = matches!(verdict, Verdict::Stranger | Verdict::Abstain)
        && selectors.are_first_try()
        && fetch_metadata::is_cross_site_navigation(headers);
    if may_lack_cookies && effects.stop_to_try_again() {
        return Ok(LinkStep::TryAgain(selectors.second_try()));
    }
    let proof = gate
        .prove(verdict, &gate.hosts.link_initiator(headers, &context.authority), &attempt)
        .await
        .map_err(|error| oidc::lead_back(gate, error, &selectors, context))?;
    if confirm::is_needed(&proof, headers) && effects.stop_to_confirm() {
        return Ok(LinkStep::Confirm);
    }
    let order = order::decide(logins, proof, &selectors, Delivery::Browser, &attempt).await?;
    Ok(LinkStep::Granted(Box::new(order), attempt))
}

/// Answers the button of the page between a link and its session: the link is used now.
pub(in crate::proxy) async fn answer_button(
    logins: PbxLogins<'_>,
    request: Request<RequestBody>,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    if *request.method() != Method::POST {
        return Err(Error::MethodNotAllowed("POST"));
    }
    let gate = logins.gate;
    let (head, body) = request.into_parts();
    let link = LoginRequest::of_head(&head);
    // Another page must not press our button, whatever link it has.
    let initiator = gate.hosts.initiator(link.headers, &context.authority, &[]);
    if initiator != Initiator::Own {
        return Err(Error::CrossSite);
    }
    let attempt = gate.admit(LoginKind::Pbx, link, context, Effects::Live).await?;
    let format = form::format(link.headers, Some(BodyFormat::Urlencoded))?;
    form::read(body, format, gate.config().server.timeouts.header).await?;
    let selectors = Selectors::of_query(link.query)?;
    let verdict = gate.ask(link, &attempt).await?;
    let proof = gate.prove(verdict, &initiator, &attempt).await?;
    if proof.single_use().is_none() {
        // Only a link has such a page, and something else proves the caller.
        return Err(Error::NotFound);
    }
    let order = order::decide(logins, proof, &selectors, Delivery::Browser, &attempt).await?;
    hand_over::send_browser(order, link.headers, &attempt).await
}
