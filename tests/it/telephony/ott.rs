//! `POST /auth/ott`: the vendor's token formula, and which callers get a token.

use callgate::model::ott::Ha1;
use md5::{Digest, Md5};
use serde_json::json;
use tempfile::TempDir;

use crate::kit::client::Answer;
use crate::kit::gate::{Gate, VOX_PASSWORD, secret};
use crate::kit::stage::{Plan, Stage, until};
use crate::kit::upstream::RawUpstream;

const FORM: &str = "application/x-www-form-urlencoded";
/// The key of most of the vendor's vectors.
const KEY: &str = "0123456789abcdef0123456789abcdef";

fn form(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

async fn alice_asks(stage: &Stage, body: &str) -> Answer {
    stage.alice_posts("/auth/ott", FORM, body).send().await
}

/// Computes the token of a user of a gate's users file, without the help of the program.
fn token(key: &str, user: &str) -> String {
    md5(&format!("{key}|{}", md5(&format!("{user}:voximplant.com:{VOX_PASSWORD}"))))
}

fn md5(text: &str) -> String {
    hex::encode(Md5::digest(text))
}

// === The answer ===

#[tokio::test]
async fn the_answer_is_exactly_32_hex_digits() {
    let stage = Stage::new().await;
    for content_type in [FORM, "application/x-www-form-urlencoded; charset=UTF-8", "Application/X-WWW-Form-Urlencoded"]
    {
        let answer = stage.alice_posts("/auth/ott", content_type, "key=k1").send().await.expect(200);
        assert_eq!(answer.text(), token("k1", "alice"), "{content_type}");
        assert_eq!((answer.header("content-length"), answer.header("content-type")), ("32", "text/plain"));
        assert_eq!((answer.header("cache-control"), answer.header("x-content-type-options")), ("no-store", "nosniff"));
        assert!(!answer.header("x-request-id").is_empty());
    }
}

#[tokio::test]
async fn json_is_read_and_answered() {
    let stage = Stage::new().await;
    let body = json!({ "key": "k1", "appUser": "alice" });
    let text = stage.alice_posts("/auth/ott", "application/json", &body).send().await.expect(200);
    assert_eq!(text.text(), token("k1", "alice"));
    for accept in ["application/json", "text/plain, application/json;q=0.9"] {
        let asking = stage.alice_posts("/auth/ott", "application/json; charset=utf-8", &body);
        let answer = asking.header("accept", accept).send().await.expect(200);
        assert_eq!(answer.json(), json!({ "token": token("k1", "alice"), "user": "alice" }));
        assert_eq!(answer.header("content-type"), "application/json");
    }
    let asking = stage.alice_posts("/auth/ott", FORM, "key=k1").header("accept", "text/plain, */*; q=0.01");
    assert_eq!(asking.send().await.expect(200).text(), token("k1", "alice"));
}

#[tokio::test]
async fn http_2_is_answered_the_same() {
    let stage = Stage::new().await;
    let answer = stage.alice_posts("/auth/ott", FORM, "key=k1").h2().send().await.expect(200);
    assert_eq!((answer.text(), answer.header("content-length")), (&*token("k1", "alice"), "32"));
}

/// Asks for the token of a user whose password only a users file of its own knows.
async fn vector(key: &str, user: &str, password: &str, expected: &str) {
    let dir = TempDir::new().unwrap();
    let ha1 = md5(&format!("{user}:voximplant.com:{password}"));
    secret(&dir, "users", &format!("{user}:voximplant.com:{ha1}\n"));
    let users = dir.path().join("users").display().to_string();
    let stage = Plan { users: &users, ..Plan::default() }.start().await;
    stage.gate.canary(&ha1);
    stage.claims(json!({ "vox": user }));
    let answer = alice_asks(&stage, &form(&[("key", key), ("appUser", user)])).await.expect(200);
    assert_eq!(answer.text(), expected, "{key:?} {user:?}");
    assert!(!format!("{:?}", answer.headers).contains(&ha1));
}

#[tokio::test]
async fn the_vendors_vectors_hold_through_the_listener() {
    vector(KEY, "myuser", "mypass", "6f9b9c6a02563213f2f2c64b41302f7d").await;
    vector(KEY, "vadim2", "337e1661-8429-430a-b359-e27ba91360da", "ff4957ebbb0433c59fb6080994f5a51b").await;
    let key = "3c2a7e1b9d4f4c55a0b1c2d3e4f50617";
    vector(key, "agent_01-a", "Str0ng!Passw0rd", "968948cc3ab2ee8cdac3bb5e8089f2c8").await;
    vector("k1", "bob", "a:b|c:voximplant.com:d", "79e3278d77e2d3f1567e5c5781561dc3").await;
    vector(KEY, "myuser", "p\u{e4}ssw\u{f6}rt\u{20ac}", "46ffa4cc81a7eda73d2ee69d17364a34").await;
    vector(KEY, "myuser", "pa\u{308}sswo\u{308}rt\u{20ac}", "3710c75a699753387267d46ef6ab6b36").await;
    vector(KEY, "myuser", "Pa55!\u{1f600}", "7ee8531df109175fae4440a10fa27725").await;
    vector("ZYXW-9876", "yamada", "密码Ab1!", "7709a6c9fb2d81c70b9ae680afb64fe6").await;
    vector(KEY, "myuser", "", "23ad9b028126ba52b92cfe5dc0f8f0f4").await;
    vector("a b+c%2Fd", "myuser", "mypass", "74d66b07abf9da9668423babd77ae528").await;
    vector(KEY, "myuser", " mypass ", "e923e2d320b17c1b42dbea3a4fd4656a").await;
    let key = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
    vector(key, "myuser", "mypass", "20eaf301f6714844af7c263dbe767363").await;
}

#[tokio::test]
async fn a_form_is_decoded_as_browsers_encode_it() {
    let stage = Stage::new().await;
    assert_eq!(alice_asks(&stage, "key=a+b%2Bc%252Fd").await.expect(200).text(), token("a b+c%2Fd", "alice"));
    let json = stage.alice_posts("/auth/ott", "application/json", r#"{"key":"a b+c%2Fd"}"#).send().await.expect(200);
    assert_eq!(json.text(), token("a b+c%2Fd", "alice"));
}

#[tokio::test]
async fn no_answer_contains_the_hash() {
    let stage = Stage::new().await;
    let ha1 = Ha1::of("alice", VOX_PASSWORD);
    for accept in ["application/json", "text/html", "text/plain"] {
        for body in ["key=k1", "key=", "key=k1&appUser=bob", "x"] {
            let answer = stage.alice_posts("/auth/ott", FORM, body).header("accept", accept).send().await;
            let told = format!("{:?}{}", answer.headers, answer.text());
            assert!(!told.contains(ha1.expose()) && !told.contains(VOX_PASSWORD), "{body}");
        }
    }
}

// === The key ===

#[tokio::test]
async fn keys_that_are_none_are_malformed() {
    let stage = Stage::new().await;
    let long = format!("key={}", "k".repeat(96));
    for body in [
        "",
        "key",
        "key=",
        "Key=k1",
        "appUser=alice",
        &long,
        "key=%C3%A9",
        "key=%ff",
        "key=a%00b",
        "key=a%0A",
        "key=%7F",
        "key=a&key=b",
        "key=a&key=a",
        "key=a&k%65y=b",
    ] {
        let answer = alice_asks(&stage, body).await.expect(400);
        assert_eq!(answer.json()["error"], "malformed", "{body}");
    }
    let longest = "k".repeat(95);
    assert_eq!(alice_asks(&stage, &form(&[("key", &longest)])).await.expect(200).text(), token(&longest, "alice"));
    for body in ["", "[]", "\"k1\"", "{}", r#"{"key":1}"#, r#"{"key":["a"]}"#, r#"{"key":""}"#, r#"{"key":"k1""#] {
        stage.alice_posts("/auth/ott", "application/json", body).send().await.expect(400);
    }
}

#[tokio::test]
async fn a_json_member_given_twice_is_malformed() {
    let stage = Stage::new().await;
    for body in [r#"{"key":"a","key":"b"}"#, r#"{"key":"a","appUser":"alice","appUser":"bob"}"#] {
        stage.alice_posts("/auth/ott", "application/json", body).send().await.expect(400);
    }
}

#[tokio::test]
async fn a_shorter_cap_for_keys_is_kept() {
    let stage = Plan { voximplant: "max_key_length = 8", ..Plan::default() }.start().await;
    alice_asks(&stage, "key=12345678").await.expect(200);
    alice_asks(&stage, "key=123456789").await.expect(400);
}

#[tokio::test]
async fn a_sixth_key_is_one_too_many_and_the_first_is_still_answered() {
    let stage = Stage::new().await;
    for key in ["k1", "k2", "k3", "k4", "k5"] {
        assert_eq!(alice_asks(&stage, &format!("key={key}")).await.expect(200).text(), token(key, "alice"));
    }
    let answer = alice_asks(&stage, "key=k6").await.expect(429);
    assert_eq!(answer.header("ratelimit-policy"), "\"distinct_keys\";q=5;w=300");
    assert!((1..=300).contains(&answer.header("retry-after").parse::<u32>().unwrap()));
    assert_eq!(alice_asks(&stage, "key=k1").await.expect(200).text(), token("k1", "alice"));
    let bob = stage.gate.post("/auth/ott", FORM, "key=k6").cookie(&stage.app.log_in("bob")).send().await;
    assert_eq!(bob.expect(200).text(), token("k6", "bob"));
}

// === The user ===

#[tokio::test]
async fn app_user_selects_only_oneself() {
    let stage = Plan { voximplant: "application = \"myapp.myaccount\"", ..Plan::default() }.start().await;
    for user in ["alice", "alice@myapp.myaccount.voximplant.com", "alice@myapp.myaccount.n1.voximplant.com"] {
        let answer = alice_asks(&stage, &form(&[("key", "k1"), ("appUser", user)])).await.expect(200);
        assert_eq!(answer.text(), token("k1", "alice"), "{user}");
    }
    for user in [
        "bob",
        "Alice",
        "",
        "alice ",
        "bob@myapp.myaccount.voximplant.com",
        "alice@other.myaccount.voximplant.com",
        "alice@myapp.myaccount.voximplant.com.evil.test",
        "alice@myapp.myaccount.nx.voximplant.com",
    ] {
        let answer = alice_asks(&stage, &form(&[("key", "k1"), ("appUser", user)])).await.expect(403);
        assert_eq!(answer.json()["error"], "forbidden", "{user}");
    }
    alice_asks(&stage, "key=k1&appUser=alice&appUser=bob").await.expect(400);
}

#[tokio::test]
async fn without_an_application_any_full_name_of_oneself_will_do() {
    let stage = Stage::new().await;
    alice_asks(&stage, "key=k1&appUser=alice%40any.thing.voximplant.com").await.expect(200);
    alice_asks(&stage, "key=k1&appUser=bob%40any.thing.voximplant.com").await.expect(403);
}

#[tokio::test]
async fn a_password_that_a_page_sends_along_is_ignored() {
    let stage = Stage::new().await;
    let password = "Canary-Passw0rd-of-a-page!";
    stage.gate.canary(password);
    stage.gate.canary("Canary-Passw0rd-of-a-page%21");
    let body = form(&[("key", "k1"), ("appUser", "alice"), ("appUserPassword", password)]);
    assert_eq!(alice_asks(&stage, &body).await.expect(200).text(), token("k1", "alice"));
    let body = json!({ "key": "k1", "appUser": "bob", "appUserPassword": password });
    stage.alice_posts("/auth/ott", "application/json", &body).send().await.expect(403);
    until("a line for each", || stage.gate.log().matches(" access ").count() == 2).await;
}

/// Traefik CVE-2026-85595: an unknown user is refused, and does not count as one with an empty password.
#[tokio::test]
async fn a_user_without_an_entry_looks_forbidden() {
    let stage = Stage::new().await;
    for accept in ["application/json", "text/html", "*/*"] {
        let mut answers = Vec::new();
        for claims in [json!({ "vox": "nobody" }), json!({ "vox": "NOT-A-USER" }), json!({ "ext": "40" })] {
            stage.claims(claims);
            answers.push(stage.alice_posts("/auth/ott", FORM, "key=k1").header("accept", accept).send().await);
        }
        stage.claims(json!({ "vox": "alice" }));
        answers.push(stage.alice_posts("/auth/ott", FORM, "key=k1&appUser=bob").header("accept", accept).send().await);
        let shown: Vec<_> = answers.into_iter().map(|answer| without_id(answer.expect(403))).collect();
        assert!(shown.windows(2).all(|pair| pair[0] == pair[1]), "{shown:#?}");
    }
}

/// Shows an answer with its request id blotted out, and without its date.
fn without_id(mut answer: Answer) -> String {
    let id = answer.header("x-request-id").to_owned();
    answer.headers.remove("date");
    format!("{:?}\n{:?}\n{}", answer.status, answer.headers, answer.text()).replace(&id, "(id)")
}

// === The shape of the request ===

#[tokio::test]
async fn other_methods_are_not_allowed() {
    let stage = Stage::new().await;
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH"] {
        let asking = stage.gate.ask(method.parse().unwrap(), "/auth/ott?key=k1").cookie(&stage.app.log_in("alice"));
        assert_eq!(asking.send().await.expect(405).header("allow"), "POST, OPTIONS", "{method}");
    }
    assert!(stage.app.requests().is_empty());
}

#[tokio::test]
async fn large_bodies_are_refused() {
    let stage = Stage::new().await;
    alice_asks(&stage, &format!("key=k1&pad={}", "x".repeat(5000))).await.expect(413);
    let head = format!(
        "POST /auth/ott HTTP/1.1\r\nHost: app.test\r\nCookie: {}\r\nContent-Type: {FORM}\r\n",
        stage.app.log_in("alice")
    );
    let announced = stage.gate.exchange(format!("{head}Content-Length: 1000000000\r\n\r\n").as_bytes()).await;
    assert!(announced.starts_with("HTTP/1.1 413 "), "{announced}");
    let chunks = format!("1388\r\n{}\r\n0\r\n\r\n", "x".repeat(5000));
    let streamed = stage.gate.exchange(format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}").as_bytes()).await;
    assert!(streamed.starts_with("HTTP/1.1 413 "), "{streamed}");
}

#[tokio::test]
async fn other_types_of_content_are_refused() {
    let stage = Stage::new().await;
    for content_type in ["text/plain", "multipart/form-data; boundary=x", "application/xml", "", "json"] {
        stage.alice_posts("/auth/ott", content_type, "key=k1").send().await.expect(415);
    }
    let twice = stage.alice_posts("/auth/ott", FORM, "key=k1").header("content-type", "application/json");
    twice.send().await.expect(415);
    let cookie = stage.app.log_in("alice");
    let none = stage.gate.ask("POST".parse().unwrap(), "/auth/ott").body("key=k1").cookie(&cookie);
    none.send().await.expect(415);
}

#[tokio::test]
async fn a_slow_body_is_not_waited_for() {
    let more = "[server]\ntimeouts = { header = \"300ms\" }";
    let stage = Plan { more, ..Plan::default() }.start().await;
    let cookie = stage.app.log_in("alice");
    let request = format!(
        "POST /auth/ott HTTP/1.1\r\nHost: app.test\r\nCookie: {cookie}\r\nContent-Type: {FORM}\r\nContent-Length: 6\r\n\r\nkey"
    );
    let answer = stage.gate.exchange(request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn nothing_is_there_without_voximplant() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::start(&format!("[app]\nurl = \"http://{}\"", upstream.addr)).await;
    for (method, path) in
        [("POST", "/auth/ott"), ("OPTIONS", "/auth/ott"), ("GET", "/auth/pbx"), ("GET", "/auth/callgate/x")]
    {
        gate.ask(method.parse().unwrap(), path).send().await.expect(404);
    }
    assert!(upstream.seen().is_empty());
    gate.get("/auth/other").send().await.expect(200);
}

// === Pages of other origins ===

const LISTED: &str = "origins = [\"https://listed.test\"]";

#[tokio::test]
async fn pages_of_our_own_and_programs_may_ask() {
    let stage = Stage::new().await;
    let own: [&[(&str, &str)]; 4] = [
        &[],
        &[("origin", "https://app.test")],
        &[("origin", "https://app.test"), ("sec-fetch-site", "same-origin")],
        &[("sec-fetch-site", "same-origin")],
    ];
    for fields in own {
        let asking = stage.alice_posts("/auth/ott", FORM, "key=k1");
        let answer = fields.iter().fold(asking, |asking, (name, value)| asking.header(name, value)).send().await;
        assert_eq!(answer.expect(200).header("access-control-allow-origin"), "", "{fields:?}");
    }
}

#[tokio::test]
async fn pages_of_other_origins_may_not() {
    let stage = Plan { voximplant: LISTED, ..Plan::default() }.start().await;
    let foreign: [&[(&str, &str)]; 8] = [
        &[("origin", "https://evil.app.test"), ("sec-fetch-site", "same-site")],
        &[("origin", "https://evil.test"), ("sec-fetch-site", "cross-site")],
        &[("origin", "https://evil.test")],
        &[("origin", "null")],
        &[("origin", "http://app.test")],
        &[("origin", "https://app.test:8443")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "https://app.test"), ("origin", "https://listed.test")],
    ];
    for fields in foreign {
        let asking = stage.alice_posts("/auth/ott", FORM, "key=k1");
        let answer = fields.iter().fold(asking, |asking, (name, value)| asking.header(name, value)).send().await;
        let answer = answer.expect(403);
        assert_eq!(answer.header("access-control-allow-origin"), "", "{fields:?}");
        assert!(!answer.text().contains(&token("k1", "alice")));
    }
    stage.gate.line(&["reason=cross_site"]).await;
    assert!(stage.app.requests().is_empty(), "the app is not asked for a visitor of theirs");
}

#[tokio::test]
async fn a_listed_origin_may_ask_and_read_even_refusals() {
    let stage = Plan { voximplant: LISTED, ..Plan::default() }.start().await;
    let preflight = stage.gate.ask("OPTIONS".parse().unwrap(), "/auth/ott").header("origin", "https://listed.test");
    let preflight = preflight.header("access-control-request-method", "POST").send().await.expect(204);
    assert_eq!(preflight.header("access-control-allow-origin"), "https://listed.test");
    assert_eq!(preflight.header("access-control-allow-credentials"), "true");
    assert_eq!(preflight.header("access-control-allow-methods"), "POST");
    assert_eq!(preflight.header("access-control-allow-headers"), "content-type, authorization");
    let traced = stage.gate.ask("OPTIONS".parse().unwrap(), "/auth/ott").header("origin", "https://listed.test");
    let traced = traced.header("access-control-request-headers", "content-type,traceparent,remote-user");
    let traced = traced.header("access-control-request-method", "POST").send().await.expect(204);
    assert_eq!(traced.header("access-control-allow-headers"), "content-type, authorization, traceparent");
    assert_eq!(preflight.header("vary"), "Origin");
    for (body, status) in [("key=k1", 200), ("key=", 400), ("key=k1&appUser=bob", 403)] {
        let asking = stage.alice_posts("/auth/ott", FORM, body).header("origin", "https://listed.test");
        let answer = asking.header("sec-fetch-site", "cross-site").send().await.expect(status);
        assert_eq!(answer.header("access-control-allow-origin"), "https://listed.test", "{body}");
        assert_eq!(answer.header("access-control-allow-credentials"), "true");
        assert_eq!(answer.header("vary"), "Origin");
        assert!(!answer.header("x-request-id").is_empty());
    }
    let nobody = stage.gate.post("/auth/ott", FORM, "key=k1").header("origin", "https://listed.test");
    let nobody = nobody.send().await.expect(401);
    assert_eq!(nobody.header("access-control-allow-origin"), "https://listed.test");
    assert_eq!(nobody.json()["error"], "unauthenticated");
}

#[tokio::test]
async fn preflights_of_other_origins_are_refused() {
    let stage = Plan { voximplant: LISTED, ..Plan::default() }.start().await;
    for origin in ["https://evil.test", "null", "https://listed.test.evil.test"] {
        let preflight = stage.gate.ask("OPTIONS".parse().unwrap(), "/auth/ott").header("origin", origin);
        let preflight = preflight.header("access-control-request-method", "POST").send().await.expect(403);
        assert_eq!(preflight.header("access-control-allow-origin"), "", "{origin}");
    }
    assert!(stage.app.requests().is_empty());
}
