//! `[admin]`: the listener for health and metrics. It has no login, so it must be reachable from this machine only.

use std::path::Path;

use super::values;
use crate::config::Listen;
use crate::config::document::TomlNode;

/// Reads the address of the admin listener. `public`: the addresses of all other listeners.
pub(super) fn listen(node: &TomlNode<'_, '_>, public: &[Listen], base: &Path) -> Option<Listen> {
    let listen = values::listen(node, base, values::LOOPBACK)?;
    if listen.tcp().is_some_and(|address| !address.ip().is_loopback()) {
        return node.refuse(
            "can be reached from other machines, and it has no login",
            "write \"127.0.0.1:9443\", \"[::1]:9443\" or \"unix:/run/callgate/admin.sock\"",
        );
    }
    if listen.tcp().is_none_or(|address| address.port() != 0) && public.contains(&listen) {
        return node.refuse("is an address of `listen` or `redirect_http`", "write another one");
    }
    Some(listen)
}
