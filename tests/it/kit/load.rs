//! Clients under constant load: keep-alive and new connections, HTTP/1.1 and HTTP/2. They report each lost request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::kit::client::{read_head, status};

/// How many clients there are of each kind.
const CLIENTS: usize = 2;

/// Requests without a pause, for `app.test`, which the upstream answers with `ok`.
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

struct Shared {
    addr: SocketAddr,
    roots: rustls::RootCertStore,
    stop: AtomicBool,
    /// Whether the gate is about to end. From then on it may refuse connections, and nothing else.
    leaving: AtomicBool,
    done: AtomicUsize,
    lost: Mutex<Vec<String>>,
}

/// A connection was refused, which costs no request.
struct Refused;

type Tls = TlsStream<TcpStream>;

impl Load {
    pub fn start(addr: SocketAddr, roots: rustls::RootCertStore) -> Self {
        let (stop, leaving) = (AtomicBool::default(), AtomicBool::default());
        let shared =
            Arc::new(Shared { addr, roots, stop, leaving, done: AtomicUsize::default(), lost: Mutex::default() });
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            clients.spawn(keep_alive(Arc::clone(&shared)));
            clients.spawn(anew(Arc::clone(&shared)));
            clients.spawn(multiplexed(Arc::clone(&shared)));
        }
        Self { shared, clients }
    }

    /// Waits until so many more requests are answered.
    pub async fn more(&self, count: usize) {
        let target = self.shared.done.load(Ordering::Relaxed) + count;
        crate::kit::stage::until("the load goes on", || self.shared.done.load(Ordering::Relaxed) >= target).await;
    }

    /// Permits the gate to refuse connections.
    pub fn may_be_refused(&self) {
        self.shared.leaving.store(true, Ordering::Relaxed);
    }

    /// Stops, and fails if a request was lost.
    pub async fn stop(mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        let lost = self.shared.lost.lock().unwrap();
        assert!(lost.is_empty(), "lost {} of {}: {lost:#?}", lost.len(), self.shared.done.load(Ordering::Relaxed));
    }

    /// Waits until every client is refused, and fails if a request was lost.
    pub async fn refused(mut self) {
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        self.stop().await;
    }
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn is_done(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    fn lose(&self, what: String) {
        self.lost.lock().unwrap().push(what);
    }

    async fn connect(&self, alpn: &str) -> Result<Option<Tls>, Refused> {
        let stream = match TcpStream::connect(self.addr).await {
            Ok(stream) => stream,
            Err(_) if self.leaving.load(Ordering::Relaxed) => return Err(Refused),
            Err(error) => return Ok(self.lost(format!("connect: {error}"))),
        };
        let mut config = rustls::ClientConfig::builder_with_provider(callgate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let name = ServerName::try_from("app.test").unwrap();
        match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
            Ok(tls) => Ok(Some(tls)),
            Err(error) => Ok(self.lost(format!("handshake: {error}"))),
        }
    }

    fn lost<T>(&self, what: String) -> Option<T> {
        self.lose(what);
        None
    }

    /// Asks once, and tells whether the connection may be asked again.
    async fn ask(&self, tls: &mut Tls, request: &[u8]) -> bool {
        let mut body = [0; 2];
        if let Err(error) = tls.write_all(request).await {
            self.lose(format!("write: {error}"));
            return false;
        }
        let head = read_head(tls).await;
        if status(&head) != 200 || tls.read_exact(&mut body).await.is_err() || &body != b"ok" {
            self.lose(format!("answer: {head:?} {body:?}"));
            return false;
        }
        self.is_done();
        !head.to_ascii_lowercase().contains("\r\nconnection: close\r\n")
    }
}

/// One connection for as long as the gate keeps it.
async fn keep_alive(shared: Arc<Shared>) {
    while shared.goes_on() {
        let Ok(tls) = shared.connect("http/1.1").await else { return };
        let Some(mut tls) = tls else { continue };
        while shared.ask(&mut tls, b"GET /keep HTTP/1.1\r\nHost: app.test\r\n\r\n").await && shared.goes_on() {}
    }
}

/// A connection for each request.
async fn anew(shared: Arc<Shared>) {
    while shared.goes_on() {
        let Ok(tls) = shared.connect("http/1.1").await else { return };
        let Some(mut tls) = tls else { continue };
        shared.ask(&mut tls, b"GET /anew HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await;
    }
}

/// Eight streams at a time on one connection, for as long as the gate keeps it.
async fn multiplexed(shared: Arc<Shared>) {
    while shared.goes_on() {
        let Ok(tls) = shared.connect("h2").await else { return };
        let Some(tls) = tls else { continue };
        let (send, connection) = match h2::client::handshake(tls).await {
            Ok(parts) => parts,
            Err(error) => {
                shared.lose(format!("h2: {error}"));
                continue;
            }
        };
        let connection = tokio::spawn(connection);
        let mut streams = JoinSet::new();
        for _ in 0..8 {
            streams.spawn(stream(Arc::clone(&shared), send.clone()));
        }
        drop(send);
        while streams.join_next().await.is_some() {}
        drop(connection.await);
    }
}

/// One request after the other. One that the gate says it has not looked at (RFC 9113 §6.8) is sent again elsewhere.
async fn stream(shared: Arc<Shared>, send: h2::client::SendRequest<Bytes>) {
    while shared.goes_on() {
        let Ok(mut ready) = send.clone().ready().await else { return };
        let request = http::Request::get("https://app.test/stream").body(()).unwrap();
        let Ok((response, _)) = ready.send_request(request, true) else { return };
        match whole(response).await {
            Ok(body) if body == b"ok" => shared.is_done(),
            Ok(body) => shared.lose(format!("h2 body: {body:?}")),
            Err(error) if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) => return,
            Err(error) => return shared.lose(format!("h2 stream: {error:?}")),
        }
    }
}

async fn whole(response: h2::client::ResponseFuture) -> Result<Vec<u8>, h2::Error> {
    let mut body = response.await?.into_body();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        bytes.extend_from_slice(&data?);
    }
    Ok(bytes)
}
