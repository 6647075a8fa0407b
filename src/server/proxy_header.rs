//! Writes a header of the PROXY protocol (haproxy.org, `proxy-protocol.txt`), by which callgate tells the client's address to
//! a target of `[[passthrough]]`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::proxy_protocol::{AddressPair, SIGNATURE};
use crate::config::ProxyProtocolVersion;

/// Version 2 and a command: the connection is a client's, or its addresses are not known.
const PROXY: u8 = 0x21;
const LOCAL: u8 = 0x20;
/// The families of version 2, all over TCP.
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Makes the header of a connection; `None`: its client has no address, because it came over a unix socket.
pub(super) fn header(version: ProxyProtocolVersion, pair: Option<AddressPair>) -> Vec<u8> {
    match version {
        ProxyProtocolVersion::V1 => line(pair).into_bytes(),
        ProxyProtocolVersion::V2 => block(pair),
    }
}

fn line(pair: Option<AddressPair>) -> String {
    let Some(pair) = pair else { return "PROXY UNKNOWN\r\n".to_owned() };
    let (source, destination) = of_one_family(pair);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {} {} {} {}\r\n", source.ip(), destination.ip(), source.port(), destination.port())
}

fn block(pair: Option<AddressPair>) -> Vec<u8> {
    let (command, family, addresses) = match pair.map(of_one_family) {
        None => (LOCAL, UNSPECIFIED, Vec::new()),
        Some((source, destination)) => {
            let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
            let addresses = [octets(source.ip()), octets(destination.ip()), ports].concat();
            (PROXY, if source.is_ipv4() { TCP4 } else { TCP6 }, addresses)
        }
    };
    let length = (addresses.len() as u16).to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, &addresses].concat()
}

/// Returns both addresses as IPv4, or both as IPv6: a header has one family.
fn of_one_family(pair: AddressPair) -> (SocketAddr, SocketAddr) {
    let plain = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    let (source, destination) = (plain(pair.source), plain(pair.destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    (mapped(source), mapped(destination))
}

fn mapped(at: SocketAddr) -> SocketAddr {
    let ip: Ipv6Addr = match at.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::new(ip.into(), at.port())
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::proxy_protocol::read;

    /// Checks that a header of each version reads as these addresses.
    #[track_caller]
    fn check(source: &str, destination: &str, expected: (&str, &str)) {
        let pair = |(source, destination): (&str, &str)| {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            AddressPair { source, destination }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for version in [ProxyProtocolVersion::V1, ProxyProtocolVersion::V2] {
            let header = header(version, Some(pair((source, destination))));
            let found = runtime.block_on(read(&mut header.as_slice())).unwrap();
            assert_eq!(found, Some(pair(expected)), "{version:?} {source} {destination}");
        }
    }

    #[test]
    fn both_versions_tell_both_addresses() {
        check("192.0.2.1:5060", "192.0.2.2:443", ("192.0.2.1:5060", "192.0.2.2:443"));
        check("[2001:db8::1]:5060", "[2001:db8::2]:443", ("[2001:db8::1]:5060", "[2001:db8::2]:443"));
    }

    #[test]
    fn ipv4_at_an_ipv6_listener_is_ipv4() {
        check("[::ffff:192.0.2.1]:5060", "[::ffff:192.0.2.2]:443", ("192.0.2.1:5060", "192.0.2.2:443"));
        check("192.0.2.1:5060", "[2001:db8::2]:443", ("[::ffff:192.0.2.1]:5060", "[2001:db8::2]:443"));
    }

    #[test]
    fn a_client_without_an_address_is_told_as_such() {
        assert_eq!(header(ProxyProtocolVersion::V1, None), b"PROXY UNKNOWN\r\n");
        assert_eq!(header(ProxyProtocolVersion::V2, None), [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat());
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let (source, destination) = ("192.0.2.1:56324".parse().unwrap(), "192.0.2.2:443".parse().unwrap());
        let pair = Some(AddressPair { source, destination });
        assert_eq!(header(ProxyProtocolVersion::V1, pair), b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n");
        let expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\xdc\x04\x01\xbb";
        assert_eq!(header(ProxyProtocolVersion::V2, pair), expected);
    }
}
