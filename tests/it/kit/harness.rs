//! What the promises are tested with: a real gate before real servers, and clients that see every byte.
//!
//! Every gate searches its own log lines, the program's events and what its admin listener tells for secrets when it
//! ends: for those it was told of,
//! and for all that its clients sent or were given.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use callgate::config::{self, Listen, LogFormat};
use callgate::model::ott::{VoximplantUser, users_line};
use callgate::observe::{Logs, Memory};
use callgate::server::Server;
use callgate::tls::dev;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The password of every Voximplant user of the tests' users file.
pub const VOX_PASSWORD: &str = "Vox-Passw0rd!";
/// What signs links, in the file `link.key` of each gate.
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
    /// What the gate was started with, for another like it.
    pub text: String,
    logs: Logs,
    memory: Memory,
    ca: CertificateDer<'static>,
    admin: Listen,
    canaries: Mutex<Vec<String>>,
    told: Told,
}

impl Gate {
    /// Starts a gate with a configuration: `listen`, `tls` are added, the latter unless the text starts with it, and `[admin]`
    /// where it is missing. Files at hand: `voximplant.htdigest` (alice, bob), `link.key`.
    /// Environment: `PBX_ADMIN` is the stand-in's administrator password.
    pub async fn start(text: &str) -> Self {
        Self::try_start(text).unwrap_or_else(|problems| panic!("{problems}"))
    }

    pub fn try_start(text: &str) -> Result<Self, config::Problems> {
        let told = Told::begin();
        let dir = TempDir::new().unwrap();
        let certificate = dev::certificate(&NAMES).unwrap();
        let users = ["alice", "bob"].map(|user| users_line(&user.parse::<VoximplantUser>().unwrap(), VOX_PASSWORD));
        let ha1s: Vec<_> = users.iter().map(|line| line.rsplit(':').next().unwrap().to_owned()).collect();
        secret(&dir, "ca.pem", &certificate.ca);
        secret(&dir, "fullchain.pem", &certificate.chain);
        secret(&dir, "privkey.pem", &certificate.key);
        secret(&dir, "voximplant.htdigest", &users.join("\n"));
        secret(&dir, "link.key", LINK_SECRET);
        let config = configuration(text, &dir)?;
        let (logs, memory) = Logs::in_memory(&config).unwrap();
        let server = Server::start(config, logs.clone()).unwrap();
        let (addr, redirect) = (server.addresses()[0], server.redirect_address());
        let admin = server.admin_address().unwrap();
        let ca = CertificateDer::from_pem_slice(certificate.ca.as_bytes()).unwrap();
        let mut canaries = vec![
            VOX_PASSWORD.to_owned(),
            LINK_SECRET.to_owned(),
            callgate::demo::vodia::Options::default().admin_password,
        ];
        canaries.extend(ha1s);
        let text = text.to_owned();
        let canaries = Mutex::new(canaries);
        Ok(Self { server: Some(server), addr, dir, redirect, text, logs, memory, ca, admin, canaries, told })
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
    pub fn get(&self, path: &str) -> Asking<'_> {
        self.ask(Method::GET, path)
    }

    pub fn post(&self, path: &str, content_type: &str, body: impl Into<Bytes>) -> Asking<'_> {
        let mut asking = self.ask(Method::POST, path).header("content-type", content_type);
        asking.body = body.into();
        asking
    }

    pub fn ask(&self, method: Method, path: &str) -> Asking<'_> {
        Asking {
            gate: self,
            method,
            path: path.into(),
            host: "app.test".into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            h2: false,
            from: None,
        }
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

    /// Returns what a client must trust to trust the gate.
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
        // A connection that is closed without a TLS farewell has still said what it said.
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
        self.memory.text()
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

    pub fn state(&self) -> tokio::sync::watch::Receiver<callgate::server::State> {
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
    let password = callgate::demo::vodia::Options::default().admin_password;
    config::parse(&whole(text), dir.path(), &|name| match name {
        "PBX_ADMIN" => Some(password.clone()),
        "OIDC_SECRET" => Some(crate::login::oidc::SECRET.to_owned()),
        "OIDC_KEY" => Some(crate::login::oidc::KEY.to_owned()),
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

// === The program's events ===

/// What the program told since the oldest gate began that still runs: nobody searches further back.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    /// How many bytes were told before those.
    gone: usize,
    /// Where each running gate began.
    begun: Vec<usize>,
}

static EVENTS: OnceLock<Arc<Mutex<Kept>>> = OnceLock::new();

struct Events(Arc<Mutex<Kept>>);

impl std::io::Write for Events {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        kept(&self.0).bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn kept(events: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    events.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Collects every event of the program, down to the finest, for the search for secrets.
fn collected() -> MutexGuard<'static, Kept> {
    kept(EVENTS.get_or_init(|| {
        let events = Arc::<Mutex<Kept>>::default();
        let writer = Arc::clone(&events);
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || Events(Arc::clone(&writer)));
        tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
        events
    }))
}

/// What the program tells while a gate runs.
struct Told(usize);

impl Told {
    fn begin() -> Self {
        let mut kept = collected();
        let now = kept.gone + kept.bytes.len();
        kept.begun.push(now);
        Self(now)
    }

    fn text(&self) -> String {
        let kept = collected();
        String::from_utf8_lossy(&kept.bytes[self.0 - kept.gone..]).into_owned()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let mut kept = collected();
        let at = kept.begun.iter().position(|begun| *begun == self.0).unwrap();
        kept.begun.swap_remove(at);
        let oldest = kept.begun.iter().min().copied().unwrap_or(kept.gone + kept.bytes.len());
        let gone = oldest - kept.gone;
        kept.bytes.drain(..gone);
        kept.gone = oldest;
    }
}

/// The format of log lines in tests.
pub const FORMAT: LogFormat = LogFormat::Text;

// === A client ===

/// A request in the making.
pub struct Asking<'g> {
    gate: &'g Gate,
    method: Method,
    path: String,
    host: String,
    headers: HeaderMap,
    body: Bytes,
    h2: bool,
    from: Option<std::net::IpAddr>,
}

impl Asking<'_> {
    pub fn host(mut self, host: &str) -> Self {
        self.host = host.into();
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        self
    }

    pub fn cookie(self, cookie: &str) -> Self {
        self.header("cookie", cookie)
    }

    pub fn bearer(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub fn h2(mut self) -> Self {
        self.h2 = true;
        self
    }

    /// Comes from another loopback address, such as 127.0.0.7.
    pub fn from(mut self, ip: &str) -> Self {
        self.from = Some(ip.parse().unwrap());
        self
    }

    /// Sends the request on a connection of its own, and notes the secrets that go to and fro.
    pub async fn send(self) -> Answer {
        let gate = self.gate;
        let mut secrets = secrets_of_request(&self.path, &self.headers, &self.body);
        let is_login = self.path.starts_with("/auth/");
        let answer = self.exchange().await;
        secrets.extend(secrets_of_answer(&answer, is_login));
        for secret in secrets.into_iter().filter(|secret| secret.len() >= 16) {
            gate.canary(secret);
        }
        answer
    }

    async fn exchange(self) -> Answer {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        if let Some(ip) = self.from {
            socket.bind((ip, 0).into()).unwrap();
        }
        let stream = socket.connect(self.gate.addr).await.unwrap();
        let name = self.host.split(':').next().unwrap().to_owned();
        let tls = self.gate.tls(stream, &name, if self.h2 { "h2" } else { "http/1.1" }).await.unwrap();
        let uri = if self.h2 { format!("https://{}{}", self.host, self.path) } else { self.path.clone() };
        let mut request = Request::builder().method(self.method).uri(uri).body(Full::new(self.body)).unwrap();
        *request.headers_mut() = self.headers;
        if self.h2 {
            *request.version_mut() = Version::HTTP_2;
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
            tokio::spawn(connection);
            Answer::read(sender.send_request(request).await.unwrap()).await
        } else {
            request.headers_mut().insert("host", self.host.parse().unwrap());
            let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.unwrap();
            tokio::spawn(connection);
            Answer::read(sender.send_request(request).await.unwrap()).await
        }
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    async fn read(response: http::Response<hyper::body::Incoming>) -> Self {
        let (head, body) = response.into_parts();
        Self { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{:?} {:?}", self.headers, self.body);
        self
    }
}

// === The secrets of an exchange ===

/// The parameters that carry a session, a ticket, a one-time key, a password or what makes a link.
const PARAMETERS: [&str; 6] = ["sessId", "t", "key", "appUserPassword", "sig", "nonce"];

fn secrets_of_request(path: &str, headers: &HeaderMap, body: &[u8]) -> Vec<String> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let cookies = headers.get_all("cookie").iter().map(text).collect::<Vec<_>>().join(";");
    let cookies = cookies.split(';').filter_map(|pair| Some(pair.split_once('=')?.1.trim().to_owned()));
    let keys = headers.get_all("authorization").iter().map(text);
    let keys = keys.filter_map(|line| Some(line.split_once(' ')?.1.trim().to_owned()));
    cookies.chain(keys).chain(secrets_of_query(path)).chain(secrets_of_form(body)).collect()
}

fn secrets_of_answer(answer: &Answer, is_login: bool) -> Vec<String> {
    let cookies = answer.headers.get_all("set-cookie").iter().filter_map(|line| line.to_str().ok());
    let cookies = cookies.filter_map(|line| Some(line.split(';').next()?.split_once('=')?.1.to_owned()));
    let mut secrets: Vec<_> = cookies.chain(secrets_of_query(answer.header("location"))).collect();
    if is_login && answer.status == StatusCode::OK {
        match serde_json::from_slice::<serde_json::Value>(&answer.body) {
            Ok(serde_json::Value::String(session)) => secrets.push(session),
            Ok(object) => {
                let members = ["session", "token", "url"].iter().filter_map(|name| object[*name].as_str());
                secrets.extend(members.flat_map(|text| secrets_of_query(text).into_iter().chain([text.to_owned()])));
            }
            Err(_) if answer.header("content-type") == "text/plain" => secrets.push(answer.text().to_owned()),
            Err(_) => {}
        }
    }
    secrets
}

fn secrets_of_query(url: &str) -> Vec<String> {
    let url = url.split('#').next().unwrap_or_default();
    url.split_once('?').map_or_else(Vec::new, |(_, query)| secrets_of_form(query.as_bytes()))
}

fn secrets_of_form(form: &[u8]) -> Vec<String> {
    let pairs = form_urlencoded::parse(form).filter(|(name, _)| PARAMETERS.contains(&name.as_ref()));
    pairs.map(|(_, value)| value.into_owned()).collect()
}

// === An upstream of raw bytes ===

/// An upstream that reads one request head (and what a given length promises) per answer, keeps the bytes, and writes given bytes.
pub struct Raw {
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Raw {
    /// Answers every request on every connection with these bytes; closes when they say `Connection: close`.
    pub async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = Arc::<[u8]>::from(answer.into());
        let close = String::from_utf8_lossy(&answer).to_ascii_lowercase().contains("connection: close");
        Self::serving(move |mut line| {
            let answer = answer.clone();
            async move {
                while line.request().await.is_some() {
                    if line.stream.write_all(&answer).await.is_err() || close {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Answers one request on every connection with these bytes, and closes it.
    pub async fn closing(answer: impl Into<Vec<u8>>) -> Self {
        let answer = Arc::<[u8]>::from(answer.into());
        Self::serving(move |mut line| {
            let answer = answer.clone();
            async move {
                if line.request().await.is_some() {
                    line.say(&answer).await;
                }
            }
        })
        .await
    }

    /// Serves every connection with a script of the test; it is closed when the script ends.
    pub async fn serving<S: Future<Output = ()> + Send + 'static>(serve: impl Fn(Line) -> S + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let kept = seen.clone();
        let task = tokio::spawn(async move {
            for nth in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(Line { stream, nth, seen: kept.clone() }));
            }
        });
        Self { addr, seen, task }
    }

    /// Answers 200 with a body of two bytes, `ok`.
    pub async fn ok() -> Self {
        Self::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await
    }

    /// Reads the head of a request on every connection, and never answers.
    pub async fn silent() -> Self {
        Self::serving(|mut line| async move {
            line.head().await;
            line.rest().await;
        })
        .await
    }

    /// Returns the bytes of all requests so far.
    pub fn bytes(&self) -> Vec<Vec<u8>> {
        self.seen.lock().unwrap().clone()
    }

    /// Returns the same as text.
    pub fn seen(&self) -> Vec<String> {
        self.bytes().iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection that an upstream accepted, the `nth` from 0.
pub struct Line {
    pub stream: TcpStream,
    pub nth: usize,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Line {
    /// Reads a request and keeps its bytes for `Raw::seen`.
    pub async fn request(&mut self) -> Option<String> {
        let request = read_request(&mut self.stream).await?;
        self.seen.lock().unwrap().push(request.clone());
        Some(String::from_utf8_lossy(&request).into_owned())
    }

    /// Reads the head of a request, and nothing behind it.
    pub async fn head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.ok()?);
        }
        self.seen.lock().unwrap().push(head.clone());
        Some(String::from_utf8_lossy(&head).into_owned())
    }

    /// Keeps a note for `Raw::seen`.
    pub fn note(&self, text: String) {
        self.seen.lock().unwrap().push(text.into_bytes());
    }

    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        // Whether the gate still listens is what the test looks at from the other side.
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Waits until the other side has ended, and returns what it said until then.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest).await;
        rest
    }
}

/// Returns what the gate passed on of a request: its head without the fields that the gate adds, in order of name, and its body.
pub fn passed(request: &str) -> (String, Vec<String>, String) {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let (line, fields) = head.split_once("\r\n").unwrap();
    let ours = [
        "via: 1.1 callgate",
        "via: 1.0 callgate",
        "via: 2.0 callgate",
        "forwarded: ",
        "x-forwarded-",
        "x-request-id: ",
    ];
    let theirs = fields.split("\r\n").filter(|field| !ours.iter().any(|our| field.starts_with(our)));
    let mut fields: Vec<_> = theirs.map(str::to_owned).collect();
    // Equal names keep their order.
    fields.sort_by(|one, other| one.split(':').next().cmp(&other.split(':').next()));
    (line.to_owned(), fields, body.to_owned())
}

/// Returns the status of an answer as it came, 0 for none.
pub fn status(answer: &str) -> u16 {
    answer.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok()).unwrap_or(0)
}

/// Reads the head of an answer, and nothing behind it.
pub async fn read_head<R: tokio::io::AsyncRead + Unpin>(from: &mut R) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match from.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Reads one request: its head, and the body that `Content-Length` or chunks make.
pub async fn read_request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while !is_whole(&bytes) {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return (!bytes.is_empty()).then_some(bytes);
        }
    }
    Some(bytes)
}

fn is_whole(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    if head.contains("\r\ntransfer-encoding: chunked") {
        let body = &bytes[end + 2..];
        return body.ends_with(b"\r\n\r\n") && body.windows(5).any(|window| window == b"\r\n0\r\n");
    }
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok()).unwrap_or(0);
    bytes.len() >= end + 4 + length
}
