//! The paths that a source names, and the files in which the named items stand.

use std::collections::BTreeMap;

use crate::source::Source;

/// A path from the root of the crate that a file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub path: Vec<String>,
    /// The name under which a `pub use` offers it.
    offered: Option<String>,
}

/// The imports of all files: which file names which others.
pub struct Imports<'a> {
    sources: BTreeMap<&'a [String], &'a Source>,
    /// What each file names, as paths from the root of the crate.
    named: BTreeMap<&'a [String], Vec<Named>>,
}

impl<'a> Imports<'a> {
    pub fn of(sources: &'a [Source]) -> Self {
        let named = sources.iter().map(|source| (&source.module[..], named(source)));
        Self { named: named.collect(), sources: sources.iter().map(|source| (&source.module[..], source)).collect() }
    }

    /// Returns each pair of files of which the first names something of the second, parent and child excepted.
    pub fn pairs(&self) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for (module, named) in &self.named {
            for other in named.iter().filter_map(|named| self.file(&named.path, 0)) {
                if !module.starts_with(other) && !other.starts_with(module) {
                    pairs.push((module.join("::"), other.join("::")));
                }
            }
        }
        pairs.sort();
        pairs.dedup();
        pairs
    }

    /// Returns the file that declares what a path names. Each `pub use` on the way is followed.
    fn file(&self, path: &[String], steps: usize) -> Option<&'a [String]> {
        let (file, rest) = (1..=path.len()).rev().find_map(|length| {
            let (file, _) = self.sources.get_key_value(&path[..length])?;
            Some((*file, &path[length..]))
        })?;
        let Some(name) = rest.first().filter(|name| steps < 8 && !self.declares(file, name)) else { return Some(file) };
        let offers = self.named[file].iter().filter_map(|named| Some((named.offered.as_deref()?, &named.path)));
        for (offered, offer) in offers {
            if offered == name && *offer != path {
                return self.file(&[offer, &rest[1..]].concat(), steps + 1);
            }
            let all = offer.split_last().filter(|_| offered == "*").and_then(|(_, all)| self.file(all, steps + 1));
            if let Some(all) = all.filter(|all| self.declares(all, name)) {
                return Some(all);
            }
        }
        Some(file)
    }

    fn declares(&self, file: &[String], name: &str) -> bool {
        let kinds = ["struct", "enum", "trait", "type", "fn", "const", "static"];
        self.sources[file].code.lines().filter(|line| !line.starts_with([' ', '}'])).any(|line| {
            let words: Vec<_> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            words.windows(2).any(|pair| kinds.contains(&pair[0]) && pair[1] == name)
        })
    }
}

/// Returns what a source names, in `use` declarations and elsewhere.
pub fn named(source: &Source) -> Vec<Named> {
    let (uses, rest) = split(&source.code);
    let mut all = Vec::new();
    for (is_public, tree) in uses {
        for path in expand(&tree) {
            let (path, alias) = path.split_once(" as ").unwrap_or_else(|| (&path, path.rsplit("::").next().unwrap()));
            let Some(path) = absolute(&source.module, path) else { continue };
            all.push((alias.to_owned(), Named { path, offered: is_public.then(|| alias.to_owned()) }));
        }
    }
    let local: BTreeMap<_, _> = all.iter().map(|(name, named)| (name.clone(), named.path.clone())).collect();
    for path in inline(&rest) {
        let (head, tail) = path.split_once("::").unwrap_or((&path, ""));
        let through =
            local.get(head).map(|path| path.iter().cloned().chain(tail.split("::").map(str::to_owned)).collect());
        let path = through.or_else(|| absolute(&source.module, &path));
        all.extend(path.map(|path| (String::new(), Named { path, offered: None })));
    }
    all.into_iter().map(|(_, named)| named).collect()
}

/// Splits code into its `use` trees, each with whether it is public, and all other code.
fn split(code: &str) -> (Vec<(bool, String)>, String) {
    let (mut uses, mut rest) = (Vec::new(), String::new());
    let mut statements = code.split_inclusive(";\n");
    for statement in &mut statements {
        let begin = statement.lines().position(|line| is_use(line.trim_start()));
        let Some(begin) = begin else {
            rest.push_str(statement);
            continue;
        };
        let (before, tree) = (statement.lines().take(begin), statement.lines().skip(begin));
        rest.extend(before.map(|line| format!("{line}\n")));
        let tree = tree.map(str::trim).collect::<Vec<_>>().join(" ");
        let (visibility, tree) = tree.split_once("use ").unwrap();
        uses.push((!visibility.is_empty(), tree.trim_end_matches(';').to_owned()));
    }
    (uses, rest)
}

fn is_use(line: &str) -> bool {
    let line = line.strip_prefix("pub").map_or(line, |rest| match rest.strip_prefix('(') {
        Some(rest) => rest.split_once(')').map_or("", |(_, rest)| rest),
        None => rest,
    });
    line.trim_start().starts_with("use ")
}

/// Returns all paths of a `use` tree: `a::{b, c::d}` names `a::b` and `a::c::d`.
fn expand(tree: &str) -> Vec<String> {
    let Some((head, list)) = tree.split_once('{') else { return vec![tree.trim().to_owned()] };
    let list = list.trim_end().strip_suffix('}').unwrap();
    let (mut depth, mut items) = (0, vec![String::new()]);
    for letter in list.chars() {
        match (letter, depth) {
            (',', 0) => items.push(String::new()),
            _ => items.last_mut().unwrap().push(letter),
        }
        depth += i32::from(letter == '{') - i32::from(letter == '}');
    }
    let items = items.iter().map(|item| item.trim()).filter(|item| !item.is_empty());
    items.flat_map(expand).map(|item| format!("{}{item}", head.trim())).collect()
}

/// Returns the paths of several words in code.
fn inline(code: &str) -> Vec<String> {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
    let words = code.split(|c: char| !is_part(c)).map(|word| word.trim_matches(':'));
    words.filter(|word| word.contains("::")).map(str::to_owned).collect()
}

/// Returns a path from the root of the crate; none for a path into another crate.
fn absolute(module: &[String], path: &str) -> Option<Vec<String>> {
    let mut words = path.split("::").filter(|word| *word != "self").peekable();
    let mut base = module.to_vec();
    match path.split("::").next()? {
        "crate" => {
            words.next();
            base.clear();
        }
        "super" => {
            while words.next_if_eq(&"super").is_some() {
                base.pop();
            }
        }
        "self" => {}
        _ => return None,
    }
    base.extend(words.map(str::to_owned));
    Some(base)
}

#[test]
fn trees_are_expanded_to_paths() {
    let paths = |text| split(text).0.iter().flat_map(|(_, tree)| expand(tree)).collect::<Vec<_>>();
    assert_eq!(paths("use crate::a::B;\n"), ["crate::a::B"]);
    assert_eq!(
        paths("pub(super) use crate::{\n    a::{B, self},\n    c as d,\n};\n"),
        ["crate::a::B", "crate::a::self", "crate::c as d"]
    );
    assert_eq!(inline("fn f(a: super::B) -> crate::c::D<std::E> {}"), ["super::B", "crate::c::D", "std::E"]);
}
