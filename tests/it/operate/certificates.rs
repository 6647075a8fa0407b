//! Certificates that are old, and files of certificates that cannot be read: they stop nothing but their own names.

use std::sync::Arc;

use callgate::config;
use callgate::observe::Logs;
use callgate::server::Server;
use callgate::tls::dev;
use rcgen::ExtendedKeyUsagePurpose;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::kit::client::{read_head, status};
use crate::kit::client_certificates::Authority;
use crate::kit::commands::{Running, callgate, run, text};
use crate::kit::gate::{self, FORMAT, secret};
use crate::kit::stage::until;
use crate::kit::upstream::RawUpstream;

/// A folder with certificates, one pair of files for each, and clients that trust them.
struct Certificates {
    dir: TempDir,
    roots: rustls::RootCertStore,
}

impl Certificates {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), roots: rustls::RootCertStore::empty() }
    }

    /// Adds a certificate that is valid.
    fn add(&mut self, file: &str, names: &[&str]) {
        let made = dev::certificate(names).unwrap();
        self.write(file, &made.chain, &made.key, &made.ca);
    }

    /// Adds a certificate that has expired.
    fn add_expired(&mut self, file: &str, names: &[&str]) {
        let authority = Authority::new("an authority of long ago");
        let (chain, key) = authority.sign(names, ExtendedKeyUsagePurpose::ServerAuth, 2021);
        self.write(file, &chain, &key, authority.pem());
    }

    fn write(&mut self, file: &str, chain: &str, key: &str, ca: &str) {
        secret(&self.dir, &format!("{file}.pem"), chain);
        secret(&self.dir, &format!("{file}.key"), key);
        self.roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    }

    /// Writes a configuration with these entries of `certificates`, each with further keys.
    fn configure(&self, entries: &[(&str, &str)], rest: &str) -> String {
        let entry = |(file, more): &(&str, &str)| format!("{{ cert = \"{file}.pem\", key = \"{file}.key\"{more} }}");
        let entries = entries.iter().map(entry).collect::<Vec<_>>().join(", ");
        let text = format!("listen = \"127.0.0.1:0\"\nworkers = 1\ntls = {{ certificates = [{entries}] }}\n{rest}");
        secret(&self.dir, "proxy.toml", &text);
        text
    }

    /// Makes a handshake under a name.
    async fn hand_shake(&self, to: std::net::SocketAddr, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let config = rustls::ClientConfig::builder_with_provider(callgate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        let stream = TcpStream::connect(to).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// Makes a handshake under a name, and returns how it ends.
    async fn outcome(&self, to: std::net::SocketAddr, name: &str) -> String {
        self.hand_shake(to, name).await.map_or_else(|error| error.to_string(), |_| "served".to_owned())
    }

    fn run(&self) -> Running {
        let mut command = callgate(&["run", "--config"]);
        command.arg(self.dir.path().join("proxy.toml"));
        Running::start(command)
    }

    fn told(&self, path: &str) -> String {
        let admin = config::Listen::Unix(self.dir.path().join("admin.sock"));
        gate::tell(&admin, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }
}

async fn ask(tls: &mut TlsStream<TcpStream>, host: &str) -> u16 {
    tls.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
    status(&read_head(tls).await)
}

fn address(line: &str) -> std::net::SocketAddr {
    line.split("address=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_certificate_that_has_expired_stops_neither_a_start_nor_a_reload() {
    let [one, two] = [
        RawUpstream::ok().await,
        RawUpstream::answering("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno").await,
    ];
    let mut files = Certificates::new();
    files.add("app", &["app.test"]);
    files.add_expired("old", &["old.test"]);
    let rest = |upstream: &RawUpstream| {
        format!("[app]\nurl = \"http://{}\"\n[admin]\nlisten = \"unix:admin.sock\"\n", upstream.addr)
    };
    files.configure(&[("app", ""), ("old", "")], &rest(&one));
    let mut running = files.run();
    let to = address(&running.complaint("listening").await);
    let alarm = running.complaint("expired at").await;
    assert!(alarm.contains("ERROR") && alarm.contains("old.pem: the certificate for old.test"), "{alarm}");
    assert!(files.outcome(to, "old.test").await.contains("certificate expired"), "it is shown as before");
    assert_eq!(ask(&mut files.hand_shake(to, "app.test").await.unwrap(), "app.test").await, 200);
    until("the admin listener", || files.dir.path().join("admin.sock").exists()).await;
    let ready = files.told("/readyz?verbose");
    assert_eq!(status(&ready), 200, "{ready}");
    assert!(ready.contains("\ncertificates: ") && ready.contains("the certificate for old.test expired"), "{ready}");
    assert!(files.told("/metrics").contains("callgate_ready{part=\"certificates\"} 0"));

    files.configure(&[("app", ""), ("old", "")], &rest(&two));
    running.signal("-HUP");
    // The alarm is logged apart from the reload, before or after it.
    running.complaint("the certificate for old.test expired").await;
    while ask(&mut files.hand_shake(to, "app.test").await.unwrap(), "app.test").await != 404 {}

    let mut check = callgate(&["check", "--config"]);
    check.arg(files.dir.path().join("proxy.toml"));
    let checked = run(check).await;
    assert_eq!(checked.status.code(), Some(78));
    assert!(text(&checked.stderr).contains("the certificate for old.test expired"), "{}", text(&checked.stderr));
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_any_more_stays_in_use_and_the_rest_is_taken() {
    let [one, two] = [
        RawUpstream::ok().await,
        RawUpstream::answering("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno").await,
    ];
    let mut files = Certificates::new();
    files.add("app", &["app.test"]);
    files.add("two", &["two.test"]);
    let rest = |upstream: &RawUpstream| {
        format!("[app]\nurl = \"http://{}\"\n[admin]\nlisten = \"unix:admin.sock\"\n", upstream.addr)
    };
    files.configure(&[("app", ""), ("two", "")], &rest(&one));
    let mut running = files.run();
    let to = address(&running.complaint("listening").await);
    secret(&files.dir, "two.key", "not a key");
    files.configure(&[("app", ""), ("two", "")], &rest(&two));
    running.signal("-HUP");
    let alarm = running.complaint("what was read before stays in use").await;
    assert!(alarm.contains("ERROR") && alarm.contains("has no private key in PEM form"), "{alarm}");
    for name in ["app.test", "two.test"] {
        while ask(&mut files.hand_shake(to, name).await.unwrap(), name).await != 404 {}
    }
    until("the admin listener", || files.dir.path().join("admin.sock").exists()).await;
    assert!(files.told("/metrics").contains("callgate_certificate_problems 1"));
    // Once it can be read again, that is all.
    files.add("two", &["two.test"]);
    running.complaint("reloaded").await;
    until("it is right", || files.told("/readyz?verbose").contains("certificates: ok")).await;
    assert_eq!(ask(&mut files.hand_shake(to, "two.test").await.unwrap(), "two.test").await, 404);
}

/// Starts a server, and returns its address.
fn serve(files: &Certificates, text: &str) -> (Server, std::net::SocketAddr) {
    let config = config::parse(text, files.dir.path(), &|_: &str| None).unwrap();
    let server = Server::start(config, Logs::discarding(FORMAT).unwrap()).unwrap();
    let address = server.addresses()[0];
    (server, address)
}

#[tokio::test]
async fn names_of_a_missing_certificate_are_refused_and_the_others_are_served() {
    let upstream = RawUpstream::ok().await;
    let mut files = Certificates::new();
    files.add("one", &["one.test", "*.wild.test"]);
    files.add("two", &["two.test", "deep.wild.test"]);
    let app = format!("[app]\nurl = \"http://{}\"\n", upstream.addr);
    let text = files.configure(&[("one", ""), ("two", "")], &app);
    let refused = "received fatal alert: UnrecognisedName";
    let other = "not valid for name";

    // Its names are known from the chain; another certificate that covers one of them is as good.
    secret(&files.dir, "two.key", "");
    let (server, to) = serve(&files, &text);
    for (name, expected) in
        [("one.test", "served"), ("two.test", refused), ("deep.wild.test", "served"), ("unknown.test", other)]
    {
        let outcome = files.outcome(to, name).await;
        assert!(outcome.contains(expected), "{name}: {outcome}");
    }
    server.drain();
    server.join().await;

    // Its names are unknown: any name without a certificate may be one of them.
    secret(&files.dir, "two.pem", "");
    let (server, to) = serve(&files, &text);
    for (name, expected) in
        [("one.test", "served"), ("two.test", refused), ("deep.wild.test", "served"), ("unknown.test", refused)]
    {
        let outcome = files.outcome(to, name).await;
        assert!(outcome.contains(expected), "{name}: {outcome}");
    }
    server.drain();
    server.join().await;
}

#[tokio::test]
async fn a_missing_certificate_opens_no_host_that_asks_for_client_certificates() {
    let upstream = RawUpstream::ok().await;
    let mut files = Certificates::new();
    files.add("open", &["*.wild.test", "open.test"]);
    files.add("staff", &["staff.wild.test"]);
    secret(&files.dir, "ca.pem", Authority::new("staff").pem());
    let app = format!("[app]\nurl = \"http://{}\"\n", upstream.addr);
    let text = files.configure(&[("open", ""), ("staff", ", client_ca = \"ca.pem\"")], &app);
    secret(&files.dir, "staff.key", "");
    let (server, to) = serve(&files, &text);
    let outcome = files.outcome(to, "staff.wild.test").await;
    assert!(outcome.contains("UnrecognisedName"), "{outcome}");
    for (name, host, expected) in [
        ("open.test", "open.test", 200),
        ("a.wild.test", "a.wild.test", 200),
        ("open.test", "staff.wild.test", 421),
        ("a.wild.test", "staff.wild.test", 421),
        ("open.test", "unknown.test", 421),
    ] {
        let mut tls = files.hand_shake(to, name).await.unwrap();
        assert_eq!(ask(&mut tls, host).await, expected, "{host} over a connection of {name}");
    }
    server.drain();
    server.join().await;
}

#[tokio::test]
async fn without_any_certificate_there_is_no_start() {
    let mut files = Certificates::new();
    files.add("one", &["one.test"]);
    secret(&files.dir, "one.key", "");
    files.configure(&[("one", "")], "[app]\nurl = \"http://127.0.0.1:9\"\n");
    let mut command = callgate(&["run", "--config"]);
    command.arg(files.dir.path().join("proxy.toml"));
    let output = run(command).await;
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{told}");
    assert!(told.contains("one.key is empty") && told.contains("nothing was started"), "{told}");
}
