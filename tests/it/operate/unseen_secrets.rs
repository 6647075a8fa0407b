//! Secrets that only callgate's unit has: commands that do not need them work without.

use std::fs;
use std::process::Output;

use super::commands::{Folder, check_code};
use crate::kit::commands::{Running, run, text};
use crate::kit::gate::secret;

const TEXT: &str = r#"listen = "127.0.0.1:0"
tls = { cert = "fullchain.pem", key = "privkey.pem" }
[app]
url = "http://127.0.0.1:1"
hosts = ["app.test"]
[pbx]
url = "http://127.0.0.1:2"
hosts = ["pbx.test"]
admin = { user = "sso", password = { credential = "pbx-admin" } }
[voximplant]
application = "app.account"
users = { file = "users" }
management = { account_id = 1, api_key = { env = "CALLGATE_TEST_KEY" }, url = "http://127.0.0.1:3/" }
[[auth]]
type = "link"
keys = [{ kid = "a", secret = { file = "link" } }]
[[allow]]
auth = "link"
pbx = { domain = "{domain}", account = "{account}" }
voximplant = "{account}"
[audit]
file = "audit.log"
[state]
file = "callgate.state"
"#;

fn folder(configuration: &str) -> Folder {
    let folder = Folder::new(configuration);
    secret(&folder.dir, "link", "a-secret-that-signs-links-0123456789");
    folder
}

fn stderr(output: &Output) -> String {
    text(&output.stderr)
}

#[tokio::test]
async fn commands_work_without_the_secrets_that_they_do_not_need() {
    let folder = folder(TEXT);
    let checked = run(folder.command(&["check"])).await;
    check_code(&checked, 0);
    for reason in [
        "`pbx.admin.password.credential`: cannot be seen here: there are no credentials: CREDENTIALS_DIRECTORY is not set",
        "`voximplant.management.api_key.env`: cannot be seen here: the environment variable CALLGATE_TEST_KEY is not set",
    ] {
        assert!(stderr(&checked).contains(reason), "{}", stderr(&checked));
    }
    let made = run(folder.command(&["link", "--account", "40", "--domain", "acme.test"])).await;
    check_code(&made, 0);
    assert_eq!(stderr(&made).matches("warning: ").count(), 0, "{}", stderr(&made));
    let link = text(&made.stdout).trim().to_owned();
    let explained = run(folder.command(&["explain", "--link", &link])).await;
    check_code(&explained, 0);
    assert!(text(&explained.stdout).contains("40@acme.test"), "{}", text(&explained.stdout));
    fs::write(folder.dir.path().join("audit.log"), "").unwrap();
    check_code(&run(folder.command(&["audit", "report", "--account", "40@acme.test"])).await, 0);
    // The gate itself needs all of them.
    let refused = run(folder.command(&["run"])).await;
    check_code(&refused, 78);
    assert!(stderr(&refused).contains("CREDENTIALS_DIRECTORY is not set"), "{}", stderr(&refused));
}

#[tokio::test]
async fn a_report_reads_nothing_but_the_name_of_the_log() {
    let folder = folder(TEXT);
    fs::write(folder.dir.path().join("audit.log"), "").unwrap();
    fs::remove_file(folder.dir.path().join("privkey.pem")).unwrap();
    check_code(&run(folder.command(&["audit", "report", "--account", "40@acme.test"])).await, 0);
}

#[tokio::test]
async fn a_command_says_which_secret_it_needs() {
    let folder = folder(&TEXT.replace("{ file = \"link\" }", "{ env = \"CALLGATE_TEST_LINK\" }"));
    let made = run(folder.command(&["link", "--account", "40", "--domain", "acme.test"])).await;
    check_code(&made, 2);
    let reason = "`auth.keys.secret.env`: cannot be seen here: the environment variable CALLGATE_TEST_LINK is not set";
    assert!(stderr(&made).contains(reason), "{}", stderr(&made));
    let explained = run(folder.command(&["explain", "--cookie", "a=b"])).await;
    check_code(&explained, 78);
    assert!(stderr(&explained).contains(reason) && stderr(&explained).contains("callgate explain --running"));
    let provisioned = run(folder.command(&["provision", "--user", "alice"])).await;
    check_code(&provisioned, 1);
    assert!(stderr(&provisioned).contains("a secret that only callgate's unit or container has"));
    assert!(stderr(&provisioned).contains("nothing was changed"), "{}", stderr(&provisioned));
}

#[tokio::test]
async fn a_freeze_waits_for_the_gate_that_sees_the_access_to_voximplant() {
    let folder = folder(TEXT);
    let mut command = folder.command(&["run"]);
    secret(&folder.dir, "pbx-admin", "a password");
    command.env("CREDENTIALS_DIRECTORY", folder.dir.path()).env("CALLGATE_TEST_KEY", "key");
    let mut gate = Running::start(command);
    gate.listening().await.unwrap();
    gate.terminate();
    assert_eq!(gate.end().await.0, Some(0));
    let frozen = run(folder.command(&["freeze", "user", "alice"])).await;
    check_code(&frozen, 75);
    assert_eq!(text(&frozen.stdout), "user alice is frozen until it is thawed\n");
    assert!(stderr(&frozen).contains("only the gate can see the access to Voximplant's users"), "{}", stderr(&frozen));
}

#[tokio::test]
async fn an_online_check_does_not_try_what_needs_an_unseen_secret() {
    let shared = "[shared]\nurl = \"redis://127.0.0.1:4\"\npassword = { env = \"CALLGATE_TEST_ENGINE\" }\nkeys = \"ring.keys\"\n";
    let folder = folder(&format!("{TEXT}{shared}"));
    secret(&folder.dir, "ring.keys", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=");
    let checked = run(folder.command(&["check", "--online"])).await;
    let told = text(&checked.stdout);
    let line = told.lines().find(|line| line.contains("a secret for the engine cannot be seen here")).unwrap();
    assert!(line.starts_with("note     shared "), "{told}");
    assert_eq!(told.matches("shared ").count(), 1, "{told}");
}
