//! The cookies by which the app may recognize its users.

use crate::config::{Config, CookieFilter, MethodKind};
use crate::message::cookies;
use crate::model::credential_mark::CredentialMark;

/// The shortest value that is marked where the configuration names its cookie, in bytes.
const SHORTEST: usize = 8;

/// The cookies that the app may recognize its users by.
#[derive(Debug)]
pub(super) struct AppCookies(CookieFilter);

impl AppCookies {
    /// Reads which cookies the methods of type `app` show to the app.
    pub(super) fn of(config: &Config) -> Self {
        let mut listed = Vec::new();
        for method in &config.methods {
            let MethodKind::App(app) = &method.kind else { continue };
            match &app.cookies {
                CookieFilter::All => return Self(CookieFilter::All),
                CookieFilter::Listed(names) => listed.extend_from_slice(names),
            }
        }
        // Without a whoami, any cookie of the app may be that of its users.
        Self(if listed.is_empty() { CookieFilter::All } else { CookieFilter::Listed(listed) })
    }

    /// Marks a pair of a `Cookie` line, or the beginning of a `Set-Cookie` line.
    pub(super) fn mark(&self, pair: &[u8]) -> Option<CredentialMark> {
        let (name, value) = cookies::split(pair);
        match &self.0 {
            _ if cookies::is_ours(pair) => None,
            CookieFilter::All => CredentialMark::likely(name, value),
            CookieFilter::Listed(names) => {
                let is_listed = names.iter().any(|listed| listed.as_bytes() == name);
                (is_listed && value.len() >= SHORTEST).then(|| CredentialMark::named(name, value))
            }
        }
    }
}
