//! Keys that tokens are signed with: a secret, public keys in PEM form, or a set of them (JWKS, RFC 7517).
//!
//! What a key is decides which algorithms it is for: a token has no say in that.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm::{
    self, ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512,
};
use jsonwebtoken::DecodingKey;
use rustls::pki_types::pem::{PemObject, SectionKind};
use serde_json::{Map, Value};
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::public_key::PublicKey;

/// The most keys of one set, or of one file.
const MAX_KEYS: usize = 100;
/// The most keys that one signature is tried with.
pub(super) const MAX_TRIES: usize = 10;
/// The lengths that an RSA key may have, in bits. A shorter one can be broken, a longer one is a burden.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
const RSA: [Algorithm; 6] = [RS256, RS384, RS512, PS256, PS384, PS512];

/// Keys that a token may be signed with.
#[derive(Debug, Clone)]
pub struct Keys(Vec<Key>);

/// One key.
#[derive(Debug, Clone)]
pub(super) struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The secret can be guessed.
    #[error("shorter than the 32 bytes that HS256 needs")]
    ShortSecret,
    /// There is none in the file.
    #[error("has no public key in PEM form")]
    Nothing,
    /// A private key is where a public one would do.
    #[error("has a private key in it")]
    Private,
    /// It cannot be used.
    #[error("has a key that cannot be used: {0}")]
    Unusable(&'static str),
    /// Not a set of keys.
    #[error("is no set of keys")]
    NoSet,
    /// A set that nobody means.
    #[error("has more than 100 keys")]
    TooMany,
    /// A set of which nothing is left.
    #[error("has no key that can be used")]
    NothingUsable,
}

/// Finds an algorithm by its name (RFC 7518 §3.1, RFC 8037 §3.1). `none` is none.
#[must_use]
pub fn algorithm(name: &str) -> Option<Algorithm> {
    // RFC 9864 §2.2 has another name for what EdDSA is with the only curve that is known here.
    if name == "Ed25519" { Some(EdDSA) } else { name.parse().ok() }
}

impl Keys {
    /// Makes the key that a secret is.
    ///
    /// # Errors
    /// When the secret is too short for any algorithm (RFC 7518 §3.2).
    pub fn of_secret(secret: &[u8]) -> Result<Self, KeyError> {
        let needs = [(HS256, 32), (HS384, 48), (HS512, 64)];
        let algorithms: Vec<_> =
            needs.into_iter().filter(|(_, least)| secret.len() >= *least).map(|(algorithm, _)| algorithm).collect();
        if algorithms.is_empty() {
            return Err(KeyError::ShortSecret);
        }
        Ok(Self(vec![Key { id: None, algorithms, key: DecodingKey::from_secret(secret) }]))
    }

    /// Reads the public keys and certificates of a file.
    ///
    /// # Errors
    /// When one of them cannot be used, or there is none.
    pub fn of_pem(text: &[u8]) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            let (kind, der) = section.map_err(|_| KeyError::Nothing)?;
            keys.push(match kind {
                SectionKind::PublicKey => of_public_key(&der)?,
                SectionKind::Certificate => of_certificate(&der)?,
                SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                    return Err(KeyError::Private);
                }
                _ => return Err(KeyError::Nothing),
            });
        }
        match keys.len() {
            0 => Err(KeyError::Nothing),
            1..=MAX_TRIES => Ok(Self(keys)),
            _ => Err(KeyError::Unusable("there are more than 10")),
        }
    }

    /// Reads a set of keys, and tells how many of them are of no use: for encryption, of an unknown kind, weak, or secret.
    ///
    /// # Errors
    /// When it is none, or nothing in it can be used.
    pub fn of_set(text: &[u8]) -> Result<(Self, usize), KeyError> {
        let set: Value = serde_json::from_slice(text).map_err(|_| KeyError::NoSet)?;
        let members = set.get("keys").and_then(Value::as_array).ok_or(KeyError::NoSet)?;
        if members.len() > MAX_KEYS {
            return Err(KeyError::TooMany);
        }
        let keys: Vec<_> = members.iter().filter_map(Value::as_object).filter_map(of_member).collect();
        let skipped = members.len() - keys.len();
        if keys.is_empty() { Err(KeyError::NothingUsable) } else { Ok((Self(keys), skipped)) }
    }

    /// Returns the keys that a token may mean by an id: a key without one may be any, and without an id any may be meant.
    pub(super) fn named(&self, id: Option<&str>) -> Vec<&Key> {
        let fits = |key: &&Key| id.is_none() || key.id.is_none() || key.id.as_deref() == id;
        self.0.iter().filter(fits).collect()
    }

    /// Returns the algorithms that the keys are for, each once.
    #[must_use]
    pub fn algorithms(&self) -> Vec<Algorithm> {
        let mut all = Vec::new();
        for algorithm in self.0.iter().flat_map(|key| &key.algorithms) {
            if !all.contains(algorithm) {
                all.push(*algorithm);
            }
        }
        all
    }

    /// Returns how many there are: never none.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.0.len()
    }
}

impl Key {
    pub(super) fn is_for(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    pub(super) fn has_signed(&self, message: &str, signature: &str, algorithm: Algorithm) -> bool {
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.key, algorithm).unwrap_or(false)
    }
}

// === PEM ===

fn of_certificate(der: &[u8]) -> Result<Key, KeyError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| KeyError::Unusable("the certificate cannot be read"))?;
    of_info(certificate.public_key())
}

fn of_public_key(der: &[u8]) -> Result<Key, KeyError> {
    let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| KeyError::Unusable("it cannot be read"))?;
    of_info(&info)
}

fn of_info(info: &SubjectPublicKeyInfo<'_>) -> Result<Key, KeyError> {
    if info.algorithm.algorithm == OID_SIG_ED25519 {
        return edwards(&info.subject_public_key.data);
    }
    match info.parsed() {
        Ok(PublicKey::RSA(key)) => rsa(key.modulus, key.exponent),
        Ok(PublicKey::EC(point)) => elliptic(point.data()),
        _ => Err(KeyError::Unusable("only RSA, P-256, P-384 and Ed25519 are known")),
    }
}

// === JWK ===

/// Makes a key of a set's member; nothing of one that is for something else, or that nobody should have published.
fn of_member(member: &Map<String, Value>) -> Option<Key> {
    let text = |name: &str| member.get(name).and_then(Value::as_str);
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
    let is_for_signatures = text("use").is_none_or(|of| of == "sig")
        && member.get("key_ops").and_then(Value::as_array).is_none_or(|all| all.iter().any(|one| one == "verify"));
    // With its private part in it, everybody may have signed.
    if !is_for_signatures || member.contains_key("d") {
        return None;
    }
    let mut key = match (text("kty")?, text("crv")) {
        ("RSA", _) => rsa(&bytes("n")?, &bytes("e")?),
        ("EC", Some("P-256" | "P-384")) => elliptic(&[&[4], &*bytes("x")?, &*bytes("y")?].concat()),
        ("OKP", Some("Ed25519")) => edwards(&bytes("x")?),
        // A symmetric key in public is none.
        _ => return None,
    }
    .ok()?;
    if let Some(name) = member.get("alg") {
        let only = name.as_str().and_then(algorithm);
        key.algorithms.retain(|algorithm| Some(*algorithm) == only);
    }
    key.id = text("kid").map(str::to_owned);
    (!key.algorithms.is_empty()).then_some(key)
}

// === Kinds of keys ===

fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Key, KeyError> {
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let modulus = &modulus[zeros..];
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err(KeyError::Unusable("RSA keys must have 2048 to 8192 bits"));
    }
    let key = DecodingKey::from_rsa_raw_components(modulus, exponent);
    Ok(Key { id: None, algorithms: RSA.to_vec(), key })
}

/// Takes an uncompressed point (SEC 1 §2.3.3).
fn elliptic(point: &[u8]) -> Result<Key, KeyError> {
    let algorithm = match (point.first(), point.len()) {
        (Some(4), 65) => ES256,
        (Some(4), 97) => ES384,
        _ => return Err(KeyError::Unusable("of elliptic curves, only P-256 and P-384 are known")),
    };
    Ok(Key { id: None, algorithms: vec![algorithm], key: DecodingKey::from_ec_der(point) })
}

fn edwards(key: &[u8]) -> Result<Key, KeyError> {
    match key.len() {
        32 => Ok(Key { id: None, algorithms: vec![EdDSA], key: DecodingKey::from_ed_der(key) }),
        _ => Err(KeyError::Unusable("an Ed25519 key has 32 bytes")),
    }
}
