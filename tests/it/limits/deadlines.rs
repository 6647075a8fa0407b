//! Every wait has a deadline. No deadline ends an exchange that makes progress.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::kit::client::{read_head, status};
use crate::kit::frames::{END_STREAM, Frames, data, post};
use crate::kit::gate::Gate;
use crate::kit::upstream::RawUpstream;

/// More than any of the short deadlines, less than any test may take.
const PATIENCE: Duration = Duration::from_secs(20);

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";

async fn gate(upstream: &RawUpstream, timeouts: &str) -> Gate {
    Gate::before_with(upstream.addr, "", &format!("[server]\ntimeouts = {{ {timeouts} }}")).await
}

/// Waits for the end of a connection and returns what was said until then.
async fn end<R: tokio::io::AsyncRead + Unpin>(from: &mut R) -> String {
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, from.read_to_end(&mut rest)).await.expect("the gate does not end the connection");
    String::from_utf8_lossy(&rest).into_owned()
}

#[tokio::test]
async fn a_handshake_that_does_not_come_ends() {
    let upstream = RawUpstream::ok().await;
    let gate = gate(&upstream, "handshake = \"300ms\"").await;
    let mut stream = TcpStream::connect(gate.addr).await.unwrap();
    assert_eq!(end(&mut stream).await, "");
    let mut stream = TcpStream::connect(gate.addr).await.unwrap();
    stream.write_all(&[22, 3, 1]).await.unwrap();
    assert_eq!(end(&mut stream).await, "");
}

#[tokio::test]
async fn slowloris_a_head_that_drips_ends() {
    let upstream = RawUpstream::ok().await;
    let gate = gate(&upstream, "header = \"600ms\"").await;
    for begun in ["", "GET /x", "GET / HTTP/1.1\r\nHost: app.test\r\n"] {
        let mut tls = gate.raw("app.test", "http/1.1").await;
        tls.write_all(begun.as_bytes()).await.unwrap();
        let (mut read, mut write) = tokio::io::split(tls);
        let drip = tokio::spawn(async move {
            while write.write_all(b"X").await.is_ok() && write.flush().await.is_ok() {
                sleep(Duration::from_millis(100)).await;
            }
        });
        let answer = end(&mut read).await;
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        drip.abort();
    }
    // The second request of a connection as well, also one that began before the first was answered.
    for (first, second) in [(GET, &b"GET / HT"[..]), (&[GET, b"GET / HT"].concat(), b"")] {
        let mut tls = gate.raw("app.test", "http/1.1").await;
        tls.write_all(first).await.unwrap();
        assert_eq!(status(&read_head(&mut tls).await), 200);
        tls.write_all(second).await.unwrap();
        let rest = end(&mut tls).await;
        assert!(rest.starts_with("okHTTP/1.1 408 "), "{rest}");
    }
    assert_eq!(upstream.seen().len(), 2);
    gate.line(&["method=-", "status=408", "reason=header_timeout"]).await;
}

/// An upstream whose answer has as many times 160 KiB as the path says.
async fn sized() -> RawUpstream {
    RawUpstream::serving(|mut line| async move {
        let head = line.head().await.unwrap_or_default();
        let pieces: usize = head.trim_start_matches("GET /").split(' ').next().unwrap_or_default().parse().unwrap();
        line.say(&format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", pieces * PIECE)).await;
        let _ = line.stream.write_all(&vec![b'x'; pieces * PIECE]).await;
    })
    .await
}

const PIECE: usize = 160 << 10;

/// Of some of these answers the last bytes wait in callgate, and of no exchange, when the client pauses.
#[tokio::test]
async fn the_time_of_a_head_does_not_run_while_the_last_answer_waits_for_the_client() {
    let upstream = sized().await;
    let gate = gate(&upstream, "header = \"1s\"").await;
    let mut clients = Vec::new();
    // One after the other, so that each sends its first head in time on a busy machine.
    for nth in 1..=80 {
        let (pieces, is_early) = (nth / 2 + 1, nth % 2 == 0);
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        let stream = socket.connect(gate.addr).await.unwrap();
        let mut tls = gate.tls(stream, "app.test", "http/1.1").await.unwrap();
        let next = ["", "GET / HT"];
        let request = format!("GET /{pieces} HTTP/1.1\r\nHost: app.test\r\n\r\n{}", next[usize::from(is_early)]);
        tls.write_all(request.as_bytes()).await.unwrap();
        clients.push((tls, pieces, next[usize::from(!is_early)]));
    }
    let clients = clients.into_iter().map(async |(mut tls, pieces, late)| {
        sleep(Duration::from_millis(500)).await;
        tls.write_all(late.as_bytes()).await.unwrap();
        sleep(Duration::from_millis(1500)).await;
        assert_eq!(status(&read_head(&mut tls).await), 200);
        let rest = end(&mut tls).await;
        let body = rest.find(|byte| byte != 'x').unwrap_or(rest.len());
        assert_eq!(body, pieces * PIECE, "the answer is cut off");
        assert!(rest[body..].starts_with("HTTP/1.1 408 "), "{pieces}: {}", &rest[body..]);
    });
    join_all(clients).await;
}

#[tokio::test]
async fn only_a_client_that_has_begun_a_head_gets_408() {
    let upstream = RawUpstream::ok().await;
    let gate = gate(&upstream, "header = \"300ms\"").await;
    for begun in ["", "\r\n"] {
        let mut tls = gate.raw("app.test", "http/1.1").await;
        tls.write_all(begun.as_bytes()).await.unwrap();
        assert_eq!(end(&mut tls).await, "", "{begun:?}");
    }
    // Nothing more arrives.
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 408);
    tls.write_all(format!("\r\n{}", String::from_utf8_lossy(GET)).as_bytes()).await.unwrap();
    tls.shutdown().await.unwrap();
    assert!(!end(&mut tls).await.contains("HTTP/1.1"));
    assert_eq!(upstream.seen().len(), 0);
}

#[tokio::test]
async fn a_resting_connection_ends_later_than_a_slow_head() {
    let upstream = RawUpstream::ok().await;
    let gate = gate(&upstream, "idle = \"1500ms\", header = \"300ms\"").await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    for _ in 0..2 {
        tls.write_all(GET).await.unwrap();
        assert_eq!(status(&read_head(&mut tls).await), 200);
        let mut body = [0; 2];
        tls.read_exact(&mut body).await.unwrap();
        sleep(Duration::from_millis(600)).await;
    }
    assert_eq!(end(&mut tls).await, "");
}

#[tokio::test]
async fn a_resting_http2_connection_may_send_frames_that_are_no_request() {
    let upstream = RawUpstream::ok().await;
    let gate = gate(&upstream, "idle = \"20s\", header = \"300ms\"").await;
    let (mut send, mut connection) = h2::client::handshake(gate.raw("app.test", "h2").await).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    let driver = tokio::spawn(connection);
    for _ in 0..3 {
        let request = http::Request::get("https://app.test/").body(()).unwrap();
        let response = send.send_request(request, true).unwrap().0.await.unwrap();
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            // The window's update arrives when no exchange is in flight any more.
            let length = data.unwrap().len();
            body.flow_control().release_capacity(length).unwrap();
        }
        pings.ping(h2::Ping::opaque()).await.unwrap();
        sleep(Duration::from_millis(700)).await;
        assert!(!driver.is_finished());
    }
}

#[tokio::test]
async fn an_upload_that_pauses_is_answered_408() {
    let upstream = RawUpstream::ok().await;
    let gate = gate(&upstream, "body_idle = \"400ms\"").await;
    for fields in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let answer = gate.exchange(format!("POST / HTTP/1.1\r\nHost: app.test\r\n{fields}").as_bytes()).await;
        assert_eq!(status(&answer), 408, "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn an_upload_of_empty_frames_pauses() {
    let upstream = RawUpstream::ok().await;
    let gate = gate(&upstream, "body_idle = \"400ms\"").await;
    let mut frames = Frames::open(&gate).await;
    frames.write(&[post(1), data(1, 0, b"hello")].concat()).await;
    for _ in 0..24 {
        sleep(Duration::from_millis(50)).await;
        frames.write(&data(1, 0, b"")).await;
    }
    frames.write(&data(1, END_STREAM, b"")).await;
    assert_eq!(frames.fate().await, "408");
}

#[tokio::test]
async fn an_upload_that_the_upstream_does_not_take_becomes_504() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let gate = gate(&upstream, "body_idle = \"400ms\"").await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(b"POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 200000000\r\n\r\n").await.unwrap();
    let (mut read, mut write) = tokio::io::split(tls);
    let upload = tokio::spawn(async move { while write.write_all(&[b'x'; 64 << 10]).await.is_ok() {} });
    let head = timeout(PATIENCE, read_head(&mut read)).await.expect("the gate waits for ever");
    assert_eq!(status(&head), 504, "{head}");
    upload.abort();
}

#[tokio::test]
async fn a_download_that_pauses_is_cut_off() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.request().await;
        line.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
        line.rest().await;
    })
    .await;
    let gate = gate(&upstream, "body_idle = \"400ms\"").await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(GET).await.unwrap();
    let answer = end(&mut tls).await;
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
}

#[tokio::test]
async fn a_download_may_pause_for_as_long_as_the_upload_before_it_moves() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        line.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
        line.stream.read_exact(&mut [0; 6]).await.unwrap();
        line.say("hello").await;
        line.rest().await;
    })
    .await;
    let gate = gate(&upstream, "body_idle = \"1s\"").await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(b"POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 6\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 200);
    for _ in 0..6 {
        sleep(Duration::from_millis(300)).await;
        tls.write_all(b"x").await.unwrap();
    }
    let mut body = [0; 5];
    tls.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"hello");
}

/// Traefik #11943.
#[tokio::test]
async fn a_slow_exchange_has_no_total_deadline() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.request().await;
        line.say("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n").await;
        for _ in 0..6 {
            line.say("x").await;
            sleep(Duration::from_millis(300)).await;
        }
        line.rest().await;
    })
    .await;
    let gate = Gate::before_with(
        upstream.addr,
        "timeouts = { first_byte = \"1s\", connect = \"1s\" }",
        "[server]\ntimeouts = { body_idle = \"1s\", idle = \"1s\", header = \"1s\", write_stall = \"1s\" }",
    )
    .await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(b"POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 6\r\n\r\n").await.unwrap();
    for _ in 0..6 {
        sleep(Duration::from_millis(300)).await;
        tls.write_all(b"x").await.unwrap();
    }
    assert_eq!(status(&read_head(&mut tls).await), 200);
    let mut body = [0; 6];
    tls.read_exact(&mut body).await.unwrap();
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_becomes_504() {
    let upstream = RawUpstream::silent().await;
    let gate = Gate::before_with(upstream.addr, "timeouts = { first_byte = \"400ms\" }", "").await;
    gate.get("/").send().await.expect(504);
    gate.get("/").h2().send().await.expect(504);
    gate.post("/", "text/plain", "x").send().await.expect(504);
    assert_eq!(upstream.seen().len(), 3);
}

#[tokio::test]
async fn an_upstream_that_is_not_there_becomes_502() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gate = Gate::before(gone).await;
    gate.get("/").send().await.expect(502);
    gate.get("/").h2().send().await.expect(502);
}

#[tokio::test]
async fn an_upstream_that_does_not_connect_becomes_504() {
    // TLS to a server that never says anything.
    let upstream = RawUpstream::serving(|mut line| async move { drop(line.rest().await) }).await;
    let text =
        format!("[app]\nurl = \"https://localhost:{}\"\ntimeouts = {{ connect = \"400ms\" }}", upstream.addr.port());
    Gate::start(&text).await.get("/").send().await.expect(504);
}

/// An upstream with an answer larger than all buffers, which tells when the gate has left.
async fn torrent() -> (RawUpstream, tokio::sync::mpsc::UnboundedReceiver<()>) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let upstream = RawUpstream::serving(move |mut line| {
        let sender = sender.clone();
        async move {
            let request = line.request().await.unwrap_or_default();
            if request.starts_with("GET /small") {
                return line.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
            line.say("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
            while line.stream.write_all(&[b'x'; 64 << 10]).await.is_ok() {}
            let _ = sender.send(());
        }
    })
    .await;
    (upstream, receiver)
}

#[tokio::test]
async fn trap_a_client_that_takes_nothing_ends() {
    let (upstream, mut left) = torrent().await;
    let gate = gate(&upstream, "write_stall = \"500ms\"").await;
    let mut tls: TlsStream<TcpStream> = gate.raw("app.test", "http/1.1").await;
    tls.write_all(GET).await.unwrap();
    timeout(PATIENCE, left.recv()).await.expect("the gate waits for ever").unwrap();
    drop(tls);
}

#[tokio::test]
async fn trap_a_zero_window_ends_its_stream_alone() {
    let (upstream, mut left) = torrent().await;
    let gate = gate(&upstream, "write_stall = \"500ms\"").await;
    for window in [0, 1000] {
        let tls = gate.raw("app.test", "h2").await;
        let (mut send, connection) =
            h2::client::Builder::new().initial_window_size(window).handshake::<_, bytes::Bytes>(tls).await.unwrap();
        tokio::spawn(connection);
        let ask = |path: &str| http::Request::get(format!("https://app.test{path}")).body(()).unwrap();
        let response = send.send_request(ask("/large"), true).unwrap().0.await.unwrap();
        timeout(PATIENCE, left.recv()).await.expect("the gate waits for ever").unwrap();
        let mut body = response.into_body();
        let error = loop {
            match body.data().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("the body looks whole"),
            }
        };
        assert!(error.is_reset(), "{error}");
        // The connection is fine.
        assert_eq!(send.send_request(ask("/small"), true).unwrap().0.await.unwrap().status(), 200);
    }
}
