//! Foreign programs that tests call, and processes that tests start.

use std::env;
use std::io::{Write, stderr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process};

/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(120);
/// How long a process may live that serves a test.
const LIFE: Duration = Duration::from_secs(600);
/// Set by `tests/run`, which has asked for all programs before.
const ALL_ARE_HERE: &str = "CALLGATE_TEST_PROGRAMS";

// === Programs of others ===

/// Tells whether programs can be run, and prints `skipped: no curl` where one cannot.
///
/// `cargo test` asks for Rust and a C compiler, and a test that needs more passes without it. Under `tests/run` it fails.
#[track_caller]
pub fn are_here(programs: &[&str]) -> bool {
    let Some(missing) = programs.iter().find(|program| !is_here(program)) else { return true };
    assert!(env::var_os(ALL_ARE_HERE).is_none(), "{missing} is missing: let tests/run install it");
    // Not by a macro: what that prints is not shown when a test passes.
    drop(writeln!(stderr(), "skipped: no {missing}"));
    false
}

/// Tells whether a program is in one of the folders of `PATH`.
pub fn is_here(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| is_executable(&folder.join(program)))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

// === Processes ===

/// Runs a command to its end, with all that it starts, under a deadline.
pub fn output(command: &mut Command) -> Output {
    output_as_led(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
}

/// As [`output`], of a command whose streams lead where they were led.
#[allow(dead_code, reason = "tests/docs leads none")]
pub fn output_as_led(command: &mut Command) -> Output {
    finish(command.process_group(0).spawn().unwrap())
}

/// Waits, under a deadline, for the end of a command that leads a process group.
fn finish(child: Child) -> Output {
    let group = pid(child.id());
    let _watch = KillTimer::start(COMMAND, move || kill_process_group(group, Signal::KILL));
    child.wait_with_output().unwrap()
}

/// Kills a process that outlives its deadline, so that a test which waits for it fails and does not hang.
#[derive(Debug)]
pub struct KillTimer {
    /// Closed when the process has been waited for.
    _open: Sender<()>,
}

impl KillTimer {
    /// Watches over a process that serves a test.
    pub fn over(child: &Child) -> Self {
        let pid = pid(child.id());
        Self::start(LIFE, move || kill_process(pid, Signal::KILL))
    }

    fn start(life: Duration, kill: impl FnOnce() -> rustix::io::Result<()> + Send + 'static) -> Self {
        let (open, closed) = channel();
        std::thread::spawn(move || {
            if closed.recv_timeout(life) == Err(RecvTimeoutError::Timeout) {
                drop(writeln!(stderr(), "a process is killed after {life:?}"));
                let _ = kill();
            }
        });
        Self { _open: open }
    }
}

/// Sends a signal, by the name that `kill` takes; `-0` sends none. Returns whether the process is there.
pub fn signal(id: u32, name: &str) -> bool {
    let signal = match name {
        "-0" => return test_kill_process(pid(id)).is_ok(),
        "-ABRT" => Signal::ABORT,
        "-CONT" => Signal::CONT,
        "-HUP" => Signal::HUP,
        "-KILL" => Signal::KILL,
        "-STOP" => Signal::STOP,
        "-TERM" => Signal::TERM,
        "-USR2" => Signal::USR2,
        name => panic!("no signal has the name {name}"),
    };
    kill_process(pid(id), signal).is_ok()
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(id.try_into().unwrap()).unwrap()
}

#[test]
fn a_program_is_looked_for_in_the_path_and_must_be_executable() {
    assert!(!is_here("no-such-program"));
    assert!(is_executable(&env::current_exe().unwrap()));
    assert!(!is_executable(Path::new("/")) && !is_executable(Path::new("Cargo.toml")));
}

#[test]
fn a_command_that_waits_for_nothing_is_ended_with_all_it_started() {
    if !are_here(&["sh", "sleep"]) {
        return;
    }
    let mut shell = Command::new("sh");
    let child = shell.args(["-c", "sleep 600; :"]).process_group(0).stdout(Stdio::piped()).spawn().unwrap();
    let group = pid(child.id());
    let _watch = KillTimer::start(Duration::from_millis(50), move || kill_process_group(group, Signal::KILL));
    assert!(!child.wait_with_output().unwrap().status.success());
}
