//! The names of `[[passthrough]]`, and where their connections go.

use std::sync::Arc;

use crate::config::{HostPattern, PassthroughConfig};
use crate::observe::notice::Notice;
use crate::upstream::PassthroughTarget;

/// The names of one configuration. All workers share them.
#[derive(Debug)]
pub(super) struct PassthroughRoutes(Vec<Arc<PassthroughRoute>>);

/// One of `[[passthrough]]`.
#[derive(Debug)]
pub(super) struct PassthroughRoute {
    pub(super) config: PassthroughConfig,
    pub(super) target: PassthroughTarget,
    /// The target cannot be reached.
    pub(super) unreachable: Notice,
}

impl PassthroughRoutes {
    /// Prepares those of the first configuration.
    pub(super) fn new(configs: &[PassthroughConfig]) -> Arc<Self> {
        Arc::new(Self(configs.iter().map(PassthroughRoute::new).collect()))
    }

    /// Prepares those of another configuration. What is configured as before is kept.
    pub(super) fn successor(&self, configs: &[PassthroughConfig]) -> Arc<Self> {
        let kept = |config: &PassthroughConfig| self.0.iter().find(|route| route.config == *config).map(Arc::clone);
        Arc::new(Self(
            configs.iter().map(|config| kept(config).unwrap_or_else(|| PassthroughRoute::new(config))).collect(),
        ))
    }

    /// Returns whether every connection is served here.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Finds the route of a name, in lower case and without a final dot: by the most exact of the patterns that match.
    pub(super) fn find(&self, name: &str) -> Option<&Arc<PassthroughRoute>> {
        let fit = |route: &PassthroughRoute| {
            let fitting = route.config.names.iter().filter(|pattern| pattern.matches(name));
            fitting.map(HostPattern::exactness).max()
        };
        let fits = self.0.iter().filter_map(|route| Some((fit(route)?, route)));
        fits.max_by_key(|(exactness, _)| *exactness).map(|(_, route)| route)
    }

    /// Checks that the last connection to each target could be opened.
    ///
    /// # Errors
    /// Names the targets that could not be reached.
    pub(super) fn check(&self) -> Result<(), String> {
        let problems: Vec<_> = self.0.iter().filter_map(|route| route.target.check().err()).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems.join(", ")) }
    }
}

impl PassthroughRoute {
    fn new(config: &PassthroughConfig) -> Arc<Self> {
        let target = PassthroughTarget::new(&config.to, config.connect);
        Arc::new(Self { config: config.clone(), target, unreachable: Notice::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PassthroughTo;

    fn route(names: &[HostPattern], to: &str) -> PassthroughConfig {
        let to = PassthroughTo::Unix(to.into());
        PassthroughConfig {
            names: names.to_vec(),
            to,
            proxy_protocol: None,
            connect: std::time::Duration::from_secs(1),
        }
    }

    #[test]
    fn the_most_exact_name_decides() {
        let (exact, below) =
            (|name: &str| HostPattern::Exact(name.into()), |name: &str| HostPattern::Below(name.into()));
        let configs = [
            route(&[below(".test")], "a"),
            route(&[exact("phones.test"), below(".phones.test")], "b"),
            route(&[below(".old.phones.test"), exact("my.other.test")], "c"),
        ];
        let routes = PassthroughRoutes::new(&configs);
        for (name, to) in [
            ("phones.test", Some("unix:b")),
            ("x.phones.test", Some("unix:b")),
            ("old.phones.test", Some("unix:b")),
            ("x.y.old.phones.test", Some("unix:c")),
            ("my.other.test", Some("unix:c")),
            ("your.other.test", Some("unix:a")),
            ("xphones.test", Some("unix:a")),
            ("test", None),
            ("phones.example", None),
        ] {
            assert_eq!(routes.find(name).map(|route| &**route.target.address()), to, "{name}");
        }
    }

    #[test]
    fn an_unchanged_route_is_kept() {
        let (kept, gone) =
            (route(&[HostPattern::Exact("a.test".into())], "a"), route(&[HostPattern::Exact("b.test".into())], "b"));
        let before = PassthroughRoutes::new(&[gone.clone(), kept.clone()]);
        let changed = PassthroughConfig { connect: std::time::Duration::from_secs(2), ..gone };
        let after = before.successor(&[kept, changed]);
        assert!(Arc::ptr_eq(before.find("a.test").unwrap(), after.find("a.test").unwrap()));
        assert!(!Arc::ptr_eq(before.find("b.test").unwrap(), after.find("b.test").unwrap()));
        assert!(after.successor(&[]).is_empty());
    }
}
