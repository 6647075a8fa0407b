//! TLS toward clients: certificates by name, tickets, ALPN.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::Certificate;

/// Builds the TLS side of the listeners: TLS 1.2 and 1.3, h2 before http/1.1, stateless tickets under rotating keys, no early data.
///
/// # Errors
/// When a key cannot be used, or does not belong to its certificate.
pub fn config(certificates: &[Certificate]) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(super::provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName::new(certificates)?));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = Ticketer::new()?;
    Ok(Arc::new(config))
}

/// Picks the certificate by the name the client asks for (SNI, RFC 6066 §3).
#[derive(Debug)]
struct ByName {
    names: HashMap<String, Arc<CertifiedKey>>,
    /// For clients that ask for no name, or for one that no certificate has.
    first: Option<Arc<CertifiedKey>>,
}

impl ByName {
    fn new(certificates: &[Certificate]) -> Result<Self, rustls::Error> {
        let provider = super::provider();
        let mut names = HashMap::new();
        let mut first = None;
        for certificate in certificates {
            let key = certificate.key.clone_key();
            let key = Arc::new(CertifiedKey::from_der(certificate.chain.clone(), key, &provider)?);
            for name in &certificate.names {
                names.entry(name.clone()).or_insert_with(|| Arc::clone(&key));
            }
            first.get_or_insert(key);
        }
        Ok(Self { names, first })
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        let wildcard = || name.split_once('.').and_then(|(_, rest)| self.names.get(&format!("*.{rest}")));
        self.names.get(&name).or_else(wildcard)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        hello.server_name().and_then(|name| self.find(name)).or(self.first.as_ref()).cloned()
    }
}
