//! A grant on its way from one host to another: stored as text, and restored under the rules of that moment.

use serde::{Deserialize, Serialize};

use super::{PbxGrant, PbxTemplate, Rule};
use crate::model::stored_role::StoredRole;

/// A grant of a session, as a ticket carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredGrant {
    rule: String,
    #[serde(flatten)]
    role: StoredRole,
}

impl StoredGrant {
    /// Returns the stored form of a grant.
    #[must_use]
    pub fn of(grant: &PbxGrant) -> Self {
        Self { rule: grant.rule.clone(), role: StoredRole::of(grant.role()) }
    }

    /// Restores the grant, if its rule is still there and still grants sessions of the same level.
    #[must_use]
    pub fn restore(&self, rules: &[Rule]) -> Option<PbxGrant> {
        let rule = rules.iter().find(|rule| rule.name == self.rule)?;
        rule.pbx.as_ref().map(PbxTemplate::level).filter(|level| *level == self.role.level())?;
        Some(PbxGrant { rule: self.rule.clone(), role: self.role.restore()?, languages: rule.languages.clone() })
    }
}
