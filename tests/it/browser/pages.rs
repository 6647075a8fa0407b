//! The pages that people meet: their languages, and the rules of accessibility (WCAG 2.2 AA, by axe-core), in light and dark.

use std::fs;

use serde_json::Value;

use super::driver::Browser;
use super::stage::{BrowserSetup, Stage};
use crate::kit::vodia::Dialect;

/// Rules for pages, as tests/run installs them.
pub fn axe() -> String {
    let path = "target/axe/node_modules/axe-core/axe.min.js";
    fs::read_to_string(path).unwrap_or_else(|error| panic!("tests/run installs {path}: {error}"))
}

/// Checks the page that the browser shows.
pub async fn check_page(browser: &Browser, axe: &str, name: &str) {
    // The page permits no script, and the browser runs one for its driver all the same.
    let script = format!(
        "{axe}\nreturn axe.run().then((found) => found.violations.map((rule) => [rule.id, rule.nodes[0].html]));"
    );
    let found = browser.run(&script).await;
    let Value::Array(violations) = &found else { panic!("{name}: {found}") };
    browser.picture(name).await;
    assert!(violations.is_empty(), "{name} at {}: {found}", browser.address().await);
    let fits = browser.run("return document.documentElement.scrollWidth <= innerWidth").await;
    assert_eq!(fits, true, "{name} is as wide as the window");
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn every_page_is_for_every_person() {
    let axe = axe();
    let pages = "[pages]\nname = \"Acme & Co\"\ncontact = \"mailto:help@example.com\"\n";
    let stage = Stage::before(BrowserSetup::of(Dialect::C), "whoami = \"/api/me\"", pages, &[]).await;
    for scheme in ["light", "dark"] {
        stage.browser.prefer(scheme, 375).await;
        for (address, language, words) in [
            ("https://app.test/auth/pbx", "en", "Log in first"),
            ("https://app.test/auth/pbx?lang=de", "de", "Melden Sie sich zuerst an"),
            ("https://app.test/auth/pbx?lang=fr", "fr", "Connectez-vous d’abord"),
            ("https://app.test/auth/pbx?lang=sp", "es", "Inicie sesión primero"),
            ("https://app.test/auth/pbx?lang=it", "it", "Effettui prima l’accesso"),
            ("https://app.test/auth/pbx?lang=pt", "pt", "Entre primeiro"),
            ("https://app.test/auth/pbx?lang=nl", "nl", "Log eerst in"),
            ("https://app.test/auth/pbx?lang=ja", "ja", "先にログインしてください"),
            ("https://app.test/auth/pbx/logout?lang=de", "de", "Abmelden"),
            ("https://app.test/auth/callgate/none", "en", "There is nothing at this address"),
        ] {
            stage.browser.go(address).await;
            let text = stage.browser.text().await;
            assert!(text.contains(words), "{address}: {text}");
            let said = stage.browser.run("return [document.documentElement.lang, document.title]").await;
            assert_eq!(said[0], language, "{address}");
            assert!(said[1].as_str().unwrap().ends_with(" – Acme & Co"), "{said}");
            check_page(&stage.browser, &axe, &format!("page-{scheme}-{language}")).await;
        }
    }
}
