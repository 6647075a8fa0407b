//! Reads the heads of an answer: interim ones, then the final one (RFC 9112 §4, §5).
//!
//! A lone LF may end a line, as RFC 9112 §2.2 permits: old servers and scripts do that. But if some lines of a head end
//! with CRLF and some with LF, a field value with a LF inside may have become two fields, and a client would get a field
//! that the upstream never meant to send. So such a head is an error.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version, response};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::error::Http1Error;
use super::interim::Interim;
use super::lines::LineFinder;

/// The most bytes of one head.
const MAX_HEAD: usize = 128 << 10;
/// The most bytes of all heads of one answer, those of its interim answers included.
const MAX_HEADS: usize = 256 << 10;
/// The most fields of a head.
const MAX_FIELDS: usize = 100;
/// A head is parsed before it is complete until this many bytes have arrived.
const SIGHT: usize = 64;

/// A head of an answer.
#[derive(Debug)]
pub(super) enum Head {
    /// Another head follows, but not after a 101.
    Interim(Interim),
    Final(Response<()>),
}

/// Finds and parses the heads of one answer as their bytes arrive.
#[derive(Debug, Default)]
pub(super) struct AnswerHeads {
    /// The bytes of the heads that were read.
    total: usize,
    lines: LineFinder,
    /// Whether the lines of this head end with CRLF; `None` before the first has ended.
    ends_crlf: Option<bool>,
}

impl AnswerHeads {
    /// Reads the next head that concerns the client. Returns `None` until all of it has arrived.
    ///
    /// # Errors
    /// When it is not one, or too long.
    pub(super) fn parse(&mut self, arrived: &mut BytesMut) -> Result<Option<Head>, Http1Error> {
        while !arrived.is_empty()
            && let Some(end) = self.find_end(arrived)?
        {
            let bytes = arrived.split_to(end).freeze();
            *self = Self { total: self.total + end, ..Self::default() };
            if let Some(head) = parse(&bytes)? {
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    /// Returns where the head ends, and skips empty lines before it.
    fn find_end(&mut self, arrived: &mut BytesMut) -> Result<Option<usize>, Http1Error> {
        let is_new = self.lines.searched() < SIGHT;
        while let Some(line) = self.lines.next(arrived) {
            let (begin, end) = (line.start, line.end + 1);
            let (line, ends_crlf) = match arrived[line].strip_suffix(b"\r") {
                Some(line) => (line, true),
                None => (&arrived[begin..end - 1], false),
            };
            if *self.ends_crlf.get_or_insert(ends_crlf) != ends_crlf {
                return Err(Http1Error::Invalid("some lines of the head end with CRLF and some with LF"));
            }
            match (line.is_empty(), begin) {
                (true, 0) => {
                    arrived.advance(end);
                    (self.lines, self.total) = (LineFinder::default(), self.total + end);
                }
                (true, _) if self.fits(end) => return Ok(Some(end)),
                (true, _) | (false, _) => {}
            }
        }
        if !self.fits(arrived.len()) {
            return Err(Http1Error::Invalid("the heads of the answer are too long"));
        }
        if is_new {
            // What can be no head is refused at once, and not only when it ends.
            read(arrived, &mut [const { MaybeUninit::uninit() }; MAX_FIELDS])?;
        }
        Ok(None)
    }

    /// Tells whether the head at hand may have `length` bytes.
    const fn fits(&self, length: usize) -> bool {
        length <= MAX_HEAD && self.total + length <= MAX_HEADS
    }
}

/// Parses a head. Returns `None` for a 100, which is about the connection.
fn parse(bytes: &Bytes) -> Result<Option<Head>, Http1Error> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let (read, end) = read(bytes, &mut fields)?;
    if end != Status::Complete(bytes.len()) {
        return Err(Http1Error::Invalid("the head of the answer ends in two places"));
    }
    let status = read.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Http1Error::Invalid("its status is not a number from 100 on"))?;
    if status == StatusCode::CONTINUE {
        return Ok(None);
    }
    let fields = copy(read.headers, bytes)?;
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Some(Head::Interim(Interim { status, fields })));
    }
    let mut head = Response::new(());
    *head.status_mut() = status;
    *head.version_mut() = if read.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    *head.headers_mut() = fields;
    if let Some(reason) = read.reason.filter(|reason| Some(*reason) != status.canonical_reason())
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        head.extensions_mut().insert(reason);
    }
    Ok(Some(Head::Final(head)))
}

fn read<'b>(
    bytes: &'b [u8],
    fields: &'b mut [MaybeUninit<httparse::Header<'b>>],
) -> Result<(httparse::Response<'b, 'b>, Status<usize>), httparse::Error> {
    let mut head = httparse::Response::new(&mut []);
    let end = ParserConfig::default().parse_response_with_uninit_headers(&mut head, bytes, fields)?;
    Ok((head, end))
}

/// Copies fields out of the parser. Their values share the memory of `bytes`, in which they lie.
pub(super) fn copy(fields: &[httparse::Header<'_>], bytes: &Bytes) -> Result<HeaderMap, Http1Error> {
    let invalid = || Http1Error::Invalid("a field of the answer is not valid");
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| invalid())?;
        map.append(name, HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).map_err(|_| invalid())?);
    }
    Ok(map)
}

/// Tells whether the upstream keeps the connection open after an answer (RFC 9112 §9.3).
pub(super) fn keeps_connection(head: &response::Parts) -> bool {
    let closes = |line: &HeaderValue| {
        line.as_bytes().split(|byte| *byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
    };
    head.version == Version::HTTP_11 && !head.headers.get_all(header::CONNECTION).iter().any(closes)
}
