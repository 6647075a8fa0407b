//! `[shared]`: the store that several members share.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use super::HostPort;
use crate::model::key_ring::KeyRing;
use crate::model::secret::Secret;

/// `[shared]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedConfig {
    /// The nodes of the engine, at least one, in the order of the file.
    pub nodes: Vec<EngineNode>,
    /// How the nodes belong together.
    pub topology: EngineTopology,
    /// The number of the database. A cluster has only number 0.
    pub database: u8,
    /// The name and the password of callgate's user at the engine.
    pub login: Option<EngineLogin>,
    /// `ca`: the certificates that the engine's must lead to, in PEM; `None`: those of the system.
    pub ca: Option<Vec<u8>>,
    /// `cert` and `key`: callgate's own certificate and private key, in PEM.
    pub client: Option<EngineClientCert>,
    /// The prefix of the names of all keys in the engine.
    pub prefix: String,
    /// How long a decision waits for the engine.
    pub deadline: Duration,
    /// How many members share the engine. While a member cannot reach it, its own limits are this many times lower.
    pub members: NonZeroU32,
    /// The answer of a mark while the engine cannot be reached.
    pub marks_when_down: MarksWhenDown,
    /// `keys`: the keys that all members share.
    pub keys: KeyRing,
}

/// A node of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineNode {
    /// `redis://host[:port]`.
    Plain(HostPort),
    /// `rediss://host[:port]`: by TLS.
    Tls(HostPort),
    /// `unix:/path`.
    Unix(PathBuf),
}

impl fmt::Display for EngineNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(at) | Self::Tls(at) => at.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How the nodes of the engine belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineTopology {
    /// One node.
    Single,
    /// Nodes of a cluster. They name the others.
    Cluster,
    /// Sentinels, which name the node that writes.
    Sentinel {
        /// The name of the group that they watch.
        name: String,
    },
}

/// `user` and `password` of `[shared]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineLogin {
    /// The user; `None`: the engine's default user.
    pub user: Option<String>,
    /// The password.
    pub password: Secret,
}

/// `cert` and `key` of `[shared]`, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineClientCert {
    /// The certificate, with those that lead to its authority.
    pub chain: Vec<u8>,
    /// The private key.
    pub key: Secret,
}

/// `marks_when_down`: the answer of a mark while the engine cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MarksWhenDown {
    /// A credential that works once does not log in.
    #[default]
    Refuse,
    /// It logs in once at each member.
    Local,
}
