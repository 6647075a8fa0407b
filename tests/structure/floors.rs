//! The modules stand on floors, and each uses only those below it. The table in `src/lib.rs` lists the floors.

use std::collections::BTreeMap;
use std::fs;

use crate::imports::named;
use crate::source::{Source, sources};

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

/// Returns what is wrong with the imports of one source.
fn faults(source: &Source, floors: &BTreeMap<String, u8>) -> Vec<String> {
    let module = &source.module[0];
    let own = floors.get(module).unwrap_or_else(|| panic!("src/lib.rs puts {module} on no floor"));
    let mut others: Vec<_> = named(source).into_iter().map(|named| named.path[0].clone()).collect();
    others.retain(|name| name != module && name.starts_with(|letter: char| letter.is_ascii_lowercase()));
    others.sort();
    others.dedup();
    let up = others
        .iter()
        .filter(|name| floors.get(*name).unwrap_or_else(|| panic!("{module} uses {name}: no floor")) >= own);
    up.map(|name| format!("{} (floor {own}) uses {name} (floor {})", source.name(), floors[name])).collect()
}

#[test]
fn imports_only_point_down() {
    let floors = floors();
    assert!(floors.len() > 10, "{floors:?}");
    let found: Vec<_> = sources().iter().flat_map(|source| faults(source, &floors)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn an_import_that_points_up_or_sideways_is_seen() {
    let floors = floors();
    let check = |module: &str, source: &str, expected: usize| {
        assert_eq!(faults(&Source::new(module, source), &floors).len(), expected, "{module}: {source}");
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
