//! `/auth/callgate/client.js` in a real browser: each login is one line of a page.

use serde_json::{Value, json};

use super::stage::{BrowserSetup, Stage};
use crate::kit::vodia::Dialect;

/// Clients with the functions of Voximplant's SDKs. The app passes their requests on to the cloud.
const CLIENTS: &str = "
    const post = async (path, content) => {
        const headers = { 'Content-Type': 'application/json' };
        const answer = await fetch(path, { method: 'POST', headers, body: JSON.stringify(content) });
        if (!answer.ok) throw { code: answer.status };
        return answer.json();
    };
    const key = async (user) => (await post('/vox/_key', { user })).key;
    const loginWithOneTimeKey = (user, token) => post('/vox/_login', { user, token });
    let lost = 0;
    const clients = {
        web4: { loginWithOneTimeKey, requestOneTimeLoginKey: async (user) => ({ code: 302, key: await key(user) }) },
        reactNative: { loginWithOneTimeKey, requestOneTimeLoginKey: async (user) => { throw { code: 302, key: await key(user) } } },
        web5: {
            requestOneTimeKey: ({ username }) => key(username),
            loginOneTimeKey: ({ username, hash }) => loginWithOneTimeKey(username, hash),
        },
        // Another tab asks for a key of its own in between, once.
        interrupted: { loginWithOneTimeKey, requestOneTimeLoginKey: async (user) => {
            const first = await key(user);
            if (lost++ === 0) await key(user);
            return { code: 302, key: first };
        } },
        broken: { requestOneTimeLoginKey: async () => { throw { code: 500 } } },
        refused: { requestOneTimeLoginKey: async (user) => ({ code: 302, key: 'k' }), loginWithOneTimeKey: async () => { throw { code: 403 } } },
    };";

/// Runs an expression with the module and the clients, and returns its value or its error.
async fn run(stage: &Stage, expression: &str) -> Value {
    let script = format!(
        "{CLIENTS}
         return import('https://app.test/auth/callgate/client.js').then(async ({{ phoneLogin, openPbx, tokenFor, CallgateError }}) => {{
             try {{ return await {expression}; }} catch (error) {{
                 return {{ ...error, message: error.message, isOurs: error instanceof CallgateError }};
             }}
         }});"
    );
    stage.browser.run(&script).await
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_phone_logs_in_by_one_line_with_each_sdk() {
    let stage = Stage::set(BrowserSetup::of(Dialect::C)).await;
    stage.log_in("alice").await;
    for client in ["web4", "reactNative", "interrupted"] {
        let told = run(&stage, &format!("phoneLogin(clients.{client}, 'alice')")).await;
        assert_eq!(told["displayName"], "Alice", "{client}: {told}");
    }
    // The errors of the SDK stay as they are.
    let told = run(&stage, "phoneLogin(clients.broken, 'alice')").await;
    assert_eq!((&told["code"], &told["isOurs"]), (&json!(500), &json!(false)), "{told}");
    assert_eq!(run(&stage, "phoneLogin(clients.refused, 'alice')").await["code"], 403);
    // Another user, and no caller at all.
    let told = run(&stage, "tokenFor('0123456789abcdef', 'bob')").await;
    assert_eq!((&told["code"], &told["status"], &told["isOurs"]), (&json!("forbidden"), &json!(403), &json!(true)));
    assert!(told["requestId"].as_str().is_some_and(|id| !id.is_empty()), "{told}");
    stage.browser.forget_cookies_of("https://app.test/").await;
    let told = run(&stage, "phoneLogin(clients.web5, 'alice')").await;
    assert_eq!((&told["code"], &told["status"]), (&json!("unauthenticated"), &json!(401)), "{told}");
    stage.log_in("bob").await;
    let told = run(&stage, "phoneLogin(clients.web5, 'bob')").await;
    assert_eq!(told["displayName"], "Bob", "{told}");
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn the_pbx_opens_by_one_line_in_a_tab_or_here() {
    let stage = Stage::set(BrowserSetup::of(Dialect::C)).await;
    stage.log_in("alice").await;
    // Where the browser opens no tab, the page itself goes: without a click, outside this driver.
    run(&stage, "(window.open = () => null, openPbx({ lang: 'fr' }), null)").await;
    stage.expect_portal("40", "fr").await;
    stage.browser.go("https://app.test/").await;
    run(
        &stage,
        "document.body.insertAdjacentHTML('beforeend', '<button id=one>PBX</button>') ??
         (document.getElementById('one').onclick = () => openPbx({ account: '40', lang: 'de' }), null)",
    )
    .await;
    let here = stage.browser.tab().await;
    stage.browser.click("#one").await;
    let tab = stage.browser.other_tab(&here).await;
    stage.browser.switch_to(&tab).await;
    stage.expect_portal("40", "de").await;
    assert_eq!(stage.browser.run("return window.opener").await, Value::Null);
    stage.expect_no_secret_outside_cookies().await;
    // An account of another person.
    stage.browser.switch_to(&here).await;
    run(&stage, "openPbx({ account: '41', target: '_self' })").await;
    stage.browser.find("main h1").await;
    assert!(stage.browser.address().await.contains("/auth/pbx?account=41"));
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_page_in_a_frame_opens_the_pbx_in_the_whole_window() {
    let stage = Stage::set(BrowserSetup::of(Dialect::C)).await;
    stage.log_in("alice").await;
    for (around, lang) in [("https://app.test/echo", "fr"), ("http://third.test/", "de")] {
        stage.browser.go(around).await;
        stage.browser.run("document.body.innerHTML = '<iframe src=\"https://app.test/\"></iframe>'").await;
        stage.browser.enter_frame("iframe").await;
        stage.browser.find("body[data-page]").await;
        let button = format!(
            "document.body.innerHTML = '<button>PBX</button>',
             document.querySelector('button').onclick = () => openPbx({{ lang: '{lang}', target: '_top' }}), null"
        );
        run(&stage, &format!("({button})")).await;
        let here = stage.browser.tab().await;
        stage.browser.click("button").await;
        stage.browser.leave_frames().await;
        stage.expect_portal("40", lang).await;
        assert_eq!(stage.browser.run("return window === window.top").await, true);
        assert_eq!(stage.browser.tabs().await, [here], "no other tab opens");
    }
    assert_eq!(stage.pbx.mints().len(), 2);
    stage.expect_no_secret_outside_cookies().await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_page_that_is_not_listed_may_load_the_module_and_gets_no_token() {
    let stage = Stage::set(BrowserSetup::of(Dialect::C)).await;
    stage.log_in("alice").await;
    stage.browser.go("https://evil.app.test/echo").await;
    let told = run(&stage, "tokenFor('0123456789abcdef', 'alice')").await;
    assert_eq!((&told["code"], &told["status"], &told["isOurs"]), (&json!("unreachable"), &json!(0), &json!(true)));
    stage.gate.line(&["target=\"/auth/ott\"", "reason=cross_site"]).await;
}
