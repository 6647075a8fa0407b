//! A gate before an app and two PBX nodes, each with tenants of its own.

use crate::kit::app::{App, AppOptions, SameSite, Whoami};
use crate::kit::gate::Gate;
use crate::kit::vodia::{Dialect, Options, Tenant, Vodia};
use serde_json::json;

/// The name of the administrator of the second node.
pub const SOUTH_ADMIN: &str = "south-sso";

/// The parts of a stage with two nodes: lines for the tables of `proxy.toml`.
pub struct NodesPlan<'a> {
    pub dialects: [Dialect; 2],
    pub app: &'a str,
    pub north: &'a str,
    pub south: &'a str,
    pub rules: &'a str,
    pub limits: &'a str,
    pub more: &'a str,
}

/// The rules, unless a test has its own.
const STAFF: &str = "[[allow]]\nname = \"staff\"\nauth = \"app\"\npbx = { domain = \"{tenant}\", account = \"{ext}\" }\n\
    [[allow]]\nname = \"redirects\"\nauth = \"redirect\"\npbx = { domain = \"{domain}\", account = \"{account}\" }\n";

impl Default for NodesPlan<'_> {
    fn default() -> Self {
        Self {
            dialects: [Dialect::A, Dialect::A],
            app: "whoami = \"/api/me\"",
            north: "",
            south: "",
            rules: STAFF,
            limits: "account = \"1000/min\"",
            more: "",
        }
    }
}

/// A gate with the stand-ins behind it. The tenant `acme.test` is at `north` with the hosts `acme.test` and `pbx.test`, the
/// tenant `other.test` at `south` with the hosts `other.test` and `*.pbx.test`. When it ends, the logs are searched for all
/// sessions.
pub struct Nodes {
    pub gate: Gate,
    pub app: App,
    pub north: Vodia,
    pub south: Vodia,
}

impl NodesPlan<'_> {
    pub async fn start(self) -> Nodes {
        let [north, south] = self.dialects;
        let tenants = |name: &str| vec![Tenant::with_alice_and_bob(name)];
        let north = Options { dialect: north, tenants: tenants("acme.test"), ..Options::default() };
        let south = Options {
            dialect: south,
            tenants: tenants("other.test"),
            admin_user: SOUTH_ADMIN.to_owned(),
            ..Options::default()
        };
        let (north, south) = (Vodia::start(north).await, Vodia::start(south).await);
        let app = App::start(AppOptions {
            pbx_origin: "https://pbx.test".into(),
            tenant: "acme.test".into(),
            voximplant: None,
            cookie_same_site: SameSite::Lax,
        })
        .await;
        let gate = Gate::start(&self.text(&app, &north, &south)).await;
        Nodes { gate, app, north, south }
    }

    /// Writes the configuration for these servers.
    pub fn text(&self, app: &App, north: &Vodia, south: &Vodia) -> String {
        let nodes = [
            node("north", &["acme.test", "pbx.test"], "sso", north, self.north),
            node("south", &["other.test", "*.pbx.test"], SOUTH_ADMIN, south, self.south),
        ];
        let Self { app: of_app, rules, limits, more, .. } = self;
        let limits = format!("client = \"1000/min\"\nfailures = \"1000/min\"\ncaller = \"1000/min\"\n{limits}");
        format!(
            "workers = 1\n[app]\nurl = \"http://{}\"\nhosts = [\"app.test\"]\n{of_app}\n{}\n{rules}\n[limits]\n{limits}\n{more}",
            app.addr,
            nodes.concat()
        )
    }
}

/// Writes the table of a node.
pub fn node(name: &str, hosts: &[&str], admin: &str, at: &Vodia, more: &str) -> String {
    format!(
        "[[pbx]]\nname = \"{name}\"\nurl = \"http://{}\"\nhosts = {hosts:?}\n\
         admin = {{ user = \"{admin}\", password = {{ env = \"PBX_ADMIN\" }} }}\n{more}\n",
        at.addr
    )
}

impl Nodes {
    pub async fn new() -> Self {
        NodesPlan::default().start().await
    }

    /// Lets the app say that every caller is extension 40 of a tenant.
    pub fn tenant(&self, tenant: &str) -> &Self {
        self.app.set(|faults| faults.whoami = Whoami::Claims(json!({ "ext": "40", "tenant": tenant })));
        self
    }

    /// Returns how many sessions were asked for at each node.
    pub fn minted(&self) -> [usize; 2] {
        [&self.north, &self.south].map(|pbx| pbx.mints().len())
    }

    /// Returns how many requests for passing on each node has seen.
    pub fn paths(&self) -> [Vec<String>; 2] {
        [&self.north, &self.south].map(|pbx| pbx.requests().into_iter().map(|seen| seen.target).collect())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for pbx in [&self.north, &self.south] {
            let sessions = pbx.sessions().into_iter().map(|session| session.id);
            sessions.chain(pbx.mints().into_iter().filter_map(|mint| mint.value)).for_each(|id| self.gate.canary(id));
        }
    }
}
