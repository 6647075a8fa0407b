//! Missing, malformed and doubled credentials of the methods `key`, `app` and `redirect`. Those of proxies are in
//! `trusted_header.rs`, those of certificates in `mtls.rs`.

use serde_json::json;

use crate::kit::app::Whoami;
use crate::kit::stage::{Plan, STAFF, Stage};
use crate::kit::upstream::RawUpstream;

const KEY: &str = "a-key-of-another-server-0123456789";
/// SHA-256 of that.
fn digest() -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, KEY.as_bytes()))
}

async fn keyed(more: &str) -> Stage {
    let rules = format!(
        "[[auth]]\ntype = \"key\"\nsha256 = \"{}\"\nscopes = [\"pbx\"]\ndomains = [\"acme.test\"]\n{more}\n\
         [[allow]]\nauth = \"key\"\npbx = {{ domain = \"{{domain}}\", account = \"{{account}}\" }}\n{STAFF}",
        digest()
    );
    Plan { rules: &rules, ..Plan::default() }.start().await
}

// === Method `key` ===

#[tokio::test]
async fn a_key_in_another_place_does_not_count() {
    let stage = keyed("").await;
    stage.gate.canary(KEY);
    let bearer = format!("Bearer {KEY}");
    for name in ["x-authorization", "authorization_", "author-ization", "proxy-authorization", "http-authorization"] {
        let asking = stage.gate.get("/auth/pbx?account=40").header(name, &bearer);
        asking.send().await.expect(401);
    }
    stage.gate.get("/auth/pbx?account=40").header("x-api-key", KEY).send().await.expect(401);
    let cookies = [format!("authorization={bearer}"), format!("key={KEY}"), format!("token={KEY}")];
    for cookie in cookies {
        // The app is asked about its own cookies, and does not know this one.
        stage.gate.get("/auth/pbx?account=40").cookie(&cookie).send().await.expect(401);
    }
    assert!(stage.minted().is_empty());
    stage.gate.get("/auth/pbx?account=40").header("AUTHORIZATION", &bearer).send().await.expect(303);
}

#[tokio::test]
async fn a_cookie_beside_a_key_is_a_second_credential_unless_cookies_are_ignored() {
    for (more, expected) in [("", 401), ("ignore_cookies = false", 401), ("ignore_cookies = true", 303)] {
        let stage = keyed(more).await;
        stage.as_user("bob", "/auth/pbx?account=40").bearer(KEY).send().await.expect(expected);
        assert_eq!(stage.minted().len(), usize::from(expected == 303), "{more}");
        assert!(stage.app.requests().is_empty(), "the app is asked about a cookie that does not count");
        // A bad key is not made good by a cookie, and a cookie alone is what it is.
        stage.as_user("bob", "/auth/pbx").bearer("another-key-of-a-server-0123456789").send().await.expect(401);
        stage.as_user("bob", "/auth/pbx").header("authorization", "Bearer").send().await.expect(401);
        stage.as_user("bob", "/auth/pbx").send().await.expect(303);
        assert_eq!(stage.minted().pop().unwrap(), "41@acme.test");
    }
}

// === Method `app` ===

#[tokio::test]
async fn cookies_of_two_apps_in_one_request_are_refused() {
    let rules = format!(
        "[[auth]]\ntype = \"app\"\nname = \"portal\"\nwhoami = \"/api/me\"\ncookies = [\"demo_app\"]\n\
         [[auth]]\ntype = \"app\"\nname = \"mobile\"\nwhoami = \"/api/me\"\ncookies = [\"mobile\"]\n{STAFF}"
    );
    let stage = Plan { app: "", rules: &rules, ..Plan::default() }.start().await;
    stage.as_alice("/auth/pbx").cookie("mobile=1").send().await.expect(401);
    assert!(stage.app.requests().is_empty() && stage.minted().is_empty());
    stage.as_alice("/auth/pbx").send().await.expect(303);
    stage.gate.line(&["audit refusal", "more than one credential"]).await;
}

#[tokio::test]
async fn a_cookie_that_only_looks_like_the_apps_is_not_shown_to_it() {
    let rules = format!("[[auth]]\ntype = \"app\"\nwhoami = \"/api/me\"\ncookies = [\"demo_app\"]\n{STAFF}");
    let stage = Plan { app: "", rules: &rules, ..Plan::default() }.start().await;
    stage.app.set(|faults| faults.whoami = Whoami::Claims(json!({ "ext": "40", "tenant": "acme.test" })));
    for name in
        ["Demo_app", "demo-app", "demo.app", "__Host-demo_app", "demo_app2", "$demo_app", "\"demo_app\"", "demo_app\t2"]
    {
        let answer = stage.gate.get("/auth/pbx").cookie(&format!("{name}=0123456789abcdef")).send().await;
        assert_eq!(answer.status.as_u16(), 401, "{name}");
    }
    assert!(stage.app.requests().is_empty() && stage.minted().is_empty());
}

// === Method `redirect` ===

#[tokio::test]
async fn only_the_three_fields_of_the_apps_answer_name_an_account() {
    const RULES: &str = "[[allow]]\nauth = \"redirect\"\npbx = { domain = \"{domain}\", account = \"{account}\" }";
    for (fields, expected) in [
        ("PBX-Account: 41\r\nPBX-Domain: acme.test\r\n", Some("41@acme.test")),
        ("PBX_Account: 41\r\nPBX_Domain: acme.test\r\n", None),
        ("PBX.Account: 41\r\nPBX.Domain: acme.test\r\n", None),
        ("X-PBX-Account: 41\r\nX-PBX-Domain: acme.test\r\n", None),
        ("PBX-Accounts: 41\r\nPBX-Domains: acme.test\r\n", None),
        ("PBX-Account: 41\r\nPBX_Domain: acme.test\r\n", None),
        ("PBX-Account: 41\r\n", None),
        ("PBX-Domain: acme.test\r\n", None),
        ("PBX-Account:\r\nPBX-Domain: acme.test\r\n", None),
        ("PBX-Account: admin\r\nPBX-Domain: acme.test\r\n", None),
        ("PBX-Account: 4\t1\r\nPBX-Domain: acme.test\r\n", None),
        ("PBX-Account: \u{e9}\r\nPBX-Domain: acme.test\r\n", None),
        ("PBX-Account: 40\r\nPBX-Account: 41\r\nPBX-Domain: acme.test\r\n", None),
        ("PBX-Account: 40, 41\r\nPBX-Domain: acme.test\r\n", None),
    ] {
        let answer = format!(
            "HTTP/1.1 302 Found\r\nLocation: https://pbx.test/welcome.htm\r\n{fields}Content-Length: 0\r\n\r\n"
        );
        let app = RawUpstream::answering(answer).await;
        let plan = Plan { app: "", rules: RULES, voximplant: "", app_at: Some(app.addr), ..Plan::default() };
        let stage = plan.start().await;
        let answer = stage.gate.get("/").send().await;
        assert_eq!(stage.minted().first().map(String::as_str), expected, "{fields:?}");
        assert_eq!(answer.header("location").contains("sessId="), expected.is_some(), "{fields:?}");
        for name in ["pbx-account", "pbx-domain"] {
            assert!(!answer.headers.contains_key(name), "{fields:?}");
        }
    }
}

// === Two ways at once ===

#[tokio::test]
async fn a_key_a_proxy_and_a_cookie_are_never_judged_together() {
    let rules = format!(
        "[[auth]]\ntype = \"header\"\nfrom = [\"127.0.0.1\"]\nuser = \"remote-user\"\n\
         [[allow]]\nauth = \"header\"\npbx = {{ domain = \"acme.test\", account = \"40\" }}\n\
         [[auth]]\ntype = \"key\"\nsha256 = \"{}\"\nscopes = [\"pbx\"]\ndomains = [\"acme.test\"]\n\
         [[allow]]\nauth = \"key\"\npbx = {{ domain = \"{{domain}}\", account = \"{{account}}\" }}\n{STAFF}",
        digest()
    );
    let stage = Plan { rules: &rules, ..Plan::default() }.start().await;
    let asking = || stage.gate.get("/auth/pbx?account=40");
    asking().header("remote-user", "ann").bearer(KEY).send().await.expect(401);
    stage.as_alice("/auth/pbx").header("remote-user", "ann").bearer(KEY).send().await.expect(401);
    stage.as_alice("/auth/pbx").header("remote-user", "ann").send().await.expect(401);
    asking().header("remote-user", "ann").header("authorization", "Bearer").send().await.expect(401);
    assert!(stage.minted().is_empty() && stage.app.requests().is_empty());
    asking().header("remote-user", "ann").send().await.expect(303);
    asking().bearer(KEY).send().await.expect(303);
}
