//! Bookmarks and links to pages of the PBX, in a browser whose session is missing or over.

use super::stage::{BrowserSetup, Stage};
use crate::kit::vodia::Dialect;

const TWO_HOSTS: &str = "auto = \"https://app.test\"\nlandings = [\"/usr_index.htm\"]";
const ONE_HOST: &str = "auto = true\nlandings = [\"/usr_index.htm\"]";

/// The PBX on a site of its own, beside the app, and on the app's own host.
fn setups(dialect: Dialect) -> [BrowserSetup; 3] {
    let two = BrowserSetup { pbx_lines: TWO_HOSTS, ..BrowserSetup::of(dialect) };
    [two, two.with_pbx_beside_app(), BrowserSetup { pbx: "app.test", pbx_lines: ONE_HOST, ..two }]
}

fn page_of(setup: &BrowserSetup) -> String {
    format!("https://{}/usr_index.htm?view=calls", setup.pbx)
}

async fn check_bookmark(dialect: Dialect) {
    for setup in setups(dialect) {
        let (stage, page) = (Stage::set(setup).await, page_of(&setup));
        stage.log_in("alice").await;
        stage.browser.go(&page).await;
        stage.expect_portal("40", "en").await;
        assert_eq!(stage.browser.address().await, page);
        stage.browser.picture("bookmark").await;
        // The session ends at the PBX; the browser still shows its cookie.
        stage.browser.plant_cookie(&page, "session", "g7lsrphhrkim1jkvbt88").await;
        stage.browser.go(&page).await;
        stage.expect_portal("40", "en").await;
        assert_eq!((stage.browser.address().await, stage.pbx.mints().len()), (page.clone(), 2));
        // A live session needs no login.
        stage.browser.documents().await;
        stage.browser.go(&page).await;
        stage.expect_portal("40", "en").await;
        assert_eq!(stage.browser.documents().await, std::slice::from_ref(&page));
        stage.expect_no_secret_outside_cookies().await;
        let history = stage.browser.history().await;
        assert!(!history.iter().any(|address| address.contains("/auth/")), "{history:#?}");
        assert_eq!(stage.pbx.mints().len(), 2);
    }
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_bookmark_opens_a_page_of_a_legacy_pbx() {
    check_bookmark(Dialect::A).await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_bookmark_opens_a_page_of_a_modern_pbx() {
    check_bookmark(Dialect::C).await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_click_elsewhere_opens_a_page_and_back_is_where_it_began() {
    for dialect in [Dialect::A, Dialect::C] {
        for setup in setups(dialect).into_iter().flat_map(|setup| [setup, setup.with_strict_app()]) {
            let (stage, page) = (Stage::set(setup).await, page_of(&setup));
            stage.log_in("alice").await;
            stage.browser.go("http://third.test/").await;
            stage.browser.click("#page").await;
            stage.expect_portal("40", "en").await;
            assert_eq!((stage.browser.address().await, stage.pbx.mints().len()), (page.clone(), 1));
            let referrer = stage.browser.run("return document.referrer").await;
            assert!(!referrer.as_str().unwrap().contains("/auth/"), "{referrer}");
            stage.browser.back().await;
            stage.browser.find("body[data-page=third]").await;
            // The session's cookie may be `SameSite=Strict`: the second click finds it all the same.
            stage.browser.click("#page").await;
            stage.expect_portal("40", "en").await;
            assert_eq!((stage.browser.address().await, stage.pbx.mints().len()), (page, 1));
            stage.browser.back().await;
            stage.browser.find("body[data-page=third]").await;
            stage.browser.click("#next").await;
            stage.expect_portal("40", "en").await;
            let named = format!("https://{}/usr_index.htm", setup.pbx);
            assert_eq!((stage.browser.address().await, stage.pbx.mints().len()), (named, 2));
        }
    }
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_browser_without_cookies_of_the_pbx_goes_round_once() {
    for dialect in [Dialect::A, Dialect::C] {
        for setup in &setups(dialect)[..2] {
            let setup = BrowserSetup { keeps_cookies: false, ..*setup };
            let stage = Stage::set(setup).await;
            stage.log_in("alice").await;
            stage.browser.documents().await;
            stage.browser.go(&page_of(&setup)).await;
            stage.browser.find("h1").await;
            let documents = stage.browser.documents().await;
            assert!(documents.len() <= 6, "{documents:#?}");
            assert!(stage.pbx.mints().len() <= 1);
        }
    }
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_person_logs_in_at_the_app_and_is_led_to_the_page() {
    for dialect in [Dialect::A, Dialect::C] {
        for setup in setups(dialect) {
            let setup = BrowserSetup { app_lines: "login = \"/?from=pbx\"", ..setup };
            let (stage, page) = (Stage::set(setup).await, page_of(&setup));
            stage.browser.go(&page).await;
            stage.browser.find("body[data-page=app-login]").await;
            assert_eq!(stage.browser.address().await, "https://app.test/?from=pbx");
            stage.browser.write("input[name=user]", "bob").await;
            stage.browser.write("input[name=password]", "bob").await;
            stage.browser.click("button").await;
            stage.expect_portal("41", "en").await;
            assert_eq!((stage.browser.address().await, stage.pbx.mints().len()), (page, 1));
            stage.browser.go("https://app.test/").await;
            stage.browser.find("body[data-page=app-portal][data-user=bob]").await;
        }
    }
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn frames_scripts_and_looking_ahead_begin_no_login() {
    for dialect in [Dialect::A, Dialect::C] {
        let setup = setups(dialect)[1];
        let (stage, page) = (Stage::set(setup).await, page_of(&setup));
        stage.log_in("alice").await;
        for shown in ["iframe", "img", "embed"] {
            let shown = format!(
                "const shown = document.createElement('{shown}');
                 const ended = new Promise((end) => {{ shown.onload = shown.onerror = () => end(null); }});
                 shown.src = '{page}';
                 document.body.append(shown);
                 return ended;"
            );
            stage.browser.run(&shown).await;
        }
        let fetch = format!("fetch('{page}', {{ credentials: 'include', mode: 'no-cors' }})");
        assert_eq!(stage.fetch(&fetch).await, 0, "an opaque answer");
        let ahead = format!(
            "const link = Object.assign(document.createElement('link'), {{ rel: 'prefetch', href: '{page}' }});
             const ended = new Promise((end) => {{ link.onload = link.onerror = () => end(null); }});
             document.head.append(link);
             return ended;"
        );
        stage.browser.run(&ahead).await;
        let socket = format!(
            "return new Promise((end) => {{
                 const socket = new WebSocket('wss://{}/websocket?domain=acme.test&user=40');
                 socket.onopen = socket.onclose = () => end(null);
             }});",
            setup.pbx
        );
        stage.browser.run(&socket).await;
        assert!(stage.pbx.mints().is_empty(), "{:?}", stage.pbx.mints());
        let log = stage.gate.log();
        let lines: Vec<_> =
            log.lines().filter(|line| line.contains("/usr_index.htm") || line.contains("/websocket")).collect();
        assert!(lines.len() >= 5 && lines.iter().all(|line| !line.contains("status=303")), "{lines:#?}");
        // The same page in a window of its own.
        stage.browser.go(&page).await;
        stage.expect_portal("40", "en").await;
    }
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn who_signs_out_of_the_pbx_stays_out_and_an_administrator_gets_the_form() {
    let setup = setups(Dialect::C)[0];
    let stage = Stage::set(setup).await;
    stage.log_in("alice").await;
    stage.browser.go(&page_of(&setup)).await;
    stage.expect_portal("40", "en").await;
    stage.browser.click("#leave").await;
    stage.browser.find("body[data-page=login]").await;
    assert_eq!(stage.pbx.mints().len(), 1);
    stage.browser.forget_cookies_of("https://pbx.test/").await;
    stage.browser.go("https://pbx.test/?callgate=off").await;
    stage.browser.find("body[data-page=login]").await;
    assert_eq!(stage.pbx.mints().len(), 1);
}
