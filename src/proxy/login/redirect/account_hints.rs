//! The fields by which the app names an account in its answer, or says that its user has logged out.

use http::header::{HeaderMap, HeaderValue};

use crate::message::account_fields::{PBX_ACCOUNT, PBX_DOMAIN, PBX_LANG, PBX_LOGOUT, is_account_field};
use crate::model::grant::REDIRECT;
use crate::model::principal::{Claims, Principal};

/// The account that the app names in its answer.
#[derive(Debug, Default)]
pub(in crate::proxy) struct AccountHints {
    account: Option<HeaderValue>,
    domain: Option<HeaderValue>,
    lang: Option<HeaderValue>,
    /// Whether one of the fields stands twice.
    is_doubled: bool,
    /// Whether the user has logged out of the app.
    pub(super) logs_out: bool,
}

impl AccountHints {
    /// Reads the fields by which an app names an account, in any answer of any upstream.
    pub(in crate::proxy) fn read(headers: &HeaderMap) -> Self {
        if !headers.keys().any(is_account_field) {
            return Self::default();
        }
        let is_doubled =
            [PBX_ACCOUNT, PBX_DOMAIN, PBX_LANG].iter().any(|name| headers.get_all(name).iter().count() > 1);
        let first = |name| headers.get(name).cloned();
        Self {
            account: first(PBX_ACCOUNT),
            domain: first(PBX_DOMAIN),
            lang: first(PBX_LANG),
            is_doubled,
            logs_out: logs_out(headers),
        }
    }

    pub(super) const fn name_an_account(&self) -> bool {
        self.account.is_some() || self.domain.is_some()
    }

    /// Reads the names as a credential of the method `redirect`.
    pub(super) fn principal(&self) -> Option<Principal> {
        let text = |value: &Option<HeaderValue>| Some(value.as_ref()?.to_str().ok()?.to_owned());
        let (account, domain) = (text(&self.account)?, text(&self.domain)?);
        let subject = format!("{account}@{domain}").to_lowercase();
        let mut claims = Claims::from([("account".into(), account.into()), ("domain".into(), domain.into())]);
        claims.extend(text(&self.lang).map(|lang| ("lang".into(), lang.into())));
        (!self.is_doubled).then(|| Principal { method: REDIRECT.into(), subject, claims })
    }
}

/// Reads `PBX-Logout`. In doubt no caller is logged out: every line must say `1`.
fn logs_out(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(PBX_LOGOUT).iter().map(|line| line.as_bytes().trim_ascii()).peekable();
    let is_told = lines.peek().is_some();
    let is_clear = lines.all(|line| line == b"1");
    if is_told && !is_clear {
        tracing::warn!("the app sent a PBX-Logout other than 1: it has no effect");
    }
    is_told && is_clear
}
