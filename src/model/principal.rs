//! Who is calling, as an auth method proved it.

use std::collections::BTreeMap;

/// The claims of a caller: names and scalar values. Lists and objects an app sends are not claims.
pub type Claims = BTreeMap<String, String>;

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
