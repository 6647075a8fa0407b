//! The configuration of a running gate. Every field is already right; `check` is the only maker.

mod auth;
mod upstream;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::Level;

pub use self::auth::*;
pub use self::upstream::*;
use super::check::{ChainFlaw, chain_flaw};
use super::problem::Problem;
use crate::model::account::Language;
use crate::model::grant::Rule;
use crate::model::ott::{Ha1, VoximplantUser};
use crate::model::rate::Rate;
use crate::model::secret::Secret;
use crate::model::shield::ProtectedPaths;

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
    pub redirect_http: Option<RedirectHttp>,
    /// The number of worker threads; one per core when not written.
    pub workers: Option<NonZeroUsize>,
    /// Deadlines of the downstream side.
    pub server: ServerConfig,
    /// The app: everything that is not the PBX's.
    pub app: Option<AppConfig>,
    /// The Vodia PBX.
    pub pbx: Option<PbxConfig>,
    /// The Voximplant users whose one-time keys are answered.
    pub voximplant: Option<VoximplantConfig>,
    /// How callers prove who they are, in the order they are asked.
    pub methods: Vec<MethodConfig>,
    /// Who may become whom, in the order they are tried.
    pub rules: Vec<Rule>,
    /// The quotas of the login endpoints.
    pub limits: LimitsConfig,
    /// What is logged, and where.
    pub log: LogConfig,
    /// Where audit lines go.
    pub audit: AuditConfig,
    /// Where health and metrics are told; `None`: nowhere.
    pub admin: Option<Listen>,
    /// The file of what must outlive a restart; `None`: a restart forgets it.
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

/// `redirect_http`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedirectHttp {
    /// The address that answers plain HTTP.
    pub listen: SocketAddr,
    /// The port that browsers are sent to; `None`: what fits the port that they came to.
    pub port: Option<u16>,
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
    /// Who may sign the certificates that clients must show where this one is shown; `None`: clients show nothing.
    pub client_ca: Option<Vec<CertificateDer<'static>>>,
}

impl Certificate {
    /// Tells whether it names a host as it is: in lower case, without port, IPv6 in brackets.
    #[must_use]
    pub fn names_host(&self, host: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        self.has_name(host.strip_suffix('.').unwrap_or(host))
    }

    /// Tells whether it names all hosts like this one.
    #[must_use]
    pub fn names_like(&self, host: &str) -> bool {
        host.split_once('.').is_some_and(|(_, above)| self.has_name(&format!("*.{}", above.trim_end_matches('.'))))
    }

    fn has_name(&self, name: &str) -> bool {
        self.names.iter().any(|known| known.strip_suffix('.').unwrap_or(known) == name)
    }

    /// Tells what clients may stumble over in its chain.
    #[must_use]
    pub fn flaw(&self) -> Option<ChainFlaw> {
        chain_flaw(&self.chain)
    }

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
pub struct ServerConfig {
    /// The proxies that are believed when they say who their client is.
    pub believe_forwarded_from: Vec<IpNet>,
    /// The balancers that start each connection with a PROXY header.
    pub accept_proxy_protocol_from: Vec<IpNet>,
    /// More fields of a request that no upstream shall see, in any spelling.
    pub strip_fields: Vec<HeaderName>,
    /// How many connections may be open at once.
    pub max_connections: usize,
    /// How many of them one client may have (IPv6: one /64).
    pub max_connections_per_client: usize,
    /// How many bytes may wait in buffers for a slow side, of all connections together.
    pub buffer_budget: usize,
    /// How long exchanges in flight may take to end after SIGTERM.
    pub drain: Duration,
    /// `timeouts`.
    pub timeouts: ServerTimeouts,
}

impl ServerConfig {
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

/// `[app]`.
#[derive(Debug, Clone)]
pub struct AppConfig {
    /// Where it is.
    pub upstream: UpstreamConfig,
    /// Where a browser without a login is sent: an absolute URL or a path of the app.
    pub login: Option<String>,
}

/// `[pbx]`.
#[derive(Debug, Clone)]
pub struct PbxConfig {
    /// Where it is.
    pub upstream: UpstreamConfig,
    /// The administrator who may open third-party sessions; `None`: the PBX is passed through only.
    pub admin: Option<AdminCredentials>,
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
    /// What only some networks may do there; `None`: whatever the PBX permits, from anywhere.
    pub shield: Option<ShieldConfig>,
}

/// `[pbx] shield`.
#[derive(Debug, Clone)]
pub struct ShieldConfig {
    /// The networks that are not kept from anything.
    pub from: Vec<IpNet>,
    /// The paths of administrators.
    pub doors: ProtectedPaths,
    /// Whether a browser may land with a session that went out elsewhere.
    pub any_session: bool,
}

impl ShieldConfig {
    /// Tells whether a client is kept from something. `client`: IPv4 in its own form.
    #[must_use]
    pub fn is_for(&self, client: IpAddr) -> bool {
        !self.from.iter().any(|network| network.contains(&client))
    }
}

/// The PBX administrator's credentials. Their use is `pbx`'s alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminCredentials {
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
pub struct VoximplantConfig {
    /// The users: name → HA1.
    pub users: Arc<HashMap<String, Ha1>>,
    /// Where that file is; `None`: they are in a variable or a credential.
    pub users_file: Option<PathBuf>,
    /// `myapp.myaccount`: what a full login name must carry behind its `@`.
    pub application: Option<String>,
    /// The applications besides that one.
    pub others: Vec<VoximplantApplication>,
    /// How passwords are set at Voximplant; `None`: not from here.
    pub management: Option<ManagementConfig>,
    /// The longest key that is answered, in bytes.
    pub max_key_length: usize,
    /// How many different keys of one user are answered.
    pub distinct_keys: Rate,
    /// The origins, besides our own, whose pages may ask; exactly as browsers send them.
    pub origins: Vec<String>,
}

impl VoximplantConfig {
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
pub struct VoximplantApplication {
    /// `myapp.myaccount`.
    pub name: String,
    /// Its users: name → HA1.
    pub users: Arc<HashMap<String, Ha1>>,
    /// Where that file is; `None`: they are in a variable or a credential.
    pub users_file: Option<PathBuf>,
}

/// `[voximplant] management`: the Management API.
#[derive(Debug, Clone)]
pub struct ManagementConfig {
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
    /// Guesses at credentials for each client address, before credentials that are new there are refused for a while.
    pub failures: Rate,
    /// Different cookies that the app does not know, for each client address.
    pub stale_cookies: Rate,
    /// Password logins passing through to the PBX, for each client address.
    pub pbx_logins: Rate,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Where the access lines go.
    pub access: AccessLogTarget,
    /// Their form.
    pub format: LogFormat,
    /// The least serious event that is logged to standard error.
    pub level: Level,
}

/// `[audit]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditConfig {
    /// The file that receives the audit lines; `None`: they go where the access log goes.
    pub file: Option<PathBuf>,
    /// Whether each line of that file is bound to the one before it.
    pub chain: bool,
    /// The daemon that hears each of them as well.
    pub syslog: Option<SyslogConfig>,
    /// What becomes of a login whose line is not written in time.
    pub when_stuck: WhenStuck,
}

/// What becomes of a login whose audit line is not written in time, or cannot be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenStuck {
    /// The answer is 503.
    #[default]
    Refuse,
    /// The caller is let in without it.
    GoOn,
}

/// Where a syslog daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyslogConfig {
    /// The socket of the daemon of this machine.
    Unix(PathBuf),
    /// A UDP port of any machine.
    Udp(SocketAddr),
}

impl fmt::Display for SyslogConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(address) => write!(f, "udp:{address}"),
        }
    }
}

/// Where access lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Standard output.
    Stdout,
    /// Nowhere.
    Off,
    /// The end of this file.
    File(PathBuf),
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value` for people.
    Text,
    /// One JSON object a line.
    Json,
}
