use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

// === Hellos ===

fn vector16(content: &[u8]) -> Vec<u8> {
    [&u16::try_from(content.len()).unwrap().to_be_bytes()[..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector16(content)].concat()
}

/// A list of names with their kinds.
fn names(names: &[(u8, &[u8])]) -> Vec<u8> {
    let entries = names.iter().flat_map(|(kind, name)| [&[*kind][..], &vector16(name)].concat());
    vector16(&entries.collect::<Vec<_>>())
}

fn server_name(name: &str) -> Vec<u8> {
    extension(SERVER_NAME, &names(&[(HOST_NAME, name.as_bytes())]))
}

/// A hello of TLS 1.0 with the legacy ciphers of an old phone; without extensions if there are none.
fn body(extensions: &[Vec<u8>]) -> Vec<u8> {
    let fixed = [&[3, 1][..], &[7; 32], &[0], &[0, 4, 0, 5, 0, 10], &[1, 0]].concat();
    if extensions.is_empty() { fixed } else { [fixed, vector16(&extensions.concat())].concat() }
}

fn handshake(body: &[u8]) -> Vec<u8> {
    [&[CLIENT_HELLO, 0][..], &vector16(body)].concat()
}

/// Splits a message into records of this many bytes.
fn records(message: &[u8], length: usize, version: [u8; 2]) -> Vec<u8> {
    let record = |part: &[u8]| [&[HANDSHAKE, version[0], version[1]][..], &vector16(part)].concat();
    message.chunks(length).flat_map(record).collect()
}

fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    records(&handshake(&body(extensions)), MAX_FRAGMENT, [3, 1])
}

/// The hello of a current client, with TLS 1.3, key shares and ALPN.
fn modern_hello(name: &str) -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn read(bytes: &[u8]) -> NamedHost {
    HelloReader::default().push(bytes)
}

fn phones() -> NamedHost {
    NamedHost::Name("phones.test".to_owned())
}

#[track_caller]
fn check(extensions: &[Vec<u8>], expected: NamedHost) {
    assert_eq!(read(&hello(extensions)), expected, "{extensions:?}");
}

// === What is read ===

#[test]
fn hellos_of_old_and_new_clients_name_their_host() {
    check(&[server_name("phones.test")], phones());
    assert_eq!(read(&modern_hello("phones.test")), phones());
    for version in [[3, 0], [3, 1], [3, 3], [3, 4], [3, 255]] {
        let message = handshake(&body(&[server_name("phones.test")]));
        assert_eq!(read(&records(&message, MAX_FRAGMENT, version)), phones(), "{version:?}");
    }
}

#[test]
fn extensions_stand_in_any_order_and_may_be_unknown() {
    let (grease, ech) = (extension(0x3a3a, &[0]), extension(0xfe0d, &[9; 200]));
    let alpn = extension(16, b"\0\x03\x02h2");
    check(&[grease.clone(), server_name("phones.test"), ech.clone()], phones());
    check(&[server_name("phones.test"), alpn.clone(), grease.clone()], phones());
    check(&[ech, alpn, grease, extension(0xffff, &[]), server_name("phones.test")], phones());
}

#[test]
fn a_hello_without_a_valid_name_names_no_host() {
    check(&[], NamedHost::None);
    check(&[extension(16, b"\0\x03\x02h2")], NamedHost::None);
    for name in
        ["", ".", "phones..test", ".phones.test", "phones.test..", "a b.phones.test", "-.test", "phönes.test", "*"]
    {
        check(&[server_name(name)], NamedHost::None);
    }
    for name in [&b"phones.test\0"[..], b"\xff.phones.test", b"phones.test\n", b"phones.test:443", b"\0"] {
        check(&[extension(SERVER_NAME, &names(&[(HOST_NAME, name)]))], NamedHost::None);
    }
    check(&[extension(SERVER_NAME, &names(&[(1, b"phones.test")]))], NamedHost::None);
    let long = format!("{}.test", vec!["a"; 200].join("."));
    check(&[server_name(&long)], NamedHost::None);
}

#[test]
fn a_name_has_one_spelling() {
    for name in ["phones.test", "PHONES.Test", "phones.test."] {
        check(&[server_name(name)], phones());
    }
    check(&[server_name("my_phones.test")], NamedHost::Name("my_phones.test".to_owned()));
    check(&[server_name("192.0.2.1")], NamedHost::Name("192.0.2.1".to_owned()));
}

#[test]
fn two_names_are_refused() {
    let two = names(&[(HOST_NAME, b"phones.test"), (HOST_NAME, b"app.test")]);
    check(&[extension(SERVER_NAME, &two)], NamedHost::Several);
    check(&[extension(SERVER_NAME, &names(&[(1, b"x"), (HOST_NAME, b"phones.test")]))], NamedHost::Several);
    check(&[server_name("phones.test"), server_name("phones.test")], NamedHost::Several);
    check(&[server_name("phones.test"), extension(16, &[0]), extension(SERVER_NAME, &[])], NamedHost::Several);
}

#[test]
fn a_malformed_hello_names_no_host() {
    let list = names(&[(HOST_NAME, b"phones.test")]);
    for content in [&[][..], &[0], &[0, 0], &list[..list.len() - 1], &[&list[..], &[0]].concat(), &[0, 2, 0, 0]] {
        check(&[extension(SERVER_NAME, content)], NamedHost::None);
    }
    let whole = body(&[server_name("phones.test")]);
    // No cut and no surplus keeps the lengths right. At 43 bytes the extensions are gone, and the hello is whole.
    for end in 0..whole.len() {
        let cut = records(&handshake(&whole[..end]), MAX_FRAGMENT, [3, 1]);
        assert_eq!(read(&cut), NamedHost::None, "cut at {end}");
    }
    let more = [&whole[..], &[0]].concat();
    assert_eq!(read(&records(&handshake(&more), MAX_FRAGMENT, [3, 1])), NamedHost::None);
    // Session id, cipher suites and compression methods of forbidden lengths.
    for (at, byte) in [(34, 33), (36, 3), (36, 0), (41, 0)] {
        let mut wrong = whole.clone();
        wrong[at] = byte;
        assert_eq!(read(&records(&handshake(&wrong), MAX_FRAGMENT, [3, 1])), NamedHost::None, "{at}");
    }
}

#[test]
fn what_is_no_hello_is_known_by_its_first_bytes() {
    for bytes in [
        &b"G"[..],
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0",
        b"\x80\x2e\x01\x00\x02",
        b"\x80\x2e\x01\x03\x01",
        b"PROXY TCP4",
        b"\x15\x03\x01\0\x02\x02\x28",
        b"\x14\x03\x03\0\x01\x01",
        b"\x17\x03\x03",
        b"\x16\x02",
        b"\x16\xfe\xfd",
        b"\x16\x03\x01\0\0",
        b"\x16\x03\x01\x40\x01",
        // A ServerHello, and a hello that is longer than any.
        b"\x16\x03\x01\0\x01\x02",
        b"\x16\x03\x01\0\x04\x01\x00\xff\xff",
        b"\x16\x03\x01\0\x04\x01\x01\x00\x00",
    ] {
        assert_eq!(read(bytes), NamedHost::None, "{bytes:?}");
    }
}

// === How it arrives ===

#[test]
fn every_beginning_of_a_hello_needs_more_bytes() {
    for whole in [hello(&[server_name("phones.test")]), modern_hello("phones.test")] {
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]), NamedHost::Incomplete, "{end} of {}", whole.len());
        }
        assert_eq!(read(&whole), phones());
    }
}

#[test]
fn packets_and_records_of_every_size_read_the_same() {
    let messages = [handshake(&body(&[server_name("phones.test")])), modern_hello("phones.test")[5..].to_vec()];
    for message in messages {
        for length in [1, 2, 3, 4, 5, 7, 16, 100, message.len()] {
            let bytes = [records(&message, length, [3, 3]), b"behind".to_vec()].concat();
            for packet in [1, 2, 3, 5, 6, 11, 536, bytes.len()] {
                let mut reader = HelloReader::default();
                let named =
                    bytes.chunks(packet).map(|part| reader.push(part)).find(|named| *named != NamedHost::Incomplete);
                assert_eq!(named, Some(phones()), "records of {length}, packets of {packet}");
                assert!(bytes.starts_with(&reader.into_bytes()));
            }
        }
    }
}

#[test]
fn the_bytes_of_a_hello_without_end_are_bounded() {
    let endless = records(&[&[CLIENT_HELLO, 0, 0x7f, 0xff][..], &[0; 1 << 16]].concat(), 1, [3, 1]);
    let mut reader = HelloReader::default();
    let ended = endless.chunks(100).position(|part| reader.push(part) == NamedHost::None);
    assert_eq!(ended, Some(MAX_HELLO / 100));
    assert_eq!(read(&endless), NamedHost::None);
}

#[test]
fn no_bytes_make_the_reader_panic() {
    // Each byte of a hello changed in turn, to many values: lengths point everywhere.
    let whole = [hello(&[server_name("phones.test"), extension(16, b"\0\x03\x02h2")]), vec![0; 64]].concat();
    let mut named = 0;
    for at in 0..whole.len() {
        for byte in [0, 1, 2, 3, 0x16, 0x40, 0x7f, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[at] = byte;
            named += usize::from(matches!(read(&changed), NamedHost::Name(_)));
        }
    }
    assert!(named > 100, "{named}");
}
