//! Sockets that go from one process to the next, so that none of their queues is ever dropped: by systemd's socket
//! activation (sd_listen_fds(3)), and in the same way from an old gate to a new one.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use listenfd::ListenFd;
use tokio::process::Child;
use tokio::time::{Instant, sleep_until, timeout};

use super::listener::{Listener, ListeningSocket};
use crate::config::Listen;
use crate::state::Store;

/// The first descriptor that is handed over.
const FIRST: i32 = 3;
/// How long a new process may take until it accepts connections.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the end of a process that was ended is waited for.
const ENDED: Duration = Duration::from_secs(2);
/// The name that a gate gives to a socket of its own. systemd gives others, and keeps the socket open itself.
const OWN: &str = "callgate-own";
/// The variable with the names of the sockets.
const NAMES: &str = "LISTEN_FDNAMES";
/// What a new process says once it does.
const READY: &[u8] = b"READY";
/// What a new process says when it needs the state file, and the old one when it has let go of it.
const STATE: &[u8] = b"STATE";
/// How long a new process waits for the state file.
const ASKED: Duration = Duration::from_secs(10);
/// How long a new process may have the state file until it accepts connections: for so long, whatever needs the file
/// waits in the old one.
const LENT: Duration = Duration::from_secs(4);

// === The new process ===

/// What another process has opened for this one.
#[derive(Default)]
pub struct InheritedSockets {
    sockets: Vec<(Listen, Listener)>,
    /// The old gate, waiting for a word.
    old: Option<UnixDatagram>,
}

impl InheritedSockets {
    /// Takes what the environment tells of. To be called once, before any thread is started.
    ///
    /// # Errors
    /// When something is there that connections cannot be accepted from.
    pub fn from_env() -> io::Result<Self> {
        let mut fds = ListenFd::from_env();
        let names = std::env::var(NAMES).unwrap_or_default();
        let mut names = names.split(':');
        let mut inherited = Self::default();
        for index in 0..fds.len() {
            let is_lent = names.next() != Some(OWN);
            if let Ok(Some(listener)) = fds.take_tcp_listener(index) {
                inherited.add(Listener { socket: ListeningSocket::Tcp(listener), is_lent })?;
            } else if let Ok(Some(listener)) = fds.take_unix_listener(index) {
                inherited.add(Listener { socket: ListeningSocket::Unix(listener), is_lent })?;
            } else {
                // What is none of these says why.
                inherited.old = fds.take_unix_datagram(index)?;
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

    /// Takes the sockets of an address, of which an old gate has one for each of its workers.
    pub(super) fn take(&mut self, address: &Listen) -> Vec<Listener> {
        let Some((found, _)) = self.sockets.iter().find(|(bound, _)| fits(address, bound)) else { return Vec::new() };
        let found = found.clone();
        self.sockets.extract_if(.., |(bound, _)| *bound == found).map(|(_, listener)| listener).collect()
    }

    /// Returns an address that nobody took. An old gate's may be one that the configuration no longer names.
    pub(super) fn left_over(&self) -> Option<&Listen> {
        self.sockets.first().filter(|_| self.old.is_none()).map(|(address, _)| address)
    }

    /// Asks the old gate, if there is one, for the state file. Tells whether it has let go of it.
    ///
    /// It is asked as late as this, so that a process that hangs before keeps nobody waiting.
    pub(super) fn ask_for_state(&self) -> bool {
        let ask = |old: &UnixDatagram| {
            old.set_read_timeout(Some(ASKED))?;
            old.send(STATE)?;
            old.recv(&mut [0; STATE.len()])
        };
        self.old.as_ref().map(ask).is_some_and(|answer| answer.is_ok_and(|length| length > 0))
    }

    /// Tells the old gate, if there is one, that connections are accepted here.
    pub fn ready(self) {
        if let Some(Err(error)) = self.old.map(|old| old.send(READY)) {
            tracing::warn!(%error, "the old process did not wait");
        }
    }
}

/// Tells whether a socket is bound to what was asked for. Port 0 asks for any.
fn fits(asked: &Listen, bound: &Listen) -> bool {
    match (asked, bound) {
        (Listen::Tcp(asked), Listen::Tcp(bound)) if asked.port() == 0 => asked.ip() == bound.ip(),
        (asked, bound) => asked == bound,
    }
}

// === The old process ===

/// Why no other process took over.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// It could not be started.
    #[error("the new process cannot be started")]
    Start(#[source] io::Error),
    /// It ended before it accepted connections; what it wrote says why.
    #[error("the new process ended: {0}")]
    Ended(ExitStatus),
    /// It took too long.
    #[error("the new process was not ready in time")]
    Late,
}

/// A process that does not accept connections yet; ended when nobody waits for it any more.
struct StartingProcess(Option<Child>);

impl StartingProcess {
    /// Ends it, and waits for that: what it has open is free then.
    async fn end(mut self) {
        if let Some(mut child) = self.0.take() {
            // One that cannot be ended is left behind.
            let _ = timeout(ENDED, child.kill()).await;
        }
    }
}

/// A store whose file the new process may open; taken back when that does not come to accept connections.
struct LentStore<'s>(&'s Store);

impl LentStore<'_> {
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
            // It may have ended already.
            let _ = child.start_kill();
        }
    }
}

/// Starts a process with these sockets, and waits until it accepts connections; when it asks for the state file, it is
/// given that. Returns its id.
pub(super) async fn start(mut command: Command, sockets: Vec<Listener>, store: &Store) -> Result<u32, HandOverError> {
    let (here, there) = UnixDatagram::pair().map_err(HandOverError::Start)?;
    let names: Vec<_> = sockets.iter().map(|socket| if socket.is_lent { "lent" } else { OWN }).collect();
    command.env(NAMES, names.join(":"));
    let fds: Vec<OwnedFd> = sockets.into_iter().map(OwnedFd::from).chain([there.into()]).collect();
    command.env("LISTEN_FDS", fds.len().to_string());
    // What was said to this process is not for the next; its id is not known before it is started.
    for name in ["LISTEN_PID", "LISTEN_FDS_FIRST_FD"] {
        command.env_remove(name);
    }
    let mappings = (FIRST..).zip(fds).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd }).collect();
    command.fd_mappings(mappings).expect("the numbers differ");
    // The command goes at the end of the statement, and with it the copies of the sockets here.
    let child = tokio::process::Command::from(command).spawn().map_err(HandOverError::Start)?;
    let mut starting = StartingProcess(Some(child));
    let mut lent = None;
    let ready = timeout(PATIENCE, is_ready(here, &mut starting, store, &mut lent)).await;
    if let Err(error) = ready.unwrap_or(Err(HandOverError::Late)) {
        starting.end().await;
        return Err(error);
    }
    if let Some(lent) = lent {
        lent.leave();
    }
    let id = starting.0.take().and_then(|child| child.id());
    Ok(id.unwrap_or_default())
}

async fn is_ready<'s>(
    here: UnixDatagram,
    starting: &mut StartingProcess,
    store: &'s Store,
    lent: &mut Option<LentStore<'s>>,
) -> Result<(), HandOverError> {
    here.set_nonblocking(true).map_err(HandOverError::Start)?;
    let here = tokio::net::UnixDatagram::from_std(here).map_err(HandOverError::Start)?;
    let child = starting.0.as_mut().expect("it was started a moment ago");
    let mut due = None;
    loop {
        let mut word = [0; 8];
        let length = tokio::select! {
            heard = here.recv(&mut word) => heard.map_err(HandOverError::Start)?,
            ended = child.wait() => return Err(ended.map_or_else(HandOverError::Start, HandOverError::Ended)),
            () = passed(due) => return Err(HandOverError::Late),
        };
        match &word[..length] {
            READY => return Ok(()),
            STATE => {
                *lent = Some(LentStore(store));
                if !store.pause().await {
                    return Err(HandOverError::Late);
                }
                here.send(STATE).await.map_err(HandOverError::Start)?;
                due = Some(Instant::now() + LENT);
            }
            // A later version may say more.
            _ => {}
        }
    }
}

/// Waits until a moment has passed, if there is one.
async fn passed(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}
