//! Links and file names in the documents lead to something.

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

#[test]
fn links_lead_somewhere() {
    for path in documents().into_iter().chain(recipes()) {
        let prose = split(&path).0;
        for part in prose.split("](").skip(1) {
            let link = part.split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
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
