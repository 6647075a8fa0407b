//! Claims of the documents, and the tests that hold them: tests/claims.txt.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::blocks::{documents, split};
use crate::rules::all_tests;

/// A claim of a document: the words, as they stand there, and what would notice if it were false.
struct Claim {
    document: String,
    words: String,
    holders: Vec<String>,
}

/// Reads `tests/claims.txt`, whose beginning says how it is written.
fn claims() -> Vec<Claim> {
    let (mut document, mut claims) = (String::new(), Vec::<Claim>::new());
    for line in fs::read_to_string("tests/claims.txt").unwrap().lines() {
        let text = line.trim().to_owned();
        match line.len() - line.trim_start().len() {
            _ if text.is_empty() || text.starts_with('#') => {}
            0 => document = text,
            2 => claims.push(Claim { document: document.clone(), words: text, holders: Vec::new() }),
            _ => claims.last_mut().expect("words stand above what holds them").holders.push(text),
        }
    }
    claims
}

/// Tells why nothing holds a claim, if so.
fn unheld(holder: &str, known: &BTreeMap<String, String>) -> Option<String> {
    if let Some(reason) = holder.strip_prefix("no claim: ") {
        return (reason.len() < 10).then(|| "a reason is needed".to_owned());
    }
    match holder.split_once(": ") {
        Some((file, code)) if file.ends_with(".rs") || file.ends_with(".toml") => {
            let source = fs::read_to_string(file).unwrap_or_default();
            (!source.contains(code)).then(|| format!("{file} does not say {code}"))
        }
        _ => (!known.contains_key(holder)).then(|| format!("no test has the name {holder}")),
    }
}

#[test]
fn each_claim_stands_where_it_is_said_to_and_is_held_by_something() {
    let known = all_tests();
    let mut wrong = Vec::new();
    for Claim { document, words, holders } in claims() {
        let text = fs::read_to_string(&document).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        if !text.contains(&words) {
            wrong.push(format!("{document} no longer says {words:?}"));
        }
        let reasons = holders.iter().filter_map(|holder| unheld(holder, &known));
        wrong.extend(reasons.map(|reason| format!("{document}: {words:?}: {reason}")));
        if holders.is_empty() {
            wrong.push(format!("{document}: {words:?}: nothing holds it"));
        }
    }
    assert!(wrong.is_empty(), "correct the documents, or tests/claims.txt: {wrong:#?}");
}

/// The units that make a number a claim.
const UNITS: [&str; 18] = [
    "s",
    "ms",
    "min",
    "h",
    "kib",
    "mib",
    "gib",
    "mb",
    "bytes",
    "times",
    "%",
    "keys",
    "lines",
    "rows",
    "days",
    "parameters",
    "users",
    "fields",
];

/// Not "second", which is an ordinal as well.
const TIMES: [&str; 6] = ["seconds", "minute", "minutes", "hour", "hours", "day"];

const NUMBERS: [&str; 9] = ["a", "an", "one", "two", "three", "four", "five", "ten", "half"];

/// Tells whether a piece of a document says what always holds, or how much something is.
fn is_claim(piece: &str) -> bool {
    let lower = piece.to_lowercase();
    let words: Vec<_> =
        lower.split(|c: char| !c.is_alphanumeric() && c != '%').filter(|word| !word.is_empty()).collect();
    let is_number = |word: &str| word.chars().all(|c| c.is_ascii_digit());
    let is_measure = |number: &str, unit: &str| {
        is_number(number) && UNITS.contains(&unit)
            || (is_number(number) || NUMBERS.contains(&number)) && TIMES.contains(&unit)
    };
    let says = |phrase: [&str; 2]| words.windows(2).any(|pair| pair == phrase);
    words.iter().any(|word| ["always", "never"].contains(word))
        || says(["at", "most"])
        || says(["at", "least"])
        || words.windows(2).any(|pair| is_measure(pair[0], pair[1]))
}

/// Splits the prose of a document into the parts of its sentences, and the rows of its tables.
fn pieces(path: &Path) -> Vec<String> {
    let (mut pieces, mut paragraph) = (Vec::new(), String::new());
    for line in split(path).0.lines().chain([""]) {
        let row = line.strip_prefix("| ");
        if row.is_some() || line.is_empty() || line.starts_with(['#', '*']) {
            let parts = [". ", "; ", ": "]
                .into_iter()
                .fold(paragraph.clone(), |text, end| text.replace(end, &end.replace(' ', "\n")));
            pieces.extend(parts.lines().map(str::to_owned));
            paragraph.clear();
        }
        match row {
            // The keys of a configuration have a type and a default, which other tests compare.
            Some(row) if path.ends_with("configure.md") => pieces.extend(row.rsplit(" | ").next().map(str::to_owned)),
            Some(row) => pieces.push(row.to_owned()),
            None if line.starts_with('#') => {}
            None => paragraph.push_str(&format!("{} ", line.trim())),
        }
    }
    pieces
}

#[test]
fn each_sentence_with_a_number_or_an_always_is_listed_as_a_claim() {
    let claims = claims();
    let mut missing = Vec::new();
    for path in documents() {
        let name = path.display().to_string();
        // Rules have their tests beside them; mutants are compared by tests/mutants; what was is no claim.
        if ["docs/conformance.md", "docs/mutants.md", "CHANGELOG.md"].contains(&name.as_str()) {
            continue;
        }
        let words: Vec<_> = claims.iter().filter(|claim| claim.document == name).map(|claim| &claim.words).collect();
        let is_listed = |piece: &str| words.iter().any(|words| piece.contains(*words) || words.contains(piece));
        let pieces = pieces(&path).into_iter().filter(|piece| is_claim(piece) && !is_listed(piece));
        missing.extend(pieces.map(|piece| format!("{name}: {piece}")));
    }
    assert!(missing.is_empty(), "say in tests/claims.txt what would notice if these were false: {missing:#?}");
}
