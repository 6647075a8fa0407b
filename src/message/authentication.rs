//! Credentials that authenticate a connection instead of a request: NTLM, Negotiate and similar schemes (RFC 4559 §6).
//! After such a login, the upstream serves every request on this connection as that user, also the requests of other
//! clients.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// The prefixes of the names of such schemes.
const SCHEMES: [&[u8]; 9] =
    [b"ntlm", b"nego", b"spnego", b"kerberos", b"krb", b"gssapi", b"credssp", b"tsssp", b"pku2u"];
/// The field in which a server says whether it remembers the user of the connection.
const PERSISTENT_AUTH: HeaderName = HeaderName::from_static("persistent-auth");

/// Tells whether a request carries credentials for its connection.
#[must_use]
pub fn proves_connection(request: &HeaderMap) -> bool {
    names_scheme(request, &header::AUTHORIZATION) || names_scheme(request, &header::PROXY_AUTHORIZATION)
}

/// Tells whether an answer asks for credentials for its connection, or continues such a login.
#[must_use]
pub fn asks_connection(answer: &HeaderMap) -> bool {
    names_scheme(answer, &header::WWW_AUTHENTICATE)
        || names_scheme(answer, &header::PROXY_AUTHENTICATE)
        || answer.contains_key(PERSISTENT_AUTH)
}

fn names_scheme(headers: &HeaderMap, field: &HeaderName) -> bool {
    headers.get_all(field).iter().any(has_scheme)
}

/// Checks every word, because readers disagree where the challenges in one line begin. A word that only looks like a
/// scheme costs its client a connection of its own.
fn has_scheme(value: &HeaderValue) -> bool {
    let words = value.as_bytes().split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-');
    words.into_iter().any(|word| {
        SCHEMES.iter().any(|scheme| word.get(..scheme.len()).is_some_and(|word| word.eq_ignore_ascii_case(scheme)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn credentials_of_a_connection_are_known_in_every_writing() {
        for value in [
            "NTLM",
            "ntlm TlRMTVNTUAAB",
            "Negotiate YII=",
            "NEGOTIATE",
            "Kerberos x",
            "Nego2",
            "Basic realm=\"a\", NTLM",
            "Basic realm=\"a\",Negotiate,Digest realm=\"b\"",
            "Basic realm=\"a\"\tNTLM",
            ",, NTLM",
            "Digest x=1;NTLM",
        ] {
            for field in ["www-authenticate", "proxy-authenticate"] {
                assert!(asks_connection(&with(&[(field, "Basic"), (field, value)])), "{field}: {value}");
            }
            for field in ["authorization", "proxy-authorization"] {
                assert!(proves_connection(&with(&[(field, "Basic x"), (field, value)])), "{field}: {value}");
            }
        }
        assert!(asks_connection(&with(&[("persistent-auth", "true")])));
    }

    #[test]
    fn credentials_of_a_request_are_none_of_a_connection() {
        for value in ["", "Basic dTpw", "Bearer eyJ.a.b", "Digest username=\"a\"", "Token x", "AWS4-HMAC-SHA256 a=b"] {
            assert!(!proves_connection(&with(&[("authorization", value)])), "{value}");
            assert!(!asks_connection(&with(&[("www-authenticate", value)])), "{value}");
        }
        assert!(!proves_connection(&with(&[("www-authenticate", "NTLM"), ("x-authorization", "NTLM")])));
    }
}
