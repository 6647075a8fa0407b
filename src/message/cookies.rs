//! Cookies in requests, and the removal of callgate's own before a request goes to an upstream.

use http::header::{COOKIE, HeaderMap, HeaderValue};

/// The prefix of callgate's cookies. A browser takes a `__Host-` cookie only from this host and over TLS (RFC 6265bis
/// §4.1.3.2), so a sibling host cannot plant one.
pub const PREFIX: &str = "__Host-callgate";

/// Returns all pairs of all `Cookie` lines as sent. They are bytes, because a browser may send bytes above ASCII, and
/// one such cookie must not hide its neighbours.
pub fn pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(COOKIE).into_iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).map(<[u8]>::trim_ascii)
}

/// Returns the name and the value of a pair.
#[must_use]
pub fn split(pair: &[u8]) -> (&[u8], &[u8]) {
    let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
    (pair[..end].trim_ascii_end(), pair.get(end + 1..).unwrap_or_default().trim_ascii_start())
}

/// Returns the values of a cookie, one for each time it was sent.
pub fn values<'h>(headers: &'h HeaderMap, name: &'h str) -> impl Iterator<Item = &'h str> {
    let values = pairs(headers).map(split).filter(move |(known, _)| *known == name.as_bytes());
    values.filter_map(|(_, value)| str::from_utf8(value).ok())
}

/// Returns the names of callgate's cookies in the order in which they were sent: the oldest first (RFC 6265 §5.4).
pub fn ours(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    pairs(headers).filter(|pair| is_ours(pair)).filter_map(|pair| str::from_utf8(split(pair).0).ok())
}

/// Tells whether a pair of a `Cookie` line is callgate's own.
#[must_use]
pub fn is_ours(pair: &[u8]) -> bool {
    pair.trim_ascii_start().starts_with(PREFIX.as_bytes())
}

/// Removes callgate's cookies. The others stay byte for byte as the client sent them.
pub fn cut(headers: &mut HeaderMap) {
    let is_there = |line: &HeaderValue| line.as_bytes().windows(PREFIX.len()).any(|part| part == PREFIX.as_bytes());
    if headers.get_all(COOKIE).iter().any(is_there) {
        cut_pairs(headers, is_ours);
    }
}

/// Removes some pairs. The others stay byte for byte as the client sent them.
pub fn cut_pairs(headers: &mut HeaderMap, is_out: impl Fn(&[u8]) -> bool) {
    let lines: Vec<_> = headers.get_all(COOKIE).iter().filter_map(|line| without(line, &is_out)).collect();
    let mut lines = lines.into_iter();
    // The first line replaces all others.
    match lines.next() {
        Some(first) => drop(headers.insert(COOKIE, first)),
        None => drop(headers.remove(COOKIE)),
    }
    for line in lines {
        headers.append(COOKIE, line);
    }
}

/// Returns a line without some pairs; `None` if nothing is left.
fn without(line: &HeaderValue, is_out: impl Fn(&[u8]) -> bool) -> Option<HeaderValue> {
    let bytes = line.as_bytes();
    let mut pairs = bytes.split(|byte| *byte == b';');
    if !pairs.clone().any(&is_out) {
        return Some(line.clone());
    }
    let begins_out = pairs.next().is_some_and(&is_out);
    let stay: Vec<_> = bytes.split(|byte| *byte == b';').filter(|pair| !is_out(pair)).collect();
    // The pair that comes first now keeps the space that followed the removed pair.
    let stay = stay.join(&b";"[..]);
    let stay = if begins_out { stay.trim_ascii_start() } else { &stay };
    HeaderValue::from_bytes(stay).ok().filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    #[track_caller]
    fn check(lines: &[&str], expected: &[&str]) {
        let mut headers = headers(lines);
        cut(&mut headers);
        let left: Vec<_> = headers.get_all(COOKIE).iter().map(|line| line.to_str().unwrap()).collect();
        assert_eq!(left, expected, "{lines:?}");
    }

    #[test]
    fn cuts_exactly_what_is_ours() {
        check(&["__Host-callgate=x"], &[]);
        check(&["__Host-callgate=x; a=1"], &["a=1"]);
        check(&["a=1; __Host-callgate=x"], &["a=1"]);
        check(&["a=1; __Host-callgate=x; b=2"], &["a=1; b=2"]);
        check(&["a=1; __Host-callgate-Ab3_=x;__Host-callgate=y;  b=2"], &["a=1;  b=2"]);
        check(&["__Host-callgate"], &[]);
        check(&["__Host-callgate =x; a=1"], &["a=1"]);
    }

    #[test]
    fn leaves_others_as_they_are() {
        for line in ["a=1;b=2", " a = \"x;y\" ;; #=&", "a=__Host-callgate=x", "X__Host-callgate=x", "__host-callgate=x"]
        {
            check(&[line], &[line]);
        }
        check(&["a=1;b==2 ;; __Host-callgate=x;c"], &["a=1;b==2 ;;c"]);
        check(&[], &[]);
    }

    #[test]
    fn crumbs_are_cut_one_by_one() {
        check(&["a=1", "__Host-callgate=x", "b=2"], &["a=1", "b=2"]);
        check(&["__Host-callgate=x", "__Host-callgate-1=y"], &[]);
    }

    #[test]
    fn finds_values_and_names() {
        let headers =
            headers(&["a=1; __Host-callgate-one=x; __Host-callgate=y", "__Host-callgate=z; __Host-callgates"]);
        assert_eq!(values(&headers, "__Host-callgate").collect::<Vec<_>>(), ["y", "z"]);
        assert_eq!(values(&headers, "a").collect::<Vec<_>>(), ["1"]);
        let names = ["__Host-callgate-one", "__Host-callgate", "__Host-callgate", "__Host-callgates"];
        assert_eq!(ours(&headers).collect::<Vec<_>>(), names);
    }
}
