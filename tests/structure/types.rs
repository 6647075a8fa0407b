//! Names of types are unique in `src/`, and structs of `proxy` stay small.

use std::collections::BTreeMap;

use crate::source::{Source, sources};

/// Names that several types may have, with the reason.
const DOUBLED: [(&str, &str); 2] = [
    ("Arguments", "the arguments of a command, one type for each command"),
    ("Error", "the error of a module, as is the custom in Rust"),
];

/// The most fields of a struct of `proxy`.
const MOST_FIELDS: usize = 7;

/// Returns every top-level type: its name and the modules that declare it.
fn types(sources: &[Source]) -> BTreeMap<String, Vec<String>> {
    let mut types = BTreeMap::<_, Vec<_>>::new();
    for source in sources {
        for name in source.code.lines().filter_map(declared) {
            types.entry(name.to_owned()).or_default().push(source.name());
        }
    }
    types
}

/// Returns the name of the type that a line at the left margin declares.
fn declared(line: &str) -> Option<&str> {
    let line = match line.strip_prefix("pub") {
        Some(rest) => rest.split_once(' ')?.1,
        None => line,
    };
    let line = line.strip_prefix("in ").map_or(line, |rest| rest.split_once(' ').map_or("", |(_, rest)| rest));
    let kinds = ["struct ", "enum ", "trait ", "type ", "union "];
    let rest = kinds.iter().find_map(|kind| line.strip_prefix(kind))?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// Returns what is wrong with the names of types.
fn doubles(types: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let is_listed = |name: &str| DOUBLED.iter().any(|(listed, _)| *listed == name);
    let doubled = types.iter().filter(|(name, modules)| modules.len() > 1 && !is_listed(name));
    let stale = DOUBLED.iter().filter(|(name, _)| types.get(*name).is_none_or(|modules| modules.len() < 2));
    let doubled = doubled.map(|(name, modules)| format!("{name} is declared in {}", modules.join(", ")));
    doubled.chain(stale.map(|(name, _)| format!("{name} is listed, and is not doubled"))).collect()
}

#[test]
fn no_two_types_have_one_name() {
    let types = types(&sources());
    assert!(types.len() > 400, "{}", types.len());
    let found = doubles(&types);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_planted_double_is_seen() {
    let listed = "struct Error;\npub(super) struct Arguments {\n";
    let both = |more: &str| [Source::new("a", &format!("{listed}{more}")), Source::new("b", listed)];
    assert_eq!(doubles(&types(&both("struct Other;\n    struct Other;\nimpl Other {}\n"))), [""; 0]);
    assert_eq!(doubles(&types(&both("enum Other<A> {\npub(crate) trait Other {\n"))), ["Other is declared in a, a"]);
    assert_eq!(doubles(&types(&[Source::new("a", listed)])).len(), 2);
}

/// Returns the structs with more fields than they may have, and how many.
fn large(source: &Source) -> Vec<(String, usize)> {
    let mut structs = Vec::<(String, usize)>::new();
    let mut is_open = false;
    for line in source.code.lines() {
        if let Some(name) = declared(line) {
            is_open = line.contains("struct ") && line.ends_with('{');
            structs.push((name.to_owned(), 0));
        }
        is_open &= line != "}";
        let is_field = line.starts_with("    ") && !line.starts_with("     ") && line.contains(": ");
        if let Some((_, fields)) = structs.last_mut().filter(|_| is_open && is_field) {
            *fields += 1;
        }
    }
    structs.retain(|(_, fields)| *fields > MOST_FIELDS);
    structs
}

#[test]
fn no_struct_of_the_proxy_has_many_fields() {
    let sources = sources();
    let proxy: Vec<_> = sources.iter().filter(|source| source.module[0] == "proxy").collect();
    assert!(proxy.len() > 10, "{proxy:?}");
    let found: Vec<_> =
        proxy.iter().map(|source| (source.name(), large(source))).filter(|(_, large)| !large.is_empty()).collect();
    assert!(found.is_empty(), "more than {MOST_FIELDS} fields: {found:?}");
}

#[test]
fn a_planted_struct_with_many_fields_is_seen() {
    let fields = |count: usize| (0..count).map(|nth| format!("    pub field_{nth}: u8,\n")).collect::<String>();
    let of = |count| {
        Source::new(
            "proxy",
            &format!("struct A<'a> {{\n    #[serde]\n{}}}\nfn f() {{\n    let a: u8 = 1;\n}}\n", fields(count)),
        )
    };
    assert_eq!(large(&of(MOST_FIELDS)), []);
    assert_eq!(large(&of(MOST_FIELDS + 1)), [("A".to_owned(), MOST_FIELDS + 1)]);
}
