//! `[audit]`: the target of audit lines, and their protection.

use std::path::Path;

use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{AccessLogTarget, AuditConfig, SyslogConfig, WhenStuck};

const EXAMPLES: &str =
    "write \"unix:/dev/log\", or \"udp:\" with an IP address and a port, such as \"udp:192.0.2.9:514\"";

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
    let syslog = syslog_node.and_then(|node| syslog(&node, around.base));
    let when_stuck = when_stuck_node.and_then(|node| node.choice(&WHEN_STUCK)).unwrap_or_default();
    Some(AuditConfig { file, chain, syslog, when_stuck })
}

fn syslog(node: &TomlNode<'_, '_>, base: &Path) -> Option<SyslogConfig> {
    let text = node.word()?;
    match text.split_once(':') {
        Some(("unix", path)) if Path::new(path).file_name().is_some() => Some(SyslogConfig::Unix(base.join(path))),
        Some(("udp", address)) => match address.parse() {
            Ok(address) => Some(SyslogConfig::Udp(address)),
            Err(_) => node.refuse("has no IP address with a port behind udp:", EXAMPLES),
        },
        _ => node.refuse("not the address of a syslog daemon", EXAMPLES),
    }
}
