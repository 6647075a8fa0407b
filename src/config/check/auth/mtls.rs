//! Method `mtls`: the client certificates that identify a caller, and the names in them that do.

use super::Methods;
use crate::config::check::tls::{ReadCertificates, client_authorities};
use crate::config::check::values::distinct;
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{CertificateName, CertificateRequest, MethodConfig, MethodKind, MtlsConfig, TokenLocation};

const IDENTITIES: [(&str, CertificateName); 5] = [
    ("san-uri", CertificateName::SanUri),
    ("san-email", CertificateName::SanEmail),
    ("san-dns", CertificateName::SanDns),
    ("fingerprint", CertificateName::Fingerprint),
    ("cn", CertificateName::Cn),
];
/// The common name is not among them, because CAs often accept any text there.
const DEFAULT: [CertificateName; 3] = [CertificateName::SanUri, CertificateName::SanEmail, CertificateName::SanDns];

/// Reads a table of type `mtls`.
pub(super) fn read(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> Option<MtlsConfig> {
    let identity = table.get("identity").map_or_else(|| Some(DEFAULT.to_vec()), identity);
    let fingerprints =
        table.get("fingerprints").map_or(Some(Vec::new()), |node| distinct(&node.list()?, "fingerprint", fingerprint));
    let client_ca = table.get("client_ca").map_or(Some(None), |node| client_authorities(&node, around).map(Some));
    Some(MtlsConfig { identity: identity?, fingerprints: fingerprints?, client_ca: client_ca? })
}

fn identity(node: TomlNode<'_, '_>) -> Option<Vec<CertificateName>> {
    let nodes = node.one_or_many()?;
    distinct(&nodes, "kind of name", |node| node.choice(&IDENTITIES))
}

/// Reads SHA-256 as hex digits, with the colons of `openssl x509 -fingerprint -sha256` or without.
fn fingerprint(node: &TomlNode<'_, '_>) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    match hex::decode_to_slice(node.string()?.replace(':', ""), &mut hash) {
        Ok(()) => Some(hash),
        Err(_) => {
            node.refuse("not a SHA-256", "write 64 hex digits: openssl x509 -noout -fingerprint -sha256 -in client.pem")
        }
    }
}

/// Reports methods for certificates that no listener asks for, and methods that cannot tell which CA a certificate is
/// from.
pub(super) fn check_asked(methods: &Methods<'_, '_>, certificates: &ReadCertificates) {
    let asked: Vec<_> = certificates.asked().map(|auth| &auth.ca).collect();
    for method in &methods.methods {
        let MethodKind::Mtls(settings) = &method.kind else { continue };
        let Some((_, node)) = methods.named.iter().find(|(name, _)| *name == method.name) else { continue };
        match &settings.client_ca {
            _ if asked.is_empty() => {
                node.refuse::<()>("no client is asked for a certificate", "add `client_ca` to `tls`");
            }
            Some(own) if !asked.contains(&own) => {
                node.refuse::<()>(
                    "no client is asked for a certificate of this `client_ca`",
                    "name the file of `client_ca` in `tls`",
                );
            }
            None if asked.iter().any(|ca| *ca != asked[0]) => {
                node.refuse::<()>(
                    "`tls` has several `client_ca`, and this method does not say which one it trusts",
                    "add `client_ca` here, and a method for each",
                );
            }
            Some(_) | None => {}
        }
    }
}

/// Checks certificates that are optional. They protect no host, so they need a method that reads them; and browsers show
/// them beside the cookies by which clients without a certificate log in.
pub(super) fn check_optional(methods: &Methods<'_, '_>, tls: &TomlNode<'_, '_>, certificates: &ReadCertificates) {
    let optional: Vec<_> = certificates.asked().filter(|auth| auth.is_optional).collect();
    // A method that was refused is not among these, but is the one that is meant.
    let are_all_known = methods.methods.len() == methods.named.len();
    if are_all_known && optional.iter().any(|auth| !methods.methods.iter().any(|method| reads(method, auth))) {
        tls.refuse::<()>(
            "a client certificate is optional (`client_auth`), and no method reads it",
            "add an [[auth]] of type \"mtls\", or write client_auth = \"required\"",
        );
    }
    let Some(cookie) = methods.methods.iter().find(|method| is_cookie(method)) else { return };
    for (name, node) in &methods.named {
        let is_meant = |method: &MethodConfig| method.name == *name && optional.iter().any(|auth| reads(method, auth));
        if methods.methods.iter().any(is_meant) && node.entry("ignore_cookies").is_none() {
            node.warn(
                format_args!(
                    "browsers that show a certificate and a cookie of method {:?} have two credentials, and are refused",
                    cookie.name
                ),
                "add ignore_cookies = true: then the certificate decides, and the cookie only where none is shown",
            );
        }
    }
}

/// Tells whether a method judges these certificates.
fn reads(method: &MethodConfig, auth: &CertificateRequest) -> bool {
    matches!(&method.kind, MethodKind::Mtls(settings) if settings.client_ca.as_ref().is_none_or(|own| *own == auth.ca))
}

/// Tells whether browsers show the credential of a method as a cookie.
fn is_cookie(method: &MethodConfig) -> bool {
    match &method.kind {
        MethodKind::App(_) | MethodKind::Oidc(_) => true,
        MethodKind::Jwt(settings) => matches!(settings.location, TokenLocation::Cookie(_)),
        MethodKind::Key(_) | MethodKind::Link(_) | MethodKind::Header(_) | MethodKind::Mtls(_) => false,
    }
}
