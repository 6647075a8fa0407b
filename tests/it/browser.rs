//! Tests in a real browser: cookies, sites, history, referrers, prefetch, one connection for two hosts.
//!
//! They need Chromium: `cargo test` skips them, `tests/run` runs them.

mod auto;
mod client_module;
mod client_types;
mod demo;
mod driver;
mod logout;
mod oidc;
mod page_kinds;
mod pages;
mod phone;
mod stage;
mod status;

use serde_json::json;

use self::stage::{BrowserSetup, Stage};

use crate::kit::app::SameSite;
use crate::kit::vodia::Dialect;

// === The three ways to open the PBX ===

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn link_script_and_redirect_open_a_legacy_pbx() {
    let stage = Stage::set(BrowserSetup::of(Dialect::A)).await;
    stage.log_in("alice").await;
    stage.browser.picture("portal").await;
    stage.browser.click("#open-link").await;
    stage.expect_portal("40", "en").await;
    stage.browser.picture("pbx").await;
    for (link, language) in [("fr", "fr"), ("sp", "sp"), ("de", "de")] {
        stage.browser.go("https://app.test/").await;
        stage.browser.click(&format!("a[href$='lang={link}']")).await;
        stage.expect_portal("40", language).await;
    }
    stage.browser.go("https://app.test/").await;
    stage.browser.click("#open-xhr").await;
    stage.expect_portal("40", "en").await;
    stage.browser.go("https://app.test/").await;
    stage.browser.click("#open-redirect").await;
    stage.expect_portal("40", "en").await;
    assert_eq!(stage.pbx.mints().len(), 6, "one mint for each click");
}

async fn check_cookies(dialect: Dialect) {
    let stage = Stage::set(BrowserSetup::of(dialect)).await;
    stage.log_in("bob").await;
    stage.browser.click("a[href$='lang=fr']").await;
    stage.expect_portal("41", "fr").await;
    stage.browser.go("https://app.test/open-pbx?lang=de").await;
    stage.expect_portal("41", "de").await;
    stage.browser.go("https://app.test/").await;
    stage
        .browser
        .run(
            "const accept = { Accept: 'application/vnd.callgate+json' };
             return fetch('/auth/pbx', { method: 'POST', headers: accept, body: '{\"lang\":\"sp\"}' })
                 .then((answer) => answer.json()).then((answer) => { document.location = answer.url; });",
        )
        .await;
    stage.expect_portal("41", "sp").await;
    assert_eq!(stage.pbx.mints().len(), 4, "one mint for each way, and one that the script itself gets");
    stage.expect_no_secret_outside_cookies().await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn link_script_and_redirect_open_a_transitional_pbx() {
    check_cookies(Dialect::B).await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn link_script_and_redirect_open_a_modern_pbx() {
    check_cookies(Dialect::C).await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn the_vendors_script_for_tokens_works_where_app_and_pbx_are_one_site() {
    let stage = Stage::set(BrowserSetup::of(Dialect::C).with_pbx_beside_app()).await;
    stage.log_in("alice").await;
    stage
        .browser
        .run(
            "return fetch('/auth/pbx', { method: 'POST', body: '{\"domain\":\"acme.test\",\"account\":\"40\"}' })
                 .then((answer) => answer.json())
                 .then((value) => fetch('https://pbx.app.test/rest/system/session',
                     { method: 'POST', credentials: 'include', body: JSON.stringify({ name: 'session', value }) }))
                 .then(() => { document.location = 'https://pbx.app.test/thirdparty.htm'; });",
        )
        .await;
    stage.expect_portal("40", "en").await;
    stage.expect_no_secret_outside_cookies().await;
}

// === A redirect of the app without a host ===

/// The app redirects to a reference without a host, in both hand-overs, with the PBX on a host of its own and on the app's.
#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_reference_of_the_app_opens_the_pbx() {
    for setting in [BrowserSetup::of(Dialect::A), BrowserSetup::of(Dialect::C)] {
        for setting in [setting, setting.with_pbx_beside_app(), setting.with_one_host()] {
            let stage = Stage::set(setting).await;
            stage.browser.go("https://app.test/grant?to=/welcome.htm%3Fa%3D1%23top&account=41&domain=acme.test").await;
            stage.expect_portal("41", "en").await;
            let end = stage.browser.run("return location.host + location.pathname + location.hash").await;
            let page = if setting.dialect == Dialect::A { "welcome.htm" } else { "thirdparty.htm" };
            assert_eq!(end, format!("{}/{page}#top", setting.pbx));
            let query = stage.browser.run("return location.search").await;
            assert!(query.as_str().unwrap().starts_with("?a=1"), "{query}");
            assert_eq!(stage.pbx.mints().len(), 1);
        }
    }
}

// === A hand-over that takes its time ===

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_browser_that_takes_longer_than_the_token_lives_gets_in() {
    for setting in [BrowserSetup::of(Dialect::C), BrowserSetup::of(Dialect::C).with_pbx_beside_app()] {
        let stage = Stage::set(setting.with_slow_way_to_the_pbx()).await;
        stage.log_in("alice").await;
        stage.browser.click("#open-link").await;
        stage.expect_portal("40", "en").await;
        assert_eq!(stage.pbx.mints().len(), 1);
        let [ticket, grant] = ["audit ticket", "audit grant"].map(|kind| [kind, "account=40@acme.test"]);
        let (ticket, grant) = (time(&stage.gate.line(&ticket).await), time(&stage.gate.line(&grant).await));
        assert!(grant.duration_since(ticket).as_secs() >= 10, "the token would be over: {ticket} and {grant}");
        stage.expect_no_secret_outside_cookies().await;
    }
}

/// Reads the time of a log line.
fn time(line: &str) -> jiff::Timestamp {
    line.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_used_ticket_offers_the_login_again() {
    let stage = Stage::set(BrowserSetup::of(Dialect::C)).await;
    stage.log_in("alice").await;
    let address = stage
        .browser
        .run(
            "const accept = { Accept: 'application/vnd.callgate+json' };
             return fetch('/auth/pbx', { method: 'POST', headers: accept, body: '{}' })
                 .then((answer) => answer.json()).then((answer) => answer.url);",
        )
        .await;
    let address = address.as_str().unwrap();
    stage.browser.go(address).await;
    stage.expect_portal("40", "en").await;
    // The address is in a history or a tab that is restored.
    stage.browser.go(address).await;
    stage.browser.find("a[href='https://app.test/auth/pbx']").await;
    stage.browser.picture("used-ticket").await;
    assert!(stage.browser.text().await.contains("Log in again"), "{}", stage.browser.text().await);
    stage.browser.click("a[href='https://app.test/auth/pbx']").await;
    stage.expect_portal("40", "en").await;
    stage.expect_no_secret_outside_cookies().await;
}

// === A click on a page of another site ===

async fn check_click_elsewhere(setting: BrowserSetup) {
    let stage = Stage::set(setting).await;
    stage.log_in("alice").await;
    stage.browser.go("http://third.test/").await;
    stage.browser.click("#link").await;
    stage.expect_portal("40", "fr").await;
    if setting.dialect != Dialect::A {
        stage.expect_no_secret_outside_cookies().await;
    }
    let referrer = stage.browser.run("return document.referrer").await;
    assert!(!referrer.as_str().unwrap().contains("/auth/"), "{referrer}");
    stage.browser.back().await;
    stage.browser.find("body[data-page=third]").await;
    assert_eq!(stage.pbx.mints().len(), 1, "neither the hand-over nor Back mints twice");
    if setting.app_cookie == SameSite::Lax {
        stage.browser.click("#redirect").await;
        stage.expect_portal("40", "de").await;
        stage.browser.back().await;
        stage.browser.find("body[data-page=third]").await;
    }
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_click_elsewhere_opens_a_legacy_pbx() {
    check_click_elsewhere(BrowserSetup::of(Dialect::A)).await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_click_elsewhere_opens_a_legacy_pbx_when_the_apps_cookie_is_strict() {
    check_click_elsewhere(BrowserSetup::of(Dialect::A).with_strict_app()).await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_click_elsewhere_opens_a_pbx_whose_cookie_is_strict() {
    check_click_elsewhere(BrowserSetup::of(Dialect::C)).await;
    check_click_elsewhere(BrowserSetup::of(Dialect::C).with_pbx_beside_app()).await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_click_elsewhere_opens_the_pbx_when_all_cookies_are_strict() {
    check_click_elsewhere(BrowserSetup::of(Dialect::C).with_strict_app()).await;
    check_click_elsewhere(BrowserSetup::of(Dialect::C).with_strict_app().with_pbx_beside_app()).await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_click_on_another_site_without_a_login_ends_at_a_page_that_says_so() {
    let stage = Stage::set(BrowserSetup::of(Dialect::C).with_strict_app()).await;
    stage.browser.go("http://third.test/").await;
    stage.browser.click("#link").await;
    stage.browser.find("h1").await;
    stage.browser.picture("unauthorized").await;
    assert!(stage.browser.text().await.contains("Connectez-vous d’abord"), "{}", stage.browser.text().await);
    stage.browser.back().await;
    stage.browser.find("body[data-page=third]").await;
    assert!(stage.pbx.mints().is_empty());
}

// === The web phone ===

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn the_web_phone_logs_in_by_one_time_key() {
    let stage = Stage::set(BrowserSetup::of(Dialect::A)).await;
    stage.log_in("alice").await;
    stage.browser.click("nav a[href='/phone']").await;
    stage.browser.find("body[data-page=app-phone][data-user=alice][data-state=ready]").await;
    stage.browser.picture("phone").await;
    // A parser that does not decode a form loses such a key.
    stage.cloud.set_tricky_keys(true);
    stage.browser.go("https://app.test/phone").await;
    stage.browser.find("body[data-page=app-phone][data-state=ready]").await;
    let key = stage.browser.run("return document.querySelector('#step-key code').textContent").await;
    assert!(key.as_str().unwrap().starts_with("k+x/=&%2F;+ y "), "{key}");
}

// === Browsers that look ahead ===

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn looking_ahead_mints_nothing_and_the_click_works() {
    let stage = Stage::set(BrowserSetup::of(Dialect::C)).await;
    stage.log_in("alice").await;
    let prefetched = stage
        .browser
        .run(
            "const link = Object.assign(document.createElement('link'), { rel: 'prefetch', href: '/auth/pbx?lang=en' });
             const ended = new Promise((end) => { link.onload = () => end('load'); link.onerror = () => end('error'); });
             document.head.append(link);
             return ended;",
        )
        .await;
    assert_eq!(prefetched, "error", "a prefetch is refused");
    assert!(stage.pbx.mints().is_empty(), "a prefetch mints nothing");
    stage.browser.click("#open-link").await;
    stage.expect_portal("40", "en").await;
    assert_eq!(stage.pbx.mints().len(), 1, "the click mints once");
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn speculating_mints_nothing_and_the_click_works() {
    for kind in ["prefetch", "prerender"] {
        let stage = Stage::set(BrowserSetup::of(Dialect::C)).await;
        stage.log_in("alice").await;
        let rules = format!(
            "const rules = document.createElement('script');
             rules.type = 'speculationrules';
             rules.text = JSON.stringify({{ {kind}: [{{ urls: ['/auth/pbx?lang=en'], eagerness: 'immediate' }}] }});
             document.head.append(rules);
             return fetch('/api/me').then(() => null);"
        );
        stage.browser.run(&rules).await;
        stage.browser.click("#open-link").await;
        stage.expect_portal("40", "en").await;
        assert_eq!(stage.pbx.mints().len(), 1, "the click mints once, {kind} never");
        assert!(stage.gate.log().contains("reason=prefetch"), "Chromium tried: {}", stage.gate.log());
    }
}

// === Other pages of the same site ===

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_sibling_host_gets_nothing_with_the_persons_cookies() {
    let stage = Stage::set(BrowserSetup::of(Dialect::A)).await;
    stage.log_in("alice").await;
    stage.browser.go("https://evil.app.test/echo").await;
    for call in [
        "fetch('https://app.test/auth/ott', { method: 'POST', credentials: 'include', body: new URLSearchParams({ key: 'k1' }) })",
        "fetch('https://app.test/auth/pbx', { method: 'POST', credentials: 'include', body: '{}' })",
        "fetch('https://app.test/auth/pbx', { credentials: 'include' })",
        "fetch('https://app.test/auth/pbx', { credentials: 'include', redirect: 'manual' })",
    ] {
        assert_eq!(stage.fetch(call).await, "TypeError: Failed to fetch", "{call}");
    }
    let unseen =
        "fetch('https://app.test/auth/pbx', { method: 'POST', credentials: 'include', mode: 'no-cors', body: '{}' })";
    assert_eq!(stage.fetch(unseen).await, 0, "an opaque answer");
    for shown in ["img", "iframe", "script"] {
        let shown = format!(
            "const shown = document.createElement('{shown}');
             const ended = new Promise((end) => {{ shown.onload = shown.onerror = () => end(null); }});
             shown.src = 'https://app.test/auth/pbx';
             document.body.append(shown);
             return ended;"
        );
        stage.browser.run(&shown).await;
    }
    let beside = "fetch('https://app.test/beside', { credentials: 'include', mode: 'no-cors' })";
    assert_eq!(stage.fetch(beside).await, 0, "an opaque answer");
    let seen = |target: &str| stage.app.requests().into_iter().filter(|seen| seen.target == target).collect::<Vec<_>>();
    assert!(seen("/beside")[0].header("cookie").is_some(), "the sibling's requests carry the cookie");
    assert!(seen("/api/me").is_empty(), "the app is not asked who its visitor is");
    assert!(stage.pbx.mints().is_empty(), "a sibling's request mints nothing: {:?}", stage.pbx.mints());
    assert!(!stage.gate.log().contains("audit grant"), "{}", stage.gate.log());
}

// === One connection for two hosts ===

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn both_hosts_are_kept_apart_on_one_connection() {
    let stage = Stage::set(BrowserSetup::of(Dialect::A).with_pbx_beside_app()).await;
    stage.browser.go("https://app.test/").await;
    stage.browser.find("body[data-page=app-login]").await;
    stage.browser.go("https://pbx.app.test/").await;
    stage.browser.find("body[data-page=login]").await;
    let answers: Vec<_> = stage
        .browser
        .network()
        .await
        .into_iter()
        .filter(|event| event["method"] == "Network.responseReceived" && event["params"]["type"] == "Document")
        .map(|mut event| event["params"]["response"].take())
        .filter(|answer| answer["url"].as_str().unwrap().starts_with("https://"))
        .collect();
    let addresses: Vec<_> = answers.iter().map(|answer| &answer["url"]).collect();
    assert_eq!(json!(addresses), json!(["https://app.test/", "https://pbx.app.test/"]));
    assert!(answers.iter().all(|answer| answer["protocol"] == "h2"), "{answers:#?}");
    assert_eq!(answers[0]["connectionId"], answers[1]["connectionId"], "one connection carries both hosts");
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_websocket_shares_the_connection_of_its_page() {
    let stage = Stage::set(BrowserSetup::of(Dialect::A)).await;
    stage.log_in("alice").await;
    let heard = stage
        .browser
        .run(
            "return new Promise((end) => {
                 const socket = new WebSocket('wss://app.test/ws?over=http2');
                 socket.onopen = () => socket.send('hello');
                 socket.onmessage = (message) => { socket.close(4003, message.data); };
                 socket.onerror = () => end('error');
                 socket.onclose = (closed) => end(`${closed.code} ${closed.reason} ${closed.wasClean}`);
             });",
        )
        .await;
    assert_eq!(heard, "4003 hello true");
    let line = stage.gate.line(&["target=\"/ws?over=http2\""]).await;
    for part in ["method=CONNECT", "http=2", "status=200", "ended=complete"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}
