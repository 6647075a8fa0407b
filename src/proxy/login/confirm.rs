//! The page between a link and its session. Programs that open links before a person does stop there: they follow links
//! and press no buttons.

use http::{HeaderMap, Response};

use crate::auth::Proof;
use crate::config::Confirm;
use crate::exchange::Body;
use crate::model::page_text::PageText;
use crate::model::path::CONFIRM_PATH;
use crate::proxy::answer::page::Page;
use crate::proxy::answer::reader::Reader;
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
pub(in crate::proxy) fn page(reader: Reader<'_>, query: &str) -> Response<Body> {
    Page::new(reader, PageText::OpenTelephone)
        .with_text(PageText::LinkWorksOnce)
        .with_button(&format!("{CONFIRM_PATH}?{query}"), PageText::Continue)
        .respond()
}
