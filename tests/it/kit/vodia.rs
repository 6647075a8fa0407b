//! The PBX stand-in with faults, and with a record of what it was asked.

mod faults;
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use callgate::demo::server::{self, Handler, Reply, StandIn, serve};
use callgate::demo::vodia::{PbxRequest, VodiaPbx, WebSession};
use http::{Request, header};
use hyper::body::Incoming;

use crate::kit::records::{Recent, Seen, lock};

pub use callgate::demo::vodia::{SessionLevel as Level, Tenant, VodiaDialect as Dialect, VodiaOptions as Options};
pub use faults::{BodyForm, FailForm, Faults, Scope, Wrong};

/// A request for a session of a user, as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mint {
    /// The `username` of the body.
    pub username: Option<String>,
    /// The `domain` of the body.
    pub domain: Option<String>,
    /// The name and the password of the `Authorization` header.
    pub basic: Option<(String, String)>,
    /// The body, byte for byte.
    pub body: Bytes,
    /// The session id (dialect A) or token (B, C) that was minted, if one was.
    pub value: Option<String>,
}

/// A running PBX, which ends when this is dropped.
pub struct Vodia {
    /// Where it listens.
    pub addr: SocketAddr,
    running: StandIn<FaultyPbx>,
}

impl Vodia {
    /// Starts a healthy PBX.
    pub async fn start(options: Options) -> Self {
        let running = serve(FaultyPbx {
            pbx: VodiaPbx::new(options),
            faults: Mutex::default(),
            connections: AtomicUsize::new(0),
            seen: Recent::new(),
            mints: Recent::new(),
            admin_elsewhere: AtomicBool::new(false),
        })
        .await;
        Self { addr: running.addr, running }
    }

    /// Changes the faults, from the next request on.
    pub fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut lock(&self.running.handler.faults));
    }

    /// Returns how many connections were made.
    pub fn connections(&self) -> usize {
        self.running.handler.connections.load(Ordering::Relaxed)
    }

    /// Returns the latest thousand requests, oldest first.
    pub fn requests(&self) -> Vec<Seen> {
        self.running.handler.seen.all()
    }

    /// Returns the latest thousand mints, refused ones included, oldest first.
    pub fn mints(&self) -> Vec<Mint> {
        self.running.handler.mints.all()
    }

    /// Returns the live sessions, oldest first.
    pub fn sessions(&self) -> Vec<WebSession> {
        self.running.handler.pbx.sessions()
    }

    /// Returns the id of the newest live session.
    pub fn last_session(&self) -> Option<String> {
        self.sessions().pop().map(|session| session.id)
    }

    /// Returns the newest minted value: a session id in dialect A, a token in B and C.
    pub fn last_minted(&self) -> Option<String> {
        self.mints().into_iter().rev().find_map(|mint| mint.value)
    }

    /// Opens a session for an extension, as its login would, and returns the id.
    pub fn open_session(&self, user: &str, domain: &str) -> String {
        self.running.handler.pbx.open_session(user, domain)
    }

    /// Tells whether the administrator's Basic credentials came with a request other than a mint.
    pub fn saw_admin_elsewhere(&self) -> bool {
        self.running.handler.admin_elsewhere.load(Ordering::Relaxed)
    }

    /// Tells whether a mint came without the administrator's Basic credentials, as from a client passed through.
    pub fn saw_mint_without_admin(&self) -> bool {
        let admin = Some(self.running.handler.pbx.admin());
        self.mints().iter().any(|mint| mint.basic != admin)
    }
}

/// A PBX whose answers the faults replace or spoil.
struct FaultyPbx {
    pbx: VodiaPbx,
    faults: Mutex<Faults>,
    connections: AtomicUsize,
    seen: Recent<Seen>,
    mints: Recent<Mint>,
    admin_elsewhere: AtomicBool,
}

impl Handler for FaultyPbx {
    fn admits(&self, peer: IpAddr) -> bool {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.is_open_to(peer)
    }

    async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Reply {
        if !self.is_open_to(peer) {
            return Reply::hang_up();
        }
        self.seen.push(Seen::of(&request));
        let request = match server::collect(request).await {
            Ok((head, body)) => PbxRequest::new(head, body, peer),
            Err(refusal) => return refusal.into(),
        };
        let faults = lock(&self.faults).clone();
        let scope = Scope::of(&request);
        self.watch_admin(&request, scope);
        if let Some(answer) = faults.instead(scope) {
            if scope == Scope::Mint {
                self.mints.push(mint_of(&request));
            }
            tokio::time::sleep(faults.head_delay).await;
            return answer;
        }
        match scope {
            Scope::Mint => self.mint(request, &faults).await,
            Scope::Exchange if faults.tokens_expire => server::json(http::StatusCode::OK, &false.into()).into(),
            Scope::Exchange | Scope::Describe | Scope::Socket | Scope::Other | Scope::All => {
                match self.pbx.reply(&request) {
                    Reply::Http(response) => faults.spoil(scope, response).await,
                    socket => faults.spoil_socket(scope, socket).await,
                }
            }
        }
    }
}

impl FaultyPbx {
    fn is_open_to(&self, peer: IpAddr) -> bool {
        !lock(&self.faults).refuse_connections && self.pbx.admits(peer)
    }

    async fn mint(&self, mut request: PbxRequest, faults: &Faults) -> Reply {
        let mut record = mint_of(&request);
        if self.is_password_changed() {
            request.head.headers.remove(header::AUTHORIZATION);
        }
        let Reply::Http(response) = self.pbx.reply(&request) else { return Reply::hang_up() };
        let (response, minted) = faults.form(response).await;
        record.value = minted;
        self.mints.push(record);
        faults.spoil(Scope::Mint, response).await
    }

    /// Counts a mint against `refuse_after`, and tells whether the password is wrong by now.
    fn is_password_changed(&self) -> bool {
        match &mut lock(&self.faults).refuse_after {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn watch_admin(&self, request: &PbxRequest, scope: Scope) {
        if scope != Scope::Mint && request.basic() == Some(self.pbx.admin()) {
            self.admin_elsewhere.store(true, Ordering::Relaxed);
        }
    }
}

/// Records a mint before it is answered.
fn mint_of(request: &PbxRequest) -> Mint {
    Mint {
        username: request.text("username").map(str::to_owned),
        domain: request.text("domain").map(str::to_owned),
        basic: request.basic(),
        body: request.body.clone(),
        value: None,
    }
}
