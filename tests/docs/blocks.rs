//! Documents, and the blocks of code in them.

use std::fs;
use std::path::{Path, PathBuf};

/// The most blocks that may say that they cannot be run.
const MOST_NOT_RUN: usize = 7;

/// The beginning of a block that cannot be run; the reason follows.
const NOT_RUN: &str = "# not run: ";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Commands that must succeed.
    Sh,
    /// Commands of an installation, which `tests/package/run` runs on a machine of its own.
    Installation,
    /// Commands behind `$ `, each with its output; `…` stands for any text.
    Console,
    /// A configuration, or tables of one.
    Toml,
    /// An answer of the app, for callgate to give a session to.
    Http,
    /// A script of a page.
    Js,
    /// A page with a link to callgate.
    Html,
    Json,
    /// A configuration of HAProxy; `tests/it/members/balancer.rs` runs it.
    Haproxy,
    /// A configuration of nginx; `tests/it/login/behind_nginx.rs` runs it.
    Nginx,
    /// A systemd unit.
    Ini,
    /// A part of an app, in the language that the app is written in: run as a recipe, or by `tests/it/login/link_recipes.rs`.
    App,
    /// Diagrams, log lines and other text that is not typed.
    Text,
}

#[derive(Debug, Clone)]
pub struct Block {
    pub place: String,
    pub kind: Kind,
    pub text: String,
}

impl Block {
    pub fn reason_not_to_run(&self) -> Option<&str> {
        self.text.lines().next()?.strip_prefix(NOT_RUN)
    }
}

pub fn documents() -> Vec<PathBuf> {
    let mut files: Vec<_> =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"].map(PathBuf::from).into();
    let is_text = |path: &PathBuf| path.is_file() && path.extension().is_some_and(|kind| kind == "md");
    files.extend(fs::read_dir("docs").unwrap().map(|entry| entry.unwrap().path()).filter(is_text));
    files.sort();
    files
}

fn kind(word: &str, place: &str) -> Kind {
    match word {
        "sh" => Kind::Sh,
        "bash" => Kind::Installation,
        "console" => Kind::Console,
        "toml" => Kind::Toml,
        "http" => Kind::Http,
        "js" => Kind::Js,
        "html" => Kind::Html,
        "json" => Kind::Json,
        "ini" => Kind::Ini,
        "php" | "javascript" | "python" | "ruby" | "go" | "csharp" => Kind::App,
        "haproxy" => Kind::Haproxy,
        "nginx" => Kind::Nginx,
        "text" => Kind::Text,
        word => panic!("{place}: a block of the kind {word:?} is not checked by anything"),
    }
}

/// Splits a document into the prose and its blocks.
pub fn split(path: &Path) -> (String, Vec<Block>) {
    let (mut prose, mut blocks, mut open) = (String::new(), Vec::new(), None::<Block>);
    for (index, line) in fs::read_to_string(path).unwrap().lines().enumerate() {
        let place = format!("{}:{}", path.display(), index + 1);
        match (line.strip_prefix("```"), open.take()) {
            (Some(word), None) => open = Some(Block { kind: kind(word, &place), place, text: String::new() }),
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(block)) => open = Some(Block { text: format!("{}{line}\n", block.text), ..block }),
            (None, None) => prose.push_str(&format!("{line}\n")),
        }
    }
    assert!(open.is_none(), "{}: a block has no end", path.display());
    (prose, blocks)
}

pub fn blocks(path: &str) -> Vec<Block> {
    split(Path::new(path)).1
}

pub fn all_blocks(kind: Kind) -> Vec<Block> {
    documents().iter().flat_map(|path| split(path).1).filter(|block| block.kind == kind).collect()
}

pub fn is_whole(text: &str) -> bool {
    text.starts_with("listen = ") && text.contains("[[allow]]")
}

pub fn readme_configuration() -> String {
    let whole = blocks("README.md").into_iter().find(|block| block.kind == Kind::Toml && is_whole(&block.text));
    whole.expect("README.md has a whole configuration").text
}

#[test]
fn few_blocks_are_not_run_and_those_say_why() {
    let blocks: Vec<_> = documents().iter().flat_map(|path| split(path).1).collect();
    assert!(blocks.len() > 30, "{} blocks", blocks.len());
    let reasons: Vec<_> = blocks.iter().filter_map(Block::reason_not_to_run).collect();
    assert!(reasons.len() <= MOST_NOT_RUN, "{reasons:#?}");
    assert!(reasons.iter().all(|reason| reason.len() > 10), "{reasons:#?}");
}

/// `tests/package/run` takes its commands from docs/install.md, by the number of the block, and runs docs/walkthrough.md whole.
#[test]
fn every_command_of_an_installation_is_run() {
    let script = fs::read_to_string("tests/package/run").unwrap();
    let is_walked = |block: &Block| block.place.starts_with("docs/walkthrough.md:");
    let (walked, blocks): (Vec<_>, Vec<_>) = all_blocks(Kind::Installation).into_iter().partition(is_walked);
    assert!(!walked.is_empty() && script.contains("walk.py docs/walkthrough.md "));
    assert!(blocks.len() > 3 && blocks.iter().all(|block| block.place.starts_with("docs/install.md:")));
    for number in 1..=blocks.len() {
        assert!(script.contains(&format!("block {number} ")), "block {number}");
    }
    assert!(!script.contains(&format!("block {} ", blocks.len() + 1)));
}

#[test]
fn all_json_is_json() {
    for block in all_blocks(Kind::Json) {
        serde_json::from_str::<serde_json::Value>(&block.text)
            .unwrap_or_else(|error| panic!("{}: {error}", block.place));
    }
}

/// Returns the words of a cell that stand in back quotes.
pub fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}
