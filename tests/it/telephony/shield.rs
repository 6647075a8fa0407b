//! `[pbx] shield`: logins that bypass callgate are refused; other requests to the PBX pass.

use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::client::RequestBuilder;
use crate::kit::stage::{Plan, Stage};
use crate::kit::vodia::Dialect;

const SESSION: &str = "/rest/system/session";
const SHIELD: &str = "shield = { from = [\"127.0.0.7\"] }";
/// The operator's own machine.
const INSIDE: &str = "127.0.0.7";
const THIRD: &str = r#"{"name":"3rd","username":"41","domain":"acme.test"}"#;
const JSON: &str = "application/json";
/// `40` and a password of alice's: `{name:"auth"}` takes its MD5.
const PASSWORD_LOGIN: &str = r#"{"name":"auth","value":"40 0123456789abcdef0123456789abcdef"}"#;

async fn shielded() -> Stage {
    Plan { pbx: SHIELD, ..Plan::default() }.start().await
}

fn at_pbx<'s>(stage: &'s Stage, method: Method, path: &str) -> RequestBuilder<'s> {
    stage.gate.ask(method, path).host("pbx.test")
}

fn log_in<'s>(stage: &'s Stage, body: &str) -> RequestBuilder<'s> {
    at_pbx(stage, Method::POST, SESSION).header("content-type", JSON).body(body.to_owned())
}

/// The administrator's Basic credentials, as another server would show them.
fn as_admin(asking: RequestBuilder<'_>) -> RequestBuilder<'_> {
    use base64::Engine;
    let password = crate::kit::vodia::Options::default().admin_password;
    let basic = base64::prelude::BASE64_STANDARD.encode(format!("sso:{password}"));
    asking.header("authorization", &format!("Basic {basic}"))
}

// === Third-party logins ===

#[tokio::test]
async fn a_third_party_login_reaches_the_pbx_only_from_inside() {
    let stage = shielded().await;
    // Without the field: what is refused here is the login itself.
    let answer = log_in(&stage, THIRD).send().await.expect(403);
    assert_eq!(answer.json()["error"], "blocked");
    as_admin(log_in(&stage, THIRD)).send().await.expect(403);
    assert!(stage.pbx.requests().is_empty());
    stage.gate.line(&["audit refusal", "act=pbx_bypass", "a third-party login at the PBX"]).await;
    as_admin(log_in(&stage, THIRD)).from(INSIDE).send().await.expect(200);
    assert_eq!(stage.minted(), ["41@acme.test"]);
}

#[tokio::test]
async fn no_spelling_of_a_third_party_login_slips_by() {
    let stage = shielded().await;
    for path in [
        "/REST/system/Session",
        "//rest//system/session/",
        "/rest/system/%73ession",
        "/rest/system/%2573ession",
        "/rest/system/session;x=1",
        "/rest/system/session%00",
        "/rest/system/session?x=1",
        "/rest/x/../system/session",
    ] {
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::GET] {
            let asking = at_pbx(&stage, method.clone(), path).header("content-type", "text/plain").body(THIRD);
            let answer = asking.send().await;
            assert_eq!(answer.status.as_u16(), 403, "{method} {path}");
        }
    }
    for query in ["?name=3rd&username=41&domain=acme.test", "?name=%33rd"] {
        at_pbx(&stage, Method::POST, &format!("{SESSION}{query}")).send().await.expect(403);
    }
    log_in(&stage, r#"{"name":"\u0033rd","username":"41","domain":"acme.test"}"#).h2().send().await.expect(403);
    assert!(stage.pbx.requests().is_empty());
}

#[tokio::test]
async fn a_login_with_two_readings_is_refused() {
    let stage = shielded().await;
    let utf16: Vec<u8> = THIRD.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let bodies: [&[u8]; 6] = [
        br#"{"name":"auth","name":"3rd"}"#,
        br#"{"name":"auth"}{"name":"3rd"}"#,
        b"\xef\xbb\xbf{\"name\":\"auth\"}",
        b"name=3rd&username=41&domain=acme.test",
        br#"{"name":"auth""#,
        &utf16,
    ];
    for body in bodies {
        let answer = at_pbx(&stage, Method::POST, SESSION).body(body.to_vec()).send().await;
        assert_eq!(answer.status.as_u16(), 400, "{}", String::from_utf8_lossy(body));
    }
    for (name, value) in [("content-encoding", "gzip"), ("content-type", "application/json; charset=utf-16")] {
        at_pbx(&stage, Method::POST, SESSION).header(name, value).body(PASSWORD_LOGIN).send().await.expect(400);
    }
    let long = format!("{{\"name\":\"auth\",\"value\":\"{}\"}}", "x".repeat(17 << 10));
    log_in(&stage, &long).send().await.expect(413);
    assert!(stage.pbx.requests().is_empty());
    stage.gate.line(&["act=pbx_bypass", "a member of the login is given twice"]).await;
}

#[tokio::test]
async fn a_login_in_chunks_is_judged_as_a_whole() {
    let stage = shielded().await;
    let send = async |chunks: &[&str]| {
        let mut tls = stage.gate.raw("pbx.test", "http/1.1").await;
        let head = format!(
            "POST {SESSION} HTTP/1.1\r\nHost: pbx.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        );
        tls.write_all(head.as_bytes()).await.unwrap();
        for chunk in chunks {
            tls.write_all(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes()).await.unwrap();
        }
        tls.write_all(b"0\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = tls.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = send(&["{\"name\":\"3", "rd\",\"domain\":\"acme.test\"}"]).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(stage.pbx.requests().is_empty());
    let answer = send(&["{\"name\":\"lang\",", "\"value\":\"fr\"}"]).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "the PBX itself says so: {answer}");
}

// === Administrators ===

#[tokio::test]
async fn pages_of_administrators_open_only_inside() {
    let stage = shielded().await;
    for path in
        ["/reg_domains.htm", "/REG_x.htm", "/%64om_accounts.htm", "/rest/system/stats", "/rest/system/session/../pcap"]
    {
        at_pbx(&stage, Method::GET, path).send().await.expect(403);
        at_pbx(&stage, Method::GET, path).h2().send().await.expect(403);
    }
    assert!(stage.pbx.requests().is_empty());
    stage.gate.line(&["act=pbx_bypass", "a page of the PBX's administrators"]).await;
    let told = stage.gate.told("/metrics");
    assert!(told.contains("callgate_kept_out_total{attempt=\"admin_path\"} 10"), "{told}");
    at_pbx(&stage, Method::GET, "/reg_domains.htm").from(INSIDE).send().await;
    as_admin(at_pbx(&stage, Method::GET, "/rest/system/stats")).from(INSIDE).send().await.expect(200);
    assert_eq!(stage.pbx.requests().len(), 2);
}

#[tokio::test]
async fn callgates_own_administrator_comes_from_nowhere_else() {
    let stage = shielded().await;
    as_admin(at_pbx(&stage, Method::GET, "/rest/domain/acme.test/accounts")).send().await.expect(403);
    let digest = "Digest username=\"SSO\", realm=\"x\", uri=\"/\", response=\"0\"";
    at_pbx(&stage, Method::GET, "/any").header("authorization", digest).send().await.expect(403);
    for body in
        [r#"{"name":"auth","value":"sso 0123456789abcdef0123456789abcdef"}"#, r#"{"name":"reset","value":"sso"}"#]
    {
        log_in(&stage, body).send().await.expect(403);
    }
    assert!(stage.pbx.requests().is_empty());
}

#[tokio::test]
async fn the_lists_of_paths_are_the_operators() {
    let pbx = r#"shield = { from = [], admin_paths = ["/secret/"], open_paths = ["/secret/open"] }"#;
    let stage = Plan { pbx, ..Plan::default() }.start().await;
    at_pbx(&stage, Method::GET, "/Secret/x").send().await.expect(403);
    at_pbx(&stage, Method::GET, "/secret/open/x").send().await.expect(404);
    at_pbx(&stage, Method::GET, "/reg_domains.htm").send().await.expect(404);
    // No caller has a session.
    as_admin(log_in(&stage, THIRD)).from(INSIDE).send().await.expect(403);
}

// === Foreign sessions ===

#[tokio::test]
async fn only_a_session_of_callgates_own_lands() {
    let stage = shielded().await;
    let answer = stage.as_alice("/auth/pbx").send().await.expect(303);
    let landing = answer.header("location").strip_prefix("https://pbx.test").unwrap().to_owned();
    let text = at_pbx(&stage, Method::GET, &landing).send().await.expect(200);
    assert!(text.text().contains("Welcome"), "{}", text.text());

    let foreign = stage.pbx.open_session("41", "acme.test");
    for target in [
        format!("/welcome.htm?sessId={foreign}"),
        format!("/Welcome.htm?lang=fr&sessId={foreign}"),
        format!("{landing}&sessId={foreign}"),
        format!("/welcome.htm?sess%49d={foreign}"),
        format!("/welcome.htm%3fsessId={foreign}"),
        format!("/any.htm?sessId={foreign}"),
        landing.replace("sessId", "sessID"),
    ] {
        let answer = at_pbx(&stage, Method::GET, &target).send().await;
        assert_eq!(answer.status.as_u16(), 403, "{target}");
    }
    stage.gate.line(&["act=pbx_bypass", "a session that callgate did not hand out"]).await;
    // A browser that has it already gains nothing by its link.
    let again = at_pbx(&stage, Method::GET, &format!("/welcome.htm?sessId={foreign}"));
    again.cookie(&format!("session={foreign}")).send().await.expect(200);
    at_pbx(&stage, Method::GET, &format!("/welcome.htm?sessId={foreign}")).from(INSIDE).send().await.expect(200);
}

#[tokio::test]
async fn a_token_that_went_out_here_is_exchanged_and_another_is_not() {
    let stage = Plan { dialect: Dialect::B, pbx: SHIELD, ..Plan::default() }.start().await;
    let exchange = |token: &str| json!({ "name": "session", "value": token }).to_string();
    let answer = stage.alice_posts("/auth/pbx", JSON, "{}").send().await.expect(200);
    let token = answer.json().as_str().unwrap().to_owned();
    log_in(&stage, &exchange("abcdefghij0123456789")).send().await.expect(403);
    let answer = log_in(&stage, &exchange(&token)).send().await.expect(200);
    assert!(answer.header("set-cookie").starts_with("session="));
}

#[tokio::test]
async fn sessions_of_others_land_where_the_operator_says_so() {
    let pbx = r#"shield = { from = [], sessions = "any" }"#;
    let stage = Plan { pbx, ..Plan::default() }.start().await;
    let foreign = stage.pbx.open_session("41", "acme.test");
    let answer = at_pbx(&stage, Method::GET, &format!("/welcome.htm?sessId={foreign}")).send().await.expect(200);
    assert!(answer.text().contains("Welcome"));
}

#[tokio::test]
async fn a_reload_forgets_no_session_on_its_way() {
    let mut stage = shielded().await;
    let answer = stage.as_alice("/auth/pbx").send().await.expect(303);
    let landing = answer.header("location").strip_prefix("https://pbx.test").unwrap().to_owned();
    let text = stage.gate.text.clone();
    stage.gate.reload(&text).await.unwrap();
    at_pbx(&stage, Method::GET, &landing).send().await.expect(200);
}

// === What is left alone ===

#[tokio::test]
async fn users_phones_and_pages_pass_untouched() {
    let stage = shielded().await;
    // The PBX's own word for a wrong password.
    let answer = log_in(&stage, PASSWORD_LOGIN).send().await.expect(200);
    assert_eq!(answer.text(), "false");
    let seen = stage.pbx.requests();
    assert_eq!(seen[0].header("content-length"), Some(&*PASSWORD_LOGIN.len().to_string()));
    for (path, status) in [("/", 200), ("/rest/system/localization/en", 200), ("/audio.wav", 200), (SESSION, 200)] {
        at_pbx(&stage, Method::GET, path).send().await.expect(status);
    }
    let phone = at_pbx(&stage, Method::GET, "/001122334455.cfg").header("authorization", "Basic NDA6YWxpY2U=");
    assert_ne!(phone.send().await.status.as_u16(), 403);
    at_pbx(&stage, Method::POST, "/recvsms").body("x=3rd").send().await.expect(200);
    at_pbx(&stage, Method::DELETE, SESSION).send().await.expect(401);
    assert!(!stage.gate.log().contains("pbx_bypass"));
}

#[tokio::test]
async fn pages_of_the_app_are_none_of_the_pbx() {
    let stage = shielded().await;
    let answer = stage.gate.get("/reg_domains.htm").send().await;
    assert_ne!(answer.status.as_u16(), 403);
    assert_ne!(stage.gate.get("/welcome.htm?sessId=abc").send().await.status.as_u16(), 403);
}

#[tokio::test]
async fn without_a_shield_nothing_is_kept_out() {
    let stage = Stage::new().await;
    as_admin(log_in(&stage, THIRD)).send().await.expect(200);
    as_admin(at_pbx(&stage, Method::GET, "/rest/system/stats")).send().await.expect(200);
}

#[tokio::test]
async fn attempts_are_limited_before_their_bodies_are_read() {
    let limits = "pbx_logins = \"2/min\"\nclient = \"1000/min\"\ncaller = \"1000/min\"\naccount = \"1000/min\"\nfailures = \"1000/min\"";
    let stage = Plan { pbx: SHIELD, limits, ..Plan::default() }.start().await;
    for _ in 0..2 {
        log_in(&stage, THIRD).send().await.expect(403);
    }
    log_in(&stage, THIRD).send().await.expect(429);
    at_pbx(&stage, Method::GET, "/reg_x.htm").send().await.expect(429);
    log_in(&stage, PASSWORD_LOGIN).send().await.expect(429);
    assert_eq!(stage.gate.log().matches("act=pbx_bypass").count(), 2);
    // Logins through callgate still work.
    stage.as_alice("/auth/pbx").send().await.expect(303);
}

#[tokio::test]
async fn believed_proxies_say_who_is_inside() {
    let more = "[server]\nbelieve_forwarded_from = [\"127.0.0.1\"]";
    let pbx = "shield = { from = [\"10.0.0.0/8\"] }";
    let stage = Plan { pbx, more, ..Plan::default() }.start().await;
    let ask = |from: &str| at_pbx(&stage, Method::GET, "/reg_x.htm").header("x-forwarded-for", from);
    ask("192.0.2.1").send().await.expect(403);
    ask("10.1.2.3, 192.0.2.1").send().await.expect(403);
    ask("10.1.2.3").send().await.expect(404);
}
