//! The end of a WebSocket that the gate opened at the PBX: its session ends with it, whatever the reason.

use std::time::Duration;

use http::Method;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::sessions::{numbers, order};
use super::socket::{
    BY_COOKIE, PATH, SOCKET, asking, ends, no_session_is_left, no_session_is_left_but, open, open_as, open_by_h2,
    stands, start,
};
use crate::kit::client::status;
use crate::kit::stage::{Plan, Stage, until};
use crate::kit::vodia::{Dialect, Scope};

// === Callers that leave, accounts that are frozen ===

/// Sends a handshake and leaves once the PBX has been asked for something.
async fn leave_at(stage: &Stage, is_asked: impl Fn() -> bool) {
    let mut tls = stage.gate.raw("app.test", "http/1.1").await;
    let cookie = stage.app.log_in("alice");
    let ask = format!(
        "GET {PATH} HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nCookie: {cookie}\r\n\
         Origin: https://app.test\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    tls.write_all(ask.as_bytes()).await.unwrap();
    until("a question to the PBX", is_asked).await;
    drop(tls);
}

#[tokio::test]
async fn a_caller_that_leaves_meanwhile_leaves_no_session() {
    for (dialect, pbx) in [(Dialect::A, SOCKET), (Dialect::C, BY_COOKIE)] {
        for scope in [Scope::Mint, Scope::Exchange, Scope::Socket] {
            let stage = Plan { dialect, pbx, ..Plan::default() }.start().await;
            stage.pbx_does(|faults| (faults.scope, faults.head_delay) = (scope, Duration::from_secs(1)));
            let before = match (scope, dialect) {
                (Scope::Mint, _) | (Scope::Exchange, Dialect::A) => 1,
                (Scope::Exchange, _) => 2,
                (_, Dialect::A) => 2,
                (_, _) => 3,
            };
            leave_at(&stage, || stage.pbx.requests().len() >= before).await;
            until("an end of the session", || stage.pbx.requests().iter().any(|seen| seen.method == Method::DELETE))
                .await;
            no_session_is_left(&stage).await;
        }
    }
}

fn freeze(stage: &Stage, whom: &str) {
    let order = format!("{{\"whom\":\"{whom}\"}}");
    let head = "POST /freeze HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let answer = stage.gate.tell(&format!("{head}Content-Length: {}\r\n\r\n{order}", order.len()));
    assert_eq!(status(&answer), 200, "{answer}");
}

#[tokio::test]
async fn a_freeze_cuts_the_socket_and_ends_its_session() {
    for (dialect, pbx) in [(Dialect::A, SOCKET), (Dialect::C, BY_COOKIE)] {
        let stage = Plan { dialect, pbx, ..Plan::default() }.start().await;
        let (mut hers, mut his) = (open(&stage).await, open_as(&stage, "bob", "").await.unwrap());
        let (_, mut hers_by_h2) = open_by_h2(&stage).await;
        stands(&mut hers).await;
        freeze(&stage, "account 40@acme.test");
        ends(&mut hers).await;
        ends(&mut hers_by_h2).await;
        no_session_is_left_but(&stage, "41").await;
        stands(&mut his).await;
        asking(&stage).send().await.expect(403);
        stage.gate.line(&["target=\"/auth/pbx/socket\"", "ended=frozen"]).await;
    }
}

#[tokio::test]
async fn an_account_that_is_frozen_while_the_socket_is_opened_hears_nothing() {
    for (scope, is_granted) in [(Scope::Mint, false), (Scope::Socket, true)] {
        let stage = start(SOCKET).await;
        stage.gate.logins.are_not_explained();
        stage.pbx_does(|faults| (faults.scope, faults.head_delay) = (scope, Duration::from_secs(2)));
        let asked = if is_granted { 2 } else { 1 };
        let frozen = async {
            until("a question to the PBX", || stage.pbx.requests().len() >= asked).await;
            freeze(&stage, "account 40@acme.test");
        };
        let (opened, ()) = tokio::join!(open_as(&stage, "alice", ""), frozen);
        match opened {
            Ok(mut socket) if is_granted => ends(&mut socket).await,
            Err(refused) => assert_eq!(refused, 403),
            Ok(_) => panic!("a socket of a frozen account"),
        }
        no_session_is_left(&stage).await;
    }
}

// === The operator, the app, the gate itself ===

#[tokio::test]
async fn the_operator_ends_a_socket_by_its_session() {
    for (dialect, pbx) in [(Dialect::A, SOCKET), (Dialect::C, BY_COOKIE)] {
        let stage = Plan { dialect, pbx, ..Plan::default() }.start().await;
        let (mut hers, mut his) = (open(&stage).await, open_as(&stage, "bob", "").await.unwrap());
        let (_, listed) = order(&stage.gate, "/sessions", &json!({ "account": "40@acme.test" }));
        let [hers_number] = numbers(&listed)[..] else { panic!("{listed}") };
        assert_eq!((&listed[0]["subject"], &listed[0]["host"]), (&json!("alice"), &json!("pbx.test")));
        assert_eq!(
            numbers(&order(&stage.gate, "/sessions/end", &json!({ "number": hers_number })).1["ended"]),
            [hers_number]
        );
        ends(&mut hers).await;
        no_session_is_left_but(&stage, "41").await;
        stands(&mut his).await;
        stage.gate.line(&["target=\"/auth/pbx/socket\"", "ended=session_ended", "account=40@acme.test"]).await;
        his.close(None).await.unwrap();
        drop(his);
        no_session_is_left(&stage).await;
        assert_eq!(order(&stage.gate, "/sessions", &json!({})).1, json!([]));
        stage.gate.line(&["audit session_end", "account=41@acme.test", "reason=socket"]).await;
        let deletes = stage.pbx.requests().into_iter().filter(|seen| seen.method == Method::DELETE);
        assert_eq!(deletes.count(), 2, "each session is ended once");
    }
}

#[tokio::test]
async fn a_logout_of_the_app_ends_the_socket_and_one_that_is_being_opened() {
    let stage = start(SOCKET).await;
    stage.gate.logins.are_not_explained();
    let cookie = stage.app.log_in("alice");
    let log_out = async || stage.gate.get("/app-logout?say=1").cookie(&cookie).send().await.expect(200);
    let open = || {
        let mut asking = asking(&stage);
        asking.headers.insert("cookie", cookie.parse().unwrap());
        asking
    };
    let mut socket = super::socket::open_with(&stage, &cookie, "").await.unwrap();
    stands(&mut socket).await;
    log_out().await;
    ends(&mut socket).await;
    no_session_is_left(&stage).await;
    // Meanwhile the PBX is slow.
    stage.pbx_does(|faults| (faults.scope, faults.head_delay) = (Scope::Mint, Duration::from_secs(1)));
    let mints = stage.pbx.mints().len();
    let logged_out = async {
        until("a question to the PBX", || stage.pbx.mints().len() > mints).await;
        log_out().await;
    };
    let (refused, ()) = tokio::join!(open().send(), logged_out);
    refused.expect(401);
    no_session_is_left(&stage).await;
}

#[tokio::test]
async fn a_reload_keeps_open_sockets_and_ends_their_sessions_later() {
    let mut stage = start(SOCKET).await;
    let mut socket = open(&stage).await;
    let without = stage.gate.text.replace(SOCKET, "");
    stage.gate.reload(&without).await.unwrap();
    stage.gate.logins.are_not_explained();
    asking(&stage).send().await.expect(404);
    stands(&mut socket).await;
    socket.close(None).await.unwrap();
    drop(socket);
    no_session_is_left(&stage).await;
}

#[tokio::test]
async fn a_gate_that_ends_leaves_no_session() {
    let more = "[server]\ndrain = \"300ms\"";
    for (dialect, pbx) in [(Dialect::A, SOCKET), (Dialect::C, BY_COOKIE)] {
        let stage = Plan { dialect, pbx, more, ..Plan::default() }.start().await;
        let (mut socket, (_, mut by_h2)) = (open(&stage).await, open_by_h2(&stage).await);
        stands(&mut socket).await;
        stage.gate.begin_drain();
        ends(&mut socket).await;
        ends(&mut by_h2).await;
        no_session_is_left(&stage).await;
    }
}
