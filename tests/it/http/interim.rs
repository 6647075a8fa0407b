//! Interim answers reach an HTTP/1.1 client at once, and no HTTP/1.0 client (RFC 9110 §15.2).

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use crate::kit::client::{read_head, status};
use crate::kit::gate::Gate;
use crate::kit::upstream::RawUpstream;

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.css>\r\n\r\n";
const TOLD: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: </b.css>\r\n\r\n";
const PROCESSING: &str = "HTTP/1.1 102 Processing\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Asks for something over a connection that ends with it, before an upstream that answers so.
async fn ask(request: &str, answer: &str) -> String {
    let upstream = RawUpstream::closing(answer).await;
    let gate = Gate::before(upstream.addr).await;
    gate.exchange(request.as_bytes()).await
}

async fn get(answer: &str) -> String {
    ask("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n", answer).await
}

/// Returns the statuses of all answers in what came.
fn statuses(came: &str) -> Vec<u16> {
    came.split("HTTP/1.").skip(1).map(|answer| status(&format!("HTTP/1.{answer}"))).collect()
}

#[tokio::test]
async fn each_interim_answer_comes_when_it_is_said() {
    let taken = Arc::new(Notify::new());
    let heard = Arc::clone(&taken);
    let upstream = RawUpstream::serving(move |mut line| {
        let heard = Arc::clone(&heard);
        async move {
            line.request().await;
            for answer in [HINTS, PROCESSING, HINTS] {
                line.say(answer).await;
                heard.notified().await;
            }
            line.say(OK).await;
        }
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await.unwrap();
    for expected in [TOLD, PROCESSING, TOLD] {
        assert_eq!(read_head(&mut tls).await, expected);
        taken.notify_one();
    }
    let mut rest = String::new();
    tls.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 OK\r\n") && rest.ends_with("\r\n\r\nok"), "{rest}");
    assert!(gate.line(&["status=200"]).await.contains("status=200"));
}

#[tokio::test]
async fn interim_answers_come_before_their_answer_however_they_arrive() {
    let answer = get(&format!("{HINTS}{PROCESSING}{HINTS}{OK}")).await;
    assert!(answer.starts_with(&format!("{TOLD}{PROCESSING}{TOLD}HTTP/1.1 200 OK\r\n")), "{answer}");
    let answer =
        get(&format!("HTTP/1.1 100 Continue\r\n\r\n{HINTS}HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")).await;
    assert!(answer.starts_with(&format!("{TOLD}HTTP/1.1 404 Not Found\r\n")), "{answer}");
    let bytewise = RawUpstream::serving(|mut line| async move {
        line.request().await;
        line.stream.set_nodelay(true).unwrap();
        for byte in format!("{HINTS}{OK}").bytes() {
            line.say([byte]).await;
            tokio::task::yield_now().await;
        }
    })
    .await;
    let gate = Gate::before(bytewise.addr).await;
    let answer = gate.exchange(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with(&format!("{TOLD}HTTP/1.1 200 OK\r\n")), "{answer}");
}

#[tokio::test]
async fn interim_answers_keep_their_place_among_pipelined_requests() {
    let upstream = RawUpstream::answering(format!("{HINTS}{OK}")).await;
    let gate = Gate::before(upstream.addr).await;
    let request = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let head = "HEAD / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";
    let answer = gate.exchange(format!("{}{head}", request.repeat(5)).as_bytes()).await;
    assert_eq!(statuses(&answer), [103, 200].repeat(6), "{answer}");
    assert_eq!(answer.matches(TOLD).count(), 6, "{answer}");
    assert_eq!(answer.matches("\r\n\r\nokHTTP/1.1 103 ").count(), 5, "{answer}");
}

#[tokio::test]
async fn an_upstream_that_fails_after_an_interim_answer_is_answered_for() {
    let upstream = RawUpstream::closing(HINTS).await;
    let gate = Gate::before(upstream.addr).await;
    let answer = gate.exchange(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with(&format!("{TOLD}HTTP/1.1 502 ")), "{answer}");
    assert_eq!(upstream.seen().len(), 1, "it was asked again");
    let silent = RawUpstream::serving(|mut line| async move {
        line.request().await;
        line.say(HINTS).await;
        line.rest().await;
    })
    .await;
    let gate = Gate::before_with(silent.addr, "timeouts = { first_byte = \"300ms\" }", "").await;
    let answer = gate.exchange(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with(&format!("{TOLD}HTTP/1.1 504 ")), "{answer}");
}

#[tokio::test]
async fn an_interim_answer_has_only_the_fields_that_it_may_have() {
    for (said, told) in [
        (
            "103 Early Hints\r\nConnection: X-A, close\r\nX-A: 1\r\nKeep-Alive: 5\r\nX-B:  2 ",
            "103 Early Hints\r\nx-b: 2\r\n\r\n",
        ),
        ("103 Early Hints\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", "103 Early Hints\r\n\r\n"),
        ("103 Early Hints\r\nPBX-Account: 40\r\nPBX-Domain: d\r\nPBX-Lang: de", "103 Early Hints\r\n\r\n"),
        ("103 Another Phrase", "103 Early Hints\r\n\r\n"),
        ("199 Odd\r\nX: 1", "199 \r\nx: 1\r\n\r\n"),
    ] {
        let answer = get(&format!("HTTP/1.1 {said}\r\n\r\n{OK}")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {told}HTTP/1.1 200 OK\r\n")), "{said:?}: {answer}");
    }
    // One that may not be told so is not told.
    for said in ["100 Continue", "103 Early Hints\r\nConnection: set-cookie\r\nSet-Cookie: a=b"] {
        let answer = get(&format!("HTTP/1.1 {said}\r\n\r\n{OK}")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{said:?}: {answer}");
    }
    let long = format!("X: {}", "x".repeat(17 << 10));
    let answer = get(&format!("HTTP/1.1 103 Early Hints\r\n{long}\r\n\r\n{OK}")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{}", answer.len());
}

#[tokio::test]
async fn a_hostile_interim_answer_is_no_answer() {
    for said in [
        "HTTP/1.1 103 Early Hints\r\nX: a\nY: b\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nX: a\rY: b\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nX: a\0b\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nX : a\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nX: a\r\n b\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n: a\r\n\r\n",
        "HTTX/1.1 103 Early Hints\r\nX: a\r\n\r\n",
    ] {
        let answer = get(&format!("{said}{OK}")).await;
        assert_eq!(statuses(&answer), [502], "{said:?}: {answer}");
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_logged_is_answered_all_the_same() {
    let answer = ask("GET / HTTP/1.0\r\nHost: app.test\r\n\r\n", &format!("{HINTS}{OK}")).await;
    assert_eq!(statuses(&answer), [200], "{answer}");
    let upstream = RawUpstream::answering(format!("{HINTS}{PROCESSING}{OK}")).await;
    let gate = Gate::before(upstream.addr).await;
    for _ in 0..3 {
        assert_eq!(gate.get("/").h2().send().await.expect(200).text(), "ok");
    }
}

#[tokio::test]
async fn a_websocket_begins_behind_an_interim_answer() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.request().await;
        line.say(format!(
            "{HINTS}HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello"
        ))
        .await;
        line.rest().await;
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(read_head(&mut tls).await, TOLD);
    assert_eq!(status(&read_head(&mut tls).await), 101);
    let mut hello = [0; 5];
    tls.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_once_among_interim_answers() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        line.say(format!("{HINTS}HTTP/1.1 100 Continue\r\n\r\n")).await;
        line.stream.read_exact(&mut [0; 5]).await.unwrap();
        line.say(format!("{PROCESSING}{OK}")).await;
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    let fields = "Host: app.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n";
    tls.write_all(format!("POST / HTTP/1.1\r\n{fields}\r\n").as_bytes()).await.unwrap();
    let mut came = read_head(&mut tls).await + &read_head(&mut tls).await;
    tls.write_all(b"hello").await.unwrap();
    tls.read_to_string(&mut came).await.unwrap();
    let mut heard = statuses(&came);
    heard[..2].sort_unstable();
    assert_eq!(heard, [100, 103, 102, 200], "{came}");
}

#[tokio::test]
async fn a_flood_of_early_hints_passes_whole_or_not_at_all() {
    let long = "x".repeat(10 << 10);
    // As much as one answer may have of heads.
    let answer = get(&format!("{}{OK}", format!("HTTP/1.1 103 Early Hints\r\nX: {long}\r\n\r\n").repeat(24))).await;
    let (hints, last) = answer.split_once("HTTP/1.1 200 OK\r\n").unwrap();
    let told = format!("HTTP/1.1 103 Early Hints\r\nx: {long}\r\n\r\n");
    let count = hints.matches(&told).count();
    assert!((1..=24).contains(&count) && hints.len() == count * told.len(), "{count}");
    assert!(last.ends_with("\r\n\r\nok"), "{last}");
}
