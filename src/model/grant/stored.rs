//! A grant on its way from one host to another: stored as text, and restored under the rules of that moment.

use serde::{Deserialize, Serialize};

use super::{PbxGrant, PbxTemplate, Rule};
use crate::model::account::{Account, AdminLevel, Domain, Role, SystemAdmin, TenantAdmin};

/// A grant of a session, as a ticket carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredGrant {
    rule: String,
    level: AdminLevel,
    /// The name of the user; `None` for an administrator.
    user: Option<String>,
    domain: String,
}

impl StoredGrant {
    /// Returns the stored form of a grant.
    #[must_use]
    pub fn of(grant: &PbxGrant) -> Self {
        let role = grant.role();
        Self {
            rule: grant.rule.clone(),
            level: role.level(),
            user: role.user().map(str::to_owned),
            domain: role.domain().to_string(),
        }
    }

    /// Restores the grant, if its rule is still there and still grants sessions of the same level.
    #[must_use]
    pub fn restore(&self, rules: &[Rule]) -> Option<PbxGrant> {
        let rule = rules.iter().find(|rule| rule.name == self.rule)?;
        rule.pbx.as_ref().map(PbxTemplate::level).filter(|level| *level == self.level)?;
        Some(PbxGrant { rule: self.rule.clone(), role: self.role()?, languages: rule.languages.clone() })
    }

    fn role(&self) -> Option<Role> {
        let domain: Domain = self.domain.parse().ok()?;
        match (self.level, &self.user) {
            (AdminLevel::User, Some(user)) => Account::new(user, domain).ok().map(Role::User),
            (AdminLevel::Domain, None) => Some(Role::TenantAdmin(TenantAdmin::new(domain))),
            (AdminLevel::Admin, None) => Some(Role::SystemAdmin(SystemAdmin::new(domain))),
            (AdminLevel::User, None) | (AdminLevel::Domain | AdminLevel::Admin, Some(_)) => None,
        }
    }
}
