//! Freezes hold at all members, whatever happens to the engine.

use std::fs;
use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::kit::commands::{callgate, run, text};
use crate::kit::engine::Engine;
use crate::kit::gate::{Gate, secret};
use crate::kit::stage::{Plan, Stage, until};
use crate::members::quotas::{reached, readiness};

/// Starts two members before one app and one PBX.
pub async fn two_members(engine: &Engine, plan: impl Fn() -> Plan<'static>) -> [Stage; 2] {
    let shared = engine.shared("deadline = \"5s\"\n[state]\nfile = \"callgate.state\"");
    let start = async |at: Option<[SocketAddr; 2]>| {
        let plan = plan();
        let (app_at, pbx_at) = (at.map(|[app, _]| app).or(plan.app_at), at.map(|[_, pbx]| pbx).or(plan.pbx_at));
        let stage = Plan { more: &shared, app_at, pbx_at, ..plan }.start().await;
        // An explanation would ask the app and the engine, too.
        stage.gate.logins.are_not_explained();
        stage
    };
    let one = start(None).await;
    let other = start(Some([one.app.addr, one.pbx.addr])).await;
    for member in [&one, &other] {
        reached(member).await;
    }
    [one, other]
}

/// Gives an order at a member.
pub async fn order(member: &Stage, arguments: &[&str]) -> Output {
    member.gate.file();
    let mut command = callgate(arguments);
    command.env("PBX_ADMIN", "x").current_dir(member.gate.dir.path());
    run(command).await
}

/// Gives an order that the other members obey, too.
pub async fn obeyed(member: &Stage, arguments: &[&str]) {
    let output = order(member, arguments).await;
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(
        text(&output.stdout).contains("the other members that use the shared engine obey, too"),
        "{}",
        text(&output.stdout)
    );
}

/// Gives an order that the other members learn of later.
async fn pending(member: &Stage, arguments: &[&str]) {
    let output = order(member, arguments).await;
    assert_eq!(output.status.code(), Some(75), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("the other members do not know it yet"), "{}", text(&output.stderr));
}

/// Logs a user of the app of the first member in at the PBX through `member`, and returns the session; nothing if the login is
/// refused.
pub async fn log_in(member: &Stage, cookie: &str) -> Option<String> {
    let answer = member.gate.get("/auth/pbx").cookie(cookie).send().await;
    if answer.status == 403 {
        return None;
    }
    let landing = answer.expect(303).header("location").to_owned();
    let session = landing.split_once("sessId=").unwrap().1.split('&').next().unwrap().to_owned();
    member.gate.canary(&session);
    Some(session)
}

/// Opens the PBX's WebSocket through a member.
pub async fn socket(gate: &Gate, session: &str) -> Option<WebSocketStream<TlsStream<TcpStream>>> {
    gate.canary(session);
    let tls = gate.raw("pbx.test", "http/1.1").await;
    let mut request = "wss://pbx.test/websocket".into_client_request().unwrap();
    request.headers_mut().insert("cookie", format!("session={session}").parse().unwrap());
    tokio_tungstenite::client_async(request, tls).await.ok().map(|(socket, _)| socket)
}

/// Waits until a tunnel has ended.
pub async fn ends(socket: &mut WebSocketStream<TlsStream<TcpStream>>) {
    let ended = tokio::time::timeout(Duration::from_secs(20), socket.next()).await.expect("the tunnel stands");
    assert!(!matches!(ended, Some(Ok(_))), "{ended:?}");
}

fn freezes(member: &Stage) -> String {
    crate::telephony::sessions::order(&member.gate, "/freezes", &serde_json::json!({})).1.to_string()
}

async fn until_frozen(member: &Stage, whom: &str, is_frozen: bool) {
    until(whom, || freezes(member).contains(&format!("\"{whom}\"")) == is_frozen).await;
}

async fn until_missed(member: &Stage) {
    until("the engine is missed", || !readiness(member).contains("shared: ok")).await;
}

#[tokio::test]
async fn a_freeze_at_one_member_ends_a_tunnel_at_another_and_refuses_logins_there() {
    let Some(engine) = Engine::start().await else { return };
    let [one, other] = two_members(&engine, Plan::default).await;
    let (alice, bob) = (one.app.log_in("alice"), one.app.log_in("bob"));
    let (hers, his) = (log_in(&other, &alice).await.unwrap(), log_in(&other, &bob).await.unwrap());
    let mut hers = socket(&other.gate, &hers).await.unwrap();
    let _his = socket(&other.gate, &his).await.unwrap();
    obeyed(&one, &["freeze", "account", "40@acme.test", "--why", "calls to Cuba"]).await;
    ends(&mut hers).await;
    other.gate.line(&["/websocket", "ended=frozen"]).await;
    for member in [&one, &other] {
        assert_eq!(log_in(member, &alice).await, None);
        assert!(log_in(member, &bob).await.is_some(), "another account");
    }
    other.gate.line(&["audit session_end", "account=40@acme.test", "reason=freeze"]).await;
    let events = other.gate.events();
    assert!(events.contains("frozen by another member"), "{events}");
    // The thaw at the member that was not given the freeze.
    obeyed(&other, &["thaw", "account", "40@acme.test"]).await;
    until_frozen(&one, "account 40@acme.test", false).await;
    for member in [&one, &other] {
        assert!(log_in(member, &alice).await.is_some());
    }
}

#[tokio::test]
async fn orders_that_are_given_while_the_engine_is_away_reach_the_others_when_it_is_back() {
    let Some(mut engine) = Engine::start().await else { return };
    let [one, other] = two_members(&engine, Plan::default).await;
    let alice = one.app.log_in("alice");
    obeyed(&one, &["freeze", "account", "41@acme.test"]).await;
    until_frozen(&other, "account 41@acme.test", true).await;
    let mut hers = {
        let session = log_in(&other, &alice).await.unwrap();
        socket(&other.gate, &session).await.unwrap()
    };
    engine.kill();
    for member in [&one, &other] {
        until_missed(member).await;
    }
    pending(&one, &["freeze", "account", "40@acme.test"]).await;
    pending(&one, &["thaw", "account", "41@acme.test"]).await;
    assert_eq!(log_in(&one, &alice).await, None, "it holds at once where it was ordered");
    assert!(freezes(&other).contains("41@acme.test"), "the freeze holds without the engine");
    engine.restart().await;
    ends(&mut hers).await;
    until_frozen(&other, "account 41@acme.test", false).await;
    assert_eq!(log_in(&other, &alice).await, None);
}

#[tokio::test]
async fn a_member_with_another_key_file_says_so_and_decides_alone() {
    let Some(engine) = Engine::start().await else { return };
    let [one, _] = two_members(&engine, Plan::default).await;
    secret(&engine.folder, "other.keys", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\n");
    let shared =
        engine.shared("deadline = \"5s\"\n[state]\nfile = \"callgate.state\"").replace("ring.keys", "other.keys");
    let wrong = Plan { more: &shared, ..Plan::default() }.start().await;
    wrong.gate.logins.are_not_explained();
    until("it says so", || readiness(&wrong).contains("shared: other members have other `keys`")).await;
    assert!(readiness(&one).contains("shared: ok"));
    pending(&wrong, &["freeze", "account", "40@acme.test"]).await;
    assert!(log_in(&wrong, &wrong.app.log_in("alice")).await.is_none());
    assert!(log_in(&one, &one.app.log_in("alice")).await.is_some());
}

#[tokio::test]
async fn an_engine_that_starts_empty_loses_no_freeze() {
    let Some(mut engine) = Engine::start().await else { return };
    let [one, other] = two_members(&engine, Plan::default).await;
    obeyed(&one, &["freeze", "account", "40@acme.test"]).await;
    obeyed(&other, &["freeze", "domain", "other.test"]).await;
    until_frozen(&one, "domain other.test", true).await;
    until_frozen(&other, "account 40@acme.test", true).await;
    engine.restart().await;
    until("both are in the engine again", || engine.tell(&["HLEN", "callgate:freezes"]).trim() == "2").await;
    for member in [&one, &other] {
        reached(member).await;
        assert!(freezes(member).contains("40@acme.test") && freezes(member).contains("other.test"));
    }
    // A member that knows nothing learns all.
    let shared = engine.shared("deadline = \"5s\"");
    let late = Plan { more: &shared, ..Plan::default() }.start().await;
    until_frozen(&late, "account 40@acme.test", true).await;
    until_frozen(&late, "domain other.test", true).await;
    assert_eq!(log_in(&late, &late.app.log_in("alice")).await, None);
    let held: String = engine.tell(&["--no-raw", "HGETALL", "callgate:freezes"]);
    for name in ["acme", "other", "40@"] {
        assert!(!held.contains(name), "{held}");
    }
}

#[tokio::test]
async fn a_member_that_is_stopped_says_when_its_orders_are_known() {
    let Some(engine) = Engine::start().await else { return };
    let [one, other] = two_members(&engine, Plan::default).await;
    let state = one.gate.dir.path().join("callgate.state");
    let copy = tempfile::tempdir().unwrap();
    for name in ["fullchain.pem", "privkey.pem", "voximplant.htdigest", "ca.pem"] {
        fs::copy(one.gate.dir.path().join(name), copy.path().join(name)).unwrap();
    }
    assert!(state.exists());
    one.gate.file();
    let text_of = fs::read_to_string(one.gate.dir.path().join("proxy.toml")).unwrap();
    fs::write(copy.path().join("proxy.toml"), text_of).unwrap();
    drop(callgate::state::Store::open(&copy.path().join("callgate.state")).unwrap());
    let mut command = callgate(&["freeze", "account", "40@acme.test"]);
    command.env("PBX_ADMIN", "x").current_dir(copy.path());
    let output = run(command).await;
    assert_eq!(output.status.code(), Some(75), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stderr).contains("the other members learn of the freeze when it starts"));
    assert!(!freezes(&other).contains("40@acme.test"));
}
