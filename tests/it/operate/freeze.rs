//! Freezes: a frozen caller gets no login, its earlier sessions are refused, and its tunnels end. Other callers
//! notice nothing.

use std::fs;
use std::process::Output;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::kit::client::status;
use crate::kit::commands::{callgate, run, text};
use crate::kit::gate::{Gate, secret};
use crate::kit::stage::{Plan, Stage, until};
use crate::kit::vodia::Dialect;

const FORM: &str = "application/x-www-form-urlencoded";

/// Gives the gate a file by which commands find it.
fn write_config(gate: &Gate) {
    let tls = "tls = { cert = \"fullchain.pem\", key = \"privkey.pem\" }";
    let admin = if gate.text.contains("[admin]") { "" } else { "[admin]\nlisten = \"unix:admin.sock\"" };
    let text = format!("listen = \"127.0.0.1:0\"\n{tls}\n{}\n{admin}", gate.text);
    secret(&gate.dir, "proxy.toml", &text);
}

async fn order(gate: &Gate, arguments: &[&str]) -> Output {
    write_config(gate);
    let mut command = callgate(arguments);
    command.env("PBX_ADMIN", "x").current_dir(gate.dir.path());
    run(command).await
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Opens the PBX's WebSocket through a gate.
async fn socket(gate: &Gate, query: &str, session: &str) -> Option<WebSocketStream<TlsStream<TcpStream>>> {
    let tls = gate.raw("pbx.test", "http/1.1").await;
    let mut request = format!("wss://pbx.test/websocket?{query}").into_client_request().unwrap();
    request.headers_mut().insert("cookie", format!("session={session}").parse().unwrap());
    tokio_tungstenite::client_async(request, tls).await.ok().map(|(socket, _)| socket)
}

/// Says something and hears it: the tunnel stands.
async fn stands<S>(socket: &mut WebSocketStream<S>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    socket.send(Message::text("{\"action\":\"ping\"}")).await.unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(20), socket.next()).await.unwrap();
    assert!(matches!(heard, Some(Ok(Message::Text(_)))), "{heard:?}");
}

/// Waits until the tunnel has ended.
async fn ends<S>(socket: &mut WebSocketStream<S>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let ended = tokio::time::timeout(Duration::from_secs(20), socket.next()).await.expect("the tunnel stands");
    assert!(!matches!(ended, Some(Ok(_))), "{ended:?}");
}

/// Logs a caller in at the PBX, and returns the session.
async fn log_in(stage: &Stage, name: &str) -> String {
    let landing = stage.as_user(name, "/auth/pbx").send().await.expect(303).header("location").to_owned();
    landing.split_once("sessId=").unwrap().1.split('&').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_frozen_account_has_no_login_no_request_and_no_tunnel_and_others_have_all() {
    let stage = Stage::new().await;
    let (alice, bob) = (log_in(&stage, "alice").await, log_in(&stage, "bob").await);
    let mut hers = socket(&stage.gate, "", &alice).await.unwrap();
    let mut his = socket(&stage.gate, "domain=acme.test&user=41", &bob).await.unwrap();
    let by_h2 = {
        let tls = TokioIo::new(stage.gate.raw("pbx.test", "h2").await);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake::<_, _, String>(TokioExecutor::new(), tls).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(http::Request::get("https://pbx.test/").body(String::new()).unwrap()).await.unwrap();
        let request = http::Request::connect("https://pbx.test/websocket?domain=acme.test&user=40")
            .extension(hyper::ext::Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13")
            .header("cookie", format!("session={alice}"));
        let response = sender.send_request(request.body(String::new()).unwrap()).await.unwrap();
        TokioIo::new(hyper::upgrade::on(response).await.unwrap())
    };
    let mut hers_by_h2 = WebSocketStream::from_raw_socket(by_h2, Role::Client, None).await;
    stands(&mut hers).await;
    stands(&mut his).await;
    stands(&mut hers_by_h2).await;

    let told =
        order(&stage.gate, &["freeze", "account", "40@ACME.test", "--for", "2h", "--why", "calls to Cuba"]).await;
    assert!(done(&told).starts_with("account 40@acme.test is frozen until "), "{}", text(&told.stdout));
    assert!(text(&told.stderr).contains("without `[state] file`"), "{}", text(&told.stderr));
    ends(&mut hers).await;
    ends(&mut hers_by_h2).await;
    for http in ["1.1", "2"] {
        let line = stage.gate.line(&[&format!(" http={http} "), " ended=frozen"]).await;
        assert!(!line.contains(" sent=0 ") && !line.contains(" received=0 "), "{line}");
    }
    stands(&mut his).await;
    let uid = rustix::process::getuid().as_raw();
    let line = stage.gate.line(&["audit freeze", "account=40@acme.test"]).await;
    assert!(line.contains(&format!("by=\"uid {uid}\" reason=\"calls to Cuba\" until=")), "{line}");

    let refused = stage.as_alice("/auth/pbx").send().await.expect(403);
    let id = refused.header("x-request-id").to_owned();
    let line = stage.gate.line(&["audit refusal", &id]).await;
    assert!(line.contains("rule=staff account=40@acme.test level=user reason=\"the account is frozen\""), "{line}");
    let at_pbx =
        |session: &str| stage.gate.get("/rest/system/session").host("pbx.test").cookie(&format!("session={session}"));
    at_pbx(&alice).send().await.expect(403);
    stage.gate.get(&format!("/welcome.htm?sessId={alice}")).host("pbx.test").send().await.expect(403);
    at_pbx(&bob).send().await.expect(200);
    assert!(socket(&stage.gate, "", &alice).await.is_none());
    // An unknown session, with the name of its user.
    let unknown = stage.pbx.open_session("40", "acme.test");
    assert!(socket(&stage.gate, "domain=acme.test&user=40", &unknown).await.is_none());
    log_in(&stage, "bob").await;
    // The user of Voximplant belongs to another caller.
    stage.alice_posts("/auth/ott", FORM, "key=k1").send().await.expect(200);

    let listed = done(&order(&stage.gate, &["freeze", "list"]).await);
    assert!(listed.starts_with("account 40@acme.test  since ") && listed.contains(": calls to Cuba"), "{listed}");
    assert_eq!(
        done(&order(&stage.gate, &["thaw", "account", "40@acme.test"]).await),
        "account 40@acme.test is thawed\n"
    );
    stage.gate.line(&["audit thaw", "account=40@acme.test"]).await;
    let again = log_in(&stage, "alice").await;
    let mut hers = socket(&stage.gate, "domain=acme.test&user=40", &again).await.unwrap();
    stands(&mut hers).await;
    at_pbx(&alice).send().await.expect(200);
    let twice = order(&stage.gate, &["thaw", "account", "40@acme.test"]).await;
    assert_eq!(twice.status.code(), Some(1), "{}", text(&twice.stderr));
    assert_eq!(done(&order(&stage.gate, &["freeze", "list"]).await), "nothing is frozen\n");
    assert!(stage.gate.told("/metrics").contains("callgate_tunnels_ended_total{reason=\"frozen\"} 2\n"));
}

#[tokio::test]
async fn a_frozen_domain_is_all_its_accounts_and_a_frozen_user_one_phone() {
    let stage = Stage::new().await;
    done(&order(&stage.gate, &["freeze", "domain", "ACME.test"]).await);
    for name in ["alice", "bob"] {
        stage.as_user(name, "/auth/pbx").send().await.expect(403);
    }
    done(&order(&stage.gate, &["thaw", "domain", "acme.test"]).await);
    done(&order(&stage.gate, &["freeze", "user", "alice"]).await);
    stage.alice_posts("/auth/ott", FORM, "key=k1").send().await.expect(403);
    stage.gate.line(&["audit refusal", "act=voximplant_token", "account=alice", "frozen"]).await;
    let bob = stage.gate.post("/auth/ott", FORM, "key=k2").cookie(&stage.app.log_in("bob"));
    bob.send().await.expect(200);
    stage.as_alice("/auth/pbx").send().await.expect(303);
}

#[tokio::test]
async fn a_freeze_ends_by_itself() {
    let stage = Stage::new().await;
    // The freeze may end between the explanation of a login and the login.
    stage.gate.logins.are_not_explained();
    done(&order(&stage.gate, &["freeze", "account", "40@acme.test", "--for", "1s"]).await);
    stage.as_alice("/auth/pbx").send().await.expect(403);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while stage.as_alice("/auth/pbx").send().await.status != 303 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The PBX takes a while to open a session. A freeze in that time holds: the session goes out to nobody.
#[tokio::test]
async fn an_account_that_is_frozen_while_the_pbx_is_asked_gets_no_session() {
    let stage = Stage::new().await;
    // The explanation before a login does not know of a freeze that comes later.
    stage.gate.logins.are_not_explained();
    stage.pbx.set(|faults| faults.head_delay = Duration::from_secs(2));
    let freeze = async {
        until("a question to the PBX", || !stage.pbx.mints().is_empty()).await;
        let order = r#"{"whom":"account 40@acme.test"}"#;
        let head = "POST /freeze HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        let answer = stage.gate.tell(&format!("{head}Content-Length: {}\r\n\r\n{order}", order.len()));
        assert_eq!(status(&answer), 200, "{answer}");
    };
    let (refused, ()) = tokio::join!(stage.as_alice("/auth/pbx").send(), freeze);
    assert!(stage.pbx.last_minted().is_some());
    let id = refused.expect(403).header("x-request-id").to_owned();
    stage.gate.line(&["audit refusal", &id, "account=40@acme.test", "reason=\"the account is frozen\""]).await;
    assert!(!stage.gate.log().contains("audit grant"), "{}", stage.gate.log());
}

/// With the cookie hand-over the browser never has the token that was minted, but the PBX's cookie for it.
#[tokio::test]
async fn the_cookie_that_a_session_became_is_known_too() {
    for dialect in [Dialect::B, Dialect::C] {
        let stage = Plan { dialect, pbx: "handoff = \"cookie\"", ..Plan::default() }.start().await;
        let began = stage.as_alice("/auth/pbx").send().await.expect(303);
        let landed = stage.redeem(began.header("set-cookie"), began.header("location")).await.expect(200);
        let cookie = landed.header("set-cookie").split(';').next().unwrap().to_owned();
        let late = stage.as_alice("/auth/pbx").send().await.expect(303).header("location").to_owned();
        let mut tunnel = socket(&stage.gate, "", cookie.strip_prefix("session=").unwrap()).await.unwrap();
        stands(&mut tunnel).await;
        done(&order(&stage.gate, &["freeze", "account", "40@acme.test"]).await);
        ends(&mut tunnel).await;
        stage.gate.get("/rest/system/session").host("pbx.test").cookie(&cookie).send().await.expect(403);
        // A ticket from before is good for nothing now.
        let late = late.strip_prefix("https://pbx.test").unwrap();
        stage.gate.get(late).host("pbx.test").send().await.expect(403);
    }
}

#[tokio::test]
async fn a_restart_keeps_a_freeze_and_a_gate_that_does_not_run_can_be_told() {
    let stage = Stage::new().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state");
    let more = "[audit]\nfile = \"audit.log\"\nchain = true";
    let text = format!("{}\n[state]\nfile = \"{}\"\n{more}", stage.gate.text, file.display());
    let alice =
        async |gate: &Gate| gate.get("/auth/pbx").cookie(&stage.app.log_in("alice")).send().await.status.as_u16();

    let gate = Gate::start(&text).await;
    let told = order(&gate, &["freeze", "account", "40@acme.test"]).await;
    assert_eq!((done(&told).as_str(), told.stderr.len()), ("account 40@acme.test is frozen until it is thawed\n", 0));
    assert_eq!(alice(&gate).await, 403);
    assert_eq!(gate.drain().await, 0);
    let gate = Gate::start(&text).await;
    assert_eq!(alice(&gate).await, 403);
    // The gate ends, and its folder stays.
    let (folder, saved) = (tempfile::tempdir().unwrap(), gate.dir.path().to_owned());
    for name in ["fullchain.pem", "privkey.pem", "voximplant.htdigest"] {
        secret(&folder, name, &fs::read_to_string(saved.join(name)).unwrap());
    }
    write_config(&gate);
    secret(&folder, "proxy.toml", &fs::read_to_string(saved.join("proxy.toml")).unwrap());
    fs::write(folder.path().join("audit.log"), "").unwrap();
    assert_eq!(gate.drain().await, 0);

    let alone = async |arguments: &[&str]| {
        let mut command = callgate(arguments);
        command.env("PBX_ADMIN", "x").current_dir(folder.path());
        done(&run(command).await)
    };
    assert!(alone(&["freeze", "list"]).await.starts_with("account 40@acme.test  since "));
    assert_eq!(alone(&["thaw", "account", "40@acme.test"]).await, "account 40@acme.test is thawed\n");
    alone(&["freeze", "user", "alice", "--why", "stolen phone"]).await;
    let listed: Value = serde_json::from_str(&alone(&["freeze", "list", "--json"]).await).unwrap();
    assert_eq!(
        (&listed[0]["whom"], &listed[0]["why"], &listed[1]),
        (&json!("user alice"), &json!("stolen phone"), &Value::Null)
    );
    let audited = fs::read_to_string(folder.path().join("audit.log")).unwrap();
    let kinds: Vec<_> =
        audited.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["kind"].clone()).collect();
    assert_eq!(kinds, ["audit thaw", "audit freeze"]);
    assert!(alone(&["audit", "verify", "audit.log"]).await.starts_with("lines 1 to 2 follow each other"));

    let gate = Gate::start(&text).await;
    assert_eq!(alice(&gate).await, 303);
    let asked = gate.post("/auth/ott", FORM, "key=k1").cookie(&stage.app.log_in("alice"));
    asked.send().await.expect(403);
    gate.drain().await;
}

#[tokio::test]
async fn an_invalid_order_says_what_to_do() {
    let stage = Stage::new().await;
    for (arguments, code, part) in [
        (&["freeze", "account", "40"][..], 2, "no @"),
        (&["freeze", "account", "admin@acme.test"], 2, "administrator"),
        (&["freeze", "account", "40@acme.test", "--for", "soon"], 2, "30min"),
        (&["freeze", "account", "40@acme.test", "--why", &"x".repeat(2000)], 2, "500"),
        (&["freeze", "user", "Ann"], 2, "is not a user"),
        (&["thaw", "extension", "40"], 2, "account"),
    ] {
        let output = order(&stage.gate, arguments).await;
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains(part), "{arguments:?}: {told}");
    }
    // Neither a gate nor a file.
    let folder = tempfile::tempdir().unwrap();
    for name in ["fullchain.pem", "privkey.pem", "voximplant.htdigest", "proxy.toml"] {
        secret(&folder, name, &fs::read_to_string(stage.gate.dir.path().join(name)).unwrap());
    }
    let mut command = callgate(&["freeze", "account", "40@acme.test"]);
    command.env("PBX_ADMIN", "x").current_dir(folder.path());
    let output = run(command).await;
    assert_eq!(output.status.code(), Some(69));
    let told = text(&output.stderr);
    assert!(told.contains("no gate answers at unix:") && told.contains("add `file` to [state]"), "{told}");
    // An order that a page could send, or an invalid one.
    let post = |fields: &str, body: &str| {
        let length = body.len();
        stage.gate.tell(&format!(
            "POST /freeze HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
        ))
    };
    let body = "{\"whom\":\"account 40@acme.test\"}";
    assert!(post("Content-Type: text/plain\r\n", body).starts_with("HTTP/1.1 415"));
    assert!(post("Content-Type: application/json\r\nOrigin: https://evil.test\r\n", body).starts_with("HTTP/1.1 403"));
    assert!(post("Content-Type: application/json\r\n", "{\"whom\":\"all\"}").starts_with("HTTP/1.1 400"));
    assert!(post("Content-Type: application/json\r\n", "{}").starts_with("HTTP/1.1 400"));
    assert!(stage.gate.told("/freeze").starts_with("HTTP/1.1 405"));
    stage.as_alice("/auth/pbx").send().await.expect(303);
}

#[tokio::test]
async fn a_command_to_a_gate_without_an_admin_listener_fails_and_says_so() {
    let stage = Stage::new().await;
    let dir = tempfile::tempdir().unwrap();
    let text_of = format!("{}\n[state]\nfile = \"{}\"", stage.gate.text, dir.path().join("state").display());
    let gate = Gate::start(&text_of).await;
    write_config(&gate);
    let config = fs::read_to_string(gate.dir.path().join("proxy.toml")).unwrap();
    secret(&gate.dir, "proxy.toml", config.split("[admin]").next().unwrap());
    let mut command = callgate(&["freeze", "account", "40@acme.test"]);
    command.env("PBX_ADMIN", "x").current_dir(gate.dir.path());
    let output = run(command).await;
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{told}");
    assert!(told.contains("without [admin] it takes no orders"), "{told}");
    gate.drain().await;
}
