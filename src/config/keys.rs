//! The keys of `proxy.toml`, with type, default and meaning. The table is the one that operators read, docs/configure.md; tests
//! compare it with the readers.

/// The page with the tables.
const PAGE: &str = include_str!("../../docs/configure.md");

/// A table of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTable {
    /// Its name without brackets, such as `pbx` or `voximplant.applications`; empty for the keys above the first table.
    pub name: &'static str,
    /// Whether it is written in double brackets, once for each of several.
    pub is_list: bool,
    /// Its keys, in the order of the page. A key such as `timeouts.idle` is in a table of its own.
    pub keys: Vec<KeyRow>,
}

/// A key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Its name.
    pub name: &'static str,
    /// The `type` of the table that it belongs to; `None`: it belongs to all.
    pub variant: Option<&'static str>,
    /// The type of its value, in words.
    pub kind: &'static str,
    /// Its default in words, or as it would be written.
    pub default: &'static str,
    /// What it is for, in Markdown.
    pub meaning: &'static str,
}

impl KeyTable {
    /// Tells whether the table has a key that must be there.
    #[must_use]
    pub fn has_required(&self) -> bool {
        self.keys.iter().any(KeyRow::is_required)
    }
}

impl KeyRow {
    /// Tells whether the key must be there.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.default == "required"
    }

    /// Tells whether its value is the digest of a secret.
    #[must_use]
    pub fn is_digest(&self) -> bool {
        self.kind == "digest"
    }

    /// Returns the default as TOML; `None`: it has none, or one in words.
    #[must_use]
    pub fn default_toml(&self) -> Option<&'static str> {
        let written = self.default.strip_prefix('`')?.strip_suffix('`')?;
        (!written.contains('`') && (written.starts_with(['"', '[']) || is_plain(written))).then_some(written)
    }

    /// Returns what it is for, without Markdown.
    #[must_use]
    pub fn meaning_text(&self) -> String {
        plain(self.meaning)
    }

    /// Returns the texts that the row quotes as values, such as `"first"`.
    pub fn words(&self) -> Vec<&'static str> {
        let spans = self.default.split('`').skip(1).step_by(2).chain(self.meaning.split('`').skip(1).step_by(2));
        let mut words = Vec::new();
        for word in spans.filter_map(|span| span.strip_prefix('"')?.strip_suffix('"')) {
            if !words.contains(&word) {
                words.push(word);
            }
        }
        words
    }
}

fn is_plain(text: &str) -> bool {
    ["true", "false"].contains(&text) || text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns all tables, in the order of the page.
#[must_use]
pub fn tables() -> Vec<KeyTable> {
    let (mut tables, mut variant, mut is_of_keys) = (Vec::<KeyTable>::new(), None, false);
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            tables.extend(table(heading));
            variant = None;
        } else if line.starts_with("### ") {
            variant = line.strip_prefix("### `type = \"").and_then(|rest| rest.split('"').next());
        }
        // Other tables of the page have other columns.
        is_of_keys = line.starts_with("| key | type | default |") || is_of_keys && line.starts_with('|');
        if let (true, Some(table)) = (is_of_keys, tables.last_mut()) {
            table.keys.extend(row(line, variant));
        }
    }
    tables.retain(|table| !table.keys.is_empty());
    tables
}

fn table(heading: &'static str) -> Option<KeyTable> {
    if heading == "Top" {
        return Some(KeyTable { name: "", is_list: false, keys: Vec::new() });
    }
    let written = heading.strip_prefix('`')?.strip_suffix('`')?;
    let name = written.trim_start_matches('[').trim_end_matches(']');
    Some(KeyTable { name, is_list: written.starts_with("[["), keys: Vec::new() })
}

fn row(line: &'static str, variant: Option<&'static str>) -> Option<KeyRow> {
    let mut cells = line.strip_prefix("| `")?.trim_end_matches(['|', ' ']).splitn(4, " | ");
    let name = cells.next()?.strip_suffix('`')?;
    Some(KeyRow { name, variant, kind: cells.next()?, default: cells.next()?, meaning: cells.next()? })
}

/// Returns a text without the marks and the links of Markdown.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, linked)) = rest.split_once('[') {
        plain.push_str(before);
        // A link has its address in parentheses; other brackets stay.
        match linked.split_once("](").and_then(|(name, after)| Some((name, after.split_once(')')?.1))) {
            Some((name, after)) if !name.contains(['[', ']']) => {
                plain.push_str(name);
                rest = after;
            }
            _ => {
                plain.push('[');
                rest = linked;
            }
        }
    }
    plain.push_str(rest);
    plain.replace('`', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_their_names_and_other_brackets_stay() {
        for (text, expected) in [
            ("see [pages](pages.md#a) and `[app]`; end", "see pages and [app]; end"),
            ("[which list counts](#origins)", "which list counts"),
            ("`[[allow]]` ([app](app.md))", "[[allow]] (app)"),
            ("none", "none"),
        ] {
            assert_eq!(plain(text), expected);
        }
    }

    #[test]
    fn the_page_has_all_tables_and_the_keys_of_each() {
        let tables = tables();
        let names: Vec<_> = tables.iter().map(|table| (table.name, table.is_list)).collect();
        for known in [("", false), ("app", false), ("pbx", false), ("auth", true), ("voximplant.applications", true)] {
            assert!(names.contains(&known), "{known:?} is not in {names:?}");
        }
        let key = |table: &str, name: &str| {
            let table = tables.iter().find(|known| known.name == table).unwrap();
            table.keys.iter().find(|row| row.name == name).unwrap()
        };
        assert_eq!(key("server", "drain").default_toml(), Some("\"30s\""));
        assert_eq!(key("server", "max_connections").default_toml(), Some("16384"));
        assert_eq!(key("", "workers").default_toml(), None);
        assert!(key("", "listen").is_required() && !key("", "workers").is_required());
        assert_eq!(key("auth", "whoami").variant, Some("app"));
        assert_eq!(key("app", "policy").words(), ["first", "round_robin", "least"]);
    }
}
