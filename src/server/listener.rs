//! The listening sockets, bound before any worker starts.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

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

/// Lets no connection begin at a listening socket any more. Those that are being made are still made: their clients
/// believe that they are connected already.
pub(super) fn shut(listener: &impl AsFd) -> io::Result<()> {
    SockRef::from(listener).attach_filter(&NO_SYN)
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
