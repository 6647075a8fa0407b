//! The auth methods, each with its settings.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Uri};
use ipnet::IpNet;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;

use super::Trust;
use crate::model::account::Domain;
use crate::model::jwt;
use crate::model::link;
use crate::model::secret::Secret;

/// One way to prove a caller, as configured.
#[derive(Debug, Clone)]
pub struct MethodConfig {
    /// The name that rules and the audit log use.
    pub name: String,
    /// Its kind.
    pub kind: MethodKind,
    /// Whether a request that shows its credential is judged by that, whatever cookies come along.
    pub ignore_cookies: bool,
}

/// The kinds of auth methods, with their settings.
#[derive(Debug, Clone)]
pub enum MethodKind {
    /// The app is asked who its cookie belongs to.
    App(AppMethodConfig),
    /// A server shows a key of ours.
    Key(KeyConfig),
    /// A proxy before us names the caller.
    Header(HeaderConfig),
    /// The caller's end of the connection showed a certificate.
    Mtls(MtlsConfig),
    /// A token is shown that somebody has signed.
    Jwt(JwtConfig),
    /// A server has signed an address.
    Link(LinkConfig),
    /// A person logs in at an identity provider.
    Oidc(OidcConfig),
}

/// The settings of a method of type `app`.
#[derive(Debug, Clone)]
pub struct AppMethodConfig {
    /// The path (and query) that is asked, starting with `/`.
    pub path: String,
    /// Which of the caller's cookies are shown to the app.
    pub cookies: CookieFilter,
    /// Which of the caller's other header fields are shown to the app, in lower case.
    pub headers: Vec<HeaderName>,
    /// The deadline of the answer, connecting included.
    pub timeout: Duration,
    /// How long an answer that knows the caller is believed, from when it was asked for; `None`: each login asks.
    pub cache: Option<Duration>,
}

/// All, or only those listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CookieFilter {
    /// All of them.
    All,
    /// These, by exact name.
    Listed(Vec<String>),
}

/// The settings of a method of type `link`.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// The secrets that sign; the first signs what we sign ourselves.
    pub keys: Vec<link::LinkKey>,
    /// How long a link may live.
    pub ttl: Duration,
    /// Whether a person must say that they mean it.
    pub confirm: Confirm,
}

/// Whether a person must say that they mean to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirm {
    /// No: whoever opens the link is logged in.
    Never,
    /// Unless their browser says that they clicked.
    Auto,
    /// Yes.
    Always,
}

/// The settings of a method of type `key`.
#[derive(Debug, Clone)]
pub struct KeyConfig {
    /// SHA-256 of the key.
    pub sha256: [u8; 32],
    /// May the key open PBX sessions?
    pub pbx: bool,
    /// May the key answer Voximplant keys?
    pub ott: bool,
    /// The PBX domains it may name.
    pub domains: Vec<Domain>,
    /// The PBX accounts it may name; `None`: any account of these domains.
    pub accounts: Option<Vec<String>>,
    /// The Voximplant users it may name.
    pub users: Vec<String>,
    /// The networks it may come from; empty: any.
    pub from: Vec<IpNet>,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

/// The settings of a method of type `oidc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcConfig {
    /// Who the provider is: the address below which it tells of itself.
    pub issuer: String,
    /// Who we are to the provider.
    pub client_id: String,
    /// What proves that; `None`: a public client.
    pub client_secret: Option<Secret>,
    /// The other audiences that an ID token may be for as well; `None`: any, if it was given to us.
    pub trusted_audiences: Option<Vec<String>>,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// Whether the provider is also asked at its userinfo endpoint.
    pub userinfo: bool,
    /// How long a login is remembered.
    pub remember: Duration,
    /// What the cookies are sealed with; `None`: a key for as long as the process lives.
    pub cookie_key: Option<Secret>,
    /// The host where people log in, in lower case, without port; `None`: whichever they are at.
    pub host: Option<String>,
    /// Where the provider sends people who have logged out; `None`: nowhere.
    pub after_logout: Option<String>,
    /// How the provider's certificate is judged.
    pub trust: Trust,
}

/// The settings of a method of type `header`.
#[derive(Debug, Clone)]
pub struct HeaderConfig {
    /// The addresses of the proxies that are believed.
    pub from: Vec<IpNet>,
    /// The field that names the caller.
    pub user: HeaderName,
    /// Other claims by name, and the fields that say them.
    pub claims: Vec<(String, HeaderClaim)>,
    /// What the proxies prove themselves by, besides their address.
    pub secret: Option<HeaderSecret>,
}

impl HeaderConfig {
    /// Returns every field that nobody else may send, the secret's among them.
    pub fn fields(&self) -> impl Iterator<Item = &HeaderName> {
        let claims = self.claims.iter().map(|(_, claim)| &claim.field);
        [&self.user].into_iter().chain(claims).chain(self.secret.iter().map(|secret| &secret.field))
    }
}

/// A field that says a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderClaim {
    /// The field.
    pub field: HeaderName,
    /// What stands between the items of a list; `None`: it is one text.
    pub separator: Option<char>,
}

/// A field that proves a proxy.
#[derive(Debug, Clone)]
pub struct HeaderSecret {
    /// The field.
    pub field: HeaderName,
    /// Its value.
    pub value: Secret,
}

/// The settings of a method of type `mtls`.
#[derive(Debug, Clone)]
pub struct MtlsConfig {
    /// What names the caller: the first kind of name that the certificate has.
    pub identity: Vec<CertificateName>,
    /// SHA-256 of the certificates that are accepted; empty: all that the authorities signed.
    pub fingerprints: Vec<[u8; 32]>,
    /// The authorities whose certificates are looked at; `None`: those of all listeners, which are the same.
    pub client_ca: Option<Vec<CertificateDer<'static>>>,
}

/// A kind of name in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateName {
    /// A URI among its alternative names.
    SanUri,
    /// A mail address among them.
    SanEmail,
    /// A host name among them.
    SanDns,
    /// SHA-256 of it.
    Fingerprint,
    /// The common name of its subject.
    Cn,
}

/// The settings of a method of type `jwt`.
#[derive(Debug, Clone)]
pub struct JwtConfig {
    /// Where the token is.
    pub location: TokenLocation,
    /// Whether it travels by itself, whoever made the browser send the request.
    pub is_ambient: bool,
    /// The keys that it may be signed with.
    pub keys: JwtKeySource,
    /// What it must say.
    pub rules: jwt::TokenRules,
    /// The claim that says who somebody is; `None`: the usual one.
    pub subject: Option<String>,
}

/// Where a request carries a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenLocation {
    /// Behind `Authorization: Bearer`.
    Bearer,
    /// In a field of its own.
    Header(HeaderName),
    /// In a cookie.
    Cookie(String),
    /// In a parameter of the query; once.
    Query(String),
}

/// The keys that a token may be signed with.
#[derive(Debug, Clone)]
pub enum JwtKeySource {
    /// These.
    Fixed(Arc<jwt::VerificationKeys>),
    /// Those that an identity provider publishes.
    Fetched(JwksConfig),
}

/// Where an identity provider publishes its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksConfig {
    /// The address; `https`, or `http` on this machine.
    pub url: Uri,
    /// The certificates of `ca`; `None`: the public trust roots.
    pub ca: Option<Vec<CertificateDer<'static>>>,
}
