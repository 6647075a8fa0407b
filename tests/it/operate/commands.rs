//! The commands of the program: output and exit codes.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use callgate::model::ott::Ha1;
use callgate::tls::dev;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::kit::app::{App, AppOptions, Whoami};
use crate::kit::commands::{Running, callgate, run, text};
use crate::kit::gate::{VOX_PASSWORD, secret};
use crate::kit::stage::until;
use crate::kit::vodia::{Dialect, Options, Vodia};

/// The code of a configuration that is wrong.
const EX_CONFIG: i32 = 78;
/// The code where only another server is at fault.
const EX_UNAVAILABLE: i32 = 69;

#[track_caller]
pub fn check_code(output: &Output, code: i32) {
    let told = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{told}");
}

// === Help ===

#[tokio::test]
async fn every_command_explains_itself() {
    for (arguments, word) in [
        (&["--help"][..], "Commands:"),
        (&["run", "--help"], "--config"),
        (&["init", "--help"], "--non-interactive"),
        (&["certs", "--help"], "--folder"),
        (&["demo", "--help"], "--listen"),
        (&["check", "--help"], "--online"),
        (&["explain", "--help"], "--running"),
        (&["hash", "--help"], "--generate"),
        (&["config", "dump", "--help"], "--json"),
        (&["schema"], "json-schema.org/draft-07"),
        (&["reload", "--help"], "Exit code 78"),
        (&["status", "--help"], "--json"),
        (&["validate", "--help"], "--online"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
        (&["version"], env!("CARGO_PKG_VERSION")),
    ] {
        let output = run(callgate(arguments)).await;
        check_code(&output, 0);
        assert!(text(&output.stdout).contains(word), "{arguments:?}: {}", text(&output.stdout));
    }
    check_code(&run(callgate(&[])).await, 2);
    check_code(&run(callgate(&["serve"])).await, 2);
}

#[tokio::test]
async fn shells_complete_the_commands_and_man_shows_them() {
    for shell in ["bash", "fish", "zsh"] {
        let script = run(callgate(&["completions", shell])).await;
        check_code(&script, 0);
        assert!(text(&script.stdout).contains("provision"), "{shell}");
    }
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("man1");
    check_code(&run(callgate(&["man", folder.to_str().unwrap()])).await, 0);
    let page = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    assert!(page("callgate.1").contains("callgate\\-freeze(1)"), "{}", page("callgate.1"));
    assert!(page("callgate-run.1").contains("SIGUSR2"));
    fs::write(dir.path().join("file"), "").unwrap();
    let refused = run(callgate(&["man", dir.path().join("file").to_str().unwrap()])).await;
    check_code(&refused, 1);
    assert!(text(&refused.stderr).contains("cannot write the pages to "), "{}", text(&refused.stderr));
}

#[tokio::test]
async fn a_version_names_what_it_is_built_from() {
    let output = run(callgate(&["version", "--verbose"])).await;
    check_code(&output, 0);
    let stdout = text(&output.stdout);
    let lock = fs::read_to_string("Cargo.lock").unwrap();
    let rustls = lock.split_once("name = \"rustls\"\nversion = \"").unwrap().1.split('"').next().unwrap();
    assert!(stdout.contains(&format!("\ntls: rustls {rustls}, aws-lc-rs ")), "{stdout}");
    assert!(stdout.contains("\nrustc: rustc 1.") && stdout.contains(&format!("\ntarget: {}-", std::env::consts::ARCH)));
    assert!(stdout.contains("\ncommit: ") && !stdout.contains("hyper unknown"), "{stdout}");
}

// === check ===

/// A folder with a certificate, a users file and a `proxy.toml`.
pub struct Folder {
    pub dir: TempDir,
    ca: CertificateDer<'static>,
}

impl Folder {
    pub fn new(text: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let certificate = dev::certificate(&["app.test", "pbx.test"]).unwrap();
        secret(&dir, "fullchain.pem", &certificate.chain);
        secret(&dir, "privkey.pem", &certificate.key);
        let ha1 = Ha1::of("alice", VOX_PASSWORD);
        secret(&dir, "users", &format!("alice:voximplant.com:{}\n", ha1.expose()));
        fs::write(dir.path().join("proxy.toml"), text).unwrap();
        Self { dir, ca: CertificateDer::from_pem_slice(certificate.ca.as_bytes()).unwrap() }
    }

    pub fn config(&self) -> String {
        self.dir.path().join("proxy.toml").display().to_string()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = callgate(arguments);
        command.arg("--config").arg(self.config()).env("PBX_ADMIN", Options::default().admin_password);
        command
    }
}

fn configuration(listen: &str, app: SocketAddr, pbx: SocketAddr) -> String {
    format!(
        r#"listen = "{listen}"
tls = {{ cert = "fullchain.pem", key = "privkey.pem" }}
[app]
url = "http://{app}"
whoami = "/api/me"
[pbx]
url = "http://{pbx}"
hosts = ["pbx.test"]
admin = {{ user = "sso", password = {{ env = "PBX_ADMIN" }} }}
[voximplant]
users = {{ file = "users" }}
[[allow]]
pbx = {{ domain = "{{tenant}}", account = "{{ext}}" }}
voximplant = "{{vox}}"
"#
    )
}

async fn stand_ins() -> (App, Vodia) {
    let options = AppOptions { pbx_origin: "https://pbx.test".into(), ..AppOptions::default() };
    (App::start(options).await, Vodia::start(Options::default()).await)
}

#[tokio::test]
async fn a_good_configuration_is_ok() {
    let (app, pbx) = stand_ins().await;
    let folder = Folder::new(&configuration("127.0.0.1:0", app.addr, pbx.addr));
    let output = run(folder.command(&["check"])).await;
    check_code(&output, 0);
    assert_eq!(text(&output.stdout), format!("{}: ok\n", folder.config()));
    assert!(app.requests().is_empty() && pbx.requests().is_empty());
    let mut here = callgate(&["check"]);
    here.current_dir(folder.dir.path()).env("PBX_ADMIN", "x");
    check_code(&run(here).await, 0);
}

#[tokio::test]
async fn all_problems_are_reported_at_once_and_before_a_port_is_bound() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (app, pbx) = stand_ins().await;
    let good = configuration(&taken.local_addr().unwrap().to_string(), app.addr, pbx.addr);
    let bad = good
        .replace("hosts = [\"pbx.test\"]", "hots = [\"pbx.test\"]")
        .replace("{vox}", "{vox")
        .replace("whoami = \"/api/me\"", "whoami = \"api/me\"")
        .replace("file = \"users\"", "file = \"nowhere\"");
    let folder = Folder::new(&bad);
    for command in ["check", "run"] {
        let output = run(folder.command(&[command])).await;
        check_code(&output, EX_CONFIG);
        let told = text(&output.stderr);
        for problem in ["proxy.toml:5:", "proxy.toml:8:", "`hosts`", "nowhere", "never closed"] {
            assert!(told.contains(problem), "{command} does not tell {problem}: {told}");
        }
        assert_eq!(text(&output.stdout), "");
    }
    fs::write(folder.dir.path().join("proxy.toml"), &good).unwrap();
    let output = run(folder.command(&["run"])).await;
    check_code(&output, 1);
    assert!(text(&output.stderr).contains("in use"), "{}", text(&output.stderr));
    check_code(&run(callgate(&["check", "--config", "/nowhere/proxy.toml"])).await, EX_CONFIG);
}

#[tokio::test]
async fn an_online_check_tries_what_the_file_names() {
    let (app, pbx) = stand_ins().await;
    let folder = Folder::new(&configuration("127.0.0.1:0", app.addr, pbx.addr));
    let output = run(folder.command(&["check", "--online"])).await;
    check_code(&output, 0);
    assert!(text(&output.stdout).ends_with(": ok, and everything it names answers\n"), "{}", text(&output.stdout));
    assert_eq!((app.requests().len(), pbx.mints().len(), pbx.sessions().len()), (1, 1, 0));
}

#[tokio::test]
async fn an_online_check_finds_the_version_of_the_pbx_and_its_hand_over() {
    for (dialect, handoff, code, fact) in [
        (Dialect::A, "link", 0, "it has no page /thirdparty.htm, so handoff = \"link\" is for it"),
        (Dialect::A, "cookie", EX_CONFIG, "it has no page /thirdparty.htm, so handoff = \"link\" is for it"),
        (Dialect::C, "cookie", 0, "it has the page /thirdparty.htm, so handoff = \"cookie\" is for it"),
    ] {
        let app = App::start(AppOptions::default()).await;
        let pbx = Vodia::start(Options { dialect, ..Options::default() }).await;
        let config = configuration("127.0.0.1:0", app.addr, pbx.addr);
        let folder = Folder::new(&config.replace("[pbx]\n", &format!("[pbx]\nhandoff = \"{handoff}\"\n")));
        let output = run(folder.command(&["check", "--online"])).await;
        check_code(&output, code);
        let stdout = text(&output.stdout);
        assert!(stdout.lines().any(|line| line.ends_with(&format!("PBX/70.1; {fact}"))), "{stdout}");
        let refused = stdout.contains("it is too old for handoff = \"cookie\": write handoff = \"link\"");
        assert_eq!(refused, code != 0, "{stdout}");
    }
}

#[tokio::test]
async fn an_online_check_finds_a_wrong_password() {
    let (app, pbx) = stand_ins().await;
    let folder = Folder::new(&configuration("127.0.0.1:0", app.addr, pbx.addr));
    let mut command = folder.command(&["check", "--online"]);
    command.env("PBX_ADMIN", "Wrong-Passw0rd!");
    let output = run(command).await;
    check_code(&output, EX_CONFIG);
    let told = text(&output.stdout);
    let line = told.lines().find(|line| line.contains("a session for the administrator \"sso\"")).unwrap();
    assert!(line.starts_with("FAIL ") && line.ends_with("the PBX refuses the password"), "{told}");
    assert!(!told.contains("Wrong-Passw0rd!") && !text(&output.stderr).contains("Wrong-Passw0rd!"));
    assert_eq!(pbx.mints().len(), 1);
}

#[tokio::test]
async fn an_online_check_finds_an_app_that_accepts_any_cookie() {
    let (app, pbx) = stand_ins().await;
    app.set(|faults| faults.whoami = Whoami::Claims(json!({ "ext": "40" })));
    let text_of = configuration("127.0.0.1:0", app.addr, pbx.addr);
    let folder = Folder::new(&text_of.replace("\"pbx.test\"", "\"phone.test\""));
    let output = run(folder.command(&["check", "--online"])).await;
    check_code(&output, EX_CONFIG);
    let told = text(&output.stdout);
    let line = told.lines().find(|line| line.contains("/api/me without a cookie")).unwrap();
    assert!(line.starts_with("FAIL ") && line.ends_with("200 OK"), "{told}");
    assert!(told.contains("it must answer 401 to a caller without a cookie, or every caller is logged in"), "{told}");
    let told = text(&output.stderr);
    assert!(told.contains("no certificate of `tls` is for phone.test"), "{told}");
}

#[tokio::test]
async fn an_online_check_finds_a_wrong_path_and_a_wrong_server() {
    let (app, pbx) = stand_ins().await;
    let text_of = configuration("127.0.0.1:0", app.addr, pbx.addr);
    let folder = Folder::new(&text_of.replace("\"/api/me\"", "\"/api/whoami\""));
    let output = run(folder.command(&["check", "--online"])).await;
    check_code(&output, EX_CONFIG);
    let told = text(&output.stdout);
    let asked = "/api/whoami without a cookie";
    assert!(told.contains(asked) && told.contains("it must answer 401: is `whoami` the path"), "{told}");
    // The app in the place of the PBX.
    let folder = Folder::new(&configuration("127.0.0.1:0", app.addr, app.addr));
    let told = text(&run(folder.command(&["check", "--online"])).await.stdout);
    let line = told.lines().find(|line| line.contains("the server does not say that it is a PBX (Server: PBX/…)"));
    assert!(line.is_some_and(|line| line.starts_with("warning ")) && told.contains("is `url` right?"), "{told}");
}

#[tokio::test]
async fn a_check_notes_a_port_of_auto_that_is_not_here() {
    let (app, pbx) = stand_ins().await;
    let with = |auto: &str| {
        configuration("127.0.0.1:8443", app.addr, pbx.addr).replace("[pbx]\n", &format!("[pbx]\nauto = {auto}\n"))
    };
    for (auto, is_noted) in [("\"https://pbx.test\"", true), ("\"https://pbx.test:8443\"", false), ("true", false)] {
        let output = run(Folder::new(&with(auto)).command(&["check"])).await;
        check_code(&output, 0);
        let told = text(&output.stderr);
        let note = "`auto` is https://pbx.test, at port 443, where callgate does not listen";
        assert_eq!(told.contains(note), is_noted, "{auto}: {told}");
    }
    let mapped =
        format!("redirect_http = {{ listen = \"127.0.0.1:8080\", port = 443 }}\n{}", with("\"https://pbx.test\""));
    let output = run(Folder::new(&mapped).command(&["check"])).await;
    check_code(&output, 0);
    assert!(!text(&output.stderr).contains("where callgate does not listen"), "{output:?}");
}

#[tokio::test]
async fn an_online_check_finds_servers_that_are_not_there() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let oidc = format!("\n[[auth]]\ntype = \"oidc\"\nissuer = \"http://{nobody}\"\nclient_id = \"callgate\"\n");
    let folder = Folder::new(&(configuration("127.0.0.1:0", nobody, nobody) + &oidc));
    let output = run(folder.command(&["check", "--online"])).await;
    check_code(&output, EX_UNAVAILABLE);
    let told = text(&output.stdout);
    let failing = |words: [&str; 2]| {
        told.lines().any(|line| line.starts_with("FAIL ") && words.iter().all(|word| line.contains(word)))
    };
    for table in ["app ", "pbx "] {
        assert!(failing([table, &format!("connect to http://{nobody} ")]), "{told}");
    }
    assert!(failing([&format!("metadata and keys of http://{nobody}"), "cannot connect: "]), "{told}");
    assert!(told.ends_with(": parts that do not work: 3\n"), "{told}");
}

// === hash ===

async fn hash(arguments: &[&str], input: &str) -> Output {
    let mut child = callgate(&[&["hash"], arguments].concat()).stdin(Stdio::piped()).spawn().unwrap();
    // A command that wants no password may have ended by now.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_password_becomes_a_line_of_the_users_file() {
    for input in ["mypass", "mypass\n", "mypass\r\n", "mypass\nmore\n"] {
        let output = hash(&["--user", "myuser"], input).await;
        check_code(&output, 0);
        assert_eq!(text(&output.stdout), "myuser:voximplant.com:2b46f850be1e592abfbd5504b038ac33\n", "{input:?}");
        assert_eq!(text(&output.stderr), "");
    }
    let spaces = hash(&["--user", "myuser"], " mypass \n").await;
    assert_eq!(text(&spaces.stdout), "myuser:voximplant.com:601428ccdc2b790d6b3cdfcf10b2a4e4\n");
    check_code(&hash(&["--user", "myuser"], "\n").await, 1);
    check_code(&hash(&["--user", "My User"], "x\n").await, 2);
    let neither = hash(&[], "x\n").await;
    check_code(&neither, 2);
    assert!(text(&neither.stderr).contains("--user <NAME>|--key"), "{neither:?}");
}

#[tokio::test]
async fn a_generated_password_is_printed_apart_from_its_line() {
    let output = hash(&["--user", "myuser", "--generate"], "").await;
    check_code(&output, 0);
    let (line, told) = (text(&output.stdout), text(&output.stderr));
    let password = told.strip_prefix("password: ").unwrap().trim_end();
    assert!(password.len() >= 24 && !line.contains(password), "{line}");
    for kind in
        [char::is_uppercase, char::is_lowercase, |c: char| c.is_ascii_digit(), |c: char| c.is_ascii_punctuation()]
    {
        assert!(password.contains(kind), "{password}");
    }
    assert_eq!(line, format!("myuser:voximplant.com:{}\n", Ha1::of("myuser", password).expose()));
}

#[tokio::test]
async fn a_key_is_printed_apart_from_its_hash() {
    let output = hash(&["--key"], "").await;
    check_code(&output, 0);
    let told = text(&output.stderr);
    let key = told.strip_prefix("key: ").unwrap().trim_end();
    let hash = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes()));
    assert_eq!((key.len(), text(&output.stdout)), (32, format!("sha256 = \"{hash}\"\n")));
    check_code(&self::hash(&["--key", "--user", "myuser"], "").await, 2);
}

// === run ===

async fn connect(addr: SocketAddr, name: &str, ca: &CertificateDer<'static>) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(callgate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(addr).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await.unwrap()
}

async fn read(mut tls: TlsStream<TcpStream>) -> String {
    let mut answer = Vec::new();
    // The bytes before an end without close_notify count as well.
    drop(tls.read_to_end(&mut answer).await);
    text(&answer)
}

async fn get(addr: SocketAddr, name: &str, ca: &CertificateDer<'static>, path: &str, cookie: &str) -> String {
    let mut tls = connect(addr, name, ca).await;
    let host = format!("{name}:{}", addr.port());
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n");
    tls.write_all(request.as_bytes()).await.unwrap();
    read(tls).await
}

#[tokio::test]
async fn the_end_comes_after_the_exchanges_in_flight() {
    let (app, pbx) = stand_ins().await;
    let folder = Folder::new(&configuration("127.0.0.1:0", app.addr, pbx.addr));
    let mut running = Running::start(folder.command(&["run"]));
    let line = running.complaint("listening").await;
    let addr: SocketAddr = line.split("address=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let answer = get(addr, "app.test", &folder.ca, "/auth/pbx", &app.log_in("alice")).await;
    let session = pbx.last_session().unwrap();
    assert!(answer.starts_with("HTTP/1.1 303 ") && answer.contains(&session), "{answer}");

    let mut slow = connect(addr, "app.test", &folder.ca).await;
    slow.write_all(b"GET /slow?ms=1000 HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    until("the app is asked", || app.requests().iter().any(|seen| seen.target.starts_with("/slow"))).await;
    running.terminate();
    running.complaint("draining").await;
    let answer = read(slow).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("slow"), "{answer}");
    let (code, told) = running.end().await;
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("access") && told.contains("audit grant"), "{told}");
    for secret in [&session, VOX_PASSWORD, &Options::default().admin_password, Ha1::of("alice", VOX_PASSWORD).expose()]
    {
        assert!(!told.contains(secret), "{told}");
    }
    assert!(TcpStream::connect(addr).await.is_err());
}

// === demo ===

#[tokio::test]
async fn the_demo_shows_the_whole_story_and_leaves_nothing_behind() {
    let temporary = TempDir::new().unwrap();
    let mut command = callgate(&["demo", "--listen", "127.0.0.1:0"]);
    command.env("TMPDIR", temporary.path());
    let mut running = Running::start(command);
    let told = running.story("ready: ").await;
    let ready = told.last().unwrap();
    let port = ready.strip_prefix("ready: https://localhost:").unwrap().strip_suffix('/').unwrap();
    let addr = SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()));
    assert!(told.iter().any(|line| line.contains(&format!("https://pbx.localhost:{port}/"))), "{told:#?}");
    let folder = fs::read_dir(temporary.path()).unwrap().next().unwrap().unwrap().path();
    let ca = CertificateDer::from_pem_file(folder.join("ca.pem")).unwrap();
    check_private(&folder);

    let mut login = connect(addr, "localhost", &ca).await;
    let form = "user=alice&password=alice";
    let head = format!(
        "POST /login HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: {}\r\nConnection: close",
        form.len()
    );
    login
        .write_all(format!("{head}\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n{form}").as_bytes())
        .await
        .unwrap();
    let answer = read(login).await;
    let cookie = answer.split("set-cookie: ").nth(1).unwrap().split(';').next().unwrap().to_owned();
    for path in ["/auth/pbx?lang=fr", "/open-pbx?lang=fr"] {
        let answer = get(addr, "localhost", &ca, path, &cookie).await;
        let location = answer.split("location: ").nth(1).unwrap().lines().next().unwrap();
        let landing = location.strip_prefix(&format!("https://pbx.localhost:{port}")).unwrap();
        let page = get(addr, "pbx.localhost", &ca, landing, "").await;
        assert!(page.contains("Bienvenue"), "{path}: {page}");
    }
    running.terminate();
    let (code, told) = running.end().await;
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[track_caller]
fn check_private(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(folder), mode(&folder.join("privkey.pem"))), (0o700, 0o600));
}

#[tokio::test]
async fn a_demo_on_a_port_that_is_taken_says_so() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let temporary = TempDir::new().unwrap();
    let mut command = callgate(&["demo", "--listen", &taken.local_addr().unwrap().to_string()]);
    command.env("TMPDIR", temporary.path());
    let output = run(command).await;
    check_code(&output, 1);
    assert!(text(&output.stderr).contains("in use"), "{}", text(&output.stderr));
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}
