//! `callgate status`: the state of the running gate, for people and for programs.

use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::commands::check_code;
use crate::kit::client::{read_head, status};
use crate::kit::commands::{callgate, run, text};
use crate::kit::program::Program;

#[tokio::test]
async fn the_status_says_what_runs_and_whether_it_is_ready() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let more = "[admin]\nlisten = \"unix:admin.sock\"";
    let mut program = Program::start(closed, "listen = \"127.0.0.1:0\"", more).await;
    let file = program.file("proxy.toml");
    let ask = |more: &[&str]| {
        let mut command = callgate(&["status", "--config"]);
        command.arg(&file).args(more);
        run(command)
    };
    let ready = ask(&[]).await;
    check_code(&ready, 0);
    let told = text(&ready.stdout);
    for line in [
        format!("callgate {}, since ", env!("CARGO_PKG_VERSION")),
        format!("\nconfiguration  {}, loaded ", file.display()),
        "\nready          yes\n".to_owned(),
        "\ncertificate    app.test".to_owned(),
        " days left, until ".to_owned(),
        format!("\nupstream       app: http://{closed}\n"),
    ] {
        assert!(format!("{told}\n").contains(&line), "{line:?} is not in {told}");
    }
    let mut tls = program.connect().await;
    tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 502);
    let broken = ask(&[]).await;
    check_code(&broken, 1);
    assert!(text(&broken.stdout).contains(&format!("\ndoes not work  app: cannot reach {closed}\n")));
    let json = ask(&["--json"]).await;
    check_code(&json, 1);
    let answer: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&answer["ready"], &answer["parts"][0]["name"]), (&false.into(), &"app".into()));
    program.running.child.kill().unwrap();
    program.running.child.wait().unwrap();
    check_code(&ask(&[]).await, 69);
}
