//! Where a message begins and ends: what two parsers could read in two ways goes no further (RFC 9112 §6.3).
//!
//! hyper reads by the letter of the law; these are the lines that the law leaves to the reader.

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, StatusCode, response};

/// The longest request target.
const MAX_TARGET: usize = 16 << 10;
/// The most bytes of a request's head.
pub const MAX_HEAD: usize = 64 << 10;

/// Why a message goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// The transfer coding is not exactly `chunked`, so that what follows would mean something else to the next hop.
    #[error("the transfer coding is not chunked alone")]
    Coding,
    /// The length is said more than once, or not in digits.
    #[error("the length is not one number")]
    Length,
    /// The status is none that a client would know what to do with (RFC 9110 §15).
    #[error("the status is not in 100..599")]
    Status,
    /// The target is neither a path nor `*`.
    #[error("the target is not a path")]
    Target,
    /// A value begins or ends with a space, which the next hop would not see (RFC 9113 §8.2.1).
    #[error("a value begins or ends with a space")]
    Space,
}

/// Which part of a head is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oversize {
    /// The request target.
    Target,
    /// All of it.
    Head,
}

/// Checks the framing of a request whose length is not known before its end.
///
/// # Errors
/// When its transfer coding is anything but `chunked`, once.
pub fn check_chunked(headers: &HeaderMap) -> Result<(), Unclear> {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).into_iter();
    match (lines.next(), lines.next()) {
        (None, None) => Ok(()),
        (Some(line), None) if line.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Unclear::Coding),
    }
}

/// Checks what only HTTP/2 lets through, where lengths and lines frame nothing, and leaves one line of the length.
///
/// # Errors
/// When an HTTP/1 reader could see something else.
pub fn settle_http2<B>(request: &mut Request<B>) -> Result<(), Unclear> {
    let target = request.uri().path_and_query().map(PathAndQuery::as_str);
    if target.is_some_and(|target| !target.starts_with('/') && target != "*") {
        return Err(Unclear::Target);
    }
    let headers = request.headers_mut();
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if headers.values().map(HeaderValue::as_bytes).any(|value| is_space(value.first()) || is_space(value.last())) {
        return Err(Unclear::Space);
    }
    let lines = length_lines(headers)?;
    settle_length(headers, lines);
    Ok(())
}

/// Leaves one line of those that say the same.
fn settle_length(headers: &mut HeaderMap, lines: usize) {
    if lines > 1
        && let Some(length) = headers.get(header::CONTENT_LENGTH).cloned()
    {
        headers.insert(header::CONTENT_LENGTH, length);
    }
}

/// Checks what frames an answer, and leaves one line of it.
///
/// # Errors
/// When another reader could see another end than ours.
pub fn settle_answer(head: &mut response::Parts) -> Result<(), Unclear> {
    if head.status.as_u16() >= 600 {
        return Err(Unclear::Status);
    }
    check_chunked(&head.headers)?;
    let lines = length_lines(&head.headers)?;
    if lines == 0 {
        return Ok(());
    }
    if head.headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Unclear::Length);
    }
    if head.status == StatusCode::NO_CONTENT {
        // Such an answer has no length (RFC 9110 §8.6).
        head.headers.remove(header::CONTENT_LENGTH);
    } else {
        settle_length(&mut head.headers, lines);
    }
    Ok(())
}

/// Counts the lines that say the length; they must all say the same, in digits.
fn length_lines(headers: &HeaderMap) -> Result<usize, Unclear> {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).into_iter();
    let Some(first) = lines.next() else { return Ok(0) };
    if first.is_empty() || !first.as_bytes().iter().all(u8::is_ascii_digit) {
        return Err(Unclear::Length);
    }
    lines.try_fold(1, |count, line| if line == first { Ok(count + 1) } else { Err(Unclear::Length) })
}

/// Finds what is too large in the head of a request. `arrived` is how many bytes came since it began, or more.
#[must_use]
pub fn oversize<B>(request: &Request<B>, arrived: usize) -> Option<Oversize> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > MAX_TARGET {
        return Some(Oversize::Target);
    }
    (arrived > MAX_HEAD && target + fields(request.headers()) > MAX_HEAD).then_some(Oversize::Head)
}

fn fields(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(status: u16, fields: &[(&str, &str)]) -> Result<HeaderMap, Unclear> {
        let mut response = http::Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in fields {
            response.headers_mut().append(name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap());
        }
        let (mut head, ()) = response.into_parts();
        settle_answer(&mut head).map(|()| head.headers)
    }

    #[test]
    fn one_length_is_left() {
        let twice = settle(200, &[("content-length", "2"), ("x", "y"), ("content-length", "2")]).unwrap();
        assert_eq!(twice.get_all("content-length").iter().count(), 1);
        assert!(settle(204, &[("content-length", "0")]).unwrap().is_empty());
    }

    #[test]
    fn what_only_http2_lets_through_has_one_reading() {
        let settle = |target: &str, fields: &[(&str, &str)]| {
            let mut request = Request::get(format!("https://a.test{target}"));
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            let mut request = request.body(()).unwrap();
            settle_http2(&mut request).map(|()| request.headers().get_all("content-length").iter().count())
        };
        assert_eq!(settle("/", &[("x", "a b"), ("y", "")]), Ok(0));
        assert_eq!(settle("/", &[("content-length", "2"), ("content-length", "2")]), Ok(1));
        assert_eq!(settle("?q", &[]), Err(Unclear::Target));
        for (name, value, expected) in [
            ("content-length", "", Unclear::Length),
            ("content-length", "2,2", Unclear::Length),
            ("content-length", "+2", Unclear::Length),
            ("x", " a", Unclear::Space),
            ("x", "a\t", Unclear::Space),
            ("x", " ", Unclear::Space),
        ] {
            assert_eq!(settle("/", &[(name, value)]), Err(expected), "{name}: {value:?}");
        }
        assert_eq!(settle("/", &[("content-length", "2"), ("content-length", "02")]), Err(Unclear::Length));
    }

    #[test]
    fn two_readings_are_refused() {
        let chunked = ("transfer-encoding", "chunked");
        for (fields, expected) in [
            (&[("content-length", "2"), ("content-length", "3")][..], Unclear::Length),
            (&[("content-length", "2, 2")], Unclear::Length),
            (&[("content-length", "+2")], Unclear::Length),
            (&[("content-length", "")], Unclear::Length),
            (&[("content-length", "2"), chunked], Unclear::Length),
            (&[chunked, chunked], Unclear::Coding),
            (&[("transfer-encoding", "gzip, chunked")], Unclear::Coding),
        ] {
            assert_eq!(settle(200, fields).unwrap_err(), expected, "{fields:?}");
        }
        assert_eq!(settle(600, &[]).unwrap_err(), Unclear::Status);
    }
}
