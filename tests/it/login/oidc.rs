//! Logins at an identity provider (OpenID Connect): only callers that it vouches for get a session.
//!
//! The provider is a stand-in that can lie; `browser/oidc.rs` uses a real one.

use std::collections::HashMap;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::kit::oidc::provider::{CLIENT, IdTokenSigner, Provider};
use crate::kit::oidc::{HTML, KEY, OidcStage, PendingLogin, RULES, link, method, pair, query, set};
use crate::kit::stage::Plan;
use crate::kit::upstream::RawUpstream;

fn parameters(address: &str) -> HashMap<String, String> {
    form_urlencoded::parse(address.split_once('?').unwrap().1.as_bytes()).into_owned().collect()
}

// === The way through ===

#[tokio::test]
async fn a_login_at_the_provider_opens_the_pbx() {
    let scene = OidcStage::new().await;
    let way = scene.begin("/auth/pbx?lang=fr&account=40").await;
    let asked = parameters(&way.address);
    assert_eq!(
        (&*asked["response_type"], &*asked["client_id"], &*asked["code_challenge_method"]),
        ("code", CLIENT, "S256")
    );
    assert_eq!(asked["redirect_uri"], "https://app.test/auth/callgate/oidc/sso");
    assert_eq!(asked["scope"], "openid profile email");
    let (cookie, next) = scene.end(&way).await;
    let landed = scene.open(&next, &cookie).await.expect(303);
    assert_eq!(scene.stage.minted(), ["40@acme.test"]);
    assert!(landed.header("location").ends_with("&lang=fr"), "{landed:?}");
    scene.open("/auth/pbx", &cookie).await.expect(303);
    scene.stage.gate.line(&["audit grant", "method=sso", "subject=ann"]).await;
    let ready = scene.stage.gate.told("/readyz?verbose");
    assert!(ready.contains("200 OK") && ready.contains("\nprovider/sso: ok, keys fetched "), "{ready}");
    assert!(ready.contains("\nprovider: ok\n"), "{ready}");
    assert_eq!(scene.stage.gate.metric("callgate_jwks_fetches_total{method=sso,result=ok}"), 1.0);
}

#[tokio::test]
async fn a_person_who_is_refused_may_use_another_account() {
    let scene = OidcStage::new().await;
    let cookie = scene.cookie().await;
    let refused = scene.open("/auth/pbx?account=41&lang=fr", &cookie).await.expect(403);
    let other = link(&refused);
    assert!(refused.text().contains("Utiliser un autre compte"), "{}", refused.text());
    assert_eq!(other, "/auth/callgate/login?account=41&lang=fr&for=pbx&prompt=select_account");
    // The provider asks which account, and the login leads to what was refused.
    let page = scene.open(&other, &cookie).await.expect(200);
    let way = PendingLogin { address: link(&page), cookie: pair(set(&page).last().unwrap()) };
    assert_eq!(parameters(&way.address)["prompt"], "select_account");
    scene.provider.set(|says| says.claims = json!({ "tenant": "acme.test", "ext": "41" }));
    let (cookie, next) = scene.end(&way).await;
    scene.open(&next, &cookie).await.expect(303);
    assert_eq!(scene.stage.minted(), ["41@acme.test"]);
    // No other wish of a link reaches the provider.
    for prompt in ["none", "login", "select_account%20consent"] {
        scene.open(&format!("/auth/callgate/login?prompt={prompt}"), "").await.expect(400);
    }
}

#[tokio::test]
async fn cookies_are_of_this_host_and_kept_from_scripts() {
    let scene = OidcStage::with("remember = \"2h\"").await;
    let begun = scene.open("/auth/callgate/login", "").await.expect(200);
    let line = &set(&begun)[0];
    assert!(line.starts_with("__Host-callgate-"), "{line}");
    assert!(line.ends_with("; Max-Age=600; Path=/; Secure; HttpOnly; SameSite=Lax"), "{line}");
    let way = PendingLogin { address: link(&begun), cookie: pair(line) };
    let ended = scene.open(&scene.log_in(&way), &way.cookie).await.expect(200);
    let [login, forgotten] = &set(&ended)[..] else { panic!("{ended:?}") };
    assert!(login.starts_with("__Host-callgate="), "{login}");
    assert!(login.ends_with("; Max-Age=7200; Path=/; Secure; HttpOnly; SameSite=Lax"), "{login}");
    assert!(forgotten.starts_with(way.cookie.split('=').next().unwrap()) && forgotten.contains("=; Max-Age=0;"));
    assert_eq!(link(&ended), "/");
    assert!(ended.header("content-security-policy").contains("script-src 'sha256-"));
    assert_eq!((ended.header("cache-control"), ended.header("referrer-policy")), ("no-store", "no-referrer"));
}

#[tokio::test]
async fn a_program_learns_where_a_person_can_log_in() {
    let scene = OidcStage::new().await;
    for asked in
        [scene.stage.gate.post("/auth/ott", "application/json", "{\"key\":\"k\"}"), scene.stage.gate.get("/auth/pbx")]
    {
        let answer = asked.send().await.expect(401);
        let login = answer.json()["login"].as_str().unwrap().to_owned();
        assert!(login.starts_with("https://app.test/auth/callgate/login"), "{login}");
    }
}

#[tokio::test]
async fn a_login_answers_one_time_keys_for_pages_of_this_site_alone() {
    let scene = OidcStage::new().await;
    scene.provider.set(|says| says.claims = json!({ "vox": "alice" }));
    let cookie = scene.cookie().await;
    let ask = || scene.stage.gate.post("/auth/ott", "application/json", "{\"key\":\"one-time-key\"}").cookie(&cookie);
    ask().send().await.expect(200);
    ask().header("origin", "https://evil.app.test").header("sec-fetch-site", "same-site").send().await.expect(403);
}

#[tokio::test]
async fn the_apps_own_login_page_comes_first() {
    let provider = Provider::start().await;
    let method = method("sso", &provider, "");
    let stage = Plan { app: "login = \"/login\"", rules: RULES, more: &method, ..Plan::default() }.start().await;
    let scene = OidcStage { stage, provider };
    assert_eq!(scene.open("/auth/pbx", "").await.expect(302).header("location"), "/login");
    scene.open("/auth/callgate/login", "").await.expect(200);
}

#[tokio::test]
async fn people_choose_among_several_providers() {
    let (one, other) = (Provider::start().await, Provider::start().await);
    let more = method("one", &one, "") + &method("other", &other, "");
    let stage = Plan { app: "", rules: RULES, more: &more, ..Plan::default() }.start().await;
    let scene = OidcStage { stage, provider: other };
    let page = scene.open("/auth/callgate/login?for=pbx&lang=fr", "").await.expect(200);
    assert!(set(&page).is_empty() && page.text().contains("with=one") && page.text().contains("with=other"));
    assert!(
        page.header("content-security-policy").starts_with("default-src 'none'") && !page.text().contains("<script")
    );
    let begun = scene.open("/auth/callgate/login?for=pbx&lang=fr&with=other", "").await.expect(200);
    let way = PendingLogin { address: link(&begun), cookie: pair(&set(&begun)[0]) };
    let back = scene.log_in(&way);
    // The other provider's answer is no answer of this one (mix-up, RFC 9700 §4.4).
    scene.open(&back.replace("/oidc/other", "/oidc/one"), &way.cookie).await.expect(400);
    let (cookie, next) = scene.end(&way).await;
    assert_eq!(next, "/auth/pbx?lang=fr&again=login");
    scene.open(&next, &cookie).await.expect(303);
    scene.open("/auth/callgate/login?with=none", "").await.expect(404);
    scene.open("/auth/callgate/oidc/none?code=a&state=b", "").await.expect(404);
    drop(one);
}

#[tokio::test]
async fn another_host_sends_people_to_the_one_where_they_log_in() {
    let scene = OidcStage::with("host = \"app.test\"").await;
    let asked = scene.stage.gate.get("/auth/callgate/login?for=pbx&lang=de&account=40").host("pbx.test:8443");
    let sent = asked.header("accept", HTML).send().await.expect(302);
    let expected = "https://app.test:8443/auth/callgate/login?account=40&lang=de&for=pbx&with=sso";
    assert_eq!(sent.header("location"), expected);
}

#[tokio::test]
async fn userinfo_adds_claims_and_replaces_no_claim() {
    let scene = OidcStage::with("userinfo = true").await;
    scene.provider.set(|says| {
        says.claims = json!({ "ext": null });
        says.userinfo = json!({ "sub": "ann", "ext": "41", "tenant": "evil.test" });
    });
    scene.open("/auth/pbx", &scene.cookie().await).await.expect(303);
    assert_eq!(scene.stage.minted(), ["41@acme.test"]);
}

#[tokio::test]
async fn userinfo_of_another_subject_is_refused() {
    let scene = OidcStage::with("userinfo = true").await;
    scene.provider.set(|says| says.userinfo = json!({ "sub": "eve", "ext": "41" }));
    scene.check_refused(502, "does not tell of the person who logged in").await;
}

#[tokio::test]
async fn a_flag_and_its_address_are_of_one_source() {
    let provider = Provider::start().await;
    let method = method("sso", &provider, "userinfo = true");
    let rules = "[[allow]]\npbx = { domain = \"acme.test\", account = \"{email|before:@}\" }";
    let stage = Plan { app: "", rules, more: &method, ..Plan::default() }.start().await;
    let scene = OidcStage { stage, provider };
    for (token, userinfo, status) in [
        (json!({ "email_verified": true }), json!({ "email": "41@acme.test", "email_verified": false }), 403),
        (json!({ "email": "41@acme.test", "email_verified": false }), json!({ "email_verified": true }), 403),
        (json!({ "email": "41@acme.test", "email_verified": true }), json!({ "email_verified": "false" }), 403),
        (json!({ "email_verified": false }), json!({ "email": "41@acme.test", "email_verified": true }), 403),
        (json!({}), json!({ "email": "41@acme.test", "email_verified": true }), 303),
    ] {
        let mut told = json!({ "sub": "ann" });
        told.as_object_mut().unwrap().extend(userinfo.as_object().unwrap().clone());
        scene.provider.set(|says| (says.claims, says.userinfo) = (token, told));
        scene.open("/auth/pbx", &scene.cookie().await).await.expect(status);
    }
    assert_eq!(scene.stage.minted(), ["41@acme.test"]);
}

#[tokio::test]
async fn a_provider_document_with_two_readings_is_refused() {
    let scene = OidcStage::with("userinfo = true").await;
    scene.provider.set(|says| says.userinfo_text = Some(r#"{"sub":"ann","x":{"a":1,"a":2}}"#.to_owned()));
    scene.check_refused(502, "the answer of the userinfo endpoint cannot be read: a name stands twice").await;
    scene.provider.set(|says| says.userinfo_text = Some(r#"{"sub":"ann","id":12345678901234567890123}"#.to_owned()));
    scene.check_refused(502, "an integer is longer than 64 bits").await;
    scene.provider.set(|says| (says.userinfo_text, says.claims_more) = (None, r#""ext":"41","ext":"42","#));
    scene.check_refused(403, "the ID token is refused: a name stands twice in it").await;
}

#[tokio::test]
async fn an_unused_value_of_the_provider_spoils_no_login() {
    let provider = Provider::start().await;
    provider.set(|says| {
        let odd = json!({ "a": [1] });
        says.discovery = json!({
            "response_types_supported": null, "subject_types_supported": null,
            "id_token_signing_alg_values_supported": null, "claims_supported": odd, "userinfo_endpoint": 1,
            "grant_types_supported": "all", "end_session_endpoint": odd, "scopes_supported": [1],
        });
        says.keys = vec![
            json!({ "kty": "EC", "crv": "P-521", "x": 1, "y": [], "use": "sig" }),
            json!({ "kty": "AKP", "alg": "ML-DSA-44", "pub": odd }),
            json!({ "kty": 1 }),
            json!("key"),
            json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "1" }),
        ];
        says.claims = json!({ "amr": "pwd", "acr": 1, "updated_at": "1700000000", "address": [], "zoneinfo": odd });
        says.tokens = json!({ "expires_in": "3600", "token_type": null, "scope": odd, "refresh_token": 1 });
    });
    let scene = OidcStage::before(provider, "").await;
    scene.open("/auth/pbx", &scene.cookie().await).await.expect(303);
}

#[tokio::test]
async fn an_odd_value_that_a_login_uses_is_named() {
    let scene = OidcStage::with("userinfo = true").await;
    scene.provider.set(|says| says.tokens = json!({ "access_token": 1 }));
    scene.check_refused(502, "`access_token` in the answer of the token endpoint").await;
    for (changes, name) in [
        (json!({ "token_endpoint": 1 }), "`token_endpoint` in its discovery document is not a text"),
        (json!({ "jwks_uri": null }), "its discovery document has no `jwks_uri`"),
        (json!({ "jwks_uri": "http://id.test/" }), "`jwks_uri` in its discovery document is not an https:// address"),
    ] {
        let provider = Provider::start().await;
        provider.set(|says| says.discovery = changes);
        let scene = OidcStage::before(provider, "").await;
        scene.open("/auth/callgate/login", "").await.expect(503);
        assert!(scene.stage.gate.events().contains(name), "{name}: {}", scene.stage.gate.events());
    }
}

#[tokio::test]
async fn other_audiences_are_trusted_by_the_provider_or_by_the_list() {
    let both = || json!({ "aud": [CLIENT, "246361787010646019"], "azp": CLIENT });
    for (more, is_good) in [
        ("", true),
        ("trusted_audiences = [\"246361787010646019\"]", true),
        ("trusted_audiences = []", false),
        ("trusted_audiences = [\"other\"]", false),
    ] {
        let scene = OidcStage::with(more).await;
        scene.provider.set(|says| says.claims = both());
        match is_good {
            true => drop(scene.open("/auth/pbx", &scene.cookie().await).await.expect(303)),
            false => scene.check_refused(403, "trusted_audiences = [\\\"246361787010646019\\\"]").await,
        }
    }
}

// === Several tabs, one browser ===

#[tokio::test]
async fn several_tabs_log_in_at_once() {
    let scene = OidcStage::new().await;
    let (one, other) = (scene.begin("/auth/pbx?lang=fr").await, scene.begin("/auth/pbx?lang=de").await);
    let both = format!("{}; {}", one.cookie, other.cookie);
    for (way, language) in [(&other, "de"), (&one, "fr")] {
        let page = scene.open(&scene.log_in(way), &both).await.expect(200);
        assert_eq!(link(&page), format!("/auth/pbx?lang={language}&again=login"));
    }
}

#[tokio::test]
async fn a_browser_that_begins_many_logins_forgets_the_oldest() {
    let scene = OidcStage::new().await;
    let mut jar: Vec<String> = Vec::new();
    for count in 1..=7 {
        let page = scene.open("/auth/callgate/login", &jar.join("; ")).await.expect(200);
        for line in set(&page) {
            match line.split_once("=; Max-Age=0") {
                Some((gone, _)) => jar.retain(|pair| !pair.starts_with(gone)),
                None => jar.push(pair(&line)),
            }
        }
        assert_eq!(jar.len(), count.min(5));
    }
}

// === What is not this browser's login ===

#[tokio::test]
async fn a_callback_that_this_browser_did_not_ask_for_is_refused() {
    let scene = OidcStage::new().await;
    let (mine, theirs) = (scene.begin("/auth/pbx").await, scene.begin("/auth/pbx").await);
    // Login CSRF: the attacker's answer in the victim's browser.
    let answer = scene.open(&scene.log_in(&theirs), &mine.cookie).await.expect(400);
    assert!(answer.text().contains("keeps no cookies") && answer.text().contains("/auth/callgate/login"), "{answer:?}");
    // The attacker's state under the name of the victim's cookie.
    let (name, _) = mine.cookie.split_once('=').unwrap();
    let (_, sealed) = theirs.cookie.split_once('=').unwrap();
    scene.open(&scene.log_in(&mine), &format!("{name}={sealed}")).await.expect(400);
    let back = scene.log_in(&mine);
    for (path, cookie) in [
        (back.clone(), String::new()),
        (back.replace("state=", "state=x"), mine.cookie.clone()),
        (back.split("&state=").next().unwrap().to_owned(), mine.cookie.clone()),
        (back.clone(), format!("{}x", mine.cookie)),
        (back.clone(), mine.cookie[..mine.cookie.len() - 8].to_owned()),
        (back.clone(), format!("{0}; {0}", mine.cookie)),
        (format!("{back}x"), mine.cookie.clone()),
    ] {
        scene.open(&path, &cookie).await.expect(400);
    }
    for twice in ["state=twice", "code=twice", "iss=a&iss=b"] {
        scene.open(&format!("{back}&{twice}"), &mine.cookie).await.expect(400);
    }
    let other_host = scene.stage.gate.get(&back).host("pbx.test").header("accept", HTML).cookie(&mine.cookie);
    other_host.send().await.expect(400);
    assert!(!scene.provider.seen().iter().any(|seen| seen.starts_with("POST /token")), "no code was shown to anybody");
    scene.open(&back, &mine.cookie).await.expect(200);
}

#[tokio::test]
async fn a_callback_is_good_once() {
    let scene = OidcStage::new().await;
    let way = scene.begin("/auth/pbx").await;
    let back = scene.log_in(&way);
    scene.open(&back, &way.cookie).await.expect(200);
    // The browser has forgotten the cookie; a thief who kept it has no valid code.
    scene.open(&back, &way.cookie).await.expect(400);
    scene.open(&back, "").await.expect(400);
}

#[tokio::test]
async fn looking_ahead_uses_nothing_up() {
    let scene = OidcStage::new().await;
    let way = scene.begin("/auth/pbx").await;
    let back = scene.log_in(&way);
    for path in [&*back, "/auth/callgate/login"] {
        let ahead = scene.stage.gate.get(path).header("sec-purpose", "prefetch").cookie(&way.cookie);
        ahead.send().await.expect(503);
        scene.stage.gate.ask(Method::HEAD, path).cookie(&way.cookie).send().await.expect(503);
        scene.stage.gate.ask(Method::POST, path).cookie(&way.cookie).send().await.expect(405);
    }
    scene.open(&back, &way.cookie).await.expect(200);
}

#[tokio::test]
async fn only_the_callers_wish_survives_a_login() {
    let scene = OidcStage::new().await;
    let asked = "/auth/callgate/login?for=pbx&account=40%26again%3D1&to=https://evil.test&again=x";
    let begun = scene.open(asked, "").await.expect(200);
    let way = PendingLogin { address: link(&begun), cookie: pair(&set(&begun)[0]) };
    assert_eq!(scene.end(&way).await.1, "/auth/pbx?account=40%26again%3D1&again=login");
    scene.open("/auth/callgate/login?for=https://evil.test", "").await.expect(400);
}

// === What the provider must not say ===

#[tokio::test]
async fn a_wrong_id_token_proves_no_caller() {
    let scene = OidcStage::new().await;
    let now = jiff::Timestamp::now().as_second();
    for (claims, reason) in [
        (json!({ "iss": "https://evil.test" }), "another provider's"),
        (json!({ "aud": "somebody-else" }), "another client (aud)"),
        (json!({ "aud": [CLIENT, "somebody-else"] }), "another client (aud)"),
        (json!({ "aud": [CLIENT, "somebody-else"], "azp": "somebody-else" }), "another client (azp)"),
        (json!({ "aud": [] }), "another client (aud)"),
        (json!({ "azp": "somebody-else" }), "another client (azp)"),
        (json!({ "exp": now - 1 }), "has expired"),
        (json!({ "iat": now + 120 }), "not valid yet"),
        (json!({ "nonce": "another" }), "another login (nonce)"),
        (json!({ "nonce": null }), "another login (nonce)"),
        (json!({ "at_hash": "AAAAAAAAAAAAAAAAAAAAAA" }), "at_hash"),
    ] {
        scene.provider.set(|says| says.claims = claims);
        scene.check_refused(403, reason).await;
    }
    scene.provider.set(|says| says.claims = json!({ "azp": CLIENT, "aud": [CLIENT] }));
    scene.cookie().await;
}

#[tokio::test]
async fn an_id_token_of_another_signer_proves_no_caller() {
    let scene = OidcStage::new().await;
    for (signs, header, reason) in [
        (IdTokenSigner::Another, json!({}), "the signature of the ID token is wrong"),
        (IdTokenSigner::Another, json!({ "kid": "2" }), "a key that the provider does not have"),
        (IdTokenSigner::Nothing, json!({}), "the ID token is not signed"),
        (IdTokenSigner::Nothing, json!({ "alg": "ES256" }), "signature"),
        (IdTokenSigner::ClientSecret, json!({}), "algorithm"),
        (IdTokenSigner::PublicKey, json!({}), "algorithm"),
        (IdTokenSigner::PublicKey, json!({ "alg": "ES256" }), "signature"),
        (IdTokenSigner::Key, json!({ "alg": "ES384" }), "algorithm"),
    ] {
        scene.provider.set(|says| (says.signs, says.header) = (signs, header));
        scene.check_refused(403, reason).await;
    }
}

#[tokio::test]
async fn even_a_provider_that_offers_none_must_sign() {
    let provider = Provider::start().await;
    provider.set(|says| {
        says.discovery = json!({ "id_token_signing_alg_values_supported": ["none", "ES256"] });
        says.signs = IdTokenSigner::Nothing;
    });
    OidcStage::before(provider, "").await.check_refused(403, "the ID token is not signed").await;
}

#[tokio::test]
async fn answers_name_their_provider() {
    let provider = Provider::start().await;
    provider.set(|says| says.discovery = json!({ "authorization_response_iss_parameter_supported": true }));
    let scene = OidcStage::before(provider, "").await;
    scene.check_refused(403, "does not say whose it is").await;
    for (iss, status) in [("https://evil.test".to_owned(), 403), (scene.provider.issuer(), 200)] {
        let way = scene.begin("/auth/pbx").await;
        let back = format!("{}&{}", scene.log_in(&way), query(&[("iss", &iss)]));
        scene.open(&back, &way.cookie).await.expect(status);
    }
}

#[tokio::test]
async fn a_refusal_ends_on_a_page() {
    let scene = OidcStage::new().await;
    for (error, status) in [
        ("access_denied", 403),
        ("login_required", 403),
        ("temporarily_unavailable", 503),
        ("invalid_scope", 502),
        ("<b>", 502),
    ] {
        let way = scene.begin("/auth/pbx").await;
        let asked = parameters(&way.address);
        let said = query(&[("error", error), ("error_description", "<script>"), ("state", &asked["state"])]);
        let answer = scene.open(&format!("/auth/callgate/oidc/sso?{said}"), &way.cookie).await.expect(status);
        let text = answer.text();
        assert!(text.contains("/auth/callgate/login") && !text.contains("<script>") && !text.contains("<b>"), "{text}");
        assert!(text.contains(answer.header("x-request-id")));
    }
}

#[tokio::test]
async fn an_answer_with_a_code_and_an_error_is_refused() {
    let scene = OidcStage::new().await;
    let way = scene.begin("/auth/pbx").await;
    let back = format!("{}&error=access_denied", scene.log_in(&way));
    scene.open(&back, &way.cookie).await.expect(502);
    scene.stage.gate.line(&["audit refusal", "the answer has a code and an error"]).await;
    assert!(!scene.provider.seen().iter().any(|seen| seen.starts_with("POST /token")), "no code was shown to anybody");
}

#[tokio::test]
async fn a_token_endpoint_that_fails_is_no_login() {
    let scene = OidcStage::new().await;
    for (status, body, expected, reason) in [
        (400, json!({ "error": "invalid_grant" }), 400, "does not take the code"),
        (401, json!({ "error": "invalid_client" }), 502, "does not know the client"),
        (500, json!({}), 502, "cannot be read"),
        (200, json!({ "access_token": "a", "token_type": "Bearer" }), 502, "gave no ID token"),
        (
            200,
            json!({ "access_token": "a", "token_type": "Bearer", "id_token": "secret.that.leaks" }),
            502,
            "cannot be read",
        ),
        (200, Value::Null, 502, "cannot be read"),
    ] {
        scene.provider.set(|says| says.instead = Some((status, body)));
        scene.check_refused(expected, reason).await;
    }
    scene.stage.gate.canary("secret.that.leaks");
}

#[tokio::test]
async fn a_provider_that_is_down_is_a_page_and_no_loop() {
    let down = RawUpstream::closing("").await;
    let issuer = format!("http://{}", down.addr);
    let more = format!("[[auth]]\ntype = \"oidc\"\nissuer = \"{issuer}\"\nclient_id = \"a\"\n");
    let stage = Plan { app: "", rules: RULES, more: &more, ..Plan::default() }.start().await;
    let answer = stage.gate.get("/auth/callgate/login?for=pbx").header("accept", HTML).send().await.expect(503);
    assert!(answer.text().contains("does not answer") && answer.text().contains(answer.header("x-request-id")));
    assert_eq!(answer.header("retry-after"), "10");
    stage.gate.get("/").send().await.expect(200);
    let ready = stage.gate.told("/readyz");
    assert!(ready.contains("503 ") && ready.contains("\nprovider: oidc: "), "{ready}");
    assert!(stage.gate.told("/readyz?verbose").contains("\nprovider/oidc: "));
    assert!(stage.gate.metric("callgate_jwks_fetches_total{method=oidc,result=failed}") >= 1.0);
}

#[tokio::test]
async fn a_provider_that_says_to_be_another_is_not_believed() {
    let provider = Provider::start().await;
    provider.set(|says| says.discovery = json!({ "issuer": "https://evil.test" }));
    let scene = OidcStage::before(provider, "").await;
    scene.open("/auth/callgate/login", "").await.expect(503);
    assert!(scene.stage.gate.events().contains("it says that it is another issuer than the configured one"));
}

// === The cookie that remembers ===

#[tokio::test]
async fn a_login_that_browsers_do_not_keep_is_no_loop() {
    let scene = OidcStage::new().await;
    let (_, next) = scene.end(&scene.begin("/auth/pbx").await).await;
    let answer = scene.open(&next, "").await.expect(400);
    assert!(answer.text().contains("keeps no cookies"), "{answer:?}");
}

#[tokio::test]
async fn a_foreign_cookie_is_no_login() {
    let scene = OidcStage::new().await;
    let cookie = scene.cookie().await;
    let middle = cookie.len() / 2;
    let flipped = if cookie.as_bytes()[middle] == b'A' { "B" } else { "A" };
    let flipped = format!("{}{flipped}{}", &cookie[..middle], &cookie[middle + 1..]);
    let attempt = scene.begin("/auth/pbx").await.cookie;
    let attempt = attempt.split_once('=').unwrap().1;
    for wrong in [
        flipped,
        format!("{cookie}A"),
        cookie[..cookie.len() - 4].to_owned(),
        "__Host-callgate=".to_owned(),
        format!("__Host-callgate={}", "A".repeat(4000)),
        format!("__Host-callgate={attempt}"),
        format!("{cookie}; {cookie}"),
        cookie.replace("__Host-", "__host-"),
        cookie.replace("__Host-", ""),
    ] {
        scene.stage.gate.get("/auth/pbx").cookie(&wrong).send().await.expect(401);
        // A person only logs in again, and is not locked out for what the browser sent by itself.
        scene.open("/auth/pbx", &wrong).await.expect(302);
    }
    let elsewhere = scene.stage.gate.get("/auth/pbx").host("pbx.test").cookie(&cookie);
    elsewhere.send().await.expect(401);
    scene.open("/auth/pbx", &cookie).await.expect(303);
}

#[tokio::test]
async fn a_login_is_remembered_for_so_long() {
    let scene = OidcStage::with("remember = \"1s\"").await;
    let cookie = scene.cookie().await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    scene.open("/auth/pbx", &cookie).await.expect(302);
}

#[tokio::test]
async fn two_logins_at_once_are_refused() {
    let provider = Provider::start().await;
    let method = method("sso", &provider, "");
    let stage = Plan { rules: RULES, more: &method, ..Plan::default() }.start().await;
    let scene = OidcStage { stage, provider };
    let cookie = scene.cookie().await;
    scene.open("/auth/pbx", &cookie).await.expect(303);
    let both = format!("{cookie}; {}", scene.stage.app.log_in("bob"));
    scene.stage.gate.get("/auth/pbx").cookie(&both).send().await.expect(401);
    scene.stage.gate.line(&["audit refusal", "more than one credential"]).await;
    // The remains of an old login do not count.
    let stale = format!("__Host-callgate=AAAA; {}", scene.stage.app.log_in("bob"));
    scene.open("/auth/pbx", &stale).await.expect(303);
    assert_eq!(scene.stage.minted(), ["40@acme.test", "41@acme.test"]);
    let whoami = scene.stage.app.requests().into_iter().filter(|seen| seen.target == "/api/me");
    assert!(whoami.filter_map(|seen| seen.header("cookie").map(str::to_owned)).all(|sent| !sent.contains("callgate")));
}

#[tokio::test]
async fn claims_that_do_not_fit_are_refused() {
    let scene = OidcStage::new().await;
    scene.provider.set(|says| says.claims = json!({ "unused": "x".repeat(4000), "tenant": "acme.test" }));
    let cookie = scene.cookie().await;
    assert!(cookie.len() < 200, "only what rules use is kept: {cookie}");
    scene.provider.set(|says| says.claims = json!({ "vox": "x".repeat(1000) }));
    scene.check_refused(502, "do not fit into a cookie of 1 KiB").await;
}

#[tokio::test]
async fn logins_outlive_a_reload_and_end_with_the_rules_they_were_made_for() {
    let mut scene = OidcStage::new().await;
    let cookie = scene.cookie().await;
    let text = scene.stage.gate.text.clone();
    scene.stage.gate.reload(&text).await.unwrap();
    scene.open("/auth/pbx", &cookie).await.expect(303);
    let asked = scene.provider.seen().iter().filter(|seen| seen.contains("openid-configuration")).count();
    scene.stage.gate.reload(&text.replace("{ext}", "{ext}{more}")).await.unwrap();
    scene.open("/auth/pbx", &cookie).await.expect(302);
    scene.stage.gate.reload(&text.replace(CLIENT, "another-client")).await.unwrap();
    scene.open("/auth/pbx", &cookie).await.expect(302);
    assert!(asked >= 1);
}

#[tokio::test]
async fn a_key_of_the_operators_outlives_the_process() {
    let provider = Provider::start().await;
    let more = method("sso", &provider, "cookie_key = { env = \"OIDC_KEY\" }");
    let plan = || Plan { app: "", rules: RULES, more: &more, ..Plan::default() };
    let scene = OidcStage { stage: plan().start().await, provider };
    scene.stage.gate.canary(KEY);
    let cookie = scene.cookie().await;
    let other = plan().start().await;
    other.gate.get("/auth/pbx").cookie(&cookie).send().await.expect(303);
}

// === Upstreams never see a cookie of ours ===

#[tokio::test]
async fn no_upstream_sees_a_cookie_of_ours() {
    let scene = OidcStage::new().await;
    let cookie = scene.cookie().await;
    let attempt = scene.begin("/auth/pbx").await.cookie;
    let gate = &scene.stage.gate;
    gate.get("/echo").cookie(&cookie).send().await.expect(200);
    gate.get("/echo").cookie(&format!("a=1;  {cookie}; b=\"2\" ; {attempt};c")).send().await.expect(200);
    gate.get("/echo").cookie("x=__Host-callgate; Y__Host-callgate=1").send().await.expect(200);
    gate.get("/echo").cookie("a=1").cookie(&cookie).cookie("b=2").h2().send().await.expect(200);
    gate.get("/echo").cookie(&cookie).h2().send().await.expect(200);
    let socket = gate.get("/ws").cookie(&format!("{cookie}; a=1")).header("connection", "upgrade");
    let socket = socket.header("upgrade", "websocket").header("sec-websocket-version", "13");
    socket.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==").send().await.expect(101);
    let seen: Vec<_> = scene.stage.app.requests().iter().map(|seen| seen.header("cookie").map(str::to_owned)).collect();
    let expected = [
        None,
        Some("a=1; b=\"2\" ;c"),
        Some("x=__Host-callgate; Y__Host-callgate=1"),
        Some("a=1; b=2"),
        None,
        Some("a=1"),
    ];
    assert_eq!(seen, expected.map(|cookie| cookie.map(str::to_owned)));
}

// === Out ===

#[tokio::test]
async fn logging_out_forgets_and_leads_to_the_provider() {
    let scene = OidcStage::with("after_logout = \"https://app.test/bye?a=b\"").await;
    let cookie = scene.cookie().await;
    let attempt = scene.begin("/auth/pbx").await.cookie;
    let page = scene.open("/auth/callgate/logout", &cookie).await.expect(200);
    assert!(page.text().contains("<form method=\"post\"") && set(&page).is_empty());
    let post = || {
        scene
            .stage
            .gate
            .post("/auth/callgate/logout", "application/x-www-form-urlencoded", "")
            .cookie(&format!("{cookie}; {attempt}"))
    };
    let elsewhere = post().header("origin", "https://evil.test").header("sec-fetch-site", "cross-site").send().await;
    assert!(set(&elsewhere.expect(403)).is_empty());
    let out =
        post().header("origin", "https://app.test").header("sec-fetch-site", "same-origin").send().await.expect(303);
    let expected = format!(
        "{}/logout?keep=this&client_id={CLIENT}&post_logout_redirect_uri=https%3A%2F%2Fapp.test%2Fbye%3Fa%3Db",
        scene.provider.issuer()
    );
    assert_eq!(out.header("location"), expected);
    let [login, begun] = &set(&out)[..] else { panic!("{out:?}") };
    assert!(login.starts_with("__Host-callgate=; Max-Age=0"), "{login}");
    assert!(begun.starts_with(&format!("{}=; Max-Age=0", attempt.split('=').next().unwrap())), "{begun}");
    // A caller without a login is not redirected.
    let out = scene.stage.gate.post("/auth/callgate/logout", "text/plain", "").send().await.expect(200);
    assert!(out.text().contains("You are logged out"));
    scene.stage.gate.ask(Method::PUT, "/auth/callgate/logout").send().await.expect(405);
}

#[tokio::test]
async fn without_providers_there_is_no_login() {
    let stage = Plan::default().start().await;
    for path in ["/auth/callgate/login", "/auth/callgate/logout", "/auth/callgate/oidc/sso"] {
        stage.gate.get(path).send().await.expect(404);
    }
    let kept = "__Host-callgate=of-nobody; a=1";
    stage.gate.get("/echo").cookie(kept).send().await.expect(200);
    assert_eq!(stage.app.requests()[0].header("cookie"), Some(kept), "the name is ours only where it is used");
}
