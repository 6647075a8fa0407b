//! All listening sockets. They are opened before any worker starts, and then dealt out to the workers.

use std::io;
use std::net::SocketAddr;

use super::StartError;
use super::handover::InheritedSockets;
use super::listener::Listener;
use crate::config::{Config, Listen};

/// All listening sockets.
pub(super) struct ListeningSockets {
    pub(super) addresses: Vec<Listen>,
    pub(super) redirect_address: Option<SocketAddr>,
    /// The sockets of each worker.
    workers: Vec<Vec<Listener>>,
    redirect: Option<Listener>,
    /// The socket of the admin listener.
    pub(super) admin: Option<Listener>,
    /// A copy of each socket, for another process.
    pub(super) all: Vec<Listener>,
}

impl ListeningSockets {
    /// Takes or binds every address that the configuration names.
    pub(super) fn open(config: &Config, workers: usize, inherited: &mut InheritedSockets) -> Result<Self, StartError> {
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
        if let Some(address) = config.redirect_http.as_ref().map(|redirect| redirect.listen) {
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
    fn open_tls(&mut self, address: &Listen, inherited: &mut InheritedSockets) -> io::Result<()> {
        let mut sockets = inherited.take(address);
        if sockets.is_empty() {
            sockets = match address {
                Listen::Tcp(address) => Listener::bind_shared(*address, self.workers.len())?,
                Listen::Unix(_) => vec![open_one(address, inherited)?],
            };
        }
        self.addresses.extend(sockets.first().and_then(Listener::address));
        // Every socket gets a worker, which serves its queue, and every worker gets a socket.
        for (index, socket) in (0..sockets.len().max(self.workers.len())).zip(sockets.iter().cycle()) {
            let worker = index % self.workers.len();
            self.workers[worker].push(socket.try_clone()?);
        }
        self.all.append(&mut sockets);
        Ok(())
    }

    /// Opens the address of `redirect_http`, once for all workers.
    fn open_redirect(&mut self, address: SocketAddr, inherited: &mut InheritedSockets) -> io::Result<()> {
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

/// Takes or binds an address, once for all workers.
fn open_one(address: &Listen, inherited: &mut InheritedSockets) -> io::Result<Listener> {
    inherited.take(address).pop().map_or_else(|| Listener::bind(address), Ok)
}
