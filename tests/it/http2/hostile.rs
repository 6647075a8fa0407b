//! Hostile HTTP/2 requests: the HTTP/1 upstream gets one clean request, or not a byte.

use crate::kit::frames::*;
use crate::kit::gate::Gate;
use crate::kit::upstream::{RawUpstream, passed};

type Field = (&'static str, &'static str);

/// An ordinary request with one pseudo-field written in another way.
fn with(name: &'static str, value: &'static str) -> Vec<Field> {
    REQUEST.into_iter().map(|field| if field.0 == name { (name, value) } else { field }).collect()
}

/// An ordinary request with more fields.
fn and(more: &[Field]) -> Vec<Field> {
    REQUEST.iter().chain(more).copied().collect()
}

/// A request that names its host in these fields alone.
fn only(more: &[Field]) -> Vec<Field> {
    REQUEST[..3].iter().chain(more).copied().collect()
}

/// Returns what became of a request, and what of it the upstream saw.
async fn ask(gate: &Gate, upstream: &RawUpstream, fields: &[Field]) -> (String, Vec<String>) {
    let before = upstream.seen().len();
    let mut frames = Frames::open(gate).await;
    frames.write(&headers(1, WHOLE, fields)).await;
    (frames.fate().await, upstream.seen().split_off(before))
}

#[tokio::test]
async fn malformed_requests_do_not_reach_the_upstream() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let mut rows = Vec::new();
    for path in [
        "/a\tb",
        "/a\rb",
        "/a\nb",
        "/a\0b",
        "/a b",
        "/\u{7f}",
        "/ HTTP/1.1\r\nx: 1",
        "/<>\"{}|^`",
        "?q",
        "a",
        "*/",
        "*",
        "",
        "http://pbx.test/",
        "https://app.test/",
    ] {
        rows.push(with(":path", path));
    }
    for method in ["GET / HTTP/1.1\r\nx:", "", "GET\t", "G T", "GET:", "GET\0", "connect", "trace", "TRACE"] {
        rows.push(with(":method", method));
    }
    for scheme in ["ftp", "", "https\r\n", "HTTPS", "1x", "https:", "wss", "javascript"] {
        rows.push(with(":scheme", scheme));
    }
    for authority in [
        "app.test\r\nx: y",
        "app.test/x",
        "app.test, pbx.test",
        "app.test::",
        "app.test?x",
        "app.test#x",
        " app.test",
        "u@app.test",
        "u:p@app.test",
        "app.test@pbx.test",
        "app.test:99999",
        "app.test:+1",
        "app%2etest",
        "app.test\0",
        "app..test",
        ".app.test",
        "",
    ] {
        rows.push(with(":authority", authority));
    }
    for host in ["pbx.test", "app.test:80", "", "app.test, app.test", "u@app.test"] {
        rows.push(and(&[("host", host)]));
    }
    rows.push(and(&[("host", "app.test"), ("host", "app.test")]));
    rows.push(only(&[("host", "app.test"), ("host", "pbx.test")]));
    rows.push(only(&[]));
    for value in ["a\r\nb: c", "a\nb", "a\rb", "a\0b", "a\u{1}", "\u{7f}", " a", "a ", "\ta", "a\t", " "] {
        rows.push(and(&[("x", value)]));
    }
    for name in ["x\r\ny", "x:", "x y", "", "X", "x\0", "é", "x/y", "(x)"] {
        rows.push(and(&[(name, "1")]));
    }
    for (name, value) in [
        ("connection", "close"),
        ("connection", "x"),
        ("keep-alive", "5"),
        ("proxy-connection", "x"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", ""),
        ("upgrade", "websocket"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
        ("te", "TRAILERS"),
        ("te", ""),
    ] {
        rows.push(and(&[(name, value)]));
    }
    for length in ["1", "x", "", "+0", "-0", "0x0", "0, 0", " 0", "0 ", "18446744073709551616"] {
        rows.push(and(&[("content-length", length)]));
    }
    rows.push(and(&[("content-length", "0"), ("content-length", "1")]));
    rows.push(and(&[("content-length", "0"), ("content-length", "00")]));
    rows.extend(["/a#b", "/#", "/a?b#c", "#", "/#?"].map(|path| with(":path", path)));
    rows.push(and(&[(":protocol", "websocket")]));
    rows.push(vec![(":method", "CONNECT"), (":authority", "app.test:443")]);
    rows.push(vec![(":method", "CONNECT"), (":authority", "app.test:443"), ("content-length", "5")]);
    for fields in rows {
        let (fate, seen) = ask(&gate, &upstream, &fields).await;
        assert!(matches!(&*fate, "400" | "405" | "refused" | "closed"), "{fields:?}: {fate}");
        assert_eq!(seen, [""; 0], "{fields:?}");
    }
}

#[tokio::test]
async fn an_accepted_request_becomes_one_clean_request() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let get = "GET / HTTP/1.1";
    let host = "host: app.test";
    for (fields, line, expected) in [
        (with(":path", "//pbx.test/"), "GET //pbx.test/ HTTP/1.1", &[host][..]),
        (with(":path", "/%0d%0aX:1?%00"), "GET /%0d%0aX:1?%00 HTTP/1.1", &[host]),
        (with(":path", "/a\\b[]"), "GET /a\\b[] HTTP/1.1", &[host]),
        (with(":method", "get"), "get / HTTP/1.1", &[host]),
        (with(":method", "X-Y"), "X-Y / HTTP/1.1", &[host]),
        (with(":scheme", "http"), get, &[host]),
        (with(":authority", "app.test:443"), get, &["host: app.test:443"]),
        (with(":authority", "APP.test."), get, &["host: APP.test."]),
        (and(&[("host", "app.test")]), get, &[host]),
        (only(&[("host", "app.test")]), get, &[host]),
        (and(&[("http2-settings", "AAMAAABkAAQAAP__")]), get, &[host]),
        (and(&[("expect", "100-continue")]), get, &[host]),
        (
            and(&[("x_forwarded_for", "1"), ("x-forwarded-for", "1"), ("forwarded", "for=1"), ("x-real-ip", "1")]),
            get,
            &[host],
        ),
        (and(&[("content-length", "0"), ("content-length", "0")]), get, &["content-length: 0", host]),
        (and(&[("te", "trailers"), ("te", "trailers")]), get, &["connection: te", host, "te: trailers"]),
        (and(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c")]), get, &["cookie: a=1; b=2; c", host]),
        (and(&[("x", "a \t b"), ("x", "")]), get, &[host, "x: a \t b", "x: "]),
    ] {
        let (fate, seen) = ask(&gate, &upstream, &fields).await;
        assert_eq!(fate, "200", "{fields:?}");
        assert_eq!(seen.len(), 1, "{fields:?}: {seen:?}");
        assert_eq!(
            passed(&seen[0]),
            (line.into(), expected.iter().map(ToString::to_string).collect(), String::new()),
            "{fields:?}"
        );
    }
}

#[tokio::test]
async fn many_fields_pass_or_are_refused_as_one() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for (count, expected) in [(100, "200"), (400, "200"), (500, "431"), (1000, "431")] {
        let (fate, seen) = ask(&gate, &upstream, &and(&vec![("x", "1"); count])).await;
        assert_eq!(fate, expected, "{count}");
        match seen.as_slice() {
            [] => assert_eq!(expected, "431"),
            [seen] => assert_eq!(seen.matches("\r\nx: 1").count(), count),
            more => panic!("{more:?}"),
        }
    }
}

#[tokio::test]
async fn an_unclear_length_does_not_reach_the_upstream_with_a_body_either() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for (lengths, body, expected) in [
        (&["5", "5"][..], "hello", Some("content-length: 5")),
        (&["5", "6"], "hello", None),
        (&[""], "", None),
        (&["5", "05"], "hello", None),
        (&["+5"], "hello", None),
    ] {
        let before = upstream.seen().len();
        let mut frames = Frames::open(&gate).await;
        let fields: Vec<_> = POST.into_iter().chain(lengths.iter().map(|length| ("content-length", *length))).collect();
        frames.write(&headers(1, END_HEADERS, &fields)).await;
        // Behind a reset these bytes belong to no stream.
        drop(frames.try_write(&data(1, END_STREAM, body.as_bytes())).await);
        let fate = frames.fate().await;
        let seen = upstream.seen().split_off(before);
        match expected {
            Some(length) => assert_eq!(passed(&seen[0]).1, [length, "host: app.test"], "{lengths:?}"),
            None => assert!(seen.is_empty() && matches!(&*fate, "400" | "refused"), "{lengths:?}: {fate} {seen:?}"),
        }
    }
}

#[tokio::test]
async fn trailers_are_fields_and_nothing_else() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for trailer in [
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("X", "1"),
        ("x", "a\nb"),
        ("x y", "1"),
        ("te", "gzip"),
        (":path", "/other"),
        (":status", "200"),
    ] {
        let mut frames = Frames::open(&gate).await;
        let body = [post(1), data(1, 0, b"test"), headers(1, WHOLE, &[trailer])].concat();
        frames.write(&body).await;
        let fate = frames.fate().await;
        assert!(matches!(&*fate, "refused" | "400"), "{trailer:?}: {fate}");
        assert!(!upstream.seen().iter().any(|seen| seen.ends_with("0\r\n\r\n")), "{trailer:?}: {:?}", upstream.seen());
    }
}
