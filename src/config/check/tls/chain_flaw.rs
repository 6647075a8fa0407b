//! The order of the certificates in a file, from the server's own up to one that clients know.

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS;
use x509_parser::prelude::FromDer;

/// A flaw in a chain that some clients may stumble over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainFlaw {
    /// The certificate at this place, counted from 1, did not issue the one before it.
    Disordered(usize),
    /// The issuer of the last certificate is missing in the file, and clients need it.
    Incomplete(String),
    /// The issuer of the last certificate is missing in the file; clients may know it as a private CA.
    Private(String),
}

/// Finds a flaw in a chain, the server's own certificate first. Unreadable certificates are reported elsewhere.
pub(in crate::config) fn flaw(chain: &[CertificateDer<'_>]) -> Option<ChainFlaw> {
    let read = |der| X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate);
    let chain: Vec<_> = chain.iter().map_while(|der| read(der)).collect();
    let issued = |pair: &[X509Certificate<'_>]| pair[0].issuer().as_raw() == pair[1].subject().as_raw();
    if let Some(at) = chain.windows(2).position(|pair| !issued(pair)) {
        return Some(ChainFlaw::Disordered(at + 2));
    }
    let last = chain.last()?;
    let issuer = last.issuer();
    if issuer.as_raw() == last.subject().as_raw() || is_public_authority(issuer.as_raw()) {
        return None;
    }
    let name = issuer.to_string();
    Some(if names_its_issuers_place(last) { ChainFlaw::Incomplete(name) } else { ChainFlaw::Private(name) })
}

/// Tells whether browsers know a CA of this name.
fn is_public_authority(name: &[u8]) -> bool {
    // The list has the contents of the sequence that encodes a name.
    webpki_roots::TLS_SERVER_ROOTS
        .iter()
        .any(|root| name.ends_with(&root.subject) && name.len() <= root.subject.len() + MAX_HEADER)
}

/// The longest tag and length of a name in DER, in bytes.
const MAX_HEADER: usize = 4;

/// Tells whether a certificate names the URL of its issuer's certificate (RFC 5280 §4.2.2.1); certificates of roots do
/// not.
fn names_its_issuers_place(certificate: &X509Certificate<'_>) -> bool {
    certificate.extensions().iter().any(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityInfoAccess(access) => {
            access.accessdescs.iter().any(|one| one.access_method == OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS)
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair};

    use super::*;

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    /// `authorityInfoAccess` with `caIssuers` at http://a/
    const ISSUERS_PLACE: &[u8] = b"\x30\x17\x30\x15\x06\x08\x2b\x06\x01\x05\x05\x07\x30\x02\x86\x09http://a/";

    #[test]
    fn a_chain_is_whole_and_in_order() {
        let [root_key, between_key, key] = [(); 3].map(|()| KeyPair::generate().unwrap());
        let root = params("root").self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(params("root"), root_key);
        let mut telling = params("between");
        let place = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], ISSUERS_PLACE.to_vec());
        telling.custom_extensions.push(place);
        let between = telling.signed_by(&between_key, &root_issuer).unwrap();
        let own = params("own").signed_by(&key, &Issuer::new(params("between"), between_key)).unwrap();
        let [root, between, own] = [&root, &between, &own].map(|one| one.der().clone());
        let of = |chain: &[&CertificateDer<'static>]| flaw(&chain.iter().copied().cloned().collect::<Vec<_>>());
        assert_eq!(of(&[&own, &between, &root]), None);
        assert_eq!(of(&[&root]), None);
        assert_eq!(of(&[&own, &root, &between]), Some(ChainFlaw::Disordered(2)));
        assert_eq!(of(&[&own, &between, &between]), Some(ChainFlaw::Disordered(3)));
        assert!(matches!(of(&[&own, &between]), Some(ChainFlaw::Incomplete(name)) if name.contains("root")));
        assert!(matches!(of(&[&own]), Some(ChainFlaw::Private(name)) if name.contains("between")));
    }

    #[test]
    fn public_authorities_are_known_by_their_names() {
        let root = &webpki_roots::TLS_SERVER_ROOTS[0].subject;
        let name = |header: &[u8]| [header, root.as_ref()].concat();
        assert!(is_public_authority(&name(&[0x30, 0x40])));
        assert!(!is_public_authority(&name(&[0; 5])));
        assert!(!is_public_authority(b"\x30\x02ab"));
    }
}
