//! `callgate check` reports what `run` would report, and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use callgate::state::Store;
use callgate::tls::dev;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kit::commands::{callgate, run, text};
use crate::kit::gate::secret;
use crate::kit::upstream::RawUpstream;

fn folder(more: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    let certificate = dev::certificate(&["app.test"]).unwrap();
    secret(&dir, "fullchain.pem", &format!("{}{}", certificate.chain, certificate.ca));
    secret(&dir, "leaf.pem", &certificate.chain);
    secret(&dir, "privkey.pem", &certificate.key);
    let text = format!(
        "listen = \"127.0.0.1:0\"\ntls = {{ cert = \"fullchain.pem\", key = \"privkey.pem\" }}\n[app]\nurl = \"http://127.0.0.1:1\"\n{more}\n"
    );
    fs::write(dir.path().join("proxy.toml"), text).unwrap();
    dir
}

/// The content of each file in a folder.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().flatten().filter(|entry| entry.path().is_file());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

fn command(dir: &TempDir, name: &str) -> Command {
    let mut command = callgate(&[name, "--config", "proxy.toml"]);
    command.current_dir(dir.path());
    command
}

/// Checks a folder, which stays as it is.
async fn check(dir: &TempDir) -> Output {
    let before = files(dir.path());
    let output = run(command(dir, "check")).await;
    assert_eq!(files(dir.path()), before);
    output
}

/// Runs `check --online`, and returns its report.
async fn online(dir: &TempDir) -> Output {
    let mut command = command(dir, "check");
    command.arg("--online");
    run(command).await
}

/// The line of a report with these words, and the advice below it.
#[track_caller]
fn line<'r>(report: &'r str, words: &[&str]) -> (&'r str, Option<&'r str>) {
    let mut lines = report.lines();
    let line = lines.find(|line| words.iter().all(|word| line.contains(word)));
    let line = line.unwrap_or_else(|| panic!("{words:?} are not in {report}"));
    (line, lines.next().filter(|advice| advice.starts_with("         ")).map(str::trim))
}

#[tokio::test]
async fn a_target_that_does_not_answer_is_named() {
    let target = RawUpstream::ok().await;
    for (to, verdict, answer) in
        [(target.addr.to_string(), "ok ", "connected"), ("127.0.0.1:1".to_owned(), "FAIL ", "Connection refused")]
    {
        let dir = folder(&format!("[[passthrough]]\nnames = [\"phones.test\"]\nto = \"{to}\""));
        let output = online(&dir).await;
        let report = text(&output.stdout);
        let (line, advice) = line(&report, &["passthrough ", &format!("connect to {to} ")]);
        assert!(line.starts_with(verdict) && line.contains(answer) && line.contains(" ms "), "{report}");
        assert_eq!(advice.is_some(), verdict == "FAIL ", "{report}");
        // No certificate here has to name the phones' host.
        assert!(!report.contains("phones.test") && !text(&output.stderr).contains("phones.test"), "{output:?}");
        assert_eq!(output.status.code(), Some(69), "the app of this folder does not answer");
    }
}

#[tokio::test]
async fn a_report_is_data_with_json() {
    let app = RawUpstream::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno").await;
    let dir = folder("");
    let path = dir.path().join("proxy.toml");
    let file = fs::read_to_string(&path).unwrap();
    let asked = async |text: &str, options: &[&str], code| {
        fs::write(&path, text).unwrap();
        let mut command = command(&dir, "check");
        command.args(options).arg("--json");
        let output = run(command).await;
        assert_eq!(
            (output.status.code(), String::from_utf8(output.stderr.clone()).unwrap()),
            (Some(code), String::new())
        );
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let right = file.replace("http://127.0.0.1:1", &format!("http://{}", app.addr));
    let report = asked(&right, &["--online"], 0).await;
    assert_eq!(
        (&report["file"], &report["online"], &report["exit_code"]),
        (&json!("proxy.toml"), &json!(true), &json!(0))
    );
    let parts: Vec<_> = report["findings"].as_array().unwrap().iter().map(|one| &one["part"]).collect();
    assert_eq!(parts, ["tls", "app"]);
    let finding = &report["findings"][1];
    assert_eq!((&finding["verdict"], &finding["answer"]), (&json!("ok"), &json!("connected")));
    assert!(finding["milliseconds"].is_u64() && finding["fault"].is_null() && finding["advice"].is_null(), "{finding}");

    let report = asked(&file, &["--online"], 69).await;
    let finding = &report["findings"][1];
    assert_eq!((&finding["verdict"], &finding["fault"]), (&json!("fail"), &json!("outside")));
    assert!(finding["advice"].is_string(), "{finding}");

    let report = asked(&right.replace("[app]", "[app]\ncolour = 1"), &[], 78).await;
    let finding = &report["findings"][0];
    assert_eq!((&finding["part"], &finding["fault"]), (&json!("configuration"), &json!("configuration")));
    assert_eq!(finding["asked"], "proxy.toml:4:1", "{finding}");
    assert!(report["exit_code"] == 78 && report["online"] == false, "{report}");
}

/// The exit code tells what the operator mends in the file from what another server lacks.
#[tokio::test]
async fn a_syslog_server_and_an_acme_server_are_tried() {
    let web = RawUpstream::answering(
        "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 19\r\n\r\n{\"newOrder\":\"/new\"}",
    )
    .await;
    let plain = RawUpstream::answering("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno").await;
    let daemon = RawUpstream::silent().await;
    for (server, syslog, code, words) in [
        (
            &web,
            daemon.addr.to_string(),
            0,
            [&["ok ", "tls.acme", "the directory of an ACME server"][..], &["ok ", "audit.syslog", "connected"]],
        ),
        (
            &plain,
            daemon.addr.to_string(),
            78,
            [&["FAIL ", "tls.acme", "404 Not Found"], &["ok ", "audit.syslog", "connected"]],
        ),
        (&web, "127.0.0.1:1".to_owned(), 69, [&["ok ", "tls.acme"], &["FAIL ", "audit.syslog", "onnection refused"]]),
    ] {
        let dir = folder(&format!("[audit]\nfile = \"audit.log\"\nsyslog = \"tcp:{syslog}\"\n{STATE}"));
        let path = dir.path().join("proxy.toml");
        let acme = format!("acme = {{ names = [\"more.test\"], directory = \"http://{}/dir\" }} }}", server.addr);
        let file = fs::read_to_string(&path).unwrap();
        let file = file.replace("key = \"privkey.pem\" }", &format!("key = \"privkey.pem\", {acme}"));
        fs::write(&path, file.replace("http://127.0.0.1:1", &format!("http://{}", web.addr))).unwrap();
        let output = online(&dir).await;
        let report = text(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{report}{}", text(&output.stderr));
        for words in words {
            line(&report, words);
        }
        if code == 0 {
            let (clock, advice) = line(&report, &["warning ", "clock", "the time at tls.acme"]);
            assert!(clock.contains(" s behind that of this machine") && advice.is_some(), "{report}");
        }
    }
}

#[tokio::test]
async fn a_certificate_has_its_days_in_the_report() {
    let output = online(&folder("")).await;
    let report = text(&output.stdout);
    let (line, _) = line(&report, &["ok ", "tls ", "fullchain.pem"]);
    assert!(line.contains("the certificate for app.test: ") && line.contains(" days left, until 2"), "{report}");
}

/// Writes a certificate that ends in so many days, and an hour.
fn write_ending_in(dir: &TempDir, days: u64) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["app.test".to_owned()]).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + now + Duration::from_secs(days * 24 * 3600 + 3600);
    secret(dir, "fullchain.pem", &params.self_signed(&key).unwrap().pem());
    secret(dir, "privkey.pem", &key.serialize_pem());
}

#[tokio::test]
async fn a_certificate_that_ends_within_21_days_is_a_warning_of_check_and_of_its_report() {
    let dir = folder("");
    let renew = "renew it, and look why that was not done by now";
    for (days, verdict, expected) in [(20, "warning ", Some(renew)), (30, "ok ", None)] {
        write_ending_in(&dir, days);
        let report = text(&online(&dir).await.stdout);
        let answer = format!("the certificate for app.test: {days} days left, until 2");
        let (_, advice) = line(&report, &[verdict, "tls ", "fullchain.pem", &answer]);
        assert_eq!(advice, expected, "{report}");
        let checked = check(&dir).await;
        let told = text(&checked.stderr);
        assert_eq!(checked.status.code(), Some(0), "{told}");
        assert_eq!(told.contains("`tls.cert`: the certificate ends at 2"), expected.is_some(), "{told}");
    }
}

const STATE: &str = "[state]\nfile = \"state\"";

#[tokio::test]
async fn names_of_an_acme_server_are_in_the_report_as_the_state_file_has_them() {
    let web = RawUpstream::answering("HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{\"newOrder\":\"/new\"}").await;
    let dir = folder(STATE);
    let path = dir.path().join("proxy.toml");
    let acme = format!("acme = {{ names = [\"more.test\"], directory = \"http://{}/dir\" }} }}", web.addr);
    let file = fs::read_to_string(&path).unwrap();
    let file = file.replace("key = \"privkey.pem\" }", &format!("key = \"privkey.pem\", {acme}"));
    fs::write(&path, file.replace("http://127.0.0.1:1", &format!("http://{}", web.addr))).unwrap();
    let report = text(&online(&dir).await.stdout);
    line(&report, &["note ", "tls.acme", "there is no certificate for more.test yet"]);
    let store = Store::open(&dir.path().join("state")).unwrap();
    let report = text(&online(&dir).await.stdout);
    line(&report, &["note ", "tls.acme", "the gate that runs has the file open", "/status"]);
    drop(store);
}

#[tokio::test]
async fn nothing_is_made_where_all_is_well() {
    let more = format!("[log]\naccess = \"access.log\"\n[audit]\nfile = \"audit.log\"\nchain = true\n{STATE}");
    let output = check(&folder(&more)).await;
    assert_eq!((text(&output.stdout).as_str(), text(&output.stderr).as_str()), ("proxy.toml: ok\n", ""));
}

#[tokio::test]
async fn a_state_file_that_run_refuses_is_refused_with_the_same_words() {
    for (bytes, mode) in [(&b"a diary"[..], 0o600), (b"", 0o600), (b"a diary", 0o644)] {
        let dir = folder(STATE);
        let state = dir.path().join("state");
        fs::write(&state, bytes).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(mode)).unwrap();
        let checked = check(&dir).await;
        let started = run(command(&dir, "run")).await;
        assert_eq!((checked.status.code(), started.status.code()), (Some(78), Some(78)));
        let (checked, started) = (text(&checked.stderr), text(&started.stderr));
        let reason = checked.trim_end().strip_prefix("proxy.toml: ").unwrap();
        assert!(started.contains(reason), "{checked}{started}");
    }
}

#[tokio::test]
async fn a_running_gate_has_its_state_file_open_which_is_right() {
    let dir = folder(STATE);
    let store = Store::open(&dir.path().join("state")).unwrap();
    let output = run(command(&dir, "check")).await;
    assert!(output.status.success());
    assert!(text(&output.stderr).starts_with("note: proxy.toml: another process has the state file"), "{output:?}");
    drop(store);
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_is_named() {
    for (more, name) in [
        ("[log]\naccess = \"log/access.log\"", "access.log"),
        ("[audit]\nfile = \"log/audit.log\"", "audit.log"),
        ("[audit]\nfile = \"log/audit.log\"\nchain = true", "audit.log"),
    ] {
        // A path that changed between two looks: a loop of links, which root cannot open either.
        let dir = folder(more);
        fs::create_dir(dir.path().join("log")).unwrap();
        let path = dir.path().join("log").join(name);
        std::os::unix::fs::symlink(name, &path).unwrap();
        let checked = check(&dir).await;
        let started = run(command(&dir, "run")).await;
        assert_eq!((checked.status.code(), started.status.code()), (Some(78), Some(1)));
        for told in [text(&checked.stderr), text(&started.stderr)] {
            assert!(told.contains(&path.display().to_string()), "{told}");
        }
    }
}

#[tokio::test]
async fn a_chain_that_ends_early_is_noted() {
    let dir = folder("");
    let path = dir.path().join("proxy.toml");
    let shorter = fs::read_to_string(&path).unwrap().replace("fullchain.pem", "leaf.pem");
    fs::write(path, shorter).unwrap();
    let output = check(&dir).await;
    assert!(output.status.success());
    let told = text(&output.stderr);
    assert!(told.contains("the chain for app.test ends below CN=callgate development authority"), "{told}");
}
