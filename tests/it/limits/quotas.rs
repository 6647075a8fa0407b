//! Quotas: what they count, what their answers say, and that a refused request reaches neither app nor PBX.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::client::{Answer, RequestBuilder};
use crate::kit::stage::{Plan, Stage};
use crate::kit::vodia::Dialect;

const FORM: &str = "application/x-www-form-urlencoded";

async fn limited(limits: &str) -> Stage {
    let roomy: Vec<_> = ["client", "caller", "account", "failures", "stale_cookies", "pbx_logins"]
        .iter()
        .filter(|name| !limits.contains(*name))
        .map(|name| format!("{name} = \"1000/min\""))
        .collect();
    Plan { limits: &format!("{limits}\n{}", roomy.join("\n")), ..Plan::default() }.start().await
}

/// Checks a 429 of a quota of `count` in `window` seconds.
#[track_caller]
fn check_limited(answer: Answer, name: &str, count: u32, window: u32) -> Answer {
    let answer = answer.expect(429);
    let wait: u32 = answer.header("retry-after").parse().unwrap();
    assert!((1..=window).contains(&wait), "{wait}");
    assert_eq!(answer.header("ratelimit"), format!("\"{name}\";r=0;t={wait}"));
    assert_eq!(answer.header("ratelimit-policy"), format!("\"{name}\";q={count};w={window}"));
    assert_eq!((answer.header("cache-control"), answer.header("location")), ("no-store", ""));
    assert_eq!(answer.json()["error"], "rate_limited");
    answer
}

#[tokio::test]
async fn a_client_asks_so_often_at_all_endpoints_together() {
    let stage = limited("client = \"2/min\"").await;
    stage.gate.logins.are_not_explained();
    stage.as_alice("/auth/pbx").send().await.expect(303);
    stage.alice_posts("/auth/ott", FORM, "key=k1").send().await.expect(200);
    check_limited(stage.as_alice("/auth/pbx").send().await, "client", 2, 60);
    check_limited(stage.alice_posts("/auth/pbx", "application/json", "{}").send().await, "client", 2, 60);
    check_limited(stage.alice_posts("/auth/ott", FORM, "key=k1").send().await, "client", 2, 60);
    let (asked, minted) = (stage.app.requests().len(), stage.minted().len());
    assert_eq!((asked, minted), (2, 1), "somebody was asked for a caller over the quota");
    stage.as_alice("/").send().await.expect(200);
}

#[tokio::test]
async fn a_client_is_its_address_and_nothing_it_says() {
    let stage = limited("client = \"1/min\"").await;
    let asking = |from: &'static str, said: &'static str| {
        let asking = stage.as_alice("/auth/pbx").from(from).header("x-forwarded-for", said);
        asking.header("forwarded", "for=9.9.9.9").header("x-real-ip", said).send()
    };
    asking("127.0.0.2", "9.9.9.9").await.expect(303);
    check_limited(asking("127.0.0.2", "8.8.8.8").await, "client", 1, 60);
    asking("127.0.0.3", "9.9.9.9").await.expect(303);
    check_limited(asking("127.0.0.3", "127.0.0.4").await, "client", 1, 60);
}

#[tokio::test]
async fn a_burst_is_spent_before_the_rate() {
    let stage = limited("client = \"30/hour burst 3\"").await;
    for _ in 0..3 {
        stage.as_alice("/auth/pbx").send().await.expect(303);
    }
    check_limited(stage.as_alice("/auth/pbx").send().await, "client", 30, 3600);
}

#[tokio::test]
async fn the_answer_comes_before_the_body_is_read() {
    let stage = limited("client = \"1/min\"").await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    for path in ["/auth/ott", "/auth/pbx"] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: app.test\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n"
        );
        let answer = stage.gate.exchange(head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("connection: close\r\n"), "{answer}");
        let expecting = head.replace("Content-Length", "Expect: 100-continue\r\nContent-Length");
        let answer = stage.gate.exchange(expecting.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    }
}

#[tokio::test]
async fn a_caller_is_counted_wherever_it_comes_from() {
    let stage = limited("caller = \"2/min\"").await;
    stage.as_alice("/auth/pbx").from("127.0.0.2").send().await.expect(303);
    stage.alice_posts("/auth/ott", FORM, "key=k1").from("127.0.0.3").send().await.expect(200);
    check_limited(stage.as_alice("/auth/pbx").from("127.0.0.4").send().await, "caller", 2, 60);
    let redirect = "/redirect?to=https%3A%2F%2Fpbx.test%2Fwelcome.htm";
    check_limited(stage.as_alice(redirect).from("127.0.0.5").send().await, "caller", 2, 60);
    stage.as_user("bob", "/auth/pbx").from("127.0.0.4").send().await.expect(303);
    assert_eq!(stage.minted(), ["40@acme.test", "41@acme.test"]);
}

/// Authelia CVE-2026-47203.
#[tokio::test]
async fn case_does_not_make_another_caller() {
    let stage = limited("caller = \"1/min\"").await;
    stage.claims(json!({ "user": "john", "ext": "40", "tenant": "acme.test" }));
    stage.as_alice("/auth/pbx").send().await.expect(303);
    stage.claims(json!({ "user": "JOHN", "ext": "40", "tenant": "acme.test" }));
    check_limited(stage.as_alice("/auth/pbx").send().await, "caller", 1, 60);
}

#[tokio::test]
async fn logins_of_an_account_are_counted_across_callers() {
    let stage = limited("account = \"2/min\"").await;
    for (user, tenant, status) in
        [("ann", "acme.test", 303), ("ben", "ACME.test", 303), ("cid", "acme.test", 429), ("dan", "Acme.Test", 429)]
    {
        stage.claims(json!({ "user": user, "ext": "40", "tenant": tenant, "vox": "alice" }));
        let answer = stage.as_alice("/auth/pbx").send().await;
        if status == 429 {
            check_limited(answer, "account", 2, 60);
        } else {
            answer.expect(status);
        }
    }
    stage.alice_posts("/auth/ott", FORM, "key=k1").send().await.expect(200);
    stage.alice_posts("/auth/ott", FORM, "key=k1").send().await.expect(200);
    check_limited(stage.alice_posts("/auth/ott", FORM, "key=k1").send().await, "account", 2, 60);
    assert_eq!(stage.minted().len(), 2);
}

#[tokio::test]
async fn after_some_failures_a_client_must_wait() {
    let stage = limited("failures = \"3/15min\"").await;
    stage.as_alice("/auth/pbx?account=41").send().await.expect(403);
    stage.as_user("bob", "/auth/pbx?account=40").send().await.expect(403);
    stage.alice_posts("/auth/ott", FORM, "key=k1&appUser=bob").send().await.expect(403);
    stage.gate.logins.are_not_explained();
    let asked = stage.app.requests().len();
    check_limited(stage.as_alice("/auth/pbx").send().await, "failures", 3, 900);
    check_limited(stage.gate.get("/auth/callgate/ticket?t=x").host("pbx.test").send().await, "failures", 3, 900);
    assert_eq!(stage.app.requests().len(), asked);
    stage.as_alice("/auth/pbx").from("127.0.0.2").send().await.expect(303);
    stage.as_alice("/").send().await.expect(200);
}

#[tokio::test]
async fn tickets_are_not_guessed_at_leisure() {
    let stage = limited("failures = \"2/15min\"").await;
    for status in [403, 403, 429, 429] {
        stage.gate.get("/auth/callgate/ticket?t=guess").host("pbx.test").send().await.expect(status);
    }
}

#[tokio::test]
async fn an_error_that_the_caller_did_not_cause_is_no_failure() {
    let stage = limited("failures = \"1/15min\"").await;
    stage.app.set(|faults| faults.whoami = crate::kit::app::Whoami::NotJson);
    stage.as_alice("/auth/pbx").send().await.expect(502);
    stage.app.set(|faults| faults.whoami = crate::kit::app::Whoami::Truth);
    stage.gate.get("/auth/pbx").send().await.expect(401);
    stage.as_alice("/auth/pbx?lang=xx").send().await.expect(400);
    stage.pbx_does(|faults| faults.wrong = crate::kit::vodia::Wrong::Html);
    stage.as_alice("/auth/pbx").send().await.expect(502);
    stage.pbx_does(|faults| faults.wrong = crate::kit::vodia::Wrong::Nothing);
    stage.as_alice("/auth/pbx").send().await.expect(303);
}

/// Asks as a page of a sibling host does for an image.
fn image(asking: RequestBuilder<'_>) -> RequestBuilder<'_> {
    let asking = asking.header("sec-fetch-site", "same-site").header("sec-fetch-mode", "no-cors");
    asking.header("sec-fetch-dest", "image")
}

#[tokio::test]
async fn a_page_of_another_site_cannot_use_up_a_visitors_quotas() {
    let stage = limited("failures = \"1/15min\"\ncaller = \"1/min\"").await;
    for _ in 0..3 {
        image(stage.gate.get("/auth/callgate/ticket?t=wrong").host("pbx.test")).send().await.expect(403);
        image(stage.gate.get("/auth/pbx").cookie("demo_app=wrong")).send().await.expect(403);
        image(stage.as_alice("/auth/pbx")).send().await.expect(403);
        image(stage.alice_posts("/auth/ott", FORM, "key=k1")).send().await.expect(403);
    }
    stage.as_alice("/auth/pbx").send().await.expect(303);
}

#[tokio::test]
async fn tickets_are_not_guessed_in_the_name_of_a_page() {
    let plan = Plan { dialect: Dialect::C, pbx: "handoff = \"cookie\"", ..Plan::default() };
    let stage = plan.start().await;
    let ticket = stage.as_alice("/auth/pbx").send().await.expect(303).header("location").to_owned();
    let ask = |ticket: &str| stage.gate.get(ticket.strip_prefix("https://pbx.test").unwrap()).host("pbx.test");
    image(ask(&ticket)).send().await.expect(403);
    ask(&ticket).send().await.expect(303);
}

#[tokio::test]
async fn the_first_step_of_a_click_on_another_site_is_no_failure() {
    let stage = limited("failures = \"1/15min\"").await;
    let click = |path: &str| {
        let asking = stage.gate.get(path).header("sec-fetch-site", "cross-site");
        asking.header("sec-fetch-mode", "navigate").header("sec-fetch-dest", "document")
    };
    for _ in 0..2 {
        click("/auth/pbx").cookie("theme=dark").send().await.expect(200);
    }
    assert!(!stage.gate.log().contains("audit refusal"), "{}", stage.gate.log());
    click("/auth/pbx?again=1").cookie("theme=dark").send().await.expect(401);
    click("/auth/pbx").cookie("theme=dark").send().await.expect(200);
    assert_eq!(stage.gate.log().matches("audit refusal").count(), 1);
}

// === Password logins that pass through ===

fn login<'s>(stage: &'s Stage, path: &str, method: &Method) -> RequestBuilder<'s> {
    let body = json!({ "name": "auth", "value": "40 00112233445566778899aabbccddeeff" }).to_string();
    let asking = stage.gate.ask(method.clone(), path).host("pbx.test").header("content-type", "application/json");
    asking.body(body)
}

#[tokio::test]
async fn password_logins_at_the_pbx_are_counted() {
    let stage = limited("pbx_logins = \"2/min\"").await;
    login(&stage, "/rest/system/session", &Method::POST).send().await.expect(200);
    login(&stage, "/rest/system/session", &Method::PUT).send().await.expect(200);
    for method in [Method::POST, Method::PUT] {
        let answer = login(&stage, "/rest/system/session", &method).header("x-forwarded-for", "9.9.9.9").send().await;
        check_limited(answer, "pbx_logins", 2, 60);
    }
    assert_eq!(stage.pbx.requests().len(), 2);
    login(&stage, "/rest/system/session", &Method::POST).from("127.0.0.2").send().await.expect(200);
    stage.gate.get("/rest/system/session").host("pbx.test").send().await.expect(200);
    stage.as_alice("/auth/pbx").send().await.expect(303);
}

#[tokio::test]
async fn no_spelling_of_the_login_path_slips_past() {
    let stage = limited("pbx_logins = \"1/min\"").await;
    login(&stage, "/rest/system/session", &Method::POST).send().await.expect(200);
    for path in [
        "/REST/System/Session",
        "//rest//system///session",
        "/rest/system/session/",
        "/rest/system/./session",
        "/rest/x/../system/session",
        "/x/%2e%2e/rest/system/session",
        "/rest/system/%73ession",
        "/rest%2fsystem%2fsession",
        "/rest/system/session;x=1",
        "/rest/system/session%3bx",
        "/rest/system/session%00",
        "/rest/system/session%3fx",
        "/rest/system/session%23",
        "/rest\\system\\session",
        "/rest%5csystem%5csession",
        "/rest/system/session?a=1",
        "/rest/system/2nd",
        "/rest/system/login",
    ] {
        let answer = login(&stage, path, &Method::POST).send().await;
        assert_eq!(answer.status.as_u16(), 429, "{path}");
    }
    assert_eq!(stage.pbx.requests().len(), 1);
}

#[tokio::test]
async fn credentials_in_a_field_are_counted_too() {
    let stage = limited("pbx_logins = \"2/min\"").await;
    let guess = |n: u32| {
        let basic = BASE64_STANDARD.encode(format!("40:guess-{n}-guess-guess"));
        stage.gate.get("/rest/system/stats").host("pbx.test").header("authorization", &format!("Basic {basic}")).send()
    };
    guess(1).await.expect(401);
    guess(2).await.expect(401);
    check_limited(guess(3).await, "pbx_logins", 2, 60);
    stage.gate.get("/rest/system/stats").host("pbx.test").send().await.expect(401);
    let app = stage.gate.get("/echo").header("authorization", "Basic eDp5");
    app.send().await.expect(200);
}

fn with_basic<'s>(stage: &'s Stage, path: &str, credential: &str) -> RequestBuilder<'s> {
    let basic = format!("Basic {}", BASE64_STANDARD.encode(credential));
    stage.gate.get(path).host("pbx.test").header("authorization", &basic)
}

#[tokio::test]
async fn a_credential_that_the_pbx_accepts_counts_once_at_its_address() {
    let stage = limited("pbx_logins = \"2/h\"").await;
    let wallboard = "sso:Admin-Passw0rd!";
    for _ in 0..5 {
        with_basic(&stage, "/rest/system/stats", wallboard).send().await.expect(200);
    }
    with_basic(&stage, "/rest/system/stats", "40:guess").send().await.expect(401);
    let guess = with_basic(&stage, "/rest/system/stats", "40:another-guess").send().await;
    check_limited(guess, "pbx_logins", 2, 3600);
    with_basic(&stage, "/rest/system/stats", wallboard).send().await.expect(200);
    // Another address has to show the credential itself, and a login by a form is always counted.
    let elsewhere = || with_basic(&stage, "/rest/system/stats", wallboard).from("127.0.0.2");
    elsewhere().send().await.expect(200);
    let form = login(&stage, "/rest/system/session", &Method::POST);
    let basic = format!("Basic {}", BASE64_STANDARD.encode(wallboard));
    form.header("authorization", &basic).send().await.expect(429);
}

#[tokio::test]
async fn a_page_that_needs_no_credential_hides_no_guess() {
    let stage = limited("pbx_logins = \"3/h\"").await;
    with_basic(&stage, "/welcome.htm", "40:guess").send().await.expect(200);
    // The first answer that judges the guess is the only one that is not counted.
    with_basic(&stage, "/rest/system/stats", "40:guess").send().await.expect(401);
    with_basic(&stage, "/rest/system/stats", "40:guess").send().await.expect(401);
    with_basic(&stage, "/rest/system/stats", "40:guess").send().await.expect(401);
    with_basic(&stage, "/rest/system/stats", "40:guess").send().await.expect(429);
}

#[tokio::test]
async fn two_credentials_in_one_request_are_always_counted() {
    let stage = limited("pbx_logins = \"2/h\"").await;
    let both = || with_basic(&stage, "/welcome.htm", "40:a").header("authorization", "Basic eDp5").send();
    both().await.expect(200);
    both().await.expect(200);
    both().await.expect(429);
}

#[tokio::test]
async fn the_connection_goes_on_after_a_quota_that_needed_no_body() {
    let stage = limited("client = \"1/min\"").await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    let mut tls = stage.gate.raw("app.test", "http/1.1").await;
    tls.write_all(b"GET /auth/pbx HTTP/1.1\r\nHost: app.test\r\n\r\nGET /status/418 HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answers = Vec::new();
    tls.read_to_end(&mut answers).await.unwrap();
    let answers = String::from_utf8_lossy(&answers);
    assert!(answers.starts_with("HTTP/1.1 429 ") && answers.contains("HTTP/1.1 418 "), "{answers}");
}
