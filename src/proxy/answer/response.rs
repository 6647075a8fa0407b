//! Responses of callgate's own. No cache stores them, and no browser guesses their type.

use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::exchange::Body;

/// `Referrer-Policy` of answers that lead elsewhere: the next site does not learn this address.
pub(super) const NO_REFERRER: HeaderValue = HeaderValue::from_static("no-referrer");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Returns a response without a body.
#[must_use]
pub(in crate::proxy) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::own(""));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Returns a response with a body of the given media type.
#[must_use]
pub(in crate::proxy) fn with_body(status: StatusCode, content_type: HeaderValue, body: String) -> Response<Body> {
    let mut response = empty(status);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    *response.body_mut() = Body::own(body);
    response
}

/// Returns a 200 response with JSON.
#[must_use]
pub(in crate::proxy) fn json(value: &serde_json::Value) -> Response<Body> {
    json_with_status(StatusCode::OK, value)
}

/// Returns a response with JSON.
#[must_use]
pub(super) fn json_with_status(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    with_body(status, JSON, value.to_string())
}

/// Redirects the browser. The target does not learn the address of this request. A location that no header can hold
/// is answered with 502.
#[must_use]
pub(in crate::proxy) fn redirect(status: StatusCode, location: &str) -> Response<Body> {
    let Ok(location) = HeaderValue::try_from(location) else { return empty(StatusCode::BAD_GATEWAY) };
    let mut response = empty(status);
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(header::REFERRER_POLICY, NO_REFERRER);
    response
}

/// Returns a `Retry-After` field (RFC 9110 §10.2.3): whole seconds, rounded up, at least one.
#[must_use]
pub(super) fn retry_after(wait: Duration) -> (HeaderName, HeaderValue) {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    (header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
}
