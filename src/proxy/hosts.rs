//! The hosts of one configuration: which belong to the app, which to the PBX, and which origins may ask for a login.

use std::sync::Arc;

use http::HeaderMap;

use super::browser::cors::{self, Initiator};
use super::browser::fetch_metadata;
use super::forward::route::Routes;
use crate::config::{Config, HostPattern, UpstreamConfig};
use crate::message::target::Authority;
use crate::model::login::LoginKind;
use crate::model::own_paths::OwnPaths;
use crate::model::path::PathClass;
use crate::model::upstream_name::UpstreamName;

/// The hosts of one configuration.
pub(super) struct Hosts {
    pub(super) config: Arc<Config>,
    routes: Routes,
    own_paths: OwnPaths,
}

impl Hosts {
    /// Reads the hosts of a configuration.
    pub(super) fn new(config: Arc<Config>) -> Self {
        let routes = Routes::new(app_upstream(&config), pbx_upstream(&config));
        let own_paths = match &config.pbx {
            Some(pbx) => OwnPaths::new(&pbx.aliases, pbx.socket.as_deref()),
            None => OwnPaths::default(),
        };
        Self { config, routes, own_paths }
    }

    /// Tells whether a path belongs to callgate.
    pub(super) fn classify(&self, path: &str) -> PathClass {
        self.own_paths.classify(path)
    }

    /// Finds the upstream of a request by its host, in lower case and without port, and the canonical copy of its path.
    pub(super) fn route(&self, host: &str, path: &str) -> Option<UpstreamName> {
        if self.are_passed_on(host) { None } else { self.routes.find(host, path) }
    }

    /// Tells whether connections for a host are passed on before TLS, so that no request for it is answered here.
    pub(super) fn are_passed_on(&self, host: &str) -> bool {
        self.config.passthrough.iter().any(|passthrough| passthrough.covers(host))
    }

    /// Tells whether the landing page of a host is the PBX's.
    pub(super) fn is_pbx_host(&self, host: &str) -> bool {
        let Some(pbx) = &self.config.pbx else { return false };
        pbx.upstream.lists(host) || self.route(host, &pbx.landing.to_ascii_lowercase()) == Some(UpstreamName::Pbx)
    }

    /// Tells whether a host is known to be ours. A request may name any host, and an app without `hosts` answers it. Where
    /// hosts are listed, a wildcard of a certificate does not count: it may cover hosts of other owners.
    pub(super) fn are_ours(&self, host: &str) -> bool {
        let (app, pbx) = (app_upstream(&self.config), pbx_upstream(&self.config));
        let any = app.is_some_and(|app| app.hosts.is_empty());
        let mut certificates = self.config.certificates.iter();
        !self.are_passed_on(host)
            && (certificates.any(|one| one.names_host(host) || (any && one.has_wildcard_for(host)))
                || app.into_iter().chain(pbx).any(|upstream| upstream.lists(host)))
    }

    /// Returns the origins, besides our own, whose pages may ask for a login. Without `origins` in `[pbx]` those of
    /// `[voximplant]` may ask for both kinds.
    pub(super) fn origins(&self, kind: LoginKind) -> &[String] {
        let of_pbx = self.config.pbx.as_ref().and_then(|pbx| pbx.origins.as_deref());
        let of_voximplant = || self.config.voximplant.as_ref().map_or(&[][..], |voximplant| &voximplant.origins);
        match (kind, of_pbx) {
            (LoginKind::Pbx, Some(origins)) => origins,
            (LoginKind::Pbx, None) | (LoginKind::Ott, _) => of_voximplant(),
        }
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
        if !is_path || self.route(&authority.host, login) == Some(UpstreamName::App) {
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

/// Returns the settings of the PBX as an upstream.
pub(super) fn pbx_upstream(config: &Config) -> Option<&UpstreamConfig> {
    config.pbx.as_ref().map(|pbx| &pbx.upstream)
}
