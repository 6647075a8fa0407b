//! Attacks by a reader of the source. Each was possible once, or nearly.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kit::gate::Gate;
use crate::kit::links::{link, method, sign};
use crate::kit::stage::{Plan, Stage, until};
use crate::kit::vodia::Dialect;

const JSON: &str = "application/json";
const ADMINISTRATORS: &str = "\n[[allow]]\nname = \"administrators\"\nauth = [\"AUTH\"]\n\
    pbx = { domain = \"acme.test\", level = \"domain\" }\n";

fn administrators(method: &str) -> String {
    ADMINISTRATORS.replace("AUTH", method)
}

// === A request that leaves something out makes no administrator ===

#[tokio::test]
async fn a_link_with_an_empty_account_is_no_administrators() {
    let rules = format!("{}{}", method("confirm = \"never\""), administrators("link"));
    let stage = Plan { rules: &rules, ..Plan::default() }.start().await;
    let link = sign("app.test", &[("account", ""), ("domain", "acme.test")], 50);
    stage.gate.get(&link).send().await.expect(403);
    assert_eq!(stage.minted(), [""; 0]);
}

#[tokio::test]
async fn an_account_that_is_no_text_is_no_administrators() {
    let rules = format!("{}\n{}", administrators("app"), crate::kit::stage::STAFF);
    let stage = Plan { rules: &rules, ..Plan::default() }.start().await;
    for account in
        [json!(null), json!([]), json!(["40", null]), json!([["40"]]), json!({}), json!({"id": "40"}), json!("")]
    {
        stage.claims(json!({"account": account, "id": "eve"}));
        stage.as_alice("/auth/pbx").send().await.expect(403);
        assert_eq!(stage.minted(), [""; 0], "{account}");
    }
    stage.claims(many(json!({"account": "40"})));
    stage.as_alice("/auth/pbx").send().await.expect(403);
}

#[tokio::test]
async fn a_key_for_some_accounts_is_no_administrators() {
    const KEY: &str = "key-0123456789-0123456789-0123456789";
    let hash: String = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, KEY.as_bytes())
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let rules = format!(
        "[[auth]]\nname = \"crm\"\ntype = \"key\"\nscopes = [\"pbx\"]\nsha256 = \"{hash}\"\ndomains = [\"acme.test\"]\naccounts = [\"40\"]\n\
         [[allow]]\nauth = \"crm\"\npbx = {{ domain = \"{{domain}}\", account = \"{{account}}\" }}\n{}",
        administrators("crm")
    );
    let stage = Plan { rules: &rules, ..Plan::default() }.start().await;
    for body in ["{}", "{\"account\":null}", "{\"account\":\"\"}", "{\"domain\":\"acme.test\"}"] {
        stage.gate.post("/auth/pbx", JSON, body).bearer(KEY).send().await.expect(403);
        assert_eq!(stage.minted(), [""; 0], "{body}");
    }
    stage.gate.post("/auth/pbx", JSON, "{\"account\":\"40\"}").bearer(KEY).send().await.expect(200);
}

// === An unverified mail address names no caller ===

/// Adds more claims than are looked at, all before `e` in the alphabet.
fn many(mut claims: Value) -> Value {
    for number in 0..150 {
        claims[format!("a{number:03}")] = json!("x");
    }
    claims
}

#[tokio::test]
async fn an_address_is_not_verified_by_saying_it_unclearly() {
    let rules = "[[allow]]\npbx = { domain = \"acme.test\", account = \"{user.email|before:@}\" }";
    let stage = Plan { rules, ..Plan::default() }.start().await;
    let claims = |verified: Value| json!({"id": "eve", "user": {"email": "41@acme.test", "email_verified": verified}});
    for verified in
        [json!(null), json!({}), json!({"at": true}), json!([null]), json!([[true]]), json!([]), json!("TRUE ")]
    {
        stage.claims(claims(verified.clone()));
        stage.as_alice("/auth/pbx").send().await.expect(403);
        assert_eq!(stage.minted(), [""; 0], "{verified}");
    }
    // However much stands before it: each is the last that is taken.
    for number in 95..101 {
        let mut claims = json!({"user": {"email": "41@acme.test", "email_verified": false}});
        for name in 0..number {
            claims[format!("a{name:03}")] = json!("x");
        }
        stage.claims(claims);
        stage.as_alice("/auth/pbx").send().await.expect(403);
        assert_eq!(stage.minted(), [""; 0], "{number}");
    }
}

// === A session on its way does not reach a frozen caller ===

fn freeze(gate: &Gate, whom: &str) {
    let body = format!("{{\"whom\":\"{whom}\"}}");
    let told = gate.tell(&format!(
        "POST /freeze HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
}

#[tokio::test]
async fn for_a_frozen_account_the_pbx_is_not_asked() {
    let stage = Stage::new().await;
    freeze(&stage.gate, "account 40@acme.test");
    for asked in [
        stage.as_alice("/auth/pbx"),
        stage.as_alice("/auth/pbx").host("pbx.test"),
        stage.as_alice("/redirect?to=https%3A%2F%2Fpbx.test%2Fwelcome.htm"),
        stage.alice_posts("/auth/pbx", JSON, "{}"),
    ] {
        asked.send().await.expect(403);
    }
    assert!(stage.minted().is_empty());
}

#[tokio::test]
async fn a_session_that_the_pbx_opens_after_a_freeze_reaches_no_client() {
    let stage = Stage::new().await;
    stage.pbx_does(|faults| faults.head_delay = Duration::from_secs(2));
    let asked = stage.alice_posts("/auth/pbx", JSON, "{}").send();
    let frozen = async {
        until("the PBX is asked", || stage.minted().len() == 1).await;
        freeze(&stage.gate, "account 40@acme.test");
    };
    let (answer, ()) = tokio::join!(asked, frozen);
    answer.expect(403);
    stage.gate.line(&["audit refusal", "account=40@acme.test", "reason=\"the account is frozen\""]).await;
}

/// The PBX finds its cookie beside what is no text; so must who looks whether its owner is frozen.
#[tokio::test]
async fn the_session_of_a_frozen_account_hides_behind_no_other_cookie() {
    let stage = Stage::new().await;
    let landing = stage.as_alice("/auth/pbx").send().await.expect(303).header("location").to_owned();
    let session = landing.split_once("sessId=").unwrap().1.split('&').next().unwrap().to_owned();
    let spellings = [
        format!("name=Zoë; session={session}"),
        format!("session={session}; name=Zoë"),
        format!("name=\u{a0};session = {session} ;"),
        format!("session=x; session={session}"),
        format!("Session=\"{session}\""),
    ];
    let ask = |cookie: &str| stage.gate.get("/rest/system/session").host("pbx.test").cookie(cookie);
    ask(&spellings[0]).send().await.expect(200);
    freeze(&stage.gate, "account 40@acme.test");
    for cookie in &spellings {
        ask(cookie).send().await.expect(403);
        ask(cookie).h2().send().await.expect(403);
    }
}

/// After a restart the owner of a session is known only by the name beside it.
#[tokio::test]
async fn a_second_name_hides_no_frozen_account() {
    let stage = Stage::new().await;
    freeze(&stage.gate, "account 40@acme.test");
    let session = stage.pbx.open_session("40", "acme.test");
    for query in [
        "domain=acme.test&user=40&user=41",
        "user=41&user=40&domain=acme.test",
        "domain=other.test&user=40&domain=acme.test",
        "domain=acme.test&User=%340&user=41&domain=other.test",
        "user=41&user=42&user=40&user=43&domain=acme.test",
        "user=40@acme.test",
        "domain=acme.test.&user=40",
        "domain=ACME.test&user=%2534%2530",
        "domain=acme.test%00&user=%2040+",
        "domain[]=acme.test&user%5B%5D=40",
        "domain=acme.test;user=40",
        "domain=acme.test&user=%EF%BC%94%EF%BC%90",
    ] {
        let asking = stage.gate.get(&format!("/rest/system/session?{query}")).host("pbx.test");
        let answer = asking.cookie(&format!("session={session}")).send().await;
        assert_eq!(answer.status, 403, "{query}");
    }
    let asking = stage.gate.get("/rest/system/session?domain=acme.test&user=41&user=42").host("pbx.test");
    asking.cookie(&format!("session={session}")).send().await.expect(200);
}

/// A restart would find no file, make another, and let everything be used again.
#[tokio::test]
async fn a_removed_state_file_refuses_logins() {
    let folder = TempDir::new().unwrap();
    let (path, aside) = (folder.path().join("state"), folder.path().join("aside"));
    let more = format!("[state]\nfile = {path:?}\n");
    let rules = method("confirm = \"never\"");
    let stage = Plan { rules: &rules, more: &more, ..Plan::default() }.start().await;
    stage.gate.get(&link()).send().await.expect(303);
    std::fs::rename(&path, &aside).unwrap();
    stage.gate.get(&link()).send().await.expect(503);
    let told = "it was moved or removed; put it back, or restart to begin anew";
    assert!(stage.gate.events().contains(told), "{}", stage.gate.events());
    std::fs::copy(&aside, &path).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while stage.gate.get(&link()).send().await.status != 303 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_ticket_from_before_a_restart_is_worth_nothing_after_a_freeze() {
    let folder = TempDir::new().unwrap();
    let more = format!("[state]\nfile = {:?}\n", folder.path().join("state"));
    for whom in ["account 40@acme.test", "domain acme.test"] {
        let plan = Plan { dialect: Dialect::C, pbx: "handoff = \"cookie\"", more: &more, ..Plan::default() };
        let mut stage = plan.start().await;
        let answer = stage.as_alice("/auth/pbx").send().await.expect(303);
        let ticket = answer.header("location").strip_prefix("https://pbx.test").unwrap().to_owned();
        let text = stage.gate.text.clone();
        let between = Gate::before(stage.app.addr).await;
        std::mem::replace(&mut stage.gate, between).drain().await;
        stage.gate = Gate::start(&text).await;
        freeze(&stage.gate, whom);
        stage.gate.get(&ticket).host("pbx.test").send().await.expect(403);
        std::mem::replace(&mut stage.gate, Gate::before(stage.app.addr).await).drain().await;
        std::fs::remove_file(folder.path().join("state")).unwrap();
    }
}

// === Clients cannot forge log lines ===

#[tokio::test]
async fn a_name_with_line_feeds_is_one_line_of_the_log() {
    let stage = Stage::new().await;
    stage.claims(
        json!({"ext": "40", "tenant": "acme.test", "id": "eve\naudit grant id=forged\r\u{1b}[2J\u{2028}x\" rule=\"y"}),
    );
    stage.as_alice("/auth/pbx").send().await.expect(303);
    let line = stage.gate.line(&["audit grant", "account=40@acme.test"]).await;
    assert!(line.contains("forged"), "{line}");
    assert!(!line.contains(['\u{1b}', '\r', '\u{2028}']), "{line:?}");
    assert!(!stage.gate.log().lines().any(|line| line.starts_with("audit grant id=forged")));
}
