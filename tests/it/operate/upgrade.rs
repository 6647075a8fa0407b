//! Upgrades: tunnels go on in the old process, and nothing else does.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::kit::client::{read_head, status};
use crate::kit::program::{Program, Successor, check_echo, code, tunnel};
use crate::kit::stage::until;
use crate::kit::upstream::RawUpstream;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const GET: &[u8] = b"GET /slow HTTP/1.1\r\nHost: app.test\r\n\r\n";

/// An upstream that repeats every byte of a tunnel, and answers anything else with half an answer.
async fn echo_or_half() -> RawUpstream {
    RawUpstream::serving(|mut line| async move {
        let head = line.head().await.unwrap_or_default();
        if !head.to_lowercase().contains("upgrade: websocket") {
            line.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst").await;
            line.rest().await;
            return;
        }
        let key = head.lines().find_map(|field| field.strip_prefix("sec-websocket-key: ")).unwrap_or_default();
        let accept = derive_accept_key(key.as_bytes());
        line.say(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        ))
        .await;
        let mut byte = [0];
        while matches!(line.stream.read(&mut byte).await, Ok(1)) {
            line.say(byte).await;
        }
    })
    .await
}

/// Starts a program with a short `drain` and an access log in the file `access.log`.
async fn program(server: &str) -> (RawUpstream, Program) {
    let upstream = echo_or_half().await;
    let more = format!("[server]\n{server}");
    let top = "listen = \"127.0.0.1:0\"\nworkers = 2";
    let mut program = Program::start(upstream.addr, top, &more).await;
    program.change("access = \"off\"", "access = \"access.log\"");
    program.running.signal("-HUP");
    program.running.complaint("reloaded").await;
    (upstream, program)
}

/// Asks for an answer whose second half never comes.
async fn half_an_answer(program: &Program) -> TlsStream<TcpStream> {
    let mut tls = program.connect().await;
    tls.write_all(GET).await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 200);
    tls.read_exact(&mut [0; 5]).await.unwrap();
    tls
}

/// Waits until the access log has a line with these parts.
async fn logged(program: &Program, parts: &[&str]) {
    until(&format!("{parts:?}"), || {
        let text = std::fs::read_to_string(program.file("access.log")).unwrap_or_default();
        text.lines().any(|line| parts.iter().all(|part| line.contains(part)))
    })
    .await;
}

/// A tunnel over one stream of HTTP/2.
struct H2Tunnel {
    up: SendStream<Bytes>,
    down: RecvStream,
}

impl H2Tunnel {
    async fn open(client: &mut SendRequest<Bytes>) -> Self {
        until("the offer", || client.is_extended_connect_protocol_enabled()).await;
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri("https://app.test/")
            .extension(Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13");
        let (response, up) = client.send_request(request.body(()).unwrap(), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        Self { up, down: response.into_body() }
    }

    async fn check_echo(&mut self) {
        self.up.send_data(Bytes::from_static(b"x"), false).unwrap();
        assert_eq!(timeout(PATIENCE, self.down.data()).await.unwrap().unwrap().unwrap(), "x");
    }
}

#[tokio::test]
async fn tunnels_live_through_three_upgrades_and_each_process_ends_with_its_own() {
    let (_upstream, mut program) = program("drain = \"200ms\"").await;
    let mut tunnels = vec![tunnel(&program).await];
    let first = Successor::of(&mut program).await;
    tunnels.push(tunnel(&program).await);
    let second = first.next(&mut program).await;
    tunnels.push(tunnel(&program).await);
    let mut slow = half_an_answer(&program).await;
    let third = second.next(&mut program).await;
    tunnels.push(tunnel(&program).await);
    for tunnel in &mut tunnels {
        check_echo(tunnel).await;
    }
    // `drain` is over in each old process once it is over in the last one.
    drop(timeout(PATIENCE, slow.read_to_end(&mut Vec::new())).await.unwrap());
    for tunnel in &mut tunnels {
        check_echo(tunnel).await;
    }
    // Each process ends when its own tunnel does, whatever the others do.
    drop(tunnels.remove(1));
    until("the first successor ends", || !first.is_running()).await;
    check_echo(&mut tunnels[0]).await;
    drop(tunnels.remove(0));
    assert_eq!(code(&mut program).await, Some(0));
    check_echo(&mut tunnels[0]).await;
    drop(tunnels.remove(0));
    until("the second successor ends", || !second.is_running()).await;
    check_echo(&mut tunnels[0]).await;
    assert!(third.is_running());
    logged(&program, &[" status=101 sent=", " ended=complete"]).await;
}

#[tokio::test]
async fn an_exchange_that_is_no_tunnel_ends_at_the_drain_deadline() {
    let (_upstream, mut program) = program("drain = \"300ms\"").await;
    let mut kept = tunnel(&program).await;
    let mut slow = half_an_answer(&program).await;
    let mut idle = program.connect().await;
    let _successor = Successor::of(&mut program).await;
    assert!(timeout(PATIENCE, slow.read_to_end(&mut Vec::new())).await.unwrap().is_err(), "the body looks whole");
    drop(timeout(PATIENCE, idle.read_to_end(&mut Vec::new())).await.unwrap());
    logged(&program, &[" status=200 sent=5 ", " ended=drained"]).await;
    check_echo(&mut kept).await;
    kept.shutdown().await.unwrap();
    drop(kept);
    // An exchange was cut off.
    assert_eq!(code(&mut program).await, Some(3));
}

#[tokio::test]
async fn an_http2_connection_goes_on_for_its_tunnel_alone() {
    let (_upstream, mut program) = program("drain = \"300ms\"").await;
    let (mut client, connection) = h2::client::handshake(program.connect_h2().await).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut kept = H2Tunnel::open(&mut client).await;
    let request = || Request::get("https://app.test/slow").body(()).unwrap();
    let mut slow = client.send_request(request(), true).unwrap().0.await.unwrap().into_body();
    assert_eq!(slow.data().await.unwrap().unwrap(), "first");
    let _successor = Successor::of(&mut program).await;
    // GOAWAY: this connection takes no further request.
    until("GOAWAY", || client.send_request(request(), true).is_err()).await;
    kept.check_echo().await;
    assert!(timeout(PATIENCE, slow.data()).await.unwrap().unwrap().is_err(), "the body looks whole");
    logged(&program, &[" status=200 sent=5 ", " http=2 ", " ended=drained"]).await;
    kept.check_echo().await;
    kept.up.send_data(Bytes::new(), true).unwrap();
    while timeout(PATIENCE, kept.down.data()).await.unwrap().is_some() {}
    drop((client, kept));
    drop(timeout(PATIENCE, connection).await.unwrap().unwrap());
    assert_eq!(code(&mut program).await, Some(3));
}

#[tokio::test]
async fn tunnels_end_when_drain_tunnels_is_over() {
    let (_upstream, mut program) = program("drain = \"100ms\"\ndrain_tunnels = \"1s\"").await;
    let mut kept = tunnel(&program).await;
    let _successor = Successor::of(&mut program).await;
    check_echo(&mut kept).await;
    drop(timeout(PATIENCE, kept.read_to_end(&mut Vec::new())).await.unwrap());
    logged(&program, &[" status=101 sent=1 received=1 ", " ended=drained"]).await;
    assert_eq!(code(&mut program).await, Some(3));
}

#[tokio::test]
async fn a_signal_to_stop_bounds_the_tunnels_of_the_old_process_by_drain() {
    let (_upstream, mut program) = program("drain = \"300ms\"").await;
    let mut kept = tunnel(&program).await;
    let successor = Successor::of(&mut program).await;
    check_echo(&mut kept).await;
    program.running.signal("-TERM");
    drop(timeout(PATIENCE, kept.read_to_end(&mut Vec::new())).await.unwrap());
    assert_eq!(code(&mut program).await, Some(3));
    assert!(successor.is_running());
}

#[tokio::test]
async fn a_second_signal_to_stop_ends_the_old_process_at_once() {
    let (_upstream, mut program) = program("drain = \"1h\"").await;
    let _kept = tunnel(&program).await;
    let _successor = Successor::of(&mut program).await;
    program.running.complaint("draining: tunnels go on").await;
    program.running.signal("-TERM");
    program.running.complaint("draining").await;
    program.running.signal("-TERM");
    assert_eq!(code(&mut program).await, Some(3));
}

#[tokio::test]
async fn the_old_process_reopens_its_logs() {
    let (_upstream, mut program) = program("drain = \"100ms\"").await;
    let kept = tunnel(&program).await;
    let _successor = Successor::of(&mut program).await;
    std::fs::rename(program.file("access.log"), program.file("access.log.1")).unwrap();
    program.running.signal("-HUP");
    until("a new file", || program.file("access.log").exists()).await;
    drop(kept);
    logged(&program, &[" status=101 "]).await;
    assert_eq!(code(&mut program).await, Some(0));
}
