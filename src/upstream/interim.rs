//! Interim answers (RFC 9110 §15.2), kept as they pass: hyper reads over them. An answer without any costs nothing.

use std::cell::{Cell, RefCell};

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The most bytes of an interim answer's fields.
const MAX_FIELDS: usize = 16 << 10;
/// The most fields of an interim answer: as many as hyper reads.
const MAX_COUNT: usize = 100;
/// The most interim answers that wait for their hearer; those that come too fast are left out.
const MAX_WAITING: usize = 16;

/// An interim answer that is not about the connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Interim {
    /// Any of 1xx but 100 and 101.
    pub status: StatusCode,
    /// Its fields as they came.
    pub fields: HeaderMap,
}

/// Who is told of interim answers, if anybody is.
pub type OnInterim<'h> = Option<&'h dyn Fn(Interim)>;

/// The interim answers of one exchange.
#[derive(Debug, Default)]
pub(super) struct InterimCollector {
    wanted: Cell<bool>,
    /// The lines of fields of the one that is coming.
    lines: RefCell<Vec<u8>>,
    whole: RefCell<Vec<Interim>>,
}

impl InterimCollector {
    /// Begins with the next exchange.
    pub(super) fn begin(&self, wanted: bool) {
        self.wanted.set(wanted);
        self.lines.take();
        self.whole.take();
    }

    /// Keeps some of the lines behind the first of an interim answer.
    pub(super) fn keep(&self, part: &[u8]) {
        let mut lines = self.lines.borrow_mut();
        if self.wanted.get() && lines.len() <= MAX_FIELDS {
            lines.extend_from_slice(part);
        }
    }

    /// Comes to the end of one. That of which hyper makes nothing is nothing here either.
    pub(super) fn end(&self, status: [u8; 3]) {
        let lines = self.lines.take();
        let mut whole = self.whole.borrow_mut();
        if lines.len() <= MAX_FIELDS
            && whole.len() < MAX_WAITING
            && let Some(fields) = read(&lines)
            && let Ok(status) = StatusCode::from_bytes(&status)
        {
            whole.push(Interim { status, fields });
        }
    }

    /// Tells of those that are here.
    pub(super) fn tell(&self, hearer: OnInterim<'_>) {
        if let Some(hear) = hearer
            && !self.whole.borrow().is_empty()
        {
            self.whole.take().into_iter().for_each(hear);
        }
    }
}

/// Reads lines of fields, by the same rules as hyper.
fn read(lines: &[u8]) -> Option<HeaderMap> {
    let mut room = [httparse::EMPTY_HEADER; MAX_COUNT];
    let httparse::Status::Complete((_, read)) = httparse::parse_headers(lines, &mut room).ok()? else { return None };
    let mut fields = HeaderMap::with_capacity(read.len());
    for field in read {
        fields.append(HeaderName::from_bytes(field.name.as_bytes()).ok()?, HeaderValue::from_bytes(field.value).ok()?);
    }
    Some(fields)
}
