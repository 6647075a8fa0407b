//! TLS toward upstreams: trust by an authority, a name or a pinned key.

use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use callgate::tls::dev;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PublicKeyData, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::kit::client::read_head;
use crate::kit::commands::run;
use crate::kit::gate::{Gate, secret};

/// A key and the certificates that a server shows for it.
struct Chain {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Chain {
    /// As an authority vouches for it, which is returned, too.
    fn vouched_for(names: &[&str]) -> (Self, String) {
        let certificate = dev::certificate(names).unwrap();
        let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).map(Result::unwrap).collect();
        (Self { chain, key: KeyPair::from_pem(&certificate.key).unwrap() }, certificate.ca)
    }

    /// As `openssl req -x509` makes it for another name, and expired: it says that it is an authority.
    fn self_signed(key: KeyPair) -> Self {
        let mut params = CertificateParams::new(vec!["elsewhere.test".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        Self { chain: vec![certificate.der().clone()], key }
    }

    /// The pin, from the key itself rather than from a certificate.
    fn pin(&self) -> String {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.key.subject_public_key_info());
        BASE64_STANDARD.encode(digest)
    }

    /// Serves this; returns the port and the names that were asked for.
    async fn serve(&self) -> (u16, Arc<Mutex<Vec<Option<String>>>>) {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(callgate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let kept = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, kept) = (acceptor.clone(), kept.clone());
                tokio::spawn(async move {
                    let Ok(mut tls) = acceptor.accept(stream).await else { return };
                    kept.lock().unwrap().push(tls.get_ref().1.server_name().map(str::to_owned));
                    if read_head(&mut tls).await.is_empty() {
                        return;
                    }
                    tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                    tls.shutdown().await.unwrap();
                });
            }
        });
        (port, asked)
    }
}

async fn gate(port: u16, lines: &str) -> Gate {
    Gate::start(&format!("workers = 1\n[app]\nurl = \"https://127.0.0.1:{port}\"\n{lines}")).await
}

#[tokio::test]
async fn upstreams_are_verified_as_configured() {
    let (shown, ca) = Chain::vouched_for(&["localhost", "inner.test"]);
    let (port, asked) = shown.serve().await;
    let (other_port, _) = Chain::vouched_for(&["other.test"]).0.serve().await;
    let dir = TempDir::new().unwrap();
    secret(&dir, "ca.pem", &ca);
    let with_ca = format!("ca = \"{}\"", dir.path().join("ca.pem").display());
    for (url, lines, expected, sni) in [
        (format!("https://localhost:{port}"), with_ca.clone(), 200, Some("localhost")),
        (
            format!("https://127.0.0.1:{port}"),
            format!("{with_ca}\nserver_name = \"inner.test\""),
            200,
            Some("inner.test"),
        ),
        (format!("https://127.0.0.1:{port}"), with_ca.clone(), 502, None),
        (format!("https://localhost:{port}"), format!("{with_ca}\nserver_name = \"wrong.test\""), 502, None),
        (format!("https://localhost:{port}"), String::new(), 502, None),
        (format!("https://localhost:{other_port}"), with_ca, 502, None),
        (format!("https://localhost:{port}"), "insecure_skip_verify = true".into(), 200, Some("localhost")),
    ] {
        asked.lock().unwrap().clear();
        let gate = Gate::start(&format!("[app]\nurl = \"{url}\"\n{lines}")).await;
        gate.get("/").send().await.expect(expected);
        if let Some(sni) = sni {
            assert_eq!(asked.lock().unwrap().pop().unwrap().as_deref(), Some(sni), "{url} {lines}");
        }
    }
}

#[tokio::test]
async fn a_pin_alone_is_enough_and_nothing_else_matters() {
    let shown = Chain::self_signed(KeyPair::generate().unwrap());
    let (port, asked) = shown.serve().await;
    let pin = shown.pin();
    for lines in [
        format!("pin = \"{pin}\""),
        format!("pin = \"sha256/{pin}\""),
        format!("pin = [\"{}\", \"sha256/{pin}\"]", BASE64_STANDARD.encode([7; 32])),
    ] {
        gate(port, &lines).await.get("/").send().await.expect(200);
        // An address is no name to ask for (RFC 6066 §3).
        assert_eq!(asked.lock().unwrap().pop().unwrap(), None);
    }
    let named = format!("pin = \"{pin}\"\nserver_name = \"tenant.test\"");
    gate(port, &named).await.get("/").send().await.expect(200);
    assert_eq!(asked.lock().unwrap().pop().unwrap().as_deref(), Some("tenant.test"));
}

#[tokio::test]
async fn another_key_is_a_502_and_the_event_names_it() {
    let shown = Chain::self_signed(KeyPair::generate().unwrap());
    let (port, asked) = shown.serve().await;
    let gate = gate(port, &format!("pin = \"{}\"", BASE64_STANDARD.encode([7; 32]))).await;
    let answer = gate.get("/").send().await.expect(502);
    let found = format!("sha256/{}", shown.pin());
    assert!(!answer.text().contains(&shown.pin()), "{answer:?}");
    let told = gate.events();
    let line = told.lines().find(|line| line.contains(&found)).expect("an event names the key");
    assert!(line.contains("WARN") && line.contains("invalid peer certificate"), "{line}");
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_pin_and_a_ca_must_both_be_right() {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let vouched = Chain { chain: vec![leaf.der().clone()], key };
    // The right key in a certificate that no authority signed.
    let same_key = KeyPair::try_from(vouched.key.serialize_der()).unwrap();
    let unvouched = Chain::self_signed(same_key);
    let dir = TempDir::new().unwrap();
    secret(&dir, "ca.pem", &ca_certificate.pem());
    let ca = format!("ca = \"{}\"", dir.path().join("ca.pem").display());
    let (right, wrong) = (vouched.pin(), BASE64_STANDARD.encode([7; 32]));
    let ((vouched, _), (unvouched, _)) = (vouched.serve().await, unvouched.serve().await);
    for (port, pin, expected) in
        [(vouched, &right, 200), (vouched, &wrong, 502), (unvouched, &right, 502), (unvouched, &wrong, 502)]
    {
        gate(port, &format!("{ca}\npin = \"{pin}\"")).await.get("/").send().await.expect(expected);
    }
}

#[tokio::test]
async fn a_pin_does_not_replace_the_proof_that_the_key_is_there() {
    let shown = Chain::self_signed(KeyPair::generate().unwrap());
    let pin = shown.pin();
    // Anybody can show the certificate of another.
    let thief = Chain { chain: shown.chain.clone(), key: KeyPair::generate().unwrap() };
    let signer = callgate::tls::provider()
        .key_provider
        .load_private_key(PrivateKeyDer::try_from(thief.key.serialize_der()).unwrap())
        .unwrap();
    let certified = Arc::new(rustls::sign::CertifiedKey::new(thief.chain, signer));
    let config = rustls::ServerConfig::builder_with_provider(callgate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepting = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        acceptor.accept(stream).await.is_ok()
    });
    gate(port, &format!("pin = \"{pin}\"")).await.get("/").send().await.expect(502);
    assert!(!accepting.await.unwrap());
}

/// Says what `callgate check --online` says of an upstream, and whether it is content.
async fn checked(port: u16, lines: &str) -> (String, bool) {
    let dir = TempDir::new().unwrap();
    let certificate = dev::certificate(&["app.test"]).unwrap();
    secret(&dir, "fullchain.pem", &certificate.chain);
    secret(&dir, "privkey.pem", &certificate.key);
    let tls = "tls = { cert = \"fullchain.pem\", key = \"privkey.pem\" }";
    let text = format!("listen = \"127.0.0.1:0\"\n{tls}\n[app]\nurl = \"https://127.0.0.1:{port}\"\n{lines}\n");
    secret(&dir, "proxy.toml", &text);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_callgate"));
    command.args(["check", "--online", "--config"]).arg(dir.path().join("proxy.toml"));
    let output = run(command).await;
    let told = [output.stdout, output.stderr].concat();
    (String::from_utf8(told).unwrap(), output.status.success())
}

#[tokio::test]
async fn an_online_check_prints_the_pin_to_copy() {
    let shown = Chain::self_signed(KeyPair::generate().unwrap());
    let (port, _) = shown.serve().await;
    let pin = format!("pin = \"sha256/{}\"", shown.pin());
    let line = |told: &str| told.lines().find(|line| line.ends_with(&format!(", {pin}"))).map(str::to_owned);
    let (told, content) = checked(port, "").await;
    assert!(!content && line(&told).is_some_and(|line| line.contains("invalid peer certificate")), "{told}");
    let (told, content) = checked(port, &pin).await;
    assert!(content && line(&told).is_some_and(|line| line.contains("connected, TLS 1.3")), "{told}");
}
