//! The documents tell the truth: their commands are run, their configurations loaded, their scripts called, and their
//! tables compared with what they speak of.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use callgate::config;
use callgate::demo::app::{App, AppOptions, SameSite};
use callgate::demo::vodia::{Options, Tenant, Vodia};
use callgate::model::ott::{VoximplantUser, users_line};
use callgate::tls::dev;
use http::StatusCode;
use tempfile::TempDir;

#[path = "../it/kit/openmetrics.rs"]
#[expect(unreachable_pub, reason = "it is written for the tests in tests/it")]
mod openmetrics;
#[path = "../it/kit/programs.rs"]
#[allow(dead_code, reason = "it is written for the tests in tests/it")]
#[expect(unreachable_pub, reason = "it is written for the tests in tests/it")]
mod programs;

use programs::{Watch, are_here, output, signal};

/// How many blocks may say that they cannot be run.
const MOST_NOT_RUN: usize = 7;
/// What the commands of the documents are typed into, and the programs of others that they call.
const TYPED: &[&str] = &["bash", "curl", "openssl", "python3"];
/// What a block that cannot be run begins with; the reason follows.
const NOT_RUN: &str = "# not run: ";

/// What the gate of the pages about audit and freezing has besides.
const GUARDED: &str = "
[audit]
file = \"/var/log/callgate/audit.log\"
chain = true
[admin]
listen = \"unix:/etc/callgate/admin.sock\"
[state]
file = \"/etc/callgate/callgate.state\"
";

// === Documents and their blocks ===

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Commands that must succeed.
    Sh,
    /// Commands behind `$ `, each with its output; `…` stands for any text.
    Console,
    /// A configuration, or tables of one.
    Toml,
    /// An answer of the app, for callgate to give a session to.
    Http,
    /// A script of a page.
    Js,
    /// A page with a link to callgate.
    Html,
    Json,
    /// What nginx is told; `tests/it/login/behind_nginx.rs` runs it.
    Nginx,
    /// A systemd unit.
    Ini,
    /// A part of an app, in the language that the app is written in: run as a recipe, or by `tests/it/login/link_recipes.rs`.
    App,
    /// Diagrams, log lines and whatever is not typed by anybody.
    Text,
}

#[derive(Debug, Clone)]
struct Block {
    place: String,
    kind: Kind,
    text: String,
}

impl Block {
    fn reason_not_to_run(&self) -> Option<&str> {
        self.text.lines().next()?.strip_prefix(NOT_RUN)
    }
}

fn documents() -> Vec<PathBuf> {
    let mut files: Vec<_> = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(PathBuf::from).into();
    files.extend(fs::read_dir("docs").unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()));
    files.sort();
    files
}

fn kind(word: &str, place: &str) -> Kind {
    match word {
        "sh" => Kind::Sh,
        "console" => Kind::Console,
        "toml" => Kind::Toml,
        "http" => Kind::Http,
        "js" => Kind::Js,
        "html" => Kind::Html,
        "json" => Kind::Json,
        "ini" => Kind::Ini,
        "php" | "javascript" | "python" | "ruby" | "go" | "csharp" => Kind::App,
        "nginx" => Kind::Nginx,
        "text" => Kind::Text,
        word => panic!("{place}: a block of the kind {word:?} is not checked by anything"),
    }
}

/// Splits a document into the prose and its blocks.
fn split(path: &Path) -> (String, Vec<Block>) {
    let (mut prose, mut blocks, mut open) = (String::new(), Vec::new(), None::<Block>);
    for (index, line) in fs::read_to_string(path).unwrap().lines().enumerate() {
        let place = format!("{}:{}", path.display(), index + 1);
        match (line.strip_prefix("```"), open.take()) {
            (Some(word), None) => open = Some(Block { kind: kind(word, &place), place, text: String::new() }),
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(block)) => open = Some(Block { text: format!("{}{line}\n", block.text), ..block }),
            (None, None) => prose.push_str(&format!("{line}\n")),
        }
    }
    assert!(open.is_none(), "{}: a block has no end", path.display());
    (prose, blocks)
}

fn blocks(path: &str) -> Vec<Block> {
    split(Path::new(path)).1
}

fn all_blocks(kind: Kind) -> Vec<Block> {
    documents().iter().flat_map(|path| split(path).1).filter(|block| block.kind == kind).collect()
}

// === A machine to try the documents on ===

/// A folder that stands for `/etc/callgate`, a home, and programs that run until the end.
struct Machine {
    folder: TempDir,
    app: SocketAddr,
    pbx: SocketAddr,
    running: Vec<Daemon>,
}

struct Daemon {
    child: Child,
    /// Ends it when it does not end as it is told to.
    _watch: Watch,
}

impl Daemon {
    fn new(child: Child) -> Self {
        Self { _watch: Watch::over(&child), child }
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
    fn new(app: SocketAddr, pbx: SocketAddr) -> Self {
        let folder = TempDir::new().unwrap();
        let machine = Self { folder, app, pbx, running: Vec::new() };
        fs::create_dir_all(machine.etc().join("certs")).unwrap();
        fs::create_dir_all(machine.etc().join("log")).unwrap();
        let certificate = dev::certificate(&["portal.example.com", "pbx.example.com"]).unwrap();
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
            ("sso-secret", &"a-secret-of-the-proxy-0123456789".to_owned()),
            ("certs/id.pem", &staff.chain),
            ("links", &"a-secret-that-signs-links-0123456789".to_owned()),
            ("jwt", &"a-secret-that-signs-tokens-0123456789".to_owned()),
        ] {
            machine.write(name, text);
        }
        machine
    }

    fn etc(&self) -> PathBuf {
        self.folder.path().join("etc")
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.etc().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Writes the secrets that the README tells to make.
    fn write_secrets(&self) {
        let user: VoximplantUser = "alice".parse().unwrap();
        self.write("jwt", "0123456789abcdef0123456789abcdef");
        self.write("pbx-admin", &Options::default().admin_password);
        self.write("voximplant-api-key", "0c4b2a10-1111-4222-8333-444455556666");
        self.write("sales.htdigest", &users_line(&user, "Sales-Passw0rd!"));
        self.write("oidc-secret", "a client's secret");
        self.write("voximplant.htdigest", &users_line(&user, "Demo-Passw0rd!"));
        fs::create_dir_all(self.etc().join("secrets")).unwrap();
        for name in ["secrets/link-2026", "secrets/link-2027"] {
            self.write(name, "b9f6c2a0d4e84f31a7c5e9d0f1b2a3c4");
        }
        self.write("people.csv", "email,ext,tenant,vox\nann@example.com,40,acme,ann\n");
    }

    /// Turns what a document shows into what is here.
    fn real(&self, text: &str) -> String {
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

    fn command(&self, program: &str) -> Command {
        let bin = Path::new(env!("CARGO_BIN_EXE_callgate")).parent().unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env("PATH", path).env("HOME", self.folder.path()).stdin(Stdio::null());
        command.env("CURL_HOME", self.folder.path());
        command
    }

    /// Runs a script and returns what it printed, and whether it went well.
    fn bash(&self, script: &str) -> (String, bool) {
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
        // What nobody reads would stop it once the pipe is full.
        std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
    }

    /// Lets curl find at every name what listens here, and believe its certificate.
    fn lead_curl_to(&self, told: &str) {
        let port = told.split("address=127.0.0.1:").nth(1).and_then(|rest| rest.lines().next()).unwrap();
        let ca = self.etc().join("ca.pem");
        let settings = format!("cacert = {ca:?}\nconnect-to = \"::127.0.0.1:{port}\"\nmax-time = 30\n");
        fs::write(self.folder.path().join(".curlrc"), settings).unwrap();
    }

    fn start_gate(&mut self) {
        self.start(&["run", "--config", "/etc/callgate/proxy.toml"], "listening");
    }

    fn do_block(&mut self, block: &Block) {
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
            Kind::Toml | Kind::Http | Kind::Js | Kind::Json | Kind::Ini | Kind::Nginx | Kind::App | Kind::Text => {}
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
fn fits(text: &str, expected: &str) -> bool {
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
async fn stand_ins() -> (App, Vodia) {
    let app = AppOptions {
        pbx_origin: "https://pbx.example.com".into(),
        tenant: "acme".into(),
        voximplant: None,
        cookie_same_site: SameSite::Lax,
    };
    let tenants = vec![Tenant::with_alice_and_bob("acme.example.com")];
    (App::start(app).await, Vodia::start(Options { tenants, ..Options::default() }).await)
}

/// Does things that wait while the stand-ins go on.
async fn meanwhile(act: impl FnOnce(SocketAddr, SocketAddr) + Send + 'static) {
    let (app, pbx) = stand_ins().await;
    let (app_addr, pbx_addr) = (app.addr, pbx.addr);
    tokio::task::spawn_blocking(move || act(app_addr, pbx_addr)).await.unwrap();
    drop((app, pbx));
}

fn is_whole(text: &str) -> bool {
    text.starts_with("listen = ") && text.contains("[[allow]]")
}

fn readme_configuration() -> String {
    let whole = blocks("README.md").into_iter().find(|block| block.kind == Kind::Toml && is_whole(&block.text));
    whole.expect("README.md has a whole configuration").text
}

// === Blocks ===

#[test]
fn few_blocks_are_not_run_and_those_say_why() {
    let blocks: Vec<_> = documents().iter().flat_map(|path| split(path).1).collect();
    assert!(blocks.len() > 30, "{} blocks", blocks.len());
    let reasons: Vec<_> = blocks.iter().filter_map(Block::reason_not_to_run).collect();
    assert!(reasons.len() <= MOST_NOT_RUN, "{reasons:#?}");
    assert!(reasons.iter().all(|reason| reason.len() > 10), "{reasons:#?}");
}

#[tokio::test]
async fn the_readme_leads_from_nothing_to_a_login() {
    if !are_here(TYPED) {
        return;
    }
    meanwhile(|app, pbx| {
        let mut machine = Machine::new(app, pbx);
        for block in blocks("README.md") {
            machine.do_block(&block);
        }
    })
    .await;
}

#[tokio::test]
async fn the_commands_of_the_other_documents_do_what_is_shown() {
    if !are_here(TYPED) {
        return;
    }
    meanwhile(|app, pbx| {
        let mirror = serve(mirrored);
        for path in documents().into_iter().filter(|path| !path.ends_with("README.md")) {
            let app = if path.ends_with("transparency.md") { mirror } else { app };
            let mut machine = Machine::new(app, pbx);
            machine.write_secrets();
            let guarded = path.ends_with("audit.md") || path.ends_with("freeze.md");
            let more = if guarded { GUARDED } else { "" };
            machine.write("proxy.toml", &machine.real(&format!("{}{more}", readme_configuration())));
            machine.start_gate();
            for block in split(&path).1 {
                machine.do_block(&block);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_hangup_ends_nothing() {
    if !are_here(&["bash", "curl"]) {
        return;
    }
    meanwhile(|app, pbx| {
        let mut machine = Machine::new(app, pbx);
        machine.write_secrets();
        machine.write("proxy.toml", &machine.real(&readme_configuration()));
        machine.start_gate();
        let script =
            format!("kill -HUP {}; curl -s https://portal.example.com/auth/pbx", machine.running[0].child.id());
        let (told, success) = machine.bash(&script);
        assert!(success && told.contains("log in first"), "{told}");
    })
    .await;
}

// === Recipes ===

fn recipes() -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir("docs/recipes").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Returns the file that a block is, by the comment in its first line.
fn file_of(block: &Block) -> Option<&str> {
    let (_, name) = block.text.lines().next()?.split_once(" file: ")?;
    Some(name.trim())
}

/// An app of a recipe: a folder, its server, and a gate before it.
struct Kitchen {
    machine: Machine,
    app: Vec<Daemon>,
}

impl Kitchen {
    fn new(pbx: SocketAddr) -> Self {
        let app = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let machine = Machine::new(app, pbx);
        machine.write_secrets();
        Self { machine, app: Vec::new() }
    }

    fn do_block(&mut self, block: &Block) {
        match (block.kind, file_of(block)) {
            (Kind::App | Kind::Js, Some(name)) => {
                let path = self.machine.folder.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, block.text.replace("listen(3000", &format!("listen({}", self.machine.app.port())))
                    .unwrap();
            }
            (Kind::Sh, _) if block.text.ends_with(" &\n") => self.serve(block.text.trim_end().trim_end_matches('&')),
            _ => self.machine.do_block(block),
        }
    }

    /// Starts the app, and waits until it accepts connections.
    fn serve(&mut self, command: &str) {
        let script = format!("exec >app.log 2>&1; set -eu; exec env {}", self.machine.real(command));
        let child = self.machine.command("bash").args(["-c", &script]).spawn().unwrap();
        self.app.push(Daemon::new(child));
        for _ in 0..600 {
            if TcpStream::connect(self.machine.app).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("{command}: {}", fs::read_to_string(self.machine.folder.path().join("app.log")).unwrap());
    }
}

/// Needs PHP, Node with npm, Python with pip, and their registries.
#[tokio::test]
#[ignore = "needs the languages that apps are written in: tests/run has them"]
async fn the_recipes_lead_to_a_login() {
    meanwhile(|_, pbx| {
        let stub = std::path::absolute("tests/recipes/wordpress.php").unwrap();
        for path in recipes() {
            let mut kitchen = Kitchen::new(pbx);
            if path.ends_with("wordpress.md") {
                kitchen.serve(&format!("WP_SECRET=secret php -S 127.0.0.1:3000 {}", stub.display()));
            }
            for block in split(&path).1 {
                kitchen.do_block(&block);
            }
        }
    })
    .await;
}

/// Returns the head of a table line: `[app]`, `[[allow]]`.
fn head(line: &str) -> Option<&str> {
    line.starts_with('[')
        .then(|| line.split_inclusive(']').take_while(|part| part.ends_with(']')).map(str::len).sum())
        .map(|length: usize| &line[..length])
}

/// Splits a configuration into what stands above its tables, and the tables.
fn tables(text: &str) -> Vec<(String, String)> {
    let mut tables = vec![(String::new(), String::new())];
    for line in text.lines() {
        if let Some(head) = head(line) {
            tables.push((head.to_owned(), String::new()));
        }
        let last = tables.last_mut().unwrap();
        last.1.push_str(&format!("{line}\n"));
    }
    tables
}

/// Puts the tables of a fragment in place of those of the README's configuration; rules and methods are added.
fn completed(fragment: &str) -> String {
    let fragments = tables(fragment);
    let has = |head: &str| !head.starts_with("[[") && fragments.iter().any(|(known, _)| known == head);
    let mut top = fragments[0].1.clone();
    let mut rest = String::new();
    for (head, text) in tables(&readme_configuration()) {
        if head.is_empty() {
            let key = |line: &&str| !top.lines().any(|known| known.split(' ').next() == line.split(' ').next());
            let kept: Vec<_> = text.lines().filter(key).collect();
            top.push_str(&format!("{}\n", kept.join("\n")));
        } else if !has(&head) {
            rest.push_str(&text);
        }
    }
    let own: String = fragments[1..].iter().map(|(_, text)| text.as_str()).collect();
    format!("{top}{rest}{own}")
}

#[test]
fn all_configurations_load() {
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let machine = Machine::new(nowhere, nowhere);
    machine.write_secrets();
    let etc = machine.etc().display().to_string();
    let of_recipes = recipes().into_iter().flat_map(|path| split(&path).1).filter(|block| block.kind == Kind::Toml);
    for block in all_blocks(Kind::Toml).into_iter().chain(of_recipes) {
        let text = if is_whole(&block.text) { block.text } else { completed(&block.text) };
        let env = |name: &str| (name == "CREDENTIALS_DIRECTORY").then(|| etc.clone());
        let loaded = config::parse(&machine.real(&text), &machine.etc(), &env);
        let config = loaded.unwrap_or_else(|problems| panic!("{}: {problems}\n{text}", block.place));
        // What completes a block has a rule of its own, before those of the block.
        let warnings = config.warnings.iter().filter(|warning| !warning.message.contains("`rule 1` before it fits"));
        assert_eq!(warnings.map(ToString::to_string).collect::<Vec<_>>(), [""; 0], "{}", block.place);
    }
}

#[test]
fn all_json_is_json() {
    for block in all_blocks(Kind::Json) {
        serde_json::from_str::<serde_json::Value>(&block.text)
            .unwrap_or_else(|error| panic!("{}: {error}", block.place));
    }
}

// === Answers of the app ===

/// Answers every request, for as long as the test runs, with what is made of its head.
fn serve(answer: impl Fn(&str) -> String + Send + 'static) -> SocketAddr {
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

/// Answers as docs/transparency.md says: with the head of the request, and some fields that are not for the client.
fn mirrored(head: &str) -> String {
    let fields = "Connection: close, X-Hop\r\nX-Hop: 1\r\nPBX-Account: 40\r\nServer: app\r\nContent-Type: text/plain";
    let body = head.replace('\r', "");
    format!("HTTP/1.1 200 Ok\r\n{fields}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn redirects_of_the_app_are_given_a_session() {
    if !are_here(&["bash", "curl"]) {
        return;
    }
    meanwhile(|_, pbx| {
        let redirect =
            blocks("README.md").into_iter().find(|block| block.text.contains("auth = \"redirect\"")).unwrap();
        for path in ["README.md", "docs/app.md"] {
            let blocks = blocks(path);
            let (at, answer) = blocks.iter().enumerate().find(|(_, block)| block.kind == Kind::Http).unwrap();
            let text = answer.text.replace('\n', "\r\n") + "\r\n";
            let app = serve(move |_| text.clone());
            let mut machine = Machine::new(app, pbx);
            machine.write_secrets();
            machine.write("proxy.toml", &machine.real(&format!("{}{}", readme_configuration(), redirect.text)));
            machine.start_gate();
            let (told, _) = machine.bash("curl -s --http1.1 -D - https://portal.example.com/telephone");
            let location = told.lines().find(|line| line.starts_with("location: ")).unwrap_or_else(|| panic!("{told}"));
            let next = blocks.get(at + 1).filter(|block| block.text.starts_with("location: "));
            let expected =
                next.map_or("location: https://pbx.example.com/welcome.htm?sessId=…", |block| block.text.trim());
            assert!(fits(location.trim(), expected), "{}: {location}", answer.place);
            assert!(!told.to_ascii_lowercase().contains("pbx-account"), "{told}");
        }
    })
    .await;
}

// === Scripts ===

/// What stands around a script: a page, an SDK and a gate that answers as told.
const PAGE: &str = r#"
const location = { href: "" };
const answers = (ok) => { globalThis.fetch = async (address, { method, body }) => ({ address, method, ok, status: ok ? 200 : 403,
  text: async () => [address, method, String(body)].join(" "),
  json: async () => Object.assign(new String("s1"), { url: "https://pbx.example.com/welcome.htm?sessId=s1" }) }); };
const client = { requestOneTimeLoginKey: async () => ({ name: "AuthResult", code: 302, key: "k +", result: false }),
  loginWithOneTimeKey: async (name, token) => [name, token].join(": ") };
const same = (one, other) => { if (one !== other) throw new Error(one + " instead of " + other); };
const fails = async (act) => { try { await act(); } catch { return; } throw new Error("no failure"); };
answers(true);
"#;

/// What is expected of a script, by the function it defines.
const EXPECTED: [(&str, &str); 2] = [
    ("openPbx", r#"await openPbx(); same(location.href, "https://pbx.example.com/welcome.htm?sessId=s1");"#),
    (
        "logIn",
        r#"same(await logIn(client, "alice@a.b"), "alice@a.b: /auth/ott POST key=k+%2B");
answers(false); await fails(() => logIn(client, "alice@a.b"));"#,
    ),
];

#[test]
fn scripts_log_in() {
    if !are_here(&["node"]) {
        return;
    }
    let scripts = all_blocks(Kind::Js);
    assert!(scripts.len() > 2);
    for block in scripts {
        let (_, expected) =
            EXPECTED.iter().find(|(name, _)| block.text.contains(&format!("function {name}("))).expect(&block.place);
        let script = format!("{PAGE}{}{expected}", block.text);
        let output = output(Command::new("node").args(["--input-type=module", "-e", &script]));
        assert!(output.status.success(), "{}: {}", block.place, String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_unit_that_is_shown_is_the_one_to_install() {
    let [block] = &all_blocks(Kind::Ini)[..] else { panic!("more units than one") };
    assert_eq!(block.text, fs::read_to_string("deploy/callgate.service").unwrap());
}

#[test]
fn units_are_units() {
    if !are_here(&["systemd-analyze"]) {
        return;
    }
    let folder = TempDir::new().unwrap();
    for block in all_blocks(Kind::Ini) {
        let unit = folder.path().join("callgate.service");
        fs::write(&unit, block.text.replace("/usr/local/bin/callgate", env!("CARGO_BIN_EXE_callgate"))).unwrap();
        let socket = folder.path().join("callgate.socket");
        fs::copy("deploy/callgate.socket", &socket).unwrap();
        let output = output(Command::new("systemd-analyze").arg("verify").args([&unit, &socket]));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !told.contains("callgate."), "{}: {told}", block.place);
    }
}

// === Tables ===

/// Returns the cells of all rows that begin with a word in back quotes, under their headings.
fn rows(path: &str) -> Vec<(String, Vec<String>)> {
    let (mut heading, mut rows) = (String::new(), Vec::new());
    for line in split(Path::new(path)).0.lines() {
        if let Some(text) = line.strip_prefix("## ") {
            heading = text.replace('`', "");
        }
        if line.starts_with("| `") {
            let cells = line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
            rows.push((heading.clone(), cells));
        }
    }
    rows
}

/// What `proxy.toml` says of a key.
struct Shown {
    value: String,
    is_default: bool,
}

/// Reads all keys of `proxy.toml`, those in comments too: (table, key) → what it shows.
fn keys() -> BTreeMap<(String, String), Shown> {
    let (mut table, mut keys) = ("Top".to_owned(), BTreeMap::new());
    for line in fs::read_to_string("proxy.toml").unwrap().lines() {
        let (is_comment, line) = line.strip_prefix('#').map_or((false, line), |line| (true, line));
        if let Some(head) = head(line) {
            head.clone_into(&mut table);
            continue;
        }
        let Some((key, rest)) = line.split_once(" = ").filter(|(key, _)| !key.contains(' ')) else { continue };
        let (value, comment) = rest.split_once(" #").unwrap_or((rest, ""));
        let is_default = is_comment && !comment.contains("for example") && !table.starts_with("[[");
        let value = value.trim();
        if key == "timeouts" {
            for pair in value.trim_matches(['{', '}', ' ']).split(", ") {
                let (inner, value) = pair.split_once(" = ").unwrap();
                keys.insert(
                    (table.clone(), format!("timeouts.{inner}")),
                    Shown { value: value.to_owned(), is_default },
                );
            }
        }
        let is_default = is_default && key != "timeouts";
        keys.insert((table.clone(), key.to_owned()), Shown { value: value.to_owned(), is_default });
    }
    keys
}

#[test]
fn every_key_of_the_configuration_is_documented_with_its_default() {
    let keys = keys();
    let mut missing: Vec<_> = keys.keys().cloned().collect();
    assert!(missing.len() > 70, "{missing:?}");
    for (table, cells) in rows("docs/configure.md") {
        let name = (table, cells[0].trim_matches('`').to_owned());
        let Some(shown) = keys.get(&name) else { panic!("{name:?} is not in proxy.toml") };
        missing.retain(|known| *known != name);
        if shown.is_default {
            assert_eq!(cells[2], format!("`{}`", shown.value), "{name:?}");
        }
    }
    assert_eq!(missing, []);
}

/// Asks the admin listener of a gate that runs for all its metrics.
fn live_metrics(machine: &mut Machine) -> Vec<openmetrics::Family> {
    machine.write_secrets();
    // Keys that nobody publishes: there are series for them all the same.
    let keys = "[[auth]]\ntype = \"jwt\"\njwks = \"http://127.0.0.1:1/\"\nissuer = \"a\"\naudience = \"b\"\n";
    let admin = "[admin]\nlisten = \"unix:admin.sock\"\n";
    let configuration = format!("{}\n{keys}{admin}", readme_configuration());
    machine.write("proxy.toml", &machine.real(&configuration));
    machine.start_gate();
    let mut stream = UnixStream::connect(machine.etc().join("admin.sock")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    openmetrics::read(answer.split_once("\r\n\r\n").unwrap().1)
}

#[tokio::test]
async fn every_metric_is_documented_with_its_type_and_labels_and_no_others_are() {
    meanwhile(|app, pbx| {
        let live = live_metrics(&mut Machine::new(app, pbx));
        let rows: Vec<_> = rows("docs/metrics.md").into_iter().map(|(_, cells)| cells[..3].to_vec()).collect();
        let shown = live.iter().map(|family| {
            let end = match family.kind.as_str() {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            let mut labels: Vec<_> = family.labels().into_iter().map(|name| format!("`{name}`")).collect();
            labels.sort_by_key(|name| {
                let row = rows.iter().find(|row| row[0].contains(&family.name)).map_or("", |row| &row[2]);
                row.find(name.as_str())
            });
            let labels = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
            vec![format!("`{}{end}`", family.name), family.kind.clone(), labels]
        });
        assert_eq!(shown.collect::<Vec<_>>(), rows);
        let samples: Vec<_> = live.iter().flat_map(|family| &family.samples).map(|(name, _, _)| name).collect();
        let text = fs::read_to_string("docs/metrics.md").unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("callgate_") || word.starts_with("process_")) {
            let known = samples.iter().any(|name| *name == word) || live.iter().any(|family| family.name == word);
            assert!(known, "docs/metrics.md: {word}");
        }
    })
    .await;
}

#[test]
fn every_reason_of_the_access_log_is_explained() {
    let source = fs::read_to_string("src/proxy/error.rs").unwrap();
    let rows: Vec<_> = rows("docs/troubleshoot.md").into_iter().map(|(_, cells)| cells).collect();
    let mut count = 0;
    for part in source.split("(StatusCode::").skip(1) {
        let Some((status, rest)) = part.split_once(", \"") else { continue };
        let code = rest.split('"').next().unwrap();
        let named = |status: &StatusCode| status.canonical_reason().unwrap_or("").to_uppercase().replace(' ', "_");
        let all = (300..600).filter_map(|number| StatusCode::from_u16(number).ok());
        let number = all.filter(|known| named(known) == status).map(|known| known.as_u16().to_string()).next();
        let row = rows.iter().find(|cells| cells[0] == format!("`{code}`")).unwrap_or_else(|| panic!("{code}"));
        assert_eq!(Some(&row[1]), number.as_ref(), "{code}");
        count += 1;
    }
    assert_eq!((count, rows.len()), (rows.len(), count));
}

/// Returns the statuses that our own failures have, as numbers.
fn statuses_of_failures() -> BTreeSet<String> {
    let source = fs::read_to_string("src/proxy/error.rs").unwrap();
    let names = source.split("(StatusCode::").skip(1).filter_map(|part| part.split_once(", \"")).map(|part| part.0);
    let all: Vec<_> = (300..600).filter_map(|number| StatusCode::from_u16(number).ok()).collect();
    let spelled = |status: &StatusCode| status.canonical_reason().unwrap_or("").to_uppercase().replace(' ', "_");
    names.map(|name| all.iter().find(|status| spelled(status) == name).unwrap().as_u16().to_string()).collect()
}

#[test]
fn the_readme_tells_every_status_of_a_failure_and_no_other() {
    let prose = split(Path::new("README.md")).0;
    let section = prose.split("\n## ").find(|section| section.starts_with("What callgate answers")).unwrap();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let told =
        cells.flat_map(|cell| cell.split(", ")).filter(|word| word.parse::<u16>().is_ok_and(|status| status >= 300));
    // What goes well is told as well: the way to the PBX.
    let told: BTreeSet<_> = told.filter(|status| *status != "303").map(str::to_owned).collect();
    assert_eq!(told, statuses_of_failures());
}

#[test]
fn every_exit_code_is_explained_and_no_others_are() {
    let source = fs::read_to_string("src/cli.rs").unwrap();
    let codes = source.lines().filter(|line| line.starts_with("const EX_"));
    let codes = codes.map(|line| line.rsplit("= ").next().unwrap().trim_end_matches(';').to_owned());
    let codes: BTreeSet<_> = codes.chain(["0", "1"].map(str::to_owned)).collect();
    let prose = split(Path::new("docs/operate.md")).0;
    let (_, table) = prose.split_once("| exit code | meaning |\n").unwrap();
    let rows = table.lines().skip(1).map_while(|line| line.strip_prefix("| ")?.split(" | ").next());
    assert_eq!(rows.map(str::to_owned).collect::<BTreeSet<_>>(), codes);
}

/// Returns what follows a text wherever it stands, up to a quotation mark.
fn named_behind(source: &str, text: &str) -> BTreeSet<String> {
    source.split(text).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

#[test]
fn every_part_of_readyz_is_explained_and_no_others_are() {
    let files = ["src/server.rs", "src/server/snapshot.rs", "src/proxy/shared.rs"];
    let sources: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let ways = ["parts.add(\"", "parts.add_unneeded(\""];
    let parts: BTreeSet<_> = ways.iter().flat_map(|way| named_behind(&sources, way)).collect();
    let prose = split(Path::new("docs/operate.md")).0;
    let (_, table) = prose.split_once("| part | not ready |\n").unwrap();
    let rows = table.lines().skip(1).map_while(|line| line.strip_prefix("| ")?.split(" | ").next());
    assert_eq!(rows.flat_map(quoted).map(str::to_owned).collect::<BTreeSet<_>>(), parts);
    let metrics = rows_of("docs/metrics.md", "callgate_ready");
    let missing: Vec<_> = parts.iter().filter(|part| !metrics.contains(&format!("`{part}`"))).collect();
    assert!(missing.is_empty(), "docs/metrics.md: {missing:?}");
}

/// Returns what a row says of a metric.
fn rows_of(path: &str, name: &str) -> String {
    let rows = rows(path).into_iter().map(|(_, cells)| cells);
    rows.filter(|cells| cells[0].contains(name)).map(|cells| cells[3].clone()).collect()
}

#[test]
fn what_a_reload_cannot_change_is_told() {
    let source = fs::read_to_string("src/server/snapshot.rs").unwrap();
    let (_, list) = source.split_once("let keys = [").unwrap();
    let keys = named_behind(list.split("];").next().unwrap(), "(\"`");
    assert!(keys.len() > 3, "{keys:?}");
    let text = fs::read_to_string("docs/operate.md").unwrap();
    let (_, told) = text.split_once("cannot change this way:").unwrap();
    let told = told.split('.').next().unwrap();
    for key in keys {
        let key = key.trim_end_matches('`');
        let shown = key.split_once('.').map_or_else(|| format!("`{key}`"), |(table, key)| format!("`[{table}] {key}`"));
        assert!(told.contains(&shown), "{shown} is not in {told:?}");
    }
}

/// Where the bounds that the documents tell are kept.
const BOUNDS: &[(&str, &str)] = &[
    ("src/message/framing.rs", "MAX_TARGET: usize = 16 << 10;"),
    ("src/message/framing.rs", "MAX_HEAD: usize = 64 << 10;"),
    ("src/server/connection.rs", "MAX_BUFFER: usize = 2 * framing::MAX_HEAD;"),
    ("src/message/framing.rs", "MAX_FIELDS: usize = 100;"),
    ("src/message/guard.rs", "MAX_CHUNK_LINE: usize = 4 << 10;"),
    ("src/message/guard.rs", "MAX_TRAILERS: usize = 8 << 10;"),
    ("src/server/connection.rs", "MAX_HEADER_LIST: u32 = 16 << 10;"),
    ("src/server/connection.rs", "MAX_STREAMS: u32 = 100;"),
    ("src/budget.rs", "POOL: usize = 512 << 10;"),
    ("src/budget.rs", "LEAST: usize = 8 << 10;"),
    ("src/budget.rs", "SMALL: usize = 16;"),
    ("src/budget.rs", "MUCH: usize = 64 << 10;"),
    ("src/budget.rs", "MAX_AHEAD: usize = 1 << 20;"),
    ("src/budget.rs", "SLOW: usize = 5;"),
    ("src/upstream/request_body.rs", "AHEAD: usize = 256 << 10;"),
    ("src/server/io.rs", "MAX_ENCRYPTED: usize = 64 << 10;"),
    ("src/upstream/permits.rs", "SHARE: usize = 7;"),
    ("src/upstream/permits.rs", "KEPT: usize = 32;"),
    ("src/upstream/permits.rs", "BUSY: usize = 8;"),
    ("src/upstream/permits.rs", "OWN: usize = 64;"),
    ("src/upstream/permits.rs", "MAX_OWN: usize = 16;"),
    ("src/config/check/server.rs", "BUFFER_BUDGET: usize = 128 << 20;"),
    ("src/config/check/server.rs", "LEAST_BUDGET: usize = 8 << 20;"),
    ("src/server/connection.rs", "MAX_SEND_BUFFER: usize = 128 << 10;"),
    ("src/server/connection.rs", "initial_stream_window_size(256 << 10)"),
    ("src/server/connection.rs", "initial_connection_window_size(1 << 20)"),
    ("src/server/connection.rs", "MAX_RESETS: usize = 128;"),
    ("src/upstream/request_body.rs", "LINGER: Duration = Duration::from_secs(1);"),
    ("src/upstream/conn.rs", "MAX_BUFFER: usize = 128 << 10;"),
    ("src/upstream/conn.rs", "MAX_AGE: Duration = Duration::from_secs(300);"),
    ("src/upstream/endpoint.rs", "STAGGER: Duration = Duration::from_millis(250);"),
    ("src/upstream/head_scanner.rs", "MAX_HEADS: usize = 256 << 10;"),
    ("src/upstream/interim.rs", "MAX_FIELDS: usize = 16 << 10;"),
    ("src/exchange/interim.rs", "MAX_WAITING: usize = 16 << 10;"),
    ("src/upstream/permits.rs", "MAX_WAITING: usize = 1024;"),
    ("src/upstream/lookup.rs", "THREADS: usize = 4;"),
    ("src/upstream/lookup.rs", "MAX_NAMES: usize = 64;"),
    ("src/upstream/lookup.rs", "MAX_WAITING: usize = 4096;"),
    ("src/descriptors.rs", "TO_UPSTREAMS: usize = 6;"),
    ("src/config/check/upstream.rs", "DEFAULT_CONNECTIONS: usize = 10_000;"),
    ("src/upstream/tunnel.rs", "CHUNK: usize = 16 << 10;"),
    ("src/limit.rs", "KEYS: usize = 100_000;"),
    ("src/auth/oidc.rs", "MAX_LOGIN: usize = 1 << 10;"),
    ("src/auth/oidc/attempt.rs", "MAX_ATTEMPTS: usize = 5;"),
    ("src/auth/oidc/attempt.rs", "LIFE: i64 = 600;"),
    ("src/config/check/allow/table.rs", "MAX_BYTES: usize = 16 << 20;"),
    ("src/config/check/allow/table.rs", "MAX_ROWS: usize = 100_000;"),
    ("src/config/check/allow/table.rs", "MAX_COLUMNS: usize = 32;"),
    ("src/model/grant.rs", "MAX_CHOICES: usize = 64;"),
    ("src/observe/sink.rs", "MAX_WAITING: usize = 4 << 20;"),
    ("src/observe/sink.rs", "MAX_UNNEEDED: usize = 2 << 20;"),
    ("src/observe/sink.rs", "GATHER: Duration = Duration::from_millis(20);"),
    ("src/observe/sink.rs", "HAND_OVER: usize = 32 << 10;"),
    ("src/observe/sink.rs", "PATIENCE: Duration = Duration::from_secs(2);"),
    ("src/observe/heartbeat.rs", "MAX_STILL: Duration = Duration::from_secs(10);"),
    ("src/server.rs", "LAST_LINES: Duration = Duration::from_secs(2);"),
    ("src/server.rs", "SPARE: Duration = Duration::from_secs(8);"),
    ("src/model/freeze_target.rs", "MAX_WHY: usize = 500;"),
    ("src/state/tables.rs", "TICKETS: usize = 10_000;"),
    ("src/state/tables.rs", "MARKS: usize = 100_000;"),
    ("src/state/tables.rs", "LONGER: SignedDuration = SignedDuration::from_mins(10);"),
    ("src/state/tables.rs", "FREEZES: usize = 10_000;"),
    ("src/state/tables.rs", "KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);"),
    ("src/state/clock.rs", "PROBATION: Duration = Duration::from_secs(60 * 60);"),
    ("src/server/handover.rs", "LENT: Duration = Duration::from_secs(4);"),
    ("src/state/writer.rs", "QUEUE: usize = 1024;"),
    ("src/state.rs", "DEADLINE: Duration = Duration::from_secs(5);"),
    ("src/auth/app.rs", "MAX_ANSWER: usize = 16 << 10;"),
    ("src/auth/app/cache.rs", "MAX_KNOWN: usize = 1024;"),
    ("src/config/check/auth/app.rs", "MAX_CACHE: Duration = Duration::from_secs(30);"),
    ("src/proxy/forward/shield.rs", "MAX_LOGIN: usize = 16 << 10;"),
    ("src/limit/races.rs", "NEAR: Duration = Duration::from_secs(60);"),
    ("src/limit/races.rs", "QUIET: Duration = Duration::from_secs(15 * 60);"),
    ("src/pbx/issued.rs", "SESSIONS: usize = 50_000;"),
    ("src/pbx/issued.rs", "LIFE: Duration = Duration::from_secs(24 * 3600);"),
    ("src/pbx/issued.rs", "LANDING: Duration = Duration::from_secs(120);"),
    ("src/model/jwt.rs", "MAX_TOKEN: usize = 8 << 10;"),
    ("src/model/jwt/keys.rs", "MAX_KEYS: usize = 100;"),
    ("src/model/jwt/keys.rs", "MAX_TRIES: usize = 10;"),
    ("src/upstream/fetch.rs", "MAX_ANSWER: usize = 1 << 20;"),
    ("src/auth/jwks.rs", "OUT_OF_TURN: Duration = Duration::from_secs(30);"),
    ("src/auth/jwks.rs", "PATIENCE: Duration = Duration::from_secs(2);"),
    ("src/auth/jwt.rs", "MAX_LIFE_IN_QUERY: Duration = Duration::from_secs(15 * 60);"),
    ("src/config/check/server.rs", "MAX_CONNECTIONS: usize = 16_384;"),
    ("src/server/proxy_protocol.rs", "MAX_BLOCK: usize = 4 << 10;"),
    ("src/message/forwarded_chain.rs", "MAX_HOPS: usize = 16;"),
    ("src/message/screen.rs", "MAX_WAITING: usize = 113 << 10;"),
    ("src/server/admin.rs", "MAX_CONNECTIONS: usize = 64;"),
    ("src/server/admin/desk.rs", "LIFE: Duration = Duration::from_secs(10);"),
    ("src/server/admin/desk.rs", "PATIENCE: Duration = Duration::from_secs(8);"),
    ("src/server/admin/order.rs", "MAX_BODY: usize = 64 << 10;"),
    ("src/cli/desk.rs", "MAX_ANSWER: usize = 4 << 20;"),
];

#[test]
fn the_documented_bounds_are_those_of_the_code() {
    for (file, bound) in BOUNDS {
        let source = fs::read_to_string(file).unwrap();
        assert!(source.contains(bound), "{file} no longer says {bound}: correct the documents, then this list");
    }
}

// === Claims ===

/// A claim of a document: the words, as they stand there, and what would notice if it were false.
struct Claim {
    document: String,
    words: String,
    holders: Vec<String>,
}

/// Reads `tests/claims.txt`, whose beginning says how it is written.
fn claims() -> Vec<Claim> {
    let (mut document, mut claims) = (String::new(), Vec::<Claim>::new());
    for line in fs::read_to_string("tests/claims.txt").unwrap().lines() {
        let text = line.trim().to_owned();
        match line.len() - line.trim_start().len() {
            _ if text.is_empty() || text.starts_with('#') => {}
            0 => document = text,
            2 => claims.push(Claim { document: document.clone(), words: text, holders: Vec::new() }),
            _ => claims.last_mut().expect("words stand above what holds them").holders.push(text),
        }
    }
    claims
}

/// Tells why nothing holds a claim, if so.
fn unheld(holder: &str, known: &BTreeMap<String, String>) -> Option<String> {
    if let Some(reason) = holder.strip_prefix("no claim: ") {
        return (reason.len() < 10).then(|| "a reason is needed".to_owned());
    }
    match holder.split_once(": ") {
        Some((file, code)) if file.ends_with(".rs") || file.ends_with(".toml") => {
            let source = fs::read_to_string(file).unwrap_or_default();
            (!source.contains(code)).then(|| format!("{file} does not say {code}"))
        }
        _ => (!known.contains_key(holder)).then(|| format!("no test has the name {holder}")),
    }
}

#[test]
fn each_claim_stands_where_it_is_said_to_and_is_held_by_something() {
    let known = all_tests();
    let mut wrong = Vec::new();
    for Claim { document, words, holders } in claims() {
        let text = fs::read_to_string(&document).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        if !text.contains(&words) {
            wrong.push(format!("{document} no longer says {words:?}"));
        }
        let reasons = holders.iter().filter_map(|holder| unheld(holder, &known));
        wrong.extend(reasons.map(|reason| format!("{document}: {words:?}: {reason}")));
        if holders.is_empty() {
            wrong.push(format!("{document}: {words:?}: nothing holds it"));
        }
    }
    assert!(wrong.is_empty(), "correct the documents, or tests/claims.txt: {wrong:#?}");
}

/// What makes a number a measure, and a word for a number one.
const UNITS: [&str; 18] = [
    "s",
    "ms",
    "min",
    "h",
    "kib",
    "mib",
    "gib",
    "mb",
    "bytes",
    "times",
    "%",
    "keys",
    "lines",
    "rows",
    "days",
    "parameters",
    "users",
    "fields",
];
/// Not "second", which is an ordinal as well.
const TIMES: [&str; 6] = ["seconds", "minute", "minutes", "hour", "hours", "day"];
const NUMBERS: [&str; 9] = ["a", "an", "one", "two", "three", "four", "five", "ten", "half"];

/// Tells whether a piece of a document says what always holds, or how much something is.
fn is_claim(piece: &str) -> bool {
    let lower = piece.to_lowercase();
    let words: Vec<_> =
        lower.split(|c: char| !c.is_alphanumeric() && c != '%').filter(|word| !word.is_empty()).collect();
    let is_number = |word: &str| word.chars().all(|c| c.is_ascii_digit());
    let is_measure = |number: &str, unit: &str| {
        is_number(number) && UNITS.contains(&unit)
            || (is_number(number) || NUMBERS.contains(&number)) && TIMES.contains(&unit)
    };
    let says = |phrase: [&str; 2]| words.windows(2).any(|pair| pair == phrase);
    words.iter().any(|word| ["always", "never"].contains(word))
        || says(["at", "most"])
        || says(["at", "least"])
        || words.windows(2).any(|pair| is_measure(pair[0], pair[1]))
}

/// Splits the prose of a document into the parts of its sentences, and the rows of its tables.
fn pieces(path: &Path) -> Vec<String> {
    let (mut pieces, mut paragraph) = (Vec::new(), String::new());
    for line in split(path).0.lines().chain([""]) {
        let row = line.strip_prefix("| ");
        if row.is_some() || line.is_empty() || line.starts_with(['#', '*']) {
            let parts = [". ", "; ", ": "]
                .into_iter()
                .fold(paragraph.clone(), |text, end| text.replace(end, &end.replace(' ', "\n")));
            pieces.extend(parts.lines().map(str::to_owned));
            paragraph.clear();
        }
        match row {
            // The keys of a configuration have a type and a default, which other tests compare.
            Some(row) if path.ends_with("configure.md") => pieces.extend(row.rsplit(" | ").next().map(str::to_owned)),
            Some(row) => pieces.push(row.to_owned()),
            None if line.starts_with('#') => {}
            None => paragraph.push_str(&format!("{} ", line.trim())),
        }
    }
    pieces
}

#[test]
fn each_sentence_with_a_number_or_an_always_is_listed_as_a_claim() {
    let claims = claims();
    let mut missing = Vec::new();
    for path in documents() {
        let name = path.display().to_string();
        // Rules have their tests beside them; mutants are compared by tests/mutants; what was is no claim.
        if ["docs/conformance.md", "docs/mutants.md", "CHANGELOG.md"].contains(&name.as_str()) {
            continue;
        }
        let words: Vec<_> = claims.iter().filter(|claim| claim.document == name).map(|claim| &claim.words).collect();
        let is_listed = |piece: &str| words.iter().any(|words| piece.contains(*words) || words.contains(piece));
        let pieces = pieces(&path).into_iter().filter(|piece| is_claim(piece) && !is_listed(piece));
        missing.extend(pieces.map(|piece| format!("{name}: {piece}")));
    }
    assert!(missing.is_empty(), "say in tests/claims.txt what would notice if these were false: {missing:#?}");
}

fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| if path.is_dir() { sources(&path) } else { fs::read_to_string(path).unwrap_or_default() })
        .collect()
}

#[test]
fn log_lines_that_are_explained_are_written_somewhere() {
    let sources = sources(Path::new("src"));
    let is_message = |span: &&str| {
        span.split(' ').count() > 3 && span.chars().all(|c| c.is_ascii_alphabetic() || matches!(c, ' ' | '\''))
    };
    let mut count = 0;
    for path in ["docs/operate.md", "docs/troubleshoot.md"] {
        let prose = split(Path::new(path)).0;
        for span in prose.split('`').skip(1).step_by(2).filter(is_message) {
            assert!(sources.contains(span), "{path}: {span}");
            count += 1;
        }
    }
    assert!(count > 5, "{count}");
}

#[test]
fn the_floors_are_those_of_the_codemap() {
    let floors = |path: &str, prefix: &str| -> Vec<(String, Vec<String>)> {
        let text = fs::read_to_string(path).unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix(prefix)).map(|row| row.split(" | "));
        rows.filter_map(|mut cells| {
            let floor = cells.next().filter(|cell| cell.parse::<u8>().is_ok())?.to_owned();
            Some((floor, cells.next()?.split('`').skip(1).step_by(2).map(str::to_owned).collect()))
        })
        .collect()
    };
    assert_eq!(floors("ARCHITECTURE.md", "| "), floors("src/lib.rs", "//! | "));
}

#[test]
fn files_that_the_architecture_names_exist() {
    for word in split(Path::new("ARCHITECTURE.md")).0.split('`').skip(1).step_by(2) {
        if word.ends_with(".rs") {
            let found = Path::new(word).exists() || Path::new("src").join(word).exists();
            assert!(found || word.contains('<'), "{word}");
        }
    }
}

// === Rules and their tests ===

/// Finds every test: its name → the words that name it and stand above it.
fn tests(folder: &Path, found: &mut BTreeMap<String, String>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            tests(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            tests_of(&fs::read_to_string(path).unwrap(), found);
        }
    }
}

fn tests_of(source: &str, found: &mut BTreeMap<String, String>) {
    let mut above = String::new();
    for line in source.lines().map(str::trim) {
        if line.starts_with("///") || line.starts_with("#[") {
            above.push_str(line);
            continue;
        }
        let name = line.trim_start_matches("async ").strip_prefix("fn ").and_then(|rest| rest.split('(').next());
        if let Some(name) = name.filter(|_| above.contains("#[test]") || above.contains("#[tokio::test")) {
            found.entry(name.to_owned()).or_default().push_str(&words(&format!("{above} {name} ")));
        }
        above.clear();
    }
}

/// Writes a text as the names of tests are written.
fn words(text: &str) -> String {
    let letters = text.to_lowercase().replace(|letter: char| !letter.is_alphanumeric(), "_");
    letters.split('_').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("_") + "_"
}

/// Finds the advisories in a text: `CVE-2021-1`, and `Traefik #1` or `Traefik PR #1`.
fn advisories(text: &str) -> Vec<String> {
    let tokens: Vec<_> = text.split([' ', ',', ';', '(', ')', '`', '|']).filter(|token| !token.is_empty()).collect();
    let named = |at: usize| match tokens[at] {
        token if token.starts_with("CVE-") => Some(token.to_owned()),
        token if token.starts_with('#') && token[1..].parse::<u32>().is_ok() => {
            let begin = at - if tokens[at - 1] == "PR" { 2 } else { 1 };
            Some(tokens[begin..=at].join(" "))
        }
        _ => None,
    };
    (0..tokens.len()).filter_map(named).collect()
}

/// Returns the words of a cell that stand in back quotes.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Returns the rules of docs/conformance.md: what is held to, the files that keep it, the tests.
fn rules() -> Vec<[String; 3]> {
    let prose = split(Path::new("docs/conformance.md")).0;
    let section = prose.split("\n## ").find(|section| section.starts_with("Rules and their tests")).unwrap();
    let is_rule = |line: &&str| line.starts_with("| ") && !line.starts_with("| rule |");
    let cells = |line: &str| line.trim_matches(['|', ' ']).split(" | ").map(str::to_owned).collect::<Vec<_>>();
    section.lines().filter(is_rule).map(|line| cells(line).try_into().unwrap_or_else(|_| panic!("{line}"))).collect()
}

fn all_tests() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    tests(Path::new("src"), &mut found);
    tests(Path::new("tests"), &mut found);
    found
}

#[test]
fn every_rule_is_kept_somewhere_and_tested_by_tests_that_exist() {
    let (rules, known) = (rules(), all_tests());
    assert!(rules.len() > 70, "{}", rules.len());
    for [rule, kept, tests] in rules {
        let (kept, tests) = (quoted(&kept), quoted(&tests));
        assert!(!kept.is_empty() && kept.iter().all(|file| Path::new(file).exists()), "{rule}: {kept:?}");
        assert!(!tests.is_empty(), "{rule}");
        let missing: Vec<_> = tests.iter().filter(|name| !known.contains_key(**name)).collect();
        assert!(missing.is_empty(), "{rule}: no test has the name {missing:?}");
        let told: String = tests.iter().map(|name| known[*name].as_str()).collect();
        for advisory in advisories(&rule) {
            assert!(told.contains(&words(&advisory)), "{rule}: no test of it names {advisory}");
        }
    }
}

#[test]
fn changes_that_no_test_notices_have_a_reason_and_their_place() {
    let rows: Vec<_> = fs::read_to_string("docs/mutants.md").unwrap().lines().map(str::to_owned).collect();
    let rows: Vec<_> = rows.iter().filter_map(|row| row.strip_prefix("| `src/")?.split_once("` | ")).collect();
    assert!(!rows.is_empty());
    for (change, reason) in rows {
        let (file, what) = change.split_once(": ").unwrap_or_else(|| panic!("{change}: no file"));
        let source = fs::read_to_string(Path::new("src").join(file)).unwrap_or_else(|_| panic!("{file} is not there"));
        let function = what.rsplit([' ', ':']).next().unwrap();
        assert!(source.contains(&format!("fn {function}")), "{file} has no function {function}");
        assert!(reason.len() > 20, "{change}: {reason}");
    }
}

/// What can be done to a way to log in, in the order of the tables.
const MISUSES: [&str; 12] = [
    "nothing shown",
    "malformed",
    "expired",
    "for another audience, issuer or host",
    "made with another key",
    "`alg: none`",
    "HS with a public key",
    "shown again",
    "two at once",
    "doubled",
    "names that look alike",
    "an account that is none",
];

#[test]
fn every_way_to_log_in_is_tested_with_every_misuse() {
    let prose = split(Path::new("docs/conformance.md")).0;
    let section = prose.split("\n## ").find(|section| section.starts_with("Ways to log in, misused")).unwrap();
    let known = all_tests();
    let mut methods = BTreeSet::new();
    for table in section.split("\n### ").skip(1) {
        let (way, table) = table.split_once('\n').unwrap();
        methods.extend(quoted(way));
        let rows: Vec<_> =
            table.lines().filter(|line| line.starts_with("| ") && *line != "| misuse | tests |").collect();
        let rows: Vec<_> = rows.iter().map(|row| row.trim_matches(['|', ' ']).split_once(" | ").unwrap()).collect();
        assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), MISUSES, "{way}");
        for (misuse, cell) in rows {
            let (tests, reason) = (quoted(cell), cell.strip_prefix("cannot be: "));
            assert!(reason.map_or(!tests.is_empty(), |reason| reason.len() > 10), "{way}, {misuse}: {cell}");
            let missing: Vec<_> = tests.iter().filter(|name| reason.is_none() && !known.contains_key(**name)).collect();
            assert!(missing.is_empty(), "{way}, {misuse}: no test has the name {missing:?}");
        }
    }
    assert_eq!(methods.into_iter().collect::<Vec<_>>(), METHODS);
}

/// The methods, as configurations name them.
const METHODS: [&str; 8] = ["app", "header", "jwt", "key", "link", "mtls", "oidc", "redirect"];

#[test]
fn every_method_is_explained_with_a_transcript() {
    let text = fs::read_to_string("docs/explain.md").unwrap();
    for method in METHODS.into_iter().filter(|method| *method != "redirect") {
        let heading = format!("(`{method}`)");
        let section = text.split("\n## ").find(|section| section.lines().next().unwrap().ends_with(&heading));
        let section = section.unwrap_or_else(|| panic!("docs/explain.md has no section about {method}"));
        // What is `console` is run here, and what is `text` by `tests/it/login/explain.rs`.
        let is_run = section.contains("```console\n") || method == "oidc" && section.contains("```text\n");
        assert!(is_run && section.contains(&format!("Credential: {method}\n")), "{method}");
    }
}

#[test]
fn every_test_that_is_named_after_an_advisory_or_a_trap_belongs_to_a_rule() {
    let rules = rules();
    let named: Vec<_> = rules.iter().flat_map(|[_, _, tests]| quoted(tests)).collect();
    let special = |name: &&String| name.starts_with("cve_") || name.starts_with("trap_");
    let known = all_tests();
    let special: Vec<_> = known.keys().filter(special).collect();
    assert!(special.len() > 10, "{special:?}");
    let missing: Vec<_> = special.into_iter().filter(|name| !named.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "docs/conformance.md does not name {missing:?}");
}

#[test]
fn tests_and_advisories_are_found_by_their_names() {
    let mut found = BTreeMap::new();
    tests_of(
        "/// Not one.\nfn a() {}\n/// Pingora #892.\n#[tokio::test]\nasync fn b_c() {\n#[test] fn d() {}",
        &mut found,
    );
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [("b_c".to_owned(), "pingora_892_tokio_test_b_c_".to_owned())]);
    for (text, expected) in [
        ("it (§5; Go CVE-2021-1, X CVE-2022-2)", &["CVE-2021-1", "CVE-2022-2"][..]),
        ("it (Traefik #12380; rpxy PR #596)", &["Traefik #12380", "rpxy PR #596"]),
        ("none (9112 §6.1)", &[]),
    ] {
        assert_eq!(advisories(text), expected, "{text}");
    }
}

#[test]
fn every_promise_of_the_readme_names_its_tests() {
    let prose = split(Path::new("README.md")).0;
    let section = prose.split("\n## ").find(|section| section.starts_with("Why it is safe")).unwrap();
    let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 10, "{rows:#?}");
    for row in rows {
        let cells: Vec<_> = row.trim_matches(['|', ' ']).split(" | ").collect();
        assert!(cells.len() == 3 && cells[2].contains("](tests/"), "{row}");
    }
}

// === Links ===

/// Names a heading as links do.
fn anchor(heading: &str) -> String {
    let kept = heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, '-' | ' ' | '_'))
        .collect::<String>();
    kept.replace(' ', "-")
}

#[test]
fn links_lead_somewhere() {
    for path in documents().into_iter().chain(recipes()) {
        let prose = split(&path).0;
        for part in prose.split("](").skip(1) {
            let link = part.split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", path.display());
            if !place.is_empty() {
                let text = split(&target).0;
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|line| anchor(line.trim_start_matches(['#', ' '])) == place),
                    "{}: {link}",
                    path.display()
                );
            }
        }
    }
}
