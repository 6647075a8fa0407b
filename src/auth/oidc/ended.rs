//! Logins that end before their cookie is over: the person logs out here, or the provider reports a logout.
//!
//! The cookie of a login is sealed, not stored, so the store remembers which logins have ended, for as long as their
//! cookies could live.

use futures_util::future::join;
use http::HeaderMap;
use jiff::{SignedDuration, Timestamp};

use super::{OidcMethod, login_cookie};
use crate::model::digest::{Digest, sha256_of};
use crate::model::jwt::ProviderLogout;
use crate::model::principal::{Claim, Principal};
use crate::state::KeepError;

/// The claim with the session at the provider (OpenID Connect Back-Channel Logout 1.0 §2.1).
pub(super) const SESSION: &str = "sid";
/// The claim with the time of the ID token, in seconds of Unix time by the provider's clock.
pub(super) const ISSUED: &str = "iat";
/// How long an ended login is remembered beyond the life of its cookie.
const LONGER: SignedDuration = SignedDuration::from_mins(10);

/// What ends at once. Each is a scope of the store.
#[derive(Debug, Clone, Copy)]
enum Scope {
    /// The login of one cookie.
    Cookie,
    /// The logins of one session at the provider.
    Session,
    /// The logins of one person.
    Person,
    /// The logins of one person of which the provider did not say to which of its sessions they belong.
    PersonWithoutSession,
}

impl Scope {
    const fn name(self) -> &'static str {
        match self {
            Self::Cookie => "oidc cookie",
            Self::Session => "oidc sid",
            Self::Person => "oidc sub",
            Self::PersonWithoutSession => "oidc sub without sid",
        }
    }
}

/// A login, by what a provider's logout may name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProviderLogin<'l> {
    /// The subject.
    pub(crate) subject: &'l str,
    /// The session at the provider.
    pub(crate) session: Option<&'l str>,
    /// When the ID token was issued, in seconds of Unix time by the provider's clock.
    pub(crate) issued: Option<i64>,
}

impl<'l> ProviderLogin<'l> {
    /// Reads the login of a caller.
    #[must_use]
    pub(crate) fn of(caller: &'l Principal) -> Self {
        let text = |name: &str| caller.claims.get(name).and_then(Claim::text);
        Self {
            subject: &caller.subject,
            session: text(SESSION),
            issued: text(ISSUED).and_then(|issued| issued.parse().ok()),
        }
    }

    /// Returns when it began. A login whose begin is unknown began before every logout.
    fn began(&self) -> Timestamp {
        self.issued.and_then(|issued| Timestamp::from_second(issued).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Returns what it ends with: its session at the provider, and its person.
    const fn ends(&self) -> [(Scope, &'l str); 2] {
        let of_session = match self.session {
            Some(session) => (Scope::Session, session),
            None => (Scope::PersonWithoutSession, self.subject),
        };
        [of_session, (Scope::Person, self.subject)]
    }
}

impl OidcMethod {
    /// Tells whether a login has ended, here or at another member. A login is asked about where it is used, and once more
    /// after the PBX has opened its session: it may have ended meanwhile.
    pub(in crate::auth) async fn has_ended(&self, login: &ProviderLogin<'_>) -> bool {
        let began = login.began();
        let [of_session, of_person] = login.ends().map(|(scope, id)| (scope.name(), self.id_of(id.as_bytes())));
        let asked = join(
            self.once.is_ended(of_session.0, &of_session.1, began),
            self.once.is_ended(of_person.0, &of_person.1, began),
        );
        let (of_session, of_person) = asked.await;
        of_session || of_person
    }

    /// Tells whether this member knows that a login has ended.
    pub(super) fn has_ended_here(&self, login: &ProviderLogin<'_>) -> bool {
        let is_ended = |(scope, id): (Scope, &str)| {
            self.once.is_ended_here(scope.name(), &self.id_of(id.as_bytes()), login.began())
        };
        login.ends().into_iter().any(is_ended)
    }

    /// Tells whether the login of the browser's cookie, and of the person that it remembers, has ended, here or at another
    /// member.
    pub(in crate::auth) async fn has_cookie_ended(&self, headers: &HeaderMap, person: &Principal) -> bool {
        let (login, cookie) = (ProviderLogin::of(person), self.id_of(&login_cookie(headers)));
        let of_cookie = self.once.is_ended(Scope::Cookie.name(), &cookie, Timestamp::UNIX_EPOCH);
        let (of_cookie, of_login) = join(of_cookie, self.has_ended(&login)).await;
        of_cookie || of_login
    }

    /// Tells whether this member knows that the login of a cookie has ended. A copy of the cookie is worth nothing then.
    pub(super) fn is_cookie_ended_here(&self, sealed: &str) -> bool {
        self.once.is_ended_here(Scope::Cookie.name(), &self.id_of(sealed.as_bytes()), Timestamp::UNIX_EPOCH)
    }

    /// Ends the login of a cookie.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub(super) async fn end_cookie(&self, sealed: &str) -> Result<(), KeepError> {
        self.end(Scope::Cookie, sealed, None).await
    }

    /// Ends the logins that a provider's logout names. A token that names a session ends no other one of the person; where
    /// the provider did not say of which session a login is, it ends too.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub(crate) async fn end_logins(&self, logout: &ProviderLogout) -> Result<(), KeepError> {
        let at = Timestamp::from_second(logout.at).unwrap_or(Timestamp::UNIX_EPOCH);
        let subject = logout.sub.as_ref().map(|subject| subject.to_lowercase());
        match (&logout.sid, subject) {
            (Some(session), subject) => {
                // The provider gives no later login the same session.
                self.end(Scope::Session, session, None).await?;
                match subject {
                    Some(subject) => self.end(Scope::PersonWithoutSession, &subject, Some(at)).await,
                    None => Ok(()),
                }
            }
            (None, Some(subject)) => self.end(Scope::Person, &subject, Some(at)).await,
            (None, None) => Ok(()),
        }
    }

    /// Ends what began at `at` or before; `None`: whenever it began.
    async fn end(&self, scope: Scope, id: &str, at: Option<Timestamp>) -> Result<(), KeepError> {
        let life = SignedDuration::try_from(self.settings.remember).unwrap_or(SignedDuration::MAX);
        let until = self.once.now().saturating_add(life.saturating_add(LONGER)).unwrap_or(Timestamp::MAX);
        self.once.end_logins(scope.name(), &self.id_of(id.as_bytes()), at.unwrap_or(until), until).await
    }

    /// Returns the digest of an id at this client of this issuer.
    fn id_of(&self, id: &[u8]) -> Digest {
        sha256_of([self.settings.issuer.as_bytes(), self.settings.client_id.as_bytes(), id])
    }
}
