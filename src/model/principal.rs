//! The proven caller, with its claims.

use std::collections::BTreeMap;

/// The claims of a caller, by name.
pub type Claims = BTreeMap<String, Claim>;

/// The value of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// A scalar: text, a number or a Boolean, as written.
    Text(String),
    /// A list of scalars, such as groups. Templates cannot render it; conditions can look into it.
    List(Vec<String>),
}

impl Claim {
    /// Returns the scalar; `None` for a list.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::List(_) => None,
        }
    }
}

impl<T: Into<String>> From<T> for Claim {
    fn from(text: T) -> Self {
        Self::Text(text.into())
    }
}

/// The reason why a claim cannot be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Absent<'n> {
    /// There is no claim of this name.
    #[error("there is no claim {0:?}")]
    Missing(&'n str),
    /// The claim is an e-mail address that the method marks as not verified.
    #[error("the claim {0:?} is an address that is not verified")]
    Unverified(&'n str),
}

/// Finds a claim that can be relied on.
///
/// An unverified address is only what its owner typed: by typing a colleague's address, a person would become that
/// colleague. So a claim `email` does not count while `email_verified` beside it is present and not true.
///
/// # Errors
/// When there is no such claim.
pub fn find<'c, 'n>(claims: &'c Claims, name: &'n str) -> Result<&'c Claim, Absent<'n>> {
    let claim = claims.get(name).ok_or(Absent::Missing(name))?;
    let verified = flag_of_address(name).and_then(|flag| claims.get(&flag));
    let is_proven = verified.is_none_or(|verified| verified.text() == Some("true"));
    if is_proven { Ok(claim) } else { Err(Absent::Unverified(name)) }
}

/// Tells whether a claim may state that an address is verified.
#[must_use]
pub fn is_flag_of_address(name: &str) -> bool {
    address_of_flag(name).is_some()
}

/// Returns the claim whose verification a claim may state.
#[must_use]
pub fn address_of_flag(name: &str) -> Option<&str> {
    name.strip_suffix("_verified").filter(|address| flag_of_address(address).is_some())
}

/// Returns the claim that states whether an address is verified: `email_verified` at the same level.
pub(super) fn flag_of_address(name: &str) -> Option<String> {
    let outer = name.strip_suffix("email")?;
    (outer.is_empty() || outer.ends_with(['.', ':', '/'])).then(|| format!("{outer}email_verified"))
}

/// A proven caller.
///
/// Only auth methods create it, after they have checked a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The name of the auth method that proved the caller.
    pub method: String,
    /// The identity for limits and the audit log: stable for one person, unique within the method.
    pub subject: String,
    /// The claims that the method vouches for.
    pub claims: Claims,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_there_unless_it_is_known_as_not_verified() {
        #[track_caller]
        fn check(name: &str, flag: &str, said: Claim, expected: bool) {
            let claims = Claims::from([(name.to_owned(), "ann@acme.test".into()), (flag.to_owned(), said)]);
            assert_eq!(find(&claims, name).is_ok(), expected, "{name} {flag}");
        }
        for name in ["", "user.", "https://acme.test/"] {
            check(&format!("{name}email"), &format!("{name}email_verified"), "true".into(), true);
            check(&format!("{name}email"), &format!("{name}email_verified"), "false".into(), false);
            check(
                &format!("{name}email"),
                &format!("{name}email_verified"),
                Claim::List(vec!["true".to_owned()]),
                false,
            );
        }
        check("user.email", "email_verified", "false".into(), true);
        check("voicemail", "voicemail_verified", "false".into(), true);
        check("email", "verified", "false".into(), true);
        assert_eq!(find(&Claims::new(), "email"), Err(Absent::Missing("email")));
    }
}
