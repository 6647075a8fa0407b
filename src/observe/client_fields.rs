//! The fields of a request that access lines may show, without secrets.

use http::header::{self, HeaderMap, HeaderName};

use crate::model::redact;

/// What the combined format shows of a request's fields, without secrets and cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientFields {
    /// `Referer`.
    pub referer: Option<String>,
    /// `User-Agent`.
    pub user_agent: Option<String>,
}

impl ClientFields {
    /// Reads the fields of a request.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name: HeaderName| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
        Self {
            referer: text(header::REFERER).map(|text| address(&text)),
            user_agent: text(header::USER_AGENT).map(|text| redact::text(&text).into_owned()),
        }
    }
}

/// Returns an address without its secrets: a name and a password before the host are secrets, too.
fn address(text: &str) -> String {
    let begin = text.find("://").map_or(0, |at| at + "://".len());
    let end = text[begin..].find(['/', '?', '#']).map_or(text.len(), |at| begin + at);
    let host = text[begin..end].rfind('@').map_or(begin, |at| begin + at + 1);
    redact::target(&format!("{}{}", &text[..begin], &text[host..])).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_before_the_host_is_not_shown() {
        for (text, expected) in [
            ("https://user:pw@a.test/x", "https://a.test/x"),
            ("https://a.test/x@y", "https://a.test/x@y"),
            ("user:pw@a.test", "a.test"),
            ("about:blank", "about:blank"),
        ] {
            assert_eq!(address(text), expected, "{text}");
        }
    }
}
