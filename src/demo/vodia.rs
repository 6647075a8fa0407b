//! The PBX stand-in: three dialects of the session protocol, the pages they end at, the paths beside them, and
//! every way it is known to go wrong.

mod ask;
mod faults;
mod options;
mod pages;
mod paths;
mod session;
mod state;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;

use self::ask::{Ask, basic};
use self::state::State;
use super::body::Body;
use super::server::{self, Answer, Recent, Seen, Server, Site, lock};

pub use self::faults::{BodyForm, Ending, FailForm, Faults, Scope, Wrong};
pub use self::options::{Dialect, Extension, Options, Tenant};
pub use self::state::{Identity, Level, Session};

/// The path of the session protocol.
const SESSION_PATH: &str = "/rest/system/session";

/// A request for a session in somebody's name, as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mint {
    /// The `username` of the body.
    pub username: Option<String>,
    /// The `domain` of the body.
    pub domain: Option<String>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The body, byte for byte.
    pub body: Bytes,
    /// The session id (dialect A) or token (B, C) that was minted, if one was.
    pub value: Option<String>,
}

/// A running PBX, which ends when this is dropped.
#[derive(Debug)]
pub struct Vodia {
    /// Where it listens.
    pub addr: SocketAddr,
    pbx: Arc<Pbx>,
    _server: Server,
}

impl Vodia {
    /// Starts a PBX in good health.
    ///
    /// # Panics
    /// When 127.0.0.1 has no free port.
    pub async fn start(options: Options) -> Self {
        let pbx = Arc::new(Pbx {
            state: Mutex::new(State::new(options)),
            faults: Mutex::new(Faults::default()),
            seen: Recent::new(),
            mints: Recent::new(),
            admin_elsewhere: AtomicBool::new(false),
        });
        let server = server::serve(Arc::clone(&pbx)).await;
        Self { addr: server.addr, pbx, _server: server }
    }

    /// Changes what goes wrong, from the next request on.
    pub fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut lock(&self.pbx.faults));
    }

    /// Forgets failed logins, which lets blocked sources in again.
    pub fn forgive(&self) {
        lock(&self.pbx.state).forgive();
    }

    /// Returns the latest thousand requests, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.pbx.seen.all()
    }

    /// Returns the latest thousand mints, refused ones included, oldest first.
    #[must_use]
    pub fn mints(&self) -> Vec<Mint> {
        self.pbx.mints.all()
    }

    /// Returns the live sessions, oldest first.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session> {
        lock(&self.pbx.state).sessions()
    }

    /// Returns the id of the newest live session.
    #[must_use]
    pub fn last_session(&self) -> Option<String> {
        self.sessions().pop().map(|session| session.id)
    }

    /// Returns the newest minted value: a session id in dialect A, a token in B and C.
    #[must_use]
    pub fn last_minted(&self) -> Option<String> {
        self.mints().into_iter().rev().find_map(|mint| mint.value)
    }

    /// Opens a session for an extension, as if it had logged in, and returns its id.
    #[must_use]
    pub fn open_session(&self, user: &str, domain: &str) -> String {
        let identity = Identity { level: Level::User, user: user.to_owned(), domain: domain.to_owned() };
        let ttl = lock(&self.pbx.faults).session_ttl;
        lock(&self.pbx.state).open(identity, ttl)
    }

    /// Tells whether the administrator's Basic credentials came with anything but a mint.
    #[must_use]
    pub fn saw_admin_elsewhere(&self) -> bool {
        self.pbx.admin_elsewhere.load(Ordering::Relaxed)
    }

    /// Tells whether a mint came without the administrator's Basic credentials, as from a client passed through.
    #[must_use]
    pub fn saw_mint_without_admin(&self) -> bool {
        let admin = lock(&self.pbx.state).admin();
        self.mints().iter().any(|mint| mint.authorization.as_deref().and_then(basic) != Some(admin.clone()))
    }
}

#[derive(Debug)]
struct Pbx {
    state: Mutex<State>,
    faults: Mutex<Faults>,
    seen: Recent<Seen>,
    mints: Recent<Mint>,
    admin_elsewhere: AtomicBool,
}

impl Site for Pbx {
    fn admits(&self, peer: IpAddr) -> bool {
        let faults = lock(&self.faults).clone();
        !faults.refuse_connections && !lock(&self.state).is_blocked(peer, faults.block_after)
    }

    async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Answer {
        if !self.admits(peer) {
            return Answer::Drop;
        }
        self.seen.push(Seen::of(&request));
        let ask = match server::collect(request).await {
            Ok((head, body)) => Ask::new(head, body, peer),
            Err(refusal) => return refusal.into(),
        };
        let faults = lock(&self.faults).clone();
        let scope = ask.scope();
        self.watch_admin(&ask, scope);
        if let Some(answer) = faults.instead(scope) {
            if scope == Scope::Mint {
                self.record_mint(&ask, None);
            }
            tokio::time::sleep(faults.head_delay).await;
            return answer;
        }
        if scope == Scope::Exchange {
            tokio::time::sleep(faults.exchange_delay).await;
        }
        match self.route(&ask, &faults) {
            Answer::Http(response) => faults.spoil(scope, self.dress(response, &faults)).await,
            other => other,
        }
    }
}

impl Pbx {
    fn route(&self, ask: &Ask, faults: &Faults) -> Answer {
        match ask.path() {
            SESSION_PATH => self.session(ask, faults).into(),
            "/websocket" => self.websocket(ask),
            "/" | "/welcome.htm" | "/thirdparty.htm" => self.page(ask).into(),
            _ => self.other(ask, faults).into(),
        }
    }

    fn record_mint(&self, ask: &Ask, value: Option<String>) {
        self.mints.push(Mint {
            username: ask.text("username").map(str::to_owned),
            domain: ask.text("domain").map(str::to_owned),
            authorization: ask.header(header::AUTHORIZATION).map(str::to_owned),
            body: ask.body.clone(),
            value,
        });
    }

    fn watch_admin(&self, ask: &Ask, scope: Scope) {
        if scope != Scope::Mint && ask.basic() == Some(lock(&self.state).admin()) {
            self.admin_elsewhere.store(true, Ordering::Relaxed);
        }
    }

    /// Gives an answer the marks of the PBX: its name, and `Ok` where others say `OK`.
    fn dress(&self, mut response: Response<Body>, faults: &Faults) -> Response<Body> {
        if response.status() == StatusCode::OK {
            response.extensions_mut().insert(ReasonPhrase::from_static(b"Ok"));
        }
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        let server = HeaderValue::from_str(&lock(&self.state).options().server);
        if let (true, Ok(server)) = (faults.server_header, server) {
            headers.insert(header::SERVER, server);
        }
        if let (true, Some(cookie)) = (faults.duplicate_cookie, headers.get(header::SET_COOKIE).cloned()) {
            headers.append(header::SET_COOKIE, cookie);
        }
        response
    }
}
