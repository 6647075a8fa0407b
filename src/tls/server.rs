//! TLS toward clients: certificates by name, client certificates, tickets, ALPN.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{OtherError, ServerConfig, SignatureScheme};

use crate::config::Certificate;
use crate::model::digest::{Digest, sha256_of};

/// The TLS side of the listeners: TLS 1.2 and 1.3, h2 before http/1.1 before http/1.0, stateless tickets under rotating keys, no early
/// data; one policy for each different `client_ca`.
///
/// Each policy has ticket keys of its own: a session begun without a client certificate is never resumed where one is
/// asked for (nginx CVE-2025-23419).
#[derive(Debug)]
pub struct TlsPolicies {
    names: Arc<CertificateResolver>,
    policies: Vec<Arc<ServerConfig>>,
    /// Whoever judges the certificates that clients show under each policy; nobody where none is asked for.
    judges: Vec<Option<Arc<dyn ClientCertVerifier>>>,
    /// Who signs the certificates of clients, for each policy.
    client_cas: Vec<Option<ClientCa>>,
}

/// Those who may sign the certificates that a policy asks for, told from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientCa(Digest);

impl ClientCa {
    /// Names these certificates.
    #[must_use]
    pub fn of(ca: &[CertificateDer<'_>]) -> Self {
        Self(sha256_of(ca.iter().map(AsRef::as_ref)))
    }
}

/// The policy that a connection's handshake went through.
#[derive(Debug, Clone)]
pub struct TlsPolicy {
    policies: Arc<TlsPolicies>,
    index: usize,
}

impl TlsPolicies {
    /// Builds the policies of these certificates.
    ///
    /// # Errors
    /// When a key cannot be used or does not belong to its certificate, or nobody can sign client certificates.
    pub fn new(certificates: &[Certificate]) -> Result<Arc<Self>, rustls::Error> {
        let mut authorities: Vec<Option<&[CertificateDer<'static>]>> = Vec::new();
        let mut names = CertificateResolver::default();
        for certificate in certificates {
            let ca = certificate.client_ca.as_deref();
            let policy = authorities.iter().position(|known| *known == ca).unwrap_or(authorities.len());
            if policy == authorities.len() {
                authorities.push(ca);
            }
            names.add(certificate, policy)?;
        }
        let names = Arc::new(names);
        let signing = authorities.iter().map(|ca| ca.map(ClientCa::of)).collect();
        let judges = authorities.into_iter().map(|ca| ca.map(verifier).transpose()).collect::<Result<Vec<_>, _>>()?;
        let policies = judges.iter().map(|judge| config(&names, judge.as_ref())).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { names, policies, judges, client_cas: signing }))
    }

    /// Returns the only policy, if there is only one: it needs no look at the name that the client asks for.
    #[must_use]
    pub fn only(self: &Arc<Self>) -> Option<TlsPolicy> {
        (self.policies.len() == 1).then(|| TlsPolicy { policies: Arc::clone(self), index: 0 })
    }

    /// Judges what a client shows in a handshake under a name, its own certificate first, and returns that one: nothing
    /// where none is asked for.
    ///
    /// # Errors
    /// When the handshake would end there.
    pub fn verify_client(
        &self,
        name: &str,
        shown: &[CertificateDer<'static>],
    ) -> Result<Option<CertificateDer<'static>>, rustls::Error> {
        let policy = self.names.answering(Some(name)).map_or(0, |named| named.policy);
        match (&self.judges[policy], shown) {
            (None, _) => Ok(None),
            (Some(judge), []) if judge.client_auth_mandatory() => Err(rustls::Error::NoCertificatesPresented),
            (Some(_), []) => Ok(None),
            (Some(judge), [own, between @ ..]) => {
                judge.verify_client_cert(own, between, UnixTime::now())?;
                Ok(Some(own.clone()))
            }
        }
    }

    /// Returns who signs the certificates that clients show under a name; nobody where none is asked for.
    #[must_use]
    pub fn client_ca(&self, name: &str) -> Option<ClientCa> {
        self.client_cas[self.names.answering(Some(name)).map_or(0, |named| named.policy)]
    }

    /// Returns the policy of the certificate that answers a name (SNI).
    #[must_use]
    pub fn policy(self: &Arc<Self>, name: Option<&str>) -> TlsPolicy {
        TlsPolicy { policies: Arc::clone(self), index: self.names.answering(name).map_or(0, |named| named.policy) }
    }
}

impl TlsPolicy {
    /// Returns how handshakes are made under it.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.policies.policies[self.index])
    }

    /// Returns who has signed the certificates of its clients; nobody where none is asked for.
    #[must_use]
    pub fn client_ca(&self) -> Option<ClientCa> {
        self.policies.client_cas[self.index]
    }

    /// Tells whether requests for a host may come by this policy. Where there are several, nobody can tell that of a host
    /// that no certificate names. `host`: in lower case, IPv6 in brackets.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        let named = || self.policies.names.find(host.trim_start_matches('[').trim_end_matches(']'));
        self.policies.policies.len() == 1 || named().is_some_and(|named| named.policy == self.index)
    }
}

fn config(
    names: &Arc<CertificateResolver>,
    judge: Option<&Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(super::provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let builder = match judge {
        Some(judge) => builder.with_client_cert_verifier(Arc::clone(judge)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::clone(names) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = [&b"h2"[..], b"http/1.1", b"http/1.0"].map(<[u8]>::to_vec).into();
    config.ticketer = Ticketer::new()?;
    Ok(Arc::new(config))
}

/// Asks every client for a certificate that one of these has signed.
fn verifier(ca: &[CertificateDer<'static>]) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    let roots = Arc::new(super::roots(ca)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, super::provider()).build();
    verifier.map_err(|error| rustls::Error::Other(OtherError(Arc::new(error))))
}

/// Picks the certificate by the name the client asks for (SNI, RFC 6066 §3).
#[derive(Debug, Default)]
struct CertificateResolver {
    /// Those of one name, in the order they are written: kinds of key that not every client knows may stand beside others.
    names: HashMap<String, Vec<NamedCertificate>>,
    /// All, the first of them for clients that ask for no name, or for one that no certificate has.
    all: Vec<NamedCertificate>,
}

#[derive(Debug, Clone)]
struct NamedCertificate {
    key: Arc<CertifiedKey>,
    /// The names that are in the certificate, in order.
    names: Arc<[String]>,
    policy: usize,
}

impl CertificateResolver {
    fn add(&mut self, certificate: &Certificate, policy: usize) -> Result<(), rustls::Error> {
        let key = certificate.key.clone_key();
        let key = CertifiedKey::from_der(certificate.chain.clone(), key, &super::provider())?;
        let mut names: Vec<_> = certificate.names.iter().map(|name| bare(name)).collect();
        names.sort_unstable();
        let named = NamedCertificate { key: Arc::new(key), names: names.into(), policy };
        for name in &certificate.names {
            self.names.entry(bare(name)).or_default().push(named.clone());
        }
        self.all.push(named);
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&NamedCertificate> {
        self.having(name).next()
    }

    /// Finds the certificates of a name: those that have it as it is come before those of a wildcard.
    fn having(&self, name: &str) -> impl Iterator<Item = &NamedCertificate> {
        let name = bare(name);
        let exact = self.names.get(&name);
        let wildcard = name.split_once('.').and_then(|(_, rest)| self.names.get(&format!("*.{rest}")));
        exact.into_iter().chain(wildcard).flatten()
    }

    fn answering(&self, name: Option<&str>) -> Option<&NamedCertificate> {
        name.and_then(|name| self.find(name)).or_else(|| self.all.first())
    }

    /// Finds the certificate that answers a name, in a kind that the client can verify if there is one. Another kind is
    /// never of another policy.
    fn answering_in(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&NamedCertificate> {
        let first = self.answering(name)?;
        let alike =
            |named: &&NamedCertificate| named.policy == first.policy && named.key.key.choose_scheme(schemes).is_some();
        let known = name.into_iter().flat_map(|name| self.having(name)).find(alike);
        let of_same_names = || self.all.iter().filter(|named| named.names == first.names).find(alike);
        Some(known.or_else(of_same_names).unwrap_or(first))
    }
}

/// Writes a name as it is looked up: in lower case, and without its final dot (RFC 1034 §3.1).
fn bare(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = self.answering_in(hello.server_name(), hello.signature_schemes());
        named.map(|named| Arc::clone(&named.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_are_good_for_half_a_day_and_nothing_is_sent_early() {
        let config = config(&Arc::default(), None).unwrap();
        assert!(config.ticketer.enabled() && config.ticketer.lifetime() <= 12 * 60 * 60);
        assert_eq!((config.max_early_data_size, config.send_half_rtt_data), (0, false));
    }
}
