use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::*;
use crate::demo::client::{Raw, ask};
use crate::demo::voximplant::md5;

const ALICE: &str = r#"{"name":"3rd","username":"40","domain":"acme.test"}"#;
/// The right administrator.
const ADMIN: &str = "Authorization: Basic c3NvOkFkbWluLVBhc3N3MHJkIQ==\r\n";
const IMPOSTOR: &str = "Authorization: Basic c3NvOndyb25n\r\n";
/// A deadline for what never comes. Tests over sockets cannot pause the clock.
const SOON: Duration = Duration::from_millis(200);

async fn pbx(dialect: Dialect) -> Vodia {
    Vodia::start(Options { dialect, ..Options::default() }).await
}

async fn mint(pbx: &Vodia, headers: &str, body: &str) -> Raw {
    ask(pbx.addr, "POST /rest/system/session", headers, body.as_bytes()).await
}

async fn token(pbx: &Vodia) -> String {
    mint(pbx, ADMIN, ALICE).await.json().as_str().unwrap().to_owned()
}

async fn exchange(pbx: &Vodia, token: &str) -> Raw {
    mint(pbx, "", &format!(r#"{{"name":"session","value":"{token}"}}"#)).await
}

fn cookie(answer: &Raw) -> String {
    let value = answer.header("set-cookie").split(';').next().unwrap_or_default();
    format!("Cookie: acct_table#pageNavPos=1; {value}\r\n")
}

// === Mint ===

#[tokio::test]
async fn a_mint_is_answered_as_the_vendor_documents_it() {
    let pbx = pbx(Dialect::A).await;
    let answer = mint(&pbx, ADMIN, ALICE).await;
    assert!(answer.head.starts_with("HTTP/1.1 200 Ok\r\n"), "{}", answer.head);
    assert_eq!(answer.header("content-length"), "22");
    assert_eq!(answer.header("server"), "PBX/70.1");
    assert_eq!(answer.header("set-cookie"), "");
    assert_eq!(answer.json().as_str(), pbx.last_session().as_deref());
    let [record] = <[Mint; 1]>::try_from(pbx.mints()).unwrap();
    assert_eq!((record.username.as_deref(), record.domain.as_deref()), (Some("40"), Some("acme.test")));
    assert_eq!((record.body.as_ref(), record.value), (ALICE.as_bytes(), pbx.last_minted()));
    assert!(!pbx.saw_mint_without_admin() && !pbx.saw_admin_elsewhere());
    assert_eq!(pbx.requests()[0].header("host"), Some("acme.test"));
}

async fn check_level(dialect: Dialect, body: &str, expected: Level) {
    let pbx = pbx(dialect).await;
    let value = mint(&pbx, ADMIN, body).await.json().as_str().unwrap().to_owned();
    if dialect != Dialect::A {
        exchange(&pbx, &value).await;
    }
    assert_eq!(pbx.sessions()[0].identity.level, expected, "{dialect:?} {body}");
}

#[tokio::test]
async fn a_mint_without_a_user_is_an_administrator() {
    check_level(Dialect::A, ALICE, Level::User).await;
    check_level(Dialect::A, r#"{"name":"3rd","username":"admin","domain":"acme.test"}"#, Level::Domain).await;
    check_level(Dialect::B, r#"{"name":"3rd","username":"","domain":"acme.test"}"#, Level::Domain).await;
    check_level(Dialect::C, r#"{"name":"3rd","domain":"acme.test"}"#, Level::Domain).await;
    check_level(Dialect::C, r#"{"name":"3rd","admin":true,"domain":"acme.test"}"#, Level::Admin).await;
    check_level(Dialect::C, r#"{"name":"3rd","username":"41","domain":"acme.test"}"#, Level::User).await;
}

#[tokio::test]
async fn a_mint_for_nobody_is_refused() {
    let pbx = pbx(Dialect::A).await;
    for (body, status) in [
        (r#"{"name":"3rd","username":"99","domain":"acme.test"}"#, "404"),
        (r#"{"name":"3rd","username":"40","domain":"other.test"}"#, "404"),
        (r#"{"name":"3rd","username":"40"}"#, "400"),
        (r#"{"username":"40","domain":"acme.test"}"#, "400"),
        ("{", "400"),
    ] {
        assert_eq!(mint(&pbx, ADMIN, body).await.status(), status, "{body}");
    }
    assert_eq!(pbx.last_session(), None);
}

#[tokio::test]
async fn a_refusal_looks_as_it_is_told_to() {
    let pbx = pbx(Dialect::A).await;
    for (form, status, body) in
        [(FailForm::False, "200", "false"), (FailForm::EmptyString, "200", "\"\""), (FailForm::Status401, "401", "{")]
    {
        pbx.set(|faults| faults.fail_form = form);
        let answer = mint(&pbx, IMPOSTOR, ALICE).await;
        assert_eq!(answer.status(), status);
        assert!(answer.text().starts_with(body), "{form:?} {}", answer.text());
    }
    assert!(pbx.saw_mint_without_admin());
}

#[tokio::test]
async fn a_minted_session_looks_as_it_is_told_to() {
    let pbx = pbx(Dialect::A).await;
    for (form, before, after) in
        [(BodyForm::Quoted, "\"", "\""), (BodyForm::Bare, "", ""), (BodyForm::Object, "{\"session\":\"", "\"}")]
    {
        pbx.set(|faults| faults.body_form = form);
        let text = mint(&pbx, ADMIN, ALICE).await.text();
        assert_eq!(text, format!("{before}{}{after}", pbx.last_minted().unwrap()));
    }
}

#[tokio::test]
async fn a_rotated_password_is_refused_after_so_many_mints() {
    let pbx = pbx(Dialect::A).await;
    pbx.set(|faults| faults.refuse_after = Some(1));
    assert_ne!(mint(&pbx, ADMIN, ALICE).await.text(), "false");
    assert_eq!(mint(&pbx, ADMIN, ALICE).await.text(), "false");
}

#[tokio::test]
async fn a_source_that_fails_too_often_is_shut_out() {
    let pbx = pbx(Dialect::A).await;
    for _ in 0..5 {
        assert_eq!(mint(&pbx, IMPOSTOR, ALICE).await.text(), "false");
    }
    assert_eq!(mint(&pbx, ADMIN, ALICE).await.head, "");
    pbx.forgive();
    assert_eq!(mint(&pbx, ADMIN, ALICE).await.status(), "200");
}

#[tokio::test]
async fn the_administrator_is_noticed_anywhere_but_in_a_mint() {
    let pbx = pbx(Dialect::A).await;
    let answer = ask(pbx.addr, "GET /rest/system/session", ADMIN, b"").await;
    assert_eq!((answer.json()["type"].as_str(), answer.header("set-cookie")), (Some("admin"), ""));
    assert!(pbx.saw_admin_elsewhere());
}

// === Exchange and pages ===

#[tokio::test]
async fn a_token_is_exchanged_once_for_another_id() {
    let pbx = pbx(Dialect::B).await;
    let token = token(&pbx).await;
    let answer = exchange(&pbx, &token).await;
    assert_eq!(answer.text(), "true");
    let id = pbx.last_session().unwrap();
    assert_ne!(id, token);
    assert_eq!(answer.header("set-cookie"), format!("session={id}; Path=/; SameSite=Strict; Secure; HttpOnly"));
    let again = exchange(&pbx, &token).await;
    assert_eq!((again.text().as_str(), again.header("set-cookie")), ("false", ""));
    let page = ask(pbx.addr, "GET /thirdparty.htm", &cookie(&answer), b"").await.text();
    assert!(page.contains(r#"data-page="portal" data-user="40" data-domain="acme.test" data-lang="en""#));
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let pbx = pbx(Dialect::C).await;
    pbx.set(|faults| faults.token_ttl = Duration::ZERO);
    let minted = token(&pbx).await;
    assert_eq!(exchange(&pbx, &minted).await.text(), "false");
}

#[tokio::test]
async fn a_late_exchange_finds_the_token_expired() {
    let pbx = pbx(Dialect::C).await;
    pbx.set(|faults| (faults.token_ttl, faults.exchange_delay) = (SOON, SOON * 2));
    let token = token(&pbx).await;
    assert_eq!(exchange(&pbx, &token).await.text(), "false");
}

#[tokio::test]
async fn a_legacy_id_opens_the_welcome_page_again_and_again() {
    let pbx = pbx(Dialect::A).await;
    let id = token(&pbx).await;
    for _ in 0..2 {
        let page = ask(pbx.addr, &format!("GET /welcome.htm?sessId={id}&lang=fr"), "", b"").await;
        assert_eq!(page.header("set-cookie"), format!("session={id}; Path=/"));
        assert!(page.text().contains(r#"data-user="40" data-domain="acme.test" data-lang="fr""#));
    }
}

#[tokio::test]
async fn strangers_get_the_login_page() {
    let pbx = pbx(Dialect::A).await;
    let id = token(&pbx).await;
    for path in ["/welcome.htm?sessId=stale", &format!("/welcome.htm?sessid={id}"), "/"] {
        let page = ask(pbx.addr, &format!("GET {path}"), "", b"").await;
        assert_eq!(page.status(), "200", "{path}");
        assert!(page.text().contains(r#"data-page="login" data-user="" data-domain="acme.test""#), "{path}");
    }
    pbx.set(|faults| faults.session_ttl = Duration::ZERO);
    let expired = token(&pbx).await;
    let page = ask(pbx.addr, &format!("GET /welcome.htm?sessId={expired}"), "", b"").await;
    assert!(page.text().contains(r#"data-page="login""#));
}

#[tokio::test]
async fn unknown_hosts_are_the_localhost_tenant() {
    let pbx = pbx(Dialect::A).await;
    let page = ask(pbx.addr, "GET /", "Host: pbx.example:8443\r\n", b"").await;
    assert!(page.text().contains(r#"data-domain="localhost""#));
}

// === The session's other methods ===

#[tokio::test]
async fn a_password_login_speaks_a_language_and_logs_out() {
    let pbx = pbx(Dialect::B).await;
    let login = format!(r#"{{"name":"auth","value":"40 {}"}}"#, md5("Alice-Passw0rd!"));
    let answer = ask(pbx.addr, "PUT /rest/system/session", "", login.as_bytes()).await;
    assert_eq!(answer.json().as_str(), pbx.last_session().as_deref());
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
async fn the_rest_of_the_session_table_is_answered() {
    let pbx = pbx(Dialect::A).await;
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
    let pbx = pbx(Dialect::A).await;
    let answer = mint(&pbx, "Origin: https://evil.test\r\n", ALICE).await;
    assert_eq!(answer.header("access-control-allow-origin"), "https://evil.test");
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
}

// === Other paths ===

#[tokio::test]
async fn the_other_paths_are_answered() {
    let pbx = pbx(Dialect::A).await;
    let cookie = format!("Cookie: session={}\r\n", pbx.open_session("40", "acme.test"));
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

async fn open_socket(pbx: &Vodia, query: &str, cookie: Option<&str>) -> Option<WebSocketStream<TcpStream>> {
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
    let pbx = pbx(Dialect::A).await;
    let id = pbx.open_session("40", "acme.test");
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

// === Faults ===

#[tokio::test]
async fn wrong_answers_replace_the_truth_and_open_no_session() {
    let pbx = pbx(Dialect::A).await;
    for (wrong, status, length) in [
        (Wrong::Status(StatusCode::FORBIDDEN), "403", 35),
        (Wrong::Status(StatusCode::INTERNAL_SERVER_ERROR), "500", 35),
        (Wrong::Status(StatusCode::BAD_GATEWAY), "502", 35),
        (Wrong::Status(StatusCode::SERVICE_UNAVAILABLE), "503", 35),
        (Wrong::Huge, "200", 2 * 1024 * 1024),
        (Wrong::Raw(Bytes::from_static(b"HTTP/1.1 20 x\r\n\r\n")), "20", 0),
    ] {
        pbx.set(|faults| faults.wrong = wrong.clone());
        let answer = mint(&pbx, ADMIN, ALICE).await;
        assert_eq!((answer.status(), answer.body.len()), (status, length), "{wrong:?}");
    }
    pbx.set(|faults| faults.wrong = Wrong::Html);
    assert!(mint(&pbx, ADMIN, ALICE).await.text().contains("data-page=\"login\""));
    assert_eq!((pbx.mints().len(), pbx.sessions().len()), (7, 0));
}

#[tokio::test]
async fn bodies_and_lengths_can_lie() {
    let pbx = pbx(Dialect::A).await;
    for (wrong, announced, length) in [
        (Wrong::Nothing, "22", 22),
        (Wrong::Truncated, "22", 11),
        (Wrong::LengthTooLong(10), "32", 22),
        (Wrong::LengthTooShort(10), "12", 22),
    ] {
        pbx.set(|faults| faults.wrong = wrong.clone());
        let answer = mint(&pbx, ADMIN, ALICE).await;
        assert_eq!((answer.header("content-length"), answer.body.len()), (announced, length), "{wrong:?}");
    }
}

#[tokio::test]
async fn connections_end_before_or_after_the_request() {
    let pbx = pbx(Dialect::A).await;
    pbx.set(|faults| faults.wrong = Wrong::Drop);
    assert_eq!(mint(&pbx, ADMIN, ALICE).await.head, "");
    assert_eq!(pbx.sessions().len(), 1);
    pbx.set(|faults| faults.refuse_connections = true);
    assert_eq!(mint(&pbx, ADMIN, ALICE).await.head, "");
    assert_eq!(pbx.requests().len(), 1);
}

#[tokio::test]
async fn a_hanging_request_has_its_effect_and_no_answer() {
    let pbx = pbx(Dialect::A).await;
    pbx.set(|faults| faults.wrong = Wrong::Hang);
    assert!(tokio::time::timeout(SOON, mint(&pbx, ADMIN, ALICE)).await.is_err());
    assert_eq!(pbx.mints().len(), 1);
}

#[tokio::test]
async fn heads_and_bodies_can_be_late() {
    let pbx = pbx(Dialect::A).await;
    for slow in [|faults: &mut Faults| faults.head_delay = SOON, |faults: &mut Faults| faults.body_delay = SOON] {
        pbx.set(|faults| *faults = Faults::default());
        pbx.set(slow);
        let started = tokio::time::Instant::now();
        assert_eq!(mint(&pbx, ADMIN, ALICE).await.body.len(), 22);
        assert!(started.elapsed() >= SOON);
    }
}

#[tokio::test]
async fn a_scope_keeps_faults_from_other_requests() {
    let pbx = pbx(Dialect::A).await;
    let statuses = async || {
        let other = ask(pbx.addr, "GET /", "", b"").await.status().to_owned();
        [mint(&pbx, ADMIN, ALICE).await.status().to_owned(), exchange(&pbx, "x").await.status().to_owned(), other]
    };
    pbx.set(|faults| faults.wrong = Wrong::Status(StatusCode::BAD_GATEWAY));
    for (scope, expected) in [
        (Scope::Mint, ["502", "200", "200"]),
        (Scope::Exchange, ["200", "502", "200"]),
        (Scope::Other, ["200", "200", "502"]),
        (Scope::All, ["502", "502", "502"]),
    ] {
        pbx.set(|faults| faults.scope = scope);
        assert_eq!(statuses().await, expected, "{scope:?}");
    }
}

#[tokio::test]
async fn connections_end_as_they_are_told_to() {
    let pbx = pbx(Dialect::A).await;
    for (ending, said) in [(Ending::Close, "close"), (Ending::SilentClose, "")] {
        pbx.set(|faults| faults.ending = ending);
        assert_eq!(read_to_the_end(&pbx).await, said, "{ending:?}");
    }
}

/// Asks on a connection that is to stay, reads until the PBX ends it, and returns what it said about that.
async fn read_to_the_end(pbx: &Vodia) -> String {
    let mut socket = TcpStream::connect(pbx.addr).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: acme.test\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("</html>\n"), "{answer}");
    answer.lines().find_map(|line| line.strip_prefix("connection: ")).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn cookies_double_and_the_server_goes_unnamed() {
    let pbx = pbx(Dialect::B).await;
    pbx.set(|faults| (faults.duplicate_cookie, faults.server_header) = (true, false));
    let token = token(&pbx).await;
    let answer = exchange(&pbx, &token).await;
    assert_eq!(answer.all("set-cookie").len(), 2);
    assert_eq!(answer.header("server"), "");
}
