//! Finds the upstream of a request: by host, then by the longest path prefix.

use crate::config::{self, HostPattern};
use crate::model::upstream_name::UpstreamName;

/// The hosts and paths of the upstreams.
#[derive(Debug)]
pub(in crate::proxy) struct Routes(Vec<Route>);

#[derive(Debug)]
struct Route {
    to: UpstreamName,
    hosts: Vec<HostPattern>,
    paths: Vec<String>,
}

impl Routes {
    /// Reads the hosts and paths of both upstreams.
    #[must_use]
    pub(in crate::proxy) fn new(app: Option<&config::UpstreamConfig>, pbx: Option<&config::UpstreamConfig>) -> Self {
        let route = |to, upstream: &config::UpstreamConfig| Route {
            to,
            hosts: upstream.hosts.clone(),
            paths: upstream.paths.clone(),
        };
        // The PBX stands first, so it gets a request that fits both equally well.
        Self(
            pbx.map(|pbx| route(UpstreamName::Pbx, pbx))
                .into_iter()
                .chain(app.map(|app| route(UpstreamName::App, app)))
                .collect(),
        )
    }

    /// Finds the upstream of a request. `host` is in lower case and has no port; `path` is the canonical path.
    ///
    /// An exact host beats a wildcard, a longer wildcard a shorter one, and any listed host a route without `hosts`. Among
    /// equals the longest path prefix decides.
    #[must_use]
    pub(in crate::proxy) fn find(&self, host: &str, path: &str) -> Option<UpstreamName> {
        let fits = self.0.iter().filter_map(|route| Some((route.fit(host, path)?, route.to)));
        // The first of equals: `max_by_key` would take the last.
        fits.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, to)| to)
    }
}

impl Route {
    /// Rates a request: by host, then by path. `None`: the request does not fit.
    fn fit(&self, host: &str, path: &str) -> Option<(usize, usize)> {
        let by_host = |pattern: &HostPattern| pattern.matches(host).then(|| pattern.exactness());
        let host = if self.hosts.is_empty() { Some(0) } else { self.hosts.iter().filter_map(by_host).max() };
        let prefixes = self.paths.iter().filter(|prefix| path.starts_with(prefix.to_ascii_lowercase().as_str()));
        let path = if self.paths.is_empty() { Some(0) } else { prefixes.map(String::len).max() };
        Some((host?, path?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: UpstreamName, hosts: &[&str], paths: &[&str]) -> Route {
        let pattern = |host: &&str| {
            host.strip_prefix('*')
                .map_or_else(|| HostPattern::Exact((*host).into()), |suffix| HostPattern::Below(suffix.into()))
        };
        Route {
            to,
            hosts: hosts.iter().map(pattern).collect(),
            paths: paths.iter().map(|path| (*path).into()).collect(),
        }
    }

    #[track_caller]
    fn check(routes: &Routes, host: &str, path: &str, expected: Option<UpstreamName>) {
        assert_eq!(routes.find(host, path), expected, "{host}{path}");
    }

    #[test]
    fn a_named_host_beats_the_rest() {
        let routes = Routes(vec![
            route(UpstreamName::Pbx, &["pbx.test", "*.pbx.test"], &[]),
            route(UpstreamName::App, &[], &[]),
        ]);
        check(&routes, "pbx.test", "/", Some(UpstreamName::Pbx));
        check(&routes, "acme.pbx.test", "/", Some(UpstreamName::Pbx));
        check(&routes, "a.b.pbx.test", "/", Some(UpstreamName::Pbx));
        check(&routes, "xpbx.test", "/", Some(UpstreamName::App));
        check(&routes, "app.test", "/", Some(UpstreamName::App));
    }

    #[test]
    fn the_own_name_beats_the_wildcard() {
        let routes = Routes(vec![
            route(UpstreamName::Pbx, &["*.acme.test"], &[]),
            route(UpstreamName::App, &["app.acme.test"], &[]),
        ]);
        check(&routes, "app.acme.test", "/", Some(UpstreamName::App));
        check(&routes, "any.acme.test", "/", Some(UpstreamName::Pbx));
        check(&routes, "other.test", "/", None);
    }

    #[test]
    fn the_longest_prefix_decides_on_one_host() {
        let routes = Routes(vec![
            route(UpstreamName::Pbx, &[], &["/rest/", "/welcome.htm"]),
            route(UpstreamName::App, &[], &["/", "/rest/app/"]),
        ]);
        check(&routes, "a.test", "/rest/system/session", Some(UpstreamName::Pbx));
        check(&routes, "a.test", "/rest/app/x", Some(UpstreamName::App));
        check(&routes, "a.test", "/welcome.htm", Some(UpstreamName::Pbx));
        check(&routes, "a.test", "/", Some(UpstreamName::App));
    }
}
