//! The configuration as it takes effect: what the file sets, and the defaults of all keys that it does not set. Secrets are the
//! files, variables and credentials that the file names.

use std::fmt::{self, Display, Write};

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::keys::{self, KeyRow, KeyTable};
use super::schema::written_value;
use super::types::{Config, Dialect};

/// The tables that are in effect, in the order of docs/configure.md.
#[derive(Debug)]
pub struct EffectiveConfig(Vec<Section>);

impl EffectiveConfig {
    /// Adds the defaults to what a file sets.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let tables = keys::tables();
        let outer = tables.iter().filter(|table| !table.name.contains('.'));
        Self(outer.flat_map(|table| of_table(table, &config.written, config)).collect())
    }

    /// Hides the digests of API keys: on a page they would help to guess a weak key.
    #[must_use]
    pub fn without_digests(mut self) -> Self {
        let tables = keys::tables();
        for Section { name, set, .. } in &mut self.0 {
            let rows = || tables.iter().filter(|table| table.name == *name).flat_map(|table| &table.keys);
            let is_digest = |key: &str| rows().any(|row| row.name == key && row.is_digest());
            set.iter_mut().filter(|(key, _)| is_digest(key)).for_each(|(_, digest)| *digest = json!("***"));
        }
        self
    }

    /// Returns it as JSON, with the defaults among the other keys. What holds by default in words is not in it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        as_json(&self.0)
    }
}

impl Serialize for EffectiveConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

/// Reads the text of a configuration as it is written, without passwords in URLs.
pub(super) fn written(text: &str) -> Value {
    masked(toml::from_str(text.trim_start_matches('\u{feff}')).unwrap_or_default())
}

/// A table of the configuration, with its defaults.
#[derive(Debug)]
struct Section {
    name: &'static str,
    is_list: bool,
    /// Whether the file has it. Otherwise all of it are defaults, and an empty table could be a mistake.
    is_written: bool,
    /// What the file sets.
    set: Vec<(String, Value)>,
    /// The keys that it does not set.
    defaults: Vec<(&'static str, DefaultValue)>,
}

/// The default of a key.
#[derive(Debug)]
enum DefaultValue {
    Value(Value),
    /// What holds without the key.
    Words(&'static str),
}

fn of_table(table: &KeyTable, written: &Value, config: &Config) -> Vec<Section> {
    let found = if table.name.is_empty() { Some(written) } else { written.get(table.name) };
    match found {
        Some(Value::Array(items)) => {
            items.iter().enumerate().map(|(index, item)| section(table, true, item, (config, index))).collect()
        }
        Some(one) => vec![section(table, false, one, (config, 0))],
        // A table without required keys is in effect all the same.
        None if !table.is_list && !table.has_required() => vec![section(table, false, &json!({}), (config, 0))],
        None => Vec::new(),
    }
}

fn section(table: &KeyTable, is_list: bool, item: &Value, (config, index): (&Config, usize)) -> Section {
    let is_own = |row: &&KeyRow| row.variant.is_none_or(|variant| item["type"] == variant);
    let rows: Vec<_> = table.keys.iter().filter(is_own).collect();
    let is_known = |key: &str| !table.name.is_empty() || rows.iter().any(|row| row.name == key);
    let set = item.as_object().into_iter().flatten().filter(|(key, _)| is_known(key));
    let set = set.map(|(key, value)| (key.clone(), masked(with_inner_defaults(key, value, &rows))));
    let missing =
        rows.iter().filter(|row| !row.name.contains('.') && item.get(row.name).is_none() && !row.is_required());
    let defaults = missing.map(|row| (row.name, default(row, &rows, table.name, (config, index))));
    let is_written = table.name.is_empty() || !item.as_object().is_none_or(Map::is_empty);
    Section { name: table.name, is_list, is_written, set: set.collect(), defaults: defaults.collect() }
}

/// Adds the defaults of keys such as `timeouts.idle` to a table in braces.
fn with_inner_defaults(key: &str, value: &Value, rows: &[&KeyRow]) -> Value {
    let Value::Object(set) = value else { return value.clone() };
    let mut all = inner_defaults(key, rows);
    all.extend(set.clone());
    Value::Object(all)
}

fn inner_defaults(key: &str, rows: &[&KeyRow]) -> Map<String, Value> {
    let inner = rows.iter().filter_map(|row| {
        let (outer, name) = row.name.split_once('.')?;
        Some((outer == key).then_some(name.to_owned()).zip(row.default_toml().and_then(written_value)))?
    });
    inner.collect()
}

/// Returns the default of a key. Some depend on other keys, so the configuration itself is asked.
fn default(row: &KeyRow, rows: &[&KeyRow], table: &str, (config, index): (&Config, usize)) -> DefaultValue {
    let node = || config.pbx.iter().nth(index);
    let effective = match (table, row.name) {
        ("pbx", "dialect") => node().map(|pbx| match pbx.dialect {
            Dialect::Legacy => json!("legacy"),
            Dialect::Modern => json!("modern"),
        }),
        ("pbx", "landing") => node().map(|pbx| json!(pbx.landing)),
        ("server", "max_connections_per_client") => Some(json!(config.server.max_connections_per_client)),
        _ => None,
    };
    let inner = inner_defaults(row.name, rows);
    let inner = (!inner.is_empty()).then_some(Value::Object(inner));
    match effective.or(inner).or_else(|| row.default_toml().and_then(written_value)) {
        Some(value) => DefaultValue::Value(value),
        None => DefaultValue::Words(row.default),
    }
}

/// Hides a password in a URL. Other secrets are in files, variables and credentials, which are not read.
fn masked(value: Value) -> Value {
    match value {
        Value::String(text) => {
            match text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?))) {
                Some((scheme, (login, host))) if !login.contains('/') => json!(format!("{scheme}://***@{host}")),
                _ => Value::String(text),
            }
        }
        Value::Array(items) => items.into_iter().map(masked).collect(),
        // A date of TOML.
        Value::Object(fields) if fields.contains_key(DATE) => Value::Object(fields),
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, masked(value))).collect(),
        other => other,
    }
}

/// The key under which toml's reader keeps a date.
const DATE: &str = "$__toml_private_datetime";

// === JSON ===

fn as_json(sections: &[Section]) -> Value {
    let mut all = Map::new();
    for section in sections {
        let defaults = section.defaults.iter().filter_map(|(key, default)| match default {
            DefaultValue::Value(value) => Some(((*key).to_owned(), value.clone())),
            DefaultValue::Words(_) => None,
        });
        let fields: Map<_, _> =
            section.set.iter().cloned().chain(defaults).map(|(key, value)| (key, dated(value))).collect();
        match (section.name, section.is_list) {
            ("", _) => all.extend(fields),
            (_, false) if fields.is_empty() => {}
            (name, false) => drop(all.insert(name.to_owned(), Value::Object(fields))),
            (name, true) => {
                if let Some(list) = all.entry(name).or_insert_with(|| json!([])).as_array_mut() {
                    list.push(Value::Object(fields));
                }
            }
        }
    }
    Value::Object(all)
}

/// Writes dates as texts.
fn dated(value: Value) -> Value {
    match value {
        Value::Object(mut fields) => match fields.remove(DATE) {
            Some(date) => date,
            None => Value::Object(fields.into_iter().map(|(key, value)| (key, dated(value))).collect()),
        },
        Value::Array(items) => items.into_iter().map(dated).collect(),
        other => other,
    }
}

// === TOML ===

impl Display for EffectiveConfig {
    /// Writes TOML. A line that begins with # is a default, as in proxy.toml.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in &self.0 {
            match (section.name, section.is_list) {
                ("", _) => {}
                (name, true) => writeln!(f, "\n[[{name}]]")?,
                (name, false) => writeln!(f, "\n{}[{name}]", if section.is_written { "" } else { "#" })?,
            }
            for (key, value) in &section.set {
                writeln!(f, "{} = {}", bare(key), Toml(value))?;
            }
            for (key, default) in &section.defaults {
                match default {
                    DefaultValue::Value(value) => writeln!(f, "#{key} = {}", Toml(value))?,
                    DefaultValue::Words(words) => writeln!(f, "# {key}: {}", words.replace('`', ""))?,
                }
            }
        }
        Ok(())
    }
}

/// A value as it is written in TOML, on one line.
struct Toml<'v>(&'v Value);

impl Display for Toml<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Array(items) => {
                f.write_char('[')?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{}", if index == 0 { "" } else { ", " }, Toml(item))?;
                }
                f.write_char(']')
            }
            Value::Object(fields) => match fields.get(DATE).and_then(Value::as_str) {
                Some(date) => f.write_str(date),
                None => {
                    for (index, (key, value)) in fields.iter().enumerate() {
                        write!(f, "{}{} = {}", if index == 0 { "{ " } else { ", " }, bare(key), Toml(value))?;
                    }
                    f.write_str(if fields.is_empty() { "{}" } else { " }" })
                }
            },
            // The escapes of JSON are those of TOML (toml.io, v1.0.0, "String").
            scalar => scalar.fmt(f),
        }
    }
}

/// Writes a key, in quotes where it needs them.
fn bare(key: &str) -> String {
    let is_bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if is_bare { key.to_owned() } else { json!(key).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_toml_reads_them() {
        let text = "a = [1, \"x\\\"y\", 1.5, true]\nb = { \"c d\" = {}, e = 2099-12-31 }\nf = 2099-12-31T18:00:00Z\n";
        let value: Value = toml::from_str(text).unwrap();
        let written: String =
            value.as_object().unwrap().iter().map(|(key, value)| format!("{key} = {}\n", Toml(value))).collect();
        assert_eq!(toml::from_str::<Value>(&written).unwrap(), value, "{written}");
        assert_eq!(dated(value)["f"], "2099-12-31T18:00:00Z");
    }

    #[test]
    fn digests_are_hidden_where_the_table_of_keys_has_them() {
        let section = |name| {
            let set = vec![("sha256".to_owned(), json!("6ca13d52")), ("scopes".to_owned(), json!(["pbx"]))];
            Section { name, is_list: true, is_written: true, set, defaults: Vec::new() }
        };
        let hidden = EffectiveConfig(vec![section("auth"), section("allow")]).without_digests().to_json();
        assert_eq!(hidden["auth"][0], json!({ "sha256": "***", "scopes": ["pbx"] }));
        assert_eq!(hidden["allow"][0]["sha256"], json!("6ca13d52"), "there it is no key");
    }

    #[test]
    fn a_password_in_a_url_is_hidden() {
        for (text, expected) in [
            ("redis://user:secret@host:1", "redis://***@host:1"),
            ("https://host/path@x", "https://host/path@x"),
            ("mailto:help@example.com", "mailto:help@example.com"),
        ] {
            assert_eq!(masked(json!(text)), expected);
        }
    }
}
