//! Method `key`: another server shows a key that an operator gave it. We hold only its SHA-256.

use std::rc::Rc;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;

use super::{Ask, Proof, Verdict};
use crate::config::KeyConfig;
use crate::model::grant::{ACCOUNT, Requested};
use crate::model::login::LoginKind;
use crate::model::principal::{Claim, Claims, Principal};

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    name: String,
    settings: KeyConfig,
}

impl Key {
    /// Prepares a key.
    #[must_use]
    pub const fn new(name: String, settings: KeyConfig) -> Self {
        Self { name, settings }
    }

    /// Adds what the caller chose to its claims; nothing if it lies outside the key's lists.
    ///
    /// A key for one domain need not be told which.
    pub(super) fn choose(&self, mut principal: Principal, wish: &Requested) -> Option<Principal> {
        let domain = wish.domain.as_deref().or_else(|| self.only_domain());
        let (account, user) = (wish.account.as_deref(), wish.user.as_deref());
        let may_choose = domain.is_none_or(|domain| self.lists_domain(domain))
            && account.is_none_or(|account| self.lists_account(account))
            && user.is_none_or(|user| self.lists_user(user));
        if !may_choose {
            return None;
        }
        for (name, chosen) in [("domain", domain), (ACCOUNT, account), ("user", user)] {
            principal.claims.extend(chosen.map(|value| (name.to_owned(), value.into())));
        }
        if self.settings.accounts.is_some() {
            // It is for accounts, whichever is chosen: no administrator's.
            principal.claims.entry(ACCOUNT.to_owned()).or_insert(Claim::List(Vec::new()));
        }
        Some(principal)
    }

    fn only_domain(&self) -> Option<&str> {
        match self.settings.domains.as_slice() {
            [only] => Some(only.as_str()),
            _ => None,
        }
    }

    fn lists_domain(&self, name: &str) -> bool {
        self.settings.domains.iter().any(|domain| domain.as_str().eq_ignore_ascii_case(name))
    }

    fn lists_account(&self, name: &str) -> bool {
        self.settings.accounts.as_ref().is_none_or(|accounts| accounts.iter().any(|account| account == name))
    }

    fn lists_user(&self, name: &str) -> bool {
        self.settings.users.iter().any(|user| user == name)
    }

    /// Refuses the key, which is genuine.
    fn reject(&self, reason: &'static str) -> Verdict {
        Verdict::reject(self.name.clone(), reason)
    }

    fn judge(self: &Rc<Self>, ask: &Ask<'_>, now: Timestamp) -> Verdict {
        let settings = &self.settings;
        if settings.expires.is_some_and(|expires| expires <= now) {
            return self.reject("the key has expired");
        }
        if !settings.from.is_empty() && !settings.from.iter().any(|network| network.contains(&ask.origin.client)) {
            return self.reject("the key may not come from this address");
        }
        let in_scope = match ask.act {
            LoginKind::Pbx => settings.pbx,
            LoginKind::Ott => settings.ott,
        };
        if !in_scope {
            return self.reject("the key is not for this endpoint");
        }
        let principal =
            Principal { method: self.name.clone(), subject: format!("key:{}", self.name), claims: Claims::new() };
        Verdict::Admit(Proof::by_key(principal, Rc::clone(self)))
    }
}

/// Judges what was shown against all keys.
pub(super) fn judge<'k>(keys: impl Iterator<Item = &'k Rc<Key>>, shown: &[u8], ask: &Ask<'_>) -> Verdict {
    let shown = digest(&SHA256, shown);
    // Digests are compared, so that the time taken says nothing about the key; all are, so that it says nothing about which.
    let mut found = None;
    for key in keys {
        if aws_lc_rs::constant_time::verify_slices_are_equal(&key.settings.sha256, shown.as_ref()).is_ok() {
            found = Some(key);
        }
    }
    found.map_or_else(|| Verdict::refuse("key", "the key is not known"), |key| key.judge(ask, Timestamp::now()))
}
