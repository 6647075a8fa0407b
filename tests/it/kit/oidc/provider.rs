//! A stand-in for an identity provider that can lie.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use crate::kit::upstream::{RawUpstream, UpstreamConnection};

pub const CLIENT: &str = "callgate-client";
pub const SECRET: &str = "a client secret with &, % and +";

/// The answers of the provider. The claims replace its own; `null` removes one.
pub struct ProviderFaults {
    pub claims: Value,
    /// The text before them, as it is written.
    pub claims_more: &'static str,
    pub userinfo: Value,
    /// The answer of the userinfo endpoint, as it is written.
    pub userinfo_text: Option<String>,
    pub discovery: Value,
    /// Keys beside the one that signs.
    pub keys: Vec<Value>,
    /// Replaces members of the token endpoint's answer.
    pub tokens: Value,
    pub header: Value,
    /// The key that signs ID tokens: the published one, another one, the client's secret, or none.
    pub signs: IdTokenSigner,
    /// The answer of the token endpoint instead of tokens.
    pub instead: Option<(u16, Value)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum IdTokenSigner {
    Key,
    Another,
    Nothing,
    ClientSecret,
    PublicKey,
}

/// A running provider.
pub struct Provider {
    raw: RawUpstream,
    state: Arc<Mutex<State>>,
}

struct State {
    says: ProviderFaults,
    key: EcdsaKeyPair,
    another: EcdsaKeyPair,
    /// The parameters with which each code was requested.
    codes: HashMap<String, HashMap<String, String>>,
    /// All tokens that were given.
    given: Vec<String>,
}

impl Provider {
    pub async fn start() -> Self {
        let key = || EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let says = ProviderFaults {
            claims: json!({}),
            claims_more: "",
            userinfo: json!({ "sub": "ann" }),
            userinfo_text: None,
            discovery: json!({}),
            keys: Vec::new(),
            tokens: json!({}),
            header: json!({}),
            signs: IdTokenSigner::Key,
            instead: None,
        };
        let state = State { says, key: key(), another: key(), codes: HashMap::new(), given: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let raw = RawUpstream::serving(move |line| serve(line, Arc::clone(&shared))).await;
        Self { raw, state }
    }

    pub fn issuer(&self) -> String {
        format!("http://{}", self.raw.addr)
    }

    pub fn set(&self, change: impl FnOnce(&mut ProviderFaults)) {
        change(&mut self.state.lock().unwrap().says);
    }

    /// Returns every request so far.
    pub fn seen(&self) -> Vec<String> {
        self.raw.seen()
    }

    /// Returns all tokens that were given.
    pub fn given(&self) -> Vec<String> {
        self.state.lock().unwrap().given.clone()
    }

    /// Signs a logout token for ann's session `s1`, with some claims changed; `null` removes one.
    pub fn logout_token(&self, changes: Value) -> String {
        let now = jiff::Timestamp::now().as_second();
        let mut state = self.state.lock().unwrap();
        let jti = format!("logout-{}", state.given.len());
        let claims = json!({
            "iss": self.issuer(), "aud": CLIENT, "sub": "ann", "sid": "s1", "jti": jti, "iat": now, "exp": now + 120,
            "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
        });
        let header = with(json!({ "typ": "logout+jwt" }), &state.says.header);
        let token = signed(&header, &with(claims, &changes).to_string(), &state);
        state.given.push(token.clone());
        token
    }

    /// Logs in at the address to which the gate sent the browser, and returns the code.
    pub fn log_in(&self, address: &str) -> (String, HashMap<String, String>) {
        let (page, query) = address.split_once('?').unwrap();
        assert_eq!(page, format!("{}/authorize", self.issuer()));
        let asked: HashMap<_, _> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let mut state = self.state.lock().unwrap();
        let code = format!("code-of-many-letters-{}", state.codes.len());
        state.codes.insert(code.clone(), asked.clone());
        (code, asked)
    }
}

async fn serve(mut line: UpstreamConnection, state: Arc<Mutex<State>>) {
    while let Some(request) = line.request().await {
        let (status, body) =
            answer(&request, &line.stream.local_addr().unwrap().to_string(), &mut state.lock().unwrap());
        let written = state.lock().unwrap().says.userinfo_text.clone().filter(|_| request.starts_with("GET /userinfo"));
        let body = written.unwrap_or_else(|| body.to_string());
        let head = format!(
            "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        line.say(head + &body).await;
    }
}

fn answer(request: &str, addr: &str, state: &mut State) -> (u16, Value) {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let issuer = format!("http://{addr}");
    match head.split(' ').nth(1).unwrap() {
        "/.well-known/openid-configuration" => {
            let told = json!({
                "issuer": issuer,
                "authorization_endpoint": format!("{issuer}/authorize"),
                "token_endpoint": format!("{issuer}/token"),
                "userinfo_endpoint": format!("{issuer}/userinfo"),
                "jwks_uri": format!("{issuer}/jwks"),
                "end_session_endpoint": format!("{issuer}/logout?keep=this"),
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256", "RS256"],
            });
            (200, with(told, &state.says.discovery))
        }
        "/jwks" => {
            let point = state.key.public_key().as_ref();
            let [x, y] = [&point[1..33], &point[33..]].map(|half| BASE64_URL_SAFE_NO_PAD.encode(half));
            let key = json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "1", "x": x, "y": y });
            let keys: Vec<_> = state.says.keys.iter().cloned().chain([key]).collect();
            (200, json!({ "keys": keys }))
        }
        "/token" => token(head, body, &issuer, state),
        "/userinfo" => (200, state.says.userinfo.clone()),
        _ => (404, json!({})),
    }
}

/// Gives tokens for a code, once, and only to the client that requested it.
fn token(head: &str, body: &str, issuer: &str, state: &mut State) -> (u16, Value) {
    let sent: HashMap<_, _> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    if let Some((status, body)) = &state.says.instead {
        return (*status, body.clone());
    }
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let basic = base64::prelude::BASE64_STANDARD.encode(format!("{}:{}", encode(CLIENT), encode(SECRET)));
    if !head.to_ascii_lowercase().contains(&format!("authorization: basic {basic}").to_ascii_lowercase()) {
        return (401, json!({ "error": "invalid_client" }));
    }
    let Some(asked) = state.codes.remove(&sent["code"]) else { return (400, json!({ "error": "invalid_grant" })) };
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, sent["code_verifier"].as_bytes()));
    if asked["code_challenge"] != challenge || asked["redirect_uri"] != sent["redirect_uri"] {
        return (400, json!({ "error": "invalid_grant" }));
    }
    let now = jiff::Timestamp::now().as_second();
    let access = format!("access-token-of-many-letters-{}", state.given.len());
    let at_hash = BASE64_URL_SAFE_NO_PAD.encode(&digest(&SHA256, access.as_bytes()).as_ref()[..16]);
    let claims = json!({
        "iss": issuer, "aud": CLIENT, "sub": "ann", "iat": now, "exp": now + 300,
        "nonce": asked["nonce"], "at_hash": at_hash, "ext": "40", "tenant": "acme.test",
    });
    let claims = with(claims, &state.says.claims).to_string();
    let claims = claims.replacen('{', &format!("{{{}", state.says.claims_more), 1);
    let id_token = signed(&state.says.header, &claims, state);
    state.given.extend([access.clone(), id_token.clone()]);
    let tokens = json!({ "access_token": access, "token_type": "Bearer", "expires_in": 300, "id_token": id_token });
    (200, with(tokens, &state.says.tokens))
}

fn signed(header: &Value, claims: &str, state: &State) -> String {
    let algorithm = match state.says.signs {
        IdTokenSigner::Key | IdTokenSigner::Another => "ES256",
        IdTokenSigner::Nothing => "none",
        IdTokenSigner::ClientSecret | IdTokenSigner::PublicKey => "HS256",
    };
    let header = with(json!({ "alg": algorithm, "typ": "JWT", "kid": "1" }), header).to_string();
    let [header, claims] = [&*header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    let text = format!("{header}.{claims}");
    let by = |key: &EcdsaKeyPair| key.sign(&SystemRandom::new(), text.as_bytes()).unwrap().as_ref().to_vec();
    let mac = |key: &[u8]| {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key);
        aws_lc_rs::hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
    };
    let signature = match state.says.signs {
        IdTokenSigner::Key => by(&state.key),
        IdTokenSigner::Another => by(&state.another),
        IdTokenSigner::Nothing => Vec::new(),
        IdTokenSigner::ClientSecret => mac(SECRET.as_bytes()),
        IdTokenSigner::PublicKey => mac(state.key.public_key().as_ref()),
    };
    format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// Replaces members; `null` takes one away.
fn with(object: Value, changes: &Value) -> Value {
    let Value::Object(mut members) = object else { unreachable!("an object") };
    let changes: &Map<_, _> = changes.as_object().unwrap();
    members.extend(changes.clone());
    members.retain(|_, value| !value.is_null());
    Value::Object(members)
}
