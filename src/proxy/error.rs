//! Why there is no answer but one of our own: the only place that knows the statuses of failure.

use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use super::account_choice::Choices;
use super::browser::cors;
use super::reply::{self, Audience};
use crate::auth::{self, AppError, OidcError};
use crate::exchange::Body;
use crate::limit::Limited;
use crate::message::guard::Violation;
use crate::message::target::Authority;
use crate::model::path::LOGIN_PATH;
use crate::observe::Unaudited;
use crate::state::KeepError;
use crate::upstream::ConnectError;
use crate::{pbx, upstream};

/// Why a request is not answered as asked. The words go to the client, the sources to the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The request is malformed in a way that its sender can mend.
    #[error("{0}")]
    Malformed(&'static str),
    /// The request has no one reading, or is too large to be read.
    #[error("{0}")]
    Refused(Violation),
    /// Nothing is configured here.
    #[error("nothing is here")]
    NotFound,
    /// The method is not for this resource; these are.
    #[error("only {0} is possible here")]
    Method(&'static str),
    /// A tunnel for a protocol that is not spoken here.
    #[error("only a WebSocket is possible by CONNECT")]
    Protocol,
    /// The client's body paused for too long.
    #[error("the request took too long")]
    RequestTimeout,
    /// A body larger than any that makes sense here.
    #[error("the request is too large")]
    TooLarge,
    /// A body of a kind that is not read here.
    #[error("send application/x-www-form-urlencoded or application/json")]
    MediaType,
    /// Nobody is proven. A browser is sent to `login`.
    #[error("log in first")]
    Nobody {
        /// Where one logs in.
        login: Option<String>,
    },
    /// Somebody is proven and may not do this.
    #[error("this is not permitted")]
    Forbidden,
    /// Somebody is proven who may become several, and has not said whom.
    #[error("this login has several accounts: name one of them")]
    Choose(Choices),
    /// Somebody is proven, and leads to a user that there is not. Looks as if it were not permitted.
    #[error("this is not permitted")]
    UnknownUser,
    /// The shield keeps strangers from this.
    #[error("this is not permitted from here")]
    KeptOut,
    /// The request came from another site's page.
    #[error("this request must come from the same site")]
    CrossSite,
    /// Too many requests.
    #[error("too many requests")]
    Limited(Limited),
    /// No upstream serves this host.
    #[error("this host is not served here")]
    Misdirected,
    /// A prefetch, or a program that looks at links.
    #[error("open this link in a browser")]
    NotNow,
    /// The upstream gave no answer.
    #[error("the server behind this one gave no answer")]
    Upstream(#[source] upstream::Error),
    /// The app did not say who its caller is.
    #[error("the app did not say who you are")]
    App(#[source] AppError),
    /// There are no keys to check a token with.
    #[error("too early")]
    Keys(#[source] auth::Error),
    /// The PBX gave no session.
    #[error("the telephone system gave no session")]
    Pbx(#[source] pbx::Error),
    /// A login at an identity provider came to nothing; the field forgets it.
    #[error("{0}")]
    Oidc(#[source] OidcError, Option<HeaderValue>),
    /// A credential cannot be marked as used, or a ticket cannot be kept.
    #[error("too busy")]
    Unkept(#[source] KeepError),
    /// The login's audit line cannot be written.
    #[error("too busy")]
    Unaudited(#[source] Unaudited),
    /// One of these, and pages of this origin may read it.
    #[error("{0}")]
    Shared(Box<Self>, HeaderValue),
}

/// How long a full table makes a caller wait.
const FULL: Duration = Duration::from_secs(10);
/// How long a state file that cannot be written makes a caller wait: it is tried again each second.
const UNAVAILABLE: Duration = Duration::from_secs(2);
/// How long an audit log that takes no line makes a caller wait.
const UNAUDITED: Duration = Duration::from_secs(2);
/// How long an upstream without a free connection makes a caller wait.
const CROWDED: Duration = Duration::from_secs(1);

impl Error {
    /// Returns the status, and the cause as the access log names it.
    #[must_use]
    pub(super) const fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Refused(Violation::TargetSize) => (StatusCode::URI_TOO_LONG, "uri_too_long"),
            Self::Refused(Violation::HeadSize | Violation::Fields) => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "header_fields_too_large")
            }
            Self::Refused(Violation::UnknownCoding) => (StatusCode::NOT_IMPLEMENTED, "unknown_transfer_coding"),
            Self::Refused(Violation::Late) => (StatusCode::REQUEST_TIMEOUT, "header_timeout"),
            Self::Refused(Violation::Version) => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "unsupported_http_version"),
            Self::Malformed(_) | Self::Refused(_) => (StatusCode::BAD_REQUEST, "malformed"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::Protocol => (StatusCode::NOT_IMPLEMENTED, "unsupported_protocol"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "content_too_large"),
            Self::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::Nobody { .. } => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            Self::Choose(_) => (StatusCode::MULTIPLE_CHOICES, "account_selection_required"),
            Self::Forbidden | Self::UnknownUser => (StatusCode::FORBIDDEN, "forbidden"),
            Self::KeptOut => (StatusCode::FORBIDDEN, "blocked"),
            Self::CrossSite => (StatusCode::FORBIDDEN, "cross_site"),
            Self::Limited(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::Misdirected => (StatusCode::MISDIRECTED_REQUEST, "misdirected"),
            Self::NotNow => (StatusCode::SERVICE_UNAVAILABLE, "prefetch"),
            Self::Unkept(KeepError::Full) => (StatusCode::SERVICE_UNAVAILABLE, "state_full"),
            Self::Unkept(KeepError::Unavailable) => (StatusCode::SERVICE_UNAVAILABLE, "state_unavailable"),
            Self::Unaudited(_) => (StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable"),
            Self::Upstream(error) => upstream_status(error),
            Self::App(error) => app_status(error),
            Self::Keys(_) => (StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable"),
            Self::Pbx(error) => pbx_status(error),
            Self::Oidc(error, _) => oidc_status(error),
            Self::Shared(error, _) => error.status(),
        }
    }

    /// Returns what the log tells and the client does not learn.
    #[must_use]
    pub(super) fn cause(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Shared(error, _) => error.cause(),
            Self::Oidc(error, _) => std::error::Error::source(error),
            error => std::error::Error::source(error),
        }
    }

    /// Tells whether the request was none that its sender should have sent.
    #[must_use]
    pub(super) const fn is_malformed(&self) -> bool {
        match self {
            Self::Malformed(_) | Self::Refused(_) => true,
            Self::Shared(error, _) => error.is_malformed(),
            _ => false,
        }
    }

    /// Names the refusal that broke off the body of a request, if that is the cause.
    #[must_use]
    pub(super) fn or_refused(self, refusal: Option<Violation>) -> Self {
        match (self, refusal) {
            (Self::Upstream(upstream::Error::ClientGone), Some(refusal)) => Self::Refused(refusal),
            (error, _) => error,
        }
    }

    /// Offers choices to a program alone: nobody could follow a link to one.
    #[must_use]
    pub(super) fn without_links(self) -> Self {
        match self {
            Self::Choose(choices) => Self::Choose(choices.without_links()),
            error => error,
        }
    }

    /// Turns the failure into an answer.
    #[must_use]
    pub(super) fn answer(&self, audience: &Audience) -> Response<Body> {
        if let Self::Shared(error, origin) = self {
            let mut response = error.answer(&audience.to_a_program());
            cors::show_to(&mut response, origin);
            return response;
        }
        let (status, code) = self.status();
        if let Self::Nobody { login: Some(login) } = self
            && audience.navigation
        {
            return reply::redirect(StatusCode::FOUND, login);
        }
        if let Self::Choose(choices) = self {
            return choices.answer(status, code, &self.to_string(), audience);
        }
        let mut response = reply::problem(status, code, &self.to_string(), self.login(), audience);
        for (name, value) in self.fields() {
            response.headers_mut().insert(name, value);
        }
        response
    }

    /// Names the place to log in by its whole address: what asks is a page of another origin.
    pub(super) fn seen_from_elsewhere(self, authority: &Authority) -> Self {
        match self {
            Self::Nobody { login: Some(login) } if login.starts_with('/') => {
                Self::Nobody { login: Some(format!("https://{}{login}", authority.with_host(&authority.host))) }
            }
            error => error,
        }
    }

    fn login(&self) -> Option<&str> {
        match self {
            Self::Nobody { login } => login.as_deref(),
            Self::Oidc(..) => Some(LOGIN_PATH),
            _ => None,
        }
    }

    fn fields(&self) -> Vec<(HeaderName, HeaderValue)> {
        match self {
            Self::Method(allow) => vec![(header::ALLOW, HeaderValue::from_static(allow))],
            Self::Nobody { .. } => {
                vec![(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"callgate\""))]
            }
            Self::Limited(limited) => limited.header_values().into_iter().filter_map(field).collect(),
            Self::Pbx(pbx::Error::Open { retry_after } | pbx::Error::Refused { retry_after }) => {
                vec![reply::retry_after(*retry_after)]
            }
            Self::Oidc(error, forget) => {
                let forget = forget.iter().map(|field| (header::SET_COOKIE, field.clone()));
                let wait = matches!(error, OidcError::Down(_)).then(|| reply::retry_after(FULL));
                forget.chain(wait).collect()
            }
            Self::Unkept(KeepError::Full) | Self::Keys(_) => vec![reply::retry_after(FULL)],
            Self::Unkept(KeepError::Unavailable) => vec![reply::retry_after(UNAVAILABLE)],
            Self::Unaudited(_) => vec![reply::retry_after(UNAUDITED)],
            Self::Upstream(upstream::Error::Full | upstream::Error::Taken) => vec![reply::retry_after(CROWDED)],
            _ => Vec::new(),
        }
    }
}

fn field((name, value): (&'static str, String)) -> Option<(HeaderName, HeaderValue)> {
    Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::try_from(value).ok()?))
}

const fn upstream_status(error: &upstream::Error) -> (StatusCode, &'static str) {
    match error {
        upstream::Error::Connect { source: ConnectError::Io(_), .. } => {
            (StatusCode::BAD_GATEWAY, "upstream_unreachable")
        }
        upstream::Error::Connect { source: ConnectError::Timeout, .. } => {
            (StatusCode::GATEWAY_TIMEOUT, "upstream_connect_timeout")
        }
        upstream::Error::Full | upstream::Error::Taken => (StatusCode::SERVICE_UNAVAILABLE, "upstream_busy"),
        upstream::Error::Broken(_) | upstream::Error::Nonsense(_) | upstream::Error::Unclear(_) => {
            (StatusCode::BAD_GATEWAY, "upstream_bad_response")
        }
        upstream::Error::Timeout => (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout"),
        upstream::Error::ClientStalled => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
        upstream::Error::ClientGone => (StatusCode::BAD_REQUEST, "incomplete_body"),
    }
}

const fn oidc_status(error: &OidcError) -> (StatusCode, &'static str) {
    match error {
        OidcError::Down(_) => (StatusCode::SERVICE_UNAVAILABLE, "login_unavailable"),
        OidcError::Nonsense(_) => (StatusCode::BAD_GATEWAY, "login_bad_response"),
        OidcError::Denied(_) => (StatusCode::FORBIDDEN, "login_denied"),
        OidcError::Lost(_) => (StatusCode::BAD_REQUEST, "login_unknown"),
    }
}

const fn app_status(error: &AppError) -> (StatusCode, &'static str) {
    match error {
        AppError::Timeout => (StatusCode::GATEWAY_TIMEOUT, "whoami_timeout"),
        AppError::Unreachable(_) | AppError::Nonsense { .. } => (StatusCode::BAD_GATEWAY, "whoami_failed"),
    }
}

const fn pbx_status(error: &pbx::Error) -> (StatusCode, &'static str) {
    match error {
        pbx::Error::Open { .. } | pbx::Error::Refused { .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, "pbx_credentials_refused")
        }
        pbx::Error::Unknown => (StatusCode::FORBIDDEN, "pbx_unknown_account"),
        pbx::Error::Timeout => (StatusCode::GATEWAY_TIMEOUT, "pbx_timeout"),
        pbx::Error::NotPermitted => (StatusCode::BAD_GATEWAY, "pbx_not_permitted"),
        pbx::Error::Unreachable(_) => (StatusCode::BAD_GATEWAY, "pbx_unreachable"),
        pbx::Error::Nonsense => (StatusCode::BAD_GATEWAY, "pbx_bad_response"),
    }
}

impl From<auth::Error> for Error {
    fn from(error: auth::Error) -> Self {
        match error {
            auth::Error::App(error) => Self::App(error),
            auth::Error::Keys(_) => Self::Keys(error),
        }
    }
}

impl From<pbx::Error> for Error {
    /// An account that the PBX does not know looks like one that the caller may not be.
    fn from(error: pbx::Error) -> Self {
        match error {
            pbx::Error::Unknown => Self::Forbidden,
            error => Self::Pbx(error),
        }
    }
}

impl From<upstream::Error> for Error {
    fn from(error: upstream::Error) -> Self {
        Self::Upstream(error)
    }
}
