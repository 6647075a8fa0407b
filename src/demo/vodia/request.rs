//! A request as the PBX reads it.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header;
use http::request::Parts;
use serde_json::Value;

use crate::demo::server;

/// A request, read whole.
pub struct PbxRequest {
    /// The method, the target and the headers.
    pub head: Parts,
    /// The body.
    pub body: Bytes,
    /// The body as JSON, or `null` when it is not JSON. The content type does not matter.
    pub json: Value,
    /// The address of the client.
    pub source: IpAddr,
}

impl PbxRequest {
    /// Parses the body as JSON.
    #[must_use]
    pub fn new(head: Parts, body: Bytes, source: IpAddr) -> Self {
        let json = serde_json::from_slice(&body).unwrap_or_default();
        Self { head, body, json, source }
    }

    /// Returns the path of the target.
    #[must_use]
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// Returns the first value of a header, if it is text.
    #[must_use]
    pub fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    pub(super) fn host(&self) -> &str {
        self.header(header::HOST).unwrap_or_default()
    }

    /// Returns a text of the JSON body.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.json[name].as_str()
    }

    pub(super) fn cookie(&self) -> Option<String> {
        server::cookie(&self.head.headers, "session")
    }

    /// Returns the name and the password of Basic credentials (RFC 7617 §2).
    #[must_use]
    pub fn basic(&self) -> Option<(String, String)> {
        basic(self.header(header::AUTHORIZATION)?)
    }
}

/// Parses Basic credentials (RFC 7617 §2).
fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, value) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}
