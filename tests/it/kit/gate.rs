//! A running gate. When it ends it searches its log lines, the events of the program and the answers of its admin
//! listener for secrets: those that the test added, and all that its clients sent or received.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use callgate::config::{self, AccessLogTarget, Listen, LogFormat};
use callgate::model::ott::{VoximplantUser, users_line};
use callgate::observe::Logs;
use callgate::server::Server;
use callgate::tls::dev;
use http::Method;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tempfile::{NamedTempFile, TempDir};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::kit::client::RequestBuilder;
use crate::kit::events::EventRecorder;
use crate::kit::explain_agrees::Logins;

/// The password of every Voximplant user of the tests' users file.
pub const VOX_PASSWORD: &str = "Vox-Passw0rd!";

/// The key that signs links, in the file `link.key` of each gate.
pub const LINK_SECRET: &str = "b9f6c2a0d4e84f31a7c5e9d0f1b2a3c4";

/// The host names in the gate's certificate.
pub const NAMES: [&str; 8] =
    ["app.test", "*.app.test", "pbx.test", "*.pbx.test", "acme.test", "other.test", "localhost", "127.0.0.1"];

/// A running gate with its folder, its logs and its certificate.
pub struct Gate {
    server: Option<Server>,
    pub addr: SocketAddr,
    pub dir: TempDir,
    pub redirect: Option<SocketAddr>,
    /// The configuration of the gate, for another like it.
    pub text: String,
    logs: Logs,
    /// The access lines, and the audit lines that have no file of their own.
    lines: NamedTempFile,
    ca: CertificateDer<'static>,
    admin: Listen,
    canaries: Mutex<Vec<String>>,
    told: EventRecorder,
    pub logins: Logins,
}

impl Gate {
    /// Starts a gate with a configuration: `listen`, `tls` are added, the latter unless the text starts with it, and `[admin]`
    /// where it is missing. Files at hand: `voximplant.htdigest` (alice, bob), `link.key`.
    /// Environment: `PBX_ADMIN` is the stand-in's administrator password.
    pub async fn start(text: &str) -> Self {
        Self::try_start(text).unwrap_or_else(|problems| panic!("{problems}"))
    }

    pub fn try_start(text: &str) -> Result<Self, config::Problems> {
        let told = EventRecorder::begin();
        let dir = TempDir::new().unwrap();
        let certificate = dev::certificate(&NAMES).unwrap();
        let users = ["alice", "bob"].map(|user| users_line(&user.parse::<VoximplantUser>().unwrap(), VOX_PASSWORD));
        let ha1s: Vec<_> = users.iter().map(|line| line.rsplit(':').next().unwrap().to_owned()).collect();
        secret(&dir, "ca.pem", &certificate.ca);
        secret(&dir, "fullchain.pem", &certificate.chain);
        secret(&dir, "privkey.pem", &certificate.key);
        secret(&dir, "voximplant.htdigest", &users.join("\n"));
        secret(&dir, "link.key", LINK_SECRET);
        let mut config = configuration(text, &dir)?;
        let lines = NamedTempFile::new().unwrap();
        // The gate reads `[log] access` as written, while its lines go to a file that the test reads.
        let access = std::mem::replace(&mut config.log.access, AccessLogTarget::File(lines.path().to_owned()));
        let logs = Logs::open(&config).unwrap();
        config.log.access = access;
        let server = Server::start(config, logs.clone()).unwrap();
        let (addr, redirect) = (server.addresses()[0], server.redirect_address());
        let admin = server.admin_address().unwrap();
        let ca = CertificateDer::from_pem_slice(certificate.ca.as_bytes()).unwrap();
        let mut canaries =
            vec![VOX_PASSWORD.to_owned(), LINK_SECRET.to_owned(), crate::kit::vodia::Options::default().admin_password];
        canaries.extend(ha1s);
        let text = text.to_owned();
        let canaries = Mutex::new(canaries);
        Ok(Self {
            server: Some(server),
            addr,
            dir,
            redirect,
            text,
            logs,
            lines,
            ca,
            admin,
            canaries,
            told,
            logins: Logins::default(),
        })
    }

    /// Puts another configuration in the place of the running one, with the files as they are now.
    pub async fn reload(&mut self, text: &str) -> Result<(), callgate::server::ReloadError> {
        let config = configuration(text, &self.dir).unwrap_or_else(|problems| panic!("{problems}"));
        self.server.as_mut().unwrap().reload(config).await
    }

    /// Says what is wrong with another configuration, with the files as they are now.
    pub fn problems(&self, text: &str) -> String {
        configuration(text, &self.dir).unwrap_err().to_string()
    }

    /// Writes the configuration as a file, for the program's commands, and returns its path.
    pub fn file(&self) -> String {
        secret(&self.dir, "proxy.toml", &whole(&self.text));
        self.dir.path().join("proxy.toml").display().to_string()
    }

    /// Starts a gate with one worker that passes everything to one plain upstream.
    pub async fn before(upstream: SocketAddr) -> Self {
        Self::before_with(upstream, "", "").await
    }

    /// As `before`, with more lines for `[app]` and for the rest of the file.
    pub async fn before_with(upstream: SocketAddr, app: &str, rest: &str) -> Self {
        Self::start(&format!("workers = 1\n[app]\nurl = \"http://{upstream}\"\n{app}\n{rest}")).await
    }

    /// Starts a request: `gate.get("/path").cookie("a=b").send().await`. The host is `app.test` until `.host(…)` says another.
    pub fn get(&self, path: &str) -> RequestBuilder<'_> {
        self.ask(Method::GET, path)
    }

    pub fn post(&self, path: &str, content_type: &str, body: impl Into<Bytes>) -> RequestBuilder<'_> {
        self.ask(Method::POST, path).header("content-type", content_type).body(body)
    }

    pub fn ask(&self, method: Method, path: &str) -> RequestBuilder<'_> {
        RequestBuilder::new(self, method, path)
    }

    /// Opens a TLS connection on which the test writes its own bytes. `alpn`: `"http/1.1"` or `"h2"`.
    pub async fn raw(&self, name: &str, alpn: &str) -> TlsStream<TcpStream> {
        self.tls(TcpStream::connect(self.addr).await.unwrap(), name, alpn).await.unwrap()
    }

    pub async fn tls(&self, stream: TcpStream, name: &str, alpn: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = self.client_config();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        stream.set_nodelay(true)?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
    }

    /// Returns the certificates that a client must trust to reach the gate.
    pub fn roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.clone()).unwrap();
        roots
    }

    pub fn client_config(&self) -> rustls::ClientConfig {
        let roots = self.roots();
        rustls::ClientConfig::builder_with_provider(callgate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// Sends bytes on a connection of their own and returns all that comes until the gate closes it.
    pub async fn exchange(&self, request: &[u8]) -> String {
        let mut tls = self.raw("app.test", "http/1.1").await;
        tls.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // The bytes before an end without close_notify count as well.
        let read = tokio::time::timeout(std::time::Duration::from_secs(20), tls.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "the gate did not close the connection after {:?}", String::from_utf8_lossy(&answer));
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Asks the admin listener for a path, and returns its answer as it came.
    pub fn told(&self, path: &str) -> String {
        self.tell(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    /// Sends bytes to the admin listener, and returns all that comes until it closes.
    pub fn tell(&self, request: &str) -> String {
        tell(&self.admin, request)
    }

    /// Where the admin listener is.
    pub fn admin(&self) -> &Listen {
        &self.admin
    }

    /// Adds a text that no log line may contain, and nothing that the admin listener tells.
    pub fn canary(&self, text: impl Into<String>) {
        self.canaries.lock().unwrap().push(text.into());
    }

    /// Waits until every line is written that any worker has gathered so far.
    fn flush(&self) {
        assert!(self.logs.flush(tokio::time::Instant::now() + std::time::Duration::from_secs(30)), "a log is stuck");
    }

    /// Returns all access and audit lines so far.
    pub fn log(&self) -> String {
        self.flush();
        String::from_utf8_lossy(&fs::read(&self.lines).unwrap()).into_owned()
    }

    /// Returns what is in the files of the audit log, `audit.log` and those that tests move it to.
    pub fn audit(&self) -> String {
        self.flush();
        let files = ["audit.log.2", "audit.log.1", "audit.log"].map(|name| self.dir.path().join(name));
        files.map(|path| fs::read_to_string(path).unwrap_or_default()).concat()
    }

    /// Waits for a line of the access or audit log that contains all these texts, and returns it.
    pub async fn line(&self, parts: &[&str]) -> String {
        let mut found = None;
        crate::kit::stage::until(&format!("a log line with {parts:?}"), || {
            found = self.log().lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Returns every event of the program since the gate began.
    pub fn events(&self) -> String {
        self.told.text()
    }

    /// Drains the gate and returns how many connections were cut off.
    pub async fn drain(mut self) -> usize {
        self.search(&self.admin_tells());
        let server = self.server.take().unwrap();
        server.drain();
        server.join().await
    }

    pub fn state(&self) -> tokio::sync::watch::Receiver<callgate::server::ServerState> {
        self.server.as_ref().unwrap().state()
    }

    /// Begins to drain and leaves the gate to the test.
    pub fn begin_drain(&self) {
        self.server.as_ref().unwrap().drain();
    }

    fn admin_tells(&self) -> String {
        ["/metrics", "/status", "/readyz?verbose"].map(|path| self.told(path)).concat()
    }

    fn search_logs(&self) {
        if !std::thread::panicking() {
            self.search(&self.log());
            self.search(&self.audit());
            self.search(&self.events());
        }
    }

    /// Searches a text for all secrets.
    fn search(&self, told: &str) {
        for canary in self.canaries.lock().unwrap().iter() {
            assert!(!told.contains(canary.as_str()), "a log line or the admin listener tells the secret {canary:?}");
        }
    }
}

/// Sends bytes to an admin listener, and returns all that comes until it closes.
pub fn tell(admin: &Listen, request: &str) -> String {
    match admin {
        Listen::Tcp(address) => say(std::net::TcpStream::connect(address).unwrap(), request),
        Listen::Unix(path) => say(std::os::unix::net::UnixStream::connect(path).unwrap(), request),
    }
}

fn say(mut stream: impl std::io::Read + std::io::Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

impl Drop for Gate {
    fn drop(&mut self) {
        let Some(server) = self.server.take() else { return self.search_logs() };
        if !std::thread::panicking() {
            self.search(&self.admin_tells());
        }
        server.drain();
        self.search_logs();
    }
}

fn configuration(text: &str, dir: &TempDir) -> Result<config::Config, config::Problems> {
    let password = crate::kit::vodia::Options::default().admin_password;
    config::parse(&whole(text), dir.path(), &|name| match name {
        "PBX_ADMIN" => Some(password.clone()),
        "OIDC_SECRET" => Some(crate::kit::oidc::SECRET.to_owned()),
        "OIDC_KEY" => Some(crate::kit::oidc::KEY.to_owned()),
        _ => None,
    })
}

/// Adds what every gate of the tests has.
fn whole(text: &str) -> String {
    let tls = if text.starts_with("tls = ") { "" } else { "tls = { cert = \"fullchain.pem\", key = \"privkey.pem\" }" };
    let admin = if text.contains("[admin]") { "" } else { "[admin]\nlisten = \"unix:admin.sock\"\n" };
    format!("listen = \"127.0.0.1:0\"\n{tls}\n{text}\n{admin}")
}

/// Writes a file that only its owner may read.
pub fn secret(dir: &TempDir, name: &str, text: &str) {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The format of log lines in tests.
pub const FORMAT: LogFormat = LogFormat::Text;
