//! Where connections come in: a listening socket in the runtime of a worker.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;

use socket2::{SockFilter, SockRef};
use tokio::net::{TcpListener, UnixListener};

use super::io::Stream;
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

    /// Lets no connection begin any more. Those that are being made are still made: their clients believe that they
    /// are connected already.
    pub(super) fn shut(&self) -> io::Result<()> {
        match &self.socket {
            Open::Tcp(listener) => SockRef::from(&listener.as_fd()).attach_filter(&NO_SYN),
            // Its name is gone, so nobody finds it.
            Open::Unix(_) => Ok(()),
        }
    }
}

/// A packet filter in the instructions of BPF: drops a TCP segment that has SYN and not ACK among its flags.
const NO_SYN: [SockFilter; 5] = {
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
};
