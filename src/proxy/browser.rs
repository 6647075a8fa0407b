//! What a browser tells about its request: which page made it, and whether a person clicked.

pub(super) mod cors;
pub(super) mod fetch_metadata;
pub(super) mod trigger;
