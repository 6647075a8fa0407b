//! The configuration of a running gate. Every field is already right; `check` is the only maker.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderName, Uri};
use ipnet::IpNet;
use jiff::Timestamp;
use openidconnect::IssuerUrl;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tracing::Level;

use super::problem::Problem;
use crate::model::account::{Domain, Language};
use crate::model::grant::Rule;
use crate::model::jwt;
use crate::model::link;
use crate::model::ott::{Ha1, VoximplantUser};
use crate::model::rate::Rate;
use crate::model::secret::Secret;
use crate::model::shield::Doors;

/// Everything `proxy.toml` says, with its files read and its defaults filled in.
#[derive(Debug)]
pub struct Config {
    /// The file it was read from.
    pub file: String,
    /// Where TLS is spoken.
    pub listen: Vec<Listen>,
    /// The certificates of the TLS listeners; the first answers clients whose name fits none.
    pub certificates: Vec<Certificate>,
    /// The address that answers plain HTTP with a redirect to HTTPS.
    pub redirect_http: Option<SocketAddr>,
    /// The number of worker threads; one per core when not written.
    pub workers: Option<NonZeroUsize>,
    /// Deadlines of the downstream side.
    pub server: Server,
    /// The app: everything that is not the PBX's.
    pub app: Option<App>,
    /// The Vodia PBX.
    pub pbx: Option<Pbx>,
    /// The Voximplant users whose one-time keys are answered.
    pub voximplant: Option<Voximplant>,
    /// How callers prove who they are, in the order they are asked.
    pub methods: Vec<Method>,
    /// Who may become whom, in the order they are tried.
    pub rules: Vec<Rule>,
    /// The quotas of the login endpoints.
    pub limits: Limits,
    /// What is logged, and where.
    pub log: Log,
    /// Where audit lines go.
    pub audit: Audit,
    /// Where health and metrics are told; none: nowhere.
    pub admin: Option<Listen>,
    /// The file of what must outlive a restart; none: a restart forgets it.
    pub state: Option<PathBuf>,
    /// What is allowed but hardly meant, such as a method that no rule uses.
    pub warnings: Vec<Problem>,
}

/// Where a listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl Listen {
    /// Returns the address, if it has a port.
    #[must_use]
    pub const fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A certificate chain with its key.
#[derive(PartialEq, Eq)]
pub struct Certificate {
    /// The chain, the server's own certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: PrivateKeyDer<'static>,
    /// The host names of the certificate, in lower case, wildcards as `*.example.com`.
    pub names: Vec<String>,
    /// When the server's own certificate ends.
    pub not_after: Timestamp,
    /// Who may sign the certificates that clients must show where this one is shown; none: clients show nothing.
    pub client_ca: Option<Vec<CertificateDer<'static>>>,
}

impl Certificate {
    /// Returns the first of its names.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().map_or("-", String::as_str)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).finish_non_exhaustive()
    }
}

/// `[server]`.
#[derive(Debug, Clone)]
pub struct Server {
    /// The proxies that are believed when they say who their client is.
    pub believe_forwarded_from: Vec<IpNet>,
    /// The balancers that start each connection with a PROXY header.
    pub accept_proxy_protocol_from: Vec<IpNet>,
    /// How many connections may be open at once.
    pub max_connections: usize,
    /// How many of them one client may have (IPv6: one /64).
    pub max_connections_per_client: usize,
    /// How long exchanges in flight may take to end after SIGTERM.
    pub drain: Duration,
    /// `timeouts`.
    pub timeouts: ServerTimeouts,
}

impl Server {
    /// Tells whether a peer is believed when it says who its client is. `peer`: IPv4 in its own form.
    #[must_use]
    pub fn believes(&self, peer: IpAddr) -> bool {
        self.believe_forwarded_from.iter().any(|network| network.contains(&peer))
    }

    /// Tells whether a peer's connections start with a PROXY header.
    #[must_use]
    pub fn expects_proxy_header(&self, peer: IpAddr) -> bool {
        self.accept_proxy_protocol_from.iter().any(|network| network.contains(&peer))
    }
}

/// Deadlines toward the client.
#[derive(Debug, Clone, Copy)]
pub struct ServerTimeouts {
    /// From accept to the end of the TLS handshake.
    pub handshake: Duration,
    /// From the first byte of a request's head to its last.
    pub header: Duration,
    /// How long a connection may wait for its next request.
    pub idle: Duration,
    /// The longest pause within a body, either way.
    pub body_idle: Duration,
    /// How long a client may take no byte of what is ready for it.
    pub write_stall: Duration,
    /// The longest silence of a tunnel, both ways.
    pub tunnel_idle: Duration,
}

/// One upstream: where it is, and what is sent there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Where it listens, at least once: the first that is well is used.
    pub urls: Vec<Url>,
    /// The host names that are sent there; empty: any.
    pub hosts: Vec<HostPattern>,
    /// The path prefixes that are sent there, each starting with `/`; empty: any.
    pub paths: Vec<String>,
    /// What to trust when `url` is `https`.
    pub trust: Trust,
    /// `timeouts`.
    pub timeouts: UpstreamTimeouts,
    /// The most connections there, of all workers together.
    pub max_connections: usize,
}

impl Upstream {
    /// Tells whether `hosts` covers a host name in lower case, without port. Without `hosts`, none is covered.
    #[must_use]
    pub fn lists(&self, host: &str) -> bool {
        self.hosts.iter().any(|pattern| pattern.matches(host))
    }
}

/// Where an upstream listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Url {
    /// `http://host[:port]`.
    Http(HostPort),
    /// `https://host[:port]`.
    Https(HostPort),
    /// `unix:/path`: HTTP over a socket of this machine.
    Unix(PathBuf),
}

/// A host and a port of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A host name or an IP address, IPv6 without brackets.
    pub host: String,
    /// The port; 80 or 443 when not written.
    pub port: u16,
}

impl Url {
    /// Tells whether TLS is spoken there.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Https(_))
    }

    /// Returns where it is, as a person writes it: `host:port` or `unix:/path`.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::Http(at) | Self::Https(at) => at.to_string(),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// Returns it as the configuration has it, with its port.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Http(at) => format!("http://{at}"),
            Self::Https(at) => format!("https://{at}"),
            Self::Unix(_) => self.address(),
        }
    }

    /// Returns what `Host` calls it: the authority, without the port that goes without saying.
    #[must_use]
    pub fn authority(&self) -> String {
        match self {
            Self::Http(at) if at.port == 80 => at.bracketed(),
            Self::Https(at) if at.port == 443 => at.bracketed(),
            Self::Http(at) | Self::Https(at) => at.to_string(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl HostPort {
    fn bracketed(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.bracketed(), self.port)
    }
}

/// How an upstream's certificate is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The certificates of `ca`; none: the public trust roots.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    /// The name the certificate must have, which is also the one asked for (SNI); none: the host of `url`.
    pub server_name: Option<ServerName<'static>>,
    /// SHA-256 of the public keys (SPKI) of which the certificate must have one; empty: any key.
    ///
    /// Without `ca`, the key is all that is asked for: neither issuer, name nor dates of the certificate matter.
    pub pins: Vec<Pin>,
    /// `insecure_skip_verify`: any certificate will do.
    pub skip_verify: bool,
}

/// SHA-256 of a public key, as certificates carry it (SPKI).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin(pub [u8; 32]);

/// The text is not a pin.
#[derive(Debug, thiserror::Error)]
#[error("not a pin")]
pub struct NoPin;

impl FromStr for Pin {
    type Err = NoPin;

    fn from_str(text: &str) -> Result<Self, NoPin> {
        let digest = BASE64_STANDARD.decode(text.strip_prefix("sha256/").unwrap_or(text)).map_err(|_| NoPin)?;
        digest.try_into().map(Self).map_err(|_| NoPin)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", BASE64_STANDARD.encode(self.0))
    }
}

/// Deadlines toward an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// From the look-up of the name to the end of the TLS handshake.
    pub connect: Duration,
    /// From the last byte of the request to the first of the answer.
    pub first_byte: Duration,
    /// How long an idle connection is kept for the next request.
    pub keep_alive: Duration,
}

/// A host name, or `*.` and a host name for all names directly or further below it. In lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// Exactly this name.
    Exact(String),
    /// Any name that ends in this suffix, which starts with a dot.
    Below(String),
}

impl HostPattern {
    /// Returns the name, if there is only one.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        match self {
            Self::Exact(name) => Some(name),
            Self::Below(_) => None,
        }
    }

    /// Tells whether a host name in lower case, without port, fits.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }
}

/// `[app]`.
#[derive(Debug, Clone)]
pub struct App {
    /// Where it is.
    pub upstream: Upstream,
    /// Where a browser without a login is sent: an absolute URL or a path of the app.
    pub login: Option<String>,
}

/// `[pbx]`.
#[derive(Debug, Clone)]
pub struct Pbx {
    /// Where it is.
    pub upstream: Upstream,
    /// The administrator who may open third-party sessions; none: the PBX is passed through only.
    pub admin: Option<Admin>,
    /// How a session reaches the browser.
    pub handoff: Handoff,
    /// How sessions of administrators are asked for.
    pub dialect: Dialect,
    /// The path of the landing page: `/welcome.htm` for `link`, `/thirdparty.htm` for `cookie` when not written.
    pub landing: String,
    /// The languages a caller may choose.
    pub languages: Vec<Language>,
    /// The deadline of one question to the PBX (mint or exchange), connecting included.
    pub timeout: Duration,
    /// What only some networks may do there; none: whatever the PBX permits, from anywhere.
    pub shield: Option<Shield>,
}

/// `[pbx] shield`.
#[derive(Debug, Clone)]
pub struct Shield {
    /// The networks that are not kept from anything.
    pub from: Vec<IpNet>,
    /// The paths of administrators.
    pub doors: Doors,
    /// Whether a browser may land with a session that went out elsewhere.
    pub any_session: bool,
}

impl Shield {
    /// Tells whether a client is kept from something. `client`: IPv4 in its own form.
    #[must_use]
    pub fn is_for(&self, client: IpAddr) -> bool {
        !self.from.iter().any(|network| network.contains(&client))
    }
}

/// The PBX administrator's credentials. Their use is `pbx`'s alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// The administrator's name.
    pub user: String,
    /// The administrator's password.
    pub password: Secret,
}

/// How a session reaches the browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handoff {
    /// In the query of a redirect to the landing page.
    Link,
    /// In the PBX's own cookie; no id in any URL.
    Cookie,
}

/// How the PBX is asked for sessions of administrators; those of users are asked for alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The tenant's administrator is the user `admin`. Nobody can ask for the system's.
    Legacy,
    /// The tenant's administrator is no user; the system's is `"admin": true`.
    Modern,
}

/// `[voximplant]`.
#[derive(Debug, Clone)]
pub struct Voximplant {
    /// The users file: user name → HA1.
    pub users: Arc<HashMap<String, Ha1>>,
    /// Where that file is.
    pub users_file: PathBuf,
    /// `myapp.myaccount`: what a full login name must carry behind its `@`.
    pub application: Option<String>,
    /// The applications besides that one.
    pub others: Vec<Application>,
    /// How passwords are set at Voximplant; none: not from here.
    pub management: Option<Management>,
    /// The longest key that is answered, in bytes.
    pub max_key_length: usize,
    /// How many different keys of one user are answered.
    pub distinct_keys: Rate,
    /// The origins, besides our own, whose pages may ask; exactly as browsers send them.
    pub origins: Vec<String>,
}

impl Voximplant {
    /// Finds the HA1 of a user, in the application it is of. The first is never named: a user has one spelling.
    #[must_use]
    pub fn ha1(&self, user: &VoximplantUser) -> Option<&Ha1> {
        let users = match user.application() {
            Some(name) => &self.others.iter().find(|other| other.name == name)?.users,
            None => &self.users,
        };
        users.get(user.name())
    }
}

/// One of `[[voximplant.applications]]`.
#[derive(Debug, Clone)]
pub struct Application {
    /// `myapp.myaccount`.
    pub name: String,
    /// Its users file: user name → HA1.
    pub users: Arc<HashMap<String, Ha1>>,
    /// Where that file is.
    pub users_file: PathBuf,
}

/// `[voximplant] management`: the Management API.
#[derive(Debug, Clone)]
pub struct Management {
    /// The number of the account.
    pub account_id: u64,
    /// How callgate proves that it may.
    pub proof: ManagementProof,
    /// Where the functions are, ending in a slash.
    pub url: String,
}

/// How the Management API is shown that one may.
#[derive(Debug, Clone)]
pub enum ManagementProof {
    /// The key of the account.
    ApiKey(Secret),
    /// The private key of a service account, as PEM, by which tokens are signed.
    ServiceAccount {
        /// Its name.
        key_id: String,
        /// RSA, as PEM.
        key: Secret,
    },
}

/// One way to prove a caller, as configured.
#[derive(Debug, Clone)]
pub struct Method {
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
    App(Whoami),
    /// A server shows a key of ours.
    Key(ApiKey),
    /// A proxy before us names the caller.
    Header(TrustedHeader),
    /// The caller's end of the connection showed a certificate.
    Mtls(ClientCertificate),
    /// A token is shown that somebody has signed.
    Jwt(Jwt),
    /// A server has signed an address.
    Link(SignedLinks),
    /// A person logs in at an identity provider.
    Oidc(Oidc),
}

/// The settings of a method of type `app`.
#[derive(Debug, Clone)]
pub struct Whoami {
    /// The path (and query) that is asked, starting with `/`.
    pub path: String,
    /// Which of the caller's cookies are shown to the app.
    pub cookies: Names,
    /// Which of the caller's other header fields are shown to the app, in lower case.
    pub headers: Vec<HeaderName>,
    /// The deadline of the answer, connecting included.
    pub timeout: Duration,
    /// How long an answer that knows the caller is believed, from when it was asked for; none: each login asks.
    pub cache: Option<Duration>,
}

/// All, or only those listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// All of them.
    All,
    /// These, by exact name.
    Listed(Vec<String>),
}

/// The settings of a method of type `link`.
#[derive(Debug, Clone)]
pub struct SignedLinks {
    /// The secrets that sign; the first signs what we sign ourselves.
    pub keys: Vec<link::Key>,
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
pub struct ApiKey {
    /// SHA-256 of the key.
    pub sha256: [u8; 32],
    /// May the key open PBX sessions?
    pub pbx: bool,
    /// May the key answer Voximplant keys?
    pub ott: bool,
    /// The PBX domains it may name.
    pub domains: Vec<Domain>,
    /// The PBX accounts it may name; none: any account of these domains.
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
pub struct Oidc {
    /// Who the provider is: the address below which it tells of itself.
    pub issuer: IssuerUrl,
    /// Who we are to the provider.
    pub client_id: String,
    /// What proves that; none: a public client.
    pub client_secret: Option<Secret>,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// Whether the provider is also asked at its userinfo endpoint.
    pub userinfo: bool,
    /// How long a login is remembered.
    pub remember: Duration,
    /// What the cookies are sealed with; none: a key for as long as the process lives.
    pub cookie_key: Option<Secret>,
    /// The host where people log in, in lower case, without port; none: whichever they are at.
    pub host: Option<String>,
    /// Where the provider sends people who have logged out; none: nowhere.
    pub after_logout: Option<String>,
    /// How the provider's certificate is judged.
    pub trust: Trust,
}

/// The settings of a method of type `header`.
#[derive(Debug, Clone)]
pub struct TrustedHeader {
    /// The addresses of the proxies that are believed.
    pub from: Vec<IpNet>,
    /// The field that names the caller.
    pub user: HeaderName,
    /// Other claims by name, and the fields that say them.
    pub claims: Vec<(String, HeaderClaim)>,
    /// What the proxies prove themselves by, besides their address.
    pub secret: Option<HeaderSecret>,
}

impl TrustedHeader {
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
    /// What stands between the items of a list; none: it is one text.
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
pub struct ClientCertificate {
    /// What names the caller: the first kind of name that the certificate has.
    pub identity: Vec<Identity>,
    /// SHA-256 of the certificates that are accepted; empty: all that the authorities signed.
    pub fingerprints: Vec<[u8; 32]>,
    /// The authorities whose certificates are looked at; none: those of all listeners, which are the same.
    pub client_ca: Option<Vec<CertificateDer<'static>>>,
}

/// A kind of name in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
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
pub struct Jwt {
    /// Where the token is.
    pub place: TokenPlace,
    /// Whether it travels by itself, whoever made the browser send the request.
    pub is_ambient: bool,
    /// The keys that it may be signed with.
    pub keys: JwtKeys,
    /// What it must say.
    pub rules: jwt::Rules,
    /// The claim that says who somebody is; none: the usual one.
    pub subject: Option<String>,
}

/// Where a request carries a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenPlace {
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
pub enum JwtKeys {
    /// These.
    Fixed(Arc<jwt::Keys>),
    /// Those that an identity provider publishes.
    Fetched(KeySet),
}

/// Where an identity provider publishes its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySet {
    /// The address; `https`, or `http` on this machine.
    pub url: Uri,
    /// The certificates of `ca`; none: the public trust roots.
    pub ca: Option<Vec<CertificateDer<'static>>>,
}

/// `[limits]`.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests to the login endpoints, for each client address (IPv6: /64).
    pub client: Rate,
    /// Requests to the login endpoints, for each proven caller.
    pub caller: Rate,
    /// Grants for each account or Voximplant user.
    pub account: Rate,
    /// Grants of administrators' sessions, for each administrator.
    pub admin: Rate,
    /// Refusals for each client address, before all its requests are refused for a while.
    pub failures: Rate,
    /// Password logins passing through to the PBX, for each client address.
    pub pbx_logins: Rate,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Where the access lines go.
    pub access: Access,
    /// Their form.
    pub format: Format,
    /// The least serious event that is logged to standard error.
    pub level: Level,
}

/// `[audit]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// The file that receives the audit lines; none: they go where the access log goes.
    pub file: Option<PathBuf>,
    /// Whether each line of that file is bound to the one before it.
    pub chain: bool,
    /// The daemon that hears each of them as well.
    pub syslog: Option<Syslog>,
}

/// Where a syslog daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Syslog {
    /// The socket of the daemon of this machine.
    Unix(PathBuf),
    /// A UDP port of any machine.
    Udp(SocketAddr),
}

impl fmt::Display for Syslog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(address) => write!(f, "udp:{address}"),
        }
    }
}

/// Where access lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Standard output.
    Stdout,
    /// Nowhere.
    Off,
    /// The end of this file.
    File(PathBuf),
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `key=value` for people.
    Text,
    /// One JSON object a line.
    Json,
}
