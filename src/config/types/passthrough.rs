//! Connections that are passed on by the name that the client asks for, before TLS ends.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::{HostPattern, HostPort};

/// One of `[[passthrough]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassthroughConfig {
    /// The names (SNI) whose connections are passed on.
    pub names: Vec<HostPattern>,
    /// Where they are passed on to.
    pub to: PassthroughTo,
    /// The version of the header that tells the target the client's address; `None`: the first bytes are the client's.
    pub proxy_protocol: Option<ProxyProtocolVersion>,
    /// `timeouts.connect`: from the look-up of the name to the end of the TCP handshake.
    pub connect: Duration,
}

impl PassthroughConfig {
    /// Tells whether connections for a host are passed on. `host`: in lower case, without port and final dot.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|pattern| pattern.matches(host))
    }
}

/// The address that connections are passed on to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassthroughTo {
    /// A host and a port.
    Tcp(HostPort),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for PassthroughTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(at) => at.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocolVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}
