//! Commands of the program, and processes of it that go on.

use std::io::{BufRead, BufReader, Read, Write, stderr};
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};

use crate::kit::programs::{self, KillTimer, are_here, output};

pub fn callgate(arguments: &[&str]) -> Command {
    let mut command = piped(Command::new(env!("CARGO_BIN_EXE_callgate")));
    command.args(arguments);
    command
}

pub fn piped(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("PBX_ADMIN").env_remove("CALLGATE_CONFIG").env_remove("CREDENTIALS_DIRECTORY");
    command
}

/// The program without any privilege; nothing, and a word why, where root's cannot be dropped.
pub fn unprivileged() -> Option<Command> {
    if !rustix::process::geteuid().is_root() {
        return Some(callgate(&[]));
    }
    if !are_here(&["setpriv"]) {
        return None;
    }
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
    if !setpriv.arg("true").status().is_ok_and(|status| status.success()) {
        drop(writeln!(stderr(), "skipped: setpriv may take no privileges away here"));
        return None;
    }
    let mut setpriv = piped(Command::new("setpriv"));
    setpriv.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", env!("CARGO_BIN_EXE_callgate")]);
    Some(setpriv)
}

/// The program under a limit of `ulimit`, as `-n 100`.
pub fn limited(limit: &str) -> Command {
    let mut shell = piped(Command::new("sh"));
    shell.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_callgate")]);
    shell
}

/// Runs a command to its end while the stand-ins go on.
pub async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || output(&mut command)).await.unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A command that goes on until it is told to end; killed when the test is over.
pub struct Running {
    pub child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    stderr: Option<BufReader<ChildStderr>>,
    _watch: KillTimer,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let (stdout, stderr) = (child.stdout.take().map(BufReader::new), child.stderr.take().map(BufReader::new));
        let watch = KillTimer::over(&child);
        Self { child, stdout, stderr, _watch: watch }
    }

    /// Reads lines of standard error up to one that contains a text, and returns that.
    pub async fn complaint(&mut self, part: &'static str) -> String {
        let mut stderr = self.stderr.take().unwrap();
        let (stderr, lines) = tokio::task::spawn_blocking(move || (lines_to(&mut stderr, part), stderr))
            .await
            .map(|(l, s)| (s, l))
            .unwrap();
        self.stderr = Some(stderr);
        lines.last().unwrap().clone()
    }

    /// Waits until connections are accepted, and returns the line that says where.
    ///
    /// # Errors
    /// With all of standard error, when that ends before.
    pub async fn listening(&mut self) -> Result<String, String> {
        let mut stderr = self.stderr.take().unwrap();
        let read = move || {
            let mut told = String::new();
            loop {
                let begun = told.len();
                match stderr.read_line(&mut told).unwrap() {
                    0 => return (Err(told), stderr),
                    _ if told[begun..].contains("address=") => return (Ok(told[begun..].to_owned()), stderr),
                    _ => {}
                }
            }
        };
        let (line, stderr) = tokio::task::spawn_blocking(read).await.unwrap();
        self.stderr = Some(stderr);
        line
    }

    /// Reads one line of standard error.
    pub async fn next_complaint(&mut self) -> String {
        self.complaint("").await
    }

    /// Reads lines of standard output up to one that contains a text, and returns all.
    pub async fn story(&mut self, part: &'static str) -> Vec<String> {
        let mut stdout = self.stdout.take().unwrap();
        let (stdout, lines) = tokio::task::spawn_blocking(move || (lines_to(&mut stdout, part), stdout))
            .await
            .map(|(l, s)| (s, l))
            .unwrap();
        self.stdout = Some(stdout);
        lines
    }

    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    pub fn signal(&self, signal: &str) {
        assert!(programs::signal(self.child.id(), signal));
    }

    /// Waits for the end, and returns the exit code with everything that was still printed.
    pub async fn end(mut self) -> (Option<i32>, String) {
        let mut told = String::new();
        let (mut stdout, mut stderr) = (self.stdout.take().unwrap(), self.stderr.take().unwrap());
        tokio::task::spawn_blocking(move || {
            stdout.read_to_string(&mut told).unwrap();
            stderr.read_to_string(&mut told).unwrap();
            (self.child.wait().unwrap().code(), told)
        })
        .await
        .unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn lines_to(reader: &mut impl BufRead, part: &str) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "the program ended without {part:?}: {lines:#?}");
        lines.push(line.trim_end().to_owned());
        if line.contains(part) {
            return lines;
        }
    }
}
