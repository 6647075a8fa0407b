//! Lockout by address: old cookies, foreign pages and a busy morning do not lock out an office; guessing does.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use serde_json::json;
use tempfile::TempDir;

use crate::kit::app::Whoami;
use crate::kit::client::{Answer, RequestBuilder};
use crate::kit::gate::secret;
use crate::kit::links::sign;
use crate::kit::oidc::OidcStage;
use crate::kit::oidc::provider::Provider;
use crate::kit::stage::{Plan, STAFF, Stage};
use crate::kit::upstream::RawUpstream;
use crate::kit::vodia::Dialect;

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";
const KEY: &str = "a-key-of-another-server-0123456789";
/// A page of another site: an image, and a window that it sends.
const IMAGE: [(&str, &str); 3] =
    [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")];
const WINDOW: [(&str, &str); 3] =
    [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
/// A bookmark.
const BOOKMARK: [(&str, &str); 4] = [
    ("sec-fetch-site", "none"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-user", "?1"),
];

fn with<'g>(asking: RequestBuilder<'g>, fields: &[(&str, &str)]) -> RequestBuilder<'g> {
    fields.iter().fold(asking, |asking, (name, value)| asking.header(name, value))
}

fn link_rules() -> String {
    let link = "[[auth]]\ntype = \"link\"\nkeys = [{ kid = \"2026\", secret = { file = \"link.key\" } }]\n\
                confirm = \"never\"\nignore_cookies = true\n";
    let allow = "[[allow]]\nauth = \"link\"\npbx = { domain = \"{domain}\", account = \"{account}\" }\n";
    format!("{link}{allow}{STAFF}")
}

fn key_rules() -> String {
    let digest = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, KEY.as_bytes()));
    format!(
        "[[auth]]\ntype = \"key\"\nsha256 = \"{digest}\"\nscopes = [\"pbx\"]\ndomains = [\"acme.test\"]\n\
         [[allow]]\nauth = \"key\"\npbx = {{ domain = \"{{domain}}\", account = \"{{account}}\" }}\n{STAFF}"
    )
}

/// A gate with the limits of a fresh configuration.
async fn office(rules: &str) -> Stage {
    Plan { rules, limits: "", ..Plan::default() }.start().await
}

/// A colleague who has never been here comes as people come.
async fn check_colleague(stage: &Stage) {
    stage.as_user("bob", "/auth/pbx").send().await.expect(303);
    with(stage.as_user("bob", "/auth/pbx"), &WINDOW).send().await.expect(303);
    stage.gate.post("/auth/ott", FORM, "key=k1").cookie(&stage.app.log_in("bob")).send().await.expect(200);
}

// === Old credentials ===

#[tokio::test]
async fn old_cookies_do_not_lock_out() {
    let stage = office(STAFF).await;
    for person in 0..200 {
        stage.gate.get("/auth/pbx").cookie(&format!("demo_app=of-yesterday-{person}")).send().await.expect(401);
    }
    // A page that asks in a loop, with one of them.
    for _ in 0..300 {
        stage.gate.post("/auth/ott", FORM, "key=k1").cookie("demo_app=of-yesterday-1").send().await.expect(401);
    }
    check_colleague(&stage).await;
}

#[tokio::test]
async fn very_many_different_cookies_are_guesses() {
    let limits = "client = \"1000/min\"\nstale_cookies = \"3/15min\"";
    let stage = Plan { limits, ..Plan::default() }.start().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    let known = stage.app.log_in("bob");
    stage.gate.get("/auth/pbx").cookie(&known).send().await.expect(303);
    let ask = |cookie: &str| stage.gate.get("/auth/pbx").cookie(cookie).send();
    for guess in 0..3 {
        ask(&format!("demo_app={guess}")).await.expect(401);
        ask(&format!("demo_app={guess}")).await.expect(if guess < 2 { 401 } else { 429 });
    }
    ask("demo_app=3").await.expect(429);
    // Only a cookie that logged a caller in here before is answered with whether it is still valid.
    stage.as_alice("/auth/pbx").send().await.expect(429);
    ask(&known).await.expect(303);
    stage.gate.get("/auth/pbx").cookie(&known).from("127.0.0.2").send().await.expect(303);
}

#[tokio::test]
async fn a_cookie_beside_another_credential_is_no_guess() {
    let stage = office(&key_rules()).await;
    for _ in 0..20 {
        let asking = stage.gate.get("/auth/pbx?account=40").bearer(KEY).cookie("theme=dark");
        asking.send().await.expect(401);
    }
    check_colleague(&stage).await;
}

#[tokio::test]
async fn used_and_expired_links_do_not_lock_out() {
    let stage = office(&link_rules()).await;
    let used = sign("app.test", &[("account", "40"), ("domain", "acme.test")], 50);
    stage.gate.get(&used).send().await.expect(303);
    for seconds in 0..10 {
        stage.gate.get(&used).send().await.expect(401);
        let expired = sign("app.test", &[("account", "40"), ("domain", "acme.test")], -100 - seconds);
        stage.gate.get(&expired).send().await.expect(401);
    }
    check_colleague(&stage).await;
    for _ in 0..5 {
        stage.gate.get(&used.replace("account=40", "account=41")).send().await.expect(401);
    }
    stage.gate.get(&used.replace("account=40", "account=41")).send().await.expect(429);
    stage.as_user("bob", "/auth/pbx").send().await.expect(429);
}

#[tokio::test]
async fn a_ticket_that_comes_back_does_not_lock_out() {
    let plan = Plan { dialect: Dialect::C, pbx: "handoff = \"cookie\"", limits: "", ..Plan::default() };
    let stage = plan.start().await;
    let used = stage.as_alice("/auth/pbx").send().await.expect(303).header("location").to_owned();
    let ask = |ticket: &str| stage.gate.get(ticket.strip_prefix("https://pbx.test").unwrap()).host("pbx.test").send();
    ask(&used).await.expect(303);
    for _ in 0..10 {
        ask(&used).await.expect(403);
    }
    for _ in 0..5 {
        ask("https://pbx.test/auth/callgate/ticket?t=a-guess").await.expect(403);
    }
    ask("https://pbx.test/auth/callgate/ticket?t=a-guess").await.expect(429);
}

#[tokio::test]
async fn callers_without_a_telephone_do_not_lock_out() {
    let stage = office(STAFF).await;
    stage.claims(json!({ "user": "zoe" }));
    for _ in 0..10 {
        stage.gate.post("/auth/ott", FORM, "key=k1").cookie(&stage.app.log_in("alice")).send().await.expect(403);
    }
    stage.app.set(|faults| faults.whoami = Whoami::Truth);
    check_colleague(&stage).await;
}

// === Guesses ===

#[tokio::test]
async fn a_credential_that_was_good_here_stays_so_while_its_address_guesses() {
    let stage = office(&key_rules()).await;
    let known = stage.app.log_in("alice");
    stage.gate.get("/auth/pbx").cookie(&known).send().await.expect(303);
    for _ in 0..5 {
        stage.gate.get("/auth/pbx?account=40").bearer("a-guess").send().await.expect(401);
    }
    stage.gate.get("/auth/pbx?account=40").bearer("a-guess").send().await.expect(429);
    stage.gate.get("/auth/pbx?account=40").bearer(KEY).send().await.expect(429);
    stage.as_alice("/auth/pbx").send().await.expect(429);
    stage.gate.get("/auth/pbx").cookie(&known).send().await.expect(303);
    stage.gate.get("/auth/pbx").cookie(&known).from("127.0.0.2").send().await.expect(303);
    // A request without a credential is no guess: the way to the login stays open.
    stage.gate.get("/auth/pbx").send().await.expect(401);
}

#[tokio::test]
async fn a_login_at_the_provider_goes_on_while_its_address_guesses() {
    let provider = Provider::start().await;
    let method = crate::kit::oidc::method("sso", &provider, "");
    let rules = key_rules().replace("{tenant}", "acme.test");
    let stage = Plan { app: "", rules: &rules, voximplant: "", limits: "", more: &method, ..Plan::default() };
    let scene = OidcStage { stage: stage.start().await, provider };
    scene.provider.set(|says| says.claims = json!({ "ext": "40", "vox": "alice" }));
    let before = scene.cookie().await;
    for status in [401, 401, 401, 401, 401, 429] {
        scene.stage.gate.get("/auth/pbx?account=40").bearer("a-guess").send().await.expect(status);
    }
    let after = scene.cookie().await;
    for cookie in [before, after] {
        scene.stage.gate.get("/auth/pbx").cookie(&cookie).send().await.expect(303);
    }
}

/// Asks a slow app about many callers at once, each with another account.
#[tokio::test]
async fn of_many_guesses_at_once_no_more_are_answered_than_may_fail() {
    let app = people(Duration::from_millis(500)).await;
    let stage = Plan { limits: "", app_at: Some(app.addr), ..Plan::default() }.start().await;
    let asked = (0..60).map(|number| {
        let asking = stage.gate.get(&format!("/auth/pbx?account={}", 1000 + number));
        asking.cookie(&format!("sid=user{number:03}")).send()
    });
    let answers = join_all(asked).await;
    let count = |status: u16| answers.iter().filter(|answer| answer.status.as_u16() == status).count();
    assert_eq!((count(403), count(429)), (5, 55));
}

// === Pages of other sites ===

#[tokio::test]
async fn images_of_another_site_use_up_nothing() {
    let stage = Plan { rules: &link_rules(), limits: "client = \"20/min\"", ..Plan::default() }.start().await;
    for path in ["/auth/pbx?sig=x", "/auth/pbx", "/auth/callgate/login", "/auth/callgate/ticket?t=x"] {
        for _ in 0..6 {
            let answer = with(stage.gate.get(path), &IMAGE).send().await;
            assert!([403, 404].contains(&answer.status.as_u16()), "{path}: {answer:?}");
        }
    }
    for _ in 0..10 {
        with(stage.as_alice("/auth/pbx?account=41"), &IMAGE).send().await.expect(403);
        let post = stage.alice_posts("/auth/ott", "text/plain", "key=k1").header("origin", "https://evil.test");
        post.header("sec-fetch-site", "cross-site").header("sec-fetch-mode", "no-cors").send().await.expect(403);
        // A browser too old for Fetch Metadata.
        stage.gate.get("/auth/pbx?sig=x").header("origin", "https://evil.test").send().await.expect(403);
    }
    assert!(stage.app.requests().is_empty(), "the app is not asked");
    check_colleague(&stage).await;
}

#[tokio::test]
async fn a_window_that_another_site_sends_again_and_again_locks_out_no_colleague() {
    let stage = office(&link_rules()).await;
    for _ in 0..12 {
        with(stage.as_alice("/auth/pbx?account=41"), &WINDOW).send().await;
        with(stage.gate.get("/auth/pbx?sig=x"), &WINDOW).send().await.expect(401);
        with(stage.gate.get("/auth/pbx").cookie("demo_app=old"), &WINDOW).send().await.expect(200);
        with(stage.gate.get("/auth/pbx?again=1").cookie("demo_app=old"), &WINDOW).send().await.expect(401);
    }
    check_colleague(&stage).await;
    // Nor the visitor, who asks for no account by name.
    stage.as_alice("/auth/pbx").send().await.expect(303);
}

#[tokio::test]
async fn windows_that_other_sites_send_are_counted_apart() {
    let stage = Plan { limits: "client = \"2/min\"", ..Plan::default() }.start().await;
    for status in [303, 303, 429] {
        with(stage.as_alice("/auth/pbx"), &WINDOW).send().await.expect(status);
    }
    stage.as_alice("/auth/pbx").send().await.expect(303);
}

/// A program says of itself what it likes.
#[tokio::test]
async fn requests_that_claim_another_site_cannot_guess_without_end() {
    let rules = link_rules();
    let plan =
        Plan { pbx: "handoff = \"cookie\"", rules: &rules, limits: "stale_cookies = \"3/min\"", ..Plan::default() };
    let stage = plan.start().await;
    let ticket = |guess: u32| format!("/auth/callgate/ticket?t=a-guess-{guess}");
    for guess in [1, 1, 1, 2, 3] {
        with(stage.gate.get(&ticket(guess)).host("pbx.test"), &WINDOW).send().await.expect(403);
    }
    with(stage.gate.get(&ticket(4)).host("pbx.test"), &WINDOW).send().await.expect(429);
    with(stage.gate.get("/auth/pbx?sig=x"), &WINDOW).send().await.expect(429);
    // It counts against none but its like.
    stage.as_user("bob", "/auth/pbx").send().await.expect(303);
    stage.gate.get("/auth/pbx").cookie("demo_app=old").send().await.expect(401);
    stage.gate.get(&ticket(5)).host("pbx.test").send().await.expect(403);
}

#[tokio::test]
async fn old_bookmarks_with_an_account_lock_out_no_colleague() {
    let stage = office(STAFF).await;
    for status in [403, 403, 403, 403, 403, 429] {
        with(stage.as_alice("/auth/pbx?account=41"), &BOOKMARK).send().await.expect(status);
    }
    check_colleague(&stage).await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
}

#[tokio::test]
async fn requests_of_another_site_use_up_no_password_logins() {
    for shield in ["", "shield = { from = [] }"] {
        let limits = "pbx_logins = \"2/min\"";
        let stage =
            Plan { pbx: shield, limits, app: "hosts = [\"app.test\"]\nwhoami = \"/api/me\"", ..Plan::default() };
        let stage = stage.start().await;
        let login = || {
            let body = json!({ "name": "auth", "value": "40 00112233445566778899aabbccddeeff" }).to_string();
            stage.gate.post("/rest/system/session", JSON, body).host("pbx.test")
        };
        for _ in 0..4 {
            with(stage.gate.get("/reg_x.htm").host("pbx.test"), &IMAGE).send().await;
            with(stage.gate.get("/reg_x.htm").host("pbx.test"), &WINDOW).send().await;
            with(login(), &IMAGE[..2]).header("origin", "https://evil.test").send().await.expect(403);
            login().header("origin", "https://evil.test").send().await.expect(403);
            let basic = stage.gate.get("/rest/system/stats").host("pbx.test").header("authorization", "Basic eDp5");
            with(basic, &IMAGE).send().await.expect(403);
        }
        // The vendor's page of the app does the same, and may.
        let from_app = login().header("origin", "https://app.test").header("sec-fetch-site", "cross-site");
        from_app.send().await.expect(200);
        login().send().await.expect(200);
        login().send().await.expect(429);
    }
}

// === The app binds sessions to browsers ===

#[tokio::test]
async fn the_app_gets_the_browsers_user_agent_which_is_no_credential() {
    let stage = office(STAFF).await;
    stage.as_alice("/auth/pbx").header("user-agent", "Mozilla/5.0 One").send().await.expect(303);
    let asked = stage.app.requests().pop().unwrap();
    assert_eq!((&*asked.target, asked.header("user-agent")), ("/api/me", Some("Mozilla/5.0 One")));
    let app = "[[auth]]\ntype = \"app\"\nwhoami = \"/api/me\"\nheaders = [\"User-Agent\", \"accept-language\", \"x-api-key\"]\n";
    let stage = Plan { app: "", rules: &format!("{app}{STAFF}"), limits: "", ..Plan::default() }.start().await;
    for _ in 0..10 {
        let asking = stage.gate.get("/auth/pbx").header("user-agent", "Mozilla/5.0 One");
        asking.header("accept-language", "de").send().await.expect(401);
    }
    assert!(stage.app.requests().is_empty(), "nothing was shown");
    stage.gate.logins.are_not_explained();
    let asking = stage.as_alice("/auth/pbx").header("user-agent", "Mozilla/5.0 One").header("accept-language", "de");
    asking.send().await.expect(303);
    let asked = stage.app.requests().pop().unwrap();
    assert_eq!((asked.header("user-agent"), asked.header("accept-language")), (Some("Mozilla/5.0 One"), Some("de")));
    stage.gate.get("/auth/pbx").header("x-api-key", "unknown").send().await.expect(401);
    assert_eq!(stage.app.requests().len(), 2);
}

// === Nine in the morning ===

const PEOPLE: usize = 200;

/// An app with many users: the cookie `sid=userNNN` is good, every other is old.
async fn people(pause: Duration) -> RawUpstream {
    RawUpstream::serving(move |mut line| async move {
        while let Some(request) = line.request().await {
            tokio::time::sleep(pause).await;
            let user = request.lines().find_map(|line| line.strip_prefix("cookie: sid=user")).map(str::trim);
            let body = match user {
                Some(number) => {
                    json!({ "ext": format!("7{number}"), "tenant": "acme.test", "vox": format!("user{number}") })
                }
                None => json!({}),
            };
            let (status, body) = (if user.is_some() { "200 OK" } else { "401 Unauthorized" }, body.to_string());
            line.say(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        }
    })
    .await
}

/// A PBX that opens a session for any account.
async fn open_pbx() -> RawUpstream {
    RawUpstream::answering(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 22\r\n\r\n\"aaaabbbbccccddddeeee\"",
    )
    .await
}

fn users_file(folder: &TempDir) -> String {
    let mut lines = String::new();
    for number in 0..PEOPLE {
        let _ = writeln!(lines, "user{number:03}:voximplant.com:{:032x}", number + 1);
    }
    secret(folder, "users", &lines);
    folder.path().join("users").display().to_string()
}

/// Two hundred people come within a minute, all from one address and with the default limits: with the cookie of
/// yesterday, then with one of today, each to the telephone system and to the web phone.
#[tokio::test]
async fn an_office_of_two_hundred_is_in_within_a_minute() {
    let (folder, app, pbx) = (TempDir::new().unwrap(), people(Duration::from_millis(20)).await, open_pbx().await);
    let users = users_file(&folder);
    let plan = Plan { limits: "", users: &users, app_at: Some(app.addr), pbx_at: Some(pbx.addr), ..Plan::default() };
    let stage = Arc::new(plan.start().await);
    let begin = std::time::Instant::now();
    let arrive = |number: usize| {
        let stage = Arc::clone(&stage);
        async move {
            let (old, new) = (format!("sid=old{number:03}"), format!("sid=user{number:03}"));
            let go = async |cookie: &str, status| {
                let asking = stage.gate.get(&format!("/auth/pbx?account=7{number:03}")).cookie(cookie);
                with(asking, &BOOKMARK).send().await.expect(status)
            };
            go(&old, 401).await;
            go(&new, 303).await;
            let post = stage.gate.post("/auth/ott", FORM, "key=k1").cookie(&new);
            with(post, &[("sec-fetch-site", "same-origin"), ("origin", "https://app.test")]).send().await.expect(200)
        }
    };
    for group in 0..PEOPLE / 20 {
        let tokens: Vec<Answer> = join_all((0..20).map(|number| arrive(group * 20 + number))).await;
        assert_eq!(tokens.len(), 20);
    }
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    stage.gate.canary("aaaabbbbccccddddeeee");
}

/// The same by an identity provider, which takes four requests for each.
#[tokio::test]
async fn an_office_of_two_hundred_logs_in_at_its_provider() {
    let (provider, pbx) = (Provider::start().await, open_pbx().await);
    let method = crate::kit::oidc::method("sso", &provider, "");
    let rules = "[[allow]]\npbx = { domain = \"acme.test\", account = \"{ext}\" }";
    let plan =
        Plan { app: "", rules, voximplant: "", limits: "", more: &method, pbx_at: Some(pbx.addr), ..Plan::default() };
    let scene = OidcStage { stage: plan.start().await, provider };
    for number in 0..PEOPLE {
        scene
            .provider
            .set(|says| says.claims = json!({ "sub": format!("user{number}"), "ext": format!("7{number:03}") }));
        let cookie = scene.cookie().await;
        scene.stage.gate.get("/auth/pbx?again=login").cookie(&cookie).send().await.expect(303);
    }
}

/// A server asks for all of them with its one key.
#[tokio::test]
async fn a_server_logs_an_office_in_with_one_key() {
    let pbx = open_pbx().await;
    let stage = Plan { rules: &key_rules(), limits: "", pbx_at: Some(pbx.addr), ..Plan::default() }.start().await;
    stage.gate.logins.are_not_explained();
    for number in 0..PEOPLE {
        let body = json!({ "account": format!("7{number:03}") }).to_string();
        stage.gate.post("/auth/pbx", JSON, body).bearer(KEY).send().await.expect(200);
    }
    // For one account it is one caller.
    for status in [200, 200, 200, 200, 429] {
        stage.gate.post("/auth/pbx", JSON, "{\"account\":\"7000\"}").bearer(KEY).send().await.expect(status);
    }
    let wrong = stage.gate.ask(Method::POST, "/auth/pbx").bearer(KEY).header("content-type", JSON);
    wrong.body("{\"account\":\"40\",\"domain\":\"other.test\"}").send().await.expect(403);
}
