//! `callgate log level`: events of another level for a while, without a reload.

use std::process::Output;

use serde_json::Value;

use super::commands::check_code;
use crate::kit::commands::{callgate, run, text};
use crate::kit::program::Program;
use crate::kit::upstream::RawUpstream;

async fn program(level: &str) -> Program {
    let upstream = RawUpstream::ok().await;
    let more = format!("level = \"{level}\"\n[admin]\nlisten = \"unix:admin.sock\"");
    Program::start(upstream.addr, "listen = \"127.0.0.1:0\"", &more).await
}

async fn level(program: &Program, more: &[&str]) -> Output {
    let mut command = callgate(&["log", "level", "--config"]);
    command.arg(program.file("proxy.toml")).args(more);
    run(command).await
}

async fn check(program: &Program, more: &[&str], expected: &str) {
    let output = level(program, more).await;
    check_code(&output, 0);
    assert_eq!(text(&output.stdout), expected, "{more:?}");
}

/// Has the gate log an event of the level `debug`.
async fn cause_debug(program: &Program) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(program.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn an_ordered_level_holds_for_a_while() {
    let mut program = program("info").await;
    check(&program, &[], "info, as configured\n").await;
    check(&program, &["debug", "--for", "3s"], "debug for 3 s, then info\n").await;
    let told = program.running.complaint("the level of events is ordered").await;
    assert!(told.contains("WARN") && told.contains("by=\"uid ") && told.contains("level=DEBUG seconds=3"), "{told}");
    cause_debug(&program).await;
    program.running.complaint("DEBUG callgate::").await;
    program.running.complaint("the time of the ordered level of events is over").await;
    check(&program, &[], "info, as configured\n").await;
}

#[tokio::test]
async fn an_ordered_level_outlives_a_reload_and_can_be_ended() {
    let mut program = program("info").await;
    check(&program, &["error", "--for", "30 days"], "error for 86400 s, then info\n").await;
    // The quieter level does not hide the order.
    program.running.complaint("the level of events is ordered").await;
    program.change("level = \"info\"", "level = \"warn\"");
    let mut reload = callgate(&["reload", "--config"]);
    reload.arg(program.file("proxy.toml"));
    check_code(&run(reload).await, 0);
    let told = level(&program, &["--json"]).await;
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!((&told["level"], &told["configured"]), (&"error".into(), &"warn".into()));
    assert!(told["seconds_left"].as_u64().is_some_and(|left| left > 86_000), "{told}");
    check(&program, &["configured"], "warn, as configured\n").await;
    check_code(&level(&program, &["loud"]).await, 2);
}
