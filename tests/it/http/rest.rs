//! Rest: a connection over HTTP/1.1 that is idle releases its buffers, and no client notices.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::client::TlsStream;

use crate::kit::client::{read_head, status};
use crate::kit::gate::Gate;
use crate::kit::stage::until;
use crate::kit::upstream::RawUpstream;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";
/// Longer than a connection is idle before it rests, with the time between two looks.
const IDLE: Duration = Duration::from_secs(6);

async fn check_answer(tls: &mut TlsStream<TcpStream>) {
    assert_eq!(status(&read_head(tls).await), 200);
    tls.read_exact(&mut [0; 2]).await.unwrap();
}

async fn at_rest(gate: &Gate) -> TlsStream<TcpStream> {
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(GET).await.unwrap();
    check_answer(&mut tls).await;
    sleep(IDLE).await;
    tls
}

#[tokio::test]
async fn a_connection_answers_after_each_rest() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = at_rest(&gate).await;
    // Two requests at once.
    tls.write_all(&[GET, GET].concat()).await.unwrap();
    check_answer(&mut tls).await;
    check_answer(&mut tls).await;
    // A head in two parts; between them there is no rest.
    let (first, second) = GET.split_at(9);
    tls.write_all(first).await.unwrap();
    tls.flush().await.unwrap();
    sleep(IDLE).await;
    tls.write_all(second).await.unwrap();
    check_answer(&mut tls).await;
    // An error is found as before.
    tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\nContent-Length: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await.unwrap();
    assert_eq!((status(&answer), upstream.seen().len()), (400, 4));
}

#[tokio::test]
async fn line_ends_behind_a_request_are_no_next_one() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(&[GET, b"\r\n"].concat()).await.unwrap();
    check_answer(&mut tls).await;
    sleep(IDLE).await;
    tls.write_all(GET).await.unwrap();
    check_answer(&mut tls).await;
}

#[tokio::test]
async fn a_head_that_began_before_the_last_answer_was_out_may_take_its_time() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    let (first, second) = GET.split_at(9);
    tls.write_all(&[GET, first].concat()).await.unwrap();
    check_answer(&mut tls).await;
    sleep(IDLE).await;
    tls.write_all(second).await.unwrap();
    check_answer(&mut tls).await;
}

#[tokio::test]
async fn a_connection_at_rest_ends_with_its_client_and_in_a_drain() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    drop(at_rest(&gate).await);
    let none = "callgate_connections_open{protocol=\"h1\"} 0";
    until("the gate sees its end", || gate.told("/metrics").contains(none)).await;
    let mut tls = at_rest(&gate).await;
    gate.begin_drain();
    // A close_notify, not a reset.
    assert_eq!(tls.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    assert_eq!(gate.drain().await, 0);
}

#[tokio::test]
async fn a_connection_that_ends_its_side_while_it_rests_is_closed() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = at_rest(&gate).await;
    tls.shutdown().await.unwrap();
    assert_eq!(tls.read_to_end(&mut Vec::new()).await.unwrap(), 0);
}
