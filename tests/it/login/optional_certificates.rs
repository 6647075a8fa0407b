//! `client_auth = "optional"`: a client may show no certificate, but not a bad one.

use std::sync::Arc;

use rcgen::{ExtendedKeyUsagePurpose, KeyPair};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, HandshakeKind, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::mtls::{ask, careless};
use crate::kit::client_certificates::{Authority, BOTH, CertificateFiles, LOBBY, MtlsGate};
use crate::kit::stage::until;
use crate::telephony::socket::{PATH, stands};

/// The certificate decides where one is shown, and the app's cookie where none is.
const EITHER: &str = r#"
socket = "/auth/pbx/socket"
[[auth]]
type = "mtls"
ignore_cookies = true
[[allow]]
auth = "mtls"
pbx = { domain = "acme.test", account = "{email|before:@}" }
[[allow]]
auth = "app"
pbx = { domain = "acme.test", account = "{ext}" }
"#;

fn ann(files: &CertificateFiles) -> (String, String) {
    files.staff.client_named(&["email:40@acme.test"])
}

async fn connect(door: &MtlsGate, config: &ClientConfig, name: &str) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(door.gate.addr).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config.clone())).connect(name, stream).await.unwrap()
}

// === The handshake ===

/// Shows a certificate, and proves it with the key of another.
#[derive(Debug)]
struct Thief(Arc<CertifiedKey>);

impl ResolvesClientCert for Thief {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn no_certificate_is_served_where_it_is_optional_and_a_bad_one_never() {
    let files = CertificateFiles::new();
    let door = MtlsGate::open(&files, &LOBBY, EITHER).await;
    let good = files.staff.client();
    let guest = files.guests.client();
    let stranger = Authority::new("staff").client();
    let expired = files.staff.sign(&["ann"], ExtendedKeyUsagePurpose::ClientAuth, 2021);
    let server = files.staff.sign(&["ann"], ExtendedKeyUsagePurpose::ServerAuth, 2099);
    let key = PrivateKeyDer::from_pem_slice(KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap();
    let key = callgate::tls::provider().key_provider.load_private_key(key).unwrap();
    let copied = vec![CertificateDer::from_pem_slice(good.0.as_bytes()).unwrap()];
    let thief = Arc::new(Thief(Arc::new(CertifiedKey::new(copied, key))));
    for version in BOTH {
        for (certificate, lobby, staff) in [
            (None, 200, 0),
            (Some(&good), 200, 200),
            (Some(&guest), 0, 0),
            (Some(&stranger), 0, 0),
            (Some(&expired), 0, 0),
            (Some(&server), 0, 0),
        ] {
            let config = files.shows(certificate, &[version]);
            for (name, expected) in [("lobby.test", lobby), ("foyer.test", lobby), ("staff.test", staff)] {
                assert_eq!(ask(&door.gate, &config, name, name).await.0, expected, "{name} {:?}", version.version);
            }
        }
        let mut config = files.shows(None, &[version]);
        config.client_auth_cert_resolver = Arc::clone(&thief) as Arc<dyn ResolvesClientCert>;
        assert_eq!(ask(&door.gate, &config, "lobby.test", "lobby.test").await.0, 0, "{:?}", version.version);
    }
}

// === Other hosts ===

#[tokio::test]
async fn cve_2025_23419_a_connection_where_it_is_optional_is_for_no_host_that_requires_one() {
    let files = CertificateFiles::new();
    let door = MtlsGate::open(&files, &LOBBY, EITHER).await;
    let (none, ann) = (files.shows(None, &BOTH), files.shows(Some(&ann(&files)), &BOTH));
    for (name, host, expected) in [
        ("lobby.test", "foyer.test", 200),
        ("lobby.test", "staff.test", 421),
        ("lobby.test", "STAFF.test.:443", 421),
        ("lobby.test", "open.test", 421),
        ("open.test", "lobby.test", 421),
        ("lobby.test", "elsewhere.test", 421),
    ] {
        for config in [&none, &ann] {
            assert_eq!(ask(&door.gate, config, name, host).await.0, expected, "{name} {host}");
        }
    }
    // A certificate is no help either: the connection was made under the other policy.
    assert_eq!(ask(&door.gate, &ann, "staff.test", "lobby.test").await.0, 421);
    for config in [&none, &ann] {
        let mut config = config.clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tls = connect(&door, &config, "lobby.test").await;
        let (mut sender, connection) = h2::client::handshake(tls).await.unwrap();
        tokio::spawn(connection);
        for (host, expected) in [("lobby.test", 200), ("staff.test", 421), ("open.test", 421), ("foyer.test", 200)] {
            let request = http::Request::get(format!("https://{host}/")).body(()).unwrap();
            let answer = sender.send_request(request, true).unwrap().0.await.unwrap();
            assert_eq!(answer.status(), expected, "{host}");
        }
    }
}

#[tokio::test]
async fn cve_2025_23419_a_session_without_a_certificate_is_resumed_only_where_it_is_optional() {
    let files = CertificateFiles::new();
    let door = MtlsGate::open(&files, &LOBBY, EITHER).await;
    for version in BOTH {
        let mut none = files.shows(None, &[version]);
        none.resumption = careless();
        none.enable_early_data = true;
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let answered = ask(&door.gate, &none, "lobby.test", "lobby.test").await;
            assert_eq!(answered, (200, Some(kind)), "{:?}", version.version);
        }
        assert_eq!(ask(&door.gate, &none, "staff.test", "staff.test").await.0, 0, "{:?}", version.version);
        assert_eq!(ask(&door.gate, &none, "staff.test", "lobby.test").await.0, 0, "{:?}", version.version);
        // A resumed session proves what the first handshake did: nothing, or the certificate.
        assert_eq!(door.ask(&none, "lobby.test", "").await, 401);
        let mut ann = files.shows(Some(&ann(&files)), &[version]);
        ann.resumption = careless();
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let answered = door.ask_at(&ann, "lobby.test", "lobby.test", "").await;
            assert_eq!(answered, (303, Some(kind)), "{:?}", version.version);
        }
        let kind = door.ask_at(&ann, "staff.test", "staff.test", "").await;
        assert_eq!(kind, (303, Some(HandshakeKind::Full)), "{:?}", version.version);
    }
}

#[tokio::test]
async fn a_session_is_not_resumed_once_a_reload_requires_a_certificate() {
    let files = CertificateFiles::new();
    let mut door = MtlsGate::open(&files, &LOBBY[2..3], EITHER).await;
    let with_resumption = |mut config: ClientConfig| {
        config.resumption = careless();
        config
    };
    let clients = BOTH.map(|version| {
        let show = |certificate| with_resumption(files.shows(certificate, &[version]));
        (show(None), show(Some(&ann(&files))))
    });
    for (none, ann) in &clients {
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            assert_eq!(ask(&door.gate, none, "lobby.test", "lobby.test").await, (200, Some(kind)));
            assert_eq!(ask(&door.gate, ann, "lobby.test", "lobby.test").await, (200, Some(kind)));
        }
    }
    let text = door.gate.text.replace("\"optional\"", "\"required\"");
    door.gate.reload(&text).await.unwrap();
    for (none, ann) in &clients {
        assert_eq!(ask(&door.gate, none, "lobby.test", "lobby.test").await.0, 0);
        assert_eq!(ask(&door.gate, ann, "lobby.test", "lobby.test").await, (200, Some(HandshakeKind::Full)));
    }
}

// === Logins ===

#[tokio::test]
async fn a_certificate_decides_where_one_is_shown_and_a_cookie_where_none_is() {
    let files = CertificateFiles::new();
    let door = MtlsGate::open(&files, &LOBBY, EITHER).await;
    let cookie = format!("Cookie: {}\r\n", door.app.log_in("bob"));
    for version in BOTH {
        let (none, ann) = (files.shows(None, &[version]), files.shows(Some(&ann(&files)), &[version]));
        let (asked, minted) = (door.app.requests().len(), door.minted().len());
        assert_eq!(door.ask(&none, "lobby.test", "").await, 401);
        for field in ["X-SSL-Client-Verify: SUCCESS", "Client-Cert: :MIIB:", "ssl-client-s-dn: CN=40"] {
            assert_eq!(door.ask(&none, "lobby.test", &format!("{field}\r\n")).await, 401, "{field}");
        }
        assert_eq!(door.ask(&ann, "lobby.test", "").await, 303);
        assert_eq!(door.ask(&ann, "lobby.test", &cookie).await, 303);
        assert_eq!(door.app.requests().len(), asked, "the app is asked about a cookie that does not count");
        assert_eq!(door.ask(&none, "lobby.test", &cookie).await, 303);
        assert_eq!(door.minted()[minted..], ["40", "40", "41"]);
        // Where one is required, the cookie opens nothing.
        assert_eq!(door.ask(&none, "staff.test", &cookie).await, 0);
    }
    door.gate.line(&["audit grant", "method=mtls"]).await;
    door.gate.line(&["audit grant", "method=app"]).await;
}

#[tokio::test]
async fn a_certificate_that_is_refused_is_not_replaced_by_a_cookie() {
    let files = CertificateFiles::new();
    let listed = format!("fingerprints = [\"{}\"]\nignore_cookies", "00".repeat(32));
    let door = MtlsGate::open(&files, &LOBBY, &EITHER.replace("ignore_cookies", &listed)).await;
    let (none, ann) = (files.shows(None, &BOTH), files.shows(Some(&ann(&files)), &BOTH));
    let cookie = format!("Cookie: {}\r\n", door.app.log_in("bob"));
    assert_eq!(door.ask(&ann, "lobby.test", &cookie).await, 401);
    assert_eq!((door.app.requests().len(), door.minted().len()), (0, 0));
    assert_eq!(door.ask(&none, "lobby.test", &cookie).await, 303);
}

#[tokio::test]
async fn both_are_refused_where_cookies_are_not_ignored() {
    let files = CertificateFiles::new();
    let door = MtlsGate::open(&files, &LOBBY, &EITHER.replace("= true", "= false")).await;
    let (none, ann) = (files.shows(None, &BOTH), files.shows(Some(&ann(&files)), &BOTH));
    let cookie = format!("Cookie: {}\r\n", door.app.log_in("bob"));
    for (config, fields, expected) in [(&ann, &*cookie, 401), (&ann, "", 303), (&none, &*cookie, 303)] {
        assert_eq!(door.ask(config, "lobby.test", fields).await, expected);
    }
    assert_eq!(door.minted(), ["40", "41"]);
    door.gate.line(&["audit refusal", "more than one credential"]).await;
}

#[tokio::test]
async fn a_websocket_without_a_certificate_opens_with_the_cookie() {
    let files = CertificateFiles::new();
    let door = MtlsGate::open(&files, &LOBBY, EITHER).await;
    let (none, ann) = (files.shows(None, &BOTH), files.shows(Some(&ann(&files)), &BOTH));
    let cookie = door.app.log_in("bob");
    let open = async |config: &ClientConfig, cookie: Option<&str>| {
        let tls = connect(&door, config, "lobby.test").await;
        let mut request = format!("wss://lobby.test{PATH}").into_client_request().unwrap();
        request.headers_mut().insert("origin", "https://lobby.test".parse().unwrap());
        if let Some(cookie) = cookie {
            request.headers_mut().insert("cookie", cookie.parse().unwrap());
        }
        match tokio_tungstenite::client_async(request, tls).await {
            Ok((mut socket, _)) => {
                stands(&mut socket).await;
                for session in door.pbx.sessions() {
                    door.gate.canary(session.id);
                }
                200
            }
            Err(Error::Http(answer)) => answer.status().as_u16(),
            Err(error) => panic!("{error}"),
        }
    };
    // The page itself, where the browser shows the certificate.
    assert_eq!(ask(&door.gate, &ann, "lobby.test", "lobby.test").await.0, 200);
    assert_eq!(open(&none, Some(&cookie)).await, 200);
    assert_eq!(open(&none, None).await, 401);
    // Another browser shows it here too.
    assert_eq!(open(&ann, Some(&cookie)).await, 200);
    assert_eq!(open(&ann, None).await, 200);
    assert_eq!(door.minted(), ["41", "40", "40"]);
    until("the end of every session", || door.pbx.sessions().is_empty()).await;
}

#[tokio::test]
async fn the_app_learns_of_no_certificate_from_fields() {
    let files = CertificateFiles::new();
    let door = MtlsGate::open(&files, &LOBBY, EITHER).await;
    let ann = ann(&files);
    const SENT: [&str; 4] = ["x-ssl-client-verify", "x-client-cert", "client-cert", "ssl-client-s-dn"];
    for certificate in [None, Some(&ann)] {
        let mut config = files.shows(certificate, &BOTH);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (mut sender, connection) =
            h2::client::handshake(connect(&door, &config, "lobby.test").await).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get("https://lobby.test/");
        let request = SENT.iter().fold(request, |request, name| request.header(*name, "SUCCESS")).body(()).unwrap();
        let answer = sender.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(answer.status(), 200);
        let seen = door.app.requests().pop().unwrap();
        assert!(!format!("{seen:?}").to_lowercase().contains("success"), "{seen:?}");
    }
}
