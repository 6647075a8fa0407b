//! Several URLs of an upstream: the first healthy one is used, and a request that was sent to one is never sent to another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use crate::kit::client::{read_head, status};
use crate::kit::gate::Gate;
use crate::kit::stage::{Plan, until};
use crate::kit::upstream::{RawUpstream, read_request};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab";

fn saying(name: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len())
}

async fn named(name: &str) -> RawUpstream {
    RawUpstream::answering(saying(name)).await
}

/// An address without a listener, until a test starts one.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// An address that neither accepts nor refuses, for as long as what is returned is kept.
async fn black_hole() -> (SocketAddr, impl Sized) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut filled = Vec::new();
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(300), TcpStream::connect(addr)).await {
        filled.push(stream);
    }
    (addr, (listener, filled))
}

async fn gate(urls: &[SocketAddr], more: &str) -> Gate {
    let urls: Vec<_> = urls.iter().map(|addr| format!("\"http://{addr}\"")).collect();
    Gate::start(&format!("workers = 1\n[app]\nurl = [{}]\n{more}", urls.join(", "))).await
}

async fn said(gate: &Gate) -> String {
    gate.get("/").send().await.expect(200).text().to_owned()
}

#[tokio::test]
async fn the_first_is_used_while_it_is_well() {
    let (first, second) = (named("first").await, named("second").await);
    let gate = gate(&[first.addr, second.addr], "").await;
    for _ in 0..5 {
        assert_eq!(said(&gate).await, "first");
    }
    assert_eq!(second.seen(), [""; 0]);
}

#[tokio::test]
async fn a_connection_that_is_refused_leads_to_the_next_within_the_same_request() {
    let second = named("second").await;
    let gate = gate(&[nobody().await, nobody().await, second.addr], "").await;
    for request in [GET, POST, GET] {
        let answer = gate.exchange(request).await;
        assert!(answer.ends_with("\r\n\r\nsecond"), "{answer}");
    }
    assert_eq!(second.seen().len(), 3);
}

#[tokio::test]
async fn a_silent_place_costs_its_share_of_the_deadline_and_only_once() {
    let second = named("second").await;
    let (silent, _filled) = black_hole().await;
    let gate = gate(&[silent, second.addr], "timeouts = { connect = \"4s\", keep_alive = \"1ms\" }").await;
    let begun = Instant::now();
    assert_eq!(said(&gate).await, "second");
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(said(&gate).await, "second");
    }
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn all_workers_know_what_one_has_learnt() {
    let second = named("second").await;
    let (silent, _filled) = black_hole().await;
    let urls = format!("url = [\"http://{silent}\", \"http://{}\"]", second.addr);
    let timeouts = "timeouts = { connect = \"4s\", keep_alive = \"1ms\" }";
    let gate = Gate::start(&format!("workers = 4\n[app]\n{urls}\n{timeouts}")).await;
    assert_eq!(said(&gate).await, "second");
    let begun = Instant::now();
    for _ in 0..16 {
        assert_eq!(said(&gate).await, "second");
    }
    assert!(begun.elapsed() < Duration::from_millis(1800), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_first_is_used_again_once_it_can_be_connected_to_and_no_request_tries_it_before() {
    let second = named("second").await;
    let first = nobody().await;
    let gate = gate(&[first, second.addr], "").await;
    assert_eq!(said(&gate).await, "second");
    let accepted = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind(first).await.unwrap();
    let count = accepted.clone();
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                if read_request(&mut stream).await.is_some() {
                    stream.write_all(saying("first").as_bytes()).await.unwrap();
                }
            });
        }
    });
    // It is the gate that looks, not a request.
    until("the gate looks at the first again", || accepted.load(Ordering::SeqCst) == 1).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    // The idle connections to the second are not preferred to a new one to the first.
    while said(&gate).await != "first" {
        assert!(Instant::now() < deadline, "the first is never used again");
    }
    let told = gate.events();
    let line = |text: &str| told.lines().any(|line| line.contains(text) && line.contains(&format!("to={first}")));
    assert!(line("an upstream is passed over until it can be reached again"));
    assert!(line("an upstream can be reached again"));
    task.abort();
}

#[tokio::test]
async fn when_none_is_well_all_are_tried() {
    let (first, second) = (nobody().await, nobody().await);
    let gate = gate(&[first, second], "").await;
    gate.get("/").send().await.expect(502);
    // Long before the gate looks again by itself.
    let listener = TcpListener::bind(second).await.unwrap();
    let serve = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await.unwrap();
        stream.write_all(saying("second").as_bytes()).await.unwrap();
    });
    assert_eq!(said(&gate).await, "second");
    serve.await.unwrap();
}

#[tokio::test]
async fn a_request_sent_to_one_address_is_not_sent_to_another() {
    for request in [GET, POST] {
        let (first, second) = (RawUpstream::closing("").await, named("second").await);
        let gate = gate(&[first.addr, second.addr], "").await;
        // The third broken answer in a row is one too many.
        for _ in 0..3 {
            assert_eq!(status(&gate.exchange(request).await), 502);
        }
        assert_eq!((first.seen().len(), second.seen().len()), (3, 0));
        assert!(gate.exchange(request).await.ends_with("second"));
        assert_eq!((first.seen().len(), second.seen().len()), (3, 1));
    }
}

#[tokio::test]
async fn errors_of_the_app_and_single_broken_answers_do_not_change_the_address() {
    let well = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    let unwell = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let script = [unwell, unwell, unwell, unwell, "", "nonsense\r\n\r\n", well, "", "nonsense\r\n\r\n", unwell, ""];
    let first = RawUpstream::serving(move |mut line| async move {
        line.request().await;
        line.say(script[line.nth]).await;
    })
    .await;
    let second = named("second").await;
    let gate = gate(&[first.addr, second.addr], "").await;
    for answer in script {
        let expected = status(answer).max(200);
        let got = status(&gate.exchange(GET).await);
        assert_eq!(got, if answer == well || answer == unwell { expected } else { 502 }, "{answer:?}");
    }
    assert_eq!((first.seen().len(), second.seen().len()), (script.len(), 0));
}

#[tokio::test]
async fn a_place_that_never_answers_is_passed_over() {
    let first = RawUpstream::silent().await;
    let second = named("second").await;
    let gate = gate(&[first.addr, second.addr], "timeouts = { first_byte = \"100ms\" }").await;
    for _ in 0..3 {
        gate.get("/").send().await.expect(504);
    }
    assert_eq!(said(&gate).await, "second");
}

#[tokio::test]
async fn a_client_that_breaks_off_does_not_change_the_address() {
    let (first, second) = (named("first").await, named("second").await);
    let gate = gate(&[first.addr, second.addr], "[server]\ntimeouts = { body_idle = \"100ms\" }").await;
    for _ in 0..5 {
        let half = b"POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\nhalf";
        assert_eq!(status(&gate.exchange(half).await), 408);
        let broken = b"POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n";
        let answer = gate.exchange(broken).await;
        assert_eq!(status(&answer), 400);
    }
    assert_eq!(said(&gate).await, "first");
}

/// As servers do that give a request so much time and no more.
#[tokio::test]
async fn a_slow_client_that_makes_the_upstream_hang_up_does_not_change_the_address() {
    let first = RawUpstream::serving(|mut line| async move {
        while let Some(head) = line.head().await {
            if head.starts_with("POST") {
                let mut some = [0; 4];
                line.stream.read_exact(&mut some).await.unwrap();
                return;
            }
            line.say(saying("first")).await;
        }
    })
    .await;
    let second = named("second").await;
    let gate = gate(&[first.addr, second.addr], "").await;
    for _ in 0..5 {
        let mut tls = gate.raw("app.test", "http/1.1").await;
        tls.write_all(b"POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\nhalf").await.unwrap();
        assert_eq!(status(&read_head(&mut tls).await), 502);
    }
    assert_eq!(said(&gate).await, "first");
}

#[tokio::test]
async fn a_mint_goes_to_the_next_place_when_the_first_is_away_and_never_to_two() {
    let away = nobody().await;
    let stage = Plan { pbx_first_at: Some(away), ..Plan::default() }.start().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    assert_eq!(stage.pbx.mints().len(), 1);
    let silent = RawUpstream::closing("").await;
    let stage = Plan { pbx_first_at: Some(silent.addr), ..Plan::default() }.start().await;
    stage.as_alice("/auth/pbx").send().await.expect(502);
    assert_eq!((silent.seen().len(), stage.pbx.mints().len()), (1, 0));
}

#[tokio::test]
async fn the_pbx_is_asked_under_the_name_of_the_place_that_is_reached() {
    let pbx = RawUpstream::answering("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
    for first in [None, Some(nobody().await)] {
        let stage = Plan { pbx_first_at: first, pbx_at: Some(pbx.addr), ..Plan::default() }.start().await;
        stage.as_alice("/auth/pbx").send().await.expect(403);
        let asked = pbx.seen().pop().unwrap();
        assert_eq!(asked.matches("host: ").count(), 1, "{asked}");
        assert!(asked.contains(&format!("host: {}\r\n", pbx.addr)), "{asked}");
    }
    assert_eq!(pbx.seen().len(), 2);
}

// === How many connections ===

#[tokio::test]
async fn a_request_without_a_free_connection_waits_and_gets_503_in_the_end() {
    let release = Arc::new(AtomicBool::new(false));
    let told = release.clone();
    let upstream = RawUpstream::serving(move |mut line| {
        let told = told.clone();
        async move {
            while line.request().await.is_some() {
                until("the test lets go", || told.load(Ordering::SeqCst)).await;
                line.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let lines = "max_connections = 2\ntimeouts = { connect = \"1s\" }";
    let gate = Gate::start(&format!("workers = 2\n[app]\nurl = \"http://{}\"\n{lines}", upstream.addr)).await;
    let mut lines = Vec::new();
    for count in 1..=2 {
        lines.push(asking(&gate).await);
        until("a connection is taken", || upstream.seen().len() == count).await;
    }
    let crowded = gate.get("/").send().await.expect(503);
    assert_eq!(crowded.header("retry-after"), "1");
    gate.line(&["status=503", "reason=upstream_busy"]).await;
    assert_eq!(upstream.seen().len(), 2);
    // When a connection ends, all waiting requests are served.
    for _ in 0..20 {
        lines.push(asking(&gate).await);
    }
    release.store(true, Ordering::SeqCst);
    for mut line in lines {
        let mut answer = String::new();
        line.read_to_string(&mut answer).await.unwrap();
        assert_eq!(status(&answer), 200, "{answer}");
    }
    assert_eq!(upstream.seen().len(), 22);
}

async fn asking(gate: &Gate) -> impl AsyncRead + Unpin {
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(GET).await.unwrap();
    tls
}

#[tokio::test]
async fn idle_connections_are_counted_and_make_room_for_who_waits() {
    let upstream = RawUpstream::ok().await;
    let lines = "max_connections = 1\ntimeouts = { keep_alive = \"20s\", connect = \"10s\" }";
    let gate = Gate::start(&format!("workers = 4\n[app]\nurl = \"http://{}\"\n{lines}", upstream.addr)).await;
    // Some worker keeps the only connection when another needs one.
    for _ in 0..12 {
        gate.get("/").send().await.expect(200);
    }
}

#[tokio::test]
async fn a_tunnel_holds_its_connection() {
    let upstream = RawUpstream::serving(|mut line| async move {
        let request = line.request().await.unwrap_or_default();
        if request.contains("upgrade: websocket") {
            line.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
            line.rest().await;
        } else {
            line.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let gate = Gate::before_with(upstream.addr, "max_connections = 1\ntimeouts = { connect = \"300ms\" }", "").await;
    let mut tunnel = gate.raw("app.test", "http/1.1").await;
    let ask = "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    tunnel.write_all(ask.as_bytes()).await.unwrap();
    assert_eq!(status(&read_head(&mut tunnel).await), 101);
    gate.get("/").send().await.expect(503);
    drop(tunnel);
    let deadline = Instant::now() + Duration::from_secs(20);
    while gate.get("/").send().await.status != 200 {
        assert!(Instant::now() < deadline, "the tunnel's connection is never given back");
    }
}

// === Sockets ===

#[tokio::test]
async fn a_unix_socket_is_an_upstream_like_any_other() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("app.sock");
    let url = format!("unix:{}", path.display());
    let gate = Gate::start(&format!("workers = 1\n[app]\nurl = \"{url}\"")).await;
    gate.get("/").send().await.expect(502);
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let serve = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heads = Vec::new();
        for _ in 0..2 {
            heads.push(read_head(&mut stream).await);
            stream.write_all(saying("socket").as_bytes()).await.unwrap();
        }
        heads
    });
    assert_eq!(said(&gate).await, "socket");
    assert_eq!(gate.get("/again").host("www.app.test").send().await.expect(200).text(), "socket");
    let heads = serve.await.unwrap();
    // One connection, kept; the host is the client's.
    assert!(heads[0].starts_with("GET / HTTP/1.1\r\n") && heads[0].contains("\r\nhost: app.test\r\n"), "{heads:?}");
    assert!(heads[1].starts_with("GET /again ") && heads[1].contains("\r\nhost: www.app.test\r\n"), "{heads:?}");
}
