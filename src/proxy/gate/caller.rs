//! The caller of a login whose credential is spent, as later steps know it: the redemption of a ticket, the audit log.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::attempt::Attempt;
use crate::auth::{Chain, ProviderLogin};
use crate::model::credential_mark::{CredentialMark, MarkKind};
use crate::model::grant::REDIRECT;
use crate::model::principal::Principal;
use crate::observe::RequestId;
use crate::pbx::{MARKS, SessionLogin};

/// The longest subject that is kept, in bytes. The audit log shows less of it.
const MAX_SUBJECT: usize = 1024;

/// The caller of a login. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::proxy) struct Caller {
    /// The auth method that proved it.
    pub(in crate::proxy) method: String,
    /// Its subject, cut at 1024 bytes.
    pub(in crate::proxy) subject: String,
    /// The address from which it was proven.
    pub(in crate::proxy) client: IpAddr,
    /// The request with which it was proven.
    pub(in crate::proxy) request: RequestId,
    /// The claim `sid`: its session at the identity provider.
    pub(in crate::proxy) sid: Option<String>,
    /// When the identity provider issued its ID token, in seconds of Unix time by the provider's clock.
    pub(in crate::proxy) issued: Option<i64>,
    /// When that request came. A logout after that holds for this login, too.
    pub(in crate::proxy) began: Timestamp,
    /// The marks of its credential.
    pub(in crate::proxy) marks: Vec<CredentialMark>,
}

impl Caller {
    /// Takes the facts of a proven caller.
    pub(in crate::proxy) fn of(principal: &Principal, attempt: &Attempt<'_>) -> Self {
        let shown = attempt.marks();
        // Where the app names the account, no auth method has looked at the whole credential.
        let is_judged = |mark: &&CredentialMark| principal.method != REDIRECT || mark.kind != MarkKind::Whole;
        let login = ProviderLogin::of(principal);
        Self {
            method: principal.method.clone(),
            subject: cut(&principal.subject).to_owned(),
            client: attempt.context.client(),
            request: attempt.context.id,
            sid: login.session.map(|sid| cut(sid).to_owned()),
            issued: login.issued,
            began: shown.at,
            marks: shown.marks.iter().filter(is_judged).take(MARKS).copied().collect(),
        }
    }
}

impl Caller {
    /// Tells whether its login at an identity provider has ended since, here or at another member.
    pub(in crate::proxy) async fn has_ended(&self, chain: &Chain) -> bool {
        let login = ProviderLogin { subject: &self.subject, session: self.sid.as_deref(), issued: self.issued };
        chain.has_ended(&self.method, &login).await
    }

    /// Describes its login to the table of sessions. `host`: the PBX's, with its port, for the browser. `node`: the name of the PBX
    /// node, where there are several. `pbx`: what it is recognized by.
    pub(in crate::proxy) fn session_login(
        &self,
        rule: &str,
        host: Option<String>,
        (node, pbx): (Option<String>, String),
    ) -> SessionLogin {
        SessionLogin {
            method: self.method.clone(),
            subject: self.subject.clone(),
            rule: rule.to_owned(),
            sid: self.sid.clone(),
            client: self.client,
            host,
            node,
            pbx: Some(pbx),
            began: self.began,
            marks: self.marks.clone(),
        }
    }

    /// Adds marks, before those that are there.
    #[must_use]
    pub(in crate::proxy) fn with_marks(mut self, new: Vec<CredentialMark>) -> Self {
        self.marks.splice(0..0, new);
        self.marks.truncate(MARKS);
        self
    }
}

fn cut(subject: &str) -> &str {
    let mut end = subject.len().min(MAX_SUBJECT);
    while !subject.is_char_boundary(end) {
        end -= 1;
    }
    &subject[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_subject_is_cut_between_two_characters() {
        for (subject, expected) in [("ann", 3), (&*"a".repeat(1025), 1024), (&*format!("a{}", "é".repeat(512)), 1023)]
        {
            assert_eq!(cut(subject).len(), expected);
        }
    }
}
