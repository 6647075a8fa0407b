//! Method `link`: the keys that sign links, and the longest life of a link.

use std::time::Duration;

use super::Methods;
use crate::config::check::values::{duration, each};
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{Confirm, LinkConfig, MethodKind};
use crate::model::link::{LinkKey, MIN_SECRET};

/// The default life of links.
const TTL: Duration = Duration::from_secs(60);
/// The longest life of links: they end up in mailboxes and browser histories.
const MAX_TTL: Duration = Duration::from_secs(15 * 60);
/// The longest id of a key.
const MAX_ID: usize = 32;

/// Reads a table of type `link`.
pub(super) fn read(
    table: &TomlTable<'_, '_>,
    before: &Methods<'_, '_>,
    around: &Surroundings<'_>,
) -> Option<LinkConfig> {
    let keys = table.require("keys").and_then(|node| keys(&node, before, around));
    let ttl = table.get("ttl").map_or(Some(TTL), |node| ttl(&node));
    let choices = [("never", Confirm::Never), ("auto", Confirm::Auto), ("always", Confirm::Always)];
    let confirm = table.get("confirm").map_or(Some(Confirm::Auto), |node| node.choice(&choices));
    Some(LinkConfig { keys: keys?, ttl: ttl?, confirm: confirm? })
}

/// Warns that a restart forgets which links have been used.
pub(super) fn warn_forgetful(methods: &Methods<'_, '_>) {
    for method in methods.methods.iter().filter(|method| matches!(method.kind, MethodKind::Link(_))) {
        let Some((_, node)) = methods.named.iter().find(|(name, _)| *name == method.name) else { continue };
        node.warn("after a restart, a link works once more until it expires", "add [state] with a `file`");
    }
}

fn keys(node: &TomlNode<'_, '_>, before: &Methods<'_, '_>, around: &Surroundings<'_>) -> Option<Vec<LinkKey>> {
    let nodes = node.list()?;
    let keys = each(&nodes, |node| node.table(|table| key(table, around)))?;
    let others = before.methods.iter().filter_map(|method| match &method.kind {
        MethodKind::Link(links) => Some(&links.keys),
        _ => None,
    });
    let others: Vec<_> = others.flatten().map(LinkKey::id).collect();
    for (index, (node, key)) in nodes.iter().zip(&keys).enumerate() {
        if others.contains(&key.id()) || keys[..index].iter().any(|other| other.id() == key.id()) {
            return node.refuse(
                format_args!("another key is called `{}`", key.id()),
                "choose another `kid`, such as the day the key was made",
            );
        }
    }
    Some(keys)
}

fn key(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> Option<LinkKey> {
    let id = table.require("kid").and_then(|node| id(&node));
    let secret = table.require("secret").and_then(|node| {
        let secret = around.secret(&node)?;
        if secret.expose().len() < MIN_SECRET {
            return node.refuse(
                format_args!("the secret is shorter than {MIN_SECRET} bytes: it could be guessed from one link"),
                "make one: openssl rand -hex 32",
            );
        }
        Some(secret)
    });
    Some(LinkKey::new(id?, &secret?))
}

fn id(node: &TomlNode<'_, '_>) -> Option<String> {
    let text = node.word()?;
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.len() <= MAX_ID && text.bytes().all(known) {
        return Some(text.to_owned());
    }
    node.refuse(
        format_args!("not the name of a key: at most {MAX_ID} of A-Z a-z 0-9 - _ ."),
        "write a short name, such as \"2026\"",
    )
}

fn ttl(node: &TomlNode<'_, '_>) -> Option<Duration> {
    let ttl = duration(node)?;
    if ttl > MAX_TTL {
        return node
            .refuse("longer than 15 minutes: a link that lives so long can be stolen", "write \"15min\" or less");
    }
    if ttl < Duration::from_secs(1) {
        return node.refuse("shorter than a second", "write \"60s\"");
    }
    Some(ttl)
}
