//! Callers, and the accounts that rules grant them.

use std::time::Duration;

use hex::encode;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::kit::app::Whoami;
use crate::kit::gate::Gate;
use crate::kit::stage::{Plan, STAFF, Stage, until};

const FORM: &str = "application/x-www-form-urlencoded";
/// The key of the tests' server.
const KEY: &str = "a-key-of-another-server-0123456789";

fn sha256(text: &str) -> String {
    encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()))
}

// === Method `app` ===

/// Lets the app see only one cookie and one header field.
const NARROW: &str = r#"
[[auth]]
type = "app"
whoami = "/api/me?full=1"
cookies = ["demo_app", "odd#name"]
headers = ["x-portal", "authorization"]
timeout = "1s"
"#;

async fn narrow() -> Stage {
    Plan { app: "", rules: &format!("{NARROW}{STAFF}"), ..Plan::default() }.start().await
}

#[tokio::test]
async fn the_app_is_shown_what_the_operator_named_and_nothing_else() {
    let stage = narrow().await;
    let cookie = stage.app.log_in("alice");
    let asking = stage.gate.post("/auth/pbx", "application/json", "{}").cookie("other=1; odd#name=2; DEMO_APP=3");
    let asking = asking.cookie(&cookie).header("x-portal", "blue").header("x-other", "red").header("pbx-account", "41");
    let asking = asking.header("x-forwarded-for", "9.9.9.9").header("x-real-ip", "9.9.9.9").header("te", "trailers");
    let asking = asking.header("x-request-id", "mine").header("range", "bytes=0-1").header("accept", "text/html");
    asking.header("connection", "x-portal-hop").header("upgrade", "h2c").send().await.expect(200);
    let requests = stage.app.requests();
    let [asked] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!((&asked.method, &*asked.target), (&Method::GET, "/api/me?full=1"));
    assert_eq!(asked.header("cookie"), Some(&*format!("odd#name=2; {cookie}")));
    assert_eq!((asked.header("x-portal"), asked.header("accept")), (Some("blue"), Some("application/json")));
    assert_eq!((asked.header("host"), asked.header("x-forwarded-host")), (Some("app.test"), Some("app.test")));
    assert_eq!(
        (asked.header("x-forwarded-for"), asked.header("x-forwarded-proto")),
        (Some("127.0.0.1"), Some("https"))
    );
    assert_ne!(asked.header("x-real-ip"), Some("9.9.9.9"));
    assert_ne!(asked.header("x-request-id"), Some("mine"));
    for absent in
        ["x-other", "pbx-account", "te", "range", "connection", "upgrade", "content-type", "transfer-encoding"]
    {
        assert_eq!(asked.header(absent), None, "{absent}");
    }
    assert!(asked.header("content-length").is_none_or(|length| length == "0"));
}

#[tokio::test]
async fn without_anything_to_show_the_app_is_not_asked() {
    let stage = narrow().await;
    for cookie in ["", "other=1", "demo_app_x=1", "xdemo_app=1"] {
        stage.gate.get("/auth/pbx").cookie(cookie).send().await.expect(401);
    }
    assert!(stage.app.requests().is_empty());
    let twice = stage.as_alice("/auth/pbx").header("x-portal", "a").header("x-portal", "b");
    twice.send().await.expect(401);
    assert!(stage.app.requests().is_empty() && stage.minted().is_empty());
}

#[tokio::test]
async fn a_clients_body_goes_on_untouched_while_the_app_is_asked() {
    let stage = Stage::new().await;
    let body = "x".repeat(100_000);
    let echo = stage.alice_posts("/echo", "application/octet-stream", &body).send().await.expect(200).json();
    assert_eq!((&echo["length"], &echo["sha256"]), (&json!(body.len()), &json!(sha256(&body))));
    stage.alice_posts("/auth/pbx", "application/json", "{}").send().await.expect(200);
    let asked = stage.app.requests().pop().unwrap();
    assert_eq!((asked.method, asked.headers.get("transfer-encoding")), (Method::GET, None));
}

#[tokio::test]
async fn only_a_json_object_names_a_caller() {
    let stage = narrow().await;
    let status = |code: u16| Whoami::Status(StatusCode::from_u16(code).unwrap());
    for (whoami, expected) in [
        (Whoami::Truth, 303),
        (status(401), 401),
        (status(403), 401),
        (status(404), 502),
        (status(500), 502),
        (status(204), 502),
        (status(201), 502),
        (Whoami::NotJson, 502),
        (Whoami::Large, 502),
        (Whoami::Redirect, 502),
        (Whoami::Claims(json!([])), 502),
        (Whoami::Claims(json!("alice")), 502),
        (Whoami::Claims(json!(null)), 502),
        (Whoami::Claims(json!({})), 403),
        (Whoami::Slow(Duration::from_secs(600)), 504),
        (Whoami::Hang, 504),
    ] {
        stage.app.set(|faults| faults.whoami = whoami.clone());
        let answer = stage.as_alice("/auth/pbx").send().await;
        assert_eq!(answer.status.as_u16(), expected, "{whoami:?}");
        assert_eq!(answer.header("location").is_empty(), expected != 303);
    }
    assert_eq!(stage.minted(), ["40@acme.test"]);
}

#[tokio::test]
async fn an_app_that_is_down_proves_no_caller() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let stage = Plan { app_at: Some(nobody), ..Plan::default() }.start().await;
    stage.as_alice("/auth/pbx").send().await.expect(502);
    assert!(stage.minted().is_empty());
}

#[tokio::test]
async fn claims_that_are_no_scalars_are_missing() {
    let stage = Stage::new().await;
    for (ext, expected) in [
        (json!("40"), 303),
        (json!(40), 303),
        (json!(["40"]), 403),
        (json!({ "a": "40" }), 403),
        (json!(null), 403),
        (json!(40.5), 403),
        (json!(-40), 403),
        (json!(true), 403),
    ] {
        stage.claims(json!({ "ext": ext, "tenant": "acme.test" }));
        let answer = stage.as_alice("/auth/pbx").send().await;
        assert_eq!(answer.status.as_u16(), expected, "{ext}");
    }
    assert!(stage.minted().iter().all(|account| account != "@acme.test" && !account.contains("none")));
    assert!(stage.pbx.sessions().iter().all(|session| session.identity.user == "40"));
}

// === Method `key` ===

/// A key with everything a key may have, and a rule for it.
fn key_rules(more: &str) -> String {
    format!(
        r#"
[[auth]]
name = "crm"
type = "key"
sha256 = "{}"
{more}
[[allow]]
name = "servers"
auth = "crm"
pbx = {{ domain = "{{domain}}", account = "{{account}}" }}
voximplant = "{{user}}"
{STAFF}"#,
        sha256(KEY)
    )
}

const WIDE: &str = "scopes = [\"pbx\", \"ott\"]\ndomains = [\"acme.test\"]\nusers = [\"alice\"]";

async fn keyed(more: &str) -> Stage {
    Plan { rules: &key_rules(more), ..Plan::default() }.start().await
}

#[tokio::test]
async fn a_server_with_a_key_gets_sessions_and_tokens() {
    let stage = keyed(WIDE).await;
    let body = json!({ "account": "41", "domain": "acme.test", "lang": "en" }).to_string();
    let answer = stage.gate.post("/auth/pbx", "application/json", body).bearer(KEY).send().await.expect(200).json();
    let session = stage.pbx.last_session().unwrap();
    assert_eq!(answer["url"], format!("https://pbx.test/welcome.htm?sessId={session}&lang=en"));
    assert_eq!((&answer["session"], &answer["expires_in"]), (&json!(session), &json!(3600)));
    stage.gate.get("/auth/pbx?account=40").bearer(KEY).send().await.expect(303);
    let token = stage.gate.post("/auth/ott", FORM, "key=k1&appUser=alice").bearer(KEY).send().await.expect(200);
    assert_eq!(token.text().len(), 32);
    assert_eq!(stage.minted(), ["41@acme.test", "40@acme.test"]);
    let line = stage.gate.line(&["audit grant", "account=41@acme.test"]).await;
    assert!(line.contains("method=crm subject=key:crm rule=servers"), "{line}");
    assert!(stage.app.requests().is_empty());
}

#[tokio::test]
async fn a_key_needs_no_origin() {
    let stage = keyed(WIDE).await;
    let asking = stage.gate.post("/auth/pbx", "application/json", r#"{"account":"40"}"#).bearer(KEY);
    asking.header("origin", "https://elsewhere.test").header("sec-fetch-site", "cross-site").send().await.expect(200);
}

#[tokio::test]
async fn a_key_names_only_what_its_lists_have() {
    let stage = keyed(&format!("{WIDE}\naccounts = [\"40\"]")).await;
    for (body, status) in [
        (json!({ "account": "40" }), 200),
        (json!({ "account": "40", "domain": "acme.test" }), 200),
        (json!({ "account": "40", "domain": "ACME.TEST" }), 200),
        (json!({ "account": "41" }), 403),
        (json!({ "account": "40", "domain": "other.test" }), 403),
        (json!({}), 403),
        (json!({ "domain": "acme.test" }), 403),
        (json!({ "account": "" }), 403),
        (json!({ "account": "admin" }), 403),
    ] {
        let answer = stage.gate.post("/auth/pbx", "application/json", body.to_string()).bearer(KEY).send().await;
        assert_eq!(answer.status.as_u16(), status, "{body}");
    }
    for (form, status) in
        [("key=k1&appUser=alice", 200), ("key=k1&appUser=bob", 403), ("key=k1", 403), ("key=k1&appUser=", 403)]
    {
        let answer = stage.gate.post("/auth/ott", FORM, form).bearer(KEY).send().await;
        assert_eq!(answer.status.as_u16(), status, "{form}");
    }
    assert!(stage.minted().iter().all(|account| account == "40@acme.test"));
}

#[tokio::test]
async fn a_key_of_two_domains_must_name_one() {
    let stage = keyed("scopes = [\"pbx\"]\ndomains = [\"acme.test\", \"other.test\"]").await;
    let asking = |body: &str| stage.gate.post("/auth/pbx", "application/json", body.to_owned()).bearer(KEY);
    asking(r#"{"account":"40","domain":"acme.test"}"#).send().await.expect(200);
    asking(r#"{"account":"40"}"#).send().await.expect(403);
}

#[tokio::test]
async fn a_key_opens_only_what_it_is_for() {
    let stage = keyed("scopes = [\"ott\"]\nusers = [\"alice\"]").await;
    stage.gate.get("/auth/pbx?account=40").bearer(KEY).send().await.expect(401);
    stage.gate.post("/auth/ott", FORM, "key=k1&appUser=alice").bearer(KEY).send().await.expect(200);
    let stage = keyed("scopes = [\"pbx\"]\ndomains = [\"acme.test\"]").await;
    stage.gate.get("/auth/pbx?account=40").bearer(KEY).send().await.expect(303);
    stage.gate.post("/auth/ott", FORM, "key=k1&appUser=alice").bearer(KEY).send().await.expect(401);
}

#[tokio::test]
async fn a_key_comes_only_from_its_networks() {
    let stage = keyed(&format!("{WIDE}\nfrom = [\"127.0.0.2/32\", \"127.0.1.0/24\"]")).await;
    for (from, status) in [("127.0.0.1", 401), ("127.0.0.2", 303), ("127.0.0.3", 401), ("127.0.1.9", 303)] {
        let asking = stage.gate.get("/auth/pbx?account=40").bearer(KEY).header("x-forwarded-for", "127.0.0.2");
        asking.from(from).send().await.expect(status);
    }
}

#[tokio::test]
async fn a_key_ends_when_it_says() {
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(5);
    let stage = keyed(&format!("{WIDE}\nexpires = {soon:.0}")).await;
    let mut status = stage.gate.get("/auth/pbx?account=40").bearer(KEY).send().await.status;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while status != StatusCode::UNAUTHORIZED {
        assert!(tokio::time::Instant::now() < deadline, "the key goes on");
        tokio::time::sleep(Duration::from_millis(200)).await;
        status = stage.gate.get("/auth/pbx?account=40").bearer(KEY).send().await.status;
    }
    stage.gate.line(&["audit refusal", "the key has expired"]).await;
}

#[tokio::test]
async fn a_value_that_is_not_exactly_the_key_is_refused() {
    let stage = keyed(WIDE).await;
    for shown in [
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Bearer {KEY}x"),
        format!("Bearer {}", KEY.to_uppercase()),
        format!("Bearer {}", &KEY[1..]),
        format!("Bearer {KEY} {KEY}"),
        format!("Bearer {KEY},"),
        format!("Bearer{KEY}"),
        format!("Bearer\t{KEY}"),
        format!("Bearer {}", sha256(KEY)),
        format!("Bearer {}", "x".repeat(600)),
        format!("Basic {KEY}"),
        KEY.to_owned(),
    ] {
        let answer = stage.gate.get("/auth/pbx?account=40").header("authorization", &shown).send().await;
        assert_eq!(answer.status.as_u16(), 401, "{shown}");
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{shown}");
    }
    stage.gate.get("/auth/pbx?account=40").header("authorization", &format!("bearer  {KEY} ")).send().await.expect(303);
    assert_eq!(stage.minted().len(), 1);
}

#[tokio::test]
async fn keys_are_not_guessed_at_leisure() {
    let rules = key_rules(WIDE);
    let redirect = "/redirect?to=https%3A%2F%2Fpbx.test%2Fwelcome.htm";
    for path in ["/auth/pbx", redirect] {
        let stage = Plan { rules: &rules, limits: "failures = \"2/15min\"", ..Plan::default() }.start().await;
        let guess = || {
            let asking = stage.gate.get(path).bearer("a-guess-at-the-key-0123456789");
            // The fields of a browser after a click on another site.
            asking.header("sec-fetch-site", "cross-site").header("sec-fetch-mode", "navigate")
        };
        for status in [401, 401, 429] {
            guess().send().await.expect(status);
        }
        stage.gate.line(&["audit refusal", "the key is not known"]).await;
        let asking = stage.gate.get(path).bearer(KEY);
        assert_eq!(asking.send().await.expect(429).header("location"), "", "a good key looks no better: {path}");
    }
}

#[tokio::test]
async fn two_credentials_are_refused() {
    let stage = keyed(WIDE).await;
    stage.gate.get("/auth/pbx?account=40").bearer(KEY).bearer(KEY).send().await.expect(401);
    stage.gate.get("/auth/pbx?account=40").bearer(KEY).header("authorization", "Basic eDp5").send().await.expect(401);
    stage.gate.get("/auth/pbx?account=40").header("authorization", "Basic eDp5").bearer(KEY).send().await.expect(401);
    stage.as_alice("/auth/pbx?account=40").bearer(KEY).send().await.expect(401);
    stage.as_alice("/auth/pbx?account=40").bearer("wrong-key-wrong-key").send().await.expect(401);
    stage.alice_posts("/auth/ott", FORM, "key=k1&appUser=alice").bearer(KEY).send().await.expect(401);
    assert!(stage.minted().is_empty());
    stage.as_alice("/auth/pbx?account=40").send().await.expect(303);
}

#[tokio::test]
async fn a_key_that_only_looks_like_one_of_the_apps_is_the_apps() {
    let stage = Stage::new().await;
    let asking = stage.as_alice("/auth/pbx").bearer("something-of-the-apps-own");
    asking.send().await.expect(303);
}

// === Rules ===

async fn ruled(rules: &str) -> Stage {
    Plan { rules, voximplant: "", ..Plan::default() }.start().await
}

#[tokio::test]
async fn the_first_rule_that_applies_decides() {
    let stage = ruled(
        r#"
[[allow]]
name = "with extension"
pbx = { domain = "acme.test", account = "{ext}" }
[[allow]]
name = "by mail"
pbx = { domain = "{email|after:@|lower}", account = "{email|before:@}" }
[[allow]]
name = "everybody"
pbx = { domain = "acme.test", account = "41" }
voximplant = "{vox|lower}"
"#,
    )
    .await;
    for (claims, expected) in [
        (json!({ "ext": "40", "email": "41@acme.test" }), "40@acme.test"),
        (json!({ "email": "40@ACME.test" }), "40@acme.test"),
        (json!({ "email": "no mail" }), "41@acme.test"),
        (json!({ "ext": ["40"] }), "41@acme.test"),
    ] {
        stage.claims(claims.clone());
        stage.as_alice("/auth/pbx").send().await.expect(303);
        assert_eq!(stage.minted().last().unwrap(), expected, "{claims}");
    }
    let minted = stage.minted().len();
    for claims in
        [json!({ "ext": "admin" }), json!({ "ext": "" }), json!({ "email": "@acme.test" }), json!({ "email": "40@" })]
    {
        stage.claims(claims.clone());
        let answer = stage.as_alice("/auth/pbx").send().await;
        assert_eq!(answer.status.as_u16(), 403, "a later rule took over: {claims}");
    }
    assert_eq!(stage.minted().len(), minted);
    stage.claims(json!({ "vox": "ALICE" }));
    stage.alice_posts("/auth/ott", FORM, "key=k1").send().await.expect(200);
}

#[tokio::test]
async fn a_rule_is_for_the_methods_it_names() {
    let stage = ruled(&format!(
        r#"
[[auth]]
name = "crm"
type = "key"
sha256 = "{}"
scopes = ["pbx"]
domains = ["acme.test"]
[[allow]]
name = "servers"
auth = ["crm"]
pbx = {{ domain = "acme.test", account = "41" }}
[[allow]]
name = "people"
auth = "app"
pbx = {{ domain = "acme.test", account = "40" }}
voximplant = "alice"
"#,
        sha256(KEY)
    ))
    .await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    stage.gate.get("/auth/pbx").bearer(KEY).send().await.expect(303);
    assert_eq!(stage.minted(), ["40@acme.test", "41@acme.test"]);
}

#[tokio::test]
async fn a_rule_without_methods_is_not_for_redirects() {
    let stage = Stage::new().await;
    let path = "/grant?to=https%3A%2F%2Fpbx.test%2Fwelcome.htm&account=41&domain=acme.test";
    stage.gate.get(path).send().await.expect(302);
    assert!(stage.minted().is_empty());
}

#[tokio::test]
async fn a_rule_may_narrow_the_languages() {
    let stage = ruled(
        r#"
[[allow]]
pbx = { domain = "{tenant}", account = "{ext}" }
languages = ["fr"]
voximplant = "{vox}"
"#,
    )
    .await;
    stage.as_alice("/auth/pbx?lang=fr").send().await.expect(303);
    stage.as_alice("/auth/pbx?lang=en").send().await.expect(400);
    assert_eq!(stage.minted().len(), 1);
}

// === What no rule can grant ===

/// Account names that would be an administrator, or would break out of the question to the PBX.
fn forbidden_accounts() -> Vec<Value> {
    [
        "",
        "admin",
        "ADMIN",
        "Admin",
        " ",
        "40 ",
        "4\n0",
        "40\0",
        "40\u{7f}",
        "40@acme.test",
        "40\"",
        "40\\",
        "é",
        "../40",
        "40/41",
        "{ext}",
    ]
    .map(|text| json!(text))
    .into_iter()
    .chain([json!("4".repeat(65)), json!(null), json!([])])
    .collect()
}

#[tokio::test]
async fn no_claim_of_an_app_makes_an_administrator() {
    let stage = Stage::new().await;
    for ext in forbidden_accounts() {
        stage.claims(json!({ "user": "mallory", "ext": ext, "tenant": "acme.test" }));
        let answer = stage.as_alice("/auth/pbx").send().await;
        assert_eq!(answer.status.as_u16(), 403, "{ext}");
        stage.alice_posts("/auth/pbx", "application/json", json!({ "account": ext.as_str() })).send().await.expect(403);
    }
    for tenant in ["", " ", "acme", "acme.test/", "acme.test\"", "-acme.test", "acme..test", "acme.test\n"] {
        stage.claims(json!({ "ext": "40", "tenant": tenant }));
        let status = stage.as_alice("/auth/pbx").send().await.status.as_u16();
        assert_eq!(status, 403, "{tenant:?}");
    }
    stage.claims(json!({ "tenant": "acme.test" }));
    stage.as_alice("/auth/pbx").send().await.expect(403);
    // `acme` is a host name, so the PBX is asked, and knows no such domain.
    assert_eq!(stage.minted(), ["40@acme"]);
}

#[tokio::test]
async fn no_key_makes_an_administrator() {
    let stage = keyed(WIDE).await;
    for account in forbidden_accounts() {
        let body = json!({ "account": account, "domain": "acme.test" }).to_string();
        let answer = stage.gate.post("/auth/pbx", "application/json", body).bearer(KEY).send().await;
        let status = answer.status.as_u16();
        assert!(status == 403 || status == 400 && !account.is_string(), "{account}: {status}");
    }
    for query in ["account=%61dmin", "account=", "", "account=admin&domain=acme.test", "account=40&account=admin"] {
        let answer = stage.gate.get(&format!("/auth/pbx?{query}")).bearer(KEY).send().await;
        assert!([400, 403].contains(&answer.status.as_u16()), "{query}");
    }
    assert!(stage.minted().is_empty() && stage.pbx.requests().is_empty());
}

#[tokio::test]
async fn an_account_of_digits_that_looks_like_a_number_stays_as_it_is() {
    let stage = Stage::new().await;
    stage.claims(json!({ "ext": "040", "tenant": "acme.test" }));
    stage.as_alice("/auth/pbx").send().await.expect(403);
    assert_eq!(stage.minted(), ["040@acme.test"]);
}

#[tokio::test]
async fn no_rule_no_login() {
    let stage = Stage::new().await;
    let text = format!(
        "[app]\nurl = \"http://{}\"\nwhoami = \"/api/me\"\n[pbx]\nurl = \"http://{}\"\nhosts = [\"pbx.test\"]\n\
         admin = {{ user = \"sso\", password = {{ env = \"PBX_ADMIN\" }} }}\n[voximplant]\nusers = {{ file = \"voximplant.htdigest\" }}",
        stage.app.addr, stage.pbx.addr
    );
    let gate = Gate::start(&text).await;
    let cookie = stage.app.log_in("alice");
    gate.get("/auth/pbx").cookie(&cookie).send().await.expect(403);
    gate.post("/auth/ott", FORM, "key=k1").cookie(&cookie).send().await.expect(403);
    until("both are audited", || gate.log().matches("audit refusal").count() == 2).await;
    assert!(stage.minted().is_empty());
}
