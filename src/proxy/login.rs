//! The logins, each a free function over the gate: to the PBX by a link, a page, a server or a redirect of the app; to
//! Voximplant by a one-time key; at an identity provider.
//!
//! A login to the PBX is an [`order`] that is decided whole, then opened as a [`session`], then handed over to the browser.

mod accepted;
pub(super) mod app_logout;
pub(super) mod auto;
pub(super) mod backchannel;
pub(super) mod confirm;
mod form;
mod hand_over;
mod landing_place;
pub(super) mod link;
pub(super) mod link_options;
pub(super) mod logout;
pub(super) mod oidc;
pub(super) mod order;
pub(super) mod ott;
pub(super) mod pbx;
pub(super) mod redirect;
pub(super) mod selectors;
pub(super) mod session;
pub(super) mod socket;
pub(super) mod ticket;
