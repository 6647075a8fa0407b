//! TLS toward clients: certificates by name, client certificates, tickets, ALPN.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{OtherError, ServerConfig, SignatureScheme};

use super::issued::{ACME_TLS, IssuedCertificates};
use super::ring_tickets::RingTickets;
use crate::config::{Certificate, CertificateRequest, Config, HostPattern, MissingCertificate};
use crate::model::account::host_name;
use crate::model::digest::{Digest, sha256_of};
use crate::model::key_ring::KeyRing;

/// The TLS policies of the listeners: one for each different `client_ca` with its `client_auth`.
///
/// TLS 1.2 and 1.3; ALPN prefers h2 to http/1.1 to http/1.0; stateless tickets under rotating keys, which members share; no
/// early data.
/// Each policy has ticket keys of its own, so that a session begun without a client certificate is never resumed where
/// one is required (nginx CVE-2025-23419).
#[derive(Debug)]
pub struct TlsPolicies {
    certificates: Arc<CertificateResolver>,
    /// At least one.
    policies: Vec<PolicySettings>,
}

#[derive(Debug)]
struct PolicySettings {
    config: Arc<ServerConfig>,
    /// Verifies the certificates of clients; `None` where none is asked for.
    client_verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// What its handshakes ask of clients; `None` where they ask for no certificate.
    asked: Option<AskedCertificate>,
}

/// The certificate that a handshake asks of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AskedCertificate {
    ca: ClientCa,
    is_optional: bool,
}

/// The authorities that may sign the certificates of clients, by a digest that tells them from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientCa(Digest);

impl ClientCa {
    /// Names these certificates.
    #[must_use]
    pub fn of(ca: &[CertificateDer<'_>]) -> Self {
        Self(sha256_of(ca.iter().map(AsRef::as_ref)))
    }
}

/// The policy of one connection's handshake.
#[derive(Debug, Clone)]
pub struct TlsPolicy {
    all: Arc<TlsPolicies>,
    index: usize,
}

/// Whether requests for a host may come over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostCoverage {
    /// They may.
    Covered,
    /// They may not: the host belongs to another policy, or to none.
    Foreign,
    /// They might until a reload changed what the handshakes of the host ask of clients.
    Outdated,
}

impl TlsPolicies {
    /// Builds the policies of the certificates of a configuration, also of those that cannot be read: no other policy may
    /// take their place. Those of `tls.acme` are among the issued ones. With a ring, tickets are under the keys that all members share.
    ///
    /// # Errors
    /// When a key cannot be used or does not belong to its certificate, or a `client_ca` cannot sign certificates.
    pub fn new(config: &Config, issued: &Arc<IssuedCertificates>) -> Result<Arc<Self>, rustls::Error> {
        let ring = config.ring();
        let mut client_auths: Vec<Option<&CertificateRequest>> = Vec::new();
        let mut resolver = CertificateResolver { issued: Arc::clone(issued), ..CertificateResolver::default() };
        for certificate in &config.certificates {
            let policy = position(&mut client_auths, certificate.client_auth.as_ref());
            resolver.add(certificate, policy)?;
        }
        for missing in &config.missing_certificates {
            let policy = position(&mut client_auths, missing.client_auth.as_ref());
            resolver.add_missing(missing, policy);
        }
        if let Some(acme) = &config.acme {
            let policy = position(&mut client_auths, acme.client_auth.as_ref());
            resolver.add_issued(&acme.names, policy);
            resolver.on_demand = acme.on_demand.as_ref().map(|on_demand| OnDemandNames {
                hosts: on_demand.hosts.clone(),
                named: NamedCertificate { source: CertificateSource::OnDemand, names: Arc::default(), policy },
            });
        }
        let resolver = Arc::new(resolver);
        let policies = client_auths.into_iter().map(|auth| PolicySettings::new(&resolver, auth, ring));
        let policies = policies.collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { certificates: resolver, policies }))
    }

    /// Returns the only policy, if there is one only and all certificates are there. Then the name that the client asks for
    /// does not matter.
    #[must_use]
    pub fn only(self: &Arc<Self>) -> Option<TlsPolicy> {
        (self.policies.len() == 1 && !self.certificates.lacks_any)
            .then(|| TlsPolicy { all: Arc::clone(self), index: 0 })
    }

    /// Returns the name that an ACME server checks, in lower case, if the client asks for nothing else (RFC 8737 §3).
    #[must_use]
    pub fn checked_name(hello: &ClientHello<'_>) -> Option<String> {
        let mut protocols = hello.alpn()?;
        let is_challenge = protocols.next() == Some(ACME_TLS) && protocols.next().is_none();
        host_name(hello.server_name().filter(|_| is_challenge)?)
    }

    /// Returns the handshake that answers the challenge of an ACME server for a name, if this gate has asked for it.
    #[must_use]
    pub fn challenge(&self, name: &str) -> Option<Arc<ServerConfig>> {
        self.certificates.issued.tls_answer(name)
    }

    /// Returns a name (SNI) that may get a certificate on demand and has none yet, in lower case; nothing for all others.
    #[must_use]
    pub fn wanted(&self, name: &str) -> Option<String> {
        let found = self.certificates.find(name)?;
        let is_wanted = matches!(found.source, CertificateSource::OnDemand)
            && self.certificates.issued.key(&normalize(name)).is_none();
        if is_wanted { host_name(name) } else { None }
    }

    /// Returns the policy of the certificate that answers a name (SNI); `None`: that certificate is missing, so the handshake
    /// is refused.
    #[must_use]
    pub fn policy(self: &Arc<Self>, name: Option<&str>) -> Option<TlsPolicy> {
        let index = self.certificates.answering(name)?.policy;
        Some(TlsPolicy { all: Arc::clone(self), index })
    }

    /// Verifies the certificates that a client shows in a handshake under a name, its own first. Returns its own
    /// certificate, or `None` where none is asked for, or an optional one is not shown.
    ///
    /// # Errors
    /// When the handshake would fail.
    pub fn verify_client(
        &self,
        name: &str,
        shown: &[CertificateDer<'static>],
    ) -> Result<Option<CertificateDer<'static>>, rustls::Error> {
        match (&self.policies[self.index(Some(name))].client_verifier, shown) {
            (None, _) => Ok(None),
            (Some(verifier), []) if verifier.client_auth_mandatory() => Err(rustls::Error::NoCertificatesPresented),
            (Some(_), []) => Ok(None),
            (Some(verifier), [own, between @ ..]) => {
                verifier.verify_client_cert(own, between, UnixTime::now())?;
                Ok(Some(own.clone()))
            }
        }
    }

    /// Returns the authorities of the client certificates under a name; `None` where no certificate is asked for.
    #[must_use]
    pub fn client_ca(&self, name: &str) -> Option<ClientCa> {
        self.policies[self.index(Some(name))].client_ca()
    }

    /// Returns the policy that a host belongs to. With several policies, a host that no certificate names belongs to none
    /// of them. `host`: in lower case, IPv6 in brackets.
    fn index_of_host(&self, host: &str) -> Option<usize> {
        let named = || self.certificates.find(host.trim_start_matches('[').trim_end_matches(']'));
        if self.policies.len() == 1 { Some(0) } else { named().map(|named| named.policy) }
    }

    fn index(&self, name: Option<&str>) -> usize {
        let named = || name.and_then(|name| self.certificates.find(name));
        self.certificates.answering(name).or_else(named).map_or(0, |named| named.policy)
    }
}

impl PolicySettings {
    fn new(
        certificates: &Arc<CertificateResolver>,
        client_auth: Option<&CertificateRequest>,
        ring: Option<&KeyRing>,
    ) -> Result<Self, rustls::Error> {
        let client_verifier = client_auth.map(verifier).transpose()?;
        let ticketer: Arc<dyn ProducesTickets> = match ring {
            Some(ring) => Arc::new(RingTickets::new(ring, policy_text(client_auth))),
            None => Ticketer::new()?,
        };
        let config = config(certificates, client_verifier.as_ref(), ticketer)?;
        let asked =
            client_auth.map(|auth| AskedCertificate { ca: ClientCa::of(&auth.ca), is_optional: auth.is_optional });
        Ok(Self { config, client_verifier, asked })
    }

    /// Returns the authorities that sign the certificates of clients.
    fn client_ca(&self) -> Option<ClientCa> {
        self.asked.map(|asked| asked.ca)
    }
}

impl TlsPolicy {
    /// Returns the TLS configuration of the policy.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.all.policies[self.index].config)
    }

    /// Returns the authorities of its client certificates; `None` where no certificate is asked for.
    #[must_use]
    pub fn client_ca(&self) -> Option<ClientCa> {
        self.all.policies[self.index].client_ca()
    }

    /// Tells whether requests for a host may come over a connection of this policy, by the policies that are valid `now`.
    /// After a reload they may while the handshakes of the host ask the same of clients as this connection's did; a renewed
    /// certificate of the host changes nothing. `host`: in lower case, IPv6 in brackets.
    #[must_use]
    pub fn coverage(&self, host: &str, now: &Arc<TlsPolicies>) -> HostCoverage {
        let covered_before = || self.all.index_of_host(host) == Some(self.index);
        if Arc::ptr_eq(&self.all, now) {
            return if covered_before() { HostCoverage::Covered } else { HostCoverage::Foreign };
        }
        let asked = self.all.policies[self.index].asked;
        match now.index_of_host(host) {
            Some(index) if now.policies[index].asked == asked => HostCoverage::Covered,
            _ if covered_before() => HostCoverage::Outdated,
            _ => HostCoverage::Foreign,
        }
    }
}

/// Returns a text that tells a policy from all others, and is the same at each member.
fn policy_text(auth: Option<&CertificateRequest>) -> String {
    match auth {
        None => "open".to_owned(),
        Some(auth) => {
            let mode = if auth.is_optional { "optional" } else { "required" };
            format!("{mode} {}", hex::encode(ClientCa::of(&auth.ca).0))
        }
    }
}

fn config(
    certificates: &Arc<CertificateResolver>,
    verifier: Option<&Arc<dyn ClientCertVerifier>>,
    ticketer: Arc<dyn ProducesTickets>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(super::provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::clone(certificates) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = [&b"h2"[..], b"http/1.1", b"http/1.0"].map(<[u8]>::to_vec).into();
    config.ticketer = ticketer;
    Ok(Arc::new(config))
}

/// Makes a verifier of certificates that the authorities signed. Where a certificate is optional, it accepts a client that
/// shows none (an empty `Certificate` message, RFC 8446 §4.4.2.4), and still refuses one whose certificate is not valid.
fn verifier(auth: &CertificateRequest) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    let roots = Arc::new(super::roots(&auth.ca)?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, super::provider());
    let builder = if auth.is_optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|error| rustls::Error::Other(OtherError(Arc::new(error))))
}

/// Returns the position of a request for client certificates in a list, to which it is added if it is new.
fn position<'c>(known: &mut Vec<Option<&'c CertificateRequest>>, auth: Option<&'c CertificateRequest>) -> usize {
    known.iter().position(|one| *one == auth).unwrap_or_else(|| {
        known.push(auth);
        known.len() - 1
    })
}

/// Selects the certificate by the name that the client asks for (SNI, RFC 6066 §3).
#[derive(Debug, Default)]
struct CertificateResolver {
    /// The certificates of each name, in the order of the configuration. Several may differ in the kind of key, since
    /// not every client knows every kind.
    names: HashMap<String, Vec<NamedCertificate>>,
    /// All certificates that can be shown now or later. The first that can answers clients that ask for no name, or for a
    /// name that no certificate has.
    all: Vec<NamedCertificate>,
    /// The certificates that were issued to this gate.
    issued: Arc<IssuedCertificates>,
    /// The names that get a certificate on demand. A certificate that names one of them comes first.
    on_demand: Option<OnDemandNames>,
    /// Whether a certificate is missing, or may be for a while.
    lacks_any: bool,
    /// Whether a certificate is missing whose names are unknown. A name that no certificate has may be one of them, so it
    /// is refused.
    lacks_names: bool,
}

/// The names that get a certificate when the first client asks for them.
#[derive(Debug)]
struct OnDemandNames {
    hosts: Vec<HostPattern>,
    named: NamedCertificate,
}

#[derive(Debug, Clone)]
struct NamedCertificate {
    source: CertificateSource,
    /// The names in the certificate, sorted.
    names: Arc<[String]>,
    policy: usize,
}

/// The certificate behind a name.
#[derive(Debug, Clone)]
enum CertificateSource {
    /// It was read from a file.
    Read(Arc<CertifiedKey>),
    /// The one that was issued for this name, if it was yet.
    Issued(String),
    /// The one that was issued for the name that the client asks for.
    OnDemand,
    /// It cannot be read.
    Missing,
}

impl CertificateResolver {
    fn add(&mut self, certificate: &Certificate, policy: usize) -> Result<(), rustls::Error> {
        let key = certificate.key.clone_key();
        let key = CertifiedKey::from_der(certificate.chain.clone(), key, &super::provider())?;
        let named = self.add_names(&certificate.names, CertificateSource::Read(Arc::new(key)), policy);
        self.all.push(named);
        Ok(())
    }

    fn add_missing(&mut self, missing: &MissingCertificate, policy: usize) {
        self.add_names(&missing.names, CertificateSource::Missing, policy);
        self.lacks_any = true;
        self.lacks_names |= missing.names.is_empty();
    }

    fn add_issued(&mut self, names: &[String], policy: usize) {
        for name in names {
            let named = self.add_names(std::slice::from_ref(name), CertificateSource::Issued(name.clone()), policy);
            self.all.push(named);
        }
        self.lacks_any = true;
    }

    fn add_names(&mut self, names: &[String], source: CertificateSource, policy: usize) -> NamedCertificate {
        let mut sorted: Vec<_> = names.iter().map(|name| normalize(name)).collect();
        sorted.sort_unstable();
        let named = NamedCertificate { source, names: sorted.into(), policy };
        for name in names {
            self.names.entry(normalize(name)).or_default().push(named.clone());
        }
        named
    }

    /// Finds the certificate that names a host, which may be missing.
    fn find(&self, name: &str) -> Option<&NamedCertificate> {
        self.having(name).next()
    }

    /// Returns the certificates of a name: those with the exact name before those with a wildcard.
    fn having(&self, name: &str) -> impl Iterator<Item = &NamedCertificate> {
        let name = normalize(name);
        let exact = self.names.get(&name);
        let wildcard = name.split_once('.').and_then(|(_, rest)| self.names.get(&format!("*.{rest}")));
        let on_demand = self.on_demand.iter().filter(move |names| names.hosts.iter().any(|host| host.matches(&name)));
        exact.into_iter().chain(wildcard).flatten().chain(on_demand.map(|names| &names.named))
    }

    /// Returns the certificate that answers a name (SNI); `None`: it is missing. In its place answers another one of the
    /// name, if it asks the same of clients.
    fn answering(&self, name: Option<&str>) -> Option<&NamedCertificate> {
        let is_there = |named: &&NamedCertificate| self.key(named, name).is_some();
        let first = || self.all.iter().find(is_there);
        let Some(name) = name else { return first() };
        match self.find(name) {
            Some(found) => self.having(name).filter(|named| named.policy == found.policy).find(is_there),
            None if self.lacks_names => None,
            None => first(),
        }
    }

    /// Returns a certificate with its key, if it is there. `asked`: the name that the client asks for.
    fn key(&self, named: &NamedCertificate, asked: Option<&str>) -> Option<Arc<CertifiedKey>> {
        match &named.source {
            CertificateSource::Read(key) => Some(Arc::clone(key)),
            CertificateSource::Issued(name) => self.issued.key(name),
            CertificateSource::OnDemand => self.issued.key(&normalize(asked?)),
            CertificateSource::Missing => None,
        }
    }

    /// Returns the certificate that answers a name, preferring a kind of key that the client can verify. The choice of
    /// kind never changes the policy.
    fn answering_in(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&NamedCertificate> {
        let first = self.answering(name)?;
        let is_known = |key: Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        let alike =
            |named: &&NamedCertificate| named.policy == first.policy && self.key(named, name).is_some_and(is_known);
        let known = name.into_iter().flat_map(|name| self.having(name)).find(alike);
        let of_same_names = || self.all.iter().filter(|named| named.names == first.names).find(alike);
        Some(known.or_else(of_same_names).unwrap_or(first))
    }
}

/// Normalizes a name for the look-up: lower case, without the final dot (RFC 1034 §3.1).
fn normalize(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = self.answering_in(hello.server_name(), hello.signature_schemes());
        named.and_then(|named| self.key(named, hello.server_name()))
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    #[test]
    fn tickets_are_valid_for_half_a_day_and_early_data_is_off() {
        let ring = KeyRing::parse(&BASE64_STANDARD.encode([1; 32])).unwrap();
        for ring in [None, Some(&ring)] {
            let config = PolicySettings::new(&Arc::default(), None, ring).unwrap().config;
            assert!(config.ticketer.enabled() && config.ticketer.lifetime() <= 12 * 60 * 60);
            assert_eq!((config.max_early_data_size, config.send_half_rtt_data), (0, false));
        }
    }
}
