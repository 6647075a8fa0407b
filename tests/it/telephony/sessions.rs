//! The sessions that callgate opened: who is in, and how they end: by the operator, by the app's logout, by the PBX's own.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::kit::client::Answer;
use crate::kit::commands::{callgate, run, text};
use crate::kit::gate::{Gate, secret};
use crate::kit::stage::{Plan, STAFF, Stage, until};
use crate::kit::vodia::{Dialect, Scope, Wrong};

const SESSION: &str = "/rest/system/session";
/// A cookie that every visitor of the app has, and that looks random.
const SHARED: &str = "visit0r-c0nsent=a1b2c3d4e5f6a7b8";

/// Opens a session with the cookies of a browser, and returns its id.
pub async fn open(stage: &Stage, cookies: &str) -> String {
    let landing = stage.gate.get("/auth/pbx").cookie(cookies).send().await.expect(303).header("location").to_owned();
    landing.split_once("sessId=").unwrap().1.split('&').next().unwrap().to_owned()
}

/// Lets the app answer with these `PBX-Logout` fields.
async fn app_says(stage: &Stage, cookies: &str, says: &str) -> Answer {
    stage.gate.get(&format!("/app-logout?{says}")).cookie(cookies).send().await
}

/// Tells whether a session is alive at the PBX.
pub fn is_in(stage: &Stage, session: &str) -> bool {
    stage.pbx.sessions().iter().any(|one| one.id == session)
}

/// Waits until the PBX has ended a session.
pub async fn is_out(stage: &Stage, session: &str) {
    until("the end of a session at the PBX", || !is_in(stage, session)).await;
}

/// Sends an order to the admin listener.
pub fn order(gate: &Gate, path: &str, order: &Value) -> (u16, Value) {
    let order = order.to_string();
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
    let answer = gate.tell(&format!("{head}Content-Length: {}\r\n\r\n{order}", order.len()));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (crate::kit::client::status(head), serde_json::from_str(body).unwrap())
}

pub fn numbers(listed: &Value) -> Vec<u64> {
    listed.as_array().unwrap().iter().map(|one| one["number"].as_u64().unwrap()).collect()
}

pub async fn socket(gate: &Gate, cookie: &str) -> Option<WebSocketStream<TlsStream<TcpStream>>> {
    let tls = gate.raw("pbx.test", "http/1.1").await;
    let mut request = "wss://pbx.test/websocket?domain=acme.test&user=40".into_client_request().unwrap();
    request.headers_mut().insert("cookie", cookie.parse().unwrap());
    tokio_tungstenite::client_async(request, tls).await.ok().map(|(socket, _)| socket)
}

pub async fn stands(socket: &mut WebSocketStream<TlsStream<TcpStream>>) {
    socket.send(Message::text("{\"action\":\"ping\"}")).await.unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(20), socket.next()).await.unwrap();
    assert!(matches!(heard, Some(Ok(Message::Text(_)))), "{heard:?}");
}

pub async fn ends(socket: &mut WebSocketStream<TlsStream<TcpStream>>) {
    let ended = tokio::time::timeout(Duration::from_secs(20), socket.next()).await.expect("the tunnel stands");
    assert!(!matches!(ended, Some(Ok(_))), "{ended:?}");
}

// === The operator ===

#[tokio::test]
async fn the_operator_sees_who_is_in_and_ends_one_of_them_with_its_tunnels() {
    let stage = Stage::new().await;
    let (alice, bob) = (open(&stage, &stage.app.log_in("alice")).await, open(&stage, &stage.app.log_in("bob")).await);
    let (status, listed) = order(&stage.gate, "/sessions", &json!({}));
    assert_eq!((status, numbers(&listed)), (200, vec![1, 2]));
    let hers = json!({
        "number": 1, "account": "40@acme.test", "level": "user", "since": listed[0]["since"], "method": "app",
        "subject": "alice", "rule": "staff", "client": "127.0.0.1", "host": listed[0]["host"],
    });
    assert_eq!(listed[0], hers);
    assert!(listed[0]["host"].as_str().unwrap().starts_with("pbx.test"), "{listed}");
    let (_, his) = order(&stage.gate, "/sessions", &json!({ "account": "41@acme.test" }));
    assert_eq!(numbers(&his), [2]);

    let mut tunnel = socket(&stage.gate, &format!("session={alice}")).await.unwrap();
    stands(&mut tunnel).await;
    let (_, ended) = order(&stage.gate, "/sessions/end", &json!({ "number": 1 }));
    assert_eq!(numbers(&ended["ended"]), [1]);
    assert_eq!((&ended["ended_in_old_processes"], &ended["old_processes"]), (&json!(0), &json!([])));
    ends(&mut tunnel).await;
    is_out(&stage, &alice).await;
    assert!(is_in(&stage, &bob));
    stage.gate.line(&["target=\"/websocket?", " ended=session_ended", " account=40@acme.test"]).await;
    let line = stage.gate.line(&["audit session_end", "number=1"]).await;
    assert!(
        line.contains("account=40@acme.test number=1 subject=alice by=") && line.ends_with("reason=operator"),
        "{line}"
    );
    let delete = stage.pbx.requests().into_iter().find(|seen| seen.method == Method::DELETE).unwrap();
    assert_eq!(delete.header("cookie"), Some(&*format!("session={alice}")));
    assert!(delete.header("host").unwrap().starts_with("pbx.test"), "{delete:?}");
    assert_eq!(delete.header("authorization"), None);

    assert_eq!(numbers(&order(&stage.gate, "/sessions/end", &json!({ "number": 1 })).1["ended"]), [0; 0]);
    assert_eq!(order(&stage.gate, "/sessions/end", &json!({})).0, 400);
    assert_eq!(order(&stage.gate, "/sessions/end", &json!({ "all": true, "number": 2 })).0, 400);
    assert_eq!(numbers(&order(&stage.gate, "/sessions/end", &json!({ "domain": "ACME.test" })).1["ended"]), [2]);
    is_out(&stage, &bob).await;
    let told = stage.gate.told("/metrics");
    assert!(told.contains("callgate_sessions_total 2\n"), "{told}");
    assert!(told.contains("callgate_sessions_ended_total{reason=\"operator\"} 2\n"), "{told}");
    until("both counts", || stage.gate.told("/metrics").contains("callgate_session_deletes_total{outcome=\"ok\"} 2\n"))
        .await;
}

#[tokio::test]
async fn the_cookie_of_a_token_is_what_ends() {
    let stage = Plan { dialect: Dialect::C, pbx: "handoff = \"cookie\"", ..Plan::default() }.start().await;
    let began = stage.as_alice("/auth/pbx").send().await.expect(303);
    assert_eq!(order(&stage.gate, "/sessions", &json!({})).1, json!([]), "a ticket is no session yet");
    let landed = stage.redeem(began.header("set-cookie"), began.header("location")).await.expect(200);
    let cookie = landed.header("set-cookie").split(';').next().unwrap().to_owned();
    let session = cookie.strip_prefix("session=").unwrap();
    assert!(is_in(&stage, session));
    assert_eq!(numbers(&order(&stage.gate, "/sessions/end", &json!({ "all": true })).1["ended"]), [1]);
    is_out(&stage, session).await;
}

/// What the PBX would still accept, callgate does not pass on.
#[tokio::test]
async fn a_session_that_is_over_opens_nothing_while_the_pbx_does_not_know() {
    let stage = Stage::new().await;
    let alice = open(&stage, &stage.app.log_in("alice")).await;
    stage.pbx_does(|faults| faults.refuse_connections = true);
    assert_eq!(numbers(&order(&stage.gate, "/sessions/end", &json!({ "all": true })).1["ended"]), [1]);
    // One try fails. Until the next, the PBX can be reached, and knows the session.
    tokio::time::sleep(Duration::from_millis(100)).await;
    stage.pbx_does(|faults| (faults.scope, faults.refuse_connections) = (Scope::Other, false));
    assert!(is_in(&stage, &alice));
    let at_pbx = |path: &str| stage.gate.get(path).host("pbx.test");
    let kept = at_pbx("/rest/user/40").cookie(&format!("acct#page=1; session={alice};theme=dark")).send().await;
    let seen = stage.pbx.requests().pop().unwrap();
    assert_eq!(seen.header("cookie"), Some("acct#page=1;theme=dark"), "{kept:?}");
    for other in [
        at_pbx(&format!("/welcome.htm?sessId={alice}")),
        at_pbx(&format!("/welcome.htm?%73essId={alice}")),
        at_pbx(SESSION).cookie(&format!("Session=\"{alice}\"")),
        at_pbx(&format!("/websocket?session={alice}")),
    ] {
        other.send().await.expect(403);
    }
    assert!(socket(&stage.gate, &format!("session={alice}")).await.is_none());
    // It is told again.
    is_out(&stage, &alice).await;
    until("its count", || stage.gate.told("/metrics").contains("callgate_session_deletes_total{outcome=\"ok\"} 1\n"))
        .await;
    at_pbx(&format!("/welcome.htm?sessId={alice}")).send().await.expect(200);
}

#[tokio::test]
async fn a_gate_that_ends_tells_the_pbx_first() {
    let stage = Stage::new().await;
    let gate = Gate::start(&stage.gate.text).await;
    gate.get("/auth/pbx").cookie(&stage.app.log_in("alice")).send().await.expect(303);
    assert_eq!(stage.pbx.sessions().len(), 1);
    stage.pbx_does(|faults| faults.refuse_connections = true);
    assert_eq!(numbers(&order(&gate, "/sessions/end", &json!({ "all": true })).1["ended"]), [1]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    stage.pbx_does(|faults| faults.refuse_connections = false);
    gate.drain().await;
    assert!(stage.pbx.sessions().is_empty());
}

#[tokio::test]
async fn a_logout_at_the_pbx_is_known() {
    let stage = Stage::new().await;
    let alice = open(&stage, &stage.app.log_in("alice")).await;
    let log_out = || stage.gate.ask(Method::DELETE, SESSION).host("pbx.test").cookie(&format!("session={alice}"));
    stage.pbx_does(|faults| (faults.scope, faults.wrong) = (Scope::Other, Wrong::Status(StatusCode::FORBIDDEN)));
    log_out().send().await.expect(403);
    assert_eq!(numbers(&order(&stage.gate, "/sessions", &json!({})).1), [1], "the PBX refused");
    stage.pbx_does(|faults| faults.wrong = Wrong::Nothing);
    log_out().send().await.expect(200);
    assert_eq!(order(&stage.gate, "/sessions", &json!({})).1, json!([]));
    stage.gate.line(&["audit session_end", "number=1", "reason=pbx"]).await;
    assert_eq!(stage.pbx.requests().iter().filter(|seen| seen.method == Method::DELETE).count(), 2);
}

#[tokio::test]
async fn a_freeze_ends_the_sessions_at_the_pbx() {
    let stage = Stage::new().await;
    let (alice, bob) = (open(&stage, &stage.app.log_in("alice")).await, open(&stage, &stage.app.log_in("bob")).await);
    assert_eq!(order(&stage.gate, "/freeze", &json!({ "whom": "account 40@ACME.test" })).0, 200);
    is_out(&stage, &alice).await;
    let line = stage.gate.line(&["audit session_end", "number=1"]).await;
    assert!(line.contains("account=40@acme.test") && line.contains("reason=freeze"), "{line}");
    assert!(is_in(&stage, &bob));
    assert_eq!(order(&stage.gate, "/freeze", &json!({ "whom": "domain acme.test" })).0, 200);
    is_out(&stage, &bob).await;
}

// === The app's logout ===

#[tokio::test]
async fn a_logout_of_the_app_ends_what_its_credential_opened_and_nothing_else() {
    let stage = Stage::new().await;
    let (browser, other) = (stage.app.log_in("alice"), stage.app.log_in("alice"));
    let sessions = [
        open(&stage, &format!("{browser}; csrf=aaaa1111bbbb2222; theme=dark")).await,
        open(&stage, &format!("theme=light; {browser}")).await,
        open(&stage, &other).await,
        open(&stage, &stage.app.log_in("bob")).await,
    ];
    let mut tunnel = socket(&stage.gate, &format!("session={}", sessions[0])).await.unwrap();
    stands(&mut tunnel).await;
    // The other cookies have changed meanwhile, and the app knows the caller no more: whoami is not asked.
    let asked = stage.app.requests().iter().filter(|seen| seen.target == "/api/me").count();
    let answer = app_says(&stage, &format!("theme=dark; {browser}; csrf=cccc3333dddd4444; _ga=x"), "say=1").await;
    assert!(!answer.expect(200).headers.contains_key("pbx-logout"));
    ends(&mut tunnel).await;
    is_out(&stage, &sessions[0]).await;
    is_out(&stage, &sessions[1]).await;
    assert!(is_in(&stage, &sessions[2]), "another browser of the same person logged in by itself");
    assert!(is_in(&stage, &sessions[3]));
    assert_eq!(stage.app.requests().iter().filter(|seen| seen.target == "/api/me").count(), asked);
    stage.gate.line(&["audit session_end", "number=2", "subject=alice", "reason=app"]).await;
}

#[tokio::test]
async fn nobody_ends_anothers_session_by_cookies_that_are_guessed_or_shared() {
    let stage = Stage::new().await;
    let (alice, bob) = (stage.app.log_in("alice"), stage.app.log_in("bob"));
    let hers =
        open(&stage, &format!("{alice}; theme=solarized-dark-high-contrast; _ga=GA1.2.1234567890.17; {SHARED}")).await;
    let his = open(&stage, &format!("{bob}; {SHARED}; theme=solarized-dark-high-contrast")).await;
    let name = alice.split('=').next().unwrap();
    for cookies in [
        "theme=solarized-dark-high-contrast",
        "theme=solarized-dark-high-contrast; _ga=GA1.2.1234567890.17",
        SHARED,
        &format!("{name}=; {SHARED}"),
        &format!("{name}=0000000000000000; {SHARED}"),
        &format!("x{alice}"),
        &format!("x={}", alice.split_once('=').unwrap().1),
    ] {
        app_says(&stage, cookies, "say=1").await.expect(200);
    }
    stage.gate.get("/app-logout?say=1").send().await.expect(200);
    assert!(is_in(&stage, &hers) && is_in(&stage, &his));
    app_says(&stage, &format!("{SHARED}; {bob}"), "say=1").await.expect(200);
    is_out(&stage, &his).await;
    assert!(is_in(&stage, &hers));
    assert_eq!(numbers(&order(&stage.gate, "/sessions", &json!({})).1), [1]);
}

#[tokio::test]
async fn only_a_clear_word_of_the_app_logs_out() {
    let stage = Stage::new().await;
    let alice = stage.app.log_in("alice");
    let session = open(&stage, &alice).await;
    for says in ["", "say=0", "say=", "say=true", "say=1&say=0", "say=1,1", "say=11"] {
        let answer = app_says(&stage, &alice, says).await.expect(200);
        assert!(!answer.headers.contains_key("pbx-logout"), "{says}");
    }
    // The PBX is not the app, whatever it says.
    let raw = "HTTP/1.1 200 OK\r\nPBX-Logout: 1\r\nContent-Length: 0\r\n\r\n";
    stage.pbx_does(|faults| (faults.scope, faults.wrong) = (Scope::Other, Wrong::Raw(raw.into())));
    let cookies = format!("{alice}; session={session}");
    let answer = stage.gate.get("/").host("pbx.test").cookie(&cookies).send().await.expect(200);
    assert!(!answer.headers.contains_key("pbx-logout"));
    stage.pbx_does(|faults| faults.wrong = Wrong::Nothing);
    assert!(is_in(&stage, &session));
    // A request cannot say it.
    let echo = stage.gate.get("/echo").cookie(&alice).header("pbx-logout", "1").send().await.expect(200);
    assert!(!echo.headers.contains_key("pbx-logout"));
    assert_eq!(numbers(&order(&stage.gate, "/sessions", &json!({})).1), [1]);
    // An answer with any status says it, twice as well as once.
    for says in ["say=1&status=500", "say=1&say=1&status=401"] {
        let session = open(&stage, &alice).await;
        app_says(&stage, &alice, says).await;
        is_out(&stage, &session).await;
    }
    assert_eq!(order(&stage.gate, "/sessions", &json!({})).1, json!([]));
}

#[tokio::test]
async fn a_redirect_that_logs_out_and_in_leaves_the_new_session() {
    let rules = format!(
        "[[allow]]\nname = \"app redirects\"\nauth = \"redirect\"\npbx = {{ domain = \"{{domain}}\", account = \"{{account}}\" }}\n{STAFF}"
    );
    let stage = Plan { rules: &rules, ..Plan::default() }.start().await;
    let alice = stage.app.log_in("alice");
    let before = open(&stage, &alice).await;
    let to = "say=1&status=302&to=https://pbx.test/welcome.htm&account=41&domain=acme.test&sets=1";
    let answer = app_says(&stage, &alice, to).await.expect(302);
    let after = answer.header("location").split_once("sessId=").unwrap().1.to_owned();
    is_out(&stage, &before).await;
    assert!(is_in(&stage, &after));
    assert_eq!(stage.minted(), ["40@acme.test", "41@acme.test"]);
    // The app's next logout comes with the cookie that it set in the same answer.
    app_says(&stage, "sid=c0ffee00c0ffee01", "say=1").await.expect(200);
    is_out(&stage, &after).await;
}

/// The app forgets the caller while the PBX opens a session for it.
#[tokio::test]
async fn a_login_under_way_ends_with_the_logout() {
    let stage = Stage::new().await;
    stage.gate.logins.are_not_explained();
    let alice = stage.app.log_in("alice");
    open(&stage, &alice).await;
    stage.pbx_does(|faults| faults.head_delay = Duration::from_secs(2));
    let logout = async {
        until("a question to the PBX", || stage.pbx.mints().len() == 2).await;
        app_says(&stage, &alice, "say=1").await.expect(200);
    };
    let (refused, ()) = tokio::join!(stage.gate.get("/auth/pbx").cookie(&alice).send(), logout);
    refused.expect(401);
    stage.gate.line(&["audit refusal", "reason=\"the caller has logged out meanwhile\""]).await;
    until("no session", || stage.pbx.sessions().is_empty()).await;
    stage.pbx_does(|faults| faults.head_delay = Duration::ZERO);
    // The app may give the next login the same cookie.
    let again = open(&stage, &alice).await;
    assert!(is_in(&stage, &again));
}

/// A ticket stands for a login that began before the logout.
#[tokio::test]
async fn a_ticket_from_before_the_logout_opens_nothing() {
    let stage = Plan { dialect: Dialect::C, pbx: "handoff = \"cookie\"", ..Plan::default() }.start().await;
    let (alice, bob) = (stage.app.log_in("alice"), stage.app.log_in("bob"));
    let began = async |cookies: &str| {
        let began = stage.gate.get("/auth/pbx").cookie(cookies).send().await.expect(303);
        (began.header("set-cookie").to_owned(), began.header("location").to_owned())
    };
    let (hers, his) = (began(&alice).await, began(&bob).await);
    app_says(&stage, &alice, "say=1").await.expect(200);
    // Many logouts of strangers do not make hers be forgotten.
    for request in 0..120 {
        let lines: String = (0..90).map(|line| format!("Authorization: Custom {request}-{line}\r\n")).collect();
        let asking = format!("GET /app-logout?say=1 HTTP/1.1\r\nHost: app.test\r\n{lines}Connection: close\r\n\r\n");
        assert!(stage.gate.exchange(asking.as_bytes()).await.starts_with("HTTP/1.1 200 "));
    }
    assert_ne!(stage.redeem(&hers.0, &hers.1).await.status, 200);
    stage.gate.line(&["audit refusal", "subject=alice", "reason=\"the caller has logged out meanwhile\""]).await;
    stage.redeem(&his.0, &his.1).await.expect(200);
    let (_, listed) = order(&stage.gate, "/sessions", &json!({}));
    assert_eq!(listed.as_array().unwrap().len(), 1);
    until("no session of hers", || stage.pbx.sessions().iter().filter(|one| one.identity.user == "40").count() == 0)
        .await;
}

#[tokio::test]
async fn a_bearer_is_recognized_by_its_whole_value() {
    let more = "[[auth]]\nname = \"portal\"\ntype = \"app\"\nwhoami = \"/api/me\"\nheaders = [\"authorization\"]";
    let stage = Plan { app: "", more, ..Plan::default() }.start().await;
    stage.claims(json!({ "sub": "alice", "ext": "40", "tenant": "acme.test" }));
    let bearer = "Bearer eyJhbGciOiJub25lIn0";
    let asked = stage.gate.get("/auth/pbx").header("authorization", bearer).send().await.expect(303);
    let session = asked.header("location").split_once("sessId=").unwrap().1.to_owned();
    let says = async |bearer: &str| {
        stage.gate.get("/app-logout?say=1").header("authorization", bearer).send().await.expect(200);
    };
    says(&bearer[..bearer.len() - 1]).await;
    says(&bearer.to_lowercase()).await;
    assert!(is_in(&stage, &session));
    says(bearer).await;
    is_out(&stage, &session).await;
}

#[tokio::test]
async fn a_listed_cookie_is_the_credential_and_others_are_not() {
    let more = "[[auth]]\nname = \"portal\"\ntype = \"app\"\nwhoami = \"/api/me\"\ncookies = [\"demo_app\"]";
    let stage = Plan { app: "", more, ..Plan::default() }.start().await;
    let alice = stage.app.log_in("alice");
    let session = open(&stage, &format!("{alice}; other=a1b2c3d4e5f6a7b8c9d0")).await;
    app_says(&stage, "other=a1b2c3d4e5f6a7b8c9d0", "say=1").await.expect(200);
    assert!(is_in(&stage, &session));
    app_says(&stage, &alice, "say=1").await.expect(200);
    is_out(&stage, &session).await;
}

// === The access log ===

#[tokio::test]
async fn access_lines_say_whose_request_it_is_and_never_the_session() {
    let stage = Stage::new().await;
    let alice = open(&stage, &stage.app.log_in("alice")).await;
    let line = stage.gate.line(&["access", "target=\"/auth/pbx\"", "status=303"]).await;
    assert!(line.ends_with(" ended=complete subject=alice account=40@acme.test"), "{line}");
    let at_pbx = |path: &str| stage.gate.get(path).host("pbx.test");
    at_pbx("/a").cookie(&format!("x=y; session={alice}")).send().await;
    at_pbx(&format!("/welcome.htm?b=1&sessId={alice}")).send().await;
    at_pbx("/c").cookie("session=0123456789abcdefghij").send().await;
    at_pbx("/d").send().await;
    for (target, is_hers) in [("/a", true), ("/welcome.htm?b=1", true), ("/c", false), ("/d", false)] {
        let line = stage.gate.line(&["access", &format!("target=\"{target}"), "upstream=pbx"]).await;
        assert_eq!(line.ends_with(" account=40@acme.test"), is_hers, "{line}");
        assert!(!line.contains(&alice) && !line.contains("subject="), "{line}");
    }
    stage.claims(json!({ "ext": "4 0", "tenant": "acme.test", "sub": "Eve \"x\"\n sessId=secret" }));
    stage.as_alice("/auth/pbx").send().await.expect(403);
    let line = stage.gate.line(&["access", "target=\"/auth/pbx\"", "status=403"]).await;
    assert!(line.contains("subject=\"eve \\\"x\\\"\\n sessId=***\"") || line.contains("subject=\"eve"), "{line}");
    assert!(!line.contains("secret"), "{line}");
}

// === The commands ===

#[tokio::test]
async fn the_commands_list_sessions_and_end_them() {
    let stage = Stage::new().await;
    let tls = "tls = { cert = \"fullchain.pem\", key = \"privkey.pem\" }";
    let admin = if stage.gate.text.contains("[admin]") { "" } else { "[admin]\nlisten = \"unix:admin.sock\"" };
    secret(&stage.gate.dir, "proxy.toml", &format!("listen = \"127.0.0.1:0\"\n{tls}\n{}\n{admin}", stage.gate.text));
    let order = async |arguments: &[&str]| {
        let mut command = callgate(&[&["sessions"][..], arguments].concat());
        command.env("PBX_ADMIN", "x").current_dir(stage.gate.dir.path());
        let output = run(command).await;
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(order(&["list"]).await, (Some(0), "no session is open that callgate knows\n".to_owned(), String::new()));
    let (alice, bob) = (open(&stage, &stage.app.log_in("alice")).await, open(&stage, &stage.app.log_in("bob")).await);
    let (_, listed, _) = order(&["list"]).await;
    let lines: Vec<_> = listed.lines().collect();
    assert!(lines[0].starts_with("1  40@acme.test at pbx.test") && lines.len() == 2, "{listed}");
    assert!(lines[0].ends_with(", for alice by app from 127.0.0.1") && !listed.contains(&alice), "{listed}");
    let (_, his, _) = order(&["list", "--account", "41@acme.test", "--json"]).await;
    assert_eq!(numbers(&serde_json::from_str(&his).unwrap()), [2]);
    let (code, ended, _) = order(&["end", "1"]).await;
    assert_eq!((code, ended), (Some(0), format!("ended {}\n", lines[0])));
    is_out(&stage, &alice).await;
    let (code, _, told) = order(&["end", "1"]).await;
    assert_eq!((code, &*told), (Some(1), "callgate: there is no such session: callgate sessions list\n"));
    let (code, _, told) = order(&["end", "--account", "40"]).await;
    assert!(code == Some(2) && told.contains("no @"), "{code:?} {told}");
    for wrong in [&["end"][..], &["end", "1", "--all"], &["end", "--all", "--domain", "acme.test"], &["end", "one"]] {
        assert_eq!(order(wrong).await.0, Some(2), "{wrong:?}");
    }
    let (code, ended, _) = order(&["end", "--all", "--json"]).await;
    assert_eq!((code, numbers(&serde_json::from_str::<Value>(&ended).unwrap()["ended"])), (Some(0), vec![2]));
    is_out(&stage, &bob).await;
}
