//! `[server]`: trusted proxies, bounds on connections, and deadlines.

use std::time::Duration;

use http::HeaderName;

use super::values::{duration_or, each, known_networks, size};
use crate::config::document::{TomlNode, TomlTable};
use crate::config::{ServerConfig, ServerTimeouts};

/// Half a GiB when all of them are idle, at about 32 KiB each.
const MAX_CONNECTIONS: usize = 16_384;

/// Fits a machine of half a GiB, besides the memory of idle connections.
const BUFFER_BUDGET: usize = 128 << 20;
/// Enough for a few connections at full speed.
const LEAST_BUDGET: usize = 8 << 20;

/// The defaults without `[server]`.
pub(super) const DEFAULT: ServerConfig = ServerConfig {
    believe_forwarded_from: Vec::new(),
    accept_proxy_protocol_from: Vec::new(),
    strip_fields: Vec::new(),
    max_connections: MAX_CONNECTIONS,
    max_connections_per_client: most_of(MAX_CONNECTIONS),
    buffer_budget: BUFFER_BUDGET,
    insecure_no_sandbox: false,
    drain: Duration::from_secs(30),
    drain_tunnels: Duration::from_secs(12 * 3600),
    timeouts: ServerTimeouts {
        handshake: Duration::from_secs(10),
        header: Duration::from_secs(10),
        idle: Duration::from_secs(75),
        body_idle: Duration::from_secs(60),
        write_stall: Duration::from_secs(30),
        tunnel_idle: Duration::from_secs(3600),
    },
};

/// Three quarters: a large office may have one address, and leaves room for others.
const fn most_of(connections: usize) -> usize {
    connections - connections / 4
}

/// Reads `[server]`.
pub(super) fn server(table: &TomlTable<'_, '_>) -> ServerConfig {
    let networks = |key| table.get(key).and_then(|node| known_networks(&node, "another's address")).unwrap_or_default();
    let max_connections = table.get("max_connections").and_then(|node| node.integer(1..=MOST));
    let max_connections = max_connections.unwrap_or(DEFAULT.max_connections);
    let per_client = table.get("max_connections_per_client").and_then(|node| per_client(&node, max_connections));
    let strip_fields = table.get("strip_fields").and_then(|node| each(&node.list_or_empty()?, strip_field));
    let timeouts = table.section("timeouts", |table| Some(timeouts(table)));
    let drain = duration_or(table, "drain", DEFAULT.drain);
    ServerConfig {
        believe_forwarded_from: networks("believe_forwarded_from"),
        accept_proxy_protocol_from: networks("accept_proxy_protocol_from"),
        strip_fields: strip_fields.unwrap_or_default(),
        max_connections,
        max_connections_per_client: per_client.unwrap_or_else(|| most_of(max_connections)),
        buffer_budget: table.get("buffer_budget").and_then(|node| size(&node, LEAST_BUDGET)).unwrap_or(BUFFER_BUDGET),
        insecure_no_sandbox: table.get("insecure_no_sandbox").and_then(|node| node.boolean()).unwrap_or_default(),
        drain,
        drain_tunnels: drain_tunnels(table, drain),
        timeouts: timeouts.unwrap_or(DEFAULT.timeouts),
    }
}

/// Fields that every request needs, or that have a setting of their own.
const NEEDED: [&str; 8] =
    ["connection", "content-length", "content-type", "cookie", "host", "te", "trailer", "transfer-encoding"];

/// Reads the name of a field that is removed before forwarding.
fn strip_field(node: &TomlNode<'_, '_>) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(node.string()?.as_bytes()) else {
        return node.refuse("not the name of a header field", "write a name such as \"x-tenant-user\"");
    };
    if NEEDED.contains(&name.as_str()) {
        return node.refuse(format_args!("a request needs {name}"), "remove it from the list");
    }
    Some(name)
}

/// More connections than a machine has file descriptors.
const MOST: usize = 1_000_000;

fn per_client(node: &TomlNode<'_, '_>, max_connections: usize) -> Option<usize> {
    let most = node.integer(1..=MOST)?;
    if most > max_connections {
        node.warn("has no effect: it is more than `max_connections`", "write fewer, or remove the key");
    }
    Some(most)
}

/// Reads `drain_tunnels`. A tunnel goes on at least as long as any other exchange.
fn drain_tunnels(table: &TomlTable<'_, '_>, drain: Duration) -> Duration {
    let length = duration_or(table, "drain_tunnels", DEFAULT.drain_tunnels.max(drain));
    if length < drain
        && let Some(node) = table.get("drain_tunnels")
    {
        node.warn("has no effect: it is less than `drain`", "write a longer time, or remove the key");
    }
    length.max(drain)
}

fn timeouts(table: &TomlTable<'_, '_>) -> ServerTimeouts {
    let default = DEFAULT.timeouts;
    ServerTimeouts {
        handshake: duration_or(table, "handshake", default.handshake),
        header: duration_or(table, "header", default.header),
        idle: duration_or(table, "idle", default.idle),
        body_idle: duration_or(table, "body_idle", default.body_idle),
        write_stall: duration_or(table, "write_stall", default.write_stall),
        tunnel_idle: duration_or(table, "tunnel_idle", default.tunnel_idle),
    }
}
