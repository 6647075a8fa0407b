//! Which pages may send a login request: those of this origin and of listed origins (Fetch standard, "CORS protocol").

use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use crate::exchange::Body;
use crate::message::fields;
use crate::message::target::Authority;
use crate::proxy::answer::response;
use crate::proxy::error::Error;

const PREFLIGHT_METHOD: &str = "access-control-request-method";
const PREFLIGHT_FIELDS: &str = "access-control-request-headers";
/// The fields that a page of a listed origin may send, besides those that every page may send.
const ALLOW_HEADERS: &str = "content-type, authorization";
/// Fields that tracing tools and libraries add to every request of a page. callgate ignores them. If the preflight did
/// not allow them, the browser would not send the request.
const TRACING: [&str; 30] = [
    "adrum",
    "b3",
    "baggage",
    "cache-control",
    "correlation-context",
    "elastic-apm-traceparent",
    "newrelic",
    "pragma",
    "request-context",
    "request-id",
    "sentry-trace",
    "sw8",
    "sw8-correlation",
    "traceparent",
    "traceresponse",
    "tracestate",
    "uber-trace-id",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
    "x-correlation-id",
    "x-dtpc",
    "x-dtreferer",
    "x-highlight-request",
    "x-honeycomb-trace",
    "x-ms-request-id",
    "x-ms-request-root-id",
    "x-newrelic-id",
    "x-newrelic-transaction",
    "x-request-id",
    "x-requested-with",
];
/// How names of such fields begin where a tool has several.
const TRACING_FAMILIES: [&str; 7] =
    ["ot-baggage-", "ot-tracer-", "uberctx-", "x-b3-", "x-datadog-", "x-instana-", "x-posthog-"];
/// The most fields of a preflight that are looked at.
const MAX_FIELDS: usize = 32;
/// How long a browser may remember a preflight, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The origin of the page that sends a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::proxy) enum Initiator {
    /// This origin, or no page at all.
    Own,
    /// An origin that the operator listed.
    Listed(HeaderValue),
    /// Any other origin.
    Foreign,
}

/// Finds the initiator of a request by `Origin`, else by `Sec-Fetch-Site`. A program sends neither.
///
/// A sibling host (`same-site`) is foreign: its pages could use the app's cookie without a preflight.
pub(in crate::proxy) fn initiator(headers: &HeaderMap, authority: &Authority, listed: &[String]) -> Initiator {
    let mut origins = headers.get_all(header::ORIGIN).into_iter();
    let site = fields::sole_or_empty(headers, "sec-fetch-site");
    let same_origin = matches!(site, None | Some(b"same-origin"));
    match (origins.next(), origins.next()) {
        (None, _) if same_origin => Initiator::Own,
        (Some(origin), None) if listed.iter().any(|listed| listed.as_bytes() == origin.as_bytes()) => {
            Initiator::Listed(origin.clone())
        }
        (Some(origin), None) if same_origin && origin.as_bytes() == authority.origin().as_bytes() => Initiator::Own,
        _ => Initiator::Foreign,
    }
}

/// Tells whether a request says of which page it is. One of a program does not.
pub(in crate::proxy) fn names_a_page(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site")
}

/// Answers `OPTIONS`: a preflight, or else with the allowed methods.
///
/// # Errors
/// When a preflight comes from a foreign origin.
pub(in crate::proxy) fn preflight(
    headers: &HeaderMap,
    authority: &Authority,
    listed: &[String],
    allow: &'static str,
) -> Result<Response<Body>, Error> {
    let mut response = response::empty(StatusCode::NO_CONTENT);
    let fields = response.headers_mut();
    if !headers.contains_key(header::ORIGIN) || !headers.contains_key(PREFLIGHT_METHOD) {
        fields.insert(header::ALLOW, HeaderValue::from_static(allow));
        return Ok(response);
    }
    let initiator = initiator(headers, authority, listed);
    match initiator {
        Initiator::Own => {}
        Initiator::Listed(_) => {
            fields.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
            fields.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed_fields(headers));
            fields.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
        Initiator::Foreign => return Err(Error::CrossSite),
    }
    expose_to(&mut response, &initiator);
    Ok(response)
}

/// Returns the fields that a page may send: [`ALLOW_HEADERS`], and the tracing fields that the preflight names.
fn allowed_fields(headers: &HeaderMap) -> HeaderValue {
    let asked = headers.get_all(PREFLIGHT_FIELDS).into_iter().filter_map(|line| line.to_str().ok());
    let asked = asked.flat_map(|line| line.split(',')).map(|name| name.trim().to_ascii_lowercase()).take(MAX_FIELDS);
    let mut allowed = vec![ALLOW_HEADERS.to_owned()];
    allowed.extend(asked.filter(|name| is_tracing(name)));
    HeaderValue::try_from(allowed.join(", ")).unwrap_or(HeaderValue::from_static(ALLOW_HEADERS))
}

fn is_tracing(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_family = || TRACING_FAMILIES.iter().any(|start| name.starts_with(start));
    TRACING.contains(&name) || name.len() <= 64 && name.bytes().all(is_token) && is_family()
}

/// Lets a page of a listed origin read the answer, errors too. A login path becomes a whole address: the page is on
/// another host.
///
/// # Errors
/// Returns the error of `answered`.
pub(in crate::proxy) fn share(
    answered: Result<Response<Body>, Error>,
    initiator: &Initiator,
    authority: &Authority,
) -> Result<Response<Body>, Error> {
    match (answered, initiator) {
        (Ok(mut response), initiator) => {
            expose_to(&mut response, initiator);
            Ok(response)
        }
        (Err(error), Initiator::Listed(origin)) => {
            Err(Error::ForListedOrigin(Box::new(error.for_other_origin(authority)), origin.clone()))
        }
        (Err(error), Initiator::Own | Initiator::Foreign) => Err(error),
    }
}

fn expose_to(response: &mut Response<Body>, initiator: &Initiator) {
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Origin"));
    if let Initiator::Listed(origin) = initiator {
        show_to(response, origin);
    }
}

/// Lets the pages of an origin read an answer.
pub(in crate::proxy) fn show_to(response: &mut Response<Body>, origin: &HeaderValue) {
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
        let found = match initiator(&headers, &authority, &["https://listed.test".into()]) {
            Initiator::Own => "own",
            Initiator::Listed(_) => "listed",
            Initiator::Foreign => "foreign",
        };
        assert_eq!(found, expected, "{fields:?}");
    }

    #[test]
    fn our_own_pages_are_here() {
        check(&[("origin", "https://app.test:8443"), ("sec-fetch-site", "same-origin")], "own");
        check(&[("origin", "https://app.test:8443")], "own");
        check(&[("sec-fetch-site", "same-origin")], "own");
        check(&[], "own");
    }

    #[test]
    fn listed_origins_fit_exactly() {
        check(&[("origin", "https://listed.test"), ("sec-fetch-site", "cross-site")], "listed");
        check(&[("origin", "https://listed.test.evil")], "foreign");
        check(&[("origin", "https://LISTED.test")], "foreign");
        check(&[("origin", "http://listed.test")], "foreign");
    }

    #[test]
    fn fields_of_tracing_may_be_sent_and_no_others() {
        let base = "content-type, authorization";
        for (asked, expected) in [
            ("", base.to_owned()),
            ("content-type", base.to_owned()),
            ("content-type,traceparent,tracestate", format!("{base}, traceparent, tracestate")),
            ("Baggage, Sentry-Trace", format!("{base}, baggage, sentry-trace")),
            (
                "x-datadog-trace-id,x-datadog-origin,x-b3-traceid",
                format!("{base}, x-datadog-trace-id, x-datadog-origin, x-b3-traceid"),
            ),
            ("remote-user,x-forwarded-for,cookie,x-datadog-a b", base.to_owned()),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(PREFLIGHT_FIELDS, HeaderValue::from_static(asked));
            assert_eq!(allowed_fields(&headers), expected, "{asked}");
        }
    }

    #[test]
    fn siblings_and_strangers_are_elsewhere() {
        check(&[("origin", "https://evil.app.test:8443"), ("sec-fetch-site", "same-site")], "foreign");
        check(&[("sec-fetch-site", "same-site")], "foreign");
        check(&[("sec-fetch-site", "cross-site")], "foreign");
        check(&[("sec-fetch-site", "none")], "foreign");
        check(&[("origin", "null")], "foreign");
        check(&[("origin", "https://app.test")], "foreign");
        check(&[("origin", "https://app.test:8443"), ("sec-fetch-site", "same-site")], "foreign");
        check(&[("origin", "https://app.test:8443"), ("origin", "https://listed.test")], "foreign");
        check(&[("origin", "https://app.test:8443"), ("origin", "https://app.test:8443")], "foreign");
        check(&[("origin", "https://listed.test"), ("origin", "https://listed.test")], "foreign");
        check(&[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], "foreign");
    }
}
