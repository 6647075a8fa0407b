//! The listening sockets, bound or inherited before any worker starts.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use socket2::{Domain, Protocol, SockAddr, SockFilter, SockRef, Socket, Type};
use tokio::net;

use super::StartError;
use super::handover::Inherited;
use super::io::Stream;
use crate::config::{Config, Listen};

/// How many connections may wait to be accepted; the system caps it.
const BACKLOG: i32 = 4096;
/// Who may connect to a unix socket: its owner and its group.
const MODE: u32 = 0o660;
/// The address of a client on this machine that has none.
const LOCAL: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: Bound,
    /// Whether somebody else keeps it open, too, and with it its queue: systemd does.
    pub(super) is_lent: bool,
}

#[derive(Debug)]
pub(super) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    const fn own(socket: Bound) -> Self {
        Self { socket, is_lent: false }
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, is_lent: self.is_lent })
    }

    pub(super) fn address(&self) -> Option<Listen> {
        self.socket.address()
    }

    /// Removes the name of a unix socket of our own: one that leads nowhere would only be in the way.
    pub(super) fn remove_name(&self) {
        if let Some(Listen::Unix(path)) = self.address().filter(|_| !self.is_lent)
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::debug!(path = %path.display(), %error, "cannot remove the socket");
        }
    }

    /// Makes the socket one that a runtime waits for.
    pub(super) fn open(self) -> io::Result<Door> {
        let socket = match self.socket {
            Bound::Tcp(listener) => net::TcpListener::from_std(listener).map(Open::Tcp)?,
            Bound::Unix(listener) => net::UnixListener::from_std(listener).map(Open::Unix)?,
        };
        Ok(Door { socket, is_lent: self.is_lent })
    }
}

impl Bound {
    /// Returns the address it is bound to; a unix socket without a name has none.
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
            Bound::Tcp(listener) => listener.into(),
            Bound::Unix(listener) => listener.into(),
        }
    }
}

/// All sockets, dealt out to the workers.
pub(super) struct Sockets {
    pub(super) addresses: Vec<Listen>,
    pub(super) redirect_address: Option<SocketAddr>,
    workers: Vec<Vec<Listener>>,
    redirect: Option<Listener>,
    /// Where health and metrics are told.
    pub(super) admin: Option<Listener>,
    /// Each socket once more, to be handed over to another process.
    pub(super) all: Vec<Listener>,
}

impl Sockets {
    /// Takes or binds every address that the configuration names.
    pub(super) fn open(config: &Config, workers: usize, inherited: &mut Inherited) -> Result<Self, StartError> {
        let mut sockets = Self {
            addresses: Vec::new(),
            redirect_address: None,
            workers: Vec::new(),
            redirect: None,
            admin: None,
            all: Vec::new(),
        };
        sockets.workers.resize_with(workers, Vec::new);
        for address in &config.listen {
            let opened = sockets.open_tls(address, inherited);
            opened.map_err(|source| StartError::Listen { address: address.clone(), source })?;
        }
        if let Some(address) = config.redirect_http {
            let opened = sockets.open_redirect(address, inherited);
            opened.map_err(|source| StartError::Listen { address: Listen::Tcp(address), source })?;
        }
        if let Some(address) = &config.admin {
            let opened = open_one(address, inherited);
            sockets.admin = Some(opened.map_err(|source| StartError::Listen { address: address.clone(), source })?);
        }
        Ok(sockets)
    }

    /// Opens one address for every worker.
    fn open_tls(&mut self, address: &Listen, inherited: &mut Inherited) -> io::Result<()> {
        let mut sockets = inherited.take(address);
        if sockets.is_empty() {
            sockets = match address {
                Listen::Tcp(address) => bind_shared(*address, self.workers.len())?,
                Listen::Unix(_) => vec![open_one(address, inherited)?],
            };
        }
        self.addresses.extend(sockets.first().and_then(Listener::address));
        // Every socket has a worker, or its queue would never be served, and every worker has a socket.
        for (index, socket) in (0..sockets.len().max(self.workers.len())).zip(sockets.iter().cycle()) {
            let worker = index % self.workers.len();
            self.workers[worker].push(socket.try_clone()?);
        }
        self.all.append(&mut sockets);
        Ok(())
    }

    /// Opens the address that redirects plain HTTP, once for all.
    fn open_redirect(&mut self, address: SocketAddr, inherited: &mut Inherited) -> io::Result<()> {
        let listener = open_one(&Listen::Tcp(address), inherited)?;
        if let Some(Listen::Tcp(address)) = listener.address() {
            self.redirect_address = Some(address);
        }
        self.redirect = Some(listener.try_clone()?);
        self.all.push(listener);
        Ok(())
    }

    /// Gives one worker its sockets.
    pub(super) fn take_worker(&mut self, index: usize) -> Vec<Listener> {
        std::mem::take(&mut self.workers[index])
    }

    /// Gives the redirecting socket to the first worker.
    pub(super) fn take_redirect(&mut self, index: usize) -> Option<Listener> {
        self.redirect.take_if(|_| index == 0)
    }
}

/// Takes or binds an address once for all.
fn open_one(address: &Listen, inherited: &mut Inherited) -> io::Result<Listener> {
    if let Some(listener) = inherited.take(address).pop() {
        return Ok(listener);
    }
    Ok(Listener::own(match address {
        Listen::Tcp(address) => Bound::Tcp(bind(*address, false)?),
        Listen::Unix(path) => Bound::Unix(bind_unix(path)?),
    }))
}

/// Binds an address several times, so that each worker has a queue of its own.
fn bind_shared(address: SocketAddr, count: usize) -> io::Result<Vec<Listener>> {
    if address.port() != 0 {
        // Shared ports would be shared with another instance, too: make sure that nobody is there.
        drop(bind(address, false)?);
    }
    let mut bound = address;
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let listener = bind(bound, true)?;
        bound = listener.local_addr()?;
        listeners.push(Listener::own(Bound::Tcp(listener)));
    }
    Ok(listeners)
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        // IPv4 clients have a socket of their own, if the operator wants them.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Binds a path, in the place of a socket that nobody listens at any more.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Before it listens: until then nobody can come in.
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Removes the name that a gate left which could not tidy up: a socket that nobody answers at.
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
    // One whose queue is full would be waited for.
    socket.set_nonblocking(true)?;
    let connected = socket.connect(&SockAddr::unix(path)?);
    Ok(connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
}

// === Accepting ===

/// A listening socket in the runtime of a worker.
pub(super) struct Door {
    socket: Open,
    /// As of the [`Listener`].
    pub(super) is_lent: bool,
}

enum Open {
    Tcp(net::TcpListener),
    Unix(net::UnixListener),
}

impl Door {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn kind(path: &Path) -> ErrorKind {
        bind_unix(path).err().unwrap().kind()
    }

    #[test]
    fn only_a_socket_that_nobody_answers_at_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tls.sock");
        let first = Listener::own(Bound::Unix(bind_unix(&path).unwrap()));
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
