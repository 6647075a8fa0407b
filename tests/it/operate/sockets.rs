//! `listen = "unix:…"`: TLS over a unix socket.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::kit::client::{read_head, status};
use crate::kit::commands::{Running, callgate};
use crate::kit::program::Program;
use crate::kit::upstream::RawUpstream;

const TOP: &str = "listen = \"unix:tls.sock\"\nworkers = 2";

async fn check_answer(program: &Program, upstream: &RawUpstream) {
    let mut tls = program.over(UnixStream::connect(program.file("tls.sock")).await.unwrap()).await;
    tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 200);
    let seen = upstream.seen().pop().unwrap();
    assert!(seen.contains("x-forwarded-for: 127.0.0.1\r\n"), "{seen}");
}

#[tokio::test]
async fn a_path_is_served_and_gone_after_the_end() {
    let upstream = RawUpstream::ok().await;
    let program = Program::start(upstream.addr, TOP, "").await;
    check_answer(&program, &upstream).await;
    let mode = fs::metadata(program.file("tls.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    program.running.signal("-TERM");
    let path = program.file("tls.sock");
    let (code, told) = program.running.end().await;
    assert_eq!(code, Some(0), "{told}");
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_without_a_listener_is_replaced_and_another_is_left_alone() {
    let upstream = RawUpstream::ok().await;
    let program = Program::start(upstream.addr, TOP, "").await;
    let again = || {
        let mut command = callgate(&["run", "--config"]);
        command.arg(program.file("proxy.toml"));
        Running::start(command)
    };
    let (code, told) = again().end().await;
    assert!(code == Some(1) && told.contains("cannot listen at unix:") && told.contains("in use"), "{told}");
    check_answer(&program, &upstream).await;
    program.running.signal("-KILL");
    crate::kit::stage::until("nobody listens", || {
        std::os::unix::net::UnixStream::connect(program.file("tls.sock")).is_err()
    })
    .await;
    assert!(program.file("tls.sock").exists());
    let mut second = again();
    second.complaint("listening").await;
    check_answer(&program, &upstream).await;
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_not_touched() {
    let upstream = RawUpstream::ok().await;
    let program = Program::before(upstream.addr, "").await;
    program.change("127.0.0.1:0", "unix:precious");
    fs::write(program.file("precious"), "x").unwrap();
    let mut command = callgate(&["run", "--config"]);
    command.arg(program.file("proxy.toml"));
    assert_eq!(Running::start(command).end().await.0, Some(1));
    assert_eq!(fs::read_to_string(program.file("precious")).unwrap(), "x");
}

#[tokio::test]
async fn a_path_goes_from_hand_to_hand() {
    let upstream = RawUpstream::ok().await;
    let mut program = Program::start(upstream.addr, TOP, "").await;
    let successor = crate::kit::program::Successor::of(&mut program).await;
    assert_eq!(crate::kit::program::code(&mut program).await, Some(0));
    check_answer(&program, &upstream).await;
    drop(successor);
    // The old process did not remove the path from under the new one: a hand-over is no drain.
    drop(UnixListener::bind(program.file("tls.sock")).unwrap_err());
}
