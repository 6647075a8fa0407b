//! Signed links: a link logs in the account it names, once. A preview or a prefetch does not use it up.

use callgate::model::link::LinkKey;
use callgate::model::secret::Secret;
use http::Method;
use jiff::{SignedDuration, Timestamp};

use crate::kit::client::{Answer, RequestBuilder};
use crate::kit::gate::LINK_SECRET;
use crate::kit::links::{CLICK, RULE, link, method, sign};
use crate::kit::stage::{Plan, STAFF, Stage};

/// The fields that a browser sends when a button of our own page is pressed.
const PRESS: [(&str, &str); 3] =
    [("origin", "https://app.test"), ("sec-fetch-site", "same-origin"), ("content-type", FORM)];

const FORM: &str = "application/x-www-form-urlencoded";

async fn stage(more: &str) -> Stage {
    Plan { rules: &method(more), ..Plan::default() }.start().await
}

fn with<'g>(asking: RequestBuilder<'g>, fields: &[(&str, &str)]) -> RequestBuilder<'g> {
    fields.iter().fold(asking, |asking, (name, value)| asking.header(name, value))
}

async fn click(stage: &Stage, link: &str) -> Answer {
    with(stage.gate.get(link), &CLICK).send().await
}

fn button(answer: &Answer) -> String {
    let page = answer.text();
    let action = page.split("method=\"post\" action=\"").nth(1).unwrap_or_else(|| panic!("no button: {page}"));
    action.split('"').next().unwrap().replace("&amp;", "&")
}

async fn refused(stage: &Stage, path: &str, reason: &str) {
    click(stage, path).await.expect(401);
    stage.gate.line(&["audit refusal", "method=link", &format!("reason=\"{reason}\"")]).await;
}

// === Once ===

#[tokio::test]
async fn a_link_logs_in_the_account_it_names_once() {
    let stage = stage("").await;
    let link = link();
    let answer = click(&stage, &link).await.expect(303);
    assert!(answer.header("location").starts_with("https://pbx.test/welcome.htm?sessId="), "{answer:?}");
    assert_eq!(answer.header("referrer-policy"), "no-referrer");
    assert_eq!(stage.minted(), ["40@acme.test"]);
    stage
        .gate
        .line(&["audit grant", "method=link", "subject=40@acme.test", "rule=links", "account=40@acme.test"])
        .await;
    refused(&stage, &link, "the link was used before").await;
    assert_eq!(stage.minted().len(), 1);
}

#[tokio::test]
async fn of_many_at_once_one_is_logged_in() {
    let stage = stage("confirm = \"never\"").await;
    let link = link();
    let answers = futures_util::future::join_all((0..12).map(|_| stage.gate.get(&link).send())).await;
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [&[303][..], &[401; 11]].concat());
    assert_eq!(stage.minted().len(), 1);
}

/// Otherwise a session whose caller left could be asked for again.
#[tokio::test]
async fn a_link_is_used_also_where_the_pbx_says_no() {
    let stage = stage("").await;
    let link = sign("app.test", &[("account", "99"), ("domain", "acme.test")], 50);
    click(&stage, &link).await.expect(403);
    refused(&stage, &link, "the link was used before").await;
}

#[tokio::test]
async fn a_login_without_a_rule_does_not_use_up_the_link() {
    let stage = stage("").await;
    let link = sign("app.test", &[("account", "admin"), ("domain", "acme.test")], 50);
    for _ in 0..2 {
        click(&stage, &link).await.expect(403);
    }
    let link = sign("app.test", &[("sub", "ann")], 50);
    for _ in 0..2 {
        click(&stage, &link).await.expect(403);
    }
    assert_eq!(stage.minted(), [""; 0]);
}

#[tokio::test]
async fn the_language_of_a_link_is_that_of_the_session() {
    let stage = Plan { pbx: "languages = [\"en\", \"de\"]", rules: &method(""), ..Plan::default() }.start().await;
    let claims = [("account", "40"), ("domain", "acme.test"), ("lang", "de")];
    let answer = click(&stage, &sign("app.test", &claims, 50)).await.expect(303);
    assert!(answer.header("location").ends_with("&lang=de"), "{answer:?}");
}

// === Exactly what was signed ===

#[tokio::test]
async fn any_change_of_a_link_is_refused() {
    let stage = stage("").await;
    let link = link();
    let reason = "the signature does not fit the link on this host";
    for (from, to) in [
        ("account=40", "account=41"),
        ("account=40&", ""),
        ("acme.test", "other.test"),
        ("v=1", "v=1&user=bob"),
        ("v=1", "v=1&utm_source=mail"),
        ("exp=", "exp=0"),
        ("nonce=n", "nonce=m"),
        ("sig=", "sig=A"),
    ] {
        let changed = link.replacen(from, to, 1);
        assert_ne!(changed, link);
        refused(&stage, &changed, reason).await;
    }
    for (from, to, reason) in [
        ("v=1", "v=2", "the link has another version"),
        ("kid=2026", "kid=2025", "no key has the link's kid"),
        ("&v=1", "", "the link has no v"),
    ] {
        refused(&stage, &link.replacen(from, to, 1), reason).await;
    }
    // A request that names one parameter twice is malformed.
    click(&stage, &link.replacen("v=1", "v=1&account=41", 1)).await.expect(400);
    assert_eq!(stage.minted(), [""; 0]);
    click(&stage, &link).await.expect(303);
}

#[tokio::test]
async fn a_link_is_for_its_host_alone() {
    let stage = stage("").await;
    let link = link();
    for host in ["other.test", "pbx.test", "app.test:8443"] {
        with(stage.gate.get(&link).host(host), &CLICK).send().await.expect(401);
    }
    with(stage.gate.get(&link).host("APP.test:443"), &CLICK).send().await.expect(303);
}

#[tokio::test]
async fn a_link_expires_and_lives_no_longer_than_ttl() {
    let stage = stage("ttl = \"2min\"").await;
    let claims = [("account", "40"), ("domain", "acme.test")];
    refused(&stage, &sign("app.test", &claims, -31), "the link has expired").await;
    refused(&stage, &sign("app.test", &claims, 155), "the link lives longer than `ttl`").await;
    click(&stage, &sign("app.test", &claims, 115)).await.expect(303);
}

#[tokio::test]
async fn a_link_is_for_pbx_sessions_alone() {
    let stage = stage("").await;
    let path = link().replace("/auth/pbx", "/auth/ott");
    stage.gate.post(&path, FORM, "key=k1").send().await.expect(401);
    stage.gate.line(&["audit refusal", "reason=\"a link is for /auth/pbx alone\""]).await;
}

#[tokio::test]
async fn without_a_method_a_link_is_no_credential() {
    let stage = Stage::new().await;
    stage.gate.get(&link()).send().await.expect(401);
    stage.as_alice(&link()).send().await.expect(303);
}

// === Two credentials ===

#[tokio::test]
async fn a_link_and_a_cookie_are_two_credentials() {
    let stage = stage("").await;
    let link = sign("app.test", &[("account", "41"), ("domain", "acme.test")], 50);
    with(stage.as_alice(&link), &CLICK).send().await.expect(401);
    stage.gate.line(&["audit refusal", "reason=\"more than one credential\""]).await;
    assert_eq!(stage.minted(), [""; 0]);
}

#[tokio::test]
async fn cookies_may_be_ignored_for_a_link() {
    let rules = format!("{}{STAFF}", method("ignore_cookies = true"));
    let stage = Plan { rules: &rules, ..Plan::default() }.start().await;
    let link = sign("app.test", &[("account", "41"), ("domain", "acme.test")], 50);
    with(stage.as_alice(&link), &CLICK).send().await.expect(303);
    // A bad link is not outvoted by the cookie.
    with(stage.as_alice(&link), &CLICK).send().await.expect(401);
    assert_eq!(stage.minted(), ["41@acme.test"]);
}

// === Requests without a click ===

#[tokio::test]
async fn a_request_without_a_click_does_not_use_the_link_up() {
    let stage = stage("").await;
    let link = link();
    stage.gate.ask(Method::HEAD, &link).send().await.expect(503);
    with(stage.gate.get(&link), &CLICK).header("sec-purpose", "prefetch").send().await.expect(503);
    stage.gate.get(&link).header("user-agent", "Slackbot-LinkExpanding 1.0").send().await.expect(503);
    // Requests without Fetch metadata, or with that of something other than a click.
    for fields in [
        &[][..],
        &[("user-agent", "Mozilla/5.0"), ("accept", "text/html")],
        &CLICK[..3],
        &[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe"), ("sec-fetch-user", "?1")],
        &[("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image"), ("sec-fetch-user", "?1")],
    ] {
        let answer = with(stage.gate.get(&link), fields).send().await.expect(200);
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("referrer-policy"), "same-origin");
        assert!(answer.header("content-security-policy").contains("default-src 'none'"), "{answer:?}");
        assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"), "{answer:?}");
        assert!(!answer.headers.contains_key("set-cookie") && !answer.text().contains("<script"), "{answer:?}");
        assert!(button(&answer).starts_with("/auth/callgate/confirm?"), "{answer:?}");
    }
    assert_eq!(stage.minted(), [""; 0]);
    click(&stage, &link).await.expect(303);
}

#[tokio::test]
async fn the_button_uses_the_link_once() {
    let stage = stage("").await;
    let link = link();
    let button = button(&stage.gate.get(&link).send().await.expect(200));
    let press = || with(stage.gate.ask(Method::POST, &button), &PRESS);
    let answer = press().send().await.expect(303);
    assert!(answer.header("location").starts_with("https://pbx.test/welcome.htm?sessId="), "{answer:?}");
    press().send().await.expect(401);
    click(&stage, &link).await.expect(401);
    stage.gate.get(&link).send().await.expect(401);
    assert_eq!(stage.minted(), ["40@acme.test"]);
}

#[tokio::test]
async fn no_other_page_presses_the_button() {
    let stage = stage("confirm = \"always\"").await;
    let link = link();
    let button = button(&click(&stage, &link).await.expect(200));
    for fields in [
        &[("origin", "https://evil.test"), ("sec-fetch-site", "cross-site")][..],
        &[("origin", "https://portal.app.test"), ("sec-fetch-site", "same-site")],
        &[("origin", "null"), ("sec-fetch-site", "cross-site")],
        &[("origin", "https://evil.test")],
        &[("sec-fetch-site", "cross-site")],
    ] {
        with(stage.gate.post(&button, FORM, ""), fields).send().await.expect(403);
    }
    for method in [Method::GET, Method::HEAD, Method::PUT] {
        with(stage.gate.ask(method, &button), &PRESS).send().await.expect(405);
    }
    with(stage.gate.ask(Method::POST, &button.replace("account=40", "account=41")), &PRESS).send().await.expect(401);
    assert_eq!(stage.minted(), [""; 0]);
    with(stage.gate.ask(Method::POST, &button), &PRESS).send().await.expect(303);
}

#[tokio::test]
async fn the_button_needs_a_link() {
    let rules = format!("{}{STAFF}", method(""));
    let stage = Plan { rules: &rules, ..Plan::default() }.start().await;
    let press = with(stage.gate.ask(Method::POST, "/auth/callgate/confirm"), &PRESS);
    press.cookie(&stage.app.log_in("alice")).send().await.expect(404);
    with(stage.gate.ask(Method::POST, "/auth/callgate/confirm"), &PRESS).send().await.expect(401);
    assert_eq!(stage.minted(), [""; 0]);
}

#[tokio::test]
async fn confirm_decides_which_requests_get_the_page() {
    let always = stage("confirm = \"always\"").await;
    click(&always, &link()).await.expect(200);
    always.gate.get(&link()).send().await.expect(200);
    assert_eq!(always.minted(), [""; 0]);
    let never = stage("confirm = \"never\"").await;
    click(&never, &link()).await.expect(303);
    never.gate.get(&link()).send().await.expect(303);
    never.gate.ask(Method::HEAD, &link()).send().await.expect(503);
}

#[tokio::test]
async fn a_bad_link_gets_no_page() {
    let stage = stage("confirm = \"always\"").await;
    stage.gate.get(&link().replace("account=40", "account=41")).send().await.expect(401);
}

// === The key ring ===

#[tokio::test]
async fn every_key_of_the_ring_is_believed() {
    let keys = r#"[[auth]]
type = "link"
name = "old"
keys = [{ kid = "2024", secret = { file = "link.key" } }]
[[auth]]
type = "link"
keys = [{ kid = "2027", secret = { file = "link.key" } }, { kid = "2026", secret = { file = "link.key" } }]"#;

    let stage = Plan { rules: &format!("{keys}\n{RULE}"), ..Plan::default() }.start().await;
    click(&stage, &link()).await.expect(303);
    let old = LinkKey::new("2025".to_owned(), &Secret::new(LINK_SECRET.to_owned()));
    let query =
        old.sign("app.test", &[("account", "40")], Timestamp::now() + SignedDuration::from_secs(50), &"n".repeat(22));
    refused(&stage, &format!("/auth/pbx?{query}"), "no key has the link's kid").await;
    // The method that has the key proves the caller, whatever others there are.
    let old = LinkKey::new("2024".to_owned(), &Secret::new(LINK_SECRET.to_owned()));
    let query = old.sign("app.test", &[("account", "40"), ("domain", "acme.test")], Timestamp::now(), &"n".repeat(22));
    click(&stage, &format!("/auth/pbx?{query}")).await.expect(403);
    stage.gate.line(&["audit refusal", "method=old"]).await;
}
