//! Bodies stream frame by frame with back-pressure; a body that is cut off never looks whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio_rustls::client::TlsStream;

use crate::kit::client::{read_head, status};
use crate::kit::gate::Gate;
use crate::kit::upstream::RawUpstream;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";

#[tokio::test]
async fn haproxy_2_6_a_cut_off_body_never_looks_whole() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let upstream = RawUpstream::closing(answer).await;
        let gate = Gate::before(upstream.addr).await;
        let mut tls = gate.raw("app.test", "http/1.1").await;
        tls.write_all(GET).await.unwrap();
        let mut got = Vec::new();
        let ended = tls.read_to_end(&mut got).await;
        let got = String::from_utf8_lossy(&got);
        assert!(!got.ends_with("0\r\n\r\n"), "{answer:?}: {got}");
        // Without a length of its own, only the missing close_notify shows that the body is not whole.
        assert!(ended.is_err(), "{answer:?}: {got}");

        let mut client = h2::client::handshake(gate.raw("app.test", "h2").await).await.unwrap();
        tokio::spawn(client.1);
        let request = http::Request::get("https://app.test/").body(()).unwrap();
        let (response, _) = client.0.send_request(request, true).unwrap();
        let outcome = async {
            let mut body = response.await?.into_body();
            while let Some(data) = body.data().await {
                data?;
            }
            Ok::<_, h2::Error>(())
        };
        let error = outcome.await.expect_err(answer);
        assert!(error.is_reset(), "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn an_http_1_0_client_sees_a_cut_off_body_too() {
    let upstream = RawUpstream::closing("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(b"GET / HTTP/1.0\r\nHost: app.test\r\n\r\n").await.unwrap();
    let mut got = Vec::new();
    assert!(tls.read_to_end(&mut got).await.is_err());
}

#[tokio::test]
async fn the_first_event_of_a_stream_arrives_at_once() {
    let go = Arc::new(Notify::new());
    let waits = go.clone();
    let upstream = RawUpstream::serving(move |mut line| {
        let go = waits.clone();
        async move {
            line.request().await;
            line.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            for event in ["data: 1\n\n", "data: 2\n\n"] {
                line.say(format!("{:x}\r\n{event}\r\n", event.len())).await;
                go.notified().await;
            }
        }
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(GET).await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 200);
    for expected in ["9\r\ndata: 1\n\n\r\n", "9\r\ndata: 2\n\n\r\n"] {
        let mut event = vec![0; expected.len()];
        tls.read_exact(&mut event).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&event), expected);
        // Only now the upstream says more.
        go.notify_one();
    }
}

#[tokio::test]
async fn the_first_event_of_a_stream_arrives_at_once_over_http2() {
    let go = Arc::new(Notify::new());
    let waits = go.clone();
    let upstream = RawUpstream::serving(move |mut line| {
        let go = waits.clone();
        async move {
            line.request().await;
            line.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await;
            for event in ["data: 1\n\n", "data: 2\n\n"] {
                line.say(event).await;
                go.notified().await;
            }
        }
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let (mut send, connection) = h2::client::handshake(gate.raw("app.test", "h2").await).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("https://app.test/").body(()).unwrap();
    let mut events = send.send_request(request, true).unwrap().0.await.unwrap().into_body();
    for expected in ["data: 1\n\n", "data: 2\n\n"] {
        assert_eq!(events.data().await.unwrap().unwrap(), expected);
        go.notify_one();
    }
    // The upstream closes, and that is the end of such a body: a frame with nothing but the end.
    while let Some(data) = events.data().await {
        assert_eq!(data.unwrap(), "");
    }
}

#[tokio::test]
async fn both_directions_flow_at_once() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        line.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let mut chunk = [0; 6];
        while line.stream.read_exact(&mut chunk).await.is_ok() {
            line.say(&chunk).await;
            if chunk.starts_with(b"0") {
                return;
            }
        }
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(b"POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 200);
    for letter in ["a", "b", "c"] {
        let chunk = format!("1\r\n{letter}\r\n");
        tls.write_all(chunk.as_bytes()).await.unwrap();
        let mut echo = [0; 6];
        tls.read_exact(&mut echo).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&echo), chunk);
    }
}

/// An upstream that writes `total` bytes as fast as it may, and counts.
async fn torrent(total: usize) -> (RawUpstream, Arc<AtomicUsize>) {
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let upstream = RawUpstream::serving(move |mut line| {
        let count = count.clone();
        async move {
            line.request().await;
            line.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n")).await;
            let chunk = vec![b'x'; 64 << 10];
            while count.load(Ordering::SeqCst) < total && line.stream.write_all(&chunk).await.is_ok() {
                count.fetch_add(chunk.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    (upstream, written)
}

/// Waits until the count stands still.
async fn settled(count: &AtomicUsize) -> usize {
    let mut before = usize::MAX;
    loop {
        let now = count.load(Ordering::SeqCst);
        if now == before && now > 0 {
            return now;
        }
        before = now;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
}

/// rpxy PR #596: with pipelined flushes nothing bounds what waits to be written.
#[tokio::test]
async fn a_slow_reader_does_not_fill_the_gate() {
    const TOTAL: usize = 200 << 20;
    let (upstream, written) = torrent(TOTAL).await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(GET).await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 200);
    let h1 = settled(&written).await;
    // Nearly all of it is in the sockets' buffers.
    assert!(h1 < 32 << 20, "{h1}");
    drop(tls);

    written.store(0, Ordering::SeqCst);
    let (mut send, connection) = h2::client::handshake(gate.raw("app.test", "h2").await).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("https://app.test/").body(()).unwrap();
    let response = send.send_request(request, true).unwrap().0.await.unwrap();
    let h2 = settled(&written).await;
    assert!(h2 < 32 << 20, "{h2}");
    drop(response);
}

#[tokio::test]
async fn a_slow_upstream_does_not_fill_the_gate() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(b"POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 200000000\r\n\r\n").await.unwrap();
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let upload = tokio::spawn(async move {
        while tls.write_all(&[b'x'; 64 << 10]).await.is_ok() {
            count.fetch_add(64 << 10, Ordering::SeqCst);
        }
    });
    let sent = settled(&written).await;
    assert!(sent < 32 << 20, "{sent}");
    upload.abort();
}

/// An upstream that begins an answer and tells when the gate has left.
async fn endless() -> (RawUpstream, mpsc::UnboundedReceiver<()>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let upstream = RawUpstream::serving(move |mut line| {
        let sender = sender.clone();
        async move {
            let head = line.head().await.unwrap_or_default();
            if head.starts_with("GET /begun") {
                line.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").await;
            }
            line.rest().await;
            let _ = sender.send(());
        }
    })
    .await;
    (upstream, receiver)
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_upstream_request() {
    // A client that ends only its own side may wait for the answer. A request is cancelled when the client is gone.
    let (upstream, mut left) = endless().await;
    let gate = Gate::before(upstream.addr).await;
    for request in [
        "GET /begun HTTP/1.1\r\nHost: app.test\r\n\r\n",
        "GET /silent HTTP/1.1\r\nHost: app.test\r\n\r\n",
        "POST /upload HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\nhello",
        "POST /upload HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let before = upstream.seen().len();
        let mut tls = gate.raw("app.test", "http/1.1").await;
        tls.write_all(request.as_bytes()).await.unwrap();
        arrived(&upstream, before).await;
        if !request.starts_with("POST") {
            tls.get_ref().0.set_zero_linger().unwrap();
        }
        drop(tls);
        left.recv().await.unwrap();
    }
    for path in ["/begun", "/silent"] {
        let before = upstream.seen().len();
        let (mut send, connection) = h2::client::handshake(gate.raw("app.test", "h2").await).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = http::Request::get(format!("https://app.test{path}")).body(()).unwrap();
        let (response, mut stream) = send.send_request(request, true).unwrap();
        arrived(&upstream, before).await;
        // Only this stream ends, not the connection.
        stream.send_reset(h2::Reason::CANCEL);
        left.recv().await.unwrap();
        drop((response, send));
        connection.abort();
    }
}

/// How a client ends its side: by close_notify, by FIN, or by both.
#[derive(Debug, Clone, Copy)]
enum ClientEnd {
    Tls,
    Tcp,
    Both,
}

async fn end_side(tls: &mut TlsStream<tokio::net::TcpStream>, end: ClientEnd) {
    match end {
        ClientEnd::Tls => {
            tls.get_mut().1.send_close_notify();
            tls.flush().await.unwrap();
        }
        ClientEnd::Tcp => tls.get_mut().0.shutdown().await.unwrap(),
        ClientEnd::Both => tls.shutdown().await.unwrap(),
    }
}

/// Answers in two parts, each a while after the request.
async fn slow() -> RawUpstream {
    RawUpstream::serving(|mut line| async move {
        while line.request().await.is_some() {
            for part in ["HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nlate", " all"] {
                tokio::time::sleep(std::time::Duration::from_millis(150)).await;
                line.say(part).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_client_that_has_said_all_and_ends_its_side_is_answered() {
    let upstream = slow().await;
    let gate = Gate::before(upstream.addr).await;
    for (requests, answers) in [
        ("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n", 1),
        ("GET / HTTP/1.0\r\nHost: app.test\r\n\r\n", 1),
        ("POST / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", 1),
        ("POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 1),
        ("GET /1 HTTP/1.1\r\nHost: app.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: app.test\r\n\r\n", 2),
        // Bytes behind it are no request.
        ("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nhi\r\n", 1),
        ("GET / HTTP/1.1\r\nHost: app.test\r\n\r\nGET / HT", 1),
    ] {
        for end in [ClientEnd::Tls, ClientEnd::Tcp, ClientEnd::Both] {
            let mut tls = gate.raw("app.test", "http/1.1").await;
            tls.write_all(requests.as_bytes()).await.unwrap();
            end_side(&mut tls, end).await;
            let mut answer = String::new();
            // The gate's end comes at once behind the last answer.
            let read = tls.read_to_string(&mut answer);
            tokio::time::timeout(std::time::Duration::from_secs(20), read).await.unwrap().unwrap();
            assert_eq!(answer.matches("late all").count(), answers, "{requests:?} {end:?}: {answer}");
        }
    }
    // An incomplete request is not sent on.
    for request in ["GET / HTTP/1.1\r\nHost: app", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 3\r\n\r\nhi"] {
        let mut tls = gate.raw("app.test", "http/1.1").await;
        tls.write_all(request.as_bytes()).await.unwrap();
        end_side(&mut tls, ClientEnd::Both).await;
        let mut answer = String::new();
        let _ = tls.read_to_string(&mut answer).await;
        assert!(!answer.contains("200 OK"), "{request:?}: {answer}");
    }
}

#[tokio::test]
async fn the_other_listeners_answer_who_has_ended_its_side_too() {
    let gate = Gate::start("redirect_http = \"127.0.0.1:0\"\n[app]\nurl = \"http://127.0.0.1:9\"").await;
    let mut plain = tokio::net::TcpStream::connect(gate.redirect.unwrap()).await.unwrap();
    plain.write_all(GET).await.unwrap();
    plain.shutdown().await.unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 308, "{answer}");
    let callgate::config::Listen::Unix(path) = gate.admin() else { panic!("{:?}", gate.admin()) };
    let mut admin = tokio::net::UnixStream::connect(path).await.unwrap();
    admin.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    admin.shutdown().await.unwrap();
    let mut answer = String::new();
    admin.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 200, "{answer}");
}

#[tokio::test]
async fn a_client_that_has_ended_its_side_and_is_gone_is_noticed_by_what_it_is_sent() {
    let (sender, mut left) = mpsc::unbounded_channel();
    let upstream = RawUpstream::serving(move |mut line| {
        let sender = sender.clone();
        async move {
            line.head().await;
            line.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            while line.stream.write_all(b"1\r\nx\r\n").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            let _ = sender.send(());
        }
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(GET).await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 200);
    end_side(&mut tls, ClientEnd::Both).await;
    drop(tls);
    left.recv().await.unwrap();
}

async fn arrived(upstream: &RawUpstream, before: usize) {
    while upstream.seen().len() == before {
        tokio::task::yield_now().await;
    }
}

async fn ask_to_continue(gate: &Gate, fields: &str) -> TlsStream<tokio::net::TcpStream> {
    let mut tls = gate.raw("app.test", "http/1.1").await;
    let head = format!("POST / HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\n{fields}\r\n");
    tls.write_all(head.as_bytes()).await.unwrap();
    tls
}

#[tokio::test]
async fn continue_is_said_once_the_upstream_listens() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = ask_to_continue(&gate, "Content-Length: 5\r\nConnection: close\r\n").await;
    assert_eq!(read_head(&mut tls).await, "HTTP/1.1 100 Continue\r\n\r\n");
    tls.write_all(b"hello").await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 200);
    let seen = upstream.seen().pop().unwrap();
    assert!(!seen.contains("expect:") && seen.ends_with("\r\n\r\nhello"), "{seen}");
}

#[tokio::test]
async fn a_100_is_not_sent_when_the_body_will_not_be_read() {
    // A port without a listener.
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gate = Gate::before(gone).await;
    let mut tls = ask_to_continue(&gate, "Content-Length: 5\r\n").await;
    let mut answer = Vec::new();
    let _ = tls.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert_eq!(status(&answer), 502, "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    // The same for what is refused before any upstream is asked.
    let mut tls = ask_to_continue(&gate, "Content-Length: 5\r\nConnection: host\r\n").await;
    assert_eq!(status(&read_head(&mut tls).await), 400);
}
