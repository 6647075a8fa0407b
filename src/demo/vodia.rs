//! The PBX stand-in: three dialects of the session protocol, the pages of a browser, and the other paths.

mod answers;
mod options;
mod pages;
mod paths;
mod request;
mod session;
mod state;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Mutex;

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;

use self::state::VodiaState;
use super::server::{self, DemoBody, Handler, Reply, lock};

pub use self::options::{Extension, Tenant, VodiaDialect, VodiaOptions};
pub use self::request::PbxRequest;
pub use self::state::{SessionIdentity, SessionLevel, WebSession};

/// The path of the session protocol.
pub const SESSION_PATH: &str = "/rest/system/session";

/// The PBX.
#[derive(Debug)]
pub struct VodiaPbx {
    state: Mutex<VodiaState>,
}

impl Handler for VodiaPbx {
    fn admits(&self, peer: IpAddr) -> bool {
        !lock(&self.state).is_blocked(peer)
    }

    async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Reply {
        if !self.admits(peer) {
            return Reply::hang_up();
        }
        match server::collect(request).await {
            Ok((head, body)) => self.reply(&PbxRequest::new(head, body, peer)),
            Err(refusal) => refusal.into(),
        }
    }
}

impl VodiaPbx {
    /// Makes a PBX without sessions.
    #[must_use]
    pub fn new(options: VodiaOptions) -> Self {
        Self { state: Mutex::new(VodiaState::new(options)) }
    }

    /// Replies to a request that was read whole.
    pub fn reply(&self, request: &PbxRequest) -> Reply {
        match self.route(request) {
            Reply::Http(response) => self.mark(response).into(),
            other => other,
        }
    }

    /// Returns the live sessions, oldest first.
    #[must_use]
    pub fn sessions(&self) -> Vec<WebSession> {
        lock(&self.state).sessions()
    }

    /// Opens a session for an extension, as its login would, and returns the id.
    #[must_use]
    pub fn open_session(&self, user: &str, domain: &str) -> String {
        let identity = SessionIdentity { level: SessionLevel::User, user: user.to_owned(), domain: domain.to_owned() };
        lock(&self.state).open(identity)
    }

    /// Returns the administrator's name and password.
    #[must_use]
    pub fn admin(&self) -> (String, String) {
        lock(&self.state).admin()
    }

    fn route(&self, request: &PbxRequest) -> Reply {
        match request.path() {
            SESSION_PATH => self.session(request).into(),
            "/websocket" => self.websocket(request),
            "/" | "/welcome.htm" | "/thirdparty.htm" | "/usr_index.htm" => self.page(request).into(),
            _ => self.other(request).into(),
        }
    }

    /// Adds the marks of the PBX to a response: its `Server` field, and the reason phrase `Ok` instead of `OK`.
    fn mark(&self, mut response: Response<DemoBody>) -> Response<DemoBody> {
        if response.status() == StatusCode::OK {
            response.extensions_mut().insert(ReasonPhrase::from_static(b"Ok"));
        }
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Ok(server) = HeaderValue::from_str(&lock(&self.state).options().server) {
            headers.insert(header::SERVER, server);
        }
        response
    }
}
