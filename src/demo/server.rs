//! The small server under every stand-in: accepts, records, answers, and misbehaves below HTTP when told to.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::create_response;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::body::Body;

/// How many records, logins or keys are kept.
pub(super) const KEPT: usize = 1_000;
/// The pause after a failed accept.
const BACK_OFF: Duration = Duration::from_millis(10);
/// The largest request body that is read, in bytes.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// What a stand-in does with connections and requests.
pub(super) trait Site: Send + Sync + 'static {
    /// Tells whether a new connection is served; if not, it is closed before a byte is read.
    fn admits(&self, _peer: IpAddr) -> bool {
        true
    }

    /// Answers a request.
    fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> impl Future<Output = Answer> + Send;
}

/// What becomes of a request.
pub(super) enum Answer {
    /// A proper response.
    Http(Response<Body>),
    /// Exactly these bytes, then the end of the connection.
    Raw(Vec<u8>),
    /// The end of the connection without a byte.
    Drop,
    /// A WebSocket, after this response; the function answers each text.
    Socket(Response<()>, fn(&str) -> Option<String>),
}

impl From<Response<Body>> for Answer {
    fn from(response: Response<Body>) -> Self {
        Self::Http(response)
    }
}

/// A running server, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) addr: SocketAddr,
    accepting: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Starts a server at a free port of 127.0.0.1.
pub(super) async fn serve<S: Site>(site: Arc<S>) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("the loopback has a free port");
    let addr = listener.local_addr().expect("a bound socket has an address");
    Server { addr, accepting: tokio::spawn(accept(listener, site)).abort_handle() }
}

/// Accepts for ever. The set ends every connection when the server is dropped.
async fn accept<S: Site>(listener: TcpListener, site: Arc<S>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((socket, peer)) = listener.accept().await else {
            tokio::time::sleep(BACK_OFF).await;
            continue;
        };
        if site.admits(peer.ip()) {
            connections.spawn(connection(Arc::clone(&site), socket, peer.ip()));
        }
    }
}

/// The service has handed the connection over to something that is not HTTP.
#[derive(Debug, thiserror::Error)]
#[error("the connection is taken over")]
struct TakenOver;

async fn connection<S: Site>(site: Arc<S>, socket: TcpStream, peer: IpAddr) {
    let rest = Arc::new(Mutex::new(None));
    let service = service_fn(|request| {
        let (site, rest) = (Arc::clone(&site), Arc::clone(&rest));
        Box::pin(async move {
            match site.answer(request, peer).await {
                Answer::Http(response) => Ok(response),
                other => {
                    *lock(&rest) = Some(other);
                    Err(TakenOver)
                }
            }
        })
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
    // The result says what the client did or what the script broke: neither is news here.
    drop(poll_fn(|context| connection.poll_without_shutdown(context)).await);
    let parts = connection.into_parts();
    let rest = lock(&rest).take();
    take_over(parts.io.into_inner(), rest, &parts.read_buf).await;
}

/// Ends a connection that hyper has left. A client that has gone already is not an error.
async fn take_over(mut socket: TcpStream, rest: Option<Answer>, read: &[u8]) {
    match rest {
        Some(Answer::Raw(bytes)) => drop(socket.write_all(&bytes).await),
        Some(Answer::Socket(response, reply)) => return talk(socket, &response, read, reply).await,
        Some(Answer::Http(_) | Answer::Drop) | None => {}
    }
    drop(socket.shutdown().await);
}

async fn talk(mut socket: TcpStream, response: &Response<()>, read: &[u8], reply: fn(&str) -> Option<String>) {
    if socket.write_all(&head_bytes(response, None)).await.is_err() {
        return;
    }
    let mut messages = WebSocketStream::from_partially_read(socket, read.to_vec(), Role::Server, None).await;
    while let Some(Ok(message)) = messages.next().await {
        let sent = match message {
            Message::Text(text) => match reply(&text) {
                Some(text) => messages.send(Message::text(text)).await,
                None => continue,
            },
            Message::Binary(bytes) => messages.send(Message::Binary(bytes)).await,
            // Pings and closing frames are answered by the library, at the next flush.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => messages.flush().await,
        };
        if sent.is_err() {
            return;
        }
    }
}

// === Answers ===

/// Makes a response with a type of content.
pub(super) fn reply(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Makes a JSON response.
pub(super) fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    reply(status, "application/json", value.to_string())
}

/// Makes a page.
pub(super) fn html(status: StatusCode, page: String) -> Response<Body> {
    reply(status, "text/html; charset=utf-8", page)
}

/// Makes a plain text response.
pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    reply(status, "text/plain; charset=utf-8", text.into())
}

/// Makes a redirect; a location that no header can hold is answered 400.
pub(super) fn redirect(status: StatusCode, location: &str) -> Response<Body> {
    let Ok(location) = HeaderValue::from_str(location) else {
        return text(StatusCode::BAD_REQUEST, "no such location");
    };
    let mut response = Response::new(Body::from(""));
    *response.status_mut() = status;
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// Accepts a WebSocket handshake (RFC 6455 §4.2.2), or answers 400.
pub(super) fn socket(head: &Parts, reply: fn(&str) -> Option<String>) -> Answer {
    let request = Request::from_parts(head.clone(), ());
    match create_response(&request) {
        Ok(response) => Answer::Socket(response, reply),
        Err(_) => text(StatusCode::BAD_REQUEST, "not a websocket handshake").into(),
    }
}

/// Returns a response as bytes; the function turns the length of its body into the one it announces.
pub(super) fn raw(response: &Response<Body>, announced: impl FnOnce(usize) -> usize) -> Vec<u8> {
    let body = response.body().bytes();
    let mut bytes = head_bytes(response, Some(announced(body.len())));
    bytes.extend(body);
    bytes
}

fn head_bytes<B>(response: &Response<B>, length: Option<usize>) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    if let Some(length) = length {
        bytes.extend(format!("content-length: {length}\r\n").into_bytes());
    }
    bytes.extend(b"\r\n");
    bytes
}

// === Requests ===

/// Reads a request to its end, or to 64 MiB.
///
/// # Errors
/// Returns 413 when the body is larger or the client went away in the middle of it.
pub(super) async fn collect(request: Request<Incoming>) -> Result<(Parts, Bytes), Response<Body>> {
    let (head, body) = request.into_parts();
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok((head, body.to_bytes())),
        Err(_) => Err(text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large")),
    }
}

/// Returns the value of a query or form field.
pub(super) fn field(form: &[u8], name: &str) -> Option<String> {
    form_urlencoded::parse(form).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// Returns the value of a query field.
pub(super) fn query(head: &Parts, name: &str) -> Option<String> {
    field(head.uri.query()?.as_bytes(), name)
}

/// Returns the value of a cookie.
pub(super) fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

/// Returns so many random characters of an alphabet.
pub(super) fn random(alphabet: &[u8], length: usize) -> String {
    let mut bytes = vec![0; length];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has random bytes");
    bytes.into_iter().map(|byte| char::from(alphabet[usize::from(byte) % alphabet.len()])).collect()
}

// === Records ===

/// A request as it arrived: the head only.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The method.
    pub method: Method,
    /// The request target, as it was spelled.
    pub target: String,
    /// Every header, duplicates included, with names in lower case.
    pub headers: HeaderMap,
}

impl Seen {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let (method, headers) = (request.method().clone(), request.headers().clone());
        Self { method, target: request.uri().to_string(), headers }
    }

    /// Returns the first value of a header, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// The latest thousand of something.
#[derive(Debug)]
pub(super) struct Recent<T>(Mutex<VecDeque<T>>);

impl<T: Clone> Recent<T> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    pub(super) fn push(&self, item: T) {
        let mut items = lock(&self.0);
        if items.len() == KEPT {
            items.pop_front();
        }
        items.push_back(item);
    }

    pub(super) fn all(&self) -> Vec<T> {
        lock(&self.0).iter().cloned().collect()
    }
}

/// Locks; a test that panicked elsewhere leaves nothing half done that matters here.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
