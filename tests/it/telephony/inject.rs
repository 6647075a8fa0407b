//! Redirects of the app to the PBX's landing page: which get a session, and of which account.

use http::{Method, StatusCode};
use serde_json::json;

use crate::kit::client::Answer;
use crate::kit::gate::Gate;
use crate::kit::stage::{Plan, STAFF, Stage};
use crate::kit::upstream::RawUpstream;
use crate::kit::vodia::{Dialect, FailForm, Wrong};

const REDIRECTS: &str = r#"
[[allow]]
name = "app redirects"
auth = "redirect"
pbx = { domain = "{domain}", account = "{account}" }
"#;

/// Rules for both: the app's own word first, else the caller's login.
fn rules() -> String {
    format!("{REDIRECTS}{STAFF}")
}

async fn stage() -> Stage {
    Plan { rules: &rules(), ..Plan::default() }.start().await
}

fn query(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// Lets the app redirect somewhere and name bob's account.
fn named(to: &str) -> String {
    format!("/grant?{}", query(&[("to", to), ("account", "41"), ("domain", "acme.test")]))
}

/// Lets the app redirect without naming an account.
fn unnamed(to: &str) -> String {
    format!("/redirect?{}", query(&[("to", to)]))
}

#[track_caller]
fn check_stripped(answer: &Answer) {
    for name in ["pbx-account", "pbx-domain", "pbx-lang"] {
        assert!(!answer.headers.contains_key(name), "{answer:?}");
    }
}

#[track_caller]
fn check_injected(answer: &Answer, expected: &str) {
    assert_eq!(answer.header("location"), expected);
    assert_eq!((answer.header("cache-control"), answer.header("referrer-policy")), ("no-store", "no-referrer"));
    assert_eq!(answer.text(), "");
    check_stripped(answer);
}

// === Who ===

#[tokio::test]
async fn the_account_that_the_app_names_is_logged_in() {
    let stage = stage().await;
    let answer = stage.as_alice("/open-pbx?lang=fr").send().await.expect(302);
    let session = stage.pbx.last_session().unwrap();
    check_injected(&answer, &format!("https://pbx.test/welcome.htm?sessId={session}&lang=fr"));
    let answer = stage.gate.get(&named("https://pbx.test/welcome.htm")).send().await.expect(302);
    let session = stage.pbx.last_session().unwrap();
    check_injected(&answer, &format!("https://pbx.test/welcome.htm?sessId={session}"));
    assert_eq!(stage.minted(), ["40@acme.test", "41@acme.test"]);
    let line = stage.gate.line(&["audit grant", "account=41@acme.test"]).await;
    assert!(line.contains("method=redirect") && line.contains("rule=\"app redirects\""), "{line}");
}

#[tokio::test]
async fn without_a_rule_for_redirects_the_caller_counts_and_not_the_header() {
    let stage = Stage::new().await;
    stage.as_alice(&named("https://pbx.test/welcome.htm")).send().await.expect(302);
    assert_eq!(stage.minted(), ["40@acme.test"]);
    let stranger = stage.gate.get(&named("https://pbx.test/welcome.htm")).send().await.expect(302);
    assert_eq!(stranger.header("location"), "https://pbx.test/welcome.htm");
    check_stripped(&stranger);
    assert_eq!(stage.minted().len(), 1);
}

#[tokio::test]
async fn without_names_the_caller_is_logged_in() {
    let stage = stage().await;
    let answer = stage.as_alice(&unnamed("https://pbx.test/welcome.htm?lang=de")).send().await.expect(302);
    let session = stage.pbx.last_session().unwrap();
    check_injected(&answer, &format!("https://pbx.test/welcome.htm?sessId={session}&lang=de"));
    let bare = "https://pbx.test/welcome.htm?lang=de";
    let nobody = stage.gate.get(&unnamed(bare)).send().await.expect(302);
    assert_eq!(nobody.header("location"), bare);
    let unknown = stage.gate.get(&unnamed(bare)).cookie("demo_app=wrong").send().await.expect(302);
    assert_eq!(unknown.header("location"), bare);
    assert_eq!(stage.minted(), ["40@acme.test"]);
}

#[tokio::test]
async fn names_that_are_no_account_are_refused() {
    let stage = stage().await;
    let to = "https://pbx.test/welcome.htm";
    for (account, domain) in [
        (Some(""), Some("acme.test")),
        (Some("admin"), Some("acme.test")),
        (Some("ADMIN"), Some("acme.test")),
        (Some("4 0"), Some("acme.test")),
        (Some("40\u{e9}"), Some("acme.test")),
        (Some("40\",\"admin\":true"), Some("acme.test")),
        (Some("40"), Some("")),
        (Some("40"), Some("acme test")),
        (Some("40"), None),
        (None, Some("acme.test")),
    ] {
        let pairs = [("to", Some(to)), ("account", account), ("domain", domain)];
        let pairs: Vec<_> = pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let answer = stage.as_alice(&format!("/grant?{}", query(&pairs))).send().await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (403, ""), "{account:?} {domain:?}");
        check_stripped(&answer);
    }
    assert!(stage.minted().is_empty());
}

#[tokio::test]
async fn a_doubled_name_is_refused() {
    for doubled in [
        "PBX-Account: 40\r\nPBX-Account: 41\r\nPBX-Domain: acme.test",
        "PBX-Account: 40\r\nPBX-Domain: acme.test\r\nPbx-Domain: acme.test",
    ] {
        let app = redirecting("302 Found", "https://pbx.test/welcome.htm", doubled).await;
        let stage = Plan { app_at: Some(app.addr), rules: REDIRECTS, app: "", ..Plan::default() }.start().await;
        let answer = stage.gate.get("/").send().await.expect(403);
        assert_eq!(answer.header("location"), "");
        check_stripped(&answer);
        assert!(stage.minted().is_empty());
    }
}

/// An app that answers everything with a redirect.
async fn redirecting(status: &str, location: &str, more: &str) -> RawUpstream {
    let head = format!("HTTP/1.1 {status}\r\nLocation: {location}\r\n{more}\r\nContent-Length: 4\r\n");
    let caching = "ETag: \"1\"\r\nCache-Control: max-age=600\r\nCDN-Cache-Control: max-age=600\r\nSurrogate-Control: max-age=600\r\n\
                   X-Accel-Expires: 600";
    RawUpstream::answering(format!("{head}Content-Type: text/html\r\n{caching}\r\n\r\nhere")).await
}

// === Which redirects ===

const BOB: &str = "PBX-Account: 41\r\nPBX-Domain: acme.test";

#[tokio::test]
async fn permanent_redirects_become_temporary() {
    for (status, expected) in [
        ("301 Moved Permanently", 302),
        ("302 Found", 302),
        ("303 See Other", 303),
        ("307 Temporary Redirect", 307),
        ("308 Permanent Redirect", 302),
    ] {
        let app = redirecting(status, "https://pbx.test/welcome.htm", BOB).await;
        let stage = Plan { app_at: Some(app.addr), rules: REDIRECTS, app: "", ..Plan::default() }.start().await;
        let answer = stage.gate.get("/").send().await.expect(expected);
        let session = stage.pbx.last_session().unwrap();
        check_injected(&answer, &format!("https://pbx.test/welcome.htm?sessId={session}"));
        for name in ["etag", "content-type", "cdn-cache-control", "surrogate-control", "x-accel-expires"] {
            assert!(!answer.headers.contains_key(name), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn other_answers_are_no_redirects() {
    for status in ["200 OK", "201 Created", "300 Multiple Choices", "304 Not Modified", "401 Unauthorized"] {
        let app = redirecting(status, "https://pbx.test/welcome.htm", BOB).await;
        let stage = Plan { app_at: Some(app.addr), rules: REDIRECTS, app: "", ..Plan::default() }.start().await;
        let answer = stage.gate.get("/").send().await;
        assert_eq!(answer.header("location"), "https://pbx.test/welcome.htm", "{status}");
        check_stripped(&answer);
        assert!(stage.minted().is_empty(), "{status}");
    }
}

#[tokio::test]
async fn other_parameters_and_the_fragment_stay() {
    let stage = stage().await;
    for (to, start, end) in [
        ("https://pbx.test/welcome.htm?a=1&b=%2F", "https://pbx.test/welcome.htm?a=1&b=%2F&sessId=", ""),
        ("https://pbx.test/welcome.htm?a=1#top?x", "https://pbx.test/welcome.htm?a=1&sessId=", "#top?x"),
        ("https://pbx.test/welcome.htm?sessId=stale&a=1", "https://pbx.test/welcome.htm?a=1&sessId=", ""),
        ("https://pbx.test/welcome.htm?sess%49d=stale", "https://pbx.test/welcome.htm?sessId=", ""),
        ("https://pbx.test/welcome.htm#sessId=x", "https://pbx.test/welcome.htm?sessId=", "#sessId=x"),
        ("https://PBX.test/welcome.htm", "https://PBX.test/welcome.htm?sessId=", ""),
        ("https://pbx.test:443/welcome.htm", "https://pbx.test:443/welcome.htm?sessId=", ""),
        ("//pbx.test/welcome.htm", "//pbx.test/welcome.htm?sessId=", ""),
        // From the app's own host, these would lead to the app.
        ("/welcome.htm", "https://pbx.test/welcome.htm?sessId=", ""),
        ("welcome.htm", "https://pbx.test/welcome.htm?sessId=", ""),
        ("./x/../welcome.htm?a#b", "https://pbx.test/welcome.htm?a&sessId=", "#b"),
    ] {
        let answer = stage.gate.get(&named(to)).send().await.expect(302);
        check_injected(&answer, &format!("{start}{}{end}", stage.pbx.last_session().unwrap()));
    }
}

#[tokio::test]
async fn a_redirect_to_anywhere_else_passes_untouched() {
    let stage = stage().await;
    for to in [
        "https://pbx.test/",
        "https://pbx.test/welcome.htm/",
        "https://pbx.test/welcome.html",
        "https://pbx.test/Welcome.htm",
        "https://pbx.test/x/welcome.htm",
        "https://pbx.test//welcome.htm",
        "https://pbx.test/x/../welcome.htm",
        "https://pbx.test/%77elcome.htm",
        "https://pbx.test/welcome.htm;a=1",
        "https://pbx.test:8443/welcome.htm",
        "https://pbx.test:/welcome.htm",
        "https://pbx.test:80/welcome.htm",
        "http://pbx.test/welcome.htm",
        "https://app.test/welcome.htm",
        "https://evil.test/welcome.htm",
        "https://pbx.test.evil.test/welcome.htm",
        "https://evil.test?https://pbx.test/welcome.htm",
        "https://evil.test#https://pbx.test/welcome.htm",
        "https://pbx.test@evil.test/welcome.htm",
        "https://evil.test@pbx.test/welcome.htm",
        "https://user:pw@pbx.test/welcome.htm",
        "https:\\\\pbx.test/welcome.htm",
        "https://evil.test\\@pbx.test/welcome.htm",
        "//evil.test/welcome.htm",
        "///pbx.test/welcome.htm",
        "/\\evil.test/welcome.htm",
        "https:pbx.test/welcome.htm",
        "https:/welcome.htm",
        "ftp://pbx.test/welcome.htm",
        "https://pbx.test/welcome.htm x",
        "/x/welcome.htm",
        "",
    ] {
        let answer = stage.as_alice(&named(to)).send().await.expect(302);
        assert_eq!(answer.header("location"), to);
        check_stripped(&answer);
        assert!(stage.minted().is_empty(), "{to}");
    }
}

#[tokio::test]
async fn where_paths_part_app_and_pbx_no_other_host_gets_a_session() {
    let hosts = "paths = [\"/welcome.htm\", \"/rest/\"]";
    let stage = Plan { hosts, rules: &rules(), ..Plan::default() }.start().await;
    for to in ["https://evil.test/welcome.htm", "//evil.test/welcome.htm", "https://app.test.evil.test/welcome.htm"] {
        for path in [named(to), unnamed(to)] {
            let answer = stage.as_alice(&path).send().await.expect(302);
            assert_eq!(answer.header("location"), to);
        }
    }
    assert!(stage.minted().is_empty());
    for to in ["https://app.test/welcome.htm", "//app.test/welcome.htm", "/welcome.htm"] {
        let answer = stage.as_alice(&unnamed(to)).send().await.expect(302);
        check_injected(&answer, &format!("{to}?sessId={}", stage.pbx.last_session().unwrap()));
    }
}

#[tokio::test]
async fn the_port_of_the_request_is_the_port_of_the_pbx() {
    let stage = stage().await;
    let answer = stage.gate.get(&named("https://pbx.test:8443/welcome.htm")).host("app.test:8443").send().await;
    let session = stage.pbx.last_session().unwrap();
    check_injected(&answer.expect(302), &format!("https://pbx.test:8443/welcome.htm?sessId={session}"));
    let other = stage.gate.get(&named("https://pbx.test/welcome.htm")).host("app.test:8443").send().await.expect(302);
    assert_eq!(other.header("location"), "https://pbx.test/welcome.htm");
    assert_eq!(stage.minted().len(), 1);
}

#[tokio::test]
async fn a_landing_page_of_another_name_is_kept_to() {
    let stage = Plan { rules: REDIRECTS, pbx: "landing = \"/portal/start.htm\"", ..Plan::default() }.start().await;
    let to = "https://pbx.test/portal/start.htm";
    let answer = stage.gate.get(&named(to)).send().await.expect(302);
    check_injected(&answer, &format!("{to}?sessId={}", stage.pbx.last_session().unwrap()));
    let other = stage.gate.get(&named("https://pbx.test/welcome.htm")).send().await.expect(302);
    assert_eq!(other.header("location"), "https://pbx.test/welcome.htm");
}

#[tokio::test]
async fn a_language_that_the_pbx_lacks_is_dropped() {
    let stage = stage().await;
    let to = "https://pbx.test/welcome.htm";
    let path =
        |lang| format!("/grant?{}", query(&[("to", to), ("account", "41"), ("domain", "acme.test"), ("lang", lang)]));
    for (lang, end) in [("sp", "&lang=sp"), ("xx", ""), ("f\"r", ""), ("", "")] {
        let answer = stage.gate.get(&path(lang)).send().await.expect(302);
        check_injected(&answer, &format!("{to}?sessId={}{end}", stage.pbx.last_session().unwrap()));
    }
}

// === Names are for us only ===

#[tokio::test]
async fn names_never_reach_a_client() {
    let pbx = RawUpstream::answering(
        "HTTP/1.1 200 OK\r\nPBX-Account: 40\r\npbx-domain: acme.test\r\nPBX-LANG: fr\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let stage = Plan { pbx_at: Some(pbx.addr), rules: &rules(), ..Plan::default() }.start().await;
    check_stripped(&stage.gate.get("/").host("pbx.test").send().await.expect(200));
    check_stripped(&stage.gate.get(&named("https://evil.test/")).send().await.expect(302));
    let app = RawUpstream::answering(
        "HTTP/1.1 404 Not Found\r\nPBX-Account: 40\r\nPBX-Domain: acme.test\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let stage = Plan { app_at: Some(app.addr), rules: REDIRECTS, app: "", ..Plan::default() }.start().await;
    check_stripped(&stage.gate.get("/").send().await.expect(404));
}

#[tokio::test]
async fn the_pbx_can_grant_nothing() {
    let head =
        "HTTP/1.1 302 Found\r\nLocation: https://pbx.test/welcome.htm\r\nPBX-Account: 40\r\nPBX-Domain: acme.test\r\n";
    let pbx = RawUpstream::answering(format!("{head}Content-Length: 0\r\n\r\n")).await;
    let stage = Plan { pbx_at: Some(pbx.addr), rules: &rules(), ..Plan::default() }.start().await;
    let answer = stage.as_alice("/somewhere").host("pbx.test").send().await.expect(302);
    assert_eq!(answer.header("location"), "https://pbx.test/welcome.htm");
    check_stripped(&answer);
    assert!(pbx.seen().iter().all(|request| !request.contains("3rd")), "{:?}", pbx.seen());
}

#[tokio::test]
async fn a_client_cannot_name_an_account_itself() {
    let stage = stage().await;
    let asking = stage.gate.get(&unnamed("https://pbx.test/welcome.htm")).header("pbx-account", "41");
    let answer = asking.header("pbx-domain", "acme.test").send().await.expect(302);
    assert_eq!(answer.header("location"), "https://pbx.test/welcome.htm");
    assert!(stage.minted().is_empty());
}

#[tokio::test]
async fn without_an_administrator_redirects_pass_and_names_do_not() {
    let app = redirecting("301 Moved Permanently", "https://pbx.test/welcome.htm", BOB).await;
    let gate = Gate::start(&format!("[app]\nurl = \"http://{}\"", app.addr)).await;
    let answer = gate.get("/").send().await.expect(301);
    assert_eq!((answer.header("location"), answer.text()), ("https://pbx.test/welcome.htm", "here"));
    check_stripped(&answer);
}

// === Which pages ===

#[tokio::test]
async fn a_page_of_another_origin_gets_neither_a_session_nor_the_bare_redirect() {
    let stage = stage().await;
    let foreign = [
        ("same-site", "no-cors", "image"),
        ("cross-site", "no-cors", "image"),
        ("same-site", "cors", "empty"),
        ("same-site", "navigate", "iframe"),
        ("cross-site", "navigate", "object"),
    ];
    for path in [named("https://pbx.test/welcome.htm"), unnamed("https://pbx.test/welcome.htm")] {
        for (site, mode, dest) in foreign {
            let asking = stage.as_alice(&path).header("sec-fetch-site", site).header("sec-fetch-mode", mode);
            let answer = asking.header("sec-fetch-dest", dest).send().await.expect(403);
            assert_eq!(answer.header("location"), "", "{site} {mode} {dest}");
        }
    }
    assert!(stage.minted().is_empty());
    stage.gate.line(&["reason=cross_site"]).await;
}

#[tokio::test]
async fn the_apps_own_pages_and_every_click_get_a_session() {
    let stage = stage().await;
    for (site, mode, dest) in [
        ("same-origin", "cors", "empty"),
        ("same-origin", "navigate", "iframe"),
        ("cross-site", "navigate", "document"),
        ("same-site", "navigate", "document"),
    ] {
        for path in [named("https://pbx.test/welcome.htm"), unnamed("https://pbx.test/welcome.htm")] {
            let asking = stage.as_alice(&path).header("sec-fetch-site", site).header("sec-fetch-mode", mode);
            let answer = asking.header("sec-fetch-dest", dest).send().await.expect(302);
            assert!(answer.header("location").contains("sessId="), "{site} {mode} {dest}");
        }
    }
}

// === When there is no session ===

#[tokio::test]
async fn a_failed_mint_is_never_the_bare_redirect() {
    let stage = stage().await;
    for (wrong, status) in [(Wrong::Html, 502), (Wrong::Drop, 502), (Wrong::Status(StatusCode::NOT_FOUND), 403)] {
        stage.pbx_does(|faults| faults.wrong = wrong.clone());
        let asking = stage.gate.get(&named("https://pbx.test/welcome.htm")).header("accept", "text/html");
        let answer = asking.send().await.expect(status);
        assert_eq!(answer.header("location"), "", "{wrong:?}");
        assert!(answer.text().contains(answer.header("x-request-id")), "{}", answer.text());
        check_stripped(&answer);
    }
    stage.pbx_does(|faults| {
        faults.wrong = Wrong::Nothing;
        (faults.fail_form, faults.refuse_after) = (FailForm::False, Some(0));
    });
    for _ in 0..2 {
        let answer = stage.gate.get(&named("https://pbx.test/welcome.htm")).send().await.expect(503);
        assert_eq!((answer.header("location"), answer.header("retry-after").is_empty()), ("", false));
    }
    assert_eq!(stage.minted().len(), 4);
}

#[tokio::test]
async fn looking_ahead_meets_no_session_and_no_bare_redirect() {
    let stage = stage().await;
    for path in [named("https://pbx.test/welcome.htm"), unnamed("https://pbx.test/welcome.htm")] {
        let ahead = stage.as_alice(&path).header("sec-purpose", "prefetch;prerender").send().await.expect(503);
        assert_eq!((ahead.header("location"), ahead.header("cache-control")), ("", "no-store"));
        let head = stage.gate.ask(Method::HEAD, &path).cookie(&stage.app.log_in("alice")).send().await.expect(503);
        assert_eq!(head.header("location"), "");
        check_stripped(&head);
    }
    assert!(stage.minted().is_empty());
}

// === Hand-over by cookie ===

#[tokio::test]
async fn with_cookies_the_redirect_becomes_a_ticket() {
    for to in
        ["https://pbx.test/thirdparty.htm", "https://pbx.test/welcome.htm?lang=fr", "/thirdparty.htm", "welcome.htm"]
    {
        let pbx = "handoff = \"cookie\"";
        let stage = Plan { dialect: Dialect::C, pbx, rules: REDIRECTS, ..Plan::default() }.start().await;
        let answer = stage.gate.get(&named(to)).send().await.expect(302);
        let location = answer.header("location").to_owned();
        assert!(stage.minted().is_empty());
        check_injected(&answer, &location);
        let path = location.strip_prefix("https://pbx.test").unwrap();
        assert!(path.starts_with("/auth/callgate/ticket?t="), "{path}");
        let landed = stage.redeem(answer.header("set-cookie"), &location).await.expect(200);
        let session = stage.pbx.last_session().unwrap();
        assert!(landed.header("set-cookie").starts_with(&format!("session={session};")));
        assert_eq!(stage.minted(), ["41@acme.test"]);
    }
}

#[tokio::test]
async fn claims_of_the_app_that_fit_no_rule_are_refused() {
    let stage = Stage::new().await;
    stage.claims(json!({ "user": "carol" }));
    let answer = stage.as_alice(&unnamed("https://pbx.test/welcome.htm")).send().await.expect(403);
    assert_eq!(answer.header("location"), "");
}

// === References without a host ===

const COOKIE: &str = "handoff = \"cookie\"";

/// Follows a redirect of the app to its end, and returns the PBX's host and the address there.
async fn follow(stage: &Stage, answer: &Answer) -> (String, String) {
    let location = answer.header("location").to_owned();
    let address = location.strip_prefix("https://").unwrap();
    let (host, path) = address.split_at(address.find('/').unwrap());
    if !path.starts_with("/auth/callgate/ticket?t=") {
        return (host.to_owned(), path.to_owned());
    }
    let landed = stage.redeem(answer.header("set-cookie"), &location).await.expect(200);
    let session = stage.pbx.last_session().unwrap();
    assert!(landed.header("set-cookie").starts_with(&format!("session={session};")));
    let page = landed.text().split("content=\"0; url=").nth(1).unwrap().split('"').next().unwrap().to_owned();
    (host.to_owned(), page.replace("&amp;", "&"))
}

/// The query and the fragment of the app's reference arrive at the PBX, in both hand-overs.
#[tokio::test]
async fn a_reference_of_the_app_leads_to_the_pbx_with_all_its_parts() {
    for (reference, link, cookie) in [
        ("/welcome.htm", "?S", ""),
        ("welcome.htm", "?S", ""),
        ("./welcome.htm?a=1&b=%2F#top?x", "?a=1&b=%2F&S#top?x", "?a=1&b=%2F#top?x"),
        (
            "/welcome.htm?sessId=stale&next=https://app.test//x#//",
            "?next=https://app.test//x&S#//",
            "?next=https://app.test//x#//",
        ),
        ("x/../welcome.htm?lang=fr&a", "?a&S&lang=fr", "?a"),
        ("/welcome.htm?lang=xx", "?lang=xx&S", "?lang=xx"),
    ] {
        for port in ["", ":8443"] {
            let stage = stage().await;
            let asked = stage.gate.get(&named(reference)).host(&format!("app.test{port}")).send().await.expect(302);
            let (host, path) = follow(&stage, &asked).await;
            let session = format!("sessId={}", stage.pbx.last_session().unwrap());
            assert_eq!(
                (host, path),
                (format!("pbx.test{port}"), format!("/welcome.htm{}", link.replace('S', &session)))
            );
            assert_eq!(stage.minted(), ["41@acme.test"]);
        }
        let stage = Plan { dialect: Dialect::C, pbx: COOKIE, rules: REDIRECTS, ..Plan::default() }.start().await;
        for name in ["thirdparty.htm", "welcome.htm"] {
            let asked = stage.gate.get(&named(&reference.replace("welcome.htm", name))).send().await.expect(302);
            let (host, path) = follow(&stage, &asked).await;
            assert_eq!((&*host, path), ("pbx.test", format!("/thirdparty.htm{cookie}")), "{reference}");
        }
    }
}

#[tokio::test]
async fn a_page_of_the_apps_own_stays_the_apps() {
    for (dialect, pbx) in [(Dialect::A, ""), (Dialect::C, COOKIE)] {
        let stage = Plan { dialect, pbx, rules: &rules(), ..Plan::default() }.start().await;
        // A page of that name on the app's host, unless the app names an account.
        for to in [
            "/welcome.htm",
            "welcome.htm",
            "./welcome.htm?a=1#b",
            "https://app.test/welcome.htm",
            "//app.test/welcome.htm",
        ] {
            let answer = stage.as_alice(&unnamed(to)).send().await.expect(302);
            assert_eq!((answer.header("location"), answer.header("set-cookie")), (to, ""));
        }
        // Other references, whatever the app names.
        for to in [
            "//app.test/welcome.htm",
            "//evil.test/welcome.htm",
            "/welcome.htm/",
            "/x/welcome.htm",
            "/%77elcome.htm",
            "/x/../welcome.htm",
            "/welcome.htm;a",
            "x/welcome.htm",
            "?a=/welcome.htm",
            "#/welcome.htm",
            "/\\welcome.htm",
            "https:welcome.htm",
            "http:/welcome.htm",
        ] {
            let answer = stage.as_alice(&named(to)).send().await.expect(302);
            assert_eq!((answer.header("location"), answer.header("set-cookie")), (to, ""));
            check_stripped(&answer);
        }
        assert!(stage.minted().is_empty());
    }
}

/// An app below a base path: its reference is resolved where the browser would resolve it.
#[tokio::test]
async fn a_reference_is_resolved_below_the_path_of_the_request() {
    for (reference, asked, is_landing) in [
        ("welcome.htm", "/portal/login?a=/x/", false),
        ("../welcome.htm", "/portal/login", true),
        ("../welcome.htm", "/portal/", true),
        ("../welcome.htm", "/portal/users/40", false),
        ("../../../welcome.htm", "/portal/users/40", true),
        ("welcome.htm", "/login", true),
        ("/welcome.htm", "/portal/login", true),
    ] {
        let app = redirecting("302 Found", reference, BOB).await;
        let stage = Plan { app_at: Some(app.addr), rules: REDIRECTS, app: "", ..Plan::default() }.start().await;
        let answer = stage.gate.get(asked).send().await.expect(302);
        if is_landing {
            let session = stage.pbx.last_session().unwrap();
            check_injected(&answer, &format!("https://pbx.test/welcome.htm?sessId={session}"));
        } else {
            assert_eq!(answer.header("location"), reference, "{asked}");
            assert!(stage.minted().is_empty(), "{asked}");
        }
    }
}

/// The app's fields say that it means the PBX. Without a rule for them, the session is that of the caller.
#[tokio::test]
async fn a_reference_of_an_app_that_no_rule_believes_is_for_the_caller() {
    for (dialect, pbx) in [(Dialect::A, ""), (Dialect::C, COOKIE)] {
        let stage = Plan { dialect, pbx, ..Plan::default() }.start().await;
        let answer = stage.as_alice(&named("/welcome.htm")).send().await.expect(302);
        assert_eq!(follow(&stage, &answer).await.0, "pbx.test");
        assert_eq!(stage.minted(), ["40@acme.test"]);
        let stranger = stage.gate.get(&named("/welcome.htm")).send().await.expect(302);
        assert_eq!(stranger.header("location"), "/welcome.htm");
        check_stripped(&stranger);
    }
}

/// With one host for both, the reference stays on it, with and without an account of the app's.
#[tokio::test]
async fn a_reference_stays_on_the_one_host_of_app_and_pbx() {
    let hosts = "paths = [\"/welcome.htm\", \"/thirdparty.htm\", \"/rest/\"]";
    for path in
        [named("/welcome.htm?a=1#b"), unnamed("/welcome.htm?a=1#b"), unnamed("https://app.test/welcome.htm?a=1#b")]
    {
        let stage = Plan { hosts, rules: &rules(), ..Plan::default() }.start().await;
        let answer = stage.as_alice(&path).send().await.expect(302);
        let session = stage.pbx.last_session().unwrap();
        let location = answer.header("location").trim_start_matches("https://app.test");
        assert_eq!(location, format!("/welcome.htm?a=1&sessId={session}#b"));
        let stage = Plan { dialect: Dialect::C, pbx: COOKIE, hosts, rules: &rules(), ..Plan::default() }.start().await;
        let answer = stage.as_alice(&path).send().await.expect(302);
        let (host, page) = follow(&stage, &answer).await;
        assert_eq!((&*host, &*page), ("app.test", "/thirdparty.htm?a=1#b"));
        assert_eq!(stage.minted().len(), 1);
    }
}

/// The app may name the host of a tenant: the ticket is for that host.
#[tokio::test]
async fn a_ticket_is_for_the_host_that_the_app_names() {
    let hosts = "hosts = [\"pbx.test\", \"*.pbx.test\"]";
    let stage = Plan { dialect: Dialect::C, pbx: COOKIE, hosts, rules: REDIRECTS, ..Plan::default() }.start().await;
    for (named_host, expected) in [("Acme.pbx.test", "acme.pbx.test"), ("pbx.test", "pbx.test")] {
        let to = named(&format!("https://{named_host}/thirdparty.htm?a=1"));
        let answer = stage.gate.get(&to).send().await.expect(302);
        assert_eq!(follow(&stage, &answer).await, (expected.to_owned(), "/thirdparty.htm?a=1".to_owned()));
    }
}

/// A ticket remembers no page of any size.
#[tokio::test]
async fn a_very_long_page_loses_its_query() {
    let stage = Plan { dialect: Dialect::C, pbx: COOKIE, rules: REDIRECTS, ..Plan::default() }.start().await;
    for (length, is_kept) in [(2000, true), (2100, false)] {
        let query = format!("?a={}", "x".repeat(length));
        let answer = stage.gate.get(&named(&format!("/welcome.htm{query}"))).send().await.expect(302);
        let (_, page) = follow(&stage, &answer).await;
        assert_eq!(page == format!("/thirdparty.htm{query}"), is_kept, "{length}");
        assert!(is_kept || page == "/thirdparty.htm", "{page}");
    }
}
