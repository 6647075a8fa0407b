//! Who is calling, as an auth method proved it.

use std::collections::BTreeMap;

/// The claims of a caller, by name.
pub type Claims = BTreeMap<String, Claim>;

/// What one claim says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// A scalar: text, a number or a truth value as they are written.
    Text(String),
    /// A list of scalars, such as groups. No template renders one; a condition may look into it.
    List(Vec<String>),
}

impl Claim {
    /// Returns the scalar; nothing for a list.
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

/// A proven caller.
///
/// Only the auth methods make one, each after it has checked a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The name of the auth method that proved the caller.
    pub method: String,
    /// Who it is, for limits and the audit log: stable for one person, unique within the method.
    pub subject: String,
    /// What the method vouches for.
    pub claims: Claims,
}
