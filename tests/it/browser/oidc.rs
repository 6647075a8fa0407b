//! Logins at a real provider (npm's oidc-provider, certified by the OpenID Foundation), in a browser.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::kit::vodia::Dialect;

use super::stage::{BrowserSetup, Stage};
use crate::kit::oidc::SECRET;

/// The provider, which ends with the test.
struct Provider {
    process: Child,
    issuer: String,
    addr: SocketAddr,
}

impl Provider {
    fn start() -> Self {
        let script = Path::new("target/oidc/provider.js");
        assert!(script.exists(), "tests/run installs the provider: {}", script.display());
        let mut process = Command::new("node")
            .arg(script)
            .env("CLIENT_SECRET", SECRET)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node is installed");
        let mut said = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let issuer = said.find_map(|line| line.strip_prefix("at ").map(str::to_owned)).expect("it says where it is");
        // Its output is read to the end: a process that writes to a closed pipe is killed.
        std::thread::spawn(move || said.for_each(drop));
        let port = issuer.rsplit(':').next().unwrap().parse().unwrap();
        Self { process, issuer, addr: ([127, 0, 0, 1], port).into() }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn set(provider: &Provider, dialect: Dialect) -> Stage {
    let method = format!(
        "[[auth]]\ntype = \"oidc\"\nname = \"sso\"\nissuer = \"{}\"\nclient_id = \"callgate\"\n\
         client_secret = {{ env = \"OIDC_SECRET\" }}\nscopes = [\"openid\", \"phone\"]\n\
         after_logout = \"https://app.test/echo?after=logout\"\n",
        provider.issuer
    );
    let stage = Stage::before(BrowserSetup::of(dialect), "", &method, &[("localhost", provider.addr)]).await;
    stage.gate.canary(SECRET);
    stage
}

/// Logs in at the provider's own pages, and lets it tell us who it is.
async fn log_in(stage: &Stage, name: &str) {
    sign_in(stage, name).await;
    stage.browser.find("input[name=prompt][value=consent]").await;
    stage.browser.click("button[type=submit]").await;
}

/// Logs in at the provider's own pages.
async fn sign_in(stage: &Stage, name: &str) {
    stage.browser.write("input[name=login]", name).await;
    stage.browser.write("input[name=password]", "any").await;
    stage.browser.click("button[type=submit]").await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_click_elsewhere_leads_through_the_provider_to_the_pbx() {
    let provider = Provider::start();
    for dialect in [Dialect::A, Dialect::C] {
        let stage = set(&provider, dialect).await;
        stage.browser.go("http://third.test/").await;
        stage.browser.click("#link").await;
        log_in(&stage, "ann").await;
        stage.expect_portal("40", "fr").await;
        stage.browser.go("https://app.test/auth/pbx?lang=de").await;
        stage.expect_portal("40", "de").await;
        assert_eq!(stage.pbx.mints().len(), 2);
        let told = [stage.app.requests(), stage.pbx.requests()].concat();
        let cookies = told.iter().filter_map(|seen| seen.header("cookie"));
        assert!(cookies.into_iter().all(|cookies| !cookies.contains("__Host-callgate")));
        assert!(
            !stage.browser.history().await.iter().any(|address| address.contains("code=")),
            "no code stays in the history"
        );
    }
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn the_fragment_of_a_link_survives_the_login() {
    let provider = Provider::start();
    let stage = set(&provider, Dialect::A).await;
    stage.browser.go("https://app.test/auth/pbx?lang=fr#calls/42").await;
    log_in(&stage, "ann").await;
    stage.expect_portal("40", "fr").await;
    assert_eq!(stage.browser.run("return location.hash").await, "#calls/42");
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn several_tabs_log_in_at_once() {
    let provider = Provider::start();
    let stage = set(&provider, Dialect::A).await;
    let first = stage.browser.tab().await;
    stage.browser.go("https://app.test/auth/pbx?lang=fr").await;
    stage.browser.find("input[name=login]").await;
    stage.browser.new_tab().await;
    stage.browser.go("https://app.test/auth/pbx?lang=de").await;
    log_in(&stage, "ann").await;
    stage.expect_portal("40", "de").await;
    stage.browser.switch_to(&first).await;
    // The provider remembers what she consented to.
    sign_in(&stage, "ann").await;
    stage.expect_portal("40", "fr").await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_caller_that_declines_or_logs_out_is_not_logged_in() {
    let provider = Provider::start();
    let stage = set(&provider, Dialect::A).await;
    stage.browser.go("https://app.test/auth/pbx").await;
    stage.browser.click("a[href*=abort]").await;
    stage.browser.find("h1").await;
    assert!(
        stage.browser.text().await.contains("The login service refused the login"),
        "{}",
        stage.browser.text().await
    );
    stage.browser.picture("login-denied").await;
    stage.browser.click("a[href$='/auth/callgate/login']").await;
    log_in(&stage, "ben").await;
    stage.browser.arrive("https://app.test/").await;
    stage.browser.go("https://app.test/auth/pbx?lang=en").await;
    stage.expect_portal("41", "en").await;
    stage.browser.go("https://app.test/auth/callgate/logout").await;
    stage.browser.picture("logout").await;
    stage.browser.click("button").await;
    stage.browser.click("button[name=logout]").await;
    stage.browser.arrive("https://app.test/echo?after=logout").await;
    assert!(stage.pbx.sessions().is_empty(), "the session of the PBX has ended before the provider's page");
    stage.browser.go("https://app.test/auth/pbx?lang=en").await;
    stage.browser.find("input[name=login]").await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_browser_without_cookies_gets_a_page_that_says_so() {
    let provider = Provider::start();
    let stage = set(&provider, Dialect::A).await;
    stage.browser.go("https://app.test/auth/pbx").await;
    stage.browser.find("input[name=login]").await;
    stage.browser.forget_cookies_of("https://app.test/").await;
    log_in(&stage, "ann").await;
    stage.browser.find("h1").await;
    assert!(stage.browser.text().await.contains("your browser keeps no cookies"), "{}", stage.browser.text().await);
    stage.browser.picture("login-lost").await;
}
