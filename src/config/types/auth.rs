//! The configuration of auth methods.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Uri};
use ipnet::IpNet;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;

use super::Trust;
use crate::config::OutboundProxy;
use crate::model::account::Domain;
use crate::model::jwt;
use crate::model::link;
use crate::model::secret::Secret;

/// One `[[auth]]` table.
#[derive(Debug, Clone)]
pub struct MethodConfig {
    /// The name that rules and the audit log use.
    pub name: String,
    /// Its type, with the settings of that type.
    pub kind: MethodKind,
    /// Whether a request with a credential of this method is judged by it even if cookies come along.
    pub ignore_cookies: bool,
}

/// The types of auth methods, with their settings.
#[derive(Debug, Clone)]
pub enum MethodKind {
    /// The app tells whose cookie a request carries.
    App(AppMethodConfig),
    /// A server authenticates by a key of callgate.
    Key(KeyConfig),
    /// A trusted proxy names the caller in a field.
    Header(HeaderConfig),
    /// The connection has a client certificate.
    Mtls(MtlsConfig),
    /// The request carries a signed token.
    Jwt(JwtConfig),
    /// A server signed the address of the request.
    Link(LinkConfig),
    /// The person logs in at an OpenID Connect provider.
    Oidc(OidcConfig),
}

/// The settings of a method of type `app`.
#[derive(Debug, Clone)]
pub struct AppMethodConfig {
    /// The path (and query) at which the app is asked, starting with `/`.
    pub path: String,
    /// The caller's cookies that are forwarded to the app.
    pub cookies: CookieFilter,
    /// The caller's other fields that are forwarded to the app.
    pub headers: Vec<HeaderName>,
    /// The deadline of the answer, connecting included.
    pub timeout: Duration,
    /// The time for which a positive answer is cached, from the question on; `None`: each login asks.
    pub cache: Option<Duration>,
}

/// The cookies that a filter passes.
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
    /// The keys; the first signs the links that callgate makes.
    pub keys: Vec<link::LinkKey>,
    /// The longest life of a link.
    pub ttl: Duration,
    /// Whether a person must confirm the login.
    pub confirm: Confirm,
}

/// Whether a person must confirm a login by link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirm {
    /// Never: opening the link logs in.
    Never,
    /// Unless the browser states that the person clicked the link.
    Auto,
    /// Always.
    Always,
}

/// The settings of a method of type `key`.
#[derive(Debug, Clone)]
pub struct KeyConfig {
    /// SHA-256 of the key.
    pub sha256: [u8; 32],
    /// Whether the key may open PBX sessions.
    pub pbx: bool,
    /// Whether the key may have one-time keys answered.
    pub ott: bool,
    /// The PBX domains that it may name.
    pub domains: Vec<Domain>,
    /// The PBX accounts that it may name; `None`: any account of these domains.
    pub accounts: Option<Vec<String>>,
    /// The Voximplant users that it may name.
    pub users: Vec<String>,
    /// The networks that it may be used from; empty: any.
    pub from: Vec<IpNet>,
    /// The end of its validity.
    pub expires: Option<Timestamp>,
}

/// The settings of a method of type `oidc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcConfig {
    /// The issuer: the URL below which the provider publishes its metadata.
    pub issuer: String,
    /// The client id of callgate at the provider.
    pub client_id: String,
    /// The secret of the client; `None`: a public client.
    pub client_secret: Option<Secret>,
    /// Further audiences that an ID token may name; `None`: any, if `azp` is our client id.
    pub trusted_audiences: Option<Vec<String>>,
    /// The scopes of the request.
    pub scopes: Vec<String>,
    /// Whether the userinfo endpoint is asked as well.
    pub userinfo: bool,
    /// The time for which a login is remembered.
    pub remember: Duration,
    /// The secret that seals the cookies; `None`: a random key that ends with the process.
    pub cookie_key: Option<Secret>,
    /// The host of all logins, in lower case, without port; `None`: the host of the request.
    pub host: Option<String>,
    /// The page that the provider sends people to after logout; `None`: none is named.
    pub after_logout: Option<String>,
    /// The checks of the provider's certificate.
    pub trust: Trust,
    /// The proxy between callgate and the internet.
    pub outbound_proxy: Option<Arc<OutboundProxy>>,
}

/// The settings of a method of type `header`.
#[derive(Debug, Clone)]
pub struct HeaderConfig {
    /// The addresses of the trusted proxies.
    pub from: Vec<IpNet>,
    /// The field with the caller.
    pub user: HeaderName,
    /// Other claims, and the fields with their values.
    pub claims: Vec<(String, HeaderClaim)>,
    /// The secret by which the proxies authenticate besides their address.
    pub secret: Option<HeaderSecret>,
}

impl HeaderConfig {
    /// Returns all fields that only the trusted proxies may send, that of the secret included.
    pub fn fields(&self) -> impl Iterator<Item = &HeaderName> {
        let claims = self.claims.iter().map(|(_, claim)| &claim.field);
        [&self.user].into_iter().chain(claims).chain(self.secret.iter().map(|secret| &secret.field))
    }
}

/// A field with the value of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderClaim {
    /// The field.
    pub field: HeaderName,
    /// The separator of list items; `None`: the value is one text.
    pub separator: Option<char>,
}

/// A field with a proxy's secret.
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
    /// The kinds of names that may identify the caller; the first one in the certificate counts.
    pub identity: Vec<CertificateName>,
    /// SHA-256 of the accepted certificates; empty: all that the CAs signed.
    pub fingerprints: Vec<[u8; 32]>,
    /// The CAs whose certificates are accepted; `None`: those of all listeners, which are the same.
    pub client_ca: Option<Vec<CertificateDer<'static>>>,
}

/// A kind of name in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateName {
    /// A URI of its subject alternative name.
    SanUri,
    /// An e-mail address of its subject alternative name.
    SanEmail,
    /// A DNS name of its subject alternative name.
    SanDns,
    /// SHA-256 of the certificate.
    Fingerprint,
    /// The common name of its subject.
    Cn,
}

/// The settings of a method of type `jwt`.
#[derive(Debug, Clone)]
pub struct JwtConfig {
    /// The place of the token in a request.
    pub location: TokenLocation,
    /// Whether browsers send the token on their own with requests that other sites cause.
    pub is_ambient: bool,
    /// The keys that verify it.
    pub keys: JwtKeySource,
    /// The rules for its contents.
    pub rules: jwt::TokenRules,
    /// The claim with the subject; `None`: `sub`.
    pub subject: Option<String>,
}

/// The place of a token in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenLocation {
    /// In `Authorization: Bearer`.
    Bearer,
    /// In a field of its own.
    Header(HeaderName),
    /// In a cookie.
    Cookie(String),
    /// In a query parameter that is given once.
    Query(String),
}

/// The source of the keys that verify tokens.
#[derive(Debug, Clone)]
pub enum JwtKeySource {
    /// Keys of the configuration.
    Fixed(Arc<jwt::VerificationKeys>),
    /// A key set that an identity provider publishes.
    Fetched(JwksConfig),
}

/// The key set of an identity provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksConfig {
    /// Its URL; `https`, or `http` on this machine.
    pub url: Uri,
    /// The certificates of `ca`; `None`: the public trust roots.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    /// The proxy between callgate and the internet.
    pub outbound_proxy: Option<Arc<OutboundProxy>>,
}
