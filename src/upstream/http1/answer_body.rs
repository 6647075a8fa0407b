//! Reads the body of an answer, as its head frames it (RFC 9112 §6, §7).

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap};
use http::{StatusCode, Version, response};
use http_body::{Frame, SizeHint};
use httparse::Status;

use super::answer_head::copy;
use super::error::Http1Error;
use super::lines::LineFinder;

/// The most bytes of the line before a chunk, its extensions included.
const MAX_LINE: usize = 4 << 10;
/// The most bytes of all chunk extensions of one body: callgate reads them and passes none on.
const MAX_EXTENSIONS: usize = 16 << 10;
/// The most bytes of the trailers, and the most fields.
const MAX_TRAILERS: usize = 16 << 10;
const MAX_FIELDS: usize = 100;
/// What follows the last of the chunks where there are no trailers.
const LAST: &[u8] = b"\r\n0\r\n\r\n";

const NO_SIZE: Http1Error = Http1Error::Invalid("the size of a chunk is not a number");
const TOO_LONG: Http1Error = Http1Error::Invalid("what frames the body of the answer is too long");

/// The body of an answer, as far as it is still to come.
#[derive(Debug)]
pub(super) enum AnswerBody {
    Ended,
    /// So many bytes are left.
    Length(u64),
    UntilClose,
    Chunked(Chunked),
}

/// A position in a chunked body.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    next: Next,
    /// The bytes of the extensions so far.
    extensions: usize,
    lines: LineFinder,
}

/// The next part of a chunked body.
#[derive(Debug, Clone, Copy, Default)]
enum Next {
    #[default]
    Size,
    /// So many bytes of a chunk.
    Data(u64),
    /// The CRLF behind the data of a chunk.
    DataEnd,
    Trailers,
}

impl AnswerBody {
    /// Returns how the body behind a head ends (RFC 9112 §6.3).
    ///
    /// # Errors
    /// When the head does not say so.
    pub(super) fn of(head: &response::Parts, is_head: bool) -> Result<Self, Http1Error> {
        const WITHOUT: [StatusCode; 3] =
            [StatusCode::SWITCHING_PROTOCOLS, StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
        if is_head || WITHOUT.contains(&head.status) {
            return Ok(Self::Ended);
        }
        if head.headers.contains_key(header::TRANSFER_ENCODING) {
            return match head.version {
                Version::HTTP_11 => Ok(Self::Chunked(Chunked::default())),
                _ => Err(Http1Error::Invalid("an answer of HTTP/1.0 has no transfer coding")),
            };
        }
        let Some(length) = head.headers.get(header::CONTENT_LENGTH) else { return Ok(Self::UntilClose) };
        match length.to_str().ok().and_then(|length| length.parse().ok()) {
            Some(0) => Ok(Self::Ended),
            Some(length) => Ok(Self::Length(length)),
            None => Err(Http1Error::Invalid("the length of the answer is not valid")),
        }
    }

    pub(super) const fn has_ended(&self) -> bool {
        matches!(self, Self::Ended)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Ended => SizeHint::with_exact(0),
            Self::Length(left) => SizeHint::with_exact(*left),
            Self::UntilClose | Self::Chunked(_) => SizeHint::default(),
        }
    }

    /// Takes the next frame out of what has arrived. Returns `None` if the body ends there, or if more must arrive.
    ///
    /// # Errors
    /// When a chunk is not framed as RFC 9112 §7.1 says.
    pub(super) fn decode(&mut self, arrived: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Http1Error> {
        match self {
            Self::Ended => Ok(None),
            Self::Length(left) => {
                let data = take(arrived, left);
                if *left == 0 {
                    *self = Self::Ended;
                }
                Ok(data.map(Frame::data))
            }
            Self::UntilClose => Ok((!arrived.is_empty()).then(|| Frame::data(arrived.split().freeze()))),
            Self::Chunked(chunked) => {
                let (frame, has_ended) = chunked.decode(arrived)?;
                if has_ended {
                    *self = Self::Ended;
                }
                Ok(frame)
            }
        }
    }

    /// Ends the body where the stream ends.
    ///
    /// # Errors
    /// When more of it was to come.
    pub(super) fn end(&mut self, error: Http1Error) -> Result<(), Http1Error> {
        match (&self, &error) {
            (Self::UntilClose, Http1Error::Incomplete) => {
                *self = Self::Ended;
                Ok(())
            }
            _ => Err(error),
        }
    }
}

/// Takes what has arrived, up to `left` bytes.
fn take(arrived: &mut BytesMut, left: &mut u64) -> Option<Bytes> {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(arrived.len());
    *left -= length as u64;
    (length > 0).then(|| arrived.split_to(length).freeze())
}

impl Chunked {
    /// Takes the next frame out of what has arrived, and tells whether the body has ended.
    fn decode(&mut self, arrived: &mut BytesMut) -> Result<(Option<Frame<Bytes>>, bool), Http1Error> {
        loop {
            match &mut self.next {
                Next::Size => match self.read_size(arrived)? {
                    None => return Ok((None, false)),
                    Some(0) => self.next = Next::Trailers,
                    Some(size) => self.next = Next::Data(size),
                },
                Next::Data(left) => {
                    let data = take(arrived, left);
                    if *left == 0 {
                        self.next = Next::DataEnd;
                        // Without this look, the end of the body would be seen only after its last bytes are written.
                        if arrived.starts_with(LAST) {
                            arrived.advance(LAST.len());
                            return Ok((data.map(Frame::data), true));
                        }
                    }
                    return Ok((data.map(Frame::data), false));
                }
                Next::DataEnd => match arrived.get(..2) {
                    None if arrived.first().is_none_or(|byte| *byte == b'\r') => return Ok((None, false)),
                    Some(b"\r\n") => {
                        arrived.advance(2);
                        self.next = Next::Size;
                    }
                    _ => return Err(Http1Error::Invalid("a chunk is longer than its size says")),
                },
                Next::Trailers => return self.read_trailers(arrived),
            }
        }
    }

    /// Reads the line before a chunk. Returns `None` until all of it has arrived.
    fn read_size(&mut self, arrived: &mut BytesMut) -> Result<Option<u64>, Http1Error> {
        let Some(line) = self.lines.next(arrived) else {
            return if arrived.len() > MAX_LINE { Err(TOO_LONG) } else { Ok(None) };
        };
        self.lines = LineFinder::default();
        let line = arrived.split_to(line.end + 1);
        let line = line.strip_suffix(b"\r\n").filter(|line| !line.contains(&b'\r'));
        let line = line.ok_or(Http1Error::Invalid("the line before a chunk does not end with CRLF"))?;
        let (digits, rest) = line.split_at(line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count());
        if rest.iter().find(|byte| !matches!(byte, b' ' | b'\t')).is_some_and(|byte| *byte != b';') {
            return Err(NO_SIZE);
        }
        self.extensions += rest.len();
        if self.extensions > MAX_EXTENSIONS {
            return Err(TOO_LONG);
        }
        let size = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
        size.ok_or(NO_SIZE).map(Some)
    }

    /// Reads the trailers and the empty line behind them. Tells whether all of it has arrived.
    fn read_trailers(&mut self, arrived: &mut BytesMut) -> Result<(Option<Frame<Bytes>>, bool), Http1Error> {
        while let Some(line) = self.lines.next(arrived) {
            let is_empty = match &arrived[line.clone()] {
                [.., b'\r'] => line.len() == 1,
                _ => return Err(Http1Error::Invalid("a trailer does not end with CRLF")),
            };
            if is_empty {
                let bytes = arrived.split_to(line.end + 1).freeze();
                return Ok((parse_trailers(&bytes)?.map(Frame::trailers), true));
            }
        }
        if arrived.len() > MAX_TRAILERS { Err(TOO_LONG) } else { Ok((None, false)) }
    }
}

/// Parses trailers, if there are any before the empty line.
fn parse_trailers(bytes: &Bytes) -> Result<Option<HeaderMap>, Http1Error> {
    if *bytes == "\r\n" {
        return Ok(None);
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(bytes, &mut fields)? {
        Status::Complete((_, fields)) => copy(fields, bytes).map(Some),
        Status::Partial => Err(Http1Error::Invalid("the trailers end in two places")),
    }
}
