//! `provision = "on-first-login"`: a user that a rule grants and the users file lacks is added at Voximplant, and gets its
//! token in the same request.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use callgate::model::ott::{Ha1, OneTimeKey, login_token};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::kit::client::{Answer, status};
use crate::kit::gate::{Gate, secret};
use crate::kit::management::{Management, Trouble};
use crate::kit::stage::{Plan, Stage, until};

const FORM: &str = "application/x-www-form-urlencoded";
const PHONE: &str = "phone.acme.voximplant.com";
const SALES: &str = "sales.acme.voximplant.com";

/// A gate that adds users. Its users files have no user; Voximplant knows bob.
struct NewcomerDesk {
    stage: Stage,
    api: Management,
    folder: TempDir,
}

impl NewcomerDesk {
    async fn new() -> Self {
        Self::with("").await
    }

    /// More lines for `[voximplant]`.
    async fn with(lines: &str) -> Self {
        let (api, folder) = (Management::start(&[(PHONE, "bob")]).await, TempDir::new().unwrap());
        secret(&folder, "phone.htdigest", "# phones\n");
        secret(&folder, "sales.htdigest", "# sales\n");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let lines = format!(
            "application = \"phone.acme\"\n{}\nprovision = \"on-first-login\"\n{lines}\n[[voximplant.applications]]\n\
             name = \"sales.acme\"\nusers = {{ file = \"{}\" }}",
            api.access(&folder),
            path("sales.htdigest")
        );
        let stage = Plan { users: &path("phone.htdigest"), voximplant: &lines, ..Plan::default() }.start().await;
        stage.gate.canary(&api.service_account);
        Self { stage, api, folder }
    }

    /// Logs alice in as a Voximplant user.
    async fn log_in(&self, user: &str) -> Answer {
        self.stage.claims(json!({ "vox": user }));
        self.stage.alice_posts("/auth/ott", FORM, "key=k1").send().await
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    /// Checks a token by the password that the user has at Voximplant. Neither it nor its hash may be in a log.
    #[track_caller]
    fn check_token(&self, application: &str, user: &str, token: &str) {
        let password = self.api.password(application, user).unwrap();
        let ha1 = Ha1::of(user, &password);
        assert_eq!(token, login_token(&OneTimeKey::new("k1", 95).unwrap(), &ha1).as_str());
        self.stage.gate.canary(&password);
        self.stage.gate.canary(ha1.expose());
    }
}

#[tokio::test]
async fn the_first_login_adds_the_user_and_gets_its_token() {
    let mut desk = NewcomerDesk::new().await;
    let answer = desk.log_in("carol").await.expect(200);
    desk.check_token(PHONE, "carol", answer.text());
    assert_eq!(desk.api.done(), ["add carol"]);
    let ha1 = Ha1::of("carol", &desk.api.password(PHONE, "carol").unwrap());
    assert_eq!(desk.file("phone.htdigest"), format!("# phones\ncarol:voximplant.com:{}\n", ha1.expose()));
    let mode = fs::metadata(desk.folder.path().join("phone.htdigest")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    desk.stage
        .gate
        .line(&["audit create", "account=carol@phone.acme", "subject=\"vox=carol\"", "reason=\"first login\""])
        .await;
    desk.stage.gate.line(&["audit grant", "account=carol"]).await;
    let metrics = desk.stage.gate.told("/metrics");
    assert!(metrics.contains("callgate_voximplant_changes_total{change=\"create\",result=\"ok\"} 1\n"), "{metrics}");
    // Of another application, into its own file.
    let answer = desk.log_in("dan@sales.acme").await.expect(200);
    desk.check_token(SALES, "dan", answer.text());
    assert!(
        desk.file("sales.htdigest").contains("dan:voximplant.com:") && !desk.file("phone.htdigest").contains("dan")
    );

    // Before and after the file is read, and after a restart.
    desk.log_in("carol").await.expect(200);
    let lines = desk.stage.gate.text.clone();
    desk.stage.gate.reload(&lines).await.unwrap();
    desk.log_in("carol").await.expect(200);
    let again = Gate::start(&lines).await;
    again.post("/auth/ott", FORM, "key=k1").cookie(&desk.stage.app.log_in("alice")).send().await.expect(200);
    again.drain().await;
    assert_eq!(desk.api.done(), ["add carol", "add dan"]);

    // A line that the operator has removed is not restored: Voximplant has the user.
    desk.stage.gate.logins.are_not_explained();
    secret(&desk.folder, "phone.htdigest", "# phones\n");
    desk.stage.gate.reload(&lines).await.unwrap();
    desk.log_in("carol").await.expect(403);
    assert_eq!(desk.file("phone.htdigest"), "# phones\n");
}

#[tokio::test]
async fn a_user_that_exists_at_voximplant_keeps_its_password() {
    let desk = NewcomerDesk::new().await;
    desk.stage.gate.logins.are_not_explained();
    let refused = desk.log_in("bob").await.expect(403);
    let id = refused.header("x-request-id").to_owned();
    let line = desk.stage.gate.line(&["audit refusal", &id, "account=bob"]).await;
    assert!(line.contains("callgate did not add it: callgate provision --user bob"), "{line}");
    assert_eq!(desk.api.password(PHONE, "bob").as_deref(), Some(""));
    // No caller can tell this from a user that no rule grants, and Voximplant is not asked again.
    desk.stage.claims(json!({ "vox": null }));
    let forbidden = desk.stage.alice_posts("/auth/ott", FORM, "key=k1").send().await.expect(403);
    let body = |answer: &Answer| {
        let mut body = answer.json();
        body.as_object_mut().unwrap().retain(|name, _| !name.contains("id"));
        body
    };
    assert_eq!(body(&refused), body(&forbidden));
    let asked = desk.api.targets().len();
    desk.log_in("bob").await.expect(403);
    assert_eq!((desk.api.targets().len(), desk.file("phone.htdigest")), (asked, "# phones\n".to_owned()));
}

#[tokio::test]
async fn logins_at_the_same_moment_share_one_request() {
    let desk = NewcomerDesk::new().await;
    desk.stage.gate.logins.are_not_explained();
    let held = desk.api.hold().await;
    let logins = (0..5).map(|_| desk.log_in("carol"));
    let release = async {
        until("the requests", || {
            !desk.api.targets().is_empty()
                && desk.stage.gate.told("/metrics").contains("callgate_exchanges_in_flight 5\n")
        })
        .await;
        drop(held);
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(logins), release);
    for answer in answers {
        desk.check_token(PHONE, "carol", answer.expect(200).text());
    }
    assert_eq!((desk.api.done().len(), desk.api.targets().len()), (1, 1));
}

#[tokio::test]
async fn a_caller_that_leaves_leaves_a_user_behind() {
    let desk = NewcomerDesk::new().await;
    desk.stage.claims(json!({ "vox": "carol" }));
    let held = desk.api.hold().await;
    let mut leaving = desk.stage.gate.raw("app.test", "http/1.1").await;
    let cookie = desk.stage.app.log_in("alice");
    let request = format!(
        "POST /auth/ott HTTP/1.1\r\nHost: app.test\r\nCookie: {cookie}\r\nContent-Type: {FORM}\r\nContent-Length: 6\r\n\r\nkey=k1"
    );
    leaving.write_all(request.as_bytes()).await.unwrap();
    until("the request", || !desk.api.targets().is_empty()).await;
    drop(leaving);
    drop(held);
    until("the user", || desk.file("phone.htdigest").contains("carol:")).await;
    let answer = desk.log_in("carol").await.expect(200);
    desk.check_token(PHONE, "carol", answer.text());
    assert_eq!(desk.api.done(), ["add carol"]);
}

#[tokio::test]
async fn while_voximplant_fails_nobody_is_added_and_then_the_next_login_is() {
    for trouble in [Trouble::HangsUp, Trouble::Breaks, Trouble::Page, Trouble::RefusesAll, Trouble::Quotes] {
        let desk = NewcomerDesk::new().await;
        desk.stage.gate.logins.are_not_explained();
        desk.api.set(trouble);
        let answer = desk.log_in("carol").await.expect(503);
        assert_eq!(answer.json()["error"], "voximplant_unavailable", "{trouble:?}");
        assert!(!answer.header("retry-after").is_empty() && !answer.text().contains("Voximplant"), "{}", answer.text());
        desk.stage.gate.line(&["audit refusal", "account=carol", "the user cannot be added at Voximplant now"]).await;
        // Others are not asked for either, for a while.
        let asked = desk.api.targets().len();
        desk.log_in("dora").await.expect(503);
        assert_eq!(desk.api.targets().len(), asked);
        desk.api.set(Trouble::None);
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        while desk.log_in("carol").await.status != 200 {
            assert!(tokio::time::Instant::now() < deadline, "{trouble:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(desk.api.done(), ["add carol"]);
    }
}

#[tokio::test]
async fn a_user_of_a_request_without_an_answer_is_ours() {
    let desk = NewcomerDesk::new().await;
    desk.stage.gate.logins.are_not_explained();
    desk.api.set(Trouble::HangsUpAfterwards);
    desk.log_in("carol").await.expect(503);
    assert_eq!(desk.api.done(), ["add carol"]);
    desk.api.set(Trouble::None);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    let answer = loop {
        let answer = desk.log_in("carol").await;
        if answer.status == 200 {
            break answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}", answer.status);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    desk.check_token(PHONE, "carol", answer.text());
    assert_eq!(desk.api.done(), ["add carol", "set the password of carol"]);
}

#[tokio::test]
async fn no_caller_makes_many_users() {
    let desk = NewcomerDesk::with("new_users = \"2/h\"").await;
    desk.log_in("carol").await.expect(200);
    desk.log_in("dora").await.expect(200);
    let limited = desk.log_in("eve").await.expect(429);
    assert_eq!(
        (limited.json()["error"].as_str(), limited.header("ratelimit-policy")),
        (Some("rate_limited"), "\"new_users\";q=2;w=3600")
    );
    assert_eq!(desk.api.done(), ["add carol", "add dora"]);
    // Users that are known are not counted.
    desk.log_in("carol").await.expect(200);
    let metrics = desk.stage.gate.told("/metrics");
    assert!(metrics.contains("callgate_limited_total{limit=\"new_users\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn what_no_rule_grants_and_who_is_not_proven_adds_nobody() {
    let desk = NewcomerDesk::new().await;
    desk.stage.claims(json!({ "vox": "carol" }));
    desk.stage.gate.post("/auth/ott", FORM, "key=k1").send().await.expect(401);
    desk.stage.alice_posts("/auth/ott", FORM, "key=k1&appUser=dora").send().await.expect(403);
    desk.stage.alice_posts("/auth/ott", FORM, "key=").send().await.expect(400);
    let foreign = desk.stage.alice_posts("/auth/ott", FORM, "key=k1").header("origin", "https://evil.test");
    foreign.send().await.expect(403);
    for name in ["Carol", "ca", "carol:x", "carol@other.acme"] {
        desk.log_in(name).await.expect(403);
    }
    assert_eq!(desk.api.targets(), [""; 0]);
}

#[tokio::test]
async fn a_frozen_user_is_not_added_and_one_that_is_frozen_meanwhile_gets_no_token() {
    let desk = NewcomerDesk::new().await;
    desk.stage.gate.logins.are_not_explained();
    let freeze = |user: &str| {
        let order = format!(r#"{{"whom":"user {user}"}}"#);
        let head = "POST /freeze HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        let request = format!("{head}Content-Length: {}\r\n\r\n{order}", order.len());
        let admin = desk.stage.gate.admin().clone();
        tokio::task::spawn_blocking(move || crate::kit::gate::tell(&admin, &request))
    };
    assert_eq!(status(&freeze("carol").await.unwrap()), 200);
    desk.log_in("carol").await.expect(403);
    assert_eq!(desk.api.done(), [""; 0]);

    let held = desk.api.hold().await;
    let asked = desk.api.targets().len();
    let frozen = async {
        until("the request", || desk.api.targets().len() > asked).await;
        let answer = freeze("dora");
        let head = "POST /freezes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        until("the freeze", || desk.stage.gate.tell(head).contains("user dora")).await;
        drop(held);
        answer.await.unwrap()
    };
    let (refused, answer) = tokio::join!(desk.log_in("dora"), frozen);
    assert_eq!((refused.status.as_u16(), status(&answer)), (403, 200));
    until("the phone is stopped", || desk.api.user(PHONE, "dora").is_some_and(|user| !user.is_active)).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_written_stops_before_voximplant_is_asked() {
    let desk = NewcomerDesk::new().await;
    // A folder in the place of the draft: even root cannot remove it as a file.
    fs::create_dir(desk.folder.path().join(".phone.htdigest.callgate")).unwrap();
    desk.log_in("carol").await.expect(503);
    assert_eq!(desk.api.targets(), [""; 0]);
    assert!(desk.stage.gate.events().contains("the users file cannot be written"), "{}", desk.stage.gate.events());
}
