//! The Voximplant stand-in: one-time keys for anybody, a login for who answers the key.
//!
//! Computes the formula with code of its own, so an error in the proxy's cannot be right here too.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use md5::{Digest, Md5};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::body::Body;
use super::server::{self, Answer, KEPT, Recent, Seen, Server, Site, lock};

/// How long the real cloud honours a key.
const KEY_TTL: Duration = Duration::from_secs(300);
/// The letters of an ordinary key.
const HEX: &[u8] = b"0123456789abcdef";
/// Letters that a body split without decoding loses.
const TRICKY: &str = "k+x/=&%2F;+ y ";

/// A running cloud, which ends when this is dropped.
#[derive(Debug)]
pub struct Voximplant {
    /// Where it listens.
    pub addr: SocketAddr,
    cloud: Arc<Cloud>,
    _server: Server,
}

impl Voximplant {
    /// Starts a cloud with these users, by name and password.
    ///
    /// # Panics
    /// When 127.0.0.1 has no free port.
    pub async fn start<N, P>(users: impl IntoIterator<Item = (N, P)>) -> Self
    where
        N: Into<String>,
        P: AsRef<str>,
    {
        let users = users.into_iter().map(|(name, password)| with_ha1(name.into(), password.as_ref())).collect();
        let keys = Mutex::new(Keys { issued: HashMap::new(), ttl: KEY_TTL, tricky: false });
        let cloud = Arc::new(Cloud { users, keys, seen: Recent::new() });
        let server = server::serve(Arc::clone(&cloud)).await;
        Self { addr: server.addr, cloud, _server: server }
    }

    /// Sets how long keys made from now on are honoured; the real cloud's 300 seconds if never called.
    pub fn set_key_ttl(&self, ttl: Duration) {
        lock(&self.cloud.keys).ttl = ttl;
    }

    /// Sets whether keys made from now on contain a space and `+ & = % ; /`.
    pub fn set_tricky_keys(&self, tricky: bool) {
        lock(&self.cloud.keys).tricky = tricky;
    }

    /// Returns the latest thousand requests, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.cloud.seen.all()
    }
}

#[derive(Debug)]
struct Cloud {
    /// HA1 by user name.
    users: BTreeMap<String, String>,
    keys: Mutex<Keys>,
    seen: Recent<Seen>,
}

#[derive(Debug)]
struct Keys {
    issued: HashMap<String, Key>,
    ttl: Duration,
    tricky: bool,
}

#[derive(Debug)]
struct Key {
    text: String,
    expires: Instant,
}

impl Site for Cloud {
    async fn answer(&self, request: Request<Incoming>, _peer: IpAddr) -> Answer {
        self.seen.push(Seen::of(&request));
        open_to_all(self.route(request).await).into()
    }
}

impl Cloud {
    async fn route(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = match server::collect(request).await {
            Ok(collected) => collected,
            Err(refusal) => return refusal,
        };
        if head.method == Method::OPTIONS {
            return server::text(StatusCode::NO_CONTENT, "");
        }
        let Ok(asked) = serde_json::from_slice::<Value>(&body) else {
            return error(StatusCode::BAD_REQUEST, "not JSON");
        };
        let user = asked["user"].as_str().unwrap_or_default().split('@').next().unwrap_or_default();
        match (&head.method, head.uri.path()) {
            (&Method::POST, "/_key") => self.key(user),
            (&Method::POST, "/_login") => self.login(user, asked["token"].as_str().unwrap_or_default()),
            _ => error(StatusCode::NOT_FOUND, "no such path"),
        }
    }

    /// Makes a key for any name, known or not, as the real cloud does. It replaces the one before.
    fn key(&self, user: &str) -> Response<Body> {
        let mut keys = lock(&self.keys);
        let tricky = if keys.tricky { TRICKY } else { "" };
        let text = format!("{tricky}{}", server::random(HEX, 32));
        let answer = server::json(StatusCode::OK, &json!({ "key": text }));
        let key = Key { text, expires: Instant::now() + keys.ttl };
        if keys.issued.len() == KEPT {
            keys.issued.clear();
        }
        keys.issued.insert(user.to_owned(), key);
        answer
    }

    /// Logs a user in, or deletes his key all the same: it is good for one attempt.
    fn login(&self, user: &str, token: &str) -> Response<Body> {
        let Some(ha1) = self.users.get(user) else { return error(StatusCode::NOT_FOUND, "invalid user name") };
        let Some(key) = lock(&self.keys).issued.remove(user) else {
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

fn error(status: StatusCode, why: &str) -> Response<Body> {
    server::json(status, &json!({ "error": why, "code": status.as_u16() }))
}

/// Lets pages of any origin read the answer: the real cloud is another origin than the app.
fn open_to_all(mut response: Response<Body>) -> Response<Body> {
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

    async fn cloud() -> Voximplant {
        Voximplant::start([("myuser", "mypass")]).await
    }

    async fn key(cloud: &Voximplant) -> String {
        let answer = ask(cloud.addr, "POST /_key", "", br#"{"user":"myuser@app.account.voximplant.com"}"#).await;
        answer.json()["key"].as_str().unwrap().to_owned()
    }

    async fn login(cloud: &Voximplant, user: &str, token: &str) -> Raw {
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
        assert_eq!(cloud.requests().len(), 4);
    }

    #[tokio::test]
    async fn a_second_key_ends_the_first() {
        let cloud = cloud().await;
        let first = key(&cloud).await;
        key(&cloud).await;
        assert_eq!(login(&cloud, "myuser", &token(&first)).await.status(), "401");
    }

    #[tokio::test]
    async fn a_key_expires() {
        let cloud = cloud().await;
        cloud.set_key_ttl(Duration::ZERO);
        let token = token(&key(&cloud).await);
        assert_eq!(login(&cloud, "myuser", &token).await.status(), "401");
    }

    #[tokio::test]
    async fn tricky_keys_have_every_letter_that_forms_lose() {
        let cloud = cloud().await;
        cloud.set_tricky_keys(true);
        let key = key(&cloud).await;
        assert!("+&=%;/ ".chars().all(|letter| key.contains(letter)), "{key}");
        assert_eq!(login(&cloud, "myuser", &token(&key)).await.status(), "200");
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
