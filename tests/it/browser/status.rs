//! The operator's page, in a real browser: charts, languages of the eye and the ear, and the end of a session by keyboard.

use serde_json::json;

use super::driver::Browser;
use super::pages::{axe, check_page};
use crate::kit::app::Whoami;
use crate::kit::stage::{Plan, Stage, until};

/// Keys as WebDriver names them (W3C WebDriver §17.4.2).
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";

/// Opens the page of a gate at which two people are in and one was refused, with its first step of history.
async fn open() -> (Stage, Browser) {
    let more = "[admin]\nlisten = \"127.0.0.1:0\"";
    let stage = Plan { top: "member = \"edge-1\"", more, ..Plan::default() }.start().await;
    for user in ["alice", "bob"] {
        stage.as_user(user, "/auth/pbx").send().await.expect(303);
    }
    stage.claims(json!({ "sub": "carol" }));
    stage.as_user("bob", "/auth/pbx").send().await.expect(403);
    stage.app.set(|faults| faults.whoami = Whoami::Truth);
    let admin = stage.gate.admin().tcp().unwrap();
    let browser = Browser::open(&[("localhost", admin)], &stage.gate.dir.path().join("ca.pem"), json!({})).await;
    browser.go("http://localhost/status").await;
    (stage, browser)
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn the_status_page_is_for_every_person() {
    let axe = axe();
    let (stage, browser) = open().await;
    // The page takes the first steps of its charts by itself.
    browser.find("#charts path[d^='M35'], #charts path[d^='M36']").await;
    for (scheme, width) in [("light", 1100), ("dark", 1100), ("light", 375), ("dark", 375)] {
        browser.prefer(scheme, width).await;
        check_page(&browser, &axe, &format!("status-{scheme}-{width}")).await;
    }
    assert!(browser.text().await.contains("40@acme.test"), "{}", browser.text().await);
    assert_eq!(browser.complaints().await, [""; 0], "neither a script nor the policy complains");
    drop(stage);
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_session_ends_by_keyboard() {
    let (stage, browser) = open().await;
    browser.find("#end-2:not([hidden])").await;
    browser.run("document.getElementById('end-2').focus()").await;
    browser.press(ENTER).await;
    browser.find("#ask[open]").await;
    let question = browser.run("return document.getElementById('question').textContent").await;
    assert_eq!(question, "End session 2 of 41@acme.test? Its pages log out and its tunnels are cut.");
    // Cancel keeps it, and the focus is at the button again.
    browser.press(TAB).await;
    browser.press(ENTER).await;
    assert_eq!(browser.run("return document.activeElement.id").await, "end-2");
    browser.press(ENTER).await;
    browser.press(ENTER).await;
    until("the end of the session", || stage.gate.log().contains("audit session_end")).await;
    browser.find("#sessions:not(:has(#end-2))").await;
    let said = browser.run("return document.getElementById('said').textContent").await;
    assert_eq!(said, "Session 2 has ended.");
    assert_eq!(browser.run("return document.activeElement.id").await, "sessions-title");
    browser.find("#end-1").await;
    assert_eq!(browser.complaints().await, [""; 0]);
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn figures_follow_until_the_page_is_paused() {
    let (stage, browser) = open().await;
    browser.run("document.getElementById('pause').focus()").await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    browser.find("#end-3").await;
    assert_eq!(browser.run("return document.activeElement.id").await, "pause", "the focus stays");
    browser.press(ENTER).await;
    assert_eq!(browser.run("return document.getElementById('pause').textContent").await, "Go on");
    let stamp = "return document.querySelector('#summary').textContent";
    let before = browser.run(stamp).await;
    // One turn of the page's clock, which asks for nothing.
    browser.run("return new Promise((end) => setTimeout(end, 6000))").await;
    assert_eq!(browser.run(stamp).await, before);
    browser.press(ENTER).await;
    until("the log has the third login", || stage.gate.log().matches("audit grant").count() == 3).await;
    browser.find("#end-3").await;
    assert_ne!(browser.run(stamp).await, before);
}
