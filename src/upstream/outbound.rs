//! Connections through the proxy between callgate and the internet (CONNECT, RFC 9110 §9.3.6).

use std::pin::pin;

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::upgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::endpoint::dial;
use super::error::ConnectError;
use crate::config::{HostPort, OutboundProxy};

/// The longest head of the proxy's answer, in bytes.
const MAX_HEAD: usize = 8 << 10;

/// A connection that the proxy did not open. It never contains the proxy's user or password.
#[derive(Debug, thiserror::Error)]
#[error("no connection to {target} through the proxy {proxy}")]
pub(crate) struct ProxyError {
    proxy: HostPort,
    target: HostPort,
    #[source]
    fault: ProxyFault,
}

/// Why the proxy did not open a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyFault {
    /// The proxy cannot be reached.
    #[error("cannot connect to the proxy")]
    Connect(#[source] ConnectError),
    /// The proxy did not open the connection in time.
    #[error("the proxy did not open it in time")]
    Timeout,
    /// The answer is not HTTP, its head is too long, or it broke off.
    #[error("the proxy gave no valid answer to CONNECT: {0} must name an HTTP proxy")]
    Broken(&'static str, #[source] hyper::Error),
    /// Bytes came through before callgate sent any. A server waits for the client's first message (RFC 8446 §2).
    #[error("the proxy sent bytes before TLS began: {0} must name an HTTP proxy")]
    EarlyBytes(&'static str),
    /// The proxy does not open the connection.
    #[error("the proxy answered {status}: {advice}")]
    Refused { status: StatusCode, advice: String },
}

impl ProxyError {
    /// Makes the error for a fault.
    pub(super) fn new(proxy: &OutboundProxy, target: &HostPort, fault: ProxyFault) -> Box<Self> {
        Box::new(Self { proxy: proxy.address.clone(), target: target.clone(), fault })
    }
}

/// Opens a connection to `target` through the proxy, which learns the host and the port of `target` and nothing else.
///
/// # Errors
/// When the proxy does not open it.
pub(super) async fn dial_through(proxy: &OutboundProxy, target: &HostPort) -> Result<TcpStream, ProxyFault> {
    let stream = dial(&proxy.address).await.map_err(ProxyFault::Connect)?;
    let broken = |error| ProxyFault::Broken(proxy.variable, error);
    let mut builder = http1::Builder::new();
    let handshake = builder.max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(broken)?;
    let opened = async {
        let response = sender.send_request(connect(proxy, target)).await.map_err(broken)?;
        match response.status() {
            status if status.is_success() => upgrade::on(response).await.map_err(broken),
            status => Err(ProxyFault::Refused { status, advice: advice(proxy, target, status, response.headers()) }),
        }
    };
    let mut opened = pin!(opened);
    let upgraded = tokio::select! {
        opened = &mut opened => opened?,
        ended = connection.with_upgrades() => {
            ended.map_err(broken)?;
            opened.await?
        }
    };
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().expect("the connection is one over TCP");
    if parts.read_buf.is_empty() { Ok(parts.io.into_inner()) } else { Err(ProxyFault::EarlyBytes(proxy.variable)) }
}

fn connect(proxy: &OutboundProxy, target: &HostPort) -> Request<Empty<Bytes>> {
    let authority = HostPort { host: target.name().to_owned(), port: target.port }.to_string();
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::CONNECT;
    let host = HeaderValue::try_from(&authority).expect("the host of a URL");
    *request.uri_mut() = Uri::try_from(authority).expect("the host of a URL, and a port");
    request.headers_mut().insert(HOST, host);
    if let Some(authorization) = &proxy.authorization {
        request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization.clone());
    }
    request
}

/// Returns what the operator can do about an answer that refuses the connection.
fn advice(proxy: &OutboundProxy, target: &HostPort, status: StatusCode, headers: &HeaderMap) -> String {
    let variable = proxy.variable;
    match status {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED if !offers_basic(headers) => {
            "it wants a login of another kind than Basic: let it admit this machine without one".to_owned()
        }
        StatusCode::PROXY_AUTHENTICATION_REQUIRED if proxy.authorization.is_some() => {
            format!("it refuses the user and the password: correct them in {variable}")
        }
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            format!("write its user and password into {variable}, as in http://user:password@{}", proxy.address)
        }
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            format!("it cannot reach {target} itself")
        }
        _ => format!("let it open connections to {target}, or add {} to NO_PROXY", target.name()),
    }
}

/// Tells whether a 407 offers Basic (RFC 7617), or does not say what it wants.
fn offers_basic(headers: &HeaderMap) -> bool {
    let mut offers = headers.get_all(PROXY_AUTHENTICATE).iter().peekable();
    offers.peek().is_none()
        || offers.any(|offer| offer.to_str().is_ok_and(|offer| offer.to_ascii_lowercase().contains("basic")))
}
