//! Which pages may ask: our own, and those of listed origins (Fetch standard, "CORS protocol").

use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use super::body::Body;
use super::error::Error;
use super::reply;
use crate::message::target::Authority;

const PREFLIGHT_METHOD: &str = "access-control-request-method";
/// The fields that a listed page may send besides those that every page may.
const ALLOW_HEADERS: HeaderValue = HeaderValue::from_static("content-type, authorization");
/// How long a browser may remember a preflight, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Where the page that asks is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum From {
    /// From us, or from no page at all.
    Here,
    /// From an origin that the operator listed.
    Listed(HeaderValue),
    /// From anywhere else.
    Elsewhere,
}

/// Finds where a request is from. `Origin` says it; else `Sec-Fetch-Site` does; a program that sends neither is no page.
///
/// A sibling host (`same-site`) is elsewhere: it carries the app's cookie, and its request needs no preflight.
pub(super) fn from(headers: &HeaderMap, authority: &Authority, listed: &[String]) -> From {
    let mut origins = headers.get_all(header::ORIGIN).into_iter();
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    let same_origin = matches!(site, None | Some(b"same-origin"));
    match (origins.next(), origins.next()) {
        (None, _) if same_origin => From::Here,
        (Some(origin), None) if listed.iter().any(|listed| listed.as_bytes() == origin.as_bytes()) => {
            From::Listed(origin.clone())
        }
        (Some(origin), None) if same_origin && origin.as_bytes() == authority.origin().as_bytes() => From::Here,
        _ => From::Elsewhere,
    }
}

/// Answers `OPTIONS`: a preflight, or else the question which methods there are.
///
/// # Errors
/// When a preflight comes from elsewhere.
pub(super) fn preflight(
    headers: &HeaderMap,
    authority: &Authority,
    listed: &[String],
    allow: &'static str,
) -> Result<Response<Body>, Error> {
    let mut response = reply::empty(StatusCode::NO_CONTENT);
    let fields = response.headers_mut();
    if !headers.contains_key(header::ORIGIN) || !headers.contains_key(PREFLIGHT_METHOD) {
        fields.insert(header::ALLOW, HeaderValue::from_static(allow));
        return Ok(response);
    }
    let from = from(headers, authority, listed);
    match from {
        From::Here => {}
        From::Listed(_) => {
            fields.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
            fields.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOW_HEADERS);
            fields.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
        From::Elsewhere => return Err(Error::CrossSite),
    }
    let_read(&mut response, &from);
    Ok(response)
}

/// Lets a listed page read the answer, also when it is a refusal.
///
/// # Errors
/// When there is no answer, as `answered` says.
pub(super) fn share(answered: Result<Response<Body>, Error>, from: &From) -> Result<Response<Body>, Error> {
    match (answered, from) {
        (Ok(mut response), from) => {
            let_read(&mut response, from);
            Ok(response)
        }
        (Err(error), From::Listed(origin)) => Err(Error::Shared(Box::new(error), origin.clone())),
        (Err(error), From::Here | From::Elsewhere) => Err(error),
    }
}

fn let_read(response: &mut Response<Body>, from: &From) {
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Origin"));
    if let From::Listed(origin) = from {
        show_to(response, origin);
    }
}

/// Lets the pages of an origin read an answer.
pub(super) fn show_to(response: &mut Response<Body>, origin: &HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("retry-after, ratelimit, ratelimit-policy, x-request-id"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::target;

    #[track_caller]
    fn check(fields: &[(&'static str, &'static str)], expected: &str) {
        let mut headers: HeaderMap = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("app.test:8443"));
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let authority = target::authority(http::Version::HTTP_11, &http::Uri::from_static("/"), &headers).unwrap();
        let found = match from(&headers, &authority, &["https://listed.test".into()]) {
            From::Here => "here",
            From::Listed(_) => "listed",
            From::Elsewhere => "elsewhere",
        };
        assert_eq!(found, expected, "{fields:?}");
    }

    #[test]
    fn our_own_pages_are_here() {
        check(&[("origin", "https://app.test:8443"), ("sec-fetch-site", "same-origin")], "here");
        check(&[("origin", "https://app.test:8443")], "here");
        check(&[("sec-fetch-site", "same-origin")], "here");
        check(&[], "here");
    }

    #[test]
    fn listed_origins_fit_exactly() {
        check(&[("origin", "https://listed.test"), ("sec-fetch-site", "cross-site")], "listed");
        check(&[("origin", "https://listed.test.evil")], "elsewhere");
        check(&[("origin", "https://LISTED.test")], "elsewhere");
        check(&[("origin", "http://listed.test")], "elsewhere");
    }

    #[test]
    fn siblings_and_strangers_are_elsewhere() {
        check(&[("origin", "https://evil.app.test:8443"), ("sec-fetch-site", "same-site")], "elsewhere");
        check(&[("sec-fetch-site", "same-site")], "elsewhere");
        check(&[("sec-fetch-site", "cross-site")], "elsewhere");
        check(&[("sec-fetch-site", "none")], "elsewhere");
        check(&[("origin", "null")], "elsewhere");
        check(&[("origin", "https://app.test")], "elsewhere");
        check(&[("origin", "https://app.test:8443"), ("sec-fetch-site", "same-site")], "elsewhere");
        check(&[("origin", "https://app.test:8443"), ("origin", "https://listed.test")], "elsewhere");
    }
}
