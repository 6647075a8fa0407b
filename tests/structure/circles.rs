//! No files import each other in a circle. A parent and its child may.

use std::collections::{BTreeMap, BTreeSet};

use crate::imports::Imports;
use crate::source::{Source, sources};

/// Returns the imports that lie on a circle: the imported file leads back to the importing one.
fn circles(imports: &[(String, String)]) -> Vec<String> {
    let mut others = BTreeMap::<_, Vec<_>>::new();
    for (file, other) in imports {
        others.entry(file.as_str()).or_default().push(other.as_str());
    }
    let back = imports.iter().filter(|(file, other)| reached(other, &others).contains(file.as_str()));
    back.map(|(file, other)| format!("{file} imports {other}")).collect()
}

/// Returns all files that a file imports, and those that these import.
fn reached<'a>(file: &'a str, others: &BTreeMap<&'a str, Vec<&'a str>>) -> BTreeSet<&'a str> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![file]);
    while let Some(file) = next.pop() {
        let new = others.get(file).into_iter().flatten().filter(|other| reached.insert(**other));
        next.extend(new.copied().collect::<Vec<_>>());
    }
    reached
}

#[test]
fn no_files_import_each_other() {
    let sources = sources();
    let pairs = Imports::of(&sources).pairs();
    assert!(pairs.len() > 500, "{}", pairs.len());
    let found = circles(&pairs);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_planted_circle_is_seen() {
    let check = |files: &[(&str, &str)], expected: &[&str]| {
        let sources: Vec<_> = files.iter().map(|(module, text)| Source::new(module, text)).collect();
        let found = circles(&Imports::of(&sources).pairs());
        assert_eq!(found, expected, "{files:?}");
    };
    check(&[("a", "use crate::b::B;\n"), ("b", "use crate::a;\n")], &["a imports b", "b imports a"]);
    check(&[("a", "use crate::b::B;\n"), ("b", "struct B;\n")], &[]);
    check(
        &[("a", "fn f() -> crate::b::B {}\n"), ("b", "pub(crate) use super::a::f;\n")],
        &["a imports b", "b imports a"],
    );
    let far = [("b", ""), ("b::c", "use crate::a::A;\n")];
    check(
        &[&[("a", "use crate::b;\nfn f() { b::c::g() }\n")], &far[..]].concat(),
        &["a imports b::c", "b::c imports a"],
    );
    // A parent and its child may, siblings may not.
    check(&[("a", "use self::b::B;\n"), ("a::b", "use super::A;\n")], &[]);
    check(
        &[("a::b", "use super::c::C;\n"), ("a::c", "use super::{b::{B}, d};\n"), ("a", "")],
        &["a::b imports a::c", "a::c imports a::b"],
    );
    // A longer circle, with a file that only leads to it.
    let three = [("a", "use crate::b::B;\n"), ("b", "use crate::c::C;\n"), ("c", "use crate::a::A;\n")];
    check(&[&three[..], &[("d", "use crate::a::A;\n")]].concat(), &["a imports b", "b imports c", "c imports a"]);
    // A re-export is followed to the file that declares the type.
    let offers = ("p", "pub use self::b::B;\npub use self::c::*;\n");
    check(
        &[offers, ("p::a", "use crate::p::B;\n"), ("p::b", "use super::a::A;\n")],
        &["p::a imports p::b", "p::b imports p::a"],
    );
    check(
        &[offers, ("p::a", "use super::C;\n"), ("p::c", "use super::a::A;\npub struct C;\n")],
        &["p::a imports p::c", "p::c imports p::a"],
    );
}
