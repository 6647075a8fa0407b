//! `callgate check` reports what `run` would report, and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use callgate::state::Store;
use callgate::tls::dev;
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

/// What `check --online` says of `[[passthrough]]`.
#[tokio::test]
async fn a_target_that_does_not_answer_is_named() {
    let target = RawUpstream::ok().await;
    for (to, is_reached) in [(target.addr.to_string(), true), ("127.0.0.1:1".to_owned(), false)] {
        let dir = folder(&format!("[[passthrough]]\nnames = [\"phones.test\"]\nto = \"{to}\""));
        let mut command = command(&dir, "check");
        command.arg("--online");
        let output = run(command).await;
        let problem = "proxy.toml: passthrough: cannot connect to 127.0.0.1:1: Connection refused";
        assert_eq!(text(&output.stderr).contains(problem), !is_reached, "{output:?}");
        // No certificate here has to name the phones' host.
        assert!(!text(&output.stderr).contains("phones.test"), "{output:?}");
        assert_eq!(output.status.code(), Some(78), "the app of this folder does not answer");
    }
}

const STATE: &str = "[state]\nfile = \"state\"";

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
