//! `tls`: certificates with their keys, and the CAs of `ca` and `client_ca`.

pub(super) mod chain_flaw;
mod file_content;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use self::chain_flaw::ChainFlaw;
use self::file_content::FileContent;
use super::values::each;
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{Certificate, CertificateRequest};

/// Whether each client must show a certificate, by the words of `client_auth`.
const CLIENT_AUTH: [(&str, bool); 2] = [("required", false), ("optional", true)];

const ONE_FORM: &str = "write { cert = \"fullchain.pem\", key = \"privkey.pem\" } or { certificates = [ { cert = \"…\", key = \"…\" }, … ] }";

/// Reads `{ cert, key }` or `{ certificates = [ { cert, key }, … ] }`.
pub(super) fn certificates(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> Option<Vec<Certificate>> {
    let Some(list) = table.get("certificates") else {
        return certificate(table, around).map(|one| vec![one]);
    };
    let client_auth = client_auth(table, around);
    let single = ["cert", "key"].map(|key| table.get(key));
    if single.iter().any(Option::is_some) {
        return table.refuse("has both one certificate and a list", ONE_FORM);
    }
    let mut certificates = each(&list.list()?, |item| item.table(|table| certificate(table, around)))?;
    let client_auth = client_auth?;
    for certificate in &mut certificates {
        certificate.client_auth = certificate.client_auth.take().or_else(|| client_auth.clone());
    }
    if let Some(name) = contradictory_name(&certificates) {
        return list.refuse(
            format_args!("{name} is in two certificates with different `client_ca` or `client_auth`"),
            "give both the same, or take the name out of one: only the first would count for it",
        );
    }
    Some(certificates)
}

/// Finds a name that two certificates have with different `client_ca` or `client_auth`: clients could then avoid showing a
/// certificate.
fn contradictory_name(certificates: &[Certificate]) -> Option<&str> {
    let mut asked = HashMap::new();
    let mut names = certificates.iter().flat_map(|one| one.names.iter().map(move |name| (name, &one.client_auth)));
    names.find(|(name, auth)| asked.entry(*name).or_insert(*auth) != auth).map(|(name, _)| name.as_str())
}

/// Reads `client_ca`, and `client_auth`, which belongs to the `client_ca` in the same table. An unreadable list must not
/// count as a missing one, which would admit clients without a certificate.
#[expect(clippy::option_option, reason = "a missing key and a wrong value differ")]
fn client_auth(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> Option<Option<CertificateRequest>> {
    let (ca, mode) = (table.get("client_ca"), table.get("client_auth"));
    let is_optional = mode.as_ref().map_or(Some(false), |node| node.choice(&CLIENT_AUTH));
    match (ca, mode) {
        (Some(ca), _) => {
            let ca = authorities(&ca, around);
            Some(Some(CertificateRequest { ca: ca?, is_optional: is_optional? }))
        }
        (None, Some(mode)) => mode.refuse(
            "there is no `client_ca` beside it",
            "name the authorities of the certificates in the same table, client_ca = \"client-ca.pem\", or remove this key",
        ),
        (None, None) => Some(None),
    }
}

fn certificate(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> Option<Certificate> {
    let (cert, key) = (table.require("cert"), table.require("key"));
    let chain = cert.as_ref().and_then(|node| chain(node, around));
    let private = key.as_ref().and_then(|node| private_key(node, around));
    let client_auth = client_auth(table, around);
    let (cert, key, chain, private, client_auth) = (cert?, key?, chain?, private?, client_auth?);
    let (names, not_after) = leaf(&cert, chain.first()?, around.now)?;
    match pair(chain.clone(), &private) {
        Ok(()) => {}
        Err(rustls::Error::InconsistentKeys(_)) => return foreign_key(&cert, &key, &chain, &private),
        Err(_) => {
            return key.refuse(
                "a key of a kind that is not supported for TLS",
                "use an ECDSA, Ed25519 or RSA key, the latter of 2048 bits or more",
            );
        }
    }
    warn_of_flaw(&cert, &chain);
    Some(Certificate { chain, key: private, names, not_after, client_auth })
}

fn pair(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'static>) -> Result<(), rustls::Error> {
    CertifiedKey::from_der(chain, key.clone_key(), &aws_lc_rs::default_provider()).map(drop)
}

/// Refuses a key that does not belong to the first certificate; it may belong to another one in the file.
fn foreign_key<T>(
    cert: &TomlNode<'_, '_>,
    key: &TomlNode<'_, '_>,
    chain: &[CertificateDer<'static>],
    private: &PrivateKeyDer<'static>,
) -> Option<T> {
    let own = chain.iter().position(|certificate| pair(vec![certificate.clone()], private).is_ok());
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
fn chain(node: &TomlNode<'_, '_>, around: &Surroundings<'_>) -> Option<Vec<CertificateDer<'static>>> {
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

/// Returns the names of the server's own certificate and its end, which must not have passed.
fn leaf(node: &TomlNode<'_, '_>, leaf: &CertificateDer<'_>, now: Timestamp) -> Option<(Vec<String>, Timestamp)> {
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else {
        return node.refuse("the first certificate cannot be read", "is the file what the certificate authority sent?");
    };
    let start = parsed.validity().not_before.timestamp();
    if let Some(start) = Timestamp::from_second(start).ok().filter(|start| *start > now) {
        node.warn(
            format_args!("the certificate begins at {start}: until then, clients refuse it"),
            "is the clock of this machine right? run: date -u",
        );
    }
    let end = parsed.validity().not_after.timestamp();
    // A certificate may end in the year 9999 (RFC 5280 §4.1.2.5).
    let end = Timestamp::from_second(end).unwrap_or(if end < 0 { Timestamp::MIN } else { Timestamp::MAX });
    if end <= now {
        return node.refuse(format_args!("the certificate expired at {end}"), "renew it");
    }
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map_or_else(Vec::new, |names| names.value.general_names.iter().filter_map(name).collect());
    Some((names, end))
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => ip_address(bytes).map(|address| address.to_string()),
        _ => None,
    }
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).into());
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).into())).ok()
}

/// Reads the CAs that may sign another side's certificate: an upstream's or a client's.
pub(super) fn authorities(node: &TomlNode<'_, '_>, around: &Surroundings<'_>) -> Option<Vec<CertificateDer<'static>>> {
    let chain = chain(node, around)?;
    let mut store = RootCertStore::empty();
    if chain.iter().any(|certificate| store.add(certificate.clone()).is_err()) {
        return node
            .refuse("has a certificate that cannot be read", "is the file what the certificate authority sent?");
    }
    Some(chain)
}
