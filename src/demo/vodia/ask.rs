//! A request as the PBX reads it.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header;
use http::request::Parts;
use serde_json::Value;

use super::{SESSION_PATH, Scope};
use crate::demo::server;

/// A request, read whole.
pub(super) struct Ask {
    pub(super) head: Parts,
    pub(super) body: Bytes,
    /// The body as JSON, `null` when it is none: the type of content is not enforced.
    pub(super) json: Value,
    pub(super) source: IpAddr,
}

impl Ask {
    pub(super) fn new(head: Parts, body: Bytes, source: IpAddr) -> Self {
        let json = serde_json::from_slice(&body).unwrap_or_default();
        Self { head, body, json, source }
    }

    pub(super) fn path(&self) -> &str {
        self.head.uri.path()
    }

    pub(super) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    pub(super) fn host(&self) -> &str {
        self.header(header::HOST).unwrap_or_default()
    }

    /// Returns a text of the JSON body.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.json[name].as_str()
    }

    pub(super) fn scope(&self) -> Scope {
        let written = self.path() == SESSION_PATH && (self.head.method == "POST" || self.head.method == "PUT");
        match self.text("name") {
            Some("3rd") if written => Scope::Mint,
            Some("session") if written => Scope::Exchange,
            _ => Scope::Other,
        }
    }

    pub(super) fn cookie(&self) -> Option<String> {
        server::cookie(&self.head.headers, "session")
    }

    pub(super) fn basic(&self) -> Option<(String, String)> {
        basic(self.header(header::AUTHORIZATION)?)
    }
}

/// Reads Basic credentials (RFC 7617 §2).
pub(super) fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, value) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}
