//! The sandbox of `callgate run`: it may use the files that its configuration named at the start, and no others.

use std::fs;
use std::io::{Write, stderr};

use tempfile::TempDir;

use crate::kit::client::{read_head, status};
use crate::kit::commands::callgate;
use crate::kit::pebble::free_port;
use crate::kit::program::{Program, Successor, certify};
use crate::kit::upstream::RawUpstream;
use tokio::io::AsyncWriteExt;

/// Starts a program. Returns `None` where the kernel has no Landlock.
async fn program(server: &str) -> Option<(RawUpstream, Program)> {
    let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_else(|_| "landlock".to_owned());
    if !modules.contains("landlock") {
        drop(writeln!(stderr(), "skipped: this kernel has no Landlock"));
        return None;
    }
    let upstream = RawUpstream::ok().await;
    let program = Program::before(upstream.addr, &format!("[server]\n{server}")).await;
    Some((upstream, program))
}

/// Makes a folder that the configuration of the start does not name, with a certificate.
fn elsewhere() -> TempDir {
    let folder = TempDir::new().unwrap();
    certify(folder.path());
    folder
}

async fn check_serves(program: &Program) {
    let mut tls = program.connect().await;
    tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 200);
}

#[tokio::test]
async fn a_reload_may_use_new_files_in_the_folders_of_the_start_only() {
    let Some((_upstream, mut program)) = program("").await else { return };
    let other = elsewhere();
    let inside = "access = \"access.log\"";
    program.change("access = \"off\"", inside);
    program.running.signal("-HUP");
    program.running.complaint("reloaded").await;
    // A file that is written.
    let outside = format!("access = \"{}\"", other.path().join("access.log").display());
    program.change(inside, &outside);
    program.running.signal("-HUP");
    let told = program.running.complaint("not reloaded").await;
    assert!(told.contains("sandbox") && told.contains("access.log: restart callgate"), "{told}");
    assert!(!other.path().join("access.log").exists());
    program.change(&outside, inside);
    // A file that is read: root may read it, but for the sandbox.
    let cert = other.path().join("fullchain.pem");
    program.change("cert = \"fullchain.pem\"", &format!("cert = \"{}\"", cert.display()));
    program.running.signal("-HUP");
    let told = program.running.complaint("let it read").await;
    assert!(told.contains(&format!("{}: restart callgate", cert.display())), "{told}");
    program.running.complaint("not reloaded").await;
    check_serves(&program).await;
}

#[tokio::test]
async fn a_new_process_is_in_the_sandbox_of_the_one_before() {
    let Some((_upstream, mut program)) = program("drain = \"100ms\"").await else { return };
    let other = elsewhere();
    let mut newest = Successor::of(&mut program).await;
    // The kernel nests 16 sandboxes at most.
    for _ in 0..17 {
        newest = newest.next(&mut program).await;
    }
    check_serves(&program).await;
    let outside = format!("access = \"{}\"", other.path().join("access.log").display());
    program.change("access = \"off\"", &outside);
    newest.signal("-HUP");
    let told = program.running.complaint("not reloaded").await;
    assert!(told.contains("sandbox") && told.contains("access.log: restart callgate"), "{told}");
    // Nor does a new process get out of it by its configuration.
    program.change("[server]", "[server]\ninsecure_no_sandbox = true");
    newest.signal("-USR2");
    program.running.complaint("not handed over").await;
    check_serves(&program).await;
}

#[tokio::test]
async fn the_webroot_of_another_acme_client_is_read_from_the_folder_of_the_start() {
    let Some((upstream, _program)) = program("").await else { return };
    let (webroot, other, port) = (TempDir::new().unwrap(), TempDir::new().unwrap(), free_port());
    for folder in [&webroot, &other] {
        let folder = folder.path().join(".well-known/acme-challenge");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("token"), "token.thumb").unwrap();
    }
    let at = |folder: &TempDir| format!("acme_webroot = \"{}\"", folder.path().display());
    let redirect = format!("redirect_http = {{ listen = \"127.0.0.1:{port}\", {} }}", at(&webroot));
    let top = format!("listen = \"127.0.0.1:0\"\nworkers = 1\n{redirect}");
    let mut program = Program::start(upstream.addr, &top, "").await;
    let mut plain = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = b"GET /.well-known/acme-challenge/token HTTP/1.1\r\nHost: app.test\r\n\r\n";
    plain.write_all(request).await.unwrap();
    assert_eq!(status(&read_head(&mut plain).await), 200);
    program.change(&at(&webroot), &at(&other));
    program.running.signal("-HUP");
    let told = program.running.complaint("not reloaded").await;
    assert!(told.contains("let it read") && told.contains("restart callgate"), "{told}");
}

#[tokio::test]
async fn devices_are_outside() {
    let Some((_upstream, mut program)) = program("").await else { return };
    // Who may read each device, as root, reads the disks.
    program.change("cert = \"fullchain.pem\"", "cert = \"/dev/full\"");
    program.running.signal("-HUP");
    let told = program.running.complaint("let it read").await;
    assert!(told.contains("/dev/full: restart callgate"), "{told}");
    let told = program.running.complaint("ermission denied").await;
    assert!(told.contains("tls.cert"), "{told}");
    check_serves(&program).await;
}

#[tokio::test]
async fn variables_of_another_process_are_no_sandbox() {
    let Some((upstream, _program)) = program("").await else { return };
    let other = elsewhere();
    let mut command = callgate(&[]);
    command.envs([("CALLGATE_SANDBOX_READABLE", other.path()), ("CALLGATE_SANDBOX_WRITABLE", other.path())]);
    let mut program = Program::start_by(command, upstream.addr, "listen = \"127.0.0.1:0\"\nworkers = 1", "").await;
    let outside = format!("access = \"{}\"", other.path().join("access.log").display());
    program.change("access = \"off\"", &outside);
    program.running.signal("-HUP");
    let told = program.running.complaint("reloaded").await;
    assert!(told.contains("sandbox") && told.contains("access.log: restart callgate"), "{told}");
    assert!(!other.path().join("access.log").exists());
}

#[tokio::test]
async fn without_the_sandbox_any_file_may_be_used() {
    let Some((_upstream, mut program)) = program("insecure_no_sandbox = true").await else { return };
    let other = elsewhere();
    let log = other.path().join("access.log");
    program.change("access = \"off\"", &format!("access = \"{}\"", log.display()));
    program.running.signal("-HUP");
    program.running.complaint("reloaded").await;
    check_serves(&program).await;
    crate::kit::stage::until("the access line", || fs::read_to_string(&log).is_ok_and(|text| !text.is_empty())).await;
}
