//! Checks HTTP/1 requests before hyper parses them: every byte that frames a request, so that only requests pass that
//! all parsers read alike (RFC 9112).
//!
//! The guard works by lines. A head passes when it is complete and correct, the lines between chunks likewise, and
//! data at once. So the parser behind the guard never sees the beginning of a request that will be refused.

mod grammar;

pub(super) use self::grammar::check_target;
use self::grammar::{NAME, check_coding, chunk_size, field, number, span};
use super::framing::{MAX_FIELDS, MAX_HEAD, MAX_TARGET};
use super::newline;

/// The longest method, in bytes.
const MAX_METHOD: usize = 64;
/// The most empty lines before a request (RFC 9112 §2.2 asks for one).
const MAX_EMPTY: u8 = 2;
/// The longest line before a chunk, extensions included, in bytes.
const MAX_CHUNK_LINE: usize = 4 << 10;
/// The most bytes of trailers.
const MAX_TRAILERS: usize = 8 << 10;

/// The rule of HTTP/1 that a request violates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A CR or LF stands alone (RFC 9112 §2.2).
    #[error("a line does not end in CRLF")]
    LineEnd,
    /// The first line is not a method, a target and a version with one space between each (§3).
    #[error("the request line is not a method, a target and a version")]
    RequestLine,
    /// The method is not a token, or too long.
    #[error("the method is not one word")]
    Method,
    /// The target has bytes that must be percent-encoded, a fragment, or none of the four forms (§3.2).
    #[error("the request target is malformed")]
    Target,
    /// The target is too long.
    #[error("the request target is too long")]
    TargetSize,
    /// The protocol is not HTTP/1 (RFC 9110 §15.6.6).
    #[error("only HTTP/1.0 and HTTP/1.1 are supported")]
    Version,
    /// A field continues on a second line (RFC 9112 §5.2).
    #[error("a field continues on a second line")]
    Fold,
    /// A field name is not a token, or not directly before its colon (§5.1).
    #[error("a field's name is not one word before a colon")]
    Name,
    /// A field value has a control character (RFC 9110 §5.5).
    #[error("a field's value has a control character")]
    Value,
    /// A field value begins or ends with a space. HTTP/2 forbids that (RFC 9113 §8.2.1), and HTTP/1 ignores such
    /// spaces.
    #[error("a field's value begins or ends with a space")]
    Space,
    /// The whole head is too large.
    #[error("the request's head is too large")]
    HeadSize,
    /// There are too many fields.
    #[error("the request has too many fields")]
    Fields,
    /// `Content-Length` is not one number (RFC 9112 §6.3).
    #[error("the length is not one number")]
    Length,
    /// The transfer codings do not end in one `chunked`, or come in HTTP/1.0, or together with a length (§6.1, §6.3).
    #[error("the transfer coding is not chunked")]
    Coding,
    /// There are other transfer codings before `chunked` (§6.1).
    #[error("chunked is the only supported transfer coding")]
    UnknownCoding,
    /// The line before a chunk is not a length, or the end of a chunk is missing (§7.1).
    #[error("the chunks are malformed")]
    Chunk,
    /// The head has begun and does not end in time (RFC 9110 §15.5.9).
    #[error("the request's head did not come in time")]
    Late,
    /// Bytes followed a request for another protocol before its answer.
    #[error("bytes came before the change of protocol was answered")]
    Early,
}

/// Follows one connection from request to request.
#[derive(Debug, Default)]
pub struct Guard {
    place: GuardState,
    head: HeadFacts,
    heads: u64,
    /// The number of waiting bytes, from the front, whose lines have been checked.
    checked: usize,
    /// The number of waiting bytes behind those that have been searched for the end of a line.
    searched: usize,
}

/// The next part of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GuardState {
    Line(LineKind),
    /// This many bytes of data, then a line.
    Data(u64, LineKind),
    /// Unknown until the request is answered: another protocol, or the next request.
    Open,
}

/// The kinds of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineKind {
    /// A request line, after this many empty ones.
    Start(u8),
    Field,
    ChunkSize,
    ChunkEnd,
    Trailer,
}

/// The facts that the lines of a head have given so far.
#[derive(Debug, Default)]
struct HeadFacts {
    is_http_10: bool,
    is_get: bool,
    asks_websocket: bool,
    is_chunked: bool,
    length: Option<u64>,
    fields: usize,
}

impl Default for GuardState {
    fn default() -> Self {
        Self::Line(LineKind::Start(0))
    }
}

impl Guard {
    /// Checks the bytes that have not passed yet, those of earlier calls first. Returns how many of them pass now.
    ///
    /// # Errors
    /// When the bytes after those violate a rule.
    pub fn scan(&mut self, bytes: &mut [u8]) -> (usize, Result<(), Violation>) {
        let (mut gone, mut at) = (0, self.checked);
        let searched = std::mem::take(&mut self.searched);
        let looked = loop {
            match self.place {
                GuardState::Open => break Ok(()),
                GuardState::Data(left, then) => {
                    let here = bytes.len() - at;
                    let taken = usize::try_from(left).map_or(here, |left| left.min(here));
                    at += taken;
                    gone = at;
                    self.place = match left - taken as u64 {
                        0 => GuardState::Line(then),
                        left => GuardState::Data(left, then),
                    };
                    if at == bytes.len() {
                        break Ok(());
                    }
                }
                GuardState::Line(line) => {
                    // A line counts only if it ends within its bound.
                    let reach = bytes.len().min(gone + line.limit());
                    let from = at.max(searched);
                    let Some(length) = newline::end(&bytes[from..reach]) else {
                        self.searched = reach - gone;
                        break if reach < bytes.len() { Err(line.too_large()) } else { Ok(()) };
                    };
                    let end = from + length;
                    match self.pass(line, &mut bytes[at..end]) {
                        Ok(is_whole) => {
                            at = end + 1;
                            gone = if is_whole { at } else { gone };
                        }
                        Err(refusal) => break Err(refusal),
                    }
                }
            }
        };
        self.checked = at - gone;
        (gone, looked)
    }

    /// Checks one line, given without its line feed. Returns whether all waiting bytes may pass with it.
    fn pass(&mut self, kind: LineKind, line: &mut [u8]) -> Result<bool, Violation> {
        let Some((b'\r', line)) = line.split_last_mut() else { return Err(Violation::LineEnd) };
        let (next, is_whole) = match kind {
            LineKind::Start(MAX_EMPTY) if line.is_empty() => return Err(Violation::RequestLine),
            LineKind::Start(empty) if line.is_empty() => (LineKind::Start(empty + 1), false),
            LineKind::Start(_) => {
                self.head = HeadFacts::begin(line)?;
                (LineKind::Field, false)
            }
            LineKind::Field if line.is_empty() => {
                self.heads += 1;
                self.place = self.head.end();
                return Ok(true);
            }
            LineKind::Field => {
                self.head.add(line)?;
                (LineKind::Field, false)
            }
            LineKind::ChunkSize => match chunk_size(line)? {
                0 => (LineKind::Trailer, false),
                size => {
                    self.place = GuardState::Data(size, LineKind::ChunkEnd);
                    return Ok(true);
                }
            },
            LineKind::ChunkEnd if line.is_empty() => (LineKind::ChunkSize, true),
            LineKind::ChunkEnd => return Err(Violation::Chunk),
            LineKind::Trailer if line.is_empty() => (LineKind::Start(0), true),
            LineKind::Trailer => {
                field(line)?;
                (LineKind::Trailer, false)
            }
        };
        self.place = GuardState::Line(next);
        Ok(is_whole)
    }

    /// Returns the number of heads that have passed.
    #[must_use]
    pub const fn heads(&self) -> u64 {
        self.heads
    }

    /// Tells whether the last request asked for another protocol, so that no request may follow it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.place == GuardState::Open
    }

    /// Continues with the next request, because the last one did not change the protocol.
    pub fn stay(&mut self) {
        self.place = GuardState::default();
    }

    /// Tells whether a request has begun to pass and has not ended.
    #[must_use]
    pub fn is_in_body(&self) -> bool {
        !matches!(self.place, GuardState::Line(LineKind::Start(_) | LineKind::Field) | GuardState::Open)
    }
}

impl LineKind {
    /// The most bytes that may wait for the end of this line.
    const fn limit(self) -> usize {
        match self {
            Self::Start(_) => MAX_METHOD + MAX_TARGET + " HTTP/1.1\r\n\r\n\r\n\r\n".len(),
            Self::Field => MAX_HEAD,
            Self::ChunkSize => MAX_CHUNK_LINE,
            Self::ChunkEnd => "\r\n".len(),
            Self::Trailer => MAX_TRAILERS,
        }
    }

    const fn too_large(self) -> Violation {
        match self {
            Self::Start(_) => Violation::TargetSize,
            Self::Field => Violation::HeadSize,
            Self::ChunkSize | Self::ChunkEnd | Self::Trailer => Violation::Chunk,
        }
    }
}

impl HeadFacts {
    /// Reads a request line. A later minor version is read as HTTP/1.1 (RFC 9110 §2.5).
    fn begin(line: &mut [u8]) -> Result<Self, Violation> {
        let (method, rest) = line.split_at_mut(span(line, NAME));
        if method.is_empty() || method.len() > MAX_METHOD || rest.first() != Some(&b' ') {
            return Err(Violation::Method);
        }
        let Some((target, version)) = rest[1..].split_last_chunk_mut() else { return Err(Violation::RequestLine) };
        let [b' ', b'H', b'T', b'T', b'P', b'/', major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9'] = version else {
            return Err(Violation::RequestLine);
        };
        if *major != b'1' {
            return Err(Violation::Version);
        }
        check_target(method, target)?;
        *minor = (*minor).min(b'1');
        Ok(Self { is_http_10: *minor == b'0', is_get: method == b"GET", ..Self::default() })
    }

    /// Adds a field.
    fn add(&mut self, line: &[u8]) -> Result<(), Violation> {
        let (name, value) = field(line)?;
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err(Violation::Fields);
        }
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                let mut protocols = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                self.asks_websocket |= protocols.any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"));
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = number(value.trim_ascii(), 10).ok_or(Violation::Length)?;
                if self.is_chunked {
                    return Err(Violation::Coding);
                }
                if self.length.replace(length).is_some_and(|before| before != length) {
                    return Err(Violation::Length);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.is_chunked || self.is_http_10 || self.length.is_some() {
                    return Err(Violation::Coding);
                }
                check_coding(value.trim_ascii())?;
                self.is_chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns the part that follows the head.
    const fn end(&self) -> GuardState {
        match self.length {
            _ if self.is_chunked => GuardState::Line(LineKind::ChunkSize),
            Some(length @ 1..) => GuardState::Data(length, LineKind::Start(0)),
            _ if self.is_get && self.asks_websocket && !self.is_http_10 => GuardState::Open,
            _ => GuardState::Line(LineKind::Start(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\n";

    /// Checks bytes that come at once, and how many of them pass.
    #[track_caller]
    fn check(bytes: &str, gone: usize, expected: Result<(), Violation>) {
        let mut bytes = bytes.as_bytes().to_vec();
        assert_eq!(Guard::default().scan(&mut bytes), (gone, expected), "{}", bytes.escape_ascii());
    }

    #[test]
    fn a_head_goes_on_when_it_is_whole() {
        let mut guard = Guard::default();
        let mut held = Vec::new();
        for byte in format!("{HEAD}\r").bytes() {
            held.push(byte);
            assert_eq!(guard.scan(&mut held), (0, Ok(())));
        }
        held.push(b'\n');
        assert_eq!(guard.scan(&mut held), (HEAD.len() + 2, Ok(())));
        assert_eq!(guard.heads(), 1);
    }

    #[test]
    fn data_goes_on_as_it_comes() {
        let sized = format!("{HEAD}Content-Length: 5\r\n\r\n");
        check(&format!("{sized}ab"), sized.len() + 2, Ok(()));
        check(&format!("{sized}abcdeG"), sized.len() + 5, Ok(()));
        let chunked = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n");
        check(&format!("{chunked}5\r"), chunked.len(), Ok(()));
        check(&format!("{chunked}5\r\nab"), chunked.len() + 5, Ok(()));
        check(&format!("{chunked}5\r\nabcde\r\n0\r\n"), chunked.len() + 10, Ok(()));
        check(&format!("{chunked}5\r\nabcde\r\n0\r\n\r\n"), chunked.len() + 15, Ok(()));
    }

    #[test]
    fn nothing_of_what_is_refused_goes_on() {
        check(&format!("{HEAD}\r\n{HEAD} x\r\n"), HEAD.len() + 2, Err(Violation::Fold));
        check(&format!("{HEAD}Transfer-Encoding: chunked\r\n\r\nx\r\n"), HEAD.len() + 30, Err(Violation::Chunk));
    }

    #[test]
    fn what_follows_a_wish_for_another_protocol_stays() {
        let wish = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\n\r\n";
        let mut guard = Guard::default();
        let mut bytes = format!("{wish}{wish}").into_bytes();
        assert_eq!(guard.scan(&mut bytes), (wish.len(), Ok(())));
        assert!(guard.is_open());
        guard.stay();
        assert_eq!(guard.scan(&mut bytes[wish.len()..]), (wish.len(), Ok(())));
    }

    #[test]
    fn a_wish_for_a_websocket_is_seen_in_every_list() {
        for value in ["websocket", " WebSocket\t", "websocket,", ", websocket", "h2c, websocket"] {
            let wish = format!("GET / HTTP/1.1\r\nHost: a\r\nUpgrade:{value}\r\n\r\n");
            let mut guard = Guard::default();
            let mut bytes = format!("{wish}\0").into_bytes();
            assert_eq!((guard.scan(&mut bytes), guard.is_open()), ((wish.len(), Ok(())), true), "{value:?}");
        }
    }

    #[test]
    fn each_rule_has_its_name() {
        let field = |line: &str| format!("{HEAD}{line}\r\n\r\n");
        for (bytes, expected) in [
            ("GET / HTTP/1.1\n".to_owned(), Violation::LineEnd),
            ("GET / HTTP/1.1 \r\n".to_owned(), Violation::RequestLine),
            ("GET  / HTTP/1.1\r\n".to_owned(), Violation::Target),
            ("\r\n\r\n\r\n".to_owned(), Violation::RequestLine),
            ("G(T / HTTP/1.1\r\n".to_owned(), Violation::Method),
            ("GET /# HTTP/1.1\r\n".to_owned(), Violation::Target),
            ("GET * HTTP/1.1\r\n".to_owned(), Violation::Target),
            ("GET / HTTP/2.0\r\n".to_owned(), Violation::Version),
            (format!("GET /{} HTTP/1.1\r\n", "a".repeat(MAX_TARGET)), Violation::TargetSize),
            (field(" x"), Violation::Fold),
            (field("X : y"), Violation::Name),
            (field("X: \0"), Violation::Value),
            (field(&"X: y\r\n".repeat(MAX_FIELDS)), Violation::Fields),
            (field(&"a".repeat(MAX_HEAD)), Violation::HeadSize),
            (field("Content-Length: +5"), Violation::Length),
            (field("Content-Length: 5\r\nContent-Length: 6"), Violation::Length),
            (field("Content-Length: 5\r\nTransfer-Encoding: chunked"), Violation::Coding),
            (field("Transfer-Encoding: gzip"), Violation::Coding),
            (field("Transfer-Encoding: gzip, chunked"), Violation::UnknownCoding),
        ] {
            check(&bytes, 0, Err(expected));
        }
    }
}
