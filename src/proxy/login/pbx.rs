//! `/auth/pbx`: a session of the PBX, for a link that a person clicks, and for a page or a server that asks by itself.

use http::{Method, Request, Response};
use serde_json::json;

use super::form::{self, BodyFormat};
use super::hand_over;
use super::link;
use super::order::{self, Delivery};
use super::selectors::Selectors;
use super::session::PbxLogins;
use crate::exchange::Body;
use crate::model::login::LoginKind;
use crate::proxy::answer::{audience, response};
use crate::proxy::browser::cors::{self, Initiator};
use crate::proxy::context::{LoginRequest, RequestContext};
use crate::proxy::error::Error;
use crate::proxy::gate::effects::Effects;
use crate::upstream::RequestBody;

const METHODS: &str = "GET, HEAD, POST, OPTIONS";
/// The media type by which a page asks for the address beside the id.
const WITH_ADDRESS: &[u8] = b"application/vnd.callgate+json";

/// The reason of a refusal: a page that gets the session itself sends the browser where it likes.
const NEXT_NEEDS_AN_ADDRESS: &str = "next needs an address: send Accept: application/vnd.callgate+json";

/// Answers `/auth/pbx`: a link, a page or a server that asks, a preflight.
pub(in crate::proxy) async fn answer(
    logins: PbxLogins<'_>,
    request: Request<RequestBody>,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    let origins = logins.gate.hosts.origins(LoginKind::Pbx);
    match *request.method() {
        Method::GET | Method::HEAD => link::answer(logins, &request, context).await,
        Method::POST => {
            let initiator = logins.gate.hosts.initiator(request.headers(), &context.authority, origins);
            let answered = answer_post(logins, request, &initiator, context).await;
            cors::share(answered, &initiator, &context.authority)
        }
        Method::OPTIONS => cors::preflight(request.headers(), &context.authority, origins, METHODS),
        _ => Err(Error::MethodNotAllowed(METHODS)),
    }
}

/// Answers a page or a server that asks by itself.
async fn answer_post(
    logins: PbxLogins<'_>,
    request: Request<RequestBody>,
    initiator: &Initiator,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    let gate = logins.gate;
    let (head, body) = request.into_parts();
    let request = LoginRequest::of_head(&head);
    let attempt = gate.admit(LoginKind::Pbx, request, context, Effects::Live).await?;
    let verdict = gate.ask(request, &attempt).await?;
    let proof = gate.prove(verdict, initiator, &attempt).await?;
    // The vendor's page names no type for its JSON, and a program may send no body at all.
    let format = form::format(&head.headers, Some(BodyFormat::Untyped))?;
    let selectors = Selectors::read(form::read(body, format, gate.config().server.timeouts.header).await?)?;
    let delivery = match !proof.is_ambient() || audience::accepts(&head.headers, WITH_ADDRESS) {
        true => Delivery::Address,
        false => Delivery::Id,
    };
    if delivery == Delivery::Id && selectors.options.next.is_some() {
        return Err(Error::Malformed(NEXT_NEEDS_AN_ADDRESS));
    }
    let order = order::decide(logins, proof, &selectors, delivery, &attempt).await?;
    if delivery == Delivery::Address {
        return hand_over::describe(order, &head.headers, &attempt).await;
    }
    let login = order.login;
    let session = order::accept(order, &attempt).await?.open(login, &attempt).await?;
    Ok(response::json(&json!(session.expose())))
}
