//! The stand-in is as faulty as it is told to be, and shows what arrived.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::kit::raw_client::ask;

async fn app() -> App {
    App::start(AppOptions::default()).await
}

#[tokio::test]
async fn requests_are_recorded() {
    let app = app().await;
    ask(app.addr, "GET /api/me", "", b"").await;
    assert_eq!(app.requests()[0].target, "/api/me");
}

#[tokio::test]
async fn a_grant_names_the_account() {
    let app = app().await;
    let grant = ask(app.addr, "GET /grant?account=41&domain=a.test&to=%2Fwelcome.htm%3Fa%3D1", "", b"").await;
    assert_eq!(grant.header("location"), "/welcome.htm?a=1");
    assert_eq!((grant.header("pbx-account"), grant.header("pbx-domain")), ("41", "a.test"));
    assert!(grant.all("pbx-lang").is_empty());
}

#[tokio::test]
async fn whoami_fails_as_configured() {
    let app = app().await;
    let slow = Whoami::Slow(Duration::from_millis(50));
    for (whoami, status, start) in [
        (Whoami::NotJson, "200", "<!doctype"),
        (Whoami::Status(StatusCode::INTERNAL_SERVER_ERROR), "500", "{"),
        (Whoami::Redirect, "302", ""),
        (Whoami::Claims(json!({ "ext": 40 })), "200", "{\"ext\":40}"),
        (slow, "401", "{"),
    ] {
        app.set(|faults| faults.whoami = whoami.clone());
        let answer = ask(app.addr, "GET /api/me", "", b"").await;
        assert_eq!(answer.status(), status, "{whoami:?}");
        assert!(answer.text().starts_with(start), "{whoami:?}: {}", answer.text());
    }
    app.set(|faults| faults.whoami = Whoami::Large);
    assert!(ask(app.addr, "GET /api/me", "", b"").await.body.len() > 20 * 1024);
    app.set(|faults| faults.whoami = Whoami::Hang);
    let asked = tokio::time::timeout(Duration::from_millis(100), ask(app.addr, "GET /api/me", "", b""));
    assert!(asked.await.is_err());
}

#[tokio::test]
async fn the_echo_shows_what_arrived() {
    let app = app().await;
    let seen = ask(app.addr, "PUT /echo?a=%2F&b=é", "X-A: 1\r\nX-B: 2\r\nX-A: 3\r\n", b"abc").await.json();
    assert_eq!((seen["method"].as_str(), seen["target"].as_str()), (Some("PUT"), Some("/echo?a=%2F&b=é")));
    assert_eq!(seen["length"], 3);
    assert_eq!(seen["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    let headers = seen["headers"].as_array().unwrap();
    let [.., a, c, b] = &headers[..] else { panic!("{headers:?}") };
    assert_eq!([a, c, b], [&json!(["x-a", "1"]), &json!(["x-a", "3"]), &json!(["x-b", "2"])]);
}

#[tokio::test]
async fn the_other_faces_answer_as_asked() {
    let app = app().await;
    for (path, status, length) in [
        ("/slow?ms=20", "200", 4),
        ("/status/418", "418", 0),
        ("/status/100", "404", 9),
        ("/status/x", "404", 9),
        ("/big?bytes=100000", "200", 100_000),
        ("/big", "200", 0),
        ("/other", "404", 9),
    ] {
        let answer = ask(app.addr, &format!("GET {path}"), "", b"").await;
        assert_eq!((answer.status(), answer.body.len()), (status, length), "{path}");
    }
    let answer = ask(app.addr, "GET /redirect?to=https%3A%2F%2Fx.test%2F", "", b"").await;
    assert_eq!((answer.status(), answer.header("location")), ("302", "https://x.test/"));
    assert_eq!(ask(app.addr, "POST /upload", "", &[1; 300_000]).await.json()["received"], 300_000);
}

#[tokio::test]
async fn events_come_one_by_one() {
    let app = app().await;
    let answer = ask(app.addr, "GET /sse", "", b"").await;
    assert_eq!(answer.header("transfer-encoding"), "chunked");
    assert_eq!(answer.text().matches("data: ").count(), 5);
}

#[tokio::test]
async fn the_websocket_echoes() {
    let app = app().await;
    let socket = TcpStream::connect(app.addr).await.unwrap();
    let (mut socket, _) = client_async("ws://localhost/ws", socket).await.unwrap();
    for message in [Message::text("é"), Message::binary(vec![0, 255])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket.close(None).await.unwrap();
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
    assert_eq!(ask(app.addr, "GET /ws", "", b"").await.status(), "400");
}
