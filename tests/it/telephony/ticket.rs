//! The two-host hand-over: a ticket leads a browser from the app's host to the PBX's.

use http::Method;

use super::pbx::check_step;
use crate::kit::client::Answer;
use crate::kit::stage::{Plan, Stage};
use crate::kit::vodia::Dialect;

const COOKIE: &str = "handoff = \"cookie\"";

/// Asks on the app's host, and returns the cookie that it sets and the path of the ticket on the PBX's.
async fn ticket(stage: &Stage) -> (String, String) {
    let answer = stage.as_alice("/auth/pbx").send().await.expect(303);
    let location = answer.header("location");
    let cookie = answer.header("set-cookie").to_owned();
    assert!(cookie.starts_with("__Host-callgate.browser="), "{cookie}");
    assert!(cookie.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"), "{cookie}");
    assert!(!location.contains(&stage.pbx.last_minted().unwrap()), "{location}");
    (cookie, location.strip_prefix("https://pbx.test").unwrap().to_owned())
}

/// Opens an address of the gate as a browser with these cookies.
async fn open(stage: &Stage, address: &str, cookie: &str) -> Answer {
    let (host, path) = address.strip_prefix("https://").unwrap().split_once('/').unwrap();
    let asking = stage.gate.get(&format!("/{path}")).host(host).header("sec-fetch-site", "cross-site");
    let asking = asking.header("sec-fetch-mode", "navigate").header("sec-fetch-dest", "document");
    if cookie.is_empty() { asking.send().await } else { asking.cookie(cookie.split(';').next().unwrap()).send().await }
}

/// A page sends its visitor to each step of a hand-over that another browser began.
#[tokio::test]
async fn a_ticket_is_for_the_browser_that_began() {
    let stage = Plan { dialect: Dialect::C, pbx: COOKIE, ..Plan::default() }.start().await;
    // At the first step: the visitor has no cookie of the host where the page began.
    let (_, path) = ticket(&stage).await;
    let sent = open(&stage, &format!("https://pbx.test{path}"), "").await.expect(303);
    let back = sent.header("location").to_owned();
    assert!(back.starts_with("https://app.test/auth/callgate/ticket?t="), "{back}");
    open(&stage, &back, sent.header("set-cookie")).await.expect(403);
    // On the way back.
    let (_, path) = ticket(&stage).await;
    let sent = open(&stage, &format!("https://pbx.test{path}"), "").await.expect(303);
    open(&stage, sent.header("location"), "").await.expect(403);
    // At the end.
    let (cookie, path) = ticket(&stage).await;
    let sent = open(&stage, &format!("https://pbx.test{path}"), "").await.expect(303);
    let known = open(&stage, sent.header("location"), &cookie).await.expect(303);
    let last = known.header("location").to_owned();
    assert!(last.starts_with("https://pbx.test/auth/callgate/ticket?t="), "{last}");
    let visitor = open(&stage, &last, "__Host-callgate.browser=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").await;
    assert_eq!(visitor.expect(403).header("set-cookie"), "");
    stage.gate.line(&["audit refusal", "another browser began this login"]).await;
    // The browser that began, by top-level requests only.
    let (cookie, path) = ticket(&stage).await;
    let sent = open(&stage, &format!("https://pbx.test{path}"), "").await.expect(303);
    let known = open(&stage, sent.header("location"), &cookie).await.expect(303);
    let landed = open(&stage, known.header("location"), sent.header("set-cookie")).await.expect(200);
    check_step(&landed, "/thirdparty.htm");
    assert!(stage.pbx.requests().iter().all(|seen| !seen.header("cookie").unwrap_or_default().contains("__Host-")));
}

/// A server at the host where a hand-over began could lead the visitor through all steps.
#[tokio::test]
async fn no_hand_over_begins_at_a_foreign_host() {
    let stage = Plan { dialect: Dialect::C, pbx: COOKIE, ..Plan::default() }.start().await;
    let cookie = stage.app.log_in("alice");
    let ask =
        |host: &str| format!("GET /auth/pbx HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n");
    for host in ["evil.test", "app.test.evil.test", "a.x.app.test", "192.0.2.1", "[2001:db8::1]"] {
        let answer = stage.gate.exchange(ask(host).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 421 ") && !answer.contains("callgate.browser"), "{host}: {answer}");
    }
    stage.gate.line(&["audit refusal", "names the host where it begins"]).await;
    assert!(stage.minted().is_empty());
    for host in ["app.test", "x.app.test", "Other.test.", "localhost"] {
        let answer = stage.gate.exchange(ask(host).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 303 "), "{host}: {answer}");
    }
    let app = "hosts = [\"unnamed.test\"]\nwhoami = \"/api/me\"";
    let stage = Plan { dialect: Dialect::C, pbx: COOKIE, app, ..Plan::default() }.start().await;
    let cookie = stage.app.log_in("alice");
    let asking =
        format!("GET /auth/pbx HTTP/1.1\r\nHost: unnamed.test\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n");
    let answer = stage.gate.exchange(asking.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 303 "), "{answer}");
    // With hosts that are listed, a wildcard of the certificate names none.
    let answer = stage.gate.exchange(asking.replace("unnamed.test", "x.app.test").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
}

#[tokio::test]
async fn a_ticket_carries_the_cookie_to_the_other_host_once() {
    let stage = Plan { dialect: Dialect::B, pbx: COOKIE, ..Plan::default() }.start().await;
    let (cookie, path) = ticket(&stage).await;
    assert!(path.starts_with("/auth/callgate/ticket?t="), "{path}");
    let answer = stage.redeem(&cookie, &format!("https://pbx.test{path}")).await.expect(200);
    check_step(&answer, "/thirdparty.htm");
    let session = stage.pbx.last_session().unwrap();
    assert!(answer.header("set-cookie").starts_with(&format!("session={session};")));
    let again = stage.gate.get(&path).host("pbx.test").send().await.expect(403);
    assert_eq!(again.header("set-cookie"), "");
    assert_eq!((stage.minted().len(), stage.pbx.sessions().len()), (1, 1));
}

#[tokio::test]
async fn a_ticket_is_for_one_host_only() {
    let stage = Plan { dialect: Dialect::B, pbx: COOKIE, ..Plan::default() }.start().await;
    for host in ["app.test", "acme.test"] {
        let (_, path) = ticket(&stage).await;
        stage.gate.get(&path).host(host).send().await.expect(403);
        stage.gate.get(&path).host("pbx.test").send().await.expect(403);
    }
    stage.gate.get("/auth/callgate/ticket?t=unknown").host("pbx.test").send().await.expect(403);
    stage.gate.get("/auth/callgate/ticket").host("pbx.test").send().await.expect(400);
    stage.gate.post("/auth/callgate/ticket", "text/plain", "").host("pbx.test").send().await.expect(405);
    stage.gate.get("/auth/callgate/other").host("pbx.test").send().await.expect(404);
    assert!(stage.pbx.sessions().is_empty());
}

#[tokio::test]
async fn looking_ahead_does_not_use_a_ticket_up() {
    let stage = Plan { dialect: Dialect::B, pbx: COOKIE, ..Plan::default() }.start().await;
    let (cookie, path) = ticket(&stage).await;
    for purpose in ["prefetch", "prefetch;prerender"] {
        let ahead = stage.gate.get(&path).host("pbx.test").header("sec-purpose", purpose).send().await.expect(503);
        assert_eq!(ahead.header("cache-control"), "no-store");
    }
    stage.gate.ask(Method::HEAD, &path).host("pbx.test").send().await.expect(503);
    stage.redeem(&cookie, &format!("https://pbx.test{path}")).await.expect(200);
}
