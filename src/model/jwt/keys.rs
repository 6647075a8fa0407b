//! Keys that tokens are signed with: a secret, public keys in PEM form, or a set of them (JWKS, RFC 7517).
//!
//! What a key is decides which algorithms it is for: a token has no say in that.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm::{
    self, ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512,
};
use jsonwebtoken::DecodingKey;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::public_key::{PublicKey, RSAPublicKey};

use crate::model::json::Json;

/// The most keys of one set, or of one file.
const MAX_KEYS: usize = 100;
/// The most keys that one signature is tried with.
pub(super) const MAX_TRIES: usize = 10;
/// The lengths that an RSA key may have, in bits. A shorter one can be broken, a longer one is a burden.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// How a part of a PEM text begins.
const BEGIN: &[u8] = b"-----BEGIN ";
const RSA: [Algorithm; 6] = [RS256, RS384, RS512, PS256, PS384, PS512];

/// Keys that a token may be signed with.
#[derive(Debug, Clone)]
pub struct VerificationKeys(Vec<VerificationKey>);

/// One key.
#[derive(Debug, Clone)]
pub(super) struct VerificationKey {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtKeyError {
    /// The secret can be guessed.
    #[error("shorter than the 32 bytes that HS256 needs")]
    ShortSecret,
    /// There is none in the file.
    #[error("has no public key in PEM form")]
    Nothing,
    /// What is between the lines of dashes is not base64, or has no end.
    #[error("has a part between lines of dashes that cannot be read")]
    Broken,
    /// Something else than a key stands there.
    #[error("has something in it that is neither a public key nor a certificate")]
    Other,
    /// The file has a known form that is not PEM.
    #[error("is {0}, and no PEM text")]
    Form(KeyFormat),
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

/// What people have who have no PEM text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFormat {
    /// The bytes that PEM wraps.
    Der,
    /// A key of OpenSSH, or of RFC 4716.
    Ssh,
    /// A key or a set of keys in JSON.
    Jwk,
    /// A text of which every second byte is zero.
    Utf16,
}

impl fmt::Display for KeyFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Der => "DER",
            Self::Ssh => "a key as SSH writes it",
            Self::Jwk => "JSON",
            Self::Utf16 => "UTF-16",
        })
    }
}

/// Finds an algorithm by its name (RFC 7518 §3.1, RFC 8037 §3.1). `none` is none.
#[must_use]
pub fn algorithm(name: &str) -> Option<Algorithm> {
    // RFC 9864 §2.2 has another name for what EdDSA is with the only curve that is known here.
    if name == "Ed25519" { Some(EdDSA) } else { name.parse().ok() }
}

impl VerificationKeys {
    /// Makes the key that a secret is.
    ///
    /// # Errors
    /// When the secret is too short for any algorithm (RFC 7518 §3.2).
    pub fn of_secret(secret: &[u8]) -> Result<Self, JwtKeyError> {
        let needs = [(HS256, 32), (HS384, 48), (HS512, 64)];
        let algorithms: Vec<_> =
            needs.into_iter().filter(|(_, least)| secret.len() >= *least).map(|(algorithm, _)| algorithm).collect();
        if algorithms.is_empty() {
            return Err(JwtKeyError::ShortSecret);
        }
        Ok(Self(vec![VerificationKey { id: None, algorithms, key: DecodingKey::from_secret(secret) }]))
    }

    /// Reads the public keys and certificates of a file. What stands between them does not matter.
    ///
    /// # Errors
    /// When one of them cannot be used, or there is none.
    pub fn of_pem(text: &[u8]) -> Result<Self, JwtKeyError> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let sections = pem::parse_many(text).map_err(|_| JwtKeyError::Broken)?;
        // One without an end is not among them.
        if !sections.is_empty() && sections.len() != text.windows(BEGIN.len()).filter(|part| *part == BEGIN).count() {
            return Err(JwtKeyError::Broken);
        }
        let mut keys = Vec::new();
        for section in sections {
            let der = section.contents();
            keys.push(match section.tag() {
                "PUBLIC KEY" => of_public_key(der)?,
                // As Go, Ruby and `ssh-keygen -e -m pem` write it (RFC 8017 §A.1.1).
                "RSA PUBLIC KEY" => of_rsa_key(der)?,
                "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => of_certificate(der)?,
                tag if tag.ends_with("PRIVATE KEY") => return Err(JwtKeyError::Private),
                // `openssl ecparam` writes which curve it is beside the key.
                "EC PARAMETERS" => continue,
                _ => return Err(JwtKeyError::Other),
            });
        }
        match keys.len() {
            0 => Err(without_pem(text)),
            1..=MAX_TRIES => Ok(Self(keys)),
            _ => Err(JwtKeyError::Unusable("there are more than 10")),
        }
    }

    /// Reads a set of keys, and tells how many of them are of no use: for encryption, of an unknown kind, weak, or secret.
    ///
    /// # Errors
    /// When it is none, or nothing in it can be used.
    pub fn of_set(text: &[u8]) -> Result<(Self, usize), JwtKeyError> {
        let set = Json::read(text).map_err(|_| JwtKeyError::NoSet)?;
        let members = set.member("keys").ok().flatten().and_then(Json::list).ok_or(JwtKeyError::NoSet)?;
        if members.len() > MAX_KEYS {
            return Err(JwtKeyError::TooMany);
        }
        let keys: Vec<_> = members.iter().filter_map(of_member).collect();
        let skipped = members.len() - keys.len();
        if keys.is_empty() { Err(JwtKeyError::NothingUsable) } else { Ok((Self(keys), skipped)) }
    }

    /// Returns the keys that a token may mean by an id: a key without one may be any, and without an id any may be meant.
    pub(super) fn named(&self, id: Option<&str>) -> Vec<&VerificationKey> {
        let fits = |key: &&VerificationKey| id.is_none() || key.id.is_none() || key.id.as_deref() == id;
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

impl VerificationKey {
    pub(super) fn is_for(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    pub(super) fn has_signed(&self, message: &str, signature: &str, algorithm: Algorithm) -> bool {
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.key, algorithm).unwrap_or(false)
    }
}

// === PEM ===

/// Tells what a file is in which there is no PEM.
fn without_pem(text: &[u8]) -> JwtKeyError {
    let begins = |with: &[u8]| text.trim_ascii_start().starts_with(with);
    // A sequence of more than 127 bytes, as every key and certificate is one that RSA made; Ed25519 and P-256 have fewer.
    let is_der = text.starts_with(&[0x30]) && !text.is_ascii();
    let is_ssh = [&b"ssh-"[..], b"ecdsa-", b"---- BEGIN SSH2"].into_iter().any(begins);
    match () {
        () if is_der => JwtKeyError::Form(KeyFormat::Der),
        () if is_ssh => JwtKeyError::Form(KeyFormat::Ssh),
        () if begins(b"{") => JwtKeyError::Form(KeyFormat::Jwk),
        () if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") => JwtKeyError::Form(KeyFormat::Utf16),
        () => JwtKeyError::Nothing,
    }
}

fn of_certificate(der: &[u8]) -> Result<VerificationKey, JwtKeyError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| JwtKeyError::Unusable("the certificate cannot be read"))?;
    of_info(certificate.public_key())
}

fn of_public_key(der: &[u8]) -> Result<VerificationKey, JwtKeyError> {
    let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| JwtKeyError::Unusable("it cannot be read"))?;
    of_info(&info)
}

fn of_rsa_key(der: &[u8]) -> Result<VerificationKey, JwtKeyError> {
    let (_, key) = RSAPublicKey::from_der(der).map_err(|_| JwtKeyError::Unusable("it cannot be read"))?;
    rsa(key.modulus, key.exponent)
}

fn of_info(info: &SubjectPublicKeyInfo<'_>) -> Result<VerificationKey, JwtKeyError> {
    if info.algorithm.algorithm == OID_SIG_ED25519 {
        return edwards(&info.subject_public_key.data);
    }
    match info.parsed() {
        Ok(PublicKey::RSA(key)) => rsa(key.modulus, key.exponent),
        Ok(PublicKey::EC(point)) => elliptic(point.data()),
        _ => Err(JwtKeyError::Unusable("only RSA, P-256, P-384 and Ed25519 are known")),
    }
}

// === JWK ===

/// Makes a key of a set's member; nothing of one that is for something else, or that nobody should have published. What is
/// used of it has one reading, and the rest may be as odd as it likes; an odd key spoils no other.
fn of_member(member: &Json) -> Option<VerificationKey> {
    let text = |name| Some(member.member(name).ok()??.text());
    let bytes = |name| URL_SAFE_NO_PAD.decode(text(name)??).ok();
    let is_without = |name| member.member(name) == Ok(None);
    // With its private part in it, everybody may have signed.
    if !is_for_signatures(member) || !is_without("d") {
        return None;
    }
    let mut key = match text("kty")?? {
        "RSA" => rsa(&bytes("n")?, &bytes("e")?),
        "EC" if matches!(text("crv")??, "P-256" | "P-384") => elliptic(&[&[4], &*bytes("x")?, &*bytes("y")?].concat()),
        "OKP" if text("crv")?? == "Ed25519" => edwards(&bytes("x")?),
        // A symmetric key in public is none.
        _ => return None,
    }
    .ok()?;
    if !is_without("alg") {
        let only = text("alg")?.and_then(algorithm);
        key.algorithms.retain(|algorithm| Some(*algorithm) == only);
    }
    if !is_without("kid") {
        key.id = Some(text("kid")??.to_owned());
    }
    (!key.algorithms.is_empty()).then_some(key)
}

/// Tells whether a key says what it is for, and says signatures, or does not say (RFC 7517 §4.2, §4.3).
fn is_for_signatures(member: &Json) -> bool {
    let uses = match member.member("use") {
        Ok(None) => true,
        Ok(Some(of)) => of.text() == Some("sig"),
        Err(_) => false,
    };
    let verifies = match member.member("key_ops") {
        Ok(None) => true,
        Ok(Some(all)) => all.list().is_some_and(|all| all.iter().any(|one| one.text() == Some("verify"))),
        Err(_) => false,
    };
    uses && verifies
}

// === Kinds of keys ===

fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<VerificationKey, JwtKeyError> {
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let modulus = &modulus[zeros..];
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err(JwtKeyError::Unusable("RSA keys must have 2048 to 8192 bits"));
    }
    let key = DecodingKey::from_rsa_raw_components(modulus, exponent);
    Ok(VerificationKey { id: None, algorithms: RSA.to_vec(), key })
}

/// Takes an uncompressed point (SEC 1 §2.3.3).
fn elliptic(point: &[u8]) -> Result<VerificationKey, JwtKeyError> {
    let algorithm = match (point.first(), point.len()) {
        (Some(4), 65) => ES256,
        (Some(4), 97) => ES384,
        _ => return Err(JwtKeyError::Unusable("of elliptic curves, only P-256 and P-384 are known")),
    };
    Ok(VerificationKey { id: None, algorithms: vec![algorithm], key: DecodingKey::from_ec_der(point) })
}

fn edwards(key: &[u8]) -> Result<VerificationKey, JwtKeyError> {
    match key.len() {
        32 => Ok(VerificationKey { id: None, algorithms: vec![EdDSA], key: DecodingKey::from_ed_der(key) }),
        _ => Err(JwtKeyError::Unusable("an Ed25519 key has 32 bytes")),
    }
}
