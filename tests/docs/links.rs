//! Links and file names in the documents lead to something.

use std::fs;
use std::path::Path;

use crate::blocks::{documents, split};
use crate::recipes::recipes;

#[test]
fn files_that_the_architecture_names_exist() {
    for word in split(Path::new("ARCHITECTURE.md")).0.split('`').skip(1).step_by(2) {
        if word.ends_with(".rs") {
            let found = Path::new(word).exists() || Path::new("src").join(word).exists();
            assert!(found || word.contains('<'), "{word}");
        }
    }
}

/// Names a heading as links do.
fn anchor(heading: &str) -> String {
    let kept = heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, '-' | ' ' | '_'))
        .collect::<String>();
    kept.replace(' ', "-")
}

/// `docs/SUMMARY.md` is the table of contents of the book that `mdbook build docs` makes.
#[test]
fn the_book_has_each_page_once() {
    let contents = split(Path::new("docs/SUMMARY.md")).0;
    let mut listed: Vec<_> = contents.split("](").skip(1).map(|part| part.split(')').next().unwrap()).collect();
    listed.sort_unstable();
    let pages = documents().into_iter().chain(recipes());
    let pages = pages.filter_map(|path| Some(path.strip_prefix("docs").ok()?.to_str()?.to_owned()));
    let mut pages: Vec<_> = pages.filter(|page| page != "SUMMARY.md").collect();
    pages.sort_unstable();
    pages.dedup();
    assert_eq!(listed, pages);
}

/// Returns the links of a page that lead to files or headings.
fn links(path: &Path) -> Vec<String> {
    let prose = split(path).0;
    let links = prose.split("](").skip(1).map(|part| part.split(')').next().unwrap().to_owned());
    links.filter(|link| !link.contains("://")).collect()
}

/// Returns what the package has below `/usr/share/doc/callgate`: folders and endings, or whole names.
fn packed() -> Vec<(String, String)> {
    let manifest = fs::read_to_string("Cargo.toml").unwrap().parse::<toml::Table>().unwrap();
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().unwrap();
    let sources = assets.iter().filter(|asset| asset[1].as_str().unwrap().starts_with("usr/share/doc/callgate/"));
    let sources = sources.map(|asset| asset[0].as_str().unwrap());
    sources.map(|source| source.split_once('*').unwrap_or((source, ""))).map(|(a, b)| (a.into(), b.into())).collect()
}

/// The package has the pages, too, and what they lead to but for sources.
#[test]
fn links_of_installed_pages_lead_to_installed_files() {
    let packed = packed();
    assert!(packed.len() > 10);
    let is_packed = |path: &str| {
        packed.iter().any(|(begin, end)| {
            path.strip_prefix(begin.as_str()).is_some_and(|rest| rest.ends_with(end.as_str()) && !rest.contains('/'))
        })
    };
    for path in documents().into_iter().chain(recipes()) {
        for link in links(&path).iter().filter(|link| !link.starts_with('#') && is_packed(path.to_str().unwrap())) {
            let file = link.split('#').next().unwrap();
            let target = fs::canonicalize(path.parent().unwrap().join(file)).unwrap_or_default();
            let target = target.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_str().unwrap();
            let is_source = target.starts_with("tests/") || target == "ARCHITECTURE.md";
            assert!(is_source || is_packed(target), "{}: {link}", path.display());
        }
    }
}

#[test]
fn links_lead_somewhere() {
    for path in documents().into_iter().chain(recipes()) {
        for link in links(&path) {
            let (file, place) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", path.display());
            if !place.is_empty() {
                let text = split(&target).0;
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|line| anchor(line.trim_start_matches(['#', ' '])) == place),
                    "{}: {link}",
                    path.display()
                );
            }
        }
    }
}
