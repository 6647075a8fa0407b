//! The customer's web app: a portal with a login of its own and a web phone.

mod portal;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::server::{self, CAPACITY, DemoBody, Handler, Reply, lock};

pub use portal::with_grant;

/// The cookie of the app's own login.
const COOKIE: &str = "demo_app";
/// The letters of that cookie's value.
const LETTERS: &[u8] = b"0123456789abcdef";

/// A user of the app. The password is the name.
#[derive(Debug, PartialEq, Eq)]
struct PortalUser {
    name: &'static str,
    full_name: &'static str,
    ext: &'static str,
    vox: &'static str,
}

const USERS: [PortalUser; 2] = [
    PortalUser { name: "alice", full_name: "Alice Martin", ext: "40", vox: "alice" },
    PortalUser { name: "bob", full_name: "Bob Keller", ext: "41", vox: "bob" },
];

/// The settings of the app.
#[derive(Debug, Clone)]
pub struct PortalOptions {
    /// The origin of the PBX in the app's own redirect, such as `https://pbx.localhost:8443`.
    pub pbx_origin: String,
    /// The PBX tenant of all users.
    pub tenant: String,
    /// The Voximplant cloud, to which `/vox/_key` and `/vox/_login` are forwarded.
    pub voximplant: Option<SocketAddr>,
    /// The `SameSite` attribute of the app's cookie.
    pub cookie_same_site: SameSite,
}

impl Default for PortalOptions {
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
    /// The browser also sends the cookie when it follows a link from another site.
    Lax,
    /// The browser sends the cookie with requests from the same site only.
    Strict,
}

/// The app.
#[derive(Debug)]
pub struct PortalApp {
    options: PortalOptions,
    /// The users who are logged in, by the value of their cookie.
    logins: Mutex<HashMap<String, &'static PortalUser>>,
}

impl Handler for PortalApp {
    async fn answer(&self, request: Request<Incoming>, _peer: IpAddr) -> Reply {
        match server::collect(request).await {
            Ok((head, body)) => self.route(&head, &body).await.into(),
            Err(refusal) => refusal.into(),
        }
    }
}

impl PortalApp {
    /// Makes an app in which no user is logged in.
    #[must_use]
    pub fn new(options: PortalOptions) -> Self {
        Self { options, logins: Mutex::new(HashMap::new()) }
    }

    /// Logs a user in without a request, and returns the `Cookie` header that proves it.
    ///
    /// # Panics
    /// When the user is not `alice` or `bob`.
    #[must_use]
    pub fn log_in(&self, name: &str) -> String {
        let user = USERS.iter().find(|user| user.name == name).expect("the app knows alice and bob");
        format!("{COOKIE}={}", self.open_login(user))
    }

    /// Answers a request that was read whole.
    pub async fn route(&self, head: &Parts, body: &[u8]) -> Response<DemoBody> {
        match (&head.method, head.uri.path()) {
            (&Method::GET, "/") => self.home(head),
            (&Method::POST, "/login") => self.login(body),
            (&Method::POST, "/logout") => self.logout(head),
            (&Method::GET, "/phone") => self.phone(head),
            (&Method::GET, "/open-pbx") => self.open_pbx(head),
            (_, "/api/me") => self.whoami(head),
            (&Method::POST, "/vox/_key") => self.forward_to_cloud("/_key", body).await,
            (&Method::POST, "/vox/_login") => self.forward_to_cloud("/_login", body).await,
            _ => not_found(),
        }
    }

    /// Returns the user whom the app's cookie names.
    fn user(&self, head: &Parts) -> Option<&'static PortalUser> {
        let id = server::cookie(&head.headers, COOKIE)?;
        lock(&self.logins).get(&id).copied()
    }

    fn open_login(&self, user: &'static PortalUser) -> String {
        let id = server::random(LETTERS, 32);
        let mut logins = lock(&self.logins);
        if logins.len() == CAPACITY {
            logins.clear();
        }
        logins.insert(id.clone(), user);
        id
    }
}

fn not_found() -> Response<DemoBody> {
    server::text(StatusCode::NOT_FOUND, "not found")
}
