//! `callgate reload`: the command learns what became of the new configuration.

use std::process::Output;

use serde_json::Value;

use super::commands::check_code;
use crate::kit::commands::{callgate, run, text};
use crate::kit::program::Program;
use crate::kit::upstream::RawUpstream;

async fn program() -> Program {
    let upstream = RawUpstream::ok().await;
    Program::start(upstream.addr, "listen = \"127.0.0.1:0\"", "[admin]\nlisten = \"unix:admin.sock\"").await
}

async fn reload(program: &Program, more: &[&str]) -> Output {
    let mut command = callgate(&["reload", "--config"]);
    command.arg(program.file("proxy.toml")).args(more);
    run(command).await
}

#[tokio::test]
async fn a_command_learns_whether_the_new_configuration_is_taken() {
    let program = program().await;
    let file = program.file("proxy.toml").display().to_string();
    let same = reload(&program, &[]).await;
    check_code(&same, 0);
    assert_eq!(text(&same.stdout), format!("reloaded {file}: no file had changed\n"));
    program.change("[admin]", "[server]\ndrain = \"7s\"\n[admin]");
    let taken = reload(&program, &[]).await;
    check_code(&taken, 0);
    assert_eq!(text(&taken.stdout), format!("reloaded {file}: {file}\n"));

    program.change("drain = \"7s\"", "drian = \"7s\"");
    let refused = reload(&program, &[]).await;
    check_code(&refused, 78);
    let told = text(&refused.stderr);
    assert!(told.contains("unknown key `server.drian`\n    did you mean `drain`?\n"), "{told}");
    assert!(
        told.ends_with("callgate: not reloaded, everything stays as it was: the configuration is wrong\n"),
        "{told}"
    );

    program.change("drian = \"7s\"", "drain = \"7s\"");
    program.change("[server]", "[state]\nfile = \"callgate.state\"\n[server]");
    let fixed = reload(&program, &["--json"]).await;
    check_code(&fixed, 78);
    let answer: Value = serde_json::from_slice(&fixed.stdout).unwrap();
    assert_eq!(answer["error"], "refused");
    assert!(
        answer["message"].as_str().unwrap().starts_with("`state.file` cannot change while the gate runs"),
        "{answer}"
    );
}

#[tokio::test]
async fn each_order_is_answered_about_the_file_that_it_found() {
    let program = program().await;
    for _ in 0..10 {
        program.change("[admin]", "urk = 1\n[admin]");
        check_code(&reload(&program, &[]).await, 78);
        program.change("urk = 1\n[admin]", "[admin]");
        check_code(&reload(&program, &[]).await, 0);
    }
}

#[tokio::test]
async fn without_a_gate_there_is_no_reload() {
    let mut program = program().await;
    program.running.child.kill().unwrap();
    program.running.child.wait().unwrap();
    let gone = reload(&program, &[]).await;
    check_code(&gone, 69);
    assert!(text(&gone.stderr).contains("no process listens there"), "{}", text(&gone.stderr));
}
