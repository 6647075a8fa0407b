//! The identities of the PBX. To the PBX, an account without a user is the tenant's administrator. So an [`Account`]
//! cannot be made without a user: administrators are types of their own, and only a rule makes them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest account name the PBX is asked for, in bytes.
const MAX_USER: usize = 64;

/// Why a text is not an account, a domain or a language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// An empty user name means the tenant administrator to the PBX.
    #[error("the account is empty, which the PBX reads as the tenant administrator")]
    Empty,
    /// `admin`, in any case, is the administrator's own name.
    #[error("the account is the administrator's")]
    Admin,
    /// A character or a length outside the grammar.
    #[error("not of the form the PBX knows")]
    Grammar,
}

/// A user of one PBX domain (tenant), at the level of an extension and never above.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Account {
    user: String,
    domain: Domain,
}

impl Account {
    /// Makes an account from a user name and its domain.
    ///
    /// # Errors
    /// When the user is empty, `admin` in any case, or outside `[A-Za-z0-9+*_.-]{1,64}`.
    pub fn new(user: &str, domain: Domain) -> Result<Self, AccountError> {
        if user.is_empty() {
            return Err(AccountError::Empty);
        }
        if user.eq_ignore_ascii_case("admin") {
            return Err(AccountError::Admin);
        }
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"+*_.-".contains(&byte);
        if user.len() > MAX_USER || !user.bytes().all(known) {
            return Err(AccountError::Grammar);
        }
        Ok(Self { user: user.to_owned(), domain })
    }

    /// Returns the user name, as the PBX spells it.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns the domain (tenant) the user belongs to.
    #[must_use]
    pub const fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Returns the key under which uses of this account are counted. Accounts that differ only in case share one key.
    #[must_use]
    pub fn limit_key(&self) -> String {
        format!("{}@{}", self.user.to_ascii_lowercase(), self.domain)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.user, self.domain)
    }
}

/// The rights of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminLevel {
    /// The rights of one extension.
    User,
    /// The rights of the administrator of one domain (tenant).
    Domain,
    /// The rights of the administrator of the PBX.
    Admin,
}

impl AdminLevel {
    /// Returns the level as a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Domain => "domain",
            Self::Admin => "admin",
        }
    }
}

/// The administrator of one domain (tenant).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TenantAdmin(Domain);

impl TenantAdmin {
    pub(super) const fn new(domain: Domain) -> Self {
        Self(domain)
    }

    /// Returns the domain.
    #[must_use]
    pub const fn domain(&self) -> &Domain {
        &self.0
    }
}

/// An administrator of the PBX, who logs in at one of its domains.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SystemAdmin(Domain);

impl SystemAdmin {
    pub(super) const fn new(domain: Domain) -> Self {
        Self(domain)
    }

    /// Returns the domain of the login.
    #[must_use]
    pub const fn domain(&self) -> &Domain {
        &self.0
    }
}

/// The identity that a session of the PBX is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Role {
    /// A user.
    User(Account),
    /// The administrator of a domain.
    TenantAdmin(TenantAdmin),
    /// An administrator of the PBX.
    SystemAdmin(SystemAdmin),
}

impl Role {
    /// Returns the domain (tenant) of the session.
    #[must_use]
    pub const fn domain(&self) -> &Domain {
        match self {
            Self::User(account) => account.domain(),
            Self::TenantAdmin(admin) => admin.domain(),
            Self::SystemAdmin(admin) => admin.domain(),
        }
    }

    /// Returns the name of the user; `None` for an administrator.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        match self {
            Self::User(account) => Some(account.user()),
            Self::TenantAdmin(_) | Self::SystemAdmin(_) => None,
        }
    }

    /// Returns the rights of the session.
    #[must_use]
    pub const fn level(&self) -> AdminLevel {
        match self {
            Self::User(_) => AdminLevel::User,
            Self::TenantAdmin(_) => AdminLevel::Domain,
            Self::SystemAdmin(_) => AdminLevel::Admin,
        }
    }

    /// Returns the key under which uses of this role are counted. Accounts that differ only in case share one key.
    #[must_use]
    pub fn limit_key(&self) -> String {
        match self {
            Self::User(account) => account.limit_key(),
            Self::TenantAdmin(_) | Self::SystemAdmin(_) => self.to_string(),
        }
    }
}

impl fmt::Display for Role {
    /// Writes `40@acme.test`, and `admin@acme.test` for administrators: no user can be called `admin`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(account) => account.fmt(f),
            Self::TenantAdmin(TenantAdmin(domain)) | Self::SystemAdmin(SystemAdmin(domain)) => {
                write!(f, "admin@{domain}")
            }
        }
    }
}

/// A PBX domain: a host name in lower case, by which the PBX picks the tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Domain(String);

impl Domain {
    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Domain {
    type Err = AccountError;

    /// Reads a host name, with or without its final dot.
    fn from_str(text: &str) -> Result<Self, AccountError> {
        host_name(text).map(Self).ok_or(AccountError::Grammar)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads a host name. Returns it in lower case and without the final dot of a fully qualified name (RFC 1034 §3.1).
#[must_use]
pub fn host_name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    is_host_name(text).then(|| text.to_ascii_lowercase())
}

/// Tells whether a text is a host name without a final dot: letters, digits and inner hyphens (RFC 1123 §2.1), at most
/// 253 bytes. Underscores are allowed as well, because resolvers accept them and people use them.
#[must_use]
pub fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// A language of the PBX's pages, such as `en`, `fr` or the PBX's own `sp` for Spanish.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Language(String);

impl Language {
    /// Returns the code.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Language {
    type Err = AccountError;

    /// Reads a code of 2 to 8 lower-case letters.
    fn from_str(text: &str) -> Result<Self, AccountError> {
        let code = (2..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase());
        if code { Ok(Self(text.to_owned())) } else { Err(AccountError::Grammar) }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(user: &str, expected: Result<&str, AccountError>) {
        let account = Account::new(user, "acme.test".parse().unwrap());
        assert_eq!(account.as_ref().map(Account::user), expected.as_ref().copied(), "{user:?}");
    }

    #[test]
    fn accepts_what_the_pbx_names_accounts() {
        for user in ["40", "+4915112345", "*97", "a_b.c-d", "Administrator", &"9".repeat(64)] {
            check(user, Ok(user));
        }
    }

    #[test]
    fn refuses_the_administrator_and_the_empty_name() {
        check("", Err(AccountError::Empty));
        for user in ["admin", "ADMIN", "aDmIn"] {
            check(user, Err(AccountError::Admin));
        }
    }

    #[test]
    fn refuses_everything_outside_the_grammar() {
        for user in [" ", " admin", "40\0", "40\n", "4 0", "é", "40\"", "40/41", "40@x", &"9".repeat(65)] {
            check(user, Err(AccountError::Grammar));
        }
    }

    #[test]
    fn domains_are_host_names_in_lower_case() {
        for (text, domain) in [("ACME.Test", "acme.test"), ("acme.test.", "acme.test"), ("My_PBX._x", "my_pbx._x")] {
            assert_eq!(text.parse::<Domain>().unwrap().as_str(), domain);
        }
        for text in ["", ".", "a..b", "a b", "-a", "a-", "a+b", "a..", "a/b", "a:1", "a@b", "ä.test", &"a".repeat(64)]
        {
            assert_eq!(text.parse::<Domain>(), Err(AccountError::Grammar), "{text:?}");
        }
    }

    #[test]
    fn languages_are_short_words_of_small_letters() {
        for (text, is_language) in [
            ("en", true),
            ("abcdefgh", true),
            ("e", false),
            ("abcdefghi", false),
            ("EN", false),
            ("e1", false),
            ("e-", false),
            ("é", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<Language>().is_ok(), is_language, "{text:?}");
        }
        assert_eq!("fr".parse::<Language>().unwrap().to_string(), "fr");
    }

    #[test]
    fn a_role_is_of_one_level() {
        let domain = || "acme.test".parse::<Domain>().unwrap();
        let user = Role::User(Account::new("Ann", domain()).unwrap());
        let tenant = Role::TenantAdmin(TenantAdmin::new(domain()));
        let system = Role::SystemAdmin(SystemAdmin::new(domain()));
        for (role, user, shown, key, level) in [
            (user, Some("Ann"), "Ann@acme.test", "ann@acme.test", "user"),
            (tenant, None, "admin@acme.test", "admin@acme.test", "domain"),
            (system, None, "admin@acme.test", "admin@acme.test", "admin"),
        ] {
            assert_eq!((role.user(), role.to_string().as_str(), role.limit_key().as_str()), (user, shown, key));
            assert_eq!((role.level().as_str(), role.domain()), (level, &domain()));
        }
    }

    #[test]
    fn the_limit_key_knows_no_case() {
        let account = |user| Account::new(user, "ACME.test".parse().unwrap()).unwrap();
        assert_eq!(account("Ann").limit_key(), account("aNN").limit_key());
    }
}
