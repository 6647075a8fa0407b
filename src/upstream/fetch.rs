//! Questions to servers that are no upstream: an identity provider, a management API. They are rare, so each has a
//! connection of its own.

use std::fmt;
use std::io;
use std::pin::pin;
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
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::endpoint::dial;
use crate::config::{HostPort, Trust};
use crate::model::loopback::is_loopback;
use crate::tls;

/// The longest answer, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Asks servers by their URLs, over TLS that is verified. Cheap to copy.
#[derive(Clone)]
pub struct Fetcher {
    tls: TlsConnector,
    deadline: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL is not one that is asked.
    #[error("{0}")]
    Url(&'static str),
    /// No connection.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// What came is not HTTP, or broke off.
    #[error("no valid answer")]
    Broken(#[source] hyper::Error),
    /// More than it may have, or broken off within the body.
    #[error("the answer is too long, or it broke off")]
    Body,
    /// Not in time.
    #[error("no answer in time")]
    Timeout,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

impl Fetcher {
    /// Prepares to ask servers that `trust` trusts. `deadline` is for each question as a whole.
    ///
    /// # Errors
    /// When a certificate of `ca` cannot be a trust root.
    pub fn new(trust: &Trust, deadline: Duration) -> Result<Self, rustls::Error> {
        Ok(Self { tls: TlsConnector::from(tls::client::config(trust)?), deadline })
    }

    /// Tells whether a URL may be asked: `https`, or `http` on this machine.
    ///
    /// # Errors
    /// When it is none of them.
    pub fn check(uri: &Uri) -> Result<(), FetchError> {
        Destination::of(uri).map(drop)
    }

    /// Asks the server that the URI of the request names. Redirects are answers like any other: nobody follows them.
    ///
    /// # Errors
    /// When there is no whole answer in time.
    pub async fn fetch(&self, request: Request<Bytes>) -> Result<Response<Bytes>, FetchError> {
        timeout(self.deadline, self.ask(request)).await.unwrap_or(Err(FetchError::Timeout))
    }

    async fn ask(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, FetchError> {
        let place = Destination::of(request.uri())?;
        request.headers_mut().insert(header::HOST, place.host);
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(|_| FetchError::Url("its path is none"))?;
        let stream = dial(&place.at).await.map_err(FetchError::Connect)?;
        if !place.is_tls {
            return send_once(stream, request, MAX_ANSWER).await;
        }
        let name =
            ServerName::try_from(place.at.name().to_owned()).map_err(|_| FetchError::Url("its host is no name"))?;
        let stream = self.tls.connect(name, stream).await.map_err(tls::client::handshake_error);
        let stream = stream.map_err(FetchError::Connect)?;
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
            _ => return Err(FetchError::Url("it must begin with https://, but for this machine")),
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
    HeaderValue::from_str(authority.as_str()).map_err(|_| FetchError::Url("its host is no name"))
}

/// Sends the one request of a connection, and hears the answer to its end. It may have `longest` bytes.
///
/// # Errors
/// When there is no whole answer.
pub async fn send_once<S>(stream: S, request: Request<Bytes>, longest: usize) -> Result<Response<Bytes>, FetchError>
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
    // The server has closed behind its answer.
    answer.await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Fetches from a server that says this and closes.
    async fn fetched(said: &'static str) -> Result<Response<Bytes>, FetchError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/jwks", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
        });
        let fetcher = Fetcher::new(&Trust::roots(None), Duration::from_secs(10)).unwrap();
        let fetched = fetcher.fetch(Request::get(uri).body(Bytes::new()).unwrap()).await;
        server.await.unwrap();
        fetched
    }

    #[tokio::test]
    async fn a_server_may_close_behind_its_answer_and_not_within() {
        for said in [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.0 200 OK\r\n\r\nok",
        ] {
            assert_eq!(fetched(said).await.unwrap().into_body(), "ok", "{said}");
        }
        for said in ["", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "HTTP/1.1 200 OK\r\nConten"] {
            assert!(fetched(said).await.is_err(), "{said}");
        }
    }

    #[track_caller]
    fn check(uri: &str, expected: Option<(&str, u16)>) {
        let place = Destination::of(&uri.parse().unwrap()).ok();
        assert_eq!(place.as_ref().map(|place| (place.at.host.as_str(), place.at.port)), expected, "{uri}");
    }

    #[test]
    fn only_verified_tls_leads_out_of_this_machine() {
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
