//! Notifies systemd of the state of the service, if `NOTIFY_SOCKET` is set (sd_notify(3)).

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;

use crate::observe::heartbeat::Heartbeats;

/// How long a send waits while the service manager does not read its socket.
const PATIENCE: Duration = Duration::from_secs(1);

/// Notifies that connections are accepted, or that a reload has ended.
pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Notifies that a reload has begun.
pub(super) fn reloading() {
    // systemd tells one reload from the next by this time, and refuses a notice without it.
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
}

/// Notifies that the drain has begun.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Notifies that another process is the service from now on.
pub(super) fn handed_over(id: u32) {
    notify(&[NotifyState::MainPid(id), NotifyState::Ready]);
}

/// Notifies that this process is the service again, since the one that it handed over to is gone. Returns whether there is a
/// service manager.
pub(super) fn main_again() -> bool {
    notify(&[NotifyState::MainPid(std::process::id())]);
    socket_name().is_some()
}

/// The variable with the id of the process that the watchdog is for. A process that is handed over to is another one, and is
/// started without it.
pub(super) const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// Notifies the watchdog of systemd while every worker makes progress, until this is dropped.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// Closed at the end, which ends the thread.
    _open: Sender<()>,
}

impl Watchdog {
    /// Starts the thread that notifies the watchdog; without a watchdog there is none. A thread of its own: a disk may block
    /// the thread that waits for signals, and calls must not end for that.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(heartbeats: Arc<Heartbeats>) -> io::Result<Option<Self>> {
        let Some(limit) = sd_notify::watchdog_enabled() else { return Ok(None) };
        let (open, closed) = channel();
        let are_live = move || heartbeats.stuck(Instant::now()).is_empty();
        let work = move || watch(limit, &closed, are_live, || notify(&[NotifyState::Watchdog]));
        thread::Builder::new().name("callgate-watchdog".to_owned()).spawn(work)?;
        Ok(Some(Self { _open: open }))
    }
}

/// Notifies while all workers are live, twice within `limit` as sd_watchdog_enabled(3) advises, until the channel closes.
fn watch(limit: Duration, closed: &Receiver<()>, are_live: impl Fn() -> bool, notify: impl Fn()) {
    while closed.recv_timeout(limit / 2) == Err(RecvTimeoutError::Timeout) {
        if are_live() {
            notify();
        } else {
            tracing::error!("a worker is stuck: systemd restarts callgate unless it moves soon");
        }
    }
}

fn socket_name() -> Option<OsString> {
    env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())
}

fn notify(state: &[NotifyState<'_>]) {
    let Some(socket) = socket_name() else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// Sends a message to the socket that the environment names.
///
/// `sd-notify` formats the lines and does not send them: it knows no sockets in the abstract namespace, which containers
/// get, and has no deadline for a socket that is not read.
fn send(socket: &OsStr, state: &[NotifyState<'_>]) -> io::Result<()> {
    let mut lines = String::new();
    for change in state {
        writeln!(lines, "{change}").map_err(io::Error::other)?;
    }
    let datagram = UnixDatagram::unbound()?;
    datagram.set_write_timeout(Some(PATIENCE))?;
    datagram.send_to_addr(lines.as_bytes(), &address(socket)?)?;
    Ok(())
}

/// Parses the path of a socket, or `@` and a name in the abstract namespace (sd_notify(3)).
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(socket),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn sockets_have_a_path_or_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("@callgate-test-{}", std::process::id());
        for socket in [path.as_os_str(), OsStr::new(&name)] {
            let manager = UnixDatagram::bind_addr(&address(socket).unwrap()).unwrap();
            send(socket, &[NotifyState::MainPid(7), NotifyState::Ready]).unwrap();
            let mut lines = [0; 64];
            let length = manager.recv(&mut lines).unwrap();
            assert_eq!(&lines[..length], b"MAINPID=7\nREADY=1\n");
        }
    }
    #[test]
    fn the_watchdog_hears_nothing_while_a_worker_is_stuck() {
        let (open, closed) = channel();
        let (open, looks, notices) = (Cell::new(Some(open)), Cell::new(0), Cell::new(0));
        let are_live = || {
            looks.set(looks.get() + 1);
            if looks.get() == 4 {
                drop(open.take());
            }
            looks.get() != 2
        };
        watch(Duration::from_millis(2), &closed, are_live, || notices.set(notices.get() + 1));
        assert_eq!((looks.get(), notices.get()), (4, 3));
    }
}
