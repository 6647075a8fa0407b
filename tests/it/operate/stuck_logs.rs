//! Logs that cannot be written: a lock, a full disk, a pipe or a daemon that does not read. Requests go on.

use std::fs::{self, File, OpenOptions};
use std::io::{PipeReader, PipeWriter, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_setfl};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::client::{Answer, read_head, status};
use crate::kit::commands::{callgate, run, text};
use crate::kit::program::Program;
use crate::kit::stage::{Plan, Stage, until};
use crate::kit::upstream::RawUpstream;

const CHAIN: &str = "[audit]\nfile = \"audit.log\"\nchain = true";

/// Holds the lock of the audit file, as a program that copies it might.
fn lock(stage: &Stage) -> File {
    let file = OpenOptions::new().read(true).open(stage.gate.dir.path().join("audit.log")).unwrap();
    file.lock().unwrap();
    file
}

fn ready(stage: &Stage) -> bool {
    status(&stage.gate.told("/readyz")) == 200
}

#[track_caller]
fn is_not_now(answer: Answer) {
    let answer = answer.expect(503);
    assert_eq!(answer.header("retry-after"), "2");
}

#[tokio::test]
async fn without_its_line_a_login_is_none_and_everything_else_goes_on() {
    let stage = Plan { more: CHAIN, ..Plan::default() }.start().await;
    stage.gate.logins.are_not_explained();
    let locked = lock(&stage);
    let login = async { stage.as_alice("/auth/pbx").send().await };
    let pages = async {
        for _ in 0..5 {
            stage.gate.get("/echo").send().await.expect(200);
        }
        // A refusal is not waited for, and none is given once the log is known to be stuck.
        let refused = stage.gate.get("/auth/pbx").cookie("demo_app=wrong").send().await;
        assert!([401, 503].contains(&refused.status.as_u16()), "{refused:?}");
    };
    let (login, ()) = tokio::join!(login, pages);
    let id = login.header("x-request-id").to_owned();
    is_not_now(login);
    assert_eq!(stage.minted().len(), 1);
    // From now on no request reaches a rule, and no session is opened in vain.
    is_not_now(stage.as_alice("/auth/pbx").send().await);
    is_not_now(stage.gate.get("/auth/pbx").cookie("demo_app=wrong").send().await);
    assert_eq!(stage.minted().len(), 1);
    let told = stage.gate.told("/readyz");
    assert!(status(&told) == 503 && told.contains("\nlog: ") && told.contains("has taken no line for"), "{told}");
    assert_eq!(stage.gate.metric("callgate_ready{part=log}"), 0.0);
    assert_eq!(status(&stage.gate.told("/livez")), 200);

    drop(locked);
    until("the log is ready", || ready(&stage)).await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    stage.gate.line(&["reason=audit_unavailable", &id]).await;
    let lines: Vec<Value> = stage.gate.audit().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // The lines of the first login were half on their way, so what became of it is told behind them.
    let of_first: Vec<_> = lines.iter().filter(|line| line["id"] == *id).map(|line| line["kind"].as_str()).collect();
    assert_eq!(of_first.last(), Some(&Some("audit refusal")), "{lines:?}");
    let mut report = callgate(&["audit", "report", "--account", "40@acme.test", "audit.log"]);
    report.current_dir(stage.gate.dir.path());
    let report = text(&run(report).await.stdout);
    assert!(report.contains("logins: 1\n"), "{report}");
}

#[tokio::test]
async fn a_login_goes_on_without_its_line_where_it_may() {
    let more = format!("{CHAIN}\nwhen_stuck = \"go_on\"");
    let stage = Plan { more: &more, ..Plan::default() }.start().await;
    stage.gate.logins.are_not_explained();
    let locked = lock(&stage);
    for _ in 0..2 {
        stage.as_alice("/auth/pbx").send().await.expect(303);
    }
    assert!(!ready(&stage));
    drop(locked);
    until("the log is ready", || ready(&stage)).await;
    assert_eq!(stage.gate.audit().matches("audit grant").count(), 2);
}

#[tokio::test]
async fn a_disk_that_is_full_gives_no_login_unless_it_may() {
    for (when_stuck, status) in [("refuse", 503), ("go_on", 303)] {
        let more = format!("[audit]\nfile = \"/dev/full\"\nwhen_stuck = \"{when_stuck}\"");
        let stage = Plan { more: &more, ..Plan::default() }.start().await;
        stage.gate.logins.are_not_explained();
        for _ in 0..2 {
            stage.as_alice("/auth/pbx").send().await.expect(status);
        }
        stage.gate.get("/echo").send().await.expect(200);
        assert!(stage.gate.told("/readyz").contains("\nlog: cannot write /dev/full\n"));
    }
}

/// Sends to a daemon until its queue is full. The queue may hold more than one sender can have under way.
fn fill(daemon: &Path) {
    let is_taken = || {
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(daemon).unwrap();
        sender.set_nonblocking(true).unwrap();
        let taken = (0..).take_while(|_| sender.send(b"full").is_ok()).count();
        taken > 0
    };
    while is_taken() {}
}

#[tokio::test]
async fn a_syslog_that_does_not_read_is_reported_and_costs_no_login() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = UnixDatagram::bind(dir.path().join("log")).unwrap();
    let more = format!("[audit]\nsyslog = \"unix:{}\"", dir.path().join("log").display());
    fill(&dir.path().join("log"));
    let stage = Plan { more: &more, ..Plan::default() }.start().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    until("syslog is told of", || stage.gate.told("/readyz?verbose").contains("\nsyslog: cannot write")).await;
    assert!(ready(&stage));
    drop(daemon);
}

/// Makes a pipe that takes nothing more.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (reader, writer)
}

#[tokio::test]
async fn a_program_whose_output_is_not_read_serves_and_ends() {
    let upstream = RawUpstream::ok().await;
    let (_stdout, to_stdout) = full_pipe();
    let (_stderr, to_stderr) = full_pipe();
    let mut program = Program::writing_to(upstream.addr, "level = \"debug\"", to_stdout.into(), to_stderr.into()).await;
    let mut tls = program.connect().await;
    for _ in 0..50 {
        tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
        assert_eq!(status(&read_head(&mut tls).await), 200);
        tls.read_exact(&mut [0; 2]).await.unwrap();
    }
    program.running.signal("-HUP");
    until("both are told of", || {
        let told = program.told("/readyz?verbose");
        let is_told =
            |part: &str, place: &str| told.contains(&format!("\n{part}: standard {place} has taken no line for"));
        is_told("log", "output") && is_told("events", "error")
    })
    .await;
    assert_eq!(status(&program.told("/livez")), 200);
    drop(tls);
    program.running.signal("-TERM");
    let started = Instant::now();
    let child = tokio::task::spawn_blocking(move || program.running.child.wait().unwrap());
    assert_eq!(child.await.unwrap().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_program_whose_output_is_not_read_ends_at_once_by_a_second_signal() {
    let upstream = RawUpstream::silent().await;
    let (_stdout, to_stdout) = full_pipe();
    let (_stderr, to_stderr) = full_pipe();
    let mut program = Program::writing_to(upstream.addr, "", to_stdout.into(), to_stderr.into()).await;
    let mut tls = program.connect().await;
    tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    until("the request is on its way", || !upstream.seen().is_empty()).await;
    program.running.signal("-TERM");
    until("it drains", || program.told("/readyz").contains("drain: draining")).await;
    program.running.signal("-TERM");
    let child = tokio::task::spawn_blocking(move || program.running.child.wait().unwrap());
    assert_eq!(child.await.unwrap().code(), Some(3));
}

#[tokio::test]
async fn lines_that_a_stuck_output_lost_are_counted_once_it_is_read() {
    let upstream = RawUpstream::ok().await;
    let dir = tempfile::tempdir().unwrap();
    let (mut stdout, to_stdout) = full_pipe();
    let stderr = File::create(dir.path().join("events")).unwrap();
    let mut program = Program::writing_to(upstream.addr, "", to_stdout.into(), stderr.into()).await;
    let mut tls = program.connect().await;
    // Each line is a kilobyte: more than there is room for.
    let long = format!("GET /{} HTTP/1.1\r\nHost: app.test\r\n\r\n", "x".repeat(1000));
    for _ in 0..2500 {
        tls.write_all(long.as_bytes()).await.unwrap();
        assert_eq!(status(&read_head(&mut tls).await), 200);
        tls.read_exact(&mut [0; 2]).await.unwrap();
    }
    let told = program.told("/metrics");
    let lost = told.lines().find_map(|line| line.strip_prefix("callgate_log_lines_lost_total{log=\"audit\"} "));
    let lost: u64 = lost.unwrap().parse().unwrap();
    assert!(lost > 100, "{lost}");
    drop(tls);
    program.running.signal("-TERM");
    let read = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stdout, &mut text).map(|_| text).unwrap()
    });
    let child = tokio::task::spawn_blocking(move || program.running.child.wait().unwrap());
    assert_eq!(child.await.unwrap().code(), Some(0));
    let text = read.await.unwrap();
    assert_eq!(text.matches(" access id=").count() as u64 + lost, 2500);
    assert!(text.contains(&format!(" lost lines={lost}\n")), "{}", &text[text.len() - 200..]);
    assert!(fs::read_to_string(dir.path().join("events")).unwrap().contains("draining"));
}
