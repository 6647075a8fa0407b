//! The Voximplant stand-in: issues one-time keys for any user name, and logs a user in by the token for the key.
//!
//! It computes the formula with code of its own, so that an error in the proxy's code shows.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use md5::{Digest, Md5};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::server::{self, CAPACITY, DemoBody, Handler, Reply, lock};

/// How long a key is valid, as at the real cloud.
const KEY_TTL: Duration = Duration::from_secs(300);
/// The letters of a key.
const HEX: &[u8] = b"0123456789abcdef";

/// The cloud.
#[derive(Debug)]
pub struct VoximplantCloud {
    /// HA1 by user name.
    users: BTreeMap<String, String>,
    /// The newest key of each user name.
    keys: Mutex<HashMap<String, IssuedKey>>,
}

#[derive(Debug)]
struct IssuedKey {
    text: String,
    expires: Instant,
}

impl Handler for VoximplantCloud {
    async fn answer(&self, request: Request<Incoming>, _peer: IpAddr) -> Reply {
        match server::collect(request).await {
            Ok((head, body)) => self.reply(&head, &body).into(),
            Err(refusal) => allow_all_origins(refusal).into(),
        }
    }
}

impl VoximplantCloud {
    /// Makes a cloud with these users, by name and password.
    pub fn new<N, P>(users: impl IntoIterator<Item = (N, P)>) -> Self
    where
        N: Into<String>,
        P: AsRef<str>,
    {
        let users = users.into_iter().map(|(name, password)| with_ha1(name.into(), password.as_ref())).collect();
        Self { users, keys: Mutex::new(HashMap::new()) }
    }

    /// Makes this the key of a user, known or not, in place of the one before, and returns the answer that contains it.
    pub fn issue(&self, user: &str, key: String) -> Response<DemoBody> {
        let answer = server::json(StatusCode::OK, &json!({ "key": key }));
        let mut keys = lock(&self.keys);
        if keys.len() == CAPACITY {
            keys.clear();
        }
        keys.insert(user.to_owned(), IssuedKey { text: key, expires: Instant::now() + KEY_TTL });
        answer
    }

    /// Replies to a request that was read whole.
    pub fn reply(&self, head: &Parts, body: &[u8]) -> Response<DemoBody> {
        allow_all_origins(self.route(head, body))
    }

    fn route(&self, head: &Parts, body: &[u8]) -> Response<DemoBody> {
        if head.method == Method::OPTIONS {
            return server::text(StatusCode::NO_CONTENT, "");
        }
        let Ok(asked) = serde_json::from_slice::<Value>(body) else {
            return error(StatusCode::BAD_REQUEST, "not JSON");
        };
        let user = asked["user"].as_str().unwrap_or_default().split('@').next().unwrap_or_default();
        match (&head.method, head.uri.path()) {
            (&Method::POST, "/_key") => self.issue(user, server::random(HEX, 32)),
            (&Method::POST, "/_login") => self.login(user, asked["token"].as_str().unwrap_or_default()),
            _ => error(StatusCode::NOT_FOUND, "no such path"),
        }
    }

    /// Logs a user in, or refuses. Either way the key is used up.
    fn login(&self, user: &str, token: &str) -> Response<DemoBody> {
        let Some(ha1) = self.users.get(user) else { return error(StatusCode::NOT_FOUND, "invalid user name") };
        let Some(key) = lock(&self.keys).remove(user) else {
            return error(StatusCode::UNAUTHORIZED, "no key was issued");
        };
        if key.expires <= Instant::now() || token != md5(&format!("{}|{ha1}", key.text)) {
            return error(StatusCode::UNAUTHORIZED, "invalid token");
        }
        server::json(StatusCode::OK, &json!({ "displayName": display_name(user) }))
    }
}

fn with_ha1(name: String, password: &str) -> (String, String) {
    let ha1 = md5(&format!("{name}:voximplant.com:{password}"));
    (name, ha1)
}

fn display_name(user: &str) -> String {
    let mut letters = user.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

pub(super) fn md5(text: &str) -> String {
    hex::encode(Md5::digest(text))
}

fn error(status: StatusCode, why: &str) -> Response<DemoBody> {
    server::json(status, &json!({ "error": why, "code": status.as_u16() }))
}

/// Allows pages of any origin to read the answer: the real cloud has another origin than the app.
fn allow_all_origins(mut response: Response<DemoBody>) -> Response<DemoBody> {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, OPTIONS"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::client::{Raw, ask};
    use crate::demo::server::{StandIn, serve};

    async fn cloud() -> StandIn<VoximplantCloud> {
        serve(VoximplantCloud::new([("myuser", "mypass")])).await
    }

    async fn key(cloud: &StandIn<VoximplantCloud>) -> String {
        let answer = ask(cloud.addr, "POST /_key", "", br#"{"user":"myuser@app.account.voximplant.com"}"#).await;
        answer.json()["key"].as_str().unwrap().to_owned()
    }

    async fn login(cloud: &StandIn<VoximplantCloud>, user: &str, token: &str) -> Raw {
        let body = json!({ "user": user, "token": token }).to_string();
        ask(cloud.addr, "POST /_login", "", body.as_bytes()).await
    }

    fn token(key: &str) -> String {
        md5(&format!("{key}|2b46f850be1e592abfbd5504b038ac33"))
    }

    #[test]
    fn computes_the_vendors_formula() {
        assert_eq!(with_ha1("myuser".to_owned(), "mypass").1, "2b46f850be1e592abfbd5504b038ac33");
        assert_eq!(token("0123456789abcdef0123456789abcdef"), "6f9b9c6a02563213f2f2c64b41302f7d");
    }

    #[tokio::test]
    async fn a_token_logs_in_once() {
        let cloud = cloud().await;
        let token = token(&key(&cloud).await);
        let answer = login(&cloud, "myuser", &token).await;
        assert_eq!((answer.status(), answer.json()), ("200", json!({ "displayName": "Myuser" })));
        assert_eq!(login(&cloud, "myuser", &token).await.status(), "401");
        assert_eq!(login(&cloud, "nobody", &token).await.status(), "404");
    }

    #[tokio::test]
    async fn a_second_key_ends_the_first() {
        let cloud = cloud().await;
        let first = key(&cloud).await;
        key(&cloud).await;
        assert_eq!(login(&cloud, "myuser", &token(&first)).await.status(), "401");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_expires() {
        let cloud = VoximplantCloud::new([("myuser", "mypass")]);
        for (age, status) in [(Duration::ZERO, StatusCode::OK), (KEY_TTL, StatusCode::UNAUTHORIZED)] {
            drop(cloud.issue("myuser", "key".to_owned()));
            tokio::time::advance(age).await;
            assert_eq!(cloud.login("myuser", &token("key")).status(), status, "{age:?}");
        }
    }

    #[tokio::test]
    async fn any_origin_may_ask() {
        let cloud = cloud().await;
        let preflight = ask(cloud.addr, "OPTIONS /_key", "Origin: https://app.test\r\n", b"").await;
        assert_eq!((preflight.status(), preflight.header("access-control-allow-origin")), ("204", "*"));
        for (request, body, status) in [("POST /_key", "x", "400"), ("POST /other", "{}", "404")] {
            let answer = ask(cloud.addr, request, "", body.as_bytes()).await;
            assert_eq!((answer.status(), answer.header("access-control-allow-origin")), (status, "*"));
        }
    }
}
