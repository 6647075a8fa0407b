//! The pages that people meet: their languages, and the rules of accessibility (WCAG 2.2 AA, by axe-core), in light and dark.

use std::fs;

use serde_json::{Value, json};

use super::driver::Browser;
use super::stage::{BrowserSetup, Stage};
use crate::kit::vodia::Dialect;

/// Finds links and buttons whose outline, when the keyboard is at them, does not stand out 3 to 1 from what is around them
/// (WCAG 2.2 §1.4.11, §2.4.7). axe-core has no rule for that.
const UNSEEN_FOCUS: &str = "
    const channel = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const luminance = (color) => {
        const [red, green, blue] = color.match(/[\\d.]+/g).map((value) => channel(value / 255));
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const behind = (element) => {
        const color = getComputedStyle(element).backgroundColor;
        return color.startsWith('rgb(') ? color : behind(element.parentElement);
    };
    const isUnseen = (element) => {
        element.focus({ focusVisible: true });
        const { outlineStyle, outlineColor } = getComputedStyle(element);
        const [dark, light] = [outlineColor, behind(element.parentElement)].map(luminance).sort((one, other) => one - other);
        return outlineStyle !== 'solid' || (light + 0.05) / (dark + 0.05) < 3;
    };
    const all = [...document.querySelectorAll('a[href], button:enabled')].filter((element) => element.checkVisibility());
    const unseen = all.filter(isUnseen).map((element) => element.outerHTML);
    document.activeElement.blur();
    return unseen;";

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
    assert_eq!(browser.run(UNSEEN_FOCUS).await, json!([]), "{name}: the focus is not seen");
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
