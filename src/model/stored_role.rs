//! A role at the PBX as text, on its way from one process or host to another.

use serde::{Deserialize, Serialize};

use super::account::{Account, AdminLevel, Domain, Role, SystemAdmin, TenantAdmin};

/// The stored form of a role that a rule has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRole {
    level: AdminLevel,
    /// The name of the user; `None` for an administrator.
    user: Option<String>,
    domain: String,
}

impl StoredRole {
    /// Returns the stored form of a role.
    #[must_use]
    pub fn of(role: &Role) -> Self {
        Self { level: role.level(), user: role.user().map(str::to_owned), domain: role.domain().to_string() }
    }

    /// Returns the level.
    #[must_use]
    pub const fn level(&self) -> AdminLevel {
        self.level
    }

    /// Restores the role; `None` if the text is of none.
    #[must_use]
    pub fn restore(&self) -> Option<Role> {
        let domain: Domain = self.domain.parse().ok()?;
        match (self.level, &self.user) {
            (AdminLevel::User, Some(user)) => Account::new(user, domain).ok().map(Role::User),
            (AdminLevel::Domain, None) => Some(Role::TenantAdmin(TenantAdmin::new(domain))),
            (AdminLevel::Admin, None) => Some(Role::SystemAdmin(SystemAdmin::new(domain))),
            (AdminLevel::User, None) | (AdminLevel::Domain | AdminLevel::Admin, Some(_)) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_restored_as_it_was_and_no_text_makes_another() {
        let domain: Domain = "acme.test".parse().unwrap();
        for role in [
            Role::User(Account::new("40", domain.clone()).unwrap()),
            Role::TenantAdmin(TenantAdmin::new(domain.clone())),
            Role::SystemAdmin(SystemAdmin::new(domain)),
        ] {
            let text = serde_json::to_string(&StoredRole::of(&role)).unwrap();
            let stored: StoredRole = serde_json::from_str(&text).unwrap();
            assert_eq!((stored.level(), stored.restore()), (role.level(), Some(role)), "{text}");
        }
        for bad in [
            r#"{"level":"user","user":"admin","domain":"acme.test"}"#,
            r#"{"level":"user","user":null,"domain":"acme.test"}"#,
            r#"{"level":"domain","user":"40","domain":"acme.test"}"#,
            r#"{"level":"user","user":"40","domain":"a b"}"#,
        ] {
            assert_eq!(serde_json::from_str::<StoredRole>(bad).unwrap().restore(), None, "{bad}");
        }
    }
}
