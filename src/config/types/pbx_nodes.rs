//! The PBX nodes: of one `[pbx]`, or of several `[[pbx]]`.

use std::ops::Index;

use super::{HostPattern, PbxConfig};

/// The place of a PBX node in its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeIndex(usize);

#[cfg(test)]
impl NodeIndex {
    /// The first two nodes of a configuration.
    pub const FIRST_TWO: [Self; 2] = [Self(0), Self(1)];
}

/// One value for each PBX node, in the order of the configuration.
#[derive(Debug, Clone)]
pub struct PerNode<T>(Vec<T>);

/// The settings of all PBX nodes. Where there are several, each lists its `hosts`, and no pattern is one of two nodes.
pub type PbxNodes = PerNode<PbxConfig>;

impl<T> Default for PerNode<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> FromIterator<T> for PerNode<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl<T> Index<NodeIndex> for PerNode<T> {
    type Output = T;

    fn index(&self, node: NodeIndex) -> &T {
        &self.0[node.0]
    }
}

impl<'n, T> IntoIterator for &'n PerNode<T> {
    type Item = &'n T;
    type IntoIter = std::slice::Iter<'n, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T> PerNode<T> {
    /// Returns the values, in the order of the configuration.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }

    /// Returns the values, each with the place of its node.
    pub fn indexed(&self) -> impl Iterator<Item = (NodeIndex, &T)> {
        self.0.iter().enumerate().map(|(index, value)| (NodeIndex(index), value))
    }

    /// Tells whether there is no node.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells whether there is more than one node.
    #[must_use]
    pub const fn are_several(&self) -> bool {
        self.0.len() > 1
    }

    /// Returns the only value; `None`: there are several nodes, or there is no node.
    #[must_use]
    pub fn only(&self) -> Option<&T> {
        match &self.0[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Returns the first place at which a value fits.
    pub fn position(&self, fits: impl FnMut(&T) -> bool) -> Option<NodeIndex> {
        self.0.iter().position(fits).map(NodeIndex)
    }
}

impl PbxNodes {
    /// Returns the name of a node where there are several; `None`: there is one, which needs no name.
    #[must_use]
    pub fn label(&self, node: NodeIndex) -> Option<&str> {
        self.are_several().then(|| self[node].name.as_str())
    }

    /// Finds the node of a tenant: the one whose `domains`, or else `hosts`, cover its domain most exactly. An only node has
    /// all tenants.
    #[must_use]
    pub fn of_domain(&self, domain: &str) -> Option<NodeIndex> {
        match self.are_several() {
            true => self.most_exact(domain, PbxConfig::tenants),
            false => self.position(|_| true),
        }
    }

    /// Finds the node whose `hosts` cover a host name most exactly: in lower case, without port. An only node without
    /// `hosts` has none.
    #[must_use]
    pub fn at_host(&self, host: &str) -> Option<NodeIndex> {
        self.most_exact(host, |node| &node.upstream.hosts)
    }

    /// Finds the node with a name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<NodeIndex> {
        self.position(|node| node.name == name)
    }

    fn most_exact(&self, name: &str, patterns: fn(&PbxConfig) -> &[HostPattern]) -> Option<NodeIndex> {
        let best = |node: &PbxConfig| {
            let fits = patterns(node).iter().filter(|pattern| pattern.matches(name));
            fits.map(HostPattern::exactness).max()
        };
        let rated = self.indexed().filter_map(|(index, node)| Some((best(node)?, index)));
        rated.max_by_key(|(exactness, _)| *exactness).map(|(_, index)| index)
    }

    /// Finds the node that has opened a session. `pbx`: the [`PbxConfig::identity`] that the node had; names and hosts may have
    /// gone to another PBX since. `name`: what the node was called among several. Where there was one PBX and there is one, it is
    /// the same, and each member may reach it by another `url`.
    #[must_use]
    pub fn of_session(&self, name: Option<&str>, pbx: Option<&str>) -> Option<NodeIndex> {
        match (name, pbx) {
            (None, _) if !self.are_several() => self.position(|_| true),
            (_, pbx) => self.position(|node| pbx.is_some_and(|pbx| node.is_identified_by(pbx))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(all: &[(&str, &[&str])]) -> PbxNodes {
        all.iter().map(|(name, hosts)| PbxConfig::for_test(name, hosts)).collect()
    }

    fn name(nodes: &PbxNodes, node: Option<NodeIndex>) -> Option<&str> {
        node.map(|node| nodes[node].name.as_str())
    }

    #[test]
    fn one_pbx_has_all_tenants_and_needs_no_name() {
        let nodes = nodes(&[("pbx", &["pbx.test"])]);
        assert_eq!(name(&nodes, nodes.of_domain("any.test")), Some("pbx"));
        assert_eq!(name(&nodes, nodes.of_session(None, Some("unix:/run/other.sock"))), Some("pbx"));
        assert_eq!(nodes.label(nodes.named("pbx").unwrap()), None);
        assert_eq!((nodes.at_host("any.test"), name(&nodes, nodes.at_host("pbx.test"))), (None, Some("pbx")));
    }

    #[test]
    fn the_most_exact_pattern_tells_the_node_of_a_tenant() {
        let mut all = nodes(&[("north", &["*.test", "b.a.test"]), ("south", &["*.a.test", "c.test"])]);
        for (domain, expected) in
            [("x.test", "north"), ("b.a.test", "north"), ("x.a.test", "south"), ("c.test", "south")]
        {
            assert_eq!(name(&all, all.of_domain(domain)), Some(expected), "{domain}");
        }
        assert_eq!(all.of_domain("other.example"), None);
        let label = all.named("south").and_then(|node| all.label(node));
        assert_eq!(label, Some("south"));
        // What `domains` do not cover is not at the node, whatever its hosts.
        all.0[1].domains = vec![HostPattern::Exact("other.example".to_owned())];
        assert_eq!(name(&all, all.of_domain("c.test")), Some("north"));
        assert_eq!(name(&all, all.of_domain("other.example")), Some("south"));
        assert_eq!(name(&all, all.at_host("c.test")), Some("south"));
    }

    #[test]
    fn a_session_is_of_the_pbx_that_opened_it() {
        let all = nodes(&[("north", &["a.test"]), ("south", &["b.test"])]);
        for (pbx, expected) in [
            (Some("unix:/run/south.sock"), Some("south")),
            (Some("unix:/run/gone.sock"), None),
            (Some("south"), None),
            (None, None),
        ] {
            for label in [None, Some("north")] {
                assert_eq!(name(&all, all.of_session(label, pbx)), expected, "{pbx:?}");
            }
        }
        let one = nodes(&[("pbx", &["a.test"])]);
        assert_eq!(one.of_session(Some("south"), Some("unix:/run/south.sock")), None, "its node is gone");
        assert_eq!(name(&one, one.of_session(None, None)), Some("pbx"));
        assert_eq!(all.0[0].identity(), "unix:/run/north.sock");
    }
}
