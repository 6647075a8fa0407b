//! The logins: to the PBX, to Voximplant, at an identity provider, by a redirect of the app; and how a session gets to
//! its browser.

pub(super) mod confirm;
pub(super) mod oidc;
pub(super) mod ott;
pub(super) mod pbx;
pub(super) mod redirect;
pub(super) mod ticket;
