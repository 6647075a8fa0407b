//! A session that one member handed out is one at all of them, and so is its end.

use crate::kit::commands::text;
use crate::kit::engine::Engine;
use crate::kit::stage::{Plan, until};
use crate::members::freezes::{self, ends, log_in, obeyed, socket, two_members};
use crate::members::quotas::readiness;
use crate::telephony::sessions::order;

fn shielded() -> Plan<'static> {
    Plan { pbx: "shield = { from = [\"127.0.0.7\"] }", ..Plan::default() }
}

#[tokio::test]
async fn a_session_of_one_member_lands_at_another_under_the_shield() {
    let Some(engine) = Engine::start().await else { return };
    let [one, other] = two_members(&engine, shielded).await;
    let session = log_in(&one, &one.app.log_in("alice")).await.unwrap();
    other.gate.canary(&session);
    let landing = |session: &str| format!("/welcome.htm?sessId={session}");
    other.gate.get(&landing("g7lsrphhrkim1jkvbt88")).host("pbx.test").send().await.expect(403);
    other.gate.get(&landing(&session)).host("pbx.test").send().await.expect(200);
    // From now on its access lines say whose it is.
    other.gate.get("/").host("pbx.test").cookie(&format!("session={session}")).send().await.expect(200);
    other.gate.line(&["target=\"/\"", "account=40@acme.test"]).await;
}

#[tokio::test]
async fn a_request_at_another_member_has_its_account_from_the_second_one_on() {
    let Some(engine) = Engine::start().await else { return };
    let [one, other] = two_members(&engine, Plan::default).await;
    let session = log_in(&one, &one.app.log_in("alice")).await.unwrap();
    other.gate.canary(&session);
    let ask = async |path: &str| {
        other.gate.get(path).host("pbx.test").cookie(&format!("session={session}")).send().await.expect(404);
    };
    ask("/first").await;
    until("the member has learned it", || {
        let listed = order(&other.gate, "/sessions", &serde_json::json!({})).1.to_string();
        listed.contains("40@acme.test")
    })
    .await;
    ask("/second").await;
    other.gate.line(&["target=\"/second\"", "account=40@acme.test"]).await;
}

#[tokio::test]
async fn a_logout_at_one_member_ends_a_tunnel_of_another() {
    let Some(engine) = Engine::start().await else { return };
    let [one, other] = two_members(&engine, Plan::default).await;
    let (alice, bob) = (one.app.log_in("alice"), one.app.log_in("bob"));
    let mut hers = socket(&one.gate, &log_in(&one, &alice).await.unwrap()).await.unwrap();
    // One that the other member opened, in a tunnel here.
    let mut hers_too = socket(&one.gate, &log_in(&other, &alice).await.unwrap()).await.unwrap();
    let his = log_in(&one, &bob).await.unwrap();
    let _his = socket(&one.gate, &his).await.unwrap();
    let said = other.gate.post("/auth/pbx/logout", "application/x-www-form-urlencoded", "").cookie(&alice);
    said.header("origin", "https://app.test").send().await.expect(204);
    ends(&mut hers).await;
    ends(&mut hers_too).await;
    one.gate.line(&["audit session_end", "account=40@acme.test", "reason=logout"]).await;
    until("the PBX is told", || one.pbx.sessions().iter().all(|session| session.id == his)).await;
    let listed = order(&one.gate, "/sessions", &serde_json::json!({})).1.to_string();
    assert!(listed.contains("41@acme.test") && !listed.contains("40@acme.test"), "{listed}");
}

#[tokio::test]
async fn the_operator_ends_sessions_of_all_members() {
    let Some(mut engine) = Engine::start().await else { return };
    let [one, other] = two_members(&engine, Plan::default).await;
    let alice = one.app.log_in("alice");
    let mut hers = socket(&other.gate, &log_in(&one, &alice).await.unwrap()).await.unwrap();
    let mut hers_too = socket(&one.gate, &log_in(&one, &alice).await.unwrap()).await.unwrap();
    assert_eq!(order(&one.gate, "/sessions/end", &serde_json::json!({ "account": "40@acme.test" })).0, 200);
    ends(&mut hers).await;
    ends(&mut hers_too).await;
    // An order at the member that opened none.
    let mut hers = socket(&one.gate, &log_in(&one, &alice).await.unwrap()).await.unwrap();
    let output = freezes::order(&other, &["sessions", "end", "--all"]).await;
    let told = "the other members that use the shared engine end theirs, too\n";
    assert_eq!((output.status.code(), &*text(&output.stdout)), (Some(0), told), "{}", text(&output.stderr));
    ends(&mut hers).await;
    // A number is one of this member alone.
    let output = freezes::order(&other, &["sessions", "end", "4711"]).await;
    let told = "callgate: there is no such session: callgate sessions list\n";
    assert_eq!((output.status.code(), &*text(&output.stderr)), (Some(1), told));
    engine.kill();
    until("the engine is missed", || !readiness(&other).contains("shared: ok")).await;
    let output = freezes::order(&other, &["sessions", "end", "--all"]).await;
    assert_eq!(output.status.code(), Some(69), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("the other members keep theirs"));
}

#[tokio::test]
async fn a_session_that_another_member_ends_leaves_the_engine() {
    let Some(engine) = Engine::start().await else { return };
    let [one, other] = two_members(&engine, Plan::default).await;
    log_in(&one, &one.app.log_in("alice")).await.unwrap();
    let records = || engine.tell(&["KEYS", "callgate:session:*"]).trim().lines().count();
    assert_eq!(records(), 1);
    // The member that is given the order does not know the session.
    order(&other.gate, "/sessions/end", &serde_json::json!({ "all": true }));
    until("no record is left", || records() == 0).await;
}

#[tokio::test]
async fn a_freeze_stops_requests_with_a_session_of_another_member() {
    let Some(engine) = Engine::start().await else { return };
    let [one, other] = two_members(&engine, Plan::default).await;
    let session = log_in(&one, &one.app.log_in("alice")).await.unwrap();
    other.gate.canary(&session);
    let ask = || other.gate.get("/rest/user").host("pbx.test").cookie(&format!("session={session}"));
    obeyed(&other, &["freeze", "account", "40@acme.test"]).await;
    // It is refused here, or by the PBX, where the member that opened it may have ended it by now.
    let status = ask().send().await.status.as_u16();
    assert!([401, 403].contains(&status), "{status}");
}

#[tokio::test]
async fn the_session_of_a_frozen_account_does_not_hide_behind_others() {
    let Some(engine) = Engine::start().await else { return };
    let [_one, other] = two_members(&engine, Plan::default).await;
    obeyed(&other, &["freeze", "account", "41@acme.test"]).await;
    let ask = |query: &str| other.gate.get(&format!("/rest/user?{query}")).host("pbx.test");
    // The PBX itself refuses these: the engine is asked for as many sessions as a browser may show.
    ask("session=1&session=2").send().await.expect(401);
    ask("session=1&session=2&session=3&session=4&session=5").send().await.expect(403);
}
