//! Limits in shadow: what they count, where that is shown, and that they refuse nothing.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use serde_json::{Value, json};

use crate::kit::commands::text;
use crate::kit::gate::tell;
use crate::kit::office::Office;
use crate::kit::stage::{Plan, Stage};

/// Rates of which a test reaches only those that it puts in the place of others.
const LIMITS: &str = "client = \"3/h\"\ncaller = \"1000/24h\"\naccount = \"2/h\"\nfailures = \"2/h\"\nstale_cookies = \"1000/min\"\npbx_logins = \"2/h\"";

async fn in_shadow(shadow: &str) -> Stage {
    let stage = Plan { limits: &format!("{LIMITS}\nshadow = {shadow}"), ..Plan::default() }.start().await;
    stage.gate.logins.are_not_explained();
    stage
}

/// Returns what `/status` shows of a limit.
#[track_caller]
fn measured(stage: &Stage, name: &str) -> Value {
    let answer = stage.gate.told("/status");
    let status: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    status["limits"].as_array().unwrap().iter().find(|limit| limit["limit"] == name).unwrap().clone()
}

#[track_caller]
fn check_measured(stage: &Stage, name: &str, [events, most_at_once, would_refuse]: [u64; 3]) {
    let told = measured(stage, name);
    let numbers = ["events", "most_at_once", "would_refuse"].map(|key| told[key].as_u64());
    assert_eq!(numbers, [Some(events), Some(most_at_once), Some(would_refuse)], "{told}");
    let would_refuse = would_refuse as f64;
    assert_eq!(stage.gate.metric(&format!("callgate_limits_shadowed_total{{limit={name}}}")), would_refuse);
    assert_eq!(stage.gate.metric(&format!("callgate_limited_total{{limit={name}}}")), 0.0);
}

async fn wait_for_lines(stage: &Stage, parts: &[&str], lines: usize) {
    let has_all = |line: &&str| parts.iter().all(|part| line.contains(part));
    crate::kit::stage::until("the access lines", || stage.gate.log().lines().filter(has_all).count() == lines).await;
}

#[tokio::test]
async fn limits_in_shadow_refuse_nothing_and_tell_what_they_would_have() {
    let stage = in_shadow("true").await;
    for _ in 0..5 {
        stage.as_alice("/auth/pbx").send().await.expect(303);
    }
    check_measured(&stage, "client", [5, 5, 2]);
    check_measured(&stage, "caller", [5, 5, 0]);
    check_measured(&stage, "account", [5, 5, 3]);
    check_measured(&stage, "admin", [0, 0, 0]);
    // One request is beyond `account` alone, and two are beyond both.
    wait_for_lines(&stage, &[" access ", "/auth/pbx", " shadow=account"], 1).await;
    wait_for_lines(&stage, &[" access ", "/auth/pbx", " shadow=client,account"], 2).await;
    let events = stage.gate.events();
    for limit in ["limit=\"client\" requests=1", "limit=\"account\" requests=1"] {
        let told = format!("a limit in shadow would have refused requests {limit}");
        assert!(events.contains(&told), "{told}");
    }
    let account = measured(&stage, "account");
    assert_eq!(
        (&account["rate"], &account["verdict"], &account["proposal"]),
        (&json!("2/h"), &json!("raise"), &json!("2/h burst 7"))
    );
    assert_eq!(measured(&stage, "admin")["verdict"], "wait");
}

#[tokio::test]
async fn only_the_limits_that_are_named_are_in_shadow() {
    let stage = in_shadow("[\"client\"]").await;
    for status in [303, 303, 429, 429] {
        stage.as_alice("/auth/pbx").send().await.expect(status);
    }
    check_measured(&stage, "client", [4, 4, 1]);
    assert_eq!(measured(&stage, "account"), json!({ "limit": "account", "rate": "2/h", "shadow": false }));
    assert_eq!(stage.gate.metric("callgate_limited_total{limit=account}"), 2.0);
    assert_eq!(stage.gate.metric("callgate_limits_shadowed_total{limit=account}"), 0.0);
}

#[tokio::test]
async fn guesses_in_shadow_are_answered_and_a_request_counts_once() {
    let stage = in_shadow("[\"failures\", \"pbx_logins\"]").await;
    for _ in 0..3 {
        stage.as_alice("/auth/pbx?account=41").send().await.expect(403);
    }
    // The third request finds the limit used up at three steps.
    check_measured(&stage, "failures", [6, 3, 1]);
    for number in 0..4 {
        let password = BASE64_STANDARD.encode(format!("40:guess-{number}"));
        let asking = stage.gate.ask(Method::GET, "/rest/user/40").host("pbx.test");
        let answer = asking.header("authorization", &format!("Basic {password}")).send().await;
        assert_ne!(answer.status, 429);
    }
    check_measured(&stage, "pbx_logins", [4, 4, 2]);
    wait_for_lines(&stage, &["host=pbx.test", " shadow=pbx_logins"], 2).await;
}

#[tokio::test]
async fn a_limit_is_in_force_with_its_counts_when_it_leaves_the_shadow() {
    let mut stage = in_shadow("true").await;
    for _ in 0..3 {
        stage.as_alice("/auth/pbx").send().await.expect(303);
    }
    let text = stage.gate.text.clone();
    let part = text.replace("shadow = true", "shadow = [\"client\", \"account\"]");
    stage.gate.reload(&part).await.unwrap();
    stage.as_alice("/auth/pbx").send().await.expect(303);
    check_measured(&stage, "account", [4, 4, 2]);
    stage.gate.reload(&text.replace("shadow = true", "shadow = false")).await.unwrap();
    let refused = stage.as_alice("/auth/pbx").send().await.expect(429);
    assert_eq!(refused.header("ratelimit-policy"), "\"client\";q=3;w=3600");
    assert_eq!(measured(&stage, "client"), json!({ "limit": "client", "rate": "3/h", "shadow": false }));
}

#[tokio::test]
async fn an_explanation_names_a_limit_in_shadow_and_counts_nothing() {
    let stage = in_shadow("[\"account\"]").await;
    for _ in 0..2 {
        stage.as_alice("/auth/pbx").send().await.expect(303);
    }
    let cookie = stage.app.log_in("alice");
    let question = json!({ "act": "pbx", "headers": [["cookie", cookie]] }).to_string();
    let head = "POST /explain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length:";
    let (admin, asking) = (stage.gate.admin().clone(), format!("{head} {}\r\n\r\n{question}", question.len()));
    // The app answers meanwhile.
    let answer = tokio::task::spawn_blocking(move || tell(&admin, &asking)).await.unwrap();
    assert!(answer.contains("the limit `account` is used up, but in shadow: it refuses nothing"), "{answer}");
    check_measured(&stage, "account", [2, 2, 0]);
}

#[tokio::test]
async fn the_report_proposes_rates_by_what_a_process_has_seen() {
    let more = "[limits]\nclient = \"1000/24h\"\naccount = \"2/h\"\nshadow = [\"client\", \"account\"]\n";
    let office = Office::open("", more).await;
    for _ in 0..4 {
        office.log_in("alice").await;
    }
    let done = office.command(&["limits", "report"]).await;
    let report = text(&done.stdout);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let line = |name: &str| report.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    let words = |name: &str| {
        let line = line(name);
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        words
    };
    assert_eq!(
        [&words("account")[..2], &words("account")[3..]].concat().join(" "),
        "account 2/h 4 4 2 \"2/h burst 5\""
    );
    assert_eq!([&words("client")[..2], &words("client")[3..]].concat().join(" "), "client 1000/24h 4 4 0 fits");
    assert!(line("failures").ends_with("in force: not measured"), "{report}");
    assert!(report.contains("Attacks are in these numbers too"), "{report}");
    let done = office.command(&["limits", "report", "--json"]).await;
    let limits: Vec<Value> = serde_json::from_str(&text(&done.stdout)).unwrap();
    assert_eq!(limits.len(), 7);
    assert_eq!((&limits[2]["limit"], &limits[2]["would_refuse"]), (&json!("account"), &json!(2)));
}
