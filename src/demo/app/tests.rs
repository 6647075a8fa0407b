use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::demo::client::ask;
use crate::demo::voximplant::Voximplant;

async fn app() -> App {
    App::start(AppOptions::default()).await
}

fn cookie(app: &App) -> String {
    format!("Cookie: {}\r\n", app.log_in("alice"))
}

#[tokio::test]
async fn a_login_sets_the_cookie_that_whoami_knows() {
    for (same_site, word) in [(SameSite::Lax, "Lax"), (SameSite::Strict, "Strict")] {
        let app = App::start(AppOptions { cookie_same_site: same_site, ..AppOptions::default() }).await;
        let answer = ask(app.addr, "POST /login", "", b"user=alice&password=alice").await;
        assert_eq!((answer.status(), answer.header("location")), ("303", "/"));
        let (pair, attributes) = answer.header("set-cookie").split_once("; ").unwrap();
        assert_eq!(attributes, format!("HttpOnly; SameSite={word}; Path=/"));
        let cookie = format!("Cookie: other=1; {pair}\r\n");
        let me = ask(app.addr, "GET /api/me", &cookie, b"").await;
        let alice =
            json!({ "user": "alice", "name": "Alice Martin", "ext": "40", "tenant": "acme.test", "vox": "alice" });
        assert_eq!((me.status(), me.json()), ("200", alice));
        assert_eq!(ask(app.addr, "POST /logout", &cookie, b"").await.status(), "303");
        assert_eq!(ask(app.addr, "GET /api/me", &cookie, b"").await.status(), "401");
        assert_eq!(app.requests().len(), 4);
    }
}

#[tokio::test]
async fn wrong_passwords_are_refused() {
    let app = app().await;
    for form in ["user=alice&password=bob", "user=alice", "user=&password=", "user=eve&password=eve", ""] {
        let answer = ask(app.addr, "POST /login", "", form.as_bytes()).await;
        assert_eq!((answer.status(), answer.header("set-cookie")), ("401", ""), "{form}");
        assert!(answer.text().contains("data-page=\"app-login\""));
    }
}

#[tokio::test]
async fn pages_are_for_who_is_logged_in() {
    let app = app().await;
    let cookie = cookie(&app);
    for (path, headers, status, hook) in [
        ("/", "", "200", "data-page=\"app-login\""),
        ("/", &*cookie, "200", "data-page=\"app-portal\" data-user=\"alice\""),
        ("/phone", "", "303", ""),
        ("/phone", &*cookie, "200", "data-page=\"app-phone\" data-user=\"alice\" data-state=\"connecting\""),
        ("/open-pbx", "", "401", "data-page=\"app-login\""),
    ] {
        let answer = ask(app.addr, &format!("GET {path}"), headers, b"").await;
        assert_eq!(answer.status(), status, "{path}");
        assert!(answer.text().contains(hook), "{path}");
        assert!(!answer.text().contains("{{"), "{path} has a blank left");
    }
}

#[tokio::test]
async fn the_redirect_names_the_account() {
    let app = app().await;
    let answer = ask(app.addr, "GET /open-pbx?lang=fr", &cookie(&app), b"").await;
    assert_eq!(answer.status(), "302");
    assert_eq!(answer.header("location"), "https://pbx.localhost:8443/welcome.htm?lang=fr");
    let named = ["pbx-account", "pbx-domain", "pbx-lang"].map(|name| answer.header(name));
    assert_eq!(named, ["40", "acme.test", "fr"]);
    let grant = ask(app.addr, "GET /grant?account=41&domain=a.test&to=%2Fwelcome.htm%3Fa%3D1", "", b"").await;
    assert_eq!(grant.header("location"), "/welcome.htm?a=1");
    assert_eq!((grant.header("pbx-account"), grant.header("pbx-domain")), ("41", "a.test"));
    assert!(grant.all("pbx-lang").is_empty());
}

#[tokio::test]
async fn whoami_fails_as_it_is_told_to() {
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
async fn the_cloud_is_reached_through_the_app() {
    let cloud = Voximplant::start([("alice", "secret")]).await;
    let app = App::start(AppOptions { voximplant: Some(cloud.addr), ..AppOptions::default() }).await;
    let answer = ask(app.addr, "POST /vox/_key", "", b"{\"user\":\"alice\"}").await;
    assert_eq!((answer.status(), answer.json()["key"].as_str().map(str::len)), ("200", Some(32)));
    let answer = ask(app.addr, "POST /vox/_login", "", b"{\"user\":\"alice\",\"token\":\"\"}").await;
    assert_eq!(answer.status(), "401");
    drop(cloud);
    assert_eq!(ask(app.addr, "POST /vox/_key", "", b"{}").await.status(), "502");
    let alone = self::app().await;
    assert_eq!(ask(alone.addr, "POST /vox/_key", "", b"{}").await.status(), "404");
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

#[tokio::test]
async fn a_dropped_app_answers_no_more() {
    let app = app().await;
    let addr = app.addr;
    let kept = TcpStream::connect(addr).await.unwrap();
    drop(app);
    let mut end = [0];
    kept.readable().await.unwrap();
    assert!(matches!(kept.try_read(&mut end), Ok(0) | Err(_)));
}
