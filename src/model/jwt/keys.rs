//! Keys that verify tokens: a secret, public keys in PEM form, or a key set (JWKS, RFC 7517).
//!
//! The kind of a key decides its algorithms; the token does not.

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

/// The most keys of one set or one file.
const MAX_KEYS: usize = 100;
/// The most keys that are tried for one signature.
pub(super) const MAX_TRIES: usize = 10;
/// The accepted lengths of RSA keys, in bits. A shorter key can be broken, a longer one takes too long.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The first characters of a PEM section.
const BEGIN: &[u8] = b"-----BEGIN ";
const RSA: [Algorithm; 6] = [RS256, RS384, RS512, PS256, PS384, PS512];

/// Keys that may verify a token.
#[derive(Debug, Clone)]
pub struct VerificationKeys(Vec<VerificationKey>);

/// One key, with its id and its algorithms.
#[derive(Debug, Clone)]
pub(super) struct VerificationKey {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// The reason why a text gives no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtKeyError {
    /// The secret is so short that it can be guessed.
    #[error("shorter than the 32 bytes that HS256 needs")]
    ShortSecret,
    /// The file has no key.
    #[error("has no public key in PEM form")]
    Nothing,
    /// A PEM section has no end, or is not base64.
    #[error("has a PEM section that cannot be read")]
    Broken,
    /// A PEM section is not a key.
    #[error("has a part that is neither a public key nor a certificate")]
    Other,
    /// The file has a known form that is not PEM.
    #[error("is {0}, not PEM text")]
    Form(KeyFormat),
    /// The file has a private key; a public one is enough.
    #[error("has a private key in it")]
    Private,
    /// The key cannot be used.
    #[error("has a key that cannot be used: {0}")]
    Unusable(&'static str),
    /// The text is not a key set.
    #[error("is not a key set")]
    NoSet,
    /// The set has too many keys.
    #[error("has more than 100 keys")]
    TooMany,
    /// No key of the set can be used.
    #[error("has no key that can be used")]
    NothingUsable,
}

/// Common forms of keys that are not PEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFormat {
    /// The bytes that PEM wraps.
    Der,
    /// A key of OpenSSH, or of RFC 4716.
    Ssh,
    /// A key or a set of keys in JSON.
    Jwk,
    /// Text in UTF-16, of which every second byte is zero.
    Utf16,
}

impl fmt::Display for KeyFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Der => "DER",
            Self::Ssh => "a key in the format of SSH",
            Self::Jwk => "JSON",
            Self::Utf16 => "UTF-16",
        })
    }
}

/// Finds an algorithm by its name (RFC 7518 §3.1, RFC 8037 §3.1). There is no `none`.
#[must_use]
pub fn algorithm(name: &str) -> Option<Algorithm> {
    // RFC 9864 §2.2 renames EdDSA with Ed25519, the only curve that is supported here.
    if name == "Ed25519" { Some(EdDSA) } else { name.parse().ok() }
}

impl VerificationKeys {
    /// Makes a key of a secret.
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

    /// Reads the public keys and certificates of a PEM file. Text between the sections is ignored.
    ///
    /// # Errors
    /// When one of them cannot be used, or the file has none.
    pub fn of_pem(text: &[u8]) -> Result<Self, JwtKeyError> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let sections = pem::parse_many(text).map_err(|_| JwtKeyError::Broken)?;
        // The parser drops a section without an end, so the count differs.
        if !sections.is_empty() && sections.len() != text.windows(BEGIN.len()).filter(|part| *part == BEGIN).count() {
            return Err(JwtKeyError::Broken);
        }
        let mut keys = Vec::new();
        for section in sections {
            let der = section.contents();
            keys.push(match section.tag() {
                "PUBLIC KEY" => of_public_key(der)?,
                // PKCS #1, as Go, Ruby and `ssh-keygen -e -m pem` write it (RFC 8017 §A.1.1).
                "RSA PUBLIC KEY" => of_rsa_key(der)?,
                "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => of_certificate(der)?,
                tag if tag.ends_with("PRIVATE KEY") => return Err(JwtKeyError::Private),
                // `openssl ecparam` writes the curve beside the key.
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

    /// Reads a key set, and counts the keys that cannot be used: those for encryption, of an unknown kind, weak, or
    /// with a private part.
    ///
    /// # Errors
    /// When the text is not a key set, or none of its keys can be used.
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

    /// Returns the keys that fit a token's key id. A key without an id fits any; a token without an id fits all keys.
    pub(super) fn named(&self, id: Option<&str>) -> Vec<&VerificationKey> {
        let fits = |key: &&VerificationKey| id.is_none() || key.id.is_none() || key.id.as_deref() == id;
        self.0.iter().filter(fits).collect()
    }

    /// Returns the algorithms of all keys, without repetition.
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

    /// Returns the number of keys, which is at least 1.
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

/// Tells the form of a file without PEM sections.
fn without_pem(text: &[u8]) -> JwtKeyError {
    let begins = |with: &[u8]| text.trim_ascii_start().starts_with(with);
    // A DER sequence of more than 127 bytes. Keys and certificates of RSA are that long; Ed25519 and P-256 keys are
    // shorter.
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

/// Makes a key of a member of a set; `None` for a key with another use, or one that should not have been published.
/// Only the members that are used must have one reading; an odd key does not affect the others.
fn of_member(member: &Json) -> Option<VerificationKey> {
    let text = |name| Some(member.member(name).ok()??.text());
    let bytes = |name| URL_SAFE_NO_PAD.decode(text(name)??).ok();
    let is_without = |name| member.member(name) == Ok(None);
    // A published private part lets anyone sign.
    if !is_for_signatures(member) || !is_without("d") {
        return None;
    }
    let mut key = match text("kty")?? {
        "RSA" => rsa(&bytes("n")?, &bytes("e")?),
        "EC" if matches!(text("crv")??, "P-256" | "P-384") => elliptic(&[&[4], &*bytes("x")?, &*bytes("y")?].concat()),
        "OKP" if text("crv")?? == "Ed25519" => edwards(&bytes("x")?),
        // A published symmetric key lets anyone sign.
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

/// Tells whether `use` and `key_ops` allow signatures, or are absent (RFC 7517 §4.2, §4.3).
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
