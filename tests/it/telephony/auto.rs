//! `[pbx] auto`: a page of the PBX without a session leads to the login and back.

use http::Method;
use serde_json::json;

use crate::kit::client::RequestBuilder;
use crate::kit::stage::{Plan, Stage, until};
use crate::kit::visitor::{Visitor, split};
use crate::kit::vodia::{Dialect, Scope, Wrong};

const BOOKMARK: &str = "https://pbx.test/usr_index.htm?view=calls&day=2026-11-29";

/// A PBX on a host of its own.
async fn two_hosts(dialect: Dialect, more: &str) -> Stage {
    start(dialect, "hosts = [\"pbx.test\"]", "auto = \"https://app.test\"", more).await
}

/// App and PBX on one host, parted by paths.
async fn one_host(dialect: Dialect, more: &str) -> Stage {
    let paths =
        "hosts = [\"app.test\"]\npaths = [\"/usr_index.htm\", \"/welcome.htm\", \"/thirdparty.htm\", \"/rest/\"]";
    start(dialect, paths, "auto = true", more).await
}

async fn start(dialect: Dialect, hosts: &str, auto: &str, more: &str) -> Stage {
    let handoff = if dialect == Dialect::A { "link" } else { "cookie" };
    let pbx = format!("handoff = \"{handoff}\"\n{auto}\n{more}");
    Plan { dialect, hosts, pbx: &pbx, ..Plan::default() }.start().await
}

fn alice(stage: &Stage) -> Visitor<'_> {
    Visitor::new(&stage.gate).has("app.test", &stage.app.log_in("alice"))
}

/// A window that opens a path on the PBX's host.
fn window<'s>(stage: &'s Stage, path: &str) -> RequestBuilder<'s> {
    let asking = stage.gate.get(path).host("pbx.test").header("accept", "text/html");
    asking.header("sec-fetch-mode", "navigate").header("sec-fetch-dest", "document").header("sec-fetch-site", "none")
}

/// How often the PBX was asked for the state of a session.
fn questions(stage: &Stage) -> usize {
    let asked = stage.pbx.requests();
    asked.iter().filter(|seen| seen.method == "GET" && seen.target == "/rest/system/session").count()
}

// === The way there and back ===

#[tokio::test]
async fn a_bookmark_without_a_session_ends_at_the_same_page() {
    for dialect in [Dialect::A, Dialect::B, Dialect::C] {
        for old in [None, Some("session=g7lsrphhrkim1jkvbt88")] {
            let stage = two_hosts(dialect, "").await;
            let mut alice = old.into_iter().fold(alice(&stage), |alice, old| alice.has("pbx.test", old));
            let (end, portal) = alice.open(BOOKMARK).await;
            assert_eq!(end, BOOKMARK, "{dialect:?}: {:#?}", alice.asked);
            assert!(portal.text().contains("data-user=\"40\""), "{dialect:?}: {}", portal.text());
            assert_eq!(stage.minted(), ["40@acme.test"]);
            let session = stage.pbx.last_session().unwrap();
            assert!(alice.asked.iter().all(|asked| !asked.contains(&session)), "{:#?}", alice.asked);
            let line = stage.gate.line(&["audit grant", "account=40@acme.test"]).await;
            assert!(line.contains("method=app"), "{line}");
            // The next page has its session, and asks for nothing.
            let asked = alice.asked.len();
            alice.open("https://pbx.test/").await;
            assert_eq!((alice.asked.len(), stage.minted().len()), (asked + 1, 1));
        }
    }
}

#[tokio::test]
async fn on_one_host_the_way_is_short() {
    for dialect in [Dialect::A, Dialect::C] {
        let stage = one_host(dialect, "").await;
        let mut alice = alice(&stage);
        let (end, portal) = alice.open("https://app.test/usr_index.htm?a=1").await;
        assert_eq!(end, "https://app.test/usr_index.htm?a=1", "{:#?}", alice.asked);
        assert!(portal.text().contains("data-user=\"40\""), "{}", portal.text());
        assert_eq!((alice.asked.len(), stage.minted().len()), (4, 1), "{:#?}", alice.asked);
    }
}

#[tokio::test]
async fn a_live_session_is_asked_about_once_and_needs_no_login() {
    for dialect in [Dialect::A, Dialect::B, Dialect::C] {
        let stage = two_hosts(dialect, "").await;
        let session = format!("session={}", stage.pbx.open_session("41", "acme.test"));
        let mut bob = alice(&stage).has("pbx.test", &format!("acct_table#pageNavPos=1; {session}"));
        bob = bob.has("pbx.test", &session);
        for _ in 0..5 {
            let (end, portal) = bob.open(BOOKMARK).await;
            assert_eq!(end, BOOKMARK);
            assert!(portal.text().contains("data-user=\"41\""), "{}", portal.text());
        }
        assert_eq!((bob.asked.len(), questions(&stage), stage.minted().len()), (5, 1, 0));
        let asked = stage.pbx.requests().into_iter().find(|seen| seen.target == "/rest/system/session").unwrap();
        assert_eq!((asked.header("cookie"), asked.header("host")), (Some(&*session), Some("pbx.test")));
        assert_eq!(asked.header("authorization"), None);
        let metrics = stage.gate.told("/metrics");
        assert!(metrics.contains("callgate_session_checks_total{state=\"alive\"} 1"), "{metrics}");
    }
}

#[tokio::test]
async fn many_requests_at_once_are_one_question() {
    let stage = two_hosts(Dialect::A, "").await;
    stage.pbx_does(|faults| {
        faults.scope = Scope::Describe;
        faults.head_delay = std::time::Duration::from_millis(300);
    });
    let session = format!("session={}", stage.pbx.open_session("40", "acme.test"));
    let asking = (0..12).map(|_| window(&stage, "/usr_index.htm").cookie(&session).send());
    for answer in futures_util::future::join_all(asking).await {
        assert!(answer.expect(200).text().contains("data-user=\"40\""));
    }
    assert_eq!(questions(&stage), 1);
}

#[tokio::test]
async fn while_the_pbx_does_not_tell_pages_pass_as_they_are() {
    for wrong in [Wrong::Hang, Wrong::Html, Wrong::Huge, Wrong::Drop, Wrong::Status(http::StatusCode::BAD_GATEWAY)] {
        let stage = two_hosts(Dialect::A, "timeout = \"300ms\"").await;
        stage.pbx_does(|faults| (faults.scope, faults.wrong) = (Scope::Describe, wrong.clone()));
        for _ in 0..2 {
            let answer =
                window(&stage, "/usr_index.htm").cookie("session=g7lsrphhrkim1jkvbt88").send().await.expect(200);
            assert!(answer.text().contains("data-page=\"login\""), "{wrong:?}: {}", answer.text());
        }
        assert_eq!((questions(&stage), stage.minted().len()), (1, 0), "{wrong:?}");
    }
}

#[tokio::test]
async fn the_markers_of_a_live_session_can_be_set() {
    let stage = two_hosts(Dialect::C, "logged_in = { admin = true }").await;
    // A user is no administrator: by this marker the session is over.
    let session = format!("session={}", stage.pbx.open_session("40", "acme.test"));
    window(&stage, "/usr_index.htm").cookie(&session).send().await.expect(303);
    let stage = two_hosts(Dialect::C, "logged_in = { domain = [\"acme.test\"] }").await;
    let session = format!("session={}", stage.pbx.open_session("40", "acme.test"));
    window(&stage, "/usr_index.htm").cookie(&session).send().await.expect(200);
}

#[tokio::test]
async fn wrong_markers_are_told_and_keep_no_person_out() {
    let stage = two_hosts(Dialect::C, "logged_in = { nothing = true }").await;
    let mut alice = alice(&stage);
    let (end, portal) = alice.open(BOOKMARK).await;
    assert_eq!((end.as_str(), stage.minted().len()), (BOOKMARK, 1), "{:#?}", alice.asked);
    assert!(portal.text().contains("data-user=\"40\""), "{}", portal.text());
    assert!(stage.gate.events().contains("see logged_in of [pbx]"), "{}", stage.gate.events());
}

// === Only windows ===

#[tokio::test]
async fn only_a_window_that_opens_a_page_is_led_away() {
    let stage = two_hosts(Dialect::A, "").await;
    let window = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"), ("accept", "text/html")];
    let (mode, dest, html) = (window[0], window[1], window[2]);
    let kinds: [&[(&str, &str)]; 15] = [
        &[],
        &[("accept", "*/*")],
        &[mode, ("sec-fetch-dest", "iframe"), html],
        &[mode, ("sec-fetch-dest", "frame"), html],
        &[mode, ("sec-fetch-dest", "embed"), html],
        &[("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty"), html],
        &[("sec-fetch-mode", "same-origin"), ("sec-fetch-dest", "empty"), html],
        &[("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "empty"), ("sec-purpose", "prefetch")],
        &[mode, dest, html, ("sec-purpose", "prefetch;prerender")],
        &[html, ("x-requested-with", "XMLHttpRequest")],
        &[mode, dest, html, ("authorization", "Basic NDA6QWxpY2UtUGFzc3cwcmQh")],
        &[mode, dest, html, ("service-worker", "script")],
        &[html, ("user-agent", "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)")],
        &[mode, mode, dest, html],
        &[("sec-fetch-site", "none"), html],
    ];
    for fields in kinds {
        let asking = stage.gate.get("/usr_index.htm").host("pbx.test");
        let answer = fields.iter().fold(asking, |asking, (name, value)| asking.header(name, value)).send().await;
        assert_eq!((answer.status.as_u16(), answer.header("set-cookie")), (200, ""), "{fields:?}");
    }
    for method in [Method::HEAD, Method::POST, Method::PUT] {
        let asking = stage.gate.ask(method.clone(), "/usr_index.htm").host("pbx.test");
        let answer = window.iter().fold(asking, |asking, (name, value)| asking.header(name, value)).send().await;
        assert_eq!((answer.header("location"), answer.header("set-cookie")), ("", ""), "{method}");
    }
    for path in
        ["/audio.wav", "/0004132f.cfg", "/rest/system/localization/en", "/welcome.htm?sessId=g7lsrphhrkim1jkvbt88"]
    {
        let asking = stage.gate.get(path).host("pbx.test");
        let answer = window.iter().fold(asking, |asking, (name, value)| asking.header(name, value)).send().await;
        assert_eq!((answer.header("location"), answer.header("set-cookie")), ("", ""), "{path}");
    }
    assert_eq!(questions(&stage), 0);
    // Browsers without Fetch Metadata count by what they accept.
    stage.gate.get("/usr_index.htm").host("pbx.test").header("accept", "text/html").send().await.expect(303);
}

#[tokio::test]
async fn without_auto_nothing_is_asked_and_nothing_led() {
    let stage = Stage::new().await;
    window(&stage, "/").cookie("session=g7lsrphhrkim1jkvbt88").send().await.expect(200);
    window(&stage, "/auth/callgate/page?state=x").send().await.expect(404);
    assert_eq!((questions(&stage), stage.pbx.requests().len()), (0, 1));
}

#[tokio::test]
async fn where_the_shield_keeps_strangers_out_no_login_begins() {
    let stage = two_hosts(Dialect::A, "shield = { from = [\"192.0.2.0/24\"] }").await;
    let mut alice = alice(&stage);
    alice.open("https://pbx.test/reg_domains.htm").await.1.expect(403);
    assert_eq!(alice.asked.len(), 1);
    let (end, portal) = alice.open(BOOKMARK).await;
    assert_eq!(end, BOOKMARK);
    assert!(portal.text().contains("data-user=\"40\""), "{}", portal.text());
}

// === No loop ===

#[tokio::test]
async fn a_browser_that_does_not_keep_the_session_stops_at_a_page_that_says_so() {
    for dialect in [Dialect::A, Dialect::C] {
        for (stage, address, dropped, most) in [
            (two_hosts(dialect, "").await, BOOKMARK, "session", 6),
            (two_hosts(dialect, "").await, BOOKMARK, "", 5),
            (two_hosts(dialect, "").await, BOOKMARK, "__Host-callgate", 5),
            (one_host(dialect, "").await, "https://app.test/usr_index.htm", "", 4),
            (one_host(dialect, "").await, "https://app.test/usr_index.htm", "session", 4),
        ] {
            let mut alice = alice(&stage).dropping(dropped);
            alice.open(address).await.1.expect(403);
            assert!(alice.asked.len() <= most, "{dropped:?}: {:#?}", alice.asked);
            assert!(stage.minted().len() <= 1, "{dropped:?}");
        }
    }
    let stage = one_host(Dialect::C, "").await;
    let mut alice = alice(&stage).dropping("");
    let (end, page) = alice.open("https://app.test/usr_index.htm?a=1").await;
    assert!(split(&end).1.starts_with("/auth/callgate/page?state="), "{end}");
    let text = page.expect(403).text().to_owned();
    assert!(
        text.contains("your browser keeps no cookies") && text.contains("/usr_index.htm?a=1&amp;callgate=off"),
        "{text}"
    );
    stage.gate.line(&["access", "/auth/callgate/page", "reason=login_not_kept"]).await;
}

#[tokio::test]
async fn a_second_attempt_within_a_minute_takes_a_click() {
    let stage = two_hosts(Dialect::A, "").await;
    // The login fails: the PBX opens no session.
    stage.pbx_does(|faults| (faults.scope, faults.wrong) = (Scope::Mint, Wrong::Drop));
    let mut alice = alice(&stage);
    alice.open(BOOKMARK).await.1.expect(502);
    let asked = alice.asked.len();
    let (end, page) = alice.open(BOOKMARK).await;
    assert_eq!((end.as_str(), alice.asked.len()), (BOOKMARK, asked + 1));
    let text = page.expect(403).text().to_owned();
    let again = text.split("href=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(again.starts_with("https://app.test/auth/pbx?state="), "{text}");
    stage.pbx_does(|faults| faults.wrong = Wrong::Nothing);
    let (end, portal) = alice.open(again).await;
    assert_eq!(end, BOOKMARK, "{:#?}", alice.asked);
    assert!(portal.text().contains("data-user=\"40\""), "{}", portal.text());
}

#[tokio::test]
async fn a_login_that_has_lasted_may_be_followed_by_another_at_once() {
    let stage = two_hosts(Dialect::C, "").await;
    let mut alice = alice(&stage);
    alice.open(BOOKMARK).await;
    alice.open(BOOKMARK).await;
    assert_eq!(stage.minted().len(), 1);
    alice.cookies.insert(("pbx.test".into(), "session".into()), "anotherdeadsession01".into());
    let (end, portal) = alice.open(BOOKMARK).await;
    assert_eq!((end.as_str(), stage.minted().len()), (BOOKMARK, 2), "{:#?}", alice.asked);
    assert!(portal.text().contains("data-user=\"40\""), "{}", portal.text());
}

// === Without a rule, without a login ===

#[tokio::test]
async fn a_caller_without_a_rule_gets_the_pbxs_own_page() {
    for dialect in [Dialect::A, Dialect::C] {
        let stage = two_hosts(dialect, "").await;
        stage.claims(json!({ "tenant": "acme.test" }));
        let mut alice = alice(&stage);
        let (end, page) = alice.open(BOOKMARK).await;
        assert_eq!(end, format!("{BOOKMARK}&callgate=off"));
        assert!(page.expect(200).text().contains("data-page=\"login\""));
        assert_eq!((alice.asked.len(), stage.minted().len()), (3, 0), "{:#?}", alice.asked);
        stage.gate.line(&["audit refusal"]).await;
        // The PBX's own page leads to others of its pages, which are left alone as well for a while.
        let (end, page) = alice.open("https://pbx.test/").await;
        assert_eq!((end.as_str(), alice.asked.len()), ("https://pbx.test/", 4));
        assert!(page.expect(200).text().contains("data-page=\"login\""));
    }
}

#[tokio::test]
async fn a_stranger_gets_the_pbxs_own_page_where_the_app_has_no_login_page() {
    let stage = two_hosts(Dialect::A, "").await;
    let mut stranger = Visitor::new(&stage.gate).dropping("");
    let (end, page) = stranger.open(BOOKMARK).await;
    assert_eq!(end, format!("{BOOKMARK}&callgate=off"));
    assert!(page.expect(200).text().contains("data-page=\"login\""));
    assert_eq!(stranger.asked.len(), 3);
}

#[tokio::test]
async fn a_stranger_logs_in_at_the_app_and_comes_back_to_the_page() {
    for dialect in [Dialect::A, Dialect::C] {
        let handoff = if dialect == Dialect::A { "link" } else { "cookie" };
        let pbx = format!("handoff = \"{handoff}\"\nauto = \"https://app.test\"");
        let app = "whoami = \"/api/me\"\nlogin = \"/?login\"";
        let stage = Plan { dialect, app, pbx: &pbx, ..Plan::default() }.start().await;
        let mut alice = Visitor::new(&stage.gate);
        let (end, page) = alice.open(BOOKMARK).await;
        assert_eq!(end, "https://app.test/?login", "{:#?}", alice.asked);
        assert!(page.expect(200).text().contains("data-page=\"app-login\""));
        // The login page may be opened again: the person is not proven yet.
        assert_eq!(alice.open("https://app.test/").await.0, "https://app.test/");
        assert!(stage.minted().is_empty());
        alice = alice.has("app.test", &stage.app.log_in("alice"));
        let (end, portal) = alice.open("https://app.test/").await;
        assert_eq!(end, BOOKMARK, "{:#?}", alice.asked);
        assert!(portal.text().contains("data-user=\"40\""), "{}", portal.text());
        // Once: afterwards the app's pages are the app's.
        assert_eq!(alice.open("https://app.test/").await.0, "https://app.test/");
        assert_eq!(stage.minted().len(), 1);
        let seen = [stage.app.requests(), stage.pbx.requests()].concat();
        let cookies: Vec<_> = seen.iter().filter_map(|seen| seen.header("cookie")).collect();
        assert!(cookies.iter().all(|cookies| !cookies.contains("__Host-callgate")), "{cookies:?}");
    }
}

#[tokio::test]
async fn an_administrator_asks_for_the_pbxs_own_login_page() {
    let stage = two_hosts(Dialect::A, "").await;
    let mut admin = alice(&stage);
    let (end, page) = admin.open("https://pbx.test/?callgate=off").await;
    assert_eq!((end.as_str(), admin.asked.len()), ("https://pbx.test/?callgate=off", 1));
    assert!(page.text().contains("data-page=\"login\""), "{}", page.text());
    let (_, page) = admin.open("https://pbx.test/").await;
    assert!(page.text().contains("data-page=\"login\""), "{}", page.text());
    assert_eq!(stage.minted().len(), 0);
}

#[tokio::test]
async fn who_logs_out_at_the_pbx_is_not_logged_in_again_at_once() {
    let stage = two_hosts(Dialect::C, "").await;
    let mut alice = alice(&stage);
    alice.open(BOOKMARK).await;
    let session = format!("session={}", stage.pbx.last_session().unwrap());
    let out = stage.gate.ask(Method::DELETE, "/rest/system/session").host("pbx.test").cookie(&session);
    let out = out.header("sec-fetch-mode", "cors").send().await.expect(200);
    let lines: Vec<_> =
        out.headers.get_all("set-cookie").iter().map(|line| line.to_str().unwrap().to_owned()).collect();
    for line in &lines {
        alice = alice.has("pbx.test", line);
    }
    let (end, page) = alice.open("https://pbx.test/").await;
    assert_eq!(end, "https://pbx.test/");
    assert!(page.text().contains("data-page=\"login\""), "{lines:?}: {}", page.text());
}

// === Attackers ===

#[tokio::test]
async fn a_link_on_another_site_shows_the_persons_own_page() {
    for dialect in [Dialect::A, Dialect::C] {
        let stage = two_hosts(dialect, "").await;
        // A live session whose cookie is `SameSite=Strict` does not come with the click.
        let session = stage.pbx.open_session("41", "acme.test");
        let bob = Visitor::new(&stage.gate).has("app.test", &stage.app.log_in("bob"));
        let mut bob = bob.has("pbx.test", &format!("session={session}; SameSite=Strict")).clicking_elsewhere();
        let (end, portal) = bob.open(BOOKMARK).await;
        assert_eq!((end.as_str(), stage.minted().len()), (BOOKMARK, 0), "{:#?}", bob.asked);
        assert!(portal.text().contains("data-user=\"41\""), "{}", portal.text());
        // Without one the person is logged in as themselves.
        let mut alice = alice(&stage).clicking_elsewhere();
        let (end, portal) = alice.open(BOOKMARK).await;
        assert_eq!(end, BOOKMARK, "{:#?}", alice.asked);
        assert!(portal.text().contains("data-user=\"40\""), "{}", portal.text());
    }
}

/// Opens a page as the attacker, and returns the state of the login that begins.
async fn state_of(stage: &Stage, host: &str) -> String {
    let asking = stage.gate.get("/usr_index.htm?attackers=page").host(host).header("accept", "text/html");
    let begun = asking.send().await.expect(303);
    begun.header("location").split_once("state=").unwrap().1.to_owned()
}

#[tokio::test]
async fn the_state_of_another_browser_plants_no_session() {
    for dialect in [Dialect::A, Dialect::C] {
        let stage = two_hosts(dialect, "").await;
        let state = state_of(&stage, "pbx.test").await;
        let mut alice = alice(&stage).clicking_elsewhere();
        let (end, portal) = alice.open(&format!("https://app.test/auth/pbx?state={state}")).await;
        assert_eq!(end, "https://pbx.test/usr_index.htm?attackers=page");
        assert!(portal.text().contains("data-user=\"40\""), "{}", portal.text());
        assert_eq!(stage.minted(), ["40@acme.test"]);
        // The attacker's own ticket is for the attacker's browser.
        let mallory = stage.as_user("bob", &format!("/auth/pbx?state={state}")).send().await.expect(303);
        let mut victim = Visitor::new(&stage.gate).clicking_elsewhere();
        victim.open(mallory.header("location")).await.1.expect(403);
        assert!(!victim.cookies.keys().any(|(_, name)| name == "session"), "{:?}", victim.cookies);
    }
}

#[tokio::test]
async fn a_state_opens_only_as_it_was_sealed() {
    let stage = two_hosts(Dialect::A, "").await;
    let state = state_of(&stage, "pbx.test").await;
    let changed = format!("{}{}", &state[..state.len() - 1], if state.ends_with('A') { 'B' } else { 'A' });
    for state in ["", "x", "https://evil.test/", "//evil.test/", &changed, &state[1..], &format!("{state}A")] {
        let answer = stage.as_alice(&format!("/auth/pbx?state={state}")).send().await.expect(303);
        let location = answer.header("location");
        assert!(location.starts_with("https://pbx.test/welcome.htm?sessId="), "{state}: {location}");
        window(&stage, &format!("/auth/callgate/page?state={state}")).send().await.expect(400);
    }
    // The state of one step is none of another step, and none of another host.
    window(&stage, &format!("/auth/callgate/page?state={state}")).send().await.expect(400);
    window(&stage, "/auth/callgate/page").send().await.expect(400);
    stage.as_alice(&format!("/auth/pbx?state={state}&next=/welcome.htm")).send().await.expect(400);
    let click = stage.gate.get("/usr_index.htm").host("pbx.test").header("sec-fetch-mode", "navigate");
    let click =
        click.header("sec-fetch-dest", "document").header("sec-fetch-site", "cross-site").send().await.expect(200);
    let step = click.text().split("url=").nth(1).unwrap().split('"').next().unwrap().to_owned();
    assert!(step.starts_with("/auth/callgate/page?state="), "{step}");
    let sealed = step.split_once("state=").unwrap().1;
    window(&stage, &step).send().await.expect(303);
    window(&stage, &step).host("app.test").send().await.expect(400);
    stage.as_alice(&format!("/auth/pbx?state={sealed}")).send().await.expect(303);
    for (name, value) in [("sec-fetch-dest", "iframe"), ("sec-purpose", "prefetch")] {
        let asking = stage.gate.get(&step).host("pbx.test").header("sec-fetch-mode", "navigate").header(name, value);
        assert!(asking.send().await.status.as_u16() >= 403);
    }
}

#[tokio::test]
async fn a_host_that_is_not_listed_gets_no_ticket() {
    // Any host name may be in a request, and here the PBX answers all of them.
    let hosts = "paths = [\"/usr_index.htm\", \"/welcome.htm\", \"/thirdparty.htm\", \"/rest/\"]";
    for dialect in [Dialect::A, Dialect::C] {
        let stage = start(dialect, hosts, "auto = true", "").await;
        let state = state_of(&stage, "evil.app.test").await;
        let mut alice = alice(&stage).clicking_elsewhere();
        let (end, _) = alice.open(&format!("https://app.test/auth/pbx?state={state}")).await;
        assert!(end.starts_with("https://app.test/"), "{end}");
        assert!(alice.asked.iter().all(|asked| split(asked).0 == "app.test"), "{:#?}", alice.asked);
    }
    let stage = two_hosts(Dialect::A, "").await;
    let asking = stage.gate.get("/usr_index.htm").host("pbx.test:8443").header("accept", "text/html");
    asking.send().await.expect(200);
}

#[tokio::test]
async fn neither_referrer_nor_log_tells_the_page_or_the_session() {
    let stage = two_hosts(Dialect::C, "").await;
    let mut alice = alice(&stage);
    alice.open(BOOKMARK).await;
    let begun = window(&stage, "/usr_index.htm?view=secret").send().await.expect(303);
    assert_eq!((begun.header("referrer-policy"), begun.header("cache-control")), ("no-referrer", "no-store"));
    assert!(!begun.header("location").contains("secret"));
    let state = begun.header("location").split_once("state=").unwrap().1.to_owned();
    stage.as_alice(&format!("/auth/pbx?state={state}")).send().await.expect(303);
    stage.gate.canary(state);
    until("the lines are written", || stage.gate.log().contains("state=***")).await;
}
