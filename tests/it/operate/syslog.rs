//! The copy of audit lines at a syslog server over TCP and TLS.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::kit::commands::{callgate, run, text};
use crate::kit::gate::Gate;
use crate::kit::outbound_proxy::TlsFront;
use crate::kit::programs::{KillTimer, are_here};
use crate::kit::stage::{Plan, Stage, until};
use crate::kit::syslog_server::SyslogServer;

/// Starts a gate whose audit lines go to a file and to a syslog server.
async fn gate(syslog: &str) -> Stage {
    let more = format!("[audit]\nfile = \"audit.log\"\nsyslog = {syslog}");
    Plan { top: "member = \"edge-1\"", more: &more, ..Plan::default() }.start().await
}

/// Logs alice in, and returns the id of the request.
async fn login(stage: &Stage) -> String {
    stage.as_alice("/auth/pbx").send().await.expect(303).header("x-request-id").to_owned()
}

fn lost(stage: &Stage) -> f64 {
    stage.gate.metric("callgate_log_lines_lost_total{log=syslog}")
}

fn readiness(stage: &Stage) -> String {
    let told = stage.gate.told("/readyz?verbose");
    assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
    told
}

#[tokio::test]
async fn a_syslog_server_hears_rfc_5424_with_counted_octets() {
    let server = SyslogServer::start().await;
    let stage = gate(&format!("\"tcp:{}\"", server.addr)).await;
    stage.claims(json!({ "user": "zoë", "ext": "40", "tenant": "acme.test" }));
    let ids = [login(&stage).await, login(&stage).await];
    for id in &ids {
        let (message, line) = server.message(id).await;
        let words: Vec<_> = message.splitn(8, ' ').collect();
        assert_eq!((words[0], words[3], words[5], words[6]), ("<85>1", "callgate", "audit", "-"), "{message}");
        assert_eq!((&line["member"], &line["subject"]), (&json!("edge-1"), &json!("zoë")));
    }
    assert_eq!(server.messages().len(), 2);
    until("syslog is well", || readiness(&stage).contains("\nsyslog: ok")).await;
    assert_eq!(lost(&stage), 0.0);
}

#[tokio::test]
async fn a_syslog_server_over_tls_hears_each_line() {
    let server = SyslogServer::start().await;
    let front = TlsFront::before(server.addr, &["logs.test"]).await;
    let to = format!("{{ to = \"tls:{}\", server_name = \"logs.test\", {} }}", front.addr, front.ca().trim_end());
    let stage = gate(&to).await;
    for _ in 0..3 {
        let id = login(&stage).await;
        server.message(&id).await;
    }
    assert_eq!((server.messages().len(), lost(&stage)), (3, 0.0));
}

#[tokio::test]
async fn a_syslog_server_that_cannot_prove_itself_hears_nothing() {
    let server = SyslogServer::start().await;
    let front = TlsFront::before(server.addr, &["logs.test"]).await;
    let (unknown, other_name) =
        (format!("\"tls:{}\"", front.addr), format!("{{ to = \"tls:{}\", {} }}", front.addr, front.ca().trim_end()));
    for (to, advice) in [
        (unknown, "the authority that signed its certificate is not known: name it in `ca`"),
        (other_name, "its certificate is for another name: name that in `server_name`"),
    ] {
        let stage = gate(&to).await;
        login(&stage).await;
        until("the event is written", || {
            let events = stage.gate.events();
            events.lines().any(|event| event.contains("cannot write the log") && event.contains(advice))
        })
        .await;
        until("syslog is told of", || readiness(&stage).contains("\nsyslog: cannot write syslog at tls:")).await;
        assert!(stage.gate.audit().contains("audit grant"), "the line is in the file");
    }
    assert_eq!(server.messages(), Vec::<String>::new());
}

#[tokio::test]
async fn lines_wait_for_a_syslog_server_that_comes_later() {
    let addr = SyslogServer::later().await;
    let stage = gate(&format!("\"tcp:{addr}\"")).await;
    let ids = [login(&stage).await, login(&stage).await];
    until("syslog is told of", || readiness(&stage).contains("\nsyslog: cannot write syslog at tcp:")).await;
    let server = SyslogServer::at(addr).await;
    for id in &ids {
        server.message(id).await;
    }
    until("syslog is well", || readiness(&stage).contains("\nsyslog: ok")).await;
    assert_eq!((server.messages().len(), lost(&stage)), (2, 0.0));
}

#[tokio::test]
async fn a_syslog_server_that_is_started_again_misses_no_line() {
    let mut server = SyslogServer::start().await;
    let stage = gate(&format!("\"tcp:{}\"", server.addr)).await;
    let mut before = login(&stage).await;
    server.message(&before).await;
    for _ in 0..3 {
        let addr = server.addr;
        drop(server);
        let meanwhile = login(&stage).await;
        server = SyslogServer::at(addr).await;
        let after = login(&stage).await;
        // What the one before may not have read comes again.
        for id in [&before, &meanwhile, &after] {
            server.message(id).await;
        }
        before = after;
    }
    assert_eq!(lost(&stage), 0.0);
}

#[tokio::test]
async fn a_syslog_server_that_never_reads_costs_no_login() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = silent.local_addr().unwrap();
    let silent_tls = gate(&format!("\"tls:{addr}\"")).await;
    let silent_tcp = gate(&format!("\"tcp:{addr}\"")).await;
    for stage in [&silent_tls, &silent_tcp] {
        for _ in 0..20 {
            login(stage).await;
        }
        assert_eq!(lost(stage), 0.0);
    }
    until("the handshake is told of", || silent_tls.gate.events().contains("the TLS handshake took too long")).await;
}

#[tokio::test]
async fn another_syslog_server_gets_the_lines_after_a_reload() {
    let (one, two) = (SyslogServer::start().await, SyslogServer::start().await);
    let mut stage = gate(&format!("\"tcp:{}\"", one.addr)).await;
    let first = login(&stage).await;
    let config = stage.gate.text.replace(&one.addr.to_string(), &two.addr.to_string());
    stage.gate.reload(&config).await.unwrap();
    let second = login(&stage).await;
    one.message(&first).await;
    two.message(&second).await;
    assert_eq!((one.messages().len(), two.messages().len()), (1, 1));
}

#[tokio::test]
async fn a_gate_that_ends_sends_its_last_lines_and_waits_for_no_server_that_is_away() {
    let server = SyslogServer::start().await;
    let stage = gate(&format!("\"tcp:{}\"", server.addr)).await;
    let text = &stage.gate.text;
    let refused = async |gate: &Gate| {
        gate.get("/auth/pbx").cookie("demo_app=wrong").send().await.expect(401).header("x-request-id").to_owned()
    };
    let ending = Gate::start(text).await;
    let id = refused(&ending).await;
    ending.drain().await;
    server.message(&id).await;
    let away = SyslogServer::later().await;
    let ending = Gate::start(&text.replace(&server.addr.to_string(), &away.to_string())).await;
    refused(&ending).await;
    assert!(timeout(Duration::from_secs(60), ending.drain()).await.is_ok());
}

struct Rsyslog {
    child: Child,
    _watch: KillTimer,
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test]
async fn rsyslog_reads_the_lines_over_tcp() {
    if !are_here(&["rsyslogd"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (addr, out) = (SyslogServer::later().await, dir.path().join("out"));
    let config = format!(
        r#"global(workDirectory="{dir}" maxMessageSize="64k")
module(load="imptcp")
input(type="imptcp" address="127.0.0.1" port="{port}")
template(name="parts" type="string" string="%syslogfacility-text%.%syslogseverity-text% %app-name% %msgid% %msg%\n")
action(type="omfile" file="{out}" template="parts")
template(name="callgate" type="string" string="%msg%\n")
action(type="omfile" file="{out}.callgate" template="callgate")
"#,
        dir = dir.path().display(),
        port = addr.port(),
        out = out.display(),
    );
    let conf = dir.path().join("rsyslog.conf");
    fs::write(&conf, config).unwrap();
    let mut command = Command::new("rsyslogd");
    command.arg("-n").arg("-f").arg(&conf).arg("-i").arg(dir.path().join("pid"));
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let _server = Rsyslog { _watch: KillTimer::over(&child), child };

    let stage = gate(&format!("\"tcp:{addr}\"")).await;
    let ids = [login(&stage).await, login(&stage).await];
    let read = || fs::read_to_string(&out).unwrap_or_default();
    until("rsyslog has written both lines", || ids.iter().all(|id| read().contains(id))).await;
    for line in read().lines() {
        let (head, json) = line.split_once('{').unwrap();
        assert_eq!(head.trim_end(), "authpriv.notice callgate audit", "{line}");
        assert!(serde_json::from_str::<serde_json::Value>(&format!("{{{json}")).is_ok(), "{line}");
    }
    let stored = format!("{}.callgate", out.display());
    let read = || fs::read_to_string(&stored).unwrap_or_default();
    until("rsyslog has stored both lines", || ids.iter().all(|id| read().contains(id))).await;
    let report = run(callgate(&["audit", "report", "--account", "40@acme.test", &stored])).await;
    let told = text(&report.stdout);
    assert!(told.contains("logins: 2\n") && !told.contains("skipped"), "{told}");
}
