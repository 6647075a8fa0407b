//! Shares: one client holds bytes within `buffer_budget`, and not all connections of an upstream. Other clients are served.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::kit::client::{read_head, status};
use crate::kit::frames::{END_HEADERS, Frames, POST, WHOLE, data, headers, window_update};
use crate::kit::gate::Gate;
use crate::kit::stage::{Plan, until};
use crate::kit::upstream::{RawUpstream, UpstreamConnection};

/// A body that no test takes to its end.
const BIG: u64 = 1 << 30;
/// A body that one does.
const PAGE: usize = 8 << 20;
const KIB: u64 = 1 << 10;
const SMALL_BUDGET: &str = "[server]\nbuffer_budget = \"8MiB\"";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// An app with bodies of every size, that takes no upload and never answers `/slow`.
async fn app() -> RawUpstream {
    RawUpstream::serving(|mut line| async move {
        while let Some(head) = line.head().await {
            match head.split(' ').nth(1).unwrap_or_default() {
                "/big" => answer(&mut line, BIG).await,
                "/page" => answer(&mut line, PAGE as u64).await,
                "/slow" | "/upload" => std::future::pending().await,
                "/tunnel" => {
                    line.say(AGREE).await;
                    pour(&mut line, BIG).await;
                }
                "/api/me" => {
                    let claims = r#"{"sub":"alice","tenant":"acme.test","ext":"40","vox":"alice"}"#;
                    let length = claims.len();
                    line.say(format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{claims}"
                    ))
                    .await;
                }
                _ => line.say(OK).await,
            }
        }
    })
    .await
}

async fn answer(line: &mut UpstreamConnection, length: u64) {
    line.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).await;
    pour(line, length).await;
}

async fn pour(line: &mut UpstreamConnection, mut left: u64) {
    let zeros = vec![0; 64 << 10];
    while left > 0 {
        let length = left.min(zeros.len() as u64);
        if line.stream.write_all(&zeros[..usize::try_from(length).unwrap()]).await.is_err() {
            return;
        }
        left -= length;
    }
}

fn metric(gate: &Gate, name: &str) -> u64 {
    let told = gate.told("/metrics");
    let line =
        told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_else(|| panic!("{told}"));
    line.parse().unwrap()
}

fn held(gate: &Gate) -> u64 {
    metric(gate, "callgate_buffered_bytes")
}

/// A connection with little room for what is not read.
async fn deaf(gate: &Gate) -> TlsStream<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    gate.tls(socket.connect(gate.addr).await.unwrap(), "app.test", "http/1.1").await.unwrap()
}

/// A connection over HTTP/2 that asks for a hundred large bodies and takes none.
async fn hundred(gate: &Gate) -> Frames {
    let mut frames = Frames::open_deaf(gate).await;
    frames.write(&crate::kit::frames::window_size((1 << 31) - 1)).await;
    frames.write(&window_update(0, 1 << 30)).await;
    let fields = [(":method", "GET"), (":scheme", "https"), (":path", "/big"), (":authority", "app.test")];
    for nth in 0..100 {
        frames.write(&headers(2 * nth + 1, WHOLE, &fields)).await;
    }
    frames
}

/// Looks for a while that no more is held than may be, and that another connection is served.
async fn check_budget(gate: &Gate, limit: u64) {
    let (start, mut most) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(4) {
        most = most.max(held(gate));
        let page = timeout(Duration::from_secs(20), gate.get("/").send()).await.expect("others are served");
        page.expect(200);
        sleep(Duration::from_millis(20)).await;
    }
    assert!(most > limit / 2, "only {most} bytes were held");
    assert!(most <= limit, "{most} bytes are held, of {limit}");
    let page = timeout(Duration::from_secs(60), gate.get("/page").send()).await.expect("a page comes at full speed");
    assert_eq!(page.expect(200).body.len(), PAGE);
}

#[tokio::test]
async fn a_hundred_streams_that_are_not_read_hold_little() {
    let app = app().await;
    let gate = Gate::before(app.addr).await;
    let stuck = hundred(&gate).await;
    let page = gate.get("/page").h2().send().await.expect(200);
    assert_eq!(page.body.len(), PAGE);
    sleep(Duration::from_secs(1)).await;
    // The pool with what was read beyond it at once, a piece for each stream, and what is encrypted already.
    let most = (512 + 256 + 100 * 9 + 64 + 64) * KIB;
    assert!((1..=most).contains(&held(&gate)), "{} KiB", held(&gate) / KIB);
    drop(stuck);
    until("all is given back", || held(&gate) == 0).await;
}

#[tokio::test]
async fn slow_readers_over_http2_stay_within_the_budget_and_the_slowest_go() {
    let app = app().await;
    let gate = Gate::before_with(app.addr, "", SMALL_BUDGET).await;
    let mut stuck = Vec::new();
    for _ in 0..12 {
        stuck.push(hundred(&gate).await);
    }
    check_budget(&gate, 8192 * KIB).await;
    assert!(metric(&gate, "callgate_connections_shed_total") > 0);
    drop(stuck);
    until("all is given back", || held(&gate) == 0).await;
}

#[tokio::test]
async fn slow_readers_over_http1_stay_within_the_budget_and_the_slowest_go() {
    let app = app().await;
    let gate = Gate::before_with(app.addr, "", SMALL_BUDGET).await;
    let mut stuck = Vec::new();
    for _ in 0..80 {
        let mut tls = deaf(&gate).await;
        tls.write_all(b"GET /big HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
        stuck.push(tls);
    }
    check_budget(&gate, 8192 * KIB).await;
    assert!(metric(&gate, "callgate_connections_shed_total") > 0);
    drop(stuck);
    until("all is given back", || held(&gate) == 0).await;
}

#[tokio::test]
async fn uploads_that_an_upstream_does_not_take_stay_within_the_budget() {
    let app = app().await;
    let gate = Gate::before_with(app.addr, "", SMALL_BUDGET).await;
    let mut stuck = Vec::new();
    for _ in 0..12 {
        let mut frames = Frames::open(&gate).await;
        let mut fields = POST;
        fields[2].1 = "/upload";
        for stream in [1, 3, 5, 7] {
            frames.write(&headers(stream, END_HEADERS, &fields)).await;
            // As much as its first window permits.
            for _ in 0..15 {
                let _ = frames.try_write(&data(stream, 0, &[0; 16 << 10])).await;
            }
        }
        stuck.push(frames);
    }
    for _ in 0..20 {
        let mut tls = gate.raw("app.test", "http/1.1").await;
        tls.write_all(b"POST /upload HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
        let (_, mut write) = tokio::io::split(tls);
        tokio::spawn(async move { while write.write_all(&[0; 64 << 10]).await.is_ok() {} });
    }
    let start = Instant::now();
    until("the slowest are closed", || metric(&gate, "callgate_connections_shed_total") > 0).await;
    while start.elapsed() < Duration::from_secs(3) {
        gate.get("/").send().await.expect(200);
        sleep(Duration::from_millis(20)).await;
    }
    // Bytes that clients sent ahead are counted as soon as they may be sent.
    until("the budget is kept", || held(&gate) <= 8192 * KIB).await;
    drop(stuck);
}

#[tokio::test]
async fn tunnels_that_are_not_read_stay_within_the_budget_and_are_logged_as_stalled() {
    let app = app().await;
    let gate = Gate::before_with(app.addr, "", SMALL_BUDGET).await;
    let mut stuck = Vec::new();
    for _ in 0..150 {
        let mut tls = deaf(&gate).await;
        let ask = "GET /tunnel HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        tls.write_all(ask.as_bytes()).await.unwrap();
        assert_eq!(status(&read_head(&mut tls).await), 101);
        stuck.push(tls);
    }
    until("the slowest are closed", || metric(&gate, "callgate_connections_shed_total") > 0).await;
    assert!(metric(&gate, "callgate_tunnels_ended_total{reason=\"stalled\"}") > 0);
    until("the budget is kept", || held(&gate) <= 8192 * KIB).await;
    gate.get("/").send().await.expect(200);
}

#[tokio::test]
async fn a_reload_changes_the_budget() {
    let app = app().await;
    let mut gate = Gate::before_with(app.addr, "", "").await;
    assert_eq!(metric(&gate, "callgate_buffer_budget_bytes"), 128 << 20);
    let text = format!("workers = 1\n[app]\nurl = \"http://{}\"\n{SMALL_BUDGET}", app.addr);
    gate.reload(&text).await.unwrap();
    assert_eq!(metric(&gate, "callgate_buffer_budget_bytes"), 8 << 20);
}

#[tokio::test]
async fn one_client_does_not_hold_all_connections_of_an_upstream() {
    let app = app().await;
    let lines = "whoami = \"/api/me\"\nmax_connections = 100\ntimeouts = { connect = \"1s\" }";
    let stage = Plan { app: lines, app_at: Some(app.addr), ..Plan::default() }.start().await;
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut frames = Frames::open(&stage.gate).await;
        let fields = [(":method", "GET"), (":scheme", "https"), (":path", "/slow"), (":authority", "app.test")];
        for nth in 0..100 {
            frames.write(&headers(2 * nth + 1, WHOLE, &fields)).await;
        }
        slow.push(frames);
    }
    let taken = || app.seen().iter().filter(|head| head.starts_with("GET /slow")).count();
    until("it has what it may have", || taken() >= 60).await;
    // Of the same address, and none of it waits.
    for _ in 0..3 {
        stage.gate.get("/").send().await.expect(200);
        stage.gate.get("/auth/pbx").cookie("app=1").send().await.expect(303);
    }
    assert!(taken() < 100, "{}", taken());
    stage.gate.line(&["status=503", "reason=upstream_busy"]).await;
    // Once it has left, the others may have them.
    drop(slow);
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut tls = deaf(&stage.gate).await;
    loop {
        tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
        assert!(Instant::now() < deadline);
        if status(&read_head(&mut tls).await) == 200 {
            break;
        }
    }
    tls.read_exact(&mut [0; 2]).await.unwrap();
}
