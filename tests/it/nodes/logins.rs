//! Several PBX nodes: each login ends at the node of its tenant, whatever host it begins at.

use http::Method;
use serde_json::json;

use crate::kit::app::Whoami;
use crate::kit::client::Answer;
use crate::kit::nodes::{Nodes, NodesPlan, SOUTH_ADMIN};
use crate::kit::stage::until;
use crate::kit::visitor::Visitor;
use crate::kit::vodia::Dialect;
use crate::telephony::socket::handshake;

const COOKIE: &str = "handoff = \"cookie\"";
const SESSION: &str = "/rest/system/session";

/// Opens a session by a link at a host, and returns the host of the landing page and the session.
async fn open(nodes: &Nodes, host: &str) -> (String, String) {
    let asking = nodes.gate.get("/auth/pbx").host(host).cookie(&nodes.app.log_in("alice"));
    landing(&asking.send().await.expect(303))
}

fn landing(answer: &Answer) -> (String, String) {
    let (host, rest) = answer.header("location").strip_prefix("https://").unwrap().split_once('/').unwrap();
    (host.to_owned(), rest.split_once("sessId=").unwrap().1.split('&').next().unwrap().to_owned())
}

fn has(pbx: &crate::kit::vodia::Vodia, session: &str) -> bool {
    pbx.sessions().iter().any(|one| one.id == session)
}

#[tokio::test]
async fn each_tenant_lands_at_its_node_with_its_administrator() {
    let nodes = Nodes::new().await;
    let (host, session) = open(nodes.tenant("acme.test"), "app.test").await;
    assert!(host == "acme.test" && has(&nodes.north, &session));
    let (host, session) = open(nodes.tenant("other.test"), "app.test").await;
    assert!(host == "other.test" && has(&nodes.south, &session));
    // A host of the other node names it, and the domain tells better.
    assert_eq!(open(nodes.tenant("other.test"), "pbx.test").await.0, "other.test");
    assert_eq!(open(nodes.tenant("acme.test"), "a.pbx.test").await.0, "acme.test");
    // At a host of its node the browser stays.
    assert_eq!(open(nodes.tenant("acme.test"), "pbx.test").await.0, "pbx.test");
    assert_eq!(open(nodes.tenant("other.test"), "a.pbx.test").await.0, "a.pbx.test");
    assert_eq!(nodes.minted(), [3, 3]);
    assert!(nodes.north.mints().iter().all(|mint| mint.basic.as_ref().unwrap().0 == "sso"));
    assert!(nodes.south.mints().iter().all(|mint| mint.basic.as_ref().unwrap().0 == SOUTH_ADMIN));
    for (node, account) in [("north", "40@acme.test"), ("south", "40@other.test")] {
        let account = format!("account={account}");
        nodes.gate.line(&["audit grant", &account, &format!("pbx={node}")]).await;
        nodes.gate.line(&["access", "target=\"/auth/pbx\"", &account, &format!("pbx={node}")]).await;
    }
}

#[tokio::test]
async fn a_tenant_of_no_node_is_at_that_of_the_host_or_nowhere() {
    let nodes = Nodes::new().await;
    nodes.tenant("third.test");
    let asking = || nodes.gate.get("/auth/pbx").cookie(&nodes.app.log_in("alice"));
    asking().send().await.expect(403);
    nodes.gate.line(&["audit refusal", "account=40@third.test", "neither `domains` nor `hosts`"]).await;
    assert!(nodes.gate.events().contains("add the domain of the account to `domains` of its [[pbx]]"));
    assert_eq!(nodes.minted(), [0, 0]);
    // The PBX does not know the tenant.
    asking().host("a.pbx.test").send().await.expect(403);
    assert_eq!(nodes.minted(), [0, 1]);
}

#[tokio::test]
async fn domains_tell_the_node_better_than_hosts() {
    let south = "domains = [\"acme.test\", \"*.south.test\"]";
    let nodes = NodesPlan { north: "domains = [\"*.test\"]", south, ..NodesPlan::default() }.start().await;
    for (tenant, expected) in [("acme.test", [0, 1]), ("a.south.test", [0, 2]), ("b.test", [1, 2])] {
        nodes.tenant(tenant);
        nodes.gate.get("/auth/pbx").cookie(&nodes.app.log_in("alice")).send().await;
        assert_eq!(nodes.minted(), expected, "{tenant}");
    }
}

/// Both nodes hand over in their own ways.
#[tokio::test]
async fn a_ticket_leads_to_the_node_of_its_login() {
    let plan = NodesPlan { dialects: [Dialect::A, Dialect::C], south: COOKIE, ..NodesPlan::default() };
    let nodes = plan.start().await;
    assert_eq!(open(nodes.tenant("acme.test"), "app.test").await.0, "acme.test");
    nodes.tenant("other.test");
    let mut visitor = Visitor::new(&nodes.gate).has("app.test", &nodes.app.log_in("alice"));
    let (end, _) = visitor.open("https://app.test/auth/pbx").await;
    assert_eq!((end.as_str(), nodes.minted()), ("https://other.test/thirdparty.htm", [1, 1]));
    assert!(has(&nodes.south, visitor.cookies[&("other.test".into(), "session".into())].trim_start_matches('!')));
    // From a host of the other node, too.
    let mut visitor = Visitor::new(&nodes.gate).has("pbx.test", &nodes.app.log_in("alice"));
    let (end, _) = visitor.open("https://pbx.test/auth/pbx").await;
    assert_eq!((end.as_str(), nodes.minted()), ("https://other.test/thirdparty.htm", [1, 2]));
    assert!(!visitor.cookies.contains_key(&("pbx.test".into(), "session".into())));
}

#[tokio::test]
async fn an_automatic_login_stays_at_the_node_of_its_page() {
    let auto = "auto = \"https://app.test\"";
    let nodes = NodesPlan { north: auto, south: auto, ..NodesPlan::default() }.start().await;
    for (tenant, host, minted) in [("acme.test", "pbx.test", [1, 0]), ("other.test", "other.test", [1, 1])] {
        nodes.tenant(tenant);
        let mut visitor = Visitor::new(&nodes.gate).has("app.test", &nodes.app.log_in("alice"));
        let bookmark = format!("https://{host}/usr_index.htm?view=calls");
        assert_eq!(visitor.open(&bookmark).await.0, bookmark, "{:#?}", visitor.asked);
        assert_eq!(nodes.minted(), minted);
    }
    // A person of another node gets the page's own login form.
    nodes.tenant("acme.test");
    let mut visitor = Visitor::new(&nodes.gate).has("app.test", &nodes.app.log_in("alice"));
    let (end, _) = visitor.open("https://other.test/usr_index.htm").await;
    assert!(end.starts_with("https://other.test/usr_index.htm?"), "{end}");
    assert_eq!(nodes.minted(), [1, 1]);
    nodes.gate.line(&["audit refusal", "account=40@acme.test", "pbx=north", "at another [[pbx]]"]).await;
}

#[tokio::test]
async fn a_redirect_of_the_app_is_led_to_the_node_of_the_account() {
    let plan = NodesPlan { dialects: [Dialect::A, Dialect::C], south: COOKIE, ..NodesPlan::default() };
    let nodes = plan.start().await;
    let grant = |to: &str, domain: &str| {
        let query = [("to", to), ("account", "40"), ("domain", domain)];
        format!("/grant?{}", form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish())
    };
    // As the app names it.
    let answer = nodes.gate.get(&grant("https://pbx.test/welcome.htm?a=1", "acme.test")).send().await.expect(302);
    assert_eq!(landing(&answer).0, "pbx.test");
    assert!(answer.header("location").starts_with("https://pbx.test/welcome.htm?a=1&sessId="));
    // The app names no host, or one of the other node.
    for to in ["/welcome.htm?a=1", "https://a.pbx.test/welcome.htm?a=1#x"] {
        let answer = nodes.gate.get(&grant(to, "acme.test")).send().await.expect(302);
        assert!(answer.header("location").starts_with("https://acme.test/welcome.htm?a=1&sessId="), "{answer:?}");
    }
    for to in ["/welcome.htm", "https://pbx.test/welcome.htm", "https://other.test/thirdparty.htm"] {
        let answer = nodes.gate.get(&grant(to, "other.test")).send().await.expect(302);
        assert!(answer.header("location").starts_with("https://other.test/auth/callgate/ticket?t="), "{answer:?}");
    }
    assert_eq!(nodes.minted(), [3, 0]);
    // A page of another node is no landing page of this one.
    let answer = nodes.gate.get(&grant("https://pbx.test/thirdparty.htm", "acme.test")).send().await.expect(302);
    assert!(!answer.header("location").contains("sessId"), "{answer:?}");
}

#[tokio::test]
async fn a_page_opens_the_socket_of_its_node() {
    let paths = NodesPlan {
        north: "socket = \"/auth/pbx/socket\"",
        south: "socket = \"/south/socket\"\naliases = [\"/sso.php\"]",
        ..NodesPlan::default()
    };
    let nodes = paths.start().await;
    // An explanation is of a link, which leads to the right node.
    nodes.gate.logins.are_not_explained();
    let ask = async |host: &str, path: &str| {
        let asking = handshake(nodes.gate.get(path).host(host).cookie(&nodes.app.log_in("alice")));
        asking.header("origin", &format!("https://{host}")).send().await.status.as_u16()
    };
    nodes.tenant("acme.test");
    assert_eq!(ask("app.test", "/auth/pbx/socket").await, 101);
    assert_eq!(ask("app.test", "/south/socket").await, 403);
    nodes.gate.line(&["audit refusal", "pbx=north", "another `socket`"]).await;
    nodes.tenant("other.test");
    assert_eq!(ask("app.test", "/south/socket").await, 101);
    // At a host of a node its own paths count, and a session of another node is not opened from there.
    assert_eq!(ask("pbx.test", "/auth/pbx/socket").await, 403);
    assert_eq!(ask("a.pbx.test", "/auth/pbx/socket").await, 404);
    let sockets = |pbx: &crate::kit::vodia::Vodia| {
        pbx.requests().iter().filter(|seen| seen.target.starts_with("/websocket")).count()
    };
    assert_eq!((sockets(&nodes.north), sockets(&nodes.south)), (1, 1));
    let old = |host: &str| nodes.gate.get("/sso.php").host(host).cookie(&nodes.app.log_in("alice"));
    old("app.test").send().await.expect(303);
    old("other.test").send().await.expect(303);
    old("pbx.test").send().await;
    assert!(nodes.paths()[0].contains(&"/sso.php".to_owned()), "at that host the path is the PBX's");
}

#[tokio::test]
async fn a_session_ends_at_the_node_that_opened_it() {
    let nodes = Nodes::new().await;
    let (_, north) = open(nodes.tenant("acme.test"), "app.test").await;
    let (_, south) = open(nodes.tenant("other.test"), "app.test").await;
    let listed = crate::telephony::sessions::order(&nodes.gate, "/sessions", &json!({})).1;
    let of: Vec<_> = listed.as_array().unwrap().iter().map(|one| one["pbx"].as_str().unwrap()).collect();
    assert_eq!(of, ["north", "south"]);
    let end =
        |domain: &str| crate::telephony::sessions::order(&nodes.gate, "/sessions/end", &json!({ "domain": domain }));
    assert_eq!(end("other.test").0, 200);
    until("the end of a session", || !has(&nodes.south, &south)).await;
    assert!(has(&nodes.north, &north));
    assert_eq!(end("acme.test").0, 200);
    until("the end of a session", || !has(&nodes.north, &north)).await;
    let deletes = |pbx: &crate::kit::vodia::Vodia| {
        let cookies = pbx.requests().into_iter().filter(|seen| seen.method == Method::DELETE && seen.target == SESSION);
        cookies.map(|seen| seen.header("cookie").unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(deletes(&nodes.north), [format!("session={north}")]);
    assert_eq!(deletes(&nodes.south), [format!("session={south}")]);
}

#[tokio::test]
async fn a_logout_ends_the_sessions_at_all_nodes() {
    let nodes = Nodes::new().await;
    let cookie = nodes.app.log_in("alice");
    let mut opened = Vec::new();
    for tenant in ["acme.test", "other.test"] {
        nodes.app.set(|faults| faults.whoami = Whoami::Claims(json!({ "ext": "40", "tenant": tenant })));
        opened.push(landing(&nodes.gate.get("/auth/pbx").cookie(&cookie).send().await.expect(303)).1);
    }
    let logout = nodes.gate.post("/auth/pbx/logout", "application/json", "{}").cookie(&cookie);
    logout.header("origin", "https://app.test").header("accept", "application/json").send().await.expect(200);
    assert!(!has(&nodes.north, &opened[0]) && !has(&nodes.south, &opened[1]));
    // On a node's own host the browser shows the cookie of that host alone.
    let mut opened = Vec::new();
    for tenant in ["acme.test", "other.test"] {
        nodes.app.set(|faults| faults.whoami = Whoami::Claims(json!({ "ext": "40", "tenant": tenant })));
        opened.push(landing(&nodes.gate.get("/auth/pbx").cookie(&cookie).send().await.expect(303)).1);
    }
    let logout = nodes.gate.post("/auth/pbx/logout", "application/json", "{}").host("acme.test");
    let logout = logout.cookie(&format!("session={}", opened[0])).header("origin", "https://acme.test");
    logout.header("accept", "application/json").send().await.expect(200);
    assert!(!has(&nodes.north, &opened[0]) && has(&nodes.south, &opened[1]));
}
