//! The fields by which the app's answer names an account, or says that its user has logged out. callgate removes them.

use http::header::HeaderName;

/// The account's name.
pub const PBX_ACCOUNT: HeaderName = HeaderName::from_static("pbx-account");
/// The account's domain.
pub const PBX_DOMAIN: HeaderName = HeaderName::from_static("pbx-domain");
/// The language of the account's pages.
pub const PBX_LANG: HeaderName = HeaderName::from_static("pbx-lang");

/// The user has logged out of the app: `1`.
pub const PBX_LOGOUT: HeaderName = HeaderName::from_static("pbx-logout");

/// Tells whether a field is one of these.
#[must_use]
pub fn is_account_field(name: &HeaderName) -> bool {
    name.as_str().starts_with("pbx-") && [PBX_ACCOUNT, PBX_DOMAIN, PBX_LANG, PBX_LOGOUT].contains(name)
}
