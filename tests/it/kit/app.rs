//! The app stand-in with faults of its whoami, with paths that show what arrived, and with a record of its requests.

mod faces;
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use callgate::demo::app::PortalApp;
use callgate::demo::server::{self, DemoBody, Handler, Reply, StandIn, serve};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::kit::records::{Recent, Seen, lock};

pub use callgate::demo::app::{PortalOptions as AppOptions, SameSite};

/// The faults of the app.
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
    /// 200 with these claims for every caller.
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
pub struct App {
    /// Where it listens.
    pub addr: SocketAddr,
    running: StandIn<FaultyApp>,
}

impl App {
    /// Starts the app.
    pub async fn start(options: AppOptions) -> Self {
        let faults = Mutex::new(AppFaults { whoami: Whoami::Truth });
        let running = serve(FaultyApp { portal: PortalApp::new(options), faults, seen: Recent::new() }).await;
        Self { addr: running.addr, running }
    }

    /// Changes the faults, from the next request on.
    pub fn set(&self, change: impl FnOnce(&mut AppFaults)) {
        change(&mut lock(&self.running.handler.faults));
    }

    /// Logs alice or bob in without a request, and returns the `Cookie` header that proves it.
    pub fn log_in(&self, name: &str) -> String {
        self.running.handler.portal.log_in(name)
    }

    /// Returns the latest thousand requests, oldest first.
    pub fn requests(&self) -> Vec<Seen> {
        self.running.handler.seen.all()
    }
}

struct FaultyApp {
    portal: PortalApp,
    faults: Mutex<AppFaults>,
    seen: Recent<Seen>,
}

impl Handler for FaultyApp {
    async fn answer(&self, request: Request<Incoming>, _peer: IpAddr) -> Reply {
        self.seen.push(Seen::of(&request));
        if request.uri().path() == "/upload" {
            return faces::upload(request).await.into();
        }
        let (head, body) = match server::collect(request).await {
            Ok(collected) => collected,
            Err(refusal) => return refusal.into(),
        };
        match head.uri.path() {
            "/api/me" => self.whoami(&head, &body).await.into(),
            "/ws" => server::websocket(&head, |text| Some(text.to_owned())),
            _ => match faces::face(&head, &body).await {
                Some(response) => response.into(),
                None => self.portal.route(&head, &body).await.into(),
            },
        }
    }
}

impl FaultyApp {
    async fn whoami(&self, head: &Parts, body: &[u8]) -> Response<DemoBody> {
        let whoami = lock(&self.faults).whoami.clone();
        match whoami {
            Whoami::Truth => self.portal.route(head, body).await,
            Whoami::Slow(delay) => {
                tokio::time::sleep(delay).await;
                self.portal.route(head, body).await
            }
            Whoami::Claims(claims) => server::json(StatusCode::OK, &claims),
            Whoami::NotJson => server::html(StatusCode::OK, "<!doctype html><title>Hello</title>".to_owned()),
            Whoami::Status(status) => server::json(status, &json!({})),
            Whoami::Redirect => server::redirect(StatusCode::FOUND, "/"),
            Whoami::Large => server::json(StatusCode::OK, &large()),
            Whoami::Hang => std::future::pending().await,
        }
    }
}

/// Returns right claims, and one of 20 KiB beside them.
fn large() -> Value {
    json!({ "user": "alice", "ext": "40", "tenant": "acme.test", "vox": "alice", "note": "x".repeat(20 * 1024) })
}
