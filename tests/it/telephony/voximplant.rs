//! Reports on Voximplant logins: races, counts, and the application of a user.

use callgate::model::ott::{VoximplantUser, users_line};
use md5::{Digest, Md5};
use serde_json::json;
use tempfile::TempDir;

use crate::kit::client::RequestBuilder;
use crate::kit::gate::{VOX_PASSWORD, secret};
use crate::kit::stage::{Plan, Stage};

const FORM: &str = "application/x-www-form-urlencoded";

fn ask<'s>(stage: &'s Stage, key: &str, agent: &str) -> RequestBuilder<'s> {
    stage.alice_posts("/auth/ott", FORM, format!("key={key}")).header("user-agent", agent)
}

fn token(key: &str, user: &str, password: &str) -> String {
    let md5 = |text: &str| hex::encode(Md5::digest(text));
    md5(&format!("{key}|{}", md5(&format!("{user}:voximplant.com:{password}"))))
}

#[track_caller]
fn check_metric(stage: &Stage, line: &str) {
    let told = stage.gate.told("/metrics");
    assert!(told.lines().any(|known| known == line), "{line} is not in {told}");
}

// === Races ===

#[tokio::test]
async fn two_devices_that_race_for_a_user_are_reported_once() {
    let stage = Stage::new().await;
    ask(&stage, "k1", "desk").send().await.expect(200);
    ask(&stage, "k2", "desk").send().await.expect(200);
    check_metric(&stage, "callgate_ott_races_total 0");
    ask(&stage, "k3", "desk").from("127.0.0.2").send().await.expect(200);
    let line = stage.gate.line(&["audit race"]).await;
    assert!(line.contains("account=alice") && line.contains("keys for 127.0.0.1 and for 127.0.0.2"), "{line}");
    // Another browser on the first machine.
    ask(&stage, "k4", "mobile").send().await.expect(200);
    check_metric(&stage, "callgate_ott_races_total 2");
    assert_eq!(stage.gate.log().matches("audit race").count(), 1);
}

#[tokio::test]
async fn separate_users_do_not_race() {
    let stage = Stage::new().await;
    ask(&stage, "k1", "desk").send().await.expect(200);
    let bob = stage.gate.post("/auth/ott", FORM, "key=k2").cookie(&stage.app.log_in("bob")).from("127.0.0.2");
    bob.send().await.expect(200);
    // The same key again is the same login, wherever it comes from.
    ask(&stage, "k1", "desk").from("127.0.0.2").send().await.expect(200);
    check_metric(&stage, "callgate_ott_races_total 0");
}

// === Counts ===

#[tokio::test]
async fn every_key_is_counted_by_what_became_of_it() {
    let voximplant = "distinct_keys = \"1/5min\"";
    let stage = Plan { voximplant, ..Plan::default() }.start().await;
    ask(&stage, "k1", "a").send().await.expect(200);
    ask(&stage, "k1", "a").send().await.expect(200);
    ask(&stage, "k2", "a").send().await.expect(429);
    ask(&stage, "", "a").send().await.expect(400);
    ask(&stage, "k1&appUser=bob", "a").send().await.expect(403);
    stage.gate.post("/auth/ott", FORM, "key=k1").send().await.expect(401);
    stage.claims(json!({ "vox": "nobody" }));
    ask(&stage, "k1", "a").send().await.expect(403);
    for (outcome, count) in [
        ("new", 1),
        ("repeated", 1),
        ("limited", 1),
        ("malformed", 1),
        ("forbidden", 1),
        ("unproven", 1),
        ("unknown_user", 1),
        ("failed", 0),
    ] {
        check_metric(&stage, &format!("callgate_ott_keys_total{{outcome=\"{outcome}\"}} {count}"));
    }
}

// === Applications ===

/// A stage with the applications phone.acme (alice, bob) and sales.acme (alice, with another password).
async fn two_applications(dir: &TempDir, rule: &str) -> Stage {
    let line = users_line(&"alice".parse::<VoximplantUser>().unwrap(), "Sales-Passw0rd!");
    secret(dir, "sales", &line);
    let file = dir.path().join("sales").display().to_string();
    let voximplant = format!(
        "application = \"phone.acme\"\n[[voximplant.applications]]\nname = \"sales.acme\"\nusers = {{ file = \"{file}\" }}"
    );
    let rules = format!("[[allow]]\nname = \"staff\"\nvoximplant = \"{rule}\"");
    Plan { voximplant: &voximplant, rules: &rules, ..Plan::default() }.start().await
}

#[tokio::test]
async fn a_rule_says_of_which_application_a_user_is() {
    let dir = TempDir::new().unwrap();
    let stage = two_applications(&dir, "{vox}@sales.acme").await;
    let answer = ask(&stage, "k1", "a").send().await.expect(200);
    assert_eq!(answer.text(), token("k1", "alice", "Sales-Passw0rd!"));
    stage.gate.line(&["audit grant", "account=alice@sales.acme"]).await;
    let answer = ask(&stage, "k1&appUser=alice@sales.acme.n2.voximplant.com", "a").header("accept", "application/json");
    assert_eq!(answer.send().await.expect(200).json()["user"], "alice@sales.acme");
    // The page's parameter selects an application; it leads to no other one.
    for wished in
        ["alice@phone.acme.voximplant.com", "alice@other.acme.voximplant.com", "bob@sales.acme.voximplant.com"]
    {
        ask(&stage, &format!("k1&appUser={wished}"), "a").send().await.expect(403);
    }
}

#[tokio::test]
async fn a_user_without_an_application_is_of_the_first() {
    let dir = TempDir::new().unwrap();
    let stage = two_applications(&dir, "{vox}").await;
    for wished in ["", "&appUser=alice", "&appUser=alice@phone.acme.voximplant.com"] {
        let answer = ask(&stage, &format!("k1{wished}"), "a").send().await.expect(200);
        assert_eq!(answer.text(), token("k1", "alice", VOX_PASSWORD));
    }
    ask(&stage, "k1&appUser=alice@sales.acme.voximplant.com", "a").send().await.expect(403);
}

#[tokio::test]
async fn a_claim_may_name_an_application_that_is_listed() {
    let dir = TempDir::new().unwrap();
    let stage = two_applications(&dir, "{vox}").await;
    stage.claims(json!({ "vox": "alice@sales.acme" }));
    assert_eq!(ask(&stage, "k1", "a").send().await.expect(200).text(), token("k1", "alice", "Sales-Passw0rd!"));
    for vox in ["bob@sales.acme", "alice@other.acme", "alice@phone.acme", "alice@", "alice@sales.acme@phone.acme"] {
        stage.claims(json!({ "vox": vox }));
        ask(&stage, "k1", "a").send().await.expect(403);
    }
}

#[tokio::test]
async fn keys_of_one_name_in_two_applications_are_counted_apart() {
    let dir = TempDir::new().unwrap();
    let stage = two_applications(&dir, "{vox}").await;
    ask(&stage, "k1", "a").send().await.expect(200);
    stage.claims(json!({ "vox": "alice@sales.acme" }));
    ask(&stage, "k2", "a").from("127.0.0.2").send().await.expect(200);
    check_metric(&stage, "callgate_ott_races_total 0");
}
