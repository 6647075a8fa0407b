//! The audit log: JSON lines, their chain, and the commands that read them.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Output;

use serde_json::{Value, json};

use crate::kit::commands::{callgate, run, text};
use crate::kit::stage::{Plan, Stage};

const CHAIN: &str = "[audit]\nfile = \"audit.log\"\nchain = true";

fn path(stage: &Stage, name: &str) -> PathBuf {
    stage.gate.dir.path().join(name)
}

fn lines(stage: &Stage) -> Vec<Value> {
    stage.gate.audit().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn audit(stage: &Stage, arguments: &[&str]) -> Output {
    let mut command = callgate(&["audit"]);
    command.args(arguments).current_dir(stage.gate.dir.path());
    run(command).await
}

/// Follows the chain of the gate's files; returns what is said.
async fn verify(stage: &Stage, arguments: &[&str]) -> Result<String, String> {
    let output = audit(stage, &[&["verify"], arguments].concat()).await;
    match output.status.code() {
        Some(0) => Ok(text(&output.stdout)),
        Some(1) => Err(text(&output.stderr)),
        code => panic!("{code:?}: {}", text(&output.stderr)),
    }
}

#[tokio::test]
async fn a_file_of_its_own_is_json_whatever_the_access_log_is() {
    let stage = Plan { more: "[audit]\nfile = \"audit.log\"", ..Plan::default() }.start().await;
    let granted = stage.as_alice("/auth/pbx").send().await.expect(303);
    let refused = stage.as_alice("/auth/pbx?account=41").send().await.expect(403);
    let mut lines = lines(&stage);
    for line in &mut lines {
        line.as_object_mut().unwrap().remove("time").unwrap();
    }
    let expected = json!({
        "kind": "audit grant", "id": granted.header("x-request-id"), "client": "127.0.0.1", "act": "pbx_session",
        "method": "app", "subject": "alice", "rule": "staff", "account": "40@acme.test", "level": "user",
        "claims": ["ext", "tenant"],
    });
    assert_eq!(lines[0], expected);
    assert_eq!((&lines[1]["kind"], &lines[1]["id"]), (&json!("audit refusal"), &json!(refused.header("x-request-id"))));
    assert_eq!(lines.len(), 2);
    stage.gate.line(&["access id="]).await;
    assert!(!stage.gate.log().contains(" audit "), "{}", stage.gate.log());
}

#[tokio::test]
async fn a_chain_shows_what_was_done_to_it() {
    let stage = Plan { more: CHAIN, ..Plan::default() }.start().await;
    for _ in 0..4 {
        stage.as_alice("/auth/pbx").send().await.expect(303);
    }
    let told = lines(&stage);
    let head = format!("4:{}", told[3]["hash"].as_str().unwrap());
    let whole = verify(&stage, &["audit.log"]).await.unwrap();
    assert_eq!(whole, format!("lines 1 to 4 follow each other\nhead: {head}\n"));
    assert!(verify(&stage, &["--head", &head, "audit.log"]).await.is_ok());

    let good = fs::read_to_string(path(&stage, "audit.log")).unwrap();
    let rows: Vec<_> = good.lines().collect();
    let check = async |lines: Vec<&str>, expected: &str| {
        fs::write(path(&stage, "audit.log"), format!("{}\n", lines.join("\n"))).unwrap();
        let problem = verify(&stage, &["--head", &head, "audit.log"]).await.unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    };
    let changed = rows[1].replace("127.0.0.1", "192.0.2.1");
    check(vec![rows[0], &changed, rows[2], rows[3]], "audit.log:2: the line was changed").await;
    check(vec![rows[0], rows[2], rows[3]], "audit.log:2: 1 lines before this one are missing").await;
    check(vec![rows[0], rows[2], rows[1], rows[3]], "audit.log:2: 1 lines before this one are missing").await;
    check(vec![rows[0], rows[1], rows[1], rows[2], rows[3]], "audit.log:3: the line does not follow").await;
    // Only who knows the head sees this.
    check(vec![rows[0], rows[1], rows[2]], "line 4 is missing or changed").await;
    assert!(verify(&stage, &["audit.log"]).await.is_ok());
    fs::write(path(&stage, "audit.log"), good).unwrap();
}

#[tokio::test]
async fn a_chain_goes_on_over_rotation_reload_and_restart() {
    let mut stage = Plan { more: CHAIN, ..Plan::default() }.start().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    stage.gate.audit();
    fs::rename(path(&stage, "audit.log"), path(&stage, "audit.log.2")).unwrap();
    stage.as_alice("/auth/pbx").send().await.expect(303);
    stage.gate.audit();
    // Another chain of the same file: the logs are opened anew, and the old ones have their last line written.
    let text = format!("{}\n[log]\nlevel = \"debug\"\nformat = \"json\"", stage.gate.text);
    stage.gate.reload(&text).await.unwrap();
    stage.as_alice("/auth/pbx").send().await.expect(303);
    stage.gate.audit();
    let whole = verify(&stage, &["audit.log.2", "audit.log"]).await.unwrap();
    assert!(whole.starts_with("lines 1 to 3 follow each other\n"), "{whole}");
    let later = verify(&stage, &["audit.log"]).await.unwrap();
    assert!(later.starts_with("lines 2 to 3 follow each other\nlines 1 to 1 are in older files\n"), "{later}");
    let missing = verify(&stage, &["audit.log", "audit.log.2"]).await.unwrap_err();
    let told = "audit.log.2:1: the files are in the wrong order: name audit.log.2 before audit.log";
    assert!(missing.contains(told), "{missing}");
    let again = callgate::config::parse(&config(&stage), stage.gate.dir.path(), &|_| Some("x".into())).unwrap();
    let logs = callgate::observe::Logs::open(&again).unwrap();
    logs.write_note(&callgate::observe::audit::EventRecord {
        event: callgate::observe::audit::AuditEvent::Thaw,
        account: "40@acme.test".into(),
        session: None,
        subject: None,
        by: None,
        until: None,
        reason: None,
    });
    assert!(logs.flush(tokio::time::Instant::now() + std::time::Duration::from_secs(20)));
    assert!(verify(&stage, &["audit.log.2", "audit.log"]).await.unwrap().starts_with("lines 1 to 4 "));
}

fn config(stage: &Stage) -> String {
    let tls = "tls = { cert = \"fullchain.pem\", key = \"privkey.pem\" }";
    format!("listen = \"127.0.0.1:0\"\n{tls}\n{}", stage.gate.text)
}

#[tokio::test]
async fn a_file_without_a_chain_is_not_called_good() {
    let stage = Plan { more: "[audit]\nfile = \"audit.log\"", ..Plan::default() }.start().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    stage.gate.audit();
    let problem = verify(&stage, &["audit.log"]).await.unwrap_err();
    assert!(problem.contains("no line of these files is part of a chain"), "{problem}");
    assert!(verify(&stage, &["missing.log"]).await.unwrap_err().contains("missing.log"));
}

#[tokio::test]
async fn syslog_hears_each_line_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = UnixDatagram::bind(dir.path().join("log")).unwrap();
    daemon.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let more = format!("[audit]\nsyslog = \"unix:{}\"", dir.path().join("log").display());
    let stage = Plan { more: &more, ..Plan::default() }.start().await;
    let id = stage.as_alice("/auth/pbx").send().await.expect(303).header("x-request-id").to_owned();
    let heard = tokio::task::spawn_blocking(move || {
        let mut bytes = [0; 4096];
        let length = daemon.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    });
    let heard = heard.await.unwrap();
    let told: Value = serde_json::from_str(heard.split_once("]: ").unwrap().1).unwrap();
    assert!(heard.starts_with("<85>"), "{heard}");
    assert_eq!((told["id"].as_str(), &told["account"]), (Some(id.as_str()), &json!("40@acme.test")));
    // It stands among the access lines all the same.
    stage.gate.line(&[" audit grant ", &id]).await;
}

#[tokio::test]
async fn a_syslog_that_is_away_is_counted_and_costs_no_login() {
    let stage = Plan { more: "[audit]\nsyslog = \"unix:nobody\"", ..Plan::default() }.start().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    stage.gate.audit();
    assert!(stage.gate.told("/metrics").contains("callgate_log_lines_lost_total{log=\"syslog\"} 1\n"));
    // Health tells of it, and balancers go on.
    let told = stage.gate.told("/readyz?verbose");
    assert!(told.starts_with("HTTP/1.1 200") && told.contains("\nsyslog: cannot write syslog at unix:"), "{told}");
    assert_eq!(stage.gate.metric("callgate_ready{part=syslog}"), 0.0);
}

// === The report ===

#[tokio::test]
async fn a_report_lists_the_logins_and_the_attempts_for_an_account() {
    let stage = Plan { more: "[audit]\nfile = \"audit.log\"", ..Plan::default() }.start().await;
    for client in ["127.0.0.1", "127.0.0.1", "127.0.0.9"] {
        stage.as_alice("/auth/pbx").from(client).send().await.expect(303);
    }
    stage.as_user("bob", "/auth/pbx").send().await.expect(303);
    stage.as_alice("/auth/pbx?account=41").from("127.0.0.9").send().await.expect(403);
    stage.gate.get("/auth/pbx").cookie("demo_app=wrong").from("127.0.0.9").send().await.expect(401);
    stage.gate.get("/auth/pbx").cookie("demo_app=wrong").from("127.0.0.77").send().await.expect(401);
    stage.gate.audit();
    let mut log = fs::read_to_string(path(&stage, "audit.log")).unwrap();
    log.push_str("2026-11-22T21:00:00.123Z audit grant id=x client=127.0.0.66 account=40@acme.test\n\0garbage\n");
    fs::write(path(&stage, "audit.log"), log).unwrap();

    let output = audit(&stage, &["report", "--account", "40@ACME.test", "--since", "1h", "audit.log"]).await;
    let told = text(&output.stdout);
    assert!(output.status.success(), "{told}");
    for part in ["2 lines were skipped", "logins: 3", "app:alice  127.0.0.1  2 ", "app:alice  127.0.0.9  1 "] {
        assert!(told.contains(part), "{part}: {told}");
    }
    for part in ["related refusals: 2", "the app knows no such user", "grants something else"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("127.0.0.77") && !told.contains("41@") && !told.contains("app:bob"), "{told}");

    let json = |output: Output| serde_json::from_slice::<Value>(&output.stdout).unwrap();
    let without_domain = audit(&stage, &["report", "--account", "40", "audit.log"]).await;
    let told = String::from_utf8_lossy(&without_domain.stdout).into_owned();
    assert!(told.contains("an account of the PBX is written with its domain, 40@"), "{told}");
    let report = json(audit(&stage, &["report", "--account", "40@acme.test", "--json", "audit.log"]).await);
    assert_eq!((report["logins"].as_array().unwrap().len(), &report["lines_passed_over"]), (3, &json!(2)));
    assert_eq!((&report["callers"][0]["client"], &report["callers"][0]["times"]), (&json!("127.0.0.1"), &json!(2)));
    let of_client = json(audit(&stage, &["report", "--client", "127.0.0.9", "--json", "audit.log"]).await);
    assert_eq!(of_client["logins"].as_array().unwrap().len(), 1);
    let of_later = json(
        audit(&stage, &["report", "--account", "40@acme.test", "--since", "2099-01-01", "--json", "audit.log"]).await,
    );
    assert_eq!((of_later["logins"].as_array().unwrap().len(), &of_later["refusals"]), (0, &json!([])));
    let of_before = json(
        audit(&stage, &["report", "--account", "40@acme.test", "--until", "2020-01-01", "--json", "audit.log"]).await,
    );
    assert_eq!(of_before["logins"].as_array().unwrap().len(), 0);
}

/// The files of several members may be copies, and stand in any order.
#[tokio::test]
async fn a_report_counts_each_line_once_whatever_the_order_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let line = |kind: &str, second: u8, id: &str, reason: &str| {
        format!(
            "{{\"time\":\"2026-11-29T10:00:{second:02}Z\",\"kind\":\"audit {kind}\",\"id\":\"{id}\",\"client\":\"192.0.2.7\",\
             \"act\":\"pbx_session\",\"method\":\"app\",\"subject\":\"alice\",\"rule\":\"staff\",\"account\":\"40@acme.test\"{reason}}}\n"
        )
    };
    let late = line("refusal", 9, "late", ",\"reason\":\"the login has no audit line: it was late\"");
    for (name, lines) in [
        ("one", [line("grant", 1, "kept", ""), line("grant", 2, "late", "")].concat()),
        ("two", [line("refusal", 3, "other", ",\"reason\":\"the account is frozen\""), late].concat()),
    ] {
        fs::write(dir.path().join(name), lines).unwrap();
    }
    let report = async |arguments: &[&str]| {
        let mut command = callgate(&["audit", "report", "--account", "40@acme.test"]);
        command.args(arguments).current_dir(dir.path());
        text(&run(command).await.stdout)
    };
    for files in [["one", "two"], ["two", "one"]] {
        let told = report(&files).await;
        assert!(told.contains("logins: 1\n") && told.contains("related refusals: 2\n"), "{told}");
        assert!(told.contains(" kept") && !told.contains("a second time"), "{told}");
    }
    let told = report(&["one", "two", "one", "two"]).await;
    assert!(told.contains("4 lines stand here a second time, and count once\n"), "{told}");
    assert!(told.contains("logins: 1\n") && told.contains("related refusals: 2\n"), "{told}");
    // The refusal behind the window counts all the same.
    let told = report(&["--until", "2026-11-29T10:00:05Z", "one", "two"]).await;
    assert!(told.contains("logins: 1\n") && told.contains("related refusals: 1\n"), "{told}");
}

#[tokio::test]
async fn a_report_finds_the_files_of_a_configuration() {
    let stage = Plan { more: "[audit]\nfile = \"audit.log\"", ..Plan::default() }.start().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    stage.gate.audit();
    fs::rename(path(&stage, "audit.log"), path(&stage, "audit.log.1")).unwrap();
    fs::write(path(&stage, "proxy.toml"), config(&stage)).unwrap();
    let mut command = callgate(&["audit", "report", "--account", "40@acme.test", "--json"]);
    command.env("PBX_ADMIN", "x").current_dir(stage.gate.dir.path());
    fs::write(path(&stage, "audit.log"), "").unwrap();
    let output = run(command).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    assert_eq!(report["logins"].as_array().unwrap().len(), 1);
    let neither = audit(&stage, &["report", "audit.log"]).await;
    assert_eq!(neither.status.code(), Some(2));
}

/// Text of a stranger in a line never moves the cursor of the terminal that shows the report.
#[tokio::test]
async fn a_report_shows_what_a_stranger_wrote_as_text() {
    let stage = Plan { more: "[audit]\nfile = \"audit.log\"", ..Plan::default() }.start().await;
    stage.claims(json!({ "user": "al\u{1b}[2Jice\u{202e}", "ext": "40", "tenant": "acme.test" }));
    stage.as_alice("/auth/pbx").send().await.expect(303);
    stage.gate.audit();
    let output = audit(&stage, &["report", "--account", "40@acme.test", "audit.log"]).await;
    let told = text(&output.stdout);
    assert!(told.contains("logins: 1") && !told.contains(['\u{1b}', '\u{202e}']), "{told}");
}
