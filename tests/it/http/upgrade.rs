//! Upgrades to WebSocket, and to no other protocol: both sides agree, bytes pass unchanged, each direction ends by itself.

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::kit::client::{read_head, status};
use crate::kit::gate::Gate;
use crate::kit::stage::{Plan, Stage, until};
use crate::kit::upstream::{RawUpstream, passed};

const ASK: &str = "GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: sip\r\n\r\n";
const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: sip\r\n\r\n";

#[tokio::test]
async fn bytes_right_behind_both_heads_arrive() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        line.say(format!("{AGREE}first")).await;
        let mut early = [0; 5];
        line.stream.read_exact(&mut early).await.unwrap();
        line.note(String::from_utf8_lossy(&early).into_owned());
        line.say("second").await;
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(format!("{ASK}early").as_bytes()).await.unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await.unwrap();
    let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(status(head), 101, "{head}");
    for field in ["connection: upgrade", "upgrade: websocket", "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="] {
        assert!(head.contains(field), "{field}: {head}");
    }
    assert_eq!(rest, "firstsecond");
    let seen = upstream.seen();
    assert_eq!(
        passed(&seen[0]).1,
        [
            "connection: upgrade",
            "host: app.test",
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
            "sec-websocket-protocol: sip",
            "sec-websocket-version: 13",
            "upgrade: websocket",
        ]
    );
    assert_eq!(seen[1], "early");
}

/// In a list of protocols an element may be empty (RFC 9110 §5.6.1.2): what follows is no less a tunnel's.
#[tokio::test]
async fn no_byte_of_a_tunnel_is_looked_at_as_a_request_however_it_was_asked_for() {
    for wish in ["websocket,", ", WebSocket", "\r\nUpgrade: websocket"] {
        let upstream = RawUpstream::serving(|mut line| async move {
            line.head().await;
            line.say(AGREE).await;
            let mut said = [0; 9];
            line.stream.read_exact(&mut said).await.unwrap();
            line.say(said).await;
        })
        .await;
        let gate = Gate::before(upstream.addr).await;
        let mut tls = gate.raw("app.test", "http/1.1").await;
        let ask = format!("GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: {wish}\r\n\r\n");
        tls.write_all(format!("{ask}\0no HTTP\n").as_bytes()).await.unwrap();
        assert_eq!(status(&read_head(&mut tls).await), 101, "{wish:?}");
        let mut echo = [0; 9];
        tls.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"\0no HTTP\n", "{wish:?}");
    }
}

#[tokio::test]
async fn cve_2026_2833_nothing_else_is_switched_to() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for (line, fields, body) in [
        ("GET / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: h2c\r\n", ""),
        ("GET / HTTP/1.1", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n", ""),
        ("GET / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n", ""),
        ("GET / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n", ""),
        ("GET / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket/13\r\n", ""),
        ("GET / HTTP/1.1", "Upgrade: websocket\r\n", ""),
        ("GET / HTTP/1.1", "Connection: Upgrade\r\n", ""),
        ("GET / HTTP/1.0", "Connection: Upgrade\r\nUpgrade: websocket\r\n", ""),
        ("POST / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", ""),
        ("HEAD / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", ""),
        ("GET / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n", "ab"),
        ("GET / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ] {
        let request = format!("{line}\r\nHost: app.test\r\nConnection: close\r\n{fields}\r\n{body}");
        let answer = gate.exchange(request.as_bytes()).await;
        assert_eq!(status(&answer), 200, "{line} {fields:?}: {answer}");
        let seen = upstream.seen().pop().unwrap();
        assert!(!seen.contains("upgrade") && !seen.contains("http2-settings"), "{line} {fields:?}: {seen}");
    }
}

#[tokio::test]
async fn cve_2026_73548_only_the_matching_101_opens_a_tunnel() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nsecret",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\nsecret",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\nsecret",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nsecret",
        "HTTP/1.1 101 Switching Protocols\r\n\r\nsecret",
    ] {
        let upstream = RawUpstream::closing(answer).await;
        let gate = Gate::before(upstream.addr).await;
        let mut tls = gate.raw("app.test", "http/1.1").await;
        tls.write_all(ASK.as_bytes()).await.unwrap();
        let head = read_head(&mut tls).await;
        assert_eq!(status(&head), 502, "{answer:?}");
        assert!(!head.contains("secret"), "{head}");
    }
}

#[tokio::test]
async fn hop_by_hop_fields_of_a_101_go() {
    const HOPS: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade, X-Hop\r\nConnection: X-Hip\r\n\
        Upgrade: websocket\r\nX-Hop: 1\r\nX-Hip: 2\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nPBX-Account: 40\r\nX-Stay: 3\r\n";
    for (framing, expected) in [("", 101), ("Content-Length: 5\r\n", 101), ("Transfer-Encoding: gzip\r\n", 502)] {
        let upstream = RawUpstream::closing(format!("{HOPS}{framing}\r\n")).await;
        let gate = Gate::before(upstream.addr).await;
        let mut tls = gate.raw("app.test", "http/1.1").await;
        tls.write_all(ASK.as_bytes()).await.unwrap();
        let head = read_head(&mut tls).await;
        assert_eq!(status(&head), expected, "{framing:?}: {head}");
        let fields = head.trim_end().split("\r\n").skip(1);
        let mut fields: Vec<_> = fields.filter(|field| !field.starts_with("date")).collect();
        fields.sort_unstable();
        let whole = ["connection: upgrade", "upgrade: websocket", "x-stay: 3"];
        assert_eq!(fields == whole, expected == 101, "{framing:?}: {head}");
    }
}

#[tokio::test]
async fn a_refused_websocket_is_an_ordinary_answer() {
    let upstream = RawUpstream::answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    for _ in 0..2 {
        // The connection goes on in HTTP.
        tls.write_all(ASK.as_bytes()).await.unwrap();
        assert_eq!(status(&read_head(&mut tls).await), 403);
        let mut body = [0; 2];
        tls.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"no");
    }
}

#[tokio::test]
async fn either_side_may_end_first() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        line.say(AGREE).await;
        if line.nth < 2 {
            // Answers only once the client has said all.
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
    for with_close_notify in [true, false] {
        let mut tls = gate.raw("app.test", "http/1.1").await;
        tls.write_all(format!("{ASK}question").as_bytes()).await.unwrap();
        if with_close_notify {
            tls.shutdown().await.unwrap()
        } else {
            tls.get_mut().0.shutdown().await.unwrap()
        }
        let mut answer = String::new();
        tls.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("\r\n\r\nheard question"), "{answer}");
    }
    gate.line(&[" status=101 sent=14 received=8 ", " ended=complete"]).await;

    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(ASK.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("\r\n\r\nall"), "{answer}");
    tls.write_all(b"later").await.unwrap();
    tls.shutdown().await.unwrap();
    drop(tls);
    while upstream.seen().len() < 4 {
        tokio::task::yield_now().await;
    }
    assert_eq!(upstream.seen()[3], "later");
}

#[tokio::test]
async fn a_silent_tunnel_ends_and_a_talking_one_does_not() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        line.say(AGREE).await;
        let mut byte = [0];
        while matches!(line.stream.read(&mut byte).await, Ok(1)) {
            line.say(byte).await;
        }
    })
    .await;
    let gate = Gate::before_with(upstream.addr, "", "[server]\ntimeouts = { tunnel_idle = \"1500ms\", idle = \"300ms\", body_idle = \"300ms\", header = \"300ms\" }").await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(ASK.as_bytes()).await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 101);
    for _ in 0..4 {
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
        tls.write_all(b"x").await.unwrap();
        assert_eq!(tls.read_u8().await.unwrap(), b'x');
    }
    let mut rest = Vec::new();
    let _ = tls.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
    gate.line(&[" status=101 sent=4 received=4 ", " ended=stalled"]).await;
}

#[tokio::test]
async fn a_tunnel_whose_client_takes_nothing_ends_however_much_it_says() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        line.say(AGREE).await;
        let (mut read, mut write) = line.stream.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
        while write.write_all(&[b'x'; 64 << 10]).await.is_ok() {}
    })
    .await;
    let gate = Gate::before_with(upstream.addr, "", "[server]\ntimeouts = { write_stall = \"500ms\" }").await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(ASK.as_bytes()).await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 101);
    let talk = async {
        while tls.write_all(b"x").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), talk).await.expect("the gate waits for ever");
    assert!(gate.told("/metrics").contains("callgate_tunnels_ended_total{reason=\"stalled\"} 1"));
}

#[tokio::test]
async fn the_kernel_asks_both_ends_of_a_silent_tunnel_whether_they_exist() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        line.say(AGREE).await;
        line.note(line.stream.peer_addr().unwrap().port().to_string());
        line.rest().await;
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    let near = (gate.addr.port(), tls.get_ref().0.local_addr().unwrap().port());
    tls.write_all(ASK.as_bytes()).await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 101);
    until("both have the timer", || {
        let port = upstream.seen().get(1).and_then(|port| port.parse().ok());
        port.is_some_and(|port| has_keep_alive(near) && has_keep_alive((port, upstream.addr.port())))
    })
    .await;
}

/// Tells whether the kernel's timer of TCP keep-alive runs for the connection from this port to that.
fn has_keep_alive((from, to): (u16, u16)) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ends = format!(" 0100007F:{from:04X} 0100007F:{to:04X} 01 ");
    // Behind the ends: the queues, then which timer runs; `02` is this one.
    table
        .lines()
        .any(|row| row.split_once(&ends).is_some_and(|(_, rest)| rest.split(' ').nth(1).unwrap().starts_with("02:")))
}

#[tokio::test]
async fn a_tunnels_connection_is_never_used_again() {
    let upstream = RawUpstream::serving(|mut line| async move {
        let head = line.head().await.unwrap_or_default();
        if head.contains("upgrade") {
            line.say(AGREE).await;
        } else {
            line.say(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{}", line.nth)).await;
        }
        line.rest().await;
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(ASK.as_bytes()).await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 101);
    drop(tls);
    assert_eq!(gate.get("/").send().await.expect(200).text(), "1");
}

#[tokio::test]
async fn frames_and_close_codes_pass_both_ways() {
    let stage = Plan::default().start().await;
    let Stage { gate, app, pbx } = &stage;
    let session = pbx.open_session("40", "acme.test");
    gate.canary(&session);
    let rows = [
        ("app.test", "/ws", app.log_in("alice")),
        ("pbx.test", "/websocket?domain=acme.test&user=40", format!("session={session}")),
    ];
    for (host, path, cookie) in rows {
        let tls = gate.raw(host, "http/1.1").await;
        let mut request = tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(format!(
            "wss://{host}{path}"
        ))
        .unwrap();
        request.headers_mut().insert("cookie", cookie.parse().unwrap());
        let Ok((mut socket, _)) = tokio_tungstenite::client_async(request, tls).await else {
            panic!("{host}{path} does not switch");
        };
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
    }
}
