//! Logs contain every exchange and every login, and no secret.

use serde_json::{Value, json};

use crate::kit::client::Answer;
use crate::kit::gate::Gate;
use crate::kit::stage::{Plan, Stage, until};
use crate::kit::upstream::RawUpstream;
use crate::kit::vodia::Dialect;

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "[log]\nformat = \"json\"";

/// Waits until so many access lines are written, and returns all lines.
async fn lines(stage: &Stage, access: usize) -> Vec<String> {
    let count = || stage.gate.log().lines().filter(|line| is(line, "access")).count();
    until(&format!("{access} access lines"), || count() >= access).await;
    assert_eq!(count(), access, "{}", stage.gate.log());
    stage.gate.log().lines().map(str::to_owned).collect()
}

fn is(line: &str, kind: &str) -> bool {
    line.contains(&format!(" {kind} id=")) || line.contains(&format!("\"kind\":\"{kind}\""))
}

fn id(answer: &Answer) -> String {
    answer.header("x-request-id").to_owned()
}

#[tokio::test]
async fn each_exchange_is_one_line_and_each_login_another() {
    let stage = Stage::new().await;
    let granted = id(&stage.as_alice("/auth/pbx?lang=fr").send().await.expect(303));
    let token = id(&stage.alice_posts("/auth/ott", FORM, "key=k1").from("127.0.0.7").send().await.expect(200));
    let foreign = id(&stage.as_alice("/auth/pbx?account=41").send().await.expect(403));
    let unknown = id(&stage.gate.get("/auth/pbx").cookie("demo_app=wrong").send().await.expect(401));
    let nobody = id(&stage.gate.get("/auth/pbx").send().await.expect(401));
    stage.as_alice("/echo?a=1").send().await.expect(200);
    stage.gate.get("/").host("pbx.test:8443").h2().send().await.expect(200);
    let lines = lines(&stage, 7).await;
    let of = |id: &str, kind: &str| {
        let found: Vec<_> = lines.iter().filter(|line| is(line, kind) && line.contains(&format!("id={id}"))).collect();
        assert!(found.len() <= 1, "{found:?}");
        found.first().map(|line| line.split_once(&format!("id={id} ")).unwrap().1.to_owned())
    };
    let grant = "client=127.0.0.1 act=pbx_session method=app subject=alice rule=staff account=40@acme.test level=user claims=ext,tenant";
    assert_eq!(of(&granted, "audit grant").as_deref(), Some(grant));
    let grant = "client=127.0.0.7 act=voximplant_token method=app subject=alice rule=staff account=alice claims=vox";
    assert_eq!(of(&token, "audit grant").as_deref(), Some(grant));
    let refusal = of(&foreign, "audit refusal").unwrap();
    assert!(refusal.starts_with("client=127.0.0.1 act=pbx_session method=app subject=alice reason="), "{refusal}");
    let refusal = of(&unknown, "audit refusal").unwrap();
    assert_eq!(refusal, "client=127.0.0.1 act=pbx_session reason=\"the app knows no such user\"");
    assert_eq!((of(&nobody, "audit refusal"), of(&nobody, "audit grant")), (None, None));
    assert_eq!(lines.iter().filter(|line| line.contains(" audit ")).count(), 4);

    let access = of(&granted, "access").unwrap();
    assert!(access.starts_with("client=127.0.0.1 method=GET host=app.test target=\"/auth/pbx?lang=fr\" http=1.1 tls=1.3 upstream=- status=303 sent=0 received=0 ms="), "{access}");
    assert!(access.ends_with(" ended=complete subject=alice account=40@acme.test"), "{access}");
    assert!(!access.contains("upstream_ms="), "{access}");
    assert!(of(&foreign, "access").unwrap().ends_with(" ended=complete reason=forbidden subject=alice"));
    let passed = "target=\"/echo?a=1\" http=1.1 tls=1.3 upstream=app status=200";
    let passed = lines.iter().find(|line| line.contains(passed)).unwrap();
    let millis = |key: &str| passed.split_once(key).unwrap().1.split(' ').next().unwrap().parse::<f64>().unwrap();
    assert!(millis(" upstream_ms=") <= millis(" ms="), "{passed}");
    assert!(
        lines.iter().any(|line| line.contains("host=pbx.test target=\"/\" http=2 tls=1.3 upstream=pbx status=200")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn json_lines_say_the_same() {
    let stage = Plan { more: JSON, ..Plan::default() }.start().await;
    let granted = id(&stage.as_alice("/auth/pbx").send().await.expect(303));
    let refused = id(&stage.as_alice("/auth/pbx?domain=other.test").send().await.expect(403));
    let lines: Vec<Value> = lines(&stage, 2).await.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |id: &str, kind: &str| {
        let mut found = lines.iter().filter(|line| line["id"] == id && line["kind"] == kind);
        let line = found.next().unwrap_or_else(|| panic!("no {kind} of {id} in {lines:?}"));
        assert!(found.next().is_none() && line["time"].is_string());
        line.clone()
    };
    let mut grant = of(&granted, "audit grant");
    grant.as_object_mut().unwrap().remove("time");
    let expected = json!({
        "kind": "audit grant", "id": granted, "client": "127.0.0.1", "act": "pbx_session",
        "method": "app", "subject": "alice", "rule": "staff", "account": "40@acme.test",
        "level": "user", "claims": ["ext", "tenant"],
    });
    assert_eq!(grant, expected);
    assert_eq!(of(&refused, "audit refusal")["subject"], "alice");
    let access = of(&refused, "access");
    assert_eq!((&access["status"], &access["reason"]), (&json!(403), &json!("forbidden")));
    assert_eq!((&access["target"], &access["ended"]), (&json!("/auth/pbx?domain=other.test"), &json!("complete")));
    assert_eq!(lines.len(), 4);
}

#[tokio::test]
async fn combined_lines_have_referer_and_user_agent_and_no_text_leaves_its_place() {
    let combined = "[log]\naccess_format = \"combined\"\n[audit]\nfile = \"audit.log\"";
    let stage = Plan { more: combined, ..Plan::default() }.start().await;
    let request = stage.as_alice("/auth/pbx").header("user-agent", "x\" 200 1 \"y\\");
    request.header("referer", "https://u:p4ssw0rd@crm.test/?token=t0pp-s3cret&a=1").send().await.expect(303);
    let line = stage.gate.line(&["GET /auth/pbx"]).await;
    let (begin, rest) = line.split_once(" [").unwrap();
    let (_, rest) = rest.split_once("] ").unwrap();
    assert_eq!(begin, "127.0.0.1 - 40@acme.test");
    let agent = r#"x\" 200 1 \"y\\"#;
    assert_eq!(rest, format!("\"GET /auth/pbx HTTP/1.1\" 303 - \"https://crm.test/?token=***&a=1\" \"{agent}\""));
    assert!(!stage.gate.log().contains("audit") && stage.gate.audit().contains("audit grant"), "{}", stage.gate.log());
}

#[tokio::test]
async fn a_mint_that_failed_is_audited_with_its_reason() {
    let stage = Stage::new().await;
    stage.pbx_does(|faults| faults.refuse_after = Some(0));
    let first = id(&stage.as_alice("/auth/pbx").send().await.expect(503));
    let second = id(&stage.as_alice("/auth/pbx").send().await.expect(503));
    for id in [first, second] {
        let line = stage.gate.line(&["audit refusal", &id]).await;
        assert!(
            line.contains("subject=alice rule=staff account=40@acme.test level=user reason=\"the PBX refused"),
            "{line}"
        );
        stage.gate.line(&["access", &id, "status=503", "reason=pbx_credentials_refused"]).await;
    }
}

#[tokio::test]
async fn a_refusal_that_a_listed_page_may_read_has_its_reason_in_the_log_too() {
    let stage = Plan { voximplant: "origins = [\"https://listed.test\"]", ..Plan::default() }.start().await;
    for (body, reason) in [("key=", "malformed"), ("key=k1&appUser=bob", "forbidden")] {
        let asking = stage.alice_posts("/auth/ott", FORM, body).header("origin", "https://listed.test");
        let refused = asking.send().await;
        assert_eq!(refused.header("access-control-allow-origin"), "https://listed.test");
        stage.gate.line(&["access", &id(&refused), &format!("reason={reason}")]).await;
    }
}

/// A gate searches the logs for all that was sent and received, so the exchanges are the test.
#[tokio::test]
async fn no_log_line_contains_a_credential() {
    for more in ["", JSON] {
        let stage = Plan { dialect: Dialect::B, pbx: "handoff = \"cookie\"", more, ..Plan::default() }.start().await;
        let answer = stage.as_alice("/auth/pbx").send().await.expect(303);
        let ticket = answer.header("location").strip_prefix("https://pbx.test").unwrap().to_owned();
        stage.redeem(answer.header("set-cookie"), answer.header("location")).await.expect(200);
        stage.gate.get(&ticket).host("pbx.test").send().await.expect(403);
        stage.gate.get(&ticket).host("app.test").send().await.expect(403);
        let session = stage.pbx.open_session("40", "acme.test");
        for path in [
            format!("/welcome.htm?sessId={session}"),
            format!("/welcome.htm?a=1&SESSID={session}&lang=fr"),
            format!("/welcome.htm?s%65ssId={session}"),
            format!("/welcome.htm?next=%2Fwelcome.htm%3FsessId%3D{session}"),
            format!("/welcome.htm;sessId={session}"),
            format!("/websocket?domain=acme.test&session={session}"),
            format!("/auth/pbx?key={session}&token={session}"),
            format!("/auth/ott?key={session}"),
            format!("/auth/callgate/ticket?t={session}"),
        ] {
            stage.gate.get(&path).host("pbx.test").send().await;
            stage.gate.get(&path).send().await;
            stage.as_alice(&path).h2().send().await;
        }
        stage.gate.get("/").host("pbx.test").cookie(&format!("session={session}")).bearer(&session).send().await;
        let referer = format!("https://pbx.test/welcome.htm?sessId={session}");
        stage.gate.get("/echo").header("referer", &referer).header("user-agent", &session).send().await.expect(200);
        stage.gate.get("/auth/pbx").bearer(&session).send().await.expect(401);
        let body = json!({ "key": session, "appUserPassword": session, "appUser": "bob" });
        stage.alice_posts("/auth/ott", "application/json", body).send().await.expect(403);
        lines(&stage, 6 + 9 * 3 + 4).await;
        assert!(stage.gate.log().contains("sessId=***"));
    }
}

#[tokio::test]
#[should_panic(expected = "a log line or the admin listener tells the secret \"known-by-its-name\"")]
async fn a_secret_in_a_line_would_be_found() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    gate.canary("known-by-its-name");
    gate.get("/known-by-its-name").send().await.expect(200);
    gate.line(&["/known-by-its-name"]).await;
}

#[tokio::test]
async fn a_stranger_cannot_write_lines_of_its_own() {
    for more in ["", JSON] {
        let stage = Plan { more, ..Plan::default() }.start().await;
        let forged = "alice\n2026-11-22T00:00:00.000Z audit grant id=forged\u{202e}\u{1b}[2J";
        stage.claims(json!({ "user": forged, "ext": "admin\nadmin", "tenant": "acme.test" }));
        stage.as_alice("/auth/pbx?account=%0Aaudit%20grant&x=%1b").send().await.expect(403);
        stage.gate.line(&["audit refusal"]).await;
        stage.gate.line(&["/auth/pbx?account"]).await;
        let log = stage.gate.log();
        assert_eq!(log.lines().count(), 2, "{log}");
        assert!(!log.contains(['\u{1b}', '\u{202e}']), "{log}");
    }
}

#[tokio::test]
async fn the_id_of_a_client_is_not_taken_over() {
    let stage = Stage::new().await;
    for path in ["/auth/pbx", "/auth/ott", "/auth/callgate/x", "/auth/PBX"] {
        let answer = stage.gate.get(path).header("x-request-id", "forged").send().await;
        assert_ne!(answer.header("x-request-id"), "forged");
        stage.gate.line(&["access", answer.header("x-request-id")]).await;
    }
    let echo = stage.gate.get("/echo").header("x-request-id", "forged").send().await.expect(200);
    let headers = echo.json()["headers"].clone();
    let told: Vec<_> = headers.as_array().unwrap().iter().filter(|field| field[0] == "x-request-id").collect();
    assert_eq!(told.len(), 1);
    stage.gate.line(&["access", told[0][1].as_str().unwrap(), "/echo"]).await;
    assert!(!stage.gate.log().contains("forged"));
}

#[tokio::test]
async fn the_app_learns_the_id_of_the_login_it_vouches_for() {
    let stage = Stage::new().await;
    let answer = stage.as_alice("/auth/pbx").send().await.expect(303);
    let asked = stage.app.requests().pop().unwrap();
    assert_eq!(asked.header("x-request-id"), Some(answer.header("x-request-id")));
}

#[tokio::test]
async fn without_an_access_log_logins_are_audited_all_the_same() {
    let stage = Plan { more: "[log]\naccess = \"off\"", ..Plan::default() }.start().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    stage.gate.line(&["audit grant", "account=40@acme.test"]).await;
}
