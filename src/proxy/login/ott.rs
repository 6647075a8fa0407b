//! `POST /auth/ott`: the answer to a Voximplant one-time key.

use std::hash::Hash;

use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::time::Instant;

use super::form::{self, Fields};
use crate::auth::SingleUse;
use crate::config::VoximplantConfig;
use crate::exchange::Body;
use crate::limit::{LimitKey, LimitQuery, Novelty, client_key};
use crate::model::grant::{Requested, VoximplantGrant};
use crate::model::login::LoginKind;
use crate::model::ott::{self, LoginToken, OneTimeKey};
use crate::model::principal::Principal;
use crate::observe::audit::{AuditEvent, EventRecord};
use crate::observe::metrics::KeyOutcome;
use crate::proxy::answer::{audience, response};
use crate::proxy::browser::cors::{self, Initiator};
use crate::proxy::context::{LoginRequest, RequestContext};
use crate::proxy::error::Error;
use crate::proxy::gate::Gate;
use crate::proxy::gate::attempt::Attempt;
use crate::proxy::gate::audit::Facts;
use crate::proxy::gate::effects::Effects;
use crate::upstream::RequestBody;
use crate::voximplant::NewcomerError;

const METHODS: &str = "POST, OPTIONS";
/// The reason of a refusal where a rule grants a user without an entry.
const UNKNOWN_USER: &str = "the users file has no such user";

/// Answers `/auth/ott`: a preflight, or a one-time key.
pub(in crate::proxy) async fn answer(
    gate: &Gate,
    request: Request<RequestBody>,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    let voximplant = gate.config().voximplant.as_ref().ok_or(Error::NotFound)?;
    match *request.method() {
        Method::POST => {}
        Method::OPTIONS => {
            return cors::preflight(request.headers(), &context.authority, &voximplant.origins, METHODS);
        }
        _ => return Err(Error::MethodNotAllowed(METHODS)),
    }
    let initiator = gate.hosts.initiator(request.headers(), &context.authority, &voximplant.origins);
    let answered = answer_key(gate, voximplant, request, &initiator, context).await;
    if let Err(error) = &answered {
        gate.tally.key(counted(error));
    }
    cors::share(answered, &initiator, &context.authority)
}

/// Answers the key of a page, or says why not.
async fn answer_key(
    gate: &Gate,
    voximplant: &VoximplantConfig,
    request: Request<RequestBody>,
    initiator: &Initiator,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    let (head, body) = request.into_parts();
    let read = async || {
        let format = form::format(&head.headers, None)?;
        KeyRequest::read(form::read(body, format, gate.config().server.timeouts.header).await?, voximplant)
    };
    let asker = Asker { request: LoginRequest::of_head(&head), initiator, context };
    let (mut order, attempt) = decide(gate, voximplant, asker, read, Effects::Live).await?;
    spend(gate, &order, &attempt).await?;
    if order.is_new {
        // Boxed: rare, and large.
        Box::pin(add_user(gate, voximplant, &mut order, &attempt)).await?;
    }
    let (Some(token), Some(key)) = (&order.token, &order.key) else { return Err(Error::Forbidden) };
    gate.audit_grant(&attempt, &order.facts()).await?;
    gate.tally.key(match order.novelty {
        Novelty::New => KeyOutcome::New,
        Novelty::Repeated => KeyOutcome::Repeated,
    });
    let user = order.grant.user().as_str();
    let who = (&order.principal.method, &order.principal.subject, head.headers.get(header::USER_AGENT));
    watch_for_races(gate, user, key, who, context);
    let wants_json = audience::accepts(&head.headers, b"application/json");
    Ok(if wants_json {
        response::json(&json!({ "token": token.as_str(), "user": user }))
    } else {
        response::with_body(StatusCode::OK, HeaderValue::from_static("text/plain"), token.as_str().to_owned())
    })
}

// === The decision ===

/// The request for a token.
#[derive(Clone, Copy)]
pub(in crate::proxy) struct Asker<'a> {
    pub(in crate::proxy) request: LoginRequest<'a>,
    pub(in crate::proxy) initiator: &'a Initiator,
    pub(in crate::proxy) context: &'a RequestContext,
}

/// A token that a caller is granted. Its credential is not spent yet.
pub(in crate::proxy) struct TokenOrder {
    principal: Principal,
    /// The credential, if it works once.
    once: Option<SingleUse>,
    pub(in crate::proxy) grant: VoximplantGrant,
    /// The key, and what answers it; `None` in an explanation.
    key: Option<OneTimeKey>,
    token: Option<LoginToken>,
    novelty: Novelty,
    /// Whether the user is to be added at Voximplant first.
    pub(in crate::proxy) is_new: bool,
}

impl TokenOrder {
    fn facts(&self) -> Facts<'_> {
        Facts::of(&self.principal).of_voximplant_grant(&self.grant)
    }
}

/// Decides on a key. Nothing is spent for it yet. `read`: reads the body of the request, once the caller is proven.
///
/// # Errors
/// When the caller gets no token.
pub(in crate::proxy) async fn decide<'a>(
    gate: &Gate,
    voximplant: &VoximplantConfig,
    asker: Asker<'a>,
    read: impl AsyncFnOnce() -> Result<KeyRequest, Error>,
    effects: Effects<'a>,
) -> Result<(TokenOrder, Attempt<'a>), Error> {
    let attempt = gate.admit(LoginKind::Ott, asker.request, asker.context, effects).await?;
    let verdict = gate.ask(asker.request, &attempt).await?;
    let proof = gate.prove(verdict, asker.initiator, &attempt).await?;
    let KeyRequest { key, requested } = read().await?;
    let once = proof.single_use().cloned();
    let principal = gate.choose(proof, &requested, &attempt)?;
    let application = voximplant.application.as_deref();
    let grant = gate.grant_voximplant(&principal, &requested, application, &attempt).await?;
    let mut order = TokenOrder { principal, once, grant, key, token: None, novelty: Novelty::New, is_new: false };
    match compute_token(gate, voximplant, &order) {
        Some(token) => order.answer(gate, token).await?,
        None => {
            check_new(gate, voximplant, &order, &attempt).await?;
            order.is_new = true;
        }
    }
    Ok((order, attempt))
}

impl TokenOrder {
    /// Takes the answer to the key, unless the user has had too many. `token`: `None` in an explanation.
    async fn answer(&mut self, gate: &Gate, token: Option<LoginToken>) -> Result<(), Error> {
        self.token = token;
        if let (Some(distinct_keys), Some(key)) = (&gate.state.voximplant.distinct_keys, &self.key) {
            let user = self.grant.user().as_str();
            self.novelty = gate.state.limits.admit_key(distinct_keys, user, key.id()).await?;
        }
        Ok(())
    }
}

/// Computes the answer to the key, which an explanation does not have; `None` for a user without an HA1, which costs the same work.
fn compute_token(gate: &Gate, voximplant: &VoximplantConfig, order: &TokenOrder) -> Option<Option<LoginToken>> {
    let user = order.grant.user();
    let known = voximplant.ha1(user).cloned().or_else(|| gate.state.voximplant.newcomers.ha1(user));
    let decoy = ott::decoy();
    let token = order.key.as_ref().map(|key| ott::login_token(key, known.as_ref().unwrap_or(&decoy)));
    known.map(|_| token)
}

// === Users without an HA1 ===

/// Checks whether a user without an HA1 may be added at Voximplant. Otherwise it looks like one that is not permitted.
async fn check_new(
    gate: &Gate,
    voximplant: &VoximplantConfig,
    order: &TokenOrder,
    attempt: &Attempt<'_>,
) -> Result<(), Error> {
    let user = order.grant.user();
    if voximplant.adds(user) {
        let state = &gate.state.voximplant;
        state.newcomers.check(user).map_err(|error| refuse_new(gate, order, error, attempt))?;
        let new_users = LimitQuery::count(&state.new_users, LimitKey::of(&[]));
        return Ok(attempt.ask(&gate.state.limits, vec![new_users]).await?);
    }
    gate.audit_refusal(attempt, &order.facts(), UNKNOWN_USER);
    attempt.effects.note_refusal(None, &format!("{UNKNOWN_USER}: {user}"));
    Err(Error::UnknownUser)
}

/// Adds the user at Voximplant, and computes the answer to the key.
async fn add_user(
    gate: &Gate,
    voximplant: &VoximplantConfig,
    order: &mut TokenOrder,
    attempt: &Attempt<'_>,
) -> Result<(), Error> {
    let (user, subject) = (order.grant.user().clone(), &order.principal.subject);
    let added = gate.state.voximplant.newcomers.add(&user, voximplant, subject, &gate.logs).await;
    let ha1 = added.map_err(|error| refuse_new(gate, order, error, attempt))?;
    // The operator may have frozen the user meanwhile.
    let is_frozen = gate.state.freezes.covers_user(&user, voximplant.application.as_deref());
    if is_frozen {
        gate.state.voximplant.phones.look();
    }
    gate.refuse_frozen(is_frozen, &order.facts(), attempt)?;
    let token = order.key.as_ref().map(|key| ott::login_token(key, &ha1));
    order.answer(gate, token).await
}

/// Refuses a user that is not added. The caller cannot tell one that Voximplant refuses from one that is not permitted.
fn refuse_new(gate: &Gate, order: &TokenOrder, error: NewcomerError, attempt: &Attempt<'_>) -> Error {
    gate.audit_refusal(attempt, &order.facts(), &error.to_string());
    match error {
        NewcomerError::Refused(_) => Error::UnknownUser,
        error @ NewcomerError::Unavailable { .. } => Error::NewUser(error),
    }
}

/// Spends the caller's credential, if it works once.
///
/// # Errors
/// When it was used before, or cannot be marked.
pub(in crate::proxy) async fn spend(gate: &Gate, order: &TokenOrder, attempt: &Attempt<'_>) -> Result<(), Error> {
    gate.spend(order.once.as_ref(), &order.facts(), attempt).await
}

/// Tells the operator when two clients ask for one user at the same time: each ends the other's key.
fn watch_for_races(gate: &Gate, user: &str, key: &OneTimeKey, who: impl Hash, context: &RequestContext) {
    let client = context.client();
    let who = (client_key(client), who);
    let Some(race) = gate.state.voximplant.races.note(user, key.id(), &who, client, Instant::now()) else { return };
    gate.tally.race();
    if race.is_news {
        let reason = format!("keys for {} and for {client} within a minute", race.earlier);
        let note = EventRecord {
            event: AuditEvent::Race,
            account: user.to_owned(),
            session: None,
            subject: None,
            by: None,
            until: None,
            reason: Some(reason),
        };
        gate.logs.write_note(&note);
    }
}

/// Returns the name under which an unanswered key is counted.
fn counted(error: &Error) -> KeyOutcome {
    match error {
        Error::Unauthenticated { .. } | Error::CrossSite => KeyOutcome::Unproven,
        Error::UnknownUser => KeyOutcome::UnknownUser,
        Error::Forbidden | Error::Choose(_) => KeyOutcome::Forbidden,
        Error::Limited(_) => KeyOutcome::Limited,
        error if error.status().0.is_client_error() => KeyOutcome::Malformed,
        _ => KeyOutcome::Failed,
    }
}

// === The request ===

/// The key of a page, and the user that it asks for.
pub(in crate::proxy) struct KeyRequest {
    /// `None` in an explanation.
    key: Option<OneTimeKey>,
    requested: Requested,
}

impl KeyRequest {
    /// Asks for a user, without a key to answer.
    ///
    /// # Errors
    /// When the name is that of another application.
    pub(in crate::proxy) fn without_key(user: Option<&str>, voximplant: &VoximplantConfig) -> Result<Self, Error> {
        let user = user.map(|name| short_name(name, voximplant)).transpose()?;
        Ok(Self { key: None, requested: Requested { user, ..Requested::default() } })
    }

    /// Reads `key` and `appUser`. `appUserPassword`, which a sample of the vendor's sends, is dropped unread.
    fn read(mut fields: Fields, voximplant: &VoximplantConfig) -> Result<Self, Error> {
        let key = fields.take("key").ok_or(Error::Malformed("the parameter key is missing"))?;
        let key = OneTimeKey::new(&key, voximplant.max_key_length)
            .map_err(|_| Error::Malformed("the key is not one that Voximplant gives out"))?;
        Ok(Self { key: Some(key), ..Self::without_key(fields.take("appUser").as_deref(), voximplant)? })
    }
}

/// Returns the user that a full login name means, `user@app.account[.node].voximplant.com`: as rules name it.
fn short_name(name: &str, voximplant: &VoximplantConfig) -> Result<String, Error> {
    let others: Vec<_> = voximplant.others.iter().map(|other| other.name.as_str()).collect();
    short_name_in(name, voximplant.application.as_deref(), &others)
}

fn short_name_in(name: &str, own: Option<&str>, others: &[&str]) -> Result<String, Error> {
    let Some((user, place)) = name.split_once('@') else { return Ok(name.to_owned()) };
    if own.is_none_or(|own| is_application(place, own)) {
        return Ok(user.to_owned());
    }
    let other = others.iter().find(|other| is_application(place, other));
    other.map(|other| format!("{user}@{other}")).ok_or(Error::Forbidden)
}

fn is_application(place: &str, application: &str) -> bool {
    let Some(rest) = place.strip_suffix(".voximplant.com").and_then(|place| place.strip_prefix(application)) else {
        return false;
    };
    let is_node = |node: &str| !node.is_empty() && node.len() <= 2 && node.bytes().all(|byte| byte.is_ascii_digit());
    rest.is_empty() || rest.strip_prefix(".n").is_some_and(is_node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_names_lead_to_short_ones_of_the_own_application() {
        #[track_caller]
        fn check(name: &str, expected: Option<&str>) {
            let found = short_name_in(name, Some("app.acme"), &["sales.acme"]);
            assert_eq!(found.ok().as_deref(), expected, "{name}");
        }
        check("ann", Some("ann"));
        check("ann@app.acme.voximplant.com", Some("ann"));
        check("ann@app.acme.n1.voximplant.com", Some("ann"));
        check("ann@app.acme.n13.voximplant.com", Some("ann"));
        check("ann@other.acme.voximplant.com", None);
        check("ann@app.acme.nx.voximplant.com", None);
        check("ann@app.acme", None);
        check("ann@sales.acme.n2.voximplant.com", Some("ann@sales.acme"));
        check("ann@sales.acme", None);
        assert_eq!(short_name_in("ann@any.where", None, &[]).ok().as_deref(), Some("ann"));
    }
}
