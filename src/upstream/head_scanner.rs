//! Listens to what an upstream says before hyper reads it: has anything come, does every line of a head end as one, and
//! do the heads come to an end?
//!
//! hyper reads interim answers for as long as there are any. It takes a line feed alone for the end of a line, as it may
//! (RFC 9112 §2.2), and so does this, of an upstream that ends all lines of a head so: old servers and scripts do. Where some
//! lines end with both signs and some with one, a field with a line feed inside may have become two, and a client would be
//! given a field that the upstream never meant to send.

use std::cell::Cell;
use std::io;

use crate::message::newline;

use super::interim::InterimCollector;

/// The most bytes of all heads of one answer, those of its interim answers included.
const MAX_HEADS: usize = 256 << 10;
/// Where the status is in the first line of an answer.
const STATUS: std::ops::Range<usize> = 9..12;
/// The first byte of what TLS says to a request in clear text (RFC 8446 §5.1); no answer in HTTP begins so.
const TLS_ALERT: u8 = 0x15;

/// What is known of the answer to the last request.
#[derive(Debug, Default)]
pub(super) struct ResponseHeadScanner {
    heard: Cell<bool>,
    /// Where the head is; none: not in a head.
    place: Cell<Option<HeadState>>,
    interims: InterimCollector,
}

/// A place in a head.
#[derive(Debug, Clone, Copy, Default)]
struct HeadState {
    /// The bytes of all heads so far.
    heads: usize,
    /// The lines before this one, empty ones before the first excluded.
    lines: usize,
    /// The bytes of this line so far, and the last of them.
    length: usize,
    last: u8,
    /// Whether the lines of this head end with both signs; none before the first has ended.
    both: Option<bool>,
    status: [u8; 3],
}

impl ResponseHeadScanner {
    /// Expects an answer, and keeps interim ones before it when they are wanted.
    pub(super) fn expect(&self, wants_interims: bool) {
        self.interims.begin(wants_interims);
        self.heard.set(false);
        self.place.set(Some(HeadState::default()));
    }

    /// Tells whether a byte has come since then.
    pub(super) fn has_heard(&self) -> bool {
        self.heard.get()
    }

    /// Returns the interim answers that have come.
    pub(super) const fn interims(&self) -> &InterimCollector {
        &self.interims
    }

    /// Listens to the next bytes.
    ///
    /// # Errors
    /// When the lines of a head end in different ways, or the heads are too large.
    pub(super) fn hear(&self, bytes: &[u8]) -> io::Result<()> {
        let is_first = !self.heard.replace(true);
        if is_first && bytes.first() == Some(&TLS_ALERT) {
            let what = "it speaks TLS and not plain HTTP: should `url` begin with https://?";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        if let Some(place) = self.place.take() {
            self.place.set(place.through(bytes, &self.interims)?);
        }
        Ok(())
    }
}

impl HeadState {
    /// Goes through the next bytes, as far as they are of a head.
    fn through(mut self, mut bytes: &[u8], interims: &InterimCollector) -> io::Result<Option<Self>> {
        loop {
            let end = newline::end(bytes);
            self.take(&bytes[..end.unwrap_or(bytes.len())]);
            if self.heads > MAX_HEADS {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the heads have no end"));
            }
            let Some(end) = end else {
                if self.is_told() {
                    interims.keep(bytes);
                }
                return Ok(Some(self));
            };
            let both = self.length > 0 && self.last == b'\r';
            if *self.both.get_or_insert(both) != both {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "some lines end with a line feed alone"));
            }
            let (line, rest) = bytes.split_at(end + 1);
            if self.is_told() {
                interims.keep(line);
                if self.is_empty() {
                    interims.end(self.status);
                }
            }
            let Some(next) = self.next() else { return Ok(None) };
            (self, bytes) = (next, rest);
        }
    }

    /// Goes on within a line.
    fn take(&mut self, part: &[u8]) {
        let Some(last) = part.last() else { return };
        if self.lines == 0 && self.length < STATUS.end {
            for (at, digit) in STATUS.zip(&mut self.status) {
                if let Some(byte) = at.checked_sub(self.length).and_then(|at| part.get(at)) {
                    *digit = *byte;
                }
            }
        }
        self.heads += part.len();
        self.length += part.len();
        self.last = *last;
    }

    /// Tells whether this is a line behind the first of an interim answer that is not about the connection.
    fn is_told(self) -> bool {
        self.lines > 0 && self.is_interim() && self.status != *b"100"
    }

    /// Tells whether behind this head is another one.
    fn is_interim(self) -> bool {
        self.status[0] == b'1' && self.status != *b"101"
    }

    /// Tells whether the line that has ended is an empty one.
    const fn is_empty(self) -> bool {
        match self.both {
            Some(true) => self.length == "\r".len(),
            Some(false) | None => self.length == 0,
        }
    }

    /// Goes to the next line, or out of the head behind its last.
    fn next(self) -> Option<Self> {
        let head = Self { heads: self.heads, ..Self::default() };
        let within = Self { both: self.both, status: self.status, ..head };
        match (self.is_empty(), self.lines) {
            // hyper passes over empty lines before a head.
            (true, 0) => Some(Self { status: head.status, ..within }),
            // Behind the head of an interim answer is another one, except where HTTP ends.
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

    /// Listens to an answer in one piece and byte by byte.
    #[track_caller]
    fn check(answer: &str, is_clean: bool) {
        let whole = ResponseHeadScanner::default();
        whole.expect(true);
        assert_eq!(whole.hear(answer.as_bytes()).is_ok(), is_clean, "{answer:?}");
        let bytewise = ResponseHeadScanner::default();
        bytewise.expect(true);
        let heard = answer.as_bytes().chunks(1).try_for_each(|byte| bytewise.hear(byte));
        assert_eq!(heard.is_ok(), is_clean, "{answer:?} byte by byte");
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
    fn interim_answers_are_told_however_they_arrive_when_they_are_wanted() {
        let answer = "HTTP/1.1 100 Continue\r\nX: 0\r\n\r\nHTTP/1.1 103 Early Hints\r\nX:  a \r\nX: b\r\n\r\n\
            HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nX: c\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n";
        for (size, wanted, expected) in
            [(1, true, "103 a b; 102; "), (7, true, "103 a b; 102; "), (999, true, "103 a b; 102; "), (999, false, "")]
        {
            let (ear, told) = (ResponseHeadScanner::default(), RefCell::new(String::new()));
            let hear = |interim: Interim| {
                let values = interim.fields.get_all("x").iter().map(|value| format!(" {}", value.to_str().unwrap()));
                *told.borrow_mut() += &format!("{}{}; ", interim.status.as_str(), values.collect::<String>());
            };
            ear.expect(wanted);
            for part in answer.as_bytes().chunks(size) {
                ear.hear(part).unwrap();
                ear.interims().tell(Some(&hear));
            }
            assert_eq!(told.take(), expected, "{size} bytes at once");
        }
    }

    #[test]
    fn an_alert_of_tls_is_told_from_http() {
        let ear = ResponseHeadScanner::default();
        ear.expect(false);
        let told = ear.hear(b"\x15\x03\x03\0\x02\x02\x46").unwrap_err().to_string();
        assert!(told.contains("speaks TLS"), "{told}");
        ear.expect(false);
        ear.hear(b"HTTP/1.1 200 OK\r\n").unwrap();
        ear.hear(b"\x15: odd\r\n\r\n").unwrap();
    }

    #[test]
    fn heads_end_some_day_and_bodies_need_not() {
        let ear = ResponseHeadScanner::default();
        ear.expect(true);
        let interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        let count = (0..MAX_HEADS).take_while(|_| ear.hear(interim).is_ok()).count();
        assert!((5_000..10_000).contains(&count), "{count}");
        ear.expect(true);
        assert!(ear.hear(b"HTTP/1.1 200 OK\r\n\r\n").is_ok() && ear.hear(&[b'x'; 2 * MAX_HEADS]).is_ok());
    }

    #[test]
    fn only_what_is_expected_is_a_head() {
        let ear = ResponseHeadScanner::default();
        assert!(ear.hear(b"a\r\nb\n").is_ok() && ear.has_heard());
        ear.expect(true);
        assert!(!ear.has_heard() && ear.hear(b"a\r\nb\n").is_err());
    }
}
