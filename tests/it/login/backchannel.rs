//! Logouts that an identity provider reports (OpenID Connect Back-Channel Logout 1.0): they end what they name, and only the
//! provider can report one.

use http::Method;
use serde_json::{Value, json};

use crate::kit::client::Answer;
use crate::kit::oidc::provider::{IdTokenSigner, Provider};
use crate::kit::oidc::{OidcStage, RULES, method};
use crate::kit::stage::Plan;

const PATH: &str = "/auth/callgate/backchannel-logout";
const FORM: &str = "application/x-www-form-urlencoded";

/// Reports a logout, as a provider does.
async fn report(scene: &OidcStage, token: &str) -> Answer {
    let form = form_urlencoded::Serializer::new(String::new()).append_pair("logout_token", token).finish();
    scene.stage.gate.post(PATH, FORM, form).send().await
}

/// Logs in as a session of the provider.
async fn log_in(scene: &OidcStage, changes: Value) -> String {
    scene.provider.set(|says| says.claims = changes);
    scene.cookie().await
}

/// Checks whether a cookie still opens the PBX.
async fn check(scene: &OidcStage, cookie: &str, works: bool) {
    let answer = scene.stage.gate.get("/auth/pbx").cookie(cookie).send().await;
    assert_eq!(answer.status.as_u16(), if works { 303 } else { 401 }, "{answer:?}");
}

// === What ends ===

#[tokio::test]
async fn the_session_that_the_provider_ended_is_over_and_no_other() {
    let scene = OidcStage::new().await;
    let ended = log_in(&scene, json!({ "sid": "s1" })).await;
    let elsewhere = log_in(&scene, json!({ "sid": "s2" })).await;
    check(&scene, &ended, true).await;
    let answer = report(&scene, &scene.provider.logout_token(json!({}))).await.expect(200);
    assert_eq!(answer.header("cache-control"), "no-store");
    check(&scene, &ended, false).await;
    check(&scene, &elsewhere, true).await;
    let line = scene.stage.gate.line(&["audit logout", "act=provider_logout", "method=sso", "subject=ann"]).await;
    assert!(!line.contains("s1"), "{line}");
    let metrics = scene.stage.gate.told("/metrics");
    assert!(metrics.contains("callgate_logouts_total{act=\"provider_logout\",outcome=\"done\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_logout_of_a_person_ends_all_their_logins_so_far() {
    let scene = OidcStage::new().await;
    let now = jiff::Timestamp::now().as_second();
    let before = log_in(&scene, json!({ "sid": "s1", "iat": now - 2 })).await;
    let without_session = log_in(&scene, json!({ "iat": now - 1 })).await;
    let other = log_in(&scene, json!({ "sub": "bob", "iat": now - 2 })).await;
    let later = log_in(&scene, json!({ "sid": "s3", "iat": now + 1 })).await;
    report(&scene, &scene.provider.logout_token(json!({ "sid": null, "sub": "Ann", "iat": now }))).await.expect(200);
    check(&scene, &before, false).await;
    check(&scene, &without_session, false).await;
    check(&scene, &other, true).await;
    check(&scene, &later, true).await;
}

#[tokio::test]
async fn a_login_without_a_session_ends_with_any_of_its_person() {
    let scene = OidcStage::new().await;
    let cookie = log_in(&scene, json!({})).await;
    let unnamed = scene.provider.logout_token(json!({ "sub": null }));
    report(&scene, &unnamed).await.expect(200);
    check(&scene, &cookie, true).await;
    report(&scene, &scene.provider.logout_token(json!({}))).await.expect(200);
    check(&scene, &cookie, false).await;
}

#[tokio::test]
async fn a_logout_without_a_login_is_a_success() {
    let scene = OidcStage::new().await;
    report(&scene, &scene.provider.logout_token(json!({}))).await.expect(200);
}

/// The person is at the provider when the logout arrives, or the browser is on its way back.
#[tokio::test]
async fn a_login_that_was_on_its_way_ends_too() {
    let scene = OidcStage::new().await;
    scene.provider.set(|says| says.claims = json!({ "sid": "s1" }));
    let way = scene.begin("/auth/pbx").await;
    report(&scene, &scene.provider.logout_token(json!({ "sid": "s1" }))).await.expect(200);
    let (cookie, _) = scene.end(&way).await;
    check(&scene, &cookie, false).await;
    assert!(scene.stage.minted().is_empty());
}

#[tokio::test]
async fn an_ended_login_stays_ended_after_a_restart() {
    let provider = Provider::start().await;
    let more = method("sso", &provider, "cookie_key = { env = \"OIDC_KEY\" }") + "[state]\nfile = \"state.db\"\n";
    let stage = Plan { app: "", rules: RULES, more: &more, ..Plan::default() }.start().await;
    let mut scene = OidcStage { stage, provider };
    let cookie = log_in(&scene, json!({ "sid": "s1" })).await;
    report(&scene, &scene.provider.logout_token(json!({}))).await.expect(200);
    let state = std::fs::read(scene.stage.gate.dir.path().join("state.db")).unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("state.db");
    std::fs::write(&file, state).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let text = scene.stage.gate.text.replace("state.db", file.to_str().unwrap());
    scene.stage.gate = crate::kit::gate::Gate::start(&text).await;
    check(&scene, &cookie, false).await;
}

/// A copy of the cookie, which somebody else kept, is worth nothing after the person has logged out.
#[tokio::test]
async fn a_copy_of_a_cookie_ends_with_the_persons_own_logout() {
    let scene = OidcStage::new().await;
    let cookie = log_in(&scene, json!({ "sid": "s1" })).await;
    let other = log_in(&scene, json!({ "sid": "s1" })).await;
    let out = scene.stage.gate.post("/auth/callgate/logout", FORM, "").cookie(&cookie);
    out.header("origin", "https://app.test").send().await.expect(303);
    check(&scene, &cookie, false).await;
    check(&scene, &other, true).await;
}

// === Who can report a logout ===

#[tokio::test]
async fn only_the_provider_reports_a_logout() {
    let scene = OidcStage::new().await;
    let cookie = log_in(&scene, json!({ "sid": "s1" })).await;
    let now = jiff::Timestamp::now().as_second();
    let event = "http://schemas.openid.net/event/backchannel-logout";
    let refusals = [
        (json!({ "iss": "https://evil.test" }), "of another provider, or for another client"),
        (json!({ "aud": "another-client" }), "of another provider, or for another client"),
        (json!({ "aud": null }), "of another provider, or for another client"),
        (json!({ "azp": "another-client" }), "given to another client (azp)"),
        (json!({ "exp": now - 1 }), "it has expired"),
        (json!({ "exp": null }), "it has no exp"),
        (json!({ "iat": now - 3600, "exp": now + 3600 }), "it has expired"),
        (json!({ "iat": now + 3600, "exp": now + 7200 }), "not valid yet"),
        (json!({ "iat": null }), "it has no iat"),
        (json!({ "events": null }), "it reports no logout"),
        (json!({ "events": { "http://schemas.openid.net/event/other": {} } }), "it reports no logout"),
        (json!({ "events": [event] }), "it reports no logout"),
        (json!({ "nonce": "n" }), "it has a nonce"),
        (json!({ "jti": null }), "it has no jti"),
        (json!({ "sid": null, "sub": null }), "it names neither"),
        (json!({ "sid": ["s1"] }), "its jti, sid or sub is not a text"),
    ];
    for (changes, reason) in refusals {
        check_refused(&scene, &scene.provider.logout_token(changes), reason).await;
    }
    for typ in ["at+jwt", "secevent+jwt"] {
        scene.provider.set(|says| says.header = json!({ "typ": typ }));
        check_refused(&scene, &scene.provider.logout_token(json!({})), "it has another type").await;
    }
    scene.provider.set(|says| says.header = json!({}));
    let signers = [
        (IdTokenSigner::Another, "signature of the logout token is wrong"),
        (IdTokenSigner::Nothing, "cannot be read"),
        (IdTokenSigner::ClientSecret, "not one that the provider says to use"),
        (IdTokenSigner::PublicKey, "not one that the provider says to use"),
    ];
    for (signer, reason) in signers {
        scene.provider.set(|says| says.signs = signer);
        check_refused(&scene, &scene.provider.logout_token(json!({})), reason).await;
    }
    check(&scene, &cookie, true).await;
}

async fn check_refused(scene: &OidcStage, token: &str, reason: &str) {
    let answer = report(scene, token).await.expect(400);
    assert_eq!(answer.json()["error"], "invalid_request", "{answer:?}");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(!answer.text().contains(reason), "only the operator learns why: {answer:?}");
    scene.stage.gate.line(&["audit refusal", "act=provider_logout", reason]).await;
}

/// Without a list of algorithms, the public key of the provider is no secret that signs.
#[tokio::test]
async fn a_public_key_signs_no_logout_where_no_algorithms_are_listed() {
    let provider = Provider::start().await;
    provider.set(|says| says.discovery = json!({ "id_token_signing_alg_values_supported": null }));
    let scene = OidcStage::before(provider, "").await;
    for signer in [IdTokenSigner::ClientSecret, IdTokenSigner::PublicKey] {
        scene.provider.set(|says| says.signs = signer);
        check_refused(&scene, &scene.provider.logout_token(json!({})), "refused").await;
    }
}

#[tokio::test]
async fn an_id_token_is_no_logout_token() {
    let scene = OidcStage::new().await;
    let cookie = log_in(&scene, json!({ "sid": "s1", "jti": "j" })).await;
    let id_token = scene.provider.given().pop().unwrap();
    check_refused(&scene, &id_token, "it reports no logout").await;
    check(&scene, &cookie, true).await;
}

#[tokio::test]
async fn a_logout_token_is_no_login() {
    let scene = OidcStage::new().await;
    let event = json!({ "http://schemas.openid.net/event/backchannel-logout": {} });
    scene.provider.set(|says| says.claims = json!({ "events": event }));
    scene.check_refused(403, "it tells of an event").await;
}

#[tokio::test]
async fn a_logout_token_works_once() {
    let scene = OidcStage::new().await;
    let token = scene.provider.logout_token(json!({}));
    report(&scene, &token).await.expect(200);
    check_refused(&scene, &token, "used before").await;
    // Another token with the same id is the same report.
    let same = scene.provider.logout_token(json!({ "jti": "once", "sid": "s5" }));
    report(&scene, &same).await.expect(200);
    check_refused(&scene, &scene.provider.logout_token(json!({ "jti": "once", "sid": "s6" })), "used before").await;
}

#[tokio::test]
async fn each_provider_ends_its_own_logins() {
    let (one, other) = (Provider::start().await, Provider::start().await);
    let more = method("one", &one, "") + &method("other", &other, "");
    let stage = Plan { app: "", rules: RULES, more: &more, ..Plan::default() }.start().await;
    let scene = OidcStage { stage, provider: one };
    scene.provider.set(|says| says.claims = json!({ "sid": "s1" }));
    let begun = scene.open("/auth/callgate/login?with=one", "").await.expect(200);
    let way = crate::kit::oidc::PendingLogin {
        address: crate::kit::oidc::link(&begun),
        cookie: crate::kit::oidc::pair(&crate::kit::oidc::set(&begun)[0]),
    };
    let cookie = scene.end(&way).await.0;
    // The other provider's token, and one that it signs in the name of this one.
    report(&scene, &other.logout_token(json!({}))).await.expect(200);
    check_refused(&scene, &other.logout_token(json!({ "iss": scene.provider.issuer() })), "signature").await;
    check(&scene, &cookie, true).await;
    report(&scene, &scene.provider.logout_token(json!({}))).await.expect(200);
    check(&scene, &cookie, false).await;
}

/// Two methods are clients of one provider: the token for one client ends no login of the other.
#[tokio::test]
async fn each_client_of_a_provider_has_its_own_logouts() {
    let provider = Provider::start().await;
    let second = method("second", &provider, "").replace("callgate-client", "second-client");
    let more = method("sso", &provider, "") + &second;
    let stage = Plan { app: "", rules: RULES, more: &more, ..Plan::default() }.start().await;
    let scene = OidcStage { stage, provider };
    let begun = scene.open("/auth/callgate/login?with=sso", "").await.expect(200);
    scene.provider.set(|says| says.claims = json!({ "sid": "s1" }));
    let way = crate::kit::oidc::PendingLogin {
        address: crate::kit::oidc::link(&begun),
        cookie: crate::kit::oidc::pair(&crate::kit::oidc::set(&begun)[0]),
    };
    let cookie = scene.end(&way).await.0;
    report(&scene, &scene.provider.logout_token(json!({ "aud": "second-client" }))).await.expect(200);
    check(&scene, &cookie, true).await;
    report(&scene, &scene.provider.logout_token(json!({}))).await.expect(200);
    check(&scene, &cookie, false).await;
}

// === The endpoint ===

#[tokio::test]
async fn the_endpoint_reads_forms_of_a_bounded_size() {
    let scene = OidcStage::new().await;
    let gate = &scene.stage.gate;
    assert_eq!(gate.get(PATH).send().await.expect(405).header("allow"), "POST");
    for body in ["", "token=a", "logout_token=a&logout_token=b", "logout_token=", "logout_token=%00"] {
        let answer = gate.post(PATH, FORM, body).send().await.expect(400);
        assert_eq!(answer.json()["error"], "invalid_request", "{body}");
    }
    gate.post(PATH, "application/json", "{\"logout_token\":\"a\"}").send().await.expect(415);
    gate.ask(Method::POST, PATH).send().await.expect(415);
    let long = format!("logout_token={}", "a".repeat(9 << 10));
    gate.post(PATH, FORM, long).send().await.expect(413);
    // A page in a browser reports nothing.
    let token = format!("logout_token={}", scene.provider.logout_token(json!({})));
    gate.post(PATH, FORM, token).header("origin", "https://evil.test").send().await.expect(403);
}

#[tokio::test]
async fn guesses_are_limited_and_reports_are_not() {
    let provider = Provider::start().await;
    let more = method("sso", &provider, "");
    let limits = "client = \"3/min\"\nfailures = \"3/15min\"";
    let stage = Plan { app: "", rules: RULES, more: &more, limits, ..Plan::default() }.start().await;
    let scene = OidcStage { stage, provider };
    for _ in 0..20 {
        report(&scene, &scene.provider.logout_token(json!({}))).await.expect(200);
    }
    for _ in 0..3 {
        report(&scene, "a.b.c").await.expect(400);
    }
    report(&scene, "a.b.d").await.expect(429);
    // Nothing is verified for this address any more.
    report(&scene, &scene.provider.logout_token(json!({}))).await.expect(429);
}

#[tokio::test]
async fn without_a_provider_there_is_no_such_address() {
    let stage = Plan::default().start().await;
    stage.gate.post(PATH, FORM, "logout_token=a").send().await.expect(404);
    stage.gate.post(&PATH.to_uppercase(), FORM, "logout_token=a").send().await.expect(400);
}
