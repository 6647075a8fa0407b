//! Method `key`: another server shows an API key. callgate holds only its SHA-256.

use std::borrow::Cow;
use std::rc::Rc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;

use super::bearer::{self, Bearer};
use super::credentials::{Credentials, Shown};
use super::{AuthRequest, Error, Proof, Verdict};
use crate::config::KeyConfig;
use crate::model::grant::{ACCOUNT, Requested};
use crate::model::login::LoginKind;
use crate::model::principal::{Claim, Claims, Principal};
use crate::observe::metrics;

/// All keys of the configuration: a key that is shown is one of them or bad.
#[derive(Debug)]
pub(super) struct ApiKeys {
    keys: Vec<Rc<KeyMethod>>,
    /// `Authorization: Bearer` may carry a token too.
    shares_bearer: bool,
}

impl ApiKeys {
    pub(super) fn of(key: KeyMethod) -> Self {
        Self { keys: vec![Rc::new(key)], shares_bearer: false }
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.keys.extend(more.keys);
    }

    /// Leaves bearer credentials in the form of a token to the tokens.
    pub(super) const fn share_bearer(&mut self) {
        self.shares_bearer = true;
    }

    fn judge_key(&self, shown: &[u8], request: &AuthRequest<'_>) -> Verdict {
        let shown = digest(&SHA256, shown);
        // The time must not tell anything about a key, so digests are compared; nor which key it is, so all are.
        let mut found = None;
        for key in &self.keys {
            if verify_slices_are_equal(&key.settings.sha256, shown.as_ref()).is_ok() {
                found = Some(key);
            }
        }
        found.map_or_else(|| Verdict::refuse("key", "the key is not known"), |key| key.judge(request, Timestamp::now()))
    }
}

impl Credentials for ApiKeys {
    fn label(&self) -> metrics::CountedMethod {
        metrics::CountedMethod::Key
    }

    fn find<'a>(&self, request: &AuthRequest<'a>) -> Option<Shown<'a>> {
        match bearer::of(request.headers)? {
            bearer if self.shares_bearer && bearer.is_token() => None,
            Bearer::Shown(text) => Some(Shown::Text(Cow::Borrowed(text))),
            Bearer::Malformed => Some(Shown::Malformed(bearer::MALFORMED)),
        }
    }

    async fn judge(&self, shown: &Shown<'_>, request: &AuthRequest<'_>) -> Result<Verdict, Error> {
        Ok(match shown {
            Shown::Text(text) => self.judge_key(text, request),
            Shown::Malformed(problem) => Verdict::reject("bearer", *problem),
            Shown::Remembered(_) | Shown::InRequest => Verdict::Abstain,
        })
    }
}

/// One key.
#[derive(Debug)]
pub(super) struct KeyMethod {
    name: String,
    settings: KeyConfig,
}

impl KeyMethod {
    pub(super) const fn new(name: String, settings: KeyConfig) -> Self {
        Self { name, settings }
    }

    /// Adds the chosen account to the caller's claims. Returns `None` if the key may not name it.
    ///
    /// Where the key is for one domain, the request need not name the domain.
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
            // Such a key opens no administrator's session, even where no account is chosen.
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

    /// Refuses a key that is genuine.
    fn reject(&self, reason: &'static str) -> Verdict {
        Verdict::reject(self.name.clone(), reason)
    }

    fn judge(self: &Rc<Self>, request: &AuthRequest<'_>, now: Timestamp) -> Verdict {
        let settings = &self.settings;
        if settings.expires.is_some_and(|expires| expires <= now) {
            return self.reject("the key has expired");
        }
        if !settings.from.is_empty() && !settings.from.iter().any(|network| network.contains(&request.origin.client)) {
            return self.reject("the key may not come from this address");
        }
        let in_scope = match request.login {
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
