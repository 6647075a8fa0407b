//! A machine on which the documents are tried: a folder for `/etc/callgate`, a home, and running programs.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use callgate::demo::app::{PortalApp, PortalOptions, SameSite};
use callgate::demo::server::{self, StandIn};
use callgate::demo::vodia::{Tenant, VodiaOptions, VodiaPbx};
use callgate::model::ott::{VoximplantUser, users_line};
use callgate::tls::dev;
use tempfile::TempDir;

use crate::blocks::{Block, Kind, is_whole};
use crate::programs::{KillTimer, output, signal};

/// A folder that stands for `/etc/callgate`, a home, and programs that run until the end.
pub struct Machine {
    pub folder: TempDir,
    pub app: SocketAddr,
    pbx: SocketAddr,
    pub running: Vec<Daemon>,
}

pub struct Daemon {
    pub child: Child,
    /// Ends it when it does not end as it is told to.
    _watch: KillTimer,
}

impl Daemon {
    pub fn new(child: Child) -> Self {
        Self { _watch: KillTimer::over(&child), child }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // As an operator would end it, so that the demo removes its folder.
        signal(self.child.id(), "-TERM");
        let _ = self.child.wait();
    }
}

impl Machine {
    pub fn new(app: SocketAddr, pbx: SocketAddr) -> Self {
        let folder = TempDir::new().unwrap();
        let machine = Self { folder, app, pbx, running: Vec::new() };
        fs::create_dir_all(machine.etc().join("certs")).unwrap();
        fs::create_dir_all(machine.etc().join("log")).unwrap();
        fs::create_dir_all(machine.etc().join("secrets")).unwrap();
        fs::create_dir_all(machine.etc().join("pages")).unwrap();
        let certificate =
            dev::certificate(&["portal.example.com", "pbx.example.com", "*.pbx.example.com", "*.example.com"]).unwrap();
        let staff = dev::certificate(&["staff.example.com"]).unwrap();
        let whole = |certificate: &dev::DevCertificate| format!("{}{}", certificate.chain, certificate.ca);
        for (name, text) in [
            ("ca.pem", &certificate.ca),
            ("certs/upstream-ca.pem", &certificate.ca),
            ("certs/fullchain.pem", &whole(&certificate)),
            ("certs/privkey.pem", &certificate.key),
            ("certs/client-ca.pem", &certificate.ca),
            ("certs/staff.pem", &whole(&staff)),
            ("certs/staff.key", &staff.key),
            ("pages/logo.svg", &"<svg xmlns=\"http://www.w3.org/2000/svg\"/>".to_owned()),
            ("sso-secret", &"a-secret-of-the-proxy-0123456789".to_owned()),
            ("certs/id.pem", &staff.chain),
            ("links", &"a-secret-that-signs-links-0123456789".to_owned()),
            ("jwt", &"a-secret-that-signs-tokens-0123456789".to_owned()),
        ] {
            machine.write(name, text);
        }
        machine
    }

    pub fn etc(&self) -> PathBuf {
        self.folder.path().join("etc")
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.etc().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Writes the secrets that the README tells to make.
    pub fn write_secrets(&self) {
        let user: VoximplantUser = "alice".parse().unwrap();
        self.write("jwt", "0123456789abcdef0123456789abcdef");
        self.write("pbx-admin", &VodiaOptions::default().admin_password);
        self.write("voximplant-api-key", "0c4b2a10-1111-4222-8333-444455556666");
        self.write("sales.htdigest", &users_line(&user, "Sales-Passw0rd!"));
        self.write("oidc-secret", "a client's secret");
        self.write("voximplant.htdigest", &users_line(&user, "Demo-Passw0rd!"));
        for name in ["secrets/link-2026", "secrets/link-2027"] {
            self.write(name, "b9f6c2a0d4e84f31a7c5e9d0f1b2a3c4");
        }
        self.write("secrets/redis", "Engine-Passw0rd");
        self.write("secrets/ring.keys", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=");
        self.write("certs/logs-ca.pem", &dev::certificate(&["logs.example.com"]).unwrap().ca);
        self.write("people.csv", "email,ext,tenant,vox\nann@example.com,40,acme,ann\n");
    }

    /// Turns what a document shows into what is here.
    pub fn real(&self, text: &str) -> String {
        text.replace("/etc/callgate", &self.etc().display().to_string())
            .replace("/var/lib/callgate", &self.etc().display().to_string())
            .replace("/var/log/callgate", &self.etc().join("log").display().to_string())
            .replace("/var/lib/callgate", &self.etc().display().to_string())
            .replace("0.0.0.0:443", "127.0.0.1:0")
            .replace("127.0.0.1:3000", &self.app.to_string())
            .replace("127.0.0.1:8080", &self.pbx.to_string())
    }

    /// Turns what is here into what a document shows.
    fn shown(&self, text: &str) -> String {
        text.replace(&self.etc().display().to_string(), "/etc/callgate").replace('\r', "")
    }

    pub fn command(&self, program: &str) -> Command {
        let bin = Path::new(env!("CARGO_BIN_EXE_callgate")).parent().unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env("PATH", path).env("HOME", self.folder.path()).stdin(Stdio::null());
        command.env("CURL_HOME", self.folder.path());
        command
    }

    /// Runs a script and returns what it printed, and whether it went well.
    pub fn bash(&self, script: &str) -> (String, bool) {
        let script = format!("exec 2>&1; set -eu; {}", self.real(script));
        let output = output(self.command("bash").args(["-c", &script]));
        (self.shown(&String::from_utf8_lossy(&output.stdout)), output.status.success())
    }

    /// Starts a program and waits until it says that it is ready.
    fn start(&mut self, arguments: &[&str], ready: &str) {
        self.running.clear();
        let (reader, writer) = pipe().unwrap();
        let mut command = self.command(env!("CARGO_BIN_EXE_callgate"));
        command.args(arguments.iter().map(|argument| self.real(argument)));
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
        self.running.push(Daemon::new(command.spawn().unwrap()));
        // It holds the pipe open.
        drop(command);
        let mut lines = BufReader::new(reader);
        let mut told = String::new();
        while !told.contains(ready) {
            assert!(lines.read_line(&mut told).unwrap() > 0, "it ended, and said {told}");
        }
        self.lead_curl_to(&told);
        // The output is read on: the program would stop once the pipe is full.
        std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
    }

    /// Lets curl find at every name what listens here, and believe its certificate.
    fn lead_curl_to(&self, told: &str) {
        let port = told.split("address=127.0.0.1:").nth(1).and_then(|rest| rest.lines().next()).unwrap();
        let ca = self.etc().join("ca.pem");
        let settings = format!("cacert = {ca:?}\nconnect-to = \"::127.0.0.1:{port}\"\nmax-time = 30\n");
        fs::write(self.folder.path().join(".curlrc"), settings).unwrap();
    }

    pub fn start_gate(&mut self) {
        self.start(&["run", "--config", "/etc/callgate/proxy.toml"], "listening");
    }

    pub fn do_block(&mut self, block: &Block) {
        match block.kind {
            _ if block.reason_not_to_run().is_some() => {}
            Kind::Sh if block.text == "cargo run --release -- demo\n" => {
                self.start(&["demo", "--listen", "0.0.0.0:443"], "ready: ")
            }
            Kind::Sh if block.text.starts_with("callgate run ") => self.start_gate(),
            Kind::Sh => {
                let (told, success) = self.bash(&block.text);
                assert!(success, "{}: {told}", block.place);
            }
            Kind::Console => self.converse(block),
            Kind::Toml if is_whole(&block.text) => self.write("proxy.toml", &self.real(&block.text)),
            Kind::Html => {
                let address = block.text.split('"').nth(1).unwrap();
                let (status, _) = self.bash(&format!("curl -s -b jar -o /dev/null -w '%{{http_code}}' '{address}'"));
                assert_eq!(status, "303", "{}", block.place);
            }
            Kind::Toml
            | Kind::Installation
            | Kind::Http
            | Kind::Js
            | Kind::Json
            | Kind::Ini
            | Kind::Haproxy
            | Kind::Nginx
            | Kind::App
            | Kind::Text => {}
        }
    }

    /// Runs a command of a transcript. A refusal waits for no log, so its line may come a moment after its answer.
    fn told(&self, command: &str) -> (String, bool) {
        for _ in 0..50 {
            let (told, success) = self.bash(command);
            if success || !command.starts_with("callgate audit verify") {
                return (told, success);
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        self.bash(command)
    }

    fn converse(&self, block: &Block) {
        assert!(block.text.starts_with("$ "), "{}: no command", block.place);
        for part in format!("\n{}", block.text).split("\n$ ").skip(1) {
            let (command, expected) = part.split_once('\n').unwrap_or((part, ""));
            let (told, success) = self.told(command);
            assert!(success, "{}: {command}\n{told}", block.place);
            assert!(
                fits(told.trim_end(), expected.trim_end()),
                "{}: {command}\nsays\n{told}\ninstead of\n{expected}",
                block.place
            );
        }
    }
}

/// Tells whether a text is the expected one, in which `…` stands for any text within a line.
pub fn fits(text: &str, expected: &str) -> bool {
    let mut parts = expected.split('…');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        let at = if parts.peek().is_none() {
            rest.ends_with(part).then(|| rest.len() - part.len())
        } else {
            rest.find(part)
        };
        let Some(at) = at.filter(|at| !rest[..*at].contains('\n')) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

#[test]
fn the_sign_for_any_text_stays_within_its_line() {
    for (text, expected, fit) in [
        ("abc", "abc", true),
        ("abc", "a…c", true),
        ("ac", "a…c", true),
        ("abcd", "a…c", false),
        ("a\nc", "a…c", false),
        ("a1b2c", "a…b…c", true),
        ("abc", "ab", false),
        ("a", "…", true),
    ] {
        assert_eq!(fits(text, expected), fit, "{text:?} {expected:?}");
    }
}

/// Starts an app and a PBX as the README's configuration has them.
async fn stand_ins() -> (StandIn<PortalApp>, StandIn<VodiaPbx>) {
    let app = PortalOptions {
        pbx_origin: "https://pbx.example.com".into(),
        tenant: "acme".into(),
        voximplant: None,
        cookie_same_site: SameSite::Lax,
    };
    let tenants = vec![Tenant::with_alice_and_bob("acme.example.com")];
    (
        server::serve(PortalApp::new(app)).await,
        server::serve(VodiaPbx::new(VodiaOptions { tenants, ..VodiaOptions::default() })).await,
    )
}

/// Does things that wait while the stand-ins go on.
pub async fn meanwhile(act: impl FnOnce(SocketAddr, SocketAddr) + Send + 'static) {
    let (app, pbx) = stand_ins().await;
    let (app_addr, pbx_addr) = (app.addr, pbx.addr);
    tokio::task::spawn_blocking(move || act(app_addr, pbx_addr)).await.unwrap();
    drop((app, pbx));
}

/// Answers every request, for as long as the test runs, with what is made of its head.
pub fn serve(answer: impl Fn(&str) -> String + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            // A line of two bytes is the empty one behind the head.
            while reader.read_line(&mut head).unwrap() > 2 {}
            stream.write_all(answer(&head).as_bytes()).unwrap();
        }
    });
    addr
}
