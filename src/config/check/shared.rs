//! `[shared]`: the store that several members share.

use std::num::NonZeroU32;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::values::{self, duration_or};
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{
    EngineClientCert, EngineLogin, EngineNode, EngineTopology, HostPort, MarksWhenDown, SharedConfig, UpstreamUrl,
};
use crate::model::key_ring::KeyRing;
use crate::model::loopback::is_loopback;
use crate::model::secret::Secret;

/// The port of Redis and Valkey.
const PORT: u16 = 6379;
/// The port of a sentinel.
const SENTINEL_PORT: u16 = 26379;
/// The databases of an engine, unless it is configured otherwise.
const MOST_DATABASES: u8 = 16;
/// How long a decision waits for the engine.
const DEADLINE: Duration = Duration::from_millis(50);
/// The longest time that a login may wait for the engine.
const LONGEST_DEADLINE: Duration = Duration::from_secs(5);
/// More members than share one engine.
const MOST_MEMBERS: usize = 1_000;
/// The longest prefix of the names in the engine, in characters.
const LONGEST_PREFIX: usize = 64;
const PREFIX: &str = "callgate";

const WHEN_DOWN: [(&str, MarksWhenDown); 2] = [("refuse", MarksWhenDown::Refuse), ("local", MarksWhenDown::Local)];

const URL_HINT: &str =
    "write \"rediss://redis.example.com:6379\", \"redis://127.0.0.1:6379\" or \"unix:/run/redis/redis.sock\"";

/// Reads the table.
pub(super) fn shared(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> Option<SharedConfig> {
    let sentinel = table.get("sentinel").map(|node| sentinel_name(&node));
    let url = table.require("url");
    let is_list = url.as_ref().is_some_and(|node| node.value().is_array());
    let port = if sentinel.is_some() { SENTINEL_PORT } else { PORT };
    let nodes = url.as_ref().and_then(|node| nodes(node, port));
    let topology = match sentinel {
        Some(name) => name.map(|name| EngineTopology::Sentinel { name }),
        None if is_list => Some(EngineTopology::Cluster),
        None => Some(EngineTopology::Single),
    };
    let is_plain_accepted = table.get("insecure_plaintext").and_then(|node| node.boolean()).unwrap_or_default();
    if let (Some((nodes, _)), Some(url)) = (&nodes, &url) {
        check_transport(nodes, is_plain_accepted, url);
    }
    let is_tls = nodes.as_ref().is_some_and(|(nodes, _)| nodes.iter().any(|node| matches!(node, EngineNode::Tls(_))));
    let ca = table.get("ca").map(|node| {
        warn_without_tls(&node, is_tls);
        values_of_pem(&node, around)
    });
    let login = login(table, around);
    let client = client(table, is_tls, around);
    let prefix = table.get("prefix").map_or_else(|| Some(PREFIX.to_owned()), |node| prefix(&node));
    let deadline = deadline(table);
    let members = table.get("members").map_or(Some(NonZeroU32::MIN), |node| members(&node));
    let marks_when_down = table.get("marks_when_down").map(|node| node.choice(&WHEN_DOWN));
    let keys = table.require("keys").and_then(|node| keys(&node, around));
    let (nodes, database) = nodes?;
    Some(SharedConfig {
        nodes,
        topology: topology?,
        database,
        login: login?,
        ca: ca.map_or(Some(None), |ca| ca.map(Some))?,
        client: client?,
        prefix: prefix?,
        deadline: deadline?,
        members: members?,
        marks_when_down: marks_when_down.unwrap_or_else(|| Some(MarksWhenDown::default()))?,
        keys: keys?,
    })
}

// === The nodes ===

/// Reads one URL or a list of them. Returns the number of the database as well.
fn nodes(node: &TomlNode<'_, '_>, port: u16) -> Option<(Vec<EngineNode>, u8)> {
    let is_list = node.value().is_array();
    let items = if is_list { node.list()? } else { Vec::new() };
    let items: Vec<_> = if is_list { items.iter().collect() } else { vec![node] };
    let mut database = 0;
    let mut nodes = Vec::new();
    for item in items {
        let (one, number) = engine_node(item, port)?;
        if nodes.contains(&one) {
            return item.refuse("the same url twice", "remove one of them");
        }
        if is_list && number.is_some() {
            return item.refuse("has the number of a database", "leave it out: a list of nodes has only number 0");
        }
        database = number.unwrap_or_default();
        nodes.push(one);
    }
    let mixed = nodes.iter().any(|one| matches!(one, EngineNode::Tls(_)) != matches!(nodes[0], EngineNode::Tls(_)));
    if mixed {
        return node.refuse("some nodes use TLS and others do not", "write rediss:// for all of them");
    }
    Some((nodes, database))
}

/// Reads the URL of one node. Problems never quote the text, because it may hold a password.
fn engine_node(node: &TomlNode<'_, '_>, port: u16) -> Option<(EngineNode, Option<u8>)> {
    let text = node.string()?;
    if let Some(path) = text.strip_prefix("unix:") {
        let UpstreamUrl::Unix(path) = values::socket(node, path)? else { return None };
        return Some((EngineNode::Unix(path), None));
    }
    let (make, rest): (fn(HostPort) -> EngineNode, _) =
        match (text.strip_prefix("redis://"), text.strip_prefix("rediss://")) {
            (Some(rest), _) => (EngineNode::Plain, rest),
            (None, Some(rest)) => (EngineNode::Tls, rest),
            (None, None) => return node.refuse("starts with neither redis://, rediss:// nor unix:", URL_HINT),
        };
    if rest.contains('@') {
        return node.refuse(
            "a user name or password does not belong here",
            "write user = \"…\" and password = { file = \"…\" } in [shared]",
        );
    }
    let (authority, database) = match rest.split_once('/') {
        None | Some((_, "")) => (rest.trim_end_matches('/'), None),
        Some((authority, number)) => match number.parse() {
            Ok(number) if number < MOST_DATABASES => (authority, Some(number)),
            _ => return node.refuse("not the number of a database", "write a number from 0 to 15 behind the slash"),
        },
    };
    match values::host_and_port(authority) {
        Some((host, own)) => Some((make(HostPort { host, port: own.unwrap_or(port) }), database)),
        None => node.refuse("not a host name or IP address with an optional port", URL_HINT),
    }
}

/// Checks that what members share goes over TLS, or stays on this machine.
fn check_transport(nodes: &[EngineNode], is_plain_accepted: bool, url: &TomlNode<'_, '_>) {
    let is_safe = |node: &EngineNode| match node {
        EngineNode::Plain(at) => is_plain_accepted || is_loopback(&at.host),
        EngineNode::Tls(_) | EngineNode::Unix(_) => true,
    };
    if !nodes.iter().all(is_safe) {
        url.refuse::<()>(
            "freezes, marks and the password would cross the network unencrypted",
            "use rediss://; or accept the risk with insecure_plaintext = true",
        );
    }
}

fn sentinel_name(node: &TomlNode<'_, '_>) -> Option<String> {
    node.word().map(str::to_owned)
}

// === Credentials ===

/// Reads `user` and `password`.
fn login(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> Option<Option<EngineLogin>> {
    let (user_node, password_node) = (table.get("user"), table.get("password"));
    let user = user_node.as_ref().map(|node| node.word().map(str::to_owned));
    match (user, password_node) {
        (None, None) => Some(None),
        (Some(_), None) => user_node
            .and_then(|node| node.refuse("has no password", "add password = { file = \"…\" }, or leave `user` out")),
        (user, Some(node)) => {
            let password = around.secret(&node);
            Some(Some(EngineLogin { user: user.map_or(Some(None), |user| user.map(Some))?, password: password? }))
        }
    }
}

/// Reads `cert` and `key`.
fn client(table: &TomlTable<'_, '_>, is_tls: bool, around: &Surroundings<'_>) -> Option<Option<EngineClientCert>> {
    let (cert, key) = match (table.get("cert"), table.get("key")) {
        (None, None) => return Some(None),
        (Some(cert), Some(key)) => (cert, key),
        (Some(cert), None) => return cert.refuse("has no private key", "add `key`"),
        (None, Some(key)) => return key.refuse("has no certificate", "add `cert`"),
    };
    warn_without_tls(&cert, is_tls);
    let chain = values_of_pem(&cert, around);
    let secret = around.long_secret(&key);
    if secret.as_ref().is_some_and(Secret::is_unseen) {
        return chain.map(|_| None);
    }
    let key = secret.and_then(|secret| private_key(&key, secret));
    Some(Some(EngineClientCert { chain: chain?, key: key? }))
}

fn warn_without_tls(node: &TomlNode<'_, '_>, is_tls: bool) {
    if !is_tls {
        node.warn("has no effect: `url` is not rediss://", "use rediss://, or remove the key");
    }
}

/// Reads a file of certificates in PEM.
fn values_of_pem(node: &TomlNode<'_, '_>, around: &Surroundings<'_>) -> Option<Vec<u8>> {
    let bytes = around.public_file(node)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match all {
        Ok(all) if !all.is_empty() => Some(bytes),
        _ => node.refuse("has no certificate in PEM", "name a file with -----BEGIN CERTIFICATE----- in it"),
    }
}

fn private_key(node: &TomlNode<'_, '_>, secret: Secret) -> Option<Secret> {
    match PrivateKeyDer::from_pem_slice(secret.expose().as_bytes()) {
        Ok(_) => Some(secret),
        Err(_) => node.refuse("has no private key in PEM", "name a file with -----BEGIN PRIVATE KEY----- in it"),
    }
}

// === The rest ===

fn prefix(node: &TomlNode<'_, '_>) -> Option<String> {
    let text = node.word()?;
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
    if is_plain && text.len() <= LONGEST_PREFIX {
        return Some(text.to_owned());
    }
    node.refuse(
        format_args!("has other characters than letters, digits and - _ . :, or more than {LONGEST_PREFIX}"),
        "write a name such as \"callgate\"",
    )
}

fn deadline(table: &TomlTable<'_, '_>) -> Option<Duration> {
    let deadline = duration_or(table, "deadline", DEADLINE);
    if deadline <= LONGEST_DEADLINE {
        return Some(deadline);
    }
    table.get("deadline")?.refuse("each login would wait so long", "write \"5s\" or less, better \"50ms\"")
}

fn members(node: &TomlNode<'_, '_>) -> Option<NonZeroU32> {
    let number = node.integer(1..=MOST_MEMBERS)?;
    u32::try_from(number).ok().and_then(NonZeroU32::new)
}

fn keys(node: &TomlNode<'_, '_>, around: &Surroundings<'_>) -> Option<KeyRing> {
    let text = around.secret_file(node)?;
    match KeyRing::parse(text.expose()) {
        Ok(ring) => Some(ring),
        Err(error) => node.refuse(error, "make the file with: callgate keys rotate"),
    }
}
