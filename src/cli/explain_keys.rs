//! `callgate config explain`: the keys of `proxy.toml`, from the table that operators read in docs/configure.md.

use std::fmt::{self, Display};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{CommandResult, EX_USAGE, print_line, print_remark};
use crate::config::inner_keys;
use crate::config::keys::{self, KeyRow, KeyTable};

/// The longest line, in characters.
const WIDTH: usize = 100;

#[derive(Debug, clap::Args)]
pub(super) struct KeyArguments {
    /// A table such as pbx, or a key such as pbx.admin, server.timeouts or whoami; without it, all keys are listed
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &KeyArguments) -> CommandResult {
    let tables = keys::tables();
    let all = || tables.iter().flat_map(|table| table.keys.iter().map(move |row| Key { table, row }));
    let found: Vec<_> = match &arguments.name {
        Some(name) => all().filter(|key| key.is_named(name)).collect(),
        None => all().collect(),
    };
    if let (Some(name), true) = (&arguments.name, found.is_empty()) {
        let closest = all().map(|key| key.path()).min_by_key(|path| strsim::osa_distance(path, name));
        print_remark(&format_args!(
            "callgate: proxy.toml has no table or key {name}: did you mean {}? `callgate config explain` lists all",
            closest.unwrap_or_default()
        ));
        return Err(ExitCode::from(EX_USAGE));
    }
    match (arguments.json, &arguments.name) {
        (true, _) => print_line(&format_args!("{:#}", found.iter().map(Key::as_json).collect::<Value>())),
        (false, Some(_)) => print_line(&found.iter().map(Key::to_string).collect::<Vec<_>>().join("\n\n")),
        (false, None) => print_line(&overviews(&tables)),
    }
}

/// Returns what the long help of a command says of the keys.
pub(super) fn help() -> String {
    format!("Keys of proxy.toml (`callgate config explain KEY` explains each):\n\n{}", overviews(&keys::tables()))
}

fn overviews(tables: &[KeyTable]) -> String {
    tables.iter().map(overview).collect::<Vec<_>>().join("\n")
}

/// Lists the keys of a table.
fn overview(table: &KeyTable) -> String {
    let mut names: Vec<_> = table.keys.iter().map(|row| row.name).collect();
    names.dedup();
    let title = match (table.name, table.is_list) {
        ("", _) => "above the first table".to_owned(),
        (name, true) => format!("[[{name}]]"),
        (name, false) => format!("[{name}]"),
    };
    format!("{title}\n{}", wrapped(&names.join(", ")))
}

/// A key with its table.
struct Key<'t> {
    table: &'t KeyTable,
    row: &'t KeyRow,
}

impl Key<'_> {
    /// Returns its name with that of its table.
    fn path(&self) -> String {
        if self.table.name.is_empty() {
            self.row.name.to_owned()
        } else {
            format!("{}.{}", self.table.name, self.row.name)
        }
    }

    /// Tells whether a name is the key's, with or without that of its table, or that of a table around it.
    fn is_named(&self, name: &str) -> bool {
        let path = self.path();
        let is_around =
            |path: &str| path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        is_around(&path) || is_around(self.row.name)
    }

    fn as_json(&self) -> Value {
        let row = self.row;
        json!({
            "key": self.path(),
            "of_type": row.variant,
            "type": row.kind.replace('`', ""),
            "keys": inner_keys(&self.path()).iter().map(|(name, kind)| ((*name).to_owned(), json!(kind))).collect::<serde_json::Map<_, _>>(),
            "required": row.is_required(),
            "default": row.default.replace('`', ""),
            "meaning": row.meaning_text(),
        })
    }
}

impl Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = self.row;
        f.write_str(&self.path())?;
        if let Some(variant) = row.variant {
            write!(f, ", where type = \"{variant}\"")?;
        }
        write!(f, "\n  type: {}", row.kind.replace('`', ""))?;
        let inner: Vec<_> = inner_keys(&self.path()).iter().map(|(name, kind)| format!("{name} ({kind})")).collect();
        if !inner.is_empty() {
            write!(f, "\n  its keys: {}", inner.join(", "))?;
        }
        write!(f, "\n  default: {}\n{}", row.default.replace('`', ""), wrapped(&row.meaning_text()))
    }
}

/// Breaks a text into indented lines.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().filter(|line| line.chars().count() + word.chars().count() + 3 <= WIDTH);
        match line {
            Some(line) => *line = format!("{line} {word}"),
            None => lines.push(format!(" {word}")),
        }
    }
    lines.iter().map(|line| format!(" {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_broken_between_words() {
        assert_eq!(wrapped("one two"), "  one two");
        let long = wrapped(&"word ".repeat(40));
        assert!(
            long.lines().count() == 3 && long.lines().all(|line| line.len() <= WIDTH && line.starts_with("  w")),
            "{long}"
        );
    }
}
