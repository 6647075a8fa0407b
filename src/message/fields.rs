//! Reads fields that decide, and removes fields from a message. `HeaderMap::remove` is not used for removal: it fills
//! the gap with the last field, which changes the order.

use http::header::{AsHeaderName, HeaderMap, HeaderName, HeaderValue};

/// Spare capacity for the fields that are added to a message next.
const ROOM: usize = 8;

/// Removes the fields of some names, and keeps the others in order. Without such fields nothing is moved.
pub fn remove(headers: &mut HeaderMap, goes: impl Fn(&HeaderName) -> bool) {
    if !headers.keys().any(&goes) {
        return;
    }
    let mut stay = HeaderMap::with_capacity(headers.len() + ROOM);
    let mut stays = false;
    // All values of one field follow each other, only the first of them with its name.
    stay.extend(headers.drain().filter(|(name, _)| {
        stays = name.as_ref().map_or(stays, |name| !goes(name));
        stays
    }));
    *headers = stay;
}

/// Returns the value of a field; `None` if it is missing or stands twice.
pub fn only(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&HeaderValue> {
    let mut lines = headers.get_all(name).into_iter();
    let line = lines.next()?;
    lines.next().is_none().then_some(line)
}

/// Returns the value of a field; `None` if it is missing. A field that stands twice gives an empty value, which is
/// never valid, because readers take the first or the last.
pub fn sole_or_empty(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&[u8]> {
    let mut lines = headers.get_all(name).into_iter();
    let line = lines.next()?;
    Some(if lines.next().is_none() { line.as_bytes() } else { b"" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_stands_twice_says_nothing_known() {
        let mut headers = HeaderMap::new();
        headers.append("a", HeaderValue::from_static("1"));
        headers.append("b", HeaderValue::from_static("1"));
        headers.append("b", HeaderValue::from_static("1"));
        let read =
            |name: &'static str| (only(&headers, name).map(HeaderValue::as_bytes), sole_or_empty(&headers, name));
        assert_eq!(
            [read("a"), read("b"), read("c")],
            [(Some(&b"1"[..]), Some(&b"1"[..])), (None, Some(&b""[..])), (None, None)]
        );
    }

    #[track_caller]
    fn check(names: &[&str], gone: &[&str], expected: &[&str]) {
        let mut headers = HeaderMap::new();
        for (at, name) in names.iter().enumerate() {
            headers.append(name.parse::<HeaderName>().unwrap(), at.into());
        }
        remove(&mut headers, |name| gone.contains(&name.as_str()));
        let left: Vec<_> = headers.iter().map(|(name, value)| format!("{name}{}", value.to_str().unwrap())).collect();
        assert_eq!(left, expected, "{names:?} without {gone:?}");
    }

    #[test]
    fn what_stays_keeps_its_place() {
        check(&["a", "b", "c", "d"], &["a"], &["b1", "c2", "d3"]);
        check(&["a", "b", "c", "d"], &["b", "c"], &["a0", "d3"]);
        check(&["a", "b", "c"], &["c"], &["a0", "b1"]);
        check(&["a", "b", "c"], &["d"], &["a0", "b1", "c2"]);
        check(&["a"], &["a"], &[]);
    }

    #[test]
    fn all_values_of_a_field_go_or_stay() {
        check(&["a", "b", "a", "c", "a"], &["b"], &["a0", "a2", "a4", "c3"]);
        check(&["a", "b", "a", "c", "b"], &["a"], &["b1", "b4", "c3"]);
    }
}
