//! `Authorization: Bearer` (RFC 6750 §2.1), which carries a key or a token.

use http::{HeaderMap, header};

/// The longest bearer credential that is read, in bytes.
pub(super) const MAX: usize = 8 << 10;

/// The refusal of a request whose bearer credential cannot be read.
pub(super) const MALFORMED: &str = "the bearer credential is malformed";

/// The credential behind `Authorization: Bearer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bearer<'a> {
    /// One credential.
    Shown(&'a [u8]),
    /// An empty one, two, or one longer than [`MAX`].
    Malformed,
}

impl Bearer<'_> {
    /// Tells whether it has the form of a JSON web token, so that it is not a key.
    pub(super) fn is_token(&self) -> bool {
        matches!(self, Self::Shown(text) if text.iter().filter(|byte| **byte == b'.').count() == 2)
    }
}

/// Finds the bearer credential of a request. `None`: it has no `Authorization: Bearer`.
pub(super) fn of(headers: &HeaderMap) -> Option<Bearer<'_>> {
    let lines = headers.get_all(header::AUTHORIZATION);
    let shown = lines.iter().find_map(|line| credential(line.as_bytes()))?;
    let is_clear = lines.iter().count() == 1 && !shown.is_empty() && shown.len() <= MAX;
    Some(if is_clear { Bearer::Shown(shown) } else { Bearer::Malformed })
}

/// Returns the text behind the scheme, which may be empty.
fn credential(line: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = line.split_at_checked(6)?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer");
    is_bearer.then(|| rest.strip_prefix(b" ").unwrap_or_default().trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(lines: &[&str], expected: Option<Bearer<'_>>) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(line).unwrap());
        }
        assert_eq!(of(&headers), expected, "{lines:?}");
    }

    #[test]
    fn one_line_shows_one_credential() {
        check(&[], None);
        check(&["Basic YTpi"], None);
        check(&["Bearer abc"], Some(Bearer::Shown(b"abc")));
        check(&["bEARER  abc "], Some(Bearer::Shown(b"abc")));
        check(&[&format!("Bearer {}", "x".repeat(MAX))], Some(Bearer::Shown("x".repeat(MAX).as_bytes())));
    }

    #[test]
    fn anything_else_is_malformed_and_not_absent() {
        for lines in
            [&["Bearer"][..], &["Bearer "], &["Bearerabc"], &["Bearer a", "Bearer a"], &["Basic x", "Bearer a"]]
        {
            check(lines, Some(Bearer::Malformed));
        }
        check(&[&format!("Bearer {}", "x".repeat(MAX + 1))], Some(Bearer::Malformed));
    }
}
