//! `[audit]`: the target of audit lines, and their protection.

use std::path::Path;

use super::{tls, upstream, values};
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{AccessLogTarget, AuditConfig, HostPort, SyslogConfig, SyslogTls, WhenStuck};

/// The port of syslog over TLS (RFC 5425 §4.1).
const TLS_PORT: u16 = 6514;

const EXAMPLES: &str = "write \"unix:/dev/log\", \"udp:192.0.2.9:514\" (an IP address), \"tcp:logs.example.com:601\" or \"tls:logs.example.com:6514\"";

const WHEN_STUCK: [(&str, WhenStuck); 2] = [("refuse", WhenStuck::Refuse), ("go_on", WhenStuck::GoOn)];

/// Reads the table. A file shared with the access log would not be JSON throughout.
pub(super) fn audit(
    table: &TomlTable<'_, '_>,
    access: &AccessLogTarget,
    around: &Surroundings<'_>,
) -> Option<AuditConfig> {
    let (file_node, chain_node, syslog_node) = (table.get("file"), table.get("chain"), table.get("syslog"));
    let when_stuck_node = table.get("when_stuck");
    if file_node.is_none() && syslog_node.is_none() && when_stuck_node.is_none() {
        return table.refuse("has no target", "add `file` or `syslog`, or leave the table out");
    }
    let file = file_node.as_ref().and_then(|node| around.log_file(node));
    if let (Some(file), Some(node), AccessLogTarget::File(access)) = (&file, &file_node, access)
        && file == access
    {
        node.refuse::<()>("is the file of the access log", "name another one, or leave `file` out to have all in one");
    }
    let chain = chain_node.as_ref().and_then(TomlNode::boolean).unwrap_or_default();
    if let (true, None, Some(node)) = (chain, &file_node, &chain_node) {
        node.refuse::<()>("there is no file to guard", "add `file`");
    }
    let syslog = syslog_node.and_then(|node| syslog(&node, around));
    let when_stuck = when_stuck_node.and_then(|node| node.choice(&WHEN_STUCK)).unwrap_or_default();
    Some(AuditConfig { file, chain, syslog, when_stuck })
}

/// Reads an address, or a table with one.
fn syslog(node: &TomlNode<'_, '_>, around: &Surroundings<'_>) -> Option<SyslogConfig> {
    if !node.value().is_table() {
        return address(node, around.base);
    }
    node.table(|table| {
        let to = table.require("to").and_then(|node| address(&node, around.base));
        let [ca_node, name_node] = ["ca", "server_name"].map(|key| table.get(key));
        let ca = ca_node.as_ref().map(|node| tls::authorities(node, around));
        let server_name = name_node.as_ref().map(upstream::name_of_server);
        match to? {
            SyslogConfig::Tls(to) => Some(SyslogConfig::Tls(SyslogTls {
                ca: ca.map_or(Some(None), |ca| ca.map(Some))?,
                server_name: server_name.map_or(Some(None), |name| name.map(Some))?,
                ..to
            })),
            to => {
                for node in ca_node.iter().chain(&name_node) {
                    node.refuse::<()>("there is no certificate: `to` is not tls:", "write tls:, or remove the key");
                }
                Some(to)
            }
        }
    })
}

fn address(node: &TomlNode<'_, '_>, base: &Path) -> Option<SyslogConfig> {
    let text = node.word()?;
    match text.split_once(':') {
        Some(("unix", path)) if Path::new(path).file_name().is_some() => Some(SyslogConfig::Unix(base.join(path))),
        Some(("udp", address)) => match address.parse() {
            Ok(address) => Some(SyslogConfig::Udp(address)),
            Err(_) => node.refuse("has no IP address with a port behind udp:", EXAMPLES),
        },
        Some(("tcp", authority)) => match values::host_and_port(authority) {
            Some((host, Some(port))) => Some(SyslogConfig::Tcp(HostPort { host, port })),
            Some((_, None)) | None => node.refuse("has no host with a port behind tcp:", EXAMPLES),
        },
        Some(("tls", authority)) => match values::host_and_port(authority) {
            Some((host, port)) => {
                let at = HostPort { host, port: port.unwrap_or(TLS_PORT) };
                Some(SyslogConfig::Tls(SyslogTls { at, ca: None, server_name: None }))
            }
            None => node.refuse("has no host behind tls:", EXAMPLES),
        },
        _ => node.refuse("not the address of a syslog daemon", EXAMPLES),
    }
}
