//! The two-host hand-over: a ticket leads a browser from the app's host to the PBX's.

use std::time::Duration;

use http::Method;
use serde_json::json;

use super::pbx::check_step;
use crate::kit::client::Answer;
use crate::kit::links::{link, method};
use crate::kit::stage::{Plan, STAFF, Stage, until};
use crate::kit::vodia::{Dialect, Scope, Wrong};

const COOKIE: &str = "handoff = \"cookie\"";
const KEY: &str = "a-key-of-another-server-0123456789";
const NAVIGATION: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// Asks on the app's host, and returns the cookie that it sets and the path of the ticket on the PBX's.
async fn ticket(stage: &Stage) -> (String, String) {
    let answer = stage.as_alice("/auth/pbx").send().await.expect(303);
    let location = answer.header("location");
    let cookie = answer.header("set-cookie").to_owned();
    assert!(cookie.starts_with("__Host-callgate.browser="), "{cookie}");
    assert!(cookie.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"), "{cookie}");
    (cookie, location.strip_prefix("https://pbx.test").unwrap().to_owned())
}

/// Opens an address of the gate as a browser with these cookies.
async fn open(stage: &Stage, address: &str, cookie: &str) -> Answer {
    let (host, path) = address.strip_prefix("https://").unwrap().split_once('/').unwrap();
    let asking = stage.gate.get(&format!("/{path}")).host(host).header("sec-fetch-site", "cross-site");
    let asking = asking.header("sec-fetch-mode", "navigate").header("sec-fetch-dest", "document");
    if cookie.is_empty() { asking.send().await } else { asking.cookie(cookie.split(';').next().unwrap()).send().await }
}

/// A page sends its visitor to each step of a hand-over that another browser began.
#[tokio::test]
async fn a_ticket_is_for_the_browser_that_began() {
    let stage = Plan { dialect: Dialect::C, pbx: COOKIE, ..Plan::default() }.start().await;
    // At the first step: the visitor has no cookie of the host where the page began.
    let (_, path) = ticket(&stage).await;
    let sent = open(&stage, &format!("https://pbx.test{path}"), "").await.expect(303);
    let back = sent.header("location").to_owned();
    assert!(back.starts_with("https://app.test/auth/callgate/ticket?t="), "{back}");
    open(&stage, &back, sent.header("set-cookie")).await.expect(403);
    // On the way back.
    let (_, path) = ticket(&stage).await;
    let sent = open(&stage, &format!("https://pbx.test{path}"), "").await.expect(303);
    open(&stage, sent.header("location"), "").await.expect(403);
    // At the end.
    let (cookie, path) = ticket(&stage).await;
    let sent = open(&stage, &format!("https://pbx.test{path}"), "").await.expect(303);
    let known = open(&stage, sent.header("location"), &cookie).await.expect(303);
    let last = known.header("location").to_owned();
    assert!(last.starts_with("https://pbx.test/auth/callgate/ticket?t="), "{last}");
    let visitor = open(&stage, &last, "__Host-callgate.browser=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").await;
    assert_eq!(visitor.expect(403).header("set-cookie"), "");
    stage.gate.line(&["audit refusal", "account=40@acme.test", "another browser began this login"]).await;
    assert!(stage.minted().is_empty());
    // The browser that began, by top-level requests only.
    let (cookie, path) = ticket(&stage).await;
    let sent = open(&stage, &format!("https://pbx.test{path}"), "").await.expect(303);
    let known = open(&stage, sent.header("location"), &cookie).await.expect(303);
    let landed = open(&stage, known.header("location"), sent.header("set-cookie")).await.expect(200);
    check_step(&landed, "/thirdparty.htm");
    assert!(stage.pbx.requests().iter().all(|seen| !seen.header("cookie").unwrap_or_default().contains("__Host-")));
}

/// A server at the host where a hand-over began could lead the visitor through all steps.
#[tokio::test]
async fn no_hand_over_begins_at_a_foreign_host() {
    let stage = Plan { dialect: Dialect::C, pbx: COOKIE, ..Plan::default() }.start().await;
    let cookie = stage.app.log_in("alice");
    let ask =
        |host: &str| format!("GET /auth/pbx HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n");
    for host in ["evil.test", "app.test.evil.test", "a.x.app.test", "192.0.2.1", "[2001:db8::1]"] {
        let answer = stage.gate.exchange(ask(host).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 421 ") && !answer.contains("callgate.browser"), "{host}: {answer}");
    }
    stage.gate.line(&["audit refusal", "names the host where it begins"]).await;
    assert!(stage.minted().is_empty());
    for host in ["app.test", "x.app.test", "Other.test.", "localhost"] {
        let answer = stage.gate.exchange(ask(host).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 303 "), "{host}: {answer}");
    }
    let app = "hosts = [\"unnamed.test\"]\nwhoami = \"/api/me\"";
    let stage = Plan { dialect: Dialect::C, pbx: COOKIE, app, ..Plan::default() }.start().await;
    let cookie = stage.app.log_in("alice");
    let asking =
        format!("GET /auth/pbx HTTP/1.1\r\nHost: unnamed.test\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n");
    let answer = stage.gate.exchange(asking.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 303 "), "{answer}");
    // With hosts that are listed, a wildcard of the certificate names none.
    let answer = stage.gate.exchange(asking.replace("unnamed.test", "x.app.test").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
}

#[tokio::test]
async fn a_ticket_carries_the_cookie_to_the_other_host_once() {
    let stage = Plan { dialect: Dialect::B, pbx: COOKIE, ..Plan::default() }.start().await;
    let (cookie, path) = ticket(&stage).await;
    assert!(path.starts_with("/auth/callgate/ticket?t="), "{path}");
    let answer = stage.redeem(&cookie, &format!("https://pbx.test{path}")).await.expect(200);
    check_step(&answer, "/thirdparty.htm");
    let session = stage.pbx.last_session().unwrap();
    assert!(answer.header("set-cookie").starts_with(&format!("session={session};")));
    let again = stage.gate.get(&path).host("pbx.test").send().await.expect(403);
    assert_eq!(again.header("set-cookie"), "");
    assert_eq!((stage.minted().len(), stage.pbx.sessions().len()), (1, 1));
}

// === A ticket stands for a grant ===

/// Reads the audit lines of a kind.
fn audited(stage: &Stage, kind: &str) -> Vec<String> {
    stage.gate.log().lines().filter(|line| line.contains(kind)).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_browser_that_never_arrives_costs_no_session() {
    let stage = Plan { dialect: Dialect::C, pbx: COOKIE, ..Plan::default() }.start().await;
    ticket(&stage).await;
    let (_, path) = ticket(&stage).await;
    let sent = open(&stage, &format!("https://pbx.test{path}"), "").await.expect(303);
    assert!(sent.header("location").starts_with("https://app.test/"));
    assert!(stage.pbx.requests().is_empty(), "{:?}", stage.pbx.requests());
    stage.gate.line(&["audit ticket", "account=40@acme.test", "rule=staff"]).await;
    assert!(audited(&stage, "audit grant").is_empty());
}

/// The audit log has one grant, at the redemption, with the facts of the caller and the request that began.
#[tokio::test]
async fn the_session_is_opened_and_audited_when_the_ticket_is_redeemed() {
    let top = "[server]\nbelieve_forwarded_from = [\"127.0.0.1\"]\n";
    let stage = Plan { dialect: Dialect::C, pbx: COOKIE, top, ..Plan::default() }.start().await;
    let began = stage.as_alice("/auth/pbx?lang=fr").header("x-forwarded-for", "192.0.2.7").send().await.expect(303);
    let begun = began.header("x-request-id").to_owned();
    let line = stage.gate.line(&["audit ticket", &format!("id={begun}")]).await;
    let facts = ["client=192.0.2.7", "method=app", "subject=alice", "rule=staff", "account=40@acme.test", "level=user"];
    assert!(facts.iter().all(|fact| line.contains(fact)), "{line}");
    let landed = stage.redeem(began.header("set-cookie"), began.header("location")).await.expect(200);
    let id = landed.header("x-request-id").to_owned();
    let line = stage.gate.line(&["audit grant", &format!("id={id}")]).await;
    assert!(facts.iter().all(|fact| line.contains(fact)), "{line}");
    assert!(line.contains(&format!("begun={begun} redeemed_from=127.0.0.1")), "{line}");
    assert_eq!((audited(&stage, "audit grant").len(), audited(&stage, "audit ticket").len()), (1, 1));
    assert_eq!(stage.pbx.sessions()[0].lang, "fr");
}

#[tokio::test]
async fn limits_are_counted_once_for_each_grant() {
    let limits = "account = \"2/min\"\ncaller = \"2/min\"\nclient = \"1000/min\"";
    let stage = Plan { dialect: Dialect::C, pbx: COOKIE, limits, ..Plan::default() }.start().await;
    stage.gate.logins.are_not_explained();
    for _ in 0..2 {
        let began = stage.as_alice("/auth/pbx").send().await.expect(303);
        stage.redeem(began.header("set-cookie"), began.header("location")).await.expect(200);
    }
    stage.as_alice("/auth/pbx").send().await.expect(429);
}

#[tokio::test]
async fn a_link_is_spent_when_its_ticket_is_given_out() {
    let rules = method("confirm = \"never\"");
    let stage = Plan { dialect: Dialect::C, pbx: COOKIE, rules: &rules, ..Plan::default() }.start().await;
    let link = link();
    let began = stage.gate.get(&link).send().await.expect(303);
    stage.gate.get(&link).send().await.expect(401);
    assert!(stage.minted().is_empty());
    stage.redeem(began.header("set-cookie"), began.header("location")).await.expect(200);
    stage.gate.get(&link).send().await.expect(401);
    assert_eq!(stage.minted(), ["40@acme.test"]);
}

#[tokio::test]
async fn of_two_redemptions_at_once_one_opens_a_session() {
    let stage = Plan { dialect: Dialect::C, pbx: COOKIE, ..Plan::default() }.start().await;
    let (cookie, path) = ticket(&stage).await;
    let sent = open(&stage, &format!("https://pbx.test{path}"), "").await.expect(303);
    let known = open(&stage, sent.header("location"), &cookie).await.expect(303);
    let redeem = || open(&stage, known.header("location"), sent.header("set-cookie"));
    let (one, two, three) = tokio::join!(redeem(), redeem(), redeem());
    let mut statuses = [one, two, three].map(|answer| answer.status.as_u16());
    statuses.sort_unstable();
    assert_eq!((statuses, stage.minted().len()), ([200, 403, 403], 1));
}

/// The account is frozen between two steps, and while the PBX is asked.
#[tokio::test]
async fn a_freeze_holds_at_every_step_of_a_hand_over() {
    let stage = Plan { dialect: Dialect::C, pbx: COOKIE, ..Plan::default() }.start().await;
    let order = |path: &str| {
        let order = r#"{"whom":"account 40@acme.test"}"#;
        let head = format!("POST /{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
        let answer = stage.gate.tell(&format!("{head}Content-Length: {}\r\n\r\n{order}", order.len()));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    };
    for steps in 0..3 {
        let (cookie, path) = ticket(&stage).await;
        let mut next = format!("https://pbx.test{path}");
        let mut cookies = [String::new(), cookie];
        for step in 0..steps {
            let answer = open(&stage, &next, &cookies[step % 2]).await.expect(303);
            next = answer.header("location").to_owned();
            if step == 0 {
                cookies[0] = answer.header("set-cookie").to_owned();
            }
        }
        order("freeze");
        let refused = open(&stage, &next, &cookies[steps % 2]).await.expect(403);
        stage.gate.line(&["audit refusal", refused.header("x-request-id"), "40@acme.test", "is frozen"]).await;
        order("thaw");
    }
    assert!(stage.minted().is_empty());
    let (cookie, path) = ticket(&stage).await;
    stage.pbx_does(|faults| faults.head_delay = Duration::from_secs(2));
    let freeze = async {
        until("a question to the PBX", || !stage.pbx.mints().is_empty()).await;
        order("freeze");
    };
    let address = format!("https://pbx.test{path}");
    let (refused, ()) = tokio::join!(stage.redeem(&cookie, &address), freeze);
    assert_eq!(refused.expect(403).header("set-cookie"), "");
    assert!(audited(&stage, "audit grant").is_empty());
}

/// A reload takes the rule of a ticket away, or lets it grant more.
#[tokio::test]
async fn a_ticket_is_worth_no_more_than_its_rule() {
    for (before, after) in [
        ("name = \"staff\"", "name = \"others\""),
        ("account = \"{ext}\" }", "level = \"domain\" }\nauth = \"app\""),
        ("account = \"{ext}\" }", "level = \"admin\" }\nauth = \"app\""),
    ] {
        let mut stage = Plan { dialect: Dialect::C, pbx: COOKIE, ..Plan::default() }.start().await;
        let (cookie, path) = ticket(&stage).await;
        let text = stage.gate.text.clone();
        assert!(text.contains(before));
        stage.gate.reload(&text.replace(before, after)).await.unwrap();
        stage.redeem(&cookie, &format!("https://pbx.test{path}")).await.expect(403);
        assert!(stage.minted().is_empty(), "{after}");
    }
}

// === A page that offers the login again ===

/// Checks a page that offers the login again, and what a program is told instead.
async fn check_offer(stage: &Stage, address: &str, cookie: &str, status: u16, login: Option<&str>) {
    let (host, path) = address.strip_prefix("https://").unwrap().split_once('/').unwrap();
    let asking = stage.gate.get(&format!("/{path}")).host(host).header("accept", NAVIGATION);
    let page = if cookie.is_empty() { asking } else { asking.cookie(cookie.split(';').next().unwrap()) };
    let page = page.send().await.expect(status);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let link = login.map(|login| format!("<a href=\"{login}\">Log in again</a>"));
    match link {
        Some(link) => assert!(page.text().contains(&link), "{}", page.text()),
        None => assert!(!page.text().contains("Log in"), "{}", page.text()),
    }
    assert_eq!(
        (page.header("location"), page.header("set-cookie"), page.header("cache-control")),
        ("", "", "no-store")
    );
}

#[tokio::test]
async fn a_used_ticket_shows_a_page_that_offers_the_login_again() {
    for host in ["app.test", "app.test:8443"] {
        let stage = Plan { dialect: Dialect::C, pbx: COOKIE, ..Plan::default() }.start().await;
        let began = stage.as_alice("/auth/pbx").host(host).send().await.expect(303);
        let used = began.header("location").to_owned();
        let login = format!("https://{host}/auth/pbx");
        open(&stage, &used, "").await.expect(303);
        check_offer(&stage, &used, "", 403, Some(&login)).await;
        let (_, path) = used.strip_prefix("https://").unwrap().split_once('/').unwrap();
        let program = stage.gate.get(&format!("/{path}")).host("pbx.test").send().await.expect(403).json();
        assert_eq!((&program["error"], program.get("login")), (&json!("forbidden"), None));
        // The address is that of the ticket, however the request is written.
        let (ticket, text) = used.split_at(used.len() - 4);
        for other in [format!("{ticket}AAAA"), format!("{used}A"), format!("{}{text}", &ticket[..ticket.len() - 4])] {
            check_offer(&stage, &other, "", 403, None).await;
        }
        let forwarded = stage.gate.get(&format!("/{path}")).host("pbx.test").header("accept", NAVIGATION);
        let forwarded = forwarded.header("x-forwarded-host", "evil.test").header("referer", "https://evil.test/");
        assert!(!forwarded.send().await.expect(403).text().contains("evil"));
    }
}

/// The person follows the offer, and gets in.
#[tokio::test]
async fn the_offer_of_a_ticket_of_another_browser_leads_to_a_login_of_its_own() {
    let stage = Plan { dialect: Dialect::C, pbx: COOKIE, ..Plan::default() }.start().await;
    let (_, path) = ticket(&stage).await;
    let sent = open(&stage, &format!("https://pbx.test{path}"), "").await.expect(303);
    check_offer(&stage, sent.header("location"), "", 403, Some("https://app.test/auth/pbx")).await;
    let began = stage.as_user("bob", "/auth/pbx").send().await.expect(303);
    stage.redeem(began.header("set-cookie"), began.header("location")).await.expect(200);
    assert_eq!(stage.minted(), ["41@acme.test"]);
}

/// A redirect of the app is repeated by the app, and a server's ticket by that server.
#[tokio::test]
async fn the_offer_leads_where_the_login_began() {
    let rules = format!(
        "[[auth]]\nname = \"crm\"\ntype = \"key\"\nsha256 = \"{}\"\nscopes = [\"pbx\"]\ndomains = [\"acme.test\"]\n{STAFF}\
         [[allow]]\nauth = [\"redirect\", \"crm\"]\npbx = {{ domain = \"{{domain}}\", account = \"{{account}}\" }}\n",
        hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, KEY.as_bytes()))
    );
    let stage = Plan { dialect: Dialect::C, pbx: COOKIE, rules: &rules, ..Plan::default() }.start().await;
    let named = "/grant?to=%2Fthirdparty.htm&account=41&domain=acme.test";
    let led = stage.gate.get(named).send().await.expect(302).header("location").to_owned();
    open(&stage, &led, "").await.expect(303);
    check_offer(&stage, &led, "", 403, Some("https://app.test/")).await;
    let body = json!({ "account": "40", "domain": "acme.test" }).to_string();
    let asked = stage.gate.post("/auth/pbx", "application/json", body).bearer(KEY).send().await.expect(200).json();
    let sent = asked["url"].as_str().unwrap();
    open(&stage, sent, "").await.expect(200);
    check_offer(&stage, sent, "", 403, None).await;
}

#[tokio::test]
async fn a_session_that_cannot_be_opened_on_the_way_offers_the_login_again() {
    let stage = Plan { dialect: Dialect::C, pbx: COOKIE, ..Plan::default() }.start().await;
    for (scope, status) in [(Scope::Mint, 502), (Scope::Exchange, 502)] {
        let (cookie, path) = ticket(&stage).await;
        let sent = open(&stage, &format!("https://pbx.test{path}"), "").await.expect(303);
        let known = open(&stage, sent.header("location"), &cookie).await.expect(303);
        stage.pbx_does(|faults| (faults.scope, faults.wrong) = (scope, Wrong::Html));
        let last = known.header("location");
        check_offer(&stage, last, sent.header("set-cookie"), status, Some("https://app.test/auth/pbx")).await;
        stage.gate.line(&["audit refusal", "account=40@acme.test", "begun=", "the answer of the PBX"]).await;
        stage.pbx_does(|faults| faults.wrong = Wrong::Nothing);
        // The ticket is used up, and the login begins again.
        check_offer(&stage, last, sent.header("set-cookie"), 403, Some("https://app.test/auth/pbx")).await;
    }
    assert!(audited(&stage, "audit grant").is_empty());
    let began = stage.as_alice("/auth/pbx").send().await.expect(303);
    stage.redeem(began.header("set-cookie"), began.header("location")).await.expect(200);
}

// === A program that asks ===

#[tokio::test]
async fn a_program_gets_a_session_and_a_ticket_for_another() {
    let stage = Plan { dialect: Dialect::C, pbx: COOKIE, ..Plan::default() }.start().await;
    let asking = stage.alice_posts("/auth/pbx", "application/json", "{}");
    let answer = asking.header("accept", "application/vnd.callgate+json").send().await.expect(200);
    let told = answer.json();
    assert_eq!((&told["session"], &told["expires_in"]), (&json!(stage.pbx.last_minted().unwrap()), &json!(10)));
    let landed = stage.redeem(answer.header("set-cookie"), told["url"].as_str().unwrap()).await.expect(200);
    let cookie = landed.header("set-cookie").split(';').next().unwrap().to_owned();
    assert!(!cookie.contains(told["session"].as_str().unwrap()));
    let body = json!({ "name": "session", "value": told["session"] }).to_string();
    let taken = stage.gate.post("/rest/system/session", "application/json", body).host("pbx.test").send().await;
    assert_eq!(taken.expect(200).text(), "true");
    assert_eq!((stage.minted().len(), audited(&stage, "audit grant").len()), (2, 2));
}

#[tokio::test]
async fn a_ticket_is_for_one_host_only() {
    let stage = Plan { dialect: Dialect::B, pbx: COOKIE, ..Plan::default() }.start().await;
    for host in ["app.test", "acme.test"] {
        let (_, path) = ticket(&stage).await;
        stage.gate.get(&path).host(host).send().await.expect(403);
        stage.gate.get(&path).host("pbx.test").send().await.expect(403);
    }
    stage.gate.get("/auth/callgate/ticket?t=unknown").host("pbx.test").send().await.expect(403);
    stage.gate.get("/auth/callgate/ticket").host("pbx.test").send().await.expect(400);
    stage.gate.post("/auth/callgate/ticket", "text/plain", "").host("pbx.test").send().await.expect(405);
    stage.gate.get("/auth/callgate/other").host("pbx.test").send().await.expect(404);
    assert!(stage.pbx.sessions().is_empty());
}

#[tokio::test]
async fn looking_ahead_does_not_use_a_ticket_up() {
    let stage = Plan { dialect: Dialect::B, pbx: COOKIE, ..Plan::default() }.start().await;
    let (cookie, path) = ticket(&stage).await;
    for purpose in ["prefetch", "prefetch;prerender"] {
        let ahead = stage.gate.get(&path).host("pbx.test").header("sec-purpose", purpose).send().await.expect(503);
        assert_eq!(ahead.header("cache-control"), "no-store");
    }
    stage.gate.ask(Method::HEAD, &path).host("pbx.test").send().await.expect(503);
    stage.redeem(&cookie, &format!("https://pbx.test{path}")).await.expect(200);
}
