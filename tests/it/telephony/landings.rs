//! `next` of `/auth/pbx`: the pages of `[pbx] landings` at which a login may end.

use serde_json::json;

use crate::kit::links;
use crate::kit::oidc::provider::Provider;
use crate::kit::oidc::{self, OidcStage, RULES};
use crate::kit::stage::{Plan, STAFF, Stage};
use crate::kit::visitor::Visitor;
use crate::kit::vodia::Dialect;

const LANDINGS: &str = "landings = [\"/usr_index.htm\", \"/\"]";
const COOKIE: &str = "handoff = \"cookie\"\nlandings = [\"/usr_index.htm\", \"/\"]";

async fn stage(dialect: Dialect, pbx: &str) -> Stage {
    Plan { dialect, pbx, ..Plan::default() }.start().await
}

#[tokio::test]
async fn a_login_ends_at_the_page_that_the_link_names() {
    for (dialect, pbx) in [(Dialect::A, LANDINGS), (Dialect::B, COOKIE), (Dialect::C, COOKIE)] {
        let stage = stage(dialect, pbx).await;
        for began in ["app.test", "pbx.test"] {
            for page in ["/usr_index.htm", "/"] {
                let mut alice = Visitor::new(&stage.gate).has(began, &stage.app.log_in("alice"));
                let (end, portal) = alice.open(&format!("https://{began}/auth/pbx?next={page}&lang=fr")).await;
                assert_eq!(end, format!("https://pbx.test{page}"), "{dialect:?}: {:#?}", alice.asked);
                assert!(portal.text().contains("data-user=\"40\""), "{dialect:?}: {}", portal.text());
                assert!(portal.text().contains("data-lang=\"fr\""), "{dialect:?}: {}", portal.text());
                let session = stage.pbx.last_session().unwrap();
                assert!(alice.asked.iter().all(|asked| !asked.contains(&session)), "{:#?}", alice.asked);
            }
        }
        let accounts = stage.minted();
        assert!(accounts.iter().all(|account| account == "40@acme.test") && accounts.len() == 4, "{accounts:?}");
    }
}

#[tokio::test]
async fn a_legacy_pbx_gets_its_own_cookie_on_its_own_host_only() {
    let stage = stage(Dialect::A, LANDINGS).await;
    let answer = stage.as_alice("/auth/pbx?next=/usr_index.htm").host("pbx.test").send().await.expect(200);
    let session = stage.pbx.last_session().unwrap();
    assert_eq!(answer.header("set-cookie"), format!("session={session}; Path=/; Secure; SameSite=Lax"));
    let answer = stage.as_alice("/auth/pbx?next=/usr_index.htm").send().await.expect(303);
    let session = stage.pbx.last_session().unwrap();
    let told = format!("{} {}", answer.header("location"), answer.header("set-cookie"));
    assert!(!told.contains(&session), "{told}");
    assert!(answer.header("location").starts_with("https://pbx.test/auth/callgate/ticket?t="), "{told}");
}

#[tokio::test]
async fn the_landing_page_itself_is_the_usual_login() {
    for (dialect, pbx, landing) in [(Dialect::A, LANDINGS, "/welcome.htm"), (Dialect::C, COOKIE, "/thirdparty.htm")] {
        let stage = stage(dialect, pbx).await;
        let asked = format!("/auth/pbx?next={landing}");
        match dialect {
            Dialect::A => {
                let answer = stage.as_alice(&asked).send().await.expect(303);
                assert!(answer.header("location").starts_with("https://pbx.test/welcome.htm?sessId="));
            }
            Dialect::B | Dialect::C => {
                let answer = stage.as_alice(&asked).host("pbx.test").send().await.expect(200);
                assert!(answer.text().contains("url=/thirdparty.htm\""), "{}", answer.text());
            }
        }
    }
}

#[tokio::test]
async fn only_an_exact_page_of_the_list_is_accepted() {
    for (dialect, pbx) in [(Dialect::A, LANDINGS), (Dialect::C, COOKIE)] {
        let stage = stage(dialect, pbx).await;
        for next in [
            "",
            "usr_index.htm",
            "/other.htm",
            "/USR_INDEX.HTM",
            "/usr_index.htm/",
            "/usr_index.htm?a=1",
            "/usr_index.htm%3Fa=1",
            "/usr_index.htm%23x",
            "/./usr_index.htm",
            "//usr_index.htm",
            "//evil.test/usr_index.htm",
            "/%5Cevil.test",
            "https://evil.test/",
            "https://pbx.test/usr_index.htm",
            "/usr_index.htm%0d%0aSet-Cookie:%20a=b",
            "%252Fusr_index.htm",
            "/usr_index.htm&next=/",
        ] {
            for host in ["app.test", "pbx.test"] {
                let asking = stage.as_alice(&format!("/auth/pbx?next={next}")).host(host);
                let answer = asking.header("accept", "application/json").send().await.expect(400);
                assert_eq!(answer.header("location"), "", "{next}");
                if !next.contains('&') {
                    assert!(answer.json()["message"].as_str().unwrap().contains("[pbx] landings"), "{next}");
                }
            }
        }
        assert!(stage.minted().is_empty() && stage.app.requests().is_empty(), "nothing is asked for such a link");
    }
    let none = Stage::new().await;
    none.as_alice("/auth/pbx?next=/usr_index.htm").send().await.expect(400);
    none.as_alice("/auth/pbx?next=/welcome.htm").send().await.expect(303);
}

#[tokio::test]
async fn a_page_that_asks_by_itself_names_a_page_only_with_an_address() {
    for (dialect, pbx) in [(Dialect::A, LANDINGS), (Dialect::C, COOKIE)] {
        let stage = stage(dialect, pbx).await;
        let body = json!({ "next": "/usr_index.htm" });
        stage.alice_posts("/auth/pbx", "application/json", &body).send().await.expect(400);
        assert!(stage.minted().is_empty());
        let asking = stage.alice_posts("/auth/pbx", "application/json", &body);
        let answer = asking.header("accept", "application/vnd.callgate+json").send().await.expect(200);
        let mut alice = Visitor::new(&stage.gate).has("app.test", answer.header("set-cookie"));
        let (end, portal) = alice.open(answer.json()["url"].as_str().unwrap()).await;
        assert_eq!(end, "https://pbx.test/usr_index.htm");
        assert!(portal.text().contains("data-user=\"40\""), "{}", portal.text());
        let body = json!({ "next": "https://evil.test/" });
        let asking = stage.alice_posts("/auth/pbx", "application/json", &body);
        asking.header("accept", "application/vnd.callgate+json").send().await.expect(400);
    }
}

#[tokio::test]
async fn a_server_with_a_key_names_a_page() {
    let key = "crm-key-0123456789abcdef";
    let sha256 = hex::encode(callgate::model::digest::sha256(key.as_bytes()));
    let keys = format!(
        "[[auth]]\ntype = \"key\"\nname = \"crm\"\nsha256 = \"{sha256}\"\nscopes = [\"pbx\"]\ndomains = [\"acme.test\"]\n\
         [[allow]]\nauth = \"crm\"\npbx = {{ domain = \"{{domain}}\", account = \"{{account}}\" }}"
    );
    let rules = format!("{STAFF}{keys}");
    let stage = Plan { pbx: LANDINGS, rules: &rules, ..Plan::default() }.start().await;
    let body = json!({ "account": "41", "domain": "acme.test", "next": "/usr_index.htm" });
    let answer =
        stage.gate.post("/auth/pbx", "application/json", body.to_string()).bearer(key).send().await.expect(200);
    let mut bob = Visitor::new(&stage.gate);
    let (end, portal) = bob.open(answer.json()["url"].as_str().unwrap()).await;
    assert_eq!(end, "https://pbx.test/usr_index.htm");
    assert!(portal.text().contains("data-user=\"41\""), "{}", portal.text());
}

#[tokio::test]
async fn the_page_goes_along_with_the_second_try_and_the_choice_of_an_account() {
    let rules = "[[allow]]\nname = \"staff\"\nchoose = \"ask\"\npbx = { domain = \"acme.test\", account = \"{exts}\" }";
    let stage = Plan { pbx: LANDINGS, rules, voximplant: "", ..Plan::default() }.start().await;
    stage.claims(json!({ "exts": ["40", "41"] }));
    let asking = stage.as_alice("/auth/pbx?next=/usr_index.htm").header("accept", "text/html");
    let choice = asking.send().await.expect(300);
    let link = "/auth/pbx?account=41&amp;domain=acme.test&amp;next=%2Fusr_index.htm";
    assert!(choice.text().contains(link), "{}", choice.text());
    let mut alice = Visitor::new(&stage.gate).has("app.test", &stage.app.log_in("alice"));
    let (end, _) = alice.open(&format!("https://app.test{}", link.replace("&amp;", "&"))).await;
    assert_eq!(end, "https://pbx.test/usr_index.htm");
    // A cookie of the app that is `SameSite=Strict` comes with the second try.
    let stage = Plan { pbx: LANDINGS, ..Plan::default() }.start().await;
    let strict = format!("{}; SameSite=Strict", stage.app.log_in("alice"));
    let mut alice = Visitor::new(&stage.gate).has("app.test", &strict).clicking_elsewhere();
    let (end, portal) = alice.open("https://app.test/auth/pbx?next=/usr_index.htm").await;
    assert_eq!(end, "https://pbx.test/usr_index.htm", "{:#?}", alice.asked);
    assert!(alice.asked[1].contains("again=1") && portal.text().contains("data-user=\"40\""), "{:#?}", alice.asked);
}

#[tokio::test]
async fn a_login_at_a_provider_leads_to_the_page() {
    let provider = Provider::start().await;
    let (sso, pbx) = (oidc::method("sso", &provider, ""), format!("{LANDINGS}\nauto = \"https://app.test\""));
    let stage = Plan { app: "", pbx: &pbx, rules: RULES, more: &sso, ..Plan::default() }.start().await;
    let scene = OidcStage { stage, provider };
    let bookmark = scene.stage.gate.get("/usr_index.htm?view=calls").host("pbx.test").header("accept", "text/html");
    let begun = bookmark.send().await.expect(303);
    for (asked, page) in [
        (
            begun.header("location").strip_prefix("https://app.test").unwrap(),
            "https://pbx.test/usr_index.htm?view=calls",
        ),
        ("/auth/pbx?next=/usr_index.htm", "https://pbx.test/usr_index.htm"),
    ] {
        let way = scene.begin(asked).await;
        let (cookie, next) = scene.end(&way).await;
        let mut ann = Visitor::new(&scene.stage.gate).has("app.test", &cookie);
        let (end, portal) = ann.open(&format!("https://app.test{next}")).await;
        assert_eq!(end, page, "{:#?}", ann.asked);
        assert!(portal.text().contains("data-user=\"40\""), "{}", portal.text());
    }
}

#[tokio::test]
async fn the_button_of_a_signed_link_leads_to_the_page() {
    let rules = links::method("confirm = \"always\"");
    let stage = Plan { pbx: LANDINGS, rules: &rules, ..Plan::default() }.start().await;
    let sign = |next| links::sign("app.test", &[("account", "40"), ("domain", "acme.test"), ("next", next)], 50);
    let press = async |link: &str| {
        let page = stage.gate.get(link).send().await.expect(200);
        let action = page.text().split("action=\"").nth(1).unwrap().split('"').next().unwrap().replace("&amp;", "&");
        let press = stage.gate.post(&action, "application/x-www-form-urlencoded", "");
        press.header("origin", "https://app.test").header("sec-fetch-site", "same-origin").send().await
    };
    let pressed = press(&sign("/usr_index.htm")).await.expect(303);
    let mut ann = Visitor::new(&stage.gate).has("app.test", pressed.header("set-cookie"));
    let (end, portal) = ann.open(pressed.header("location")).await;
    assert_eq!(end, "https://pbx.test/usr_index.htm");
    assert!(portal.text().contains("data-user=\"40\""), "{}", portal.text());
    // The signature covers the page, and a page that is not listed is refused before the link is used.
    let link = sign("/usr_index.htm").replace("next=%2Fusr_index.htm", "next=%2F");
    stage.gate.get(&link).send().await.expect(401);
    stage.gate.get(&sign("/other.htm")).send().await.expect(400);
    assert_eq!(stage.minted().len(), 1);
}
