//! The state of the PBX: tenants, sessions, tokens and failed logins.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::{Extension, Tenant, VodiaOptions};
use crate::demo::server::{self, CAPACITY};
use crate::demo::voximplant::md5;

/// The letters of session ids and tokens.
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
/// The tenant that answers for every host name without one of its own.
const CATCH_ALL: &str = "localhost";
/// How long a session lives.
pub(super) const SESSION_TTL: Duration = Duration::from_secs(3600);
/// How long a token can be exchanged.
pub(super) const TOKEN_TTL: Duration = Duration::from_secs(10);
/// How many failed logins in a row block an address.
const BLOCK_AFTER: u32 = 5;

/// The rights of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionLevel {
    /// The system administrator.
    Admin,
    /// The administrator of one tenant.
    Domain,
    /// One extension.
    User,
}

impl SessionLevel {
    /// Returns the PBX's word for the level.
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
pub struct WebSession {
    /// The value of the cookie.
    pub id: String,
    /// The user it belongs to.
    pub identity: SessionIdentity,
    /// The language of its pages.
    pub lang: String,
    pub(super) expires: Instant,
}

/// The user that a session or a token belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionIdentity {
    /// The rights.
    pub level: SessionLevel,
    /// The extension, or `admin` for the administrators.
    pub user: String,
    /// The tenant.
    pub domain: String,
}

#[derive(Debug)]
struct IssuedToken {
    value: String,
    identity: SessionIdentity,
    expires: Instant,
}

#[derive(Debug)]
pub(super) struct VodiaState {
    options: VodiaOptions,
    sessions: Vec<WebSession>,
    tokens: Vec<IssuedToken>,
    failures: HashMap<IpAddr, u32>,
}

impl VodiaState {
    pub(super) fn new(options: VodiaOptions) -> Self {
        Self { options, sessions: Vec::new(), tokens: Vec::new(), failures: HashMap::new() }
    }

    pub(super) fn options(&self) -> &VodiaOptions {
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

    /// Returns the tenant of a host name, as the PBX does for its pages and logins.
    pub(super) fn tenant_of_host(&self, host: &str) -> Option<&Tenant> {
        let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
        self.tenant(name).or_else(|| self.tenant(CATCH_ALL))
    }

    /// Checks a password login: an extension of the tenant, or the administrator, with the MD5 of the password.
    pub(super) fn authenticate(&self, tenant: &Tenant, user: &str, digest: &str) -> Option<SessionIdentity> {
        let domain = tenant.name.clone();
        if user == self.options.admin_user && digest == md5(&self.options.admin_password) {
            return Some(SessionIdentity { level: SessionLevel::Admin, user: "admin".to_owned(), domain });
        }
        let extension = tenant.extension(user)?;
        let right = digest == md5(&extension.password);
        right.then(|| SessionIdentity { level: SessionLevel::User, user: extension.number.clone(), domain })
    }

    // === Sessions and tokens ===

    pub(super) fn open(&mut self, identity: SessionIdentity) -> String {
        self.sessions.retain(|session| session.expires > Instant::now());
        if self.sessions.len() == CAPACITY {
            self.sessions.remove(0);
        }
        let id = server::random(LETTERS, 20);
        let expires = Instant::now() + SESSION_TTL;
        self.sessions.push(WebSession { id: id.clone(), identity, lang: "en".to_owned(), expires });
        id
    }

    pub(super) fn session(&mut self, id: &str) -> Option<&mut WebSession> {
        self.sessions.iter_mut().find(|session| session.id == id && session.expires > Instant::now())
    }

    pub(super) fn close(&mut self, id: &str) {
        self.sessions.retain(|session| session.id != id);
    }

    pub(super) fn sessions(&self) -> Vec<WebSession> {
        self.sessions.iter().filter(|session| session.expires > Instant::now()).cloned().collect()
    }

    pub(super) fn issue(&mut self, identity: SessionIdentity) -> String {
        self.tokens.retain(|token| token.expires > Instant::now());
        if self.tokens.len() == CAPACITY {
            self.tokens.remove(0);
        }
        let value = server::random(LETTERS, 20);
        self.tokens.push(IssuedToken { value: value.clone(), identity, expires: Instant::now() + TOKEN_TTL });
        value
    }

    /// Redeems a token. A token works once.
    pub(super) fn redeem(&mut self, value: &str) -> Option<SessionIdentity> {
        let place = self.tokens.iter().position(|token| token.value == value)?;
        let token = self.tokens.remove(place);
        (token.expires > Instant::now()).then_some(token.identity)
    }

    // === Blocked addresses ===

    pub(super) fn failed(&mut self, source: IpAddr) {
        *self.failures.entry(source).or_insert(0) += 1;
    }

    pub(super) fn succeeded(&mut self, source: IpAddr) {
        self.failures.remove(&source);
    }

    pub(super) fn is_blocked(&self, source: IpAddr) -> bool {
        self.failures.get(&source).is_some_and(|failures| *failures >= BLOCK_AFTER)
    }

    pub(super) fn blocked(&self) -> Vec<IpAddr> {
        self.failures.keys().copied().filter(|source| self.is_blocked(*source)).collect()
    }
}

impl Tenant {
    pub(super) fn extension(&self, number: &str) -> Option<&Extension> {
        self.extensions.iter().find(|extension| extension.number == number)
    }
}
