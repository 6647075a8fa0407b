//! Connections of `[[passthrough]]` have limits, deadlines, counts and a line in the access log as all others have.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::kit::gate::Gate;
use crate::kit::hello::{INTERNAL_ERROR, alert, answer_to, old_hello_for};
use crate::kit::program::{Program, Successor, code};
use crate::kit::stage::until;
use crate::kit::upstream::RawUpstream;

const PHONES: &str = "phones.app.test";

/// How long a test waits for what should come soon.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gate that passes connections on to a target, with more lines, and the app behind it.
async fn gate_and_app(to: SocketAddr, more: &str) -> (Gate, RawUpstream) {
    let app = RawUpstream::ok().await;
    let table = format!("[[passthrough]]\nnames = [\"{PHONES}\"]\nto = \"{to}\"\n{more}");
    (Gate::before_with(app.addr, "", &table).await, app)
}

/// The same without an app.
async fn gate(to: SocketAddr, more: &str) -> Gate {
    gate_and_app(to, more).await.0
}

/// A target that says back each byte it hears, until the client has ended.
async fn echo() -> RawUpstream {
    RawUpstream::serving(|mut line| async move {
        let mut byte = [0];
        while matches!(line.stream.read(&mut byte).await, Ok(1)) {
            line.say(byte).await;
        }
    })
    .await
}

/// Connects from an address under the phones' name, and waits for the echo of the hello. `None` if the gate closes.
async fn phone(gate: &Gate, from: &str) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from.parse::<std::net::IpAddr>().unwrap(), 0).into()).unwrap();
    let mut stream = socket.connect(gate.addr).await.unwrap();
    let hello = old_hello_for(PHONES);
    stream.write_all(&hello).await.ok()?;
    let mut heard = vec![0; hello.len()];
    stream.read_exact(&mut heard).await.ok()?;
    assert_eq!(heard, hello);
    Some(stream)
}

/// Reads what comes until the gate closes.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    // A reset is an end as well.
    assert!(read.is_ok(), "the gate keeps the connection open");
    rest
}

/// Waits until the metrics have these lines. A connection is counted a moment after its end.
async fn check_metrics(gate: &Gate, expected: &[&str]) {
    for line in expected {
        until(line, || gate.told("/metrics").lines().any(|known| known == *line)).await;
    }
}

// === Lines and counts ===

#[tokio::test]
async fn a_connection_is_counted_and_logged() {
    let target = echo().await;
    let gate = gate(target.addr, "").await;
    let (hello, mut phone) = (old_hello_for(PHONES).len(), phone(&gate, "127.0.0.7").await.unwrap());
    check_metrics(
        &gate,
        &[
            "callgate_connections_open{protocol=\"passthrough\"} 1",
            "callgate_connections_total{protocol=\"passthrough\"} 1",
            "callgate_passthrough_connects_total{result=\"ok\"} 1",
            "callgate_tunnels_open 1",
            "callgate_exchanges_in_flight 1",
        ],
    )
    .await;
    assert!(gate.told("/status").contains("\"passthrough\": 1"), "{}", gate.told("/status"));
    phone.write_all(b"more").await.unwrap();
    phone.shutdown().await.unwrap();
    assert_eq!(rest(&mut phone).await, b"more");
    let bytes = hello + 4;
    let line = gate.line(&[" passthrough id="]).await;
    let shown = format!(" client=127.0.0.7 name={PHONES} to={} sent={bytes} received={bytes} ms=", target.addr);
    assert!(line.contains(&shown) && line.ends_with(" ended=complete"), "{line}");
    check_metrics(
        &gate,
        &[
            "callgate_connections_open{protocol=\"passthrough\"} 0",
            "callgate_tunnels_ended_total{reason=\"closed\"} 1",
            "callgate_tunnels_open 0",
            "callgate_exchanges_in_flight 0",
            &format!("callgate_body_bytes_total{{direction=\"received\"}} {bytes}"),
            "callgate_tls_handshakes_total{result=\"failed\",version=\"none\"} 0",
        ],
    )
    .await;
}

#[tokio::test]
async fn without_an_access_log_the_connection_is_counted_all_the_same() {
    let target = echo().await;
    let gate = gate(target.addr, "[log]\naccess = \"off\"").await;
    let mut phone = phone(&gate, "127.0.0.1").await.unwrap();
    phone.shutdown().await.unwrap();
    rest(&mut phone).await;
    until("the end is counted", || gate.told("/metrics").contains("ended_total{reason=\"closed\"} 1")).await;
}

// === Targets that do not answer ===

#[tokio::test]
async fn a_target_that_cannot_be_reached_is_told_to_client_and_operator() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (gate, _app) = gate_and_app(gone, "").await;
    assert!(gate.told("/readyz?verbose").contains("passthrough"), "{}", gate.told("/readyz?verbose"));
    for _ in 0..3 {
        assert_eq!(alert(&answer_to(&gate, &old_hello_for(PHONES)).await), Some(INTERNAL_ERROR));
    }
    gate.line(&[" passthrough ", " sent=0 received=0 ", " ended=aborted reason=unreachable"]).await;
    check_metrics(&gate, &["callgate_passthrough_connects_total{result=\"failed\"} 3", "callgate_tunnels_total 0"])
        .await;
    let events = gate.events();
    let warned: Vec<_> = events.lines().filter(|line| line.contains("a connection cannot be passed on")).collect();
    assert_eq!(warned.len(), 1, "{events}");
    assert!(warned[0].contains(&format!("to={gone} ")) && warned[0].contains("Connection refused"), "{events}");
    // The other hosts go on, so the gate is ready.
    let ready = gate.told("/readyz?verbose");
    assert!(ready.starts_with("HTTP/1.1 200 ") && ready.contains(&format!("cannot reach {gone}")), "{ready}");
    check_metrics(&gate, &["callgate_ready{part=\"passthrough\"} 0"]).await;
    gate.get("/").send().await.expect(200);
}

#[tokio::test]
async fn a_target_that_does_not_answer_in_time_is_given_up() {
    // It neither accepts nor refuses: its queue is full.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut filled = Vec::new();
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(300), TcpStream::connect(addr)).await {
        filled.push(stream);
    }
    let gate = gate(addr, "timeouts = { connect = \"200ms\" }").await;
    assert_eq!(alert(&answer_to(&gate, &old_hello_for(PHONES)).await), Some(INTERNAL_ERROR));
    gate.line(&[" passthrough ", " ended=aborted reason=connect_timeout"]).await;
    check_metrics(&gate, &["callgate_passthrough_connects_total{result=\"timeout\"} 1"]).await;
}

/// As where the DNS sends the name of the target to callgate's own address.
#[tokio::test]
async fn a_connection_that_comes_back_is_not_passed_on_again() {
    let app = RawUpstream::ok().await;
    let text = |to: SocketAddr| {
        format!(
            "workers = 2\n[app]\nurl = \"http://{}\"\n[[passthrough]]\nnames = [\"{PHONES}\"]\nto = \"{to}\"",
            app.addr
        )
    };
    let mut gate = Gate::start(&text(app.addr)).await;
    gate.reload(&text(gate.addr)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(alert(&answer_to(&gate, &old_hello_for(PHONES)).await), Some(INTERNAL_ERROR));
    }
    gate.line(&[" passthrough ", " ended=aborted reason=loop"]).await;
    assert!(gate.events().contains("its target leads back to callgate"), "{}", gate.events());
    check_metrics(
        &gate,
        &[
            "callgate_connections_total{protocol=\"passthrough\"} 6",
            "callgate_passthrough_connects_total{result=\"ok\"} 3",
        ],
    )
    .await;
    // The addresses of connections that have ended are free again.
    gate.reload(&text(app.addr)).await.unwrap();
    assert!(answer_to(&gate, &old_hello_for(PHONES)).await.starts_with(b"HTTP/1.1 200 "));
    gate.get("/").send().await.expect(200);
}

/// As a PBX does that refuses a hello: it says why, and closes while the client still sends.
#[tokio::test]
async fn the_last_words_of_a_target_reach_the_client() {
    let target = RawUpstream::serving(|mut line| async move {
        line.stream.read_exact(&mut [0; 5]).await.unwrap();
        line.say(b"\x15\x03\x01\0\x02\x02\x46").await;
    })
    .await;
    let gate = gate(target.addr, "").await;
    let mut stream = TcpStream::connect(gate.addr).await.unwrap();
    stream.write_all(&old_hello_for(PHONES)).await.unwrap();
    let mut heard = [0; 7];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(alert(&heard), Some(70));
}

// === Deadlines ===

#[tokio::test]
async fn a_hello_has_the_deadline_of_a_handshake() {
    let target = echo().await;
    let gate = gate(target.addr, "[server]\ntimeouts = { handshake = \"300ms\" }").await;
    let hello = old_hello_for(PHONES);
    for said in [&b""[..], &hello[..1], &hello[..hello.len() - 1]] {
        let mut stream = TcpStream::connect(gate.addr).await.unwrap();
        stream.write_all(said).await.unwrap();
        assert_eq!(rest(&mut stream).await, b"");
    }
    check_metrics(
        &gate,
        &[
            "callgate_tls_handshakes_total{result=\"timeout\",version=\"none\"} 3",
            "callgate_passthrough_connects_total{result=\"ok\"} 0",
        ],
    )
    .await;
    assert_eq!(target.seen().len(), 0);
}

#[tokio::test]
async fn the_hello_and_the_handshake_share_one_deadline() {
    let target = echo().await;
    let gate = gate(target.addr, "[server]\ntimeouts = { handshake = \"600ms\" }").await;
    // A hello for the gate, and never an answer to its own.
    let mut stream = TcpStream::connect(gate.addr).await.unwrap();
    let begun = tokio::time::Instant::now();
    let mut hello = rustls::ClientConnection::new(
        std::sync::Arc::new(gate.client_config()),
        rustls::pki_types::ServerName::try_from("app.test").unwrap(),
    )
    .unwrap();
    let mut bytes = Vec::new();
    hello.write_tls(&mut bytes).unwrap();
    stream.write_all(&bytes).await.unwrap();
    rest(&mut stream).await;
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    check_metrics(&gate, &["callgate_tls_handshakes_total{result=\"timeout\",version=\"none\"} 1"]).await;
}

#[tokio::test]
async fn a_silent_connection_ends_as_a_tunnel_does() {
    let target = echo().await;
    let gate = gate(target.addr, "[server]\ntimeouts = { tunnel_idle = \"400ms\" }").await;
    let mut phone = phone(&gate, "127.0.0.1").await.unwrap();
    assert_eq!(rest(&mut phone).await, b"");
    gate.line(&[" passthrough ", " ended=stalled reason=idle"]).await;
}

#[tokio::test]
async fn a_client_that_takes_no_byte_is_given_up() {
    let target =
        RawUpstream::serving(|mut line| async move { while line.stream.write_all(&[7; 64 << 10]).await.is_ok() {} })
            .await;
    let gate = gate(target.addr, "[server]\ntimeouts = { write_stall = \"400ms\" }").await;
    let mut stream = TcpStream::connect(gate.addr).await.unwrap();
    stream.write_all(&old_hello_for(PHONES)).await.unwrap();
    let line = gate.line(&[" passthrough ", " ended=stalled"]).await;
    assert!(!line.contains("reason="), "{line}");
}

// === Limits ===

#[tokio::test]
async fn a_client_has_no_more_connections_than_with_tls() {
    let target = echo().await;
    let (gate, _app) =
        gate_and_app(target.addr, "[server]\nmax_connections = 10\nmax_connections_per_client = 2").await;
    let phones = [phone(&gate, "127.0.0.7").await.unwrap(), phone(&gate, "127.0.0.7").await.unwrap()];
    assert!(phone(&gate, "127.0.0.7").await.is_none());
    assert!(gate.tls(from("127.0.0.7", gate.addr).await, "app.test", "http/1.1").await.is_err());
    gate.get("/").from("127.0.0.8").send().await.expect(200);
    let other = phone(&gate, "127.0.0.8").await;
    assert!(other.is_some());
    drop(phones);
    timeout(PATIENCE, async { while phone(&gate, "127.0.0.7").await.is_none() {} }).await.unwrap();
}

async fn from(address: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address.parse::<std::net::IpAddr>().unwrap(), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Phones hang on their connections; a browser's idle one makes room for the next phone, and no phone is closed for another.
#[tokio::test]
async fn no_connection_that_is_passed_on_is_closed_for_another() {
    let target = echo().await;
    let gate = gate(target.addr, "[server]\nmax_connections = 3\nmax_connections_per_client = 3").await;
    let mut phones = [phone(&gate, "127.0.0.1").await.unwrap(), phone(&gate, "127.0.0.1").await.unwrap()];
    let mut idle = gate.raw("app.test", "http/1.1").await;
    let third = phone(&gate, "127.0.0.1").await;
    assert!(third.is_some());
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0, "the idle connection was not closed");
    for phone in &mut phones {
        phone.write_all(b"x").await.unwrap();
        phone.read_exact(&mut [0; 1]).await.unwrap();
    }
}

// === The end of the gate ===

#[tokio::test]
async fn a_drain_waits_for_passed_on_connections_until_its_deadline() {
    let target = echo().await;
    let stuck = gate(target.addr, "[server]\ndrain = \"500ms\"").await;
    let mut open = phone(&stuck, "127.0.0.1").await.unwrap();
    stuck.begin_drain();
    stuck.line(&[" passthrough ", " ended=drained"]).await;
    assert_eq!(rest(&mut open).await, b"");
    assert_eq!(stuck.drain().await, 1);

    let patient = gate(target.addr, "[server]\ndrain = \"1min\"").await;
    let mut open = phone(&patient, "127.0.0.1").await.unwrap();
    patient.begin_drain();
    open.write_all(b"still here").await.unwrap();
    open.read_exact(&mut [0; 10]).await.unwrap();
    open.shutdown().await.unwrap();
    assert_eq!(rest(&mut open).await, b"");
    patient.line(&[" passthrough ", " ended=complete"]).await;
    assert_eq!(patient.drain().await, 0);
}

#[tokio::test]
async fn a_passed_on_connection_outlives_an_upgrade() {
    let (app, target) = (RawUpstream::ok().await, echo().await);
    let table =
        format!("[[passthrough]]\nnames = [\"{PHONES}\"]\nto = \"{}\"\n[server]\ndrain = \"200ms\"", target.addr);
    let mut program = Program::before(app.addr, &table).await;
    let hello = old_hello_for(PHONES);
    let mut open = TcpStream::connect(program.addr).await.unwrap();
    open.write_all(&hello).await.unwrap();
    open.read_exact(&mut vec![0; hello.len()]).await.unwrap();
    let slow = TcpStream::connect(program.addr).await.unwrap();
    let _successor = Successor::of(&mut program).await;
    // A connection without a hello has no tunnel, and ends with `drain`.
    assert_eq!(timeout(PATIENCE, { slow }.read(&mut [0])).await.unwrap().unwrap_or(0), 0);
    open.write_all(b"still here").await.unwrap();
    open.read_exact(&mut [0; 10]).await.unwrap();
    open.shutdown().await.unwrap();
    assert_eq!(rest(&mut open).await, b"");
    assert_eq!(code(&mut program).await, Some(0));
    // The next process passes connections on as well.
    let mut next = TcpStream::connect(program.addr).await.unwrap();
    next.write_all(&hello).await.unwrap();
    next.read_exact(&mut vec![0; hello.len()]).await.unwrap();
}
