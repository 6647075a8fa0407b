//! The phone of a frozen Voximplant user: it is stopped at Voximplant, and started again after the freeze.

use std::fs;
use std::process::Output;

use callgate::model::ott::Ha1;
use serde_json::Value;
use tempfile::TempDir;

use crate::kit::commands::{callgate, run, text};
use crate::kit::gate::{Gate, secret};
use crate::kit::management::{Management, Trouble};
use crate::kit::stage::{Plan, Stage, until};

const FORM: &str = "application/x-www-form-urlencoded";
const PHONE: &str = "phone.acme.voximplant.com";
const SALES: &str = "sales.acme.voximplant.com";

/// A gate with access to a stand-in of the Management API, which knows alice and bob, and alice in a second application.
struct PhoneDesk {
    stage: Stage,
    api: Management,
    folder: TempDir,
}

impl PhoneDesk {
    async fn new() -> Self {
        Self::with("", "").await
    }

    /// More lines for `[voximplant]`, and for the rest of the file.
    async fn with(voximplant: &str, more: &str) -> Self {
        let (api, folder) = (api().await, TempDir::new().unwrap());
        let users = users_file(&folder);
        let sales = folder.path().join("sales.htdigest").display().to_string();
        let line = format!("alice:voximplant.com:{}\n", Ha1::of("alice", "old").expose());
        secret(&folder, "sales.htdigest", &line);
        let access = api.access(&folder);
        let lines = format!(
            "application = \"phone.acme\"\n{access}\n{voximplant}\n[[voximplant.applications]]\nname = \"sales.acme\"\n\
             users = {{ file = \"{sales}\" }}"
        );
        let stage = Plan { users: &users, voximplant: &lines, more, ..Plan::default() }.start().await;
        for secret in [&api.api_key, &api.service_account] {
            stage.gate.canary(secret);
        }
        Self { stage, api, folder }
    }

    async fn order(&self, arguments: &[&str]) -> Output {
        order(&self.stage.gate, arguments).await
    }

    /// Returns the status of a login as alice.
    async fn alice(&self) -> u16 {
        self.stage.alice_posts("/auth/ott", FORM, "key=k1").send().await.status.as_u16()
    }

    fn is_active(&self) -> bool {
        self.api.is_active(PHONE, "alice")
    }
}

async fn api() -> Management {
    Management::start(&[(PHONE, "alice"), (PHONE, "bob"), (SALES, "alice")]).await
}

/// Writes the users file of the first application, which knows alice and bob.
fn users_file(folder: &TempDir) -> String {
    let line = |user: &str| format!("{user}:voximplant.com:{}\n", Ha1::of(user, "old").expose());
    secret(folder, "phone.htdigest", &format!("{}{}", line("alice"), line("bob")));
    folder.path().join("phone.htdigest").display().to_string()
}

async fn order(gate: &Gate, arguments: &[&str]) -> Output {
    let file = gate.file();
    let mut command = callgate(arguments);
    command.args(["--config", &file]).env("PBX_ADMIN", "x");
    run(command).await
}

#[track_caller]
fn check(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let told = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{told}");
    assert_eq!(text(&output.stdout), stdout, "{told}");
    if stderr.is_empty() {
        assert_eq!(text(&output.stderr), "");
    }
    assert!(text(&output.stderr).contains(stderr), "{told}");
}

/// What `freeze user alice@phone.acme` tells when all is well.
const FROZEN: &str = "user alice@phone.acme is frozen until it is thawed\n";
const STOPPED: &str = "the phone of alice@phone.acme is stopped at Voximplant\n";
const THAWED: &str = "user alice@phone.acme is thawed\n";

const FREEZE: &[&str] = &["freeze", "user", "alice@phone.acme"];
const THAW: &[&str] = &["thaw", "user", "alice@phone.acme"];

/// Keeps freezes in a file, so that commands do not warn.
fn state(folder: &TempDir) -> String {
    format!("[state]\nfile = \"{}\"", folder.path().join("state").display())
}

#[tokio::test]
async fn a_freeze_stops_the_phone_and_a_thaw_starts_it() {
    let folder = TempDir::new().unwrap();
    let desk = PhoneDesk::with("", &state(&folder)).await;
    assert_eq!((desk.alice().await, desk.is_active()), (200, true));
    check(&desk.order(FREEZE).await, 0, &format!("{FROZEN}{STOPPED}"), "");
    assert_eq!((desk.alice().await, desk.is_active()), (403, false));
    assert!(desk.api.is_active(PHONE, "bob") && desk.api.is_active(SALES, "alice"));
    desk.stage.gate.line(&["audit deactivate", "account=alice@phone.acme", "reason=frozen"]).await;
    let listed = text(&desk.order(&["freeze", "list"]).await.stdout);
    assert!(listed.starts_with("user alice@phone.acme  since ") && listed.ends_with(STOPPED), "{listed}");
    let metrics = desk.stage.gate.told("/metrics");
    assert!(
        metrics.contains("callgate_voximplant_changes_total{change=\"deactivate\",result=\"ok\"} 1\n"),
        "{metrics}"
    );
    assert!(metrics.contains("callgate_voximplant_pending 0\n"), "{metrics}");

    check(&desk.order(THAW).await, 0, THAWED, "");
    assert_eq!((desk.alice().await, desk.is_active()), (200, true));
    desk.stage.gate.line(&["audit activate", "account=alice@phone.acme", "reason=\"no longer frozen\""]).await;
    assert_eq!(text(&desk.order(&["freeze", "list"]).await.stdout), "nothing is frozen\n");
    assert_eq!(desk.api.done(), ["deactivate alice", "activate alice"]);
}

#[tokio::test]
async fn a_user_without_an_application_is_stopped_in_all_that_know_it() {
    let desk = PhoneDesk::new().await;
    let output = desk.order(&["freeze", "user", "alice"]).await;
    let told = "user alice is frozen until it is thawed\nthe phone of alice@phone.acme is stopped at Voximplant\n\
                the phone of alice@sales.acme is stopped at Voximplant\n";
    check(&output, 0, told, "without `[state] file` the gate forgets this freeze");
    assert!(!desk.is_active() && !desk.api.is_active(SALES, "alice"));
    // Thawed by another name, it stays frozen.
    assert_eq!(desk.order(&["thaw", "user", "alice@sales.acme"]).await.status.code(), Some(1));
    assert!(!desk.api.is_active(SALES, "alice"));
    check(&desk.order(&["thaw", "user", "alice"]).await, 0, "user alice is thawed\n", "");
    assert!(desk.is_active() && desk.api.is_active(SALES, "alice"));
    // Two freezes cover one phone: it starts after the second thaw.
    desk.order(&["freeze", "user", "alice"]).await;
    desk.order(FREEZE).await;
    desk.order(&["thaw", "user", "alice"]).await;
    assert!(!desk.is_active() && desk.api.is_active(SALES, "alice"));
    check(&desk.order(THAW).await, 0, THAWED, "");
    assert!(desk.is_active());
    // Of an application that callgate does not know.
    let output = desk.order(&["freeze", "user", "alice@other.acme"]).await;
    let told = "user alice@other.acme is frozen until it is thawed\n";
    check(&output, 0, told, "alice@other.acme belongs to no application of [voximplant]");
}

#[tokio::test]
async fn an_end_of_a_freeze_starts_the_phone() {
    let desk = PhoneDesk::new().await;
    desk.stage.gate.logins.are_not_explained();
    let output = desk.order(&["freeze", "user", "alice@phone.acme", "--for", "2s"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(desk.api.done() == ["deactivate alice"] || desk.is_active(), "{:?}", desk.api.done());
    until("the phone starts", || desk.is_active()).await;
    assert_eq!(desk.api.done(), ["deactivate alice", "activate alice"]);
}

#[tokio::test]
async fn a_freeze_holds_at_once_and_the_phone_is_stopped_when_the_api_is_back() {
    let folder = TempDir::new().unwrap();
    let desk = PhoneDesk::with("", &state(&folder)).await;
    for (trouble, problem) in [
        (Trouble::HangsUp, "Voximplant gave no answer"),
        (Trouble::Breaks, "Voximplant sent an unreadable answer: 500"),
        (Trouble::Page, "Voximplant sent an unreadable answer: 200"),
        (Trouble::RefusesAll, "Voximplant refuses, code 340: Rate limit exceed"),
        (Trouble::Quotes, "Voximplant refuses, code 1: user_name=alice"),
    ] {
        desk.api.set(trouble);
        let output = desk.order(FREEZE).await;
        check(&output, 75, FROZEN, "the phone of alice@phone.acme is not stopped yet, and callgate tries again");
        assert!(text(&output.stderr).contains(problem), "{}", text(&output.stderr));
        assert_eq!((desk.alice().await, desk.is_active()), (403, true), "{trouble:?}");
        let listed = text(&desk.order(&["freeze", "list"]).await.stdout);
        assert!(listed.contains("the phone of alice@phone.acme is not stopped yet"), "{listed}");
        let metrics = desk.stage.gate.told("/metrics");
        assert!(metrics.contains("callgate_voximplant_pending 1\n"), "{metrics}");
        desk.api.set(Trouble::None);
        until("the phone is stopped", || !desk.is_active()).await;
        check(&desk.order(THAW).await, 0, THAWED, "");
        assert!(desk.is_active());
    }
    // What the API did without an answer is undone as well.
    desk.api.set(Trouble::HangsUpAfterwards);
    assert_eq!(desk.order(FREEZE).await.status.code(), Some(75));
    assert!(!desk.is_active());
    desk.api.set(Trouble::None);
    check(&desk.order(THAW).await, 0, THAWED, "");
    assert!(desk.is_active());
    // A thaw may be pending, too.
    desk.order(FREEZE).await;
    desk.api.set(Trouble::HangsUp);
    check(&desk.order(THAW).await, 75, THAWED, "the phone of alice@phone.acme is not started yet");
    assert_eq!((desk.alice().await, desk.is_active()), (200, false));
    desk.api.set(Trouble::None);
    until("the phone starts", || desk.is_active()).await;
}

#[tokio::test]
async fn a_user_that_voximplant_does_not_know_keeps_no_other_waiting() {
    let folder = TempDir::new().unwrap();
    let desk = PhoneDesk::with("", &state(&folder)).await;
    let unknown = desk.order(&["freeze", "user", "nobody"]).await;
    check(&unknown, 75, "user nobody is frozen until it is thawed\n", "Voximplant refuses, code 117: user not found");
    check(&desk.order(FREEZE).await, 0, &format!("{FROZEN}{STOPPED}"), "");
}

#[tokio::test]
async fn of_quick_orders_the_last_one_wins() {
    let desk = PhoneDesk::new().await;
    let post = |path: &'static str| {
        let order = r#"{"whom":"user alice@phone.acme"}"#;
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
        let (admin, request) =
            (desk.stage.gate.admin().clone(), format!("{head}Content-Length: {}\r\n\r\n{order}", order.len()));
        tokio::task::spawn_blocking(move || crate::kit::gate::tell(&admin, &request))
    };
    for (orders, is_active) in [(&["/freeze", "/thaw", "/freeze"][..], false), (&["/thaw", "/freeze", "/thaw"], true)] {
        let held = desk.api.hold().await;
        let mut answers = Vec::new();
        for (index, path) in orders.iter().enumerate() {
            let frozen = text(&desk.order(&["freeze", "list"]).await.stdout).starts_with("user alice");
            answers.push(post(path));
            // The order is in force before the next one is given.
            let gate = &desk.stage.gate;
            until("the order", || is_frozen(gate) != frozen || index + 1 == orders.len()).await;
        }
        drop(held);
        for answer in answers {
            answer.await.unwrap();
        }
        until("the last order", || desk.is_active() == is_active && is_settled(&desk.stage.gate)).await;
        assert_eq!(desk.alice().await, if is_active { 200 } else { 403 });
    }
}

fn is_frozen(gate: &Gate) -> bool {
    let head =
        "POST /freezes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    gate.tell(head).contains("user alice")
}

fn is_settled(gate: &Gate) -> bool {
    gate.told("/metrics").contains("callgate_voximplant_pending 0\n")
}

#[tokio::test]
async fn pending_work_goes_on_after_a_restart() {
    let (folder, desk) = (TempDir::new().unwrap(), PhoneDesk::new().await);
    let lines = format!("{}\n{}", desk.stage.gate.text, state(&folder));
    let api = &desk.api;
    api.set(Trouble::HangsUp);
    let gate = Gate::start(&lines).await;
    assert_eq!(order(&gate, FREEZE).await.status.code(), Some(75));
    gate.drain().await;
    let gate = Gate::start(&lines).await;
    assert!(api.is_active(PHONE, "alice"));
    api.set(Trouble::None);
    until("the phone is stopped", || !api.is_active(PHONE, "alice")).await;
    // A gate that is stopped: the command asks by itself.
    let (config, saved) = (TempDir::new().unwrap(), gate.dir.path().to_owned());
    gate.file();
    for name in ["fullchain.pem", "privkey.pem", "proxy.toml", "link.key"] {
        if let Ok(text) = fs::read_to_string(saved.join(name)) {
            secret(&config, name, &text);
        }
    }
    gate.drain().await;
    let file = config.path().join("proxy.toml").display().to_string();
    let alone = async |arguments: &[&str]| {
        let mut command = callgate(arguments);
        command.args(["--config", &file]).env("PBX_ADMIN", "x");
        run(command).await
    };
    check(&alone(THAW).await, 0, THAWED, "");
    assert!(api.is_active(PHONE, "alice"));
    check(&alone(FREEZE).await, 0, &format!("{FROZEN}{STOPPED}"), "");
    api.set(Trouble::Breaks);
    check(&alone(THAW).await, 75, THAWED, "is not started yet");
    assert!(text(&alone(&["freeze", "list"]).await.stdout).contains("is not started yet"));
    api.set(Trouble::None);
    let gate = Gate::start(&lines).await;
    until("the phone starts", || api.is_active(PHONE, "alice")).await;
    gate.drain().await;
}

#[tokio::test]
async fn another_password_stops_a_phone_too_and_its_hash_follows() {
    let mut desk = PhoneDesk::with("freeze = \"rotate\"", "").await;
    let file = || fs::read_to_string(desk.folder.path().join("phone.htdigest")).unwrap();
    let (before, bob) = (file(), format!("bob:voximplant.com:{}\n", Ha1::of("bob", "old").expose()));
    let output = desk.order(FREEZE).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let password = desk.api.password(PHONE, "alice").unwrap();
    assert!(desk.is_active() && password.len() > 30, "{password}");
    assert_eq!(file(), format!("alice:voximplant.com:{}\n{bob}", Ha1::of("alice", &password).expose()));
    assert_ne!(file(), before);
    desk.stage.gate.canary(&password);
    desk.stage.gate.canary(Ha1::of("alice", &password).expose());
    desk.stage.gate.line(&["audit rotate", "account=alice@phone.acme"]).await;
    assert_eq!(desk.alice().await, 403);
    check(&desk.order(THAW).await, 0, THAWED, "");
    assert_eq!(desk.api.done(), ["set the password of alice"]);
    // The running gate notices the file by itself; here it is told.
    let lines = desk.stage.gate.text.clone();
    desk.stage.gate.reload(&lines).await.unwrap();
    let answer = desk.stage.alice_posts("/auth/ott", FORM, "key=k1").send().await.expect(200);
    let ha1 = Ha1::of("alice", &password);
    let key = callgate::model::ott::OneTimeKey::new("k1", 95).unwrap();
    assert_eq!(answer.text(), callgate::model::ott::login_token(&key, &ha1).as_str());
    // A user without a line gets none.
    desk.order(&["freeze", "user", "alice@sales.acme"]).await;
    let output = desk.order(&["freeze", "user", "carol"]).await;
    assert_eq!(output.status.code(), Some(75), "{}", text(&output.stderr));
    assert!(!fs::read_to_string(desk.folder.path().join("phone.htdigest")).unwrap().contains("carol"));
}

#[tokio::test]
async fn without_access_a_freeze_says_what_goes_on() {
    let stage = Stage::new().await;
    let output = order(&stage.gate, &["freeze", "user", "alice"]).await;
    let told = "user alice is frozen until it is thawed\n";
    check(
        &output,
        0,
        told,
        "a phone that is logged in stays so until its tokens end, which may take weeks: deactivate",
    );
    let output = order(&stage.gate, &["freeze", "account", "40@acme.test"]).await;
    assert!(!text(&output.stderr).contains("phone"), "{}", text(&output.stderr));
    check(&order(&stage.gate, &["thaw", "user", "alice"]).await, 0, "user alice is thawed\n", "");
}

#[tokio::test]
async fn a_wrong_key_is_told_and_not_shown() {
    let (api, folder) = (api().await, TempDir::new().unwrap());
    secret(&folder, "key", "wrong/key-of-the-account");
    let lines = format!(
        "application = \"phone.acme\"\nmanagement = {{ account_id = 1234567, api_key = {{ file = \"{}\" }}, \
         url = \"http://{}/platform_api/\" }}",
        folder.path().join("key").display(),
        api.addr
    );
    let stage = Plan { voximplant: &lines, ..Plan::default() }.start().await;
    stage.gate.canary("wrong/key-of-the-account");
    let output = order(&stage.gate, &["freeze", "user", "alice"]).await;
    let told = "user alice is frozen until it is thawed\n";
    check(&output, 75, told, "Voximplant refuses, code 100: authorization failed");
    api.set(Trouble::Quotes);
    let output = order(&stage.gate, &["freeze", "user", "alice"]).await;
    check(&output, 75, told, "Voximplant refuses, code 1: ***");
    assert!(!text(&output.stderr).contains("wrong"), "{}", text(&output.stderr));
    let listed: Value =
        serde_json::from_slice(&order(&stage.gate, &["freeze", "list", "--json"]).await.stdout).unwrap();
    assert_eq!(listed[0]["whom"], "user alice");
}
