//! Logouts of a person: `/auth/pbx/logout` and `/auth/callgate/logout` end the person's sessions, and nobody else's.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;

use crate::kit::client::{Answer, RequestBuilder};
use crate::kit::oidc::provider::Provider;
use crate::kit::oidc::{HTML, OidcStage, RULES, method, set};
use crate::kit::stage::{Plan, Stage, until};
use crate::kit::vodia::{Dialect, Scope, Wrong};
use crate::telephony::sessions::{ends, is_in, is_out, numbers, open, order, socket, stands};

const PATH: &str = "/auth/pbx/logout";
const BACKCHANNEL: &str = "/auth/callgate/backchannel-logout";
const FORM: &str = "application/x-www-form-urlencoded";
const GONE: &str = "session=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Strict";

/// Presses the button on a host, as a page of that host does.
fn press<'s>(stage: &'s Stage, host: &'static str, cookies: &str) -> RequestBuilder<'s> {
    let asked = stage.gate.post(PATH, FORM, "").host(host).header("origin", &format!("https://{host}"));
    let asked = asked.header("sec-fetch-site", "same-origin").header("accept", HTML);
    if cookies.is_empty() { asked } else { asked.cookie(cookies) }
}

fn deletes(stage: &Stage) -> usize {
    stage.pbx.requests().iter().filter(|seen| seen.method == Method::DELETE).count()
}

// === The button ===

#[tokio::test]
async fn a_page_with_a_button_ends_nothing() {
    let stage = Stage::new().await;
    let session = open(&stage, &stage.app.log_in("alice")).await;
    let cookie = format!("session={session}");
    let page = stage.gate.get(PATH).host("pbx.test").header("accept", HTML).cookie(&cookie).send().await.expect(200);
    assert!(page.text().contains("<form method=\"post\" action=\"/auth/pbx/logout\">"), "{}", page.text());
    assert!(
        page.header("content-security-policy").starts_with("default-src 'none'") && !page.text().contains("<script")
    );
    assert_eq!((page.header("cache-control"), page.header("referrer-policy")), ("no-store", "same-origin"));
    assert!(set(&page).is_empty());
    // What other sites make a browser send.
    for (name, mode, dest) in
        [("image", "no-cors", "image"), ("frame", "navigate", "iframe"), ("link", "navigate", "document")]
    {
        let asked = stage.gate.get(PATH).host("pbx.test").cookie(&cookie).header("sec-fetch-site", "cross-site");
        let shown = asked.header("sec-fetch-mode", mode).header("sec-fetch-dest", dest).send().await.expect(200);
        assert!(set(&shown).is_empty(), "{name}");
    }
    stage.gate.ask(Method::HEAD, PATH).host("pbx.test").cookie(&cookie).send().await.expect(200);
    stage.gate.get(PATH).host("pbx.test").cookie(&cookie).header("sec-purpose", "prefetch").send().await.expect(200);
    assert!(is_in(&stage, &session) && deletes(&stage) == 0);
}

#[tokio::test]
async fn a_browsers_session_ends_at_the_pbx_and_its_cookie_goes() {
    let stage = Stage::new().await;
    let session = open(&stage, &stage.app.log_in("alice")).await;
    let other = open(&stage, &stage.app.log_in("bob")).await;
    let mut tunnel = socket(&stage.gate, &format!("session={session}")).await.unwrap();
    stands(&mut tunnel).await;
    let page = press(&stage, "pbx.test", &format!("theme=dark; session={session}")).send().await.expect(200);
    assert!(
        page.text().contains("You are logged out") && page.text().contains("href=\"/auth/pbx\""),
        "{}",
        page.text()
    );
    assert_eq!(set(&page), [GONE]);
    assert_eq!(page.header("cache-control"), "no-store");
    // When the answer arrives, the PBX has ended the session.
    assert!(!is_in(&stage, &session) && is_in(&stage, &other));
    ends(&mut tunnel).await;
    let delete = stage.pbx.requests().into_iter().find(|seen| seen.method == Method::DELETE).unwrap();
    assert_eq!(delete.header("cookie"), Some(&*format!("session={session}")));
    assert_eq!((deletes(&stage), delete.header("authorization")), (1, None));
    stage.gate.line(&["audit logout", "act=logout"]).await;
    stage.gate.line(&["audit session_end", "account=40@acme.test", "reason=logout"]).await;
    let told = stage.gate.told("/metrics");
    assert!(told.contains("callgate_logouts_total{act=\"logout\",outcome=\"done\"} 1\n"), "{told}");
    // Nothing is left to end.
    assert_eq!(set(&press(&stage, "pbx.test", "").send().await.expect(200)), [GONE]);
}

#[tokio::test]
async fn a_session_of_a_password_ends_too() {
    for dialect in [Dialect::A, Dialect::B, Dialect::C] {
        let stage = Plan { dialect, ..Plan::default() }.start().await;
        let session = stage.pbx.open_session("40", "acme.test");
        let other = stage.pbx.open_session("40", "acme.test");
        let mut tunnel = socket(&stage.gate, &format!("session={session}")).await.unwrap();
        let mut others = socket(&stage.gate, &format!("session={other}")).await.unwrap();
        stands(&mut tunnel).await;
        let answer = press(&stage, "pbx.test", &format!("session={session}")).send().await.expect(200);
        assert_eq!(set(&answer), [GONE]);
        assert!(!is_in(&stage, &session));
        ends(&mut tunnel).await;
        stands(&mut others).await;
        // The PBX's own logout ends its WebSockets as well.
        let own = stage.gate.ask(Method::DELETE, "/rest/system/session").host("pbx.test");
        own.cookie(&format!("session={other}")).send().await.expect(200);
        ends(&mut others).await;
        let delete = stage.pbx.requests().into_iter().find(|seen| seen.method == Method::DELETE).unwrap();
        assert_eq!((delete.header("host"), delete.header("authorization")), (Some("pbx.test"), None));
    }
}

#[tokio::test]
async fn programs_are_answered_as_they_ask() {
    let stage = Stage::new().await;
    let ask = || stage.gate.ask(Method::POST, PATH).host("pbx.test");
    let answer = ask().header("accept", "application/json").send().await.expect(200);
    assert_eq!(answer.json(), json!({ "logged_out": true }));
    assert_eq!(set(&ask().header("accept", "*/*").send().await.expect(204)), [GONE]);
    ask().send().await.expect(204);
    assert_eq!(stage.gate.ask(Method::PUT, PATH).send().await.expect(405).header("allow"), "GET, HEAD, POST, OPTIONS");
    stage.gate.post(PATH, "application/xml", "<a/>").send().await.expect(415);
    stage.gate.post(PATH, FORM, "a".repeat(5000)).send().await.expect(413);
}

// === Two hosts ===

#[tokio::test]
async fn on_the_apps_host_the_sessions_of_the_credential_end() {
    let stage = Stage::new().await;
    let (alice, bob) = (stage.app.log_in("alice"), stage.app.log_in("bob"));
    let (first, second, his) = (open(&stage, &alice).await, open(&stage, &alice).await, open(&stage, &bob).await);
    // Here a cookie of this name is the app's own.
    let cookies = format!("{alice}; session={his}");
    let page = press(&stage, "app.test", &cookies).send().await.expect(200);
    assert!(!is_in(&stage, &first) && !is_in(&stage, &second) && is_in(&stage, &his));
    assert!(set(&page).is_empty(), "{page:?}");
    assert!(page.text().contains("href=\"https://pbx.test/auth/pbx/logout\""), "{}", page.text());
    press(&stage, "app.test", "").send().await.expect(200);
    assert!(is_in(&stage, &his));
    assert_eq!(numbers(&order(&stage.gate, "/sessions", &json!({})).1), [3]);
    // The credential is still the app's: who wants to, logs in again.
    assert!(is_in(&stage, &open(&stage, &alice).await));
}

#[tokio::test]
async fn the_cookie_handoff_ends_the_same_way() {
    for dialect in [Dialect::B, Dialect::C] {
        let stage = Plan { dialect, pbx: "handoff = \"cookie\"", ..Plan::default() }.start().await;
        let alice = stage.app.log_in("alice");
        let began = stage.gate.get("/auth/pbx").cookie(&alice).send().await.expect(303);
        let landed = stage.redeem(began.header("set-cookie"), began.header("location")).await.expect(200);
        let cookie = landed.header("set-cookie").split(';').next().unwrap().to_owned();
        assert_eq!(stage.pbx.sessions().len(), 1);
        let (host, cookies) = if dialect == Dialect::B { ("app.test", alice) } else { ("pbx.test", cookie) };
        press(&stage, host, &cookies).send().await.expect(200);
        assert!(stage.pbx.sessions().is_empty(), "{host}");
    }
}

/// App and PBX share one host: its `session` cookie is the PBX's.
#[tokio::test]
async fn one_host_for_both_ends_both_kinds() {
    let hosts = "paths = [\"/welcome.htm\", \"/rest/\"]";
    let stage = Plan { hosts, ..Plan::default() }.start().await;
    let alice = stage.app.log_in("alice");
    let (mine, password) = (open(&stage, &alice).await, stage.pbx.open_session("40", "acme.test"));
    let page = press(&stage, "app.test", &format!("{alice}; session={password}")).send().await.expect(200);
    assert_eq!(set(&page), [GONE]);
    assert!(!page.text().contains("Log out there"), "{}", page.text());
    assert!(!is_in(&stage, &mine) && !is_in(&stage, &password));
}

/// Where the PBX's pages log people in by themselves, the next page after a logout does not.
#[tokio::test]
async fn a_logout_holds_where_logins_are_automatic() {
    let stage = Plan { pbx: "auto = \"https://app.test\"", ..Plan::default() }.start().await;
    let session = open(&stage, &stage.app.log_in("alice")).await;
    let answer = press(&stage, "pbx.test", &format!("session={session}")).send().await.expect(200);
    let [gone, hold] = &set(&answer)[..] else { panic!("{answer:?}") };
    assert_eq!(gone, GONE);
    let visit = || {
        let asked = stage.gate.get("/usr_index.htm").host("pbx.test").header("accept", HTML);
        let asked = asked.header("sec-fetch-mode", "navigate").header("sec-fetch-dest", "document");
        asked.header("sec-fetch-site", "none").header("sec-fetch-user", "?1")
    };
    let led = visit().send().await;
    assert!(led.status.is_redirection(), "{led:?}");
    let stays = visit().cookie(hold.split(';').next().unwrap()).send().await.expect(200);
    assert!(
        stays.text().contains("data-page=\"login\"") || stays.text().contains("data-page=login"),
        "{}",
        stays.text()
    );
    // The app's host has no such pages.
    assert!(set(&press(&stage, "app.test", "").send().await.expect(200)).is_empty());
}

// === Attackers ===

#[tokio::test]
async fn a_page_of_another_origin_logs_nobody_out() {
    let stage = Stage::new().await;
    let alice = stage.app.log_in("alice");
    let session = open(&stage, &alice).await;
    for (host, cookies) in [("pbx.test", format!("session={session}")), ("app.test", alice.clone())] {
        for (origin, site) in [
            ("https://evil.test", "cross-site"),
            ("https://evil.app.test", "same-site"),
            ("https://app.test.evil.test", "cross-site"),
            ("null", "cross-site"),
            ("http://app.test", "cross-site"),
        ] {
            let asked = stage.gate.post(PATH, FORM, "").host(host).cookie(&cookies);
            let asked = asked.header("origin", origin).header("sec-fetch-site", site);
            let answer = asked.send().await.expect(403);
            assert!(set(&answer).is_empty() && !answer.headers.contains_key("access-control-allow-origin"));
        }
        // A form of a browser that sends no Origin, but says where it comes from.
        let asked = stage.gate.post(PATH, FORM, "").host(host).cookie(&cookies).header("sec-fetch-site", "same-site");
        asked.send().await.expect(403);
    }
    let preflight = stage.gate.ask(Method::OPTIONS, PATH).header("origin", "https://evil.test");
    preflight.header("access-control-request-method", "POST").send().await.expect(403);
    // The app's host is another origin for the PBX's.
    press(&stage, "pbx.test", &format!("session={session}"))
        .header("origin", "https://app.test")
        .send()
        .await
        .expect(403);
    assert!(is_in(&stage, &session) && deletes(&stage) == 0);
    assert!(!stage.gate.log().contains("audit logout"));
}

#[tokio::test]
async fn a_guessed_cookie_ends_nobodys_session() {
    let stage = Stage::new().await;
    let session = open(&stage, &stage.app.log_in("alice")).await;
    for guess in
        ["", "x", "aaaaaaaaaaaaaaaaaaaa", &session[1..], &session.to_uppercase(), "\"", "a b", &"a".repeat(4000)]
    {
        press(&stage, "pbx.test", &format!("session={guess}")).send().await.expect(200);
    }
    let many: Vec<_> = (0..40).map(|number| format!("session=guess{number}")).collect();
    let before = deletes(&stage);
    press(&stage, "pbx.test", &many.join("; ")).send().await.expect(200);
    assert_eq!(deletes(&stage) - before, 4, "one request asks the PBX four times at most");
    assert!(is_in(&stage, &session));
}

#[tokio::test]
async fn logouts_count_as_requests() {
    let stage = Plan { limits: "client = \"3/min burst 3\"", ..Plan::default() }.start().await;
    for _ in 0..3 {
        press(&stage, "pbx.test", "").send().await.expect(200);
    }
    press(&stage, "pbx.test", "").send().await.expect(429);
}

#[tokio::test]
async fn no_other_spelling_and_no_other_gate_answers() {
    let stage = Stage::new().await;
    for path in
        ["/auth/pbx/Logout", "/auth//pbx/logout", "/auth/pbx/%6cogout", "/auth/pbx/x/../logout", "/auth/pbx/logout;a"]
    {
        stage.gate.ask(Method::POST, path).send().await.expect(400);
    }
    assert!(stage.app.requests().is_empty());
    let upstream = crate::kit::upstream::RawUpstream::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let gate = crate::kit::gate::Gate::before(upstream.addr).await;
    gate.get(PATH).send().await.expect(404);
    gate.ask(Method::POST, PATH).send().await.expect(404);
}

// === A page of a listed origin ===

#[tokio::test]
async fn a_page_of_a_listed_origin_may_log_out() {
    let stage = Plan { pbx: "origins = [\"https://portal.test\"]", ..Plan::default() }.start().await;
    let alice = stage.app.log_in("alice");
    let session = open(&stage, &alice).await;
    let asked = stage.gate.ask(Method::POST, PATH).cookie(&alice).header("origin", "https://portal.test");
    let answer = asked.header("sec-fetch-site", "cross-site").send().await.expect(204);
    assert_eq!(answer.header("access-control-allow-origin"), "https://portal.test");
    assert!(!is_in(&stage, &session));
    let preflight = stage.gate.ask(Method::OPTIONS, PATH).header("origin", "https://portal.test");
    preflight.header("access-control-request-method", "POST").send().await.expect(204);
}

// === A PBX that does not answer ===

fn check_unconfirmed(answer: &Answer) {
    assert!(answer.text().contains("You may still be logged in at the telephone system"), "{}", answer.text());
    assert!(!answer.text().contains("You are logged out") && set(answer).is_empty(), "{answer:?}");
}

#[tokio::test]
async fn nobody_is_told_to_be_out_whom_the_pbx_keeps() {
    let stage = Stage::new().await;
    let session = open(&stage, &stage.app.log_in("alice")).await;
    let mut tunnel = socket(&stage.gate, &format!("session={session}")).await.unwrap();
    stands(&mut tunnel).await;
    stage.pbx_does(|faults| (faults.scope, faults.wrong) = (Scope::Other, Wrong::Status(StatusCode::FORBIDDEN)));
    let cookies = format!("session={session}");
    check_unconfirmed(&press(&stage, "pbx.test", &cookies).send().await.expect(502));
    // What callgate keeps has ended.
    ends(&mut tunnel).await;
    assert_eq!(order(&stage.gate, "/sessions", &json!({})).1, json!([]));
    stage.gate.line(&["audit logout", "act=logout", "the PBX did not confirm it"]).await;
    stage.gate.line(&["access", "status=502", "reason=logout_unconfirmed"]).await;
    assert!(stage.gate.told("/metrics").contains("callgate_logouts_total{act=\"logout\",outcome=\"unconfirmed\"} 1\n"));
    // A second try does not hide it, and callgate goes on telling the PBX.
    if is_in(&stage, &session) {
        check_unconfirmed(&press(&stage, "pbx.test", &cookies).send().await.expect(502));
    }
    stage.pbx_does(|faults| faults.wrong = Wrong::Nothing);
    is_out(&stage, &session).await;
    until("the logout", || !stage.pbx.sessions().iter().any(|one| one.id == session)).await;
    let confirmed = "callgate_session_deletes_total{outcome=\"ok\"} 1\n";
    until("its confirmation", || stage.gate.told("/metrics").contains(confirmed)).await;
    press(&stage, "pbx.test", &cookies).send().await.expect(200);
}

#[tokio::test]
async fn a_password_session_that_goes_on_is_not_called_over() {
    let stage = Plan { pbx: "timeout = \"500ms\"", ..Plan::default() }.start().await;
    let session = stage.pbx.open_session("40", "acme.test");
    let raw = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\nfalse";
    for wrong in [
        Wrong::Status(StatusCode::INTERNAL_SERVER_ERROR),
        Wrong::Raw(raw.into()),
        Wrong::Raw("nonsense\r\n\r\n".into()),
        Wrong::Huge,
    ] {
        stage.pbx_does(|faults| (faults.scope, faults.wrong) = (Scope::Other, wrong.clone()));
        let answer = press(&stage, "pbx.test", &format!("session={session}")).send().await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{wrong:?}");
        check_unconfirmed(&answer);
    }
    stage.pbx_does(|faults| (faults.wrong, faults.refuse_connections) = (Wrong::Nothing, true));
    check_unconfirmed(&press(&stage, "pbx.test", &format!("session={session}")).send().await.expect(502));
    stage.pbx_does(|faults| (faults.refuse_connections, faults.wrong) = (false, Wrong::Hang));
    check_unconfirmed(&press(&stage, "pbx.test", &format!("session={session}")).send().await.expect(502));
}

// === Logouts with an identity provider ===

/// Opens a session as the person of a login at the provider, and returns its id.
async fn open_by(scene: &OidcStage, cookie: &str) -> String {
    open(&scene.stage, cookie).await
}

fn log_out_of_all<'s>(scene: &'s OidcStage, cookies: &str) -> RequestBuilder<'s> {
    let asked = scene.stage.gate.post("/auth/callgate/logout", FORM, "").cookie(cookies);
    asked.header("origin", "https://app.test").header("sec-fetch-site", "same-origin").header("accept", HTML)
}

#[tokio::test]
async fn a_logout_of_all_ends_the_session_first_and_then_leads_to_the_provider() {
    let scene = OidcStage::new().await;
    let cookie = scene.cookie().await;
    let session = open_by(&scene, &cookie).await;
    let out = log_out_of_all(&scene, &cookie).send().await.expect(303);
    assert!(out.header("location").starts_with(&format!("{}/logout?", scene.provider.issuer())), "{out:?}");
    assert!(!is_in(&scene.stage, &session), "the PBX has ended it before the browser goes on");
    assert!(set(&out)[0].starts_with("__Host-callgate=; Max-Age=0"));
    scene.stage.gate.get("/auth/pbx").cookie(&cookie).send().await.expect(401);
}

#[tokio::test]
async fn a_logout_of_all_says_what_the_pbx_did_not_confirm() {
    let scene = OidcStage::new().await;
    let cookie = scene.cookie().await;
    open_by(&scene, &cookie).await;
    scene.stage.pbx_does(|faults| faults.refuse_connections = true);
    let out = log_out_of_all(&scene, &cookie).send().await.expect(502);
    assert!(
        out.text().contains("You may still be logged in") && out.text().contains("/logout?keep=this&amp;client_id")
    );
    assert!(set(&out)[0].starts_with("__Host-callgate=; Max-Age=0"), "{out:?}");
    scene.stage.pbx_does(|faults| faults.refuse_connections = false);
    scene.stage.gate.get("/auth/pbx").cookie(&cookie).send().await.expect(401);
}

#[tokio::test]
async fn a_logout_from_the_pbx_offers_the_one_from_the_provider() {
    let scene = OidcStage::new().await;
    let cookie = scene.cookie().await;
    let session = open_by(&scene, &cookie).await;
    let page = press(&scene.stage, "app.test", &cookie).send().await.expect(200);
    assert!(page.text().contains("<form method=\"post\" action=\"/auth/callgate/logout\">"), "{}", page.text());
    assert!(set(&page).is_empty() && !is_in(&scene.stage, &session));
    // The login at the provider goes on.
    open_by(&scene, &cookie).await;
}

#[tokio::test]
async fn a_reported_logout_ends_sessions_and_tunnels() {
    let scene = OidcStage::new().await;
    scene.provider.set(|says| says.claims = json!({ "sid": "s1" }));
    let (first, second) = (scene.cookie().await, scene.cookie().await);
    scene.provider.set(|says| says.claims = json!({ "sid": "s2", "ext": "41" }));
    let other = scene.cookie().await;
    let (one, two, his) =
        (open_by(&scene, &first).await, open_by(&scene, &second).await, open_by(&scene, &other).await);
    let mut tunnel = socket(&scene.stage.gate, &format!("session={one}")).await.unwrap();
    stands(&mut tunnel).await;
    report(&scene, json!({ "sid": "s1" })).await;
    ends(&mut tunnel).await;
    is_out(&scene.stage, &one).await;
    is_out(&scene.stage, &two).await;
    assert!(is_in(&scene.stage, &his));
    scene.stage.gate.line(&["audit session_end", "reason=backchannel"]).await;
    report(&scene, json!({ "sid": null, "sub": "ann" })).await;
    is_out(&scene.stage, &his).await;
}

async fn report(scene: &OidcStage, changes: serde_json::Value) {
    let form = format!("logout_token={}", scene.provider.logout_token(changes));
    scene.stage.gate.post(BACKCHANNEL, FORM, form).send().await.expect(200);
}

/// The provider ends the login while the PBX opens a session for it.
#[tokio::test]
async fn a_login_under_way_ends_with_a_reported_logout() {
    let scene = OidcStage::new().await;
    scene.stage.gate.logins.are_not_explained();
    scene.provider.set(|says| says.claims = json!({ "sid": "s1" }));
    let cookie = scene.cookie().await;
    scene.stage.pbx_does(|faults| faults.head_delay = Duration::from_secs(2));
    let logout = async {
        until("a question to the PBX", || !scene.stage.pbx.mints().is_empty()).await;
        report(&scene, json!({ "sid": "s1" })).await;
    };
    let (refused, ()) = tokio::join!(scene.stage.gate.get("/auth/pbx").cookie(&cookie).send(), logout);
    refused.expect(401);
    scene.stage.gate.line(&["audit refusal", "the caller has logged out meanwhile"]).await;
    until("no session", || scene.stage.pbx.sessions().is_empty()).await;
}

/// The browser is between the two hosts when its login ends.
#[tokio::test]
async fn a_ticket_dies_with_its_login() {
    for by_person in [true, false] {
        let provider = Provider::start().await;
        let more = method("sso", &provider, "");
        let plan = Plan { dialect: Dialect::C, app: "", pbx: "handoff = \"cookie\"", rules: RULES, ..Plan::default() };
        let scene = OidcStage { stage: Plan { more: &more, ..plan }.start().await, provider };
        scene.stage.gate.logins.are_not_explained();
        scene.provider.set(|says| says.claims = json!({ "sid": "s1" }));
        let cookie = scene.cookie().await;
        let began = scene.stage.gate.get("/auth/pbx").cookie(&cookie).send().await.expect(303);
        if by_person {
            press(&scene.stage, "app.test", &cookie).send().await.expect(200);
        } else {
            report(&scene, json!({ "sid": "s1" })).await;
        }
        let ended = scene.stage.redeem(began.header("set-cookie"), began.header("location")).await;
        assert!(ended.status.is_client_error(), "{ended:?}");
        until("no session", || scene.stage.pbx.sessions().is_empty()).await;
    }
}
