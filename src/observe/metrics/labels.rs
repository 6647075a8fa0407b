//! The values that labels may have: closed sets, so that no request can make a series of its own.

use http::StatusCode;
use rustls::ProtocolVersion;

use crate::model::login::{LoginKind, LoginOutcome};
use crate::model::upstream_name::UpstreamName;

/// A label with all its values.
pub(super) trait Label: Copy + 'static {
    const KEY: &'static str;
    const ALL: &'static [Self];
    /// How many values there are.
    const COUNT: usize = Self::ALL.len();
    /// Returns the value's place in `ALL`.
    fn index(self) -> usize;
    fn text(self) -> &'static str;
}

macro_rules! labels {
    ($($(#[$about:meta])* $name:ident = $key:literal { $($(#[$doc:meta])* $value:ident = $text:literal,)+ })+) => { $(
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $value,)+ }

        impl Label for $name {
            const KEY: &'static str = $key;
            const ALL: &'static [Self] = &[$(Self::$value,)+];

            fn index(self) -> usize {
                self as usize
            }

            fn text(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }
        }
    )+ };
}

labels! {
    /// Who answers an exchange.
    ExchangeRoute = "route" {
        /// The app.
        App = "app",
        /// The PBX, passed through.
        Pbx = "pbx",
        /// `/auth/ott`.
        Ott = "auth_ott",
        /// `/auth/pbx`.
        Login = "auth_pbx",
        /// `/auth/callgate/`.
        Callgate = "auth_callgate",
        /// A redirect of the app that was given a session.
        Injected = "injected",
        /// An answer of our own, before any of these was found.
        Own = "own",
    }

    /// The class of an answer's status.
    StatusClass = "status" {
        /// 101, the beginning of a tunnel.
        Informational = "1xx",
        /// Success.
        Success = "2xx",
        /// Redirects.
        Redirect = "3xx",
        /// The client's mistakes.
        Client = "4xx",
        /// Ours, or an upstream's.
        Server = "5xx",
        /// The client left before there was an answer.
        None = "none",
    }

    /// Which way the bytes of bodies and tunnels go.
    Direction = "direction" {
        /// From clients.
        Received = "received",
        /// To clients.
        Sent = "sent",
    }

    /// What a client's connection speaks.
    ClientProtocol = "protocol" {
        /// HTTP/1.0 or HTTP/1.1.
        H1 = "h1",
        /// HTTP/2.
        H2 = "h2",
    }

    /// How a TLS handshake ended.
    HandshakeResult = "result" {
        /// A new session.
        Full = "full",
        /// A session that goes on.
        Resumed = "resumed",
        /// The client broke off, or there was no common ground.
        Failed = "failed",
        /// Not in time.
        Timeout = "timeout",
    }

    /// The version of TLS that was agreed on.
    TlsVersion = "version" {
        /// TLS 1.2.
        Tls12 = "1.2",
        /// TLS 1.3.
        Tls13 = "1.3",
        /// None.
        None = "none",
    }

    /// How opening a connection to an upstream ended.
    ConnectResult = "result" {
        /// It stands.
        Ok = "ok",
        /// There are as many as `max_connections` permits.
        Full = "full",
        /// Nobody listens there, the name is not known, or TLS failed.
        Failed = "failed",
        /// Not in time.
        Timeout = "timeout",
    }

    /// The connection that carries a request to an upstream.
    ConnectionUse = "connection" {
        /// One that was opened for it.
        New = "new",
        /// One that carried another before.
        Reused = "reused",
    }

    /// Why an upstream that could be reached gave no answer.
    UpstreamFault = "error" {
        /// Not in time.
        Timeout = "timeout",
        /// The connection broke.
        Broken = "broken",
        /// The answer breaks a rule.
        Nonsense = "nonsense",
        /// The request's own body did not come to its end.
        Client = "client",
    }

    /// A limit of `[limits]`, or that of `[voximplant] distinct_keys`.
    LimitName = "limit" {
        /// By address.
        Client = "client",
        /// By proven caller.
        Caller = "caller",
        /// By account or Voximplant user.
        Account = "account",
        /// By administrator.
        Admin = "admin",
        /// By refusals of an address.
        Failures = "failures",
        /// Different cookies of an address that prove nobody.
        StaleCookies = "stale_cookies",
        /// Password logins that pass through.
        PbxLogins = "pbx_logins",
        /// One-time keys of one user.
        DistinctKeys = "distinct_keys",
    }

    /// A kind of auth method.
    CountedMethod = "method" {
        /// The app was asked.
        App = "app",
        /// A key of ours was shown.
        Key = "key",
        /// A signed link was followed.
        Link = "link",
        /// A JSON web token was shown.
        Jwt = "jwt",
        /// A proxy before us named the caller.
        Header = "header",
        /// A client certificate was shown.
        Mtls = "mtls",
        /// A login at an identity provider was shown.
        Oidc = "oidc",
        /// The app named the account in a redirect.
        Redirect = "redirect",
        /// No method found a credential of its kind.
        None = "none",
        /// More than one did.
        Several = "several",
    }

    /// What an auth method says of a caller.
    CountedVerdict = "verdict" {
        /// The credential is good.
        Admit = "admit",
        /// The credential is bad.
        Refuse = "refuse",
        /// The app knows nobody by it.
        Stranger = "stranger",
        /// There is none.
        Abstain = "abstain",
        /// Whoever had to be asked gave no answer.
        Error = "error",
    }

    /// What the shield of the PBX kept out.
    BlockedAttempt = "attempt" {
        /// A page or an operation of administrators.
        AdminPath = "admin_path",
        /// The name of the administrator whom callgate itself uses.
        Administrator = "administrator",
        /// A third-party login.
        ThirdParty = "third_party",
        /// A session that did not go out through here.
        ForeignSession = "foreign_session",
        /// What could be read as one of these.
        Unclear = "unclear",
    }

    /// What came of a Voximplant one-time key.
    KeyOutcome = "outcome" {
        /// A new key was answered.
        New = "new",
        /// A key was answered once more.
        Repeated = "repeated",
        /// Nobody was proven, or the page was of another origin.
        Unproven = "unproven",
        /// There was no key, or none that is answered.
        Malformed = "malformed",
        /// No rule grants that user in that application.
        Forbidden = "forbidden",
        /// A rule grants a user who is not in the users file.
        UnknownUser = "unknown_user",
        /// Too many requests, or too many keys of one user.
        Limited = "limited",
        /// The app did not say who it was.
        Failed = "failed",
    }

    /// What came of asking the PBX for a session.
    MintOutcome = "outcome" {
        /// A session.
        Ok = "ok",
        /// It refused the administrator.
        Refused = "refused",
        /// It was not asked, because it refused the administrator before.
        Open = "breaker_open",
        /// The administrator lacks a right.
        NotPermitted = "not_permitted",
        /// It knows no such account.
        Unknown = "unknown",
        /// Not in time.
        Timeout = "timeout",
        /// No connection.
        Unreachable = "unreachable",
        /// Not an answer that a PBX gives.
        Nonsense = "nonsense",
    }

    /// How a tunnel ended.
    TunnelEnd = "reason" {
        /// Both sides had ended.
        Closed = "closed",
        /// Both were silent for too long.
        Idle = "idle",
        /// One of them took nothing for too long.
        Stalled = "stalled",
        /// A connection broke.
        Failed = "failed",
        /// It was cut off here, at the end of a drain, or ended before it began.
        Cut = "cut",
        /// Its account was frozen.
        Frozen = "frozen",
    }

    /// What came of fetching keys.
    FetchResult = "result" {
        /// They are in use.
        Ok = "ok",
        /// The last ones stay in use.
        Failed = "failed",
    }

    /// What came of reading the configuration again.
    ReloadResult = "result" {
        /// It is in use.
        Ok = "ok",
        /// Nothing changed.
        Failed = "failed",
    }
}

impl StatusClass {
    /// Returns the class of a status.
    #[must_use]
    pub(super) fn of(status: StatusCode) -> Self {
        match status.as_u16() / 100 {
            1 => Self::Informational,
            2 => Self::Success,
            3 => Self::Redirect,
            4 => Self::Client,
            _ => Self::Server,
        }
    }
}

impl From<Option<ProtocolVersion>> for TlsVersion {
    fn from(version: Option<ProtocolVersion>) -> Self {
        match version {
            Some(ProtocolVersion::TLSv1_3) => Self::Tls13,
            Some(ProtocolVersion::TLSv1_2) => Self::Tls12,
            _ => Self::None,
        }
    }
}

impl Label for UpstreamName {
    const KEY: &'static str = "upstream";
    const ALL: &'static [Self] = &[Self::App, Self::Pbx];

    fn index(self) -> usize {
        self as usize
    }

    fn text(self) -> &'static str {
        self.as_str()
    }
}

impl Label for LoginKind {
    const KEY: &'static str = "act";
    const ALL: &'static [Self] = &[Self::Pbx, Self::Ott];

    fn index(self) -> usize {
        self as usize
    }

    fn text(self) -> &'static str {
        self.as_str()
    }
}

impl Label for LoginOutcome {
    const KEY: &'static str = "outcome";
    const ALL: &'static [Self] = &[Self::Granted, Self::Refused];

    fn index(self) -> usize {
        self as usize
    }

    fn text(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Refused => "refused",
        }
    }
}

impl CountedMethod {
    /// Returns the word that the configuration has for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.text()
    }
}

impl LimitName {
    /// Finds a limit by the name that the configuration has for it.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|limit| limit.text() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_class() {
        for (status, expected) in [(101, "1xx"), (200, "2xx"), (308, "3xx"), (431, "4xx"), (504, "5xx"), (999, "5xx")] {
            assert_eq!(StatusClass::of(StatusCode::from_u16(status).unwrap()).text(), expected);
        }
    }

    #[test]
    fn values_stand_where_they_are_counted() {
        for (index, route) in ExchangeRoute::ALL.iter().enumerate() {
            assert_eq!(route.index(), index);
        }
        assert_eq!(LimitName::named("pbx_logins"), Some(LimitName::PbxLogins));
        assert_eq!(LimitName::named("other"), None);
    }
}
