//! Where a request goes: by host, then by the longest path prefix.

use crate::config::{self, HostPattern};
use crate::observe::metrics::Side;

/// The two upstreams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum To {
    /// The app.
    App,
    /// The PBX.
    Pbx,
}

impl To {
    /// Returns the name that logs and metrics use.
    #[must_use]
    pub(in crate::proxy) const fn side(self) -> Side {
        match self {
            Self::App => Side::App,
            Self::Pbx => Side::Pbx,
        }
    }
}

/// What is sent where.
#[derive(Debug)]
pub(in crate::proxy) struct Routes(Vec<Route>);

#[derive(Debug)]
struct Route {
    to: To,
    hosts: Vec<HostPattern>,
    paths: Vec<String>,
}

impl Routes {
    /// Collects what is sent where.
    #[must_use]
    pub(in crate::proxy) fn new(app: Option<&config::UpstreamConfig>, pbx: Option<&config::UpstreamConfig>) -> Self {
        let route = |to, upstream: &config::UpstreamConfig| Route {
            to,
            hosts: upstream.hosts.clone(),
            paths: upstream.paths.clone(),
        };
        // The PBX first: it keeps what both fit equally well.
        Self(pbx.map(|pbx| route(To::Pbx, pbx)).into_iter().chain(app.map(|app| route(To::App, app))).collect())
    }

    /// Finds where a request goes. `host` is in lower case and has no port; `path` is the canonical path.
    ///
    /// A route for the host's own name beats one for names like it, and that one beats a route for any host; then the
    /// longest path prefix decides.
    #[must_use]
    pub(in crate::proxy) fn find(&self, host: &str, path: &str) -> Option<To> {
        let fits = self.0.iter().filter_map(|route| Some((route.fit(host, path)?, route.to)));
        // The first of equals: `max_by_key` would take the last.
        fits.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, to)| to)
    }
}

impl Route {
    /// How well a request fits: by host, then by path; nothing if it does not.
    fn fit(&self, host: &str, path: &str) -> Option<(usize, usize)> {
        let by_host = |pattern: &HostPattern| match pattern {
            pattern if !pattern.matches(host) => None,
            HostPattern::Exact(_) => Some(usize::MAX),
            HostPattern::Below(suffix) => Some(suffix.len()),
        };
        let host = if self.hosts.is_empty() { Some(0) } else { self.hosts.iter().filter_map(by_host).max() };
        let prefixes = self.paths.iter().filter(|prefix| path.starts_with(prefix.to_ascii_lowercase().as_str()));
        let path = if self.paths.is_empty() { Some(0) } else { prefixes.map(String::len).max() };
        Some((host?, path?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: To, hosts: &[&str], paths: &[&str]) -> Route {
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
    fn check(routes: &Routes, host: &str, path: &str, expected: Option<To>) {
        assert_eq!(routes.find(host, path), expected, "{host}{path}");
    }

    #[test]
    fn a_named_host_beats_the_rest() {
        let routes = Routes(vec![route(To::Pbx, &["pbx.test", "*.pbx.test"], &[]), route(To::App, &[], &[])]);
        check(&routes, "pbx.test", "/", Some(To::Pbx));
        check(&routes, "acme.pbx.test", "/", Some(To::Pbx));
        check(&routes, "a.b.pbx.test", "/", Some(To::Pbx));
        check(&routes, "xpbx.test", "/", Some(To::App));
        check(&routes, "app.test", "/", Some(To::App));
    }

    #[test]
    fn the_own_name_beats_the_wildcard() {
        let routes = Routes(vec![route(To::Pbx, &["*.acme.test"], &[]), route(To::App, &["app.acme.test"], &[])]);
        check(&routes, "app.acme.test", "/", Some(To::App));
        check(&routes, "any.acme.test", "/", Some(To::Pbx));
        check(&routes, "other.test", "/", None);
    }

    #[test]
    fn the_longest_prefix_decides_on_one_host() {
        let routes =
            Routes(vec![route(To::Pbx, &[], &["/rest/", "/welcome.htm"]), route(To::App, &[], &["/", "/rest/app/"])]);
        check(&routes, "a.test", "/rest/system/session", Some(To::Pbx));
        check(&routes, "a.test", "/rest/app/x", Some(To::App));
        check(&routes, "a.test", "/welcome.htm", Some(To::Pbx));
        check(&routes, "a.test", "/", Some(To::App));
    }
}
