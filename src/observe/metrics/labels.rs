//! The labels of metrics and their values: closed sets, so that no request can create a series.

use http::StatusCode;
use rustls::ProtocolVersion;

use crate::model::login::{LoginKind, LoginOutcome, LogoutKind, LogoutOutcome};
use crate::model::session::EndReason;
use crate::model::upstream_name::UpstreamName;

/// A label with all its values.
pub(super) trait Label: Copy + 'static {
    const KEY: &'static str;
    const ALL: &'static [Self];
    /// How many values there are.
    const COUNT: usize = Self::ALL.len();
    /// Returns the index of the value in `ALL`.
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
    /// The part of the gate that answers an exchange.
    ExchangeRoute = "route" {
        /// The app.
        App = "app",
        /// The PBX, passed through.
        Pbx = "pbx",
        /// `/auth/ott`.
        Ott = "auth_ott",
        /// `/auth/pbx`.
        Login = "auth_pbx",
        /// `/auth/pbx/socket`.
        Socket = "auth_pbx_socket",
        /// `/auth/callgate/`.
        Callgate = "auth_callgate",
        /// A redirect of the app that was given a session.
        Injected = "injected",
        /// An answer of callgate before any of these was chosen.
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
        /// Errors of the client.
        Client = "4xx",
        /// Errors of callgate or an upstream.
        Server = "5xx",
        /// The client left before there was an answer.
        None = "none",
    }

    /// The direction of the bytes of bodies and tunnels.
    Direction = "direction" {
        /// From clients.
        Received = "received",
        /// To clients.
        Sent = "sent",
    }

    /// The protocol of a client's connection.
    ClientProtocol = "protocol" {
        /// HTTP/1.0 or HTTP/1.1.
        H1 = "h1",
        /// HTTP/2.
        H2 = "h2",
        /// Any, over TLS: the connection is passed on.
        Passthrough = "passthrough",
    }

    /// How a TLS handshake ended.
    HandshakeResult = "result" {
        /// A new session.
        Full = "full",
        /// A resumed session.
        Resumed = "resumed",
        /// The client broke off, or the two had no version or cipher suite in common.
        Failed = "failed",
        /// It took too long.
        Timeout = "timeout",
    }

    /// The negotiated version of TLS.
    TlsVersion = "version" {
        /// TLS 1.2.
        Tls12 = "1.2",
        /// TLS 1.3.
        Tls13 = "1.3",
        /// The handshake did not get that far.
        None = "none",
    }

    /// How opening a connection to an upstream ended.
    ConnectResult = "result" {
        /// It succeeded.
        Ok = "ok",
        /// `max_connections` is reached.
        Full = "full",
        /// No program listens there, the name is unknown, or TLS failed.
        Failed = "failed",
        /// It took too long.
        Timeout = "timeout",
    }

    /// Whether a request to an upstream reuses a connection.
    ConnectionUse = "connection" {
        /// A new connection.
        New = "new",
        /// A connection that carried another request before.
        Reused = "reused",
    }

    /// Why a request to a reachable upstream has no answer.
    UpstreamFault = "error" {
        /// It took too long.
        Timeout = "timeout",
        /// The connection broke.
        Broken = "broken",
        /// The answer violates HTTP.
        BadResponse = "bad_response",
        /// The body of the request broke off.
        Client = "client",
    }

    /// A limit of `[limits]`, or one of `[voximplant]`.
    LimitName = "limit" {
        /// By address.
        Client = "client",
        /// By proven caller.
        Caller = "caller",
        /// By account or Voximplant user.
        Account = "account",
        /// By administrator.
        Admin = "admin",
        /// By bad credentials of an address.
        Failures = "failures",
        /// Different unknown cookies of an address.
        StaleCookies = "stale_cookies",
        /// Password logins that pass through.
        PbxLogins = "pbx_logins",
        /// One-time keys of one user.
        DistinctKeys = "distinct_keys",
        /// Voximplant users that are added at their first login.
        NewUsers = "new_users",
    }

    /// A kind of auth method.
    CountedMethod = "method" {
        /// The app's `whoami`.
        App = "app",
        /// A key of `proxy.toml`.
        Key = "key",
        /// A signed link.
        Link = "link",
        /// A JSON Web Token.
        Jwt = "jwt",
        /// Header fields of a trusted proxy.
        Header = "header",
        /// A client certificate.
        Mtls = "mtls",
        /// A login at an identity provider.
        Oidc = "oidc",
        /// A redirect in which the app names the account.
        Redirect = "redirect",
        /// No credential.
        None = "none",
        /// Credentials of more than one method.
        Several = "several",
    }

    /// The verdict of an auth method.
    CountedVerdict = "verdict" {
        /// The credential is good.
        Admit = "admit",
        /// The credential is bad.
        Refuse = "refuse",
        /// The app does not know the credential.
        Stranger = "stranger",
        /// There is no credential.
        Abstain = "abstain",
        /// The app or the identity provider gave no answer.
        Error = "error",
    }

    /// An attempt that the shield of the PBX blocked.
    BlockedAttempt = "attempt" {
        /// A page or an operation of administrators.
        AdminPath = "admin_path",
        /// The user name of callgate's own administrator.
        Administrator = "administrator",
        /// A third-party login.
        ThirdParty = "third_party",
        /// A session that callgate did not issue.
        ForeignSession = "foreign_session",
        /// A request that the PBX could read as one of these.
        Unclear = "unclear",
    }

    /// The outcome of a Voximplant one-time key.
    KeyOutcome = "outcome" {
        /// A new key was answered.
        New = "new",
        /// A key was answered again.
        Repeated = "repeated",
        /// The caller is not proven, or the page belongs to another origin.
        Unproven = "unproven",
        /// The key is missing or malformed.
        Malformed = "malformed",
        /// No rule grants that user in that application.
        Forbidden = "forbidden",
        /// A rule grants a user who is not in the users file.
        UnknownUser = "unknown_user",
        /// Too many requests, or too many keys of one user.
        Limited = "limited",
        /// The app gave no answer.
        Failed = "failed",
    }

    /// A step of an automatic login at the PBX.
    AutoStep = "step" {
        /// A page of the PBX sent a browser to the login.
        Begun = "begun",
        /// The browser is back with a session.
        Arrived = "arrived",
        /// The browser is back from the login page of the app.
        Resumed = "resumed",
        /// The browser went back to the PBX's own page: no caller was proven, or no rule grants a session.
        TurnedBack = "turned_back",
        /// The browser shows no session behind its login.
        NotKept = "not_kept",
    }

    /// What the PBX said about the session of a browser.
    CheckedState = "state" {
        /// A user is logged in.
        Alive = "alive",
        /// The session is over.
        Over = "over",
        /// There was no clear answer in time.
        Unknown = "unknown",
    }

    /// The outcome of minting a session at the PBX.
    MintOutcome = "outcome" {
        /// A session.
        Ok = "ok",
        /// The PBX refused the administrator.
        Refused = "refused",
        /// Not tried: the PBX refused the administrator before.
        Open = "breaker_open",
        /// The administrator lacks a right.
        NotPermitted = "not_permitted",
        /// The PBX knows no such account.
        Unknown = "unknown",
        /// It took too long.
        Timeout = "timeout",
        /// No connection.
        Unreachable = "unreachable",
        /// The answer is malformed.
        BadResponse = "bad_response",
    }

    /// How a tunnel ended.
    TunnelEnd = "reason" {
        /// Both sides had ended.
        Closed = "closed",
        /// Both sides were silent for too long.
        Idle = "idle",
        /// One side accepted no bytes for too long.
        Stalled = "stalled",
        /// A connection broke.
        Failed = "failed",
        /// Callgate closed it at the end of a drain, or it ended before it began.
        Cut = "cut",
        /// Its account was frozen.
        Frozen = "frozen",
        /// A session that it was opened with was ended.
        SessionEnded = "session_ended",
        /// A reload changed what its host asks of clients in the handshake.
        CertificatePolicyChanged = "certificate_policy_changed",
    }

    /// The outcome of ending a session at the PBX.
    DeleteOutcome = "outcome" {
        /// The PBX ended it.
        Ok = "ok",
        /// The PBX did not know it any more.
        Gone = "gone",
        /// The PBX did not end it, however often it was told.
        Failed = "failed",
    }

    /// The result of fetching keys.
    FetchResult = "result" {
        /// The new keys are in use.
        Ok = "ok",
        /// The keys before stay in use.
        Failed = "failed",
    }

    /// How a handshake ended for a name that had no certificate yet.
    DemandResult = "result" {
        /// There was a certificate in time.
        Issued = "issued",
        /// The order failed, now or a short time ago.
        Failed = "failed",
        /// The PBX has no such tenant.
        Unknown = "unknown",
        /// The PBX did not list its tenants.
        NoAnswer = "no_answer",
        /// The quota is used up.
        Quota = "quota",
        /// Too many names or handshakes wait, or there are as many certificates as may be.
        Full = "full",
    }

    /// What became of something for a collector of OpenTelemetry.
    ExportResult = "result" {
        /// The collector has it.
        Sent = "sent",
        /// It found no room, or the collector did not take it.
        Lost = "lost",
    }

    /// A change of a user at Voximplant.
    UserChangeKind = "change" {
        /// The user was added.
        Create = "create",
        /// The user was deactivated.
        Deactivate = "deactivate",
        /// The user was activated.
        Activate = "activate",
        /// The user got another password.
        Rotate = "rotate",
    }

    /// The result of a change at Voximplant.
    UserChangeResult = "result" {
        /// Voximplant confirmed it.
        Ok = "ok",
        /// Voximplant refused it, or gave no answer.
        Failed = "failed",
    }

    /// The result of reading the configuration again.
    ReloadResult = "result" {
        /// The new configuration is in use.
        Ok = "ok",
        /// The configuration before stays in use.
        Failed = "failed",
    }
}

impl ExchangeRoute {
    /// Returns the route in the words of metrics and spans.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.text()
    }
}

impl TlsVersion {
    /// Returns the version in the words of metrics and access lines.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.text()
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

impl Label for EndReason {
    const KEY: &'static str = "reason";
    const ALL: &'static [Self] = &Self::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn text(self) -> &'static str {
        self.as_str()
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
    const ALL: &'static [Self] = &[Self::Granted, Self::Refused, Self::Ticket];

    fn index(self) -> usize {
        self as usize
    }

    fn text(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Refused => "refused",
            Self::Ticket => "ticket",
        }
    }
}

impl Label for LogoutKind {
    const KEY: &'static str = "act";
    const ALL: &'static [Self] = &[Self::Person, Self::Provider];

    fn index(self) -> usize {
        self as usize
    }

    fn text(self) -> &'static str {
        self.as_str()
    }
}

impl Label for LogoutOutcome {
    const KEY: &'static str = "outcome";
    const ALL: &'static [Self] = &[Self::Done, Self::Unconfirmed, Self::Refused];

    fn index(self) -> usize {
        self as usize
    }

    fn text(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Unconfirmed => "unconfirmed",
            Self::Refused => "refused",
        }
    }
}

impl CountedMethod {
    /// Returns the type of the method in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.text()
    }
}

impl LimitName {
    /// Finds a limit by its name in the configuration.
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
