//! One endpoint of an upstream: how to connect to it, and how its certificate is verified.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use super::error::ConnectError;
use super::health::EndpointHealth;
use super::io::Transport;
use super::lookup;
use crate::config::{HostPort, Pin, Trust, UpstreamUrl};
use crate::observe::metrics::UrlExchanges;
use crate::tls;

/// The head start of each address of a name over the next (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);
/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// One `url` of an upstream.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// Its `url`, as in the configuration.
    pub(super) address: Arc<str>,
    /// The `Host` of requests to it.
    pub(super) host: HeaderValue,
    pub(super) health: EndpointHealth,
    /// The exchanges under way there. Apart from the health, which is read far more often than it is written.
    pub(super) exchanges: Arc<UrlExchanges>,
    target: DialTarget,
}

/// Where and how to connect.
#[derive(Debug)]
enum DialTarget {
    Tcp(HostPort),
    Tls(HostPort, TlsSetup),
    Unix(PathBuf),
}

/// How TLS to an endpoint begins.
struct TlsSetup {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl fmt::Debug for TlsSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsSetup({:?})", self.name)
    }
}

impl Endpoint {
    pub(super) fn new(url: &UpstreamUrl, trust: &Trust, exchanges: Arc<UrlExchanges>) -> Result<Self, rustls::Error> {
        let target = match url {
            UpstreamUrl::Http(at) => DialTarget::Tcp(at.clone()),
            UpstreamUrl::Https(at) => DialTarget::Tls(at.clone(), TlsSetup::new(at, trust)?),
            UpstreamUrl::Unix(path) => DialTarget::Unix(path.clone()),
        };
        let host =
            HeaderValue::try_from(url.authority()).expect("the configuration admits only host names and addresses");
        Ok(Self { address: url.address().into(), host, health: EndpointHealth::default(), exchanges, target })
    }

    /// Opens a connection: look-up, TCP and TLS. Names are looked up afresh each time.
    pub(super) async fn open(&self) -> Result<Transport, ConnectError> {
        match &self.target {
            DialTarget::Tcp(at) => Ok(Transport::Plain(dial(at).await?)),
            DialTarget::Tls(at, tls) => {
                let stream = tls.connector.connect(tls.name.clone(), dial(at).await?).await;
                let stream = stream.map_err(tls::client::handshake_error)?;
                Ok(Transport::Tls(Box::new(stream)))
            }
            DialTarget::Unix(path) => Ok(Transport::Unix(UnixStream::connect(path).await?)),
        }
    }

    /// Tells whether the endpoint speaks TLS although its `url` begins with `http://`.
    pub(super) async fn speaks_tls(&self) -> bool {
        let DialTarget::Tcp(at) = &self.target else { return false };
        let Ok(name) = ServerName::try_from(at.host.clone()) else { return false };
        pin_of(at, name).await.is_ok()
    }

    /// Returns the pin of the certificate that the endpoint shows, trusted or not; `None` without TLS.
    pub(super) async fn pin(&self) -> Option<Result<Pin, ConnectError>> {
        let DialTarget::Tls(at, tls) = &self.target else { return None };
        Some(pin_of(at, tls.name.clone()).await)
    }
}

/// Connects without verification, and returns the pin of the certificate.
async fn pin_of(at: &HostPort, name: ServerName<'static>) -> Result<Pin, ConnectError> {
    let unverified = TlsConnector::from(tls::client::unverified_config().map_err(io::Error::other)?);
    let stream = unverified.connect(name, dial(at).await?).await?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let leaf = chain.first().ok_or_else(|| io::Error::other("it shows no certificate"))?;
    Ok(tls::client::pin(leaf).map_err(io::Error::other)?)
}

/// Looks up a host and connects to it over TCP.
pub(super) async fn dial(at: &HostPort) -> Result<TcpStream, ConnectError> {
    let stream = first_of(lookup::addresses(at, MAX_ADDRESSES).await?).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects to the first address that answers (RFC 8305). Each has a head start over the next, and none delays the rest
/// for longer.
async fn first_of(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    if let [address] = *addresses {
        return TcpStream::connect(address).await;
    }
    let mut addresses = addresses.into_iter().peekable();
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::other("the name has no address");
    loop {
        if let Some(address) = addresses.next() {
            attempts.spawn(TcpStream::connect(address));
        }
        tokio::select! {
            connected = attempts.join_next() => match connected {
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(error))) => failure = error,
                Some(Err(error)) => failure = error.into(),
                None => return Err(failure),
            },
            () = sleep(STAGGER), if addresses.peek().is_some() => {}
        }
    }
}

impl TlsSetup {
    fn new(at: &HostPort, trust: &Trust) -> Result<Self, rustls::Error> {
        let name = match &trust.server_name {
            Some(name) => name.clone(),
            None => {
                ServerName::try_from(at.name().to_owned()).map_err(|error| rustls::Error::General(error.to_string()))?
            }
        };
        Ok(Self { connector: TlsConnector::from(tls::client::config(trust)?), name })
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::{Instant, timeout};

    use super::*;

    /// Returns a listener that neither accepts nor refuses a connection: its queue is full.
    async fn black_hole() -> (TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let mut filled = Vec::new();
        while let Ok(Ok(stream)) =
            timeout(Duration::from_millis(300), TcpStream::connect(listener.local_addr().unwrap())).await
        {
            filled.push(stream);
        }
        (listener, filled)
    }

    #[tokio::test]
    async fn an_address_without_an_answer_does_not_delay_the_next() {
        let (silent, _filled) = black_hole().await;
        let live = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (silent, live) = (silent.local_addr().unwrap(), live.local_addr().unwrap());
        let begun = Instant::now();
        for addresses in [vec![silent, live], vec![closed, live], vec![silent, closed, live], vec![live, silent]] {
            let stream = first_of(addresses.clone()).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), live, "{addresses:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert_eq!(first_of(vec![closed, closed]).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(first_of(Vec::new()).await.is_err());
    }
}
