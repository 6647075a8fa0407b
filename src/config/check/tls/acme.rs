//! `tls.acme`: the certificates that callgate gets from an ACME server.

use http::Uri;

use super::authorities;
use crate::config::check::values::distinct;
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{AcmeConfig, Certificate, Listen};
use crate::model::account::host_name;
use crate::model::loopback::is_loopback;

/// The directory of Let's Encrypt.
pub(in crate::config) const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Reads the table.
pub(super) fn read(table: &TomlTable<'_, '_>, around: &Surroundings<'_>, has_http: bool) -> Option<AcmeConfig> {
    let email = table.get("email").map_or(Some(None), |node| email(&node).map(Some));
    let names = table.require("names").and_then(|node| distinct(&node.list()?, "name", name));
    let directory = table.get("directory").map_or_else(|| Some(LETS_ENCRYPT.to_owned()), |node| directory(&node));
    let ca = table.get("ca").map_or(Some(None), |node| authorities(&node, around).map(Some));
    Some(AcmeConfig {
        email: email?,
        names: names?,
        directory: directory?,
        ca: ca?,
        client_auth: None,
        outbound_proxy: around.outbound_proxy(),
        has_http,
    })
}

fn email(node: &TomlNode<'_, '_>) -> Option<String> {
    let text = node.word()?;
    let is_address = text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && host_name(host).is_some());
    if is_address && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some(text.to_owned());
    }
    node.refuse("not a mail address", "write \"admin@example.com\", or leave the key out")
}

fn name(node: &TomlNode<'_, '_>) -> Option<String> {
    let text = node.word()?;
    if text.starts_with("*.") {
        return node.refuse(
            "a wildcard needs the challenge DNS-01, which callgate does not answer",
            "name each host, or get the certificate with another ACME client and name its files in `certificates`",
        );
    }
    match host_name(text) {
        Some(name) if name.contains('.') && name.parse::<std::net::IpAddr>().is_err() => Some(name),
        Some(_) | None => node.refuse("not a host name with a domain", "write a name such as \"portal.example.com\""),
    }
}

fn directory(node: &TomlNode<'_, '_>) -> Option<String> {
    let text = node.word()?;
    let uri: Option<Uri> = text.parse().ok();
    let is_safe = uri.is_some_and(|uri| match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => !text.contains('@'),
        (Some("http"), Some(host)) => is_loopback(host),
        _ => false,
    });
    if is_safe {
        return Some(text.to_owned());
    }
    node.refuse("not an https address", "write the URL of the ACME server's directory; http only for this machine")
}

/// Leaves out the names that the certificate of a file covers.
pub(super) fn leave_out_covered(node: &TomlNode<'_, '_>, acme: &mut AcmeConfig, files: &[Certificate]) {
    for name in acme.names.extract_if(.., |name| files.iter().any(|one| one.covers(name))) {
        let message = format_args!("a certificate of a file covers {name}: callgate gets no other");
        node.warn(message, "remove the name here, or the file");
    }
}

/// Checks what the certificates need elsewhere in the configuration.
pub(super) fn check(node: &TomlNode<'_, '_>, acme: &AcmeConfig, listen: &[Listen], root: &TomlTable<'_, '_>) {
    if root.get("state").is_none() {
        node.refuse::<()>(
            "the account and the certificates need a [state] file, or each start would order them again",
            "add [state] with file = \"/var/lib/callgate/state\"",
        );
    }
    let is_https = |at: &Listen| at.tcp().is_none_or(|at| at.port() == 443);
    if !acme.has_http && !listen.is_empty() && !listen.iter().any(is_https) {
        node.warn(
            "the ACME server cannot check the names: it connects to port 80 or 443, and callgate listens at neither",
            "add redirect_http = \"0.0.0.0:80\", or let port 443 lead to `listen`",
        );
    }
}
