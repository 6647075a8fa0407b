//! Sets of limits, by their names in `[limits]`.

/// The names of the limits, as in `[limits]`.
pub const LIMITS: [&str; 7] = ["client", "caller", "account", "admin", "failures", "stale_cookies", "pbx_logins"];

/// A set of limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitSet(u8);

impl LimitSet {
    /// All limits.
    pub const ALL: Self = Self((1 << LIMITS.len()) - 1);

    /// Returns the set with one more limit. A name that no limit has changes nothing.
    #[must_use]
    pub fn with(self, name: &str) -> Self {
        Self(self.0 | bit(name))
    }

    /// Returns whether a limit is in the set.
    #[must_use]
    pub fn has(self, name: &str) -> bool {
        self.0 & bit(name) != 0
    }

    /// Returns whether no limit is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the names, in the order of [`LIMITS`].
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        LIMITS.into_iter().filter(move |name| self.has(name))
    }
}

fn bit(name: &str) -> u8 {
    LIMITS.iter().position(|known| *known == name).map_or(0, |index| 1 << index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_added() {
        let set = LimitSet::default().with("pbx_logins").with("client").with("client").with("distinct_keys");
        assert_eq!(set.names().collect::<Vec<_>>(), ["client", "pbx_logins"]);
        assert!(set.has("client") && !set.has("caller") && !set.has("distinct_keys"));
        assert!(LimitSet::default().is_empty() && !set.is_empty());
        assert_eq!(LimitSet::ALL.names().collect::<Vec<_>>(), LIMITS);
        assert_eq!(LIMITS.iter().fold(LimitSet::default(), |set, name| set.with(name)), LimitSet::ALL);
    }
}
