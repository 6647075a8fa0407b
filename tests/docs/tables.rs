//! Tables of the documents list what the code has: metrics, reasons, statuses, exit codes, floors.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use callgate::model::page_language::PageLanguage;
use callgate::model::page_text::PageText;
use http::StatusCode;

use crate::blocks::{quoted, readme_configuration, split};
use crate::machine::{Machine, meanwhile};
use crate::openmetrics;

/// Returns the cells of all rows that begin with a word in back quotes, under their headings.
pub fn rows(path: &str) -> Vec<(String, Vec<String>)> {
    let (mut heading, mut rows) = (String::new(), Vec::new());
    for line in split(Path::new(path)).0.lines() {
        if let Some(text) = line.strip_prefix("## ") {
            heading = text.replace('`', "");
        }
        if line.starts_with("| `") {
            let cells = line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
            rows.push((heading.clone(), cells));
        }
    }
    rows
}

#[test]
fn the_words_of_pages_are_listed() {
    let listed = rows("docs/pages.md").into_iter().map(|(_, cells)| (cells[0].replace('`', ""), cells[1].clone()));
    let texts = PageText::ALL.map(|(key, text)| (key.to_owned(), text.in_language(PageLanguage::English).to_owned()));
    assert_eq!(listed.collect::<Vec<_>>(), texts);
}

/// Asks the admin listener of a gate that runs for all its metrics.
fn live_metrics(machine: &mut Machine) -> Vec<openmetrics::Family> {
    machine.write_secrets();
    // No server publishes these keys; there are series for them all the same.
    let keys = "[[auth]]\ntype = \"jwt\"\njwks = \"http://127.0.0.1:1/\"\nissuer = \"a\"\naudience = \"b\"\n";
    let admin = "[admin]\nlisten = \"unix:admin.sock\"\n";
    // Only an upstream with several URLs has series for each.
    let app = "\"http://127.0.0.1:3000\"";
    let readme = readme_configuration().replacen(app, &format!("[{app}, \"http://127.0.0.1:1\"]"), 1);
    let configuration = format!("{readme}\n{keys}{admin}");
    machine.write("proxy.toml", &machine.real(&configuration));
    machine.start_gate();
    let mut stream = UnixStream::connect(machine.etc().join("admin.sock")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    openmetrics::read(answer.split_once("\r\n\r\n").unwrap().1)
}

#[tokio::test]
async fn every_metric_is_documented_with_its_type_and_labels_and_no_others_are() {
    meanwhile(|app, pbx| {
        let live = live_metrics(&mut Machine::new(app, pbx));
        let rows: Vec<_> = rows("docs/metrics.md").into_iter().map(|(_, cells)| cells[..3].to_vec()).collect();
        let shown = live.iter().map(|family| {
            let end = match family.kind.as_str() {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            let mut labels: Vec<_> = family.labels().into_iter().map(|name| format!("`{name}`")).collect();
            labels.sort_by_key(|name| {
                let row = rows.iter().find(|row| row[0].contains(&family.name)).map_or("", |row| &row[2]);
                row.find(name.as_str())
            });
            let labels = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
            vec![format!("`{}{end}`", family.name), family.kind.clone(), labels]
        });
        assert_eq!(shown.collect::<Vec<_>>(), rows);
        let samples: Vec<_> = live.iter().flat_map(|family| &family.samples).map(|(name, _, _)| name).collect();
        let text = fs::read_to_string("docs/metrics.md").unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("callgate_") || word.starts_with("process_")) {
            let known = samples.iter().any(|name| *name == word) || live.iter().any(|family| family.name == word);
            assert!(known, "docs/metrics.md: {word}");
        }
    })
    .await;
}

#[test]
fn every_reason_of_the_access_log_is_explained() {
    let source = fs::read_to_string("src/proxy/error.rs").unwrap();
    let rows: Vec<_> = rows("docs/troubleshoot.md").into_iter().map(|(_, cells)| cells).collect();
    let mut count = 0;
    for part in source.split("(StatusCode::").skip(1) {
        let Some((status, rest)) = part.split_once(", \"") else { continue };
        let code = rest.split('"').next().unwrap();
        let named = |status: &StatusCode| status.canonical_reason().unwrap_or("").to_uppercase().replace(' ', "_");
        let all = (300..600).filter_map(|number| StatusCode::from_u16(number).ok());
        let number = all.filter(|known| named(known) == status).map(|known| known.as_u16().to_string()).next();
        let row = rows.iter().find(|cells| cells[0] == format!("`{code}`")).unwrap_or_else(|| panic!("{code}"));
        assert_eq!(Some(&row[1]), number.as_ref(), "{code}");
        count += 1;
    }
    assert_eq!((count, rows.len()), (rows.len(), count));
}

/// Returns the statuses that our own failures have, as numbers.
fn statuses_of_failures() -> BTreeSet<String> {
    let source = fs::read_to_string("src/proxy/error.rs").unwrap();
    let names = source.split("(StatusCode::").skip(1).filter_map(|part| part.split_once(", \"")).map(|part| part.0);
    let all: Vec<_> = (300..600).filter_map(|number| StatusCode::from_u16(number).ok()).collect();
    let spelled = |status: &StatusCode| status.canonical_reason().unwrap_or("").to_uppercase().replace(' ', "_");
    names.map(|name| all.iter().find(|status| spelled(status) == name).unwrap().as_u16().to_string()).collect()
}

#[test]
fn the_readme_lists_every_status_of_a_failure_and_no_other() {
    let prose = split(Path::new("README.md")).0;
    let section = prose.split("\n## ").find(|section| section.starts_with("What callgate answers")).unwrap();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let told =
        cells.flat_map(|cell| cell.split(", ")).filter(|word| word.parse::<u16>().is_ok_and(|status| status >= 300));
    // The table lists a success as well: the way to the PBX.
    let told: BTreeSet<_> = told.filter(|status| *status != "303").map(str::to_owned).collect();
    assert_eq!(told, statuses_of_failures());
}

#[test]
fn every_exit_code_is_explained_and_no_others_are() {
    let source = fs::read_to_string("src/cli.rs").unwrap();
    let codes = source.lines().filter(|line| line.starts_with("const EX_"));
    let codes = codes.map(|line| line.rsplit("= ").next().unwrap().trim_end_matches(';').to_owned());
    let codes: BTreeSet<_> = codes.chain(["0", "1"].map(str::to_owned)).collect();
    let prose = split(Path::new("docs/operate.md")).0;
    let (_, table) = prose.split_once("| exit code | meaning |\n").unwrap();
    let rows = table.lines().skip(1).map_while(|line| line.strip_prefix("| ")?.split(" | ").next());
    assert_eq!(rows.map(str::to_owned).collect::<BTreeSet<_>>(), codes);
}

/// Returns what follows a text wherever it stands, up to a quotation mark.
pub fn named_behind(source: &str, text: &str) -> BTreeSet<String> {
    source.split(text).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

#[test]
fn every_part_of_readyz_is_explained_and_no_others_are() {
    let files = ["src/server.rs", "src/server/snapshot.rs", "src/proxy/shared.rs"];
    let sources: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let ways = ["parts.add(\"", "parts.add_unneeded(\"", "parts.add_described(format!(\""];
    let parts = ways.iter().flat_map(|way| named_behind(&sources, way));
    let parts: BTreeSet<_> = parts.map(|part| part.replace("{method}", "NAME")).collect();
    let prose = split(Path::new("docs/operate.md")).0;
    let (_, table) = prose.split_once("| part | not ready |\n").unwrap();
    let rows = table.lines().skip(1).map_while(|line| line.strip_prefix("| ")?.split(" | ").next());
    assert_eq!(rows.flat_map(quoted).map(str::to_owned).collect::<BTreeSet<_>>(), parts);
    let metrics = rows_of("docs/metrics.md", "callgate_ready");
    let missing: Vec<_> = parts.iter().filter(|part| !metrics.contains(&format!("`{part}`"))).collect();
    assert!(missing.is_empty(), "docs/metrics.md: {missing:?}");
}

/// Returns what a row says of a metric.
fn rows_of(path: &str, name: &str) -> String {
    let rows = rows(path).into_iter().map(|(_, cells)| cells);
    rows.filter(|cells| cells[0].contains(name)).map(|cells| cells[3].clone()).collect()
}

fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| if path.is_dir() { sources(&path) } else { fs::read_to_string(path).unwrap_or_default() })
        .collect()
}

#[test]
fn log_lines_that_are_explained_are_written_somewhere() {
    let sources = sources(Path::new("src"));
    let is_message = |span: &&str| {
        span.split(' ').count() > 3 && span.chars().all(|c| c.is_ascii_alphabetic() || matches!(c, ' ' | '\''))
    };
    let mut count = 0;
    for path in ["docs/operate.md", "docs/troubleshoot.md"] {
        let prose = split(Path::new(path)).0;
        for span in prose.split('`').skip(1).step_by(2).filter(is_message) {
            assert!(sources.contains(span), "{path}: {span}");
            count += 1;
        }
    }
    assert!(count > 5, "{count}");
}

#[test]
fn the_floors_are_those_of_the_codemap() {
    let floors = |path: &str, prefix: &str| -> Vec<(String, Vec<String>)> {
        let text = fs::read_to_string(path).unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix(prefix)).map(|row| row.split(" | "));
        rows.filter_map(|mut cells| {
            let floor = cells.next().filter(|cell| cell.parse::<u8>().is_ok())?.to_owned();
            Some((floor, cells.next()?.split('`').skip(1).step_by(2).map(str::to_owned).collect()))
        })
        .collect()
    };
    assert_eq!(floors("ARCHITECTURE.md", "| "), floors("src/lib.rs", "//! | "));
}
