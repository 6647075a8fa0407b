//! `[voximplant]`: whose one-time keys are answered, and for which pages.

use std::collections::HashMap;
use std::sync::Arc;

use super::values::{self, distinct};
use crate::config::Voximplant;
use crate::config::document::{Node, Table};
use crate::config::source::Surroundings;
use crate::model::loopback::is_loopback;
use crate::model::ott::{self, Ha1};
use crate::model::rate::Rate;

/// The longest key with which the caller cannot move HA1 across the edge of an MD5 block, in bytes.
const MAX_KEY_LENGTH: usize = 95;

/// Reads `[voximplant]`.
pub(super) fn voximplant(table: &Table<'_, '_>, around: &Surroundings<'_>) -> Option<Voximplant> {
    let users = table.require("users").and_then(|node| node.table(|table| users(&table.require("file")?, around)));
    let application = table.get("application").and_then(|node| application(&node));
    let max_key_length = table.get("max_key_length").and_then(|node| max_key_length(&node));
    let distinct_keys = table.get("distinct_keys").and_then(|node| node.parsed());
    let origins = table.get("origins").and_then(|node| distinct(&node.list_or_empty()?, "origin", origin));
    Some(Voximplant {
        users: Arc::new(users?),
        application,
        max_key_length: max_key_length.unwrap_or(MAX_KEY_LENGTH),
        distinct_keys: distinct_keys.unwrap_or_else(default_distinct_keys),
        origins: origins.unwrap_or_default(),
    })
}

fn default_distinct_keys() -> Rate {
    "5/5min".parse().expect("a rate")
}

fn users(node: &Node<'_, '_>, around: &Surroundings<'_>) -> Option<HashMap<String, Ha1>> {
    let bytes = around.private_file(node)?;
    let Ok(text) = std::str::from_utf8(&bytes) else {
        return node.refuse("is not text in UTF-8", "write it with callgate hash or htdigest");
    };
    match ott::parse_users(text) {
        Ok(users) if users.is_empty() => node.refuse("names no user", "add one: htdigest FILE voximplant.com USER"),
        Ok(users) => Some(users),
        Err(faults) => {
            let file = node.string()?;
            for fault in faults {
                node.refuse::<()>(
                    format_args!("{file} line {}: {}", fault.line, fault.problem),
                    "write each line with callgate hash or htdigest",
                );
            }
            None
        }
    }
}

/// Reads `myapp.myaccount`, with the node behind it if the account has one.
fn application(node: &Node<'_, '_>) -> Option<String> {
    let text = node.string()?;
    let label = |label: &str| {
        let spelled = label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        !label.is_empty() && spelled
    };
    let labels = text.split('.').count();
    if (2..=3).contains(&labels) && text.split('.').all(label) && !text.ends_with(".com") {
        return Some(text.to_owned());
    }
    node.refuse(
        "not of the form myapp.myaccount",
        "write what stands between the @ and .voximplant.com of a login name, in lower case",
    )
}

fn max_key_length(node: &Node<'_, '_>) -> Option<usize> {
    const ATTACK: &str = "at most 95: with a longer key the caller decides how HA1 is split between MD5 blocks, and can guess it piece by piece (the chosen-challenge attack on APOP)";
    match node.integer(1..=usize::MAX)? {
        length @ 1..=MAX_KEY_LENGTH => Some(length),
        _ => node.refuse("keys this long give the password away", ATTACK),
    }
}

/// Reads an origin as browsers send it (RFC 6454 §6.2).
fn origin(node: &Node<'_, '_>) -> Option<String> {
    let text = node.string()?;
    if text == "*" || text == "null" {
        return node.refuse("any page could ask", "list the origins of your own pages");
    }
    let Some((tls, host, port)) = parts(text) else {
        return node.refuse(
            "not an origin",
            "write \"https://phone.example.com\", as browsers send it: no path, no slash at the end",
        );
    };
    if !tls && !is_local(&host) {
        return node.refuse("a page over http:// can be changed on its way", "use https, or http on localhost");
    }
    let spelled = spelling(tls, &host, port);
    if spelled == text {
        Some(spelled)
    } else {
        node.refuse("not spelled as browsers send it", format_args!("write \"{spelled}\""))
    }
}

fn parts(text: &str) -> Option<(bool, String, Option<u16>)> {
    let (tls, authority) = values::scheme(text)?;
    let (host, port) = values::host_and_port(authority)?;
    Some((tls, host, port))
}

/// Spells an origin as a browser does: in lower case, without the port that the scheme implies.
fn spelling(tls: bool, host: &str, port: Option<u16>) -> String {
    let (scheme, implied) = if tls { ("https", 443) } else { ("http", 80) };
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    match port.filter(|port| *port != implied) {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    }
}

/// Tells whether a browser takes a host for its own machine's (Secure Contexts §3.1).
fn is_local(host: &str) -> bool {
    is_loopback(host) || host.ends_with(".localhost")
}
