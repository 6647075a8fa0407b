//! The servers that the browser sees: a gate before app, PBX and cloud, and a page of a foreign site.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::driver::Browser;
use crate::kit::app::{App, AppOptions, SameSite};
use crate::kit::gate::{Gate, VOX_PASSWORD};
use crate::kit::upstream::RawUpstream;
use crate::kit::vodia::{Dialect, Options, Vodia};
use crate::kit::voximplant::Voximplant;

/// How the parts are set up.
#[derive(Debug, Clone, Copy)]
pub struct BrowserSetup {
    pub dialect: Dialect,
    /// The PBX's host: on a site of its own, or on the app's.
    pub pbx: &'static str,
    pub app_cookie: SameSite,
    /// More lines for `[app]` and for `[pbx]`.
    pub app_lines: &'static str,
    pub pbx_lines: &'static str,
    /// Whether the browser keeps cookies of the PBX's host.
    pub keeps_cookies: bool,
    /// Whether new connections to the PBX's host are held for longer than the PBX's token lives.
    pub has_slow_way: bool,
}

impl BrowserSetup {
    /// A PBX on a site of its own; the app's cookie is Lax.
    pub const fn of(dialect: Dialect) -> Self {
        Self {
            dialect,
            pbx: "pbx.test",
            app_cookie: SameSite::Lax,
            app_lines: "",
            pbx_lines: "",
            keeps_cookies: true,
            has_slow_way: false,
        }
    }

    pub const fn with_strict_app(self) -> Self {
        Self { app_cookie: SameSite::Strict, ..self }
    }

    /// App and PBX on one host, told apart by paths.
    pub const fn with_one_host(self) -> Self {
        Self { pbx: "app.test", ..self }
    }

    pub const fn with_pbx_beside_app(self) -> Self {
        Self { pbx: "pbx.app.test", ..self }
    }

    pub const fn with_slow_way_to_the_pbx(self) -> Self {
        Self { has_slow_way: true, ..self }
    }

    /// Where the PBX is, in the words of the configuration.
    fn place(&self) -> String {
        match self.pbx {
            "app.test" => {
                let pages = ["/rest/", "/usr_index.htm", "/welcome.htm", "/thirdparty.htm", "/websocket"];
                format!("paths = {pages:?}")
            }
            host => format!("hosts = [\"{host}\"]"),
        }
    }

    const fn handoff(&self) -> &'static str {
        match self.dialect {
            Dialect::A => "link",
            Dialect::B | Dialect::C => "cookie",
        }
    }
}

/// All parts, and a browser before them.
pub struct Stage {
    pub browser: Browser,
    pub gate: Gate,
    pub pbx: Vodia,
    pub cloud: Voximplant,
    /// `http://third.test`: a page with links to the gate.
    _third: RawUpstream,
    pub app: App,
}

impl Stage {
    pub async fn set(setting: BrowserSetup) -> Self {
        Self::before(setting, "whoami = \"/api/me\"", "", &[]).await
    }

    /// Sets a stage where people prove who they are as these lines for `[app]` and for the rest of the file say. The browser
    /// knows more hosts.
    pub async fn before(setting: BrowserSetup, whoami: &str, methods: &str, more: &[(&str, SocketAddr)]) -> Self {
        let pbx = Vodia::start(Options { dialect: setting.dialect, ..Options::default() }).await;
        let cloud = Voximplant::start(["alice", "bob"].map(|user| (user, VOX_PASSWORD))).await;
        let app = App::start(AppOptions {
            pbx_origin: format!("https://{}", setting.pbx),
            tenant: "acme.test".into(),
            voximplant: Some(cloud.addr),
            cookie_same_site: setting.app_cookie,
        })
        .await;
        let gate = Gate::start(&configuration(setting, whoami, methods, &app, &pbx)).await;
        let third = RawUpstream::answering(third_page(setting.pbx)).await;
        let way = if setting.has_slow_way { slow_way(gate.addr).await } else { gate.addr };
        let own = [("app.test", gate.addr), ("evil.app.test", gate.addr), (setting.pbx, way)];
        let hosts = [&own[..], &[("third.test", third.addr)], more].concat();
        let refused = format!("[*.]{},*", setting.pbx);
        let settings = match setting.keeps_cookies {
            true => json!({}),
            false => json!({ "profile.content_settings.exceptions.cookies": { refused: { "setting": 2 } } }),
        };
        let browser = Browser::open(&hosts, &gate.dir.path().join("ca.pem"), settings).await;
        Self { browser, gate, pbx, cloud, _third: third, app }
    }

    /// Logs in at the app's own page, as a person does.
    pub async fn log_in(&self, user: &str) {
        self.browser.go("https://app.test/").await;
        self.browser.write("input[name=user]", user).await;
        self.browser.write("input[name=password]", user).await;
        self.browser.click("button").await;
        self.browser.find(&format!("body[data-page=app-portal][data-user={user}]")).await;
    }

    /// Waits until the browser is at the PBX's portal as an extension, in a language.
    pub async fn expect_portal(&self, extension: &str, language: &str) {
        let portal =
            format!("body[data-page=portal][data-user='{extension}'][data-domain='acme.test'][data-scope=user]");
        self.browser.find(&portal).await;
        let spoken = self.browser.run("return document.body.dataset.lang").await;
        assert_eq!(spoken, language, "the language at {}", self.browser.address().await);
    }

    /// Checks that neither history nor referrer nor any upstream was told a session or a token.
    pub async fn expect_no_secret_outside_cookies(&self) {
        let mut told = self.browser.history().await;
        told.push(self.browser.run("return document.referrer").await.as_str().unwrap().to_owned());
        let requests = [self.app.requests(), self.pbx.requests()].concat();
        told.extend(
            requests.iter().map(|seen| format!("{} {}", seen.target, seen.header("referer").unwrap_or_default())),
        );
        for secret in self.secrets() {
            assert!(!told.iter().any(|told| told.contains(&secret)), "{secret} is in {told:#?}");
        }
    }

    fn secrets(&self) -> Vec<String> {
        let sessions = self.pbx.sessions().into_iter().map(|session| session.id);
        sessions.chain(self.pbx.mints().into_iter().filter_map(|mint| mint.value)).collect()
    }

    /// Runs a `fetch` in the page and returns its status, or why the page may not know it.
    pub async fn fetch(&self, call: &str) -> Value {
        self.browser.run(&format!("return {call}.then((answer) => answer.status, (error) => String(error))")).await
    }
}

impl Drop for Stage {
    /// Tells the gate what its logs must not contain.
    fn drop(&mut self) {
        for secret in self.secrets() {
            self.gate.canary(secret);
        }
    }
}

/// Opens a way to an address that holds each new connection for 11 s. The PBX's token lives 10 s.
async fn slow_way(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut browser, _)) = listener.accept().await {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(11)).await;
                let mut gate = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut browser, &mut gate).await;
            });
        }
    });
    addr
}

fn configuration(setting: BrowserSetup, whoami: &str, methods: &str, app: &App, pbx: &Vodia) -> String {
    format!(
        r#"
[app]
url = "http://{}"
{whoami}
{}
[pbx]
url = "http://{}"
{}
socket = "/auth/pbx/socket"
admin = {{ user = "sso", password = {{ env = "PBX_ADMIN" }} }}
handoff = "{}"
{}
[voximplant]
users = {{ file = "voximplant.htdigest" }}
[[allow]]
name = "staff"
pbx = {{ domain = "{{tenant}}", account = "{{ext}}" }}
voximplant = "{{vox}}"
[[allow]]
name = "app redirects"
auth = "redirect"
pbx = {{ domain = "{{domain}}", account = "{{account}}" }}
[limits]
client = "1000/min"
caller = "1000/min"
account = "1000/min"
{methods}
"#,
        app.addr,
        setting.app_lines,
        pbx.addr,
        setting.place(),
        setting.handoff(),
        setting.pbx_lines
    )
}

fn third_page(pbx: &str) -> String {
    let page = format!(
        "<!doctype html><title>A CRM</title><link rel=icon href='data:,'><body data-page=third>\
        <a id=link href='https://app.test/auth/pbx?lang=fr'>Open the PBX</a> \
        <a id=redirect href='https://app.test/open-pbx?lang=de'>Open by redirect</a> \
        <a id=page href='https://{pbx}/usr_index.htm?view=calls'>A page of the PBX</a> \
        <a id=next href='https://app.test/auth/pbx?next=/usr_index.htm'>The same by name</a>"
    );
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{page}", page.len())
}
