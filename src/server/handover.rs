//! Listening sockets that one process passes to the next, so that no queue is dropped: by systemd's socket activation
//! (sd_listen_fds(3)), and in the same way from an old callgate to a new one.

use std::error::Error;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use listenfd::ListenFd;
use socket2::{Domain, Type};
use tokio::process::Child;
use tokio::time::{Instant, sleep_until, timeout};

use super::listener::{Listener, ListeningSocket};
use super::snapshot::Snapshot;
use super::succession::memory::{self, MEMORY, NoMemory};
use super::succession::{Predecessors, SuccessorLink};
use crate::config::Listen;
use crate::memory::ProcessMemory;
use crate::state::Store;

/// The first descriptor that is passed.
const FIRST: i32 = 3;
/// How long a new process may take until it accepts connections.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a killed process may take to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);
/// The name that callgate gives to a socket of its own. systemd gives other names, and keeps the socket open itself.
const OWN: &str = "callgate-own";
/// The name of the socket that leads to the old callgate, to give it orders while it keeps tunnels.
const LAST: &str = "callgate-last";
/// The name of a socket that leads to an older callgate, which keeps tunnels.
const OLDER: &str = "callgate-older";
/// The name of the datagram socket that leads to the old callgate, if that tells what it remembers. Otherwise it has none.
const TELLING: &str = "callgate-memory";
/// The variable with the names of the sockets.
const NAMES: &str = "LISTEN_FDNAMES";
/// The message of a new process that accepts connections.
const READY: &[u8] = b"READY";
/// The message of a new process that needs the state file, and of the old one that has released it.
const STATE: &[u8] = b"STATE";
/// How long a new process waits for the state file.
const STATE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a new process may hold the state file before it accepts connections. All this time, logins that need the file wait
/// in the old process.
const LENT: Duration = Duration::from_secs(4);

// === The new process ===

/// The listening sockets that another process has opened for this one.
#[derive(Default)]
pub struct InheritedSockets {
    sockets: Vec<(Listen, Listener)>,
    /// Leads to the old callgate, which waits for a message.
    old: Option<UnixDatagram>,
    /// Whether the old callgate tells what it remembers.
    is_old_telling: bool,
    /// Leads to the old callgate, for orders.
    last: Option<UnixStream>,
    /// Lead to older ones, for orders.
    older: Vec<UnixStream>,
}

impl InheritedSockets {
    /// Takes the sockets that the environment names. To be called once, before any thread is started.
    ///
    /// # Errors
    /// When a descriptor is not a socket that accepts connections.
    pub fn from_env() -> io::Result<Self> {
        let mut fds = ListenFd::from_env();
        let names = std::env::var(NAMES).unwrap_or_default();
        let mut names = names.split(':');
        let mut inherited = Self::default();
        for index in 0..fds.len() {
            let name = names.next();
            let is_lent = name != Some(OWN);
            if name == Some(LAST) {
                inherited.last = take_stream(&mut fds, index)?;
            } else if name == Some(OLDER) {
                inherited.older.extend(take_stream(&mut fds, index)?);
            } else if let Ok(Some(listener)) = fds.take_tcp_listener(index) {
                inherited.add(Listener { socket: ListeningSocket::Tcp(listener), is_lent })?;
            } else if let Ok(Some(listener)) = fds.take_unix_listener(index) {
                inherited.add(Listener { socket: ListeningSocket::Unix(listener), is_lent })?;
            } else {
                // The error of the last attempt names the descriptor.
                inherited.old = fds.take_unix_datagram(index)?;
                inherited.is_old_telling = name == Some(TELLING);
            }
        }
        Ok(inherited)
    }

    fn add(&mut self, listener: Listener) -> io::Result<()> {
        listener.socket.set_nonblocking()?;
        let address = listener.address().ok_or(io::ErrorKind::AddrNotAvailable)?;
        self.sockets.push((address, listener));
        Ok(())
    }

    /// Takes the sockets of an address. An old callgate has one for each of its workers.
    pub(super) fn take(&mut self, address: &Listen) -> Vec<Listener> {
        let Some((found, _)) = self.sockets.iter().find(|(bound, _)| fits(address, bound)) else { return Vec::new() };
        let found = found.clone();
        self.sockets.extract_if(.., |(bound, _)| *bound == found).map(|(_, listener)| listener).collect()
    }

    /// Returns an address whose sockets were not taken. After an old callgate that is no error: its configuration may have
    /// named more.
    pub(super) fn left_over(&self) -> Option<&Listen> {
        self.sockets.first().filter(|_| self.old.is_none()).map(|(address, _)| address)
    }

    /// Asks the old callgate, if there is one, to release the state file. Returns whether it has.
    ///
    /// It is asked as late as this, so that a process that hangs before delays no login.
    pub(super) fn ask_for_state(&self) -> bool {
        let ask = |old: &UnixDatagram| {
            old.set_read_timeout(Some(STATE_TIMEOUT))?;
            old.send(STATE)?;
            old.recv(&mut [0; STATE.len()])
        };
        self.old.as_ref().map(ask).is_some_and(|answer| answer.is_ok_and(|length| length > 0))
    }

    /// Asks the old callgate, if there is one, what it remembers. A new process without an answer remembers nothing.
    pub(super) fn ask_for_memory(&self) -> ProcessMemory {
        let ask = |old| if self.is_old_telling { memory::ask(old) } else { Err(NoMemory::OtherVersion) };
        let answer = self.old.as_ref().map(ask).unwrap_or_else(|| Ok(ProcessMemory::default()));
        answer.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn Error, "the memory of the old process is lost: limits begin anew");
            ProcessMemory::default()
        })
    }

    /// Takes the old processes that keep tunnels.
    ///
    /// # Errors
    /// When their sockets cannot be used.
    pub(super) fn take_predecessors(&mut self) -> io::Result<Predecessors> {
        Predecessors::adopt(self.last.take(), std::mem::take(&mut self.older))
    }

    /// Tells the old callgate, if there is one, that this process accepts connections.
    pub fn ready(self) {
        if let Some(Err(error)) = self.old.map(|old| old.send(READY)) {
            tracing::warn!(%error, "the old process did not wait");
        }
    }
}

/// Takes a stream between two processes.
fn take_stream(fds: &mut ListenFd, index: usize) -> io::Result<Option<UnixStream>> {
    fds.take_custom(index, Domain::UNIX.into(), Type::STREAM.into(), "unix stream socket")
}

/// Returns whether a socket is bound to the address that was asked for. Port 0 asks for any port.
fn fits(asked: &Listen, bound: &Listen) -> bool {
    match (asked, bound) {
        (Listen::Tcp(asked), Listen::Tcp(bound)) if asked.port() == 0 => asked.ip() == bound.ip(),
        (asked, bound) => asked == bound,
    }
}

// === The old process ===

/// Why no other process took the sockets over.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// The process could not be started.
    #[error("the new process cannot be started")]
    Start(#[source] io::Error),
    /// The process ended before it accepted connections. Its own output says why.
    #[error("the new process ended: {0}")]
    Ended(ExitStatus),
    /// The process did not accept connections in time.
    #[error("the new process was not ready in time")]
    Late,
}

/// A process that does not accept connections yet. It is killed when this is dropped.
struct StartingProcess(Option<Child>);

impl StartingProcess {
    /// Kills the process, and waits for its end, which releases its files.
    async fn end(mut self) {
        if let Some(mut child) = self.0.take() {
            // A process that cannot be killed is left behind.
            let _ = timeout(KILL_TIMEOUT, child.kill()).await;
        }
    }
}

/// A store whose file the new process may open. When this is dropped, the store opens it again.
struct LentStore<'s>(&'s Store);

impl LentStore<'_> {
    /// Leaves the file to the new process for good.
    fn leave(self) {
        self.0.leave();
        std::mem::forget(self);
    }
}

impl Drop for LentStore<'_> {
    fn drop(&mut self) {
        self.0.resume();
    }
}

impl Drop for StartingProcess {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // The process may have ended already.
            let _ = child.start_kill();
        }
    }
}

/// What a process hands over.
pub(super) struct HandOver<'s> {
    /// The listening sockets.
    pub(super) sockets: Vec<Listener>,
    /// The sockets that lead to older processes.
    pub(super) older: Vec<OwnedFd>,
    /// The store, whose file is released when the new process asks for it.
    pub(super) store: &'s Store,
    /// What remembers all that the new process asks for.
    pub(super) snapshot: &'s Snapshot,
}

/// Starts a process with these sockets, and waits until it accepts connections. Returns its id, and the socket that leads to
/// it.
pub(super) async fn start(mut command: Command, given: HandOver<'_>) -> Result<(u32, SuccessorLink), HandOverError> {
    let HandOver { sockets, older, store, snapshot } = given;
    let (here, there) = UnixDatagram::pair().map_err(HandOverError::Start)?;
    let (link, linked) = UnixStream::pair().map_err(HandOverError::Start)?;
    let names = sockets.iter().map(|socket| if socket.is_lent { "lent" } else { OWN });
    let names: Vec<_> = names.chain(older.iter().map(|_| OLDER)).chain([LAST, TELLING]).collect();
    command.env(NAMES, names.join(":"));
    let fds: Vec<OwnedFd> =
        sockets.into_iter().map(OwnedFd::from).chain(older).chain([linked.into(), there.into()]).collect();
    command.env("LISTEN_FDS", fds.len().to_string());
    // These variables name this process; the id of the next is not known before it is started.
    for name in ["LISTEN_PID", "LISTEN_FDS_FIRST_FD"] {
        command.env_remove(name);
    }
    let mappings = (FIRST..).zip(fds).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd }).collect();
    command.fd_mappings(mappings).expect("the numbers differ");
    // The command is dropped at the end of the statement, and with it this process's copies of the sockets.
    let child = tokio::process::Command::from(command).spawn().map_err(HandOverError::Start)?;
    let mut starting = StartingProcess(Some(child));
    let mut lent = None;
    let ready = timeout(READY_TIMEOUT, is_ready(here, &mut starting, (store, snapshot), &mut lent)).await;
    if let Err(error) = ready.unwrap_or(Err(HandOverError::Late)) {
        starting.end().await;
        return Err(error);
    }
    if let Some(lent) = lent {
        lent.leave();
    }
    let child = starting.0.take().expect("it was started a moment ago");
    let id = child.id().unwrap_or_default();
    Ok((id, SuccessorLink::new(link, child).map_err(HandOverError::Start)?))
}

async fn is_ready<'s>(
    here: UnixDatagram,
    starting: &mut StartingProcess,
    (store, snapshot): (&'s Store, &Snapshot),
    lent: &mut Option<LentStore<'s>>,
) -> Result<(), HandOverError> {
    here.set_nonblocking(true).map_err(HandOverError::Start)?;
    let here = tokio::net::UnixDatagram::from_std(here).map_err(HandOverError::Start)?;
    let child = starting.0.as_mut().expect("it was started a moment ago");
    let mut due = None;
    loop {
        let mut message = [0; 8];
        let length = tokio::select! {
            received = here.recv(&mut message) => received.map_err(HandOverError::Start)?,
            ended = child.wait() => return Err(ended.map_or_else(HandOverError::Start, HandOverError::Ended)),
            () = passed(due) => return Err(HandOverError::Late),
        };
        match &message[..length] {
            READY => return Ok(()),
            STATE => {
                *lent = Some(LentStore(store));
                if !store.pause().await {
                    return Err(HandOverError::Late);
                }
                here.send(STATE).await.map_err(HandOverError::Start)?;
                due = Some(Instant::now() + LENT);
            }
            MEMORY => memory::answer(&here, snapshot).await.map_err(HandOverError::Start)?,
            // A later version may know more messages.
            _ => {}
        }
    }
}

/// Waits until `due`; without one, for ever.
async fn passed(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}
