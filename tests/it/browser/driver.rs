//! A real Chromium, driven by the W3C WebDriver protocol: JSON over HTTP to its own chromedriver.
//!
//! The browser has its own home directory, which trusts one authority. It verifies certificates as any browser does.
//! Names lead to loopback addresses or nowhere, so addresses look as in the field (port 443) and nothing leaves the machine.

use std::io::{BufRead, BufReader, Read, Write, stderr};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

const CHROMIUM: &str = "/usr/bin/chromium";
/// How long the browser looks for an element before it is said to be missing, in milliseconds.
const PATIENCE: u64 = 20_000;
/// The name under which WebDriver hands out elements (W3C WebDriver §12).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one window.
pub struct Browser {
    driver: Child,
    addr: SocketAddr,
    session: String,
    _home: TempDir,
}

impl Browser {
    /// Opens a browser that trusts one authority and knows these hosts, with settings of its profile.
    ///
    /// A driver may lose its port to another process, and a browser may not start in time on a busy machine: both are tried again.
    pub async fn open(hosts: &[(&str, SocketAddr)], ca: &Path, settings: Value) -> Self {
        for _ in 1..TRIES {
            match Self::try_open(hosts, ca, &settings).await {
                Ok(browser) => return browser,
                Err(reason) => drop(writeln!(stderr(), "the browser is started again: {reason}")),
            }
        }
        Self::try_open(hosts, ca, &settings).await.unwrap_or_else(|reason| panic!("{TRIES} tries: {reason}"))
    }

    async fn try_open(hosts: &[(&str, SocketAddr)], ca: &Path, settings: &Value) -> Result<Self, String> {
        let home = home_that_trusts(ca);
        let arguments = arguments(hosts, home.path());
        let (driver, addr) = start_driver(home.path()).await?;
        let mut browser = Self { driver, addr, session: String::new(), _home: home };
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "timeouts": { "implicit": PATIENCE, "script": PATIENCE, "pageLoad": 2 * PATIENCE },
            "goog:chromeOptions": { "binary": CHROMIUM, "args": arguments, "prefs": settings },
            "goog:loggingPrefs": { "performance": "ALL", "browser": "ALL" },
        }}});
        let opened = browser.try_call(Method::POST, "/session", wanted).await?;
        browser.session = opened["sessionId"].as_str().unwrap().to_owned();
        Ok(browser)
    }

    // === What a person does ===

    /// Types an address.
    pub async fn go(&self, address: &str) {
        self.ask(Method::POST, "url", json!({ "url": address })).await;
    }

    pub async fn click(&self, selector: &str) {
        let element = self.find(selector).await;
        self.ask(Method::POST, &format!("element/{element}/click"), json!({})).await;
    }

    pub async fn write(&self, selector: &str, text: &str) {
        let element = self.find(selector).await;
        self.ask(Method::POST, &format!("element/{element}/value"), json!({ "text": text })).await;
    }

    /// Presses keys where the focus is.
    pub async fn press(&self, keys: &str) {
        let focused = self.ask(Method::GET, "element/active", Value::Null).await;
        let element = focused[ELEMENT].as_str().unwrap();
        self.ask(Method::POST, &format!("element/{element}/value"), json!({ "text": keys })).await;
    }

    pub async fn back(&self) {
        self.ask(Method::POST, "back", json!({})).await;
    }

    /// Returns the handle of the tab at hand.
    pub async fn tab(&self) -> String {
        self.ask(Method::GET, "window", Value::Null).await.as_str().unwrap().to_owned()
    }

    /// Opens a tab, and goes on in it.
    pub async fn new_tab(&self) {
        let tab = self.ask(Method::POST, "window/new", json!({ "type": "tab" })).await;
        self.switch_to(tab["handle"].as_str().unwrap()).await;
    }

    /// Returns the handles of all tabs.
    pub async fn tabs(&self) -> Vec<String> {
        let tabs = self.ask(Method::GET, "window/handles", Value::Null).await;
        tabs.as_array().unwrap().iter().map(|tab| tab.as_str().unwrap().to_owned()).collect()
    }

    /// Waits until there is a second tab, and returns its handle.
    pub async fn other_tab(&self, this: &str) -> String {
        for _ in 0..PATIENCE / 50 {
            if let Some(tab) = self.tabs().await.into_iter().find(|tab| tab != this) {
                return tab;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no other tab opens at {}", self.address().await);
    }

    /// Goes on in another tab.
    pub async fn switch_to(&self, tab: &str) {
        self.ask(Method::POST, "window", json!({ "handle": tab })).await;
    }

    /// Goes on in a frame of the page.
    pub async fn enter_frame(&self, selector: &str) {
        let frame = self.find(selector).await;
        self.ask(Method::POST, "frame", json!({ "id": { ELEMENT: frame } })).await;
    }

    /// Goes on in the page around all frames.
    pub async fn leave_frames(&self) {
        self.ask(Method::POST, "frame", json!({ "id": null })).await;
    }

    /// Returns the names of the cookies that the browser would send to an address, those hidden from scripts included.
    pub async fn cookies_of(&self, address: &str) -> Vec<String> {
        let cookies = json!({ "cmd": "Network.getCookies", "params": { "urls": [address] } });
        let cookies = self.ask(Method::POST, "goog/cdp/execute", cookies).await;
        let names = cookies["cookies"].as_array().unwrap().iter().map(|cookie| cookie["name"].as_str().unwrap());
        names.map(str::to_owned).collect()
    }

    /// Forgets the cookies of a site, as some browsers do by themselves.
    pub async fn forget_cookies_of(&self, address: &str) {
        for name in self.cookies_of(address).await {
            let gone = json!({ "cmd": "Network.deleteCookies", "params": { "name": name, "url": address } });
            self.ask(Method::POST, "goog/cdp/execute", gone).await;
        }
    }

    /// Has a cookie that no script can set.
    pub async fn plant_cookie(&self, address: &str, name: &str, value: &str) {
        let cookie =
            json!({ "url": address, "name": name, "value": value, "path": "/", "secure": true, "httpOnly": true });
        self.ask(Method::POST, "goog/cdp/execute", json!({ "cmd": "Network.setCookie", "params": cookie })).await;
    }

    /// Waits until the page has an element, and returns its handle.
    pub async fn find(&self, selector: &str) -> String {
        let wanted = json!({ "using": "css selector", "value": selector });
        let path = format!("/session/{}/element", self.session);
        match self.try_call(Method::POST, &path, wanted).await {
            Ok(found) => found[ELEMENT].as_str().unwrap().to_owned(),
            Err(error) => panic!("no {selector} at {}: {}\n{}", self.address().await, error, self.text().await),
        }
    }

    // === What a developer sees ===

    /// Waits until the browser is at an address: what follows a click takes its time.
    pub async fn arrive(&self, address: &str) {
        for _ in 0..PATIENCE / 50 {
            if self.address().await == address {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("at {} and not at {address}:\n{}", self.address().await, self.text().await);
    }

    pub async fn address(&self) -> String {
        self.ask(Method::GET, "url", Value::Null).await.as_str().unwrap().to_owned()
    }

    /// Returns the words on the page.
    pub async fn text(&self) -> String {
        self.run("return document.body.innerText").await.as_str().unwrap_or_default().to_owned()
    }

    /// Runs a function body in the page and returns its value, awaited if it is a promise.
    pub async fn run(&self, script: &str) -> Value {
        self.ask(Method::POST, "execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// Shows pages in a color scheme, `light` or `dark`, in a window of this width in pixels.
    pub async fn prefer(&self, scheme: &str, width: u32) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.tools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
        let size = json!({ "width": width, "height": 667, "deviceScaleFactor": 1, "mobile": false });
        self.tools("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// Sends these fields with every request, as a program that opens links in advance does.
    pub async fn send_fields(&self, fields: Value) {
        self.tools("Network.enable", json!({})).await;
        self.tools("Network.setExtraHTTPHeaders", json!({ "headers": fields })).await;
    }

    /// Returns the addresses in the history of the window, oldest first.
    pub async fn history(&self) -> Vec<String> {
        let history = self.tools("Page.getNavigationHistory", json!({})).await;
        let entries = history["entries"].as_array().unwrap();
        entries.iter().map(|entry| entry["url"].as_str().unwrap().to_owned()).collect()
    }

    /// Returns what the network has done since the last call: events of the DevTools protocol.
    pub async fn network(&self) -> Vec<Value> {
        let log = self.ask(Method::POST, "se/log", json!({ "type": "performance" })).await;
        let lines = log.as_array().unwrap().iter();
        lines
            .map(|line| serde_json::from_str::<Value>(line["message"].as_str().unwrap()).unwrap()["message"].take())
            .collect()
    }

    /// Returns the addresses of the documents that the window has asked for since the last call, redirects included.
    pub async fn documents(&self) -> Vec<String> {
        let is_document =
            |event: &Value| event["method"] == "Network.requestWillBeSent" && event["params"]["type"] == "Document";
        let asked = self.network().await.into_iter().filter(is_document);
        let addresses = asked.map(|event| event["params"]["request"]["url"].as_str().unwrap_or_default().to_owned());
        addresses.filter(|address| address.starts_with("http")).collect()
    }

    /// Returns what the console has complained of since the last call: errors of scripts, refusals by a page's policy.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.ask(Method::POST, "se/log", json!({ "type": "browser" })).await;
        log.as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    }

    /// Keeps a picture of the page in the folder `CALLGATE_PICTURES`, if that is set.
    pub async fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("CALLGATE_PICTURES") else { return };
        use base64::Engine;
        let picture = self.ask(Method::GET, "screenshot", Value::Null).await;
        let bytes = base64::prelude::BASE64_STANDARD.decode(picture.as_str().unwrap()).unwrap();
        std::fs::write(Path::new(&folder).join(format!("{name}.png")), bytes).unwrap();
    }

    // === The protocol ===

    /// Sends a command of the DevTools protocol.
    async fn tools(&self, command: &str, parameters: Value) -> Value {
        self.ask(Method::POST, "goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    async fn ask(&self, method: Method, command: &str, body: Value) -> Value {
        self.call(method, &format!("/session/{}/{command}", self.session), body).await
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        self.try_call(method, path, body).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn try_call(&self, method: Method, path: &str, body: Value) -> Result<Value, String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(path).header("host", self.addr.to_string());
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let stream = tokio::net::TcpStream::connect(self.addr).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        let mut answer: Value = serde_json::from_slice(&answer).unwrap();
        let value = answer["value"].take();
        match value["error"].as_str() {
            Some(error) => Err(format!("{error}: {}", value["message"].as_str().unwrap_or_default())),
            None => Ok(value),
        }
    }
}

impl Drop for Browser {
    /// Closes the browser, then its driver.
    fn drop(&mut self) {
        let request =
            format!("DELETE /session/{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.session, self.addr);
        if let Ok(mut stream) = TcpStream::connect(self.addr) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = stream.write_all(request.as_bytes());
            let _ = stream.read_to_end(&mut Vec::new());
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Makes a home whose certificate store trusts one authority.
fn home_that_trusts(ca: &Path) -> TempDir {
    let home = TempDir::new().unwrap();
    let store = home.path().join(".pki/nssdb");
    std::fs::create_dir_all(&store).unwrap();
    let store = format!("sql:{}", store.display());
    certutil(&["-d", &store, "-N", "--empty-password"]);
    certutil(&["-d", &store, "-A", "-n", "callgate tests", "-t", "C,,", "-i", ca.to_str().unwrap()]);
    home
}

fn certutil(arguments: &[&str]) {
    let told = Command::new("certutil").args(arguments).output().expect("certutil is installed (libnss3-tools)");
    assert!(told.status.success(), "certutil {arguments:?}: {}", String::from_utf8_lossy(&told.stderr));
}

fn arguments(hosts: &[(&str, SocketAddr)], home: &Path) -> Vec<String> {
    let maps = hosts.iter().map(|(host, addr)| format!("MAP {host} {addr}, ")).collect::<String>();
    let fixed = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-default-apps",
        "--disable-sync",
        "--no-first-run",
        "--window-size=1200,860",
    ];
    let mut arguments: Vec<_> = fixed.map(str::to_owned).into();
    arguments.push(format!("--user-data-dir={}", home.join("profile").display()));
    arguments.push(format!("--host-resolver-rules={maps}MAP * ~NOTFOUND"));
    arguments
}

/// How often a browser and its driver are started until both work.
const TRIES: usize = 3;

/// Starts a chromedriver at a port of its choice.
async fn start_driver(home: &Path) -> Result<(Child, SocketAddr), String> {
    let mut driver = Command::new("chromedriver")
        .args(["--port=0", "--log-level=SEVERE"])
        .env("HOME", home)
        .env("TMPDIR", home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("chromedriver is installed (chromium-driver)");
    let told = BufReader::new(driver.stdout.take().unwrap());
    let (sender, port) = oneshot::channel();
    // Reads to the end, so that the driver never waits for a reader.
    std::thread::spawn(move || {
        let mut sender = Some(sender);
        for line in told.lines().map_while(Result::ok) {
            let port =
                line.split_once("successfully on port ").and_then(|(_, port)| port.trim_end_matches('.').parse().ok());
            match (port, sender.take_if(|_| port.is_some())) {
                (Some(port), Some(sender)) => {
                    let _: Result<(), u16> = sender.send(port);
                }
                // Its last output states the reason.
                _ => drop(writeln!(stderr(), "chromedriver: {line}")),
            }
        }
    });
    if let Ok(port) = port.await {
        return Ok((driver, ([127, 0, 0, 1], port).into()));
    }
    let _ = driver.kill();
    let _ = driver.wait();
    Err("chromedriver does not say its port".to_owned())
}
