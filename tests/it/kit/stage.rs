//! A gate before the stand-ins for app and PBX. A test states only what differs from the default.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::kit::app::{App, AppOptions, SameSite, Whoami};
use crate::kit::client::{Answer, RequestBuilder};
use crate::kit::gate::Gate;
use crate::kit::vodia::{Dialect, Faults, Options, Tenant, Vodia};

/// The rules, unless a test has its own.
pub const STAFF: &str = r#"
[[allow]]
name = "staff"
pbx = { domain = "{tenant}", account = "{ext}" }
voximplant = "{vox}"
"#;

/// Quotas that no test reaches by accident.
const ROOMY: &str = r#"client = "1000/min"
caller = "1000/min"
account = "1000/min"
failures = "1000/min"
pbx_logins = "1000/min""#;

/// The parts of a stage: lines for the tables of `proxy.toml`, and the servers behind the gate.
pub struct Plan<'a> {
    pub dialect: Dialect,
    pub tenant: &'a str,
    /// Lines before all tables.
    pub top: &'a str,
    pub app: &'a str,
    pub pbx: &'a str,
    pub hosts: &'a str,
    pub users: &'a str,
    pub voximplant: &'a str,
    pub rules: &'a str,
    pub limits: &'a str,
    pub more: &'a str,
    /// Another server in the place of the app.
    pub app_at: Option<SocketAddr>,
    /// Another server in the place of the PBX.
    pub pbx_at: Option<SocketAddr>,
    /// A `url` before that of the PBX.
    pub pbx_first_at: Option<SocketAddr>,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self {
            dialect: Dialect::A,
            tenant: "acme.test",
            top: "",
            app: "whoami = \"/api/me\"",
            pbx: "",
            hosts: "hosts = [\"pbx.test\"]",
            users: "voximplant.htdigest",
            voximplant: "",
            rules: STAFF,
            limits: ROOMY,
            more: "",
            app_at: None,
            pbx_at: None,
            pbx_first_at: None,
        }
    }
}

/// A gate with the stand-ins behind it. When it ends, the gate's logs are searched for every session the PBX opened.
pub struct Stage {
    pub gate: Gate,
    pub app: App,
    pub pbx: Vodia,
}

impl Plan<'_> {
    pub async fn start(self) -> Stage {
        let tenants = vec![Tenant::with_alice_and_bob(self.tenant)];
        let pbx = Vodia::start(Options { dialect: self.dialect, tenants, ..Options::default() }).await;
        let app = App::start(AppOptions {
            pbx_origin: "https://pbx.test".into(),
            tenant: self.tenant.into(),
            voximplant: None,
            cookie_same_site: SameSite::Lax,
        })
        .await;
        let gate = Gate::start(&self.text(self.app_at.unwrap_or(app.addr), self.pbx_at.unwrap_or(pbx.addr))).await;
        Stage { gate, app, pbx }
    }

    fn text(&self, app_at: SocketAddr, pbx_at: SocketAddr) -> String {
        let pbx_first = self.pbx_first_at.map_or(String::new(), |at| format!("\"http://{at}\", "));
        let Self { top, app, pbx, hosts, users, voximplant, rules, limits, more, .. } = self;
        format!(
            r#"
{top}
[app]
url = "http://{app_at}"
{app}
[pbx]
url = [{pbx_first}"http://{pbx_at}"]
admin = {{ user = "sso", password = {{ env = "PBX_ADMIN" }} }}
{hosts}
{pbx}
[voximplant]
users = {{ file = "{users}" }}
{voximplant}
{rules}
[limits]
{limits}
{more}"#
        )
    }
}

impl Stage {
    pub async fn new() -> Self {
        Plan::default().start().await
    }

    /// Asks for a path with the cookie of an app user.
    pub fn as_user(&self, name: &str, path: &str) -> RequestBuilder<'_> {
        self.gate.get(path).cookie(&self.app.log_in(name))
    }

    /// Asks for a path as alice, extension 40.
    pub fn as_alice(&self, path: &str) -> RequestBuilder<'_> {
        self.as_user("alice", path)
    }

    /// Posts to a path as alice.
    pub fn alice_posts(&self, path: &str, content_type: &str, body: impl Display) -> RequestBuilder<'_> {
        self.gate.post(path, content_type, body.to_string()).cookie(&self.app.log_in("alice"))
    }

    /// Lets the app answer every question with these claims.
    pub fn claims(&self, claims: Value) {
        self.app.set(|faults| faults.whoami = Whoami::Claims(claims));
    }

    /// Goes the rest of a hand-over from an address, as the browser does that got a cookie at its beginning, on `app.test`.
    pub async fn redeem(&self, began: &str, address: &str) -> Answer {
        let (mut there, mut address) = (String::new(), address.to_owned());
        loop {
            let (host, path) = address.strip_prefix("https://").unwrap().split_once('/').unwrap();
            let sent = if host == "app.test" { began.split(';').next().unwrap() } else { &there };
            let asking = self.gate.get(&format!("/{path}")).host(host);
            let answer = if sent.is_empty() { asking } else { asking.cookie(sent) }.send().await;
            if answer.status != 303 {
                return answer;
            }
            let set = answer.header("set-cookie").split(';').next().unwrap().to_owned();
            address = answer.header("location").to_owned();
            if !set.is_empty() {
                there = set;
            }
        }
    }

    /// Changes what goes wrong at the PBX.
    pub fn pbx_does(&self, change: impl FnOnce(&mut Faults)) {
        self.pbx.set(change);
    }

    /// Returns the accounts of all sessions requested at the PBX, as `user@domain`, refused ones included.
    pub fn minted(&self) -> Vec<String> {
        let shown = |text: Option<String>| text.unwrap_or_else(|| "(none)".into());
        self.pbx.mints().into_iter().map(|mint| format!("{}@{}", shown(mint.username), shown(mint.domain))).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let sessions = self.pbx.sessions().into_iter().map(|session| session.id);
        for secret in sessions.chain(self.pbx.mints().into_iter().filter_map(|mint| mint.value)) {
            self.gate.canary(secret);
        }
    }
}

/// Waits until something is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
