//! Finds the upstream of a request: by host, then by the longest path prefix.

use crate::config::{self, HostPattern, NodeIndex, PbxNodes};
use crate::model::upstream_name::UpstreamName;

/// The upstream of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Destination {
    App,
    /// A node of the PBX.
    Pbx(NodeIndex),
}

impl Destination {
    /// Returns the name of its table.
    pub(in crate::proxy) const fn upstream(self) -> UpstreamName {
        match self {
            Self::App => UpstreamName::App,
            Self::Pbx(_) => UpstreamName::Pbx,
        }
    }

    /// Returns the node of the PBX; `None`: it is the app.
    pub(in crate::proxy) const fn node(self) -> Option<NodeIndex> {
        match self {
            Self::App => None,
            Self::Pbx(node) => Some(node),
        }
    }
}

/// The hosts and paths of the upstreams.
#[derive(Debug)]
pub(in crate::proxy) struct Routes(Vec<Route>);

#[derive(Debug)]
struct Route {
    to: Destination,
    hosts: Vec<HostPattern>,
    paths: Vec<String>,
}

impl Routes {
    /// Reads the hosts and paths of all upstreams.
    #[must_use]
    pub(in crate::proxy) fn new(app: Option<&config::UpstreamConfig>, pbx: &PbxNodes) -> Self {
        let route = |to, upstream: &config::UpstreamConfig| Route {
            to,
            hosts: upstream.hosts.clone(),
            paths: upstream.paths.clone(),
        };
        let nodes = pbx.indexed().map(|(node, pbx)| route(Destination::Pbx(node), &pbx.upstream));
        // The PBX stands first, so it gets a request that fits both equally well.
        Self(nodes.chain(app.map(|app| route(Destination::App, app))).collect())
    }

    /// Finds the upstream of a request. `host` is in lower case and has no port; `path` is the canonical path.
    ///
    /// An exact host beats a wildcard, a longer wildcard a shorter one, and any listed host a route without `hosts`. Among
    /// equals the longest path prefix decides.
    #[must_use]
    pub(in crate::proxy) fn find(&self, host: &str, path: &str) -> Option<Destination> {
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

    const NODES: [NodeIndex; 2] = NodeIndex::FIRST_TWO;

    fn route(to: Destination, hosts: &[&str], paths: &[&str]) -> Route {
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
    fn check(routes: &Routes, host: &str, path: &str, expected: Option<Destination>) {
        assert_eq!(routes.find(host, path), expected, "{host}{path}");
    }

    #[test]
    fn a_named_host_beats_the_rest() {
        let routes = Routes(vec![
            route(Destination::Pbx(NODES[0]), &["pbx.test", "*.pbx.test"], &[]),
            route(Destination::App, &[], &[]),
        ]);
        check(&routes, "pbx.test", "/", Some(Destination::Pbx(NODES[0])));
        check(&routes, "acme.pbx.test", "/", Some(Destination::Pbx(NODES[0])));
        check(&routes, "a.b.pbx.test", "/", Some(Destination::Pbx(NODES[0])));
        check(&routes, "xpbx.test", "/", Some(Destination::App));
        check(&routes, "app.test", "/", Some(Destination::App));
    }

    #[test]
    fn the_own_name_beats_the_wildcard() {
        let routes = Routes(vec![
            route(Destination::Pbx(NODES[0]), &["*.acme.test"], &[]),
            route(Destination::App, &["app.acme.test"], &[]),
        ]);
        check(&routes, "app.acme.test", "/", Some(Destination::App));
        check(&routes, "any.acme.test", "/", Some(Destination::Pbx(NODES[0])));
        check(&routes, "other.test", "/", None);
    }

    #[test]
    fn the_longest_prefix_decides_on_one_host() {
        let routes = Routes(vec![
            route(Destination::Pbx(NODES[0]), &[], &["/rest/", "/welcome.htm"]),
            route(Destination::App, &[], &["/", "/rest/app/"]),
        ]);
        check(&routes, "a.test", "/rest/system/session", Some(Destination::Pbx(NODES[0])));
        check(&routes, "a.test", "/rest/app/x", Some(Destination::App));
        check(&routes, "a.test", "/welcome.htm", Some(Destination::Pbx(NODES[0])));
        check(&routes, "a.test", "/", Some(Destination::App));
    }

    #[test]
    fn the_most_exact_host_decides_between_nodes() {
        let [one, two] = NODES.map(Destination::Pbx);
        for swapped in [false, true] {
            let mut nodes =
                vec![route(one, &["*.pbx.test", "one.test"], &[]), route(two, &["*.two.pbx.test", "b.pbx.test"], &[])];
            if swapped {
                nodes.reverse();
            }
            nodes.push(route(Destination::App, &["app.two.pbx.test"], &[]));
            let routes = Routes(nodes);
            check(&routes, "a.pbx.test", "/", Some(one));
            check(&routes, "b.pbx.test", "/", Some(two));
            check(&routes, "a.two.pbx.test", "/", Some(two));
            check(&routes, "app.two.pbx.test", "/", Some(Destination::App));
            check(&routes, "two.pbx.test", "/", Some(one));
            check(&routes, "other.test", "/", None);
        }
    }
}
