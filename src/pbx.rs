//! Floor 4: asking the PBX for sessions, with the administrator's credentials.
//!
//! They live here and travel on connections of their own, never on pass-through.

mod breaker;
mod issued_sessions;
mod messages;

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

pub use self::breaker::Breaker;
pub use self::issued_sessions::IssuedSessions;
use crate::config::{self, Dialect};
use crate::model::account::{Language, Role};
use crate::model::session::SessionId;
use crate::observe::metrics::{MintOutcome, Tally};
use crate::upstream::{self, RequestBody, Upstream, UpstreamResponse};

/// Where sessions are minted and tokens exchanged.
const SESSION: &str = "/rest/system/session";
/// The longest answer that is read: a session is 22 bytes, and nothing else is of interest.
const MAX_ANSWER: usize = 1024;

/// The PBX as the login endpoints see it.
#[derive(Debug, Clone)]
pub struct Pbx {
    upstream: Rc<Upstream>,
    /// Basic credentials of the administrator.
    admin: HeaderValue,
    dialect: Dialect,
    deadline: Duration,
    breaker: Arc<Breaker>,
    tally: Tally,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The PBX refused the administrator; nobody is asked for until `retry_after` has passed.
    #[error("the PBX refused the administrator's credentials")]
    Refused {
        /// How long the breaker stays open.
        retry_after: Duration,
    },
    /// The PBX refused the administrator a short time ago.
    #[error("the PBX refused the administrator's credentials before, waiting")]
    Open {
        /// How long the breaker stays open.
        retry_after: Duration,
    },
    /// The administrator may not do this: the API right or the access list is missing.
    #[error("the PBX does not permit the administrator to open sessions")]
    NotPermitted,
    /// The PBX knows no such domain or account.
    #[error("the PBX knows no such account")]
    Unknown,
    /// Not in time.
    #[error("the PBX did not answer in time")]
    Timeout,
    /// No connection, or it broke.
    #[error("cannot reach the PBX")]
    Unreachable(#[source] upstream::Error),
    /// The answer is none that a PBX gives.
    #[error("the PBX gave an answer that is none")]
    Nonsense,
}

impl Pbx {
    /// Prepares to ask the PBX behind `upstream`; the breaker is shared by all workers.
    #[must_use]
    pub fn new(
        upstream: Rc<Upstream>,
        pbx: &config::PbxConfig,
        admin: &config::AdminCredentials,
        breaker: Arc<Breaker>,
        tally: Tally,
    ) -> Self {
        let basic = BASE64_STANDARD.encode(format!("{}:{}", admin.user, admin.password.expose()));
        let mut credentials = HeaderValue::try_from(format!("Basic {basic}")).expect("base64 is ASCII");
        credentials.set_sensitive(true);
        Self { upstream, admin: credentials, dialect: pbx.dialect, deadline: pbx.timeout, breaker, tally }
    }

    /// Opens a session for a user or an administrator. The PBX is asked once, and goes on even when the caller has left.
    ///
    /// # Errors
    /// When the PBX gives no session, or must not be asked now.
    pub async fn mint(&self, role: &Role) -> Result<SessionId, Error> {
        let pass = self.breaker.admit(Instant::now()).map_err(|retry_after| {
            self.tally.mint(MintOutcome::Open);
            Error::Open { retry_after }
        })?;
        let this = self.clone();
        let body = messages::mint(role, self.dialect);
        let asked = tokio::task::spawn_local(async move {
            let proof = (header::AUTHORIZATION, this.admin.clone());
            let answer = this.ask(Method::POST, None, Some(proof), body).await;
            let minted = answer.and_then(|answer| messages::read_mint(answer.status, &answer.body));
            this.tally.mint(outcome(&minted));
            if pass.report(&minted, Instant::now()) {
                this.tally.breaker_opened();
            }
            minted
        });
        asked.await.unwrap_or(Err(Error::Nonsense))
    }

    /// Exchanges a temporary token for the PBX's cookies, as its own page would, under the host name the browser uses.
    ///
    /// # Errors
    /// When the PBX does not take the token.
    pub async fn exchange(&self, token: &SessionId, host: HeaderValue) -> Result<Vec<HeaderValue>, Error> {
        let answer = self.ask(Method::POST, Some(host), None, messages::exchange(token)).await?;
        messages::read_exchange(answer.status, &answer.body, &answer.headers)
    }

    /// Chooses the language of the session that the PBX gave these cookies for.
    ///
    /// # Errors
    /// When the PBX does not.
    pub async fn speak(&self, language: &Language, cookies: &[HeaderValue], host: HeaderValue) -> Result<(), Error> {
        let proof = messages::cookie(cookies).map(|cookie| (header::COOKIE, cookie));
        let answer = self.ask(Method::PUT, Some(host), proof, messages::speak(language)).await?;
        if answer.status == StatusCode::OK { Ok(()) } else { Err(Error::Nonsense) }
    }

    /// Asks, under the host name of the `url` that is reached when none is given.
    async fn ask(
        &self,
        method: Method,
        host: Option<HeaderValue>,
        proof: Option<HeaderField>,
        body: Bytes,
    ) -> Result<PbxAnswer, Error> {
        timeout(self.deadline, self.send(method, host, proof, body)).await.map_err(|_| Error::Timeout)?
    }

    /// Asks on a connection of its own, so that no stale one can raise the question of asking twice.
    async fn send(
        &self,
        method: Method,
        host: Option<HeaderValue>,
        proof: Option<HeaderField>,
        body: Bytes,
    ) -> Result<PbxAnswer, Error> {
        let mut headers = HeaderMap::with_capacity(4);
        headers.extend(host.map(|host| (header::HOST, host)));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        headers.extend(proof);
        let request = upstream::request(method, Uri::from_static(SESSION), headers, RequestBody::Full(Some(body)));
        let answer = self.upstream.send_fresh(request).await.map_err(unreachable)?;
        let UpstreamResponse::Final(response) = answer else { return Err(Error::Nonsense) };
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|_| Error::Nonsense)?.to_bytes();
        Ok(PbxAnswer { status: head.status, headers: head.headers, body })
    }
}

/// A header field by which the PBX knows who is asking.
type HeaderField = (HeaderName, HeaderValue);

struct PbxAnswer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
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
        Err(Error::Nonsense) => MintOutcome::Nonsense,
    }
}

fn unreachable(error: upstream::Error) -> Error {
    match error {
        upstream::Error::Timeout => Error::Timeout,
        upstream::Error::BadResponse(_) => Error::Nonsense,
        error => Error::Unreachable(error),
    }
}
