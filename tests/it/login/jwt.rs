//! Signed tokens (JWT): valid ones log in the caller they name; all others are refused.

use http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kit::app::Whoami;
use crate::kit::client::RequestBuilder;
use crate::kit::gate::{Gate, secret};
use crate::kit::issuer::{AUDIENCE, ISSUER, Publisher, Signer, claims, now, with};
use crate::kit::stage::{Plan, STAFF, Stage, until};

const SECRET: &str = "a-secret-of-thirty-two-bytes-or-more";

/// Issuer and audience of the method, behind the key.
fn terms() -> String {
    format!("issuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n")
}

/// A method of type `jwt` with these lines.
fn method(lines: &str) -> String {
    format!("[[auth]]\ntype = \"jwt\"\n{lines}\n")
}

/// Starts a gate with methods and no app that is asked.
async fn stage(methods: &str) -> Stage {
    Plan { app: "", rules: &format!("{methods}{STAFF}"), ..Plan::default() }.start().await
}

/// A gate that believes one key, given in a file.
async fn keyed(kind: &str, key: &str, lines: &str) -> (Stage, TempDir) {
    let folder = TempDir::new().unwrap();
    secret(&folder, "key", key);
    let path = folder.path().join("key").display().to_string();
    let source =
        if kind == "secret" { format!("secret = {{ file = {path:?} }}") } else { format!("{kind} = {path:?}") };
    (stage(&method(&format!("{source}\n{}{lines}", terms()))).await, folder)
}

async fn with_secret(lines: &str) -> (Stage, TempDir) {
    keyed("secret", SECRET, lines).await
}

/// A gate that fetches its keys.
async fn fetching(publisher: &Publisher) -> Stage {
    stage(&method(&format!("jwks = \"{}\"\n{}", publisher.url(), terms()))).await
}

fn signer() -> Signer {
    Signer::secret(SECRET)
}

/// Asks for a session as a program would.
fn login<'g>(gate: &'g Gate) -> RequestBuilder<'g> {
    gate.post("/auth/pbx", "application/json", "{}")
}

/// Checks that a request logs no caller in, and that the log states the reason.
#[track_caller]
fn expect_reason(stage: &Stage, status: StatusCode, reason: &str, what: &str) {
    assert_eq!(status, 401, "{what}");
    let log = stage.gate.log();
    let line = log.lines().rev().find(|line| is_audit(line));
    assert!(line.is_some_and(|line| line.contains(reason)), "{what}: not {reason:?} but {line:?}");
    assert_eq!(stage.minted(), [""; 0], "{what}");
}

fn is_audit(line: &str) -> bool {
    line.contains(" audit ")
}

// === Good tokens ===

#[tokio::test]
async fn a_token_with_a_secrets_signature_logs_its_subject_in() {
    let (stage, _folder) = with_secret("").await;
    let token = signer().token(&claims());
    login(&stage.gate).bearer(&token).send().await.expect(200);
    let token = stage.gate.get("/auth/pbx").bearer(&signer().token(&claims())).send().await;
    token.expect(303);
    assert_eq!(stage.minted(), ["40@acme.test", "40@acme.test"]);
    stage.gate.line(&["audit grant", "method=jwt", "subject=alice"]).await;
    assert!(stage.gate.told("/metrics").contains(r#"callgate_auth_verdicts_total{method="jwt",verdict="admit"} 2"#));
}

#[tokio::test]
async fn a_token_logs_in_to_voximplant_too() {
    let (stage, _folder) = with_secret("").await;
    let ask = stage.gate.post("/auth/ott", "application/x-www-form-urlencoded", "key=0123456789abcdef");
    assert_eq!(ask.bearer(&signer().token(&claims())).send().await.expect(200).body.len(), 32);
}

#[tokio::test]
async fn public_keys_of_every_kind_are_believed() {
    for signer in [Signer::ec(), Signer::ed(), Signer::rsa(), Signer::rsa_pss()] {
        let (stage, _folder) = keyed("public_key", &signer.pem(), "").await;
        login(&stage.gate).bearer(&signer.token(&claims())).send().await.expect(200);
        assert_eq!(stage.minted(), ["40@acme.test"], "{}", signer.algorithm());
    }
}

#[tokio::test]
async fn inner_claims_and_lists_reach_the_rules() {
    let folder = TempDir::new().unwrap();
    secret(&folder, "key", SECRET);
    let path = folder.path().join("key").display().to_string();
    let rules = method(&format!("secret = {{ file = {path:?} }}\nsubject = \"acct.login\"\n{}", terms()))
        + "[[allow]]\npbx = { domain = \"{acct.domain}\", account = \"{acct.ext}\" }\n";
    let stage = Plan { app: "", rules: &rules, ..Plan::default() }.start().await;
    let inner = json!({ "acct": { "domain": "acme.test", "ext": "41", "login": "Bob" }, "groups": ["a", "b"] });
    login(&stage.gate).bearer(&signer().token(&with(inner))).send().await.expect(200);
    assert_eq!(stage.minted(), ["41@acme.test"]);
    stage.gate.line(&["subject=bob"]).await;
    let nobody = login(&stage.gate).bearer(&signer().token(&claims())).send().await.expect(401);
    assert!(!nobody.text().contains("token"), "the caller is not told why");
    stage.gate.line(&["does not say who it is for"]).await;
}

#[tokio::test]
async fn a_token_without_aud_logs_in_by_the_claim_that_is_configured() {
    let (stage, _folder) = with_secret("audience_claim = \"client_id\"\n").await;
    let cognito = |client: &str| with(json!({ "aud": null, "client_id": client, "token_use": "access" }));
    let ask = |client| login(&stage.gate).bearer(&signer().token(&cognito(client))).send();
    let refused = ask("another-app").await;
    expect_reason(&stage, refused.status, "it is for another audience", "another client's token");
    ask("callgate").await.expect(200);
    assert_eq!(stage.minted(), ["40@acme.test"]);
}

// === Bad tokens ===

#[tokio::test]
async fn bad_tokens_do_not_log_in() {
    let (stage, _folder) = with_secret("max_age = \"1h\"\n").await;
    let (ours, other) = (signer(), Signer::secret("another-secret-of-thirty-two-bytes"));
    let sign = |changes| ours.token(&with(changes));
    let header = |header: Value| ours.sign(&header, &claims());
    let good = ours.token(&claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let changed = if signature.starts_with('A') { 'B' } else { 'A' };
    let unsigned = header(json!({ "alg": "none" }));
    let unsigned = unsigned.rsplit_once('.').unwrap().0;
    let evil = Signer::ec();
    let own_key =
        json!({ "alg": "ES256", "jwk": evil.jwk("e"), "jku": "https://evil.test/", "x5u": "https://evil.test/" });
    for (token, reason) in [
        ("abc".to_owned(), "malformed"),
        ("a.b.c".to_owned(), "malformed"),
        (message.to_owned(), "malformed"),
        (format!("{good}.{signature}"), "malformed"),
        (format!("{message}."), "signature is wrong"),
        (format!("{message}.{changed}{}", &signature[1..]), "signature is wrong"),
        (format!("{unsigned}."), "algorithm is unknown"),
        (header(json!({ "alg": "None" })), "algorithm is unknown"),
        (evil.sign(&own_key, &claims()), "algorithm is not one of the key's"),
        (header(json!({ "alg": "HS512" })), "algorithm is not one of the key's"),
        (header(json!({ "alg": "HS256", "crit": ["b64"], "b64": true })), "demands an extension"),
        (header(json!({ "alg": "HS256", "typ": "logout+jwt" })), "it has another type"),
        (other.token(&claims()), "signature is wrong"),
        (sign(json!({ "exp": now() - 31 })), "has expired"),
        (sign(json!({ "exp": null })), "has no exp"),
        (sign(json!({ "nbf": now() + 60 })), "not valid yet"),
        (sign(json!({ "iat": now() + 60 })), "issued in the future"),
        (sign(json!({ "iat": now() - 3640 })), "older than max_age"),
        (sign(json!({ "iat": null })), "has no iat"),
        (sign(json!({ "aud": "another" })), "for another audience"),
        (sign(json!({ "aud": null })), "for another audience"),
        (sign(json!({ "iss": "https://evil.test" })), "issuer is not a trusted one"),
        (sign(json!({ "iss": null })), "issuer is not a trusted one"),
        (sign(json!({ "events": {} })), "tells of an event"),
        ("x".repeat(8193), "the bearer credential is malformed"),
    ] {
        let answer = login(&stage.gate).bearer(&token).send().await;
        expect_reason(&stage, answer.status, reason, &token);
        assert!(!answer.text().contains("signature") && !answer.text().contains("expired"), "{token}");
    }
    let missing = login(&stage.gate).send().await.expect(401);
    assert_eq!(missing.header("www-authenticate"), "Bearer realm=\"callgate\"");
}

/// CVE-2026-25537: a time that is text was taken for one that is not there.
#[tokio::test]
async fn cve_2026_25537_a_time_that_is_text_never_counts_as_absent() {
    let (stage, _folder) = with_secret("").await;
    for (name, reason) in
        [("exp", "exp is not a number"), ("nbf", "nbf is not a number"), ("iat", "iat is not a number")]
    {
        let answer = login(&stage.gate).bearer(&signer().token(&with(json!({ name: "9999999999" })))).send().await;
        expect_reason(&stage, answer.status, reason, name);
    }
}

#[tokio::test]
async fn the_public_key_is_no_secret_to_sign_with() {
    let signer = Signer::rsa();
    let (stage, _folder) = keyed("public_key", &signer.pem(), "").await;
    let der = signer.pem().lines().filter(|line| !line.starts_with('-')).collect::<String>();
    for secret in [signer.pem(), signer.pem().trim_end().to_owned(), der] {
        let answer = login(&stage.gate).bearer(&Signer::secret(&secret).token(&claims())).send().await;
        expect_reason(&stage, answer.status, "algorithm is not one of the key's", &secret);
    }
    login(&stage.gate).bearer(&signer.token(&claims())).send().await.expect(200);
}

#[tokio::test]
async fn narrowed_algorithms_leave_the_others_out() {
    let signer = Signer::rsa();
    let (stage, _folder) = keyed("public_key", &signer.pem(), "algorithms = [\"PS256\"]\n").await;
    let answer = login(&stage.gate).bearer(&signer.token(&claims())).send().await;
    expect_reason(&stage, answer.status, "not one of `algorithms`", "RS256");
}

// === Two credentials at once, and doubled ones ===

#[tokio::test]
async fn two_credentials_at_once_do_not_log_in() {
    let folder = TempDir::new().unwrap();
    secret(&folder, "key", SECRET);
    let source = format!("secret = {{ file = \"{}/key\" }}\n{}", folder.path().display(), terms());
    let methods = method(&source)
        + &method(&format!("name = \"field\"\nheader = \"x-token\"\n{source}"))
        + &method(&format!("name = \"cookie\"\ncookie = \"token\"\n{source}"));
    let stage = Plan { rules: &format!("{methods}{STAFF}"), ..Plan::default() }.start().await;
    let token = signer().token(&claims());
    let cookie = format!("token={token}");
    let good = || login(&stage.gate).bearer(&token);
    for (asking, reason) in [
        (good().header("x-token", &token), "more than one credential"),
        (good().cookie(&stage.app.log_in("alice")), "more than one credential"),
        (good().bearer(&token), "the bearer credential is malformed"),
        (good().header("authorization", "Basic YTpi"), "the bearer credential is malformed"),
        (login(&stage.gate).header("x-token", &token).header("x-token", &token), "sent more than once"),
        (login(&stage.gate).header("x-token", &"x".repeat(8193)), "longer than 8 KiB"),
        (login(&stage.gate).header("x-token", ""), "malformed"),
    ] {
        let answer = asking.send().await;
        expect_reason(&stage, answer.status, reason, reason);
    }
    // The cookie is one that the app is asked about, too.
    let answer = login(&stage.gate).cookie(&cookie).send().await;
    expect_reason(&stage, answer.status, "more than one credential", "cookie");
    assert!(stage.app.requests().is_empty());
}

#[tokio::test]
async fn a_token_may_leave_the_cookies_aside() {
    let folder = TempDir::new().unwrap();
    secret(&folder, "key", SECRET);
    let path = folder.path().join("key").display().to_string();
    let methods = method(&format!("secret = {{ file = {path:?} }}\nignore_cookies = true\n{}", terms()));
    let stage = Plan { rules: &format!("{methods}{STAFF}"), ..Plan::default() }.start().await;
    stage.app.set(|faults| faults.whoami = Whoami::Claims(json!({ "ext": "41", "tenant": "acme.test" })));
    let asking = login(&stage.gate).bearer(&signer().token(&claims())).cookie(&stage.app.log_in("bob"));
    asking.send().await.expect(200);
    assert_eq!(stage.minted(), ["40@acme.test"]);
}

#[tokio::test]
async fn keys_and_tokens_share_a_field() {
    let folder = TempDir::new().unwrap();
    secret(&folder, "key", SECRET);
    let path = folder.path().join("key").display().to_string();
    let hash = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"a-key-of-another-server"));
    let methods = method(&format!("secret = {{ file = {path:?} }}\n{}", terms()))
        + &format!("[[auth]]\ntype = \"key\"\nsha256 = \"{hash}\"\nscopes = [\"pbx\"]\ndomains = [\"acme.test\"]\n")
        + "[[allow]]\nauth = \"key\"\npbx = { domain = \"{domain}\", account = \"{account}\" }\n";
    let stage = stage(&methods).await;
    let named = stage.gate.post("/auth/pbx", "application/json", r#"{"account":"41"}"#);
    named.bearer("a-key-of-another-server").send().await.expect(200);
    login(&stage.gate).bearer(&signer().token(&claims())).send().await.expect(200);
    assert_eq!(stage.minted(), ["41@acme.test", "40@acme.test"]);
    for unknown in ["another-key", "a.b.c", "a.b", "a.b.c.d"] {
        login(&stage.gate).bearer(unknown).send().await.expect(401);
    }
}

// === Places ===

/// A page of another site, in a browser that adds what it always adds.
fn from_elsewhere(asking: RequestBuilder<'_>) -> RequestBuilder<'_> {
    asking.header("origin", "https://evil.test").header("sec-fetch-site", "cross-site").header("sec-fetch-mode", "cors")
}

#[tokio::test]
async fn credentials_that_browsers_send_by_themselves_are_no_use_to_other_sites() {
    let token = signer().token(&claims());
    for (lines, name, value, status) in [
        ("header = \"x-token\"", "x-token", token.clone(), 403),
        ("cookie = \"token\"", "cookie", format!("a=b; token={token}"), 403),
        ("ambient = true", "authorization", format!("Bearer {token}"), 403),
        ("", "authorization", format!("Bearer {token}"), 200),
    ] {
        let (stage, _folder) = with_secret(lines).await;
        from_elsewhere(login(&stage.gate).header(name, &value)).send().await.expect(status);
        login(&stage.gate).header(name, &value).send().await.expect(200);
        assert_eq!(stage.minted().len(), if status == 200 { 2 } else { 1 }, "{lines}");
        stage.gate.canary(&token);
    }
}

#[tokio::test]
async fn names_that_look_alike_are_others() {
    let token = signer().token(&claims());
    let (field, _folder) = with_secret("header = \"cf-access-jwt-assertion\"").await;
    for name in ["cf_access_jwt_assertion", "x-cf-access-jwt-assertion", "cf-access-jwt-assertion2"] {
        login(&field.gate).header(name, &token).send().await.expect(401);
    }
    login(&field.gate).bearer(&token).send().await.expect(401);
    assert!(!field.gate.log().lines().any(is_audit), "there was no credential");
    login(&field.gate).header("CF-Access-Jwt-Assertion", &token).send().await.expect(200);
    let (cookie, _folder) = with_secret("cookie = \"token\"").await;
    for pair in [format!("Token={token}"), format!("xtoken={token}"), format!("token2={token}"), "token=".into()] {
        login(&cookie.gate).cookie(&pair).send().await.expect(401);
    }
    assert!(!cookie.gate.log().lines().any(is_audit), "there was no credential");
    login(&cookie.gate).cookie(&format!("token={token}; token=x")).send().await.expect(401);
    cookie.gate.line(&["sent more than once"]).await;
    login(&cookie.gate).cookie(&format!("token={token}")).send().await.expect(200);
    field.gate.canary(token);
}

#[tokio::test]
async fn a_token_in_an_address_works_once() {
    let (stage, _folder) = with_secret("query = \"token\"").await;
    let short = json!({ "jti": "one" });
    let token = signer().token(&with(short.clone()));
    stage.gate.canary(&token);
    let path = format!("/auth/pbx?token={token}");
    stage.gate.ask(http::Method::HEAD, &path).send().await.expect(503);
    stage.gate.get(&path).header("sec-purpose", "prefetch").send().await.expect(503);
    assert_eq!(stage.minted(), [""; 0]);
    stage.gate.get(&path).send().await.expect(303);
    assert_eq!(stage.minted(), ["40@acme.test"]);
    stage.gate.get(&path).send().await.expect(401);
    // The same id, signed anew, is the same ticket.
    let again = signer().token(&with(json!({ "jti": "one", "nonce": 1 })));
    stage.gate.canary(&again);
    stage.gate.get(&format!("/auth/pbx?token={again}")).send().await.expect(401);
    stage.gate.line(&["reason=", "was used before"]).await;
    assert_eq!(stage.minted(), ["40@acme.test"]);
}

#[tokio::test]
async fn a_token_in_an_address_needs_an_id_and_a_short_life() {
    let (stage, _folder) = with_secret("query = \"token\"").await;
    for (changes, reason) in [
        (json!({}), "has no jti"),
        (json!({ "jti": "" }), "has no jti"),
        (json!({ "jti": 1 }), "has no jti"),
        (json!({ "jti": "a", "exp": now() + 3600 }), "more than 15 min"),
        (json!({ "jti": "a", "exp": 1e300 }), "more than 15 min"),
    ] {
        let token = signer().token(&with(changes));
        stage.gate.canary(&token);
        let answer = stage.gate.get(&format!("/auth/pbx?token={token}")).send().await;
        expect_reason(&stage, answer.status, reason, reason);
    }
    let token = signer().token(&with(json!({ "jti": "a" })));
    stage.gate.canary(&token);
    stage.gate.get(&format!("/auth/pbx?token={token}&token={token}")).send().await.expect(400);
    // On other paths the parameter belongs to the app, and logs no caller in.
    stage.gate.get(&format!("/?token={token}")).send().await;
    assert_eq!(stage.minted(), [""; 0]);
}

// === Several issuers ===

#[tokio::test]
async fn the_issuer_says_which_method_is_asked_and_nothing_more() {
    let (acme, other) = (Signer::ec(), Signer::ec());
    let folder = TempDir::new().unwrap();
    secret(&folder, "acme.pem", &acme.pem());
    secret(&folder, "other.pem", &other.pem());
    let one = |name: &str| {
        let path = folder.path().join(format!("{name}.pem"));
        method(&format!("name = {name:?}\npublic_key = {path:?}\nissuer = \"https://{name}.test\"\naudience = \"a\"\n"))
    };
    let stage = stage(&(one("acme") + &one("other"))).await;
    let ask = |signer: &Signer, issuer: &str| {
        login(&stage.gate).bearer(&signer.token(&with(json!({ "iss": issuer, "aud": "a" })))).send()
    };
    ask(&acme, "https://acme.test").await.expect(200);
    ask(&other, "https://other.test").await.expect(200);
    ask(&acme, "https://other.test").await.expect(401);
    ask(&other, "https://acme.test").await.expect(401);
    stage.gate.line(&["method=acme", "signature is wrong"]).await;
    ask(&acme, "https://third.test").await.expect(401);
    stage.gate.line(&["method=jwt", "no method trusts its issuer"]).await;
    assert_eq!(stage.minted().len(), 2);
}

// === Keys that are fetched ===

async fn until_ready(gate: &Gate) {
    until("the keys are fetched", || gate.told("/readyz").contains("200 OK")).await;
}

#[tokio::test]
async fn fetched_keys_are_believed_by_their_ids() {
    let (signer, other) = (Signer::ec(), Signer::ec());
    let publisher = Publisher::start(&[signer.jwk("a"), other.jwk("b")]).await;
    let stage = fetching(&publisher).await;
    until_ready(&stage.gate).await;
    login(&stage.gate).bearer(&signer.named("a", &claims())).send().await.expect(200);
    login(&stage.gate).bearer(&other.token(&claims())).send().await.expect(200);
    let confused = login(&stage.gate).bearer(&signer.named("b", &claims())).send().await;
    assert_eq!(confused.status, 401);
    stage.gate.line(&["signature is wrong"]).await;
    assert_eq!(stage.minted().len(), 2);
    assert_eq!(publisher.asked(), 1);
    let metrics = stage.gate.told("/metrics");
    assert!(metrics.contains(r#"callgate_jwks_fetches_total{method="jwt",result="ok"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"callgate_jwks_loaded_timestamp_seconds{method="jwt"} "#), "{metrics}");
}

#[tokio::test]
async fn unknown_keys_do_not_make_a_storm_of_fetches() {
    let (signer, other) = (Signer::ec(), Signer::ec());
    let publisher = Publisher::start(&[signer.jwk("a")]).await;
    let stage = fetching(&publisher).await;
    until_ready(&stage.gate).await;
    let asked = (0..40).map(|number| login(&stage.gate).bearer(&other.named(&format!("k{number}"), &claims())).send());
    let began = tokio::time::Instant::now();
    for answer in futures_util::future::join_all(asked).await {
        answer.expect(401);
    }
    assert!(began.elapsed().as_secs() < 20, "none waits for keys that nobody fetches");
    stage.gate.line(&["its key is unknown"]).await;
    assert_eq!(publisher.asked(), 1);
    login(&stage.gate).bearer(&signer.named("a", &claims())).send().await.expect(200);
}

#[tokio::test]
async fn without_keys_callgate_is_not_ready_and_says_why() {
    let signer = Signer::ec();
    let publisher = Publisher::start(&[]).await;
    publisher.say(None);
    let stage = fetching(&publisher).await;
    until("the failure is told", || stage.gate.told("/readyz").contains("provider: jwt: no answer from the server"))
        .await;
    let early = login(&stage.gate).bearer(&signer.named("a", &claims())).send().await.expect(503);
    assert!(!early.header("retry-after").is_empty());
    publisher.publish(&[signer.jwk("a")]);
    until_ready(&stage.gate).await;
    login(&stage.gate).bearer(&signer.named("a", &claims())).send().await.expect(200);
    assert_eq!(stage.minted(), ["40@acme.test"]);
    assert!(stage.gate.events().contains("cannot fetch keys"));
}

#[tokio::test]
async fn with_another_method_a_gate_is_ready_without_keys_and_reports_them() {
    let signer = Signer::ec();
    let publisher = Publisher::start(&[]).await;
    publisher.say(None);
    let fetched = method(&format!("jwks = \"{}\"\n{}", publisher.url(), terms()));
    let key = format!(
        "[[auth]]\nname = \"crm\"\ntype = \"key\"\nsha256 = \"{}\"\nscopes = [\"pbx\"]\ndomains = [\"acme.test\"]\n",
        "0".repeat(64)
    );
    let stage = stage(&format!("{fetched}{key}")).await;
    let verbose = || stage.gate.told("/readyz?verbose");
    until("the failure is told", || verbose().contains("\nprovider/jwt: no answer from the server")).await;
    assert!(verbose().starts_with("HTTP/1.1 200 OK") && !verbose().contains("provider: "), "{}", verbose());
    assert_eq!(stage.gate.metric("callgate_ready{part=provider/jwt}"), 0.0);
    publisher.publish(&[signer.jwk("a")]);
    until("the keys are there", || verbose().contains("\nprovider/jwt: ok, keys fetched ")).await;
    assert_eq!(stage.gate.metric("callgate_ready{part=provider/jwt}"), 1.0);
    let report = stage.gate.tell("GET /readyz HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n");
    assert!(report.contains("\"detail\": \"keys fetched "), "{report}");
}

#[tokio::test]
async fn a_set_without_a_usable_key_is_no_set() {
    let secret = json!({ "kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "kid": "a" });
    let publisher = Publisher::start(&[secret]).await;
    let stage = fetching(&publisher).await;
    until("the problem is told", || stage.gate.told("/readyz").contains("has no key that can be used")).await;
    let forged = Signer::secret("secret-secret-secret-secret-secret").named("a", &claims());
    login(&stage.gate).bearer(&forged).send().await.expect(503);
    assert_eq!(stage.minted(), [""; 0]);
}

#[tokio::test]
async fn fetched_keys_outlive_a_reload() {
    let signer = Signer::ec();
    let publisher = Publisher::start(&[signer.jwk("a")]).await;
    let mut stage = fetching(&publisher).await;
    until_ready(&stage.gate).await;
    publisher.say(None);
    let text = stage.gate.text.clone();
    stage.gate.reload(&text.replace("audience = \"callgate\"", "audience = [\"callgate\", \"other\"]")).await.unwrap();
    assert!(stage.gate.told("/readyz").contains("200 OK"));
    for audience in ["callgate", "other"] {
        let token = signer.named("a", &with(json!({ "aud": audience })));
        login(&stage.gate).bearer(&token).send().await.expect(200);
    }
    assert_eq!(publisher.asked(), 1);
}

// === Presets ===

#[tokio::test]
async fn presets_know_their_servers_tokens() {
    let tenant = "72f988bf-86f1-41af-91ab-2d7cd011db47";
    let entra = format!("https://login.microsoftonline.com/{tenant}/v2.0");
    let signer = Signer::ec();
    let publisher = Publisher::start(&[signer.jwk("a")]).await;
    let es = "algorithms = [\"ES256\"]\n";
    for (preset, own, field, issuer, audience) in [
        (
            "cloudflare-access",
            "team = \"acme\"\n".to_owned() + es,
            "cf-access-jwt-assertion",
            "https://acme.cloudflareaccess.com",
            AUDIENCE,
        ),
        ("google-iap", String::new(), "x-goog-iap-jwt-assertion", "https://cloud.google.com/iap", AUDIENCE),
        ("pomerium", "host = \"app.test\"\n".to_owned(), "x-pomerium-jwt-assertion", "app.test", "app.test"),
        (
            "keycloak",
            "realm = \"https://id.test/realms/acme\"\n".to_owned(),
            "authorization",
            "https://id.test/realms/acme",
            AUDIENCE,
        ),
        ("entra", format!("tenant = \"{tenant}\"\n{es}"), "authorization", &entra, AUDIENCE),
    ] {
        let lines = format!("preset = {preset:?}\n{own}jwks = \"{}\"\naudience = {audience:?}\n", publisher.url());
        let stage = stage(&method(&lines)).await;
        until_ready(&stage.gate).await;
        let token = |issuer: &str| signer.named("a", &with(json!({ "iss": issuer, "aud": audience, "oid": "Alice" })));
        let value = |token: String| if field == "authorization" { format!("Bearer {token}") } else { token };
        let ask = |issuer| login(&stage.gate).header(field, &value(token(issuer)));
        ask(issuer).send().await.expect(200);
        ask("https://other.test").send().await.expect(401);
        // A page of any site can make a browser send its cookie to another proxy, which then adds the token.
        let status = if field == "authorization" { 200 } else { 403 };
        from_elsewhere(ask(issuer)).send().await.expect(status);
        stage.gate.line(&["audit grant", "subject=alice"]).await;
    }
}

// === Native apps ===

/// Returns the first block of a kind in docs/sdks.md.
fn shown(kind: &str) -> String {
    let text = std::fs::read_to_string("docs/sdks.md").unwrap();
    text.split_once(&format!("```{kind}\n")).unwrap().1.split("```").next().unwrap().to_owned()
}

#[tokio::test]
async fn a_native_app_logs_in_by_the_configuration_and_the_request_that_are_shown() {
    let signer = Signer::ec();
    let publisher = Publisher::start(&[signer.jwk("1")]).await;
    let rules = shown("toml");
    assert!(rules.contains("https://id.example.com/jwks.json") && rules.contains("audience = \"callgate\""), "{rules}");
    let rules = rules.replace("https://id.example.com/jwks.json", &publisher.url());
    let rules = rules.replace("https://id.example.com", ISSUER);
    let stage = Plan { app: "whoami = \"/api/me\"", rules: &rules, ..Plan::default() }.start().await;
    let ask = async |token: &str, more: &str| {
        let request = shown("http").replace('\n', "\r\n").replace("portal.example.com", "app.test");
        let request = request.trim_end().replace("<access token>", token);
        stage.gate.exchange(request.replacen("\r\n", &format!("\r\nConnection: close\r\n{more}"), 1).as_bytes()).await
    };
    until("the keys", || publisher.asked() > 0).await;
    let token = signer.named("1", &claims());
    let answer = ask(&token, "").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let login = answer.rsplit("\r\n\r\n").next().unwrap();
    assert!(login.len() == 32 && login.bytes().all(|byte| byte.is_ascii_hexdigit()), "{answer}");
    stage.gate.line(&["audit grant", "act=voximplant_token", "method=mobile", "subject=alice", "account=alice"]).await;
    // What the page says of other callers.
    let cookie = format!("Cookie: {}\r\n", stage.app.log_in("alice"));
    for (token, more, status) in [
        ("", "", 401),
        (&*signer.named("1", &with(json!({ "aud": "another" }))), "", 401),
        (&*signer.named("1", &with(json!({ "vox": "carol" }))), "", 403),
        (&*signer.named("1", &with(json!({ "vox": null }))), "", 403),
        (&*token, &*cookie, 401),
    ] {
        let answer = ask(token, more).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
    }
}
