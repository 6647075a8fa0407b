//! Client certificates: requested or required by host name, and as a login (`type = "mtls"`).

use std::sync::Arc;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, NamedGroup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::kit::client::say_garbage;
use crate::kit::client::status;
use crate::kit::client_certificates::{Authority, BOTH, BY_MAIL, CertificateFiles, HOSTS, MtlsGate};
use crate::kit::gate::Gate;
use crate::kit::upstream::RawUpstream;

/// Connects by one name, asks for a host, and returns the status of the answer (0 without one) and the kind of handshake.
pub async fn ask(gate: &Gate, config: &ClientConfig, name: &str, host: &str) -> (u16, Option<HandshakeKind>) {
    let stream = TcpStream::connect(gate.addr).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let Ok(mut tls) = TlsConnector::from(Arc::new(config.clone())).connect(name, stream).await else {
        return (0, None);
    };
    let mut answer = Vec::new();
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    // With TLS 1.3 the client learns only now whether its certificate will do.
    if tls.write_all(request.as_bytes()).await.is_err() || tls.read_to_end(&mut answer).await.is_err() {
        return (0, None);
    }
    (status(&String::from_utf8_lossy(&answer)), tls.get_ref().1.handshake_kind())
}

#[tokio::test]
async fn only_a_certificate_of_the_right_authority_opens() {
    let (files, upstream) = (CertificateFiles::new(), RawUpstream::ok().await);
    let gate = files.gate(&HOSTS, &upstream).await;
    let (staff, guest, stranger) = (files.staff.client(), files.guests.client(), Authority::new("staff").client());
    let expired = files.staff.sign(&["ann"], ExtendedKeyUsagePurpose::ClientAuth, 2021);
    let server = files.staff.sign(&["ann"], ExtendedKeyUsagePurpose::ServerAuth, 2099);
    for version in BOTH {
        for (certificate, open, by_staff, by_guests) in [
            (None, 200, 0, 0),
            (Some(&staff), 200, 200, 0),
            (Some(&guest), 200, 0, 200),
            (Some(&stranger), 200, 0, 0),
            (Some(&expired), 200, 0, 0),
            (Some(&server), 200, 0, 0),
        ] {
            let config = files.shows(certificate, &[version]);
            for (name, expected) in
                [("open.test", open), ("staff.test", by_staff), ("crew.test", by_staff), ("guest.test", by_guests)]
            {
                assert_eq!(ask(&gate, &config, name, name).await.0, expected, "{name} {:?}", version.version);
            }
        }
    }
}

#[tokio::test]
async fn one_client_ca_is_for_all_names() {
    let (files, upstream) = (CertificateFiles::new(), RawUpstream::ok().await);
    let at = files.dir.path().display().to_string();
    for tls in [
        format!("tls = {{ cert = \"{at}/open.test\", key = \"{at}/open.test.key\", client_ca = \"{at}/staff.pem\" }}"),
        files.tls(&HOSTS[..2]).replace("] }", &format!("], client_ca = \"{at}/staff.pem\" }}")),
    ] {
        let gate = Gate::start(&format!("{tls}\n[app]\nurl = \"http://{}\"", upstream.addr)).await;
        let (nobody, ann) = (files.shows(None, &BOTH), files.shows(Some(&files.staff.client()), &BOTH));
        assert_eq!(ask(&gate, &nobody, "open.test", "open.test").await.0, 0);
        assert_eq!(ask(&gate, &ann, "open.test", "open.test").await.0, 200);
        // With one policy there is nothing to disagree on.
        assert_eq!(ask(&gate, &ann, "open.test", "elsewhere.test").await.0, 200);
    }
}

#[tokio::test]
async fn cve_2025_23419_a_host_of_another_policy_is_misdirected() {
    let (files, upstream) = (CertificateFiles::new(), RawUpstream::ok().await);
    let gate = files.gate(&HOSTS, &upstream).await;
    let ann = files.shows(Some(&files.staff.client()), &BOTH);
    for (name, host, expected) in [
        ("open.test", "also.test", 200),
        ("open.test", "ALSO.test.:443", 200),
        ("staff.test", "crew.test", 200),
        ("open.test", "staff.test", 421),
        ("open.test", "STAFF.test.:443", 421),
        ("open.test", "guest.test", 421),
        ("staff.test", "guest.test", 421),
        ("staff.test", "open.test", 421),
        // For a host without a certificate the policy for clients is unknown.
        ("open.test", "elsewhere.test", 421),
        ("open.test", "127.0.0.1", 421),
        ("open.test", "[::1]", 421),
    ] {
        assert_eq!(ask(&gate, &ann, name, host).await.0, expected, "{name} {host}");
    }
    assert_eq!(upstream.seen().len(), 3);
}

#[tokio::test]
async fn coalesced_requests_of_one_policy_go_on_over_http_2() {
    let (files, upstream) = (CertificateFiles::new(), RawUpstream::ok().await);
    let gate = files.gate(&HOSTS, &upstream).await;
    let mut config = files.shows(Some(&files.staff.client()), &BOTH);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(gate.addr).await.unwrap();
    let name = ServerName::try_from("staff.test").unwrap();
    let tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(tls).await.unwrap();
    tokio::spawn(connection);
    for (host, expected) in [("staff.test", 200), ("crew.test", 200), ("open.test", 421), ("crew.test", 200)] {
        let request = http::Request::get(format!("https://{host}/")).body(()).unwrap();
        let answer = sender.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(answer.status(), expected, "{host}");
    }
}

// === Resumption ===

/// Keeps sessions without regard to the name they were made for.
#[derive(Debug)]
struct Careless(ClientSessionMemoryCache);

impl Careless {
    fn name() -> ServerName<'static> {
        ServerName::try_from("any.test").unwrap()
    }
}

/// Lets a client offer each session everywhere.
pub fn careless() -> Resumption {
    Resumption::store(Arc::new(Careless(ClientSessionMemoryCache::new(32))))
}

impl ClientSessionStore for Careless {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(Self::name(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&Self::name())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(Self::name(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&Self::name())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&Self::name());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(Self::name(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&Self::name())
    }
}

#[tokio::test]
async fn cve_2025_23419_a_session_is_not_resumed_under_another_policy() {
    let (files, upstream) = (CertificateFiles::new(), RawUpstream::ok().await);
    let gate = files.gate(&HOSTS, &upstream).await;
    for version in BOTH {
        let mut nobody = files.shows(None, &[version]);
        nobody.resumption = careless();
        assert_eq!(ask(&gate, &nobody, "open.test", "open.test").await, (200, Some(HandshakeKind::Full)));
        // The ticket is good where it was given, and nowhere else.
        assert_eq!(ask(&gate, &nobody, "open.test", "open.test").await, (200, Some(HandshakeKind::Resumed)));
        for name in ["staff.test", "guest.test"] {
            assert_eq!(ask(&gate, &nobody, name, name).await.0, 0, "{name} {:?}", version.version);
            assert_eq!(ask(&gate, &nobody, name, "open.test").await.0, 0, "{name} {:?}", version.version);
            assert_eq!(ask(&gate, &nobody, "open.test", name).await.0, 421, "{name} {:?}", version.version);
        }
        let ann = files.staff.client();
        let mut ann = files.shows(Some(&ann), &[version]);
        ann.resumption = careless();
        assert_eq!(ask(&gate, &ann, "staff.test", "staff.test").await.0, 200);
        assert_eq!(ask(&gate, &ann, "staff.test", "staff.test").await, (200, Some(HandshakeKind::Resumed)));
        assert_eq!(ask(&gate, &ann, "guest.test", "guest.test").await.0, 0, "{:?}", version.version);
    }
}

#[tokio::test]
async fn garbage_is_no_hello_under_several_policies_either() {
    let (files, upstream) = (CertificateFiles::new(), RawUpstream::ok().await);
    let gate = files.gate(&HOSTS, &upstream).await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\xff\xff\x01", b"\0\0\0\0\0\0\0\0"] {
        say_garbage(&gate, garbage).await;
    }
    let nobody = files.shows(None, &BOTH);
    assert_eq!(ask(&gate, &nobody, "open.test", "open.test").await.0, 200);
}

// === Logins ===

#[tokio::test]
async fn a_certificate_logs_in_the_caller_it_names() {
    let files = CertificateFiles::new();
    let door = MtlsGate::open(&files, &HOSTS[..4], BY_MAIL).await;
    let ann = files.staff.client_named(&["email:40@acme.test"]);
    for version in BOTH {
        let config = files.shows(Some(&ann), &[version]);
        assert_eq!(door.ask(&config, "staff.test", "").await, 303, "{:?}", version.version);
        // A host that requests no certificate logs no client in by one.
        assert_eq!(door.ask(&config, "open.test", "").await, 401);
        // Nor does a field make one.
        for field in ["X-SSL-Client-Verify: SUCCESS", "Client-Cert: :MIIB:", "ssl-client-s-dn: CN=40"] {
            assert_eq!(door.ask(&config, "open.test", &format!("{field}\r\n")).await, 401, "{field}");
        }
    }
    assert_eq!(door.minted(), ["40", "40"]);
    let line = door.gate.line(&["audit grant", "method=mtls"]).await;
    assert!(line.contains("subject=40@acme.test"), "{line}");
}

#[tokio::test]
async fn trap_a_certificate_whose_name_has_two_readings_names_no_caller() {
    let files = CertificateFiles::new();
    let door = MtlsGate::open(&files, &HOSTS[..4], BY_MAIL).await;
    for (names, expected) in [
        (&["email:40@acme.test\0.evil.test"][..], 401),
        (&["email:40@acme.test", "email:41@acme.test"], 401),
        (&["email:40@acme.test", "dns:a b"], 401),
        (&["cn:40@acme.test"], 401),
        (&["cn:40@acme.test", "dns:ann.test"], 403),
        (&["email:@acme.test"], 401),
        (&["email:*@acme.test"], 401),
        (&["email:40@acme.test", "email:*@acme.test"], 401),
        (&["email:40@acme.test@evil.test"], 401),
        (&["email:admin@acme.test"], 403),
        (&["email:ADMIN@acme.test"], 403),
        (&["email:40/41@acme.test"], 403),
        (&["dns:*.acme.test"], 401),
        (&["uri:urn:40", "email:40@acme.test"], 303),
        // A wildcard of another kind than the identity's is nothing to this method.
        (&["email:40@acme.test", "dns:*.acme.test"], 303),
    ] {
        let config = files.shows(Some(&files.staff.client_named(names)), &BOTH);
        assert_eq!(door.ask(&config, "staff.test", "").await, expected, "{names:?}");
    }
    assert_eq!(door.minted(), ["40", "40"]);
    door.gate.line(&["audit refusal", "a name in the certificate is a wildcard"]).await;
    door.gate.line(&["audit refusal", "a name in the certificate has characters that are not allowed"]).await;
}

#[tokio::test]
async fn a_resumed_session_still_knows_its_certificate() {
    let files = CertificateFiles::new();
    let door = MtlsGate::open(&files, &HOSTS[..4], BY_MAIL).await;
    for version in BOTH {
        let ann = files.staff.client_named(&["email:40@acme.test"]);
        let mut config = files.shows(Some(&ann), &[version]);
        config.resumption = Resumption::in_memory_sessions(8);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let answered = door.ask_at(&config, "staff.test", "staff.test", "").await;
            assert_eq!(answered, (303, Some(kind)), "{:?}", version.version);
        }
    }
}

#[tokio::test]
async fn one_authority_cannot_vouch_for_names_of_another() {
    let files = CertificateFiles::new();
    let rules = format!(
        r#"
[[auth]]
type = "mtls"
name = "staff"
client_ca = "{0}/staff.pem"
[[auth]]
type = "mtls"
name = "guests"
client_ca = "{0}/guests.pem"
identity = "cn"
[[allow]]
auth = "staff"
pbx = {{ domain = "acme.test", account = "{{email|before:@}}" }}
[[allow]]
auth = "guests"
pbx = {{ domain = "acme.test", account = "41" }}
"#,
        files.dir.path().display()
    );
    let door = MtlsGate::open(&files, &HOSTS, &rules).await;
    let names = &["email:40@acme.test", "cn:Ann"][..];
    let (staff, guest) = (files.staff.client_named(names), files.guests.client_named(names));
    let (staff, guest) = (files.shows(Some(&staff), &BOTH), files.shows(Some(&guest), &BOTH));
    for (config, name, host, expected) in [
        (&staff, "staff.test", "staff.test", 303),
        (&guest, "guest.test", "guest.test", 303),
        (&guest, "guest.test", "staff.test", 421),
        (&guest, "staff.test", "staff.test", 0),
        (&staff, "staff.test", "crew.test", 303),
    ] {
        assert_eq!(door.ask_at(config, name, host, "").await.0, expected, "{name} {host}");
    }
    assert_eq!(door.minted(), ["40", "41", "40"]);
}

#[tokio::test]
async fn only_certificates_that_are_listed_log_in_where_there_is_a_list() {
    let files = CertificateFiles::new();
    let (ann, bob) =
        (files.staff.client_named(&["email:40@acme.test"]), files.staff.client_named(&["email:40@acme.test"]));
    let der = CertificateDer::from_pem_slice(ann.0.as_bytes()).unwrap();
    let print = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der));
    let rules = BY_MAIL.replace("\"mtls\"\n[[allow]]", &format!("\"mtls\"\nfingerprints = [\"{print}\"]\n[[allow]]"));
    let door = MtlsGate::open(&files, &HOSTS[..4], &rules).await;
    for (certificate, expected) in [(&ann, 303), (&bob, 401)] {
        assert_eq!(door.ask(&files.shows(Some(certificate), &BOTH), "staff.test", "").await, expected);
    }
    assert_eq!(door.minted(), ["40"]);
}

#[tokio::test]
async fn a_cookie_beside_a_certificate_is_a_second_credential_unless_cookies_are_ignored() {
    let files = CertificateFiles::new();
    let ann = files.staff.client_named(&["email:40@acme.test"]);
    for (more, expected) in [("", 401), ("ignore_cookies = true", 303)] {
        let rules = BY_MAIL.replace("\"mtls\"\n[[allow]]", &format!("\"mtls\"\n{more}\n[[allow]]"));
        let door = MtlsGate::open(&files, &HOSTS[..4], &rules).await;
        let config = files.shows(Some(&ann), &BOTH);
        let cookie = format!("Cookie: {}\r\n", door.app.log_in("bob"));
        assert_eq!(door.ask(&config, "staff.test", &cookie).await, expected, "{more}");
        assert_eq!(door.ask(&config, "staff.test", "").await, 303);
        assert!(door.minted().iter().all(|account| account == "40"));
        assert!(door.app.requests().is_empty(), "the app is asked about a cookie that does not count");
    }
}

#[tokio::test]
async fn another_page_cannot_use_a_certificate() {
    let files = CertificateFiles::new();
    let door = MtlsGate::open(&files, &HOSTS[..4], BY_MAIL).await;
    let config = files.shows(Some(&files.staff.client_named(&["email:40@acme.test"])), &BOTH);
    let image = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n";
    assert_eq!(door.ask(&config, "staff.test", image).await, 403);
    let click = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";
    assert_eq!(door.ask(&config, "staff.test", click).await, 303);
    assert_eq!(door.minted(), ["40"]);
}

#[tokio::test]
async fn a_certificate_logs_in_over_http_2_and_behind_a_balancer() {
    let files = CertificateFiles::new();
    let rules = format!("{BY_MAIL}\n[server]\naccept_proxy_protocol_from = [\"127.0.0.1\"]");
    let door = MtlsGate::open(&files, &HOSTS[..4], &rules).await;
    let mut config = files.shows(Some(&files.staff.client_named(&["email:40@acme.test"])), &BOTH);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut stream = TcpStream::connect(door.gate.addr).await.unwrap();
    stream.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 443\r\n").await.unwrap();
    let name = ServerName::try_from("staff.test").unwrap();
    let tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(tls).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..2 {
        let request = http::Request::get("https://staff.test/auth/pbx").body(()).unwrap();
        let answer = sender.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(answer.status(), 303);
    }
    for session in door.pbx.sessions() {
        door.gate.canary(session.id);
    }
    assert_eq!(door.minted(), ["40", "40"]);
    door.gate.line(&["audit grant", "client=192.0.2.7", "method=mtls"]).await;
}

#[tokio::test]
async fn a_certificate_that_expires_during_its_connection_no_longer_logs_in() {
    let files = CertificateFiles::new();
    let door = MtlsGate::open(&files, &HOSTS[..4], BY_MAIL).await;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names.push(SanType::Rfc822Name("40@acme.test".try_into().unwrap()));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    let end = std::time::SystemTime::now() + std::time::Duration::from_secs(4);
    params.not_after = end.into();
    let certificate = (params.signed_by(&key, &files.staff.issuer).unwrap().pem(), key.serialize_pem());
    let config = files.shows(Some(&certificate), &BOTH);
    let stream = TcpStream::connect(door.gate.addr).await.unwrap();
    let name = ServerName::try_from("staff.test").unwrap();
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let mut statuses = Vec::new();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while statuses.last() != Some(&401) {
        assert!(tokio::time::Instant::now() < deadline, "it logs in for ever: {statuses:?}");
        tls.write_all(b"GET /auth/pbx HTTP/1.1\r\nHost: staff.test\r\n\r\n").await.unwrap();
        let answer = crate::kit::client::read_head(&mut tls).await;
        let length = answer
            .split_once("content-length: ")
            .map_or(0, |(_, rest)| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
        tls.read_exact(&mut vec![0; length]).await.unwrap();
        statuses.push(status(&answer));
        for session in door.pbx.sessions() {
            door.gate.canary(session.id);
        }
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
    assert_eq!(statuses.first(), Some(&303));
    door.gate.line(&["audit refusal", "the certificate has expired since its connection began"]).await;
}
