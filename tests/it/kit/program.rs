//! `callgate run` in a folder of its own, before one upstream.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use callgate::tls::dev;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::kit::client::{read_head, status};
use crate::kit::commands::{Running, callgate};
use crate::kit::gate::secret;
use crate::kit::load::Load;
use crate::kit::programs;
use crate::kit::stage::until;
use crate::kit::upstream::RawUpstream;

pub const WEBSOCKET: &[u8] = b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// `callgate run` before one upstream.
pub struct Program {
    pub dir: TempDir,
    pub running: Running,
    pub addr: SocketAddr,
    pub roots: rustls::RootCertStore,
}

impl Program {
    pub async fn before(upstream: SocketAddr, more: &str) -> Self {
        Self::start(upstream, "listen = \"127.0.0.1:0\"\nworkers = 2", more).await
    }

    /// Starts a gate with an access log on standard output, before one that says all to places of the test's. Returns
    /// when it answers at its admin listener.
    pub async fn writing_to(upstream: SocketAddr, more: &str, stdout: Stdio, stderr: Stdio) -> Self {
        let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let more = format!("{more}\n[admin]\nlisten = \"unix:admin.sock\"");
        let (dir, roots) = written(upstream, &format!("listen = \"{addr}\"\nworkers = 2"), &more);
        let text = fs::read_to_string(dir.path().join("proxy.toml")).unwrap();
        fs::write(dir.path().join("proxy.toml"), text.replace("access = \"off\"", "access = \"stdout\"")).unwrap();
        let mut command = callgate(&["run", "--config"]);
        command.arg(dir.path().join("proxy.toml")).stdout(stdout).stderr(stderr);
        let program = Self { running: Running::start(command), dir, addr, roots };
        until("the admin listener", || program.file("admin.sock").exists()).await;
        program
    }

    /// Asks the admin listener of [`Program::writing_to`].
    pub fn told(&self, path: &str) -> String {
        let admin = callgate::config::Listen::Unix(self.file("admin.sock"));
        crate::kit::gate::tell(&admin, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    pub async fn start(upstream: SocketAddr, top: &str, more: &str) -> Self {
        Self::start_by(callgate(&[]), upstream, top, more).await
    }

    /// Starts the program by a command that ends with it.
    pub async fn start_by(mut command: Command, upstream: SocketAddr, top: &str, more: &str) -> Self {
        let (dir, roots) = written(upstream, top, more);
        command.args(["run", "--config"]).arg(dir.path().join("proxy.toml"));
        // As systemd has it: a reload may write new files here.
        command.env("LOGS_DIRECTORY", dir.path());
        let mut running = Running::start(command);
        let line = running.complaint("listening").await;
        let addr = line.split("address=").nth(1).unwrap().split(' ').next().unwrap();
        let addr = addr.parse().unwrap_or_else(|_| ([127, 0, 0, 1], 0).into());
        Self { dir, running, addr, roots }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn change(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.file("proxy.toml")).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(self.file("proxy.toml"), text.replace(from, to)).unwrap();
    }

    pub fn load(&self) -> Load {
        Load::start(self.addr, self.roots.clone())
    }

    pub async fn connect(&self) -> TlsStream<TcpStream> {
        self.over(TcpStream::connect(self.addr).await.unwrap()).await
    }

    /// Speaks TLS over a connection.
    pub async fn over<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> TlsStream<S> {
        self.agreeing_on("http/1.1", stream).await
    }

    /// Connects with HTTP/2.
    pub async fn connect_h2(&self) -> TlsStream<TcpStream> {
        self.agreeing_on("h2", TcpStream::connect(self.addr).await.unwrap()).await
    }

    async fn agreeing_on<S: AsyncRead + AsyncWrite + Unpin>(&self, alpn: &str, stream: S) -> TlsStream<S> {
        let mut config = rustls::ClientConfig::builder_with_provider(callgate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("app.test").unwrap(), stream).await.unwrap()
    }
}

/// Makes the folder of a program. Returns it with the certificates that a client must trust.
pub fn written(upstream: SocketAddr, top: &str, more: &str) -> (TempDir, rustls::RootCertStore) {
    let dir = TempDir::new().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certify(dir.path())).unwrap();
    secret(&dir, "proxy.toml", &configuration(&upstream.to_string(), top, more));
    (dir, roots)
}

pub fn configuration(upstream: &str, top: &str, more: &str) -> String {
    format!(
        "{top}\ntls = {{ cert = \"fullchain.pem\", key = \"privkey.pem\" }}\n[app]\nurl = \"http://{upstream}\"\n\
         [log]\naccess = \"off\"\n{more}"
    )
}

/// Makes a certificate as mounted secrets have it: names that lead into a folder whose name leads to the newest.
/// Returns the certificate that a client must trust.
pub fn certify(dir: &Path) -> CertificateDer<'static> {
    let certificate = dev::certificate(&["app.test"]).unwrap();
    let newest = TempDir::new_in(dir).unwrap().keep();
    for (name, text) in [("fullchain.pem", &certificate.chain), ("privkey.pem", &certificate.key)] {
        fs::write(newest.join(name), text).unwrap();
        fs::set_permissions(newest.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let data = dir.join("data");
    symlink(&newest, dir.join("next")).unwrap();
    fs::rename(dir.join("next"), &data).unwrap();
    for name in ["fullchain.pem", "privkey.pem"] {
        // There since the first time.
        drop(symlink(format!("data/{name}"), dir.join(name)));
    }
    CertificateDer::from_pem_slice(certificate.ca.as_bytes()).unwrap()
}

/// An upstream that agrees to a tunnel and repeats every byte.
pub async fn echo() -> RawUpstream {
    RawUpstream::serving(|mut line| async move {
        line.head().await;
        line.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        let mut byte = [0];
        while matches!(line.stream.read(&mut byte).await, Ok(1)) {
            line.say(byte).await;
        }
    })
    .await
}

/// Opens a tunnel.
pub async fn tunnel(program: &Program) -> TlsStream<TcpStream> {
    let mut tls = program.connect().await;
    tls.write_all(WEBSOCKET).await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 101);
    tls
}

pub async fn check_echo(tunnel: &mut TlsStream<TcpStream>) {
    tunnel.write_all(b"x").await.unwrap();
    assert_eq!(tunnel.read_u8().await.unwrap(), b'x');
}

/// The process that took over; ended with the test.
pub struct Successor(pub u32);

impl Successor {
    /// Hands over, and waits until that is done.
    pub async fn of(program: &mut Program) -> Self {
        program.running.signal("-USR2");
        Self::told(&program.running.complaint("handed over").await)
    }

    /// Hands over to the next one, and waits until that is done.
    pub async fn next(&self, program: &mut Program) -> Self {
        self.signal("-USR2");
        Self::told(&program.running.complaint("handed over").await)
    }

    pub fn is_running(&self) -> bool {
        self.signal("-0")
    }

    pub fn told(line: &str) -> Self {
        Self(line.split("id=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap())
    }

    pub fn signal(&self, signal: &str) -> bool {
        programs::signal(self.0, signal)
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        self.signal("-KILL");
    }
}

/// Waits for the end of the process that was started first.
pub async fn code(program: &mut Program) -> Option<i32> {
    let mut code = None;
    until("the old process ends", || {
        code = program.running.child.try_wait().unwrap();
        code.is_some()
    })
    .await;
    code.unwrap().code()
}
