//! Signed links.

use callgate::model::link::LinkKey;
use callgate::model::secret::Secret;
use jiff::{SignedDuration, Timestamp};

use crate::kit::gate::LINK_SECRET;

/// The fields that a browser sends when a person clicks.
pub const CLICK: [(&str, &str); 4] = [
    ("sec-fetch-site", "cross-site"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-user", "?1"),
];

pub const RULE: &str = r#"
[[allow]]
name = "links"
auth = "link"
pbx = { domain = "{domain}", account = "{account}" }
"#;

pub fn method(more: &str) -> String {
    format!(
        "[[auth]]\ntype = \"link\"\nkeys = [{{ kid = \"2026\", secret = {{ file = \"link.key\" }} }}]\n{more}\n{RULE}"
    )
}

/// Signs a link that is good for some seconds; each has a nonce of its own.
pub fn sign(host: &str, claims: &[(&str, &str)], seconds: i64) -> String {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let expires = Timestamp::now() + SignedDuration::from_secs(seconds);
    let key = LinkKey::new("2026".to_owned(), &Secret::new(LINK_SECRET.to_owned()));
    format!(
        "/auth/pbx?{}",
        key.sign(host, claims, expires, &format!("nonce-of-test-{:08}-{count:08}", std::process::id()))
    )
}

/// Signs a link for extension 40.
pub fn link() -> String {
    sign("app.test", &[("account", "40"), ("domain", "acme.test")], 50)
}
