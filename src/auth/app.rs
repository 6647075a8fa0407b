//! Method `app` (forward-auth): the app says who its cookie belongs to.

mod cache;

use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout;

use self::cache::{AppAnswer, AppResult, Cache, QuestionKey};
use super::credentials::{Credentials, Shown};
use super::{AuthRequest, Error, Proof, Verdict, claims};
use crate::config::{AppMethodConfig, CookieFilter};
use crate::message::cookies;
use crate::message::forwarded;
use crate::model::json::{self, JsonError};
use crate::model::principal::Principal;
use crate::observe::metrics;
use crate::upstream::{self, RequestBody, Upstream, UpstreamResponse};

/// The longest answer of the app, in bytes.
const MAX_ANSWER: usize = 16 << 10;

/// The app that is asked.
#[derive(Debug)]
pub(super) struct AppMethod {
    name: String,
    settings: AppMethodConfig,
    uri: Uri,
    upstream: Rc<Upstream>,
    /// Answers that are used again for a while, where `cache` is configured.
    cache: Option<Cache>,
}

/// An error that prevents an answer of the app.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum AppError {
    /// The app gave no answer.
    #[error("whoami gave no answer")]
    Unreachable(#[source] Arc<upstream::Error>),
    /// The app did not answer before the deadline.
    #[error("whoami did not answer in time")]
    Timeout,
    /// The answer is neither 200 with a JSON object, nor 401, nor 403.
    #[error("whoami answered {status}: {problem}")]
    BadResponse {
        /// The status of the answer.
        status: StatusCode,
        /// The problem. It never quotes the answer.
        problem: &'static str,
    },
}

impl Credentials for AppMethod {
    fn label(&self) -> metrics::CountedMethod {
        metrics::CountedMethod::App
    }

    fn find<'a>(&self, request: &AuthRequest<'a>) -> Option<Shown<'a>> {
        self.has_credential(request.headers).then_some(Shown::InRequest)
    }

    async fn judge(&self, _shown: &Shown<'_>, request: &AuthRequest<'_>) -> Result<Verdict, Error> {
        Ok(self.ask(request).await?)
    }

    fn is_cookie(&self) -> bool {
        true
    }

    fn fingerprint(&self, _shown: &Shown<'_>, request: &AuthRequest<'_>) -> Vec<Vec<u8>> {
        self.credential(request.headers)
    }
}

impl AppMethod {
    /// Prepares to ask the app behind `upstream`.
    ///
    /// # Errors
    /// When the configured path is not a path.
    pub(super) fn new(
        name: String,
        settings: AppMethodConfig,
        upstream: Rc<Upstream>,
    ) -> Result<Self, http::uri::InvalidUri> {
        let uri = settings.path.parse()?;
        let cache = settings.cache.map(Cache::new);
        Ok(Self { name, settings, uri, upstream, cache })
    }

    /// Tells whether the request carries a cookie or field by which the app could recognize its user.
    fn has_credential(&self, headers: &HeaderMap) -> bool {
        self.shown_pairs(headers).next().is_some() || self.credential_fields().any(|name| headers.contains_key(name))
    }

    /// Returns everything in a request by which the app could recognize its user: the cookies, then names and values of
    /// fields.
    fn credential(&self, headers: &HeaderMap) -> Vec<Vec<u8>> {
        let mut parts = vec![self.cookies(headers)];
        for name in self.credential_fields() {
            for value in headers.get_all(name) {
                parts.extend([name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec()]);
            }
        }
        parts
    }

    /// Returns the listed fields that can be a credential: a field that every browser sends is not one.
    fn credential_fields(&self) -> impl Iterator<Item = &HeaderName> {
        self.settings.headers.iter().filter(|name| !is_ambient(name))
    }

    /// Asks the app who the caller is. Its 401 or 403 makes the caller a [`Verdict::Stranger`].
    async fn ask(&self, request: &AuthRequest<'_>) -> Result<Verdict, AppError> {
        if self.credential_fields().any(|name| request.headers.get_all(name).iter().count() > 1) {
            return Ok(Verdict::reject(self.name.clone(), "a credential field was sent more than once"));
        }
        let fields = self.fields(request);
        // A rehearsal shows what the app says now.
        let answer = match self.cache.as_ref().filter(|_| !request.rehearsal) {
            Some(cache) => cache.ask(QuestionKey::of(&fields), || self.question(fields)).await?,
            None => self.question(fields).await?,
        };
        let AppAnswer::Claims(claims, _) = answer else { return Ok(Verdict::Stranger) };
        let claims = Rc::unwrap_or_clone(claims);
        let subject = claims::subject(&claims);
        Ok(Verdict::Admit(Proof::ambient(Principal { method: self.name.clone(), subject, claims })))
    }

    /// Asks with a request of callgate's own: no body, and of the caller's fields only `User-Agent` and those that the
    /// operator listed. Several callers may wait for its answer. Boxed: most logins carry no question around.
    fn question(&self, fields: HeaderMap) -> LocalBoxFuture<'static, AppResult> {
        let (upstream, deadline) = (Rc::clone(&self.upstream), self.settings.timeout);
        let request = upstream::request(Method::GET, self.uri.clone(), fields, RequestBody::Empty);
        let asking =
            async move { timeout(deadline, exchange(&upstream, request)).await.map_err(|_| AppError::Timeout)? };
        asking.boxed_local()
    }

    fn fields(&self, request: &AuthRequest<'_>) -> HeaderMap {
        let mut fields = HeaderMap::with_capacity(12);
        fields.insert(header::HOST, request.host.clone());
        fields.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if let Ok(cookies) = HeaderValue::from_bytes(&self.cookies(request.headers)) {
            fields.insert(header::COOKIE, cookies);
        }
        // Many apps bind a session to the `User-Agent`, and end it when the session comes with another.
        for name in [header::USER_AGENT].iter().chain(&self.settings.headers) {
            let mut lines = request.headers.get_all(name).into_iter().cloned();
            if let Some(first) = lines.next() {
                fields.insert(name, first);
            }
            for line in lines {
                fields.append(name, line);
            }
        }
        forwarded::assert(&mut fields, request.origin, request.host, request.id.clone());
        fields
    }

    /// Returns the cookies that are shown to the app, as the client spelled them. Cookies of callgate's are left out.
    fn cookies(&self, headers: &HeaderMap) -> Vec<u8> {
        let mut shown = Vec::new();
        for pair in self.shown_pairs(headers) {
            if !shown.is_empty() {
                shown.extend_from_slice(b"; ");
            }
            shown.extend_from_slice(pair);
        }
        shown
    }

    fn shown_pairs<'h>(&self, headers: &'h HeaderMap) -> impl Iterator<Item = &'h [u8]> {
        let pairs = cookies::pairs(headers).filter(|pair| !pair.is_empty() && !cookies::is_ours(pair));
        pairs.filter(|pair| self.shows(pair))
    }

    fn shows(&self, pair: &[u8]) -> bool {
        match &self.settings.cookies {
            CookieFilter::All => true,
            CookieFilter::Listed(names) => names.iter().any(|listed| listed.as_bytes() == cookies::split(pair).0),
        }
    }
}

/// Describes the problem of an answer without quoting it.
const fn problem(error: JsonError) -> &'static str {
    match error {
        JsonError::Syntax | JsonError::NotAnObject => "not a JSON object",
        JsonError::Twice => "a name stands twice in its JSON",
        JsonError::LongInteger => "an integer in its JSON is longer than 64 bits: write it as a text",
    }
}

/// Tells whether a field comes with every request for any user: it describes the browser, the page or the proxies
/// in between.
fn is_ambient(name: &HeaderName) -> bool {
    const STARTS: [&str; 7] = ["accept", "sec-fetch-", "sec-ch-", "access-control-", "content-", "if-", "x-b3-"];
    STARTS.iter().any(|start| name.as_str().starts_with(start)) || AMBIENT.contains(&name.as_str())
}

/// Fields of every request, besides those that [`is_ambient`] recognizes by their prefix.
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

async fn exchange(upstream: &Rc<Upstream>, request: Request<RequestBody>) -> AppResult {
    let answer = upstream.send(request).await.map_err(|error| match error {
        upstream::Error::Timeout => AppError::Timeout,
        error => AppError::Unreachable(Arc::new(error)),
    })?;
    let UpstreamResponse::Final(response) = answer else {
        return Err(AppError::BadResponse {
            status: StatusCode::SWITCHING_PROTOCOLS,
            problem: "it switches protocols unasked",
        });
    };
    let (head, body) = response.into_parts();
    let status = head.status;
    // The body is read whatever the status is, so that the connection can serve the next question.
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let nonsense = |problem| AppError::BadResponse { status, problem };
    match status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Ok(AppAnswer::Stranger),
        _ => return Err(nonsense("only 200, 401 and 403 are answers")),
    }
    let body = body.map_err(|_| nonsense("more than 16 KiB"))?;
    let object = json::object(&body.to_bytes()).map_err(|error| nonsense(problem(error)))?;
    Ok(AppAnswer::Claims(Rc::new(claims::of(&object)), cache::permitted(&head.headers)))
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
