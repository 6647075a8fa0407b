//! Rules: conditions, tables, choices among several accounts, administrators.

use std::fs;

use http::StatusCode;
use serde_json::{Value, json};

use crate::kit::stage::{Plan, Stage, until};
use crate::kit::vodia::{Dialect, Level};

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
const NAVIGATION: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
/// The tables before every rule of these tests.
const FIRST: &str = "[[allow]]\nname = \"first\"\n";
const EXT: &str = "pbx = { domain = \"acme.test\", account = \"{ext}\" }\n";

async fn with(rule: &str) -> Stage {
    Plan { rules: &format!("{FIRST}{rule}"), ..Plan::default() }.start().await
}

impl Stage {
    /// Asks for a session with these claims; returns the status, and the account that was requested at the PBX.
    async fn session(&self, claims: Value, path: &str) -> (StatusCode, Option<String>) {
        self.claims(claims);
        let before = self.minted().len();
        let answer = self.as_alice(path).send().await;
        let minted = self.minted();
        assert!(minted.len() <= before + 1);
        (answer.status, minted.get(before).cloned())
    }
}

#[track_caller]
fn same(found: (StatusCode, Option<String>), status: u16, account: Option<&str>, what: &str) {
    assert_eq!((found.0.as_u16(), found.1.as_deref()), (status, account), "{what}");
}

// === Conditions ===

#[tokio::test]
async fn a_rule_applies_while_all_its_conditions_hold() {
    let when =
        "when = { email_verified = true, plan = [\"pro\", \"team\"], groups = \"phone\", email = \"*@acme.test\" }";
    let stage = with(&format!("{EXT}{when}")).await;
    let good =
        json!({"ext": "40", "email_verified": true, "plan": "team", "groups": ["x", "phone"], "email": "a@acme.test"});
    same(stage.session(good.clone(), "/auth/pbx").await, 303, Some("40@acme.test"), "all hold");
    for (claim, value) in [
        ("email_verified", json!(false)),
        ("email_verified", json!(null)),
        ("plan", json!("free")),
        ("plan", json!(["free", "PRO"])),
        ("groups", json!(["phones"])),
        ("groups", json!([])),
        ("groups", json!({"phone": true})),
        ("email", json!("a@acme.test.evil.test")),
        ("email", json!("a@evil.test@acme.test")),
    ] {
        let mut claims = good.clone();
        claims[claim] = value;
        same(stage.session(claims.clone(), "/auth/pbx").await, 403, None, &claims.to_string());
    }
}

#[tokio::test]
async fn an_unverified_address_grants_no_account() {
    let stage = with("pbx = { domain = \"acme.test\", account = \"{email|before:@}\" }").await;
    let claims = |verified: Value| json!({"email": "40@acme.test", "email_verified": verified});
    same(stage.session(claims(json!(true)), "/auth/pbx").await, 303, Some("40@acme.test"), "verified");
    for verified in [json!(false), json!("false"), json!("no"), json!(0), json!(["true"]), json!("")] {
        same(stage.session(claims(verified.clone()), "/auth/pbx").await, 403, None, &verified.to_string());
    }
}

#[tokio::test]
async fn hours_open_and_close_a_rule() {
    let always = with(&format!("{EXT}when = {{ hours = \"Mon-Sun 00:00-24:00 Europe/Berlin\" }}")).await;
    same(always.session(json!({"ext": "40"}), "/auth/pbx").await, 303, Some("40@acme.test"), "always");
    // All but this minute and those around it, whatever day it is.
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let at = |minutes: i64| now.saturating_add(jiff::Span::new().minutes(minutes)).strftime("%H:%M").to_string();
    let closed = format!("{EXT}when = {{ hours = \"Mon-Sun {}-{} UTC\" }}", at(5), at(-5));
    let closed = with(&closed).await;
    same(closed.session(json!({"ext": "40"}), "/auth/pbx").await, 403, None, "closed");
    closed.gate.line(&["audit refusal", "no rule applies"]).await;
}

// === Tables ===

const PEOPLE: &str = "pbx = { domain = \"{row.tenant}\", account = \"{row.ext}\" }\nvoximplant = \"{row.vox}\"\n\
    table = { file = \"people.csv\", key = \"{mail|lower}\" }\n";
const TABLE: &str = "mail,ext,tenant,vox\nann@a.test,40,acme.test,alice\nbob@a.test,41,acme.test,bob\n\
    root@a.test,admin,acme.test,x\nnone@a.test,,acme.test,x\n";

/// A stage whose gate has a table; its configuration, for a reload, comes along.
async fn listed(more: &str, table: &str) -> Stage {
    let mut stage = with(EXT).await;
    let text = stage.gate.text.replace(EXT, &format!("{PEOPLE}{more}"));
    fs::write(stage.gate.dir.path().join("people.csv"), table).unwrap();
    stage.gate.reload(&text).await.unwrap();
    stage.gate.text = text;
    stage
}

#[tokio::test]
async fn a_table_says_what_the_claims_do_not() {
    let stage = listed("", TABLE).await;
    let mail = |mail: &str| json!({"mail": mail, "row.ext": "99", "row": {"ext": "98"}});
    same(stage.session(mail("Ann@A.test"), "/auth/pbx").await, 303, Some("40@acme.test"), "ann");
    same(stage.session(mail("bob@a.test"), "/auth/pbx").await, 303, Some("41@acme.test"), "bob");
    for nobody in ["root@a.test", "none@a.test", "eve@a.test", "", "mail", "ann@a.test\u{0}", " ann@a.test"] {
        same(stage.session(mail(nobody), "/auth/pbx").await, 403, None, nobody);
    }
    stage.claims(mail("ann@a.test"));
    let token = stage.alice_posts("/auth/ott", FORM, "key=abc").header("accept", JSON).send().await.expect(200);
    assert_eq!(token.json()["user"], "alice");
}

#[tokio::test]
async fn a_changed_table_is_taken_at_a_reload_and_a_bad_one_changes_nothing() {
    let mut stage = listed("", TABLE).await;
    let text = stage.gate.text.clone();
    let ann = || json!({"mail": "ann@a.test"});
    let path = stage.gate.dir.path().join("people.csv");
    fs::write(&path, TABLE.replace("ann@a.test,40", "ann@a.test,41")).unwrap();
    stage.gate.reload(&text).await.unwrap();
    same(stage.session(ann(), "/auth/pbx").await, 303, Some("41@acme.test"), "changed");
    fs::write(&path, format!("{TABLE}ann@a.test,40,acme.test,alice\n")).unwrap();
    let problems = stage.gate.problems(&text);
    assert!(problems.contains("people.csv:6: the key \"ann@a.test\" stands in line 2 already"), "{problems}");
    same(stage.session(ann(), "/auth/pbx").await, 303, Some("41@acme.test"), "as before");
}

// === Choices ===

const MANY: &str = "pbx = { domain = \"acme.test\", account = \"{exts}\" }\nvoximplant = \"{voxes}\"\n";

#[tokio::test]
async fn a_list_of_accounts_grants_none_unless_the_rule_says_how_to_choose() {
    let stage = with(MANY).await;
    same(stage.session(json!({"exts": ["40"]}), "/auth/pbx").await, 403, None, "no choose");
}

#[tokio::test]
async fn the_caller_chooses_within_what_is_granted_and_no_more() {
    for choose in ["first", "ask"] {
        let stage = with(&format!("{MANY}choose = \"{choose}\"")).await;
        let exts = || json!({"exts": ["40", "41"]});
        same(stage.session(exts(), "/auth/pbx?account=41").await, 303, Some("41@acme.test"), choose);
        let both = "/auth/pbx?account=40&domain=acme.test";
        same(stage.session(exts(), both).await, 303, Some("40@acme.test"), choose);
        for path in [
            "/auth/pbx?account=42",
            "/auth/pbx?account=admin",
            "/auth/pbx?account=",
            "/auth/pbx?account=40,41",
            "/auth/pbx?account=40&domain=other.test",
            "/auth/pbx?domain=other.test",
        ] {
            same(stage.session(exts(), path).await, 403, None, path);
        }
        for bad in [json!(["40", "admin"]), json!(["40", ""]), json!(["40", "4 1"]), json!([]), json!(["40", {}])] {
            same(stage.session(json!({ "exts": bad }), "/auth/pbx?account=40").await, 403, None, &bad.to_string());
        }
    }
}

#[tokio::test]
async fn the_first_is_taken_where_the_rule_says_so() {
    let stage = with(&format!("{MANY}choose = \"first\"")).await;
    same(stage.session(json!({"exts": ["41", "40"]}), "/auth/pbx").await, 303, Some("41@acme.test"), "first");
}

#[tokio::test]
async fn a_person_is_shown_a_page_with_a_link_for_each_account() {
    let stage = with(&format!("{MANY}choose = \"ask\"")).await;
    stage.claims(json!({"exts": ["40", "+41*", "41"]}));
    let page = stage.as_alice("/auth/pbx?lang=fr").header("accept", NAVIGATION).send().await.expect(300);
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";
    assert_eq!(page.header("content-security-policy"), policy);
    assert_eq!((page.header("cache-control"), page.header("referrer-policy")), ("no-store", "no-referrer"));
    let text = page.text();
    for link in [
        "<a href=\"/auth/pbx?account=40&amp;domain=acme.test&amp;lang=fr\">40 (acme.test)</a>",
        "<a href=\"/auth/pbx?account=%2B41*&amp;domain=acme.test&amp;lang=fr\">+41* (acme.test)</a>",
    ] {
        assert!(text.contains(link), "{text}");
    }
    assert!(!text.contains("<script") && stage.minted().is_empty(), "{text}");
    let log = stage.gate.log();
    assert!(log.contains("account_selection_required") && !log.contains("audit"), "{log}");
    let one = stage.as_alice("/auth/pbx?account=41&domain=acme.test&lang=fr").send().await.expect(303);
    assert!(one.header("location").ends_with("&lang=fr"), "{}", one.header("location"));
    assert_eq!(stage.minted(), ["41@acme.test"]);
}

#[tokio::test]
async fn a_program_is_given_a_list_of_what_it_may_ask_for() {
    let stage = with(&format!("{MANY}choose = \"ask\"")).await;
    stage.claims(json!({"exts": ["40", "41"], "voxes": ["alice", "bob"]}));
    let list = stage.alice_posts("/auth/pbx", JSON, "{}").send().await.expect(300).json();
    let both = json!([{"account": "40", "domain": "acme.test"}, {"account": "41", "domain": "acme.test"}]);
    assert_eq!((&list["error"], &list["choices"]), (&json!("account_selection_required"), &both));
    let users = stage.alice_posts("/auth/ott", FORM, "key=abc").send().await.expect(300).json();
    assert_eq!(users["choices"], json!([{"appUser": "alice"}, {"appUser": "bob"}]));
    assert!(stage.minted().is_empty());
    stage.alice_posts("/auth/pbx", JSON, &list["choices"][1]).send().await.expect(200);
    assert_eq!(stage.minted(), ["41@acme.test"]);
    stage.alice_posts("/auth/ott", FORM, "key=abc&appUser=bob").send().await.expect(200);
    stage.alice_posts("/auth/ott", FORM, "key=abc&appUser=eve").send().await.expect(403);
}

#[tokio::test]
async fn several_rows_are_several_accounts() {
    let table = format!("{TABLE}ann@a.test,41,acme.test,bob\n");
    let stage = listed("choose = \"ask\"\n", &table).await;
    let ann = || json!({"mail": "ann@a.test"});
    same(stage.session(ann(), "/auth/pbx").await, 300, None, "ask");
    same(stage.session(ann(), "/auth/pbx?account=41").await, 303, Some("41@acme.test"), "41");
    same(stage.session(ann(), "/auth/pbx?account=42").await, 403, None, "42");
}

#[tokio::test]
async fn a_redirect_of_the_app_asks_too() {
    let stage = with(&format!("{MANY}choose = \"ask\"")).await;
    stage.claims(json!({"exts": ["40", "41"]}));
    let redirect = "/redirect?to=https://pbx.test/welcome.htm";
    let page = stage.as_alice(redirect).header("accept", NAVIGATION).send().await.expect(300);
    assert!(page.text().contains("<a href=\"/auth/pbx?account=41&amp;domain=acme.test\">"), "{}", page.text());
    assert!(!page.headers.contains_key("location") && stage.minted().is_empty());
}

// === Administrators ===

/// A rule for administrators of tenants, before the rule for all callers.
const LEVELS: &str = "auth = \"app\"\nwhen = { groups = \"admins\" }\npbx = { level = \"domain\", domain = \"{tenant}\" }\n\
    [[allow]]\npbx = { domain = \"{tenant}\", account = \"{ext}\" }\n";

fn boss() -> Value {
    json!({"ext": "40", "tenant": "acme.test", "groups": ["staff", "admins"]})
}

#[tokio::test]
async fn a_tenants_administrator_is_asked_for_as_the_dialect_has_it() {
    for (dialect, pbx, body) in [
        (Dialect::A, "", json!({"name": "3rd", "username": "admin", "domain": "acme.test"})),
        (
            Dialect::B,
            "handoff = \"cookie\"\ndialect = \"legacy\"",
            json!({"name": "3rd", "username": "admin", "domain": "acme.test"}),
        ),
        (Dialect::C, "handoff = \"cookie\"", json!({"name": "3rd", "domain": "acme.test"})),
    ] {
        let stage = Plan { dialect, pbx, rules: &format!("{FIRST}{LEVELS}"), ..Plan::default() }.start().await;
        stage.claims(boss());
        let status = if dialect == Dialect::A { 303 } else { 200 };
        stage.as_alice("/auth/pbx?lang=de").host("pbx.test").send().await.expect(status);
        let minted: Value = serde_json::from_slice(&stage.pbx.mints()[0].body).unwrap();
        assert_eq!(minted, body, "{dialect:?}");
        let identity = stage.pbx.sessions().pop().unwrap().identity;
        assert_eq!((identity.level, identity.domain.as_str()), (Level::Domain, "acme.test"), "{dialect:?}");
        stage.gate.line(&["audit grant", "rule=first", "account=admin@acme.test", "level=domain"]).await;
    }
}

#[tokio::test]
async fn an_administrator_of_the_system_is_another_level() {
    let rule = "auth = \"app\"\npbx = { level = \"admin\", domain = \"{tenant}\" }";
    let pbx = "handoff = \"cookie\"";
    let stage = Plan { dialect: Dialect::C, pbx, rules: &format!("{FIRST}{rule}"), ..Plan::default() }.start().await;
    stage.claims(boss());
    stage.as_alice("/auth/pbx").host("pbx.test").send().await.expect(200);
    let body: Value = serde_json::from_slice(&stage.pbx.mints()[0].body).unwrap();
    assert_eq!(body, json!({"name": "3rd", "admin": true, "domain": "acme.test"}));
    assert_eq!(stage.pbx.sessions().pop().unwrap().identity.level, Level::Admin);
    stage.gate.line(&["audit grant", "account=admin@acme.test", "level=admin"]).await;
}

#[tokio::test]
async fn a_request_cannot_make_its_caller_an_administrator() {
    let stage = with(LEVELS).await;
    let staff = json!({"ext": "40", "tenant": "acme.test", "groups": ["staff"]});
    for path in ["/auth/pbx?account=admin", "/auth/pbx?account=", "/auth/pbx?account=ADMIN&domain=acme.test"] {
        same(stage.session(staff.clone(), path).await, 403, None, path);
        // An administrator's rule has no account to ask for either.
        same(stage.session(boss(), path).await, 403, None, path);
    }
    for path in ["/auth/pbx?level=domain", "/auth/pbx?level=admin&admin=true&username=admin", "/auth/pbx"] {
        same(stage.session(staff.clone(), path).await, 303, Some("40@acme.test"), path);
    }
    for ext in ["", "admin", "ADMIN", "admin\u{0}", " admin"] {
        let claims = json!({"ext": ext, "tenant": "acme.test", "groups": ["staff"]});
        same(stage.session(claims, "/auth/pbx").await, 403, None, ext);
    }
    stage.claims(staff);
    let body = json!({"account": "40", "level": "domain", "username": "admin"});
    stage.alice_posts("/auth/pbx", JSON, body).send().await.expect(200);
    assert!(stage.pbx.sessions().iter().all(|session| session.identity.level == Level::User));
}

#[tokio::test]
async fn a_credential_for_one_account_makes_no_administrator() {
    let stage = with(LEVELS).await;
    let mut claims = boss();
    claims["account"] = json!("40");
    same(stage.session(claims, "/auth/pbx").await, 303, Some("40@acme.test"), "the next rule");
}

#[tokio::test]
async fn administrators_have_a_quota_of_their_own() {
    let stage = Plan {
        rules: &format!("{FIRST}{LEVELS}"),
        limits: "client = \"1000/min\"\ncaller = \"1000/min\"\naccount = \"1000/min\"\nadmin = \"2/h\"",
        ..Plan::default()
    };
    let stage = stage.start().await;
    for _ in 0..2 {
        same(stage.session(boss(), "/auth/pbx").await, 303, Some("admin@acme.test"), "within");
    }
    same(stage.session(boss(), "/auth/pbx").await, 429, None, "beyond");
    let staff = json!({"ext": "40", "tenant": "acme.test", "groups": []});
    same(stage.session(staff, "/auth/pbx").await, 303, Some("40@acme.test"), "a user");
    until("the count", || stage.gate.told("/metrics").contains("limit=\"admin\"} 1")).await;
}
