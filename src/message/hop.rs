//! Fields meant for one hop only (RFC 9110 §7.6.1).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::forwarded;

/// How many fields are hop-by-hop by themselves.
const FIELDS: usize = 7;

/// Hop-by-hop fields that go even when no `Connection` line names them.
/// `Transfer-Encoding` is among them: the framing of each hop is hyper's.
static HOP_BY_HOP: [HeaderName; FIELDS] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Fields that a `Connection` line may not take away from the next hop.
static PROTECTED: [HeaderName; 9] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::SET_COOKIE,
    header::AUTHORIZATION,
    header::ORIGIN,
    header::CACHE_CONTROL,
    header::VIA,
];

/// A `Connection` line names a field that other parties rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a Connection field names a protected field")]
pub struct Protected;

/// What the fields of this hop said before they went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hop {
    /// The sender wishes to speak the WebSocket protocol on this connection (RFC 6455 §4.1).
    pub websocket: bool,
}

/// Removes the fields meant for one hop only, and those that *any* `Connection` line names.
///
/// `TE` stays as far as it says `trailers`, and `Upgrade` is left to the caller to set again.
///
/// # Errors
/// When a `Connection` line names a field that is protected, so that nothing can be smuggled away.
pub fn strip(headers: &mut HeaderMap) -> Result<Hop, Protected> {
    let mut found = [false; FIELDS];
    for name in headers.keys() {
        if let Some(at) = HOP_BY_HOP.iter().position(|hop| hop == name) {
            found[at] = true;
        }
    }
    if found == [false; FIELDS] {
        return Ok(Hop::default());
    }
    // Read all lines before the first is removed: `remove` returns only the first.
    let named = named(headers)?;
    let websocket = named.contains(&header::UPGRADE) && is_websocket(headers);
    let trailers = tokens(headers, &header::TE).any(|token| token.eq_ignore_ascii_case(b"trailers"));
    for name in named {
        headers.remove(name);
    }
    for (name, _) in HOP_BY_HOP.iter().zip(found).filter(|(_, found)| *found) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    Ok(Hop { websocket })
}

/// Removes from trailers what has a meaning in a head alone: fields of one hop, and those that a `Connection` line may
/// not take away either (RFC 9110 §6.5.1).
pub fn strip_trailers(trailers: &mut HeaderMap) {
    for name in HOP_BY_HOP.iter().chain(&PROTECTED) {
        trailers.remove(name);
    }
}

/// Counts the hops that an `OPTIONS` request may still make down by this one (RFC 9110 §7.6.2).
pub fn count_down(headers: &mut HeaderMap) {
    if let Some(left) = hops_left(headers).and_then(|left| left.checked_sub(1)) {
        headers.insert(header::MAX_FORWARDS, HeaderValue::from(left));
    }
}

/// Returns how many hops an `OPTIONS` request may still make, if it says so: with none left it is for us.
#[must_use]
pub fn hops_left(headers: &HeaderMap) -> Option<u32> {
    let digits = headers.get(header::MAX_FORWARDS)?.to_str().ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn named(headers: &HeaderMap) -> Result<Vec<HeaderName>, Protected> {
    let mut names = Vec::new();
    for token in tokens(headers, &header::CONNECTION) {
        // A token that is no field name cannot name a field that is here.
        let Ok(name) = HeaderName::from_bytes(token) else { continue };
        if PROTECTED.contains(&name) || forwarded::is_identity(name.as_str()) {
            return Err(Protected);
        }
        names.push(name);
    }
    Ok(names)
}

fn is_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = tokens(headers, &header::UPGRADE);
    protocols.next().is_some_and(|token| token.eq_ignore_ascii_case(b"websocket")) && protocols.next().is_none()
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).into_iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
            .collect()
    }

    #[track_caller]
    fn check(lines: &[(&str, &str)], expected: &[(&str, &str)]) {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        strip(&mut map).unwrap();
        assert_eq!(map, headers(expected));
    }

    #[test]
    fn removes_what_every_connection_line_names() {
        check(
            &[("connection", "x-a"), ("connection", "X-B , close"), ("x-a", "1"), ("x-b", "2"), ("x-c", "3")],
            &[("x-c", "3")],
        );
    }

    #[test]
    fn removes_all_values_of_a_named_field() {
        check(&[("connection", "x-a"), ("x-a", "1"), ("x-a", "2")], &[]);
    }

    #[test]
    fn removes_hop_by_hop_fields_that_nobody_named() {
        check(
            &[
                ("keep-alive", "5"),
                ("proxy-connection", "x"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("te", "gzip"),
                ("trailer", "x"),
            ],
            &[("trailer", "x")],
        );
    }

    #[test]
    fn keeps_te_trailers() {
        check(&[("te", "gzip, Trailers"), ("connection", "TE")], &[("te", "trailers"), ("connection", "te")]);
    }

    #[test]
    fn refuses_to_lose_a_protected_field() {
        for name in [
            "Host",
            "content-length",
            "Cookie",
            "authorization",
            "X-Forwarded-For",
            "x_real_ip",
            "Forwarded",
            "x-request-id",
        ] {
            assert_eq!(strip(&mut headers(&[("connection", name)])), Err(Protected), "{name}");
        }
    }

    #[test]
    fn sees_a_websocket_only_when_connection_says_upgrade() {
        #[track_caller]
        fn check(lines: &[(&str, &str)], expected: bool) {
            assert_eq!(strip(&mut headers(lines)).unwrap().websocket, expected, "{lines:?}");
        }
        check(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")], true);
        check(&[("upgrade", "websocket")], false);
        check(&[("connection", "upgrade"), ("upgrade", "h2c")], false);
        check(&[("connection", "upgrade"), ("upgrade", "websocket, h2c")], false);
        check(&[("connection", "upgrade")], false);
    }
}
