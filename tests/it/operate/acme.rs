//! Certificates from an ACME server: ordered, renewed, and kept. The server is `pebble`.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use callgate::config::Listen;
use rustls::pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::kit::client::{read_head, status};
use crate::kit::commands::{Running, callgate};
use crate::kit::gate::{self, secret};
use crate::kit::pebble::{Pebble, closed_port, free_port};
use crate::kit::stage::until;
use crate::kit::upstream::RawUpstream;

/// `callgate run` with certificates from an ACME server.
pub struct AcmeGate {
    pub dir: TempDir,
    upstream: RawUpstream,
    pub https: u16,
    pub http: u16,
}

impl AcmeGate {
    /// Prepares a gate at the ports where a server checks names.
    pub async fn new(checks: (u16, u16)) -> Self {
        let (http, https) = checks;
        Self { dir: TempDir::new().unwrap(), upstream: RawUpstream::ok().await, https, http }
    }

    /// Writes the configuration. `acme`: the keys of `tls.acme`; `top`: further keys above the first table.
    fn configure(&self, acme: &str, top: &str) {
        self.configure_with(acme, top, "");
    }

    /// As [`AcmeGate::configure`], with further tables.
    pub fn configure_with(&self, acme: &str, top: &str, tables: &str) {
        let text = format!(
            "listen = \"127.0.0.1:{}\"\nworkers = 1\n{top}\ntls = {{ acme = {{ {acme} }} }}\n\
             [app]\nurl = \"http://{}\"\n[state]\nfile = \"state\"\n[admin]\nlisten = \"unix:admin.sock\"\n\
             [log]\naccess = \"off\"\n{tables}",
            self.https, self.upstream.addr
        );
        secret(&self.dir, "proxy.toml", &text);
    }

    pub fn redirect(&self) -> String {
        format!("redirect_http = \"127.0.0.1:{}\"", self.http)
    }

    pub async fn run(&self) -> Running {
        drop(fs::remove_file(self.dir.path().join("admin.sock")));
        let mut command = callgate(&["run", "--config"]);
        command.arg(self.dir.path().join("proxy.toml"));
        let running = Running::start(command);
        // The socket is there before it listens.
        let admin = self.dir.path().join("admin.sock");
        until("the admin listener", || UnixStream::connect(&admin).is_ok()).await;
        running
    }

    pub fn told(&self, path: &str) -> String {
        let admin = Listen::Unix(self.dir.path().join("admin.sock"));
        gate::tell(&admin, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    pub async fn hand_shake(
        &self,
        root: &CertificateDer<'static>,
        name: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root.clone()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(callgate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.https))).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// Asks the app under a name whose certificate the server has issued.
    async fn check_served(&self, root: &CertificateDer<'static>, name: &str) {
        let mut tls = self.hand_shake(root, name).await.unwrap();
        tls.write_all(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").as_bytes()).await.unwrap();
        assert_eq!(status(&read_head(&mut tls).await), 200, "{name}");
    }

    async fn own(&self, root: &CertificateDer<'static>, name: &str) -> CertificateDer<'static> {
        let tls = self.hand_shake(root, name).await.unwrap();
        tls.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

const ISSUED: &str = "a certificate was issued";

#[tokio::test]
async fn names_are_checked_over_http_and_a_restart_keeps_account_and_certificate() {
    let Some(mut pebble) = Pebble::new() else { return };
    pebble.start().await;
    let gate = AcmeGate::new(pebble.checks).await;
    let acme = format!("email = \"admin@acme-gate.test\", names = [\"one.test\"], {}", pebble.keys(&gate.dir));
    gate.configure(&acme, &gate.redirect());
    let mut running = gate.run().await;
    running.complaint("made an account").await;
    running.complaint(ISSUED).await;
    let root = pebble.root().await;
    until("it is in use", || gate.told("/readyz?verbose").contains("acme: ok")).await;
    gate.check_served(&root, "one.test").await;
    let metrics = gate.told("/metrics");
    assert!(metrics.contains("callgate_acme_orders_total{result=\"ok\"} 1"), "{metrics}");
    assert!(metrics.contains("callgate_certificate_expiry_timestamp_seconds{certificate=\"acme\",name=\"one.test\"} "));
    assert!(gate.told("/status").contains("\"one.test\""));
    // Other paths go to HTTPS as before, and other tokens, too.
    let mut plain = TcpStream::connect(("127.0.0.1", gate.http)).await.unwrap();
    plain.write_all(b"GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: one.test\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 308);
    running.terminate();
    running.end().await;

    // A check finds it in the state file.
    let mut check = callgate(&["check", "--online", "--config"]);
    check.arg(gate.dir.path().join("proxy.toml"));
    let report = crate::kit::programs::output(&mut check);
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.contains("the certificate for one.test: 89 days left, until 2"), "{report}");

    // Nothing is ordered again.
    let before = fs::metadata(gate.dir.path().join("state")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&before.permissions()) & 0o777, 0o600);
    pebble.stop();
    let running = gate.run().await;
    gate.check_served(&root, "one.test").await;
    assert!(gate.told("/metrics").contains("callgate_acme_orders_total{result=\"ok\"} 0"));
    running.terminate();
    running.end().await;
}

#[tokio::test]
async fn names_are_checked_in_a_handshake_and_a_reload_adds_a_name() {
    let Some(mut pebble) = Pebble::new() else { return };
    pebble.start().await;
    let gate = AcmeGate::new(pebble.checks).await;
    let keys = pebble.keys(&gate.dir);
    gate.configure(&format!("names = [\"one.test\"], {keys}"), "");
    let mut running = gate.run().await;
    running.complaint(ISSUED).await;
    let root = pebble.root().await;
    let refused = gate.hand_shake(&root, "two.test").await.unwrap_err().to_string();
    assert!(refused.contains("not valid for name"), "{refused}");
    gate.configure(&format!("names = [\"one.test\", \"two.test\"], {keys}"), "");
    running.signal("-HUP");
    let issued = running.complaint(ISSUED).await;
    assert!(issued.contains("two.test"), "{issued}");
    until("it is in use", || gate.told("/status").contains("\"two.test\"")).await;
    gate.check_served(&root, "one.test").await;
    gate.check_served(&root, "two.test").await;
}

#[tokio::test]
async fn a_certificate_is_renewed_before_its_end() {
    let Some(mut pebble) = Pebble::new() else { return };
    pebble.validity = 30;
    pebble.start().await;
    let gate = AcmeGate::new(pebble.checks).await;
    gate.configure(&format!("names = [\"one.test\"], {}", pebble.keys(&gate.dir)), &gate.redirect());
    let mut running = gate.run().await;
    running.complaint(ISSUED).await;
    let root = pebble.root().await;
    until("it is in use", || gate.told("/status").contains("\"one.test\"")).await;
    let first = gate.own(&root, "one.test").await;
    running.complaint(ISSUED).await;
    until("it is counted", || gate.told("/metrics").contains("callgate_acme_orders_total{result=\"ok\"} 2")).await;
    assert_ne!(gate.own(&root, "one.test").await, first);
}

#[tokio::test]
async fn a_server_that_is_away_is_reported_and_tried_again() {
    let Some(mut pebble) = Pebble::new() else { return };
    let gate = AcmeGate::new(pebble.checks).await;
    gate.configure(&format!("names = [\"one.test\"], {}", pebble.keys(&gate.dir)), &gate.redirect());
    let mut running = gate.run().await;
    let told = running.complaint("there is no certificate for this name").await;
    assert!(
        told.contains("ERROR") && told.contains("cannot connect") && told.contains("next_try_in_seconds="),
        "{told}"
    );
    until("it is reported", || gate.told("/readyz?verbose").contains("acme: one.test: ")).await;
    assert_eq!(status(&gate.told("/readyz")), 200);
    until("it is counted", || gate.told("/metrics").contains("callgate_acme_failing 1")).await;
    pebble.start().await;
    let root = pebble.root().await;
    // Without a certificate the name is refused, and nothing is shown in its place.
    if let Err(refused) = gate.hand_shake(&root, "one.test").await {
        assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
    }
    running.complaint(ISSUED).await;
    until("all is well", || gate.told("/readyz?verbose").contains("acme: ok")).await;
    gate.check_served(&root, "one.test").await;
}

#[tokio::test]
async fn a_renewal_that_fails_is_reported_and_the_old_certificate_stays_in_use() {
    let Some(mut pebble) = Pebble::new() else { return };
    pebble.start().await;
    let gate = AcmeGate::new(pebble.checks).await;
    let keys = pebble.keys(&gate.dir);
    gate.configure(&format!("names = [\"one.test\"], {keys}"), &gate.redirect());
    let mut running = gate.run().await;
    running.complaint(ISSUED).await;
    let root = pebble.root().await;
    until("it is in use", || gate.told("/status").contains("\"one.test\"")).await;
    let first = gate.own(&root, "one.test").await;
    running.terminate();
    running.end().await;
    pebble.stop();

    // A certificate of another directory is due at once.
    let moved = keys.replace("/dir\"", "/moved\"");
    assert_ne!(moved, keys);
    gate.configure(&format!("names = [\"one.test\"], {moved}"), &gate.redirect());
    let mut running = gate.run().await;
    let told = running.complaint("a certificate could not be renewed").await;
    for part in ["WARN", "name=\"one.test\"", "cannot connect", "next_try_in_seconds="] {
        assert!(told.contains(part), "{part}: {told}");
    }
    until("it is counted", || gate.told("/metrics").contains("callgate_acme_failing 1")).await;
    assert_eq!(gate.own(&root, "one.test").await, first);
    gate.check_served(&root, "one.test").await;
}

#[tokio::test]
async fn a_name_that_cannot_be_checked_is_reported_with_the_words_of_the_server() {
    let Some(mut pebble) = Pebble::new() else { return };
    let ports = pebble.checks;
    // It looks for the answer at ports that are taken, and nothing listens there.
    let taken = [closed_port(), closed_port()];
    let [http, tls] = taken.each_ref().map(|(_, port)| *port);
    pebble.checks = (http, tls);
    pebble.start().await;
    let gate = AcmeGate::new(ports).await;
    gate.configure(&format!("names = [\"one.test\"], {}", pebble.keys(&gate.dir)), &gate.redirect());
    let mut running = gate.run().await;
    // Before it, an order may have ended with nonces that the server refused. Then the name is checked over TLS, in other words.
    let told = running.complaint("the server could not check the name: ").await;
    let is_refused = told.contains("refused") || told.contains("Failed to connect to 127.0.0.1:");
    assert!(told.contains("there is no certificate for this name") && is_refused, "{told}");
    let failed = "callgate_acme_orders_total{result=\"failed\"} ";
    let is_counted = |metrics: &str| metrics.lines().any(|line| line.starts_with(failed) && !line.ends_with(" 0"));
    until("it is counted", || is_counted(&gate.told("/metrics"))).await;
}

#[tokio::test]
async fn a_server_that_limits_the_rate_is_left_alone_for_as_long_as_it_says() {
    let server = RawUpstream::serving(|mut line| async move {
        while let Some(request) = line.request().await {
            let host =
                request.split("host: ").nth(1).and_then(|rest| rest.lines().next()).unwrap_or_default().to_owned();
            let at = |path: &str| format!("http://{host}/{path}");
            let directory = serde_json::json!({
                "newNonce": at("nonce"), "newAccount": at("account"), "newOrder": at("order"),
            });
            let (head, body) = if request.starts_with("GET /dir ") {
                ("200 OK", directory.to_string())
            } else if request.starts_with("HEAD ") {
                ("200 OK\r\nReplay-Nonce: one", String::new())
            } else {
                let problem = serde_json::json!({
                    "type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many new accounts",
                });
                ("429 Too Many Requests\r\nRetry-After: 43210", problem.to_string())
            };
            line.say(format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        }
    })
    .await;
    let gate = AcmeGate::new((free_port(), free_port())).await;
    let directory = format!("directory = \"http://{}/dir\"", server.addr);
    gate.configure(&format!("names = [\"one.test\"], {directory}"), &gate.redirect());
    let mut running = gate.run().await;
    let told = running.complaint("there is no certificate for this name").await;
    assert!(told.contains("too many new accounts") && told.contains("next_try_in_seconds=43210"), "{told}");
}
