//! A trusted proxy that has logged the caller in (`type = "header"`): which fields count, and what the app receives.

use http::Method;
use serde_json::json;

use crate::kit::client::RequestBuilder;
use crate::kit::gate::{Gate, secret};
use crate::kit::stage::{Plan, STAFF, Stage};
use crate::kit::upstream::{RawUpstream, passed};

const FORM: &str = "application/x-www-form-urlencoded";
const SECRET: &str = "a-secret-of-the-proxy-0123456789";
/// The address of the proxy, and another one.
const PROXY: &str = "127.0.0.9";
const STRANGER: &str = "127.0.0.8";

/// The method with more keys of its own, and what each of its users may become.
fn rules(more: &str) -> String {
    format!(
        r#"
[[auth]]
type = "header"
name = "sso"
from = ["{PROXY}"]
user = "remote-user"
claims = {{ ext = "remote-ext", groups = {{ header = "remote-groups", separator = "," }} }}
{more}
[[allow]]
name = "by proxy"
auth = "sso"
pbx = {{ domain = "acme.test", account = "{{ext}}" }}
voximplant = "{{user}}"
{STAFF}"#
    )
}

async fn stage_with(more: &str) -> Stage {
    Plan { rules: &rules(more), ..Plan::default() }.start().await
}

fn by_proxy<'s>(stage: &'s Stage, path: &str) -> RequestBuilder<'s> {
    stage.gate.get(path).from(PROXY)
}

/// Asks as the proxy would for alice.
fn alice<'s>(stage: &'s Stage, path: &str) -> RequestBuilder<'s> {
    by_proxy(stage, path).header("remote-user", "alice").header("remote-ext", "40")
}

// === Logins ===

#[tokio::test]
async fn a_caller_logged_in_at_the_proxy_is_logged_in() {
    let stage = stage_with("").await;
    alice(&stage, "/auth/pbx").header("remote-groups", "staff, phone").send().await.expect(303);
    let token = stage.gate.post("/auth/ott", FORM, "key=k1").from(PROXY).header("remote-user", "alice");
    assert_eq!(token.send().await.expect(200).text().len(), 32);
    alice(&stage, "/auth/pbx").h2().send().await.expect(303);
    assert_eq!(stage.minted(), ["40@acme.test", "40@acme.test"]);
    let line = stage.gate.line(&["audit grant", "account=40@acme.test"]).await;
    assert!(line.contains("method=sso subject=alice"), "{line}");
    assert!(stage.app.requests().is_empty());
}

#[tokio::test]
async fn cve_2025_64484_a_client_that_is_not_the_proxy_is_no_caller_with_any_field() {
    let stage = stage_with("").await;
    for name in ["remote-user", "Remote_User", "REMOTE.USER", "REMOTE-USER"] {
        let asking = stage.gate.get("/auth/pbx").from(STRANGER).header(name, "alice").header("remote-ext", "40");
        asking.header("x-forwarded-for", PROXY).header("forwarded", "for=127.0.0.9").send().await.expect(401);
    }
    // It is no credential either: who has another is not turned away for it.
    stage.as_alice("/auth/pbx").from(STRANGER).header("remote-user", "bob").send().await.expect(303);
    assert_eq!(stage.minted(), ["40@acme.test"]);
}

#[tokio::test]
async fn a_field_with_a_similar_name_names_no_caller() {
    let stage = stage_with("").await;
    for name in ["remote_user", "remote.user", "remote-use", "remote-users", "x-remote-user", "remoteuser", "user"] {
        by_proxy(&stage, "/auth/pbx").header(name, "alice").header("remote-ext", "40").send().await.expect(401);
    }
    // Beside the field it changes nothing.
    let both = alice(&stage, "/auth/pbx").header("remote_user", "bob").header("Remote.Ext", "41");
    both.send().await.expect(303);
    assert_eq!(stage.minted(), ["40@acme.test"]);
}

#[tokio::test]
async fn only_one_clear_name_is_believed() {
    let stage = stage_with("").await;
    let users: [&[u8]; 9] = [
        b"alice,bob",
        b"alice, alice",
        b"alice\tbob",
        b"\xe4lice",
        "älice".as_bytes(),
        b"al\xc2\x85ice",
        b",",
        b"a,",
        b"\xff",
    ];
    for user in users {
        let mut request =
            b"GET /auth/pbx HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nRemote-Ext: 40\r\nRemote-User: "
                .to_vec();
        request.extend_from_slice(user);
        request.extend_from_slice(b"\r\n\r\n");
        let answer = raw_from(&stage.gate, PROXY, &request).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{user:?}: {answer}");
    }
    alice(&stage, "/auth/pbx").header("remote-user", "bob").send().await.expect(401);
    alice(&stage, "/auth/pbx").header("Remote-User", "alice").send().await.expect(401);
    alice(&stage, "/auth/pbx").header("remote-ext", "41").send().await.expect(401);
    alice(&stage, "/auth/pbx").header("remote-groups", "a").header("remote-groups", "b").send().await.expect(401);
    stage.gate.line(&["audit refusal", "method=sso", "remote-user has a comma in it"]).await;
    stage.gate.line(&["audit refusal", "method=sso", "remote-ext was sent twice"]).await;
    // No caller is logged in at the proxy.
    for user in ["", "(null)"] {
        by_proxy(&stage, "/auth/pbx").header("remote-user", user).header("remote-ext", "40").send().await.expect(401);
    }
    assert!(stage.minted().is_empty());
}

/// Sends bytes from an address of its own and returns all that comes back.
async fn raw_from(gate: &Gate, from: &str, bytes: &[u8]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((from.parse::<std::net::IpAddr>().unwrap(), 0).into()).unwrap();
    let mut tls = gate.tls(socket.connect(gate.addr).await.unwrap(), "app.test", "http/1.1").await.unwrap();
    tls.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = tls.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn no_field_of_the_proxy_makes_an_administrator() {
    let stage = stage_with("").await;
    for ext in ["admin", "ADMIN", "40@acme.test", "../40", "40/41", "{ext}", "40\"", "\\", "4 0", "*admin ", "é"] {
        let asking = by_proxy(&stage, "/auth/pbx").header("remote-user", "alice").header("remote-ext", ext);
        let status = asking.send().await.status.as_u16();
        // `*admin` is an account, and no administrator: the PBX knows none of that name.
        assert_eq!(status, 403, "{ext}");
    }
    // No extension, no rule.
    by_proxy(&stage, "/auth/pbx").header("remote-user", "alice").send().await.expect(403);
    by_proxy(&stage, "/auth/pbx").header("remote-user", "alice").header("remote-ext", "").send().await.expect(403);
    assert!(stage.pbx.sessions().is_empty());
    assert!(stage.minted().iter().all(|account| account == "*admin@acme.test"), "{:?}", stage.minted());
}

#[tokio::test]
async fn another_page_cannot_use_the_login_at_the_proxy() {
    let stage = stage_with("").await;
    let asking = |site: &str, mode: &str| {
        let asking = stage.gate.post("/auth/pbx", "application/json", "{}").from(PROXY).header("remote-user", "alice");
        asking.header("remote-ext", "40").header("sec-fetch-site", site).header("sec-fetch-mode", mode)
    };
    asking("cross-site", "cors").header("origin", "https://evil.test").send().await.expect(403);
    asking("same-site", "cors").header("origin", "https://sub.app.test").send().await.expect(403);
    asking("same-origin", "cors").header("origin", "https://app.test").send().await.expect(200);
    assert_eq!(stage.minted(), ["40@acme.test"]);
}

#[tokio::test]
async fn a_cookie_beside_it_is_a_second_credential_unless_cookies_are_ignored() {
    for (more, status) in [("", 401), ("ignore_cookies = false", 401), ("ignore_cookies = true", 303)] {
        let stage = stage_with(more).await;
        let cookie = stage.app.log_in("bob");
        alice(&stage, "/auth/pbx").cookie(&cookie).send().await.expect(status);
        let minted: &[&str] = if status == 303 { &["40@acme.test"] } else { &[] };
        assert_eq!(stage.minted(), minted, "{more}");
        // Alone each is what it is.
        by_proxy(&stage, "/auth/pbx").cookie(&cookie).send().await.expect(303);
        alice(&stage, "/auth/pbx").send().await.expect(303);
        // A refusal is not saved by a cookie.
        alice(&stage, "/auth/pbx").header("remote-user", "bob").cookie(&cookie).send().await.expect(401);
    }
}

#[tokio::test]
async fn the_redirect_of_an_app_is_given_the_session_of_who_is_logged_in_at_the_proxy() {
    let stage = stage_with("").await;
    let path = "/redirect?to=https%3A%2F%2Fpbx.test%2Fwelcome.htm";
    let location = alice(&stage, path).send().await.expect(302).header("location").to_owned();
    assert!(location.contains("sessId="), "{location}");
    let asking = stage.gate.get(path).from(STRANGER).header("remote-user", "alice").header("remote-ext", "40");
    assert_eq!(asking.send().await.expect(302).header("location"), "https://pbx.test/welcome.htm");
    assert_eq!(stage.minted(), ["40@acme.test"]);
}

// === The secret ===

async fn with_secret() -> Stage {
    let keys = tempfile::TempDir::new().unwrap();
    secret(&keys, "sso", SECRET);
    let file = keys.path().join("sso");
    let stage =
        stage_with(&format!("secret = {{ header = \"x-sso-secret\", value = {{ file = \"{}\" }} }}", file.display()))
            .await;
    stage.gate.canary(SECRET);
    stage
}

#[tokio::test]
async fn an_address_is_not_enough_where_the_proxy_has_a_secret() {
    let stage = with_secret().await;
    alice(&stage, "/auth/pbx").header("x-sso-secret", SECRET).send().await.expect(303);
    for wrong in ["", "a", &SECRET[1..], &format!("{SECRET}x"), &SECRET.to_uppercase()] {
        alice(&stage, "/auth/pbx").header("x-sso-secret", wrong).send().await.expect(401);
    }
    alice(&stage, "/auth/pbx").send().await.expect(401);
    alice(&stage, "/auth/pbx").header("x_sso_secret", SECRET).send().await.expect(401);
    alice(&stage, "/auth/pbx").header("x-sso-secret", SECRET).header("x-sso-secret", SECRET).send().await.expect(401);
    let asking = stage.gate.get("/auth/pbx").from(STRANGER).header("remote-user", "alice").header("remote-ext", "40");
    asking.header("x-sso-secret", SECRET).send().await.expect(401);
    stage.gate.line(&["audit refusal", "method=sso", "the secret of the proxy is missing or wrong"]).await;
    assert_eq!(stage.minted(), ["40@acme.test"]);
}

// === What goes on to the app ===

/// Returns the fields of the last request that the app heard, without those that every request has.
fn heard(upstream: &RawUpstream) -> Vec<String> {
    let seen = upstream.seen().pop().unwrap();
    let (_, fields, _) = passed(&seen);
    fields.into_iter().filter(|field| !field.starts_with("host: ") && !field.starts_with("accept: ")).collect()
}

async fn before(upstream: &RawUpstream, more: &str) -> Gate {
    let rules = rules(more).replace(STAFF, "").replace("pbx = ", "#").replace("name = \"by proxy\"", "name = \"vox\"");
    Gate::before_with(
        upstream.addr,
        "",
        &format!("[voximplant]\nusers = {{ file = \"voximplant.htdigest\" }}\n{rules}"),
    )
    .await
}

const SPELLINGS: [&str; 6] =
    ["remote-user", "remote_user", "remote.user", "Remote-Ext", "REMOTE_GROUPS", "remote-groups"];

#[tokio::test]
async fn cve_2026_30851_no_spelling_of_the_fields_goes_on_but_the_proxys_own() {
    let upstream = RawUpstream::ok().await;
    let gate = before(&upstream, "").await;
    for h2 in [false, true] {
        for from in [STRANGER, PROXY] {
            let mut asking = gate.get("/").from(from).header("x-other", "stays");
            for name in SPELLINGS {
                asking = asking.header(name, "evil");
            }
            if h2 { asking.h2() } else { asking }.send().await.expect(200);
            let mut expected = vec!["x-other: stays"];
            if from == PROXY {
                expected.splice(0..0, ["remote-ext: evil", "remote-groups: evil", "remote-user: evil"]);
            }
            assert_eq!(heard(&upstream), expected, "{from}");
        }
    }
    // A field that the proxy sends twice is not its own: it let a client's through.
    let twice = gate.get("/").from(PROXY).header("remote-user", "alice").header("remote-user", "bob");
    twice.header("remote-ext", "40").send().await.expect(200);
    assert_eq!(heard(&upstream), ["remote-ext: 40"]);
}

#[tokio::test]
async fn a_connection_line_takes_no_name_away() {
    let upstream = RawUpstream::ok().await;
    let gate = before(&upstream, "").await;
    for (named, status) in [("remote-user", 400), ("Remote_User", 400), ("close, REMOTE-EXT", 400), ("x-other", 200)] {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: {named}\r\nConnection: close\r\nRemote-User: alice\r\n\r\n"
        );
        let answer = raw_from(&gate, PROXY, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{named}: {answer}");
    }
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn trailers_name_no_caller() {
    let upstream = RawUpstream::ok().await;
    let gate = before(&upstream, "").await;
    let request = "POST / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
                   Trailer: remote-user, remote_ext, x-sum\r\n\r\n1\r\na\r\n0\r\nRemote-User: evil\r\nremote_ext: evil\r\nx-sum: 1\r\n\r\n";
    for from in [PROXY, STRANGER] {
        raw_from(&gate, from, request.as_bytes()).await;
        let seen = upstream.seen().pop().unwrap();
        assert!(seen.contains("x-sum: 1") && !seen.contains("evil"), "{seen}");
    }
}

#[tokio::test]
async fn the_secret_goes_no_further_and_without_it_nothing_does() {
    let stage = with_secret().await;
    async fn echo(asking: RequestBuilder<'_>) -> String {
        let asking = asking.header("x_sso_secret", "alias").header("remote-user", "alice").header("remote_user", "bob");
        asking.send().await.expect(200).json()["headers"].to_string()
    }
    let heard = echo(by_proxy(&stage, "/echo").header("x-sso-secret", SECRET)).await;
    assert!(heard.contains("alice") && !heard.contains("bob") && !heard.contains("sso"), "{heard}");
    for asking in [
        by_proxy(&stage, "/echo").header("x-sso-secret", "wrong"),
        by_proxy(&stage, "/echo"),
        stage.gate.get("/echo").from(STRANGER).header("x-sso-secret", SECRET),
    ] {
        let heard = echo(asking).await;
        assert!(!heard.contains("alice") && !heard.contains("bob") && !heard.contains("sso"), "{heard}");
    }
}

#[tokio::test]
async fn fields_of_oauth2_proxy_are_read_and_passed_on_and_removed_from_other_clients() {
    let rules = r#"
[[auth]]
type = "header"
from = ["127.0.0.9"]
user = "x-forwarded-user"
claims = { email = "x-forwarded-email" }
[[allow]]
auth = "header"
pbx = { domain = "{email|after:@}", account = "{email|before:@}" }
"#;
    let stage = Plan { app: "", rules, voximplant: "", ..Plan::default() }.start().await;
    let asking = |from: &str, path: &str| {
        let asking = stage.gate.get(path).from(from).header("x-forwarded-user", "alice");
        asking.header("x-forwarded-email", "40@acme.test").header("x_forwarded_email", "41@acme.test")
    };
    asking(PROXY, "/auth/pbx").send().await.expect(303);
    asking(STRANGER, "/auth/pbx").send().await.expect(401);
    let heard = asking(PROXY, "/echo").send().await.expect(200).json()["headers"].to_string();
    assert!(heard.contains("40@acme.test") && !heard.contains("41@acme.test"), "{heard}");
    let heard = asking(STRANGER, "/echo").send().await.expect(200).json()["headers"].to_string();
    assert!(!heard.contains("acme.test\"") && !heard.contains("x-forwarded-user"), "{heard}");
    assert_eq!(stage.minted(), ["40@acme.test"]);
}

// === Several proxies ===

#[tokio::test]
async fn the_proxy_is_the_peer_and_the_client_is_the_one_it_names() {
    let rules = rules("");
    let more = format!("[server]\nbelieve_forwarded_from = [\"{PROXY}\"]");
    let stage = Plan { rules: &rules, more: &more, ..Plan::default() }.start().await;
    alice(&stage, "/auth/pbx").header("x-forwarded-for", "192.0.2.7").send().await.expect(303);
    stage.gate.line(&["audit grant", "client=192.0.2.7", "method=sso"]).await;
    // A client that says it is the proxy is a client.
    let asking = stage.gate.get("/auth/pbx").from(STRANGER).header("remote-user", "alice");
    asking.header("x-forwarded-for", PROXY).header("remote-ext", "40").send().await.expect(401);
    // And one behind the proxy is not its neighbour.
    let asking = alice(&stage, "/auth/pbx").header("x-forwarded-for", STRANGER);
    asking.send().await.expect(303);
    assert_eq!(stage.minted().len(), 2);
}

#[tokio::test]
async fn a_balancer_between_names_the_proxy() {
    let rules = rules("");
    let more = "[server]\naccept_proxy_protocol_from = [\"127.0.0.5\"]";
    let stage = Plan { rules: &rules, more, ..Plan::default() }.start().await;
    for (named, expected) in [(PROXY, 303), (STRANGER, 401), ("127.0.0.5", 401)] {
        let answer = balanced(&stage.gate, named).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{named}: {answer}");
    }
    // The balancer itself vouches for no caller.
    assert_eq!(stage.minted(), ["40@acme.test"]);
}

/// Asks through a balancer, on a connection of another client.
async fn balanced(gate: &Gate, named: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.5:0".parse().unwrap()).unwrap();
    let mut stream = socket.connect(gate.addr).await.unwrap();
    stream.write_all(format!("PROXY TCP4 {named} 127.0.0.1 40000 443\r\n").as_bytes()).await.unwrap();
    let mut tls = gate.tls(stream, "app.test", "http/1.1").await.unwrap();
    let request =
        "GET /auth/pbx HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nRemote-User: alice\r\nRemote-Ext: 40\r\n\r\n";
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tls.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    if let Some((_, session)) = answer.split_once("sessId=") {
        gate.canary(session.split(['\r', '&']).next().unwrap());
    }
    answer
}

#[tokio::test]
async fn two_proxies_have_fields_of_their_own() {
    let rules = format!(
        r#"
[[auth]]
type = "header"
name = "one"
from = ["{PROXY}"]
user = "x-one"
[[auth]]
type = "header"
name = "two"
from = ["{STRANGER}"]
user = "x-two"
[[allow]]
auth = "one"
pbx = {{ domain = "acme.test", account = "40" }}
[[allow]]
auth = "two"
pbx = {{ domain = "acme.test", account = "41" }}
"#
    );
    let stage = Plan { app: "", rules: &rules, voximplant: "", ..Plan::default() }.start().await;
    let asking = |from: &str, names: &[&str]| {
        let asking = stage.gate.ask(Method::GET, "/auth/pbx").from(from);
        names.iter().fold(asking, |asking, name| asking.header(name, "ann"))
    };
    asking(PROXY, &["x-one"]).send().await.expect(303);
    asking(STRANGER, &["x-two"]).send().await.expect(303);
    asking(PROXY, &["x-two"]).send().await.expect(401);
    // The other's field is a client's: it says nothing here.
    asking(PROXY, &["x-one", "x-two"]).send().await.expect(303);
    assert_eq!(stage.minted(), ["40@acme.test", "41@acme.test", "40@acme.test"]);
    let heard =
        stage.gate.get("/echo").from(PROXY).header("x-one", "ann").header("x-two", "bob").send().await.expect(200);
    let heard = heard.json()["headers"].clone();
    assert!(heard.to_string().contains("ann") && !heard.to_string().contains("bob"), "{heard}");
    assert_ne!(heard, json!(null));
}
