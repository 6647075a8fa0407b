//! A listening socket in the runtime of a worker.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use tokio::net::{TcpListener, UnixListener};

use super::client_io::ClientStream;
use super::listener::{Listener, ListeningSocket};

/// The address of a client that connects to a unix socket: it has none, and is on this machine.
const LOCAL: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// A listening socket that a runtime waits for.
pub(super) struct Acceptor {
    socket: AcceptorSocket,
    /// As [`Listener::is_lent`].
    pub(super) is_lent: bool,
}

enum AcceptorSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    /// Registers a socket in the current runtime.
    pub(super) fn new(listener: Listener) -> io::Result<Self> {
        let socket = match listener.socket {
            ListeningSocket::Tcp(socket) => TcpListener::from_std(socket).map(AcceptorSocket::Tcp)?,
            ListeningSocket::Unix(socket) => UnixListener::from_std(socket).map(AcceptorSocket::Unix)?,
        };
        Ok(Self { socket, is_lent: listener.is_lent })
    }

    pub(super) async fn accept(&self) -> io::Result<(ClientStream, SocketAddr)> {
        match &self.socket {
            AcceptorSocket::Tcp(listener) => {
                listener.accept().await.map(|(stream, address)| (ClientStream::Tcp(stream), address))
            }
            AcceptorSocket::Unix(listener) => {
                listener.accept().await.map(|(stream, _)| (ClientStream::Unix(stream), LOCAL))
            }
        }
    }
}
