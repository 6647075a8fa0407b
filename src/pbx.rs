//! Floor 4: asks the PBX for sessions, with the administrator's credentials.
//!
//! These credentials stay here and travel on connections of their own, never on pass-through.

mod breaker;
mod end;
mod held_session;
mod issued_sessions;
mod messages;
mod session_checks;
mod tenants;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use tokio::time::{Instant, timeout};

pub(crate) use self::breaker::{Breaker, BreakerReport, follow_breaker};
pub(crate) use self::end::end_sessions;
pub(crate) use self::held_session::HeldSession;
pub(crate) use self::issued_sessions::{
    EndOrder, IssuedSession, IssuedSessions, LoginFilter, MARKS, SessionEnd, SessionFilter, SessionLogin,
    UnissuedSession,
};
pub(crate) use self::session_checks::{Check, SessionChecks};
pub(crate) use self::tenants::Tenants;
use crate::config::{self, Dialect, UpstreamUrl};
use crate::model::account::{Language, Role};
use crate::model::session::{self, SessionId};
use crate::model::session_state::{SessionMarkers, SessionState};
use crate::observe::metrics::{MintOutcome, Tally};
use crate::upstream::{self, RequestBody, Upstream, UpstreamResponse};

/// The path at which sessions are minted and tokens exchanged.
const SESSION: &str = "/rest/system/session";
/// The longest answer that is read, in bytes: a session has 22.
const MAX_ANSWER: usize = 1024;
/// The longest description of a session, and the longest answer to its end, that is read, in bytes: a description lists what
/// the PBX and its apps can do.
const MAX_DESCRIPTION: usize = 64 << 10;

/// A client of the PBX, for the login endpoints.
#[derive(Debug, Clone)]
pub(crate) struct Pbx {
    /// The name of the node, where there are several.
    node: Option<String>,
    /// Its idle connections have carried requests for sessions and nothing else.
    upstream: Rc<Upstream>,
    /// The `Host` of its `url`, if all have the same.
    host: Option<HeaderValue>,
    /// The Basic credentials of the administrator.
    admin: HeaderValue,
    dialect: Dialect,
    deadline: Duration,
    breaker: Arc<Breaker>,
    tally: Tally,
}

/// The PBX gave no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The PBX refused the administrator. It is not asked again until `retry_after` has passed.
    #[error("the PBX refused the administrator's credentials")]
    Refused {
        /// How long the breaker stays open.
        retry_after: Duration,
    },
    /// The PBX refused the administrator a short time ago.
    #[error("the PBX refused the administrator's credentials a moment ago and is not asked again yet")]
    Open {
        /// How long the breaker stays open.
        retry_after: Duration,
    },
    /// The administrator lacks a right: the API right, or an entry in the access list.
    #[error("the PBX does not permit the administrator to open sessions")]
    NotPermitted,
    /// The PBX knows no such domain or account.
    #[error("the PBX knows no such account")]
    Unknown,
    /// The answer took too long.
    #[error("the PBX did not answer in time")]
    Timeout,
    /// There is no connection, or it broke.
    #[error("cannot reach the PBX")]
    Unreachable(#[source] upstream::Error),
    /// A session that callgate opened goes on at the PBX, which is told again.
    #[error("the PBX has not ended a session yet")]
    NotEnded,
    /// A session was opened by a PBX that is no longer configured.
    #[error("no [[pbx]] has the `url` of the PBX that opened the session")]
    NoNode,
    /// The answer is malformed.
    #[error("the answer of the PBX is malformed")]
    BadResponse,
}

impl Pbx {
    /// Makes a client of the PBX behind `upstream`, which no client's request uses. All workers share the breaker. `node`:
    /// its name, where there are several.
    #[must_use]
    pub(crate) fn new(
        upstream: Rc<Upstream>,
        node: Option<&str>,
        pbx: &config::PbxConfig,
        admin: &config::AdminCredentials,
        breaker: Arc<Breaker>,
        tally: Tally,
    ) -> Self {
        let (node, host) = (node.map(str::to_owned), common_host(&pbx.upstream.urls));
        let (admin, deadline) = (basic(admin), pbx.timeout);
        Self { node, upstream, host, admin, dialect: pbx.dialect, deadline, breaker, tally }
    }

    /// Mints a session for a user or an administrator. Sends one request, which continues if the caller leaves.
    ///
    /// # Errors
    /// When the PBX gives no session, or the breaker is open.
    pub(crate) async fn mint(&self, role: &Role) -> Result<SessionId, Error> {
        let pass = self.breaker.admit(Instant::now()).await.map_err(|retry_after| {
            self.tally.mint(MintOutcome::Open);
            Error::Open { retry_after }
        })?;
        let this = self.clone();
        let body = messages::mint_request(role, self.dialect);
        let asked = tokio::task::spawn_local(async move {
            let asked = Instant::now();
            let answer = timeout(this.deadline, this.ask_for_session(body)).await.unwrap_or(Err(Error::Timeout));
            this.tally.mint_took(asked.elapsed());
            let minted = answer.and_then(|answer| messages::read_mint(answer.status, &answer.body));
            this.tally.mint(outcome(&minted));
            if pass.report(&minted, Instant::now()).await {
                this.tally.breaker_opened();
                tracing::error!(
                    pbx = this.node,
                    "the PBX refused the administrator's credentials: no login for {} s; check [pbx] admin",
                    breaker::OPEN.as_secs()
                );
            }
            minted
        });
        asked.await.unwrap_or(Err(Error::BadResponse))
    }

    /// Exchanges a temporary token for the PBX's cookies, as the PBX's own page does, under the host name that the
    /// browser uses.
    ///
    /// # Errors
    /// When the PBX does not accept the token.
    pub(crate) async fn exchange(&self, token: &SessionId, host: HeaderValue) -> Result<Vec<HeaderValue>, Error> {
        let answer = self.request(Method::POST, Some(host), None, messages::exchange_request(token)).await?;
        messages::read_exchange(answer.status, &answer.body, &answer.headers)
    }

    /// Sets the language of the session of these cookies.
    ///
    /// # Errors
    /// When the PBX does not accept it.
    pub(crate) async fn set_language(
        &self,
        language: &Language,
        cookies: &[HeaderValue],
        host: HeaderValue,
    ) -> Result<(), Error> {
        let proof = messages::cookie(cookies).map(|cookie| (header::COOKIE, cookie));
        let answer = self.request(Method::PUT, Some(host), proof, messages::language_request(language)).await?;
        if answer.status == StatusCode::OK { Ok(()) } else { Err(Error::BadResponse) }
    }

    /// Asks for the state of a session: the value of `Cookie`, under the host name that the browser uses.
    pub(crate) async fn state_of(
        &self,
        cookie: HeaderValue,
        host: HeaderValue,
        markers: &SessionMarkers,
    ) -> SessionState {
        let proof = Some((header::COOKIE, cookie));
        match self.request(Method::GET, Some(host), proof, Bytes::new()).await {
            Ok(answer) => messages::read_description(answer.status, &answer.body, markers),
            Err(_) => SessionState::Unknown,
        }
    }

    /// Ends the session of a browser's cookie, as the PBX's own pages do. One that the PBX does not know has ended.
    ///
    /// # Errors
    /// When the PBX does not confirm it.
    pub(crate) async fn log_out(&self, session: &str, host: HeaderValue) -> Result<(), Error> {
        let cookie = HeaderValue::try_from(format!("{}={session}", session::SESSION));
        let mut cookie = cookie.map_err(|_| Error::BadResponse)?;
        cookie.set_sensitive(true);
        let answer = self.request(Method::DELETE, Some(host), Some((header::COOKIE, cookie)), Bytes::new()).await?;
        messages::read_log_out(answer.status, &answer.body)
    }

    /// Sends a request with a deadline, under this host name or that of `url`.
    async fn request(
        &self,
        method: Method,
        host: Option<HeaderValue>,
        proof: Option<HeaderField>,
        body: Bytes,
    ) -> Result<PbxAnswer, Error> {
        timeout(self.deadline, self.send(method, host, proof, body)).await.map_err(|_| Error::Timeout)?
    }

    /// Asks for a session, over a connection that has asked for others before, if there is one. If the PBX closes it at this
    /// moment, there is no session: the request may have arrived, so it is not sent again.
    async fn ask_for_session(&self, body: Bytes) -> Result<PbxAnswer, Error> {
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::AUTHORIZATION, self.admin.clone());
        let request = |headers| {
            upstream::request(Method::POST, Uri::from_static(SESSION), headers, RequestBody::Full(Some(body)))
        };
        let answer = match self.host.clone() {
            Some(host) => {
                headers.insert(header::HOST, host);
                self.upstream.send(request(headers)).await
            }
            None => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
                self.upstream.send_fresh(request(headers)).await
            }
        };
        PbxAnswer::read(answer, MAX_ANSWER).await
    }

    /// Sends a request on a connection of its own: it shows what belongs to one browser.
    async fn send(
        &self,
        method: Method,
        host: Option<HeaderValue>,
        proof: Option<HeaderField>,
        body: Bytes,
    ) -> Result<PbxAnswer, Error> {
        let mut headers = HeaderMap::with_capacity(4);
        headers.extend(host.map(|host| (header::HOST, host)));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        headers.extend(proof);
        let max = if matches!(method, Method::GET | Method::DELETE) { MAX_DESCRIPTION } else { MAX_ANSWER };
        let body = if body.is_empty() {
            RequestBody::Empty
        } else {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            RequestBody::Full(Some(body))
        };
        let request = upstream::request(method, Uri::from_static(SESSION), headers, body);
        PbxAnswer::read(self.upstream.send_fresh(request).await, max).await
    }
}

/// A header field that authenticates a request to the PBX.
type HeaderField = (HeaderName, HeaderValue);

struct PbxAnswer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl PbxAnswer {
    /// Reads an answer whose body has `max` bytes at most.
    async fn read(answer: Result<UpstreamResponse, upstream::Error>, max: usize) -> Result<Self, Error> {
        let UpstreamResponse::Final(response) = answer.map_err(unreachable)? else { return Err(Error::BadResponse) };
        let (head, body) = response.into_parts();
        let body = Limited::new(body, max).collect().await.map_err(|_| Error::BadResponse)?.to_bytes();
        Ok(Self { status: head.status, headers: head.headers, body })
    }
}

/// Returns the `Host` of all addresses, if they have the same: then it does not matter which one a connection leads to.
fn common_host(urls: &[UpstreamUrl]) -> Option<HeaderValue> {
    let (first, others) = urls.split_first()?;
    let host = first.authority();
    let is_common = others.iter().all(|other| other.authority() == host);
    HeaderValue::try_from(host).ok().filter(|_| is_common)
}

const fn outcome(minted: &Result<SessionId, Error>) -> MintOutcome {
    match minted {
        Ok(_) => MintOutcome::Ok,
        Err(Error::Refused { .. }) => MintOutcome::Refused,
        Err(Error::Open { .. }) => MintOutcome::Open,
        Err(Error::NotPermitted) => MintOutcome::NotPermitted,
        Err(Error::Unknown) => MintOutcome::Unknown,
        Err(Error::Timeout) => MintOutcome::Timeout,
        Err(Error::Unreachable(_)) => MintOutcome::Unreachable,
        Err(Error::BadResponse | Error::NotEnded | Error::NoNode) => MintOutcome::BadResponse,
    }
}

/// Returns the `Authorization` of an administrator.
fn basic(admin: &config::AdminCredentials) -> HeaderValue {
    let basic = BASE64_STANDARD.encode(format!("{}:{}", admin.user, admin.password.expose()));
    let mut credentials = HeaderValue::try_from(format!("Basic {basic}")).expect("base64 is ASCII");
    credentials.set_sensitive(true);
    credentials
}

fn unreachable(error: upstream::Error) -> Error {
    match error {
        upstream::Error::Timeout => Error::Timeout,
        upstream::Error::BadResponse(_) => Error::BadResponse,
        error => Error::Unreachable(error),
    }
}
