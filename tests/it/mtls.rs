//! Certificates that clients show: asked for, required, and by name.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, NamedGroup};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::{Gate, Raw, secret, status};
use crate::tls::say_garbage;

/// Somebody who signs certificates.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Signs a certificate for these names, or for a client, and returns it with its key.
    fn sign(&self, names: &[&str], usage: ExtendedKeyUsagePurpose, end: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.extended_key_usages = vec![usage];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(end, 1, 1);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn client(&self) -> (String, String) {
        self.sign(&["ann"], ExtendedKeyUsagePurpose::ClientAuth, 2099)
    }
}

/// A folder with the certificates of four hosts: `open.test` and `also.test`, where nothing is asked for, `staff.test` and
/// `crew.test`, where a certificate of the first authority is, and `guest.test`, where one of the second is.
struct Files {
    dir: TempDir,
    servers: Authority,
    staff: Authority,
    guests: Authority,
}

const HOSTS: [(&str, &str); 5] = [
    ("open.test", ""),
    ("also.test", ""),
    ("staff.test", "staff.pem"),
    ("crew.test", "staff.pem"),
    ("guest.test", "guests.pem"),
];

impl Files {
    fn new() -> Self {
        let (servers, staff, guests) = (Authority::new("servers"), Authority::new("staff"), Authority::new("guests"));
        let dir = TempDir::new().unwrap();
        secret(&dir, "staff.pem", &staff.pem);
        secret(&dir, "guests.pem", &guests.pem);
        for (name, _) in HOSTS {
            let (chain, key) = servers.sign(&[name], ExtendedKeyUsagePurpose::ServerAuth, 2099);
            secret(&dir, name, &chain);
            secret(&dir, &format!("{name}.key"), &key);
        }
        Self { dir, servers, staff, guests }
    }

    /// The `tls` of all hosts, or of some.
    fn tls(&self, hosts: &[(&str, &str)]) -> String {
        let at = self.dir.path().display();
        let entry = |(name, ca): &(&str, &str)| {
            let ca = if ca.is_empty() { String::new() } else { format!(", client_ca = \"{at}/{ca}\"") };
            format!("{{ cert = \"{at}/{name}\", key = \"{at}/{name}.key\"{ca} }}")
        };
        format!("tls = {{ certificates = [{}] }}", hosts.iter().map(entry).collect::<Vec<_>>().join(", "))
    }

    async fn gate(&self, hosts: &[(&str, &str)], upstream: &Raw) -> Gate {
        Gate::start(&format!("{}\nworkers = 1\n[app]\nurl = \"http://{}\"", self.tls(hosts), upstream.addr)).await
    }

    /// A client that trusts the servers, and shows this certificate.
    fn shows(
        &self,
        certificate: Option<&(String, String)>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.servers.pem.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(callgate::tls::provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        match certificate {
            Some((chain, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
            None => builder.with_no_client_auth(),
        }
    }
}

const BOTH: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// Connects by one name, asks for a host, and returns the status of the answer, 0 if there is none, and how hands were shaken.
async fn ask(gate: &Gate, config: &ClientConfig, name: &str, host: &str) -> (u16, Option<HandshakeKind>) {
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
    let (files, upstream) = (Files::new(), Raw::ok().await);
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
    let (files, upstream) = (Files::new(), Raw::ok().await);
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
    let (files, upstream) = (Files::new(), Raw::ok().await);
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
        // Nobody can tell what is asked of clients for a host without a certificate.
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
    let (files, upstream) = (Files::new(), Raw::ok().await);
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
    let (files, upstream) = (Files::new(), Raw::ok().await);
    let gate = files.gate(&HOSTS, &upstream).await;
    for version in BOTH {
        let mut nobody = files.shows(None, &[version]);
        nobody.resumption = Resumption::store(Arc::new(Careless(ClientSessionMemoryCache::new(32))));
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
        ann.resumption = Resumption::store(Arc::new(Careless(ClientSessionMemoryCache::new(32))));
        assert_eq!(ask(&gate, &ann, "staff.test", "staff.test").await.0, 200);
        assert_eq!(ask(&gate, &ann, "staff.test", "staff.test").await, (200, Some(HandshakeKind::Resumed)));
        assert_eq!(ask(&gate, &ann, "guest.test", "guest.test").await.0, 0, "{:?}", version.version);
    }
}

#[tokio::test]
async fn garbage_is_no_hello_under_several_policies_either() {
    let (files, upstream) = (Files::new(), Raw::ok().await);
    let gate = files.gate(&HOSTS, &upstream).await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\xff\xff\x01", b"\0\0\0\0\0\0\0\0"] {
        say_garbage(&gate, garbage).await;
    }
    let nobody = files.shows(None, &BOTH);
    assert_eq!(ask(&gate, &nobody, "open.test", "open.test").await.0, 200);
}
