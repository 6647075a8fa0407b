//! The errors of a request, with the status and the code of each. No other file knows the statuses of failure.

use http::header::HeaderValue;
use http::{StatusCode, Version};

use super::login::link_options::LinkOptions;
use crate::auth::{self, AppError, BadLogoutToken, OidcError};
use crate::limit::Limited;
use crate::message::guard::Violation;
use crate::message::target::Authority;
use crate::model::grant::Requested;
use crate::observe::Unaudited;
use crate::state::KeepError;
use crate::upstream::ConnectError;
use crate::voximplant::NewcomerError;
use crate::{pbx, upstream};

/// An error that ends a request. Its text goes to the client, its source to the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The request is malformed. The text tells the sender what to correct.
    #[error("{0}")]
    Malformed(&'static str),
    /// The request breaks a rule of HTTP: it has two readings, or is too large to be read.
    #[error("{0}")]
    Violation(Violation),
    /// Nothing is configured at this path.
    #[error("nothing is configured at this address")]
    NotFound,
    /// The resource has other methods: the value of `Allow`.
    #[error("this address accepts only {0}")]
    MethodNotAllowed(&'static str),
    /// The resource is a WebSocket, and the request no handshake for one in a version that is known. The version of HTTP
    /// decides whether an upgrade can be offered.
    #[error("this address must be opened as a WebSocket")]
    UpgradeRequired(Version),
    /// An extended CONNECT (RFC 8441) for another protocol than WebSocket.
    #[error("CONNECT is accepted only for WebSockets")]
    UnsupportedProtocol,
    /// The client's body did not arrive before the deadline.
    #[error("the request did not arrive in time")]
    RequestTimeout,
    /// The body is larger than this endpoint reads.
    #[error("the request is too large")]
    ContentTooLarge,
    /// The body has a media type that this endpoint does not read.
    #[error("send application/x-www-form-urlencoded or application/json")]
    UnsupportedMediaType,
    /// No credential, or a bad one. A browser is redirected to `login`.
    #[error("log in first")]
    Unauthenticated {
        /// The address where a person can log in.
        login: Option<String>,
    },
    /// The caller is known and may not do this.
    #[error("this is not permitted")]
    Forbidden,
    /// The caller may become one of several accounts and has not named one.
    #[error("this login has several accounts: name one of them")]
    Choose(AccountChoices),
    /// A ticket was used, has expired, or is for another host or another browser.
    #[error("this login was used, or took too long")]
    StaleTicket,
    /// One of the other errors, where a person can begin the login again at this address.
    #[error("{0}")]
    LoginAgain(Box<Self>, String),
    /// The rule leads to a Voximplant user that does not exist. The client sees the same as for [`Error::Forbidden`].
    #[error("this is not permitted")]
    UnknownUser,
    /// The shield blocks this request to the PBX.
    #[error("this is not permitted from here")]
    Blocked,
    /// A page of another site made the request.
    #[error("this request must come from the same site")]
    CrossSite,
    /// A limit is exceeded.
    #[error("too many requests")]
    Limited(Limited),
    /// No upstream serves this host.
    #[error("this server does not serve that host")]
    Misdirected,
    /// A reload changed what the host asks of clients in the handshake since the connection was made.
    #[error("the host asks for other client certificates than before: open a new connection")]
    CertificatePolicyChanged,
    /// A prefetch, a link preview, or `HEAD` of a login link.
    #[error("open this link in a browser")]
    Prefetch,
    /// The upstream gave no answer.
    #[error("the upstream server did not answer")]
    Upstream(#[source] upstream::Error),
    /// The app did not say who its caller is.
    #[error("the app did not say who you are")]
    App(#[source] AppError),
    /// The keys that verify tokens have never been fetched.
    #[error("tokens cannot be verified yet")]
    Keys(#[source] auth::Error),
    /// The PBX did not open a session.
    #[error("the telephone system did not open a session")]
    Pbx(#[source] pbx::Error),
    /// The user of this login cannot be added at Voximplant now.
    #[error("the user cannot be added to the telephone system now")]
    NewUser(#[source] NewcomerError),
    /// The PBX did not confirm that a session has ended.
    #[error("you may still be logged in at the telephone system: it did not confirm the logout")]
    LogoutUnconfirmed(#[source] pbx::Error),
    /// A login at an identity provider failed. The `Set-Cookie` value removes the cookie of that login.
    #[error("{0}")]
    Oidc(#[source] OidcError, Option<HeaderValue>),
    /// A logout token ends no login (OpenID Connect Back-Channel Logout 1.0 §2.8).
    #[error("this logout token ends no login")]
    LogoutToken(#[source] BadLogoutToken),
    /// An automatic login did not reach the page where it began: the browser does not show its session there.
    #[error("your login to the telephone system did not last: perhaps your browser keeps no cookies of this site")]
    LoginNotKept(Box<WaysOn>),
    /// The state cannot record that a credential is used, or keep a ticket.
    #[error("this login cannot be recorded now")]
    NotStored(#[source] KeepError),
    /// The audit log cannot record the login.
    #[error("this login cannot be recorded now")]
    NotAudited(#[source] Unaudited),
    /// One of the other errors, which pages of this listed origin may read.
    #[error("{0}")]
    ForListedOrigin(Box<Self>, HeaderValue),
}

/// The addresses at which a person goes on after a login that did not last.
#[derive(Debug)]
pub(super) struct WaysOn {
    /// Where the login is tried once more.
    pub(super) again: String,
    /// The PBX's own login page.
    pub(super) password: String,
}

/// The accounts that one rule grants to a caller, each as the parameters that select it.
#[derive(Debug)]
pub(super) enum AccountChoices {
    /// Accounts of the PBX. A link can select one.
    PbxByLink {
        among: Vec<Requested>,
        /// What was asked for beside the account.
        options: LinkOptions,
    },
    /// Accounts of the PBX, for a request that no link can repeat.
    Pbx(Vec<Requested>),
    /// Voximplant users.
    Voximplant(Vec<Requested>),
}

impl Error {
    /// Returns the limit that is exceeded.
    #[must_use]
    pub(super) const fn limited(&self) -> Option<&Limited> {
        match self {
            Self::Limited(limited) => Some(limited),
            Self::ForListedOrigin(error, _) => error.limited(),
            _ => None,
        }
    }

    /// Returns the status and the code, which JSON answers carry as `error` and the access log as `reason`.
    #[must_use]
    pub(super) const fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Violation(Violation::TargetSize) => (StatusCode::URI_TOO_LONG, "uri_too_long"),
            Self::Violation(Violation::HeadSize | Violation::Fields) => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "header_fields_too_large")
            }
            Self::Violation(Violation::UnknownCoding) => (StatusCode::NOT_IMPLEMENTED, "unknown_transfer_coding"),
            Self::Violation(Violation::Late) => (StatusCode::REQUEST_TIMEOUT, "header_timeout"),
            Self::Violation(Violation::Version) => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "unsupported_http_version"),
            Self::Malformed(_) | Self::Violation(_) => (StatusCode::BAD_REQUEST, "malformed"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::UpgradeRequired(_) => (StatusCode::UPGRADE_REQUIRED, "upgrade_required"),
            Self::UnsupportedProtocol => (StatusCode::NOT_IMPLEMENTED, "unsupported_protocol"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::ContentTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "content_too_large"),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::Unauthenticated { .. } => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            Self::Choose(_) => (StatusCode::MULTIPLE_CHOICES, "account_selection_required"),
            Self::Forbidden | Self::UnknownUser | Self::StaleTicket => (StatusCode::FORBIDDEN, "forbidden"),
            Self::Blocked => (StatusCode::FORBIDDEN, "blocked"),
            Self::CrossSite => (StatusCode::FORBIDDEN, "cross_site"),
            Self::Limited(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::Misdirected => (StatusCode::MISDIRECTED_REQUEST, "misdirected"),
            Self::CertificatePolicyChanged => (StatusCode::MISDIRECTED_REQUEST, "certificate_policy_changed"),
            Self::Prefetch => (StatusCode::SERVICE_UNAVAILABLE, "prefetch"),
            Self::NotStored(KeepError::Full) => (StatusCode::SERVICE_UNAVAILABLE, "state_full"),
            Self::NotStored(KeepError::Unavailable) => (StatusCode::SERVICE_UNAVAILABLE, "state_unavailable"),
            Self::NotStored(KeepError::EngineDown) => (StatusCode::SERVICE_UNAVAILABLE, "shared_unavailable"),
            Self::NotAudited(_) => (StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable"),
            Self::Upstream(error) => upstream_status(error),
            Self::App(error) => app_status(error),
            Self::Keys(_) => (StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable"),
            Self::Pbx(error) => pbx_status(error),
            Self::NewUser(_) => (StatusCode::SERVICE_UNAVAILABLE, "voximplant_unavailable"),
            Self::LogoutUnconfirmed(_) => (StatusCode::BAD_GATEWAY, "logout_unconfirmed"),
            Self::Oidc(error, _) => oidc_status(error),
            Self::LoginNotKept(_) => (StatusCode::FORBIDDEN, "login_not_kept"),
            Self::LogoutToken(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::ForListedOrigin(error, _) | Self::LoginAgain(error, _) => error.status(),
        }
    }

    /// Returns the cause for the log. The client does not learn it.
    #[must_use]
    pub(super) fn cause(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::ForListedOrigin(error, _) | Self::LoginAgain(error, _) => error.cause(),
            Self::Oidc(error, _) => std::error::Error::source(error),
            error => std::error::Error::source(error),
        }
    }

    /// Tells whether the request was not valid HTTP, so that the bytes after it have no certain meaning.
    #[must_use]
    pub(super) const fn is_malformed(&self) -> bool {
        match self {
            Self::Malformed(_) | Self::Violation(_) => true,
            Self::ForListedOrigin(error, _) => error.is_malformed(),
            _ => false,
        }
    }

    /// Returns the violation that broke off the body of the request, where that is why the client seems gone.
    #[must_use]
    pub(super) fn or_violation(self, violation: Option<Violation>) -> Self {
        match (self, violation) {
            (Self::Upstream(upstream::Error::ClientGone), Some(violation)) => Self::Violation(violation),
            (error, _) => error,
        }
    }

    /// Offers the accounts without links: no link can repeat this request.
    #[must_use]
    pub(super) fn without_links(self) -> Self {
        match self {
            Self::Choose(AccountChoices::PbxByLink { among, .. }) => Self::Choose(AccountChoices::Pbx(among)),
            error => error,
        }
    }

    /// Makes the address of the login page absolute, for a page of another origin.
    pub(super) fn for_other_origin(self, authority: &Authority) -> Self {
        match self {
            Self::Unauthenticated { login: Some(login) } if login.starts_with('/') => Self::Unauthenticated {
                login: Some(format!("https://{}{login}", authority.with_host(&authority.host))),
            },
            error => error,
        }
    }
}

const fn upstream_status(error: &upstream::Error) -> (StatusCode, &'static str) {
    match error {
        upstream::Error::Connect { source: ConnectError::Lookup(_) | ConnectError::Io(_), .. } => {
            (StatusCode::BAD_GATEWAY, "upstream_unreachable")
        }
        upstream::Error::Connect { source: ConnectError::Timeout, .. } => {
            (StatusCode::GATEWAY_TIMEOUT, "upstream_connect_timeout")
        }
        upstream::Error::Full | upstream::Error::BoundConnectionBusy => {
            (StatusCode::SERVICE_UNAVAILABLE, "upstream_busy")
        }
        upstream::Error::Broken(_) | upstream::Error::BadResponse(_) | upstream::Error::AmbiguousResponse(_) => {
            (StatusCode::BAD_GATEWAY, "upstream_bad_response")
        }
        upstream::Error::Timeout => (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout"),
        upstream::Error::ClientStalled => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
        upstream::Error::ClientGone => (StatusCode::BAD_REQUEST, "incomplete_body"),
    }
}

const fn oidc_status(error: &OidcError) -> (StatusCode, &'static str) {
    match error {
        OidcError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "login_unavailable"),
        OidcError::BadResponse(_) => (StatusCode::BAD_GATEWAY, "login_bad_response"),
        OidcError::Denied(_) => (StatusCode::FORBIDDEN, "login_denied"),
        OidcError::UnknownLogin(_) => (StatusCode::BAD_REQUEST, "login_unknown"),
    }
}

const fn app_status(error: &AppError) -> (StatusCode, &'static str) {
    match error {
        AppError::Timeout => (StatusCode::GATEWAY_TIMEOUT, "whoami_timeout"),
        AppError::Unreachable(_) | AppError::BadResponse { .. } => (StatusCode::BAD_GATEWAY, "whoami_failed"),
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
        pbx::Error::BadResponse | pbx::Error::NotEnded | pbx::Error::NoNode => {
            (StatusCode::BAD_GATEWAY, "pbx_bad_response")
        }
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

impl From<Limited> for Error {
    fn from(limited: Limited) -> Self {
        Self::Limited(limited)
    }
}

impl From<pbx::Error> for Error {
    /// The client cannot tell an account that the PBX does not know from one that the caller may not use.
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
