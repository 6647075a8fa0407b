//! The pool of upstream connections: what is kept, and which requests are sent again.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use crate::kit::client::{read_head, status};
use crate::kit::gate::Gate;
use crate::kit::upstream::{RawUpstream, UpstreamConnection, passed};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An upstream that answers the first request of its first connection and does `then` with the second; later connections answer.
async fn stale(then: &'static str) -> RawUpstream {
    RawUpstream::serving(move |mut line| async move {
        line.request().await;
        line.say(OK).await;
        if line.nth > 0 {
            return;
        }
        line.request().await;
        line.say(then).await;
    })
    .await
}

async fn check(then: &'static str, request: &str, expected: u16, requests: usize) {
    let upstream = stale(then).await;
    let gate = Gate::before(upstream.addr).await;
    gate.get("/").send().await.expect(200);
    let answer = gate.exchange(request.as_bytes()).await;
    assert_eq!(status(&answer), expected, "{then:?} {request:?}: {answer}");
    assert_eq!(upstream.seen().len(), requests, "{then:?} {request:?}: {:?}", upstream.seen());
}

#[tokio::test]
async fn a_get_on_a_stale_connection_never_becomes_a_502() {
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
        check("", &format!("{method} / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n"), 200, 3).await;
    }
}

#[tokio::test]
async fn a_post_is_never_sent_twice() {
    for request in [
        "POST / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab",
        "PATCH / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab",
        "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        check("", request, 502, 2).await;
    }
}

#[tokio::test]
async fn nothing_is_sent_twice_once_an_answer_began() {
    let get = "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";
    for then in ["H", "HTTP/1.1 200 OK\r\nContent-Len", "HTTP/1.1 100 Continue\r\n\r\n", "nonsense\r\n\r\n"] {
        check(then, get, 502, 2).await;
    }
}

#[tokio::test]
async fn a_fresh_connection_that_breaks_is_not_tried_again() {
    let upstream = RawUpstream::closing("").await;
    let gate = Gate::before(upstream.addr).await;
    gate.get("/").send().await.expect(502);
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced_even_for_a_post() {
    let closed = Arc::new(Notify::new());
    let told = closed.clone();
    let upstream = RawUpstream::serving(move |mut line| {
        let told = told.clone();
        async move {
            line.request().await;
            line.say(OK).await;
            drop(line);
            told.notify_one();
        }
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    for _ in 0..5 {
        gate.post("/", "text/plain", "x").send().await.expect(200);
        closed.notified().await;
    }
}

#[tokio::test]
async fn connections_are_used_again_after_whole_answers() {
    for answer in [
        OK,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
    ] {
        let upstream = connections(answer).await;
        let gate = Gate::before(upstream.addr).await;
        for _ in 0..3 {
            gate.get("/").send().await;
        }
        assert_eq!(numbers(&upstream), ["0", "0", "0"], "{answer:?}");
    }
}

#[tokio::test]
async fn connections_are_not_used_again_after_odd_answers() {
    for answer in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        "HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nmore",
    ] {
        let upstream = connections(answer).await;
        let gate = Gate::before(upstream.addr).await;
        for _ in 0..3 {
            let got = gate.get("/").send().await;
            assert!(matches!(got.text(), "ok" | ""), "{answer:?}: {got:?}");
        }
        assert_eq!(numbers(&upstream), ["0", "1", "2"], "{answer:?}");
    }
}

/// Answers every request on every connection, and keeps the number of the connection behind each request.
async fn connections(answer: &'static str) -> RawUpstream {
    RawUpstream::serving(move |mut line| async move {
        while line.request().await.is_some() {
            line.note(line.nth.to_string());
            line.say(answer).await;
        }
    })
    .await
}

fn numbers(upstream: &RawUpstream) -> Vec<String> {
    upstream.seen().into_iter().skip(1).step_by(2).collect()
}

#[tokio::test]
async fn an_idle_connection_is_closed_before_the_upstream_would() {
    let (sent, mut closed) = tokio::sync::mpsc::unbounded_channel();
    let upstream = RawUpstream::serving(move |mut line| {
        let sent = sent.clone();
        async move {
            line.request().await;
            line.say(OK).await;
            line.rest().await;
            sent.send(()).unwrap();
        }
    })
    .await;
    let gate = Gate::before_with(upstream.addr, "timeouts = { keep_alive = \"200ms\" }", "").await;
    gate.get("/").send().await.expect(200);
    closed.recv().await.unwrap();
}

/// Pingora CVE-2025-4366.
#[tokio::test]
async fn pingora_2025_4366_an_early_answer_ends_both_connections() {
    for (answer, expected) in [
        ("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n", 413),
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", 401),
        ("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 429),
    ] {
        let upstream = RawUpstream::serving(move |mut line| async move {
            line.head().await;
            line.say(answer).await;
            line.note(line.nth.to_string());
            line.rest().await;
        })
        .await;
        let gate = Gate::before(upstream.addr).await;
        let mut tls = gate.raw("app.test", "http/1.1").await;
        tls.write_all(b"POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100000\r\n\r\nsome").await.unwrap();
        let head = read_head(&mut tls).await;
        assert_eq!(status(&head), expected, "{head}");
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        // The rest of the body must not be read as a request.
        let _ = tls.write_all(b"GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
        let mut rest = Vec::new();
        let _ = tls.read_to_end(&mut rest).await;
        assert_eq!(rest, b"");
        gate.get("/").send().await.expect(expected);
        assert_eq!(numbers(&upstream), ["0", "1"], "{answer:?}");
    }
}

#[tokio::test]
async fn an_early_answer_arrives_even_when_the_upstream_closes_at_once() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        // Closing with the body unread resets the connection under the gate's writes.
        line.say("HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge").await;
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    for round in 0..10 {
        let mut tls = gate.raw("app.test", "http/1.1").await;
        tls.write_all(b"POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10000000\r\n\r\n").await.unwrap();
        let (mut read, mut write) = tokio::io::split(tls);
        let upload = tokio::spawn(async move { while write.write_all(&[b'x'; 16384]).await.is_ok() {} });
        let head = read_head(&mut read).await;
        assert_eq!(status(&head), 413, "{round}: {head}");
        upload.abort();
    }
}

#[tokio::test]
async fn every_request_of_a_connection_is_passed_as_it_is() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    for n in 0..20 {
        tls.write_all(format!("GET /{n} HTTP/1.1\r\nHost: app.test\r\nX: {n}\r\n\r\n").as_bytes()).await.unwrap();
        assert_eq!(status(&read_head(&mut tls).await), 200);
        let mut body = [0; 2];
        tls.read_exact(&mut body).await.unwrap();
        let (line, fields, _) = passed(&upstream.seen().pop().unwrap());
        assert_eq!((line, fields), (format!("GET /{n} HTTP/1.1"), vec!["host: app.test".into(), format!("x: {n}")]));
    }
}

// === Upstreams that close whenever they like ===

/// The way in which an upstream treats a connection after an answer, or instead of one.
#[derive(Debug, Clone, Copy)]
enum ConnectionEnd {
    /// Goes on.
    Stay,
    /// Ends the connection behind the answer, without having said so.
    Close,
    /// Resets the connection behind the answer.
    Reset,
    /// Ends it when the next request has come, or a part of it.
    CloseOnNext,
    /// Resets it when the next request has come.
    ResetOnNext,
}

const WHIMS: [ConnectionEnd; 8] = [
    ConnectionEnd::Stay,
    ConnectionEnd::Close,
    ConnectionEnd::Stay,
    ConnectionEnd::CloseOnNext,
    ConnectionEnd::Reset,
    ConnectionEnd::Stay,
    ConnectionEnd::ResetOnNext,
    ConnectionEnd::Stay,
];

/// Answers with the target of each request, and follows its whims, each connection from another one on.
async fn whimsical() -> RawUpstream {
    RawUpstream::serving(|mut line| async move {
        for whim in WHIMS.iter().cycle().skip(line.nth * 5 % WHIMS.len()) {
            let Some(request) = line.request().await else { return };
            let target = request.split(' ').nth(1).unwrap();
            line.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len())).await;
            match whim {
                ConnectionEnd::Stay => {}
                ConnectionEnd::Close => return,
                ConnectionEnd::Reset => return reset(line),
                ConnectionEnd::CloseOnNext => return drop(line.head().await),
                ConnectionEnd::ResetOnNext => {
                    line.head().await;
                    return reset(line);
                }
            }
        }
    })
    .await
}

fn reset(line: UpstreamConnection) {
    line.stream.set_zero_linger().unwrap();
}

#[tokio::test]
async fn hundreds_of_gets_to_an_upstream_that_closes_whenever_it_likes_are_all_answered() {
    let upstream = whimsical().await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    for n in 0..400 {
        let target = format!("/{n:03}");
        tls.write_all(format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n\r\n").as_bytes()).await.unwrap();
        let head = read_head(&mut tls).await;
        assert_eq!(status(&head), 200, "{n}: {head}");
        let mut body = [0; 4];
        tls.read_exact(&mut body).await.unwrap();
        // An answer of another request would show.
        assert_eq!(body, target.as_bytes());
    }
}

#[tokio::test]
async fn a_post_to_such_an_upstream_arrives_once_at_most() {
    let upstream = whimsical().await;
    let gate = Gate::before(upstream.addr).await;
    let mut answered = 0;
    for n in 0..200 {
        let request =
            format!("POST /{n:03} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab");
        let answer = gate.exchange(request.as_bytes()).await;
        assert!(matches!(status(&answer), 200 | 502), "{n}: {answer}");
        answered += usize::from(status(&answer) == 200);
        let arrived = upstream.seen().iter().filter(|seen| seen.starts_with(&format!("POST /{n:03} "))).count();
        assert!(arrived <= 1, "{n} arrived {arrived} times");
    }
    assert!(answered > 100, "{answered}");
}

#[tokio::test]
async fn bytes_behind_a_whole_answer_are_never_the_answer_to_another_request() {
    let extra = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let (sent, mut told) = tokio::sync::mpsc::unbounded_channel();
    let upstream = RawUpstream::serving(move |mut line| {
        let sent = sent.clone();
        async move {
            line.request().await;
            line.say(OK).await;
            // Only once the connection is idle.
            let wait = tokio::time::timeout(std::time::Duration::from_millis(100), line.request()).await;
            assert!(wait.is_err());
            line.say(extra).await;
            sent.send(()).unwrap();
            line.rest().await;
        }
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    for _ in 0..3 {
        assert_eq!(gate.post("/", "text/plain", "x").send().await.expect(200).text(), "ok");
        told.recv().await.unwrap();
    }
}

#[tokio::test]
async fn an_upstream_that_answers_before_it_has_read_all_is_heard() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        line.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly").await;
        line.rest().await;
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    for framing in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let answer = gate.exchange(format!("POST / HTTP/1.1\r\nHost: app.test\r\n{framing}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nearly"), "{answer}");
    }
}

#[tokio::test]
async fn the_upstreams_100_is_not_taken_for_the_answer() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        line.say("HTTP/1.1 100 Continue\r\n\r\n").await;
        let mut body = [0; 2];
        line.stream.read_exact(&mut body).await.unwrap();
        assert_eq!(body, *b"ab");
        line.say("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(b"POST / HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 100);
    tls.write_all(b"ab").await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 201);
}
