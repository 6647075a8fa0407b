//! The source files of `src/`, without their tests and comments.

use std::fs;
use std::path::{Path, PathBuf};

/// A source file and the path of its module: `src/proxy/gate.rs` is `proxy`, `gate`.
#[derive(Debug)]
pub struct Source {
    pub module: Vec<String>,
    pub code: String,
}

impl Source {
    /// Returns a source from the path of its module, `proxy::gate`, and its text.
    pub fn new(module: &str, text: &str) -> Self {
        Self { module: module.split("::").map(str::to_owned).collect(), code: code(text) }
    }

    /// Returns the path of the module as Rust writes it.
    pub fn name(&self) -> String {
        self.module.join("::")
    }
}

/// Reads all files of `src/` but `lib.rs`, `main.rs` and files of tests.
pub fn sources() -> Vec<Source> {
    let mut sources: Vec<_> = files(Path::new("src")).iter().filter_map(|path| read(path)).collect();
    sources.sort_by(|one, other| one.module.cmp(&other.module));
    sources
}

fn read(path: &Path) -> Option<Source> {
    let inner = path.strip_prefix("src").unwrap().with_extension("");
    let name = inner.to_str().unwrap().replace('/', "::");
    (!matches!(name.as_str(), "lib" | "main")).then(|| Source::new(&name, &fs::read_to_string(path).unwrap()))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found = Vec::new();
    for path in entries {
        if path.is_dir() && !path.ends_with("tests") {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
    found
}

/// Returns a text without its module of tests and without lines that are comments.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn code_has_neither_comments_nor_tests() {
    assert_eq!(code("//! A.\nfn a() {\n    // b\n}\n#[cfg(test)]\nmod tests {\nuse c;\n"), "fn a() {\n}\n");
    assert!(sources().len() > 200, "{}", sources().len());
}
