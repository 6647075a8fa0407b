//! Checks of HTTP/2 requests that an HTTP/1 upstream could read differently.
//!
//! HTTP/2 ends messages by frames, not by lengths or lines, and its parser already refuses characters that HTTP/1
//! forbids. The rest is checked here, by the rules of the guard.

use http::Request;
use http::header::{HeaderMap, HeaderValue};
use http::uri::PathAndQuery;

use super::framing;
use super::guard::{self, Violation};

/// Checks a request, and reduces its length to one line.
///
/// # Errors
/// When an HTTP/1 reader could read the request differently.
pub fn normalize<B>(request: &mut Request<B>) -> Result<(), Violation> {
    if let Some(target) = request.uri().path_and_query().map(PathAndQuery::as_str) {
        check_path(request.method().as_str(), target)?;
    }
    check_values(request.headers())?;
    framing::normalize_length(request.headers_mut()).map_err(|_| Violation::Length)
}

/// `:path` has two of the forms of a request target (RFC 9113 §8.3.1).
fn check_path(method: &str, path: &str) -> Result<(), Violation> {
    if !path.starts_with(['/', '*']) {
        return Err(Violation::Target);
    }
    guard::check_target(method.as_bytes(), path.as_bytes())
}

fn check_values(headers: &HeaderMap) -> Result<(), Violation> {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let mut values = headers.values().map(HeaderValue::as_bytes);
    if values.any(|value| is_space(value.first()) || is_space(value.last())) {
        return Err(Violation::Space);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths_after(target: &str, fields: &[(&str, &str)]) -> Result<usize, Violation> {
        let mut request = Request::get(format!("https://a.test{target}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        normalize(&mut request).map(|()| request.headers().get_all("content-length").iter().count())
    }

    #[test]
    fn what_is_clear_passes_with_one_length() {
        assert_eq!(lengths_after("/a?b", &[("x", "a b"), ("y", "")]), Ok(0));
        assert_eq!(lengths_after("/", &[("content-length", "2"), ("content-length", "2")]), Ok(1));
    }

    #[test]
    fn what_is_read_in_two_ways_is_refused() {
        for (target, fields, expected) in [
            ("?q", &[][..], Violation::Target),
            ("/", &[("content-length", "")], Violation::Length),
            ("/", &[("content-length", "2,2")], Violation::Length),
            ("/", &[("content-length", "+2")], Violation::Length),
            ("/", &[("content-length", "2"), ("content-length", "02")], Violation::Length),
            ("/", &[("x", " a")], Violation::Space),
            ("/", &[("x", "a\t")], Violation::Space),
            ("/", &[("x", " ")], Violation::Space),
        ] {
            assert_eq!(lengths_after(target, fields), Err(expected), "{target} {fields:?}");
        }
    }
}
