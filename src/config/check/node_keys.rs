//! `name`, `domains` and `limits` of `[pbx]`: what tells one of several nodes from the others.

use super::values::{distinct, host_pattern};
use crate::config::document::TomlTable;
use crate::config::{HostPattern, NodeLimits};
use crate::model::rate::Rate;

/// The most characters of a name.
const LONGEST_NAME: usize = 63;
/// The name of the only node.
const ONLY: &str = "pbx";

/// Reads the name of a node: by default its first host that is no wildcard.
pub(super) fn name(table: &TomlTable<'_, '_>, hosts: &[HostPattern], is_alone: bool) -> Option<String> {
    let Some(node) = table.get("name") else {
        let first = hosts.iter().find_map(HostPattern::exact).filter(|_| !is_alone);
        return match first {
            Some(host) => Some(host.to_owned()),
            None if is_alone || hosts.is_empty() => Some(ONLY.to_owned()),
            None => table.refuse("has no name: its `hosts` are wildcards alone", "add name = \"north\""),
        };
    };
    let name = node.word()?;
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let begins_well = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    if !is_plain || !begins_well || name.len() > LONGEST_NAME {
        let message = format!("not 1 to {LONGEST_NAME} letters, digits and . _ -, with a letter or digit first");
        return node.refuse(message, "write a name such as \"north\"");
    }
    if is_alone {
        node.warn("has no effect: there is one PBX", "remove it, or add another [[pbx]]");
    }
    Some(name.to_owned())
}

/// Reads the domains of the tenants that are at a node.
pub(super) fn domains(table: &TomlTable<'_, '_>, is_alone: bool) -> Option<Vec<HostPattern>> {
    let Some(node) = table.get("domains") else { return Some(Vec::new()) };
    if is_alone {
        node.warn("has no effect: all tenants are at the one PBX", "remove it, or add another [[pbx]]");
    }
    distinct(&node.list()?, "domain", host_pattern)
}

/// Reads the limits of a node.
pub(super) fn limits(table: &TomlTable<'_, '_>) -> Option<NodeLimits> {
    let Some(node) = table.get("limits") else { return Some(NodeLimits::default()) };
    node.table(|table| {
        let rate = |key| -> Option<Option<Rate>> { table.get(key).map_or(Some(None), |node| node.parsed().map(Some)) };
        let (pbx_logins, account, admin) = (rate("pbx_logins"), rate("account"), rate("admin"));
        Some(NodeLimits { pbx_logins: pbx_logins?, account: account?, admin: admin? })
    })
}
