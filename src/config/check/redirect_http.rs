//! `redirect_http`: the address of plain HTTP, and who else answers challenges of ACME servers there.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::passthrough::ServedHere;
use super::values::{address, url};
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{HostPort, Listen, PbxConfig, RedirectHttp, UpstreamUrl};

/// Reads an address, or `{ listen, … }`.
pub(super) fn redirect_http(
    root: &TomlTable<'_, '_>,
    here: &ServedHere<'_>,
    around: &Surroundings<'_>,
) -> Option<RedirectHttp> {
    let node = root.get("redirect_http")?;
    if !node.value().is_table() {
        let listen = plain_address(&node, here.listen)?;
        return Some(RedirectHttp { listen, port: None, acme_webroot: None, acme_pbx: Vec::new() });
    }
    node.table(|table| {
        let listen = table.require("listen").and_then(|node| plain_address(&node, here.listen));
        let port = table.get("port").map_or(Some(None), |node| port(&node).map(Some));
        let acme_webroot = table.get("acme_webroot").map_or(Some(None), |node| webroot(&node, around).map(Some));
        let acme_pbx = table.get("acme_pbx").map_or(Some(Vec::new()), |node| challenge_addresses(&node, &here.pbx));
        Some(RedirectHttp { listen: listen?, port: port?, acme_webroot: acme_webroot?, acme_pbx: acme_pbx? })
    })
}

fn plain_address(node: &TomlNode<'_, '_>, listen: &[Listen]) -> Option<SocketAddr> {
    let address = address(node)?;
    if address.port() != 0 && listen.contains(&Listen::Tcp(address)) {
        return node
            .refuse("is an address of `listen`, which speaks TLS", "write another port, such as \"0.0.0.0:80\"");
    }
    Some(address)
}

fn port(node: &TomlNode<'_, '_>) -> Option<u16> {
    u16::try_from(node.integer(1..=usize::from(u16::MAX))?).ok()
}

fn webroot(node: &TomlNode<'_, '_>, around: &Surroundings<'_>) -> Option<PathBuf> {
    let path = around.path(node)?;
    if !path.is_dir() {
        node.warn(
            format_args!("there is no folder {}: callgate answers no challenge from it", path.display()),
            "make the folder, and give it to the other ACME client as its webroot",
        );
    }
    Some(path)
}

/// Reads where the PBX answers challenges: one URL, or one for each node by its name.
fn challenge_addresses(node: &TomlNode<'_, '_>, nodes: &[&PbxConfig]) -> Option<Vec<(String, HostPort)>> {
    if nodes.iter().all(|pbx| pbx.upstream.hosts.is_empty()) {
        return node.refuse(
            "no host is the PBX's, so no challenge is for it",
            "add hosts = [\"pbx.example.com\"] to [pbx], or remove this key",
        );
    }
    if node.value().is_table() {
        return node.table(|table| {
            let read = table.all().into_iter().map(|(name, node)| {
                let known: Vec<_> = nodes.iter().map(|pbx| pbx.name.as_str()).collect();
                match known.contains(&name) {
                    true => Some((name.to_owned(), challenge_address(&node)?)),
                    false => node.refuse_word("no PBX has this name", name, &known),
                }
            });
            read.collect::<Vec<_>>().into_iter().collect()
        });
    }
    match nodes {
        [pbx] => Some(vec![(pbx.name.clone(), challenge_address(node)?)]),
        _ => node.refuse(
            "there are several PBX nodes, each with an address of its own",
            "write { north = \"http://192.0.2.1\", south = \"http://192.0.2.2\" }, by the `name` of each [[pbx]]",
        ),
    }
}

fn challenge_address(node: &TomlNode<'_, '_>) -> Option<HostPort> {
    match url(node)? {
        UpstreamUrl::Http(at) => Some(at),
        UpstreamUrl::Https(_) | UpstreamUrl::Unix(_) => node.refuse(
            "ACME servers ask over plain HTTP",
            "write \"http://pbx.internal\", where the PBX answers at port 80",
        ),
    }
}
