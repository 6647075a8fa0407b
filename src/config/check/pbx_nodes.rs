//! `[pbx]`, or several `[[pbx]]`: the PBX nodes. Each host, each tenant and each name belongs to one of them.

use toml::de::DeValue;

use super::own_paths;
use super::upstream;
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{HostPattern, PbxConfig};

/// A table of a node, and its settings; `None`: a part of them is invalid.
pub(super) type ReadNode<'d, 'i> = (TomlNode<'d, 'i>, Option<PbxConfig>);

/// Reads the nodes.
pub(super) fn nodes<'d, 'i>(root: &TomlTable<'d, 'i>, around: &Surroundings<'_>) -> Vec<ReadNode<'d, 'i>> {
    let Some(node) = root.get("pbx") else { return Vec::new() };
    let tables = match node.value() {
        DeValue::Array(_) => node.list().unwrap_or_default(),
        _ => vec![node],
    };
    let is_alone = tables.len() == 1;
    let read = |table: TomlNode<'d, 'i>| {
        let settings = table.table(|table| upstream::pbx(table, is_alone, around));
        (table, settings)
    };
    let nodes: Vec<_> = tables.into_iter().map(read).collect();
    for (index, (table, settings)) in nodes.iter().enumerate() {
        if let (Some(settings), false) = (settings, is_alone) {
            check_hosts(table, settings);
            for other in nodes[..index].iter().filter_map(|(_, other)| other.as_ref()) {
                check_apart(table, settings, other);
            }
        }
    }
    nodes
}

/// Returns the tenants of each of several nodes; `None`: there is one, which has all tenants, or a table is invalid.
pub(super) fn tenants<'n>(nodes: &'n [ReadNode<'_, '_>]) -> Option<Vec<&'n [HostPattern]>> {
    let tenants = nodes.iter().map(|(_, settings)| settings.as_ref().map(PbxConfig::tenants));
    if nodes.len() > 1 { tenants.collect() } else { None }
}

fn check_hosts(table: &TomlNode<'_, '_>, node: &PbxConfig) {
    if node.upstream.hosts.is_empty() {
        let hint = "add its names: hosts = [\"pbx1.example.com\"]";
        table.refuse::<()>("has no `hosts`, by which the nodes are told apart", hint);
    }
}

/// Checks that no node has the name of a host of the other one: a line of the log would mislead its reader.
fn check_names(at: &TomlNode<'_, '_>, node: &PbxConfig, before: &PbxConfig) {
    let has_host = |node: &PbxConfig, name: &str| {
        let mut hosts = node.upstream.hosts.iter().filter_map(HostPattern::exact);
        hosts.any(|host| host.eq_ignore_ascii_case(name))
    };
    let (name, other) = (&node.name, &before.name);
    let hint = "give each one a `name` of its own, such as \"north\"";
    if has_host(before, name) {
        at.refuse::<()>(format_args!("`{name}` is a host of the node `{other}`"), hint);
    } else if has_host(node, other) {
        at.refuse::<()>(format_args!("the node `{other}` is called like a host of this one"), hint);
    }
}

/// Checks that nothing belongs to a node and to one before it.
fn check_apart(table: &TomlNode<'_, '_>, node: &PbxConfig, before: &PbxConfig) {
    let at = |key| table.entry(key).unwrap_or_else(|| table.clone());
    let name = &before.name;
    let is_namesake = node.name.eq_ignore_ascii_case(name);
    if is_namesake {
        let hint = "give each one a `name` of its own, which differs in more than upper and lower case";
        at("name").refuse::<()>(format_args!("another [[pbx]] is called `{name}`"), hint);
    }
    let common = |ours: &[HostPattern], theirs: &[HostPattern]| {
        ours.iter().find(|pattern| theirs.contains(pattern)).map(HostPattern::to_string)
    };
    if let Some(host) = common(&node.upstream.hosts, &before.upstream.hosts) {
        let message = format_args!("{host} is a host of the node `{name}`, too");
        at("hosts").refuse::<()>(message, "write each host at one node; the most exact pattern decides");
    } else {
        if !is_namesake {
            check_names(&at("name"), node, before);
        }
        if let Some(domain) = common(node.tenants(), before.tenants()) {
            let message = format_args!("{domain} is a domain of the node `{name}`, too");
            let hint = "write each domain at one node; without `domains`, a node has those that its `hosts` cover";
            at("domains").refuse::<()>(message, hint);
        }
    }
    if let Some(url) = node.upstream.urls.iter().find(|url| before.upstream.urls.contains(url)) {
        let message = format_args!("{} is also the node `{name}`", url.text());
        at("url").refuse::<()>(message, "write each PBX once, with all its hosts");
    }
    let (ours, theirs) = (&node.socket, &before.socket);
    let is_alias = |socket: &Option<String>, other: &PbxConfig| {
        socket.as_ref().is_some_and(|socket| other.aliases.iter().any(|alias| own_paths::is_same(alias, socket)))
    };
    if is_alias(ours, before) || is_alias(theirs, node) {
        let key = if is_alias(ours, before) { "socket" } else { "aliases" };
        let other = if key == "socket" { "aliases" } else { "socket" };
        let message = format_args!("is also named by `{other}` of the node `{name}`");
        at(key).refuse::<()>(message, "on hosts of the app a path is either: choose another");
    }
}
