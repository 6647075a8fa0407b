//! `tls.acme`: the certificates that callgate gets from an ACME server.

use http::Uri;

use super::authorities;
use crate::config::check::passthrough::ServedHere;
use crate::config::check::values::distinct;
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{AcmeConfig, Certificate, HostPattern, Listen, OnDemandConfig, PbxConfig, PbxNodes};
use crate::model::account::host_name;
use crate::model::loopback::is_loopback;
use crate::model::rate::Rate;

/// The directory of Let's Encrypt.
pub(in crate::config) const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// How many orders there may be on demand.
const DEFAULT_QUOTA: &str = "10/h";

/// Reads the table.
pub(super) fn read(table: &TomlTable<'_, '_>, around: &Surroundings<'_>, has_http: bool) -> Option<AcmeConfig> {
    let email = table.get("email").map_or(Some(None), |node| email(&node).map(Some));
    let on_demand = table.get("on_demand");
    let names = match (table.get("names"), &on_demand) {
        (None, Some(_)) => Some(Vec::new()),
        _ => table.require("names").and_then(|node| distinct(&node.list()?, "name", name)),
    };
    let quota = on_demand.as_ref().map_or(Some(None), |node| quota(node).map(Some));
    let directory = table.get("directory").map_or_else(|| Some(LETS_ENCRYPT.to_owned()), |node| directory(&node));
    let ca = table.get("ca").map_or(Some(None), |node| authorities(&node, around).map(Some));
    let (names, quota) = (names?, quota?);
    let (exact, below): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| matches!(name, HostPattern::Exact(_)));
    Some(AcmeConfig {
        email: email?,
        names: exact.iter().filter_map(HostPattern::exact).map(str::to_owned).collect(),
        // Without a wildcard in `names`, the hosts of the PBX are added once they are known.
        on_demand: (quota.is_some() || !below.is_empty())
            .then(|| OnDemandConfig { hosts: below, quota: quota.unwrap_or_else(default_quota) }),
        directory: directory?,
        ca: ca?,
        client_auth: None,
        outbound_proxy: around.outbound_proxy(),
        has_http,
    })
}

fn email(node: &TomlNode<'_, '_>) -> Option<String> {
    let text = node.word()?;
    let is_address = text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && host_name(host).is_some());
    if is_address && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some(text.to_owned());
    }
    node.refuse("not a mail address", "write \"admin@example.com\", or leave the key out")
}

/// Reads a name, or `*.` and a name: the names below it get their certificates on demand.
fn name(node: &TomlNode<'_, '_>) -> Option<HostPattern> {
    let text = node.word()?;
    let (text, is_below) = text.strip_prefix("*.").map_or((text, false), |rest| (rest, true));
    match host_name(text) {
        Some(name) if name.contains('.') && name.parse::<std::net::IpAddr>().is_err() => Some(match is_below {
            true => HostPattern::Below(format!(".{name}")),
            false => HostPattern::Exact(name),
        }),
        Some(_) | None => node.refuse("not a host name with a domain", "write a name such as \"portal.example.com\""),
    }
}

/// Reads `true`, or `{ quota }`.
fn quota(node: &TomlNode<'_, '_>) -> Option<Rate> {
    if node.value().is_table() {
        return node.table(|table| table.get("quota").map_or_else(|| Some(default_quota()), |node| node.parsed()));
    }
    match node.boolean()? {
        true => Some(default_quota()),
        false => node.refuse("is off without the key", "remove it, or write true or { quota = \"10/h\" }"),
    }
}

fn default_quota() -> Rate {
    DEFAULT_QUOTA.parse().expect("a rate")
}

fn directory(node: &TomlNode<'_, '_>) -> Option<String> {
    let text = node.word()?;
    let uri: Option<Uri> = text.parse().ok();
    let is_safe = uri.is_some_and(|uri| match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => !text.contains('@'),
        (Some("http"), Some(host)) => is_loopback(host),
        _ => false,
    });
    if is_safe {
        return Some(text.to_owned());
    }
    node.refuse("not an https address", "write the URL of the ACME server's directory; http only for this machine")
}

/// Leaves out the names that the certificate of a file covers.
pub(super) fn leave_out_covered(node: &TomlNode<'_, '_>, acme: &mut AcmeConfig, files: &[Certificate]) {
    for name in acme.names.extract_if(.., |name| files.iter().any(|one| one.covers(name))) {
        let message = format_args!("a certificate of a file covers {name}: callgate gets no other");
        node.warn(message, "remove the name here, or the file");
    }
}

/// Adds the hosts of the PBX to the names that are ordered on demand, if no wildcard of `names` narrows them.
pub(in crate::config) fn with_hosts_of_pbx(mut acme: AcmeConfig, nodes: &PbxNodes) -> AcmeConfig {
    if let Some(on_demand) = acme.on_demand.as_mut().filter(|on_demand| on_demand.hosts.is_empty()) {
        on_demand.hosts = wildcards(nodes.iter()).cloned().collect();
    }
    acme
}

fn wildcards<'p>(nodes: impl Iterator<Item = &'p PbxConfig>) -> impl Iterator<Item = &'p HostPattern> {
    let of_tenants = nodes.filter(|pbx| pbx.admin.is_some()).flat_map(|pbx| &pbx.upstream.hosts);
    of_tenants.filter(|host| host.exact().is_none())
}

/// Checks that the PBX can tell which names are tenants'.
fn check_on_demand(node: &TomlNode<'_, '_>, on_demand: &OnDemandConfig, nodes: &[&PbxConfig]) {
    let known: Vec<_> = wildcards(nodes.iter().copied()).collect();
    if known.is_empty() {
        let hint = "add admin and hosts = [\"*.pbx.example.com\"] to [pbx]: callgate asks the PBX for its tenants";
        node.refuse::<()>("no PBX with `admin` has a wildcard in `hosts`, so no name can be a tenant's", hint);
        return;
    }
    let is_known = |host: &HostPattern| known.iter().any(|pbx| pbx.covers(host));
    if let Some(host) = on_demand.hosts.iter().find(|host| !is_known(host)) {
        let message =
            format_args!("{host} is not in `hosts` of a PBX with `admin`, which would tell which names are tenants'");
        node.refuse::<()>(
            message,
            "add it there; a wildcard certificate itself needs DNS-01, which callgate does not do: get it with another ACME client",
        );
    }
}

/// Checks what the certificates need elsewhere in the configuration.
pub(super) fn check(node: &TomlNode<'_, '_>, acme: &AcmeConfig, here: &ServedHere<'_>, root: &TomlTable<'_, '_>) {
    let listen = here.listen;
    if let Some(on_demand) = &acme.on_demand {
        check_on_demand(node, on_demand, &here.pbx);
    }
    if root.get("state").is_none() {
        node.refuse::<()>(
            "the account and the certificates need a [state] file, or each start would order them again",
            "add [state] with file = \"/var/lib/callgate/state\"",
        );
    }
    let is_https = |at: &Listen| at.tcp().is_none_or(|at| at.port() == 443);
    if !acme.has_http && !listen.is_empty() && !listen.iter().any(is_https) {
        node.warn(
            "the ACME server cannot check the names: it connects to port 80 or 443, and callgate listens at neither",
            "add redirect_http = \"0.0.0.0:80\", or let port 443 lead to `listen`",
        );
    }
}
