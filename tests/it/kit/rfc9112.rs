//! A strict parser of HTTP/1.1 messages by RFC 9112, for the tests that compare exchanges.
//!
//! Bytes are kept as text in which each character is one byte (Latin-1), so that failures can be read.

pub type Field = (String, String);

/// A message as it came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// The request line or the status line.
    pub start: String,
    pub fields: Vec<Field>,
    pub framing: Framing,
    pub body: String,
    pub trailers: Vec<Field>,
}

/// The framing of a body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Framing {
    /// There is no body.
    #[default]
    None,
    Length,
    /// Chunks with these heads.
    Chunks(Vec<String>),
    /// The end of the connection.
    Close,
    /// The frames of HTTP/2.
    Frames,
}

/// The result of parsing a message of which only these bytes have arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// It is whole, and this many bytes long.
    Whole(Message, usize),
    /// Its end has not come.
    Partial,
    /// It is no message.
    Wrong(String),
}
use Reading::{Partial, Whole, Wrong};

pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

pub fn bytes(latin1: &str) -> Vec<u8> {
    latin1.chars().map(|char| u8::try_from(char).unwrap()).collect()
}

impl Message {
    /// Returns the values of a field, whatever the case of its name.
    pub fn all<'m>(&'m self, name: &'m str) -> impl Iterator<Item = &'m str> {
        self.fields.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Returns the words of the first line.
    pub fn words(&self) -> Vec<&str> {
        self.start.splitn(3, ' ').collect()
    }

    fn codings(&self) -> Vec<String> {
        self.all("transfer-encoding").map(str::to_ascii_lowercase).collect()
    }
}

/// Reads the first request in some bytes.
pub fn request(bytes: &[u8]) -> Reading {
    let (mut message, at) = match head(bytes) {
        Ok(Some(found)) => found,
        Ok(None) => return Partial,
        Err(why) => return Wrong(why),
    };
    let lengths: Vec<_> = message.all("content-length").map(str::to_owned).collect();
    let end = match (message.codings().as_slice(), lengths.as_slice()) {
        ([], []) => Ok(Some(at)),
        ([], [length]) => sized(&mut message, length, &bytes[at..]).map(|end| end.map(|end| at + end)),
        ([coding], []) if coding == "chunked" => chunked(&mut message, &bytes[at..]).map(|end| end.map(|end| at + end)),
        several => Err(format!("two framings: {several:?}")),
    };
    reading(message, end)
}

/// Reads the first answer in some bytes, `ended` when no more will come. A HEAD asks for an answer without body.
pub fn answer(bytes: &[u8], to_head: bool, ended: bool) -> Reading {
    let (mut message, at) = match head(bytes) {
        Ok(Some(found)) => found,
        Ok(None) => return Partial,
        Err(why) => return Wrong(why),
    };
    let status = message.words().get(1).map_or("", |word| word).to_owned();
    let length = message.all("content-length").next().map(str::to_owned);
    let end = if to_head || status.starts_with('1') || status == "204" || status == "304" {
        Ok(Some(at))
    } else if message.codings() == ["chunked"] {
        chunked(&mut message, &bytes[at..]).map(|end| end.map(|end| at + end))
    } else if let Some(length) = length {
        sized(&mut message, &length, &bytes[at..]).map(|end| end.map(|end| at + end))
    } else {
        message.framing = Framing::Close;
        message.body = latin1(&bytes[at..]);
        Ok(ended.then_some(bytes.len()))
    };
    reading(message, end)
}

fn reading(message: Message, end: Result<Option<usize>, String>) -> Reading {
    match end {
        Ok(Some(end)) => Whole(message, end),
        Ok(None) => Partial,
        Err(why) => Wrong(why),
    }
}

/// Reads a head and returns where it ends.
fn head(bytes: &[u8]) -> Result<Option<(Message, usize)>, String> {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let text = latin1(&bytes[..end]);
    let (start, lines) = text.split_once("\r\n").unwrap_or((&text, ""));
    let fields = fields(lines)?;
    Ok(Some((Message { start: start.to_owned(), fields, ..Message::default() }, end + 4)))
}

fn fields(lines: &str) -> Result<Vec<Field>, String> {
    lines.split("\r\n").filter(|line| !line.is_empty()).map(field).collect()
}

fn field(line: &str) -> Result<Field, String> {
    let is_token = |char: char| char.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(char);
    match line.split_once(':') {
        Some((name, value))
            if !name.is_empty() && name.chars().all(is_token) && !value.contains(['\r', '\n', '\0']) =>
        {
            Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
        }
        _ => Err(format!("no field: {line:?}")),
    }
}

fn sized(message: &mut Message, length: &str, rest: &[u8]) -> Result<Option<usize>, String> {
    if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("no length: {length:?}"));
    }
    let length: usize = length.parse().map_err(|_| format!("no length: {length:?}"))?;
    message.framing = Framing::Length;
    let Some(body) = rest.get(..length) else { return Ok(None) };
    message.body = latin1(body);
    Ok(Some(length))
}

fn chunked(message: &mut Message, rest: &[u8]) -> Result<Option<usize>, String> {
    let (mut heads, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = find(&rest[at..], b"\r\n") else { return Ok(None) };
        let line = latin1(&rest[at..at + end]);
        let digits = line.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(digits, 16).map_err(|_| format!("no chunk: {line:?}"))?;
        at += end + 2;
        heads.push(line);
        if size == 0 {
            break;
        }
        let Some(chunk) = rest.get(at..at + size + 2) else { return Ok(None) };
        let Some(chunk) = chunk.strip_suffix(b"\r\n") else { return Err("a chunk has no end".into()) };
        message.body.push_str(&latin1(chunk));
        at += size + 2;
    }
    message.framing = Framing::Chunks(heads);
    if rest[at..].starts_with(b"\r\n") {
        return Ok(Some(at + 2));
    }
    let Some(end) = find(&rest[at..], b"\r\n\r\n") else { return Ok(None) };
    message.trailers = fields(&latin1(&rest[at..at + end]))?;
    Ok(Some(at + end + 4))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[test]
fn messages_end_where_the_law_says() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\n";
    for (rest, expected) in [
        ("\r\n", Some("")),
        ("\r\nmore", Some("")),
        ("Content-Length: 2\r\n\r\nabc", Some("ab")),
        ("Content-Length: 2\r\n\r\na", None),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX: 1\r\n\r\nmore", Some("ab")),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n", None),
    ] {
        let found = match request(format!("{head}{rest}").as_bytes()) {
            Whole(message, _) => Some(message.body),
            Partial => None,
            Wrong(why) => panic!("{rest:?}: {why}"),
        };
        assert_eq!(found.as_deref(), expected, "{rest:?}");
    }
    for wrong in [
        "Content-Length: 2\r\nContent-Length: 2\r\n\r\nab",
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: +2\r\n\r\nab",
        "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n2\r\nabc0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nx\r\n",
        "X : y\r\n\r\n",
        "X: a\nb\r\n\r\n",
    ] {
        assert!(matches!(request(format!("{head}{wrong}").as_bytes()), Wrong(_)), "{wrong:?}");
    }
}
