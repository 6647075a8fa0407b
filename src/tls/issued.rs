//! The certificates that an ACME server issued to this gate, and the answers to its challenges. They change while one
//! configuration is in use, so all its handshakes look here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{OtherError, ServerConfig};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// The protocol by which an ACME server checks a name in a TLS handshake (RFC 8737 §4).
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// The certificates by name, and the challenges that are under way.
#[derive(Debug, Default)]
pub struct IssuedCertificates {
    certificates: Mutex<HashMap<String, Arc<IssuedCertificate>>>,
    challenges: Mutex<Vec<Challenge>>,
}

/// A certificate that was issued.
#[derive(Debug)]
pub struct IssuedCertificate {
    key: Arc<CertifiedKey>,
    /// When it begins.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
}

/// A challenge, in both forms: the server chooses no more than one.
#[derive(Debug)]
struct Challenge {
    name: String,
    token: String,
    /// The body that answers it over HTTP.
    key_authorization: String,
    /// The handshake that answers it over TLS.
    tls: Arc<ServerConfig>,
}

/// A challenge that is answered until this is dropped.
#[derive(Debug)]
pub struct OfferedChallenge {
    issued: Arc<IssuedCertificates>,
    token: String,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuedError {
    /// It cannot be read.
    #[error("the certificate that was issued cannot be read")]
    Unreadable,
    /// It is for another name.
    #[error("the certificate that was issued is not for {0}")]
    OtherName(String),
    /// Its key is another one.
    #[error("the certificate that was issued has another key")]
    OtherKey(#[source] rustls::Error),
}

impl IssuedCertificate {
    /// Reads a chain and its key, both in PEM.
    ///
    /// # Errors
    /// When they cannot be read, do not belong together, or are not for `name`.
    pub fn read(name: &str, chain: &str, key: &str) -> Result<Self, IssuedError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| IssuedError::Unreadable)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| IssuedError::Unreadable)?;
        let own = chain.first().ok_or(IssuedError::Unreadable)?;
        let (_, parsed) = X509Certificate::from_der(own).map_err(|_| IssuedError::Unreadable)?;
        let names = parsed.subject_alternative_name().ok().flatten().ok_or(IssuedError::Unreadable)?;
        let is_for =
            |known: &GeneralName<'_>| matches!(known, GeneralName::DNSName(known) if known.eq_ignore_ascii_case(name));
        if !names.value.general_names.iter().any(is_for) {
            return Err(IssuedError::OtherName(name.to_owned()));
        }
        let time = |seconds| Timestamp::from_second(seconds).map_err(|_| IssuedError::Unreadable);
        let not_before = time(parsed.validity().not_before.timestamp())?;
        let not_after = time(parsed.validity().not_after.timestamp())?;
        let key = CertifiedKey::from_der(chain, key, &super::provider()).map_err(IssuedError::OtherKey)?;
        Ok(Self { key: Arc::new(key), not_before, not_after })
    }

    /// Returns the server's own certificate.
    #[must_use]
    pub fn own(&self) -> Option<&CertificateDer<'static>> {
        self.key.cert.first()
    }
}

impl IssuedCertificates {
    /// Puts a certificate into use, in the place of the one before.
    pub fn put(&self, name: &str, certificate: IssuedCertificate) {
        lock(&self.certificates).insert(name.to_owned(), Arc::new(certificate));
    }

    /// Takes a certificate out of use.
    pub fn remove(&self, name: &str) {
        lock(&self.certificates).remove(name);
    }

    /// Returns the certificate of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<IssuedCertificate>> {
        lock(&self.certificates).get(name).cloned()
    }

    /// Returns the certificate of a name with its key.
    #[must_use]
    pub(super) fn key(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.get(name).map(|certificate| Arc::clone(&certificate.key))
    }

    /// Answers a challenge until the result is dropped. `digest`: SHA-256 of the key authorization.
    ///
    /// # Errors
    /// When its certificate cannot be made.
    pub fn offer(
        self: &Arc<Self>,
        name: &str,
        token: &str,
        key_authorization: &str,
        digest: &[u8],
    ) -> Result<OfferedChallenge, rustls::Error> {
        let tls = challenge_config(name, digest)?;
        let challenge = Challenge {
            name: name.to_owned(),
            token: token.to_owned(),
            key_authorization: key_authorization.to_owned(),
            tls: Arc::new(tls),
        };
        lock(&self.challenges).push(challenge);
        Ok(OfferedChallenge { issued: Arc::clone(self), token: token.to_owned() })
    }

    /// Returns the answer to a challenge over HTTP (RFC 8555 §8.3).
    #[must_use]
    pub fn http_answer(&self, token: &str) -> Option<String> {
        let challenges = lock(&self.challenges);
        challenges.iter().find(|one| one.token == token).map(|one| one.key_authorization.clone())
    }

    /// Returns the handshake that answers a challenge over TLS (RFC 8737 §3).
    #[must_use]
    pub fn tls_answer(&self, name: &str) -> Option<Arc<ServerConfig>> {
        let challenges = lock(&self.challenges);
        challenges.iter().find(|one| one.name.eq_ignore_ascii_case(name)).map(|one| Arc::clone(&one.tls))
    }
}

impl OfferedChallenge {
    /// Returns its token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }
}

impl Drop for OfferedChallenge {
    fn drop(&mut self) {
        lock(&self.issued.challenges).retain(|one| one.token != self.token);
    }
}

/// Makes the handshake of a challenge: a certificate of our own for the name, with the digest in it (RFC 8737 §3).
///
/// # Errors
/// When the certificate cannot be made.
pub fn challenge_config(name: &str, digest: &[u8]) -> Result<ServerConfig, rustls::Error> {
    let other = |error: rcgen::Error| rustls::Error::Other(OtherError(Arc::new(error)));
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(other)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate().map_err(other)?;
    let certificate = params.self_signed(&key).map_err(other)?;
    let (provider, key) = (super::provider(), PrivateKeyDer::Pkcs8(key.serialize_der().into()));
    let key = provider.key_provider.load_private_key(key)?;
    // Not by `with_single_cert`: that reads the certificate, and refuses its critical extension.
    let shown = SingleCertAndKey::from(CertifiedKey::new(vec![certificate.der().clone()], key));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    Ok(config)
}

/// Locks even after a panic elsewhere: entries are moved in and out whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::dev;

    #[test]
    fn a_certificate_is_used_only_for_its_name_and_with_its_key() {
        let [one, two] = [dev::certificate(&["a.test"]).unwrap(), dev::certificate(&["a.test"]).unwrap()];
        let read = IssuedCertificate::read("a.test", &one.chain, &one.key).unwrap();
        assert!(read.not_before < Timestamp::now() && read.not_after > Timestamp::now());
        let refused = |name, chain: &str, key: &str| IssuedCertificate::read(name, chain, key).unwrap_err().to_string();
        assert!(refused("b.test", &one.chain, &one.key).contains("is not for b.test"));
        assert!(refused("a.test", &one.chain, &two.key).contains("another key"));
        assert!(refused("a.test", "", &one.key).contains("cannot be read"));
    }

    #[test]
    fn a_challenge_is_answered_until_it_is_over() {
        let issued = Arc::<IssuedCertificates>::default();
        let offered = issued.offer("a.test", "token", "token.thumb", &[7; 32]).unwrap();
        assert_eq!(issued.http_answer("token").as_deref(), Some("token.thumb"));
        assert_eq!(issued.tls_answer("A.test").unwrap().alpn_protocols, [ACME_TLS.to_vec()]);
        assert!(issued.http_answer("other").is_none() && issued.tls_answer("b.test").is_none());
        drop(offered);
        assert!(issued.http_answer("token").is_none() && issued.tls_answer("a.test").is_none());
    }
}
