//! The server's own certificate: its names, its dates, and what it may be used for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::config::Certificate;
use crate::config::document::TomlNode;

/// What the server's own certificate says.
pub(super) struct Leaf {
    pub(super) names: Vec<String>,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

/// Reads the server's own certificate.
pub(super) fn read(node: &TomlNode<'_, '_>, leaf: &CertificateDer<'_>) -> Option<Leaf> {
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else {
        return node.refuse("the first certificate cannot be read", "is the file what the certificate authority sent?");
    };
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map_or_else(Vec::new, |names| names.value.general_names.iter().filter_map(name).collect());
    let validity = parsed.validity();
    let [not_before, not_after] = [validity.not_before, validity.not_after].map(|time| timestamp(time.timestamp()));
    Some(Leaf { names, not_before, not_after })
}

/// Returns a time; one that is out of range becomes the nearest. A certificate may end in the year 9999 (RFC 5280
/// §4.1.2.5).
fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// Warns of a certificate that is not valid yet, or that should have been renewed. One that has expired is reported
/// again and again while it is in use.
pub(super) fn warn_of_dates(node: &TomlNode<'_, '_>, certificate: &Certificate, now: Timestamp) {
    let Certificate { not_before, not_after, .. } = certificate;
    if *not_before > now {
        node.warn(
            format_args!("the certificate begins at {not_before}: until then, clients refuse it"),
            "is the clock of this machine right? run: date -u",
        );
    }
    if certificate.is_overdue(now) {
        node.warn(
            format_args!("the certificate ends at {not_after}"),
            "renew it, and look why that was not done by now",
        );
    }
}

/// Warns of a certificate that clients refuse for a server (RFC 5280 §4.2.1.9, §4.2.1.12).
pub(super) fn warn_of_usage(node: &TomlNode<'_, '_>, leaf: &CertificateDer<'_>) {
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else { return };
    if parsed.is_ca() {
        node.warn(
            "the certificate is that of an authority: many clients refuse it for a server",
            "let the authority sign a certificate for the server, and name that",
        );
    }
    let usage = parsed.extended_key_usage().ok().flatten();
    if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
        node.warn(
            "the certificate is not for servers: its extended key usage lacks serverAuth, so clients refuse it",
            "ask the authority for a certificate for TLS servers",
        );
    }
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
