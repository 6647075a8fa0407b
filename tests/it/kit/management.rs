//! The stand-in for Voximplant's Management API: users and their passwords. Failures come with status 200.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
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
}

struct ManagementApi {
    api_key: String,
    public_key: Vec<u8>,
    users: Mutex<BTreeMap<(String, String), String>>,
    trouble: Mutex<Trouble>,
    seen: Mutex<Vec<String>>,
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
        let users = users.iter().map(|(application, name)| key(application, name)).map(|key| (key, String::new()));
        let api = ManagementApi {
            api_key: server::random(b"0123456789abcdef", 32),
            public_key: pair.public_key().as_ref().to_vec(),
            users: Mutex::new(users.collect()),
            trouble: Mutex::new(Trouble::None),
            seen: Mutex::default(),
        };
        let (api_key, service_account) = (api.api_key.clone(), account.to_string());
        let running = serve(api).await;
        Self { addr: running.addr, api_key, service_account, running }
    }

    /// Returns the password of a user, empty until one is set.
    pub fn password(&self, application: &str, name: &str) -> Option<String> {
        lock(&self.running.handler.users).get(&key(application, name)).cloned()
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
        let trouble = *lock(&self.trouble);
        match trouble {
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
        let (user, password) = (key(field("application_name"), field("user_name")), field("user_password"));
        if !is_strong(password) {
            return fault(113, "'user_password' is too weak");
        }
        let mut users = lock(&self.users);
        match (path, users.contains_key(&user)) {
            ("/platform_api/SetUserInfo", false) => return fault(121, "user not found"),
            ("/platform_api/AddUser", true) => return fault(118, "'user_name' is not unique"),
            ("/platform_api/AddUser", false) if field("user_display_name").is_empty() => {
                return fault(110, "'user_display_name' is missing");
            }
            ("/platform_api/SetUserInfo", true) | ("/platform_api/AddUser", false) => {}
            _ => return fault(103, "unknown command"),
        }
        users.insert(user, password.to_owned());
        server::json(StatusCode::OK, &json!({ "result": 1 }))
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
