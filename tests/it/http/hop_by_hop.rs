//! Hop-by-hop fields end at callgate, in every spelling and however many `Connection` lines name them.

use crate::kit::client::status;
use crate::kit::gate::Gate;
use crate::kit::upstream::{RawUpstream, passed};

/// Sends fields with a GET and compares what the upstream sees of them.
async fn check(gate: &Gate, upstream: &RawUpstream, fields: &str, expected: &[&str]) {
    let request = format!("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n{fields}\r\n");
    let answer = gate.exchange(request.as_bytes()).await;
    assert_eq!(status(&answer), 200, "{fields:?}: {answer}");
    let (_, mut seen, _) = passed(&upstream.seen().pop().unwrap());
    seen.retain(|field| field != "host: app.test");
    assert_eq!(seen, expected, "{fields:?}");
}

#[tokio::test]
async fn cve_2021_33197_fields_of_every_connection_line_go() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for (fields, expected) in [
        ("Connection: X-A\r\nX-A: 1\r\nX-B: 2\r\n", &["x-b: 2"][..]),
        ("Connection: X-A\r\nConnection: X-B\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\n", &["x-c: 3"]),
        ("X-A: 1\r\nX-A: 2\r\nConnection: ,x-a , keep-alive,\r\n", &[]),
        ("Connection: X-A, \u{e9}, X-B\r\nX-A: 1\r\nX-B: 2\r\n", &[]),
        ("Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n", &[]),
        ("Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: Upgrade, HTTP2-Settings\r\n", &[]),
        ("Upgrade: TLS/1.0\r\n", &[]),
        ("TE: trailers\r\nConnection: TE\r\n", &["connection: te", "te: trailers"]),
        ("TE: gzip, trailers;q=0.5\r\nConnection: TE\r\n", &[]),
        ("TE: gzip\r\n", &[]),
        ("Trailer: X-Sum\r\n", &["trailer: X-Sum"]),
        ("Expect: 100-continue\r\n", &[]),
        ("Proxy-Authorization: Basic x\r\n", &["proxy-authorization: Basic x"]),
    ] {
        check(&gate, &upstream, fields, expected).await;
    }
}

#[tokio::test]
async fn cve_2024_45410_connection_takes_no_protected_field_away() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for name in [
        "Host",
        "content-length",
        "Cookie",
        "authorization",
        "X-Forwarded-For",
        "x-forwarded-host",
        "X_Forwarded_Proto",
        "X-Real-IP",
        "Forwarded",
        "X-Request-Id",
        "Via",
        "Origin",
        "hOsT",
        "X-A,\tHost\t",
        ",,Cookie,,",
        "X-A\r\nConnection: x.real.ip",
        "close, X-A\r\nX-Between: 1\r\nConnection: X-B , FORWARDED",
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nConnection: {name}\r\n\r\n");
        assert_eq!(status(&gate.exchange(request.as_bytes()).await), 400, "{name}");
    }
    assert_eq!(upstream.seen(), [""; 0]);
}

#[tokio::test]
async fn a_word_that_only_looks_like_a_field_name_removes_no_field() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for token in ["\"Cookie\"", "Cookie;q=1", "Cookie=1", "(Cookie)", "X Cookie", "Coo\u{e9}kie", "Cookie\u{a0}"] {
        check(&gate, &upstream, &format!("Connection: {token}\r\nCookie: a=1\r\n"), &["cookie: a=1"]).await;
    }
}

#[tokio::test]
async fn the_framing_of_this_hop_is_not_taken_away_by_its_name() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let request = "POST / HTTP/1.1\r\nHost: app.test\r\nConnection: close, Transfer-Encoding, Trailer\r\n\
        Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n";
    assert_eq!(status(&gate.exchange(request.as_bytes()).await), 200);
    let (_, fields, body) = passed(&upstream.seen().pop().unwrap());
    assert_eq!(
        (fields.join("|"), body.as_str()),
        ("host: app.test|transfer-encoding: chunked".into(), "2\r\nok\r\n0\r\n\r\n")
    );
}

#[tokio::test]
async fn cve_2026_55458_fields_of_an_answers_connection_lines_go() {
    let upstream = RawUpstream::closing(
        "HTTP/1.1 200 OK\r\nConnection: X-A\r\nConnection: x-b, close\r\nX-A: 1\r\nX-A: 2\r\nX-B: 3\r\nX-C: 4\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let gate = Gate::before(upstream.addr).await;
    let h1 = gate.get("/").send().await.expect(200);
    let h2 = gate.get("/").h2().send().await.expect(200);
    for answer in [h1, h2] {
        let mut names: Vec<_> = answer.headers.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "date", "x-c"]);
    }
}

#[tokio::test]
async fn remaining_fields_keep_their_order() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nConnection: X-Hop, close\r\nServer: a\r\nX-Hop: 1\r\nSet-Cookie: a\r\n\
        PBX-Lang: en\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nKeep-Alive: 5\r\nSet-Cookie: b\r\nContent-Length: 2\r\nX-Last: 1\r\n\r\nok";
    let upstream = RawUpstream::closing(ANSWER).await;
    let gate = Gate::before(upstream.addr).await;
    let request = "GET / HTTP/1.1\r\nConnection: X-Hop\r\nHost: app.test\r\nX-Real-IP: 1\r\nUser-Agent: a\r\nX-Hop: 1\r\n\
        TE: trailers\r\nForwarded: for=a\r\nAccept: b\r\nConnection: close\r\nVia: 1.1 c\r\nX-Forwarded-For: d\r\nExpect: 100-continue\r\n\
        Cookie: e\r\n\r\n";
    let answer = gate.exchange(request.as_bytes()).await;
    let names = |head: &str| {
        let lines = head.split("\r\n\r\n").next().unwrap().lines().skip(1);
        lines.map(|line| line.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let seen = names(&upstream.seen().pop().unwrap());
    let theirs = ["connection", "host", "user-agent", "te", "accept", "via", "via", "cookie"];
    let ours = ["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id"];
    assert_eq!(seen, [&theirs[..], &ours].concat());
    let last = "connection";
    assert_eq!(
        names(&answer),
        ["server", "set-cookie", "set-cookie", "date", "content-length", "x-last", last],
        "{answer}"
    );
}

#[tokio::test]
async fn an_expectation_that_is_not_ours_is_the_upstreams() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for (fields, expected) in [
        ("Expect: 100-Continue\r\n", &[][..]),
        ("Expect: 100-continue\r\nExpect: 100-continue, 100-continue\r\n", &[]),
        ("Expect: gold\r\n", &["expect: gold"]),
        ("Expect: 100-continue\r\nExpect: gold\r\n", &["expect: 100-continue", "expect: gold"]),
    ] {
        check(&gate, &upstream, fields, expected).await;
    }
}

#[tokio::test]
async fn this_hop_is_named_in_via() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for (version, expected) in
        [("1.1", "via: 1.0 other, 1.1 more\r\nvia: 1.1 callgate\r\n"), ("1.0", "via: 1.0 callgate\r\n")]
    {
        let request =
            format!("GET / HTTP/{version}\r\nHost: app.test\r\nConnection: close\r\nVia: 1.0 other, 1.1 more\r\n\r\n");
        gate.exchange(request.as_bytes()).await;
        let seen = upstream.seen().pop().unwrap();
        assert!(seen.contains(expected), "{seen}");
    }
    gate.get("/").h2().send().await.expect(200);
    assert!(upstream.seen().pop().unwrap().contains("via: 2.0 callgate\r\n"));
}

#[tokio::test]
async fn trailers_of_a_request_carry_no_field_of_a_head() {
    const FIELDS: &str = "X-A: 1\r\nCookie: a=1\r\nOrigin: https://evil.test\r\nConnection: close\r\nUpgrade: h2c\r\nVia: 1.1 x\r\n\
        Host: evil.test\r\nContent-Length: 9\r\nTransfer-Encoding: gzip\r\nAuthorization: Basic x\r\nx_real.ip: 1.2.3.4\r\nX-B: 2\r\n";
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let names: Vec<_> = FIELDS.lines().map(|line| line.split(':').next().unwrap()).collect();
    let announced = format!("Trailer: {}\r\nTrailer: X-B\r\n", names[..names.len() - 1].join(", "));
    let request = format!(
        "POST / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n{announced}Transfer-Encoding: chunked\r\n\r\n\
         2\r\nok\r\n0\r\n{FIELDS}\r\n"
    );
    assert_eq!(status(&gate.exchange(request.as_bytes()).await), 200);
    let (_, _, body) = passed(&upstream.seen().pop().unwrap());
    assert_eq!(body, "2\r\nok\r\n0\r\nx-a: 1\r\nx-b: 2\r\n\r\n");
}

#[tokio::test]
async fn options_go_as_many_hops_as_they_say() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for (method, said, passed_on) in [
        ("OPTIONS", "0", None),
        ("OPTIONS", "1", Some("0")),
        ("OPTIONS", "10", Some("9")),
        // A value that is no number, or that stands beside another method, stays unchanged.
        ("OPTIONS", "+1", Some("+1")),
        ("OPTIONS", "99999999999", Some("99999999999")),
        ("GET", "0", Some("0")),
    ] {
        let before = upstream.seen().len();
        let request =
            format!("{method} /x HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nMax-Forwards: {said}\r\n\r\n");
        let answer = gate.exchange(request.as_bytes()).await;
        assert_eq!(status(&answer), if passed_on.is_some() { 200 } else { 204 }, "{method} {said}: {answer}");
        let seen = upstream.seen().split_off(before);
        let left = seen.first().and_then(|seen| seen.lines().find_map(|line| line.strip_prefix("max-forwards: ")));
        assert_eq!(left, passed_on, "{method} {said}: {seen:?}");
    }
}
