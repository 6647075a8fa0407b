//! The client of a request: the peer, or the address that trusted proxies name; and the fields that tell it to
//! upstreams.
//!
//! A proxy appends to the fields that it received, so they are read from the end. Trusted proxies wrote everything up
//! to and including the first address that is not a trusted proxy; anyone may have written the rest.

use std::cell::RefCell;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// The field in which each proxy appends the address that it was asked from.
pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The most trusted proxies in a row.
const MAX_HOPS: usize = 16;

/// The client of a request, and the trusted proxies on the way from it.
#[derive(Debug)]
pub struct ForwardedChain {
    /// The client's address, for limits, logs and rules; IPv4 is never mapped into IPv6.
    pub client: IpAddr,
    /// The client and the trusted proxies behind it, in the form of `X-Forwarded-For`.
    chain: HeaderValue,
    /// The last `Host`, with the `Forwarded` that was written for it.
    written: RefCell<Option<(HeaderValue, HeaderValue)>>,
}

/// `Forwarded` and `X-Forwarded-For` of a trusted proxy name different clients: at least one of them is not from that
/// proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Forwarded and X-Forwarded-For name different clients")]
pub struct Contradiction;

impl ForwardedChain {
    /// Makes the chain of a request that comes directly from the client.
    #[must_use]
    pub fn direct(client: IpAddr) -> Self {
        Self::behind(&[client.to_canonical()])
    }

    /// Finds the client of a request that a trusted peer forwards.
    ///
    /// # Errors
    /// When the fields name two different clients.
    pub fn from_headers(
        peer: IpAddr,
        headers: &HeaderMap,
        believed: impl Fn(IpAddr) -> bool,
    ) -> Result<Self, Contradiction> {
        let lines = |name| headers.get_all(name).iter().rev().map(HeaderValue::as_bytes);
        let by_list = lines(X_FORWARDED_FOR).flat_map(|line| line.rsplit(|byte| *byte == b',')).map(node);
        let by_standard = lines(header::FORWARDED).flat_map(|line| parts(line, b',')).map(|part| node(named(part?)?));
        let peer = peer.to_canonical();
        let (list, standard) = (hops(peer, by_list, &believed), hops(peer, by_standard, &believed));
        let both = headers.contains_key(X_FORWARDED_FOR) && headers.contains_key(header::FORWARDED);
        if both && list.last() != standard.last() {
            return Err(Contradiction);
        }
        Ok(Self::behind(if headers.contains_key(X_FORWARDED_FOR) { &list } else { &standard }))
    }

    /// `hops`: the peer first, the client last.
    fn behind(hops: &[IpAddr]) -> Self {
        let chain = hops.iter().rev().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
        Self {
            client: *hops.last().expect("the peer is there"),
            chain: HeaderValue::try_from(chain).expect("addresses are digits, letters, dots and colons"),
            written: RefCell::default(),
        }
    }

    /// Returns the value of `X-Forwarded-For`: the client, then the trusted proxies it came through.
    #[must_use]
    pub fn x_forwarded_for(&self) -> HeaderValue {
        self.chain.clone()
    }

    /// Returns the value of `Forwarded` (RFC 7239): the same addresses, and the requested host. A new value is written
    /// only when the host changes.
    #[must_use]
    pub fn forwarded(&self, host: &HeaderValue) -> HeaderValue {
        let mut written = self.written.borrow_mut();
        match &*written {
            Some((known, value)) if known == host => value.clone(),
            Some(_) | None => {
                let value = self.write(host);
                // A copy, because the field is a part of the connection's read buffer, which must not be kept alive.
                *written = HeaderValue::from_bytes(host.as_bytes()).ok().map(|host| (host, value.clone()));
                value
            }
        }
    }

    /// An authority consists of letters, digits and `-._:[]`, so quotes around it are enough.
    fn write(&self, host: &HeaderValue) -> HeaderValue {
        let mut text = String::with_capacity(64);
        let chain = self.chain.to_str().unwrap_or_default().split(", ").enumerate();
        for (at, address) in chain {
            let comma = if at == 0 { "" } else { ", " };
            // Writing to a string cannot fail.
            let _ = match address.contains(':') {
                true => write!(text, "{comma}for=\"[{address}]\""),
                false => write!(text, "{comma}for={address}"),
            };
        }
        let host = host.to_str().unwrap_or_default();
        let quote = if host.contains([':', '[']) { "\"" } else { "" };
        let _ = write!(text, ";host={quote}{host}{quote};proto=https");
        HeaderValue::try_from(text).expect("an authority is visible ASCII")
    }
}

/// Follows the addresses from the peer toward the client, as far as trusted proxies wrote them.
fn hops(peer: IpAddr, told: impl Iterator<Item = Option<IpAddr>>, believed: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
    let mut hops = vec![peer];
    for hop in told.take(MAX_HOPS) {
        let Some(hop) = hop else { break };
        hops.push(hop);
        if !believed(hop) {
            break;
        }
    }
    hops
}

/// Reads an address with an optional port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim_matches([' ', '\t']);
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).filter(|text| text.contains(':'));
    let address = bare.unwrap_or(text).parse::<IpAddr>();
    let address = address.or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

/// Returns the `for` of one element of `Forwarded`, without its quotes. An address needs no escapes.
fn named(element: &[u8]) -> Option<&[u8]> {
    let mut found = None;
    for pair in parts(element, b';') {
        let pair = pair?.trim_ascii();
        let at = pair.iter().position(|byte| *byte == b'=')?;
        if pair[..at].eq_ignore_ascii_case(b"for") && found.replace(&pair[at + 1..]).is_some() {
            return None;
        }
    }
    let value = found?;
    Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

/// Splits at a separator outside quotes, from the end. An unbalanced quote ends the iteration with `None`.
fn parts(text: &[u8], separator: u8) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let mut quoted = false;
        for at in (0..text.len()).rev() {
            match text[at] {
                b'"' if quoted && is_escaped(text, at) => {}
                b'"' => quoted = !quoted,
                byte if byte == separator && !quoted => {
                    rest = Some(&text[..at]);
                    return Some(Some(&text[at + 1..]));
                }
                _ => {}
            }
        }
        Some((!quoted).then_some(text))
    })
}

/// Tells whether an odd number of backslashes precedes a byte.
fn is_escaped(text: &[u8], at: usize) -> bool {
    text[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "10.0.0.1";

    /// Reads fields that come from 10.0.0.1; 10.0.0.0/8 and fd00::/8 are trusted.
    fn read(fields: &[(&'static str, &str)]) -> Result<ForwardedChain, Contradiction> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        ForwardedChain::from_headers(PEER.parse().unwrap(), &headers, |hop| match hop {
            IpAddr::V4(hop) => hop.octets()[0] == 10,
            IpAddr::V6(hop) => hop.segments()[0] >> 8 == 0xfd,
        })
    }

    /// Checks the chain that upstreams receive: the client first.
    #[track_caller]
    fn check(fields: &[(&'static str, &str)], expected: &str) {
        let origin = read(fields).unwrap();
        assert_eq!(origin.x_forwarded_for(), expected, "{fields:?}");
        assert_eq!(origin.client.to_string(), expected.split(", ").next().unwrap(), "{fields:?}");
    }

    #[track_caller]
    fn check_list(value: &str, expected: &str) {
        check(&[("x-forwarded-for", value)], expected);
    }

    #[track_caller]
    fn check_standard(value: &str, expected: &str) {
        check(&[("forwarded", value)], expected);
    }

    #[test]
    fn a_believed_peer_that_tells_nothing_is_the_client() {
        check(&[], PEER);
    }

    #[test]
    fn cve_2026_111934_the_right_most_address_that_is_not_believed_is_the_client() {
        check_list("192.0.2.1", "192.0.2.1, 10.0.0.1");
        check_list("6.6.6.6, 192.0.2.1", "192.0.2.1, 10.0.0.1");
        check_list("6.6.6.6,192.0.2.1 ,\t10.9.9.9", "192.0.2.1, 10.9.9.9, 10.0.0.1");
        check_list("10.1.1.1, 192.0.2.1", "192.0.2.1, 10.0.0.1");
        check_list("10.1.1.1, 10.2.2.2", "10.1.1.1, 10.2.2.2, 10.0.0.1");
    }

    #[test]
    fn all_lines_are_one_list() {
        let lines = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.1"), ("x-forwarded-for", "10.2.2.2")];
        check(&lines, "192.0.2.1, 10.2.2.2, 10.0.0.1");
        let lines = [("forwarded", "for=6.6.6.6"), ("forwarded", "for=192.0.2.1"), ("forwarded", "for=10.2.2.2")];
        check(&lines, "192.0.2.1, 10.2.2.2, 10.0.0.1");
    }

    #[test]
    fn ports_and_brackets_are_no_part_of_an_address() {
        check_list("192.0.2.1:55", "192.0.2.1, 10.0.0.1");
        check_list("[2001:db8::1]:443", "2001:db8::1, 10.0.0.1");
        check_list("[2001:DB8::1]", "2001:db8::1, 10.0.0.1");
        check_list("2001:db8::1", "2001:db8::1, 10.0.0.1");
        check_list("::ffff:192.0.2.1", "192.0.2.1, 10.0.0.1");
        check_list("::ffff:10.3.3.3", "10.3.3.3, 10.0.0.1");
    }

    #[test]
    fn what_is_no_address_ends_the_walk() {
        for junk in [
            "",
            " ",
            "unknown",
            "_hidden",
            "a.test",
            "192.0.2.1:",
            "192.0.2.1:x",
            "192.0.2.1:65536",
            "192.0.2",
            "010.1.1.1",
            "192.0.2.1 6.6.6.6",
            "[192.0.2.1]",
            "[2001:db8::1",
            "2001:db8::1]",
            "fe80::1%eth0",
            "\"192.0.2.1\"",
            "é",
            "unix:",
        ] {
            check_list(junk, PEER);
            check_list(&format!("6.6.6.6, {junk}"), PEER);
            check_list(&format!("6.6.6.6, {junk}, 10.2.2.2"), "10.2.2.2, 10.0.0.1");
            check_list(&format!("{junk}, 192.0.2.1"), "192.0.2.1, 10.0.0.1");
        }
    }

    #[test]
    fn the_standard_field_is_read_with_its_quotes_and_parameters() {
        check_standard("for=192.0.2.1", "192.0.2.1, 10.0.0.1");
        check_standard("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17, 10.0.0.1");
        check_standard("for=192.0.2.1;proto=http;by=203.0.113.43", "192.0.2.1, 10.0.0.1");
        check_standard("proto=https; host=\"a,b;for=6.6.6.6\" ;FOR=\"192.0.2.1:80\"", "192.0.2.1, 10.0.0.1");
        check_standard("for=6.6.6.6, for=192.0.2.1;host=\"a\\\", for=6.6.6.6\"", "192.0.2.1, 10.0.0.1");
        check_standard("for=6.6.6.6,for=192.0.2.1 , for=\"[fd00::1]\"", "192.0.2.1, fd00::1, 10.0.0.1");
        for hidden in [
            "for=unknown",
            "for=_hidden",
            "for=\"_SEVKISEK\"",
            "proto=https",
            "for",
            "for=1;for=2",
            "for=\"192.0.2.1",
            "",
        ] {
            check_standard(hidden, PEER);
            check_standard(&format!("for=6.6.6.6, {hidden}"), PEER);
        }
    }

    #[test]
    fn a_clients_open_quote_swallows_nothing() {
        for claim in ["for=\"", "for=6.6.6.6;x=\"", "\"", "\\", "for=\"\\", "\"\"\"", "x=\"\\\""] {
            check_standard(&format!("{claim}, for=192.0.2.1"), "192.0.2.1, 10.0.0.1");
            check_standard(&format!("{claim}, for=\"[2001:db8::1]\""), "2001:db8::1, 10.0.0.1");
        }
    }

    #[test]
    fn two_fields_must_agree() {
        let both =
            |list, standard| read(&[("x-forwarded-for", list), ("forwarded", standard)]).map(|origin| origin.client);
        assert_eq!(both("6.6.6.6, 192.0.2.1", "for=7.7.7.7, for=192.0.2.1"), Ok("192.0.2.1".parse().unwrap()));
        assert_eq!(both("192.0.2.1", "for=6.6.6.6"), Err(Contradiction));
        assert_eq!(both("192.0.2.1", "for=unknown"), Err(Contradiction));
        assert_eq!(both("", "for=192.0.2.1"), Err(Contradiction));
    }

    #[test]
    fn the_walk_has_an_end() {
        let many = vec!["10.1.1.1"; 1000].join(",");
        assert_eq!(read(&[("x-forwarded-for", &many)]).unwrap().x_forwarded_for().len(), MAX_HOPS * 10 + PEER.len());
    }

    #[test]
    fn the_standard_field_says_the_same() {
        #[track_caller]
        fn check(origin: &ForwardedChain, host: &str, expected: &str) {
            assert_eq!(origin.forwarded(&HeaderValue::from_str(host).unwrap()), expected);
        }
        let direct = ForwardedChain::direct("::ffff:192.0.2.1".parse().unwrap());
        for _ in 0..2 {
            check(&direct, "a.test", "for=192.0.2.1;host=a.test;proto=https");
            check(&direct, "a.test:8443", "for=192.0.2.1;host=\"a.test:8443\";proto=https");
            check(&direct, "[::1]", "for=192.0.2.1;host=\"[::1]\";proto=https");
        }
        let told = read(&[("x-forwarded-for", "2001:db8::1")]).unwrap();
        check(&told, "a.test", "for=\"[2001:db8::1]\", for=10.0.0.1;host=a.test;proto=https");
    }
}
