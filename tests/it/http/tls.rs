//! TLS toward clients: versions and certificates.

use std::sync::Arc;

use callgate::tls::dev;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::kit::client::say_garbage;
use crate::kit::client::status;
use crate::kit::gate::{Gate, secret};
use crate::kit::upstream::RawUpstream;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";

/// Opens a connection, asks once, and returns what was agreed.
async fn ask(gate: &Gate, config: rustls::ClientConfig, name: &str) -> std::io::Result<rustls::ClientConnection> {
    let stream = TcpStream::connect(gate.addr).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
        tls.write_all(GET).await?;
        let mut answer = String::new();
        tls.read_to_string(&mut answer).await?;
        assert_eq!(status(&answer), 200, "{answer}");
    }
    Ok(tls.into_inner().1)
}

#[tokio::test]
async fn both_versions_and_all_protocols_are_agreed() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for (alpn, expected) in [
        (&[][..], None),
        (&["http/1.1"], Some("http/1.1")),
        (&["h2"], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.0", "http/1.1"], Some("http/1.1")),
        (&["http/1.0"], Some("http/1.0")),
        (&["http/0.9", "http/1.0", "spdy/3"], Some("http/1.0")),
    ] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let mut config = client(&gate, &[version]);
            config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
            let agreed = ask(&gate, config, "app.test").await.unwrap();
            assert_eq!(agreed.protocol_version(), Some(version.version));
            assert_eq!(agreed.alpn_protocol(), expected.map(str::as_bytes), "{alpn:?}");
        }
    }
    let mut config = gate.client_config();
    config.alpn_protocols = vec![b"spdy/3".to_vec()];
    assert!(ask(&gate, config, "app.test").await.is_err());
}

/// A client that trusts the gate and speaks only these versions.
fn client(gate: &Gate, versions: &[&'static rustls::SupportedProtocolVersion]) -> rustls::ClientConfig {
    let roots = gate.roots();
    rustls::ClientConfig::builder_with_provider(callgate::tls::provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[tokio::test]
async fn sessions_are_resumed_from_tickets() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = client(&gate, &[version]);
        let first = ask(&gate, config.clone(), "app.test").await.unwrap();
        assert_ne!(first.handshake_kind(), Some(HandshakeKind::Resumed));
        let second = ask(&gate, config, "app.test").await.unwrap();
        assert_eq!(second.handshake_kind(), Some(HandshakeKind::Resumed), "{:?}", version.version);
    }
    // No early data is offered to any resumed session.
    let mut config = client(&gate, &[&rustls::version::TLS13]);
    config.enable_early_data = true;
    ask(&gate, config.clone(), "app.test").await.unwrap();
    let name = ServerName::try_from("app.test").unwrap();
    let mut again = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    assert!(again.early_data().is_none());
}

#[tokio::test]
async fn post_quantum_key_exchange_is_agreed() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let agreed = ask(&gate, gate.client_config(), "app.test").await.unwrap();
    assert_eq!(agreed.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(agreed.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519MLKEM768);
}

/// A ClientHello of one version (RFC 5246 §7.4.1.2): 0x0303 is TLS 1.2. No extensions but those that TLS 1.2 needs.
fn hello(version: u16) -> Vec<u8> {
    let extensions = b"\0\x0a\0\x04\0\x02\0\x17\0\x0d\0\x04\0\x02\x04\x03";
    let mut body = version.to_be_bytes().to_vec();
    body.extend([7; 32]);
    // No session; ECDHE-ECDSA with AES-GCM, ECDHE-ECDSA and RSA with AES-CBC; no compression.
    body.extend(b"\0\0\x08\xc0\x2b\xc0\x0a\0\x2f\0\xff\x01\0");
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    [b"\x16\x03\x01".as_slice(), &u16::try_from(message.len()).unwrap().to_be_bytes(), &message].concat()
}

#[tokio::test]
async fn older_versions_are_refused() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for (version, kind) in [(0x0303, 0x16), (0x0302, 0x15), (0x0301, 0x15), (0x0300, 0x15)] {
        let mut stream = TcpStream::connect(gate.addr).await.unwrap();
        stream.write_all(&hello(version)).await.unwrap();
        let mut record = [0; 7];
        stream.read_exact(&mut record).await.unwrap();
        // A handshake record goes on; an alert says: fatal, protocol_version (RFC 5246 §7.2).
        assert_eq!(record[0], kind, "{version:x}");
        assert!(kind == 0x16 || record[5..] == [2, 70], "{version:x}: {record:?}");
    }
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for garbage in
        [GET, b"\0\0\0\0\0\0\0\0", b"\x16\x03\x01\xff\xff\x01", b"\x80\x2e\x01\0\x02\0\x15\0\0\0\x10", b"SSH-2.0-x\r\n"]
    {
        say_garbage(&gate, garbage).await;
    }
    gate.get("/").send().await.expect(200);
}

/// Takes any certificate that is signed in one of these ways.
#[derive(Debug)]
struct Knows(Vec<rustls::SignatureScheme>);

impl rustls::client::danger::ServerCertVerifier for Knows {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.verify_tls12_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.clone()
    }
}

#[tokio::test]
async fn of_several_certificates_for_one_name_each_client_gets_one_that_it_can_verify() {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
    use rustls::SignatureScheme as Scheme;

    const EC: &[Scheme] = &[Scheme::ECDSA_NISTP256_SHA256];
    const RSA: &[Scheme] = &[Scheme::RSA_PSS_SHA256, Scheme::RSA_PKCS1_SHA256];
    const ED: &[Scheme] = &[Scheme::ED25519];
    const ALL: &[Scheme] = &[Scheme::RSA_PSS_SHA256, Scheme::ED25519, Scheme::ECDSA_NISTP256_SHA256];
    let dir = tempfile::TempDir::new().unwrap();
    let at = dir.path().display();
    let (mut list, mut chains) = (Vec::new(), Vec::new());
    for (file, names, key) in [
        ("ec", ["a.test", "b.test"], KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()),
        ("rsa", ["b.test", "a.test"], KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()),
        ("ed", ["*.test", "other"], KeyPair::generate_for(&PKCS_ED25519).unwrap()),
    ] {
        let certificate = CertificateParams::new(names.map(str::to_owned)).unwrap().self_signed(&key).unwrap();
        secret(&dir, &format!("{file}.pem"), &certificate.pem());
        secret(&dir, &format!("{file}.key"), &key.serialize_pem());
        list.push(format!("{{ cert = \"{at}/{file}.pem\", key = \"{at}/{file}.key\" }}"));
        chains.push((file, certificate.der().clone()));
    }
    let upstream = RawUpstream::ok().await;
    let list = list.join(", ");
    let gate =
        Gate::start(&format!("tls = {{ certificates = [{list}] }}\n[app]\nurl = \"http://{}\"\n", upstream.addr)).await;
    for (name, schemes, sni, expected) in [
        ("a.test", EC, true, Some("ec")),
        ("a.test", RSA, true, Some("rsa")),
        ("B.test", RSA, true, Some("rsa")),
        ("b.test.", RSA, true, Some("rsa")),
        ("a.test", ED, true, Some("ed")),
        ("a.test", ALL, true, Some("ec")),
        ("c.test", ALL, true, Some("ed")),
        ("c.test", RSA, true, None),
        ("a.test", EC, false, Some("ec")),
        ("a.test", RSA, false, Some("rsa")),
        ("unknown.example", RSA, true, Some("rsa")),
        ("unknown.example", ED, true, None),
    ] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let mut config = client(&gate, &[version]);
            config.dangerous().set_certificate_verifier(Arc::new(Knows(schemes.to_vec())));
            config.enable_sni = sni;
            let agreed = ask(&gate, config, name).await.ok();
            let shown = agreed.as_ref().and_then(|agreed| agreed.peer_certificates()?.first());
            let shown = shown.and_then(|shown| chains.iter().find(|(_, known)| known == shown)).map(|known| known.0);
            assert_eq!(shown, expected, "{name} {schemes:?} {sni} {:?}", version.version);
        }
    }
}

#[tokio::test]
async fn certificates_are_chosen_by_name() {
    let dir = tempfile::TempDir::new().unwrap();
    let sets = [("one", ["one.test", "*.wild.test"]), ("two", ["two.test", "deep.wild.test"])];
    let mut roots = rustls::RootCertStore::empty();
    for (file, names) in sets {
        let certificate = dev::certificate(&names).unwrap();
        secret(&dir, &format!("{file}.pem"), &certificate.chain);
        secret(&dir, &format!("{file}.key"), &certificate.key);
        roots.add(CertificateDer::from_pem_slice(certificate.ca.as_bytes()).unwrap()).unwrap();
    }
    let at = dir.path().display();
    let text = format!(
        "listen = \"127.0.0.1:0\"\ntls = {{ certificates = [{{ cert = \"{at}/one.pem\", key = \"{at}/one.key\" }}, \
         {{ cert = \"{at}/two.pem\", key = \"{at}/two.key\" }}] }}\n[app]\nurl = \"http://127.0.0.1:9\""
    );
    let config = callgate::config::parse(&text, dir.path(), &|_: &str| None).unwrap();
    let logs = callgate::observe::Logs::discarding(crate::kit::gate::FORMAT).unwrap();
    let server = callgate::server::Server::start(config, logs).unwrap();
    for (name, trusted) in [
        ("one.test", true),
        ("TWO.test", true),
        ("two.test", true),
        ("x.wild.test", true),
        ("deep.wild.test", true),
        ("a.b.wild.test", false),
        ("wild.test", false),
        // The first certificate answers, and the client sees that it is another's.
        ("unknown.test", false),
        ("127.0.0.1", false),
    ] {
        let config = rustls::ClientConfig::builder_with_provider(callgate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        let stream = TcpStream::connect(server.addresses()[0]).await.unwrap();
        let server_name = ServerName::try_from(name.to_owned()).unwrap();
        let connected = TlsConnector::from(Arc::new(config)).connect(server_name, stream).await;
        assert_eq!(connected.is_ok(), trusted, "{name}: {:?}", connected.err());
        if let Err(error) = connected {
            assert!(error.to_string().contains("not valid for name"), "{name}: {error}");
        }
    }
    server.drain();
    server.join().await;
}
