//! Requests to servers that are not upstreams: an identity provider, a management API. They are rare, so each opens a
//! connection of its own.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::endpoint::dial;
use super::error::ConnectError;
use super::outbound::{ProxyError, ProxyFault, dial_through};
use crate::config::{HostPort, OutboundProxy, Trust};
use crate::model::loopback::is_loopback;
use crate::tls;

/// The longest body of an answer, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Sends requests to URLs, over verified TLS. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Fetcher {
    tls: TlsConnector,
    deadline: Duration,
    proxy: Option<Arc<OutboundProxy>>,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The URL is not one that may be fetched.
    #[error("{0}")]
    Url(&'static str),
    /// No connection could be opened.
    #[error("cannot connect")]
    Connect(#[source] ConnectError),
    /// The proxy between callgate and the internet opened no connection. The request was not sent.
    #[error(transparent)]
    Proxy(#[from] Box<ProxyError>),
    /// The answer is not HTTP, or broke off.
    #[error("no valid answer")]
    Broken(#[source] hyper::Error),
    /// The body is longer than permitted, or broke off.
    #[error("the answer is too long, or it broke off")]
    Body,
    /// The whole answer did not arrive in time.
    #[error("no answer in time")]
    Timeout,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

impl Fetcher {
    /// Prepares to fetch from servers that `trust` trusts. `deadline` is for a request and its whole answer,
    /// with the opening of the connection. Without a `proxy`, connections are direct.
    ///
    /// # Errors
    /// When a certificate of `ca` cannot be a trust root.
    pub(crate) fn new(
        trust: &Trust,
        deadline: Duration,
        proxy: Option<Arc<OutboundProxy>>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self { tls: TlsConnector::from(tls::client::config(trust)?), deadline, proxy })
    }

    /// Checks that a URL may be fetched: `https`, or `http` on this machine.
    ///
    /// # Errors
    /// When it may not.
    pub(crate) fn check(uri: &Uri) -> Result<(), FetchError> {
        Destination::of(uri).map(drop)
    }

    /// Sends a request to the server that its URI names. Redirects are returned, not followed.
    ///
    /// # Errors
    /// When there is no whole answer in time.
    pub(crate) async fn fetch(&self, request: Request<Bytes>) -> Result<Response<Bytes>, FetchError> {
        let due = Instant::now() + self.deadline;
        let target = Destination::of(request.uri())?;
        let stream = self.open(request.uri(), &target.at, due).await?;
        timeout_at(due, self.send(stream, target, request)).await.unwrap_or(Err(FetchError::Timeout))
    }

    /// Opens a connection to the server of a URL, without TLS.
    async fn open(&self, uri: &Uri, at: &HostPort, due: Instant) -> Result<TcpStream, FetchError> {
        let Some(proxy) = self.proxy.as_ref().filter(|proxy| proxy.is_for(uri)) else {
            let opened = timeout_at(due, dial(at)).await.map_err(|_| FetchError::Timeout)?;
            return opened.map_err(FetchError::Connect);
        };
        let opened = timeout_at(due, Box::pin(dial_through(proxy, at))).await.unwrap_or(Err(ProxyFault::Timeout));
        Ok(opened.map_err(|fault| ProxyError::new(proxy, at, fault))?)
    }

    async fn send(
        &self,
        stream: TcpStream,
        target: Destination,
        mut request: Request<Bytes>,
    ) -> Result<Response<Bytes>, FetchError> {
        request.headers_mut().insert(header::HOST, target.host);
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(|_| FetchError::Url("its path is not valid"))?;
        if !target.is_tls {
            return send_once(stream, request, MAX_ANSWER).await;
        }
        let name = ServerName::try_from(target.at.name().to_owned())
            .map_err(|_| FetchError::Url("its host is not a host name"))?;
        let stream = self.tls.connect(name, stream).await.map_err(tls::client::handshake_error);
        let stream = stream.map_err(|error| FetchError::Connect(error.into()))?;
        send_once(stream, request, MAX_ANSWER).await
    }
}

/// Where a URL leads.
struct Destination {
    at: HostPort,
    host: HeaderValue,
    is_tls: bool,
}

impl Destination {
    fn of(uri: &Uri) -> Result<Self, FetchError> {
        let authority = uri.authority().ok_or(FetchError::Url("it names no host"))?;
        let is_tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP && is_loopback(authority.host()) => false,
            _ => return Err(FetchError::Url("it must begin with https://, except on this machine")),
        };
        if authority.as_str().contains('@') {
            return Err(FetchError::Url("it has a user name in it"));
        }
        let bare = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self { at: HostPort { host: bare, port }, host: host_field(authority)?, is_tls })
    }
}

fn host_field(authority: &Authority) -> Result<HeaderValue, FetchError> {
    HeaderValue::from_str(authority.as_str()).map_err(|_| FetchError::Url("its host is not a host name"))
}

/// Sends a request to a server over a connection of its own, without TLS. The body of the answer may have `longest` bytes.
/// The caller has a deadline.
///
/// # Errors
/// When there is no whole answer.
pub(crate) async fn fetch_plain(
    at: &HostPort,
    request: Request<Bytes>,
    longest: usize,
) -> Result<Response<Bytes>, FetchError> {
    send_once(dial(at).await.map_err(FetchError::Connect)?, request, longest).await
}

/// Sends the only request of a connection and reads the whole answer. Its body may have `longest` bytes.
///
/// # Errors
/// When there is no whole answer.
pub(crate) async fn send_once<S>(
    stream: S,
    request: Request<Bytes>,
    longest: usize,
) -> Result<Response<Bytes>, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::Broken)?;
    let answer = async {
        let response = sender.send_request(request.map(Full::new)).await.map_err(FetchError::Broken)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, longest).collect().await.map_err(|_| FetchError::Body)?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    let mut answer = pin!(answer);
    tokio::select! {
        answer = &mut answer => return answer,
        ended = connection => ended.map_err(FetchError::Broken)?,
    }
    // The server closed the connection after its answer.
    answer.await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Fetches from a server that sends `answer` and closes.
    async fn fetched(answer: &'static str) -> Result<Response<Bytes>, FetchError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/jwks", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let fetcher = Fetcher::new(&Trust::roots(None), Duration::from_secs(10), None).unwrap();
        let fetched = fetcher.fetch(Request::get(uri).body(Bytes::new()).unwrap()).await;
        server.await.unwrap();
        fetched
    }

    #[tokio::test]
    async fn a_server_may_close_after_its_answer_but_not_within() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.0 200 OK\r\n\r\nok",
        ] {
            assert_eq!(fetched(answer).await.unwrap().into_body(), "ok", "{answer}");
        }
        for answer in ["", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "HTTP/1.1 200 OK\r\nConten"] {
            assert!(fetched(answer).await.is_err(), "{answer}");
        }
    }

    #[track_caller]
    fn check(uri: &str, expected: Option<(&str, u16)>) {
        let target = Destination::of(&uri.parse().unwrap()).ok();
        assert_eq!(target.as_ref().map(|target| (target.at.host.as_str(), target.at.port)), expected, "{uri}");
    }

    #[test]
    fn other_machines_are_reached_over_verified_tls_only() {
        check("https://id.example.com/jwks", Some(("id.example.com", 443)));
        check("https://id.example.com:8443/jwks", Some(("id.example.com", 8443)));
        check("https://[2001:db8::1]/", Some(("2001:db8::1", 443)));
        check("http://127.0.0.1:8080/jwks", Some(("127.0.0.1", 8080)));
        check("http://localhost/jwks", Some(("localhost", 80)));
        for uri in ["http://id.example.com/jwks", "ftp://id.example.com/", "/jwks", "https://a@id.example.com/"] {
            check(uri, None);
        }
    }
}
