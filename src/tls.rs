//! Floor 2: TLS on both sides, with rustls and aws-lc-rs.

pub mod client;
pub mod current;
pub mod dev;
pub mod issued;
mod ring_tickets;
pub mod server;

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;

/// Returns the cryptography provider of the program. It is passed on explicitly; rustls has no default one here.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Makes trust roots from these certificates.
fn roots(authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in authorities {
        roots.add(certificate.clone())?;
    }
    Ok(roots)
}
