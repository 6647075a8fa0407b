//! WebSockets over HTTP/2 (RFC 8441): each is one stream, and opens, carries and ends as over HTTP/1.1.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::header::HeaderName;
use http::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::connect;
use crate::kit::frames::{END_HEADERS, Frames, PROTOCOL_ERROR, RST_STREAM, headers};
use crate::kit::gate::Gate;
use crate::kit::stage::{Plan, Stage, until};
use crate::kit::upstream::{RawUpstream, UpstreamConnection, passed};

/// The law's number for the setting that offers it.
const ENABLE_CONNECT_PROTOCOL: u16 = 8;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn ask(path: &str) -> http::request::Builder {
    Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://app.test{path}"))
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
}

/// Asks once the gate's offer is here, as the law wants it.
async fn send(gate: &mut SendRequest<Bytes>, ask: http::request::Builder) -> (Response<RecvStream>, SendStream<Bytes>) {
    until("the offer", || gate.is_extended_connect_protocol_enabled()).await;
    let (response, stream) = gate.send_request(ask.body(()).unwrap(), false).unwrap();
    (response.await.unwrap(), stream)
}

/// One that is agreed.
struct Socket {
    up: SendStream<Bytes>,
    down: RecvStream,
}

impl Socket {
    async fn open(gate: &mut SendRequest<Bytes>, path: &str) -> Self {
        let (response, up) = send(gate, ask(path)).await;
        assert_eq!(response.status(), 200);
        Self { up, down: response.into_body() }
    }

    fn say(&mut self, text: &str) {
        self.up.send_data(Bytes::copy_from_slice(text.as_bytes()), false).unwrap();
    }

    fn end(&mut self) {
        self.up.send_data(Bytes::new(), true).unwrap();
    }

    /// Hears as many bytes as this text has.
    async fn expect(&mut self, text: &str) {
        let mut heard = Vec::new();
        while heard.len() < text.len() {
            let data = self.next().await.unwrap().unwrap();
            heard.extend_from_slice(&data);
        }
        assert_eq!(String::from_utf8_lossy(&heard), text);
    }

    async fn next(&mut self) -> Option<Result<Bytes, h2::Error>> {
        next(&mut self.down).await
    }

    /// Hears the rest: what was said, and how it was broken off if it was.
    async fn rest(&mut self) -> (String, Option<Reason>) {
        let mut heard = Vec::new();
        loop {
            match self.next().await {
                Some(Ok(data)) => heard.extend_from_slice(&data),
                Some(Err(error)) => return (String::from_utf8_lossy(&heard).into_owned(), error.reason()),
                None => return (String::from_utf8_lossy(&heard).into_owned(), None),
            }
        }
    }
}

/// Reads the next bytes of a stream, and makes room for as many more.
async fn next(down: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let data = tokio::time::timeout(PATIENCE, down.data()).await.expect("the gate sends nothing");
    if let Some(Ok(data)) = &data {
        down.flow_control().release_capacity(data.len()).unwrap();
    }
    data
}

/// Agrees to the WebSocket that the next head asks for, and returns the path.
async fn agree(line: &mut UpstreamConnection, more: &str) -> String {
    let head = line.head().await.unwrap_or_default();
    let key = head.lines().find_map(|field| field.strip_prefix("sec-websocket-key: ")).unwrap_or_default();
    let accept = derive_accept_key(key.as_bytes());
    line.say(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n{more}"
    ))
    .await;
    head.split(' ').nth(1).unwrap_or_default().to_owned()
}

/// Says its path, and then every byte again.
async fn echo() -> RawUpstream {
    RawUpstream::serving(|mut line| async move {
        let path = agree(&mut line, "\r\n").await;
        line.say(path).await;
        let (mut read, mut write) = line.stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

/// Tells whether `/metrics` has these lines.
async fn counted(gate: &Gate, lines: &[&str]) {
    until(&format!("{lines:?}"), || {
        let told = gate.told("/metrics");
        lines.iter().all(|line| told.lines().any(|told| told == *line))
    })
    .await;
}

#[tokio::test]
async fn a_websocket_is_offered_and_becomes_an_upgrade_upstream() {
    let upstream = RawUpstream::serving(|mut line| async move {
        let more = "Sec-WebSocket-Protocol: sip\r\nSec-WebSocket-Extensions: x\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
            PBX-Account: 40\r\nContent-Length: 5\r\nX-Stay: 2\r\n\r\nfirst";
        agree(&mut line, more).await;
        let mut early = [0; 5];
        line.stream.read_exact(&mut early).await.unwrap();
        line.note(String::from_utf8_lossy(&early).into_owned());
        line.say("second").await;
        line.rest().await;
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut client = connect(&gate).await;
    until("the offer", || client.is_extended_connect_protocol_enabled()).await;
    let asking = ask("/ws?a=b")
        .header("origin", "https://app.test")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("sec-websocket-protocol", "sip")
        .header("sec-websocket-extensions", "x")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("x-forwarded-for", "1.2.3.4")
        .header("x-forwarded-host", "evil.test");
    let (response, mut up) = client.send_request(asking.body(()).unwrap(), false).unwrap();
    // Before there is an answer.
    up.send_data(Bytes::from_static(b"early"), false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let mut fields: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["date", "sec-websocket-extensions", "sec-websocket-protocol", "x-stay"]);
    let mut socket = Socket { up, down: response.into_body() };
    socket.expect("firstsecond").await;
    socket.end();
    assert_eq!(socket.rest().await, (String::new(), None));
    let seen = upstream.seen();
    assert_eq!(seen[1], "early");
    let (line, mut fields, body) = passed(&seen[0]);
    assert_eq!((line.as_str(), body.as_str()), ("GET /ws?a=b HTTP/1.1", ""));
    let key = fields.iter().position(|field| field.starts_with("sec-websocket-key: ")).unwrap();
    let key = fields.remove(key);
    assert!(key.len() == "sec-websocket-key: ".len() + 24 && !key.contains("dGhlIHNhbXBsZSBub25jZQ=="), "{key}");
    assert_eq!(
        fields,
        [
            "connection: upgrade",
            "cookie: a=1; b=2",
            "host: app.test",
            "origin: https://app.test",
            "sec-websocket-extensions: x",
            "sec-websocket-protocol: sip",
            "sec-websocket-version: 13",
            "upgrade: websocket",
        ]
    );
    assert!(seen[0].contains("x-forwarded-for: 127.0.0.1\r\n") && !seen[0].contains("evil"), "{}", seen[0]);
    let line = gate.line(&["method=CONNECT", "status=200"]).await;
    for part in ["target=\"/ws?a=b\"", "http=2", "upstream=app", "sent=11", "received=5", "ended=complete"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let ended = ["callgate_tunnels_total 1", "callgate_tunnels_open 0"];
    counted(&gate, &ended).await;
    counted(&gate, &["callgate_tunnels_ended_total{reason=\"closed\"} 1"]).await;
}

#[tokio::test]
async fn frames_and_close_codes_pass_over_http2_too() {
    let stage = Plan::default().start().await;
    let Stage { gate, app, pbx } = &stage;
    let session = pbx.open_session("40", "acme.test");
    gate.canary(&session);
    let rows = [
        ("app.test", "/ws", app.log_in("alice")),
        ("pbx.test", "/websocket?domain=acme.test&user=40", format!("session={session}")),
    ];
    for (host, path, cookie) in rows {
        let tls = TokioIo::new(gate.raw(host, "h2").await);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake::<_, _, String>(TokioExecutor::new(), tls).await.unwrap();
        let driven = tokio::spawn(connection);
        // An answer means that the settings are here, and with them the offer.
        sender.send_request(Request::get(format!("https://{host}/")).body(String::new()).unwrap()).await.unwrap();
        let request = Request::connect(format!("https://{host}{path}"))
            .extension(hyper::ext::Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13")
            .header("cookie", cookie);
        let response = sender.send_request(request.body(String::new()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200, "{host}{path}");
        let stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
        socket.send(Message::text("hello")).await.unwrap();
        let frame = CloseFrame { code: 4003.into(), reason: "bye".into() };
        socket.close(Some(frame)).await.unwrap();
        let mut closed = None;
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Close(Some(frame)) = message {
                closed = Some(u16::from(frame.code));
            }
        }
        assert_eq!(closed, Some(4003), "{host}{path}");
        driven.abort();
    }
}

#[tokio::test]
async fn websockets_of_one_connection_are_kept_apart() {
    let upstream = echo().await;
    let gate = Gate::before(upstream.addr).await;
    let client = connect(&gate).await;
    let sockets = (0..50).map(|nth| {
        let mut client = client.clone();
        async move {
            let mut socket = Socket::open(&mut client, &format!("/{nth}")).await;
            for said in 0..20 {
                socket.say(&format!(" {nth}.{said}"));
            }
            socket.end();
            let expected: String = (0..20).map(|said| format!(" {nth}.{said}")).collect();
            assert_eq!(socket.rest().await, (format!("/{nth}{expected}"), None));
        }
    });
    futures_util::future::join_all(sockets).await;
    counted(&gate, &["callgate_tunnels_total 50", "callgate_tunnels_open 0"]).await;
}

#[tokio::test]
async fn megabytes_pass_both_ways_byte_for_byte() {
    const SIZE: usize = 8 << 20;
    let upstream = echo().await;
    let gate = Gate::before(upstream.addr).await;
    let mut client = connect(&gate).await;
    let mut socket = Socket::open(&mut client, "/").await;
    socket.expect("/").await;
    let Socket { mut up, mut down } = socket;
    let byte = |at: usize| (at % 251) as u8;
    let sending = tokio::spawn(async move {
        let mut sent = 0;
        while sent < SIZE {
            up.reserve_capacity((SIZE - sent).min(100_000));
            let room = std::future::poll_fn(|cx| up.poll_capacity(cx)).await.unwrap().unwrap();
            let data: Vec<_> = (sent..SIZE.min(sent + room)).map(byte).collect();
            sent += data.len();
            up.send_data(data.into(), false).unwrap();
        }
        up.send_data(Bytes::new(), true).unwrap();
    });
    // The bytes are read while they are sent: the buffers on the way need not hold all of them.
    let mut heard = 0;
    while let Some(data) = next(&mut down).await {
        let data = data.unwrap();
        assert!(data.iter().enumerate().all(|(at, said)| *said == byte(heard + at)), "after {heard}");
        heard += data.len();
    }
    assert_eq!(heard, SIZE);
    sending.await.unwrap();
}

#[tokio::test]
async fn an_answer_that_does_not_agree_opens_no_websocket() {
    let right = "Sec-WebSocket-Accept: ";
    for (answer, expected) in [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403),
        ("HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", 302),
        ("HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n", 426),
        ("HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", 500),
        // To the client these would mean that its stream is a WebSocket.
        ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret", 502),
        ("HTTP/1.1 204 No Content\r\n\r\n", 502),
        ("HTTP/1.1 299 Odd\r\nContent-Length: 6\r\n\r\nsecret", 502),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nsecret", 502),
        (
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nsecret",
            502,
        ),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n@@\r\nsecret", 502),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n@\r\nsecret", 502),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n@\r\nsecret", 502),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n@\r\nsecret", 502),
    ] {
        let upstream = RawUpstream::serving(move |mut line| async move {
            while let Some(head) = line.head().await {
                let key = head.lines().find_map(|field| field.strip_prefix("sec-websocket-key: ")).unwrap_or_default();
                line.say(answer.replace('@', &format!("{right}{}\r\n", derive_accept_key(key.as_bytes())))).await;
            }
        })
        .await;
        let gate = Gate::before(upstream.addr).await;
        let mut client = connect(&gate).await;
        // The connection goes on.
        for _ in 0..2 {
            let (response, up) = send(&mut client, ask("/")).await;
            assert_eq!(response.status(), expected, "{answer}");
            assert!(!response.headers().contains_key("sec-websocket-accept"), "{answer}");
            let mut socket = Socket { up, down: response.into_body() };
            let (body, reset) = socket.rest().await;
            assert!(!body.contains("secret"), "{answer}: {body}");
            assert_eq!(body == "no", answer.contains("no\r\n0") || answer.ends_with("no"), "{answer}: {body}");
            assert!(matches!(reset, None | Some(Reason::NO_ERROR)), "{answer}: {reset:?}");
        }
        counted(&gate, &["callgate_tunnels_total 0"]).await;
    }
}

#[tokio::test]
async fn an_unclear_websocket_request_is_not_passed_on() {
    let upstream = RawUpstream::ok().await;
    let app = "whoami = \"/api/me\"\nhosts = [\"app.test\"]";
    let stage = Plan { app, app_at: Some(upstream.addr), ..Plan::default() }.start().await;
    let gate = &stage.gate;
    type Fields<'a> = &'a [(&'a str, &'a str)];
    const ALL: [(&str, &str); 5] = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", "/"),
        (":authority", "app.test"),
    ];
    let with =
        |name: &str, value: &'static str| ALL.map(|field| if field.0 == name { (field.0, value) } else { field });
    let without = |name: &str| ALL.into_iter().filter(|field| field.0 != name).collect::<Vec<_>>();
    let rows: [(Fields<'_>, &str); 20] = [
        (&[(":method", "CONNECT"), (":authority", "app.test:443")], "405"),
        (&with(":path", "/auth/pbx"), "405"),
        (&with(":path", "/auth/ott"), "405"),
        // Without a hand-over by cookie there is no ticket, whatever the method.
        (&with(":path", "/auth/callgate/x"), "404"),
        (&with(":path", "/%61uth/pbx"), "400"),
        (&with(":protocol", "connect-udp"), "501"),
        (&with(":protocol", "h2c"), "501"),
        (&with(":protocol", "websocket, h2c"), "501"),
        (&with(":protocol", ""), "501"),
        (&with(":authority", "other.test"), "421"),
        (&with(":scheme", "wss"), "400"),
        (&with(":path", "*"), "400"),
        (&with(":path", "ws"), "reset"),
        (&with(":method", "GET"), "reset"),
        (&with(":method", "connect"), "reset"),
        (&without(":scheme"), "reset"),
        (&without(":path"), "reset"),
        (&without(":protocol"), "reset"),
        (&without(":authority"), "400"),
        (&[&ALL[..], &[("upgrade", "websocket")]].concat(), "reset"),
    ];
    for (fields, expected) in rows {
        let mut frames = Frames::open(gate).await;
        assert!(frames.allowed.contains(&(ENABLE_CONNECT_PROTOCOL, 1)), "{:?}", frames.allowed);
        frames.write(&headers(1, END_HEADERS, fields)).await;
        if expected == "reset" {
            let reset = frames.until("a reset", |frame| frame.kind == RST_STREAM).await;
            assert_eq!(reset.code(), Some(PROTOCOL_ERROR), "{fields:?}");
        } else {
            assert_eq!(frames.fate().await, expected, "{fields:?}");
        }
        frames.settle().await;
    }
    // The library ends the connection.
    let mut frames = Frames::open(gate).await;
    frames.write(&headers(1, END_HEADERS, &[&ALL[..], &[("content-length", "5")]].concat())).await;
    assert!(matches!(&*frames.fate().await, "closed" | "refused"));
    assert_eq!(upstream.seen(), [""; 0]);
    gate.line(&["status=501", "reason=unsupported_protocol"]).await;
}

#[tokio::test]
async fn either_side_of_a_stream_may_end_first() {
    let upstream = RawUpstream::serving(|mut line| async move {
        if agree(&mut line, "\r\n").await == "/client" {
            let rest = line.rest().await;
            line.say(format!("heard {}", String::from_utf8_lossy(&rest))).await;
        } else {
            line.say("all").await;
            line.stream.shutdown().await.unwrap();
            let rest = line.rest().await;
            line.note(String::from_utf8_lossy(&rest).into_owned());
        }
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut client = connect(&gate).await;
    let mut socket = Socket::open(&mut client, "/client").await;
    socket.say("question");
    socket.end();
    assert_eq!(socket.rest().await, ("heard question".into(), None));
    let mut socket = Socket::open(&mut client, "/upstream").await;
    assert_eq!(socket.rest().await, ("all".into(), None));
    socket.say("later");
    socket.end();
    until("what was said later", || upstream.seen().last().unwrap() == "later").await;
    counted(&gate, &["callgate_tunnels_ended_total{reason=\"closed\"} 2", "callgate_tunnels_open 0"]).await;
}

/// Chromium sends nothing on the stream of a WebSocket that its server has ended.
#[tokio::test]
async fn a_client_that_is_silent_after_the_upstreams_end_keeps_no_tunnel() {
    let upstream = RawUpstream::serving(|mut line| async move {
        agree(&mut line, "\r\n").await;
        line.say("all").await;
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut client = connect(&gate).await;
    let mut socket = Socket::open(&mut client, "/").await;
    assert_eq!(socket.rest().await, ("all".into(), None));
    counted(&gate, &["callgate_tunnels_ended_total{reason=\"closed\"} 1", "callgate_tunnels_open 0"]).await;
    gate.line(&["status=200", "ended=complete"]).await;
    // The connection goes on.
    Socket::open(&mut client, "/").await.expect("all").await;
}

#[tokio::test]
async fn the_end_of_one_side_reaches_the_other() {
    let upstream = RawUpstream::serving(|mut line| async move {
        let path = agree(&mut line, "\r\n").await;
        line.say("first").await;
        line.stream.read_u8().await.unwrap();
        if path == "/upstream" {
            // Closes by a reset instead of an end.
            socket2::SockRef::from(&line.stream).set_linger(Some(Duration::ZERO)).unwrap();
            return;
        }
        line.say("second").await;
        line.rest().await;
        line.note(format!("{path} left"));
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut client = connect(&gate).await;
    let mut socket = Socket::open(&mut client, "/upstream").await;
    socket.expect("first").await;
    socket.say("x");
    assert_eq!(socket.rest().await, (String::new(), Some(Reason::CANCEL)));
    counted(&gate, &["callgate_tunnels_ended_total{reason=\"failed\"} 1"]).await;

    for (nth, reason) in [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::NO_ERROR].into_iter().enumerate() {
        let path = format!("/{nth}");
        let mut socket = Socket::open(&mut client, &path).await;
        socket.expect("first").await;
        socket.say("x");
        socket.expect("second").await;
        socket.up.send_reset(reason);
        until(&path, || upstream.seen().contains(&format!("{path} left"))).await;
    }
    counted(&gate, &["callgate_tunnels_ended_total{reason=\"failed\"} 4"]).await;

    // A connection that is gone takes all its tunnels with it.
    let mut lost = Frames::open(&gate).await;
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", "/lost"),
        (":authority", "app.test"),
    ];
    lost.write(&headers(1, END_HEADERS, &fields)).await;
    assert_eq!(lost.fate().await, "200");
    lost.write(&crate::kit::frames::data(1, 0, b"x")).await;
    drop(lost);
    until("the lost one", || upstream.seen().contains(&"/lost left".to_owned())).await;
    counted(&gate, &["callgate_tunnels_open 0", "callgate_exchanges_in_flight 0"]).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_opens_no_websocket() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        line.rest().await;
        line.note("left".into());
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut client = connect(&gate).await;
    until("the offer", || client.is_extended_connect_protocol_enabled()).await;
    let (response, mut up) = client.send_request(ask("/").body(()).unwrap(), false).unwrap();
    until("the request", || !upstream.seen().is_empty()).await;
    up.send_reset(Reason::CANCEL);
    assert!(response.await.is_err());
    until("the end", || upstream.seen().len() == 2).await;
    counted(&gate, &["callgate_tunnels_total 0", "callgate_exchanges_in_flight 0"]).await;
}

#[tokio::test]
async fn a_silent_stream_ends_and_a_talking_one_does_not() {
    let upstream = echo().await;
    let timeouts = "tunnel_idle = \"1500ms\", idle = \"300ms\", body_idle = \"300ms\", header = \"300ms\"";
    let gate = Gate::before_with(upstream.addr, "", &format!("[server]\ntimeouts = {{ {timeouts} }}")).await;
    let mut client = connect(&gate).await;
    let mut silent = Socket::open(&mut client, "/silent").await;
    let mut socket = Socket::open(&mut client, "/").await;
    socket.expect("/").await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(600)).await;
        socket.say("x");
        socket.expect("x").await;
    }
    assert_eq!(silent.rest().await, ("/silent".into(), Some(Reason::CANCEL)));
    counted(&gate, &["callgate_tunnels_ended_total{reason=\"idle\"} 1", "callgate_tunnels_open 1"]).await;
    socket.end();
    assert_eq!(socket.rest().await, (String::new(), None));
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_one_websocket_keeps_the_others() {
    let upstream = RawUpstream::serving(|mut line| async move {
        if agree(&mut line, "\r\n").await == "/torrent" {
            let (mut read, mut write) = line.stream.into_split();
            // Frames of the client are read all the while.
            tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
            while write.write_all(&[b'x'; 64 << 10]).await.is_ok() {}
        } else {
            line.say("small").await;
        }
    })
    .await;
    let gate = Gate::before_with(upstream.addr, "", "[server]\ntimeouts = { write_stall = \"500ms\" }").await;
    for window in [0, 1000] {
        let tls = gate.raw("app.test", "h2").await;
        let (mut client, connection) =
            h2::client::Builder::new().initial_window_size(window).handshake::<_, Bytes>(tls).await.unwrap();
        tokio::spawn(connection);
        let mut stuck = Socket::open(&mut client, "/torrent").await;
        let talk = async {
            // Not silent: only its ears are shut.
            while stuck.up.send_data(Bytes::from_static(b"x"), false).is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, talk).await.expect("the gate waits for ever");
        let error = loop {
            match stuck.down.data().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("it looks whole"),
            }
        };
        assert_eq!(error.reason(), Some(Reason::CANCEL), "{error}");
        let mut other = send(&mut client, ask("/small")).await.0.into_body();
        if window > 0 {
            assert_eq!(other.data().await.unwrap().unwrap(), "small");
        }
    }
    until("two that stalled", || gate.told("/metrics").contains("callgate_tunnels_ended_total{reason=\"stalled\"} 2"))
        .await;
}

#[tokio::test]
async fn an_upstream_that_takes_nothing_stops_the_client() {
    let upstream = RawUpstream::serving(|mut line| async move {
        agree(&mut line, "\r\n").await;
        std::future::pending::<()>().await;
    })
    .await;
    let gate = Gate::before_with(upstream.addr, "", "[server]\ntimeouts = { body_idle = \"3s\" }").await;
    let mut client = connect(&gate).await;
    let mut socket = Socket::open(&mut client, "/").await;
    let mut sent = 0;
    loop {
        socket.up.reserve_capacity(64 << 10);
        let room = std::future::poll_fn(|cx| socket.up.poll_capacity(cx));
        let Ok(room) = tokio::time::timeout(Duration::from_secs(1), room).await else { break };
        let room = room.unwrap().unwrap();
        socket.up.send_data(vec![b'x'; room].into(), false).unwrap();
        sent += room;
        assert!(sent < 32 << 20, "{sent}");
    }
    // Bytes that it does not read do not block other streams for ever.
    assert_eq!(socket.rest().await, (String::new(), Some(Reason::CANCEL)));
    counted(&gate, &["callgate_tunnels_ended_total{reason=\"stalled\"} 1"]).await;
}

#[tokio::test]
async fn at_the_end_a_websocket_goes_on_after_goaway() {
    let upstream = echo().await;
    let gate = Gate::before(upstream.addr).await;
    let (mut client, connection) = h2::client::handshake(gate.raw("app.test", "h2").await).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut socket = Socket::open(&mut client, "/").await;
    socket.expect("/").await;
    gate.begin_drain();
    until("GOAWAY", || client.send_request(ask("/new").body(()).unwrap(), true).is_err()).await;
    socket.say("x");
    socket.expect("x").await;
    socket.end();
    assert_eq!(socket.rest().await, (String::new(), None));
    drop(connection.await.unwrap());
    assert_eq!(gate.drain().await, 0);
}

#[tokio::test]
async fn at_the_deadline_of_the_end_a_websocket_is_cut_off() {
    let upstream = echo().await;
    let gate = Gate::before_with(upstream.addr, "", "[server]\ndrain = \"500ms\"").await;
    let mut client = connect(&gate).await;
    let mut socket = Socket::open(&mut client, "/").await;
    socket.expect("/").await;
    gate.begin_drain();
    let (heard, _) = socket.rest().await;
    assert_eq!(heard, "");
    gate.line(&["method=CONNECT", "status=200 sent=1 received=0", "ended=drained"]).await;
    assert_eq!(gate.drain().await, 1);
}
