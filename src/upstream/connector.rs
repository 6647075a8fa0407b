//! Opens connections to one upstream.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::wire::Wire;
use crate::{config, tls};

/// Where one upstream is, and how its certificate is judged. Cheap to copy to every worker.
#[derive(Debug, Clone)]
pub struct Connector {
    host: Arc<str>,
    port: u16,
    address: Arc<str>,
    tls: Option<Tls>,
    deadline: Duration,
}

#[derive(Clone)]
struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({:?})", self.name)
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name is not known, nobody listens there, or TLS failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not in time.
    #[error("no connection in time")]
    Timeout,
}

impl Connector {
    /// Prepares for one upstream.
    ///
    /// # Errors
    /// When its trust roots cannot be used, or its name is none that TLS can check.
    pub fn new(upstream: &config::Upstream) -> Result<Self, rustls::Error> {
        let url = &upstream.url;
        let tls = if url.tls { Some(Tls::new(upstream)?) } else { None };
        let host: Arc<str> = url.host.as_str().into();
        let address =
            if host.contains(':') { format!("[{host}]:{}", url.port) } else { format!("{host}:{}", url.port) };
        Ok(Self { host, port: url.port, address: address.into(), tls, deadline: upstream.timeouts.connect })
    }

    /// Returns host and port, as a person writes them.
    pub(super) const fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// Opens a connection: look-up, TCP and TLS under one deadline. Names are looked up afresh each time.
    pub(super) async fn connect(&self) -> Result<Wire, ConnectError> {
        timeout(self.deadline, self.open()).await.map_err(|_| ConnectError::Timeout)?.map_err(ConnectError::Io)
    }

    async fn open(&self) -> io::Result<Wire> {
        let stream = match self.host.parse::<IpAddr>() {
            Ok(address) => TcpStream::connect((address, self.port)).await?,
            Err(_) => TcpStream::connect((&*self.host, self.port)).await?,
        };
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Wire::plain(stream)),
            Some(tls) => Ok(Wire::tls(tls.connector.connect(tls.name.clone(), stream).await?)),
        }
    }
}

impl Tls {
    fn new(upstream: &config::Upstream) -> Result<Self, rustls::Error> {
        let name = match &upstream.trust.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(upstream.url.host.clone())
                .map_err(|error| rustls::Error::General(error.to_string()))?,
        };
        Ok(Self { connector: TlsConnector::from(tls::client::config(&upstream.trust)?), name })
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn a_refused_connection_is_told_once() {
        let error = ConnectError::from(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!((error.to_string().as_str(), error.source().is_none()), ("connection refused", true));
    }
}
