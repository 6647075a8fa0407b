//! Scans the heads of an answer before hyper parses them: whether a byte has come, how lines end, and the total size.
//!
//! hyper reads interim answers without a limit. It accepts a lone LF as the end of a line, as RFC 9112 §2.2 permits,
//! and so does the scanner if all lines of a head end so: old servers and scripts do that. If some lines end with CRLF
//! and some with LF, a field value with a LF inside may have become two fields, and a client would get a field that the
//! upstream never meant to send. So such a head is an error.

use std::cell::Cell;
use std::io;

use crate::message::newline;

use super::interim::InterimCollector;

/// The most bytes of all heads of one answer, those of its interim answers included.
const MAX_HEADS: usize = 256 << 10;
/// The position of the status code in the first line of an answer.
const STATUS: std::ops::Range<usize> = 9..12;
/// The first byte that a TLS server answers to a request in clear text (RFC 8446 §5.1); no HTTP answer begins with it.
const TLS_ALERT: u8 = 0x15;

/// Scans the answer to the last request as its bytes arrive.
#[derive(Debug, Default)]
pub(super) struct ResponseHeadScanner {
    /// Whether a byte of the answer has arrived.
    has_begun: Cell<bool>,
    /// `None` after the last head.
    head: Cell<Option<HeadState>>,
    interims: InterimCollector,
}

/// A position within a head.
#[derive(Debug, Clone, Copy, Default)]
struct HeadState {
    /// The bytes of all heads of the answer so far.
    total: usize,
    /// The lines of this head before this line, not counting empty lines before the first.
    lines: usize,
    /// The bytes of this line so far, and the last byte.
    length: usize,
    last: u8,
    /// Whether the lines of this head end with CRLF; `None` before the first has ended.
    ends_crlf: Option<bool>,
    status: [u8; 3],
}

impl ResponseHeadScanner {
    /// Starts with the next answer. Its interim answers are collected if they are wanted.
    pub(super) fn begin(&self, wants_interims: bool) {
        self.interims.begin(wants_interims);
        self.has_begun.set(false);
        self.head.set(Some(HeadState::default()));
    }

    /// Lets all bytes pass: the connection carries no HTTP.
    pub(super) fn pass_all(&self) {
        self.has_begun.set(true);
        self.head.set(None);
    }

    /// Tells whether a byte of the answer has arrived.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.get()
    }

    /// Returns the interim answers collected so far.
    pub(super) const fn interims(&self) -> &InterimCollector {
        &self.interims
    }

    /// Scans the next bytes.
    ///
    /// # Errors
    /// When the lines of a head end in different ways, or the heads are too large.
    pub(super) fn scan(&self, bytes: &[u8]) -> io::Result<()> {
        let is_first = !self.has_begun.replace(true);
        if is_first && bytes.first() == Some(&TLS_ALERT) {
            let reason = "it speaks TLS and not plain HTTP: should `url` begin with https://?";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        if let Some(head) = self.head.take() {
            self.head.set(head.scan(bytes, &self.interims)?);
        }
        Ok(())
    }
}

impl HeadState {
    /// Scans the next bytes, as far as they belong to a head. Returns `None` after the last head.
    fn scan(mut self, mut bytes: &[u8], interims: &InterimCollector) -> io::Result<Option<Self>> {
        loop {
            let end = newline::end(bytes);
            self.advance(&bytes[..end.unwrap_or(bytes.len())]);
            if self.total > MAX_HEADS {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the heads of the answer are too long"));
            }
            let Some(end) = end else {
                if self.is_collected() {
                    interims.push(bytes);
                }
                return Ok(Some(self));
            };
            let ends_crlf = self.length > 0 && self.last == b'\r';
            if *self.ends_crlf.get_or_insert(ends_crlf) != ends_crlf {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "some lines of the head end with CRLF and some with LF",
                ));
            }
            let (line, rest) = bytes.split_at(end + 1);
            if self.is_collected() {
                interims.push(line);
                if self.is_empty() {
                    interims.end(self.status);
                }
            }
            let Some(next) = self.next() else { return Ok(None) };
            (self, bytes) = (next, rest);
        }
    }

    /// Moves on within a line.
    fn advance(&mut self, part: &[u8]) {
        let Some(last) = part.last() else { return };
        if self.lines == 0 && self.length < STATUS.end {
            for (at, digit) in STATUS.zip(&mut self.status) {
                if let Some(byte) = at.checked_sub(self.length).and_then(|at| part.get(at)) {
                    *digit = *byte;
                }
            }
        }
        self.total += part.len();
        self.length += part.len();
        self.last = *last;
    }

    /// Tells whether this is a field line of an interim answer for the client.
    fn is_collected(self) -> bool {
        self.lines > 0 && self.is_interim() && self.status != *b"100"
    }

    /// Tells whether another head follows this one.
    fn is_interim(self) -> bool {
        self.status[0] == b'1' && self.status != *b"101"
    }

    /// Tells whether the line that has ended is empty.
    const fn is_empty(self) -> bool {
        match self.ends_crlf {
            Some(true) => self.length == "\r".len(),
            Some(false) | None => self.length == 0,
        }
    }

    /// Moves to the next line, or to the next head after an interim one. Returns `None` after the last head.
    fn next(self) -> Option<Self> {
        let head = Self { total: self.total, ..Self::default() };
        let within = Self { ends_crlf: self.ends_crlf, status: self.status, ..head };
        match (self.is_empty(), self.lines) {
            // hyper skips empty lines before a head.
            (true, 0) => Some(Self { status: head.status, ..within }),
            // Another head follows an interim answer, except after 101.
            (true, _) => self.is_interim().then_some(head),
            (false, lines) => Some(Self { lines: lines + 1, ..within }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::interim::Interim;
    use super::*;

    /// Scans an answer in one piece and byte by byte.
    #[track_caller]
    fn check(answer: &str, is_clean: bool) {
        let whole = ResponseHeadScanner::default();
        whole.begin(true);
        assert_eq!(whole.scan(answer.as_bytes()).is_ok(), is_clean, "{answer:?}");
        let bytewise = ResponseHeadScanner::default();
        bytewise.begin(true);
        let scanned = answer.as_bytes().chunks(1).try_for_each(|byte| bytewise.scan(byte));
        assert_eq!(scanned.is_ok(), is_clean, "{answer:?} byte by byte");
    }

    #[test]
    fn lines_of_a_head_end_in_one_way() {
        for answer in [
            "HTTP/1.1 200 OK\r\nX: a\r\n\r\n",
            "\r\n\r\nHTTP/1.1 200 OK\r\n\r\na\nb\n\n",
            "HTTP/1.1 103 Early Hints\r\nX: a\r\n\r\nHTTP/1.1 200 OK\r\n\r\na\nb",
            "HTTP/1.1 101 Switching Protocols\r\n\r\na\nb",
            "HTTP/1.1 100\r\n\r\n",
            "HTTP/1.1 200 OK\n\na\r\nb\n",
            "HTTP/1.1 200 OK\nX: a\nY: b\n\n",
            "\nHTTP/1.1 200 OK\nX: a\n\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\nX: a\n\n",
            "no HTTP",
        ] {
            check(answer, true);
        }
        for answer in [
            "HTTP/1.1 200 OK\nX: a\r\n\n",
            "HTTP/1.1 200 OK\nX: a\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\n\r\n",
            "\nHTTP/1.1 200 OK\r\n\r\n",
        ] {
            check(answer, false);
        }
    }

    #[test]
    fn interim_answers_are_passed_on_if_wanted_however_their_bytes_arrive() {
        let answer = "HTTP/1.1 100 Continue\r\nX: 0\r\n\r\nHTTP/1.1 103 Early Hints\r\nX:  a \r\nX: b\r\n\r\n\
            HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nX: c\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n";
        for (size, wanted, expected) in
            [(1, true, "103 a b; 102; "), (7, true, "103 a b; 102; "), (999, true, "103 a b; 102; "), (999, false, "")]
        {
            let (scanner, told) = (ResponseHeadScanner::default(), RefCell::new(String::new()));
            let on_interim = |interim: Interim| {
                let values = interim.fields.get_all("x").iter().map(|value| format!(" {}", value.to_str().unwrap()));
                *told.borrow_mut() += &format!("{}{}; ", interim.status.as_str(), values.collect::<String>());
            };
            scanner.begin(wanted);
            for part in answer.as_bytes().chunks(size) {
                scanner.scan(part).unwrap();
                scanner.interims().notify(Some(&on_interim));
            }
            assert_eq!(told.take(), expected, "{size} bytes at once");
        }
    }

    #[test]
    fn a_tls_alert_is_distinguished_from_http() {
        let scanner = ResponseHeadScanner::default();
        scanner.begin(false);
        let told = scanner.scan(b"\x15\x03\x03\0\x02\x02\x46").unwrap_err().to_string();
        assert!(told.contains("speaks TLS"), "{told}");
        scanner.begin(false);
        scanner.scan(b"HTTP/1.1 200 OK\r\n").unwrap();
        scanner.scan(b"\x15: odd\r\n\r\n").unwrap();
    }

    #[test]
    fn heads_have_a_size_limit_and_bodies_have_none() {
        let scanner = ResponseHeadScanner::default();
        scanner.begin(true);
        let interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        let count = (0..MAX_HEADS).take_while(|_| scanner.scan(interim).is_ok()).count();
        assert!((5_000..10_000).contains(&count), "{count}");
        scanner.begin(true);
        assert!(scanner.scan(b"HTTP/1.1 200 OK\r\n\r\n").is_ok() && scanner.scan(&[b'x'; 2 * MAX_HEADS]).is_ok());
    }

    #[test]
    fn bytes_are_a_head_only_while_one_is_expected() {
        let scanner = ResponseHeadScanner::default();
        assert!(scanner.scan(b"a\r\nb\n").is_ok() && scanner.has_begun());
        scanner.begin(true);
        assert!(!scanner.has_begun() && scanner.scan(b"a\r\nb\n").is_err());
    }
}
