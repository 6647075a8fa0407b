//! Signers of tokens: keys of every kind, and a server that publishes them as JWKS.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
    RsaKeyPair,
};
use aws_lc_rs::{hmac, signature};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub const ISSUER: &str = "https://id.test";
pub const AUDIENCE: &str = "callgate";

/// Returns the time in seconds of Unix time.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims of a token that is good for alice.
pub fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now(), "exp": now() + 120,
        "tenant": "acme.test", "ext": "40", "vox": "alice",
    })
}

/// Changes claims of alice's; `null` removes one.
pub fn with(changes: Value) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

// === Keys ===

/// A key that signs.
pub enum Signer {
    Secret(Vec<u8>),
    Ec(KeyPair),
    Ed(KeyPair),
    Rsa(KeyPair),
    /// The same as RSA, with another padding.
    RsaPss(KeyPair),
}

impl Signer {
    pub fn secret(text: &str) -> Self {
        Self::Secret(text.as_bytes().to_vec())
    }

    pub fn ec() -> Self {
        Self::Ec(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap())
    }

    pub fn ed() -> Self {
        Self::Ed(KeyPair::generate_for(&PKCS_ED25519).unwrap())
    }

    pub fn rsa() -> Self {
        Self::Rsa(rsa())
    }

    pub fn rsa_pss() -> Self {
        Self::RsaPss(rsa())
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Secret(_) => "HS256",
            Self::Ec(_) => "ES256",
            Self::Ed(_) => "EdDSA",
            Self::Rsa(_) => "RS256",
            Self::RsaPss(_) => "PS256",
        }
    }

    /// Returns the public key as a PEM file has it.
    pub fn pem(&self) -> String {
        match self {
            Self::Secret(_) => panic!("a secret is not public"),
            Self::Ec(pair) | Self::Ed(pair) | Self::Rsa(pair) | Self::RsaPss(pair) => pair.public_key_pem(),
        }
    }

    /// Returns the public key as a set has it.
    pub fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Ec(pair) => {
                let (x, y) = pair.public_key_raw()[1..].split_at(32);
                let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
                json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid, "x": x, "y": y })
            }
            Self::Rsa(pair) => {
                // RSAPublicKey of 2048 bits: behind nine bytes of lengths the modulus, then the exponent 65537.
                let modulus = URL_SAFE_NO_PAD.encode(&pair.public_key_raw()[9..265]);
                json!({ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": modulus, "e": "AQAB" })
            }
            _ => panic!("keys of this kind are not published here"),
        }
    }

    /// Signs claims, without naming the key.
    pub fn token(&self, claims: &Value) -> String {
        self.sign(&json!({ "alg": self.algorithm(), "typ": "JWT" }), claims)
    }

    /// Signs claims, naming the key.
    pub fn named(&self, kid: &str, claims: &Value) -> String {
        self.sign(&json!({ "alg": self.algorithm(), "typ": "JWT", "kid": kid }), claims)
    }

    /// Signs any header and any claims, whatever sense they make.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = URL_SAFE_NO_PAD.encode(self.signature(message.as_bytes()));
        format!("{message}.{signature}")
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Secret(key) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec(),
            Self::Ec(pair) => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pair.serialized_der()).unwrap();
                pair.sign(&random, message).unwrap().as_ref().to_vec()
            }
            Self::Ed(pair) => {
                Ed25519KeyPair::from_pkcs8(pair.serialized_der()).unwrap().sign(message).as_ref().to_vec()
            }
            Self::Rsa(pair) => rsa_signature(pair, &RSA_PKCS1_SHA256, message),
            Self::RsaPss(pair) => rsa_signature(pair, &RSA_PSS_SHA256, message),
        }
    }
}

fn rsa() -> KeyPair {
    KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()
}

fn rsa_signature(pair: &KeyPair, padding: &'static dyn signature::RsaEncoding, message: &[u8]) -> Vec<u8> {
    let pair = RsaKeyPair::from_pkcs8(pair.serialized_der()).unwrap();
    let mut signature = vec![0; pair.public_key().modulus_len()];
    pair.sign(padding, &SystemRandom::new(), message, &mut signature).unwrap();
    signature
}

// === The server of a set of keys ===

/// A server that answers every request with the same text, and counts them.
pub struct Publisher {
    pub addr: SocketAddr,
    said: Arc<Mutex<Answers>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Answers {
    /// None: it closes the connection.
    body: Option<String>,
    asked: usize,
}

impl Publisher {
    pub async fn start(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let said = Arc::<Mutex<Answers>>::default();
        let task = tokio::spawn(serve(listener, Arc::clone(&said)));
        let publisher = Self { addr, said, task };
        publisher.publish(keys);
        publisher
    }

    pub fn publish(&self, keys: &[Value]) {
        self.say(Some(json!({ "keys": keys }).to_string()));
    }

    /// Answers with any text; with none, not at all.
    pub fn say(&self, body: Option<String>) {
        self.said.lock().unwrap().body = body;
    }

    /// Returns how often it was asked.
    pub fn asked(&self) -> usize {
        self.said.lock().unwrap().asked
    }

    pub fn url(&self) -> String {
        format!("http://{}/keys", self.addr)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, said: Arc<Mutex<Answers>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) if head.len() < 4096 => head.push(byte),
                _ => break,
            }
        }
        assert!(head.starts_with(b"GET /keys HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&head));
        let body = {
            let mut said = said.lock().unwrap();
            said.asked += 1;
            said.body.clone()
        };
        if let Some(body) = body {
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\ncache-control: max-age=60\r\n\r\n", body.len());
            drop(stream.write_all((head + &body).as_bytes()).await);
        }
    }
}
