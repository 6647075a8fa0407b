use serde_json::json;
use tokio::net::TcpStream;

use super::*;
use crate::demo::client::ask;
use crate::demo::server::{StandIn, serve};
use crate::demo::voximplant::VoximplantCloud;

async fn app() -> StandIn<PortalApp> {
    serve(PortalApp::new(PortalOptions::default())).await
}

fn cookie(app: &StandIn<PortalApp>) -> String {
    format!("Cookie: {}\r\n", app.handler.log_in("alice"))
}

#[tokio::test]
async fn a_login_sets_the_cookie_that_whoami_knows() {
    for (same_site, word) in [(SameSite::Lax, "Lax"), (SameSite::Strict, "Strict")] {
        let app =
            serve(PortalApp::new(PortalOptions { cookie_same_site: same_site, ..PortalOptions::default() })).await;
        let answer = ask(app.addr, "POST /login", "", b"user=alice&password=alice").await;
        assert_eq!((answer.status(), answer.header("location")), ("303", "/"));
        let (pair, attributes) = answer.header("set-cookie").split_once("; ").unwrap();
        assert_eq!(attributes, format!("HttpOnly; SameSite={word}; Path=/"));
        let cookie = format!("Cookie: other=1; {pair}\r\n");
        let me = ask(app.addr, "GET /api/me", &cookie, b"").await;
        let alice =
            json!({ "user": "alice", "name": "Alice Martin", "ext": "40", "tenant": "acme.test", "vox": "alice" });
        assert_eq!((me.status(), me.json()), ("200", alice));
        let left = ask(app.addr, "POST /logout", &cookie, b"").await;
        assert_eq!((left.status(), left.header("pbx-logout")), ("303", "1"));
        assert_eq!(ask(app.addr, "GET /api/me", &cookie, b"").await.status(), "401");
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
}

#[tokio::test]
async fn the_cloud_is_reached_through_the_app() {
    let cloud = serve(VoximplantCloud::new([("alice", "secret")])).await;
    let app = serve(PortalApp::new(PortalOptions { voximplant: Some(cloud.addr), ..PortalOptions::default() })).await;
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
async fn a_dropped_app_answers_no_more() {
    let app = app().await;
    let addr = app.addr;
    let kept = TcpStream::connect(addr).await.unwrap();
    drop(app);
    let mut end = [0];
    kept.readable().await.unwrap();
    assert!(matches!(kept.try_read(&mut end), Ok(0) | Err(_)));
}
