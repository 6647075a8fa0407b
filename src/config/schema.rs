//! The JSON Schema of `proxy.toml` (draft 7, which editors know), made of the tables of keys.

use serde_json::{Map, Value, json};

use super::keys::{self, KeyRow, KeyTable, plain};

/// The keys of tables that are written in braces, each with its type.
const SHAPES: [(&str, &[(&str, &str)]); 16] = [
    (
        "tls",
        &[
            ("cert", "file"),
            ("key", "file"),
            ("certificates", "list"),
            ("client_ca", "file"),
            ("client_auth", "text"),
            ("acme", "table"),
        ],
    ),
    (
        "tls.acme",
        &[("email", "text"), ("names", "list"), ("on_demand", "`true` or table"), ("directory", "URL"), ("ca", "file")],
    ),
    ("tls.acme.on_demand", &[("quota", "rate")]),
    ("tls.certificates", &[("cert", "file"), ("key", "file"), ("client_ca", "file"), ("client_auth", "text")]),
    (
        "redirect_http",
        &[("listen", "address"), ("port", "number"), ("acme_webroot", "folder"), ("acme_pbx", "URL or table")],
    ),
    ("pbx.admin", &[("user", "text"), ("password", "secret")]),
    ("pbx.shield", &[("from", "list"), ("admin_paths", "list"), ("open_paths", "list"), ("sessions", "text")]),
    ("pbx.limits", &[("account", "rate"), ("admin", "rate"), ("pbx_logins", "rate")]),
    (
        "voximplant.management",
        &[("service_account", "secret"), ("account_id", "number"), ("api_key", "secret"), ("url", "URL")],
    ),
    ("auth.keys", &[("kid", "text"), ("secret", "secret")]),
    ("auth.secret", &[("header", "field"), ("value", "secret")]),
    ("telemetry.headers", &[("header", "field"), ("value", "secret")]),
    ("allow.table", &[("file", "file"), ("key", "template")]),
    ("allow.pbx", &[("level", "text"), ("domain", "template"), ("account", "template")]),
    ("audit.syslog", &[("to", "text"), ("ca", "file"), ("server_name", "name")]),
    ("secret", &[("file", "file"), ("env", "text"), ("credential", "text")]),
];

/// Returns the schema.
#[must_use]
pub fn schema() -> Value {
    let tables = keys::tables();
    let (inner, outer): (Vec<_>, Vec<_>) = tables.iter().partition(|table| table.name.contains('.'));
    let mut root = Map::new();
    for table in outer.into_iter().filter(|table| !table.name.is_empty()) {
        root.insert(table.name.to_owned(), of_table(table));
    }
    for table in inner {
        let place = table
            .name
            .split_once('.')
            .and_then(|(outer, name)| Some((root.get_mut(outer)?.get_mut("properties")?.as_object_mut()?, name)));
        if let Some((properties, name)) = place {
            properties.insert(name.to_owned(), of_table(table));
        }
    }
    let top = tables.iter().find(|table| table.name.is_empty());
    let mut schema = object(top.map(|top| &*top.keys).unwrap_or_default().iter(), "");
    if let Some(properties) = schema["properties"].as_object_mut() {
        properties.append(&mut root);
    }
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("proxy.toml of callgate");
    schema
}

/// Returns the schema of a table, or of the list of those that are written in double brackets.
fn of_table(table: &KeyTable) -> Value {
    let mut variants: Vec<_> = table.keys.iter().filter_map(|row| row.variant).collect();
    variants.dedup();
    let one = match variants.is_empty() {
        true => object(table.keys.iter(), table.name),
        false => json!({ "anyOf": variants.iter().map(|variant| of_variant(table, variant)).collect::<Vec<_>>() }),
    };
    let list = json!({ "type": "array", "items": one });
    match (table.is_list, table.name) {
        (true, _) => list,
        // Several nodes of the PBX are written in double brackets.
        (false, "pbx") => json!({ "anyOf": [one, list] }),
        (false, _) => one,
    }
}

/// Returns the schema of a table with this `type`.
fn of_variant(table: &KeyTable, variant: &str) -> Value {
    let rows = table.keys.iter().filter(|row| row.variant.is_none_or(|own| own == variant));
    let mut schema = object(rows, table.name);
    schema["properties"]["type"] = json!({ "const": variant });
    schema
}

/// Returns the schema of an object with these keys. `path`: the keys that lead to it.
fn object<'k>(rows: impl Iterator<Item = &'k KeyRow>, path: &str) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for row in rows {
        if row.is_required() {
            required.push(row.name);
        }
        match row.name.split_once('.') {
            None => properties.insert(row.name.to_owned(), of_row(row, path)),
            Some((outer, name)) => {
                let table = properties.entry(outer).or_insert_with(|| json!({}));
                table["type"] = json!("object");
                table["additionalProperties"] = json!(false);
                table["properties"][name] = of_row(row, path);
                None
            }
        };
    }
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn of_row(row: &KeyRow, path: &str) -> Value {
    let path = if path.is_empty() { row.name.to_owned() } else { format!("{path}.{}", row.name) };
    let mut schema = of_kind(row.kind, &path);
    let words = row.words();
    if matches!(row.kind, "word" | "choice") && words.len() > 1 {
        schema["enum"] = json!(words);
    }
    let default = row.default_toml().map_or_else(|| format!(" (default: {})", plain(row.default)), |_| String::new());
    let default = if row.is_required() { String::new() } else { default };
    schema["description"] = json!(format!("{}{default}", row.meaning_text()));
    if let Some(default) = row.default_toml().and_then(written_value) {
        schema["default"] = default;
    }
    schema
}

/// Returns the schema of a type in words. `path`: the keys that lead to the value.
fn of_kind(kind: &str, path: &str) -> Value {
    if let Some((one, other)) = kind.split_once(" or ") {
        return json!({ "anyOf": [of_kind(one, path), of_kind(other, path)] });
    }
    match kind {
        "list" | "list, may be empty" => match shape(path) {
            Some(item) => json!({ "type": "array", "items": item }),
            None => json!({ "type": "array" }),
        },
        "boolean" | "true, false" => json!({ "type": "boolean" }),
        "`true`" => json!({ "const": true }),
        "number" => json!({ "type": "integer" }),
        "secret" => {
            let mut schema = shape("secret").unwrap_or_default();
            schema["minProperties"] = json!(1);
            schema["maxProperties"] = json!(1);
            schema
        }
        "table" => shape(path).unwrap_or_else(|| json!({ "type": "object" })),
        // A date is a value of its own in TOML; editors differ in how they show it to a schema.
        "date" => json!({}),
        _ => json!({ "type": "string" }),
    }
}

/// Returns the keys of a table in braces, each with its type. `path`: the keys that lead to it.
#[must_use]
pub fn inner_keys(path: &str) -> &'static [(&'static str, &'static str)] {
    SHAPES.iter().find(|(known, _)| *known == path).map_or(&[], |(_, keys)| keys)
}

/// Returns the schema of a table in braces.
fn shape(path: &str) -> Option<Value> {
    let keys = Some(inner_keys(path)).filter(|keys| !keys.is_empty())?;
    let property = |(name, kind): &(&str, &str)| ((*name).to_owned(), of_kind(kind, &format!("{path}.{name}")));
    let properties: Map<_, _> = keys.iter().map(property).collect();
    Some(json!({ "type": "object", "properties": properties, "additionalProperties": false }))
}

/// Reads a value as it is written in TOML; nothing if it is none.
#[must_use]
pub fn written_value(written: &str) -> Option<Value> {
    let document: Value = toml::from_str(&format!("value = {written}")).ok()?;
    document.get("value").cloned()
}
