//! A gate whose callers log in at an identity provider: a stand-in that can lie.

pub mod provider;

pub use self::provider::SECRET;
use self::provider::{CLIENT, Provider};
use crate::kit::client::Answer;
use crate::kit::stage::{Plan, Stage};

pub const HTML: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

pub const RULES: &str = "[[allow]]\npbx = { domain = \"{tenant}\", account = \"{ext}\" }\nvoximplant = \"{vox}\"";

/// The key with which tests seal cookies.
pub const KEY: &str = "0123456789abcdef0123456789abcdef";

/// A gate with a provider.
pub struct OidcStage {
    pub stage: Stage,
    pub provider: Provider,
}

/// A login on its way: where it leads, and what the browser keeps.
pub struct PendingLogin {
    pub address: String,
    pub cookie: String,
}

impl OidcStage {
    pub async fn new() -> Self {
        Self::with("").await
    }

    /// As `new`, with more lines for the method.
    pub async fn with(more: &str) -> Self {
        let provider = Provider::start().await;
        Self::before(provider, more).await
    }

    pub async fn before(provider: Provider, more: &str) -> Self {
        let method = method("sso", &provider, more);
        let stage = Plan { app: "", rules: RULES, more: &method, ..Plan::default() }.start().await;
        stage.gate.canary(SECRET);
        Self { stage, provider }
    }

    /// Opens a path of the gate as a person does.
    pub async fn open(&self, path: &str, cookies: &str) -> Answer {
        let asked = self.stage.gate.get(path).header("accept", HTML);
        if cookies.is_empty() { asked.send().await } else { asked.cookie(cookies).send().await }
    }

    /// Begins a login for what a path asks for.
    pub async fn begin(&self, path: &str) -> PendingLogin {
        let sent = self.open(path, "").await.expect(302);
        let login = sent.header("location").strip_prefix("https://app.test").unwrap().to_owned();
        assert!(login.starts_with("/auth/callgate/login?"), "{login}");
        let page = self.open(&login, "").await.expect(200);
        PendingLogin { address: link(&page), cookie: pair(set(&page).last().unwrap()) }
    }

    /// Logs in at the provider, and returns the path to which it sends the browser back.
    pub fn log_in(&self, way: &PendingLogin) -> String {
        let (code, asked) = self.provider.log_in(&way.address);
        for secret in [&code, &asked["state"], &asked["nonce"]] {
            self.stage.gate.canary(secret);
        }
        format!("{}?{}", path_of(&asked["redirect_uri"]), query(&[("code", &code), ("state", &asked["state"])]))
    }

    /// Ends a login, and returns the cookie that remembers it with the address that comes next.
    pub async fn end(&self, way: &PendingLogin) -> (String, String) {
        let page = self.open(&self.log_in(way), &way.cookie).await.expect(200);
        (pair(&set(&page)[0]), link(&page))
    }

    /// Logs in as the caller for whom the provider vouches.
    pub async fn cookie(&self) -> String {
        self.end(&self.begin("/auth/pbx").await).await.0
    }

    /// Checks that a login that the provider spoils ends with a status, for a reason that only the operator learns.
    #[track_caller]
    pub fn check_refused<'s>(&'s self, status: u16, reason: &'s str) -> impl Future<Output = ()> + 's {
        let place = std::panic::Location::caller();
        async move {
            let way = self.begin("/auth/pbx").await;
            let answer = self.open(&self.log_in(&way), &way.cookie).await;
            assert_eq!(answer.status.as_u16(), status, "{place}: {reason}: {answer:?}");
            assert!(!answer.text().contains(reason), "{place}: {answer:?}");
            let set = set(&answer);
            assert!(set.len() == 1 && set[0].contains("=; Max-Age=0"), "{place}: the login is forgotten: {set:?}");
            self.stage.gate.line(&["audit refusal", reason]).await;
            assert!(self.stage.minted().is_empty());
        }
    }
}

impl Drop for OidcStage {
    fn drop(&mut self) {
        for token in self.provider.given() {
            self.stage.gate.canary(token);
        }
    }
}

pub fn method(name: &str, provider: &Provider, more: &str) -> String {
    let issuer = provider.issuer();
    format!(
        "[[auth]]\ntype = \"oidc\"\nname = \"{name}\"\nissuer = \"{issuer}\"\nclient_id = \"{CLIENT}\"\n\
         client_secret = {{ env = \"OIDC_SECRET\" }}\n{more}\n"
    )
}

/// Returns where a page leads.
pub fn link(page: &Answer) -> String {
    let href = page.text().split("<a href=\"").nth(1).unwrap().split('"').next().unwrap();
    href.replace("&amp;", "&")
}

pub fn set(answer: &Answer) -> Vec<String> {
    answer.headers.get_all("set-cookie").iter().map(|line| line.to_str().unwrap().to_owned()).collect()
}

/// Returns what a browser sends of a cookie.
pub fn pair(set: &str) -> String {
    set.split(';').next().unwrap().to_owned()
}

pub fn path_of(address: &str) -> String {
    address.strip_prefix("https://app.test").unwrap().to_owned()
}

pub fn query(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}
