//! The listening sockets, bound before any worker starts.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use super::StartError;
use crate::config::Config;

/// How many connections may wait to be accepted; the system caps it.
const BACKLOG: i32 = 4096;

/// All sockets, one of each address for each worker.
pub(super) struct Sockets {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) redirect_address: Option<SocketAddr>,
    workers: Vec<Vec<TcpListener>>,
    redirect: Option<TcpListener>,
}

impl Sockets {
    /// Binds every address that the configuration names.
    pub(super) fn bind(config: &Config, workers: usize) -> Result<Self, StartError> {
        let mut sockets = Self { addresses: Vec::new(), redirect_address: None, workers: Vec::new(), redirect: None };
        sockets.workers.resize_with(workers, Vec::new);
        for &address in &config.listen {
            sockets.bind_workers(address).map_err(|source| StartError::Listen { address, source })?;
        }
        if let Some(address) = config.redirect_http {
            sockets.bind_redirect(address).map_err(|source| StartError::Listen { address, source })?;
        }
        Ok(sockets)
    }

    /// Binds one address for every worker.
    fn bind_workers(&mut self, address: SocketAddr) -> io::Result<()> {
        if address.port() != 0 {
            // Shared ports would be shared with another instance, too: make sure that nobody is there.
            drop(bind(address, false)?);
        }
        let mut bound = address;
        for worker in &mut self.workers {
            let listener = bind(bound, true)?;
            bound = listener.local_addr()?;
            worker.push(listener);
        }
        self.addresses.push(bound);
        Ok(())
    }

    /// Binds the address that redirects plain HTTP, once for all.
    fn bind_redirect(&mut self, address: SocketAddr) -> io::Result<()> {
        let listener = bind(address, false)?;
        self.redirect_address = Some(listener.local_addr()?);
        self.redirect = Some(listener);
        Ok(())
    }

    /// Gives one worker its sockets.
    pub(super) fn take_worker(&mut self, index: usize) -> Vec<TcpListener> {
        std::mem::take(&mut self.workers[index])
    }

    /// Gives the redirecting socket to the first worker.
    pub(super) fn take_redirect(&mut self, index: usize) -> Option<TcpListener> {
        self.redirect.take_if(|_| index == 0)
    }
}

/// Binds one address; `shared` leaves room for further sockets at it.
pub(super) fn bind(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
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
