//! The fixed cases of tests/oracle/corpus.txt.

use super::client::{ClientBytes, Frames};
use crate::kit::rfc9112::bytes;

const CORPUS: &str = include_str!("../../../oracle/corpus.txt");

/// Returns all cases with their names.
pub fn all() -> Vec<(String, ClientBytes)> {
    let lines = CORPUS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| case(line).unwrap_or_else(|| panic!("tests/oracle/corpus.txt: {line}"))).collect()
}

fn case(line: &str) -> Option<(String, ClientBytes)> {
    let (name, said) = line.split_once(" | ")?;
    let (version, name) = name.split_once(' ')?;
    let words = match version {
        "h1" => ClientBytes::Http1(bytes(&plain(said)?)),
        "h2" => ClientBytes::Http2(frames(said)?),
        _ => return None,
    };
    Some((name.trim().into(), words))
}

/// Reads `name=value & name=value`, where `body=` is a DATA frame and fields behind `trailers=` are trailers.
fn frames(said: &str) -> Option<Frames> {
    let mut frames = Frames { head: Vec::new(), body: Vec::new(), trailers: Vec::new() };
    let mut trailing = false;
    for part in said.split(" & ") {
        let at = part[1..].find('=')? + 1;
        let (name, value) = (plain(&part[..at])?, plain(&part[at + 1..])?);
        match name.as_str() {
            "body" => frames.body.push(value),
            "trailers" => trailing = true,
            _ if trailing => frames.trailers.push((name, value)),
            _ => frames.head.push((name, value)),
        }
    }
    Some(frames)
}

/// Reads `\r`, `\n`, `\t`, `\0`, `\xHH` and `\\`.
fn plain(escaped: &str) -> Option<String> {
    let (mut plain, mut chars) = (String::new(), escaped.chars());
    while let Some(char) = chars.next() {
        if char != '\\' {
            plain.push(char);
            continue;
        }
        plain.push(match chars.next()? {
            'r' => '\r',
            'n' => '\n',
            't' => '\t',
            '0' => '\0',
            '\\' => '\\',
            'x' => {
                let digits: String = chars.by_ref().take(2).collect();
                char::from(u8::from_str_radix(&digits, 16).ok()?)
            }
            _ => return None,
        });
    }
    Some(plain)
}
