//! Configurations that the documents show load, and docs/configure.md lists every key of proxy.toml.

use std::collections::BTreeMap;
use std::fs;

use callgate::config;

use crate::blocks::{Kind, all_blocks, is_whole, readme_configuration, split};
use crate::machine::Machine;
use crate::recipes::recipes;
use crate::tables::{named_behind, rows};

/// Returns the head of a table line: `[app]`, `[[allow]]`.
fn head(line: &str) -> Option<&str> {
    line.starts_with('[')
        .then(|| line.split_inclusive(']').take_while(|part| part.ends_with(']')).map(str::len).sum())
        .map(|length: usize| &line[..length])
}

/// Splits a configuration into what stands above its tables, and the tables.
fn tables(text: &str) -> Vec<(String, String)> {
    let mut tables = vec![(String::new(), String::new())];
    for line in text.lines() {
        if let Some(head) = head(line) {
            tables.push((head.to_owned(), String::new()));
        }
        let last = tables.last_mut().unwrap();
        last.1.push_str(&format!("{line}\n"));
    }
    tables
}

/// Puts the tables of a fragment in place of those of the README's configuration; rules and methods are added.
fn completed(fragment: &str) -> String {
    let fragments = tables(fragment);
    let is = |known: &str, head: &str| known == head || known == format!("[{head}]");
    let has = |head: &str| !head.starts_with("[[") && fragments.iter().any(|(known, _)| is(known, head));
    let mut top = fragments[0].1.clone();
    let mut rest = String::new();
    for (head, text) in tables(&readme_configuration()) {
        if head.is_empty() {
            let key = |line: &&str| !top.lines().any(|known| known.split(' ').next() == line.split(' ').next());
            let kept: Vec<_> = text.lines().filter(key).collect();
            top.push_str(&format!("{}\n", kept.join("\n")));
        } else if !has(&head) {
            rest.push_str(&text);
        }
    }
    let own: String = fragments[1..].iter().map(|(_, text)| text.as_str()).collect();
    format!("{top}{rest}{own}")
}

#[test]
fn all_configurations_load() {
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let machine = Machine::new(nowhere, nowhere);
    machine.write_secrets();
    let etc = machine.etc().display().to_string();
    let of_recipes = recipes().into_iter().flat_map(|path| split(&path).1).filter(|block| block.kind == Kind::Toml);
    for block in all_blocks(Kind::Toml).into_iter().chain(of_recipes) {
        let text = if is_whole(&block.text) { block.text } else { completed(&block.text) };
        let env = |name: &str| (name == "CREDENTIALS_DIRECTORY").then(|| etc.clone());
        let loaded = config::parse(&machine.real(&text), &machine.etc(), &env);
        let config = loaded.unwrap_or_else(|problems| panic!("{}: {problems}\n{text}", block.place));
        // The configuration that completes a block has a rule before those of the block.
        let warnings = config.warnings.iter().filter(|warning| !warning.message.contains("`rule 1` before it fits"));
        assert_eq!(warnings.map(ToString::to_string).collect::<Vec<_>>(), [""; 0], "{}", block.place);
    }
}

/// The value of a key in `proxy.toml`.
struct ShownKey {
    value: String,
    is_default: bool,
}

/// Reads all keys of `proxy.toml`, those in comments too: (table, key) → what it shows.
fn keys() -> BTreeMap<(String, String), ShownKey> {
    let (mut table, mut keys) = ("Top".to_owned(), BTreeMap::new());
    for line in fs::read_to_string("proxy.toml").unwrap().lines() {
        let (is_comment, line) = line.strip_prefix('#').map_or((false, line), |line| (true, line));
        if let Some(head) = head(line) {
            head.clone_into(&mut table);
            continue;
        }
        let Some((key, rest)) = line.split_once(" = ").filter(|(key, _)| !key.contains(' ')) else { continue };
        let (value, comment) = rest.split_once(" #").unwrap_or((rest, ""));
        let is_default = is_comment && !comment.contains("for example") && !table.starts_with("[[");
        let value = value.trim();
        if key == "timeouts" {
            for pair in value.trim_matches(['{', '}', ' ']).split(", ") {
                let (inner, value) = pair.split_once(" = ").unwrap();
                keys.insert(
                    (table.clone(), format!("timeouts.{inner}")),
                    ShownKey { value: value.to_owned(), is_default },
                );
            }
        }
        let is_default = is_default && key != "timeouts";
        keys.insert((table.clone(), key.to_owned()), ShownKey { value: value.to_owned(), is_default });
    }
    keys
}

#[test]
fn every_key_of_the_configuration_is_documented_with_its_default() {
    let keys = keys();
    let mut missing: Vec<_> = keys.keys().cloned().collect();
    assert!(missing.len() > 70, "{missing:?}");
    for (table, cells) in rows("docs/configure.md") {
        let name = (table, cells[0].trim_matches('`').to_owned());
        let Some(shown) = keys.get(&name) else { panic!("{name:?} is not in proxy.toml") };
        missing.retain(|known| *known != name);
        if shown.is_default {
            assert_eq!(cells[2], format!("`{}`", shown.value), "{name:?}");
        }
    }
    assert_eq!(missing, []);
}

#[test]
fn what_a_reload_cannot_change_is_told() {
    let source = fs::read_to_string("src/server/snapshot.rs").unwrap();
    let (_, list) = source.split_once("let keys = [").unwrap();
    let keys = named_behind(list.split("];").next().unwrap(), "(\"`");
    assert!(keys.len() > 3, "{keys:?}");
    let text = fs::read_to_string("docs/operate.md").unwrap();
    let (_, told) = text.split_once("cannot change this way:").unwrap();
    let told = told.split('.').next().unwrap();
    for key in keys {
        let key = key.trim_end_matches('`');
        let shown = key.split_once('.').map_or_else(|| format!("`{key}`"), |(table, key)| format!("`[{table}] {key}`"));
        assert!(told.contains(&shown), "{shown} is not in {told:?}");
    }
}
