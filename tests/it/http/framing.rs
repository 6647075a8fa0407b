//! Framing: a message that two parsers could read in two ways is refused, or rewritten so that only one reading remains.

use crate::kit::client::status;
use crate::kit::gate::Gate;
use crate::kit::upstream::{RawUpstream, passed};

/// The outcome of a request.
enum Outcome {
    /// It is answered by the gate with one of these, and no upstream sees any of it.
    Refused(&'static [u16]),
    /// The upstream sees one message with these framing fields and this body.
    Passed(&'static [&'static str], &'static str),
}
use Outcome::{Passed, Refused};

const BAD: Outcome = Refused(&[400]);
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n";

/// Sends rows of fields and body, each behind the head of a POST and before a smuggled request.
async fn check(rows: &[(&str, &str, Outcome)]) {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for (fields, body, fate) in rows {
        let before = upstream.seen().len();
        let request =
            format!("POST /x HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n{fields}\r\n{body}{SMUGGLED}");
        let answer = gate.exchange(request.as_bytes()).await;
        let seen = upstream.seen().split_off(before);
        match fate {
            Refused(statuses) => {
                assert!(statuses.contains(&status(&answer)), "{fields:?} {body:?}: {answer}");
                assert!(!seen.iter().any(|seen| seen.contains("smuggled")), "{fields:?} {body:?}: {seen:?}");
                assert_eq!(answer.matches("HTTP/1.").count(), 1, "{fields:?} {body:?}: {answer}");
            }
            Passed(framing, expected) => {
                assert_eq!(status(&answer), 200, "{fields:?} {body:?}: {answer}");
                assert_eq!(seen.len(), 1, "{fields:?} {body:?}: {seen:?}");
                let (_, fields_seen, body_seen) = passed(&seen[0]);
                let is_framing =
                    |field: &&String| field.starts_with("content-length") || field.starts_with("transfer-encoding");
                let framing_seen: Vec<_> = fields_seen.iter().filter(is_framing).collect();
                assert_eq!(framing_seen, *framing, "{fields:?} {body:?}");
                assert_eq!(body_seen, *expected, "{fields:?} {body:?}");
            }
        }
    }
}

const CHUNKED: &[&str] = &["transfer-encoding: chunked"];
const HELLO: &str = "5\r\nhello\r\n0\r\n\r\n";

#[tokio::test]
async fn cve_2023_25725_length_and_chunks_at_once_are_refused() {
    check(&[
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", HELLO, BAD),
        ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", HELLO, BAD),
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n", HELLO, BAD),
        ("Content-Length: x\r\nTransfer-Encoding: chunked\r\n", HELLO, BAD),
    ])
    .await;
}

#[tokio::test]
async fn cve_2021_40346_a_length_is_said_once_in_digits() {
    let five: &[&str] = &["content-length: 5"];
    check(&[
        ("Content-Length: 5\r\n", "hello", Passed(five, "hello")),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", "hello", Passed(five, "hello")),
        ("Content-Length:   5 \t\r\n", "hello", Passed(five, "hello")),
        ("Content-Length: 0\r\n", "", Passed(&["content-length: 0"], "")),
        ("", "", Passed(&[], "")),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", "hello", BAD),
        ("Content-Length: 5, 5\r\n", "hello", BAD),
        ("Content-Length: 5,5\r\n", "hello", BAD),
        ("Content-Length: 5,6\r\n", "hello", BAD),
        ("Content-Length: +5\r\n", "hello", BAD),
        ("Content-Length: -5\r\n", "hello", BAD),
        ("Content-Length: 0x5\r\n", "hello", BAD),
        ("Content-Length: 5.0\r\n", "hello", BAD),
        ("Content-Length: 5 5\r\n", "hello", BAD),
        ("Content-Length: \r\n", "hello", BAD),
        ("Content-Length: five\r\n", "hello", BAD),
        ("Content-Length: 18446744073709551615\r\n", "hello", BAD),
        ("Content-Length: 18446744073709551616\r\n", "hello", BAD),
        ("Content-Length: 99999999999999999999999\r\n", "hello", BAD),
        ("Content_Length: 5\r\n", "", Passed(&[], "")),
        ("Content-Length : 5\r\n", "hello", BAD),
        ("Content-Length\t: 5\r\n", "hello", BAD),
        (" Content-Length: 5\r\n", "hello", BAD),
        ("Content-Length: 5\0\r\n", "hello", BAD),
        ("Content-Length: 5\rx: y\r\n", "hello", BAD),
    ])
    .await;
}

#[tokio::test]
async fn cve_2021_40346_a_length_is_said_once_for_http2_too() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let asking = |again| {
        gate.post("/", "text/plain", "hello").header("content-length", "5").header("content-length", again).h2()
    };
    asking("5").send().await.expect(200);
    let (_, fields, body) = passed(&upstream.seen().pop().unwrap());
    let lengths: Vec<_> = fields.iter().filter(|field| field.starts_with("content-length")).collect();
    assert_eq!(lengths, ["content-length: 5"]);
    assert_eq!(body, "hello");
    asking("05").send().await.expect(400);
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn cve_2023_40225_only_chunked_alone_is_a_transfer_coding() {
    check(&[
        ("Transfer-Encoding: chunked\r\n", HELLO, Passed(CHUNKED, HELLO)),
        ("Transfer-Encoding: ChunKed\r\n", HELLO, Passed(CHUNKED, HELLO)),
        ("Transfer-Encoding:\tchunked \r\n", HELLO, Passed(CHUNKED, HELLO)),
        ("Transfer-Encoding: chunked\r\n", "5;name=\"v\"\r\nhello\r\n0\r\n\r\n", Passed(CHUNKED, HELLO)),
        ("Transfer-Encoding: chunked\r\n", "00005\r\nhello\r\n000\r\n\r\n", Passed(CHUNKED, HELLO)),
        ("Transfer-Encoding: gzip, chunked\r\n", HELLO, Refused(&[501])),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", HELLO, BAD),
        ("Transfer-Encoding: chunked, gzip\r\n", HELLO, BAD),
        ("Transfer-Encoding: chunked, chunked\r\n", HELLO, BAD),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", HELLO, BAD),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", HELLO, BAD),
        ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", HELLO, BAD),
        ("Transfer-Encoding: identity\r\n", HELLO, BAD),
        ("Transfer-Encoding: xchunked\r\n", HELLO, BAD),
        ("Transfer-Encoding: chunkedx\r\n", HELLO, BAD),
        ("Transfer-Encoding: chunked;q=1\r\n", HELLO, BAD),
        ("Transfer-Encoding: \"chunked\"\r\n", HELLO, BAD),
        ("Transfer-Encoding: chunked,\r\n", HELLO, BAD),
        ("Transfer-Encoding: ,chunked\r\n", HELLO, BAD),
        ("Transfer-Encoding: \r\n", HELLO, BAD),
        ("Transfer-Encoding: \x0bchunked\r\n", HELLO, BAD),
        ("Transfer-Encoding : chunked\r\n", HELLO, BAD),
        ("Transfer-Encoding:\r\n chunked\r\n", HELLO, BAD),
        ("X: y\r\n Transfer-Encoding: chunked\r\n", HELLO, BAD),
    ])
    .await;
}

#[tokio::test]
async fn broken_chunks_never_look_whole_upstream() {
    let upstream = RawUpstream::serving(|mut line| async move { drop(line.request().await) }).await;
    let gate = Gate::before(upstream.addr).await;
    for body in [
        "x\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloo\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhel\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\n: x\r\n\r\n",
        "5\r\nhello\r\n0\r\nx y\r\n\r\n",
    ] {
        let before = upstream.seen().len();
        let head = "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = gate.exchange(format!("{head}{body}{SMUGGLED}").as_bytes()).await;
        assert!(matches!(status(&answer), 400 | 0), "{body:?}: {answer}");
        for seen in upstream.seen().split_off(before) {
            assert!(!seen.ends_with("0\r\n\r\n") && !seen.contains("smuggled"), "{body:?}: {seen:?}");
        }
    }
}

#[tokio::test]
async fn heads_that_are_not_http_are_refused() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let many: String = (0..101).map(|n| format!("X-{n}: 1\r\n")).collect();
    let large = |bytes: usize| format!("GET / HTTP/1.1\r\nHost: app.test\r\nX: {}\r\n\r\n", "x".repeat(bytes));
    let long = |bytes: usize| format!("GET /{} HTTP/1.1\r\nHost: app.test\r\n\r\n", "x".repeat(bytes));
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n");
    for (request, expected) in [
        (get("X : y\r\n"), 400),
        (get(": y\r\n"), 400),
        (get(" X: y\r\n"), 400),
        (get("X: a\r\n b\r\n"), 400),
        (get("X: a\rb\r\n"), 400),
        (get("X: a\0b\r\n"), 400),
        (get("X: a\x01b\r\n"), 400),
        (get("X\0: a\r\n"), 400),
        (get("X\r\n"), 400),
        (get("X(y): a\r\n"), 400),
        (get("É: a\r\n"), 400),
        (get(&many), 431),
        (large(70_000), 431),
        (large(300_000), 431),
        (long(20_000), 414),
        (long(70_000), 414),
        ("GET / HTTP/2.0\r\nHost: app.test\r\n\r\n".into(), 505),
        ("GET / HTTP/0.9\r\nHost: app.test\r\n\r\n".into(), 505),
        ("GET / HTTP/1.1\nHost: app.test\n\n".into(), 400),
        ("GET / http/1.1\r\nHost: app.test\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1x\r\nHost: app.test\r\n\r\n".into(), 400),
        ("GET /\r\n\r\n".into(), 400),
        ("GET  / HTTP/1.1\r\nHost: app.test\r\n\r\n".into(), 400),
        ("GET /a b HTTP/1.1\r\nHost: app.test\r\n\r\n".into(), 400),
        ("G@T / HTTP/1.1\r\nHost: app.test\r\n\r\n".into(), 400),
        (" GET / HTTP/1.1\r\nHost: app.test\r\n\r\n".into(), 400),
        ("\0\r\n\r\n".into(), 400),
        ("POST / HTTP/1.0\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), 400),
    ] {
        let answer = gate.exchange(request.as_bytes()).await;
        assert_eq!(status(&answer), expected, "{:?}", &request[..request.len().min(80)]);
    }
    assert_eq!(upstream.seen(), [""; 0]);
}

#[tokio::test]
async fn odd_but_clear_heads_pass() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let tail = "Host: app.test\r\nConnection: close\r\n\r\n";
    for (request, line, fields) in [
        (format!("\r\n\r\nGET /a HTTP/1.1\r\n{tail}"), "GET /a HTTP/1.1", &[][..]),
        (format!("get /a HTTP/1.1\r\n{tail}"), "get /a HTTP/1.1", &[]),
        (format!("M-SEARCH /a HTTP/1.1\r\n{tail}"), "M-SEARCH /a HTTP/1.1", &[]),
        (format!("PROPFIND /a HTTP/1.1\r\n{tail}"), "PROPFIND /a HTTP/1.1", &[]),
        (format!("GET /a HTTP/1.0\r\n{tail}"), "GET /a HTTP/1.1", &[]),
        (format!("GET /a HTTP/1.1\r\nX:\r\n{tail}"), "GET /a HTTP/1.1", &["x: "]),
        (format!("GET /a HTTP/1.1\r\nX:a\tb  \t\r\n{tail}"), "GET /a HTTP/1.1", &["x: a\tb"]),
        (format!("GET /a HTTP/1.1\r\nX: 2\r\nx: 1\r\nX: 3\r\n{tail}"), "GET /a HTTP/1.1", &["x: 2", "x: 1", "x: 3"]),
        (
            format!("GET /a HTTP/1.1\r\nCookie: #a=\"b c\";;  d=é=;e\r\n{tail}"),
            "GET /a HTTP/1.1",
            &["cookie: #a=\"b c\";;  d=é=;e"],
        ),
        (format!("GET /a HTTP/1.2\r\n{tail}"), "GET /a HTTP/1.1", &[]),
    ] {
        let before = upstream.seen().len();
        let answer = gate.exchange(request.as_bytes()).await;
        assert_eq!(status(&answer), 200, "{request:?}: {answer}");
        let seen = upstream.seen().split_off(before);
        let (line_seen, fields_seen, body) = passed(&seen[0]);
        let fields_seen: Vec<_> = fields_seen.iter().filter(|field| !field.starts_with("host: ")).collect();
        assert_eq!((line_seen.as_str(), body.as_str()), (line, ""), "{request:?}");
        assert_eq!(fields_seen, fields, "{request:?}");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let requests = "POST /1 HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nab\
        POST /2 HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\ncd\r\n0\r\n\r\n\
        GET /3 HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";
    let answer = gate.exchange(requests.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
    let seen: Vec<_> = upstream.seen().iter().map(|seen| passed(seen)).collect();
    let lines: Vec<_> = seen.iter().map(|(line, _, body)| (line.as_str(), body.as_str())).collect();
    assert_eq!(
        lines,
        [("POST /1 HTTP/1.1", "ab"), ("POST /2 HTTP/1.1", "2\r\ncd\r\n0\r\n\r\n"), ("GET /3 HTTP/1.1", "")]
    );
}

#[tokio::test]
async fn a_body_that_our_own_answer_did_not_need_is_not_read_as_a_request() {
    const LAST: &str = "GET /last HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for (line, expected) in [
        ("OPTIONS *", 204),
        ("TRACE /", 405),
        ("GET /auth/pbx", 404),
        ("POST /auth/ott", 404),
        ("OPTIONS /auth/ott", 404),
        ("GET /auth//pbx", 400),
        ("POST /auth/callgate/none", 404),
    ] {
        let length = SMUGGLED.len();
        let framings = [
            format!("Content-Length: {length}\r\n\r\n{SMUGGLED}"),
            format!("Content-Length: 100000\r\n\r\n{SMUGGLED}"),
            format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{SMUGGLED}\r\n0\r\n\r\n"),
            format!("Transfer-Encoding: chunked\r\n\r\nffff\r\n{SMUGGLED}"),
        ];
        for framing in framings {
            let request = format!("{line} HTTP/1.1\r\nHost: app.test\r\n{framing}{LAST}");
            let answer = gate.exchange(request.as_bytes()).await;
            assert_eq!(status(&answer), expected, "{line} {framing:?}: {answer}");
            // Either the whole body is left behind, or the connection ends with the answer.
            assert!(answer.matches("HTTP/1.").count() <= 2, "{line} {framing:?}: {answer}");
        }
    }
    let seen = upstream.seen();
    assert!(seen.iter().all(|seen| seen.starts_with("GET /last ")), "{seen:?}");
}

#[tokio::test]
async fn trap_a_body_of_unknown_length_behind_get_is_not_lost() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "POST"] {
        let head = format!("{method} / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n");
        gate.exchange(format!("{head}Transfer-Encoding: chunked\r\n\r\n{HELLO}").as_bytes()).await;
        let seen = upstream.seen().pop().unwrap();
        assert!(seen.contains("transfer-encoding: chunked\r\n") && seen.ends_with(HELLO), "{method}: {seen}");
        gate.exchange(format!("{head}Content-Length: 5\r\n\r\nhello").as_bytes()).await;
        let seen = upstream.seen().pop().unwrap();
        assert!(seen.contains("content-length: 5\r\n") && seen.ends_with("\r\n\r\nhello"), "{method}: {seen}");
    }
}

#[tokio::test]
async fn trailers_pass_both_ways_when_announced() {
    let upstream = RawUpstream::closing(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 9\r\n\r\n",
    )
    .await;
    let gate = Gate::before(upstream.addr).await;
    let request = "POST / HTTP/1.1\r\nHost: app.test\r\nConnection: close, TE\r\nTE: trailers\r\nTrailer: X-End, X-Forwarded-For\r\n\
        Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-End: 1\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n";
    let answer = gate.exchange(request.as_bytes()).await;
    assert!(answer.ends_with("\r\n\r\n2\r\nok\r\n0\r\nx-sum: 9\r\n\r\n"), "{answer}");
    let seen = upstream.seen();
    assert!(seen[0].contains("te: trailers\r\n"), "{seen:?}");
    assert!(seen[0].ends_with("5\r\nhello\r\n0\r\nx-end: 1\r\n\r\n"), "{seen:?}");
    assert!(!seen[0].contains("10.0.0.1"), "{seen:?}");
}

#[tokio::test]
async fn lying_answers_become_502() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 999 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 600 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 -20 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nConnection: set-cookie\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\nok",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "220 mail ready\r\n",
        "ICY 200 OK\r\n\r\n",
        "<html>hello</html>",
        "\r\n",
        "",
    ] {
        let upstream = RawUpstream::closing(answer).await;
        let gate = Gate::before(upstream.addr).await;
        let got = gate.exchange(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await;
        assert_eq!(status(&got), 502, "{answer:?}: {got}");
        assert_eq!(upstream.seen().len(), 1, "{answer:?}");
    }
}

#[tokio::test]
async fn a_head_too_large_of_an_answer_becomes_502() {
    for answer in [
        format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(300_000)),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(1000)),
    ] {
        let upstream = RawUpstream::closing(answer).await;
        let gate = Gate::before(upstream.addr).await;
        gate.get("/").send().await.expect(502);
    }
}

/// Sends a request and compares the answer, without its `Date`, with rows.
async fn check_answer(request: &str, answer: &str, expected: &str) {
    let upstream = RawUpstream::closing(answer).await;
    let gate = Gate::before(upstream.addr).await;
    let got = gate.exchange(request.as_bytes()).await;
    let (head, body) = got.split_once("\r\n\r\n").unwrap_or((&got, ""));
    let (expected_head, expected_body) = expected.split_once("\r\n\r\n").unwrap();
    let fields = |head: &str| {
        let mut fields: Vec<_> =
            head.split("\r\n").filter(|field| !field.starts_with("date: ")).map(str::to_owned).collect();
        // Equal names keep their order.
        fields[1..].sort_by(|one, other| one.split(':').next().cmp(&other.split(':').next()));
        fields
    };
    assert_eq!((fields(head), body), (fields(expected_head), expected_body), "{answer:?}");
}

const GET: &str = "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";
const GET_10: &str = "GET / HTTP/1.0\r\nHost: app.test\r\n\r\n";
const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn honest_answers_pass_as_they_are() {
    for (request, answer, expected) in [
        (
            GET,
            "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 Fine\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        ),
        (
            GET,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        ),
        (
            GET,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        (
            GET,
            "HTTP/1.0 200 OK\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        (
            GET,
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        ),
        (GET_10, "HTTP/1.1 200 OK\r\n\r\nok", "HTTP/1.0 200 OK\r\n\r\nok"),
        (
            GET_10,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\nok",
        ),
        (
            HEAD,
            "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\nconnection: close\r\n\r\n",
        ),
        (HEAD, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"),
        (GET, "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"),
        (
            GET,
            "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
        ),
        (
            GET,
            "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 9\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\ncontent-length: 9\r\nconnection: close\r\n\r\n",
        ),
        (
            GET,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        ),
        (
            GET,
            "HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/\r\nX-Empty:\r\nSet-Cookie: b=\"2\", c\r\nX-Name: caf\u{e9}\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nset-cookie: a=1; Path=/\r\nset-cookie: b=\"2\", c\r\nx-empty: \r\nx-name: caf\u{e9}\r\n\
             content-length: 0\r\nconnection: close\r\n\r\n",
        ),
        (
            GET,
            "HTTP/1.1 299 \r\nContent-Length: 0\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nConnection: X-Hop\r\nConnection: X-Hip\r\nX-Hop: 1\r\nX-Hip: 2\r\nX-Stay: 3\r\n\r\n",
            "HTTP/1.1 299 \r\ncontent-length: 0\r\nx-stay: 3\r\nconnection: close\r\n\r\n",
        ),
    ] {
        check_answer(request, answer, expected).await;
    }
}

/// RFC 9112 §6.1: a request with both fields may smuggle another, so the connection ends behind it.
#[tokio::test]
async fn a_connection_ends_after_length_and_chunks_at_once() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let request = format!(
        "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n{HELLO}{SMUGGLED}"
    );
    let answer = gate.exchange(request.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(!upstream.seen().iter().any(|seen| seen.contains("smuggled")));
}

#[tokio::test]
async fn answers_whose_lines_all_end_with_a_line_feed_alone_pass_and_others_do_not() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\nX: a\nContent-Length: 2\n\nok", 200),
        ("HTTP/1.0 200 OK\nX: a\n\nok", 200),
        ("HTTP/1.1 103 Early Hints\nLink: </a>\n\nHTTP/1.1 200 OK\nX: a\nContent-Length: 2\n\nok", 200),
        ("HTTP/1.1 200 OK\r\nX: a\nContent-Length: 2\r\n\r\nok", 502),
        ("HTTP/1.1 200 OK\nX: a\r\nContent-Length: 2\n\nok", 502),
        ("HTTP/1.1 200 OK\nX: a\nContent-Length: 2\n\r\nok", 502),
    ] {
        let upstream = RawUpstream::closing(answer).await;
        let gate = Gate::before(upstream.addr).await;
        let seen = gate.get("/").send().await;
        assert_eq!(seen.status.as_u16(), expected, "{answer:?}");
        if expected == 200 {
            assert_eq!((seen.header("x"), seen.text()), ("a", "ok"), "{answer:?}");
        }
    }
}
