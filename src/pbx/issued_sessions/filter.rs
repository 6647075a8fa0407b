//! A choice among the sessions: for this process, and in orders to old ones.

use serde::{Deserialize, Serialize};

use super::entry::SessionLogin;
use crate::model::credential_mark::CredentialMark;
use crate::model::digest::{Digest, sha256};
use crate::model::freeze_target::FreezeTarget;

/// A choice among the sessions. It names no id, cookie or token, so a reader can use none of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub(crate) enum SessionFilter {
    /// All of them.
    All,
    /// The one with this number.
    Number {
        /// The number.
        number: u64,
    },
    /// The one with this id, cookie or token.
    Id {
        /// The SHA-256 of it.
        digest: Digest,
    },
    /// Those of an account, or of a domain with its administrators.
    Target {
        /// The account or the domain.
        whom: FreezeTarget,
    },
    /// Those whose logins fit.
    Login {
        /// The logins.
        login: LoginFilter,
    },
    /// Those that were opened by a credential with one of these marks.
    Credential {
        /// The marks.
        marks: Vec<CredentialMark>,
    },
    /// A choice of another version: no session.
    #[serde(other)]
    Unknown,
}

impl SessionFilter {
    /// Chooses the session with an id, cookie or token.
    #[must_use]
    pub(crate) fn id(id: &str) -> Self {
        Self::Id { digest: sha256(id.as_bytes()) }
    }

    /// Chooses the session with a number.
    #[must_use]
    pub(crate) const fn number(number: u64) -> Self {
        Self::Number { number }
    }
}

/// A choice among logins at an identity provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LoginFilter {
    /// The names of the methods.
    methods: Vec<String>,
    /// The SHA-256 of the session at the provider.
    sid: Option<Digest>,
    /// The person, in lower case.
    subject: Option<String>,
}

impl LoginFilter {
    /// Chooses the logins of these methods with a session at the provider, or of a person.
    #[must_use]
    pub(crate) fn new(methods: Vec<String>, sid: Option<&str>, subject: Option<&str>) -> Self {
        let sid = sid.map(|sid| sha256(sid.as_bytes()));
        Self { methods, sid, subject: subject.map(str::to_lowercase) }
    }

    /// Tells whether a login fits: by its session where both sides know one, otherwise by the person.
    #[must_use]
    pub(super) fn fits(&self, login: &SessionLogin) -> bool {
        self.methods.contains(&login.method)
            && match (&self.sid, &login.sid) {
                (Some(named), Some(session)) => *named == sha256(session.as_bytes()),
                (Some(_) | None, _) => self.subject.as_ref() == Some(&login.subject),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_chosen_by_its_session_or_its_person() {
        let login = |sid: Option<&str>| SessionLogin { sid: sid.map(str::to_owned), ..SessionLogin::for_test("ann") };
        let filter = |sid: Option<&str>, subject| LoginFilter::new(vec!["app".to_owned()], sid, subject);
        for (filter, sid, expected) in [
            (filter(Some("s"), None), Some("s"), true),
            (filter(Some("s"), None), Some("t"), false),
            (filter(Some("s"), None), None, false),
            (filter(Some("s"), Some("ann")), Some("t"), false),
            (filter(Some("s"), Some("ANN")), None, true),
            (filter(None, Some("ann")), Some("t"), true),
            (filter(None, Some("bob")), Some("t"), false),
            (filter(None, None), None, false),
            (LoginFilter::new(vec!["oidc".to_owned()], Some("s"), Some("ann")), Some("s"), false),
        ] {
            assert_eq!(filter.fits(&login(sid)), expected, "{filter:?} {sid:?}");
        }
    }
}
