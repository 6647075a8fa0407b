//! `[app]` and `[pbx]`: the upstreams, and the settings of requests to the PBX.

use std::time::Duration;

use rustls::pki_types::ServerName;

use super::auth::Methods;
use super::values::{distinct, duration_or};
use super::{auto, node_keys, origins, own_paths, shield, tls, values};
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{
    AdminCredentials, AppConfig, Dialect, Handoff, HostPattern, HostPort, PbxConfig, Pin, Trust, UpstreamConfig,
    UpstreamPolicy, UpstreamTimeouts, UpstreamUrl,
};
use crate::model::account::Language;
use crate::model::loopback::is_loopback;

/// Reads `[app]`; its `whoami` goes to the methods.
pub(super) fn app<'d, 'i>(
    table: &TomlTable<'d, 'i>,
    methods: &mut Methods<'d, 'i>,
    around: &Surroundings<'_>,
) -> Option<AppConfig> {
    if let Some(node) = table.get("whoami") {
        methods.add_app(node);
    }
    let upstream = upstream(table, around);
    let login = table.get("login").and_then(|node| login(&node));
    Some(AppConfig { upstream: upstream?, login })
}

/// Reads the login page for browsers: an absolute URL, or a path of the app.
fn login(node: &TomlNode<'_, '_>) -> Option<String> {
    let text = node.word()?;
    let absolute = values::scheme(text)
        .and_then(|(_, rest)| values::host_and_port(rest.split(['/', '?', '#']).next().unwrap_or_default()));
    // A browser takes //host and /\host for another host.
    let path = text.starts_with('/') && !text.starts_with("//");
    let spelled = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if spelled && (path || absolute.is_some()) {
        return Some(text.to_owned());
    }
    node.refuse("neither a path nor an absolute URL", "write \"/login\" or \"https://login.example.com/\"")
}

/// Reads `[pbx]`, or one of `[[pbx]]`.
pub(super) fn pbx(table: &TomlTable<'_, '_>, is_alone: bool, around: &Surroundings<'_>) -> Option<PbxConfig> {
    let upstream = upstream(table, around);
    let hosts = upstream.as_ref().map_or(&[][..], |upstream| &upstream.hosts);
    let name = node_keys::name(table, hosts, is_alone);
    let domains = node_keys::domains(table, is_alone);
    let limits = node_keys::limits(table);
    check_policy_of_pbx(table, upstream.as_ref());
    let handoff =
        table.get("handoff").and_then(|node| node.choice(&[("link", Handoff::Link), ("cookie", Handoff::Cookie)]));
    let handoff = handoff.unwrap_or(Handoff::Link);
    let dialect = table.get("dialect").and_then(|node| node.choice(&DIALECTS));
    let dialect = dialect.unwrap_or_else(|| default_dialect(handoff));
    let landing = table.get("landing").and_then(|node| values::path(&node));
    let landing = landing.unwrap_or_else(|| default_landing(handoff).to_owned());
    let landings = auto::landings(table, upstream.as_ref());
    let auto = auto::auto(table, upstream.as_ref(), dialect);
    let languages = table.get("languages").and_then(|node| languages(&node));
    let languages = languages.unwrap_or_else(default_languages);
    let timeout = duration_or(table, "timeout", Duration::from_secs(3));
    let admin = admin(table, upstream.as_ref(), around);
    let opens_sessions = table.get("admin").is_some();
    let shield = table.get("shield").and_then(|node| node.table(|table| shield::shield(table, opens_sessions)));
    let origins = table.get("origins").and_then(|node| origins::origins(&node));
    let aliases = table.get("aliases").and_then(|node| own_paths::aliases(&node)).unwrap_or_default();
    let socket = table.get("socket").and_then(|node| own_paths::socket(&node));
    Some(PbxConfig {
        name: name?,
        domains: domains?,
        limits: limits?,
        upstream: upstream?,
        admin,
        handoff,
        dialect,
        landing,
        landings: landings?,
        auto: auto?,
        languages,
        timeout,
        shield,
        origins,
        aliases,
        socket,
    })
}

/// A session exists at the PBX that opened it: at another one it is unknown.
fn check_policy_of_pbx(table: &TomlTable<'_, '_>, upstream: Option<&UpstreamConfig>) {
    if let Some(node) = table.get("policy")
        && upstream.is_some_and(|upstream| upstream.policy != UpstreamPolicy::First)
    {
        let hint = "write \"first\", or remove the key: the next `url` is used while the one before is away";
        node.refuse::<()>("would send requests of a session to a PBX that does not know it", hint);
    }
}

const DIALECTS: [(&str, Dialect); 2] = [("legacy", Dialect::Legacy), ("modern", Dialect::Modern)];

/// Versions of the PBX that hand over by cookie have the modern dialect.
const fn default_dialect(handoff: Handoff) -> Dialect {
    match handoff {
        Handoff::Link => Dialect::Legacy,
        Handoff::Cookie => Dialect::Modern,
    }
}

const fn default_landing(handoff: Handoff) -> &'static str {
    match handoff {
        Handoff::Link => "/welcome.htm",
        Handoff::Cookie => "/thirdparty.htm",
    }
}

fn default_languages() -> Vec<Language> {
    ["en", "de", "fr", "sp"].map(|code| code.parse().expect("two lower-case letters")).into()
}

/// Reads a list of language codes.
pub(super) fn languages(node: &TomlNode<'_, '_>) -> Option<Vec<Language>> {
    distinct(&node.list()?, "language", language)
}

fn language(node: &TomlNode<'_, '_>) -> Option<Language> {
    let code = node.string()?.parse().ok();
    code.or_else(|| {
        node.refuse("not a language of the PBX", "write its code: 2 to 8 lower-case letters, such as \"en\"")
    })
}

// === The administrator ===

fn admin(
    table: &TomlTable<'_, '_>,
    upstream: Option<&UpstreamConfig>,
    around: &Surroundings<'_>,
) -> Option<AdminCredentials> {
    let in_clear = table.get("insecure_admin_over_http").and_then(|node| node.boolean()).unwrap_or(false);
    let node = table.get("admin")?;
    if let Some(upstream) = upstream {
        check_password_transport(&node, upstream, in_clear);
        check_hosts(&node, &upstream.hosts);
    }
    node.table(|table| {
        let user = table.require("user").and_then(|node| admin_user(&node));
        let password = table.require("password").and_then(|node| around.secret(&node));
        Some(AdminCredentials { user: user?, password: password? })
    })
}

/// The name is sent before a colon (RFC 7617 §2).
fn admin_user(node: &TomlNode<'_, '_>) -> Option<String> {
    match node.word()? {
        name if name.contains(':') => {
            node.refuse("has a colon in it", "the PBX cannot tell where such a name ends: use another one")
        }
        name => Some(name.to_owned()),
    }
}

/// Checks that the password goes over TLS, or to this machine.
fn check_password_transport(admin: &TomlNode<'_, '_>, upstream: &UpstreamConfig, in_clear: bool) {
    let is_safe = |url: &UpstreamUrl| in_clear || is_local(url) || url.is_tls() && !upstream.trust.skip_verify;
    let Some(url) = upstream.urls.iter().find(|url| !is_safe(url)) else { return };
    let hint = "use https with a certificate that is verified (`ca` or `pin`), a loopback address or unix:; or accept the risk with insecure_admin_over_http = true";
    if url.is_tls() {
        admin.refuse::<()>("the password could be sent to any server: insecure_skip_verify is set", hint);
    } else {
        admin.refuse::<()>("the password would be sent unencrypted over http://", hint);
    }
}

fn is_local(url: &UpstreamUrl) -> bool {
    match url {
        UpstreamUrl::Unix(_) => true,
        UpstreamUrl::Http(HostPort { host, .. }) | UpstreamUrl::Https(HostPort { host, .. }) => is_loopback(host),
    }
}

fn check_hosts(admin: &TomlNode<'_, '_>, hosts: &[HostPattern]) {
    let exact = hosts.iter().any(|host| matches!(host, HostPattern::Exact(_)));
    if !exact && !hosts.is_empty() {
        let hint = "add a name without * to pbx.hosts, such as \"pbx.example.com\"";
        admin.refuse::<()>("browsers cannot be sent to a PBX host that only a wildcard names", hint);
    }
}

// === What both have ===

fn upstream(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> Option<UpstreamConfig> {
    let urls = table.require("url").and_then(|node| distinct(&node.one_or_many()?, "url", values::url));
    let policy = table.get("policy").and_then(|node| policy(&node, urls.as_deref()));
    let hosts = table
        .get("hosts")
        .map_or_else(|| Some(Vec::new()), |node| distinct(&node.list()?, "host", values::host_pattern));
    let paths =
        table.get("paths").map_or_else(|| Some(Vec::new()), |node| distinct(&node.list()?, "path", values::path));
    let trust = trust(table, urls.as_deref(), around);
    let timeouts = table.section("timeouts", |table| Some(timeouts(table)));
    let max_connections = table.get("max_connections").and_then(|node| node.integer(1..=MOST_CONNECTIONS));
    Some(UpstreamConfig {
        urls: urls?,
        policy: policy.unwrap_or_default(),
        hosts: hosts?,
        paths: paths?,
        trust,
        timeouts: timeouts.unwrap_or(DEFAULT_TIMEOUTS),
        max_connections: max_connections.unwrap_or(DEFAULT_CONNECTIONS),
    })
}

fn policy(node: &TomlNode<'_, '_>, urls: Option<&[UpstreamUrl]>) -> Option<UpstreamPolicy> {
    let policy = node.choice(&UpstreamPolicy::ALL.map(|policy| (policy.as_str(), policy)))?;
    if policy != UpstreamPolicy::First && urls.is_some_and(|urls| urls.len() == 1) {
        node.warn("chooses nothing: there is one `url`", "add another `url`; leave the key if others come back soon");
    }
    Some(policy)
}

/// The default number of connections to an upstream.
const DEFAULT_CONNECTIONS: usize = 10_000;
/// More connections than one system supports.
const MOST_CONNECTIONS: usize = 1_000_000;

const DEFAULT_TIMEOUTS: UpstreamTimeouts = UpstreamTimeouts {
    connect: Duration::from_secs(3),
    first_byte: Duration::from_secs(60),
    keep_alive: Duration::from_secs(4),
};

fn timeouts(table: &TomlTable<'_, '_>) -> UpstreamTimeouts {
    UpstreamTimeouts {
        connect: duration_or(table, "connect", DEFAULT_TIMEOUTS.connect),
        first_byte: duration_or(table, "first_byte", DEFAULT_TIMEOUTS.first_byte),
        keep_alive: duration_or(table, "keep_alive", DEFAULT_TIMEOUTS.keep_alive),
    }
}

fn trust(table: &TomlTable<'_, '_>, urls: Option<&[UpstreamUrl]>, around: &Surroundings<'_>) -> Trust {
    let [ca, server_name, pin, skip] = ["ca", "server_name", "pin", "insecure_skip_verify"].map(|key| table.get(key));
    let skip_verify = skip.as_ref().and_then(TomlNode::boolean).unwrap_or(false);
    if let Some(urls) = urls {
        check_use(urls, [&ca, &server_name, &skip], pin.as_ref());
    }
    if skip_verify && let Some(pin) = &pin {
        let hint = "remove insecure_skip_verify: a pin without `ca` looks at the key alone";
        pin.refuse::<()>("contradicts insecure_skip_verify, which takes any key", hint);
    }
    if skip_verify && let Some(ca) = &ca {
        ca.warn("has no effect: insecure_skip_verify takes any certificate", "remove one of them");
    }
    Trust {
        ca: ca.and_then(|node| tls::authorities(&node, around)),
        server_name: server_name.and_then(|node| name_of_server(&node)),
        pins: pin.and_then(|node| distinct(&node.one_or_many()?, "pin", read_pin)).unwrap_or_default(),
        skip_verify,
    }
}

/// Checks that each setting for certificates concerns a `url`. A pin must concern each of them, because a `url`
/// without a key would not be protected.
fn check_use(urls: &[UpstreamUrl], of_tls: [&Option<TomlNode<'_, '_>>; 3], pin: Option<&TomlNode<'_, '_>>) {
    if !urls.iter().any(UpstreamUrl::is_tls) {
        for node in of_tls.into_iter().flatten() {
            node.warn("has no effect: `url` is not https", "use https, or remove the key");
        }
    }
    if let Some(pin) = pin
        && !urls.iter().all(UpstreamUrl::is_tls)
    {
        pin.refuse::<()>("a pin needs a key to compare with: not every `url` is https", "use https, or remove the pin");
    }
}

fn read_pin(node: &TomlNode<'_, '_>) -> Option<Pin> {
    let pin = node.string()?.parse().ok();
    let hint = "write \"sha256/…=\", the base64 of SHA-256 of the public key: `callgate check --online` prints it";
    pin.or_else(|| node.refuse("not a pin", hint))
}

pub(super) fn name_of_server(node: &TomlNode<'_, '_>) -> Option<ServerName<'static>> {
    let text = node.string()?;
    let name = ServerName::try_from(text.strip_suffix('.').unwrap_or(text).to_owned()).ok();
    name.or_else(|| node.refuse("not a server name", "write a host name or an IP address, without port"))
}

/// Checks that every request belongs to one of the two upstreams.
pub(super) fn check_parted(app: &AppConfig, pbx: &PbxConfig, node: &TomlNode<'_, '_>) {
    let (app, pbx) = (&app.upstream, &pbx.upstream);
    if pbx.hosts.is_empty() && pbx.paths.is_empty() {
        node.refuse::<()>(
            "takes every request, and so does the app",
            "add hosts = [\"pbx.example.com\"] (or paths) to [pbx]",
        );
        return;
    }
    let hosts = (pbx.hosts.is_empty() && app.hosts.is_empty()) || pbx.hosts.iter().any(|host| app.hosts.contains(host));
    let paths = (pbx.paths.is_empty() && app.paths.is_empty()) || pbx.paths.iter().any(|path| app.paths.contains(path));
    if hosts && paths {
        node.refuse::<()>(
            "the same hosts and paths as in [app]",
            "give each request one place: other `hosts`, or `paths` that differ",
        );
    }
}
