//! `[pbx] landings`, `auto` and `logged_in`: the pages at which logins end, and the pages at which they begin.

use toml::de::DeValue;

use super::values::{self, distinct};
use crate::config::document::{TomlNode, TomlTable};
use crate::config::{AppConfig, AutoConfig, Dialect, HostPort, LoginOrigin, PbxConfig, UpstreamConfig, UpstreamUrl};
use crate::model::session_state::{SessionMarker, SessionMarkers};

/// The hint where callgate opens no sessions.
const NO_ADMIN: &str = "add `admin` to [pbx], or remove the key";

/// Reads `landings`. `paths`: those of the PBX, where paths tell the upstreams apart.
pub(super) fn landings(table: &TomlTable<'_, '_>, upstream: Option<&UpstreamConfig>) -> Option<Vec<String>> {
    let Some(node) = table.get("landings") else { return Some(Vec::new()) };
    if table.get("admin").is_none() {
        return node.refuse("callgate opens no sessions that could land there", NO_ADMIN);
    }
    let paths = upstream.map_or(&[][..], |upstream| &upstream.paths);
    distinct(&node.list()?, "page", |node| {
        let path = values::path(node)?;
        if !paths.is_empty() && !paths.iter().any(|prefix| path.starts_with(prefix.as_str())) {
            return node.refuse("is not one of the paths of the PBX", "add it to `paths` of [pbx], or remove it");
        }
        Some(path)
    })
}

/// Reads `auto` with `logged_in`. The outer `None`: there is a problem.
pub(super) fn auto(
    table: &TomlTable<'_, '_>,
    upstream: Option<&UpstreamConfig>,
    dialect: Dialect,
) -> Option<Option<AutoConfig>> {
    let (auto, logged_in) = (table.get("auto"), table.get("logged_in"));
    let auto = auto.filter(|node| !matches!(node.value(), DeValue::Boolean(false)));
    let Some(node) = auto else {
        return match logged_in {
            Some(node) => node.refuse("has no effect without `auto`", "add `auto` to [pbx], or remove the key"),
            None => Some(None),
        };
    };
    if table.get("admin").is_none() {
        return node.refuse("callgate opens no sessions", NO_ADMIN);
    }
    let at = login_origin(&node, upstream);
    let markers = logged_in.map_or_else(|| Some(default_markers(dialect)), |node| markers(&node));
    Some(Some(AutoConfig { at: at?, markers: markers? }))
}

// === auto ===

fn login_origin(node: &TomlNode<'_, '_>, upstream: Option<&UpstreamConfig>) -> Option<LoginOrigin> {
    match node.value() {
        DeValue::Boolean(_) => return Some(LoginOrigin::Own),
        DeValue::String(_) => {}
        _ => {
            let hint = "write the origin where the app's cookie is, such as \"https://portal.example.com\", or true where that is the PBX's own host";
            return node.refuse("must be an origin or true", hint);
        }
    }
    let (at, origin) = https_origin(node)?;
    if upstream.is_some_and(|upstream| upstream.hosts.is_empty()) {
        let hint = "add the names of the PBX to `hosts` of [pbx], or write true where app and PBX share one host";
        return node.refuse("browsers are led back to listed hosts only, and [pbx] lists none", hint);
    }
    Some(LoginOrigin::Other { host: at.host, port: at.port, origin })
}

/// Reads an origin over https, with its spelling.
fn https_origin(node: &TomlNode<'_, '_>) -> Option<(HostPort, String)> {
    let text = node.string()?;
    let rest = values::scheme(text).map_or(text, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let Some(UpstreamUrl::Https(at)) = values::http(true, authority) else {
        return node.refuse("not an origin", "write \"https://portal.example.com\", with the port if it is not 443");
    };
    let origin = format!("https://{}", UpstreamUrl::Https(at.clone()).authority());
    if text == origin {
        return Some((at, origin));
    }
    let message = match values::scheme(text) {
        None | Some((false, _)) => "logins are asked for over https only",
        Some((true, _)) if rest != authority => "an origin ends behind its host and port",
        Some((true, _)) => "not spelled as browsers write it",
    };
    node.refuse(message, format_args!("write \"{origin}\""))
}

/// Returns the host where logins are asked for, if it is another than that of the page.
pub(super) fn login_host(pbx: &PbxConfig) -> Option<&str> {
    match &pbx.auto.as_ref()?.at {
        LoginOrigin::Other { host, .. } => Some(host),
        LoginOrigin::Own => None,
    }
}

/// Checks that callgate itself answers at the origin where logins are asked for.
pub(super) fn check_served<'c>(
    app: Option<&AppConfig>,
    mut all: impl Iterator<Item = &'c PbxConfig>,
    pbx: &PbxConfig,
    node: Option<&TomlNode<'_, '_>>,
) {
    let Some(LoginOrigin::Other { host, .. }) = pbx.auto.as_ref().map(|auto| &auto.at) else { return };
    let is_apps = app.is_some_and(|app| app.upstream.hosts.is_empty() || app.upstream.lists(host));
    if !is_apps
        && !all.any(|pbx| pbx.upstream.lists(host))
        && let Some(node) = node
    {
        let hint = "add it to `hosts` of [app], or write the origin of a host that is served here";
        node.refuse::<()>("callgate does not serve that host, so no login can be asked for there", hint);
    }
}

// === logged_in ===

/// Returns the markers of a dialect. The vendor documents none for the modern one: `type` is the legacy member, and only a
/// session can have a user.
fn default_markers(dialect: Dialect) -> SessionMarkers {
    let levels = ["admin", "domain", "user"].map(str::to_owned).into();
    let level = SessionMarker { member: "type".to_owned(), values: levels };
    match dialect {
        Dialect::Legacy => SessionMarkers::new(vec![level]),
        Dialect::Modern => {
            SessionMarkers::new(vec![level, SessionMarker { member: "user".to_owned(), values: Vec::new() }])
        }
    }
}

fn markers(node: &TomlNode<'_, '_>) -> Option<SessionMarkers> {
    let markers = node.table(|table| {
        let all = table.all();
        let markers: Vec<_> = all.iter().map(|(member, node)| marker(member, node)).collect();
        markers.into_iter().collect::<Option<Vec<_>>>()
    })?;
    if markers.is_empty() {
        return node.refuse("names no member, so every session would be over", MARKER);
    }
    Some(SessionMarkers::new(markers))
}

const MARKER: &str = "write { type = [\"admin\", \"user\"] } for a member with these values, or { user = true } for a member that only a live session has";

fn marker(member: &str, node: &TomlNode<'_, '_>) -> Option<SessionMarker> {
    let values = match node.value() {
        DeValue::Boolean(true) => Vec::new(),
        DeValue::Array(_) => distinct(&node.list()?, "value", |node| node.word().map(str::to_owned))?,
        _ => return node.refuse("must be a list of values or true", MARKER),
    };
    Some(SessionMarker { member: member.to_owned(), values })
}
