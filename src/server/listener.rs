//! A listening socket: how it is bound, and how it is closed.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::refuse_new;
use crate::config::Listen;

/// How many connections may wait to be accepted. The system caps it (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;
/// The mode of a unix socket: its owner and its group may connect.
const MODE: u32 = 0o660;

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: ListeningSocket,
    /// Whether another process keeps it open, too, and with it its queue: systemd does.
    pub(super) is_lent: bool,
}

#[derive(Debug)]
pub(super) enum ListeningSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    const fn own(socket: ListeningSocket) -> Self {
        Self { socket, is_lent: false }
    }

    /// Binds an address.
    pub(super) fn bind(address: &Listen) -> io::Result<Self> {
        Ok(Self::own(match address {
            Listen::Tcp(address) => ListeningSocket::Tcp(bind(*address, false)?),
            Listen::Unix(path) => ListeningSocket::Unix(bind_unix(path)?),
        }))
    }

    /// Binds an address several times, so that each worker has a queue of its own.
    pub(super) fn bind_shared(address: SocketAddr, count: usize) -> io::Result<Vec<Self>> {
        if address.port() != 0 {
            // `SO_REUSEPORT` would share the port with another callgate, too. A bind without it fails if one is there.
            drop(bind(address, false)?);
        }
        let mut bound = address;
        let mut listeners = Vec::with_capacity(count);
        for _ in 0..count {
            let listener = bind(bound, true)?;
            bound = listener.local_addr()?;
            listeners.push(Self::own(ListeningSocket::Tcp(listener)));
        }
        Ok(listeners)
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, is_lent: self.is_lent })
    }

    pub(super) fn address(&self) -> Option<Listen> {
        self.socket.address()
    }

    /// Refuses new connections, unless another process keeps the socket open. Those in its queue are still to be accepted.
    pub(super) fn retire(&self) {
        self.remove_name();
        if let ListeningSocket::Tcp(socket) = &self.socket
            && !self.is_lent
            && let Err(error) = refuse_new::refuse_new(socket)
        {
            tracing::debug!(%error, "connections are accepted until the end");
        }
    }

    /// Removes the name of a unix socket, unless another process keeps the socket open.
    pub(super) fn remove_name(&self) {
        if let Some(Listen::Unix(path)) = self.address().filter(|_| !self.is_lent)
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::debug!(path = %path.display(), %error, "cannot remove the socket");
        }
    }
}

impl ListeningSocket {
    /// Returns the bound address. A unix socket without a name has none.
    fn address(&self) -> Option<Listen> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok().map(Listen::Tcp),
            Self::Unix(listener) => listener.local_addr().ok()?.as_pathname().map(|path| Listen::Unix(path.to_owned())),
        }
    }

    pub(super) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.set_nonblocking(true),
            Self::Unix(listener) => listener.set_nonblocking(true),
        }
    }

    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(listener) => listener.try_clone().map(Self::Tcp),
            Self::Unix(listener) => listener.try_clone().map(Self::Unix),
        }
    }
}

impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> Self {
        match listener.socket {
            ListeningSocket::Tcp(listener) => listener.into(),
            ListeningSocket::Unix(listener) => listener.into(),
        }
    }
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        // An operator who wants IPv4 clients lists an address for them.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Binds a path. A socket there that no process listens on is replaced.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Before it listens: until then no client can connect.
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Removes a socket that no process listens on: a callgate that was killed left it.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(named) if !named.file_type().is_socket() => {
            Err(io::Error::new(ErrorKind::AlreadyExists, "a file that is no socket has this name"))
        }
        Ok(_) if is_refused(path)? => fs::remove_file(path),
        Ok(_) => Err(ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_refused(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A socket whose queue is full would block.
    socket.set_nonblocking(true)?;
    let connected = socket.connect(&SockAddr::unix(path)?);
    Ok(connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn kind(path: &Path) -> ErrorKind {
        bind_unix(path).err().unwrap().kind()
    }

    #[test]
    fn only_a_socket_without_a_listener_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tls.sock");
        let first = Listener::own(ListeningSocket::Unix(bind_unix(&path).unwrap()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        assert_eq!(kind(&path), ErrorKind::AddrInUse);
        first.remove_name();
        assert!(!path.exists(), "the name outlives its socket");
        // As after SIGKILL: the standard library leaves the name.
        drop(UnixListener::bind(&path).unwrap());
        drop(bind_unix(&path).unwrap());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        assert_eq!((kind(&path), fs::read_to_string(&path).unwrap().as_str()), (ErrorKind::AlreadyExists, "a file"));
    }
}
