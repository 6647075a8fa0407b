//! The page between a link and its session. Programs that open links before a person does stop there: they follow links
//! and press no buttons.

use http::{HeaderMap, Response};

use crate::auth::Proof;
use crate::config::Confirm;
use crate::exchange::Body;
use crate::model::path::CONFIRM_PATH;
use crate::proxy::answer::page::Page;
use crate::proxy::browser::fetch_metadata;

/// Tells whether the person must confirm first.
pub(in crate::proxy) fn is_needed(proof: &Proof, headers: &HeaderMap) -> bool {
    match proof.confirm() {
        Confirm::Never => false,
        Confirm::Auto => !fetch_metadata::is_user_activated(headers),
        Confirm::Always => true,
    }
}

/// Shows the page. This does not use the link.
pub(in crate::proxy) fn page(query: &str) -> Response<Body> {
    let main = "<p>This link logs you in. It works once.</p>";
    Page::new("Open the telephone", main)
        .with_form(&format!("{CONFIRM_PATH}?{query}"), "<button autofocus>Continue</button>")
        .respond()
}
