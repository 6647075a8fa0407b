//! A crash leaves no copy of the memory, which has passwords and keys.

use std::io::{Write, stderr};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use tempfile::TempDir;

use crate::kit::commands::{limited, piped};
use crate::kit::program::Program;
use crate::kit::programs::signal;
use crate::kit::upstream::RawUpstream;

/// Tells whether the system keeps the memory of a process that crashes.
fn are_written_here() -> bool {
    let folder = TempDir::new().unwrap();
    let mut shell = piped(Command::new("sh"));
    shell.args(["-c", "ulimit -c unlimited && kill -ABRT $$"]).current_dir(&folder);
    shell.status().unwrap().core_dumped()
}

#[tokio::test]
async fn a_crash_leaves_no_core_dump() {
    if !are_written_here() {
        drop(writeln!(stderr(), "skipped: this system writes no core dumps"));
        return;
    }
    let (upstream, folder) = (RawUpstream::ok().await, TempDir::new().unwrap());
    let mut command = limited("-c unlimited");
    command.current_dir(&folder);
    let mut program = Program::start_by(command, upstream.addr, "listen = \"127.0.0.1:0\"", "").await;
    assert!(signal(program.running.child.id(), "-ABRT"));
    let status = program.running.child.wait().unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
}
