//! Method `app` (forward-auth): the app is asked who its cookie belongs to.

mod cache;

use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout;

use self::cache::{Cache, Key, Outcome, Said};
use super::{Ask, Proof, Verdict, claims};
use crate::config::{AppMethodConfig, CookieFilter};
use crate::message::cookies;
use crate::message::forwarded;
use crate::model::json::{self, JsonError};
use crate::model::principal::Principal;
use crate::upstream::{self, RequestBody, Upstream, UpstreamResponse};

/// The longest answer of the app, in bytes.
const MAX_ANSWER: usize = 16 << 10;

/// The app, as a witness.
#[derive(Debug)]
pub struct App {
    name: String,
    settings: AppMethodConfig,
    uri: Uri,
    upstream: Rc<Upstream>,
    /// Where answers are believed for a while.
    cache: Option<Cache>,
}

/// The app did not say who it is.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppError {
    /// No answer.
    #[error("whoami gave no answer")]
    Unreachable(#[source] Arc<upstream::Error>),
    /// Not in time.
    #[error("whoami did not answer in time")]
    Timeout,
    /// Neither 200 with a JSON object, nor 401, nor 403.
    #[error("whoami answered {status}: {problem}")]
    Nonsense {
        /// The status it gave.
        status: StatusCode,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl App {
    /// Prepares to ask the app behind `upstream`.
    ///
    /// # Errors
    /// When the path to ask is none.
    pub fn new(name: String, settings: AppMethodConfig, upstream: Rc<Upstream>) -> Result<Self, http::uri::InvalidUri> {
        let uri = settings.path.parse()?;
        let cache = settings.cache.map(Cache::new);
        Ok(Self { name, settings, uri, upstream, cache })
    }

    /// Tells whether the request carries anything that the app could know its user by.
    pub(super) fn finds_credential(&self, headers: &HeaderMap) -> bool {
        !self.cookies(headers).is_empty() || self.credential_fields().any(|name| headers.contains_key(name))
    }

    /// Returns the bytes of everything in a request that the app could know its user by: names and values in turn.
    pub(super) fn credential(&self, headers: &HeaderMap) -> Vec<Vec<u8>> {
        let mut parts = vec![self.cookies(headers)];
        for name in self.credential_fields() {
            for value in headers.get_all(name) {
                parts.extend([name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec()]);
            }
        }
        parts
    }

    /// Returns the listed fields that can be a credential: a field that every browser sends proves nobody.
    fn credential_fields(&self) -> impl Iterator<Item = &HeaderName> {
        self.settings.headers.iter().filter(|name| !is_ambient(name))
    }

    /// Asks the app who the caller is. Its 401 and 403 say that it knows nobody by what came along.
    pub(super) async fn ask(&self, ask: &Ask<'_>) -> Result<Verdict, AppError> {
        if self.credential_fields().any(|name| ask.headers.get_all(name).iter().count() > 1) {
            return Ok(Verdict::reject(self.name.clone(), "a credential field was sent more than once"));
        }
        let fields = self.fields(ask);
        // A rehearsal tells what the app says, not what it said.
        let said = match self.cache.as_ref().filter(|_| !ask.rehearsal) {
            Some(cache) => cache.ask(Key::of(&fields), || self.question(fields).boxed_local()).await?,
            None => self.question(fields).await?,
        };
        let Said::Claims(claims, _) = said else { return Ok(Verdict::Stranger) };
        let claims = Rc::unwrap_or_clone(claims);
        let subject = claims::subject(&claims);
        Ok(Verdict::Admit(Proof::ambient(Principal { method: self.name.clone(), subject, claims })))
    }

    /// Asks with a request of our own: no body, and of the caller's fields only `User-Agent` and those that the operator
    /// named. Several callers may wait for its answer.
    fn question(&self, fields: HeaderMap) -> impl Future<Output = Outcome> + use<> {
        let (upstream, deadline) = (Rc::clone(&self.upstream), self.settings.timeout);
        let request = upstream::request(Method::GET, self.uri.clone(), fields, RequestBody::Empty);
        async move { timeout(deadline, exchange(&upstream, request)).await.map_err(|_| AppError::Timeout)? }
    }

    fn fields(&self, ask: &Ask<'_>) -> HeaderMap {
        let mut fields = HeaderMap::with_capacity(12);
        fields.insert(header::HOST, ask.host.clone());
        fields.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if let Ok(cookies) = HeaderValue::from_bytes(&self.cookies(ask.headers)) {
            fields.insert(header::COOKIE, cookies);
        }
        // Many apps bind a session to the browser's name, and end it when it comes with another.
        for name in [header::USER_AGENT].iter().chain(&self.settings.headers) {
            let mut lines = ask.headers.get_all(name).into_iter().cloned();
            if let Some(first) = lines.next() {
                fields.insert(name, first);
            }
            for line in lines {
                fields.append(name, line);
            }
        }
        forwarded::assert(&mut fields, ask.origin, ask.host, ask.id.clone());
        fields
    }

    /// Returns the cookies that are shown to the app, as the client spelled them. Ours never are.
    fn cookies(&self, headers: &HeaderMap) -> Vec<u8> {
        let mut shown = Vec::new();
        let pairs = cookies::pairs(headers).filter(|pair| !pair.is_empty() && !cookies::is_ours(pair));
        for pair in pairs.filter(|pair| self.shows(pair)) {
            if !shown.is_empty() {
                shown.extend_from_slice(b"; ");
            }
            shown.extend_from_slice(pair);
        }
        shown
    }

    fn shows(&self, pair: &[u8]) -> bool {
        match &self.settings.cookies {
            CookieFilter::All => true,
            CookieFilter::Listed(names) => names.iter().any(|listed| listed.as_bytes() == cookies::split(pair).0),
        }
    }
}

/// Says what is wrong with an answer, and never what it says.
const fn problem(error: JsonError) -> &'static str {
    match error {
        JsonError::Syntax | JsonError::NotAnObject => "not a JSON object",
        JsonError::Twice => "a name stands twice in its JSON",
        JsonError::LongInteger => "an integer in its JSON is longer than 64 bits: write it as a text",
    }
}

/// Tells whether a field comes with a request whoever sends it: it describes the browser, the page or the way here, and
/// proves nobody.
fn is_ambient(name: &HeaderName) -> bool {
    const STARTS: [&str; 7] = ["accept", "sec-fetch-", "sec-ch-", "access-control-", "content-", "if-", "x-b3-"];
    STARTS.iter().any(|start| name.as_str().starts_with(start)) || AMBIENT.contains(&name.as_str())
}

/// Fields of every request, beside those that [`is_ambient`] knows by how they begin.
const AMBIENT: [&str; 33] = [
    "baggage",
    "cache-control",
    "connection",
    "date",
    "device-memory",
    "dnt",
    "dpr",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "origin",
    "pragma",
    "priority",
    "range",
    "referer",
    "save-data",
    "sec-gpc",
    "sec-purpose",
    "te",
    "traceparent",
    "tracestate",
    "upgrade-insecure-requests",
    "user-agent",
    "via",
    "viewport-width",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
    "x-requested-with",
];

async fn exchange(upstream: &Rc<Upstream>, request: Request<RequestBody>) -> Outcome {
    let answer = upstream.send(request).await.map_err(|error| match error {
        upstream::Error::Timeout => AppError::Timeout,
        error => AppError::Unreachable(Arc::new(error)),
    })?;
    let UpstreamResponse::Final(response) = answer else {
        return Err(AppError::Nonsense { status: StatusCode::SWITCHING_PROTOCOLS, problem: "nobody asked to switch" });
    };
    let (head, body) = response.into_parts();
    let status = head.status;
    // Read whatever the answer is: its connection serves the next question.
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let nonsense = |problem| AppError::Nonsense { status, problem };
    match status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Ok(Said::Stranger),
        _ => return Err(nonsense("only 200, 401 and 403 are answers")),
    }
    let body = body.map_err(|_| nonsense("more than 16 KiB"))?;
    let object = json::object(&body.to_bytes()).map_err(|error| nonsense(problem(error)))?;
    Ok(Said::Claims(Rc::new(claims::of(&object)), cache::permitted(&head.headers)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_every_browser_are_no_credentials() {
        let is = |name: &str| is_ambient(&name.parse().unwrap());
        for name in ["User-Agent", "accept", "accept-language", "X-Requested-With", "host", "origin", "referer"] {
            assert!(is(name), "{name}");
        }
        for name in ["sec-fetch-site", "sec-ch-ua", "content-type", "if-none-match", "traceparent", "x-forwarded-for"] {
            assert!(is(name), "{name}");
        }
        for name in ["authorization", "x-api-key", "x-auth-token", "x-forwarded-user", "sec-websocket-protocol", "x-me"]
        {
            assert!(!is(name), "{name}");
        }
    }
}
