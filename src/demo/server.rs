//! The small HTTP/1.1 server under every stand-in.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
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

/// How many sessions, logins or keys a stand-in remembers.
pub(super) const CAPACITY: usize = 1_000;
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// The largest request body that is read, in bytes.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// The body of a stand-in's response.
pub type DemoBody = UnsyncBoxBody<Bytes, io::Error>;

/// A stand-in's behaviour: which connections it serves and how it answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Tells whether a new connection is served. If not, it is closed before a byte is read.
    fn admits(&self, _peer: IpAddr) -> bool {
        true
    }

    /// Answers a request.
    fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> impl Future<Output = Reply> + Send;
}

/// The reply to a request.
pub enum Reply {
    /// An HTTP response.
    Http(Response<DemoBody>),
    /// No HTTP response: the function gets the connection.
    TakeOver(TakeOver),
}

/// Takes a connection after its request, with the bytes that were read behind the request, and ends it.
pub type TakeOver = Box<dyn FnOnce(TcpStream, Bytes) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

impl Reply {
    /// Closes the connection without an answer.
    #[must_use]
    pub fn hang_up() -> Self {
        Self::TakeOver(Box::new(|mut socket, _| {
            Box::pin(async move {
                // A client that has closed already is no error.
                drop(socket.shutdown().await);
            })
        }))
    }
}

impl From<Response<DemoBody>> for Reply {
    fn from(response: Response<DemoBody>) -> Self {
        Self::Http(response)
    }
}

/// A running stand-in. It stops when this is dropped.
#[derive(Debug)]
pub struct StandIn<H> {
    /// Where it listens.
    pub addr: SocketAddr,
    /// The handler of its requests.
    pub handler: Arc<H>,
    accepting: AbortHandle,
}

impl<H> Drop for StandIn<H> {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Starts a stand-in at a free port of 127.0.0.1.
///
/// # Panics
/// When 127.0.0.1 has no free port.
pub async fn serve<H: Handler>(handler: H) -> StandIn<H> {
    serve_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), handler).await.expect("the loopback has a free port")
}

/// Starts a stand-in at an address.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve_at<H: Handler>(addr: SocketAddr, handler: H) -> io::Result<StandIn<H>> {
    let listener = TcpListener::bind(addr).await?;
    let addr = listener.local_addr()?;
    let handler = Arc::new(handler);
    let accepting = tokio::spawn(accept(listener, Arc::clone(&handler))).abort_handle();
    Ok(StandIn { addr, handler, accepting })
}

/// Accepts connections until the stand-in is dropped; the set then ends every connection.
async fn accept<H: Handler>(listener: TcpListener, handler: Arc<H>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((socket, peer)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        if handler.admits(peer.ip()) {
            connections.spawn(serve_connection(Arc::clone(&handler), socket, peer.ip()));
        }
    }
}

/// The error by which a service makes hyper leave a connection that the handler took over.
#[derive(Debug, thiserror::Error)]
#[error("the connection is taken over")]
struct TakeOverSignal;

async fn serve_connection<H: Handler>(handler: Arc<H>, socket: TcpStream, peer: IpAddr) {
    let successor = Arc::new(Mutex::new(None));
    let service = service_fn(|request| {
        let (handler, successor) = (Arc::clone(&handler), Arc::clone(&successor));
        Box::pin(async move {
            match handler.answer(request, peer).await {
                Reply::Http(response) => Ok(response),
                Reply::TakeOver(take_over) => {
                    *lock(&successor) = Some(take_over);
                    Err(TakeOverSignal)
                }
            }
        })
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
    // An error is the client's end or the take-over: neither needs a report.
    drop(poll_fn(|context| connection.poll_without_shutdown(context)).await);
    let parts = connection.into_parts();
    let mut socket = parts.io.into_inner();
    let take_over = lock(&successor).take();
    match take_over {
        Some(take_over) => take_over(socket, parts.read_buf).await,
        None => drop(socket.shutdown().await),
    }
}

// === WebSockets ===

/// Accepts a WebSocket handshake (RFC 6455 §4.2.2), or answers 400. `react` answers each text message.
pub fn websocket(head: &Parts, react: fn(&str) -> Option<String>) -> Reply {
    let request = Request::from_parts(head.clone(), ());
    let Ok(response) = create_response(&request) else {
        return text(StatusCode::BAD_REQUEST, "not a websocket handshake").into();
    };
    Reply::TakeOver(Box::new(move |socket, read| Box::pin(exchange_messages(socket, response, read, react))))
}

async fn exchange_messages(
    mut socket: TcpStream,
    response: Response<()>,
    read: Bytes,
    react: fn(&str) -> Option<String>,
) {
    if socket.write_all(&head_bytes(&response)).await.is_err() {
        return;
    }
    let mut messages = WebSocketStream::from_partially_read(socket, read.to_vec(), Role::Server, None).await;
    while let Some(Ok(message)) = messages.next().await {
        let sent = match message {
            Message::Text(text) => match react(&text) {
                Some(text) => messages.send(Message::text(text)).await,
                None => continue,
            },
            Message::Binary(bytes) => messages.send(Message::Binary(bytes)).await,
            // The library answers pings and closing frames at the next flush.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => messages.flush().await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Returns the head of a response as HTTP/1.1 writes it, without a length.
fn head_bytes(response: &Response<()>) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend(b"\r\n");
    bytes
}

// === Responses ===

/// Makes a body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> DemoBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Makes a response with a content type.
pub fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<DemoBody> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Makes a JSON response.
pub fn json(status: StatusCode, value: &serde_json::Value) -> Response<DemoBody> {
    reply(status, "application/json", value.to_string())
}

/// Makes a page.
pub fn html(status: StatusCode, page: String) -> Response<DemoBody> {
    reply(status, "text/html; charset=utf-8", page)
}

/// Makes a plain text response.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<DemoBody> {
    reply(status, "text/plain; charset=utf-8", text)
}

/// Makes a redirect. A location that is not a valid header value is answered with 400.
pub fn redirect(status: StatusCode, location: &str) -> Response<DemoBody> {
    let Ok(location) = HeaderValue::from_str(location) else {
        return text(StatusCode::BAD_REQUEST, "no such location");
    };
    let mut response = Response::new(full(""));
    *response.status_mut() = status;
    response.headers_mut().insert(header::LOCATION, location);
    response
}

// === Requests ===

/// Reads a request whole, with a body of at most 64 MiB.
///
/// # Errors
/// Returns a response with 413 when the body is larger or breaks off.
pub async fn collect(request: Request<Incoming>) -> Result<(Parts, Bytes), Response<DemoBody>> {
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
#[must_use]
pub fn query(head: &Parts, name: &str) -> Option<String> {
    field(head.uri.query()?.as_bytes(), name)
}

/// Returns the value of a cookie.
pub(super) fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

/// Returns `length` random characters of an alphabet.
///
/// # Panics
/// When the system's generator of random numbers fails.
#[must_use]
pub fn random(alphabet: &[u8], length: usize) -> String {
    let mut bytes = vec![0; length];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's generator is seeded before main");
    bytes.into_iter().map(|byte| char::from(alphabet[usize::from(byte) % alphabet.len()])).collect()
}

/// Locks a mutex, poisoned or not: no change under these locks is left half done by a panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
