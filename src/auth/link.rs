//! Method `link`: a server signed an address, which logs one person in, once.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::credentials::{Credentials, Shown};
use super::{AuthRequest, Error, Proof, SingleUse, Verdict};
use crate::config::LinkConfig;
use crate::model::link::{self, LinkError};
use crate::model::login::LoginKind;
use crate::model::principal::Principal;
use crate::observe::metrics;
use crate::once::OnceStore;

/// The scope of the marks of used links.
const SCOPE: &str = "link";

/// All methods of type `link`: the key of a link belongs to one of them, or the link is bad.
#[derive(Debug)]
pub(super) struct SignedLinks(Vec<LinkMethod>);

impl SignedLinks {
    pub(super) fn of(method: LinkMethod) -> Self {
        Self(vec![method])
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    async fn judge_link(&self, query: &str, request: &AuthRequest<'_>) -> Verdict {
        let key = link::key_of(query).unwrap_or_default();
        let found = self.0.iter().find(|method| method.has_key(&key));
        match found {
            Some(method) => method.judge(request, query, Timestamp::now()).await,
            None => Verdict::refuse("link", LinkError::Key.to_string()),
        }
    }
}

impl Credentials for SignedLinks {
    fn label(&self) -> metrics::CountedMethod {
        metrics::CountedMethod::Link
    }

    fn find<'a>(&self, request: &AuthRequest<'a>) -> Option<Shown<'a>> {
        let query = request.query.filter(|query| link::is_signed_link(query))?;
        Some(Shown::Text(Cow::Borrowed(query.as_bytes())))
    }

    async fn judge(&self, _shown: &Shown<'_>, request: &AuthRequest<'_>) -> Result<Verdict, Error> {
        Ok(self.judge_link(request.query.unwrap_or_default(), request).await)
    }
}

/// One method of the configuration.
#[derive(Debug)]
pub(super) struct LinkMethod {
    name: String,
    settings: LinkConfig,
    once: Arc<OnceStore>,
}

impl LinkMethod {
    pub(super) const fn new(name: String, settings: LinkConfig, once: Arc<OnceStore>) -> Self {
        Self { name, settings, once }
    }

    fn has_key(&self, id: &str) -> bool {
        self.settings.keys.iter().any(|key| key.id() == id)
    }

    async fn judge(&self, request: &AuthRequest<'_>, query: &str, now: Timestamp) -> Verdict {
        if request.login != LoginKind::Pbx {
            return self.reject("a link is for /auth/pbx alone");
        }
        let Ok(host) = request.host.to_str() else { return self.reject("the host is not text") };
        let ttl = SignedDuration::try_from(self.settings.ttl).unwrap_or(SignedDuration::ZERO);
        let link = match link::read(query, host, &self.settings.keys, ttl, now) {
            Ok(link) => link,
            Err(invalid) if invalid.is_genuine() => return self.reject(invalid.to_string()),
            Err(invalid) => return Verdict::refuse(self.name.clone(), invalid.to_string()),
        };
        let Some(subject) = subject(&link.claims) else { return self.reject("the link names no account and no user") };
        // An early answer. The mark that is set right before the session is opened decides.
        if self.once.is_marked(SCOPE, &link.id).await {
            return self.reject("the link was used before");
        }
        let claims = link.claims.into_iter().map(|(name, value)| (name, value.into())).collect();
        let principal = Principal { method: self.name.clone(), subject, claims };
        let single_use = SingleUse { scope: SCOPE.to_owned(), id: link.id.to_vec(), until: link.until };
        Verdict::Admit(Proof::deliberate(principal).once(single_use).confirmed(self.settings.confirm))
    }

    /// Refuses a link that is genuine.
    fn reject(&self, reason: impl Into<Cow<'static, str>>) -> Verdict {
        Verdict::reject(self.name.clone(), reason)
    }
}

/// Returns the subject of a link for limits and the audit log.
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
