//! The format of a log line: `key=value` for people, one JSON object for programs; the same keys in the same order.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::io::Write as _;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::attribute::AttributeValue;
use crate::config::LogFormat;
use crate::model::member_name::MemberName;

/// What all lines of one log have in common. A clone is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineStyle {
    /// The format.
    pub format: LogFormat,
    /// The member that writes; `None`: it has no name, and its lines do not show one.
    pub member: Option<MemberName>,
}

impl LineStyle {
    /// Returns the style of lines for programs, by the same member.
    #[must_use]
    pub(super) fn json(&self) -> Self {
        Self { format: LogFormat::Json, ..self.clone() }
    }
}

impl From<LogFormat> for LineStyle {
    /// Makes the style of lines without a member.
    fn from(format: LogFormat) -> Self {
        Self { format, member: None }
    }
}

/// The value of a key.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum FieldValue<'a> {
    /// A text, in quotes if it needs them.
    Word(Cow<'a, str>),
    /// A text that is always in quotes, so that its column looks the same on each line.
    Quoted(Cow<'a, str>),
    /// Several words.
    Words(Vec<Cow<'a, str>>),
    /// An address.
    Address(IpAddr),
    /// A count.
    Count(u64),
    /// Milliseconds, in tenths.
    Millis(#[serde(serialize_with = "millis")] u64),
}

fn millis<S: Serializer>(tenths: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(*tenths as f64 / 10.0)
}

impl<'a> FieldValue<'a> {
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

impl From<FieldValue<'_>> for AttributeValue {
    fn from(value: FieldValue<'_>) -> Self {
        match value {
            FieldValue::Word(text) | FieldValue::Quoted(text) => Self::Text(text.into_owned()),
            FieldValue::Words(words) => Self::Text(words.join(",")),
            FieldValue::Address(address) => Self::Text(address.to_string()),
            FieldValue::Count(count) => count.into(),
            FieldValue::Millis(tenths) => Self::Fraction(tenths as f64 / 10.0),
        }
    }
}

/// Cuts a long text: lines wait in a queue, so a client could claim memory by their length.
fn shortened(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.len() <= LONGEST {
        return text;
    }
    match text.char_indices().nth(LONGEST) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]).into(),
    }
}

/// Returns a line without its newline: time, kind, member, fields. No value can leave its field or its line.
pub(super) fn render(style: &LineStyle, now: Timestamp, kind: &str, fields: &[(&str, FieldValue<'_>)]) -> String {
    let mut line = Vec::new();
    write(&mut line, style, now, kind, fields);
    String::from_utf8(line).expect("the parts of a line are texts")
}

/// Appends a line, as [`render`] returns it.
pub(super) fn write<'f>(
    line: &mut Vec<u8>,
    style: &LineStyle,
    now: Timestamp,
    kind: &'f str,
    fields: impl IntoIterator<Item = &'f (&'f str, FieldValue<'f>)>,
) {
    match style.format {
        LogFormat::Text => text(line, style.member.as_ref(), now, kind, fields),
        LogFormat::Json => json(line, style.member.as_ref(), now, kind, fields),
    }
}

fn text<'f>(
    line: &mut Vec<u8>,
    member: Option<&MemberName>,
    now: Timestamp,
    kind: &'f str,
    fields: impl IntoIterator<Item = &'f (&'f str, FieldValue<'f>)>,
) {
    line.extend_from_slice(time(now).as_bytes());
    line.push(b' ');
    line.extend_from_slice(kind.as_bytes());
    let member = member_field(member);
    let fields = fields.into_iter().map(|(key, value)| (*key, value));
    for (key, value) in member.iter().map(|(key, value)| (*key, value)).chain(fields) {
        line.push(b' ');
        line.extend_from_slice(key.as_bytes());
        line.push(b'=');
        value.write(line);
    }
}

fn json<'f>(
    line: &mut Vec<u8>,
    member: Option<&MemberName>,
    now: Timestamp,
    kind: &'f str,
    fields: impl IntoIterator<Item = &'f (&'f str, FieldValue<'f>)>,
) {
    let time = time(now);
    let time = ("time", FieldValue::word(time.as_str()));
    let kind = ("kind", FieldValue::word(kind));
    let member = member_field(member);
    let begin = [&time, &kind].into_iter().chain(&member).map(|(key, value)| (*key, value));
    let entries = begin.chain(fields.into_iter().map(|(key, value)| (*key, value)));
    // Not a `Map`, which would sort the keys.
    serde_json::Serializer::new(line).collect_map(entries).expect("texts and numbers always serialize");
}

fn member_field(member: Option<&MemberName>) -> Option<(&str, FieldValue<'_>)> {
    member.map(|member| ("member", FieldValue::word(member.as_str())))
}

// === Time ===

/// A formatted second, `2026-11-22T21:00:00`; lines of the same second share it.
#[derive(Clone, Copy)]
struct SecondText {
    of: i64,
    text: [u8; 19],
}

/// A formatted time with milliseconds.
struct TimeText([u8; 24]);

impl TimeText {
    fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("digits and signs are ASCII")
    }

    fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

thread_local! {
    static LAST: Cell<Option<SecondText>> = const { Cell::new(None) };
}

fn time(now: Timestamp) -> TimeText {
    let millis = now.as_millisecond();
    let (of, rest) = (millis.div_euclid(1000), millis.rem_euclid(1000) as u16);
    let second = LAST.get().filter(|last| last.of == of).unwrap_or_else(|| second(of));
    LAST.set(Some(second));
    let mut text = *b"0000-00-00T00:00:00.000Z";
    text[..19].copy_from_slice(&second.text);
    for (index, digit) in [(20, rest / 100), (21, rest / 10 % 10), (22, rest % 10)] {
        text[index] = b'0' + digit as u8;
    }
    TimeText(text)
}

fn second(of: i64) -> SecondText {
    let written = Timestamp::from_second(of).map(|second| format!("{second:.0}")).unwrap_or_default();
    let mut text = *b"0000-00-00T00:00:00";
    if let Some(bytes) = written.as_bytes().get(..19) {
        text.copy_from_slice(bytes);
    }
    SecondText { of, text }
}

// === Values ===

impl FieldValue<'_> {
    fn write(&self, line: &mut Vec<u8>) {
        match self {
            Self::Word(text) if is_plain(text) => line.extend_from_slice(text.as_bytes()),
            // A target is usually escaped already: then it needs only quotes.
            Self::Quoted(text) if is_bare(text) => {
                line.push(b'"');
                line.extend_from_slice(text.as_bytes());
                line.push(b'"');
            }
            // Rust's `Debug` escapes line ends, terminal controls and right-to-left overrides.
            Self::Word(text) | Self::Quoted(text) => put(line, format_args!("{text:?}")),
            Self::Words(words) => Self::Word(words.join(",").into()).write(line),
            Self::Address(address) => put(line, format_args!("{address}")),
            Self::Count(count) => put(line, format_args!("{count}")),
            Self::Millis(tenths) => put(line, format_args!("{}.{}", tenths / 10, tenths % 10)),
        }
    }
}

fn put(line: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    line.write_fmt(text).expect("writing to memory does not fail");
}

/// Returns whether Rust's `Debug` would leave a text unchanged.
fn is_bare(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\')
}

fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"'\\=".contains(&byte);
    !text.is_empty() && text.bytes().all(plain)
}

/// How many characters of one value a line shows.
const LONGEST: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: LogFormat, text: &str) -> String {
        let now = "2026-11-22T21:00:00.1239Z".parse().unwrap();
        render(
            &format.into(),
            now,
            "test",
            &[("word", FieldValue::word(text)), ("n", FieldValue::Count(7)), ("ms", FieldValue::Millis(12))],
        )
    }

    #[track_caller]
    fn check(word: &str, expected: &str) {
        let expected = format!("2026-11-22T21:00:00.123Z test word={expected} n=7 ms=1.2");
        assert_eq!(line(LogFormat::Text, word), expected);
    }

    #[test]
    fn a_member_stands_before_the_fields() {
        let check = |format, expected: &str| {
            let style = LineStyle { format, member: Some("edge-1".parse().unwrap()) };
            assert_eq!(render(&style, Timestamp::UNIX_EPOCH, "test", &[("n", FieldValue::Count(7))]), expected);
        };
        check(LogFormat::Text, "1970-01-01T00:00:00.000Z test member=edge-1 n=7");
        check(LogFormat::Json, r#"{"time":"1970-01-01T00:00:00.000Z","kind":"test","member":"edge-1","n":7}"#);
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
        let mut line = Vec::new();
        FieldValue::quoted("x".repeat(LONGEST * 2)).write(&mut line);
        assert!(line.len() < LONGEST + 10);
    }

    #[test]
    fn nothing_breaks_out_of_its_line() {
        check("a\r\nb", r#""a\r\nb""#);
        check("\u{1b}[31m", r#""\u{1b}[31m""#);
        check("\u{9b}\u{202e}\u{2028}", r#""\u{9b}\u{202e}\u{2028}""#);
        let json = line(LogFormat::Json, "a\r\n\"b\0");
        assert_eq!(json, r#"{"time":"2026-11-22T21:00:00.123Z","kind":"test","word":"a\r\n\"b\u0000","n":7,"ms":1.2}"#);
    }

    #[test]
    fn times_are_those_of_the_library() {
        let times = ["2026-11-22T21:00:00.1239Z", "2026-11-22T21:00:00.999999Z", "2026-11-22T21:00:01Z"];
        for text in
            times.into_iter().chain(["1970-01-01T00:00:00Z", "1969-12-31T23:59:59.001Z", "9999-12-30T22:00:00Z"])
        {
            let now: Timestamp = text.parse().unwrap();
            assert_eq!(time(now).as_str(), format!("{now:.3}"));
        }
    }

    #[test]
    fn a_text_with_quotes_around_it_is_as_rust_would_quote_it() {
        for text in ["", "/a?b=c d", "'", "\"", "\\", "\u{7f}", "é", "\t"] {
            let mut line = Vec::new();
            FieldValue::quoted(text).write(&mut line);
            assert_eq!(String::from_utf8(line).unwrap(), format!("{text:?}"));
        }
    }
}
