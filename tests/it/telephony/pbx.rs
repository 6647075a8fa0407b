//! `/auth/pbx`: sessions of the PBX, and the ways in which they reach the browser.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::kit::client::{Answer, RequestBuilder};
use crate::kit::stage::{Plan, STAFF, Stage, until};
use crate::kit::vodia::{BodyForm, Dialect, FailForm, Faults, Level, Scope, Wrong};
use crate::telephony::socket;

const COOKIE: &str = "handoff = \"cookie\"";
const NAVIGATION: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

// === Hand-over ===

#[tokio::test]
async fn every_form_of_a_minted_session_is_read() {
    for dialect in [Dialect::A, Dialect::B, Dialect::C] {
        for form in [BodyForm::Quoted, BodyForm::Bare, BodyForm::Object] {
            let stage = Plan { dialect, ..Plan::default() }.start().await;
            stage.pbx_does(|faults| faults.body_form = form);
            let answer = stage.as_alice("/auth/pbx").send().await.expect(303);
            let minted = stage.pbx.last_minted().unwrap();
            assert_eq!(answer.header("location"), format!("https://pbx.test/welcome.htm?sessId={minted}"));
            assert_eq!(answer.header("referrer-policy"), "no-referrer");
            assert_eq!((answer.header("cache-control"), answer.text()), ("no-store", ""));
        }
    }
}

#[tokio::test]
async fn every_session_is_minted_for_a_user() {
    for dialect in [Dialect::A, Dialect::B, Dialect::C] {
        let stage = Plan { dialect, ..Plan::default() }.start().await;
        stage.as_alice("/auth/pbx").send().await.expect(303);
        let bodies: Vec<_> = stage.pbx.mints().into_iter().map(|mint| mint.body).collect();
        let body: serde_json::Value = serde_json::from_slice(&bodies[0]).unwrap();
        assert_eq!(body, json!({ "name": "3rd", "username": "40", "domain": "acme.test" }));
        assert!(stage.pbx.sessions().iter().all(|session| session.identity.level == Level::User));
    }
}

#[tokio::test]
async fn on_the_pbx_host_the_cookie_comes_with_a_page_of_the_same_site() {
    for dialect in [Dialect::B, Dialect::C] {
        let stage = Plan { dialect, pbx: COOKIE, ..Plan::default() }.start().await;
        let answer = stage.as_alice("/auth/pbx").host("pbx.test").send().await.expect(200);
        let session = stage.pbx.last_session().unwrap();
        let set = format!("session={session}; Path=/; SameSite=Strict; Secure; HttpOnly");
        assert_eq!(answer.header("set-cookie"), set);
        check_step(&answer, "/thirdparty.htm");
        let told = format!("{}{}", answer.text(), answer.header("location"));
        assert!(!told.contains(&session) && !told.contains(&stage.pbx.last_minted().unwrap()), "{told}");
        let landing = stage.gate.get("/thirdparty.htm").host("pbx.test").cookie(&format!("session={session}"));
        assert!(landing.send().await.expect(200).text().contains("Welcome"));
    }
}

#[track_caller]
pub fn check_step(answer: &Answer, path: &str) {
    assert!(answer.text().contains(&format!("<meta http-equiv=\"refresh\" content=\"0; url={path}\">")), "{answer:?}");
    assert!(answer.header("content-security-policy").starts_with("default-src 'none'"));
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert_eq!((answer.header("cache-control"), answer.header("referrer-policy")), ("no-store", "no-referrer"));
}

#[tokio::test]
async fn cookies_of_the_pbx_are_relayed_unchanged() {
    let stage = Plan { dialect: Dialect::B, pbx: COOKIE, ..Plan::default() }.start().await;
    stage.pbx_does(|faults| faults.duplicate_cookie = true);
    let answer = stage.as_alice("/auth/pbx").host("pbx.test").send().await.expect(200);
    let set = format!("session={}; Path=/; SameSite=Strict; Secure; HttpOnly", stage.pbx.last_session().unwrap());
    let lines: Vec<_> = answer.headers.get_all("set-cookie").iter().map(|line| line.to_str().unwrap()).collect();
    assert_eq!(lines, [&set, &set]);
}

#[tokio::test]
async fn the_exchange_goes_to_the_host_that_the_browser_uses_without_the_administrator() {
    let stage = Plan { dialect: Dialect::B, pbx: COOKIE, ..Plan::default() }.start().await;
    stage.as_alice("/auth/pbx").host("pbx.test:8443").send().await.expect(200);
    let requests = stage.pbx.requests();
    let [mint, exchange] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!(mint.header("host"), Some(&*stage.pbx.addr.to_string()));
    assert_eq!((exchange.header("host"), exchange.header("authorization")), (Some("pbx.test:8443"), None));
    assert!(!stage.pbx.saw_admin_elsewhere());
}

/// callgate finds the host before it opens a session, for a link, a program and a redirect of the app.
#[tokio::test]
async fn no_session_is_minted_for_a_browser_that_could_be_sent_nowhere() {
    let rules = format!(
        "[[allow]]\nname = \"redirects\"\nauth = \"redirect\"\npbx = {{ domain = \"{{domain}}\", account = \"{{account}}\" }}\n{STAFF}"
    );
    for pbx in ["", COOKIE] {
        let dialect = if pbx.is_empty() { Dialect::A } else { Dialect::C };
        // Without `hosts`, and with a landing page that is the app's.
        let hosts = "paths = [\"/rest/\"]";
        let stage = Plan { dialect, pbx, hosts, rules: &rules, ..Plan::default() }.start().await;
        stage.as_alice("/auth/pbx").send().await.expect(403);
        let posted = stage.alice_posts("/auth/pbx", "application/json", "{}");
        posted.header("accept", "application/vnd.callgate+json").send().await.expect(403);
        let granted = "/grant?to=%2Fwelcome.htm&account=41&domain=acme.test";
        stage.gate.get(granted).send().await.expect(403);
        assert_eq!(stage.minted(), [""; 0]);
        let log = stage.gate.log();
        assert_eq!(log.matches("no host of [pbx] hosts is a name to send the browser to").count(), 3, "{log}");
        assert!(!log.contains("audit grant"), "{log}");
    }
}

#[tokio::test]
async fn a_token_that_expired_on_the_way_fails_the_login() {
    let stage = Plan { dialect: Dialect::B, pbx: COOKIE, ..Plan::default() }.start().await;
    stage.pbx_does(|faults| faults.tokens_expire = true);
    let answer = stage.as_alice("/auth/pbx").host("pbx.test").send().await.expect(502);
    assert_eq!(answer.header("set-cookie"), "");
}

// === The host of the redirect ===

#[track_caller]
fn check_host(answer: &Answer, expected: &str) {
    let location = answer.header("location");
    assert!(
        location.starts_with(&format!("https://{expected}/welcome.htm?sessId=")),
        "{location} is not at {expected}"
    );
}

#[tokio::test]
async fn the_browser_stays_on_the_pbx_host_or_goes_to_the_granted_domain() {
    let hosts = "hosts = [\"pbx.test\", \"*.pbx.test\"]";
    let stage = Plan { hosts, tenant: "acme.pbx.test", ..Plan::default() }.start().await;
    for (own, expected) in [
        ("pbx.test", "pbx.test"),
        ("any.pbx.test", "any.pbx.test"),
        ("any.pbx.test:8443", "any.pbx.test:8443"),
        ("app.test", "acme.pbx.test"),
        ("app.test:8443", "acme.pbx.test:8443"),
        ("localhost:9000", "acme.pbx.test:9000"),
    ] {
        check_host(&stage.as_alice("/auth/pbx").host(own).send().await.expect(303), expected);
    }
    let stage = Plan { hosts: "hosts = [\"pbx.test\", \"*.other.test\"]", ..Plan::default() }.start().await;
    check_host(&stage.as_alice("/auth/pbx").host("app.test:444").send().await.expect(303), "pbx.test:444");
}

#[tokio::test]
async fn one_host_for_both_keeps_the_browser_where_it_is() {
    let hosts = "paths = [\"/welcome.htm\", \"/rest/\"]";
    let stage = Plan { hosts, ..Plan::default() }.start().await;
    check_host(&stage.as_alice("/auth/pbx").send().await.expect(303), "app.test");
}

#[tokio::test]
async fn only_the_configuration_decides_where_a_browser_goes() {
    let stage = Plan { app: "whoami = \"/api/me\"\nlogin = \"/login\"", ..Plan::default() }.start().await;
    let wishes =
        "url=https://evil.test/&state=//evil.test&redirect=https://evil.test&return_to=/%5Cevil.test&host=evil.test";
    for host in ["app.test", "other.test"] {
        let with = |path: &str, cookie: &str| {
            let asking = stage.gate.get(path).host(host).cookie(cookie).header("accept", NAVIGATION);
            ["referer", "x-forwarded-host", "x-original-url", "x-rewrite-url", "forwarded"]
                .iter()
                .fold(asking, |asking, name| asking.header(name, "https://evil.test/welcome.htm"))
        };
        let path = format!("/auth/pbx?{wishes}");
        let landed = with(&path, &stage.app.log_in("alice")).send().await.expect(303);
        check_host(&landed, "pbx.test");
        assert!(!landed.header("location").contains("evil"), "{landed:?}");
        assert_eq!(with(&path, "demo_app=wrong").send().await.expect(302).header("location"), "/login");
    }
}

// === Faults of the PBX ===

#[track_caller]
fn check_failure(stage: &Stage, answer: &Answer) {
    assert_eq!((answer.header("location"), answer.header("set-cookie")), ("", ""));
    assert_eq!((answer.header("cache-control"), answer.header("server")), ("no-store", ""));
    let told = format!("{:?}{}", answer.headers, answer.text());
    let minted = stage.pbx.mints().into_iter().filter_map(|mint| mint.value);
    for secret in minted.chain(["Basic".into(), "127.0.0.1".into(), "acme.test".into(), "sso".into()]) {
        assert!(!told.contains(&secret), "{secret} is told: {told}");
    }
}

#[tokio::test]
async fn an_answer_without_a_session_fails_the_login() {
    let stage = Plan { pbx: "timeout = \"1s\"", ..Plan::default() }.start().await;
    let bytes = |text: &'static str| Wrong::Raw(Bytes::from_static(text.as_bytes()));
    for (wrong, status) in [
        (Wrong::Html, 502),
        (Wrong::Huge, 502),
        (Wrong::Truncated, 502),
        (Wrong::LengthTooLong(5), 502),
        (Wrong::LengthTooShort(5), 502),
        (Wrong::Drop, 502),
        (Wrong::Hang, 504),
        (Wrong::Status(StatusCode::FORBIDDEN), 502),
        (Wrong::Status(StatusCode::NOT_FOUND), 403),
        (Wrong::Status(StatusCode::INTERNAL_SERVER_ERROR), 502),
        (Wrong::Status(StatusCode::NO_CONTENT), 502),
        (Wrong::Status(StatusCode::FOUND), 502),
        (bytes("HTTP/1.1 200 Ok\r\nContent-Length: 4\r\n\r\nnull"), 502),
        (bytes("HTTP/1.1 200 Ok\r\nContent-Length: 4\r\n\r\ntrue"), 502),
        (bytes("HTTP/1.1 200 Ok\r\nContent-Length: 2\r\n\r\n{}"), 502),
        (bytes("HTTP/1.1 200 Ok\r\nContent-Length: 22\r\n\r\n\"g7lsrphhrkim1jkvb/../"), 502),
        (bytes("HTTP/1.1 201 Created\r\nContent-Length: 22\r\n\r\n\"g7lsrphhrkim1jkvbt88\""), 502),
        (bytes("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"), 502),
        (bytes("SSH-2.0-OpenSSH_9.9\r\n"), 502),
    ] {
        stage.pbx_does(|faults| faults.wrong = wrong.clone());
        for accept in [NAVIGATION, "application/json"] {
            let answer = stage.as_alice("/auth/pbx").header("accept", accept).send().await;
            assert_eq!(answer.status.as_u16(), status, "{wrong:?}: {answer:?}");
            check_failure(&stage, &answer);
        }
        let page = stage.alice_posts("/auth/pbx", "application/json", "{}").send().await;
        assert_eq!(page.status.as_u16(), status, "{wrong:?}: {page:?}");
        check_failure(&stage, &page);
    }
    stage.pbx_does(|faults| *faults = Faults { refuse_connections: true, ..Faults::default() });
    check_failure(&stage, &stage.as_alice("/auth/pbx").send().await.expect(502));
    stage.pbx_does(|faults| *faults = Faults::default());
    stage.as_alice("/auth/pbx").send().await.expect(303);
}

#[tokio::test]
async fn a_pbx_that_is_not_there_is_a_bad_gateway() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let stage = Plan { pbx_at: Some(nobody), ..Plan::default() }.start().await;
    check_failure(&stage, &stage.as_alice("/auth/pbx").send().await.expect(502));
}

#[tokio::test]
async fn a_pbx_that_never_ends_its_answer_is_too_slow() {
    let stage = Plan { pbx: "timeout = \"1s\"", ..Plan::default() }.start().await;
    stage.pbx_does(|faults| faults.body_delay = Duration::from_secs(600));
    check_failure(&stage, &stage.as_alice("/auth/pbx").send().await.expect(504));
    assert_eq!(stage.minted().len(), 1);
}

#[tokio::test]
async fn after_one_refusal_of_the_administrator_the_pbx_gets_no_request() {
    let empty = Wrong::Raw(Bytes::from_static(b"HTTP/1.1 200 Ok\r\nContent-Length: 0\r\n\r\n"));
    for (form, wrong) in [
        (FailForm::False, Wrong::Nothing),
        (FailForm::EmptyString, Wrong::Nothing),
        (FailForm::Status401, Wrong::Nothing),
        (FailForm::False, empty),
    ] {
        let stage = Stage::new().await;
        stage.pbx_does(|faults| {
            faults.fail_form = form;
            faults.refuse_after = Some(0);
            faults.wrong = wrong;
        });
        for asker in ["alice", "bob", "alice"] {
            let answer = stage.as_user(asker, "/auth/pbx").send().await.expect(503);
            check_failure(&stage, &answer);
            assert!((1..=60).contains(&answer.header("retry-after").parse::<u32>().unwrap()), "{form:?}");
        }
        assert_eq!(stage.pbx.requests().len(), 1, "{form:?}");
    }
}

#[tokio::test]
async fn the_breaker_counts_for_pages_and_redirects_as_well() {
    let stage = Stage::new().await;
    stage.pbx_does(|faults| faults.refuse_after = Some(0));
    stage.as_alice("/auth/pbx").send().await.expect(503);
    stage.alice_posts("/auth/pbx", "application/json", "{}").send().await.expect(503);
    stage.as_alice("/redirect?to=https%3A%2F%2Fpbx.test%2Fwelcome.htm").send().await.expect(503);
    stage.gate.get("/").host("pbx.test").send().await.expect(200);
    assert_eq!(stage.minted().len(), 1);
}

#[tokio::test]
async fn each_click_is_one_mint_and_another_session() {
    let stage = Stage::new().await;
    let first = stage.as_alice("/auth/pbx").send().await.expect(303);
    let second = stage.as_alice("/auth/pbx").send().await.expect(303);
    assert_ne!(first.header("location"), second.header("location"));
    assert_eq!(stage.minted().len(), 2);
}

#[tokio::test]
async fn a_mint_that_was_sent_is_not_asked_twice() {
    let stage = Stage::new().await;
    stage.pbx_does(|faults| faults.head_delay = Duration::from_millis(500));
    let mut impatient = stage.gate.raw("app.test", "http/1.1").await;
    let request = format!("GET /auth/pbx HTTP/1.1\r\nHost: app.test\r\nCookie: {}\r\n\r\n", stage.app.log_in("alice"));
    impatient.write_all(request.as_bytes()).await.unwrap();
    until("the mint arrives", || stage.minted().len() == 1).await;
    drop(impatient);
    stage.gate.line(&["access", "/auth/pbx", "ended=aborted"]).await;
    stage.gate.line(&["audit refusal", "account=40@acme.test", "the caller left"]).await;
    stage.pbx_does(|faults| faults.head_delay = Duration::ZERO);
    stage.as_alice("/auth/pbx").send().await.expect(303);
    assert_eq!(stage.minted().len(), 2);
}

// === What a mint costs ===

/// A stage whose one worker keeps idle connections for longer than a test takes.
fn keeping() -> Plan<'static> {
    Plan { top: "workers = 1", pbx: "timeouts = { keep_alive = \"60s\" }", ..Plan::default() }
}

#[tokio::test]
async fn mints_cost_one_request_each_and_share_a_connection_with_no_client() {
    let stage = keeping().start().await;
    for minted in 1..=5 {
        stage.as_alice("/auth/pbx").send().await.expect(303);
        assert_eq!((stage.pbx.requests().len(), stage.pbx.connections()), (minted, 1));
    }
    let hosts: Vec<_> = stage.pbx.requests().iter().map(|seen| seen.header("host").map(str::to_owned)).collect();
    assert_eq!(hosts, vec![Some(stage.pbx.addr.to_string()); 5]);
    for _ in 0..2 {
        stage.gate.get("/").host("pbx.test").send().await.expect(200);
        assert_eq!(stage.pbx.connections(), 2, "a client's request has a connection of its own");
        stage.as_alice("/auth/pbx").send().await.expect(303);
        assert_eq!(stage.pbx.connections(), 2);
    }
    assert!(!stage.pbx.saw_admin_elsewhere());
}

#[tokio::test]
async fn of_addresses_with_names_of_their_own_each_is_asked_by_its_own() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let first = closed.local_addr().unwrap();
    drop(closed);
    let stage = Plan { pbx_first_at: Some(first), ..keeping() }.start().await;
    for minted in 1..=3 {
        stage.as_alice("/auth/pbx").send().await.expect(303);
        assert_eq!(stage.pbx.connections(), minted);
    }
    let addr = stage.pbx.addr.to_string();
    assert!(stage.pbx.requests().iter().all(|seen| seen.header("host") == Some(&addr)));
}

#[tokio::test]
async fn a_mint_over_a_kept_connection_that_closes_meanwhile_is_not_asked_twice() {
    let stage = keeping().start().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    stage.pbx_does(|faults| faults.wrong = Wrong::Drop);
    check_failure(&stage, &stage.as_alice("/auth/pbx").send().await.expect(502));
    assert_eq!((stage.minted().len(), stage.pbx.connections()), (2, 1));
    stage.pbx_does(|faults| faults.wrong = Wrong::Nothing);
    stage.as_alice("/auth/pbx").send().await.expect(303);
    assert_eq!((stage.minted().len(), stage.pbx.connections()), (3, 2));
}

// === Programs that look ahead ===

#[tokio::test]
async fn a_prefetch_gets_no_session() {
    let stage = Stage::new().await;
    let ahead: [(&str, &str); 11] = [
        ("sec-purpose", "prefetch"),
        ("sec-purpose", "prefetch;prerender"),
        ("sec-purpose", "Prefetch;anonymous-client-ip"),
        ("purpose", "prefetch"),
        ("x-moz", "prefetch"),
        ("user-agent", "WhatsApp/2.23.20.0"),
        ("user-agent", "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)"),
        ("user-agent", "facebookexternalhit/1.1"),
        ("user-agent", "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5"),
        ("user-agent", "TelegramBot (like TwitterBot)"),
        ("user-agent", "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)"),
    ];
    for (name, value) in ahead {
        let answer = stage.as_alice("/auth/pbx").header(name, value).send().await.expect(503);
        assert_eq!((answer.header("cache-control"), answer.header("location")), ("no-store", ""), "{value}");
    }
    let head = stage.gate.ask(Method::HEAD, "/auth/pbx").cookie(&stage.app.log_in("alice")).send().await.expect(503);
    assert_eq!(head.header("cache-control"), "no-store");
    assert!(stage.minted().is_empty() && stage.app.requests().is_empty());
}

#[tokio::test]
async fn browsers_and_curl_do_not_count_as_previewers() {
    let stage = Stage::new().await;
    for agent in [
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36",
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:140.0) Gecko/20100101 Firefox/140.0",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Version/18.5 Mobile/15E148 Safari/604.1",
        "Mozilla/5.0 (Linux; Android 10; CUBOT_X18_Plus) AppleWebKit/537.36 Chrome/120.0.0.0 Mobile Safari/537.36",
        "curl/8.14.1",
        "",
    ] {
        let answer = stage.as_alice("/auth/pbx").header("user-agent", agent).send().await;
        assert_eq!(answer.status, 303, "{agent}");
    }
}

// === Selectors ===

#[tokio::test]
async fn languages_are_those_the_pbx_has() {
    let stage = Stage::new().await;
    for (query, end) in
        [("", ""), ("?lang=", ""), ("?lang=en", "&lang=en"), ("?lang=sp", "&lang=sp"), ("?lang=fr", "&lang=fr")]
    {
        let answer = stage.as_alice(&format!("/auth/pbx{query}")).send().await.expect(303);
        let session = stage.pbx.last_session().unwrap();
        assert_eq!(answer.header("location"), format!("https://pbx.test/welcome.htm?sessId={session}{end}"));
    }
    let minted = stage.minted().len();
    for query in ["lang=es", "lang=xx", "lang=FR", "lang=en%26sessId%3Dx", "lang=en&lang=fr", "lang=%0d%0a"] {
        let answer = stage.as_alice(&format!("/auth/pbx?{query}")).send().await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (400, ""), "{query}");
    }
    assert_eq!(stage.minted().len(), minted);
    let stage = Plan { pbx: "languages = [\"xx\"]", ..Plan::default() }.start().await;
    stage.as_alice("/auth/pbx?lang=xx").send().await.expect(303);
    stage.as_alice("/auth/pbx?lang=en").send().await.expect(400);
}

#[tokio::test]
async fn selectors_select_only_what_is_granted() {
    let stage = Stage::new().await;
    for query in ["account=40", "domain=acme.test", "domain=ACME.test&account=40", "other=x&account=40"] {
        stage.as_alice(&format!("/auth/pbx?{query}")).send().await.expect(303);
    }
    let minted = stage.minted();
    assert!(minted.iter().all(|account| account == "40@acme.test"), "{minted:?}");
    for query in [
        "account=41",
        "domain=other.test",
        "account=40&domain=other.test",
        "account=",
        "account=admin",
        "domain=",
        "account=40%00",
    ] {
        let answer = stage.as_alice(&format!("/auth/pbx?{query}")).send().await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (403, ""), "{query}");
        let body = json!({ "account": null, "domain": "acme.test" });
        stage.alice_posts("/auth/pbx", "application/json", &body).send().await.expect(200);
    }
    for query in [
        "account=40&account=40",
        "account=40&account=41",
        "domain=acme.test&domain=acme.test",
        "a%63count=40&account=40",
    ] {
        stage.as_alice(&format!("/auth/pbx?{query}")).send().await.expect(400);
    }
    assert!(stage.minted().iter().all(|account| account == "40@acme.test"));
}

#[tokio::test]
async fn an_account_that_the_pbx_does_not_know_looks_forbidden() {
    let stage = Stage::new().await;
    stage.claims(json!({ "ext": "99", "tenant": "acme.test" }));
    let unknown = stage.as_alice("/auth/pbx").header("accept", "application/json").send().await.expect(403);
    assert_eq!(unknown.json()["error"], "forbidden");
    stage.claims(json!({ "ext": "99", "tenant": "nowhere.test" }));
    stage.as_alice("/auth/pbx").send().await.expect(403);
}

// === Requests of scripts ===

#[tokio::test]
async fn the_vendors_page_gets_a_json_string() {
    let stage = Stage::new().await;
    let body = json!({ "account": "40", "domain": "acme.test" });
    for content_type in ["application/json", "text/plain;charset=UTF-8", "application/json; charset=utf-8"] {
        let answer = stage.alice_posts("/auth/pbx", content_type, &body).send().await.expect(200);
        assert_eq!(answer.json(), json!(stage.pbx.last_session().unwrap()), "{content_type}");
        assert_eq!((answer.header("content-type"), answer.header("cache-control")), ("application/json", "no-store"));
    }
    let cookie = stage.app.log_in("alice");
    let asking = stage.gate.ask(Method::POST, "/auth/pbx").body(body.to_string()).cookie(&cookie);
    assert_eq!(asking.send().await.expect(200).json(), json!(stage.pbx.last_session().unwrap()));
    let form = stage.alice_posts("/auth/pbx", "application/x-www-form-urlencoded", "account=40&domain=acme.test");
    assert_eq!(form.send().await.expect(200).json(), json!(stage.pbx.last_session().unwrap()));
    let empty = stage.gate.ask(Method::POST, "/auth/pbx").body("").cookie(&cookie);
    assert_eq!(empty.send().await.expect(200).json(), json!(stage.pbx.last_session().unwrap()));
    stage.alice_posts("/auth/pbx", "application/xml", &body).send().await.expect(415);
    stage.alice_posts("/auth/pbx", "application/json", json!({ "account": "41" })).send().await.expect(403);
    stage.alice_posts("/auth/pbx", "application/json", json!({ "account": "" })).send().await.expect(403);
    let empty = stage.alice_posts("/auth/pbx", "application/json", "").send().await.expect(200);
    assert_eq!(empty.json(), json!(stage.pbx.last_session().unwrap()));
    for malformed in [" ", "[]", "{\"account\":40}", "{\"account\":\"40\",\"account\":\"40\"}", "account=40"] {
        stage.alice_posts("/auth/pbx", "application/json", malformed).send().await.expect(400);
    }
    for method in [Method::PUT, Method::DELETE, Method::PATCH] {
        let answer = stage.gate.ask(method, "/auth/pbx").send().await.expect(405);
        assert_eq!(answer.header("allow"), "GET, HEAD, POST, OPTIONS");
    }
}

#[tokio::test]
async fn a_program_may_ask_for_address_session_and_lifetime() {
    let stage = Stage::new().await;
    let asking = stage.alice_posts("/auth/pbx", "application/json", json!({ "lang": "fr" }));
    let answer = asking.header("accept", "application/vnd.callgate+json").send().await.expect(200).json();
    let session = stage.pbx.last_session().unwrap();
    let url = format!("https://pbx.test/welcome.htm?sessId={session}&lang=fr");
    assert_eq!(answer, json!({ "url": url, "session": session, "expires_in": 3600 }));
}

#[tokio::test]
async fn pages_of_other_origins_get_no_session() {
    let stage = Plan { voximplant: "origins = [\"https://listed.test\"]", ..Plan::default() }.start().await;
    for (origin, site) in [
        ("https://evil.test", "cross-site"),
        ("https://evil.app.test", "same-site"),
        ("https://app.test", "same-site"),
        ("null", "cross-site"),
    ] {
        let asking = stage.alice_posts("/auth/pbx", "text/plain", "{}").header("origin", origin);
        let answer = asking.header("sec-fetch-site", site).send().await.expect(403);
        assert_eq!(answer.header("access-control-allow-origin"), "", "{origin}");
    }
    assert!(stage.minted().is_empty());
    for (origin, status, allowed) in
        [("https://listed.test", 204, "https://listed.test"), ("https://evil.test", 403, "")]
    {
        let preflight = stage.gate.ask(Method::OPTIONS, "/auth/pbx").header("origin", origin);
        let answer = preflight.header("access-control-request-method", "POST").send().await.expect(status);
        assert_eq!(answer.header("access-control-allow-origin"), allowed);
    }
    let asking = stage.alice_posts("/auth/pbx", "text/plain", "{}").header("origin", "https://listed.test");
    let answer = asking.header("sec-fetch-site", "cross-site").send().await.expect(200);
    assert_eq!(answer.header("access-control-allow-origin"), "https://listed.test");
    let own = stage.alice_posts("/auth/pbx", "text/plain", "{}").header("origin", "https://app.test");
    assert_eq!(own.send().await.expect(200).header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn a_link_may_be_clicked_on_any_site() {
    let stage = Stage::new().await;
    for site in ["cross-site", "same-site", "same-origin", "none"] {
        let click = stage.as_alice("/auth/pbx").header("sec-fetch-site", site).header("sec-fetch-mode", "navigate");
        click.header("sec-fetch-dest", "document").send().await.expect(303);
    }
}

// === Requests without a login ===

#[tokio::test]
async fn a_browser_is_redirected_to_the_login_and_a_program_gets_its_address() {
    let app = "whoami = \"/api/me\"\nlogin = \"/login?next=pbx\"";
    let stage = Plan { app, ..Plan::default() }.start().await;
    for (fields, status) in [
        (vec![("sec-fetch-mode", "navigate"), ("accept", NAVIGATION)], 302),
        (vec![("accept", NAVIGATION)], 302),
        (vec![("sec-fetch-mode", "cors"), ("accept", "*/*")], 401),
        (vec![("sec-fetch-mode", "cors"), ("accept", NAVIGATION)], 401),
        (vec![("accept", "application/json")], 401),
        (vec![], 401),
    ] {
        let asking =
            fields.iter().fold(stage.gate.get("/auth/pbx"), |asking, (name, value)| asking.header(name, value));
        let answer = asking.send().await.expect(status);
        assert_eq!(answer.header("cache-control"), "no-store");
        if status == 302 {
            assert_eq!(answer.header("location"), "/login?next=pbx", "{fields:?}");
        } else if answer.header("content-type") == "application/json" {
            assert_eq!(answer.json()["login"], "/login?next=pbx", "{fields:?}");
        }
    }
    let post = stage.gate.post("/auth/pbx", "application/json", "{}").send().await.expect(401);
    assert_eq!(post.json()["login"], "/login?next=pbx");
    assert!(stage.minted().is_empty());
}

/// Lets a page of a host ask there.
fn of_page<'s>(asking: RequestBuilder<'s>, host: &'static str) -> RequestBuilder<'s> {
    asking.host(host).header("origin", &format!("https://{host}")).header("sec-fetch-site", "same-origin")
}

/// The owner of a sibling host can let its DNS lead a browser here, behind the back of a page of that host. A wildcard of the
/// certificate may cover the host.
#[tokio::test]
async fn pages_of_a_host_of_another_owner_are_foreign() {
    let app = "hosts = [\"app.test\"]\nwhoami = \"/api/me\"";
    let stage = Plan { app, pbx: socket::SOCKET, ..Plan::default() }.start().await;
    let form = "application/x-www-form-urlencoded";
    for host in ["x.app.test", "y.app.test"] {
        for asking in [
            stage.alice_posts("/auth/pbx", "text/plain", "{}"),
            stage.alice_posts("/auth/ott", form, "key=k1"),
            stage.alice_posts("/auth/pbx/logout", form, ""),
            socket::handshake(stage.as_alice(socket::PATH)),
        ] {
            let answer = of_page(asking, host).send().await.expect(403);
            assert_eq!(answer.json()["error"], "cross_site", "{host}");
        }
        // Such browsers as send no Origin with it say at least this.
        let asking = stage.alice_posts("/auth/pbx", "text/plain", "{}").host(host);
        asking.header("sec-fetch-site", "same-origin").send().await.expect(403);
    }
    assert!(stage.minted().is_empty() && stage.app.requests().is_empty());
    for host in ["app.test", "pbx.test"] {
        of_page(stage.alice_posts("/auth/pbx", "text/plain", "{}"), host).send().await.expect(200);
    }
    // A program is no page.
    stage.alice_posts("/auth/pbx", "text/plain", "{}").host("x.app.test").send().await.expect(200);
    // Where no hosts are listed, the certificate alone decides which browsers come here.
    let stage = Plan { pbx: socket::SOCKET, ..Plan::default() }.start().await;
    of_page(stage.alice_posts("/auth/pbx", "text/plain", "{}"), "x.app.test").send().await.expect(200);
    of_page(socket::handshake(stage.as_alice(socket::PATH)), "x.app.test").send().await.expect(101);
}

#[tokio::test]
async fn a_page_of_another_origin_gets_the_whole_address_of_the_login() {
    let app = "whoami = \"/api/me\"\nlogin = \"/login?next=pbx\"";
    let voximplant = "origins = [\"capacitor://localhost\"]";
    let stage = Plan { app, voximplant, ..Plan::default() }.start().await;
    for (path, form, body) in
        [("/auth/pbx", "application/json", "{}"), ("/auth/ott", "application/x-www-form-urlencoded", "key=k1")]
    {
        let asking = stage.gate.post(path, form, body).header("origin", "capacitor://localhost");
        let answer = asking.header("sec-fetch-site", "cross-site").send().await.expect(401);
        assert_eq!(answer.header("access-control-allow-origin"), "capacitor://localhost");
        assert_eq!(answer.json()["login"], "https://app.test/login?next=pbx", "{path}");
    }
    assert!(stage.minted().is_empty());
}

#[tokio::test]
async fn the_login_of_the_app_is_found_from_the_pbx_host_too() {
    let app = "whoami = \"/api/me\"\nlogin = \"/login\"\nhosts = [\"app.test\"]";
    let stage = Plan { app, ..Plan::default() }.start().await;
    for (host, expected) in [
        ("app.test", "/login"),
        ("pbx.test", "https://app.test/login"),
        ("pbx.test:8443", "https://app.test:8443/login"),
    ] {
        let answer = stage.gate.get("/auth/pbx").host(host).header("accept", NAVIGATION).send().await.expect(302);
        assert_eq!(answer.header("location"), expected);
    }
}

#[tokio::test]
async fn a_click_from_another_site_without_a_cookie_is_repeated_from_our_own() {
    let stage = Stage::new().await;
    let click = |path: &str| {
        let asking = stage.gate.get(path).header("sec-fetch-mode", "navigate").header("accept", NAVIGATION);
        asking.header("sec-fetch-site", "cross-site")
    };
    let first = click("/auth/pbx?lang=fr&account=40").send().await.expect(200);
    check_step(&first, "/auth/pbx?account=40&amp;lang=fr&amp;again=1");
    click("/auth/pbx?account=40&lang=fr&again=1").send().await.expect(401);
    let cookie = stage.app.log_in("alice");
    click("/auth/pbx?account=40&lang=fr&again=1").cookie(&cookie).send().await.expect(303);
    let same_site = stage.gate.get("/auth/pbx").header("sec-fetch-mode", "navigate");
    same_site.header("sec-fetch-site", "same-origin").send().await.expect(401);
    let hostile = click("/auth/pbx?account=%22%3E%3Cscript%3E&domain=%26%27").send().await.expect(200);
    assert!(!hostile.text().contains("<script>"), "{}", hostile.text());
}

// === The administrator ===

#[tokio::test]
async fn the_pbx_gets_the_administrator_with_mints_only() {
    let stage = Stage::new().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    let session = format!("session={}", stage.pbx.last_session().unwrap());
    for path in ["/", "/rest/system/session", "/rest/system/stats", "/welcome.htm", "/rest/system/localization/en"] {
        stage.gate.get(path).host("pbx.test").cookie(&session).send().await;
    }
    let body = json!({ "name": "auth", "value": "40 00112233445566778899aabbccddeeff" }).to_string();
    stage.gate.post("/rest/system/session", "application/json", body).host("pbx.test").send().await.expect(200);
    stage.as_alice("/auth/pbx").host("pbx.test").send().await.expect(303);
    assert!(!stage.pbx.saw_admin_elsewhere() && !stage.pbx.saw_mint_without_admin());
    assert_eq!(stage.minted().len(), 2);
    let with_admin = stage.pbx.requests().iter().filter(|seen| seen.header("authorization").is_some()).count();
    assert_eq!(with_admin, 2);
    assert!(stage.app.requests().iter().all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test]
async fn a_mint_that_a_client_writes_has_no_administrator() {
    let stage = Stage::new().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    let body = json!({ "name": "3rd", "username": "41", "domain": "acme.test" }).to_string();
    let answer = stage.gate.post("/rest/system/session", "application/json", body).host("pbx.test").send().await;
    assert_eq!(answer.expect(200).text(), "false");
    assert_eq!(stage.pbx.sessions().len(), 1);
}

#[tokio::test]
async fn without_an_administrator_the_login_path_is_404() {
    let stage = Stage::new().await;
    let text = format!("[pbx]\nurl = \"http://{}\"\nhosts = [\"pbx.test\"]", stage.pbx.addr);
    let gate = crate::kit::gate::Gate::start(&text).await;
    gate.get("/auth/pbx").host("pbx.test").send().await.expect(404);
    gate.get("/").host("pbx.test").send().await.expect(200);
}

#[tokio::test]
async fn disguised_spellings_are_refused_and_others_are_the_apps() {
    let stage = Stage::new().await;
    for path in [
        "/auth/PBX",
        "/auth//pbx",
        "/auth/./pbx",
        "/x/../auth/pbx",
        "/auth/%70bx",
        "/auth/pbx;a=1",
        "/auth/pbx%2f..%2fpbx",
        "/auth/pbx%00",
        "/auth/pbx%3fx",
        "/auth/ott%23",
        "/auth/callgate%3fx",
    ] {
        let answer = stage.as_alice(path).send().await;
        assert_eq!(answer.status.as_u16(), 400, "{path}");
    }
    assert!(stage.app.requests().is_empty() && stage.minted().is_empty());
    stage.as_alice("/auth/pbx/").send().await;
    stage.as_alice("/auth/login").send().await.expect(404);
    assert!(stage.minted().is_empty());
}

#[tokio::test]
async fn an_exchange_that_fails_fails_the_login() {
    let stage = Plan { dialect: Dialect::B, pbx: "handoff = \"cookie\"\ntimeout = \"1s\"", ..Plan::default() };
    let stage = stage.start().await;
    let without_cookie = Wrong::Raw(Bytes::from_static(b"HTTP/1.1 200 Ok\r\nContent-Length: 4\r\n\r\ntrue"));
    for (wrong, status) in [
        (without_cookie, 502),
        (Wrong::Html, 502),
        (Wrong::Huge, 502),
        (Wrong::Drop, 502),
        (Wrong::Hang, 504),
        (Wrong::Status(StatusCode::UNAUTHORIZED), 502),
        (Wrong::Status(StatusCode::FORBIDDEN), 502),
    ] {
        stage.pbx_does(|faults| (faults.scope, faults.wrong) = (Scope::Exchange, wrong.clone()));
        let answer = stage.as_alice("/auth/pbx").host("pbx.test").send().await;
        assert_eq!(answer.status.as_u16(), status, "{wrong:?}");
        check_failure(&stage, &answer);
    }
}

#[tokio::test]
async fn each_endpoint_has_its_own_list_of_origins() {
    let voximplant = "origins = [\"https://phone.test\"]";
    let post = async |stage: &Stage, path: &str, body: &str, origin: &str, status: u16| {
        let asking = stage.alice_posts(path, "application/x-www-form-urlencoded", body).header("origin", origin);
        asking.header("sec-fetch-site", "cross-site").send().await.expect(status);
    };
    let stage = Plan { voximplant, pbx: "origins = [\"https://crm.test\"]", ..Plan::default() }.start().await;
    post(&stage, "/auth/pbx", "", "https://crm.test", 200).await;
    post(&stage, "/auth/pbx", "", "https://phone.test", 403).await;
    post(&stage, "/auth/ott", "key=k1", "https://phone.test", 200).await;
    post(&stage, "/auth/ott", "key=k1", "https://crm.test", 403).await;
    let none = Plan { voximplant, pbx: "origins = []", ..Plan::default() }.start().await;
    post(&none, "/auth/pbx", "", "https://phone.test", 403).await;
    let one = Plan { voximplant, ..Plan::default() }.start().await;
    post(&one, "/auth/pbx", "", "https://phone.test", 200).await;
}

// === Aliases ===

#[tokio::test]
async fn an_alias_answers_like_auth_pbx() {
    let stage = Plan { pbx: "aliases = [\"/thirdpartylogin.php\"]", ..Plan::default() }.start().await;
    const ALIAS: &str = "/thirdpartylogin.php";
    for host in ["app.test", "pbx.test"] {
        let answer = stage.as_alice(&format!("{ALIAS}?account=40&lang=fr")).host(host).send().await.expect(303);
        let minted = stage.pbx.last_minted().unwrap();
        assert_eq!(answer.header("location"), format!("https://pbx.test/welcome.htm?sessId={minted}&lang=fr"));
    }
    stage.alice_posts(ALIAS, "application/json", "{\"account\":\"40\"}").send().await.expect(200);
    stage.as_alice(&format!("{ALIAS}?account=41")).send().await.expect(403);
    stage.gate.get(ALIAS).send().await.expect(401);
    assert_eq!(stage.minted(), ["40@acme.test"; 3]);
    stage.gate.line(&["target=\"/thirdpartylogin.php\"", "reason=unauthenticated"]).await;
    // The app's Strict cookie may be missing on the first hop.
    let first = stage.gate.get(ALIAS).header("sec-fetch-site", "cross-site").header("sec-fetch-mode", "navigate");
    check_step(&first.send().await.expect(200), "/auth/pbx?again=1");
}

#[tokio::test]
async fn an_alias_opens_no_session_unseen() {
    let stage = Plan { pbx: "aliases = [\"/thirdpartylogin.php\"]", ..Plan::default() }.start().await;
    let asking = |method| stage.gate.ask(method, "/thirdpartylogin.php").cookie(&stage.app.log_in("alice"));
    asking(Method::HEAD).send().await.expect(503);
    asking(Method::GET).header("sec-purpose", "prefetch").send().await.expect(503);
    asking(Method::GET)
        .header("sec-fetch-site", "same-site")
        .header("sec-fetch-dest", "image")
        .send()
        .await
        .expect(403);
    asking(Method::POST).header("origin", "https://evil.app.test").send().await.expect(403);
    asking(Method::PUT).send().await.expect(405);
    assert!(stage.minted().is_empty());
}

#[tokio::test]
async fn no_spelling_of_an_alias_goes_upstream() {
    let stage = Plan { pbx: "aliases = [\"/thirdpartylogin.php\"]", ..Plan::default() }.start().await;
    for path in [
        "/ThirdPartyLogin.php",
        "//thirdpartylogin.php",
        "/thirdpartylogin%2Ephp",
        "/x/../thirdpartylogin.php",
        "/thirdpartylogin.php;x=1",
        "/thirdpartylogin.php%00",
        "/auth/pbx/Socket",
        "/auth/pbx%2fsocket",
    ] {
        stage.as_alice(path).send().await.expect(400);
    }
    stage.as_alice("/auth/pbx/socket").send().await.expect(404);
    assert!(stage.minted().is_empty());
    assert!(stage.app.requests().is_empty(), "{:?}", stage.app.requests());
}
