//! How HTTP/2 streams end: whole, cut off, refused early, or by a drain; and that other streams go on.

use std::time::Duration;

use crate::kit::frames::*;
use crate::kit::gate::Gate;
use crate::kit::stage::{Plan, until};
use crate::kit::upstream::RawUpstream;

/// Longer than callgate reads the rest of a refused body.
const LONG: Duration = Duration::from_secs(10);

/// Reads an answer to its last frame and returns its status and body. A reset instead is a failure.
async fn answer(frames: &mut Frames, stream: u32) -> (String, Vec<u8>) {
    let (mut head, mut body) = (String::new(), Vec::new());
    loop {
        let frame = frames.until("the end of the answer", |frame| frame.stream == stream).await;
        match frame.kind {
            HEADERS if head.is_empty() => head = status(&frame.payload),
            DATA => body.extend(&frame.payload),
            RST_STREAM => panic!("reset with {:?} after {head} {body:?}", frame.code()),
            _ => {}
        }
        if frame.ends_stream() {
            return (head, body);
        }
    }
}

/// A gate that refuses the second password login at the PBX.
async fn gate_for_one_login(upstream: &RawUpstream) -> Gate {
    Gate::start(&format!(
        "workers = 1\n[app]\nurl = \"http://{0}\"\n[pbx]\nurl = \"http://{0}\"\nhosts = [\"pbx.test\"]\n[limits]\npbx_logins = \"1/h\"",
        upstream.addr
    ))
    .await
}

const LOGIN: [(&str, &str); 5] = [
    (":method", "POST"),
    (":scheme", "https"),
    (":path", "/rest/system/session"),
    (":authority", "pbx.test"),
    ("authorization", "Basic YTpi"),
];

/// curl reports an error for a stream that is reset, even behind a whole answer.
#[tokio::test]
async fn a_refusal_before_the_body_has_come_does_not_reset_its_stream() {
    let upstream = RawUpstream::ok().await;
    let gate = gate_for_one_login(&upstream).await;
    let mut frames = Frames::open(&gate).await;
    frames.write(&[headers(1, END_HEADERS, &LOGIN), data(1, END_STREAM, b"first")].concat()).await;
    assert_eq!(answer(&mut frames, 1).await.0, "200");
    frames.write(&[headers(3, END_HEADERS, &LOGIN), data(3, 0, &[b'x'; 1 << 14])].concat()).await;
    assert_eq!(answer(&mut frames, 3).await.0, "429");
    // The client sends no more than its first window, because callgate need not enlarge the window.
    for _ in 0..12 {
        frames.write(&data(3, 0, &[b'x'; 1 << 14])).await;
    }
    frames.write(&data(3, END_STREAM, b"last")).await;
    // Nothing about the third stream comes before the pong.
    frames.write(&ping()).await;
    let next =
        frames.until("a pong", |frame| frame.stream == 3 && frame.kind != WINDOW_UPDATE || frame.kind == PING).await;
    assert_eq!(next.kind, PING, "{next:?}");
    assert_eq!(upstream.seen().len(), 1);
}

/// Nothing else wakes the exchange while the upstream waits for the end.
#[tokio::test]
async fn an_end_in_a_frame_of_its_own_ends_the_request_upstream() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let mut frames = Frames::open(&gate).await;
    for stream in [1, 3] {
        frames.write(&[post(stream), data(stream, 0, b"hello"), ping()].concat()).await;
        frames.until("a pong", |frame| frame.kind == PING).await;
        // The bytes go out before their end comes.
        tokio::time::sleep(Duration::from_millis(200)).await;
        frames.write(&data(stream, END_STREAM, b"")).await;
        assert_eq!(answer(&mut frames, stream).await, ("200".into(), b"ok".to_vec()));
    }
    let bodies = upstream.seen();
    assert!(bodies.iter().all(|request| request.ends_with("5\r\nhello\r\n0\r\n\r\n")), "{bodies:?}");
}

#[tokio::test]
async fn an_upstream_that_answers_early_does_not_reset_the_stream() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        line.say("HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig").await;
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    for end in [true, false] {
        let mut frames = Frames::open(&gate).await;
        frames.write(&[post(1), data(1, 0, &[b'x'; 1000])].concat()).await;
        assert_eq!(answer(&mut frames, 1).await, ("413".into(), b"big".to_vec()));
        if end {
            frames.write(&[data(1, END_STREAM, b"last"), ping()].concat()).await;
            let next = frames.until("a pong", |frame| matches!(frame.kind, PING | RST_STREAM)).await;
            assert_eq!(next.kind, PING, "{next:?}");
        } else {
            // A client that goes on gets GOAWAY without an error after a while.
            let begun = std::time::Instant::now();
            let reset = frames.until("a reset", |frame| frame.kind == RST_STREAM).await;
            assert_eq!((reset.stream, reset.code()), (1, Some(NO_ERROR)));
            assert!(begun.elapsed() < LONG);
        }
        frames.write(&get(3)).await;
        assert_eq!(answer(&mut frames, 3).await.1, b"big");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_upstream_never_looks_whole() {
    for cut in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\nx\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\nX: 1\r\n",
    ] {
        let upstream = RawUpstream::closing(cut).await;
        let gate = Gate::before(upstream.addr).await;
        let mut frames = Frames::open(&gate).await;
        frames.write(&get(1)).await;
        assert_eq!(frames.body(1).await.1, Some(INTERNAL_ERROR), "{cut:?}");
        frames.settle().await;
    }
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_head() {
    for (method, upstream, expected) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", "200"),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "200"),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 10\r\n\r\n", "204"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", "304"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "200"),
    ] {
        let upstream = RawUpstream::answering(upstream).await;
        let gate = Gate::before(upstream.addr).await;
        let mut frames = Frames::open(&gate).await;
        let mut fields = REQUEST;
        fields[0].1 = method;
        frames.write(&headers(1, WHOLE, &fields)).await;
        let head = frames.until("an answer", |frame| frame.stream == 1).await;
        assert_eq!(
            (head.kind, head.ends_stream(), status(&head.payload)),
            (HEADERS, true, expected.into()),
            "{method}"
        );
    }
}

#[tokio::test]
async fn a_client_that_resets_a_stream_cancels_its_request() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        line.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst").await;
        let rest = line.rest().await;
        line.note(format!("ended after {} bytes", rest.len()));
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut frames = Frames::open(&gate).await;
    frames.write(&get(1)).await;
    frames.until("the first half", |frame| frame.kind == DATA).await;
    frames.write(&reset(1, CANCEL)).await;
    until("the end upstream", || upstream.seen().iter().any(|seen| seen == "ended after 0 bytes")).await;
    frames.settle().await;
}

#[tokio::test]
async fn a_request_that_its_client_resets_never_looks_whole_upstream() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        let rest = line.rest().await;
        line.note(format!("body: {}", String::from_utf8_lossy(&rest)));
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut frames = Frames::open(&gate).await;
    frames.write(&[post(1), data(1, 0, b"first")].concat()).await;
    until("the head upstream", || !upstream.seen().is_empty()).await;
    frames.write(&reset(1, CANCEL)).await;
    until("the end upstream", || upstream.seen().len() == 2).await;
    assert!(!upstream.seen()[1].ends_with("0\r\n\r\n"), "{:?}", upstream.seen());
}

#[tokio::test]
async fn a_client_that_reads_nothing_on_one_stream_does_not_stop_the_others() {
    let body = vec![b'x'; 300_000];
    let mut whole = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    whole.extend(&body);
    let upstream = RawUpstream::answering(whole).await;
    let gate = Gate::before(upstream.addr).await;
    let mut frames = Frames::open_with(&gate, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    // The connection has room for all of them; the first fifty streams have none.
    frames.write(&window_update(0, 1 << 30)).await;
    for n in 0..50 {
        frames.write(&get(2 * n + 1)).await;
    }
    for n in 50..53 {
        let stream = 2 * n + 1;
        frames.write(&[get(stream), window_update(stream, 1 << 20)].concat()).await;
        let (read, reset) = frames.body(stream).await;
        assert_eq!((read.len(), reset), (body.len(), None));
    }
    // A client that reads late still gets the rest of the first.
    frames.write(&window_update(1, 1 << 20)).await;
    assert_eq!(frames.body(1).await.0.len(), body.len());
}

#[tokio::test]
async fn a_hundred_streams_with_windows_of_a_thousand_bytes_all_end() {
    let mut whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n".to_vec();
    whole.extend(vec![b'x'; 5000]);
    let upstream = RawUpstream::answering(whole).await;
    let gate = Gate::before(upstream.addr).await;
    let mut frames = Frames::open_with(&gate, &[(INITIAL_WINDOW_SIZE, 1000)]).await;
    let requests: Vec<_> = (0..100).flat_map(|n| get(2 * n + 1)).collect();
    frames.write(&requests).await;
    let mut left = 100;
    let mut bytes = 0;
    while left > 0 {
        let frame = frames.until("data", |frame| frame.kind == DATA).await;
        let taken = u32::try_from(frame.payload.len()).unwrap();
        bytes += taken;
        if frame.ends_stream() {
            left -= 1;
        }
        if taken > 0 {
            frames.write(&window_update(0, taken)).await;
            if !frame.ends_stream() {
                frames.write(&window_update(frame.stream, taken)).await;
            }
        }
    }
    assert_eq!(bytes, 500_000);
}

#[tokio::test]
async fn a_connection_with_unread_answers_ends_when_idle() {
    let mut whole = b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n".to_vec();
    whole.extend(vec![b'x'; 20_000]);
    let upstream = RawUpstream::answering(whole).await;
    let gate = Gate::before_with(upstream.addr, "", "[server.timeouts]\nidle = \"1s\"\nwrite_stall = \"1s\"").await;
    let mut frames = Frames::open_with(&gate, &[(INITIAL_WINDOW_SIZE, 1)]).await;
    for n in 0..20 {
        frames.write(&get(2 * n + 1)).await;
    }
    // callgate resets each stream or closes the connection within a few seconds.
    let ended = async { while frames.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(15), ended).await.unwrap();
}

/// RFC 9113 §6.8: first a GOAWAY that refuses no stream, and after the answer to a ping one that names the last served stream.
#[tokio::test]
async fn a_graceful_goaway_loses_no_request() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let mut frames = Frames::open(&gate).await;
    frames.write(&get(1)).await;
    assert_eq!(answer(&mut frames, 1).await.0, "200");
    gate.begin_drain();
    let first = frames.until("a GOAWAY", |frame| frame.kind == GOAWAY).await;
    assert_eq!((first.last_stream(), first.code()), ((1 << 31) - 1, Some(NO_ERROR)));
    let asked = frames.until("a ping", |frame| frame.kind == PING && frame.flags == 0).await;
    // This request was on its way when callgate wrote the GOAWAY.
    frames.write(&get(3)).await;
    assert_eq!(answer(&mut frames, 3).await, ("200".into(), b"ok".to_vec()));
    frames.write(&[post(5), frame(PING, ACK, 0, &asked.payload), get(7)].concat()).await;
    let second = frames.until("another GOAWAY", |frame| frame.kind == GOAWAY).await;
    assert_eq!((second.last_stream(), second.code()), (5, Some(NO_ERROR)));
    frames.write(&data(5, END_STREAM, b"last")).await;
    assert_eq!(answer(&mut frames, 5).await.0, "200");
    assert!(frames.next().await.is_none());
    // callgate does not process requests behind the second GOAWAY: the client may send them again elsewhere.
    assert_eq!(upstream.seen().len(), 3);
    assert_eq!(gate.drain().await, 0);
}

#[tokio::test]
async fn a_client_that_does_not_answer_the_ping_is_disconnected() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let mut frames = Frames::open(&gate).await;
    frames.write(&get(1)).await;
    assert_eq!(answer(&mut frames, 1).await.0, "200");
    gate.begin_drain();
    // The ping is never answered.
    let ended = async { while frames.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(15), ended).await.unwrap();
    assert_eq!(gate.drain().await, 0);
}

#[tokio::test]
async fn an_answer_of_our_own_to_a_body_under_way_comes_at_once() {
    let stage = Plan::default().start().await;
    let mut frames = Frames::open(&stage.gate).await;
    let fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/auth/ott"),
        (":authority", "app.test"),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    frames.write(&headers(1, END_HEADERS, &fields)).await;
    assert_eq!(answer(&mut frames, 1).await.0, "401");
    frames.write(&[data(1, END_STREAM, b"key=x"), ping()].concat()).await;
    let next = frames.until("a pong", |frame| matches!(frame.kind, PING | RST_STREAM)).await;
    assert_eq!(next.kind, PING, "{next:?}");
}
