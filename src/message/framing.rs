//! The framing of a message. A message whose end two parsers could see in two places is refused (RFC 9112 §6.3).
//!
//! hyper follows the RFC; this file covers the points that the RFC leaves to the reader of an answer, and has the
//! bounds of a request. The [`guard`](super::guard) checks requests.

use http::header::{self, HeaderMap};
use http::{StatusCode, response};

use super::fields;

/// The longest request target, in bytes.
pub(super) const MAX_TARGET: usize = 16 << 10;
/// The largest head of a request, in bytes.
pub const MAX_HEAD: usize = 64 << 10;
/// The most fields of a request.
pub const MAX_FIELDS: usize = 100;

/// The reason why the framing of a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// The transfer coding is not exactly `chunked`, so the next hop could read the body differently.
    #[error("the transfer coding is not chunked alone")]
    Coding,
    /// The length is given more than once, or not in digits.
    #[error("the length is not one number")]
    Length,
    /// The status is outside the range that clients know (RFC 9110 §15).
    #[error("the status is not in 100..599")]
    Status,
}

/// Tells whether the transfer coding is `chunked`, which is the only one supported.
fn is_chunked(headers: &HeaderMap) -> Result<bool, Unclear> {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).into_iter();
    match (lines.next(), lines.next()) {
        (None, None) => Ok(false),
        (Some(line), None) if line.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(Unclear::Coding),
    }
}

/// Checks the fields that frame an answer, and reduces them to one line.
///
/// # Errors
/// When another reader could find another end of the message.
pub fn normalize_answer(head: &mut response::Parts) -> Result<(), Unclear> {
    if head.status.as_u16() >= 600 {
        return Err(Unclear::Status);
    }
    let is_chunked = is_chunked(&head.headers)?;
    let lines = length_lines(&head.headers)?;
    if lines == 0 {
        return Ok(());
    }
    if is_chunked {
        return Err(Unclear::Length);
    }
    if head.status == StatusCode::NO_CONTENT {
        // An answer with 204 has no length (RFC 9110 §8.6).
        fields::remove(&mut head.headers, |name| *name == header::CONTENT_LENGTH);
    } else {
        keep_one_length(&mut head.headers, lines);
    }
    Ok(())
}

/// Reduces the lines with the length to one.
fn keep_one_length(headers: &mut HeaderMap, lines: usize) {
    if lines > 1
        && let Some(length) = headers.get(header::CONTENT_LENGTH).cloned()
    {
        headers.insert(header::CONTENT_LENGTH, length);
    }
}

/// Checks the length of a request, and reduces it to one line.
///
/// # Errors
/// When it is not one number.
pub(super) fn normalize_length(headers: &mut HeaderMap) -> Result<(), Unclear> {
    let lines = length_lines(headers)?;
    keep_one_length(headers, lines);
    Ok(())
}

/// Counts the lines with the length, all of which must have the same digits.
fn length_lines(headers: &HeaderMap) -> Result<usize, Unclear> {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).into_iter();
    let Some(first) = lines.next() else { return Ok(0) };
    if first.is_empty() || !first.as_bytes().iter().all(u8::is_ascii_digit) {
        return Err(Unclear::Length);
    }
    lines.try_fold(1, |count, line| if line == first { Ok(count + 1) } else { Err(Unclear::Length) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalize(status: u16, fields: &[(&str, &str)]) -> Result<HeaderMap, Unclear> {
        let mut response = http::Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in fields {
            response.headers_mut().append(name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap());
        }
        let (mut head, ()) = response.into_parts();
        normalize_answer(&mut head).map(|()| head.headers)
    }

    #[test]
    fn one_length_is_left() {
        let twice = normalize(200, &[("content-length", "2"), ("x", "y"), ("content-length", "2")]).unwrap();
        assert_eq!(twice.get_all("content-length").iter().count(), 1);
        assert!(normalize(204, &[("content-length", "0")]).unwrap().is_empty());
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
            assert_eq!(normalize(200, fields).unwrap_err(), expected, "{fields:?}");
        }
        assert_eq!(normalize(600, &[]).unwrap_err(), Unclear::Status);
    }
}
