//! Logouts in a real browser: its cookies go, and no page of another origin can log its person out.

use super::stage::{BrowserSetup, Stage};
use crate::kit::vodia::Dialect;

const DIALECTS: [Dialect; 2] = [Dialect::A, Dialect::C];

/// The PBX on a site of its own, beside the app, and on the app's own host.
fn setups(dialect: Dialect) -> [BrowserSetup; 3] {
    let two = BrowserSetup::of(dialect);
    [two, two.with_pbx_beside_app(), two.with_one_host()]
}

/// Logs alice in at the app and at the PBX, and returns the addresses of the PBX's portal and of the logout there.
async fn open(setup: BrowserSetup, stage: &Stage) -> (String, String) {
    stage.log_in("alice").await;
    stage.browser.go("https://app.test/auth/pbx?lang=en").await;
    stage.expect_portal("40", "en").await;
    assert_eq!(stage.pbx.sessions().len(), 1);
    let landing = if setup.dialect == Dialect::A { "welcome.htm" } else { "thirdparty.htm" };
    (format!("https://{}/{landing}", setup.pbx), format!("https://{}/auth/pbx/logout", setup.pbx))
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn the_button_on_the_pbxs_host_ends_the_session_and_removes_its_cookie() {
    for setup in DIALECTS.into_iter().flat_map(setups) {
        let stage = Stage::set(setup).await;
        let (portal, logout) = open(setup, &stage).await;
        assert!(stage.browser.cookies_of(&portal).await.contains(&"session".to_owned()));
        stage.browser.go(&logout).await;
        stage.browser.picture("pbx-logout").await;
        assert_eq!(stage.pbx.sessions().len(), 1, "the page with the button ends nothing");
        stage.browser.click("button").await;
        stage.browser.find("a[href='/auth/pbx']").await;
        stage.browser.picture("pbx-logged-out").await;
        assert!(stage.browser.text().await.contains("You are logged out"), "{}", stage.browser.text().await);
        assert!(stage.pbx.sessions().is_empty());
        assert!(!stage.browser.cookies_of(&portal).await.contains(&"session".to_owned()), "{setup:?}");
        // Back shows the button again, which has nothing to end.
        stage.browser.back().await;
        stage.browser.find("form[action='/auth/pbx/logout']").await;
        stage.browser.go(&portal).await;
        stage.browser.find("body[data-page=login]").await;
        assert_eq!(stage.pbx.mints().len(), 1);
    }
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn the_button_on_the_apps_host_ends_the_session_of_the_login() {
    for setup in DIALECTS.into_iter().flat_map(setups) {
        let stage = Stage::set(setup).await;
        let (portal, _) = open(setup, &stage).await;
        stage.browser.go("https://app.test/auth/pbx/logout").await;
        stage.browser.click("button").await;
        stage.browser.find("a[href='/auth/pbx']").await;
        assert!(stage.pbx.sessions().is_empty(), "{setup:?}");
        stage.browser.picture("app-logged-out").await;
        stage.browser.go(&portal).await;
        stage.browser.find("body[data-page=login]").await;
        // The app's own login goes on, and leads in again.
        stage.browser.go("https://app.test/auth/pbx?lang=fr").await;
        stage.expect_portal("40", "fr").await;
    }
}

/// A login with a password, which callgate did not open: the page on the app's host leads to the button that ends it.
#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_link_leads_to_the_button_for_a_password_session() {
    let setup = BrowserSetup::of(Dialect::C);
    let stage = Stage::set(setup).await;
    stage.log_in("alice").await;
    let session = stage.pbx.open_session("41", "acme.test");
    stage.browser.plant_cookie("https://pbx.test/", "session", &session).await;
    stage.browser.go("https://app.test/auth/pbx/logout").await;
    stage.browser.click("button").await;
    stage.browser.click("a[href='https://pbx.test/auth/pbx/logout']").await;
    stage.browser.arrive("https://pbx.test/auth/pbx/logout").await;
    assert_eq!(stage.pbx.sessions().len(), 1, "the link ends nothing");
    stage.browser.click("button").await;
    stage.browser.find("a[href='/auth/pbx']").await;
    assert!(stage.pbx.sessions().is_empty());
    assert!(!stage.browser.cookies_of("https://pbx.test/").await.contains(&"session".to_owned()));
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_page_presses_the_button_by_a_script() {
    let setup = BrowserSetup::of(Dialect::C);
    let stage = Stage::set(setup).await;
    let (portal, _) = open(setup, &stage).await;
    assert_eq!(stage.fetch("fetch('/auth/pbx/logout', { method: 'POST' })").await, 204);
    assert!(stage.pbx.sessions().is_empty());
    assert!(!stage.browser.cookies_of(&portal).await.contains(&"session".to_owned()));
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn pages_of_other_origins_log_nobody_out() {
    for setup in DIALECTS.into_iter().flat_map(setups) {
        let stage = Stage::set(setup).await;
        let (portal, logout) = open(setup, &stage).await;
        for attacker in ["http://third.test/", "https://evil.app.test/echo"] {
            for target in [&logout[..], "https://app.test/auth/pbx/logout"] {
                stage.browser.go(attacker).await;
                for shown in ["img", "iframe", "script"] {
                    let shown = format!(
                        "const shown = document.createElement('{shown}');
                         const ended = new Promise((end) => {{ shown.onload = shown.onerror = () => end(null); }});
                         shown.src = '{target}';
                         document.body.append(shown);
                         return ended;"
                    );
                    stage.browser.run(&shown).await;
                }
                let unseen =
                    format!("fetch('{target}', {{ method: 'POST', credentials: 'include', mode: 'no-cors' }})");
                assert_eq!(stage.fetch(&unseen).await, 0, "an opaque answer");
                let seen = format!("fetch('{target}', {{ method: 'POST', credentials: 'include' }})");
                assert_eq!(stage.fetch(&seen).await, "TypeError: Failed to fetch");
                let form = format!(
                    "const form = document.createElement('form');
                     [form.method, form.action] = ['post', '{target}'];
                     document.body.append(form);
                     form.submit();"
                );
                stage.browser.run(&form).await;
                stage.browser.arrive(target).await;
                stage.browser.find("h1").await;
                assert!(stage.browser.text().await.contains("Another site sent you here"), "{setup:?} {attacker}");
            }
        }
        assert_eq!(stage.pbx.sessions().len(), 1, "{setup:?}");
        assert!(!stage.gate.log().contains("audit logout"), "{}", stage.gate.log());
        stage.browser.go(&portal).await;
        stage.expect_portal("40", "en").await;
    }
}
