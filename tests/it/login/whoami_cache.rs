//! The cache of `whoami` answers, and one question to the app for simultaneous requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::kit::client::RequestBuilder;
use crate::kit::stage::{Plan, STAFF, Stage, until};
use crate::kit::upstream::RawUpstream;

const ALICE: &str = r#"{"user":"alice","ext":"40","tenant":"acme.test"}"#;

fn method(timeout: &str, more: &str) -> String {
    format!(
        "[[auth]]\ntype = \"app\"\nwhoami = \"/api/me\"\ncookies = [\"session\"]\nheaders = [\"x-portal\"]\ntimeout = \"{timeout}\"\n{more}\n{STAFF}"
    )
}

/// A gate before an app of the test's own. One worker: each keeps answers of its own.
async fn stage(app: &RawUpstream, more: &str) -> Stage {
    stage_within("20s", app, more).await
}

async fn stage_within(timeout: &str, app: &RawUpstream, more: &str) -> Stage {
    let rules = method(timeout, more);
    let plan = Plan { app: "", top: "workers = 1", rules: &rules, app_at: Some(app.addr), ..Plan::default() };
    let stage = plan.start().await;
    stage.gate.logins.are_not_explained();
    stage
}

fn answer(status: &str, fields: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn ann<'s>(stage: &'s Stage, cookie: &str) -> RequestBuilder<'s> {
    stage.gate.get("/auth/pbx").cookie(cookie)
}

/// Asks three times as the same person, and checks how often the app was asked.
async fn check(answer: String, more: &str, status: u16, expected: usize) {
    let app = RawUpstream::answering(answer.clone()).await;
    let stage = stage(&app, more).await;
    for _ in 0..3 {
        ann(&stage, "session=ann-0123456789abcdef").send().await.expect(status);
    }
    assert_eq!(app.seen().len(), expected, "{answer} {more}");
}

#[tokio::test]
async fn an_answer_is_believed_for_as_long_as_both_sides_say() {
    check(answer("200 OK", "", ALICE), "", 303, 3).await;
    check(answer("200 OK", "", ALICE), "cache = \"30s\"", 303, 1).await;
    for (fields, expected) in [
        ("Cache-Control: private\r\n", 1),
        ("Cache-Control: max-age=60\r\n", 1),
        ("Cache-Control: max-age=0\r\n", 3),
        ("Cache-Control: no-store\r\n", 3),
        ("Cache-Control: max-age=60\r\nCache-Control: private, No-Cache\r\n", 3),
        ("Cache-Control: max-age=60\r\nAge: 60\r\n", 3),
        ("Pragma: no-cache\r\n", 3),
        ("Vary: *\r\n", 3),
    ] {
        check(answer("200 OK", fields, ALICE), "cache = \"30s\"", 303, expected).await;
    }
}

#[tokio::test]
async fn an_invalid_answer_is_never_cached() {
    let cache = "cache = \"30s\"";
    for (status, body, expected) in [
        ("401 Unauthorized", "{}", 401),
        ("403 Forbidden", "{}", 401),
        ("500 Internal Server Error", "{}", 502),
        ("503 Service Unavailable", "{}", 502),
        ("204 No Content", "", 502),
        ("200 OK", "[]", 502),
        ("200 OK", "{", 502),
    ] {
        check(answer(status, "Cache-Control: max-age=60\r\n", body), cache, expected, 3).await;
    }
    let silent = RawUpstream::silent().await;
    let stage = stage_within("300ms", &silent, cache).await;
    ann(&stage, "session=ann-0123456789abcdef").send().await.expect(504);
    ann(&stage, "session=ann-0123456789abcdef").send().await.expect(504);
    assert_eq!(silent.seen().len(), 2);
}

#[tokio::test]
async fn an_answer_is_for_the_same_question_only() {
    let app = RawUpstream::answering(answer("200 OK", "", ALICE)).await;
    let stage = stage(&app, "cache = \"30s\"").await;
    let asked = || app.seen().len();
    ann(&stage, "session=a").send().await.expect(303);
    assert_eq!(asked(), 1);
    // Cookies that the app does not receive make no difference.
    ann(&stage, "other=1; session=a").header("x-other", "1").send().await.expect(303);
    ann(&stage, "session=a").header("x-request-id", "mine").h2().send().await.expect(303);
    assert_eq!(asked(), 1);
    let host = stage.gate.get("/auth/pbx").host("sub.app.test").cookie("session=a");
    for (count, asking) in (2..).zip([
        ann(&stage, "session=b"),
        ann(&stage, "session=a; session=b"),
        ann(&stage, "session=a").header("x-portal", "blue"),
        host,
        ann(&stage, "session=a").from("127.0.0.7"),
    ]) {
        asking.send().await.expect(303);
        assert_eq!(asked(), count);
    }
}

#[tokio::test]
async fn a_logout_counts_when_the_cache_is_over() {
    let is_out = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_out);
    let app = RawUpstream::serving(move |mut line| {
        let is_out = Arc::clone(&told);
        async move {
            while line.request().await.is_some() {
                let said =
                    if is_out.load(Ordering::SeqCst) { answer("401 No", "", "") } else { answer("200 OK", "", ALICE) };
                line.say(said).await;
            }
        }
    })
    .await;
    let stage = stage(&app, "cache = \"1s\"").await;
    let began = tokio::time::Instant::now();
    ann(&stage, "session=a").send().await.expect(303);
    is_out.store(true, Ordering::SeqCst);
    let mut status = ann(&stage, "session=a").send().await.status;
    while status == 303 {
        assert!(began.elapsed() < Duration::from_secs(10), "the login outlives its logout");
        tokio::time::sleep(Duration::from_millis(50)).await;
        status = ann(&stage, "session=a").send().await.status;
    }
    assert_eq!(status, 401);
    assert_eq!(app.seen().len(), 2);
}

/// An app that answers when it is told to.
struct Slow {
    app: RawUpstream,
    go: tokio::sync::watch::Sender<bool>,
}

impl Slow {
    async fn new(answer: String) -> Self {
        let (go, wait) = tokio::sync::watch::channel(false);
        let app = RawUpstream::serving(move |mut line| {
            let (mut wait, answer) = (wait.clone(), answer.clone());
            async move {
                while line.request().await.is_some() {
                    wait.wait_for(|go| *go).await.unwrap();
                    line.say(&answer).await;
                }
            }
        })
        .await;
        Self { app, go }
    }
}

#[tokio::test]
async fn simultaneous_requests_share_one_question_and_survive_a_client_that_leaves() {
    let slow = Slow::new(answer("200 OK", "Cache-Control: no-store\r\n", ALICE)).await;
    let stage = stage(&slow.app, "cache = \"30s\"\n").await;
    let others = futures_util::future::join_all((0..4).map(|_| ann(&stage, "session=a").send()));
    let other_person = ann(&stage, "session=b").send();
    let in_flight = |count: usize| {
        let (stage, line) = (&stage, format!("callgate_exchanges_in_flight {count}"));
        async move { until(&line, || stage.gate.told("/metrics").lines().any(|told| told == line)).await }
    };
    // The first, who began the question, leaves while all wait. Over HTTP/1 the end of what a client says could also mean
    // that it waits for its answer.
    let (leave, leaving) = tokio::sync::oneshot::channel::<()>();
    let first = async {
        tokio::select! {
            _ = ann(&stage, "session=a").h2().send() => panic!("it was answered"),
            left = leaving => left.unwrap(),
        }
    };
    let goes_on = async {
        in_flight(1).await;
        let all = async { tokio::join!(others, other_person) };
        let rest = async {
            in_flight(6).await;
            leave.send(()).unwrap();
            in_flight(5).await;
            slow.go.send(true).unwrap();
        };
        tokio::join!(all, rest).0
    };
    let ((), (others, other_person)) = tokio::join!(first, goes_on);
    for answer in others {
        answer.expect(303);
    }
    other_person.expect(303);
    let seen = slow.app.seen();
    assert_eq!(seen.iter().filter(|seen| seen.contains("session=a")).count(), 1, "{seen:?}");
    assert_eq!(seen.len(), 2);
    // An answer that the app forbids to store was only shared.
    ann(&stage, "session=a").send().await.expect(303);
    assert_eq!(slow.app.seen().len(), 3);
}

#[tokio::test]
async fn without_a_cache_each_request_asks_the_app() {
    let slow = Slow::new(answer("200 OK", "", ALICE)).await;
    let stage = stage(&slow.app, "").await;
    let asking = futures_util::future::join_all((0..3).map(|_| ann(&stage, "session=a").send()));
    let go = async {
        until("the app is asked three times", || slow.app.seen().len() == 3).await;
        slow.go.send(true).unwrap();
    };
    let (answers, ()) = tokio::join!(asking, go);
    for answer in answers {
        answer.expect(303);
    }
}

#[tokio::test]
async fn a_cookie_that_whoami_sets_reaches_no_client() {
    let app = RawUpstream::answering(answer("200 OK", "Set-Cookie: session=fresh-0123456789abcdef\r\n", ALICE)).await;
    for more in ["", "cache = \"30s\""] {
        let stage = stage(&app, more).await;
        for _ in 0..2 {
            let answer = ann(&stage, "session=a").send().await.expect(303);
            assert_eq!(answer.header("set-cookie"), "");
        }
    }
}
