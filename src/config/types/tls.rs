//! The certificates of `tls`.

use std::fmt;

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::check::{ChainFlaw, chain_flaw};

/// A certificate chain with its key.
#[derive(PartialEq, Eq)]
pub struct Certificate {
    /// The chain, the server's own certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: PrivateKeyDer<'static>,
    /// The host names of the certificate, in lower case, wildcards as `*.example.com`.
    pub names: Vec<String>,
    /// The end of the server's own certificate.
    pub not_after: Timestamp,
    /// The client certificates that are asked for on this certificate's names; `None`: clients show no certificate.
    pub client_auth: Option<CertificateRequest>,
}

/// The client certificates that a handshake asks for (`CertificateRequest`, RFC 8446 §4.3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    /// The CAs that sign them.
    pub ca: Vec<CertificateDer<'static>>,
    /// Whether a client may show no certificate. One that it shows is verified in any case.
    pub is_optional: bool,
}

impl Certificate {
    /// Tells whether the certificate has exactly this name. `host`: in lower case, without port, IPv6 in brackets.
    #[must_use]
    pub fn names_host(&self, host: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        self.has_name(host.strip_suffix('.').unwrap_or(host))
    }

    /// Tells whether the certificate has the wildcard above this host.
    #[must_use]
    pub fn has_wildcard_for(&self, host: &str) -> bool {
        host.split_once('.').is_some_and(|(_, above)| self.has_name(&format!("*.{}", above.trim_end_matches('.'))))
    }

    fn has_name(&self, name: &str) -> bool {
        self.names.iter().any(|known| known.strip_suffix('.').unwrap_or(known) == name)
    }

    /// Returns the flaw in the chain that some clients may stumble over.
    #[must_use]
    pub fn flaw(&self) -> Option<ChainFlaw> {
        chain_flaw(&self.chain)
    }

    /// Returns the first name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().map_or("-", String::as_str)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).finish_non_exhaustive()
    }
}
