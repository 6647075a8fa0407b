//! Several PBX nodes: what belongs to one of them is worth nothing at another.

use http::Method;
use serde_json::json;

use crate::kit::app::Whoami;
use crate::kit::nodes::{Nodes, NodesPlan, SOUTH_ADMIN};
use crate::kit::visitor::Visitor;
use crate::kit::vodia::Dialect;

const SHIELD: &str = "shield = { from = [\"127.0.0.7\"] }";
const SESSION: &str = "/rest/system/session";

/// Opens a session at a node's own host, and returns its id.
async fn open(nodes: &Nodes, tenant: &str) -> String {
    let asking = nodes.tenant(tenant).gate.get("/auth/pbx").cookie(&nodes.app.log_in("alice"));
    asking.send().await.expect(303).header("location").split_once("sessId=").unwrap().1.to_owned()
}

#[tokio::test]
async fn a_page_of_one_node_gets_no_session_of_another() {
    let nodes = Nodes::new().await;
    nodes.tenant("acme.test");
    for accept in ["application/json", "application/vnd.callgate+json"] {
        let post = |host: &str| {
            let asking = nodes.gate.post("/auth/pbx", "application/json", "{}").host(host);
            asking
                .cookie(&nodes.app.log_in("alice"))
                .header("accept", accept)
                .header("origin", &format!("https://{host}"))
        };
        assert_eq!(post("other.test").send().await.expect(403).json()["error"], "forbidden");
        nodes.gate.line(&["audit refusal", "account=40@acme.test", "pbx=north", "at another [[pbx]]"]).await;
        assert_eq!(nodes.minted()[1], 0);
        post("acme.test").send().await.expect(200);
        post("app.test").send().await.expect(200);
    }
    assert_eq!(nodes.minted(), [4, 0]);
}

#[tokio::test]
async fn an_origin_may_ask_at_the_nodes_that_list_it() {
    let plan = NodesPlan {
        north: "origins = [\"https://north.example\"]",
        south: "origins = [\"https://south.example\"]",
        ..NodesPlan::default()
    };
    let nodes = plan.start().await;
    nodes.tenant("acme.test");
    let post = |origin: &str| {
        let asking = nodes.gate.post("/auth/pbx", "application/json", "{}").cookie(&nodes.app.log_in("alice"));
        asking.header("origin", origin).header("sec-fetch-site", "cross-site").header("sec-fetch-mode", "cors")
    };
    let answer = post("https://north.example").send().await.expect(200);
    assert_eq!(answer.header("access-control-allow-origin"), "https://north.example");
    post("https://south.example").send().await.expect(403);
    nodes.gate.line(&["audit refusal", "pbx=north", "does not list the origin"]).await;
    post("https://third.example").send().await.expect(403);
    assert_eq!(nodes.minted(), [1, 0]);
    nodes.tenant("other.test");
    post("https://south.example").send().await.expect(200);
    assert_eq!(nodes.minted(), [1, 1]);
}

#[tokio::test]
async fn each_node_has_its_shield() {
    let nodes = NodesPlan { south: SHIELD, ..NodesPlan::default() }.start().await;
    let north = open(&nodes, "acme.test").await;
    let south = open(&nodes, "other.test").await;
    let land = |host: &str, session: &str| nodes.gate.get(&format!("/welcome.htm?sessId={session}")).host(host);
    // A session of the other node is foreign at this one.
    assert_eq!(land("other.test", &north).send().await.expect(403).json()["error"], "blocked");
    nodes.gate.line(&["audit refusal", "act=pbx_bypass", "pbx=south"]).await;
    land("other.test", &south).send().await.expect(200);
    land("a.pbx.test", &south).send().await.expect(200);
    // Without a shield, the PBX decides.
    land("pbx.test", &south).send().await.expect(200);
    let third = |host: &str, user: &str| {
        let body = format!("{{\"name\":\"3rd\",\"username\":\"{user}\",\"domain\":\"other.test\"}}");
        nodes.gate.post(SESSION, "application/json", body).host(host)
    };
    third("other.test", "41").send().await.expect(403);
    assert_eq!(nodes.minted(), [1, 1]);
    third("pbx.test", "41").send().await;
    assert_eq!(nodes.minted(), [2, 1], "it reaches the node that has no shield");
}

#[tokio::test]
async fn requests_pass_through_by_host() {
    let nodes = Nodes::new().await;
    for host in ["acme.test", "pbx.test", "other.test", "a.pbx.test"] {
        nodes.gate.get(&format!("/of/{host}")).host(host).send().await;
    }
    nodes.gate.get("/of/other.test/again").host("other.test").h2().send().await;
    let [north, south] = nodes.paths();
    assert_eq!(north, ["/of/acme.test", "/of/pbx.test"]);
    assert_eq!(south, ["/of/other.test", "/of/a.pbx.test", "/of/other.test/again"]);
    nodes.gate.line(&["access", "target=\"/of/acme.test\"", "upstream=pbx", "pbx=north"]).await;
    nodes.gate.line(&["access", "target=\"/of/a.pbx.test\"", "upstream=pbx", "pbx=south"]).await;
    nodes.gate.get("/of/nowhere").host("any.app.test").send().await.expect(421);
}

#[tokio::test]
async fn a_session_is_no_ones_account_at_another_node() {
    let nodes = Nodes::new().await;
    let north = open(&nodes, "acme.test").await;
    let cookie = format!("session={north}");
    nodes.gate.get("/a.htm").host("acme.test").cookie(&cookie).send().await;
    nodes.gate.line(&["target=\"/a.htm\"", "pbx=north", "account=40@acme.test"]).await;
    nodes.gate.get("/b.htm").host("other.test").cookie(&cookie).send().await;
    let line = nodes.gate.line(&["target=\"/b.htm\"", "pbx=south"]).await;
    assert!(!line.contains("account="), "{line}");
    // The other node's word ends no session of this one.
    nodes.gate.ask(Method::DELETE, SESSION).host("other.test").cookie(&cookie).send().await;
    nodes.gate.get("/c.htm").host("acme.test").cookie(&cookie).send().await;
    nodes.gate.line(&["target=\"/c.htm\"", "pbx=north", "account=40@acme.test"]).await;
}

/// A legacy PBX would open a session of the tenant's administrator instead.
#[tokio::test]
async fn no_administrator_of_the_system_is_asked_for_at_a_legacy_node() {
    let rules = "[[allow]]\nauth = \"app\"\npbx = { domain = \"{tenant}\", level = \"admin\" }\n";
    let plan =
        NodesPlan { dialects: [Dialect::A, Dialect::C], south: "handoff = \"cookie\"", rules, ..NodesPlan::default() };
    let nodes = plan.start().await;
    let ask = async |tenant: &str| {
        nodes.tenant(tenant).gate.get("/auth/pbx").cookie(&nodes.app.log_in("alice")).send().await.status.as_u16()
    };
    assert_eq!(ask("acme.test").await, 403);
    nodes.gate.line(&["audit refusal", "pbx=north", "legacy dialect"]).await;
    assert_eq!((ask("other.test").await, nodes.minted()), (303, [0, 0]));
}

#[tokio::test]
async fn a_path_that_the_node_of_a_host_lacks_is_not_at_another_node() {
    let plan = NodesPlan { south: "paths = [\"/usr\", \"/welcome.htm\"]", ..NodesPlan::default() };
    let mut nodes = plan.start().await;
    let wide = nodes.gate.text.replace("[\"acme.test\", \"pbx.test\"]", "[\"acme.test\", \"*.test\"]");
    nodes.gate.reload(&wide).await.unwrap();
    nodes.gate.get("/usr_index.htm").host("a.pbx.test").send().await;
    nodes.gate.get("/page.htm").host("a.pbx.test").send().await.expect(421);
    nodes.gate.get("/page.htm").host("pbx.test").send().await;
    assert_eq!(nodes.paths(), [vec!["/page.htm".to_owned()], vec!["/usr_index.htm".to_owned()]]);
}

#[tokio::test]
async fn no_host_chooses_the_node_of_an_administrator() {
    let rules = "[[allow]]\nauth = \"app\"\npbx = { domain = \"{tenant}\", level = \"domain\" }\n";
    let nodes = NodesPlan { rules, ..NodesPlan::default() }.start().await;
    nodes.tenant("third.test");
    for host in ["acme.test", "other.test", "app.test"] {
        let asking = nodes.gate.get("/auth/pbx").host(host).cookie(&nodes.app.log_in("alice"));
        asking.send().await.expect(403);
    }
    assert_eq!(nodes.minted(), [0, 0]);
}

#[tokio::test]
async fn a_logout_is_not_confirmed_where_it_ends_nothing() {
    let mut nodes = Nodes::new().await;
    let admin = nodes.gate.text.lines().find(|line| line.contains(SOUTH_ADMIN)).unwrap().to_owned();
    let without = nodes.gate.text.replace(&admin, "");
    nodes.gate.reload(&without).await.unwrap();
    for (host, status) in [("other.test", 404), ("acme.test", 200)] {
        let logout = nodes.gate.post("/auth/pbx/logout", "application/json", "{}").host(host);
        let origin = format!("https://{host}");
        let logout = logout.header("origin", &origin).header("accept", "application/json");
        logout.send().await.expect(status);
    }
}

/// A page that may not have a session uses up nothing of the account that it asks for.
#[tokio::test]
async fn a_refusal_at_the_node_spends_no_limit_of_the_account() {
    let plan = NodesPlan {
        north: "origins = [\"https://north.example\"]",
        south: "origins = [\"https://south.example\"]\nauto = \"https://app.test\"",
        limits: "account = \"1/h\"",
        ..NodesPlan::default()
    };
    let nodes = plan.start().await;
    nodes.tenant("acme.test");
    let post = async |host: &str, origin: &str| {
        let asking = nodes.gate.post("/auth/pbx", "application/json", "{}").host(host);
        let asking = asking.cookie(&nodes.app.log_in("alice")).header("origin", origin);
        let site = if origin.ends_with(host) { "same-origin" } else { "cross-site" };
        asking.header("sec-fetch-site", site).header("sec-fetch-mode", "cors").send().await.status.as_u16()
    };
    let begun = nodes.gate.get("/usr_index.htm").host("other.test").header("accept", "text/html").send().await;
    let back = begun.expect(303).header("location").split_once("state=").unwrap().1.to_owned();
    // The kit compares each of these answers with what `explain` says.
    let come_back = async || {
        let asking = nodes.gate.get(&format!("/auth/pbx?state={back}")).cookie(&nodes.app.log_in("alice"));
        asking.send().await.status.as_u16()
    };
    for round in ["before", "after"] {
        assert_eq!(post("app.test", "https://south.example").await, 403, "{round}: an origin of the other node");
        assert_eq!(post("other.test", "https://other.test").await, 403, "{round}: a page of the other node");
        assert_eq!(come_back().await, 403, "{round}: a page of the other node to come back to");
        if round == "before" {
            assert_eq!(post("app.test", "https://north.example").await, 200);
            assert_eq!(post("app.test", "https://north.example").await, 429);
        }
    }
    assert_eq!(nodes.minted(), [1, 0]);
}

/// The choice among accounts at several nodes.
const MANY: &str = "[[allow]]\nname = \"many\"\nauth = \"app\"\nchoose = \"ask\"\n\
    pbx = { domain = \"{tenants}\", account = \"40\" }\n";

#[tokio::test]
async fn a_page_learns_of_no_accounts_at_other_nodes() {
    let plan = NodesPlan {
        north: "origins = [\"https://north.example\"]",
        south: "origins = [\"https://south.example\"]",
        rules: MANY,
        ..NodesPlan::default()
    };
    let nodes = plan.start().await;
    let post = |host: &str, origin: &str| {
        let asking = nodes.gate.post("/auth/pbx", "application/json", "{}").host(host);
        let asking = asking.cookie(&nodes.app.log_in("alice")).header("origin", origin);
        let site = if origin.ends_with(host) { "same-origin" } else { "cross-site" };
        asking.header("sec-fetch-site", site).header("sec-fetch-mode", "cors")
    };
    let offered = |answer: crate::kit::client::Answer| {
        let choices = answer.json()["choices"].as_array().unwrap().clone();
        choices.iter().map(|one| one["domain"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let is_at = |tenants: &[&str]| {
        nodes.app.set(|faults| faults.whoami = Whoami::Claims(json!({ "tenants": tenants })));
    };
    is_at(&["acme.test", "pbx.test", "other.test"]);
    let north = ["acme.test", "pbx.test"];
    for (host, origin) in [("app.test", "https://north.example"), ("acme.test", "https://acme.test")] {
        assert_eq!(offered(post(host, origin).send().await.expect(300)), north, "{host} {origin}");
    }
    // One of the three is left, and no choice.
    for (host, origin) in [("app.test", "https://south.example"), ("other.test", "https://other.test")] {
        post(host, origin).send().await.expect(200);
        nodes.gate.line(&["audit grant", "account=40@other.test", "pbx=south"]).await;
    }
    assert_eq!(nodes.minted(), [0, 2]);
    let own = nodes.gate.post("/auth/pbx", "application/json", "{}").cookie(&nodes.app.log_in("alice"));
    let own = offered(own.header("origin", "https://app.test").send().await.expect(300));
    assert_eq!(own, ["acme.test", "pbx.test", "other.test"]);
    // None is left.
    is_at(&["other.test", "a.pbx.test"]);
    post("app.test", "https://north.example").send().await.expect(403);
    nodes.gate.line(&["audit refusal", "pbx=south", "does not list the origin"]).await;
    assert_eq!(nodes.minted(), [0, 2]);
}

/// A redirect of the app without a host may name the landing page of any node.
#[tokio::test]
async fn a_redirect_leads_to_the_landing_page_of_its_own_node() {
    let nodes = NodesPlan { south: "landing = \"/start.htm\"", ..NodesPlan::default() }.start().await;
    let grant = async |to: &str, domain: &str| {
        let query = [("to", to), ("account", "40"), ("domain", domain)];
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        nodes.gate.get(&format!("/grant?{query}")).send().await.expect(302).header("location").to_owned()
    };
    for to in ["/welcome.htm?a=1#x", "/start.htm?a=1#x", "../start.htm?sessId=old&a=1#x"] {
        for (domain, page) in [("acme.test", "acme.test/welcome.htm"), ("other.test", "other.test/start.htm")] {
            let location = grant(to, domain).await;
            assert!(location.starts_with(&format!("https://{page}?a=1&sessId=")), "{to}: {location}");
            assert!(location.ends_with("#x") && !location.contains("old"), "{to}: {location}");
        }
    }
    assert_eq!(nodes.minted(), [3, 3]);
}

/// Of a session of another node callgate believes nothing: neither that it is new, nor that it is over.
#[tokio::test]
async fn an_automatic_login_asks_the_node_of_its_page_about_a_session() {
    let auto = "auto = \"https://app.test\"";
    let nodes = NodesPlan { north: auto, south: auto, ..NodesPlan::default() }.start().await;
    nodes.tenant("acme.test");
    let mut visitor = Visitor::new(&nodes.gate).has("app.test", &nodes.app.log_in("alice"));
    visitor.open("https://pbx.test/usr_index.htm").await.1.expect(200);
    let arrival = visitor.asked.iter().find_map(|asked| asked.strip_prefix("https://pbx.test/auth/callgate/page?"));
    let arrival = format!("/auth/callgate/page?{}", arrival.unwrap());
    let south = open(&nodes, "other.test").await;
    let asked = || nodes.paths()[0].iter().filter(|path| *path == SESSION).count();
    let show = |path: &str| {
        let asking =
            nodes.gate.get(path).host("pbx.test").cookie(&format!("session={south}")).header("accept", "text/html");
        asking
            .header("sec-fetch-mode", "navigate")
            .header("sec-fetch-dest", "document")
            .header("sec-fetch-site", "none")
    };
    let before = asked();
    let answer = show(&arrival).send().await;
    assert!(!answer.status.is_redirection(), "a new session of another node is none here: {answer:?}");
    assert_eq!(asked(), before + 1);
    nodes.gate.ask(Method::DELETE, SESSION).host("other.test").cookie(&format!("session={south}")).send().await;
    // One that has ended at its node is unknown here, too. At another host of this node the answer is not remembered.
    nodes.gate.ask(Method::DELETE, SESSION).host("other.test").cookie(&format!("session={south}")).send().await;
    let led = show("/usr_index.htm").host("acme.test").send().await.expect(303);
    assert!(led.header("location").starts_with("https://app.test/auth/pbx?state="), "{led:?}");
    assert_eq!(asked(), before + 2);
}
