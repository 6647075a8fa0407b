//! One connection to a syslog server. Each call has a deadline.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, RootCertStore};
use socket2::{SockRef, TcpKeepalive};
use tokio::time::Instant;

use crate::config::SyslogTls;
use crate::handshake_advice::{self, ServerWords};

/// How long all addresses of a server may take to accept a connection, and then the handshake.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one address may take to accept a connection.
const CONNECT_ONE: Duration = Duration::from_secs(2);
/// How long one write may wait for the server to read.
const WRITE: Duration = Duration::from_millis(250);
/// How long a connection is idle before the system asks whether the server is there, and the pause between questions.
const IDLE: Duration = Duration::from_secs(30);
/// How many bytes are read at once from a server, which has nothing to say.
const READ: usize = 4 << 10;
/// How often a server that talks is read from before messages go on.
const READS: usize = 16;

const WORDS: ServerWords = ServerWords { plain: "`syslog` begin with tcp:", name: "name that in `server_name`" };

/// How TLS is spoken with one server (RFC 5425).
pub(super) struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// An open connection.
pub(super) struct StreamConnection {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    since: Instant,
}

impl TlsClient {
    /// Prepares TLS. The certificate of the server is always verified.
    pub(super) fn new(to: &SyslogTls) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        match &to.ca {
            Some(ca) => {
                for certificate in ca {
                    roots.add(certificate.clone()).map_err(io::Error::other)?;
                }
            }
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(io::Error::other)?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::disabled();
        let name = match &to.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(to.at.name().to_owned()).map_err(io::Error::other)?,
        };
        Ok(Self { config: Arc::new(config), name })
    }
}

impl StreamConnection {
    /// Connects to the first address that accepts, and shakes hands. The system gives the connection up when sent bytes
    /// are not acknowledged for `unacknowledged`.
    pub(super) fn open(
        addresses: &[SocketAddr],
        tls: Option<&TlsClient>,
        unacknowledged: Duration,
    ) -> io::Result<Self> {
        let socket = connect(addresses)?;
        let options = SockRef::from(&socket);
        options.set_tcp_user_timeout(Some(unacknowledged))?;
        options.set_tcp_keepalive(&TcpKeepalive::new().with_time(IDLE).with_interval(IDLE))?;
        socket.set_nodelay(true)?;
        let tls = match tls {
            Some(client) => Some(Box::new(handshake(&socket, client).map_err(advised)?)),
            None => None,
        };
        socket.set_write_timeout(Some(WRITE))?;
        Ok(Self { socket, tls, since: Instant::now() })
    }

    /// Returns the version of TLS; `None` without TLS.
    pub(super) fn tls_version(&self) -> Option<ProtocolVersion> {
        self.tls.as_ref()?.protocol_version()
    }

    /// Returns how long ago the connection was made.
    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Checks that the server has not closed the connection. Drops what it says: there are no answers in this protocol.
    pub(super) fn check_open(&mut self) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        let checked = self.read_what_is_there();
        self.socket.set_nonblocking(false)?;
        match checked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            checked => checked,
        }
    }

    fn read_what_is_there(&mut self) -> io::Result<()> {
        let mut bytes = [0; READ];
        for _ in 0..READS {
            let is_over = match &mut self.tls {
                None => self.socket.read(&mut bytes)? == 0,
                Some(tls) => {
                    let is_over = tls.read_tls(&mut self.socket)? == 0;
                    let state = tls.process_new_packets().map_err(invalid)?;
                    let mut left = state.plaintext_bytes_to_read();
                    while left > 0 {
                        left = left.saturating_sub(tls.reader().read(&mut bytes)?.max(1));
                    }
                    is_over || state.peer_has_closed()
                }
            };
            if is_over {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server closed the connection"));
            }
        }
        Ok(())
    }

    /// Takes some of these bytes, and returns how many.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.write(bytes) };
        flush(tls, &mut self.socket)?;
        let taken = tls.writer().write(bytes)?;
        match flush(tls, &mut self.socket) {
            // What is encrypted already goes first the next time.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(taken),
            flushed => flushed.map(|()| taken),
        }
    }

    /// Sends what was taken.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.tls.as_mut().map_or(Ok(()), |tls| flush(tls, &mut self.socket))
    }

    /// Returns whether the system has all that was taken.
    pub(super) fn is_flushed(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| !tls.wants_write())
    }

    /// Closes the connection, after what was sent. Returns whether the system has all that was taken.
    pub(super) fn end(mut self) -> bool {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        // Bytes that were not read would reset the connection, and what is on its way would be lost.
        let ended = self.check_open().and_then(|()| self.flush()).and_then(|()| self.socket.shutdown(Shutdown::Write));
        if let Err(error) = ended {
            tracing::debug!(%error, "the connection to the syslog server did not end well");
        }
        self.is_flushed()
    }
}

fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let deadline = Instant::now() + CONNECT;
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in addresses {
        let left = deadline.saturating_duration_since(Instant::now()).min(CONNECT_ONE);
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(address, left) {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn handshake(socket: &TcpStream, client: &TlsClient) -> io::Result<ClientConnection> {
    let deadline = Instant::now() + CONNECT;
    let mut tls = ClientConnection::new(Arc::clone(&client.config), client.name.clone()).map_err(invalid)?;
    let mut io = socket;
    while tls.is_handshaking() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        socket.set_read_timeout(Some(left))?;
        socket.set_write_timeout(Some(left))?;
        while tls.wants_write() {
            tls.write_tls(&mut io)?;
        }
        if tls.is_handshaking() && tls.wants_read() {
            if tls.read_tls(&mut io)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Err(error) = tls.process_new_packets() {
                // The alert tells the server why.
                let _ = tls.write_tls(&mut io);
                return Err(invalid(error));
            }
        }
    }
    Ok(tls)
}

fn flush(tls: &mut ClientConnection, socket: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(socket)?;
    }
    Ok(())
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Puts what the operator can do in front of the cause of a failed handshake.
fn advised(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        return io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long");
    }
    match handshake_advice::of(&error, WORDS) {
        Some(advice) => io::Error::new(error.kind(), format!("{advice}: {error}")),
        None => error,
    }
}
