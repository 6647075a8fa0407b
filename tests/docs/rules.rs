//! docs/conformance.md names the tests of every rule, and docs/mutants.md the reason for every change that no test notices.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::blocks::{quoted, split};

/// Finds every test: its name → the words that name it and stand above it.
fn tests(folder: &Path, found: &mut BTreeMap<String, String>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            tests(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            tests_of(&fs::read_to_string(path).unwrap(), found);
        }
    }
}

fn tests_of(source: &str, found: &mut BTreeMap<String, String>) {
    let mut above = String::new();
    for line in source.lines().map(str::trim) {
        if line.starts_with("///") || line.starts_with("#[") {
            above.push_str(line);
            continue;
        }
        let name = line.trim_start_matches("async ").strip_prefix("fn ").and_then(|rest| rest.split('(').next());
        if let Some(name) = name.filter(|_| above.contains("#[test]") || above.contains("#[tokio::test")) {
            found.entry(name.to_owned()).or_default().push_str(&words(&format!("{above} {name} ")));
        }
        above.clear();
    }
}

/// Writes a text as the names of tests are written.
fn words(text: &str) -> String {
    let letters = text.to_lowercase().replace(|letter: char| !letter.is_alphanumeric(), "_");
    letters.split('_').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("_") + "_"
}

/// Finds the advisories in a text: `CVE-2021-1`, and `Traefik #1` or `Traefik PR #1`.
fn advisories(text: &str) -> Vec<String> {
    let tokens: Vec<_> = text.split([' ', ',', ';', '(', ')', '`', '|']).filter(|token| !token.is_empty()).collect();
    let named = |at: usize| match tokens[at] {
        token if token.starts_with("CVE-") => Some(token.to_owned()),
        token if token.starts_with('#') && token[1..].parse::<u32>().is_ok() => {
            let begin = at - if tokens[at - 1] == "PR" { 2 } else { 1 };
            Some(tokens[begin..=at].join(" "))
        }
        _ => None,
    };
    (0..tokens.len()).filter_map(named).collect()
}

/// Returns the rules of docs/conformance.md: what is held to, the files that keep it, the tests.
fn rules() -> Vec<[String; 3]> {
    let prose = split(Path::new("docs/conformance.md")).0;
    let section = prose.split("\n## ").find(|section| section.starts_with("Rules and their tests")).unwrap();
    let is_rule = |line: &&str| line.starts_with("| ") && !line.starts_with("| rule |");
    let cells = |line: &str| line.trim_matches(['|', ' ']).split(" | ").map(str::to_owned).collect::<Vec<_>>();
    section.lines().filter(is_rule).map(|line| cells(line).try_into().unwrap_or_else(|_| panic!("{line}"))).collect()
}

pub fn all_tests() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    tests(Path::new("src"), &mut found);
    tests(Path::new("tests"), &mut found);
    found
}

#[test]
fn every_rule_is_kept_somewhere_and_tested_by_tests_that_exist() {
    let (rules, known) = (rules(), all_tests());
    assert!(rules.len() > 70, "{}", rules.len());
    for [rule, kept, tests] in rules {
        let (kept, tests) = (quoted(&kept), quoted(&tests));
        assert!(!kept.is_empty() && kept.iter().all(|file| Path::new(file).exists()), "{rule}: {kept:?}");
        assert!(!tests.is_empty(), "{rule}");
        let missing: Vec<_> = tests.iter().filter(|name| !known.contains_key(**name)).collect();
        assert!(missing.is_empty(), "{rule}: no test has the name {missing:?}");
        let told: String = tests.iter().map(|name| known[*name].as_str()).collect();
        for advisory in advisories(&rule) {
            assert!(told.contains(&words(&advisory)), "{rule}: no test of it names {advisory}");
        }
    }
}

#[test]
fn changes_that_no_test_notices_have_a_reason_and_their_place() {
    let rows: Vec<_> = fs::read_to_string("docs/mutants.md").unwrap().lines().map(str::to_owned).collect();
    let rows: Vec<_> = rows.iter().filter_map(|row| row.strip_prefix("| `src/")?.split_once("` | ")).collect();
    assert!(!rows.is_empty());
    for (change, reason) in rows {
        let (file, what) = change.split_once(": ").unwrap_or_else(|| panic!("{change}: no file"));
        let source = fs::read_to_string(Path::new("src").join(file)).unwrap_or_else(|_| panic!("{file} is not there"));
        let function = what.rsplit([' ', ':']).next().unwrap();
        assert!(source.contains(&format!("fn {function}")), "{file} has no function {function}");
        assert!(reason.len() > 20, "{change}: {reason}");
    }
}

/// The misuses of a login, in the order of the tables.
const MISUSES: [&str; 12] = [
    "nothing shown",
    "malformed",
    "expired",
    "for another audience, issuer or host",
    "made with another key",
    "`alg: none`",
    "HS with a public key",
    "shown again",
    "two at once",
    "doubled",
    "names that look alike",
    "an invalid account",
];

#[test]
fn every_way_to_log_in_is_tested_with_every_misuse() {
    let prose = split(Path::new("docs/conformance.md")).0;
    let section = prose.split("\n## ").find(|section| section.starts_with("Ways to log in, misused")).unwrap();
    let known = all_tests();
    let mut methods = BTreeSet::new();
    for table in section.split("\n### ").skip(1) {
        let (way, table) = table.split_once('\n').unwrap();
        methods.extend(quoted(way));
        let rows: Vec<_> =
            table.lines().filter(|line| line.starts_with("| ") && *line != "| misuse | tests |").collect();
        let rows: Vec<_> = rows.iter().map(|row| row.trim_matches(['|', ' ']).split_once(" | ").unwrap()).collect();
        assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), MISUSES, "{way}");
        for (misuse, cell) in rows {
            let (tests, reason) = (quoted(cell), cell.strip_prefix("cannot be: "));
            assert!(reason.map_or(!tests.is_empty(), |reason| reason.len() > 10), "{way}, {misuse}: {cell}");
            let missing: Vec<_> = tests.iter().filter(|name| reason.is_none() && !known.contains_key(**name)).collect();
            assert!(missing.is_empty(), "{way}, {misuse}: no test has the name {missing:?}");
        }
    }
    assert_eq!(methods.into_iter().collect::<Vec<_>>(), METHODS);
}

/// The methods, as configurations name them.
pub const METHODS: [&str; 8] = ["app", "header", "jwt", "key", "link", "mtls", "oidc", "redirect"];

#[test]
fn every_method_is_explained_with_a_transcript() {
    let text = fs::read_to_string("docs/explain.md").unwrap();
    for method in METHODS.into_iter().filter(|method| *method != "redirect") {
        let heading = format!("(`{method}`)");
        let section = text.split("\n## ").find(|section| section.lines().next().unwrap().ends_with(&heading));
        let section = section.unwrap_or_else(|| panic!("docs/explain.md has no section about {method}"));
        // This binary runs blocks of `console`; `tests/it/login/explain.rs` runs those of `text`.
        let is_run = section.contains("```console\n") || method == "oidc" && section.contains("```text\n");
        assert!(is_run && section.contains(&format!("Credential: {method}\n")), "{method}");
    }
}

#[test]
fn every_test_that_is_named_after_an_advisory_or_a_trap_belongs_to_a_rule() {
    let rules = rules();
    let named: Vec<_> = rules.iter().flat_map(|[_, _, tests]| quoted(tests)).collect();
    let special = |name: &&String| name.starts_with("cve_") || name.starts_with("trap_");
    let known = all_tests();
    let special: Vec<_> = known.keys().filter(special).collect();
    assert!(special.len() > 10, "{special:?}");
    let missing: Vec<_> = special.into_iter().filter(|name| !named.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "docs/conformance.md does not name {missing:?}");
}

#[test]
fn tests_and_advisories_are_found_by_their_names() {
    let mut found = BTreeMap::new();
    tests_of(
        "/// Not one.\nfn a() {}\n/// Pingora #892.\n#[tokio::test]\nasync fn b_c() {\n#[test] fn d() {}",
        &mut found,
    );
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [("b_c".to_owned(), "pingora_892_tokio_test_b_c_".to_owned())]);
    for (text, expected) in [
        ("it (§5; Go CVE-2021-1, X CVE-2022-2)", &["CVE-2021-1", "CVE-2022-2"][..]),
        ("it (Traefik #12380; rpxy PR #596)", &["Traefik #12380", "rpxy PR #596"]),
        ("none (9112 §6.1)", &[]),
    ] {
        assert_eq!(advisories(text), expected, "{text}");
    }
}

#[test]
fn every_promise_of_the_readme_names_its_tests() {
    let prose = split(Path::new("README.md")).0;
    let section = prose.split("\n## ").find(|section| section.starts_with("Why it is safe")).unwrap();
    let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 10, "{rows:#?}");
    for row in rows {
        let cells: Vec<_> = row.trim_matches(['|', ' ']).split(" | ").collect();
        assert!(cells.len() == 3 && cells[2].contains("](tests/"), "{row}");
    }
}
