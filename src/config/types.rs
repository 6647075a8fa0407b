//! The configuration of a running gate. Only `check` makes one, so every field is valid.

mod auth;
mod auto;
mod pages;
mod passthrough;
mod pbx;
mod pbx_nodes;
mod shared;
mod telemetry;
mod tls;
mod upstream;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tracing::Level;

pub use self::auth::*;
pub use self::auto::*;
pub use self::pages::*;
pub use self::passthrough::*;
pub use self::pbx::*;
pub use self::pbx_nodes::*;
pub use self::shared::*;
pub use self::telemetry::*;
pub use self::tls::*;
pub use self::upstream::*;
use super::outbound_proxy::OutboundProxy;
use super::problem::{Problem, UnseenSecret};
use crate::model::freeze_target::FreezeMeans;
use crate::model::grant::Rule;
use crate::model::key_ring::KeyRing;
use crate::model::limit_set::LimitSet;
use crate::model::member_name::MemberName;
use crate::model::ott::{Ha1, VoximplantUser};
use crate::model::rate::Rate;
use crate::model::secret::Secret;

/// The contents of `proxy.toml`, with the files it names and with defaults filled in.
#[derive(Debug)]
pub struct Config {
    /// The file it was read from.
    pub file: String,
    /// The file as it is written, without passwords in URLs.
    pub written: Value,
    /// The addresses of the TLS listeners.
    pub listen: Vec<Listen>,
    /// The certificates of the TLS listeners. The first one serves clients that ask for an unknown name.
    pub certificates: Vec<Certificate>,
    /// The certificates that cannot be read, and were not read before.
    pub missing_certificates: Vec<MissingCertificate>,
    /// `tls.acme`: the certificates that callgate gets by itself; `None`: all are in files.
    pub acme: Option<AcmeConfig>,
    /// Why a certificate or a `client_ca` cannot be read. Everything else goes on.
    pub certificate_problems: Vec<Problem>,
    /// The authorities of client certificates, by file.
    pub client_authorities: BTreeMap<PathBuf, Vec<CertificateDer<'static>>>,
    /// The address that answers plain HTTP with a redirect to HTTPS.
    pub redirect_http: Option<RedirectHttp>,
    /// The number of worker threads; `None`: one per core.
    pub workers: Option<NonZeroUsize>,
    /// The name of this machine among several; `None`: it has none.
    pub member: Option<MemberName>,
    /// `[server]`.
    pub server: ServerConfig,
    /// `[app]`: the upstream of all requests that are not for the PBX.
    pub app: Option<AppConfig>,
    /// `[pbx]`, or each `[[pbx]]`: the Vodia PBX, or its nodes.
    pub pbx: PbxNodes,
    /// `[[passthrough]]`: connections that are passed on by name, before TLS ends.
    pub passthrough: Vec<PassthroughConfig>,
    /// `[voximplant]`: the users whose one-time keys are answered.
    pub voximplant: Option<VoximplantConfig>,
    /// `[[auth]]`: the auth methods, in the order in which they are tried.
    pub methods: Vec<MethodConfig>,
    /// `[[allow]]`: the rules, in the order in which they are tried.
    pub rules: Vec<Rule>,
    /// `[limits]`: the quotas of the login endpoints.
    pub limits: LimitsConfig,
    /// `[pages]`: the pages that people meet.
    pub pages: PagesConfig,
    /// `[log]`.
    pub log: LogConfig,
    /// `[audit]`.
    pub audit: AuditConfig,
    /// The listener for health and metrics; `None`: there is none.
    pub admin: Option<Listen>,
    /// The collector of OpenTelemetry; `None`: no spans are recorded.
    pub telemetry: Option<Arc<TelemetryConfig>>,
    /// The file for data that must survive a restart; `None`: such data is kept in memory only.
    pub state: Option<PathBuf>,
    /// `[shared]`: the store that this gate shares with other members; `None`: this gate is alone.
    pub shared: Option<SharedConfig>,
    /// Settings that are allowed but probably not meant, such as a method that no rule uses.
    pub warnings: Vec<Problem>,
    /// The secrets that a command outside of callgate's unit or container cannot see; for a gate that runs, this is empty.
    pub unseen: Vec<UnseenSecret>,
}

impl Config {
    /// Returns the keys that all members share; `None`: this gate is alone.
    #[must_use]
    pub fn ring(&self) -> Option<&KeyRing> {
        self.shared.as_ref().map(|shared| &shared.keys)
    }

    /// Tells whether a host has a certificate that callgate gets by itself. `host`: in lower case.
    #[must_use]
    pub fn gets_certificate_for(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        self.acme.iter().any(|acme| acme.names.iter().any(|name| name == host) || acme.is_on_demand(host))
    }

    /// Returns what stays in use if a certificate or a `client_ca` cannot be read the next time.
    #[must_use]
    pub fn last_good(&self) -> LastGood {
        LastGood { certificates: self.certificates.clone(), authorities: self.client_authorities.clone() }
    }

    /// Describes the certificates that have expired, and the files of certificates that cannot be read.
    #[must_use]
    pub fn certificate_alarms(&self, now: Timestamp) -> Vec<String> {
        let expired = self.certificates.iter().filter(|certificate| certificate.is_expired(now));
        let expired = expired.map(|one| {
            let (name, end, file) = (one.name(), one.not_after, one.files.cert.display());
            format!(
                "{file}: the certificate for {name} expired at {end}: clients that it is shown to refuse it; renew it"
            )
        });
        expired.chain(self.certificate_problems.iter().map(Problem::to_string)).collect()
    }
}

/// The address of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl Listen {
    /// Returns the IP address and port; `None` for a unix socket.
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

/// `redirect_http`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedirectHttp {
    /// The address that answers plain HTTP.
    pub listen: SocketAddr,
    /// The port that browsers are sent to; `None`: the port of the TLS listener on the same address.
    pub port: Option<u16>,
    /// The folder in which another ACME client writes answers to challenges, as certbot does in its webroot.
    pub acme_webroot: Option<PathBuf>,
    /// Where PBX nodes answer challenges of their own, each by the name of the node.
    pub acme_pbx: Vec<(String, HostPort)>,
}

impl RedirectHttp {
    /// Returns where a PBX node answers challenges.
    #[must_use]
    pub fn challenges_of(&self, node: &str) -> Option<&HostPort> {
        self.acme_pbx.iter().find(|(name, _)| name == node).map(|(_, at)| at)
    }
}

/// `[server]`.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The proxies whose `Forwarded` and `X-Forwarded-For` are trusted.
    pub believe_forwarded_from: Vec<IpNet>,
    /// The load balancers that start each connection with a PROXY header.
    pub accept_proxy_protocol_from: Vec<IpNet>,
    /// Further request fields to remove before forwarding, in any spelling.
    pub strip_fields: Vec<HeaderName>,
    /// The most open connections.
    pub max_connections: usize,
    /// The most connections of one client (IPv6: one /64).
    pub max_connections_per_client: usize,
    /// The most bytes in buffers for slow clients and upstreams, of all connections together.
    pub buffer_budget: usize,
    /// Whether the process keeps its rights to all files.
    pub insecure_no_sandbox: bool,
    /// The longest time that open exchanges may take to end after SIGTERM, and those that are no tunnels after a hand-over.
    pub drain: Duration,
    /// The longest time that tunnels go on after a hand-over; not less than `drain`.
    pub drain_tunnels: Duration,
    /// `timeouts`.
    pub timeouts: ServerTimeouts,
}

impl ServerConfig {
    /// Tells whether a peer is trusted to name its client. `peer`: IPv4 not mapped into IPv6.
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
    /// The longest wait of a connection for its next request.
    pub idle: Duration,
    /// The longest pause within a body, in either direction.
    pub body_idle: Duration,
    /// The longest time in which a client takes no byte of the data that is ready for it.
    pub write_stall: Duration,
    /// The longest silence of a tunnel in both directions.
    pub tunnel_idle: Duration,
}

/// `[app]`.
#[derive(Debug, Clone)]
pub struct AppConfig {
    /// Its addresses, hosts and paths.
    pub upstream: UpstreamConfig,
    /// The page that a browser without a login is sent to: an absolute URL or a path of the app.
    pub login: Option<String>,
}

/// `[voximplant]`.
#[derive(Debug, Clone)]
pub struct VoximplantConfig {
    /// The users: name → HA1.
    pub users: Arc<HashMap<String, Ha1>>,
    /// The file of the users; `None`: they come from a variable or a credential.
    pub users_file: Option<PathBuf>,
    /// `myapp.myaccount`: the application that a full login name has behind its `@`.
    pub application: Option<String>,
    /// Further applications.
    pub others: Vec<VoximplantApplication>,
    /// The access to Voximplant's Management API, by which passwords are set; `None`: passwords cannot be set.
    pub management: Option<ManagementConfig>,
    /// How the freeze of a user stops its phone; without `management` it does not.
    pub freeze: FreezeMeans,
    /// Whether a user that a rule grants and the users file lacks is added at Voximplant.
    pub adds_users: bool,
    /// How many users are added in this way.
    pub new_users: Rate,
    /// The longest key that is answered, in bytes.
    pub max_key_length: usize,
    /// The number of distinct keys that are answered for one user.
    pub distinct_keys: Rate,
    /// The origins, besides our own, whose pages may ask; exactly as browsers send them.
    pub origins: Vec<String>,
}

impl VoximplantConfig {
    /// Returns the HA1 of a user in its application. A user of the main application never names it, so each user has
    /// one spelling.
    #[must_use]
    pub fn ha1(&self, user: &VoximplantUser) -> Option<&Ha1> {
        let users = match user.application() {
            Some(name) => &self.others.iter().find(|other| other.name == name)?.users,
            None => &self.users,
        };
        users.get(user.name())
    }

    /// Returns whether a user that has no HA1 is added at Voximplant: where that is configured, for the applications that are.
    #[must_use]
    pub fn adds(&self, user: &VoximplantUser) -> bool {
        let application = user.application().or(self.application.as_deref());
        self.adds_users && self.applications().any(|one| Some(one.name) == application)
    }

    /// Returns the default of `new_users`.
    ///
    /// # Panics
    /// Never: the text is a rate.
    #[must_use]
    pub fn default_new_users() -> Rate {
        "100/h burst 20".parse().expect("a rate")
    }

    /// Returns all applications that have a name, the main one first.
    pub fn applications(&self) -> impl Iterator<Item = ApplicationUsers<'_>> {
        let main = self.application.as_deref().map(|name| ApplicationUsers {
            name,
            users: &self.users,
            users_file: self.users_file.as_deref(),
        });
        let others = self.others.iter().map(|other| ApplicationUsers {
            name: &other.name,
            users: &other.users,
            users_file: other.users_file.as_deref(),
        });
        main.into_iter().chain(others)
    }
}

/// The users of one application of `[voximplant]`.
#[derive(Debug, Clone, Copy)]
pub struct ApplicationUsers<'c> {
    /// `myapp.myaccount`.
    pub name: &'c str,
    /// Its users: name → HA1.
    pub users: &'c HashMap<String, Ha1>,
    /// The file of the users; `None`: they come from a variable or a credential.
    pub users_file: Option<&'c Path>,
}

/// One of `[[voximplant.applications]]`.
#[derive(Debug, Clone)]
pub struct VoximplantApplication {
    /// `myapp.myaccount`.
    pub name: String,
    /// Its users: name → HA1.
    pub users: Arc<HashMap<String, Ha1>>,
    /// The file of the users; `None`: they come from a variable or a credential.
    pub users_file: Option<PathBuf>,
}

/// `[voximplant] management`: the Management API.
#[derive(Debug, Clone)]
pub struct ManagementConfig {
    /// The number of the account.
    pub account_id: u64,
    /// The credential.
    pub proof: ManagementProof,
    /// The URL of the API's functions, ending in a slash.
    pub url: String,
    /// The proxy between callgate and the internet.
    pub outbound_proxy: Option<Arc<OutboundProxy>>,
}

impl ManagementConfig {
    /// Tells whether this process cannot see the credential.
    #[must_use]
    pub const fn is_unseen(&self) -> bool {
        matches!(&self.proof, ManagementProof::ApiKey(key) if key.is_unseen())
    }
}

/// A credential for the Management API.
#[derive(Debug, Clone)]
pub enum ManagementProof {
    /// The API key of the account.
    ApiKey(Secret),
    /// The private key of a service account, which signs tokens.
    ServiceAccount {
        /// The id of the key.
        key_id: String,
        /// An RSA key in PEM form.
        key: Secret,
    },
}

/// `[limits]`.
#[derive(Debug, Clone, Copy)]
pub struct LimitsConfig {
    /// Requests to the login endpoints, for each client address (IPv6: /64).
    pub client: Rate,
    /// Requests to the login endpoints, for each proven caller.
    pub caller: Rate,
    /// Grants for each account or Voximplant user.
    pub account: Rate,
    /// Grants of administrators' sessions, for each administrator.
    pub admin: Rate,
    /// Failed credentials for each client address. Above the limit, credentials that are new from there are refused
    /// for a while.
    pub failures: Rate,
    /// Different cookies unknown to the app, for each client address.
    pub stale_cookies: Rate,
    /// Password logins at the PBX, for each client address.
    pub pbx_logins: Rate,
    /// The limits in shadow: they count, and refuse nothing.
    pub shadow: LimitSet,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The target of access lines.
    pub access: AccessLogTarget,
    /// The format of access lines, and of audit lines among them.
    pub access_format: AccessFormat,
    /// The format of log lines.
    pub format: LogFormat,
    /// The least serious event that is logged to standard error.
    pub level: Level,
}

/// The format of access lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessFormat {
    /// That of other lines.
    Lines(LogFormat),
    /// The combined format of Apache.
    Combined,
}

/// `[audit]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditConfig {
    /// The file of the audit lines; `None`: they go to the target of access lines.
    pub file: Option<PathBuf>,
    /// Whether each line carries a hash of the line before.
    pub chain: bool,
    /// The syslog daemon that receives the audit lines as well.
    pub syslog: Option<SyslogConfig>,
    /// The outcome of a login whose audit line cannot be written in time.
    pub when_stuck: WhenStuck,
}

/// The outcome of a login whose audit line cannot be written in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenStuck {
    /// The answer is 503.
    #[default]
    Refuse,
    /// The login continues without the line.
    GoOn,
}

/// The address of a syslog daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyslogConfig {
    /// The socket of the local daemon.
    Unix(PathBuf),
    /// A UDP address.
    Udp(SocketAddr),
    /// A server over TCP.
    Tcp(HostPort),
    /// A server over TLS.
    Tls(SyslogTls),
}

/// A syslog server over TLS. Its certificate is always verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyslogTls {
    /// Its address.
    pub at: HostPort,
    /// The certificates that its own must lead to; `None`: the public trust roots.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    /// The name that its certificate must have; `None`: its host.
    pub server_name: Option<ServerName<'static>>,
}

impl fmt::Display for SyslogConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Tcp(at) => write!(f, "tcp:{at}"),
            Self::Tls(SyslogTls { at, .. }) => write!(f, "tls:{at}"),
        }
    }
}

/// The target of access lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Standard output.
    Stdout,
    /// Access lines are not written.
    Off,
    /// Lines are appended to this file.
    File(PathBuf),
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value` for people.
    Text,
    /// One JSON object a line.
    Json,
}
