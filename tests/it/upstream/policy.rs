//! `policy`: which of several healthy URLs serves a request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::ntlm::{ask, knows_connections, user};
use crate::kit::client::{read_head, status};
use crate::kit::gate::Gate;
use crate::kit::load::Load;
use crate::kit::stage::{Plan, until};
use crate::kit::upstream::{RawUpstream, UpstreamConnection, read_request};

const POLICIES: [&str; 3] = ["first", "round_robin", "least"];
const NAMES: [&str; 3] = ["a", "b", "c"];
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

fn saying(name: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len())
}

/// Answers each request with a name: `/slow` when it may, and a WebSocket with an echo.
async fn serve(mut line: UpstreamConnection, name: &'static str, release: Arc<AtomicBool>) {
    while let Some(request) = line.request().await {
        if request.starts_with("GET /slow") {
            until("a slow request is let go", || release.load(Ordering::SeqCst)).await;
        }
        if request.contains("upgrade: websocket") {
            line.say(SWITCHED).await;
            let (mut reader, mut writer) = line.stream.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            return;
        }
        line.say(saying(name)).await;
    }
}

/// Three upstreams that each say their name.
struct Trio {
    nodes: Vec<RawUpstream>,
    release: Arc<AtomicBool>,
}

impl Trio {
    async fn start() -> Self {
        let (mut nodes, release) = (Vec::new(), Arc::<AtomicBool>::default());
        for name in NAMES {
            let release = release.clone();
            nodes.push(RawUpstream::serving(move |line| serve(line, name, release.clone())).await);
        }
        Self { nodes, release }
    }

    fn text(&self, policy: &str, more: &str) -> String {
        text(&self.nodes.iter().map(|node| node.addr).collect::<Vec<_>>(), policy, more)
    }

    /// Returns how many requests each has got.
    fn seen(&self) -> Vec<usize> {
        self.nodes.iter().map(|node| node.seen().len()).collect()
    }
}

fn text(nodes: &[SocketAddr], policy: &str, more: &str) -> String {
    let urls: Vec<_> = nodes.iter().map(|addr| format!("\"http://{addr}\"")).collect();
    format!("workers = 1\n[app]\nurl = [{}]\npolicy = \"{policy}\"\n{more}", urls.join(", "))
}

async fn said(gate: &Gate) -> String {
    gate.get("/").send().await.expect(200).text().to_owned()
}

/// Returns who answers so many requests, one after the other, over HTTP/1.1 and HTTP/2 by turns.
async fn all_said(gate: &Gate, times: usize) -> String {
    let mut names = String::new();
    for nth in 0..times {
        let request = if nth.is_multiple_of(2) { gate.get("/") } else { gate.get("/").h2() };
        names.push_str(request.send().await.expect(200).text());
    }
    names
}

fn counts(names: &str) -> [usize; 3] {
    NAMES.map(|name| names.matches(name).count())
}

async fn begin(gate: &Gate, head: &str) -> TlsStream<TcpStream> {
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(format!("GET {head}Host: app.test\r\n\r\n").as_bytes()).await.unwrap();
    tls
}

/// Begins a request that is not answered before the test lets it go.
async fn begin_slow(gate: &Gate, trio: &Trio) -> TlsStream<TcpStream> {
    let before: usize = trio.seen().iter().sum();
    let tls = begin(gate, "/slow HTTP/1.1\r\n").await;
    until("it is under way", || trio.seen().iter().sum::<usize>() > before).await;
    tls
}

async fn open_websocket(gate: &Gate) -> TlsStream<TcpStream> {
    let mut tls = begin(gate, "/ws HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n").await;
    assert_eq!(status(&read_head(&mut tls).await), 101);
    tls
}

async fn echoes(tunnel: &mut TlsStream<TcpStream>) {
    tunnel.write_all(b"x").await.unwrap();
    assert_eq!(tunnel.read_u8().await.unwrap(), b'x');
}

/// Waits until so many exchanges are under way at each.
async fn under_way(gate: &Gate, exchanges: [usize; 3]) {
    for (url, count) in exchanges.into_iter().enumerate() {
        gate.counts(&format!("callgate_upstream_exchanges{{upstream=app,url={url}}}"), count as f64).await;
    }
}

fn status_of_app(gate: &Gate) -> Value {
    let told = gate.told("/status");
    let told: Value = serde_json::from_str(told.split_once("\r\n\r\n").unwrap().1).unwrap();
    told["upstreams"][0].clone()
}

// === Whose turn it is ===

#[tokio::test]
async fn requests_go_to_each_url_in_turn_over_kept_connections() {
    let trio = Trio::start().await;
    let gate = Gate::start(&trio.text("round_robin", "timeouts = { keep_alive = \"60s\" }")).await;
    assert_eq!(all_said(&gate, 31).await, "abc".repeat(11)[..31]);
    gate.counts("callgate_upstream_requests_total{connection=new,upstream=app}", 3.0).await;
    gate.counts("callgate_upstream_requests_total{connection=reused,upstream=app}", 28.0).await;
    under_way(&gate, [0; 3]).await;
}

#[tokio::test]
async fn the_turns_are_those_of_all_workers_together() {
    let trio = Trio::start().await;
    let gate = Gate::start(&trio.text("round_robin", "").replace("workers = 1", "workers = 4")).await;
    all_said(&gate, 30).await;
    assert_eq!(trio.seen(), [10, 10, 10]);
}

#[tokio::test]
async fn requests_at_the_same_time_over_one_connection_have_their_turns_too() {
    for policy in ["round_robin", "least"] {
        let trio = Trio::start().await;
        let gate = Gate::start(&trio.text(policy, "")).await;
        let (send, connection) = h2::client::handshake(gate.raw("app.test", "h2").await).await.unwrap();
        let connection = tokio::spawn(connection);
        let slow = || {
            let request = http::Request::get("https://app.test/slow").body(()).unwrap();
            send.clone().send_request(request, true).unwrap().0
        };
        let answers: Vec<_> = (0..30).map(|_| slow()).collect();
        under_way(&gate, [10; 3]).await;
        trio.release.store(true, Ordering::SeqCst);
        for answer in answers {
            assert_eq!(answer.await.unwrap().status(), 200);
        }
        assert_eq!(trio.seen(), [10; 3], "{policy}");
        connection.abort();
    }
}

#[tokio::test]
async fn the_url_with_the_fewest_exchanges_under_way_is_used() {
    let trio = Trio::start().await;
    let gate = Gate::start(&trio.text("least", "")).await;
    let mut slow = vec![begin_slow(&gate, &trio).await];
    assert_eq!(trio.seen(), [1, 0, 0]);
    under_way(&gate, [1, 0, 0]).await;
    assert_eq!(counts(&all_said(&gate, 10).await), [0, 5, 5]);
    for _ in 0..2 {
        slow.push(begin_slow(&gate, &trio).await);
    }
    under_way(&gate, [1; 3]).await;
    assert_eq!(counts(&all_said(&gate, 9).await), [3; 3]);
    trio.release.store(true, Ordering::SeqCst);
    for mut tls in slow {
        assert_eq!(status(&read_head(&mut tls).await), 200);
    }
    under_way(&gate, [0; 3]).await;
}

#[tokio::test]
async fn a_websocket_is_under_way_until_it_ends() {
    let trio = Trio::start().await;
    let gate = Gate::start(&trio.text("least", "")).await;
    let mut tunnels = Vec::new();
    for _ in 0..6 {
        tunnels.push(open_websocket(&gate).await);
    }
    assert_eq!(trio.seen(), [2; 3]);
    let load = |at: usize| status_of_app(&gate)["load"][at].clone();
    let urls = trio.nodes.iter().map(|node| format!("http://{}", node.addr));
    for (at, url) in urls.enumerate() {
        assert_eq!(load(at), json!({ "url": url, "healthy": true, "exchanges": 2 }));
    }
    // They went to a, b, c, a, b, c.
    drop((tunnels.remove(4), tunnels.remove(1)));
    under_way(&gate, [2, 0, 2]).await;
    for expected in [3, 4] {
        tunnels.push(open_websocket(&gate).await);
        assert_eq!(trio.seen(), [2, expected, 2]);
    }
    for tunnel in &mut tunnels {
        echoes(tunnel).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_under_way_no_more() {
    let trio = Trio::start().await;
    let gate = Gate::start(&trio.text("least", "")).await;
    let slow = begin_slow(&gate, &trio).await;
    under_way(&gate, [1, 0, 0]).await;
    drop(slow);
    under_way(&gate, [0; 3]).await;
}

#[tokio::test]
async fn one_url_is_not_counted_and_reported_as_before() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    gate.get("/").send().await.expect(200);
    assert!(!gate.told("/metrics").contains("callgate_upstream_exchanges{"));
    let told = status_of_app(&gate);
    assert_eq!(told.as_object().unwrap().keys().collect::<Vec<_>>(), ["name", "urls"], "{told}");
}

#[tokio::test]
async fn the_app_is_asked_for_the_user_by_the_same_policy() {
    let claims = r#"{"sub":"alice","ext":"40","tenant":"acme.test","vox":"alice"}"#;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{claims}", claims.len());
    let apps = [RawUpstream::answering(answer.clone()).await, RawUpstream::answering(answer).await];
    let mut stage = Plan { app_at: Some(apps[0].addr), ..Plan::default() }.start().await;
    let [one, other] = apps.each_ref().map(|app| format!("\"http://{}\"", app.addr));
    let two = format!("url = [{one}, {other}]\npolicy = \"round_robin\"");
    let text = stage.gate.text.replacen(&format!("url = {one}"), &two, 1);
    stage.gate.reload(&text).await.unwrap();
    for _ in 0..4 {
        stage.as_alice("/auth/pbx").send().await.expect(303);
    }
    let [one, other] = apps.each_ref().map(|app| app.seen().len());
    assert!(one >= 4 && one.abs_diff(other) <= 1, "{one} {other}");
    assert_eq!(stage.pbx.mints().len(), 4);
}

// === Health ===

/// An upstream whose connections end with it.
struct Mortal(tokio::task::JoinHandle<()>);

impl Mortal {
    /// Serves at an address, from where one served before.
    fn start(listener: TcpListener, name: &'static str) -> Self {
        Self(tokio::spawn(async move {
            let mut lines = tokio::task::JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                lines.spawn(async move {
                    while read_request(&mut stream).await.is_some() {
                        if stream.write_all(saying(name).as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        }))
    }

    async fn die(self) {
        self.0.abort();
        let _ = self.0.await;
    }
}

#[tokio::test]
async fn a_url_that_dies_costs_no_request_and_has_its_part_again_when_it_is_back() {
    for policy in POLICIES {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let first = listener.local_addr().unwrap();
        let a = Mortal::start(listener, "a");
        let (b, c) = (RawUpstream::answering(saying("b")).await, RawUpstream::answering(saying("c")).await);
        let gate = Gate::start(&text(&[first, b.addr, c.addr], policy, "")).await;
        let expected = if policy == "first" { [6, 0, 0] } else { [2, 2, 2] };
        assert_eq!(counts(&all_said(&gate, 6).await), expected, "{policy}");
        a.die().await;
        let [none, second, third] = counts(&all_said(&gate, 12).await);
        assert_eq!((none, second + third), (0, 12), "{policy}");
        if policy == "first" {
            assert_eq!(third, 0);
        } else {
            // The first request after the death goes to the next.
            assert!(second.abs_diff(third) <= 2, "{policy}: {second} {third}");
        }
        assert_eq!(b.seen().len() + c.seen().len(), expected[1] + expected[2] + 12, "{policy}: none came twice");
        assert_eq!(status_of_app(&gate)["load"][0]["healthy"], false, "{policy}");
        let back = Mortal::start(TcpListener::bind(first).await.unwrap(), "a");
        let deadline = Instant::now() + std::time::Duration::from_secs(20);
        while said(&gate).await != "a" {
            assert!(Instant::now() < deadline, "{policy}: it is never used again");
        }
        let expected = if policy == "first" { [9, 0, 0] } else { [3; 3] };
        assert_eq!(counts(&all_said(&gate, 9).await), expected, "{policy}");
        back.die().await;
    }
}

/// Sends a request with a path of its own to a gate, over either protocol, and returns the status.
async fn post(gate: &Gate, nth: usize) -> u16 {
    let request = gate.post(&format!("/{nth}."), "text/plain", "ab");
    let request = if nth.is_multiple_of(2) { request } else { request.h2() };
    request.send().await.status.as_u16()
}

fn arrivals(nodes: &[&RawUpstream], nth: usize) -> usize {
    let line = format!("POST /{nth}. ");
    nodes.iter().flat_map(|node| node.seen()).filter(|seen| seen.starts_with(&line)).count()
}

#[tokio::test]
async fn a_request_that_cannot_be_sent_to_one_url_is_sent_to_another_once() {
    for policy in POLICIES {
        let away = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (b, c) = (RawUpstream::ok().await, RawUpstream::ok().await);
        let gate = Gate::start(&text(&[away, b.addr, c.addr], policy, "")).await;
        for nth in 0..12 {
            assert_eq!(post(&gate, nth).await, 200, "{policy}");
            assert_eq!(arrivals(&[&b, &c], nth), 1, "{policy}");
        }
    }
}

#[tokio::test]
async fn a_request_that_may_have_had_an_effect_is_sent_to_no_second_url() {
    for policy in POLICIES {
        let (a, b, c) = (RawUpstream::closing("").await, RawUpstream::ok().await, RawUpstream::ok().await);
        let gate = Gate::start(&text(&[a.addr, b.addr, c.addr], policy, "")).await;
        for nth in 0..15 {
            let is_lost = post(&gate, nth).await == 502;
            assert_eq!(arrivals(&[&a], nth), usize::from(is_lost), "{policy}");
            assert_eq!(arrivals(&[&a, &b, &c], nth), 1, "{policy}");
        }
        // The third broken answer in a row is one too many.
        assert_eq!(a.seen().len(), 3, "{policy}");
    }
}

#[tokio::test]
async fn when_no_url_is_well_all_are_tried_in_each_policy() {
    for policy in POLICIES {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let last = listener.local_addr().unwrap();
        drop(listener);
        let mut nodes = Vec::new();
        for _ in 0..2 {
            nodes.push(TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap());
        }
        let gate = Gate::start(&text(&[nodes[0], nodes[1], last], policy, "")).await;
        gate.get("/").send().await.expect(502);
        let c = Mortal::start(TcpListener::bind(last).await.unwrap(), "c");
        assert_eq!(said(&gate).await, "c", "{policy}");
        c.die().await;
    }
}

// === Connections ===

#[tokio::test]
async fn a_proven_connection_stays_with_its_url() {
    for policy in ["round_robin", "least"] {
        let nodes = [RawUpstream::serving(knows_connections).await, RawUpstream::serving(knows_connections).await];
        let gate = Gate::start(&text(&nodes.each_ref().map(|node| node.addr), policy, "")).await;
        let (mut ann, mut bob) = (gate.raw("app.test", "http/1.1").await, gate.raw("app.test", "http/1.1").await);
        assert_eq!(status(&ask(&mut ann, "/", "Authorization: NTLM hello\r\n").await), 401);
        assert_eq!(user(&ask(&mut bob, "/", "").await), "nobody");
        assert_eq!(user(&ask(&mut ann, "/", "Authorization: NTLM proof-ann\r\n").await), "ann", "{policy}");
        for _ in 0..4 {
            assert_eq!(user(&ask(&mut ann, "/", "").await), "ann", "{policy}");
            assert_eq!(user(&ask(&mut bob, "/", "").await), "nobody", "{policy}");
        }
        // A proven connection that rests has no exchange under way.
        for url in 0..2 {
            gate.counts(&format!("callgate_upstream_exchanges{{upstream=app,url={url}}}"), 0.0).await;
        }
    }
}

#[tokio::test]
async fn max_connections_is_for_all_urls_together() {
    for policy in POLICIES {
        let trio = Trio::start().await;
        let more = "max_connections = 3\ntimeouts = { connect = \"300ms\" }";
        let gate = Gate::start(&trio.text(policy, more)).await;
        let mut slow = Vec::new();
        for _ in 0..3 {
            slow.push(begin_slow(&gate, &trio).await);
        }
        gate.get("/").send().await.expect(503);
        trio.release.store(true, Ordering::SeqCst);
        for mut tls in slow {
            assert_eq!(status(&read_head(&mut tls).await), 200, "{policy}");
        }
        said(&gate).await;
    }
}

#[tokio::test]
async fn an_idle_connection_makes_room_for_one_to_another_url() {
    for policy in ["round_robin", "least"] {
        let trio = Trio::start().await;
        let more = "max_connections = 1\ntimeouts = { connect = \"10s\", keep_alive = \"60s\" }";
        let gate = Gate::start(&trio.text(policy, more)).await;
        assert_eq!(counts(&all_said(&gate, 9).await), [3; 3], "{policy}");
    }
}

// === Reload ===

#[tokio::test]
async fn a_reload_changes_the_policy_and_exchanges_under_way_go_on_counting() {
    let trio = Trio::start().await;
    let mut gate = Gate::start(&trio.text("first", "")).await;
    assert_eq!(all_said(&gate, 3).await, "aaa");
    let (mut tunnel, mut slow) = (open_websocket(&gate).await, begin_slow(&gate, &trio).await);
    under_way(&gate, [2, 0, 0]).await;
    gate.reload(&trio.text("least", "")).await.unwrap();
    under_way(&gate, [2, 0, 0]).await;
    assert_eq!(counts(&all_said(&gate, 8).await), [0, 4, 4]);
    gate.reload(&trio.text("round_robin", "")).await.unwrap();
    assert_eq!(all_said(&gate, 6).await, "abcabc");
    gate.reload(&trio.text("first", "")).await.unwrap();
    assert_eq!(all_said(&gate, 3).await, "aaa");
    assert_eq!(status_of_app(&gate)["policy"], "first");
    echoes(&mut tunnel).await;
    trio.release.store(true, Ordering::SeqCst);
    assert_eq!(status(&read_head(&mut slow).await), 200);
    under_way(&gate, [1, 0, 0]).await;
    drop(tunnel);
    under_way(&gate, [0; 3]).await;
}

/// Two nodes are served by turns: one is taken out, and comes back.
#[tokio::test]
async fn a_url_that_comes_back_has_the_websockets_that_it_kept() {
    let trio = Trio::start().await;
    let of = |nodes: &[usize]| {
        let nodes: Vec<_> = nodes.iter().map(|&node| trio.nodes[node].addr).collect();
        text(&nodes, "least", "")
    };
    let mut gate = Gate::start(&of(&[0, 1])).await;
    let mut tunnels = Vec::new();
    for _ in 0..4 {
        tunnels.push(open_websocket(&gate).await);
    }
    assert_eq!(trio.seen(), [2, 2, 0]);
    gate.reload(&of(&[1])).await.unwrap();
    for _ in 0..3 {
        tunnels.push(open_websocket(&gate).await);
    }
    assert_eq!(trio.seen(), [2, 5, 0]);
    gate.reload(&of(&[2, 1, 0])).await.unwrap();
    under_way(&gate, [0, 5, 2]).await;
    for _ in 0..5 {
        tunnels.push(open_websocket(&gate).await);
    }
    // The new one has three of its own; then both have their turns.
    assert_eq!(trio.seen()[1], 5);
    assert_eq!(trio.seen()[0] + trio.seen()[2], 7);
    assert!(trio.seen()[0].abs_diff(trio.seen()[2]) <= 1, "{:?}", trio.seen());
    for tunnel in &mut tunnels {
        echoes(tunnel).await;
    }
    drop(tunnels);
    under_way(&gate, [0; 3]).await;
}

#[tokio::test]
async fn under_load_a_reload_of_the_urls_costs_no_request() {
    for policy in POLICIES {
        let mut nodes = Vec::new();
        for _ in NAMES {
            nodes.push(RawUpstream::serving(|line| serve(line, "ok", Arc::default())).await);
        }
        let of = |listed: &[usize]| {
            let nodes: Vec<_> = listed.iter().map(|&node| nodes[node].addr).collect();
            text(&nodes, policy, "").replace("workers = 1", "workers = 2")
        };
        let mut gate = Gate::start(&of(&[0, 1])).await;
        let load = Load::start(gate.addr, gate.roots());
        let mut tunnels = vec![open_websocket(&gate).await];
        for listed in [&[1][..], &[2, 1], &[0, 1, 2], &[2], &[1, 0]] {
            load.more(50).await;
            gate.reload(&of(listed)).await.unwrap();
            tunnels.push(open_websocket(&gate).await);
        }
        load.more(50).await;
        load.stop().await;
        for tunnel in &mut tunnels {
            echoes(tunnel).await;
        }
        let before = nodes[2].seen().len();
        all_said(&gate, 6).await;
        assert_eq!(nodes[2].seen().len(), before, "{policy}: it is not listed any more");
    }
}

#[tokio::test]
async fn a_drain_lets_the_exchanges_at_each_url_end() {
    let trio = Trio::start().await;
    let gate = Gate::start(&trio.text("least", "")).await;
    let mut slow = Vec::new();
    for _ in 0..3 {
        slow.push(begin_slow(&gate, &trio).await);
    }
    assert_eq!(trio.seen(), [1; 3]);
    gate.begin_drain();
    trio.release.store(true, Ordering::SeqCst);
    for mut tls in slow {
        assert_eq!(status(&read_head(&mut tls).await), 200);
    }
}
