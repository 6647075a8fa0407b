//! What systemd is told, where it asked to be (sd_notify(3)).

use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// How long the service manager may leave its socket unread.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells that connections are accepted, or that a reload is over.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Tells that a reload has begun.
pub(super) fn reloading() {
    // The time is how systemd tells one reload from the next; without a clock there is nothing to tell it.
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// Tells that the end has begun.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells that another process is the service from now on.
pub(super) fn handed_over(id: u32) {
    tell(&[NotifyState::MainPid(id), NotifyState::Ready]);
}

fn tell(state: &[NotifyState<'_>]) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// Sends a message to the socket that the environment names. The library that writes its lines knows no sockets in the
/// abstract namespace, which containers are given, and would wait for ever for one that is not read.
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

/// Reads the path of a socket, or `@` and its abstract name (sd_notify(3)).
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(socket),
    }
}

#[cfg(test)]
mod tests {
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
}
