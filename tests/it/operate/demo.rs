//! `callgate demo`: the commands that it prints, as they are copied into another terminal.

use std::net::SocketAddr;
use std::process::Command;

use callgate::config::Listen;
use tempfile::TempDir;

use crate::kit::commands::{Running, callgate, piped, run, text};
use crate::kit::gate::tell;
use crate::kit::programs::are_here;

/// A running demo.
pub struct Demo {
    /// The folder for temporary files. Its name is not a plain word for a shell.
    folder: TempDir,
    running: Running,
    told: Vec<String>,
}

impl Demo {
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("it's a demo ").tempdir().unwrap();
        let mut command = callgate(&["demo", "--listen", "127.0.0.1:0"]);
        command.env("TMPDIR", folder.path());
        let mut running = Running::start(command);
        let told = running.story("ready: ").await;
        Self { folder, running, told }
    }

    /// Returns where the demo listens.
    pub fn addr(&self) -> SocketAddr {
        let ready = self.told.last().unwrap().strip_prefix("ready: https://localhost:").unwrap();
        SocketAddr::from(([127, 0, 0, 1], ready.strip_suffix('/').unwrap().parse().unwrap()))
    }

    /// Returns the path of a file of the demo.
    pub fn file(&self, name: &str) -> std::path::PathBuf {
        std::fs::read_dir(self.folder.path()).unwrap().next().unwrap().unwrap().path().join(name)
    }

    /// Returns the commands that the demo prints, in their order.
    fn commands(&self) -> Vec<String> {
        let lines = self.told.iter().skip_while(|line| !line.starts_with("Commands to try")).skip(1);
        lines.map_while(|line| line.strip_prefix("  ")).map(str::to_owned).collect()
    }

    pub async fn end(self) {
        self.running.terminate();
        let (code, told) = self.running.end().await;
        assert_eq!(code, Some(0), "{told}");
        assert_eq!(std::fs::read_dir(self.folder.path()).unwrap().count(), 0);
    }
}

/// Each command is tried where the ones before have been, and says what it is there for.
#[tokio::test]
async fn the_commands_that_the_demo_prints_work() {
    if !are_here(&["curl", "awk"]) {
        return;
    }
    let demo = Demo::start().await;
    let commands = demo.commands();
    assert!(commands[0].starts_with("cd '"), "{commands:#?}");
    for (place, (word, part)) in [
        ("check", "ok, and everything it names answers"),
        ("explain --link", "Granted by rule \"named accounts\": account 40@acme.test, level user, at pbx.localhost"),
        ("/login", ""),
        ("explain --running", "Granted by rule \"staff\": account 40@acme.test, level user, at pbx.localhost"),
        ("/auth/pbx", "\""),
        ("sessions list", "40@acme.test at pbx.localhost"),
        ("freeze", "account 40@acme.test is frozen"),
        ("/auth/pbx", "\"error\":\"forbidden\""),
        ("thaw", "account 40@acme.test is thawed"),
    ]
    .into_iter()
    .enumerate()
    {
        let copied = &commands[place + 1];
        assert!(copied.contains(word), "{commands:#?}");
        let mut command = piped(Command::new("sh"));
        command.args(["-euc", &format!("{}; {copied}", commands[0])]);
        let output = run(command).await;
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert!(output.status.success() && said.contains(part), "{copied}: {said}");
    }
    assert_eq!(commands.len(), 10, "{commands:#?}");
    let admin = Listen::Unix(demo.file("admin.sock"));
    assert!(tell(&admin, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").contains("200 OK"));
    demo.end().await;
}
