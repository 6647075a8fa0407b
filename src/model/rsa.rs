//! Tokens signed with an RSA key (RS256, RFC 7518 §3.3), by which service accounts authenticate.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

/// A private RSA key.
pub struct RsaKey(KeyPair);

/// The text has no private RSA key of 2048 bits or more in PEM form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no RSA key in PEM")]
pub struct NotAnRsaKey;

impl RsaKey {
    /// Reads a key in PEM form, PKCS #1 or PKCS #8.
    ///
    /// # Errors
    /// When the text is not such a key.
    pub fn from_pem(pem: &str) -> Result<Self, NotAnRsaKey> {
        let pair = match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
            Ok(PrivateKeyDer::Pkcs8(der)) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
            Ok(PrivateKeyDer::Pkcs1(der)) => KeyPair::from_der(der.secret_pkcs1_der()),
            Ok(_) | Err(_) => return Err(NotAnRsaKey),
        };
        pair.map(Self).map_err(|_| NotAnRsaKey)
    }

    /// Signs claims as a JSON web token.
    #[must_use]
    pub fn sign(&self, key_id: &str, claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&json!({ "alg": "RS256", "kid": key_id, "typ": "JWT" })), part(claims));
        let mut signature = vec![0; self.0.public_modulus_len()];
        let signed = self.0.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature);
        signed.expect("the buffer has the length of the modulus");
        format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}
