//! `pebble`, an ACME server for tests, with a name server that finds every name at 127.0.0.1.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use callgate::tls::dev;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::kit::gate::secret;
use crate::kit::programs::{KillTimer, are_here};
use crate::kit::stage::until;

/// A running ACME server. It forgets everything when it ends.
pub struct Pebble {
    folder: TempDir,
    ca: String,
    listen: u16,
    management: u16,
    /// The certificates that it issues are valid for so many seconds.
    pub validity: u64,
    /// The ports at which it checks names over HTTP and TLS.
    pub checks: (u16, u16),
    children: Vec<RunningChild>,
}

struct RunningChild {
    child: Child,
    _watch: KillTimer,
}

impl RunningChild {
    fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { _watch: KillTimer::over(&child), child }
    }
}

/// Starts the name server, and returns its port. It ends where another program has taken a port meanwhile: then it is started again.
async fn start_names() -> (RunningChild, u16) {
    loop {
        let dns = free_port();
        let mut names = Command::new("pebble-challtestsrv");
        names.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]);
        names.args(["-dns01", &format!("127.0.0.1:{dns}"), "-management", &format!("127.0.0.1:{}", free_port())]);
        let mut names = RunningChild::start(&mut names);
        // It answers over UDP and TCP.
        let address = SocketAddr::from(([127, 0, 0, 1], dns));
        let mut has_ended = || names.child.try_wait().unwrap().is_some();
        until("the name server listens", || has_ended() || std::net::TcpStream::connect(address).is_ok()).await;
        if !has_ended() {
            return (names, dns);
        }
    }
}

impl Drop for RunningChild {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Returns a port that is free now, over TCP and UDP. It is below those that Linux chooses by itself, so no connection of another
/// test gets it before it is used.
pub fn free_port() -> u16 {
    loop {
        let random = RandomState::new().build_hasher().finish();
        let port = u16::try_from(10_000 + random % 20_000).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
}

/// Returns a port that refuses connections for as long as the socket lives.
pub fn closed_port() -> (Socket, u16) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    (socket, port)
}

impl Pebble {
    /// Prepares a server; nothing where the program is missing. It checks names at ports that are free now.
    pub fn new() -> Option<Self> {
        if !are_here(&["pebble", "pebble-challtestsrv"]) {
            return None;
        }
        let folder = TempDir::new().unwrap();
        let certificate = dev::certificate(&["localhost", "127.0.0.1"]).unwrap();
        secret(&folder, "cert.pem", &certificate.chain);
        secret(&folder, "key.pem", &certificate.key);
        Some(Self {
            folder,
            ca: certificate.ca,
            listen: free_port(),
            management: free_port(),
            validity: 90 * 24 * 3600,
            checks: (free_port(), free_port()),
            children: Vec::new(),
        })
    }

    /// Starts the server, and waits until it answers.
    pub async fn start(&mut self) {
        let (http, tls) = self.checks;
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.listen),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": at("cert.pem"),
            "privateKey": at("key.pem"),
            "httpPort": http,
            "tlsPort": tls,
            "certificateValidityPeriod": self.validity,
        } });
        fs::write(self.folder.path().join("pebble.json"), config.to_string()).unwrap();
        let (names, dns) = start_names().await;
        let mut server = Command::new("pebble");
        server.args(["-config", &at("pebble.json"), "-dnsserver", &format!("127.0.0.1:{dns}")]);
        // Some nonces are refused, as a busy server may do.
        server.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "10");
        self.children = vec![names, RunningChild::start(&mut server)];
        for port in [self.listen, self.management] {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            until("pebble listens", || std::net::TcpStream::connect(address).is_ok()).await;
        }
    }

    /// Ends the server.
    pub fn stop(&mut self) {
        self.children.clear();
    }

    /// Writes the authority of the server's own certificate into a folder, and returns the keys of `acme` for it.
    pub fn keys(&self, folder: &TempDir) -> String {
        secret(folder, "acme-ca.pem", &self.ca);
        format!("directory = \"https://127.0.0.1:{}/dir\", ca = \"acme-ca.pem\"", self.listen)
    }

    /// Returns the authority that signs what the server issues.
    pub async fn root(&self) -> CertificateDer<'static> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(callgate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(("127.0.0.1", self.management)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        tls.write_all(b"GET /roots/0 HTTP/1.0\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        // The end of the connection is no error where it comes without a notice.
        let _ = tls.read_to_end(&mut answer).await;
        CertificateDer::from_pem_slice(&answer).unwrap()
    }
}
