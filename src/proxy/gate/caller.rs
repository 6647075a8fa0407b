//! The caller of a login whose credential is spent, as later steps know it: the redemption of a ticket, the audit log.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::attempt::Attempt;
use crate::model::digest::Digest;
use crate::model::principal::Principal;
use crate::observe::RequestId;

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
    /// The credentials of that request, as limits recognize them.
    pub(in crate::proxy) credential: Option<Digest>,
}

impl Caller {
    /// Takes the facts of a proven caller.
    pub(in crate::proxy) fn of(principal: &Principal, attempt: &Attempt<'_>) -> Self {
        Self {
            method: principal.method.clone(),
            subject: cut(&principal.subject).to_owned(),
            client: attempt.context.client(),
            request: attempt.context.id,
            credential: attempt.credential_digest(),
        }
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
