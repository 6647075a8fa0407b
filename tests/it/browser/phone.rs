//! The softphone of docs/softphone.md in a real browser, and pages that try to open one in another person's name.

use super::stage::{BrowserSetup, Stage};
use crate::kit::stage::until;
use crate::kit::vodia::Dialect;

/// The softphone, as the document shows it.
fn sample() -> String {
    let document = include_str!("../../../docs/softphone.md");
    let sample = document.split("```js\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(sample.lines().count() <= 10, "it has ten lines");
    // The test shows what it hears in its own way.
    sample.rsplit_once("openPhone(").unwrap().0.to_owned()
}

async fn check_phone(setting: BrowserSetup) {
    let stage = Stage::set(setting).await;
    stage.log_in("alice").await;
    let script = format!(
        "{}\nreturn new Promise((end) => {{ window.phone = openPhone((message) => end(message)); }});",
        sample()
    );
    let heard = stage.browser.run(&script).await;
    assert_eq!(heard["action"], "own-calls", "{heard}");
    assert_eq!(stage.pbx.mints().len(), 1);
    let session = stage.pbx.last_session().unwrap();
    stage.gate.canary(&session);
    let asked = stage.pbx.requests().into_iter().find(|seen| seen.target.starts_with("/websocket")).unwrap();
    assert_eq!(asked.target, "/websocket?domain=acme.test&user=40");
    assert_eq!(asked.header("cookie"), Some(&*format!("session={session}")));
    // The browser has no cookie of the PBX, and its network log no session.
    let network = stage.browser.network().await;
    assert!(!serde_json::to_string(&network).unwrap().contains(&session));
    assert!(network.iter().any(|event| event["method"] == "Network.webSocketCreated"));
    // After the end of its session the page gets a new one by itself.
    stage.browser.run("window.phone.close();").await;
    until("another session", || stage.pbx.mints().len() == 2).await;
    until("the end of the first", || stage.pbx.sessions().iter().all(|open| open.id != session)).await;
    // A page that is left leaves no session.
    stage.browser.go("http://third.test/").await;
    until("the end of every session", || stage.pbx.sessions().is_empty()).await;
    let line = stage.gate.line(&["target=\"/auth/pbx/socket\"", "upstream=pbx"]).await;
    assert!(line.contains("status=101") || line.contains("status=200"), "{line}");
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_page_has_a_softphone_whatever_the_pbx_and_its_host() {
    for dialect in [Dialect::A, Dialect::C] {
        check_phone(BrowserSetup::of(dialect)).await;
        check_phone(BrowserSetup::of(dialect).with_pbx_beside_app()).await;
        check_phone(BrowserSetup::of(dialect).with_one_host()).await;
    }
    check_phone(BrowserSetup::of(Dialect::B)).await;
    check_phone(BrowserSetup::of(Dialect::C).with_strict_app()).await;
}

/// Opens a socket in the page, and tells whether that failed.
const TRY: &str = "new Promise((end) => {
     const socket = new WebSocket('wss://app.test/auth/pbx/socket');
     socket.onopen = () => end('open');
     socket.onclose = (closed) => end(`closed ${closed.code}`);
 })";

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn no_page_of_another_origin_opens_a_persons_socket() {
    for dialect in [Dialect::A, Dialect::C] {
        let stage = Stage::set(BrowserSetup::of(dialect)).await;
        stage.log_in("alice").await;
        assert_eq!(stage.browser.run(&format!("return {TRY};")).await, "open");
        let mints = stage.pbx.mints().len();
        let questions = || stage.app.requests().iter().filter(|seen| seen.target == "/api/me").count();
        let asked = questions();
        for page in ["https://evil.app.test/echo", "http://third.test/", "https://pbx.test/"] {
            stage.browser.go(page).await;
            assert_eq!(stage.browser.run(&format!("return {TRY};")).await, "closed 1006", "{page}");
        }
        // A frame without an origin, in a page of the app itself.
        stage.browser.go("https://app.test/echo").await;
        let framed = format!(
            "const frame = document.createElement('iframe');
             frame.sandbox = 'allow-scripts';
             frame.srcdoc = `<script>{}.then((ended) => parent.postMessage(ended, '*'))</script>`;
             const told = new Promise((end) => window.addEventListener('message', (message) => end(message.data)));
             document.body.append(frame);
             return told;",
            TRY.replace('`', "\\`").replace("${", "\\${")
        );
        assert_eq!(stage.browser.run(&framed).await, "closed 1006");
        assert_eq!((stage.pbx.mints().len(), questions()), (mints, asked), "nobody is asked, nothing is opened");
        let refused = stage.gate.log().lines().filter(|line| line.contains("reason=cross_site")).count();
        assert_eq!(refused, 4, "{}", stage.gate.log());
    }
}
