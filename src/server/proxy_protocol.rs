//! The PROXY protocol, versions 1 and 2 (haproxy.org, `proxy-protocol.txt`), by which a balancer names its client.
//!
//! The header comes before the first byte of TLS, so not one byte behind it may be read.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// How long the header may take: a balancer sends it first, so only a lost packet delays it.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// The longest header of version 1, with its line end.
const MAX_LINE: usize = 107;
/// The longest address block with extensions of version 2.
const MAX_BLOCK: usize = 4 << 10;
/// The length of the shortest header (`PROXY UNKNOWN`), which can be read of any.
const SHORTEST: usize = 15;
/// Version 2 starts with this, then one byte each for command and family, two for the length of the rest.
pub(super) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const PREFIX: usize = 16;

/// The addresses of a connection, as its client sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AddressPair {
    /// The client's own.
    pub(super) source: SocketAddr,
    /// The one that it connected to.
    pub(super) destination: SocketAddr,
}

/// Reads the header of a connection from a balancer. Returns the addresses that it names; `None` if the balancer connects for
/// itself.
///
/// # Errors
/// When the header is malformed, or does not come within [`DEADLINE`].
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<AddressPair>> {
    timeout(DEADLINE, read_header(stream)).await?
}

async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<AddressPair>> {
    let mut header = vec![0; SHORTEST];
    stream.read_exact(&mut header).await?;
    if header.starts_with(SIGNATURE) {
        header.push(stream.read_u8().await?);
        let length = block_length(&header).ok_or_else(malformed)?;
        header.resize(PREFIX + length, 0);
        stream.read_exact(&mut header[PREFIX..]).await?;
        return parse_block(&header).ok_or_else(malformed);
    }
    if !header.starts_with(b"PROXY ") {
        return Err(malformed());
    }
    // Byte by byte: not every kind of socket can peek, and lines are short.
    while !header.ends_with(b"\n") {
        if header.len() == MAX_LINE {
            return Err(malformed());
        }
        header.push(stream.read_u8().await?);
    }
    parse_line(&header).ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "no PROXY header, or a malformed one")
}

// === Version 1 ===

/// Parses `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443` with its line end.
fn parse_line(line: &[u8]) -> Option<Option<AddressPair>> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?.strip_prefix("PROXY ")?;
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Some(None);
    }
    let words: Vec<_> = line.split(' ').collect();
    let [family, source, destination, from, to] = words[..] else { return None };
    let (source, destination) = match family {
        "TCP4" => both::<Ipv4Addr>(source, destination)?,
        "TCP6" => both::<Ipv6Addr>(source, destination)?,
        _ => return None,
    };
    let (source, destination) = (SocketAddr::new(source, port(from)?), SocketAddr::new(destination, port(to)?));
    Some(Some(AddressPair { source, destination }))
}

/// Parses two addresses of one family.
fn both<A: FromStr + Into<IpAddr>>(source: &str, destination: &str) -> Option<(IpAddr, IpAddr)> {
    Some((source.parse::<A>().ok()?.into(), destination.parse::<A>().ok()?.into()))
}

/// Parses a port in digits, without leading zeros.
fn port(text: &str) -> Option<u16> {
    text.parse::<u16>().ok().filter(|port| port.to_string() == text)
}

// === Version 2 ===

/// Returns how many bytes follow the prefix.
fn block_length(prefix: &[u8]) -> Option<usize> {
    let length = u16::from_be_bytes(prefix.get(14..PREFIX)?.try_into().ok()?).into();
    (length <= MAX_BLOCK).then_some(length)
}

/// Parses a whole header of version 2.
fn parse_block(header: &[u8]) -> Option<Option<AddressPair>> {
    let block = header.get(PREFIX..)?;
    let (client, addresses) = match (header[12], header[13]) {
        // LOCAL: the balancer connects for itself; the rest of the block does not matter (§2.2).
        (0x20, _) => return Some(None),
        (0x21, 0x00) => (None, 0),
        (0x21, 0x11) => (Some(pair::<4>(block)?), 12),
        (0x21, 0x21) => (Some(pair::<16>(block)?), 36),
        (0x21, 0x31) => (None, 216),
        // Other versions and commands, and datagrams, which TCP does not carry.
        _ => return None,
    };
    // With an unspecified family the block does not say where addresses end and extensions begin.
    let extensions = if header[13] == 0 { &[] } else { block.get(addresses..)? };
    check_extensions(header, extensions).then_some(client)
}

/// Reads two addresses of this many bytes, and their ports.
fn pair<const N: usize>(block: &[u8]) -> Option<AddressPair>
where
    IpAddr: From<[u8; N]>,
{
    let address = |at: usize| Some(IpAddr::from(<[u8; N]>::try_from(block.get(at..at + N)?).ok()?));
    let port = |at: usize| Some(u16::from_be_bytes(block.get(at..at + 2)?.try_into().ok()?));
    let source = SocketAddr::new(address(0)?, port(2 * N)?);
    Some(AddressPair { source, destination: SocketAddr::new(address(N)?, port(2 * N + 2)?) })
}

/// Checks that the extensions (type, length, value) fill the rest of the block, and that a checksum among them is right
/// (§2.2.4).
fn check_extensions(header: &[u8], mut extensions: &[u8]) -> bool {
    while let [kind, high, low, rest @ ..] = extensions {
        let Some((value, rest)) = rest.split_at_checked(u16::from_be_bytes([*high, *low]).into()) else { return false };
        if *kind == CHECKSUM {
            let behind = rest.len() + value.len();
            let Ok(sum) = <[u8; 4]>::try_from(value) else { return false };
            let (before, after) = (&header[..header.len() - behind], rest);
            if crc32c(before.iter().chain(&[0; 4]).chain(after)) != u32::from_be_bytes(sum) {
                return false;
            }
        }
        extensions = rest;
    }
    extensions.is_empty()
}

/// `PP2_TYPE_CRC32C`.
const CHECKSUM: u8 = 0x03;

/// CRC-32C (RFC 3720 appendix B.4), bit by bit: a header is short.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    let shift = |sum: u32, _| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
    !bytes.fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), shift))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// The bytes behind the header, which must not be read.
    const BEHIND: &[u8] = b"\x16\x03\x01\r\nPROXY ";

    /// Sends bytes, reads a header from them, and returns the addresses; `None` without a header. Checks that the bytes behind
    /// are left.
    async fn ask(bytes: &[u8]) -> Option<Option<AddressPair>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut balancer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut stream = listener.accept().await.unwrap().0;
        balancer.write_all(bytes).await.unwrap();
        balancer.shutdown().await.unwrap();
        let pair = read_header(&mut stream).await.ok()?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, BEHIND, "{bytes:?}");
        Some(pair)
    }

    #[track_caller]
    fn check(header: impl AsRef<[u8]>, expected: Option<Option<&str>>) {
        let header = header.as_ref();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let expected = expected.map(|client| client.map(|client| client.parse::<IpAddr>().unwrap()));
        let found = runtime.block_on(ask(&[header, BEHIND].concat())).map(|pair| pair.map(|pair| pair.source.ip()));
        assert_eq!(found, expected, "{:?}", header.escape_ascii().to_string());
        for end in 0..header.len() {
            assert_eq!(
                runtime.block_on(ask(&header[..end])),
                None,
                "cut at {end}: {:?}",
                header.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn a_line_names_the_client() {
        check("PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", Some(Some("192.0.2.1")));
        check("PROXY TCP4 1.1.1.1 1.1.1.1 0 65535\r\n", Some(Some("1.1.1.1")));
        check("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", Some(Some("2001:db8::1")));
        check("PROXY UNKNOWN\r\n", Some(None));
        check("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", Some(None));
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_LINE - 16));
        check(&longest, Some(None));
    }

    #[test]
    fn a_line_has_one_form() {
        for line in [
            "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\r\n",
            "PROXY  TCP4 192.0.2.1 192.0.2.2 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 \r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 1\r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 065 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 443\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY UNKNOWNX\r\n",
            "proxy UNKNOWN\r\n",
            "PROXY\tUNKNOWN\r\n",
            "PROXY TCP4 \u{661}.1.1.1 1.1.1.1 1 2\r\n",
            "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "\x16\x03\x01\x02\0\x01\0\x01\u{7c}\x03\x03aaaaaaaaaaaaaaaaa",
        ] {
            check(line, None);
        }
        check(format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_LINE - 15)), None);
        check(format!("PROXY UNKNOWN {}", "x".repeat(1000)), None);
    }

    fn block(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, block].concat()
    }

    const V4: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 4, 1, 0xbb];
    const V6: &[u8] =
        b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\xdc\x04\x01\xbb";

    #[test]
    fn a_block_names_the_client() {
        check(block(0x21, 0x11, V4), Some(Some("192.0.2.1")));
        check(block(0x21, 0x21, V6), Some(Some("2001:db8::1")));
        check(block(0x21, 0x31, &[0; 216]), Some(None));
        check(block(0x21, 0x00, &[]), Some(None));
        check(block(0x21, 0x00, b"whatever"), Some(None));
        check(block(0x20, 0x00, &[]), Some(None));
        check(block(0x20, 0x11, V4), Some(None));
        check(block(0x20, 0xff, b"whatever"), Some(None));
    }

    #[test]
    fn both_versions_name_both_addresses_with_their_ports() {
        let pair = |source: &str, destination: &str| {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            Some(Some(AddressPair { source, destination }))
        };
        let expected = pair("192.0.2.1:56324", "192.0.2.2:443");
        assert_eq!(parse_line(b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n"), expected);
        assert_eq!(parse_block(&block(0x21, 0x11, V4)), expected);
        let expected = pair("[2001:db8::1]:56324", "[2001:db8::2]:443");
        assert_eq!(parse_line(b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n"), expected);
        assert_eq!(parse_block(&block(0x21, 0x21, V6)), expected);
    }

    #[test]
    fn extensions_are_stepped_over() {
        check(block(0x21, 0x11, &[V4, b"\x04\0\0", b"\xea\0\x03abc"].concat()), Some(Some("192.0.2.1")));
        let longest = [V4, b"\x05\x0f\xf1", &[7; MAX_BLOCK - 15]].concat();
        let source = parse_block(&block(0x21, 0x11, &longest)).flatten().map(|pair| pair.source.to_string());
        assert_eq!(source.as_deref(), Some("192.0.2.1:56324"));
        for extension in [&b"\x04"[..], b"\x04\0", b"\x04\0\x01", b"\x04\xff\xffabc", b"\x04\0\0\x05"] {
            check(block(0x21, 0x11, &[V4, extension].concat()), None);
        }
    }

    #[test]
    fn a_checksum_must_be_right() {
        assert_eq!(crc32c(b"123456789".iter()), 0xe306_9283);
        let with = |sum: u32| block(0x21, 0x11, &[V4, b"\x03\0\x04", &sum.to_be_bytes(), b"\x04\0\x02zz"].concat());
        let right = crc32c(with(0).iter());
        check(with(right), Some(Some("192.0.2.1")));
        check(with(right ^ 1), None);
        check(block(0x21, 0x11, &[V4, b"\x03\0\x03abc"].concat()), None);
    }

    #[test]
    fn a_block_has_the_length_of_its_family() {
        for (command, family, addresses) in [
            (0x21, 0x11, &V4[..11]),
            (0x21, 0x21, &V6[..35]),
            (0x21, 0x21, V4),
            (0x21, 0x31, &[0; 215]),
            (0x21, 0x12, V4),
            (0x21, 0x22, V6),
            (0x21, 0x01, &[]),
            (0x21, 0x41, V6),
            (0x22, 0x11, V4),
            (0x11, 0x11, V4),
            (0x31, 0x11, V4),
            (0x01, 0x11, V4),
        ] {
            check(block(command, family, addresses), None);
        }
        assert_eq!(block_length(&block(0x21, 0, &[0; MAX_BLOCK])), Some(MAX_BLOCK));
        assert_eq!(block_length(&block(0x21, 0, &[0; MAX_BLOCK + 1])), None);
    }
}
