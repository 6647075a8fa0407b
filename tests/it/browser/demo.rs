//! What `callgate demo` shows, as a person sees it.

use serde_json::json;

use super::driver::Browser;
use crate::operate::demo::Demo;

async fn log_in(browser: &Browser) {
    for field in ["user", "password"] {
        browser.write(&format!("input[name={field}]"), "alice").await;
    }
    browser.click("button").await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn the_demo_shows_socket_bookmark_and_logout() {
    let demo = Demo::start().await;
    let addr = demo.addr();
    let (app, pbx) = (format!("https://localhost:{}", addr.port()), format!("https://pbx.localhost:{}", addr.port()));
    let hosts = [("localhost", addr), ("pbx.localhost", addr)];
    let browser = Browser::open(&hosts, &demo.file("ca.pem"), json!({})).await;
    let bookmark = format!("{pbx}/usr_index.htm");
    let portal = "body[data-page=portal][data-user='40'][data-scope=user]";
    // A bookmark leads a stranger to the app's login; the person is led on to it.
    browser.go(&bookmark).await;
    browser.find("body[data-page=app-login]").await;
    log_in(&browser).await;
    browser.arrive(&bookmark).await;
    browser.find(portal).await;
    // The softphone in the app's page.
    browser.go(&app).await;
    browser.click("#open-socket").await;
    browser.find("body[data-page=app-portal][data-socket=open]").await;
    browser.picture("demo").await;
    // Only out of the PBX.
    browser.click("#leave-pbx").await;
    browser.click("form[action='/auth/pbx/logout'] button").await;
    browser.find("a[href='/auth/pbx']").await;
    browser.go(&format!("{pbx}/usr_index.htm?callgate=off")).await;
    browser.find("body[data-page=login]").await;
    // Out of both: the app says PBX-Logout.
    browser.go(&app).await;
    browser.click("#open-link").await;
    browser.find(portal).await;
    browser.go(&app).await;
    browser.click("form[action='/logout'] button").await;
    browser.find("body[data-page=app-login]").await;
    browser.go(&format!("{pbx}/usr_index.htm?callgate=off")).await;
    browser.find("body[data-page=login]").await;
    drop(browser);
    demo.end().await;
}
