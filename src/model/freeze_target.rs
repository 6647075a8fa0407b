//! The target of a freeze: one account, one Voximplant user, or all accounts of a domain.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::account::{Account, Domain, Role};
use super::ott::VoximplantUser;

/// The longest reason that is stored with a freeze, in bytes.
pub const MAX_WHY: usize = 500;

/// The accounts that a freeze is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FreezeTarget {
    /// An account of the PBX.
    Account(Account),
    /// A user of Voximplant.
    User(VoximplantUser),
    /// All accounts of a PBX domain.
    Domain(Domain),
}

/// The way in which the freeze of a Voximplant user stops its phone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FreezeMeans {
    /// The user is deactivated at Voximplant, and activated when it is thawed.
    #[default]
    Deactivate,
    /// The user gets a new random password.
    Rotate,
}

impl FreezeTarget {
    /// Returns the target that a session's role falls under. An administrator falls under its domain.
    #[must_use]
    pub fn of(role: &Role) -> Self {
        match role {
            Role::User(account) => Self::Account(account.clone()),
            Role::TenantAdmin(_) | Role::SystemAdmin(_) => Self::Domain(role.domain().clone()),
        }
    }

    /// Returns the kind and the name.
    #[must_use]
    pub fn parts(&self) -> (&'static str, String) {
        match self {
            Self::Account(account) => ("account", account.limit_key()),
            Self::User(user) => ("user", user.as_str().to_owned()),
            Self::Domain(domain) => ("domain", domain.as_str().to_owned()),
        }
    }
}

/// Writes the key of the tables: kind and name. Names that differ only in case give one key.
impl fmt::Display for FreezeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = self.parts();
        write!(f, "{kind} {name}")
    }
}

impl From<FreezeTarget> for String {
    fn from(target: FreezeTarget) -> Self {
        target.to_string()
    }
}

impl TryFrom<String> for FreezeTarget {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for FreezeTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || "write account 40@acme.example.com, user ann, or domain acme.example.com".to_owned();
        let (kind, name) = text.split_once(' ').ok_or_else(form)?;
        let domain = |name: &str| {
            let problem = |_| format!("{name:?} is not a domain of the PBX, such as acme.example.com");
            name.parse::<Domain>().map_err(problem)
        };
        match kind {
            "account" => {
                let (user, of) = name
                    .split_once('@')
                    .ok_or_else(|| format!("{name:?} has no @ and no domain: write it as 40@acme.example.com"))?;
                let account = Account::new(user, domain(of)?);
                account.map(Self::Account).map_err(|why| format!("{name:?} is not an account: {why}"))
            }
            "user" => name.parse().map(Self::User).map_err(|why| {
                let at =
                    if name.contains('@') { "; behind an @ stands an application, as in ann@sales.acme" } else { "" };
                format!("{name:?} is not a user: {why}{at}")
            }),
            "domain" if name.contains('@') => Err(format!("{name:?} is an account: write account {name}")),
            "domain" => domain(name).map(Self::Domain),
            _ => Err(form()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        let read = text.parse::<FreezeTarget>().map(|whom| whom.to_string());
        match (read, expected) {
            (Ok(read), Ok(expected)) => assert_eq!(read, expected, "{text}"),
            (Err(problem), Err(part)) => assert!(problem.contains(part), "{text}: {problem}"),
            (read, _) => panic!("{text}: {read:?}"),
        }
    }

    #[test]
    fn one_name_for_each() {
        check("account 40@acme.test", Ok("account 40@acme.test"));
        check("account Ann@ACME.test", Ok("account ann@acme.test"));
        check("user ann", Ok("user ann"));
        check("domain Acme.Test", Ok("domain acme.test"));
    }

    #[test]
    fn what_cannot_be_anybody_is_refused() {
        check("40@acme.test", Err("write account"));
        check("extension 40", Err("write account"));
        check("account 40", Err("no @"));
        check("account @acme.test", Err("empty"));
        check("account admin@acme.test", Err("administrator"));
        check("account 40@acme test", Err("not a domain"));
        check("user Ann", Err("not a user"));
        check("user ann@b", Err("behind an @ stands an application"));
        check("domain acme/test", Err("not a domain"));
        check("domain 40@acme.test", Err("write account 40@acme.test"));
    }
}
