//! Commands whose standard output or standard error is closed, full, or read by a program that has ended.

use std::fs::{self, File};
use std::io;
use std::process::{Command, Output, Stdio};

use callgate::tls::dev;
use tempfile::TempDir;

use crate::kit::commands::{callgate, text};
use crate::kit::gate::secret;
use crate::kit::programs::output_as_led;

const CONFIGURATION: &str = r#"
listen = "127.0.0.1:0"
tls = { cert = "fullchain.pem", key = "privkey.pem" }
[app]
url = "http://127.0.0.1:1"
hosts = ["app.test"]
[pbx]
url = "http://127.0.0.1:1"
hosts = ["pbx.test"]
admin = { user = "sso", password = { file = "password" } }
[[auth]]
type = "link"
keys = [{ kid = "1", secret = { file = "link" } }]
[[allow]]
auth = "link"
pbx = { domain = "acme.test", account = "{account}" }
[state]
file = "state"
[audit]
file = "chained.log"
chain = true
"#;

/// Each command that has something to say without a gate, an app or a PBX.
const COMMANDS: [&[&str]; 12] = [
    &["--help"],
    &["--version"],
    &["freeze", "--help"],
    &["completions", "bash"],
    &["check", "--config", "proxy.toml"],
    &["link", "--account", "40", "--config", "proxy.toml"],
    &["hash", "--key"],
    &["hash", "--user", "ann", "--generate"],
    &["audit", "report", "--account", "40@acme.test", "audit.log"],
    &["audit", "report", "--account", "40@acme.test", "--json", "audit.log"],
    &["audit", "verify", "chained.log"],
    &["freeze", "list", "--json", "--config", "proxy.toml"],
];

async fn folder() -> TempDir {
    let dir = TempDir::new().unwrap();
    let certificate = dev::certificate(&["app.test", "pbx.test"]).unwrap();
    secret(&dir, "fullchain.pem", &format!("{}{}", certificate.chain, certificate.ca));
    secret(&dir, "privkey.pem", &certificate.key);
    secret(&dir, "password", "pw");
    secret(&dir, "link", &"k".repeat(64));
    fs::write(dir.path().join("proxy.toml"), CONFIGURATION).unwrap();
    let grant = r#"{"time":"2026-11-23T08:00:00Z","kind":"audit grant","client":"192.0.2.1","act":"pbx","method":"app","subject":"ann","rule":"staff","account":"40@acme.test"}"#;
    fs::write(dir.path().join("audit.log"), format!("{grant}\n").repeat(2000)).unwrap();
    // The first line of the chain is the freeze.
    secret(&dir, "chained.log", "");
    drop(callgate::state::Store::open(&dir.path().join("state")).unwrap());
    let frozen = run(command(&dir, &["freeze", "user", "ann", "--config", "proxy.toml"])).await;
    assert!(frozen.status.success(), "{}", text(&frozen.stderr));
    dir
}

fn command(dir: &TempDir, arguments: &[&str]) -> Command {
    let mut command = callgate(arguments);
    command.current_dir(dir.path());
    command
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || output_as_led(&mut command)).await.unwrap()
}

/// The same command from a shell that closes streams first.
fn with_closed(dir: &TempDir, arguments: &[&str], closing: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec \"$0\" \"$@\" {closing}"), env!("CARGO_BIN_EXE_callgate")]).args(arguments);
    command.current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// The writing end of a pipe whose reading end is closed.
fn unread() -> Stdio {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[track_caller]
fn check(arguments: &[&str], output: &Output, code: i32, told: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert!(stderr.contains(told) && !stderr.contains("panicked"), "{arguments:?}: {stderr}");
}

#[tokio::test]
async fn a_full_disk_is_an_error() {
    let dir = folder().await;
    for arguments in COMMANDS {
        let mut command = command(&dir, arguments);
        command.stdout(full());
        check(arguments, &run(command).await, 1, "cannot write to standard output: No space left on device");
    }
}

#[tokio::test]
async fn a_reader_that_has_ended_has_read_enough() {
    let dir = folder().await;
    for arguments in COMMANDS {
        let mut command = command(&dir, arguments);
        command.stdout(unread());
        let output = run(command).await;
        check(arguments, &output, 0, "");
        let quiet = output.stderr.is_empty() || arguments[0] == "hash" || text(&output.stderr).starts_with("warning:");
        assert!(quiet, "{arguments:?}: {}", text(&output.stderr));
    }
}

#[tokio::test]
async fn closed_streams_are_like_the_null_device() {
    let dir = folder().await;
    for arguments in COMMANDS {
        for closing in [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"] {
            check(arguments, &run(with_closed(&dir, arguments, closing)).await, 0, "");
        }
    }
}

#[tokio::test]
async fn a_full_standard_error_changes_no_exit_code() {
    let dir = folder().await;
    for (arguments, code) in [
        (&["check", "--config", "missing.toml"][..], 78),
        (&["run", "--config", "missing.toml"], 78),
        (&["audit", "verify", "missing.log"], 1),
        (&["audit", "verify", "audit.log"], 1),
        (&["thaw", "user", "bob", "--config", "proxy.toml"], 1),
        (&["freeze", "user", "@", "--config", "proxy.toml"], 2),
        (&["link", "--config", "proxy.toml"], 2),
        (&["explain", "--running", "--config", "proxy.toml"], 78),
        (&["serve"], 2),
        // A password that could not be printed is not stored.
        (&["hash", "--user", "ann", "--generate"], 1),
        (&["hash", "--key"], 1),
    ] {
        for stream in [full(), unread()] {
            let mut command = command(&dir, arguments);
            command.stderr(stream);
            let output = run(command).await;
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stdout));
            assert!(output.stdout.is_empty(), "{arguments:?}: {}", text(&output.stdout));
        }
    }
}
