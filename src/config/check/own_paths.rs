//! `aliases` and `socket` of `[pbx]`: paths that callgate answers itself, on every host.

use super::values::{canonical_path, each, is_reserved};
use crate::config::document::TomlNode;
use crate::config::{AppConfig, MethodConfig, MethodKind, PbxConfig};
use crate::model::path::{PBX_PATH, SOCKET_PATH};

/// Pages and interfaces of the PBX, in lower case.
const OF_THE_PBX: [&str; 3] = ["/websocket", "/welcome.htm", "/thirdparty.htm"];
/// The prefix of the PBX's REST interface, in lower case.
const REST: &str = "/rest/";

/// Reads the paths that answer like `/auth/pbx`.
pub(super) fn aliases(node: &TomlNode<'_, '_>) -> Option<Vec<String>> {
    let nodes = node.list()?;
    let paths = each(&nodes, alias)?;
    let repeated = (1..paths.len()).find(|index| paths[..*index].iter().any(|path| is_same(path, &paths[*index])));
    match repeated {
        Some(index) => nodes[index].refuse("the same path twice", "remove one of them: every spelling is reserved"),
        None => Some(paths),
    }
}

fn alias(node: &TomlNode<'_, '_>) -> Option<String> {
    let path = own_path(node)?;
    if is_reserved(&path) {
        return node.refuse("belongs to callgate already", format_args!("remove it: {PBX_PATH} needs no alias"));
    }
    Some(path)
}

/// Reads the path at which a page opens the PBX's WebSocket.
pub(super) fn socket(node: &TomlNode<'_, '_>) -> Option<String> {
    let path = own_path(node)?;
    if path != SOCKET_PATH && is_reserved(&path) {
        return node.refuse("callgate answers otherwise there", format_args!("write \"{SOCKET_PATH}\""));
    }
    Some(path)
}

fn own_path(node: &TomlNode<'_, '_>) -> Option<String> {
    let path = canonical_path(node)?;
    let lower = path.to_ascii_lowercase();
    if path == "/" {
        return node
            .refuse("is the start page of every host", "write the whole path, such as \"/thirdpartylogin.php\"");
    }
    if OF_THE_PBX.contains(&lower.as_str()) || lower.starts_with(REST) {
        return node.refuse("is the PBX's own path", "choose another: the PBX would never receive it");
    }
    if path.contains('*') {
        node.warn("a * stands for itself", "write each path in full");
    }
    Some(path.to_owned())
}

/// Checks that no other key names one of these paths. `node`: that of `[pbx]`.
pub(super) fn check(node: &TomlNode<'_, '_>, pbx: &PbxConfig, app: Option<&AppConfig>, methods: &[MethodConfig]) {
    let uses = uses(pbx, app, methods);
    let used_by = |path: &str| uses.iter().find(|(used, _)| is_same(used, path)).map(|(_, key)| *key);
    let opens_sessions = node.entry("admin").is_some();
    let socket = node.entry("socket").zip(pbx.socket.as_ref());
    // Without a path that was read, the list has been reported.
    let aliases = node.entry("aliases").filter(|_| !pbx.aliases.is_empty());
    let aliases = aliases.and_then(|node| node.list()).unwrap_or_default();
    for (node, path) in aliases.into_iter().zip(&pbx.aliases).chain(socket) {
        if let Some(key) = used_by(path) {
            node.refuse::<()>(
                format_args!("is also named by {key}"),
                "callgate answers it itself: choose another path",
            );
        }
        if !opens_sessions {
            node.refuse::<()>("callgate opens no sessions", "add `admin` to [pbx]");
        }
    }
    if let Some((node, socket)) = node.entry("socket").zip(pbx.socket.as_ref())
        && pbx.aliases.iter().any(|alias| is_same(alias, socket))
    {
        node.refuse::<()>("is also one of `aliases`", "a path is either: choose another for the WebSocket");
    }
}

/// Lists the paths that other keys name.
fn uses<'c>(
    pbx: &'c PbxConfig,
    app: Option<&'c AppConfig>,
    methods: &'c [MethodConfig],
) -> Vec<(&'c str, &'static str)> {
    let whoami = methods.iter().filter_map(|method| match &method.kind {
        MethodKind::App(settings) => Some((settings.path.as_str(), "`whoami`")),
        _ => None,
    });
    let login = app.and_then(|app| app.login.as_deref()).map(|login| (login, "`login` of [app]"));
    let of_app = app.iter().flat_map(|app| &app.upstream.paths).map(|path| (path.as_str(), "`paths` of [app]"));
    let of_pbx = pbx.upstream.paths.iter().map(|path| (path.as_str(), "`paths` of [pbx]"));
    let landings = pbx.landings.iter().map(|page| (page.as_str(), "`landings`"));
    let all =
        whoami.chain(login).chain(of_app).chain(of_pbx).chain(landings).chain([(pbx.landing.as_str(), "`landing`")]);
    all.map(|(address, key)| (address.split(['?', '#']).next().unwrap_or_default(), key)).collect()
}

/// Tells whether two canonical paths are one: rules ignore the case.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}
