//! The customer's web app: a portal with a login of its own, a web phone, and test faces that show what arrived.

mod faces;
mod portal;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;

use super::body::Body;
use super::server::{self, Answer, KEPT, Recent, Seen, Server, Site, lock};

/// The cookie of the app's own login.
const COOKIE: &str = "demo_app";
/// The letters of that cookie's value.
const LETTERS: &[u8] = b"0123456789abcdef";

/// Somebody who can log in to the app; the password is the name.
#[derive(Debug, PartialEq, Eq)]
struct User {
    name: &'static str,
    full_name: &'static str,
    ext: &'static str,
    vox: &'static str,
}

const USERS: [User; 2] = [
    User { name: "alice", full_name: "Alice Martin", ext: "40", vox: "alice" },
    User { name: "bob", full_name: "Bob Keller", ext: "41", vox: "bob" },
];

/// What the app is started with.
#[derive(Debug, Clone)]
pub struct AppOptions {
    /// The origin the app's own redirect leads to, such as `https://pbx.localhost:8443`.
    pub pbx_origin: String,
    /// The PBX tenant of all users.
    pub tenant: String,
    /// Where `/vox/_key` and `/vox/_login` are forwarded to.
    pub voximplant: Option<SocketAddr>,
    /// The `SameSite` attribute of the app's cookie.
    pub cookie_same_site: SameSite,
}

impl Default for AppOptions {
    fn default() -> Self {
        Self {
            pbx_origin: "https://pbx.localhost:8443".to_owned(),
            tenant: "acme.test".to_owned(),
            voximplant: None,
            cookie_same_site: SameSite::Lax,
        }
    }
}

/// The `SameSite` attribute of a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// The cookie comes along when a link of another site is followed.
    Lax,
    /// The cookie comes along from pages of the same site only.
    Strict,
}

/// What goes wrong at the app.
#[derive(Debug, Clone)]
pub struct AppFaults {
    /// How `/api/me` answers.
    pub whoami: Whoami,
}

/// How `/api/me` answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Whoami {
    /// Truthfully: 200 with the caller's claims, or 401.
    Truth,
    /// Truthfully, after a while.
    Slow(Duration),
    /// 200 with these claims, whoever asks.
    Claims(Value),
    /// 200 with a page.
    NotJson,
    /// This status with an empty JSON object.
    Status(StatusCode),
    /// 302 to the login page.
    Redirect,
    /// 200 with 20 KiB of JSON.
    Large,
    /// Not at all.
    Hang,
}

/// A running app, which ends when this is dropped.
#[derive(Debug)]
pub struct App {
    /// Where it listens.
    pub addr: SocketAddr,
    site: Arc<Portal>,
    _server: Server,
}

impl App {
    /// Starts the app.
    ///
    /// # Panics
    /// When 127.0.0.1 has no free port.
    pub async fn start(options: AppOptions) -> Self {
        let faults = Mutex::new(AppFaults { whoami: Whoami::Truth });
        let site = Arc::new(Portal { options, faults, logins: Mutex::new(HashMap::new()), seen: Recent::new() });
        let server = server::serve(Arc::clone(&site)).await;
        Self { addr: server.addr, site, _server: server }
    }

    /// Changes what goes wrong, from the next request on.
    pub fn set(&self, change: impl FnOnce(&mut AppFaults)) {
        change(&mut lock(&self.site.faults));
    }

    /// Logs a user in without a request, and returns the `Cookie` header that proves it.
    ///
    /// # Panics
    /// When the user is not `alice` or `bob`.
    #[must_use]
    pub fn log_in(&self, name: &str) -> String {
        let user = USERS.iter().find(|user| user.name == name).expect("the app knows alice and bob");
        format!("{COOKIE}={}", self.site.open(user))
    }

    /// Returns the latest thousand requests, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.site.seen.all()
    }
}

#[derive(Debug)]
struct Portal {
    options: AppOptions,
    faults: Mutex<AppFaults>,
    /// Who is logged in, by the value of the cookie.
    logins: Mutex<HashMap<String, &'static User>>,
    seen: Recent<Seen>,
}

impl Site for Portal {
    async fn answer(&self, request: Request<Incoming>, _peer: IpAddr) -> Answer {
        self.seen.push(Seen::of(&request));
        if request.uri().path() == "/upload" {
            return faces::upload(request).await.into();
        }
        match server::collect(request).await {
            Ok((head, body)) => self.route(&head, &body).await,
            Err(refusal) => refusal.into(),
        }
    }
}

impl Portal {
    async fn route(&self, head: &Parts, body: &[u8]) -> Answer {
        let response = match (&head.method, head.uri.path()) {
            (&Method::GET, "/") => self.home(head),
            (&Method::POST, "/login") => self.login(body),
            (&Method::POST, "/logout") => self.logout(head),
            (&Method::GET, "/phone") => self.phone(head),
            (&Method::GET, "/open-pbx") => self.open_pbx(head),
            (_, "/api/me") => self.whoami(head).await,
            (&Method::POST, "/vox/_key") => self.cloud("/_key", body).await,
            (&Method::POST, "/vox/_login") => self.cloud("/_login", body).await,
            (_, "/ws") => return server::socket(head, |text| Some(text.to_owned())),
            _ => faces::face(head, body).await,
        };
        response.into()
    }

    /// Returns who is logged in, by the app's own cookie.
    fn user(&self, head: &Parts) -> Option<&'static User> {
        let id = server::cookie(&head.headers, COOKIE)?;
        lock(&self.logins).get(&id).copied()
    }

    fn open(&self, user: &'static User) -> String {
        let id = server::random(LETTERS, 32);
        let mut logins = lock(&self.logins);
        if logins.len() == KEPT {
            logins.clear();
        }
        logins.insert(id.clone(), user);
        id
    }
}

fn not_found() -> Response<Body> {
    server::text(StatusCode::NOT_FOUND, "not found")
}
