//! What the PBX knows: tenants, sessions, tokens and who failed how often.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::{Extension, Options, Tenant};
use crate::demo::server::{self, KEPT};
use crate::demo::voximplant::md5;

/// The letters of session ids and tokens.
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
/// The tenant that answers for every host name without one of its own.
const CATCH_ALL: &str = "localhost";

/// What a session may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The system administrator.
    Admin,
    /// The administrator of one tenant.
    Domain,
    /// One extension.
    User,
}

impl Level {
    /// Returns the word of the PBX.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Domain => "domain",
            Self::User => "user",
        }
    }
}

/// A live session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The value of the cookie.
    pub id: String,
    /// Who it speaks for.
    pub identity: Identity,
    /// The language of its pages.
    pub lang: String,
    pub(super) expires: Instant,
}

/// Whom a session or a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// What it may do.
    pub level: Level,
    /// The extension, `admin` for the administrators.
    pub user: String,
    /// The tenant.
    pub domain: String,
}

#[derive(Debug)]
struct Token {
    value: String,
    identity: Identity,
    expires: Instant,
}

#[derive(Debug)]
pub(super) struct State {
    options: Options,
    sessions: Vec<Session>,
    tokens: Vec<Token>,
    failures: HashMap<IpAddr, u32>,
}

impl State {
    pub(super) fn new(options: Options) -> Self {
        Self { options, sessions: Vec::new(), tokens: Vec::new(), failures: HashMap::new() }
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// Returns the administrator's name and password.
    pub(super) fn admin(&self) -> (String, String) {
        (self.options.admin_user.clone(), self.options.admin_password.clone())
    }

    // === Tenants ===

    pub(super) fn tenant(&self, name: &str) -> Option<&Tenant> {
        self.options.tenants.iter().find(|tenant| tenant.name.eq_ignore_ascii_case(name))
    }

    /// Picks the tenant by the host's name, as the PBX does for its pages and logins.
    pub(super) fn tenant_of_host(&self, host: &str) -> Option<&Tenant> {
        let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
        self.tenant(name).or_else(|| self.tenant(CATCH_ALL))
    }

    /// Checks `{name:"auth"}`: a user of the tenant and the MD5 of his password, or the administrator.
    pub(super) fn authenticate(&self, tenant: &Tenant, user: &str, digest: &str) -> Option<Identity> {
        let domain = tenant.name.clone();
        if user == self.options.admin_user && digest == md5(&self.options.admin_password) {
            return Some(Identity { level: Level::Admin, user: "admin".to_owned(), domain });
        }
        let extension = tenant.extension(user)?;
        let right = digest == md5(&extension.password);
        right.then(|| Identity { level: Level::User, user: extension.number.clone(), domain })
    }

    // === Sessions and tokens ===

    pub(super) fn open(&mut self, identity: Identity, ttl: Duration) -> String {
        self.sessions.retain(|session| session.expires > Instant::now());
        if self.sessions.len() == KEPT {
            self.sessions.remove(0);
        }
        let id = server::random(LETTERS, 20);
        let expires = Instant::now() + ttl;
        self.sessions.push(Session { id: id.clone(), identity, lang: "en".to_owned(), expires });
        id
    }

    pub(super) fn session(&mut self, id: &str) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.id == id && session.expires > Instant::now())
    }

    pub(super) fn close(&mut self, id: &str) {
        self.sessions.retain(|session| session.id != id);
    }

    pub(super) fn sessions(&self) -> Vec<Session> {
        self.sessions.iter().filter(|session| session.expires > Instant::now()).cloned().collect()
    }

    pub(super) fn issue(&mut self, identity: Identity, ttl: Duration) -> String {
        self.tokens.retain(|token| token.expires > Instant::now());
        if self.tokens.len() == KEPT {
            self.tokens.remove(0);
        }
        let value = server::random(LETTERS, 20);
        self.tokens.push(Token { value: value.clone(), identity, expires: Instant::now() + ttl });
        value
    }

    /// Takes a token, which is good for once.
    pub(super) fn redeem(&mut self, value: &str) -> Option<Identity> {
        let place = self.tokens.iter().position(|token| token.value == value)?;
        let token = self.tokens.remove(place);
        (token.expires > Instant::now()).then_some(token.identity)
    }

    // === The access list ===

    pub(super) fn failed(&mut self, source: IpAddr) {
        *self.failures.entry(source).or_insert(0) += 1;
    }

    pub(super) fn succeeded(&mut self, source: IpAddr) {
        self.failures.remove(&source);
    }

    pub(super) fn forgive(&mut self) {
        self.failures.clear();
    }

    pub(super) fn is_blocked(&self, source: IpAddr, after: Option<u32>) -> bool {
        let failures = self.failures.get(&source).copied().unwrap_or(0);
        after.is_some_and(|limit| failures >= limit)
    }

    pub(super) fn blocked(&self, after: Option<u32>) -> Vec<IpAddr> {
        self.failures.keys().copied().filter(|source| self.is_blocked(*source, after)).collect()
    }
}

impl Tenant {
    pub(super) fn extension(&self, number: &str) -> Option<&Extension> {
        self.extensions.iter().find(|extension| extension.number == number)
    }
}
