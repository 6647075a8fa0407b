//! `POST /auth/ott`: the answer to a Voximplant one-time key.

use std::hash::Hash;

use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::time::Instant;

use crate::auth::Once;
use crate::config::VoximplantConfig;
use crate::exchange::Body;
use crate::limit::{Novelty, client_key};
use crate::model::grant::{Requested, VoximplantGrant};
use crate::model::login::LoginKind;
use crate::model::ott::{self, LoginToken, OneTimeKey};
use crate::model::principal::Principal;
use crate::observe::audit::{Event, Note};
use crate::observe::metrics::Answered;
use crate::proxy::answer::{audience, response};
use crate::proxy::browser::cors::{self, Initiator};
use crate::proxy::error::Error;
use crate::proxy::form::{self, Fields};
use crate::proxy::gate::Facts;
use crate::proxy::{Caller, Proxy};
use crate::upstream::RequestBody;

const METHODS: &str = "POST, OPTIONS";
/// Why a granted user gets no token.
pub(in crate::proxy) const UNKNOWN_USER: &str = "the users file has no such user";

impl Proxy {
    /// Answers `/auth/ott`: a preflight, or a one-time key.
    pub(in crate::proxy) async fn answer_ott(
        &self,
        request: Request<RequestBody>,
        caller: &Caller,
    ) -> Result<Response<Body>, Error> {
        let voximplant = self.config.voximplant.as_ref().ok_or(Error::NotFound)?;
        match *request.method() {
            Method::POST => {}
            Method::OPTIONS => {
                return cors::preflight(request.headers(), &caller.authority, &voximplant.origins, METHODS);
            }
            _ => return Err(Error::MethodNotAllowed(METHODS)),
        }
        let initiator = cors::initiator(request.headers(), &caller.authority, &voximplant.origins);
        let answered = self.token(request, &initiator, voximplant, caller).await;
        if let Err(error) = &answered {
            self.tally.key(kind_of(error));
        }
        cors::share(answered, &initiator, &caller.authority)
    }

    /// Answers the key of a page, or says why not.
    async fn token(
        &self,
        request: Request<RequestBody>,
        initiator: &Initiator,
        voximplant: &VoximplantConfig,
        caller: &Caller,
    ) -> Result<Response<Body>, Error> {
        let (head, body) = request.into_parts();
        self.admit(LoginKind::Ott, &head, caller)?;
        let verdict = self.ask(LoginKind::Ott, &head.headers, head.uri.query(), caller).await?;
        let proof = self.judge(verdict, initiator, LoginKind::Ott, caller)?;
        let format = form::format(&head.headers, None)?;
        let fields = form::read(body, format, self.config.server.timeouts.header).await?;
        let question = Question::read(fields, voximplant)?;
        let once = proof.spends().cloned();
        let principal = self.choose(LoginKind::Ott, proof, &question.wish, caller)?;
        let grant = self.grant_voximplant(&principal, &question.wish, caller)?;
        let token = self.compute(&question.key, &grant, (&principal, once.as_ref()), voximplant, caller).await?;
        let who = (&principal.method, &principal.subject, head.headers.get(header::USER_AGENT));
        self.watch_for_races(grant.user().as_str(), &question.key, who, caller);
        let wants_json = audience::accepts(&head.headers, b"application/json");
        Ok(if wants_json {
            response::json(&json!({ "token": token.as_str(), "user": grant.user().as_str() }))
        } else {
            response::with_body(StatusCode::OK, HeaderValue::from_static("text/plain"), token.as_str().to_owned())
        })
    }

    /// Computes the answer. A user without an entry costs the same work, and looks like one that is not allowed.
    async fn compute(
        &self,
        key: &OneTimeKey,
        grant: &VoximplantGrant,
        (principal, once): (&Principal, Option<&Once>),
        voximplant: &VoximplantConfig,
        caller: &Caller,
    ) -> Result<LoginToken, Error> {
        let facts = Facts {
            principal: Some(principal),
            rule: Some(grant.rule()),
            account: Some(grant.user().to_string()),
            ..Facts::default()
        };
        let known = voximplant.ha1(grant.user());
        let decoy = ott::decoy();
        let token = ott::login_token(key, known.unwrap_or(&decoy));
        if known.is_none() {
            self.failed(LoginKind::Ott, caller, &facts, UNKNOWN_USER);
            return Err(Error::UnknownUser);
        }
        let mut novelty = Novelty::New;
        if let Some(distinct_keys) = &self.shared.distinct_keys {
            novelty = self.within(distinct_keys.admit(grant.user().as_str(), key.id(), Instant::now()))?;
        }
        self.spend(LoginKind::Ott, once, caller, &facts).await?;
        self.granted(LoginKind::Ott, caller, &facts).await?;
        self.tally.key(match novelty {
            Novelty::New => Answered::New,
            Novelty::Repeated => Answered::Repeated,
        });
        Ok(token)
    }

    /// Tells the operator when two clients ask for one user at the same time: each ends the other's key.
    fn watch_for_races(&self, user: &str, key: &OneTimeKey, who: impl Hash, caller: &Caller) {
        let client = caller.origin.client;
        let who = (client_key(client), who);
        let Some(race) = self.shared.races.note(user, key.id(), &who, client, Instant::now()) else { return };
        self.tally.race();
        if race.is_news {
            let reason = format!("keys for {} and for {client} within a minute", race.earlier);
            let note =
                Note { event: Event::Race, account: user.to_owned(), by: None, until: None, reason: Some(reason) };
            self.logs.write_note(&note);
        }
    }
}

/// Tells for the counts why a key was not answered.
fn kind_of(error: &Error) -> Answered {
    match error {
        Error::Unauthenticated { .. } | Error::CrossSite => Answered::Unproven,
        Error::UnknownUser => Answered::UnknownUser,
        Error::Forbidden | Error::Choose(_) => Answered::Forbidden,
        Error::Limited(_) => Answered::Limited,
        error if error.status().0.is_client_error() => Answered::Malformed,
        _ => Answered::Failed,
    }
}

/// What the page asks.
struct Question {
    key: OneTimeKey,
    wish: Requested,
}

impl Question {
    /// Reads `key` and `appUser`. `appUserPassword`, which a sample of the vendor's sends, is dropped unread.
    fn read(mut fields: Fields, voximplant: &VoximplantConfig) -> Result<Self, Error> {
        let key = fields.take("key").ok_or(Error::Malformed("the parameter key is missing"))?;
        let key = OneTimeKey::new(&key, voximplant.max_key_length)
            .map_err(|_| Error::Malformed("the key is not one that Voximplant gives out"))?;
        let user = fields.take("appUser").map(|name| short_name(&name, voximplant)).transpose()?;
        Ok(Self { key, wish: Requested { user, ..Requested::default() } })
    }
}

/// Returns the user that a full login name means, `user@app.account[.node].voximplant.com`: as rules name it.
pub(in crate::proxy) fn short_name(name: &str, voximplant: &VoximplantConfig) -> Result<String, Error> {
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
