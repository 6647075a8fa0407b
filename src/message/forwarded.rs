//! Who the request is from, as told to upstreams: what clients claim goes, what we know comes.

use http::Version;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::origin::Origin;
use crate::model::field::fold;

/// The field in which each proxy names the address it was asked from.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The field that ties an exchange to its log lines.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How many fields this program adds to a request, `Via` and `Host` among them.
const ASSERTED: usize = 7;

/// Prefixes of fields by which an upstream would believe who the client is or what it asked for, `-` for `_` and `.`.
/// Those of client certificates are what TLS-terminating proxies set (RFC 9440 §4): here nobody may.
const PREFIXES: [&[u8]; 7] =
    [b"x-forwarded", b"x-original-", b"x-rewrite-", b"x-client-cert", b"x-ssl-client-", b"ssl-client-", b"client-cert"];
/// Such fields that have no prefix.
const NAMES: [&[u8]; 3] = [b"forwarded", b"x-real-ip", b"x-request-id"];

/// Tells whether a field is one that only this program may set, in any spelling: gateways that turn `_` or `.`
/// into `-` read them as one.
#[must_use]
pub fn is_identity(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    let like = |name: &[u8], pattern: &[u8]| name.iter().zip(pattern).all(|(a, b)| fold(*a) == *b);
    match name.first() {
        Some(b'x' | b'X' | b'f' | b'F' | b's' | b'S' | b'c' | b'C') => {
            NAMES.iter().any(|known| known.len() == name.len() && like(name, known))
                || PREFIXES.iter().any(|prefix| name.len() >= prefix.len() && like(name, prefix))
        }
        _ => false,
    }
}

/// Says who the client is, and over what it came. `host` is the authority that it asked for.
pub fn assert(headers: &mut HeaderMap, origin: &Origin, host: &HeaderValue, id: HeaderValue) {
    headers.reserve(ASSERTED);
    headers.insert(header::FORWARDED, origin.forwarded(host));
    headers.insert(X_FORWARDED_FOR, origin.x_forwarded_for());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
    headers.insert(X_FORWARDED_HOST, host.clone());
    headers.insert(X_REQUEST_ID, id);
}

/// Adds this hop to `Via` (RFC 9110 §7.6.3).
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

    fn is(name: &str) -> bool {
        is_identity(&name.parse().unwrap())
    }

    #[test]
    fn knows_identity_fields_in_all_spellings() {
        for name in [
            "forwarded",
            "Forwarded",
            "x-forwarded-for",
            "x_forwarded_for",
            "X.Forwarded.For",
            "x-forwarded_proto",
            "x-forwarded",
            "x-forwarded-anything",
            "x-real-ip",
            "x_real_ip",
            "x-original-url",
            "x-original-uri",
            "x-rewrite-url",
            "x_rewrite.url",
            "x-request-id",
            "X_Request_Id",
            "client-cert",
            "Client_Cert_Chain",
            "x-client-cert",
            "X-SSL-Client-Verify",
            "ssl_client_s_dn",
        ] {
            assert!(is(name), "{name}");
        }
    }

    #[test]
    fn leaves_other_fields_alone() {
        for name in [
            "x",
            "host",
            "from",
            "forwarded-not",
            "x-real-ipv",
            "x-forward",
            "x-original",
            "x-requested-with",
            "xforwarded-for",
            "via",
            "cookie",
            "client",
            "ssl-client",
            "x-ssl",
            "content-type",
        ] {
            assert!(!is(name), "{name}");
        }
    }

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
            &Origin::direct("192.0.2.1".parse().unwrap()),
            &HeaderValue::from_static("a.test"),
            HeaderValue::from_static("1"),
        );
        assert_eq!(headers["forwarded"], "for=192.0.2.1;host=a.test;proto=https");
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "a.test");
    }
}
