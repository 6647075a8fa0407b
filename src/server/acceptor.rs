//! Where connections come in: a listening socket in the runtime of a worker.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use tokio::net::{TcpListener, UnixListener};

use super::client_io::Stream;
use super::listener::{Bound, Listener};

/// The address of a client on this machine that has none.
const LOCAL: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// A listening socket in the runtime of a worker.
pub(super) struct Door {
    socket: Open,
    /// As of the [`Listener`].
    pub(super) is_lent: bool,
}

enum Open {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Door {
    /// Makes a socket one that this runtime waits for.
    pub(super) fn open(listener: Listener) -> io::Result<Self> {
        let socket = match listener.socket {
            Bound::Tcp(socket) => TcpListener::from_std(socket).map(Open::Tcp)?,
            Bound::Unix(socket) => UnixListener::from_std(socket).map(Open::Unix)?,
        };
        Ok(Self { socket, is_lent: listener.is_lent })
    }

    pub(super) async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match &self.socket {
            Open::Tcp(listener) => listener.accept().await.map(|(stream, address)| (Stream::Tcp(stream), address)),
            Open::Unix(listener) => listener.accept().await.map(|(stream, _)| (Stream::Unix(stream), LOCAL)),
        }
    }
}
