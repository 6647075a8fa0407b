//! The modules stand on floors, and each uses only those below it. The table in `src/lib.rs` lists the floors.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Reads the table of the codemap: module → floor.
fn floors() -> BTreeMap<String, u8> {
    let lib = fs::read_to_string("src/lib.rs").unwrap();
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | "));
    let mut floors = BTreeMap::new();
    for row in rows {
        let mut cells = row.split(" | ");
        let Ok(floor) = cells.next().unwrap().parse() else { continue };
        for name in cells.next().unwrap().split('`').skip(1).step_by(2) {
            assert_eq!(floors.insert(name.to_owned(), floor), None, "{name} is on two floors");
        }
    }
    floors
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files = Vec::new();
    for path in entries {
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
    files
}

/// Returns the modules that a source names behind `crate::`, its tests and comments excluded.
fn used(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join(" ");
    let mut names = Vec::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(list) => names.extend(heads(list)),
            None => names.push(word(rest)),
        }
    }
    names
}

/// Returns the first words of a list in braces, whatever is nested in its items.
fn heads(list: &str) -> Vec<String> {
    let (mut depth, mut heads, mut item) = (0, Vec::new(), String::new());
    for letter in list.chars() {
        match (letter, depth) {
            ('}', 0) => break,
            (',', 0) => heads.push(word(&std::mem::take(&mut item))),
            _ => item.push(letter),
        }
        depth += i32::from(letter == '{') - i32::from(letter == '}');
    }
    heads.push(word(&item));
    heads.retain(|head| !head.is_empty());
    heads
}

fn word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect()
}

/// Returns what is wrong with the imports of one source.
fn faults(module: &str, source: &str, floors: &BTreeMap<String, u8>) -> Vec<String> {
    let own = floors.get(module).unwrap_or_else(|| panic!("src/lib.rs puts {module} on no floor"));
    let others = used(source).into_iter().filter(|name| name != module && !name.is_empty());
    let up = others.filter(|name| floors.get(name).unwrap_or_else(|| panic!("{module} uses {name}: no floor")) >= own);
    up.map(|name| format!("{module} (floor {own}) uses {name} (floor {})", floors[&name])).collect()
}

#[test]
fn imports_only_point_down() {
    let floors = floors();
    assert!(floors.len() > 10, "{floors:?}");
    let mut found = Vec::new();
    for path in sources(Path::new("src")) {
        let inner = path.strip_prefix("src").unwrap();
        let top = inner.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = top.strip_suffix(".rs").unwrap_or(top);
        if matches!(module, "lib" | "main") {
            continue;
        }
        let faults = faults(module, &fs::read_to_string(&path).unwrap(), &floors);
        found.extend(faults.into_iter().map(|fault| format!("{}: {fault}", path.display())));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn an_import_that_points_up_or_sideways_is_seen() {
    let floors = floors();
    let check = |module: &str, source: &str, expected: usize| {
        assert_eq!(faults(module, source, &floors).len(), expected, "{module}: {source}");
    };
    check("model", "use crate::server::Server;", 1);
    check("message", "use crate::config::Config;", 1);
    check("pbx", "use crate::{\n    auth::{App, Key},\n    model::account, proxy,\n};", 2);
    check("limit", "fn f() -> crate::server::Server", 1);
    check("proxy", "use crate::auth::App; \n// crate::server\n#[cfg(test)]\nmod tests {\nuse crate::server;", 0);
    check("proxy", "use crate::{pbx, upstream};\n/// [crate::server]\n", 0);
}

#[test]
fn no_unsafe_code_of_our_own() {
    // The compiler does the rest: nothing can allow what is forbidden.
    let manifest = fs::read_to_string("Cargo.toml").unwrap();
    let lints = manifest.split("[lints.rust]").nth(1).unwrap();
    assert!(lints.split("\n[").next().unwrap().contains("\nunsafe_code = \"forbid\"\n"), "{lints}");
}
