//! `[pbx] shield`: restrictions on requests to the PBX from outside.

use ipnet::IpNet;

use super::values::{self, distinct};
use crate::config::ShieldConfig;
use crate::config::document::{TomlNode, TomlTable};
use crate::model::shield::ProtectedPaths;

/// Reads `shield`. If callgate opens no sessions, a session that a browser lands with can never be its own.
pub(super) fn shield(table: &TomlTable<'_, '_>, opens_sessions: bool) -> Option<ShieldConfig> {
    let from = table.require("from").and_then(|node| networks(&node));
    let admin = table.get("admin_paths").and_then(|node| paths(&node));
    let open = table.get("open_paths").and_then(|node| paths(&node));
    let any_session = table.get("sessions").and_then(|node| sessions(&node, opens_sessions));
    Some(ShieldConfig {
        from: from?,
        protected: ProtectedPaths {
            admin: admin.unwrap_or_else(|| listed(&["/reg_", "/dom_", "/rest/system/"])),
            open: open.unwrap_or_else(|| {
                listed(&["/rest/system/session", "/rest/system/2nd", "/rest/system/login", "/rest/system/localization"])
            }),
        },
        any_session: any_session.unwrap_or(!opens_sessions),
    })
}

fn networks(node: &TomlNode<'_, '_>) -> Option<Vec<IpNet>> {
    let networks = distinct(&node.list_or_empty()?, "network", values::network)?;
    // Networks are joined first, because two halves cover everything as well.
    if IpNet::aggregate(&networks).iter().any(|network| network.prefix_len() == 0) {
        return node.refuse(
            "covers all addresses: the shield would have no effect",
            "list your own networks, or remove the shield",
        );
    }
    Some(networks)
}

/// Reads path prefixes, ignoring case.
fn paths(node: &TomlNode<'_, '_>) -> Option<Vec<String>> {
    distinct(&node.list_or_empty()?, "path", |node| {
        let path = values::path(node)?.to_ascii_lowercase();
        match path.as_str() {
            "/" => node.refuse("is every path", "write how the paths in question begin, such as \"/reg_\""),
            _ => Some(path),
        }
    })
}

fn sessions(node: &TomlNode<'_, '_>, opens_sessions: bool) -> Option<bool> {
    let any_session = node.choice(&[("ours", false), ("any", true)])?;
    if !any_session && !opens_sessions {
        return node.refuse(
            "callgate opens no sessions, so it would refuse every landing",
            "add `admin` to [pbx], or write \"any\"",
        );
    }
    Some(any_session)
}

fn listed(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| (*path).to_owned()).collect()
}
