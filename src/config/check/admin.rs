//! `[admin]`: where health and metrics are told. Whoever reaches it may read it, so it is reached from this machine only.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::Listen;
use crate::config::document::Node;
use crate::config::source::Surroundings;

const ONE_OF_TWO: &str = "write \"127.0.0.1:9443\", \"[::1]:9443\" or \"unix:/run/callgate/admin.sock\"";
/// The longest path of a unix socket: `sun_path` without its NUL (unix(7)).
const MAX_PATH: usize = 107;

/// Reads the address of the admin listener. `public` are those that everybody reaches.
pub(super) fn listen(node: &Node<'_, '_>, public: &[SocketAddr], around: &Surroundings<'_>) -> Option<Listen> {
    let text = node.word()?;
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(node, path, around).map(Listen::Unix);
    }
    let Ok(address) = text.parse::<SocketAddr>() else {
        return node.refuse("not an address", ONE_OF_TWO);
    };
    if !address.ip().is_loopback() {
        return node.refuse("can be reached from other machines, and whoever reaches it may read it", ONE_OF_TWO);
    }
    if address.port() != 0 && public.contains(&address) {
        return node.refuse("is an address of `listen` or `redirect_http`", "write another port");
    }
    Some(Listen::Tcp(address))
}

fn unix(node: &Node<'_, '_>, path: &str, around: &Surroundings<'_>) -> Option<PathBuf> {
    if path.is_empty() {
        return node.refuse("names no path", ONE_OF_TWO);
    }
    let path = around.base.join(path);
    if path.as_os_str().len() > MAX_PATH {
        return node.refuse(
            format_args!("a path of more than {MAX_PATH} bytes"),
            "name a shorter one, such as one below /run",
        );
    }
    // Whether its folder is there shows when the gate starts: systemd makes those below /run for as long as a unit runs.
    Some(path)
}
