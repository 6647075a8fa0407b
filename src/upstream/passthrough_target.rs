//! Opens the connections that `[[passthrough]]` joins with those of clients. They carry no HTTP.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use super::choice::ExchangeCounts;
use super::connector::descriptor;
use super::endpoint::dial;
use super::error::{ConnectError, Error};
use super::io::{Transport, UpstreamIo};
use super::tunnel::Upgraded;
use crate::budget::Ledger;
use crate::config::PassthroughTo;

/// Where connections are passed on to, and whether it could be reached last.
#[derive(Debug)]
pub(crate) struct PassthroughTarget {
    to: PassthroughTo,
    /// The same for people.
    address: Arc<str>,
    deadline: Duration,
    is_unreachable: AtomicBool,
}

impl PassthroughTarget {
    /// Prepares to connect. `deadline` covers the look-up of the name and the attempts at all its addresses.
    pub(crate) fn new(to: &PassthroughTo, deadline: Duration) -> Self {
        Self { to: to.clone(), address: to.to_string().into(), deadline, is_unreachable: AtomicBool::new(false) }
    }

    /// Returns its address for people.
    pub(crate) const fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// Opens a connection, and writes the bytes that come before those of the client. `ledger` counts the bytes that wait
    /// for either side.
    ///
    /// # Errors
    /// When there is no connection in time, or no file descriptor.
    pub(crate) async fn open(&self, first: &[u8], ledger: Arc<Ledger>) -> Result<Upgraded, Error> {
        let due = Instant::now() + self.deadline;
        let descriptor = descriptor(due).await.ok_or(Error::Full)?;
        let opened = timeout_at(due, self.dial(first)).await.unwrap_or(Err(ConnectError::Timeout));
        self.is_unreachable.store(opened.is_err(), Ordering::Relaxed);
        let transport = opened.map_err(|source| Error::Connect { to: Arc::clone(&self.address), source })?;
        let io = UpstreamIo::new(transport, None, descriptor);
        Ok(Upgraded { io, early: Bytes::new(), ledger: Some(ledger), counts: ExchangeCounts::default() })
    }

    /// Connects once, and closes the connection again.
    ///
    /// # Errors
    /// When there is no connection in time.
    pub(crate) async fn probe(&self) -> Result<(), ConnectError> {
        let due = Instant::now() + self.deadline;
        timeout_at(due, self.dial(&[])).await.unwrap_or(Err(ConnectError::Timeout)).map(drop)
    }

    /// Checks that the last connection could be opened.
    ///
    /// # Errors
    /// Names the address, when it could not.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self.is_unreachable.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(format!("cannot reach {}", self.address)),
        }
    }

    async fn dial(&self, first: &[u8]) -> Result<Transport, ConnectError> {
        Ok(match &self.to {
            PassthroughTo::Tcp(at) => {
                let mut stream = dial(at).await?;
                stream.write_all(first).await?;
                Transport::Plain(stream)
            }
            PassthroughTo::Unix(path) => Transport::Unix(connect(path, first).await?),
        })
    }
}

async fn connect(path: &Path, first: &[u8]) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(first).await?;
    Ok(stream)
}
