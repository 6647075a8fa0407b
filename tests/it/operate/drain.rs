//! Drain (graceful shutdown): idle connections end, active ones go on, new ones are not accepted.

use std::time::Duration;

use callgate::server::ServerState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::kit::client::{read_head, status};
use crate::kit::commands::unprivileged;
use crate::kit::gate::Gate;
use crate::kit::program::Program;
use crate::kit::upstream::RawUpstream;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";

/// An upstream that sends the second half of its answer when the test says so.
async fn halves() -> (RawUpstream, mpsc::UnboundedSender<()>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let receiver = std::sync::Arc::new(tokio::sync::Mutex::new(receiver));
    let upstream = RawUpstream::serving(move |mut line| {
        let receiver = receiver.clone();
        async move {
            line.request().await;
            line.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst").await;
            if receiver.lock().await.recv().await.is_some() {
                line.say("later").await;
            }
            line.rest().await;
        }
    })
    .await;
    (upstream, sender)
}

/// Waits until connections are no longer accepted.
async fn refused(gate: &Gate) {
    while TcpStream::connect(gate.addr).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn resting_connections_end_and_new_ones_are_refused() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let mut fresh = gate.raw("app.test", "http/1.1").await;
    let mut used = gate.raw("app.test", "http/1.1").await;
    used.write_all(GET).await.unwrap();
    assert_eq!(status(&read_head(&mut used).await), 200);
    gate.begin_drain();
    refused(&gate).await;
    let mut rest = Vec::new();
    used.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"ok");
    fresh.read_to_end(&mut rest).await.unwrap();
    assert_eq!(gate.drain().await, 0);
}

#[tokio::test]
async fn a_request_that_comes_while_others_leave_is_answered_and_is_the_last() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let mut states = gate.state();
    assert_eq!(*states.borrow(), ServerState::Ready);
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(GET).await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 200);
    tls.read_exact(&mut [0; 2]).await.unwrap();
    gate.begin_drain();
    states.wait_for(|state| *state == ServerState::Draining).await.unwrap();
    tls.write_all(GET).await.unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await.unwrap();
    assert!(status(&answer) == 200 && answer.contains("connection: close\r\n") && answer.ends_with("ok"), "{answer}");
    assert_eq!(gate.drain().await, 0);
}

#[tokio::test]
async fn under_load_the_end_costs_no_request() {
    let upstream = RawUpstream::ok().await;
    let program = Program::before(upstream.addr, "").await;
    let load = program.load();
    load.more(300).await;
    load.may_be_refused();
    program.running.signal("-TERM");
    load.refused().await;
    let (code, told) = program.running.end().await;
    assert_eq!(code, Some(0), "{told}");
}

/// As an ordinary user, and as under the unit of `deploy/`.
#[tokio::test]
async fn without_privileges_too_the_end_costs_no_request() {
    let upstream = RawUpstream::ok().await;
    for _ in 0..5 {
        let Some(command) = unprivileged() else { return };
        let program = Program::start_by(command, upstream.addr, "listen = \"127.0.0.1:0\"\nworkers = 3", "").await;
        let load = program.load();
        load.more(100).await;
        load.may_be_refused();
        program.running.signal("-TERM");
        load.refused().await;
        let (code, told) = program.running.end().await;
        assert_eq!(code, Some(0), "{told}");
    }
}

#[tokio::test]
async fn an_answer_under_way_is_finished() {
    let (upstream, finish) = halves().await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(GET).await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 200);
    gate.begin_drain();
    refused(&gate).await;
    finish.send(()).unwrap();
    let mut body = String::new();
    tls.read_to_string(&mut body).await.unwrap();
    assert_eq!(body, "firstlater");
    assert_eq!(gate.drain().await, 0);
}

#[tokio::test]
async fn an_http2_client_gets_goaway_and_its_streams_are_finished() {
    let (upstream, finish) = halves().await;
    let gate = Gate::before(upstream.addr).await;
    let (mut send, connection) = h2::client::handshake(gate.raw("app.test", "h2").await).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = || http::Request::get("https://app.test/").body(()).unwrap();
    let mut body = send.send_request(request(), true).unwrap().0.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "first");
    gate.begin_drain();
    refused(&gate).await;
    finish.send(()).unwrap();
    assert_eq!(body.data().await.unwrap().unwrap(), "later");
    assert!(body.data().await.is_none());
    // The connection ends by itself; the client's own close may find it closed.
    drop(connection.await.unwrap());
    assert!(send.send_request(request(), true).is_err());
    assert_eq!(gate.drain().await, 0);
}

#[tokio::test]
async fn a_stuck_client_is_cut_off_at_the_deadline() {
    let (upstream, _never) = halves().await;
    let gate = Gate::before_with(upstream.addr, "", "[server]\ndrain = \"500ms\"").await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(GET).await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 200);
    gate.begin_drain();
    let mut rest = Vec::new();
    assert!(tls.read_to_end(&mut rest).await.is_err(), "the body looks whole");
    gate.line(&[" status=200 sent=5 ", " ended=drained"]).await;
    assert_eq!(gate.drain().await, 1);
}

/// An upstream that says back what it hears in a tunnel.
async fn echo() -> RawUpstream {
    RawUpstream::serving(|mut line| async move {
        line.head().await;
        line.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        let mut byte = [0];
        while matches!(line.stream.read(&mut byte).await, Ok(1)) {
            line.say(byte).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_tunnel_that_is_cut_off_is_logged_with_its_bytes() {
    let upstream = echo().await;
    let gate = Gate::before_with(upstream.addr, "", "[server]\ndrain = \"500ms\"").await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    let ask = b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    tls.write_all(ask).await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 101);
    let mut heard = [0; 5];
    tls.write_all(b"hello").await.unwrap();
    tls.read_exact(&mut heard).await.unwrap();
    gate.begin_drain();
    gate.line(&[" status=101 sent=5 received=5 ", " ended=drained"]).await;
    assert_eq!(gate.drain().await, 1);
}

#[tokio::test]
async fn a_tunnel_is_waited_for() {
    let upstream = echo().await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    let ask = b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    tls.write_all(ask).await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 101);
    gate.begin_drain();
    refused(&gate).await;
    tls.write_all(b"x").await.unwrap();
    assert_eq!(tls.read_u8().await.unwrap(), b'x');
    tls.shutdown().await.unwrap();
    let mut rest = Vec::new();
    tls.read_to_end(&mut rest).await.unwrap();
    assert_eq!(gate.drain().await, 0);
}
