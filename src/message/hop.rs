//! Fields meant for one hop only (RFC 9110 §7.6.1).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::fields;
use super::forwarded;

/// Hop-by-hop fields that are removed even when no `Connection` line names them. `Transfer-Encoding` is among them,
/// because hyper frames each hop.
static HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Fields that a `Connection` line must not remove.
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

/// The protocols that a connection may continue with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// The connection stays with HTTP.
    Stays,
    /// The connection may become a WebSocket.
    MayChange,
}

/// The facts in the hop-by-hop fields that were removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hop {
    /// The sender asks for the WebSocket protocol on this connection (RFC 6455 §4.1); `Upgrade` and `Connection` still
    /// say so.
    pub websocket: bool,
}

/// Removes the hop-by-hop fields, those that any `Connection` line names, and those that `more` selects.
///
/// Of `TE`, `trailers` stays; of `Upgrade`, `websocket` stays where the protocol may change; `Connection` stays with
/// them.
///
/// # Errors
/// When a `Connection` line names a protected field, because that would hide it from the next hop.
pub fn strip(
    headers: &mut HeaderMap,
    protocol: Protocol,
    more: impl Fn(&HeaderName) -> bool,
) -> Result<Hop, Protected> {
    let (mut is_hop, mut is_more) = (false, false);
    for name in headers.keys() {
        is_hop |= HOP_BY_HOP.contains(name);
        is_more |= more(name);
    }
    if !is_hop {
        if is_more {
            fields::remove(headers, more);
        }
        return Ok(Hop::default());
    }
    let named = named(headers)?;
    let trailers = tokens(headers, &header::TE).any(|token| token.eq_ignore_ascii_case(b"trailers"));
    let websocket = protocol == Protocol::MayChange && named.contains(&header::UPGRADE) && is_websocket(headers);
    let said = match (trailers, websocket) {
        (false, false) => None,
        (true, false) => Some("te"),
        (false, true) => Some("upgrade"),
        (true, true) => Some("te, upgrade"),
    };
    let stays = |name: &HeaderName| match *name {
        header::TE => trailers,
        header::UPGRADE => websocket,
        header::CONNECTION => said.is_some(),
        _ => false,
    };
    fields::remove(headers, |name| (HOP_BY_HOP.contains(name) || named.contains(name) || more(name)) && !stays(name));
    if let Some(said) = said {
        headers.insert(header::CONNECTION, HeaderValue::from_static(said));
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if websocket {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    Ok(Hop { websocket })
}

/// Removes from trailers the fields that have a meaning only in a head: hop-by-hop and protected ones (RFC 9110
/// §6.5.1). Also removes those that `more` selects.
pub fn strip_trailers(trailers: &mut HeaderMap, more: impl Fn(&HeaderName) -> bool) {
    fields::remove(trailers, |name| HOP_BY_HOP.contains(name) || PROTECTED.contains(name) || more(name));
}

/// Tells whether a `Connection` line names a field of some kind.
#[must_use]
pub fn names_any(headers: &HeaderMap, kind: impl Fn(&HeaderName) -> bool) -> bool {
    tokens(headers, &header::CONNECTION).any(|token| HeaderName::from_bytes(token).is_ok_and(|name| kind(&name)))
}

/// Tells whether `Expect` asks for a 100 only (RFC 9110 §10.1.1), which concerns one hop. Any other expectation is the
/// upstream's to meet or refuse.
#[must_use]
pub fn expects_continue(headers: &HeaderMap) -> bool {
    tokens(headers, &header::EXPECT).all(|token| token.eq_ignore_ascii_case(b"100-continue"))
}

/// Lowers the number of hops that an `OPTIONS` request may still make by one (RFC 9110 §7.6.2).
pub fn count_down(headers: &mut HeaderMap) {
    if let Some(left) = hops_left(headers).and_then(|left| left.checked_sub(1)) {
        headers.insert(header::MAX_FORWARDS, HeaderValue::from(left));
    }
}

/// Returns the number of hops that an `OPTIONS` request may still make, if it states one. At 0, callgate answers the
/// request.
#[must_use]
pub fn hops_left(headers: &HeaderMap) -> Option<u32> {
    let digits = headers.get(header::MAX_FORWARDS)?.to_str().ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn named(headers: &HeaderMap) -> Result<Vec<HeaderName>, Protected> {
    let mut names = Vec::new();
    for token in tokens(headers, &header::CONNECTION) {
        // A token that is not a field name cannot name a field of this message.
        let Ok(name) = HeaderName::from_bytes(token) else { continue };
        if PROTECTED.contains(&name) || forwarded::is_identity(&name) {
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
        strip(&mut map, Protocol::Stays, |name| name == "x-more").unwrap();
        let left: Vec<_> = map.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(left, expected);
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
    fn what_stays_keeps_its_place() {
        check(
            &[("a", "1"), ("connection", "X-A"), ("b", "2"), ("x-a", "3"), ("c", "4"), ("keep-alive", "5"), ("d", "6")],
            &[("a", "1"), ("b", "2"), ("c", "4"), ("d", "6")],
        );
        check(&[("x-more", "1"), ("a", "2"), ("x-more", "3"), ("b", "4")], &[("a", "2"), ("b", "4")]);
        check(&[("x-more", "1"), ("upgrade", "h2c"), ("a", "2"), ("b", "4")], &[("a", "2"), ("b", "4")]);
    }

    #[test]
    fn keeps_te_trailers() {
        check(
            &[("te", "gzip, Trailers"), ("a", "1"), ("connection", "TE")],
            &[("te", "trailers"), ("a", "1"), ("connection", "te")],
        );
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
            let stripped = strip(&mut headers(&[("connection", name)]), Protocol::MayChange, |_| false);
            assert_eq!(stripped, Err(Protected), "{name}");
        }
    }

    #[test]
    fn sees_a_websocket_only_when_connection_says_upgrade() {
        #[track_caller]
        fn check(lines: &[(&str, &str)], expected: bool) {
            for (protocol, expected) in [(Protocol::MayChange, expected), (Protocol::Stays, false)] {
                let mut fields = headers(lines);
                assert_eq!(strip(&mut fields, protocol, |_| false).unwrap().websocket, expected, "{lines:?}");
                let upgrade = fields.get("upgrade").map(|value| value.to_str().unwrap());
                assert_eq!(upgrade, expected.then_some("websocket"), "{lines:?}");
            }
        }
        check(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")], true);
        check(&[("upgrade", "websocket")], false);
        check(&[("connection", "upgrade"), ("upgrade", "h2c")], false);
        check(&[("connection", "upgrade"), ("upgrade", "websocket, h2c")], false);
        check(&[("connection", "upgrade")], false);
    }

    #[test]
    fn connection_names_all_that_stays() {
        let mut fields =
            headers(&[("upgrade", "websocket"), ("te", "trailers"), ("connection", "upgrade, keep-alive"), ("a", "1")]);
        strip(&mut fields, Protocol::MayChange, |_| false).unwrap();
        assert_eq!(fields["connection"], "te, upgrade");
    }
}
