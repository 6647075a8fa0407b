//! `[[passthrough]]`: connections that are passed on by name, before TLS ends. No name of them is served here as well.

use std::net::IpAddr;
use std::time::Duration;

use super::auto;
use super::values::{self, distinct, duration_or};
use crate::config::document::{TomlNode, TomlTable};
use crate::config::{
    Certificate, HostPattern, HostPort, Listen, MethodConfig, MethodKind, PassthroughConfig, PassthroughTo, PbxConfig,
    ProxyProtocolVersion, UpstreamConfig, UpstreamUrl,
};
use crate::model::loopback::is_loopback;

const CONNECT: Duration = Duration::from_secs(3);

const VERSIONS: [(&str, Option<ProxyProtocolVersion>); 3] =
    [("off", None), ("v1", Some(ProxyProtocolVersion::V1)), ("v2", Some(ProxyProtocolVersion::V2))];

/// The hosts, certificates and addresses that are served here.
pub(super) struct ServedHere<'c> {
    pub(super) app: Option<&'c UpstreamConfig>,
    pub(super) pbx: Vec<&'c PbxConfig>,
    pub(super) methods: &'c [MethodConfig],
    pub(super) certificates: &'c [Certificate],
    pub(super) listen: &'c [Listen],
}

/// Reads the tables, and checks that none of their names is served here.
pub(super) fn passthrough(nodes: &[TomlNode<'_, '_>], here: &ServedHere<'_>) -> Vec<PassthroughConfig> {
    let mut all: Vec<PassthroughConfig> = Vec::new();
    for node in nodes {
        let Some(one) = node.table(read) else { continue };
        check_names(node, &one, &all, here);
        check_target(node, &one, here);
        warn_unused(node, &one, here);
        all.push(one);
    }
    all
}

fn read(table: &TomlTable<'_, '_>) -> Option<PassthroughConfig> {
    let names = table.require("names").and_then(|node| distinct(&node.list()?, "name", values::host_pattern));
    let to = table.require("to").and_then(|node| target(&node));
    let proxy_protocol = table.get("proxy_protocol").map(|node| node.choice(&VERSIONS));
    let connect = table.section("timeouts", |table| Some(duration_or(table, "connect", CONNECT)));
    Some(PassthroughConfig {
        names: names?,
        to: to?,
        // An invalid word must not count as a missing one.
        proxy_protocol: proxy_protocol.unwrap_or(Some(None))?,
        connect: connect.unwrap_or(CONNECT),
    })
}

/// Reads `host:port` or `unix:/path`.
fn target(node: &TomlNode<'_, '_>) -> Option<PassthroughTo> {
    const HINT: &str = "write an address and a port, such as \"192.0.2.10:443\", or \"unix:/run/pbx.sock\"";
    let text = node.string()?;
    if let Some(path) = text.strip_prefix("unix:") {
        let UpstreamUrl::Unix(path) = values::socket(node, path)? else { return None };
        return Some(PassthroughTo::Unix(path));
    }
    let rest = values::scheme(text).map_or(text, |(_, rest)| rest);
    match values::host_and_port(rest) {
        Some((host, Some(port))) if rest == text => Some(PassthroughTo::Tcp(HostPort { host, port })),
        Some((_, Some(_))) => node.refuse("has a scheme, although any bytes pass", format_args!("write \"{rest}\"")),
        Some((_, None)) => node.refuse("has no port", format_args!("write \"{rest}:443\"")),
        None => node.refuse("not a host name or IP address with a port", HINT),
    }
}

/// Checks that no connection has two places to go.
fn check_names(
    node: &TomlNode<'_, '_>,
    one: &PassthroughConfig,
    before: &[PassthroughConfig],
    here: &ServedHere<'_>,
) -> Option<()> {
    let names = node.entry("names")?;
    for (name, node) in one.names.iter().zip(names.list()?) {
        if before.iter().any(|other| other.names.contains(name)) {
            node.refuse::<()>("another [[passthrough]] has the same name", "remove one of them");
        }
        if let Some(place) = served_at(name, here) {
            node.refuse::<()>(
                format_args!("is served here: {place} covers it too"),
                "give the phones a name of their own, such as \"phones.example.com\", in the DNS as well",
            );
        }
    }
    Some(())
}

/// Finds the setting by which a host that the pattern covers is served here.
fn served_at(pattern: &HostPattern, here: &ServedHere<'_>) -> Option<String> {
    let app = here.app.map(|app| ("app", app));
    for (table, upstream) in app.into_iter().chain(here.pbx.iter().map(|pbx| ("pbx", &pbx.upstream))) {
        if upstream.hosts.iter().any(|host| host.overlaps(pattern)) {
            return Some(format!("`hosts` of [{table}]"));
        }
    }
    if here.pbx.iter().filter_map(|pbx| auto::login_host(pbx)).any(|host| pattern.matches(host)) {
        return Some("`auto` of [pbx]".to_owned());
    }
    let is_login_host = |method: &&MethodConfig| match &method.kind {
        MethodKind::Oidc(oidc) => oidc.host.as_deref().is_some_and(|host| pattern.matches(host)),
        _ => false,
    };
    here.methods.iter().find(is_login_host).map(|method| format!("`host` of the method {:?}", method.name))
}

/// Checks that connections do not lead back to callgate, which would pass them on again and again.
fn check_target(node: &TomlNode<'_, '_>, one: &PassthroughConfig, here: &ServedHere<'_>) -> Option<()> {
    let is_here = match &one.to {
        PassthroughTo::Unix(path) => here.listen.contains(&Listen::Unix(path.clone())),
        PassthroughTo::Tcp(at) => {
            let is_listened_on =
                |listen: &Listen| listen.tcp().is_some_and(|address| leads_to(at, address.ip(), address.port()));
            here.listen.iter().any(is_listened_on)
        }
    };
    let to = node.entry("to")?;
    if is_here {
        return to.refuse("leads back to callgate: it is an address of `listen`", "write the address of the PBX");
    }
    if let PassthroughTo::Tcp(at) = &one.to
        && (one.covers(at.name()) || is_served(at, here))
    {
        return to.refuse(
            "leads back to callgate: clients reach it under this name",
            "write the address of the PBX in its own network, such as \"192.0.2.10:443\"",
        );
    }
    Some(())
}

/// Tells whether a target is a name that is served here: in `hosts`, or in a certificate at a port of callgate's.
fn is_served(at: &HostPort, here: &ServedHere<'_>) -> bool {
    let is_own_port = at.port == 443 || here.listen.iter().filter_map(Listen::tcp).any(|own| own.port() == at.port);
    let is_certified = || here.certificates.iter().any(|certificate| certificate.names_host(at.name()));
    served_at(&HostPattern::Exact(at.name().to_owned()), here).is_some()
        || is_own_port && !is_loopback(&at.host) && is_certified()
}

/// Tells whether a target is the address of a listener.
fn leads_to(at: &HostPort, listen: IpAddr, port: u16) -> bool {
    let is_same = at.host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical() == listen.to_canonical());
    at.port == port && (is_same || listen.is_unspecified() && is_loopback(&at.host))
}

/// Warns of certificates that no client will see.
fn warn_unused(node: &TomlNode<'_, '_>, one: &PassthroughConfig, here: &ServedHere<'_>) {
    let is_unused = |certificate: &&Certificate| {
        let is_passed_on = |name: &String| one.covers(name.strip_suffix('.').unwrap_or(name));
        !certificate.names.is_empty() && certificate.names.iter().all(is_passed_on)
    };
    if let (Some(certificate), Some(names)) = (here.certificates.iter().find(is_unused), node.entry("names")) {
        names.warn(
            format_args!(
                "the certificate of `tls` for {} is never shown: the target shows its own",
                certificate.name()
            ),
            "remove that certificate",
        );
    }
}
