//! One entry of `certificates`: the chain and its key.

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::chain_flaw::{self, ChainFlaw};
use super::file_content::FileContent;
use super::leaf::{self, Leaf};
use crate::config::document::TomlNode;
use crate::config::source::Surroundings;
use crate::config::{Certificate, CertificateFiles, Problem};

/// What one entry of `certificates` leads to.
pub(super) enum CertificateEntry {
    /// The certificate, as it is now or as it was read before. What it asks of clients is still to be filled in.
    Usable(Box<Certificate>),
    /// There is none.
    Missing {
        /// Its names, if they are known.
        names: Vec<String>,
        /// Why it cannot be read.
        problems: Vec<Problem>,
    },
}

/// What happens while a file cannot be read that was read before.
pub(super) const KEPT: &str = "what was read before stays in use";

/// Reads a certificate and its key. Returns `None` where the names of the files are wrong.
pub(super) fn read(
    cert: &TomlNode<'_, '_>,
    key: &TomlNode<'_, '_>,
    around: &Surroundings<'_>,
) -> Option<CertificateEntry> {
    let (cert_path, key_path) = (around.path(cert), around.path(key));
    let files = CertificateFiles { cert: cert_path?, key: key_path? };
    let mut names = Vec::new();
    let problems = match cert.apart(|| certificate(cert, key, around, &files, &mut names)) {
        Ok(certificate) => {
            warn(cert, &certificate, around);
            return Some(CertificateEntry::Usable(Box::new(certificate)));
        }
        Err(problems) => problems,
    };
    match around.certificates.last_good.certificates.iter().find(|known| known.files == files) {
        Some(known) => {
            around.certificates.note(problems, KEPT);
            Some(CertificateEntry::Usable(Box::new(known.clone())))
        }
        None => Some(CertificateEntry::Missing { names, problems }),
    }
}

/// Reads a certificate and its key. `names`: becomes the names of the certificate, even if the key cannot be read.
fn certificate(
    cert: &TomlNode<'_, '_>,
    key: &TomlNode<'_, '_>,
    around: &Surroundings<'_>,
    files: &CertificateFiles,
    names: &mut Vec<String>,
) -> Option<Certificate> {
    let (chain, private) = (chain(cert, around), private_key(key, around));
    let chain = chain?;
    let leaf = leaf::read(cert, chain.first()?)?;
    names.clone_from(&leaf.names);
    let key = checked_key(cert, key, &chain, private?)?;
    let Leaf { names, not_before, not_after } = leaf;
    Some(Certificate { chain, key, names, not_before, not_after, files: files.clone(), client_auth: None })
}

/// Returns the key if it belongs to the first certificate.
fn checked_key(
    cert: &TomlNode<'_, '_>,
    key: &TomlNode<'_, '_>,
    chain: &[CertificateDer<'static>],
    private: PrivateKeyDer<'static>,
) -> Option<PrivateKeyDer<'static>> {
    match match_key(chain.to_vec(), &private) {
        Ok(()) => Some(private),
        Err(rustls::Error::InconsistentKeys(_)) => foreign_key(cert, key, chain, &private),
        Err(_) => key.refuse(
            "a key of a kind that is not supported for TLS",
            "use an ECDSA, Ed25519 or RSA key, the latter of 2048 bits or more",
        ),
    }
}

/// Warns of what clients may stumble over.
fn warn(cert: &TomlNode<'_, '_>, certificate: &Certificate, around: &Surroundings<'_>) {
    leaf::warn_of_dates(cert, certificate, around.now);
    if let Some(own) = certificate.chain.first() {
        leaf::warn_of_usage(cert, own);
    }
    warn_of_flaw(cert, &certificate.chain);
}

fn match_key(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'static>) -> Result<(), rustls::Error> {
    CertifiedKey::from_der(chain, key.clone_key(), &aws_lc_rs::default_provider()).map(drop)
}

/// Refuses a key that does not belong to the first certificate; it may belong to another one in the file.
fn foreign_key<T>(
    cert: &TomlNode<'_, '_>,
    key: &TomlNode<'_, '_>,
    chain: &[CertificateDer<'static>],
    private: &PrivateKeyDer<'static>,
) -> Option<T> {
    let own = chain.iter().position(|certificate| match_key(vec![certificate.clone()], private).is_ok());
    match own {
        Some(at) => cert.refuse(
            format_args!("the first certificate is another's; the key belongs to number {} of the file", at + 1),
            "put the server's own certificate first, then those that lead to the authority: cat cert.pem chain.pem > fullchain.pem",
        ),
        None => {
            key.refuse("the key does not belong to the certificate", "name the key that the certificate was issued for")
        }
    }
}

fn warn_of_flaw(cert: &TomlNode<'_, '_>, chain: &[CertificateDer<'static>]) {
    match chain_flaw::flaw(chain) {
        Some(ChainFlaw::Disordered(at)) => cert.warn(
            format_args!(
                "the chain is in the wrong order: certificate {at} of the file did not issue the one before it"
            ),
            "put the server's own certificate first, then the one that issued it, and so on",
        ),
        Some(ChainFlaw::Incomplete(issuer)) => cert.warn(
            format_args!(
                "the chain is incomplete: it lacks the certificate of {issuer}, without which many clients refuse it"
            ),
            "name the file with the whole chain, often called fullchain.pem",
        ),
        Some(ChainFlaw::Private(_)) | None => {}
    }
}

/// Reads a file of PEM certificates, with at least one.
pub(super) fn chain(node: &TomlNode<'_, '_>, around: &Surroundings<'_>) -> Option<Vec<CertificateDer<'static>>> {
    let bytes = around.public_file(node)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Some(chain),
        _ => {
            let (message, hint) = FileContent::of(&bytes).as_no_certificate(node.string()?);
            node.refuse(message, hint)
        }
    }
}

// The parser's errors are not shown, because they quote lines of the file, which may be a key.
fn private_key(node: &TomlNode<'_, '_>, around: &Surroundings<'_>) -> Option<PrivateKeyDer<'static>> {
    let bytes = around.key_file(node)?;
    match PrivateKeyDer::from_pem_slice(&bytes) {
        // A key in the older form says only in a header line that it is encrypted.
        Ok(key) if FileContent::of(&bytes) != FileContent::EncryptedKey => Some(key),
        _ => {
            let (message, hint) = FileContent::of(&bytes).as_no_key(node.string()?);
            node.refuse(message, hint)
        }
    }
}
