//! The fields that tell upstreams about the client. Claims of clients are removed; the known facts are added.

use http::Version;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::forwarded_chain::{ForwardedChain, X_FORWARDED_FOR};
use crate::model::identity;

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The field that links an exchange to its log lines.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Tells whether only callgate may set a field, in any spelling.
#[must_use]
pub fn is_identity(name: &HeaderName) -> bool {
    identity::is_identity(name.as_str())
}

/// Returns the fields that tell who the client is, and over which scheme it came. `host` is the authority that it asked
/// for. Such fields of the client itself must be gone ([`is_identity`]).
pub fn fields(origin: &ForwardedChain, host: &HeaderValue, id: HeaderValue) -> [(HeaderName, HeaderValue); 5] {
    [
        (header::FORWARDED, origin.forwarded(host)),
        (X_FORWARDED_FOR, origin.x_forwarded_for()),
        (X_FORWARDED_PROTO, HeaderValue::from_static("https")),
        (X_FORWARDED_HOST, host.clone()),
        (X_REQUEST_ID, id),
    ]
}

/// Sets these fields in a request of callgate's own.
pub fn assert(headers: &mut HeaderMap, origin: &ForwardedChain, host: &HeaderValue, id: HeaderValue) {
    for (name, value) in fields(origin, host, id) {
        headers.insert(name, value);
    }
}

/// Adds this hop to `Via`, behind those before it (RFC 9110 §7.6.3).
pub fn via(headers: &mut HeaderMap, version: Version) {
    let ours = match version {
        Version::HTTP_2 => "2.0 callgate",
        Version::HTTP_10 => "1.0 callgate",
        _ => "1.1 callgate",
    };
    headers.append(header::VIA, HeaderValue::from_static(ours));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::fields;

    #[test]
    fn no_client_claim_survives() {
        let mut headers = HeaderMap::new();
        for name in ["x-forwarded-for", "x_forwarded_for", "x-forwarded-for", "forwarded", "x-real-ip", "accept"] {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static("evil"));
        }
        fields::remove(&mut headers, is_identity);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
        assert(
            &mut headers,
            &ForwardedChain::direct("192.0.2.1".parse().unwrap()),
            &HeaderValue::from_static("a.test"),
            HeaderValue::from_static("1"),
        );
        assert_eq!(headers["forwarded"], "for=192.0.2.1;host=a.test;proto=https");
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "a.test");
    }
}
