//! The state file: used links, tickets and freezes outlive a restart. If the file cannot be used, those logins are refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use callgate::state::{MarkError, Store};
use jiff::{SignedDuration, Timestamp};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::client::{read_head, status};
use crate::kit::commands::{Running, callgate, piped};
use crate::kit::gate::{Gate, LINK_SECRET};
use crate::kit::links::{link, method};
use crate::kit::program::Program;
use crate::kit::program::{Successor, code};
use crate::kit::programs::are_here;
use crate::kit::stage::{Plan, Stage};
use crate::kit::upstream::RawUpstream;
use crate::kit::vodia::{Dialect, Options, Vodia};

fn state(path: &Path) -> String {
    format!("[state]\nfile = {path:?}\n")
}

async fn stage(more: &str) -> Stage {
    Plan { rules: &method("confirm = \"never\""), more, ..Plan::default() }.start().await
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

// === A restart ===

#[tokio::test]
async fn a_used_link_stays_used_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let more = state(&folder.path().join("state"));
    let link = link();
    let before = stage(&more).await;
    before.gate.get(&link).send().await.expect(303);
    drop(before);
    let after = stage_again(&more).await;
    after.gate.get(&link).send().await.expect(401);
    after.gate.line(&["audit refusal", "reason=\"the link was used before\""]).await;
    after.gate.get(&crate::kit::links::link()).send().await.expect(303);
}

/// Starts a gate once the one before has let go of the file.
async fn stage_again(more: &str) -> Stage {
    let path = more.split('"').nth(1).unwrap();
    crate::kit::stage::until("the file is let go of", || Store::open(Path::new(path)).is_ok()).await;
    stage(more).await
}

#[tokio::test]
async fn a_ticket_on_its_way_outlives_a_restart() {
    let folder = TempDir::new().unwrap();
    let more = state(&folder.path().join("state"));
    let plan = || Plan { dialect: Dialect::C, pbx: "handoff = \"cookie\"", more: &more, ..Plan::default() };
    let mut stage = plan().start().await;
    let answer = stage.as_alice("/auth/pbx").send().await.expect(303);
    let ticket = answer.header("location").strip_prefix("https://pbx.test").unwrap().to_owned();
    assert!(ticket.starts_with("/auth/callgate/ticket?t="), "{answer:?}");
    // The same PBX, which knows the token.
    let text = stage.gate.text.clone();
    let between = Gate::before(stage.app.addr).await;
    std::mem::replace(&mut stage.gate, between).drain().await;
    stage.gate = Gate::start(&text).await;
    stage.redeem(answer.header("set-cookie"), answer.header("location")).await.expect(200);
    stage.gate.get(&ticket).host("pbx.test").send().await.expect(403);
}

#[tokio::test]
async fn a_reload_keeps_the_file_and_what_it_knows() {
    let folder = TempDir::new().unwrap();
    let more = state(&folder.path().join("state"));
    let mut stage = stage(&more).await;
    let link = link();
    stage.gate.get(&link).send().await.expect(303);
    let text = stage.gate.text.clone();
    stage.gate.reload(&format!("workers = 1\n{text}")).await.unwrap_err();
    stage.gate.reload(&text.replace("client = \"1000/min\"", "client = \"999/min\"")).await.unwrap();
    stage.gate.get(&link).send().await.expect(401);
    let elsewhere = text.replace(&more, &state(&folder.path().join("other")));
    let error = stage.gate.reload(&elsewhere).await.unwrap_err().to_string();
    assert!(error.contains("`state.file` cannot change while the gate runs"), "{error}");
    assert!(!folder.path().join("other").exists());
}

#[tokio::test]
async fn without_a_file_a_reload_keeps_what_is_known() {
    let mut stage = stage("").await;
    let link = link();
    stage.gate.get(&link).send().await.expect(303);
    let text = stage.gate.text.clone();
    stage.gate.reload(&text.replace("client = \"1000/min\"", "client = \"999/min\"")).await.unwrap();
    stage.gate.get(&link).send().await.expect(401);
}

// === What cannot be kept ===

#[tokio::test]
async fn a_full_table_refuses_logins_and_says_so() {
    if !are_here(&["sh"]) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("state");
    let store = Store::open(&path).unwrap();
    let until = Timestamp::now() + SignedDuration::from_hours(1);
    for batch in 0..100_u32 {
        let ids: Vec<_> = (0..1000).map(|number| (batch * 1000 + number).to_be_bytes()).collect();
        let marks = ids.iter().map(|id| store.mark("test", id, until));
        assert!(futures_util::future::join_all(marks).await.iter().all(Result::is_ok));
    }
    assert!(matches!(store.mark("test", b"more", until).await, Err(MarkError::Unkept(_))));
    drop(store);
    let stage = stage(&state(&path)).await;
    let answer = stage.gate.get(&link()).send().await.expect(503);
    assert_eq!(answer.header("retry-after"), "10");
    assert_eq!(stage.minted(), [""; 0]);
    stage
        .gate
        .line(&["audit refusal", "method=link", "the credential cannot be marked as used: the table is full"])
        .await;
    assert!(stage.gate.told("/readyz").contains("state: the table of marks is full"), "{}", stage.gate.told("/readyz"));
    stage.gate.get("/").send().await.expect(200);
}

/// As on a full disk: the system takes no byte beyond the first of any file.
#[tokio::test]
async fn a_full_disk_refuses_logins_and_is_logged() {
    if !are_here(&["sh"]) {
        return;
    }
    let folder = Folder::new().await;
    drop(Store::open(&folder.state).unwrap());
    let mut command = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_callgate");
    command.args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$0\" run --config \"$1\"", program]);
    command.arg(folder.write("listen = \"127.0.0.1:0\"\nworkers = 1\n"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running::start(command);
    let line = running.complaint("listening").await;
    let addr = line.split("address=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let mut program = Program { dir: TempDir::new().unwrap(), running, addr, roots: folder.roots.clone() };
    for _ in 0..2 {
        assert_eq!(follow(&program, &link()).await, 503);
    }
    program.running.complaint("the state file cannot be used: logins that need it are refused").await;
    assert_eq!(follow(&program, "/auth/pbx").await, 401);
    assert!(folder.pbx.mints().is_empty());
}

/// Another program's fault is known before the next start.
#[tokio::test]
async fn a_truncated_state_file_refuses_logins_and_is_logged() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("state");
    let stage = stage(&state(&path)).await;
    stage.gate.get(&link()).send().await.expect(303);
    assert_eq!(status(&stage.gate.told("/readyz")), 200);
    fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    crate::kit::stage::until("it is noticed", || stage.gate.told("/readyz").contains("state: ")).await;
    stage.gate.get(&link()).send().await.expect(503);
    assert!(stage.gate.told("/readyz").contains(&path.display().to_string()), "{}", stage.gate.told("/readyz"));
}

// === A file that is wrong ===

#[tokio::test]
async fn a_file_that_cannot_be_used_ends_the_start_and_says_what_to_do() {
    let folder = Folder::new().await;
    let start = || {
        let mut command = callgate(&["run", "--config"]);
        command.arg(folder.write("listen = \"127.0.0.1:0\"\nworkers = 1\n"));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let store = Store::open(&folder.state).unwrap();
    store.mark("link", b"used", Timestamp::now() + SignedDuration::from_hours(1)).await.unwrap();
    let (code, told) = start();
    assert!(code == Some(1) && told.contains("another process has the state file"), "{code:?} {told}");
    drop(store);
    let whole = fs::read(&folder.state).unwrap();
    fs::set_permissions(&folder.state, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, told) = start();
    assert!(code == Some(78) && told.contains("run chmod 600"), "{code:?} {told}");
    for (bytes, part) in [(&b"{}"[..], "is not a state file"), (&whole[..whole.len() / 3], "is damaged")] {
        write(&folder.state, bytes);
        let (code, told) = start();
        assert!(code == Some(78) && told.contains(part), "{code:?} {told}");
        assert_eq!(fs::read(&folder.state).unwrap(), bytes, "it was changed");
    }
    fs::remove_file(&folder.state).unwrap();
    fs::create_dir(&folder.state).unwrap();
    let (code, told) = start();
    assert!(code == Some(78), "{code:?} {told}");
}

// === A hand-over ===

/// A folder with the files that a program needs for logins by link.
struct Folder {
    dir: TempDir,
    state: PathBuf,
    pbx: Vodia,
    roots: RootCertStore,
}

impl Folder {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let options = Options::default();
        write(&dir.path().join("pbx-admin"), options.admin_password.as_bytes());
        write(&dir.path().join("link.key"), LINK_SECRET.as_bytes());
        let certificate = callgate::tls::dev::certificate(&["app.test"]).unwrap();
        write(&dir.path().join("fullchain.pem"), certificate.chain.as_bytes());
        write(&dir.path().join("privkey.pem"), certificate.key.as_bytes());
        let pbx = Vodia::start(options).await;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificate.ca.as_bytes()).unwrap()).unwrap();
        Self { state: dir.path().join("state"), dir, pbx, roots }
    }

    /// The tables behind `[app]`.
    fn tables(&self) -> String {
        let (dir, pbx) = (self.dir.path().display(), self.pbx.addr);
        let method = method("confirm = \"never\"").replace("link.key", &format!("{dir}/link.key"));
        format!(
            "[pbx]\nurl = \"http://{pbx}\"\nhosts = [\"pbx.test\"]\n\
             admin = {{ user = \"sso\", password = {{ file = \"{dir}/pbx-admin\" }} }}\n{method}\n{}",
            state(&self.state)
        )
    }

    fn write(&self, top: &str) -> PathBuf {
        let path = self.dir.path().join("proxy.toml");
        let tls = "tls = { cert = \"fullchain.pem\", key = \"privkey.pem\" }";
        fs::write(&path, format!("{top}{tls}\n[app]\nurl = \"http://127.0.0.1:9\"\n{}", self.tables())).unwrap();
        path
    }
}

async fn follow(program: &Program, link: &str) -> u16 {
    let mut tls = program.connect().await;
    let request = format!("GET {link} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
    tls.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut tls).await;
    let _ = tls.read_to_end(&mut Vec::new()).await;
    status(&head)
}

#[tokio::test]
async fn a_hand_over_takes_the_file_along() {
    let (folder, upstream) = (Folder::new().await, RawUpstream::ok().await);
    let mut program = Program::before(upstream.addr, &folder.tables()).await;
    let link = link();
    assert_eq!(follow(&program, &link).await, 303);
    let _successor = Successor::of(&mut program).await;
    assert_eq!(code(&mut program).await, Some(0));
    assert_eq!(follow(&program, &link).await, 401);
    assert_eq!(follow(&program, &crate::kit::links::link()).await, 303);
}

#[tokio::test]
async fn a_hand_over_that_fails_takes_the_file_back() {
    let (folder, upstream) = (Folder::new().await, RawUpstream::ok().await);
    let mut program = Program::before(upstream.addr, &folder.tables()).await;
    let link = link();
    assert_eq!(follow(&program, &link).await, 303);
    program.change("workers = 2", "workers = \"many\"");
    program.running.signal("-USR2");
    program.running.complaint("not handed over").await;
    assert_eq!(follow(&program, &link).await, 401);
    assert_eq!(follow(&program, &crate::kit::links::link()).await, 303);
}

/// Until the new process asks for the file, the old one has it.
#[tokio::test]
async fn a_successor_that_hangs_keeps_neither_links_nor_freezes_waiting() {
    if !are_here(&["sh", "sleep"]) {
        return;
    }
    let (folder, upstream) = (Folder::new().await, RawUpstream::ok().await);
    let file = folder.dir.path().join("callgate");
    if fs::hard_link(env!("CARGO_BIN_EXE_callgate"), &file).is_err() {
        fs::copy(env!("CARGO_BIN_EXE_callgate"), &file).unwrap();
    }
    let admin = folder.dir.path().join("admin.sock");
    let more = format!("{}\n[admin]\nlisten = \"unix:{}\"", folder.tables(), admin.display());
    let top = "listen = \"127.0.0.1:0\"\nworkers = 2";
    let mut program = Program::start_by(piped(Command::new(&file)), upstream.addr, top, &more).await;
    let hangs = folder.dir.path().join("hangs");
    fs::write(&hangs, "#!/bin/sh\nexec sleep 30\n").unwrap();
    fs::set_permissions(&hangs, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&hangs, &file).unwrap();
    program.running.signal("-USR2");
    program.running.complaint("handing over").await;
    let begun = std::time::Instant::now();
    assert_eq!(follow(&program, &link()).await, 303);
    let config = program.file("proxy.toml").display().to_string();
    let output = callgate(&["freeze", "account", "40@acme.test", "--config", &config]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(follow(&program, &link()).await, 403);
    assert!(begun.elapsed() < std::time::Duration::from_secs(4), "{:?}", begun.elapsed());
}

// === callgate link ===

#[tokio::test]
async fn the_command_makes_links_that_log_in() {
    let (folder, upstream) = (Folder::new().await, RawUpstream::ok().await);
    let program = Program::before(upstream.addr, &folder.tables()).await;
    let config = program.file("proxy.toml").display().to_string();
    let make = |arguments: &[&str]| {
        let output = callgate(&[&["link", "--config", &config], arguments].concat()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let for_40 = ["--account", "40", "--domain", "acme.test", "--host", "app.test"];
    let (code, url) = make(&for_40);
    assert_eq!(code, Some(0), "{url}");
    let path = url.trim().strip_prefix("https://app.test").unwrap();
    assert_eq!((follow(&program, path).await, follow(&program, path).await), (303, 401));
    // The host of the configuration, when none is named.
    assert!(make(&for_40[..4]).1.starts_with("https://pbx.test/auth/pbx?account=40&"));
    for (more, part) in [
        (&["--ttl", "61"][..], "links of this method live for 60 s at most: its `ttl` can be raised to 15min"),
        (&["--ttl", "2min"], "links of this method live for 60 s at most"),
        (&["--ttl", "0"], "a link must live for 1s at least"),
        (&["--ttl", "1x"], "a duration looks like"),
        (&["--claim", "account=41"], "the claim account is given twice"),
        (&["--method", "mail"], "no method of type \"link\" has the name mail"),
        (&["--claim", "v=2"], "given twice"),
    ] {
        let (code, told) = make(&[&for_40[..], more].concat());
        assert!(code == Some(2) && told.contains(part), "{code:?} {told}");
    }
    for host in ["https://app.test/", "app.test/x", "a@app.test", ""] {
        let (code, told) = make(&[&for_40[..4], &["--host", host]].concat());
        assert!(code == Some(2) && told.contains("--host takes a host name"), "{host}: {code:?} {told}");
    }
    // Where the system chooses the port, nothing is said of it. Another port is not 443, which the link is for.
    assert!(!make(&for_40[..4]).1.contains("callgate:"));
    program.change("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:8443\"");
    assert!(make(&for_40[..4]).1.contains("callgate: the link is for port 443; where browsers see callgate at port"));
    assert!(!make(&for_40).1.contains("callgate:"));
    assert!(make(&["--domain", "acme.test"]).1.contains("the person is missing"));
}
