//! Redis, which members share: real servers of a test's own, that it may stop, kill and start again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::kit::programs::{KillTimer, are_here, output};
use crate::kit::stage::until;

/// The key of the ring that members share, in base64.
const RING: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// Writes the file `ring.keys`, which all members of a test share.
pub fn write_ring(folder: &Path) {
    let ring = folder.join("ring.keys");
    fs::write(&ring, format!("{RING}\n")).unwrap();
    fs::set_permissions(&ring, fs::Permissions::from_mode(0o600)).unwrap();
}

/// One `redis-server` at a unix socket. It keeps nothing on disk, and ends when this is dropped.
pub struct Engine {
    pub folder: TempDir,
    server: Option<RunningServer>,
    more: Vec<String>,
}

struct RunningServer {
    child: Child,
    _watch: KillTimer,
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Engine {
    /// Starts a server; nothing where the program is missing.
    pub async fn start() -> Option<Self> {
        Self::with(&[]).await
    }

    /// Starts a server with more arguments.
    pub async fn with(more: &[&str]) -> Option<Self> {
        if !are_here(&["redis-server", "redis-cli"]) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        write_ring(folder.path());
        let mut engine = Self { folder, server: None, more: more.iter().map(|&more| more.to_owned()).collect() };
        engine.restart().await;
        Some(engine)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("engine.sock")
    }

    /// Kills the server, and starts an empty one in its place.
    pub async fn restart(&mut self) {
        self.kill();
        let mut server = Command::new("redis-server");
        server.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", "engine.sock"]);
        server.args(&self.more).current_dir(self.folder.path()).stdout(Stdio::null()).stdin(Stdio::null());
        let child = server.spawn().unwrap();
        self.server = Some(RunningServer { _watch: KillTimer::over(&child), child });
        let socket = self.socket();
        until("redis listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
    }

    /// Kills the server.
    pub fn kill(&mut self) {
        self.server = None;
        let _ = fs::remove_file(self.socket());
    }

    /// Stops the server with SIGSTOP: connections stay open, and no answer comes.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a stopped server go on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = &self.server.as_ref().expect("the server runs").child;
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Runs `redis-cli`, and returns what it prints.
    pub fn tell(&self, words: &[&str]) -> String {
        let mut client = Command::new("redis-cli");
        client.arg("-s").arg(self.socket()).args(words).stdin(Stdio::null());
        let output = output(&mut client);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns the events that name this engine: those of other tests' gates are among the events of a gate.
    pub fn lines_of(&self, events: &str) -> String {
        let socket = self.socket().display().to_string();
        events.lines().filter(|line| line.contains(&socket)).collect::<Vec<_>>().join("\n")
    }

    /// Returns `[shared]` for a member, with more lines.
    pub fn shared(&self, more: &str) -> String {
        let (socket, ring) = (self.socket(), self.folder.path().join("ring.keys"));
        format!("\n[shared]\nurl = \"unix:{}\"\nkeys = \"{}\"\n{more}\n", socket.display(), ring.display())
    }
}
