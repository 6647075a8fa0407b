//! Several PBX nodes behind several members: what one member did at a node holds at the same node for all.

use serde_json::json;

use crate::kit::app::Whoami;
use crate::kit::client::Answer;
use crate::kit::engine::Engine;
use crate::kit::gate::Gate;
use crate::kit::nodes::{Nodes, NodesPlan};
use crate::kit::stage::until;
use crate::kit::visitor::Visitor;
use crate::kit::vodia::{Dialect, Vodia};
use crate::telephony::sessions::order;

const SHIELD: &str = "shield = { from = [\"127.0.0.7\"] }";

/// Starts two members before one app and two nodes. The first is that of the stage.
async fn two_members(engine: &Engine, plan: NodesPlan<'_>) -> (Nodes, Gate) {
    let shared = format!("{}\n{}", plan.more, engine.shared("deadline = \"5s\""));
    let nodes = NodesPlan { more: &shared, ..plan }.start().await;
    let other = Gate::start(&nodes.gate.text).await;
    for gate in [&nodes.gate, &other] {
        // An explanation would ask the app and the engine, too.
        gate.logins.are_not_explained();
        until("the engine is used", || gate.told("/readyz?verbose").contains("shared: ok")).await;
    }
    (nodes, other)
}

async fn log_in(nodes: &Nodes, gate: &Gate, tenant: &str) -> Answer {
    gate.get("/auth/pbx").cookie(&nodes.tenant(tenant).app.log_in("alice")).send().await
}

fn session(answer: &Answer) -> String {
    answer.header("location").split_once("sessId=").unwrap().1.to_owned()
}

fn has(pbx: &Vodia, id: &str) -> bool {
    pbx.sessions().iter().any(|one| one.id == id)
}

fn deletes(pbx: &Vodia) -> Vec<String> {
    let told = pbx.requests().into_iter().filter(|seen| seen.method == "DELETE");
    told.map(|seen| seen.header("cookie").unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_session_of_one_member_is_one_of_its_node_at_another() {
    let Some(engine) = Engine::start().await else { return };
    let plan = NodesPlan { north: SHIELD, south: SHIELD, ..NodesPlan::default() };
    let (nodes, other) = two_members(&engine, plan).await;
    let south = session(&log_in(&nodes, &nodes.gate, "other.test").await.expect(303));
    other.canary(&south);
    let land = |host: &str| other.get(&format!("/welcome.htm?sessId={south}")).host(host);
    land("pbx.test").send().await.expect(403);
    land("other.test").send().await.expect(200);
    let cookie = format!("session={south}");
    other.get("/a.htm").host("a.pbx.test").cookie(&cookie).send().await;
    other.line(&["target=\"/a.htm\"", "pbx=south", "account=40@other.test"]).await;
    other.get("/b.htm").host("pbx.test").cookie(&cookie).send().await;
    let line = other.line(&["target=\"/b.htm\"", "pbx=north"]).await;
    assert!(!line.contains("account="), "{line}");
}

/// A session is known by the `url` of its node.
#[tokio::test]
async fn a_member_that_writes_a_url_in_another_way_says_so() {
    let Some(engine) = Engine::start().await else { return };
    let plan = NodesPlan { south: SHIELD, ..NodesPlan::default() };
    let (nodes, mut other) = two_members(&engine, plan).await;
    let south = session(&log_in(&nodes, &nodes.gate, "other.test").await.expect(303));
    other.canary(&south);
    let (url, port) = (format!("http://{}", nodes.south.addr), nodes.south.addr.port());
    let text = other.text.replace(&url, &format!("http://localhost:{port}"));
    other.reload(&text).await.unwrap();
    let land = async || {
        other.get(&format!("/welcome.htm?sessId={south}")).host("other.test").send().await.expect(403);
        other.events().matches("do all members write that `url` alike?").count()
    };
    assert_eq!(land().await, 1, "{}", other.events());
    assert_eq!(land().await, 1, "it is said once");
    assert!(other.events().contains(&format!("pbx=\"{url}\"")), "{}", other.events());
}

#[tokio::test]
async fn an_end_at_one_member_is_told_to_the_node_of_the_session_once() {
    let Some(engine) = Engine::start().await else { return };
    let (nodes, other) = two_members(&engine, NodesPlan::default()).await;
    let north = session(&log_in(&nodes, &nodes.gate, "acme.test").await.expect(303));
    let south = session(&log_in(&nodes, &nodes.gate, "other.test").await.expect(303));
    let here = session(&log_in(&nodes, &other, "other.test").await.expect(303));
    for gate in [&nodes.gate, &other] {
        gate.canary(&south);
        gate.canary(&here);
    }
    // The order is given at the member that opened one of the three.
    assert_eq!(order(&other, "/sessions/end", &json!({ "domain": "other.test" })).0, 200);
    until("both ends", || !has(&nodes.south, &south) && !has(&nodes.south, &here)).await;
    assert!(has(&nodes.north, &north));
    assert_eq!(order(&other, "/sessions/end", &json!({ "all": true })).0, 200);
    until("the last end", || !has(&nodes.north, &north)).await;
    assert_eq!(deletes(&nodes.north), [format!("session={north}")]);
    let mut told = deletes(&nodes.south);
    told.sort_unstable();
    let mut expected = [south, here].map(|id| format!("session={id}"));
    expected.sort_unstable();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_ticket_of_one_member_opens_a_session_of_its_node_at_another() {
    let Some(engine) = Engine::start().await else { return };
    let plan = NodesPlan { dialects: [Dialect::A, Dialect::C], south: "handoff = \"cookie\"", ..NodesPlan::default() };
    let (nodes, other) = two_members(&engine, plan).await;
    nodes.tenant("other.test");
    let cookie = nodes.app.log_in("alice");
    let begun = nodes.gate.get("/auth/pbx").cookie(&cookie).send().await.expect(303);
    let ticket = begun.header("location").to_owned();
    assert!(ticket.starts_with("https://other.test/auth/callgate/ticket?t="), "{ticket}");
    let kept = begun.header("set-cookie").split(';').next().unwrap().to_owned();
    let mut visitor = Visitor::new(&other).has("app.test", &kept);
    let (end, _) = visitor.open(&ticket).await;
    assert_eq!((end.as_str(), nodes.minted()), ("https://other.test/thirdparty.htm", [0, 1]));
    let session = visitor.cookies[&("other.test".into(), "session".into())].trim_start_matches('!').to_owned();
    other.canary(&session);
    assert!(has(&nodes.south, &session));
    // Both members know it, and it works once.
    Visitor::new(&nodes.gate).has("app.test", &kept).open(&ticket).await.1.expect(403);
    assert_eq!(nodes.minted(), [0, 1]);
}

#[tokio::test]
async fn the_limits_of_a_node_and_freezes_hold_at_all_members() {
    let Some(engine) = Engine::start().await else { return };
    let plan = NodesPlan { north: "limits = { account = \"1/h\" }", ..NodesPlan::default() };
    let (nodes, other) = two_members(&engine, plan).await;
    let opened = log_in(&nodes, &nodes.gate, "acme.test").await.expect(303);
    other.canary(session(&opened));
    log_in(&nodes, &other, "acme.test").await.expect(429);
    let opened = log_in(&nodes, &other, "other.test").await.expect(303);
    nodes.gate.canary(session(&opened));
    assert_eq!(order(&nodes.gate, "/freeze", &json!({ "whom": "domain other.test" })).0, 200);
    until("the freeze at the other member", || !has(&nodes.south, &session(&opened))).await;
    nodes.app.set(|faults| faults.whoami = Whoami::Claims(json!({ "ext": "40", "tenant": "other.test" })));
    other.get("/auth/pbx").cookie(&nodes.app.log_in("alice")).send().await.expect(403);
    assert_eq!(nodes.minted(), [1, 1]);
}
