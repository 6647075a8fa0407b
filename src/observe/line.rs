//! The form of a log line: `key=value` for people, one JSON object for programs; the same keys in the same order.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use jiff::Timestamp;
use serde::{Serialize, Serializer as _};

use crate::config::Format;

/// The value of one key.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Value<'a> {
    /// A text, in quotes if it needs them.
    Word(Cow<'a, str>),
    /// A text that stands in quotes always, so its column looks the same on each line.
    Quoted(Cow<'a, str>),
    /// Several words.
    Words(Vec<Cow<'a, str>>),
    /// A count.
    Count(u64),
    /// Milliseconds.
    Millis(f64),
}

impl<'a> Value<'a> {
    /// Makes a word.
    pub(super) fn word(text: impl Into<Cow<'a, str>>) -> Self {
        Self::Word(shortened(text.into()))
    }

    /// Makes a list of words.
    pub(super) fn words(texts: impl Iterator<Item = &'a str>) -> Self {
        Self::Words(texts.map(|text| shortened(text.into())).collect())
    }

    /// Makes a text in quotes.
    pub(super) fn quoted(text: impl Into<Cow<'a, str>>) -> Self {
        Self::Quoted(shortened(text.into()))
    }
}

/// Cuts a long text: lines wait in a queue, so their length is memory a stranger could claim.
fn shortened(text: Cow<'_, str>) -> Cow<'_, str> {
    match text.char_indices().nth(LONGEST) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]).into(),
    }
}

/// Returns a line without its end: time, kind, fields. No value can break out of its place or its line.
pub(super) fn render(format: Format, now: Timestamp, kind: &str, fields: &[(&str, Value<'_>)]) -> String {
    match format {
        Format::Text => text(now, kind, fields),
        Format::Json => json(now, kind, fields),
    }
}

fn text(now: Timestamp, kind: &str, fields: &[(&str, Value<'_>)]) -> String {
    let mut line = format!("{now:.3} {kind}");
    for (key, value) in fields {
        write!(line, " {key}={value}").expect("writing to a string does not fail");
    }
    line
}

fn json(now: Timestamp, kind: &str, fields: &[(&str, Value<'_>)]) -> String {
    let time = ("time", Value::word(format!("{now:.3}")));
    let kind = ("kind", Value::word(kind));
    let entries = [&time, &kind].into_iter().chain(fields).map(|(key, value)| (key, value));
    let mut line = Vec::new();
    // Not a `Map`, which would sort the keys.
    serde_json::Serializer::new(&mut line).collect_map(entries).expect("texts and numbers always serialize");
    String::from_utf8(line).expect("JSON is UTF-8")
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(text) if is_plain(text) => f.write_str(text),
            // Rust's own quoting escapes line ends, terminal controls and text that runs backwards.
            Self::Word(text) | Self::Quoted(text) => write!(f, "{text:?}"),
            Self::Words(words) => Self::Word(words.join(",").into()).fmt(f),
            Self::Count(count) => write!(f, "{count}"),
            Self::Millis(millis) => write!(f, "{millis:.1}"),
        }
    }
}

fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"'\\=".contains(&byte);
    !text.is_empty() && text.bytes().all(plain)
}

/// How many characters of one value are told.
const LONGEST: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: Format, text: &str) -> String {
        let now = "2026-11-22T21:00:00.1239Z".parse().unwrap();
        render(format, now, "test", &[("word", Value::word(text)), ("n", Value::Count(7)), ("ms", Value::Millis(1.25))])
    }

    #[track_caller]
    fn check(word: &str, expected: &str) {
        let expected = format!("2026-11-22T21:00:00.123Z test word={expected} n=7 ms=1.2");
        assert_eq!(line(Format::Text, word), expected);
    }

    #[test]
    fn plain_words_stand_bare() {
        for word in ["GET", "app.example.com:8443", "2001:db8::1", "40@acme.test", "-"] {
            check(word, word);
        }
    }

    #[test]
    fn other_words_stand_in_quotes() {
        check("", r#""""#);
        check("a b", r#""a b""#);
        check("a=b", r#""a=b""#);
        check(r#"a"b"#, r#""a\"b""#);
        check(r"a\b", r#""a\\b""#);
    }

    #[test]
    fn long_texts_are_cut_and_say_so() {
        let long = "é".repeat(LONGEST);
        check(&long, &format!("\"{long}\""));
        check(&format!("{long}é"), &format!("\"{long}…\""));
        assert!(Value::quoted("x".repeat(LONGEST * 2)).to_string().len() < LONGEST + 10);
    }

    #[test]
    fn nothing_breaks_out_of_its_line() {
        check("a\r\nb", r#""a\r\nb""#);
        check("\u{1b}[31m", r#""\u{1b}[31m""#);
        check("\u{9b}\u{202e}\u{2028}", r#""\u{9b}\u{202e}\u{2028}""#);
        let json = line(Format::Json, "a\r\n\"b\0");
        assert_eq!(
            json,
            r#"{"time":"2026-11-22T21:00:00.123Z","kind":"test","word":"a\r\n\"b\u0000","n":7,"ms":1.25}"#
        );
    }
}
