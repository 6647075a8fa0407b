//! Upstreams: their addresses, the checks of their certificates, and the hosts that lead to them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::{CertificateDer, ServerName};

/// An upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Its addresses, at least one.
    pub urls: Vec<UpstreamUrl>,
    /// Which healthy address serves an exchange.
    pub policy: UpstreamPolicy,
    /// The hosts that are sent there; empty: any.
    pub hosts: Vec<HostPattern>,
    /// The path prefixes that are sent there, each starting with `/`; empty: any.
    pub paths: Vec<String>,
    /// The checks of its certificate for `https`.
    pub trust: Trust,
    /// `timeouts`.
    pub timeouts: UpstreamTimeouts,
    /// The most connections to it, of all workers together.
    pub max_connections: usize,
}

impl UpstreamConfig {
    /// Tells whether `hosts` covers a host name in lower case, without port. An empty `hosts` covers none.
    #[must_use]
    pub fn lists(&self, host: &str) -> bool {
        self.hosts.iter().any(|pattern| pattern.matches(host))
    }
}

/// Which of the healthy addresses of an upstream serves an exchange.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UpstreamPolicy {
    /// The first in the order of the configuration.
    #[default]
    First,
    /// Each in turn.
    RoundRobin,
    /// The one with the fewest exchanges under way; equal ones in turn.
    Least,
}

impl UpstreamPolicy {
    /// All policies.
    pub const ALL: [Self; 3] = [Self::First, Self::RoundRobin, Self::Least];

    /// Returns its word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::RoundRobin => "round_robin",
            Self::Least => "least",
        }
    }
}

/// The address of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamUrl {
    /// `http://host[:port]`.
    Http(HostPort),
    /// `https://host[:port]`.
    Https(HostPort),
    /// `unix:/path`: HTTP over a local socket.
    Unix(PathBuf),
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A host name or an IP address, IPv6 without brackets. A name may end in a dot, which marks it as fully
    /// qualified.
    pub host: String,
    /// The port; by default 80 or 443.
    pub port: u16,
}

impl UpstreamUrl {
    /// Tells whether the upstream uses TLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Https(_))
    }

    /// Returns the address for people: `host:port` or `unix:/path`.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::Http(at) | Self::Https(at) => at.to_string(),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// Returns the URL, always with its port.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Http(at) => format!("http://{at}"),
            Self::Https(at) => format!("https://{at}"),
            Self::Unix(_) => self.address(),
        }
    }

    /// Returns the value of `Host`: the authority, without the default port.
    #[must_use]
    pub fn authority(&self) -> String {
        match self {
            Self::Http(at) if at.port == 80 => bracketed(at.name()),
            Self::Https(at) if at.port == 443 => bracketed(at.name()),
            Self::Http(at) | Self::Https(at) => format!("{}:{}", bracketed(at.name()), at.port),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl HostPort {
    /// Returns the host without a final dot, as TLS and `Host` require it (RFC 6066 §3).
    #[must_use]
    pub fn name(&self) -> &str {
        self.host.strip_suffix('.').unwrap_or(&self.host)
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", bracketed(&self.host), self.port)
    }
}

/// The checks of an upstream's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The certificates of `ca`; `None`: the public trust roots.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    /// The name that the certificate must have, also sent as SNI; `None`: the host of `url`.
    pub server_name: Option<ServerName<'static>>,
    /// SHA-256 of public keys (SPKI), one of which the certificate must have; empty: any key.
    ///
    /// Without `ca`, only the key is checked: neither issuer, name nor dates of the certificate.
    pub pins: Vec<Pin>,
    /// `insecure_skip_verify`: any certificate is accepted.
    pub skip_verify: bool,
}

impl Trust {
    /// Checks certificates against the roots of `ca`, or else the public trust roots.
    #[must_use]
    pub const fn roots(ca: Option<Vec<CertificateDer<'static>>>) -> Self {
        Self { ca, server_name: None, pins: Vec::new(), skip_verify: false }
    }
}

/// SHA-256 of a public key in the form that certificates carry (SPKI).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin(pub [u8; 32]);

/// The text is not a pin.
#[derive(Debug, thiserror::Error)]
#[error("not a pin")]
pub struct NotAPin;

impl FromStr for Pin {
    type Err = NotAPin;

    fn from_str(text: &str) -> Result<Self, NotAPin> {
        let digest = BASE64_STANDARD.decode(text.strip_prefix("sha256/").unwrap_or(text)).map_err(|_| NotAPin)?;
        digest.try_into().map(Self).map_err(|_| NotAPin)
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
    /// From the name look-up to the end of the TLS handshake.
    pub connect: Duration,
    /// From the last byte of the request to the first of the answer.
    pub first_byte: Duration,
    /// The longest time that an idle connection is kept.
    pub keep_alive: Duration,
}

/// A host name, or `*.` and a host name for all names below it. In lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// Exactly this name.
    Exact(String),
    /// Any name with this suffix, which starts with a dot.
    Below(String),
}

impl HostPattern {
    /// Returns the name of an exact pattern.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        match self {
            Self::Exact(name) => Some(name),
            Self::Below(_) => None,
        }
    }

    /// Tells whether the pattern matches a host name in lower case, without port.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }

    /// Tells whether each host name that matches the other pattern matches this one too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (pattern, Self::Exact(name)) => pattern.matches(name),
            (Self::Below(suffix), Self::Below(other)) => other.ends_with(suffix.as_str()),
            (Self::Exact(_), Self::Below(_)) => false,
        }
    }

    /// Tells whether some host name matches both patterns.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(name), pattern) | (pattern, Self::Exact(name)) => pattern.matches(name),
            (Self::Below(one), Self::Below(other)) => one.ends_with(other.as_str()) || other.ends_with(one.as_str()),
        }
    }

    /// Tells how exact the pattern is: a name is more exact than any wildcard, a long wildcard than a short one.
    #[must_use]
    pub const fn exactness(&self) -> usize {
        match self {
            Self::Exact(_) => usize::MAX,
            Self::Below(suffix) => suffix.len(),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(suffix) => write!(f, "*{suffix}"),
        }
    }
}
