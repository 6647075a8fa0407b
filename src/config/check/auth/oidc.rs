//! Method `oidc`: the provider, our client there, and the time for which a login is remembered.

use std::time::Duration;

use http::Uri;

use crate::config::check::tls;
use crate::config::check::values::{distinct, duration_or};
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{OidcConfig, Trust};
use crate::model::account::host_name;
use crate::model::loopback::is_loopback;
use crate::model::path::OIDC_CALLBACK_PATH;
use crate::model::secret::Secret;

/// The default time for which a login is remembered.
const REMEMBER: Duration = Duration::from_secs(12 * 3600);
/// The longest such time: the person may have left the company in the meantime.
const LONGEST_REMEMBER: Duration = Duration::from_secs(30 * 86_400);
/// The default scopes.
const SCOPES: [&str; 3] = ["openid", "profile", "email"];
/// The shortest secret that a key is derived from, in bytes.
const SHORTEST_KEY: usize = 32;
/// The longest name, which is a part of a URL.
const LONGEST_NAME: usize = 32;

/// Reads a table of type `oidc`.
pub(super) fn read(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> Option<OidcConfig> {
    let name = table.get("name").map(|node| name(&node));
    let issuer = table.require("issuer").and_then(|node| issuer(&node));
    let client_id = table.require("client_id").and_then(|node| node.word().map(str::to_owned));
    let client_secret = table.get("client_secret").and_then(|node| around.secret(&node));
    let trusted_audiences = table.get("trusted_audiences").and_then(|node| audiences(&node));
    let scopes = table.get("scopes").and_then(|node| scopes(&node));
    let userinfo = table.get("userinfo").and_then(|node| node.boolean());
    let remember = remember(table);
    let cookie_key = table.get("cookie_key").and_then(|node| cookie_key(&node, around));
    let host = table.get("host").and_then(|node| host(&node));
    let after_logout = table.get("after_logout").and_then(|node| address(&node));
    let ca = table.get("ca").and_then(|node| tls::authorities(&node, around));
    if name == Some(None) {
        return None;
    }
    Some(OidcConfig {
        issuer: issuer?,
        client_id: client_id?,
        client_secret,
        trusted_audiences,
        scopes: scopes.unwrap_or_else(|| SCOPES.map(str::to_owned).into()),
        userinfo: userinfo.unwrap_or_default(),
        remember,
        cookie_key,
        host,
        after_logout,
        trust: Trust::roots(ca),
        outbound_proxy: around.outbound_proxy(),
    })
}

/// Checks the name, which is the last part of the URL that the provider sends browsers back to.
fn name(node: &TomlNode<'_, '_>) -> Option<()> {
    // A value that is not text has been refused before.
    let name = node.value().as_str()?;
    let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if fits && name.len() <= LONGEST_NAME {
        return Some(());
    }
    node.refuse(
        format_args!("cannot be the end of {OIDC_CALLBACK_PATH}…"),
        format_args!("use letters, digits, - and _, {LONGEST_NAME} at most"),
    )
}

fn issuer(node: &TomlNode<'_, '_>) -> Option<String> {
    let hint = "write it as the provider does: the address before /.well-known/openid-configuration";
    let text = node.word()?;
    let Some(uri) = safe_uri(text) else {
        return node.refuse("not an https:// address, or one of this machine", hint);
    };
    if uri.query().is_some() || text.contains('#') {
        return node.refuse("has a query or a fragment", hint);
    }
    if text.ends_with("/.well-known/openid-configuration") {
        return node.refuse("is the address of its document", hint);
    }
    Some(text.to_owned())
}

/// Reads a URL to which secrets may be sent: over TLS, or on this machine.
fn safe_uri(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
    let is_safe = match uri.scheme_str()? {
        "https" => true,
        "http" => is_loopback(authority.host()),
        _ => false,
    };
    is_safe.then_some(uri)
}

fn address(node: &TomlNode<'_, '_>) -> Option<String> {
    let text = node.word()?;
    match safe_uri(text) {
        Some(_) => Some(text.to_owned()),
        None => node.refuse("not an https:// address", "write a whole address, as it is registered at the provider"),
    }
}

/// Reads a list that may be empty: then no further audience is trusted.
fn audiences(node: &TomlNode<'_, '_>) -> Option<Vec<String>> {
    distinct(&node.list_or_empty()?, "audience", |node| node.word().map(str::to_owned))
}

fn scopes(node: &TomlNode<'_, '_>) -> Option<Vec<String>> {
    let scopes = distinct(&node.list()?, "scope", scope)?;
    if scopes.iter().any(|scope| scope == "openid") {
        return Some(scopes);
    }
    node.refuse("lacks \"openid\", without which a provider sends no ID token", "add \"openid\" to the list")
}

/// Reads a scope (RFC 6749 §3.3).
fn scope(node: &TomlNode<'_, '_>) -> Option<String> {
    let text = node.word()?;
    let fits = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
    if fits { Some(text.to_owned()) } else { node.refuse("not a scope", "write each scope as a string of its own") }
}

fn remember(table: &TomlTable<'_, '_>) -> Duration {
    let remember = duration_or(table, "remember", REMEMBER);
    if remember.subsec_nanos() != 0 || remember > LONGEST_REMEMBER {
        table.get("remember").and_then(|node| {
            node.refuse::<()>(
                "is out of bounds",
                "write whole seconds, \"30d\" at most, so that a person who has left cannot log in for ever",
            )
        });
    }
    remember
}

fn cookie_key(node: &TomlNode<'_, '_>, around: &Surroundings<'_>) -> Option<Secret> {
    let secret = around.secret(node)?;
    if secret.expose().len() < SHORTEST_KEY {
        return node.refuse(
            format_args!("is shorter than {SHORTEST_KEY} bytes: it could be guessed"),
            "make one that cannot: openssl rand -base64 32",
        );
    }
    Some(secret)
}

/// Reads a host name.
fn host(node: &TomlNode<'_, '_>) -> Option<String> {
    let name = host_name(node.word()?);
    name.or_else(|| node.refuse("not a host name", "write a name without scheme, port or path: \"www.example.com\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_only_where_they_are_safe() {
        for (text, expected) in [
            ("https://id.example.com", true),
            ("https://id.example.com:8443/realms/a", true),
            ("http://127.0.0.1:8080", true),
            ("http://localhost/", true),
            ("http://id.example.com", false),
            ("https://a@id.example.com", false),
            ("id.example.com", false),
            ("/realms/a", false),
            ("ftp://id.example.com", false),
        ] {
            assert_eq!(safe_uri(text).is_some(), expected, "{text}");
        }
    }
}
