//! Method `app` (forward-auth): the app is asked who its cookie belongs to.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;
use tokio::time::timeout;

use super::{Ask, Proof, Verdict, claims};
use crate::config::{Names, Whoami};
use crate::message::cookies;
use crate::message::forwarded;
use crate::model::principal::Principal;
use crate::upstream::{self, Answer, Payload, Upstream};

/// The longest answer of the app, in bytes.
const MAX_ANSWER: usize = 16 << 10;

/// The app, as a witness.
#[derive(Debug)]
pub struct App {
    name: String,
    settings: Whoami,
    uri: Uri,
    upstream: Rc<Upstream>,
}

/// The app did not say who it is.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// No answer.
    #[error("whoami gave no answer")]
    Unreachable(#[source] upstream::Error),
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
    pub fn new(name: String, settings: Whoami, upstream: Rc<Upstream>) -> Result<Self, http::uri::InvalidUri> {
        let uri = settings.path.parse()?;
        Ok(Self { name, settings, uri, upstream })
    }

    /// Tells whether the request carries anything that the app could know its user by.
    pub(super) fn finds_credential(&self, headers: &HeaderMap) -> bool {
        !self.cookies(headers).is_empty() || self.settings.headers.iter().any(|name| headers.contains_key(name))
    }

    /// Asks the app who the caller is. Its 401 and 403 are a refusal: there was a credential, and it is none.
    pub(super) async fn ask(&self, ask: &Ask<'_>) -> Result<Verdict, AppError> {
        if self.settings.headers.iter().any(|name| ask.headers.get_all(name).iter().count() > 1) {
            return Ok(Verdict::refuse(self.name.clone(), "a credential field was sent more than once"));
        }
        let (status, body) =
            timeout(self.settings.timeout, self.exchange(ask)).await.map_err(|_| AppError::Timeout)??;
        let nonsense = |problem| AppError::Nonsense { status, problem };
        match status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Ok(Verdict::Stranger);
            }
            _ => return Err(nonsense("only 200, 401 and 403 are answers")),
        }
        let body = body.ok_or_else(|| nonsense("more than 16 KiB"))?;
        let Ok(Value::Object(object)) = serde_json::from_slice(&body) else {
            return Err(nonsense("not a JSON object"));
        };
        let claims = claims::of(&object);
        let subject = claims::subject(&claims);
        Ok(Verdict::Admit(Proof::ambient(Principal { method: self.name.clone(), subject, claims })))
    }

    /// Asks with a request of our own: no body, and of the caller's fields only those that the operator named.
    async fn exchange(&self, ask: &Ask<'_>) -> Result<(StatusCode, Option<Bytes>), AppError> {
        let request = upstream::request(Method::GET, self.uri.clone(), self.fields(ask), Payload::Empty);
        let answer = self.upstream.send(request).await.map_err(AppError::Unreachable)?;
        let Answer::Response(response) = answer else {
            return Err(AppError::Nonsense {
                status: StatusCode::SWITCHING_PROTOCOLS,
                problem: "nobody asked to switch",
            });
        };
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        Ok((status, body.ok().map(http_body_util::Collected::to_bytes)))
    }

    fn fields(&self, ask: &Ask<'_>) -> HeaderMap {
        let mut fields = HeaderMap::with_capacity(12);
        fields.insert(header::HOST, ask.host.clone());
        fields.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if let Ok(cookies) = HeaderValue::from_bytes(&self.cookies(ask.headers)) {
            fields.insert(header::COOKIE, cookies);
        }
        for name in &self.settings.headers {
            if let Some(value) = ask.headers.get(name) {
                fields.insert(name, value.clone());
            }
        }
        forwarded::assert(&mut fields, ask.origin, ask.host, ask.id.clone());
        fields
    }

    /// Returns the cookies that are shown to the app, as the client spelled them. Ours never are.
    fn cookies(&self, headers: &HeaderMap) -> Vec<u8> {
        let lines = headers.get_all(header::COOKIE).into_iter();
        let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
        let mut shown = Vec::new();
        for pair in pairs.filter(|pair| !pair.is_empty() && !cookies::is_ours(pair) && self.shows(pair)) {
            if !shown.is_empty() {
                shown.extend_from_slice(b"; ");
            }
            shown.extend_from_slice(pair);
        }
        shown
    }

    fn shows(&self, pair: &[u8]) -> bool {
        match &self.settings.cookies {
            Names::All => true,
            Names::Listed(names) => {
                let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
                names.iter().any(|listed| listed.as_bytes() == name)
            }
        }
    }
}
