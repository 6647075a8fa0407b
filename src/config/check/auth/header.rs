//! Method `header`: the trusted proxies, and the fields in which they name the caller.

use http::HeaderName;

use super::Methods;
use super::app::is_ours;
use crate::config::check::values::known_networks;
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{HeaderClaim, HeaderConfig, HeaderSecret, MethodKind};
use crate::model::field::is_like;

/// The claim with the value of `user`.
const USER: &str = "user";
/// The shortest secret of a proxy, in bytes.
const MIN_SECRET: usize = 16;

/// Reads a table of type `header`.
pub(super) fn read(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> Option<HeaderConfig> {
    let from = table.require("from").and_then(|node| {
        node.list()?;
        known_networks(&node, "to be any caller")
    });
    let user = table.require("user").and_then(|node| field(&node));
    let claims = table.get("claims").map_or(Some(Vec::new()), |node| claims(&node));
    let secret = table.get("secret").map_or(Some(None), |node| node.table(|table| secret(table, around)).map(Some));
    let settings = HeaderConfig { from: from?, user: user?, claims: claims?, secret: secret? };
    let is_secret = |told: &&HeaderName| {
        settings.secret.as_ref().is_some_and(|secret| is_like(told.as_str(), secret.field.as_str()))
    };
    // `fields()` includes the field of the secret.
    if settings.fields().filter(is_secret).count() > 1 {
        return table.refuse("one field is both the secret and a claim", "send the secret in a field of its own");
    }
    Some(settings)
}

/// Reports an app method that would forward a client's copy of a field that only a trusted proxy may set.
pub(super) fn check_apart(methods: &Methods<'_, '_>) {
    let shown = methods.methods.iter().filter_map(|method| match &method.kind {
        MethodKind::App(whoami) => Some((&method.name, &whoami.headers)),
        _ => None,
    });
    let told: Vec<_> = methods.methods.iter().filter_map(|method| fields(&method.kind)).flatten().collect();
    for (name, headers) in shown {
        if let Some(field) = headers.iter().find(|shown| told.iter().any(|told| is_like(shown.as_str(), told.as_str())))
            && let Some((_, node)) = methods.named.iter().find(|(known, _)| known == name)
        {
            node.refuse::<()>(
                format_args!("shows the app {field}, which only a trusted proxy may say"),
                "take it out of `headers`: any client can send it",
            );
        }
    }
}

/// Returns the fields that only a trusted proxy may set.
fn fields(kind: &MethodKind) -> Option<impl Iterator<Item = &HeaderName>> {
    let MethodKind::Header(settings) = kind else { return None };
    Some(settings.fields())
}

/// Reads the claims and their fields.
fn claims(node: &TomlNode<'_, '_>) -> Option<Vec<(String, HeaderClaim)>> {
    let Some(entries) = node.value().as_table() else {
        return node.refuse("not a table", "write { email = \"remote-email\" }");
    };
    let claims: Vec<_> = entries.keys().map(|key| claim(node, key.get_ref())).collect();
    claims.into_iter().collect()
}

fn claim(claims: &TomlNode<'_, '_>, name: &str) -> Option<(String, HeaderClaim)> {
    let node = claims.entry(name)?;
    if name == USER {
        return node.refuse("the claim `user` comes from the key `user`", "give this claim another name");
    }
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)) {
        return node.refuse("not the name of a claim", "use letters, digits, _, - and .");
    }
    if node.value().is_str() {
        return Some((name.to_owned(), HeaderClaim { field: field(&node)?, separator: None }));
    }
    let claim = node.table(|table| {
        let field = table.require("header").and_then(|node| field(&node));
        let separator = table.require("separator").and_then(|node| {
            let comma_or_bar = [",", "|", ";", " "].map(|text| (text, text));
            node.choice(&comma_or_bar)?.chars().next()
        });
        Some(HeaderClaim { field: field?, separator: Some(separator?) })
    });
    Some((name.to_owned(), claim?))
}

fn secret(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> Option<HeaderSecret> {
    let field = table.require("header").and_then(|node| field(&node));
    let value = table.require("value").and_then(|node| {
        let value = around.secret(&node)?;
        let text = value.expose();
        if text.len() < MIN_SECRET || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return node.refuse(
                format_args!("shorter than {MIN_SECRET} characters, or with others than letters, digits and signs"),
                "make one: openssl rand -hex 32",
            );
        }
        Some(value)
    });
    Some(HeaderSecret { field: field?, value: value? })
}

/// Reads the name of a field that a proxy may set.
fn field(node: &TomlNode<'_, '_>) -> Option<HeaderName> {
    const SPOKEN: [&str; 4] =
        ["x-forwarded-user", "x-forwarded-email", "x-forwarded-groups", "x-forwarded-preferred-username"];
    const NEVER: [&str; 3] = ["authorization", "cookie", "x-request-id"];
    let Ok(name) = HeaderName::from_bytes(node.string()?.as_bytes()) else {
        return node.refuse("not the name of a header field", "write a name such as \"remote-user\"");
    };
    let is_spoken = SPOKEN.contains(&name.as_str());
    if NEVER.contains(&name.as_str()) || is_ours(name.as_str()) && !is_spoken {
        return node.refuse(
            format_args!("{name} has another meaning"),
            "write the field of the proxy, such as \"remote-user\"",
        );
    }
    Some(name)
}
