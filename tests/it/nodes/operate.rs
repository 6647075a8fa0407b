//! Several PBX nodes: faults of one leave the others alone, limits count apart, and a reload adds and removes nodes.

use serde_json::{Value, json};

use crate::kit::client::Answer;
use crate::kit::commands::{callgate, run, text};
use crate::kit::nodes::{Nodes, NodesPlan};
use crate::kit::stage::until;
use crate::telephony::sessions::order;

async fn open(nodes: &Nodes, tenant: &str) -> Answer {
    nodes.tenant(tenant).gate.get("/auth/pbx").cookie(&nodes.app.log_in("alice")).send().await
}

fn session(answer: &Answer) -> String {
    answer.header("location").split_once("sessId=").unwrap().1.to_owned()
}

/// Returns the problems of the parts that are not ready.
fn unready(nodes: &Nodes) -> Vec<String> {
    let told = nodes.gate.told("/status");
    let status: Value = serde_json::from_str(told.split_once("\r\n\r\n").unwrap().1).unwrap();
    let parts = status["parts"].as_array().unwrap().iter().filter(|part| part["ready"] == false);
    parts.map(|part| part["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_refused_administrator_stops_the_logins_of_its_node_alone() {
    let nodes = Nodes::new().await;
    nodes.north.set(|faults| faults.refuse_after = Some(0));
    let refused = open(&nodes, "acme.test").await.expect(503);
    assert_eq!(refused.json()["error"], "pbx_credentials_refused");
    open(&nodes, "acme.test").await.expect(503);
    assert_eq!(nodes.minted(), [1, 0], "it is not asked again");
    open(&nodes, "other.test").await.expect(303);
    assert_eq!(nodes.minted(), [1, 1]);
    assert_eq!(unready(&nodes), ["breaker/north"]);
    assert!(nodes.gate.told("/readyz").starts_with("HTTP/1.1 200"), "it serves the other node");
    assert!(nodes.gate.events().contains("pbx=\"north\""), "{}", nodes.gate.events());
    assert!(nodes.gate.told("/readyz?verbose").contains("breaker/north: the PBX refused"));
    assert!(nodes.gate.told("/metrics").contains("callgate_ready{part=\"breaker/north\"} 0\n"));
}

#[tokio::test]
async fn a_node_that_is_away_leaves_the_others() {
    let nodes = Nodes::new().await;
    let north = session(&open(&nodes, "acme.test").await.expect(303));
    let south = session(&open(&nodes, "other.test").await.expect(303));
    nodes.north.set(|faults| faults.refuse_connections = true);
    nodes.gate.get("/a.htm").host("acme.test").send().await.expect(502);
    open(&nodes, "acme.test").await.expect(502);
    open(&nodes, "other.test").await.expect(303);
    nodes.gate.get("/welcome.htm").host("other.test").send().await.expect(200);
    // The ends of sessions, too, wait for their own node alone.
    assert_eq!(order(&nodes.gate, "/sessions/end", &json!({ "all": true })).0, 200);
    let has = |pbx: &crate::kit::vodia::Vodia, id: &str| pbx.sessions().iter().any(|one| one.id == id);
    until("the end of a session", || !has(&nodes.south, &south)).await;
    assert!(has(&nodes.north, &north));
    nodes.north.set(|faults| faults.refuse_connections = false);
    until("the end of a session", || !has(&nodes.north, &north)).await;
}

#[tokio::test]
async fn limits_of_a_node_count_apart() {
    let plan = NodesPlan {
        north: "limits = { account = \"1/h\", pbx_logins = \"2/h\" }",
        limits: "account = \"3/h\"\npbx_logins = \"3/h\"\n",
        ..NodesPlan::default()
    };
    let nodes = plan.start().await;
    let mut answered = Vec::new();
    for tenant in ["acme.test", "acme.test", "other.test", "other.test", "other.test", "other.test"] {
        answered.push(open(&nodes, tenant).await.status.as_u16());
    }
    assert_eq!(answered, [303, 429, 303, 303, 303, 429]);
    let mut answered = Vec::new();
    for host in ["pbx.test", "other.test"] {
        for _ in 0..4 {
            let login = nodes.gate.post("/rest/system/session", "application/json", "{\"name\":\"auth\"}").host(host);
            answered.push(login.send().await.status.as_u16() == 429);
        }
    }
    assert_eq!(answered, [false, false, true, true, false, false, false, true]);
    let report = run(callgate(&["limits", "report", "--config", &nodes.gate.file()])).await;
    let told = text(&report.stdout);
    let told: Vec<_> = told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for start in ["account 3/h ", "pbx_logins 3/h ", "account of north 1/h ", "pbx_logins of north 2/h "] {
        assert!(told.iter().any(|line| line.starts_with(start)), "{told:#?}");
    }
}

/// A credential that one PBX has accepted is no better at another.
#[tokio::test]
async fn a_credential_that_one_node_accepts_counts_at_another() {
    let nodes = NodesPlan { limits: "pbx_logins = \"2/h\"\n", ..NodesPlan::default() }.start().await;
    let ask = async |host: &str| {
        let asking = nodes.gate.get("/welcome.htm").host(host).header("authorization", "Basic NDA6YWxpY2U=");
        asking.send().await.status.as_u16()
    };
    assert_eq!([ask("pbx.test").await, ask("pbx.test").await, ask("pbx.test").await], [200; 3], "it counts once");
    assert_eq!([ask("other.test").await, ask("other.test").await], [200; 2], "and once here");
    let asking = nodes.gate.get("/welcome.htm").host("pbx.test").header("authorization", "Basic NDE6Ym9i");
    asking.send().await.expect(429);
}

#[tokio::test]
async fn a_reload_adds_and_removes_a_node() {
    let plan = NodesPlan::default();
    let mut nodes = Nodes::new().await;
    let both = nodes.gate.text.clone();
    let south = both.find("[[pbx]]\nname = \"south\"").unwrap();
    let rules = both.find("[[allow]]").unwrap();
    let one =
        format!("{}{}", &both[..south], &both[rules..]).replace("name = \"north\"\n", "").replace("[[pbx]]", "[pbx]");
    let north = session(&open(&nodes, "acme.test").await.expect(303));
    let second = session(&open(&nodes, "other.test").await.expect(303));

    nodes.gate.reload(&one).await.unwrap();
    nodes.gate.get("/a.htm").host("other.test").send().await.expect(421);
    // One PBX has all tenants, and does not know this one.
    open(&nodes, "other.test").await.expect(403);
    open(&nodes, "acme.test").await.expect(303);
    assert_eq!(order(&nodes.gate, "/sessions/end", &json!({ "all": true })).0, 200);
    let has = |pbx: &crate::kit::vodia::Vodia, id: &str| pbx.sessions().iter().any(|one| one.id == id);
    until("the end of a session", || !has(&nodes.north, &north)).await;
    assert!(
        nodes.gate.events().contains("no [[pbx]] has the `url` of a PBX that opened sessions"),
        "{}",
        nodes.gate.events()
    );
    // No other PBX is told of the session of a node that is gone.
    let told = nodes.north.requests().into_iter().filter(|seen| seen.method == "DELETE");
    assert!(told.map(|seen| seen.header("cookie").unwrap().to_owned()).all(|cookie| !cookie.contains(&second)));
    assert!(has(&nodes.south, &second));

    // It is told when it is back.
    nodes.gate.reload(&both).await.unwrap();
    until("the end of a session", || !has(&nodes.south, &second)).await;
    open(&nodes, "other.test").await.expect(303);
    assert!(unready(&nodes).is_empty());
    let text = plan.text(&nodes.app, &nodes.north, &nodes.south);
    assert_eq!(text, both);
}

/// A PBX may get another address: it is known by the old one for as long as that is written beside the new one.
#[tokio::test]
async fn a_session_ends_at_its_pbx_while_its_old_url_is_written() {
    let mut nodes = Nodes::new().await;
    let south = session(&open(&nodes, "other.test").await.expect(303));
    let before = nodes.gate.text.clone();
    let port = nodes.south.addr.port();
    let old = format!("url = \"http://127.0.0.1:{port}\"");
    let at = |url: &str| before.replace(&old, &format!("url = {url}\ninsecure_admin_over_http = true"));
    nodes.gate.reload(&at(&format!("\"http://localhost:{port}\""))).await.unwrap();
    let event = format!("pbx=\"http://127.0.0.1:{port}\" sessions=1");
    until("the event", || nodes.gate.events().contains(&event)).await;
    assert_eq!(order(&nodes.gate, "/sessions/end", &json!({ "domain": "other.test" })).0, 200);
    open(&nodes, "other.test").await.expect(303);
    assert!(nodes.south.sessions().iter().any(|one| one.id == south));
    nodes.gate.reload(&at(&format!("[\"http://localhost:{port}\", \"http://127.0.0.1:{port}\"]"))).await.unwrap();
    until("the end of a session", || nodes.south.sessions().iter().all(|one| one.id != south)).await;
}

/// Names and hosts may go to another PBX: the session stays where it is.
#[tokio::test]
async fn a_session_ends_at_its_pbx_whatever_a_reload_calls_it() {
    let mut nodes = Nodes::new().await;
    let ids = [("acme.test", "north"), ("other.test", "south")];
    let north = session(&open(&nodes, ids[0].0).await.expect(303));
    let south = session(&open(&nodes, ids[1].0).await.expect(303));
    let swap = |text: &str, one: &str, two: &str| text.replace(one, "\0").replace(two, one).replace('\0', two);
    let renamed = swap(&nodes.gate.text, "name = \"north\"", "name = \"south\"");
    let moved = swap(&renamed, "[\"acme.test\", \"pbx.test\"]", "[\"other.test\", \"*.pbx.test\"]");
    nodes.gate.reload(&moved).await.unwrap();
    assert_eq!(order(&nodes.gate, "/sessions/end", &json!({ "all": true })).0, 200);
    for (pbx, id) in [(&nodes.north, &north), (&nodes.south, &south)] {
        until("the end of a session", || pbx.sessions().iter().all(|one| one.id != *id)).await;
        let told = pbx.requests().into_iter().filter(|seen| seen.method == "DELETE");
        let cookies: Vec<_> = told.map(|seen| seen.header("cookie").unwrap().to_owned()).collect();
        assert_eq!(cookies, [format!("session={id}")]);
    }
}

#[tokio::test]
async fn commands_name_the_node() {
    let nodes = Nodes::new().await;
    let cookie = nodes.app.log_in("alice");
    nodes.tenant("other.test");
    let file = nodes.gate.file();
    let explain = ["explain", "--config", &file, "--cookie", &cookie];
    let mut command = callgate(&explain);
    command.env("PBX_ADMIN", crate::kit::vodia::Options::default().admin_password);
    let told = text(&run(command).await.stdout);
    assert!(told.contains("account 40@other.test, level user, at the PBX south, at other.test"), "{told}");
    open(&nodes, "other.test").await.expect(303);
    let told = text(&run(callgate(&["sessions", "list", "--config", &file])).await.stdout);
    assert!(told.contains(" at other.test of south since"), "{told}");
    let told = nodes.gate.told("/status");
    assert!(told.contains("\"pbx\": \"north\"") && told.contains("\"pbx\": \"south\""), "{told}");
    nodes.south.set(|faults| faults.refuse_connections = true);
    let mut command = callgate(&["check", "--online", "--config", &file]);
    command.env("PBX_ADMIN", crate::kit::vodia::Options::default().admin_password);
    let told = text(&run(command).await.stdout);
    assert!(told.lines().any(|line| line.starts_with("FAIL     pbx south ")), "{told}");
}
