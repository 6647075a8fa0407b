//! Who is frozen, as the path of a request asks: no login for him, no request with a session that went out to him, and
//! an end to his tunnels.

use std::borrow::Cow;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Proxy;
use super::error::Error;
use crate::message::cookies;
use crate::model::account::{Account, Role};
use crate::model::ott::VoximplantUser;
use crate::model::whom::Whom;
use crate::state::{Freeze, KeepError, Store};

/// The name of the PBX's cookie, which some builds take as a parameter as well.
const SESSION: &str = "session";
/// The parameter of the landing page.
const SESS_ID: &str = "sessid";

/// The freezes of the store, and whoever waits for one. All workers share it, and every configuration.
#[derive(Debug)]
pub struct Frozen {
    store: Arc<Store>,
    /// Whether there may be any: all that most requests ask.
    any: AtomicBool,
    changed: watch::Sender<()>,
}

impl Frozen {
    /// Takes up what the store has kept.
    #[must_use]
    pub fn new(store: Arc<Store>) -> Self {
        let frozen = Self { store, any: AtomicBool::new(false), changed: watch::Sender::new(()) };
        frozen.look();
        frozen
    }

    /// Freezes somebody. When it returns, there are no more logins, and no restart forgets it.
    ///
    /// # Errors
    /// When that cannot be kept.
    pub async fn freeze(&self, whom: &Whom, freeze: Freeze) -> Result<(), KeepError> {
        let kept = self.store.freeze(&whom.to_string(), freeze).await;
        self.look();
        kept
    }

    /// Ends a freeze. Tells whether there was one.
    ///
    /// # Errors
    /// When that cannot be kept.
    pub async fn thaw(&self, whom: &Whom) -> Result<bool, KeepError> {
        let thawed = self.store.thaw(&whom.to_string()).await;
        self.look();
        thawed
    }

    /// Lists who is frozen now.
    #[must_use]
    pub fn list(&self) -> Vec<(String, Freeze)> {
        self.store.freezes(Timestamp::now())
    }

    /// Tells whether whom a session is for is frozen, by itself or with its domain.
    pub(super) fn has(&self, role: &Role) -> bool {
        self.is_any() && self.has_whom(&Whom::of(role))
    }

    fn has_whom(&self, whom: &Whom) -> bool {
        let with_domain = || match whom {
            Whom::Account(account) => self.lists(&Whom::Domain(account.domain().clone())),
            Whom::Domain(_) | Whom::User(_) => false,
        };
        self.lists(whom) || with_domain()
    }

    /// Tells whether a Voximplant user is frozen: in its application, or under its name wherever it is. `own`: the
    /// application that goes without saying.
    pub(super) fn has_user(&self, user: &VoximplantUser, own: Option<&str>) -> bool {
        let name = user.name();
        let full = user.application().or(own).map(|application| format!("{name}@{application}"));
        let spellings = [Some(name.to_owned()), full].into_iter().flatten().filter_map(|text| text.parse().ok());
        self.is_any() && spellings.map(Whom::User).any(|whom| self.lists(&whom))
    }

    fn lists(&self, whom: &Whom) -> bool {
        self.store.is_frozen(&whom.to_string(), Timestamp::now())
    }

    fn is_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Takes note of what the store says now, and wakes the tunnels.
    fn look(&self) {
        self.any.store(!self.list().is_empty(), Ordering::Release);
        self.changed.send_replace(());
    }
}

/// What holds a tunnel to the accounts it was opened for.
#[derive(Debug)]
pub struct Leash {
    frozen: Arc<Frozen>,
    owners: Vec<Role>,
}

impl Leash {
    /// Waits until one of the accounts is frozen; for ever where nobody knows whose tunnel it is.
    pub async fn cut(&self) {
        if self.owners.is_empty() {
            return pending().await;
        }
        let mut changed = self.frozen.changed.subscribe();
        while !self.owners.iter().any(|owner| self.frozen.has(owner)) {
            // It changes for as long as there is a leash.
            if changed.changed().await.is_err() {
                return pending().await;
            }
        }
    }
}

impl Proxy {
    /// Refuses a login to a frozen account.
    pub(super) fn thawed(&self, whom: &Whom) -> Result<(), Error> {
        if self.shared.frozen.has_whom(whom) { Err(Error::Forbidden) } else { Ok(()) }
    }

    /// Refuses a request to the PBX with the session of somebody who is frozen: with it, calls could be made.
    pub(super) fn refuse_frozen(&self, headers: &HeaderMap, query: Option<&str>) -> Result<(), Error> {
        let frozen = &self.shared.frozen;
        if frozen.is_any() && self.owners(headers, query).iter().any(|owner| frozen.has(owner)) {
            return Err(Error::Forbidden);
        }
        Ok(())
    }

    /// Remembers whose the sessions are that the PBX opens for a token.
    pub(super) fn note_sessions(&self, set: &[HeaderValue], owner: &Role) {
        let pairs = set.iter().filter_map(|line| line.to_str().ok()?.split(';').next()?.split_once('='));
        for (_, session) in pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case(SESSION)) {
            self.shared.issued.note_text(session.trim().trim_matches('"'), owner, Instant::now());
        }
    }

    /// Binds a tunnel to those it is for.
    pub(super) fn leash(&self, owners: Vec<Role>) -> Leash {
        Leash { frozen: Arc::clone(&self.shared.frozen), owners }
    }

    /// Finds the accounts behind a request to the PBX: those its sessions went out to, and the one that it names.
    pub(super) fn owners(&self, headers: &HeaderMap, query: Option<&str>) -> Vec<Role> {
        let asked = Asked::read(query);
        let sessions = session_cookies(headers).map(Cow::Borrowed).chain(asked.sessions);
        let now = Instant::now();
        let known = sessions.filter_map(|session| self.shared.issued.account(&session, now));
        let names = asked.users.iter().flat_map(|user| asked.domains.iter().map(move |domain| (user, domain)));
        let named = names.filter_map(|(user, domain)| Account::new(user, domain.parse().ok()?).ok());
        known.chain(named.map(Role::User)).collect()
    }
}

/// What a query says of its caller.
#[derive(Debug, Default)]
struct Asked<'q> {
    sessions: Vec<Cow<'q, str>>,
    users: Ends<Cow<'q, str>>,
    domains: Ends<Cow<'q, str>>,
}

/// The first and the last of what a query says several times: readers take the one or the other.
#[derive(Debug)]
struct Ends<T>(Option<T>, Option<T>);

impl<T> Default for Ends<T> {
    fn default() -> Self {
        Self(None, None)
    }
}

impl<T> Ends<T> {
    fn push(&mut self, value: T) {
        let Self(first, last) = self;
        *(if first.is_none() { first } else { last }) = Some(value);
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().chain(&self.1)
    }
}

impl<'q> Asked<'q> {
    fn read(query: Option<&'q str>) -> Self {
        let mut asked = Self::default();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match name.to_ascii_lowercase().as_str() {
                SESSION | SESS_ID => asked.sessions.push(value),
                "user" => asked.users.push(value),
                "domain" => asked.domains.push(value),
                _ => {}
            }
        }
        asked
    }
}

/// Returns the values of the session cookie: a browser may have several, for one path each.
fn session_cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let pairs = cookies::pairs(headers).map(cookies::split);
    let sessions = pairs.filter(|(name, _)| name.eq_ignore_ascii_case(SESSION.as_bytes()));
    sessions.filter_map(|(_, value)| str::from_utf8(value).ok()).map(|value| value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    #[test]
    fn every_session_of_a_request_is_found() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=b; session=one;session=\"two\""));
        headers.append(header::COOKIE, HeaderValue::from_static("mysession=no; Session = three"));
        // What is not ASCII hides nothing beside it.
        headers.append(header::COOKIE, HeaderValue::from_bytes(b"name=\xe4; session=four").unwrap());
        assert_eq!(session_cookies(&headers).collect::<Vec<_>>(), ["one", "two", "three", "four"]);
        let asked = Asked::read(Some("domain=acme.test&user=4%30&se%73sion=four&SESSID=five"));
        assert!(asked.domains.iter().eq(["acme.test"]) && asked.users.iter().eq(["40"]));
        assert_eq!(asked.sessions, ["four", "five"]);
    }

    /// Tells whether a future waits.
    async fn waits(mut future: std::pin::Pin<&mut impl Future>) -> bool {
        std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_pending())).await
    }

    #[tokio::test]
    async fn no_spelling_of_a_user_gets_around_a_freeze() {
        for (frozen_as, is_frozen) in [
            ("user ann", [true, true, true]),
            ("user ann@own.acme", [true, true, false]),
            ("user ann@b.acme", [false, false, true]),
        ] {
            let frozen = Frozen::new(Arc::new(Store::in_memory()));
            let freeze = Freeze { since: Timestamp::now(), until: None, by: String::new(), why: String::new() };
            frozen.freeze(&frozen_as.parse().unwrap(), freeze).await.unwrap();
            for (user, expected) in ["ann", "ann@own.acme", "ann@b.acme"].into_iter().zip(is_frozen) {
                assert_eq!(frozen.has_user(&user.parse().unwrap(), Some("own.acme")), expected, "{frozen_as}: {user}");
            }
            assert!(!frozen.has_user(&"bob".parse().unwrap(), Some("own.acme")));
        }
    }

    #[tokio::test]
    async fn a_leash_is_cut_by_what_freezes_its_account_and_nothing_else() {
        let frozen = Arc::new(Frozen::new(Arc::new(Store::in_memory())));
        let account = |name: &str| name.parse::<Whom>().unwrap();
        let owner = Role::User(Account::new("40", "acme.test".parse().unwrap()).unwrap());
        let leash = |owners: Vec<Role>| Leash { frozen: Arc::clone(&frozen), owners };
        let (his, nobodys) = (leash(vec![owner]), leash(Vec::new()));
        let freeze = || Freeze { since: Timestamp::now(), until: None, by: String::new(), why: String::new() };
        let mut cut = Box::pin(his.cut());
        for other in ["account 41@acme.test", "account 40@other.test", "domain other.test", "user ann"] {
            frozen.freeze(&account(other), freeze()).await.unwrap();
            assert!(waits(cut.as_mut()).await, "{other}");
        }
        frozen.freeze(&account("domain acme.test"), freeze()).await.unwrap();
        cut.await;
        assert!(waits(std::pin::pin!(nobodys.cut())).await);
        assert!(frozen.thaw(&account("domain acme.test")).await.unwrap());
        assert!(!frozen.thaw(&account("domain acme.test")).await.unwrap());
        assert!(waits(std::pin::pin!(his.cut())).await);
    }
}
