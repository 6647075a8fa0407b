//! The stand-in for Voximplant's Management API: users and their passwords. Failures come with status 200.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use callgate::demo::server::{self, DemoBody, Handler, Reply, StandIn, serve};
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kit::gate::secret;
use crate::kit::records::lock;

/// The number of the account.
const ACCOUNT: u64 = 1_234_567;
/// The name of the service account's key.
const KEY_ID: &str = "0c4b2a10-1111-4222-8333-444455556666";
/// How long a token may be valid, in seconds.
const TOKEN_LIFE: u64 = 64;

/// A running API, which ends when this is dropped.
pub struct Management {
    /// Where it listens.
    pub addr: SocketAddr,
    /// The key of the account.
    pub api_key: String,
    /// The key of a service account, as the control panel gives it out: a file of JSON.
    pub service_account: String,
    running: StandIn<ManagementApi>,
}

/// A user of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedUser {
    /// Empty until one is set.
    pub password: String,
    pub is_active: bool,
    pub display_name: String,
}

/// The fault of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// None.
    None,
    /// It carries out the request, and closes the connection without an answer.
    HangsUpAfterwards,
    /// It answers with a page, as a proxy before it might.
    Page,
    /// It refuses, and quotes the request.
    Quotes,
    /// It closes the connection, and does nothing.
    HangsUp,
    /// It answers 500.
    Breaks,
    /// It answers that there are too many requests.
    RefusesAll,
}

struct ManagementApi {
    api_key: String,
    public_key: Vec<u8>,
    users: Mutex<BTreeMap<(String, String), ManagedUser>>,
    trouble: Mutex<Trouble>,
    seen: Mutex<Vec<String>>,
    /// What was done, in order: `deactivate ann`.
    done: Mutex<Vec<String>>,
    /// Taken by each request; the test may hold it.
    turn: tokio::sync::Mutex<()>,
    /// How many users there may be.
    most: AtomicUsize,
}

impl Management {
    /// Starts an API with these users, each by application (in full) and name.
    pub async fn start(users: &[(&str, &str)]) -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("there is randomness");
        let der: Pkcs8V1Der<'_> = pair.as_der().expect("it was just made");
        let body = BASE64_STANDARD.encode(der.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        let account =
            json!({ "account_email": "ops@example.com", "account_id": ACCOUNT, "key_id": KEY_ID, "private_key": pem });
        let new = |name: &str| ManagedUser { password: String::new(), is_active: true, display_name: name.to_owned() };
        let users = users.iter().map(|(application, name)| (key(application, name), new(name)));
        let api = ManagementApi {
            api_key: server::random(b"0123456789abcdef", 32),
            public_key: pair.public_key().as_ref().to_vec(),
            users: Mutex::new(users.collect()),
            trouble: Mutex::new(Trouble::None),
            seen: Mutex::default(),
            done: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            most: AtomicUsize::new(1000),
        };
        let (api_key, service_account) = (api.api_key.clone(), account.to_string());
        let running = serve(api).await;
        Self { addr: running.addr, api_key, service_account, running }
    }

    /// Returns the password of a user, empty until one is set.
    pub fn password(&self, application: &str, name: &str) -> Option<String> {
        self.user(application, name).map(|user| user.password)
    }

    /// Returns a user.
    pub fn user(&self, application: &str, name: &str) -> Option<ManagedUser> {
        lock(&self.running.handler.users).get(&key(application, name)).cloned()
    }

    /// Returns whether a user exists and is active.
    pub fn is_active(&self, application: &str, name: &str) -> bool {
        self.user(application, name).is_some_and(|user| user.is_active)
    }

    /// Sets how many users there may be.
    pub fn set_most(&self, most: usize) {
        self.running.handler.most.store(most, Ordering::Relaxed);
    }

    /// Returns what was done, in order: `deactivate ann`.
    pub fn done(&self) -> Vec<String> {
        lock(&self.running.handler.done).clone()
    }

    /// Lets every request wait until the returned guard is dropped.
    pub async fn hold(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.running.handler.turn.lock().await
    }

    /// The lines of `[voximplant]` that lead here. Writes the service account into a folder.
    pub fn access(&self, folder: &TempDir) -> String {
        secret(folder, "account.json", &self.service_account);
        let account = folder.path().join("account.json");
        format!(
            "management = {{ service_account = {{ file = \"{}\" }}, url = \"http://{}/platform_api/\" }}",
            account.display(),
            self.addr
        )
    }

    /// Sets the fault, from the next request on.
    pub fn set(&self, trouble: Trouble) {
        *lock(&self.running.handler.trouble) = trouble;
    }

    /// Returns the targets of all requests.
    pub fn targets(&self) -> Vec<String> {
        lock(&self.running.handler.seen).clone()
    }
}

fn key(application: &str, name: &str) -> (String, String) {
    (application.to_owned(), name.to_owned())
}

impl Handler for ManagementApi {
    async fn answer(&self, request: Request<Incoming>, _peer: IpAddr) -> Reply {
        lock(&self.seen).push(request.uri().to_string());
        let (head, body) = match server::collect(request).await {
            Ok(collected) => collected,
            Err(refusal) => return refusal.into(),
        };
        let fields: HashMap<_, _> = form_urlencoded::parse(&body).into_owned().collect();
        let _turn = self.turn.lock().await;
        let trouble = *lock(&self.trouble);
        match trouble {
            Trouble::HangsUp => return Reply::hang_up(),
            Trouble::Breaks => return server::text(StatusCode::INTERNAL_SERVER_ERROR, "broken").into(),
            Trouble::RefusesAll => return fault(340, "Rate limit exceed").into(),
            Trouble::Page => return server::html(StatusCode::OK, "<h1>It works!</h1>".to_owned()).into(),
            Trouble::Quotes => return fault(1, &String::from_utf8_lossy(&body)).into(),
            Trouble::None | Trouble::HangsUpAfterwards => {}
        }
        let bearer = head.headers.get(header::AUTHORIZATION).and_then(|line| line.to_str().ok());
        let answer = match bearer.and_then(|line| line.strip_prefix("Bearer ")) {
            Some(token) if !self.signed(token) => fault(100, "authorization failed"),
            None if !self.knows_key(&fields) => fault(100, "authorization failed"),
            _ if head.method != Method::POST => fault(1, "use POST"),
            _ => self.act(head.uri.path(), &fields),
        };
        if trouble == Trouble::HangsUpAfterwards { Reply::hang_up() } else { answer.into() }
    }
}

impl ManagementApi {
    fn knows_key(&self, fields: &HashMap<String, String>) -> bool {
        fields.get("api_key") == Some(&self.api_key) && fields.get("account_id") == Some(&ACCOUNT.to_string())
    }

    /// Tells whether a token is signed by the service account and valid for a minute at most.
    fn signed(&self, token: &str) -> bool {
        let Some((text, signature)) = token.rsplit_once('.') else { return false };
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).unwrap_or_default();
        let public_key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public_key);
        let is_signed = public_key.verify(text.as_bytes(), &decode(signature)).is_ok();
        let parts: Vec<Value> = text.split('.').filter_map(|part| serde_json::from_slice(&decode(part)).ok()).collect();
        let [head, claims] = parts.as_slice() else { return false };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let is_fresh = claims["exp"].as_u64().is_some_and(|exp| (now..=now + TOKEN_LIFE).contains(&exp));
        is_signed && is_fresh && head["alg"] == "RS256" && head["kid"] == KEY_ID && claims["iss"] == ACCOUNT
    }

    fn act(&self, path: &str, fields: &HashMap<String, String>) -> Response<DemoBody> {
        let field = |name: &str| fields.get(name).map_or("", String::as_str);
        let user = key(field("application_name"), field("user_name"));
        if fields.get("user_password").is_some_and(|password| !is_strong(password)) {
            return fault(112, "'user_password' is too weak");
        }
        let mut users = lock(&self.users);
        let count = users.len();
        let done = match (path, users.get_mut(&user)) {
            ("/platform_api/SetUserInfo", None) => return fault(117, "user not found"),
            ("/platform_api/SetUserInfo", Some(user)) => change(user, fields),
            ("/platform_api/AddUser", Some(_)) => return fault(118, "'user_name' is not unique"),
            // The real one permits 255 characters.
            ("/platform_api/AddUser", None) if !(1..=100).contains(&field("user_display_name").len()) => {
                return fault(157, "'user_display_name' is invalid");
            }
            ("/platform_api/AddUser", None) if count >= self.most.load(Ordering::Relaxed) => {
                return fault(109, "Exceeded the user count limit per account");
            }
            ("/platform_api/AddUser", None) => {
                let password = field("user_password").to_owned();
                let display_name = field("user_display_name").to_owned();
                users.insert(user.clone(), ManagedUser { password, is_active: true, display_name });
                "add"
            }
            _ => return fault(103, "unknown command"),
        };
        lock(&self.done).push(format!("{done} {}", user.1));
        server::json(StatusCode::OK, &json!({ "result": 1 }))
    }
}

/// Changes a user by the fields that a request has.
fn change(user: &mut ManagedUser, fields: &HashMap<String, String>) -> &'static str {
    if let Some(password) = fields.get("user_password") {
        password.clone_into(&mut user.password);
    }
    match fields.get("user_active").map(String::as_str) {
        None => "set the password of",
        Some(active) => {
            user.is_active = active == "true";
            if user.is_active { "activate" } else { "deactivate" }
        }
    }
}

/// Tells whether the real API accepts a password.
fn is_strong(password: &str) -> bool {
    let has = |kind: fn(&char) -> bool| password.chars().any(|letter| kind(&letter));
    password.len() >= 8
        && has(char::is_ascii_uppercase)
        && has(char::is_ascii_lowercase)
        && has(char::is_ascii_digit)
        && has(char::is_ascii_punctuation)
}

fn fault(code: i64, message: &str) -> Response<DemoBody> {
    server::json(StatusCode::OK, &json!({ "error": { "msg": message, "code": code } }))
}
