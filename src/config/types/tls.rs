//! The certificates of `tls`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::HostPattern;
use crate::config::OutboundProxy;
use crate::config::check::{ChainFlaw, chain_flaw};
use crate::model::rate::Rate;

/// A certificate chain with its key.
#[derive(PartialEq, Eq)]
pub struct Certificate {
    /// The chain, the server's own certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: PrivateKeyDer<'static>,
    /// The host names of the certificate, in lower case, wildcards as `*.example.com`.
    pub names: Vec<String>,
    /// The beginning of the server's own certificate.
    pub not_before: Timestamp,
    /// The end of the server's own certificate.
    pub not_after: Timestamp,
    /// The files that it was read from.
    pub files: CertificateFiles,
    /// The client certificates that are asked for on this certificate's names; `None`: clients show no certificate.
    pub client_auth: Option<CertificateRequest>,
}

/// The files of a certificate and its key. Relative paths of the configuration are joined with its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// A certificate of `tls` that cannot be read, and that callgate has never read before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingCertificate {
    /// The host names, as in [`Certificate::names`], if the chain can be read and only the key cannot; empty: they are
    /// unknown.
    pub names: Vec<String>,
    /// The client certificates that are asked for on its names.
    pub client_auth: Option<CertificateRequest>,
}

/// `tls.acme`: the certificates that callgate gets from an ACME server (RFC 8555).
#[derive(Debug, Clone)]
pub struct AcmeConfig {
    /// The mail address that the server knows the account by; `None`: the account has none.
    pub email: Option<String>,
    /// The host names, in lower case, without those that a certificate of a file covers. Each gets a certificate of its own.
    pub names: Vec<String>,
    /// Names that get a certificate when the first client asks for them; `None`: there are none.
    pub on_demand: Option<OnDemandConfig>,
    /// The URL of the server's directory.
    pub directory: String,
    /// The authorities that may sign the certificate of the server itself; `None`: the public ones.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    /// The client certificates that are asked for on these names.
    pub client_auth: Option<CertificateRequest>,
    /// The proxy between callgate and the internet.
    pub outbound_proxy: Option<Arc<OutboundProxy>>,
    /// Whether plain HTTP is answered, over which the server can check names (HTTP-01, RFC 8555 §8.3).
    pub has_http: bool,
}

/// `tls.acme.on_demand`: certificates for tenants of the PBX, ordered when the first client asks for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnDemandConfig {
    /// The names that may be a tenant's. The PBX knows which are.
    pub hosts: Vec<HostPattern>,
    /// How many orders there may be, renewals apart.
    pub quota: Rate,
}

impl AcmeConfig {
    /// Tells whether callgate gets a certificate for a name. `name`: in lower case.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name) || self.is_on_demand(name)
    }

    /// Tells whether a name gets its certificate when the first client asks for it. `name`: in lower case.
    #[must_use]
    pub fn is_on_demand(&self, name: &str) -> bool {
        let covers = |on_demand: &OnDemandConfig| on_demand.hosts.iter().any(|host| host.matches(name));
        self.on_demand.as_ref().is_some_and(covers) && !self.names.iter().any(|known| known == name)
    }
}

/// What was read last of each certificate and each `client_ca`. It stays in use while a file cannot be read.
#[derive(Debug, Clone, Default)]
pub struct LastGood {
    /// The certificates.
    pub certificates: Vec<Certificate>,
    /// The authorities of client certificates, by file.
    pub authorities: BTreeMap<PathBuf, Vec<CertificateDer<'static>>>,
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

    /// Tells whether the certificate has ended.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.not_after <= now
    }

    /// Tells whether the certificate should have been renewed by now: it ends within 21 days, or within a quarter of its
    /// lifetime if that is shorter.
    #[must_use]
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        let lifetime = self.not_after.duration_since(self.not_before);
        !self.is_expired(now) && self.not_after.duration_since(now) < RENEWAL_WARNING.min(lifetime / 4)
    }

    /// Tells whether the certificate is valid for a host. `host`: in lower case, without port, IPv6 in brackets.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        self.names_host(host) || self.has_wildcard_for(host)
    }

    /// Returns the first name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().map_or("-", String::as_str)
    }
}

/// How long before its end a certificate is reported.
const RENEWAL_WARNING: SignedDuration = SignedDuration::from_hours(21 * 24);

impl Clone for Certificate {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            names: self.names.clone(),
            not_before: self.not_before,
            not_after: self.not_after,
            files: self.files.clone(),
            client_auth: self.client_auth.clone(),
        }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).finish_non_exhaustive()
    }
}
