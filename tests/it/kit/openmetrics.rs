//! A strict reader of OpenMetrics text.

use std::collections::{BTreeMap, BTreeSet};

pub type Labels = BTreeMap<String, String>;

/// A metric with all its series.
#[derive(Debug)]
pub struct Family {
    pub name: String,
    pub kind: String,
    /// Name with its suffix, labels, value.
    pub samples: Vec<(String, Labels, f64)>,
}

impl Family {
    /// Returns the names of the labels of all series, the bounds of buckets left out.
    pub fn labels(&self) -> BTreeSet<&str> {
        let names = self.samples.iter().flat_map(|(_, labels, _)| labels.keys());
        names.map(String::as_str).filter(|name| *name != "le").collect()
    }
}

/// Reads a whole exposition.
///
/// # Panics
/// When it breaks a rule of the format.
pub fn read(text: &str) -> Vec<Family> {
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
    let mut families: Vec<Family> = Vec::new();
    let mut lines = body.lines().peekable();
    while let Some(line) = lines.next() {
        let (name, help) = line.strip_prefix("# HELP ").unwrap_or_else(|| panic!("{line}")).split_once(' ').unwrap();
        assert!(!help.is_empty() && is_name(name), "{line}");
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).expect(name).to_owned();
        if let Some(line) = lines.next_if(|line| line.starts_with("# UNIT ")) {
            let unit = line.strip_prefix(&format!("# UNIT {name} ")).expect(name);
            assert!(name.ends_with(&format!("_{unit}")), "{line}");
        }
        let mut samples = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            samples.push(sample(line));
        }
        let family = Family { name: name.to_owned(), kind, samples };
        assert!(families.iter().all(|known| known.name != family.name), "{name} is there twice");
        check(&family);
        families.push(family);
    }
    families
}

fn is_name(name: &str) -> bool {
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(known)
}

fn sample(line: &str) -> (String, Labels, f64) {
    let (name, rest) = line.split_at(line.find(['{', ' ']).expect(line));
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest, line),
        None => (Labels::new(), rest),
    };
    let value = value.strip_prefix(' ').expect(line);
    assert!(!value.contains(' '), "{line}");
    (name.to_owned(), labels, value.parse().expect(line))
}

/// Reads labels up to the closing brace, and returns what stands behind it.
fn labels<'l>(mut rest: &'l str, line: &str) -> (Labels, &'l str) {
    let mut labels = Labels::new();
    loop {
        let (name, behind) = rest.split_once("=\"").expect(line);
        assert!(is_name(name), "{line}");
        let (mut value, mut end, mut letters) = (String::new(), None, behind.char_indices());
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    end = Some(at + 1);
                    break;
                }
                '\\' => value.push(match letters.next().expect(line).1 {
                    'n' => '\n',
                    letter @ ('"' | '\\') => letter,
                    _ => panic!("{line}"),
                }),
                letter => value.push(letter),
            }
        }
        assert_eq!(labels.insert(name.to_owned(), value), None, "{line}");
        rest = &behind[end.expect(line)..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return (labels, rest.strip_prefix('}').expect(line)),
        }
    }
}

/// Checks that the series are those of their type, and each is there once.
fn check(family: &Family) {
    let suffixes: &[&str] = match family.kind.as_str() {
        "counter" => &["_total"],
        "gauge" => &[""],
        "info" => &["_info"],
        "histogram" => &["_bucket", "_sum", "_count"],
        kind => panic!("{} is {kind}", family.name),
    };
    let mut seen = BTreeSet::new();
    for (name, labels, value) in &family.samples {
        let suffix = name.strip_prefix(&family.name).expect(name);
        assert!(suffixes.contains(&suffix), "{name} is none of a {}", family.kind);
        assert!(seen.insert((name, labels)), "{name} {labels:?} is there twice");
        assert!(family.kind == "gauge" || *value >= 0.0, "{name} {labels:?} is {value}");
    }
    if family.kind == "histogram" {
        check_histogram(family);
    }
}

fn check_histogram(family: &Family) {
    let of = |suffix: &'static str| {
        let name = format!("{}{suffix}", family.name);
        family.samples.iter().filter(move |sample| sample.0 == name)
    };
    for (_, labels, count) in of("_count") {
        let buckets: Vec<_> = of("_bucket")
            .filter(|(_, known, _)| labels.iter().all(|(name, value)| known.get(name) == Some(value)))
            .map(|(_, known, value)| (known["le"].parse::<f64>().unwrap(), *value))
            .collect();
        assert!(buckets.is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1), "{labels:?} {buckets:?}");
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{labels:?}");
    }
}

#[test]
fn broken_openmetrics_text_is_seen() {
    let good = "# HELP a b.\n# TYPE a counter\na_total{x=\"1\\\"\",y=\"2\"} 3\n# EOF\n";
    assert_eq!(read(good)[0].samples[0].1["x"], "1\"");
    for (from, to) in [
        ("# EOF\n", ""),
        ("# EOF\n", "# EOF"),
        ("a_total", "a"),
        ("} 3", "} x"),
        ("} 3", "}  3"),
        ("} 3", "} -1"),
        ("y=", "x="),
        ("# TYPE a counter", "# TYPE b counter"),
        ("# TYPE a counter\n", "# TYPE a counter\n# UNIT a seconds\n"),
        ("\"2\"", "\"2"),
        (" 3\n", " 3\na_total{x=\"1\\\"\",y=\"2\"} 3\n"),
        ("# EOF", "# HELP a b.\n# TYPE a counter\n# EOF"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert!(std::panic::catch_unwind(|| read(&bad)).is_err(), "{bad}");
    }
}
