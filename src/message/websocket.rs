//! A WebSocket over HTTP/2 (RFC 8441), translated into the request of an HTTP/1 upstream (RFC 6455 §4).

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderValue};
use hyper::ext::Protocol;

use super::fields;
use crate::random;

/// The name of the protocol.
pub const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
/// The version of the protocol (RFC 6455 §4.1).
pub const VERSION: HeaderValue = HeaderValue::from_static("13");
/// The text that a server appends to the key before it hashes it (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The key that an upstream must answer, which shows that its answer belongs to this request.
///
/// HTTP/2 has no such key, because its frames show which answer belongs to which request (RFC 8441 §5).
#[derive(Debug)]
pub struct WebSocketKey(String);

impl WebSocketKey {
    /// Makes a random key.
    #[must_use]
    pub fn random() -> Self {
        Self(STANDARD.encode(random::bytes::<16>()))
    }

    /// Reads the key of a client: exactly one, of 16 bytes in base64 (RFC 6455 §4.2.1).
    #[must_use]
    pub fn of(fields: &HeaderMap) -> Option<Self> {
        let key = fields::only(fields, header::SEC_WEBSOCKET_KEY)?.to_str().ok()?;
        let is_nonce = STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16);
        is_nonce.then(|| Self(key.to_owned()))
    }

    /// Sets this key as the only one of a request.
    pub fn ask(&self, fields: &mut HeaderMap) {
        let key = HeaderValue::from_str(&self.0).expect("base64 is visible ASCII");
        fields.insert(header::SEC_WEBSOCKET_KEY, key);
    }

    /// Tells whether the fields have the one right answer to the key (RFC 6455 §4.1).
    #[must_use]
    pub fn is_answered(&self, fields: &HeaderMap) -> bool {
        let answer = fields::only(fields, header::SEC_WEBSOCKET_ACCEPT);
        answer.is_some_and(|answer| answer.as_bytes() == accept_value(&self.0).as_bytes())
    }
}

/// Tells whether a handshake is for the version of RFC 6455, the only one in use.
#[must_use]
pub fn is_known_version(fields: &HeaderMap) -> bool {
    fields::only(fields, header::SEC_WEBSOCKET_VERSION).is_some_and(|version| *version == VERSION)
}

/// Returns the `Sec-WebSocket-Accept` that answers a key (RFC 6455 §4.2.2).
fn accept_value(key: &str) -> String {
    let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(GUID);
    STANDARD.encode(hash.finish())
}

/// Tells whether an extended `CONNECT` is for a WebSocket. Protocol names ignore case (RFC 9110 §7.8).
#[must_use]
pub fn is_named(protocol: &Protocol) -> bool {
    protocol.as_ref().eq_ignore_ascii_case(WEBSOCKET.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answers: &[&str], expected: bool) {
        // The key and its answer are those of RFC 6455 §1.3.
        let key = WebSocketKey("dGhlIHNhbXBsZSBub25jZQ==".into());
        let mut fields = HeaderMap::new();
        for answer in answers {
            fields.append(header::SEC_WEBSOCKET_ACCEPT, answer.parse().unwrap());
        }
        assert_eq!(key.is_answered(&fields), expected, "{answers:?}");
    }

    #[test]
    fn one_right_answer_is_needed() {
        const RIGHT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        check(&[RIGHT], true);
        check(&[], false);
        check(&[""], false);
        check(&["s3pplmbitxaq9kygzzhzrbk+xoo="], false);
        check(&["dGhlIHNhbXBsZSBub25jZQ=="], false);
        check(&[RIGHT, RIGHT], false);
    }

    #[test]
    fn a_clients_key_is_one_nonce_of_16_bytes() {
        for (keys, expected) in [
            (&["dGhlIHNhbXBsZSBub25jZQ=="][..], true),
            (&[], false),
            (&[""], false),
            (&["dGhlIHNhbXBsZSBub25jZQ"], false),
            (&["dGhlIHNhbXBsZSBub25jZSE="], false),
            (&["dGhlIHNhbXBsZSBub25j\u{e9}=="], false),
            (&["dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="], false),
        ] {
            let mut fields = HeaderMap::new();
            for key in keys {
                fields.append(header::SEC_WEBSOCKET_KEY, HeaderValue::from_bytes(key.as_bytes()).unwrap());
            }
            assert_eq!(WebSocketKey::of(&fields).is_some(), expected, "{keys:?}");
        }
    }

    #[test]
    fn no_two_keys_are_alike() {
        let [one, other] = [(); 2].map(|()| {
            let mut fields = HeaderMap::new();
            fields.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("the client's"));
            WebSocketKey::random().ask(&mut fields);
            fields[header::SEC_WEBSOCKET_KEY].to_str().unwrap().to_owned()
        });
        assert_ne!(one, other);
        // Sixteen bytes (RFC 6455 §4.1).
        assert!([&one, &other].iter().all(|key| key.len() == 24 && key.ends_with("==")), "{one} {other}");
    }

    #[test]
    fn only_a_websocket_is_named_so() {
        for (name, expected) in [("websocket", true), ("WebSocket", true), ("connect-udp", false), ("", false)] {
            assert_eq!(is_named(&Protocol::from_static(name)), expected, "{name}");
        }
    }
}
