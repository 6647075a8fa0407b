//! TLS toward upstreams, and which certificates are trusted there.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::config::{Pin, Trust};
use crate::handshake_advice::{self, ServerWords};
use crate::model::digest::sha256;

/// Builds the TLS configuration of one upstream. It offers no ALPN, since upstreams get HTTP/1.1.
///
/// # Errors
/// When a certificate of `ca` cannot be a trust root.
pub fn config(trust: &Trust) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = super::provider();
    let issuer = if trust.skip_verify || (trust.ca.is_none() && !trust.pins.is_empty()) {
        None
    } else {
        let roots = Arc::new(roots(trust)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        Some(verifier.map_err(|error| rustls::Error::General(error.to_string()))?)
    };
    with_verifier(UpstreamVerifier { issuer, pins: trust.pins.clone(), provider })
}

/// Builds a TLS configuration that accepts every certificate, to look at the one that is shown.
///
/// # Errors
/// When the cryptography provider has none of the protocol versions.
pub fn unverified_config() -> Result<Arc<ClientConfig>, rustls::Error> {
    with_verifier(UpstreamVerifier { issuer: None, pins: Vec::new(), provider: super::provider() })
}

fn with_verifier(verifier: UpstreamVerifier) -> Result<Arc<ClientConfig>, rustls::Error> {
    let config = ClientConfig::builder_with_provider(Arc::clone(&verifier.provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Returns the pin of a certificate: the hash of its public key. A renewal that keeps the key keeps the pin.
///
/// # Errors
/// When the certificate cannot be read.
pub fn pin(certificate: &CertificateDer<'_>) -> Result<Pin, rustls::Error> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| rustls::Error::from(CertificateError::BadEncoding))?;
    Ok(Pin(sha256(parsed.public_key().raw)))
}

/// Puts what the operator can do in front of the cause of a failed handshake.
#[must_use]
pub fn handshake_error(error: io::Error) -> io::Error {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let advice = match cause {
        // `openssl req -x509` makes such certificates.
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
            if other.0.to_string().contains("CaUsedAsEndEntity") =>
        {
            Some(
                "its certificate is that of an authority, such as one that signed itself: name its key in `pin`"
                    .to_owned(),
            )
        }
        _ => handshake_advice::of(&error, WORDS),
    };
    match advice {
        Some(advice) => io::Error::new(error.kind(), HandshakeError { advice, source: error }),
        None => error,
    }
}

const WORDS: ServerWords = ServerWords { plain: "`url` begin with http://", name: "name that in `server_name`" };

/// A handshake that failed, with what the operator can do.
#[derive(Debug, thiserror::Error)]
#[error("{advice}")]
pub(crate) struct HandshakeError {
    pub(crate) advice: String,
    pub(crate) source: io::Error,
}

fn roots(trust: &Trust) -> Result<RootCertStore, rustls::Error> {
    match &trust.ca {
        Some(ca) => super::roots(ca),
        None => Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }),
    }
}

/// Verifies the certificate of an upstream. The upstream must always prove that it holds the key; the configuration
/// says what else is checked.
#[derive(Debug)]
struct UpstreamVerifier {
    /// Checks issuer, name and dates. `None` with `insecure_skip_verify`, or with `pin` and no `ca`.
    issuer: Option<Arc<WebPkiServerVerifier>>,
    pins: Vec<Pin>,
    provider: Arc<CryptoProvider>,
}

/// The key of the certificate is not among the pins.
#[derive(thiserror::Error)]
#[error("its key is {0}, which is not in `pin`")]
struct PinMismatch(Pin);

/// The same as `Display`, since rustls shows the cause of a refused certificate in this form.
impl fmt::Debug for PinMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl UpstreamVerifier {
    fn check_pin(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        if self.pins.is_empty() {
            return Ok(());
        }
        let found = pin(certificate)?;
        if self.pins.contains(&found) {
            return Ok(());
        }
        Err(CertificateError::Other(OtherError(Arc::new(PinMismatch(found)))).into())
    }
}

impl ServerCertVerifier for UpstreamVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check_pin(certificate)?;
        match &self.issuer {
            Some(issuer) => issuer.verify_server_cert(certificate, chain, name, ocsp, now),
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
