//! Interim answers (RFC 9110 §15.2), collected from the bytes that hyper reads, since hyper skips them. An exchange
//! without any costs nothing.

use std::cell::{Cell, RefCell};

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The most bytes of an interim answer's fields. A longer one is left out.
const MAX_FIELDS: usize = 16 << 10;
/// The most fields of an interim answer: as many as hyper reads.
const MAX_COUNT: usize = 100;
/// The most interim answers that wait to be passed on; further ones are left out.
const MAX_WAITING: usize = 16;

/// An interim answer for the client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Interim {
    /// Any 1xx except 100 and 101, which are about the connection.
    pub status: StatusCode,
    /// Its fields as they arrived.
    pub fields: HeaderMap,
}

/// Called with each interim answer, if they are wanted.
pub(crate) type OnInterim<'c> = Option<&'c dyn Fn(Interim)>;

/// Collects the interim answers of one exchange.
#[derive(Debug, Default)]
pub(super) struct InterimCollector {
    wanted: Cell<bool>,
    /// The field lines of the one that is arriving.
    lines: RefCell<Vec<u8>>,
    complete: RefCell<Vec<Interim>>,
}

impl InterimCollector {
    /// Starts with the next exchange.
    pub(super) fn begin(&self, wanted: bool) {
        self.wanted.set(wanted);
        self.lines.take();
        self.complete.take();
    }

    /// Adds bytes of the field lines of an interim answer.
    pub(super) fn push(&self, part: &[u8]) {
        let mut lines = self.lines.borrow_mut();
        if self.wanted.get() && lines.len() <= MAX_FIELDS {
            lines.extend_from_slice(part);
        }
    }

    /// Ends an interim answer. If hyper could not read its fields, it is left out.
    pub(super) fn end(&self, status: [u8; 3]) {
        let lines = self.lines.take();
        let mut complete = self.complete.borrow_mut();
        if lines.len() <= MAX_FIELDS
            && complete.len() < MAX_WAITING
            && let Some(fields) = parse(&lines)
            && let Ok(status) = StatusCode::from_bytes(&status)
        {
            complete.push(Interim { status, fields });
        }
    }

    /// Passes on the interim answers that are complete.
    pub(super) fn notify(&self, on_interim: OnInterim<'_>) {
        if let Some(on_interim) = on_interim
            && !self.complete.borrow().is_empty()
        {
            self.complete.take().into_iter().for_each(on_interim);
        }
    }
}

/// Parses field lines, by the same rules as hyper.
fn parse(lines: &[u8]) -> Option<HeaderMap> {
    let mut buffer = [httparse::EMPTY_HEADER; MAX_COUNT];
    let httparse::Status::Complete((_, parsed)) = httparse::parse_headers(lines, &mut buffer).ok()? else {
        return None;
    };
    let mut fields = HeaderMap::with_capacity(parsed.len());
    for field in parsed {
        fields.append(HeaderName::from_bytes(field.name.as_bytes()).ok()?, HeaderValue::from_bytes(field.value).ok()?);
    }
    Some(fields)
}
