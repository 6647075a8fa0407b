//! Method `link`: an address that a server has signed says who may log in, once.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{Ask, Once, Proof, Verdict};
use crate::config::LinkConfig;
use crate::model::link::{self, LinkError};
use crate::model::login::LoginKind;
use crate::model::principal::Principal;
use crate::state::Store;

/// Links are marked as used under this name.
const SCOPE: &str = "link";

/// One method of the configuration.
#[derive(Debug)]
pub struct Link {
    name: String,
    settings: LinkConfig,
    store: Arc<Store>,
}

impl Link {
    /// Prepares a method.
    #[must_use]
    pub const fn new(name: String, settings: LinkConfig, store: Arc<Store>) -> Self {
        Self { name, settings, store }
    }

    fn has_key(&self, id: &str) -> bool {
        self.settings.keys.iter().any(|key| key.id() == id)
    }

    fn judge(&self, ask: &Ask<'_>, query: &str, now: Timestamp) -> Verdict {
        if ask.act != LoginKind::Pbx {
            return self.reject("a link is for /auth/pbx alone");
        }
        let Ok(host) = ask.host.to_str() else { return self.reject("the host is no text") };
        let ttl = SignedDuration::try_from(self.settings.ttl).unwrap_or(SignedDuration::ZERO);
        let link = match link::read(query, host, &self.settings.keys, ttl, now) {
            Ok(link) => link,
            Err(invalid) if invalid.is_genuine() => return self.reject(invalid.to_string()),
            Err(invalid) => return Verdict::refuse(self.name.clone(), invalid.to_string()),
        };
        let Some(subject) = subject(&link.claims) else { return self.reject("the link names nobody") };
        // Said before anything else is done for it; what counts is the mark that is made before the session is.
        if self.store.is_marked(SCOPE, &link.id) {
            return self.reject("the link was used before");
        }
        let claims = link.claims.into_iter().map(|(name, value)| (name, value.into())).collect();
        let principal = Principal { method: self.name.clone(), subject, claims };
        let once = Once { scope: SCOPE.to_owned(), id: link.id.to_vec(), until: link.until };
        Verdict::Admit(Proof::deliberate(principal).once(once).confirmed(self.settings.confirm))
    }

    /// Refuses a link that is no guess.
    fn reject(&self, reason: impl Into<Cow<'static, str>>) -> Verdict {
        Verdict::reject(self.name.clone(), reason)
    }
}

/// Finds the query of a link.
pub(super) fn find<'a>(ask: &Ask<'a>) -> Option<&'a str> {
    ask.query.filter(|query| link::is_signed_link(query))
}

/// Judges a link by the method that has its key.
pub(super) fn judge<'l>(mut links: impl Iterator<Item = &'l Link>, ask: &Ask<'_>, query: &str) -> Verdict {
    let key = link::key_of(query).unwrap_or_default();
    let found = links.find(|link| link.has_key(&key));
    found.map_or_else(
        || Verdict::refuse("link", LinkError::Key.to_string()),
        |link| link.judge(ask, query, Timestamp::now()),
    )
}

/// Returns who a link is for, as limits and the audit log name them.
fn subject(claims: &[(String, String)]) -> Option<String> {
    let claim = |name: &str| claims.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    if let Some(named) = claim("sub").or_else(|| claim("user")) {
        return Some(named.to_owned());
    }
    let account = claim("account")?;
    Some(claim("domain").map_or_else(|| account.to_owned(), |domain| format!("{account}@{domain}")).to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_names_somebody() {
        #[track_caller]
        fn check(claims: &[(&str, &str)], expected: Option<&str>) {
            let claims: Vec<_> = claims.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
            assert_eq!(subject(&claims).as_deref(), expected, "{claims:?}");
        }
        check(&[("account", "40"), ("domain", "ACME.test"), ("sub", "Ann")], Some("Ann"));
        check(&[("account", "40"), ("domain", "ACME.test"), ("user", "ann")], Some("ann"));
        check(&[("account", "40"), ("domain", "ACME.test")], Some("40@acme.test"));
        check(&[("account", "40")], Some("40"));
        check(&[("domain", "acme.test"), ("lang", "de")], None);
    }
}
