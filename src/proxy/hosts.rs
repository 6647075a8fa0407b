//! The hosts of one configuration: which belong to the app, which to which PBX node, and which origins may ask for a login.

use std::sync::Arc;

use http::HeaderMap;

use super::browser::cors::{self, Initiator};
use super::browser::fetch_metadata;
use super::forward::route::{Destination, Routes};
use crate::config::{Config, HostPattern, NodeIndex, PbxConfig, PerNode, UpstreamConfig};
use crate::message::target::Authority;
use crate::model::login::LoginKind;
use crate::model::own_paths::OwnPaths;
use crate::model::path::{PathClass, Reserved};

/// The hosts of one configuration.
pub(super) struct Hosts {
    pub(super) config: Arc<Config>,
    routes: Routes,
    /// The paths of callgate: of all nodes together, and of each one.
    own_paths: OwnPaths,
    own_paths_of_nodes: PerNode<OwnPaths>,
    /// The origins whose pages may ask for sessions of some node.
    pbx_origins: Vec<String>,
}

impl Hosts {
    /// Reads the hosts of a configuration.
    pub(super) fn new(config: Arc<Config>) -> Self {
        let routes = Routes::new(app_upstream(&config), &config.pbx);
        let own_paths = OwnPaths::new(config.pbx.iter().map(own_paths_of).collect::<Vec<_>>().concat());
        let own_paths_of_nodes = config.pbx.iter().map(|pbx| OwnPaths::new(own_paths_of(pbx))).collect();
        let pbx_origins = config.pbx.iter().flat_map(|pbx| origins_of(&config, pbx)).cloned().collect();
        Self { config, routes, own_paths, own_paths_of_nodes, pbx_origins }
    }

    /// Tells whether a path belongs to callgate. On a host of a PBX node it has the paths of that node, elsewhere those of all.
    /// `host`: in lower case, without port.
    pub(super) fn classify(&self, host: &str, path: &str) -> PathClass {
        let node = if self.config.pbx.are_several() { self.pbx_at(host) } else { None };
        node.map_or(&self.own_paths, |node| &self.own_paths_of_nodes[node]).classify(path)
    }

    /// Finds the upstream of a request by its host, in lower case and without port, and the canonical copy of its path.
    pub(super) fn route(&self, host: &str, path: &str) -> Option<Destination> {
        let to = if self.are_passed_on(host) { None } else { self.routes.find(host, path) };
        // A path that the node of a host does not have is not looked for at another node.
        to.filter(|to| match to {
            Destination::Pbx(node) if self.config.pbx.are_several() => self.pbx_at(host) == Some(*node),
            Destination::App | Destination::Pbx(_) => true,
        })
    }

    /// Tells whether connections for a host are passed on before TLS, so that no request for it is answered here.
    pub(super) fn are_passed_on(&self, host: &str) -> bool {
        self.config.passthrough.iter().any(|passthrough| passthrough.covers(host))
    }

    /// Finds the PBX node whose landing page a host has. `host`: in lower case, without port.
    pub(super) fn pbx_at(&self, host: &str) -> Option<NodeIndex> {
        let nodes = &self.config.pbx;
        let Some(only) = nodes.only() else {
            // The app may have a host below a wildcard of a node.
            return nodes.at_host(host).filter(|node| self.app_fits_less(host, &nodes[*node]));
        };
        let is_pbx = only.upstream.lists(host)
            || matches!(self.route(host, &only.landing.to_ascii_lowercase()), Some(Destination::Pbx(_)));
        nodes.position(|_| is_pbx)
    }

    fn app_fits_less(&self, host: &str, node: &PbxConfig) -> bool {
        let fit = |upstream: &UpstreamConfig| {
            upstream.hosts.iter().filter(|pattern| pattern.matches(host)).map(HostPattern::exactness).max()
        };
        app_upstream(&self.config).and_then(fit) <= fit(&node.upstream)
    }

    /// Tells whether a host is known to be ours. A request may name any host, and an app without `hosts` answers it. Where
    /// hosts are listed, a wildcard of a certificate does not count: it may cover hosts of other owners.
    pub(super) fn are_ours(&self, host: &str) -> bool {
        let app = app_upstream(&self.config);
        let any = app.is_some_and(|app| app.hosts.is_empty());
        let mut certificates = self.config.certificates.iter();
        !self.are_passed_on(host)
            && (self.config.gets_certificate_for(host)
                || certificates.any(|one| one.names_host(host) || (any && one.has_wildcard_for(host)))
                || upstreams(&self.config).any(|upstream| upstream.lists(host)))
    }

    /// Returns the origins, besides our own, whose pages may ask for a login: at some node, as long as the account is not known.
    pub(super) fn origins(&self, kind: LoginKind) -> &[String] {
        match kind {
            LoginKind::Pbx if !self.config.pbx.is_empty() => &self.pbx_origins,
            LoginKind::Pbx | LoginKind::Ott => origins_of_voximplant(&self.config),
        }
    }

    /// Returns the origins, besides our own, whose pages may ask for sessions of a node.
    pub(super) fn origins_of(&self, node: NodeIndex) -> &[String] {
        origins_of(&self.config, &self.config.pbx[node])
    }

    /// Tells whether a host may belong to another owner, who can let its DNS lead here: where hosts are listed, one that is
    /// not known to be ours.
    fn may_be_of_others(&self, host: &str) -> bool {
        app_upstream(&self.config).is_some_and(|app| !app.hosts.is_empty()) && !self.are_ours(host)
    }

    /// Finds the page that sends a request, as [`cors::initiator`] does. A page of a host of another owner is foreign here,
    /// too.
    pub(super) fn initiator(&self, headers: &HeaderMap, authority: &Authority, listed: &[String]) -> Initiator {
        match cors::initiator(headers, authority, listed) {
            Initiator::Own if cors::names_a_page(headers) && self.may_be_of_others(&authority.host) => {
                Initiator::Foreign
            }
            initiator => initiator,
        }
    }

    /// Finds the page behind a request for a link or a redirect. A window that fills itself counts as our own: a person
    /// clicked.
    pub(super) fn link_initiator(&self, headers: &HeaderMap, authority: &Authority) -> Initiator {
        if fetch_metadata::is_top_level(headers) {
            return Initiator::Own;
        }
        self.initiator(headers, authority, self.origins(LoginKind::Pbx))
    }

    /// Returns where a person logs in at the app, if the app has such a place. A path on another host than the app's
    /// becomes an address on the app's host.
    pub(super) fn app_login(&self, authority: &Authority) -> Option<String> {
        let app = self.config.app.as_ref()?;
        let login = app.login.as_ref()?;
        let is_path = login.starts_with('/');
        if !is_path || self.route(&authority.host, login) == Some(Destination::App) {
            return Some(login.clone());
        }
        let host = app.upstream.hosts.iter().find_map(HostPattern::exact)?;
        Some(format!("https://{}{login}", authority.with_host(host)))
    }
}

/// Returns the settings of the app as an upstream.
pub(super) fn app_upstream(config: &Config) -> Option<&UpstreamConfig> {
    config.app.as_ref().map(|app| &app.upstream)
}

/// Returns the settings of all upstreams, first those of the app.
pub(super) fn upstreams(config: &Config) -> impl Iterator<Item = &UpstreamConfig> {
    app_upstream(config).into_iter().chain(config.pbx.iter().map(|pbx| &pbx.upstream))
}

/// Returns the origins whose pages may ask for sessions of a node. Without `origins` in `[pbx]` those of `[voximplant]` may.
fn origins_of<'c>(config: &'c Config, pbx: &'c PbxConfig) -> &'c [String] {
    pbx.origins.as_deref().unwrap_or_else(|| origins_of_voximplant(config))
}

fn origins_of_voximplant(config: &Config) -> &[String] {
    config.voximplant.as_ref().map_or(&[][..], |voximplant| &voximplant.origins)
}

/// Returns the paths that a node adds to those of callgate.
fn own_paths_of(pbx: &PbxConfig) -> Vec<(&str, Reserved)> {
    let aliases = pbx.aliases.iter().map(|path| (path.as_str(), Reserved::Pbx));
    aliases.chain(pbx.socket.as_deref().map(|path| (path, Reserved::Socket))).collect()
}
