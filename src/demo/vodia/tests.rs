use std::net::Ipv4Addr;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::state::{SESSION_TTL, TOKEN_TTL};
use super::*;
use crate::demo::client::{Raw, ask};
use crate::demo::server::{StandIn, serve};
use crate::demo::voximplant::md5;

const ALICE: &str = r#"{"name":"3rd","username":"40","domain":"acme.test"}"#;
/// The right administrator.
const ADMIN: &str = "Authorization: Basic c3NvOkFkbWluLVBhc3N3MHJkIQ==\r\n";
const IMPOSTOR: &str = "Authorization: Basic c3NvOndyb25n\r\n";

async fn pbx(dialect: VodiaDialect) -> StandIn<VodiaPbx> {
    serve(VodiaPbx::new(VodiaOptions { dialect, ..VodiaOptions::default() })).await
}

fn last_session(pbx: &StandIn<VodiaPbx>) -> Option<String> {
    pbx.handler.sessions().pop().map(|session| session.id)
}

async fn mint(pbx: &StandIn<VodiaPbx>, headers: &str, body: &str) -> Raw {
    ask(pbx.addr, "POST /rest/system/session", headers, body.as_bytes()).await
}

async fn token(pbx: &StandIn<VodiaPbx>) -> String {
    mint(pbx, ADMIN, ALICE).await.json().as_str().unwrap().to_owned()
}

async fn exchange(pbx: &StandIn<VodiaPbx>, token: &str) -> Raw {
    mint(pbx, "", &format!(r#"{{"name":"session","value":"{token}"}}"#)).await
}

fn cookie(answer: &Raw) -> String {
    let value = answer.header("set-cookie").split(';').next().unwrap_or_default();
    format!("Cookie: acct_table#pageNavPos=1; {value}\r\n")
}

// === Mint ===

#[tokio::test]
async fn a_mint_is_answered_as_the_vendor_documents_it() {
    let pbx = pbx(VodiaDialect::A).await;
    let answer = mint(&pbx, ADMIN, ALICE).await;
    assert!(answer.head.starts_with("HTTP/1.1 200 Ok\r\n"), "{}", answer.head);
    assert_eq!(answer.header("content-length"), "22");
    assert_eq!(answer.header("server"), "PBX/70.1");
    assert_eq!(answer.header("set-cookie"), "");
    assert_eq!(answer.json().as_str(), last_session(&pbx).as_deref());
}

async fn check_level(dialect: VodiaDialect, body: &str, expected: SessionLevel) {
    let pbx = pbx(dialect).await;
    let value = mint(&pbx, ADMIN, body).await.json().as_str().unwrap().to_owned();
    if dialect != VodiaDialect::A {
        exchange(&pbx, &value).await;
    }
    assert_eq!(pbx.handler.sessions()[0].identity.level, expected, "{dialect:?} {body}");
}

#[tokio::test]
async fn a_mint_without_a_user_is_an_administrator() {
    check_level(VodiaDialect::A, ALICE, SessionLevel::User).await;
    check_level(VodiaDialect::A, r#"{"name":"3rd","username":"admin","domain":"acme.test"}"#, SessionLevel::Domain)
        .await;
    check_level(VodiaDialect::B, r#"{"name":"3rd","username":"","domain":"acme.test"}"#, SessionLevel::Domain).await;
    check_level(VodiaDialect::C, r#"{"name":"3rd","domain":"acme.test"}"#, SessionLevel::Domain).await;
    check_level(VodiaDialect::C, r#"{"name":"3rd","admin":true,"domain":"acme.test"}"#, SessionLevel::Admin).await;
    check_level(VodiaDialect::C, r#"{"name":"3rd","username":"41","domain":"acme.test"}"#, SessionLevel::User).await;
}

#[tokio::test]
async fn a_mint_for_nobody_is_refused() {
    let pbx = pbx(VodiaDialect::A).await;
    for (body, status) in [
        (r#"{"name":"3rd","username":"99","domain":"acme.test"}"#, "404"),
        (r#"{"name":"3rd","username":"40","domain":"other.test"}"#, "404"),
        (r#"{"name":"3rd","username":"40"}"#, "400"),
        (r#"{"username":"40","domain":"acme.test"}"#, "400"),
        ("{", "400"),
    ] {
        assert_eq!(mint(&pbx, ADMIN, body).await.status(), status, "{body}");
    }
    assert_eq!(last_session(&pbx), None);
}

#[tokio::test]
async fn a_source_that_fails_too_often_is_shut_out() {
    let pbx = pbx(VodiaDialect::A).await;
    for _ in 0..5 {
        assert_eq!(mint(&pbx, IMPOSTOR, ALICE).await.text(), "false");
    }
    assert_eq!(mint(&pbx, ADMIN, ALICE).await.head, "");
    lock(&pbx.handler.state).succeeded(Ipv4Addr::LOCALHOST.into());
    assert_eq!(mint(&pbx, ADMIN, ALICE).await.status(), "200");
}

// === Exchange and pages ===

#[tokio::test]
async fn a_token_is_exchanged_once_for_another_id() {
    let pbx = pbx(VodiaDialect::B).await;
    let token = token(&pbx).await;
    let answer = exchange(&pbx, &token).await;
    assert_eq!(answer.text(), "true");
    let id = last_session(&pbx).unwrap();
    assert_ne!(id, token);
    assert_eq!(answer.header("set-cookie"), format!("session={id}; Path=/; SameSite=Strict; Secure; HttpOnly"));
    let again = exchange(&pbx, &token).await;
    assert_eq!((again.text().as_str(), again.header("set-cookie")), ("false", ""));
    let page = ask(pbx.addr, "GET /thirdparty.htm", &cookie(&answer), b"").await.text();
    assert!(page.contains(r#"data-page="portal" data-user="40" data-domain="acme.test" data-lang="en""#));
}

#[tokio::test(start_paused = true)]
async fn sessions_and_tokens_expire() {
    let mut state = VodiaState::new(VodiaOptions::default());
    let alice = || SessionIdentity { level: SessionLevel::User, user: "40".to_owned(), domain: "acme.test".to_owned() };
    let (session, token) = (state.open(alice()), state.issue(alice()));
    tokio::time::advance(TOKEN_TTL).await;
    assert_eq!(state.redeem(&token), None);
    assert!(state.session(&session).is_some());
    tokio::time::advance(SESSION_TTL - TOKEN_TTL).await;
    assert_eq!(state.session(&session), None);
}

#[tokio::test]
async fn a_legacy_id_opens_the_welcome_page_again_and_again() {
    let pbx = pbx(VodiaDialect::A).await;
    let id = token(&pbx).await;
    for _ in 0..2 {
        let page = ask(pbx.addr, &format!("GET /welcome.htm?sessId={id}&lang=fr"), "", b"").await;
        assert_eq!(page.header("set-cookie"), format!("session={id}; Path=/"));
        assert!(page.text().contains(r#"data-user="40" data-domain="acme.test" data-lang="fr""#));
    }
}

#[tokio::test]
async fn strangers_get_the_login_page() {
    let pbx = pbx(VodiaDialect::A).await;
    let id = token(&pbx).await;
    for path in ["/welcome.htm?sessId=stale", &format!("/welcome.htm?sessid={id}"), "/"] {
        let page = ask(pbx.addr, &format!("GET {path}"), "", b"").await;
        assert_eq!(page.status(), "200", "{path}");
        assert!(page.text().contains(r#"data-page="login" data-user="" data-domain="acme.test""#), "{path}");
    }
}

#[tokio::test]
async fn unknown_hosts_are_the_localhost_tenant() {
    let pbx = pbx(VodiaDialect::A).await;
    let page = ask(pbx.addr, "GET /", "Host: pbx.example:8443\r\n", b"").await;
    assert!(page.text().contains(r#"data-domain="localhost""#));
}

// === The session's other methods ===

#[tokio::test]
async fn a_password_login_speaks_a_language_and_logs_out() {
    let pbx = pbx(VodiaDialect::B).await;
    let login = format!(r#"{{"name":"auth","value":"40 {}"}}"#, md5("Alice-Passw0rd!"));
    let answer = ask(pbx.addr, "PUT /rest/system/session", "", login.as_bytes()).await;
    assert_eq!(answer.json().as_str(), last_session(&pbx).as_deref());
    let cookie = cookie(&answer);
    let french = ask(pbx.addr, "PUT /rest/system/session", &cookie, br#"{"name":"lang","value":"fr"}"#).await;
    assert_eq!(french.text(), "true");
    let me = ask(pbx.addr, "GET /rest/system/session", &cookie, b"").await.json();
    assert_eq!((me["type"].as_str(), me["lang"].as_str()), (Some("user"), Some("fr")));
    for status in ["200", "401"] {
        assert_eq!(ask(pbx.addr, "DELETE /rest/system/session", &cookie, b"").await.status(), status);
    }
    assert_eq!(ask(pbx.addr, "GET /rest/system/session", &cookie, b"").await.json()["type"], "");
}

#[tokio::test]
async fn the_modern_dialect_describes_a_session_by_what_it_can_do() {
    let pbx = pbx(VodiaDialect::C).await;
    let stranger = ask(pbx.addr, "GET /rest/system/session", "Cookie: session=stale\r\n", b"").await.json();
    assert_eq!((&stranger["webrtc"], stranger.get("user"), stranger.get("type")), (&true.into(), None, None));
    let cookie = format!("Cookie: session={}\r\n", pbx.handler.open_session("40", "acme.test"));
    let alice = ask(pbx.addr, "GET /rest/system/session", &cookie, b"").await.json();
    assert_eq!((alice["user"].as_str(), alice["admin"].as_bool()), (Some("40"), Some(false)));
}

#[tokio::test]
async fn the_rest_of_the_session_table_is_answered() {
    let pbx = pbx(VodiaDialect::A).await;
    for (method, body, status, text) in [
        ("OPTIONS", "", "403", "{"),
        ("PATCH", "", "405", "{"),
        ("PUT", r#"{"name":"reset","value":"40"}"#, "200", "true"),
        ("PUT", r#"{"name":"reset","value":"99"}"#, "200", "false"),
        ("PUT", r#"{"name":"lang","value":"fr"}"#, "401", "{"),
        ("POST", r#"{"name":"auth","value":"40 0"}"#, "200", "false"),
        ("POST", r#"{"name":"other"}"#, "200", "false"),
    ] {
        let answer = ask(pbx.addr, &format!("{method} /rest/system/session"), "", body.as_bytes()).await;
        assert_eq!(answer.status(), status, "{method} {body}");
        assert!(answer.text().starts_with(text), "{method} {body}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_foreign_page_may_read_the_answer() {
    let pbx = pbx(VodiaDialect::A).await;
    let answer = mint(&pbx, "Origin: https://evil.test\r\n", ALICE).await;
    assert_eq!(answer.header("access-control-allow-origin"), "https://evil.test");
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
}

// === Other paths ===

#[tokio::test]
async fn the_other_paths_are_answered() {
    let pbx = pbx(VodiaDialect::A).await;
    let cookie = format!("Cookie: session={}\r\n", pbx.handler.open_session("40", "acme.test"));
    for (request, headers, status, length) in [
        ("GET /audio.wav?type=recording&id=1", "", "200", 1_048_620),
        ("GET /rest/system/localization/en", "", "200", 146),
        ("POST /recvsms/provider", "", "200", 8),
        ("GET /.well-known/acme-challenge/abc", "", "200", 12),
        ("GET /0004132f.cfg", "", "401", 35),
        ("GET /0004132f.cfg", "Authorization: Digest username=\"40\"\r\n", "200", 21),
        ("GET /rest/system/pcap?id=1", &cookie, "200", 280),
        ("GET /rest/system/pcap?id=1", "", "401", 35),
        ("GET /rest/system/pcap?id=1", "Authorization: Basic NDA6QWxpY2UtUGFzc3cwcmQh\r\n", "200", 280),
        ("GET /rest/system/access?type=blocklist", &cookie, "200", 2),
        ("GET /rest/system/stats?type=exposition-format", &cookie, "200", 61),
        ("GET /rest/system/other", &cookie, "404", 32),
        ("GET /other", "", "404", 32),
    ] {
        let answer = ask(pbx.addr, request, headers, b"").await;
        assert_eq!((answer.status(), answer.body.len()), (status, length), "{request}");
    }
    let upload = ask(pbx.addr, "POST /rest/system/audio", &cookie, &[7; 100_000]).await;
    assert_eq!(upload.json()["received"], 100_000);
}

async fn open_socket(pbx: &StandIn<VodiaPbx>, query: &str, cookie: Option<&str>) -> Option<WebSocketStream<TcpStream>> {
    let mut request =
        format!("ws://acme.test/websocket?domain=acme.test&user=40{query}").into_client_request().unwrap();
    if let Some(id) = cookie {
        request.headers_mut().insert("cookie", format!("session={id}").parse().unwrap());
    }
    let socket = TcpStream::connect(pbx.addr).await.unwrap();
    client_async(request, socket).await.ok().map(|(socket, _)| socket)
}

#[tokio::test]
async fn the_websocket_wants_a_session_and_answers_actions() {
    let pbx = pbx(VodiaDialect::A).await;
    let id = pbx.handler.open_session("40", "acme.test");
    assert!(open_socket(&pbx, "", None).await.is_none());
    assert!(open_socket(&pbx, "", Some("stale")).await.is_none());
    assert!(open_socket(&pbx, &format!("&session={id}"), None).await.is_some());
    let mut socket = open_socket(&pbx, "", Some(&id)).await.unwrap();
    for text in
        [r#"{"action":"avoid-disconnect"}"#, r#"{ "action" : "other" , "x" : "é" }"#, r#"{"action":"sip-register"}"#]
    {
        socket.send(Message::text(text)).await.unwrap();
    }
    let mut next = async || socket.next().await.unwrap().unwrap().into_text().unwrap();
    assert_eq!(next().await, r#"{ "action" : "other" , "x" : "é" }"#);
    assert!(next().await.contains(r#""expires":3600"#));
}
