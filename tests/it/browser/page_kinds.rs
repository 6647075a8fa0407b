//! Every kind of page that callgate itself shows, in light and dark, by the rules of accessibility.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use callgate::model::page_language::PageLanguage;
use callgate::model::page_text::PageText;
use http::StatusCode;
use serde_json::json;
use tempfile::TempDir;

use super::driver::Browser;
use super::pages::{axe, check_page};
use super::stage::{BrowserSetup, Stage};
use crate::kit::app::Whoami;
use crate::kit::links;
use crate::kit::oidc::{self, provider::Provider};
use crate::kit::upstream::RawUpstream;
use crate::kit::vodia::{Dialect, FailForm, Faults, Scope, Wrong};

/// Titles of pages that this test does not cause: its requests arrive in time, and log and state take every login.
const NOT_CAUSED: [PageText; 2] = [PageText::TooSlow, PageText::NotRecorded];
/// An answer that leaves a browser at the page where it is.
const STAY: &str = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
const LOGO: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"120\" height=\"40\"><rect width=\"120\" height=\"40\" rx=\"8\" fill=\"#2f5bea\"/></svg>";

// === What is checked ===

/// Checks pages, and keeps their titles.
struct Inspector {
    axe: String,
    seen: BTreeSet<String>,
}

impl Inspector {
    /// Checks the page that the browser is about to show: it has this title, and these words.
    async fn check(&mut self, browser: &Browser, title: PageText, words: &[&str]) {
        await_title(browser, title).await;
        let text = browser.text().await;
        for word in words {
            assert!(text.contains(word), "{title:?} without {word}: {text}");
        }
        assert_eq!(browser.run("return document.documentElement.lang").await, "en", "{title:?}");
        for scheme in ["light", "dark"] {
            browser.prefer(scheme, 375).await;
            let number = self.seen.len();
            check_page(browser, &self.axe, &format!("kind-{number:02}-{title:?}-{scheme}")).await;
        }
        self.seen.insert(format!("{title:?}"));
    }
}

/// Waits until the browser shows a page with a title: what follows a click takes its time.
async fn await_title(browser: &Browser, title: PageText) {
    let expected = title.in_language(PageLanguage::English);
    let shown = || browser.run("return document.querySelector('main h1')?.textContent ?? null");
    for _ in 0..400 {
        if shown().await == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no page {title:?} at {}: {}", browser.address().await, browser.text().await);
}

/// Returns the titles of all pages in the sources of the proxy.
fn titles() -> BTreeSet<String> {
    fn files(folder: &Path) -> Vec<PathBuf> {
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }
    let sources =
        files(Path::new("src/proxy")).into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "rs"));
    sources.flat_map(|path| titles_of(&fs::read_to_string(path).unwrap())).collect()
}

/// Returns the first text in each call that begins a page or gives the page of an error its words.
fn titles_of(source: &str) -> Vec<String> {
    let code: String = source.split("#[cfg(test)]").next().unwrap().split_whitespace().collect();
    let begun = ["Page::new(", "advised(", "later("].into_iter().flat_map(|call| code.split(call).skip(1));
    let first = begun.filter_map(|rest| {
        let (_, text) = rest.split(';').next()?.split_once("Text::")?;
        text.split(|letter: char| !letter.is_alphanumeric()).next()
    });
    first.map(str::to_owned).collect()
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn every_kind_of_page_is_for_every_person() {
    let mut inspector = Inspector { axe: axe(), seen: BTreeSet::new() };
    pages_beside_an_app(&mut inspector).await;
    pages_beside_a_provider(&mut inspector).await;
    let not_caused = NOT_CAUSED.map(|title| format!("{title:?}"));
    inspector.seen.extend(not_caused);
    assert_eq!(inspector.seen, titles(), "a kind of page is not checked");
}

// === Pages of a gate whose callers log in at the app ===

async fn pages_beside_an_app(inspector: &mut Inspector) {
    let folder = TempDir::new().unwrap();
    let logo = folder.path().join("logo.svg");
    fs::write(&logo, LOGO).unwrap();
    let methods = format!(
        "[pages]\nname = \"Acme & Co\"\nlogo = \"{}\"\ncontact = \"mailto:help@example.com\"\n{}\
         [[allow]]\nname = \"several\"\npbx = {{ domain = \"acme.test\", account = \"{{exts}}\" }}\nchoose = \"ask\"\n",
        logo.display(),
        links::method("confirm = \"always\"")
    );
    let pbx_lines = "auto = \"https://app.test\"\nlandings = [\"/usr_index.htm\"]\nshield = { from = [\"127.0.0.7\"] }";
    let setup = BrowserSetup { pbx_lines, ..BrowserSetup::of(Dialect::C) };
    let stage = Stage::before(setup, "whoami = \"/api/me\"", &methods, &[]).await;
    before_a_login(&stage, inspector).await;
    stage.log_in("alice").await;
    behind_a_login(&stage, inspector).await;
    where_the_pbx_fails(&stage, inspector).await;
    behind_many_guesses(&stage, inspector).await;
}

async fn before_a_login(stage: &Stage, inspector: &mut Inspector) {
    let browser = &stage.browser;
    browser.go("https://app.test/auth/callgate/none").await;
    inspector.check(browser, PageText::NotFound, &["help@example.com"]).await;
    assert_eq!(browser.run("return document.querySelector('.banner img').naturalWidth").await, 120);
    browser.go("https://app.test/auth/pbx").await;
    inspector.check(browser, PageText::LogInFirst, &["Go to the start page"]).await;
    // The browser was led to its login a moment ago, and has no session.
    browser.plant_cookie("https://pbx.test/", "__Host-callgate.auto", "tried").await;
    browser.go("https://pbx.test/usr_index.htm").await;
    inspector.check(browser, PageText::LoginNotKept, &["Log in with a password"]).await;
    browser.go(&format!("https://app.test{}", links::link())).await;
    inspector.check(browser, PageText::OpenTelephone, &["It works once", "Continue"]).await;
    browser.go("https://pbx.test/auth/callgate/page?state=old").await;
    inspector.check(browser, PageText::Unreadable, &[]).await;
    browser.go("https://pbx.test/reg_domains.htm").await;
    inspector.check(browser, PageText::Blocked, &[]).await;
    browser.send_fields(json!({ "Purpose": "prefetch" })).await;
    browser.go("https://app.test/auth/pbx").await;
    inspector.check(browser, PageText::OpenInBrowser, &[]).await;
    browser.send_fields(json!({})).await;
    browser.go("http://third.test/").await;
    browser
        .run(
            "const form = document.createElement('form');
             [form.method, form.action] = ['post', 'https://app.test/auth/pbx/logout'];
             document.body.append(form);
             form.submit();",
        )
        .await;
    inspector.check(browser, PageText::OtherSite, &[]).await;
}

async fn behind_a_login(stage: &Stage, inspector: &mut Inspector) {
    let browser = &stage.browser;
    for (whoami, title, words) in [
        (Whoami::Claims(json!({ "exts": ["40", "41"] })), PageText::WhichAccount, "41 (acme.test)"),
        (Whoami::Claims(json!({ "sub": "carol" })), PageText::NoAccess, "has no telephone here"),
        (Whoami::Status(StatusCode::INTERNAL_SERVER_ERROR), PageText::NoAnswer, "Try again"),
    ] {
        stage.app.set(|faults| faults.whoami = whoami);
        browser.go("https://app.test/auth/pbx").await;
        inspector.check(browser, title, &[words]).await;
    }
    stage.app.set(|faults| faults.whoami = Whoami::Truth);
    stage.pbx.set(|faults| {
        (faults.scope, faults.wrong) = (Scope::Other, Wrong::Raw(STAY.into()));
    });
    browser.go("https://app.test/auth/pbx").await;
    inspector.check(browser, PageText::OneMoment, &["Continue"]).await;
    stage.pbx.set(|faults| *faults = Faults::default());
    browser.go("https://app.test/echo").await;
    let ticket = browser
        .run(
            "const accept = { Accept: 'application/vnd.callgate+json' };
             return fetch('/auth/pbx', { method: 'POST', headers: accept, body: '{}' })
                 .then((answer) => answer.json()).then((answer) => answer.url);",
        )
        .await;
    let ticket = ticket.as_str().unwrap();
    browser.go(ticket).await;
    stage.expect_portal("40", "en").await;
    browser.go(ticket).await;
    inspector.check(browser, PageText::LoginUsed, &["Log in again"]).await;
    browser.go("https://app.test/auth/pbx/logout").await;
    inspector.check(browser, PageText::LogOutOfTelephoneQuestion, &["Log out"]).await;
    browser.click("button").await;
    inspector.check(browser, PageText::LoggedOut, &["Log in again", "Log out there, too"]).await;
}

async fn where_the_pbx_fails(stage: &Stage, inspector: &mut Inspector) {
    let browser = &stage.browser;
    browser.go("https://app.test/auth/pbx").await;
    stage.expect_portal("40", "en").await;
    stage.pbx.set(|faults| {
        (faults.scope, faults.wrong) = (Scope::All, Wrong::Status(StatusCode::INTERNAL_SERVER_ERROR));
    });
    browser.go("https://app.test/auth/pbx/logout").await;
    browser.click("button").await;
    inspector.check(browser, PageText::LogoutUnconfirmed, &[]).await;
    stage
        .pbx
        .set(|faults| *faults = Faults { fail_form: FailForm::Status401, refuse_after: Some(0), ..Faults::default() });
    browser.go("https://app.test/auth/pbx").await;
    inspector.check(browser, PageText::TelephoneDown, &["Try again in "]).await;
}

/// Another signature is a guess. An address has five.
async fn behind_many_guesses(stage: &Stage, inspector: &mut Inspector) {
    let browser = &stage.browser;
    browser.forget_cookies_of("https://app.test/").await;
    for _ in 0..6 {
        browser.go(&format!("https://app.test{}", links::link().replace("account=40", "account=41"))).await;
    }
    inspector.check(browser, PageText::TooMany, &["Try again in "]).await;
}

// === Pages of a gate whose callers log in at an identity provider ===

async fn pages_beside_a_provider(inspector: &mut Inspector) {
    let (provider, other) = (Provider::start().await, Provider::start().await);
    // The browser stays at the page that leads to the provider's own.
    let login_page = RawUpstream::answering(STAY).await;
    let address = format!("http://localhost:{}/authorize", login_page.addr.port());
    provider.set(|says| says.discovery = json!({ "authorization_endpoint": address, "end_session_endpoint": null }));
    let methods = oidc::method("sso", &provider, "") + &oidc::method("second", &other, "");
    let setup = BrowserSetup::of(Dialect::C);
    let stage = Stage::before(setup, "", &methods, &[("localhost", login_page.addr)]).await;
    stage.gate.canary(oidc::SECRET);
    let browser = &stage.browser;

    browser.go("https://app.test/auth/pbx").await;
    inspector.check(browser, PageText::LogInWith, &["sso", "second"]).await;
    browser.click("a[href*='with=sso']").await;
    inspector.check(browser, PageText::OneMoment, &["Continue"]).await;
    let denied = callback(browser, "error=access_denied").await;
    browser.go(&denied).await;
    inspector.check(browser, PageText::LoginDenied, &["Log in"]).await;
    browser.go(&denied).await;
    inspector.check(browser, PageText::LoginUnknown, &["Log in"]).await;

    provider.set(|says| says.instead = Some((500, json!({}))));
    begin(browser).await;
    let failing = callback(browser, "code=any").await;
    browser.go(&failing).await;
    inspector.check(browser, PageText::LoginServiceDown, &["Try again"]).await;

    provider.set(|says| {
        (says.instead, says.claims) = (None, json!({ "ext": null }));
    });
    begin(browser).await;
    let asked = provider_address(browser).await;
    let (code, _) = provider.log_in(&asked.replace(&address, &format!("{}/authorize", provider.issuer())));
    let proven = callback(browser, &format!("code={code}")).await;
    browser.go(&proven).await;
    inspector.check(browser, PageText::NoAccess, &["Use another account", "Log out"]).await;

    browser.go("https://app.test/auth/callgate/logout").await;
    inspector.check(browser, PageText::LogOutQuestion, &["Log out"]).await;
    browser.click("button").await;
    inspector.check(browser, PageText::LoggedOut, &["You can close this window"]).await;
    for token in provider.given() {
        stage.gate.canary(token);
    }
}

/// Begins a login at the provider.
async fn begin(browser: &Browser) {
    browser.go("https://app.test/auth/callgate/login?for=pbx&with=sso").await;
    await_title(browser, PageText::OneMoment).await;
}

/// Returns the address at the provider to which the page leads.
async fn provider_address(browser: &Browser) -> String {
    browser.run("return document.querySelector('main a').href").await.as_str().unwrap().to_owned()
}

/// Returns the address to which the provider sends the browser back with an answer.
async fn callback(browser: &Browser, answer: &str) -> String {
    let asked = provider_address(browser).await;
    let (_, query) = asked.split_once('?').unwrap();
    let field = |wanted: &str| {
        form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == wanted).unwrap().1.into_owned()
    };
    format!("{}?{answer}&state={}", field("redirect_uri"), field("state"))
}
