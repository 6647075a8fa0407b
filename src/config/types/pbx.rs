//! `[pbx]`: the Vodia PBX, its administrator and its shield.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::{AutoConfig, HostPattern, UpstreamConfig, UpstreamUrl};
#[cfg(test)]
use super::{Trust, UpstreamPolicy, UpstreamTimeouts};
use crate::model::account::Language;
use crate::model::rate::Rate;
use crate::model::secret::Secret;
use crate::model::shield::ProtectedPaths;

/// `[pbx]`, or one of `[[pbx]]`.
#[derive(Debug, Clone)]
pub struct PbxConfig {
    /// The name of the node; where there is one, `pbx` by default.
    pub name: String,
    /// The tenants that are at this node, by their domains; empty: those that `hosts` cover.
    pub domains: Vec<HostPattern>,
    /// Limits of its own.
    pub limits: NodeLimits,
    /// Its addresses, hosts and paths.
    pub upstream: UpstreamConfig,
    /// The administrator that opens third-party sessions; `None`: callgate opens no sessions.
    pub admin: Option<AdminCredentials>,
    /// The way a session reaches the browser.
    pub handoff: Handoff,
    /// The form of requests for sessions of administrators.
    pub dialect: Dialect,
    /// The path of the landing page; by default `/welcome.htm` for `link` and `/thirdparty.htm` for `cookie`.
    pub landing: String,
    /// The other pages of the PBX at which a login may end.
    pub landings: Vec<String>,
    /// Automatic logins; `None`: a page of the PBX without a session is the PBX's own affair.
    pub auto: Option<AutoConfig>,
    /// The languages that a caller may choose.
    pub languages: Vec<Language>,
    /// The deadline of one request to the PBX (mint or exchange), connecting included.
    pub timeout: Duration,
    /// The restrictions for requests from outside; `None`: the PBX alone decides.
    pub shield: Option<ShieldConfig>,
    /// The origins, besides our own, whose pages may ask for sessions and open the WebSocket, exactly as browsers send
    /// them; `None`: those of `[voximplant]`.
    pub origins: Option<Vec<String>>,
    /// Further paths that answer like `/auth/pbx`.
    pub aliases: Vec<String>,
    /// The path at which a page opens the PBX's WebSocket; `None`: at no path.
    pub socket: Option<String>,
}

impl PbxConfig {
    /// Returns what this PBX is recognized by later, when its node may have another name and other hosts: its first `url`.
    #[must_use]
    pub fn identity(&self) -> String {
        self.upstream.urls.first().map(UpstreamUrl::text).unwrap_or_default()
    }

    /// Tells whether an [`PbxConfig::identity`] was that of this PBX: one of its URLs.
    #[must_use]
    pub fn is_identified_by(&self, identity: &str) -> bool {
        self.upstream.urls.iter().any(|url| url.text() == identity)
    }

    /// Returns the patterns of the domains of its tenants.
    #[must_use]
    pub fn tenants(&self) -> &[HostPattern] {
        if self.domains.is_empty() { &self.upstream.hosts } else { &self.domains }
    }
}

/// `[pbx] limits`: those that are counted for this node alone; `None`: the rate of `[limits]`, where all nodes without a rate
/// of their own count together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeLimits {
    /// Password logins at the node, for each client address.
    pub pbx_logins: Option<Rate>,
    /// Grants for each account of the node.
    pub account: Option<Rate>,
    /// Grants of administrators' sessions, for each administrator of the node.
    pub admin: Option<Rate>,
}

/// `[pbx] shield`.
#[derive(Debug, Clone)]
pub struct ShieldConfig {
    /// The networks without restrictions.
    pub from: Vec<IpNet>,
    /// The paths of administrators.
    pub protected: ProtectedPaths,
    /// Whether a browser may land with a session that callgate did not hand out.
    pub any_session: bool,
}

impl ShieldConfig {
    /// Tells whether the restrictions apply to a client. `client`: IPv4 not mapped into IPv6.
    #[must_use]
    pub fn is_for(&self, client: IpAddr) -> bool {
        !self.from.iter().any(|network| network.contains(&client))
    }
}

/// The credentials of the PBX administrator. Only `pbx` uses them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminCredentials {
    /// The administrator's name.
    pub user: String,
    /// The administrator's password.
    pub password: Secret,
}

/// The way a session reaches the browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handoff {
    /// In the query of a redirect to the landing page.
    Link,
    /// In the PBX's own cookie, so that no URL has an id.
    Cookie,
}

/// The form of requests for sessions of administrators. Requests for users' sessions are the same in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The administrator of a tenant is the user `admin`. Sessions of the system's administrators cannot be requested.
    Legacy,
    /// The administrator of a tenant is not a user; that of the system is `"admin": true`.
    Modern,
}

#[cfg(test)]
impl PbxConfig {
    /// Makes a node with a name and hosts, `*.` for those below a name.
    pub fn for_test(name: &str, hosts: &[&str]) -> Self {
        let pattern = |host: &&str| match host.strip_prefix('*') {
            Some(suffix) => HostPattern::Below(suffix.to_owned()),
            None => HostPattern::Exact((*host).to_owned()),
        };
        let second = Duration::from_secs(1);
        Self {
            name: name.to_owned(),
            domains: Vec::new(),
            limits: NodeLimits::default(),
            upstream: UpstreamConfig {
                urls: vec![UpstreamUrl::Unix(format!("/run/{name}.sock").into())],
                policy: UpstreamPolicy::First,
                hosts: hosts.iter().map(pattern).collect(),
                paths: Vec::new(),
                trust: Trust::roots(None),
                timeouts: UpstreamTimeouts { connect: second, first_byte: second, keep_alive: second },
                max_connections: 1,
            },
            admin: None,
            handoff: Handoff::Link,
            dialect: Dialect::Legacy,
            landing: "/welcome.htm".to_owned(),
            landings: Vec::new(),
            auto: None,
            languages: Vec::new(),
            timeout: second,
            shield: None,
            origins: None,
            aliases: Vec::new(),
            socket: None,
        }
    }
}
