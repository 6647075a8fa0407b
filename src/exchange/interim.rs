//! Interim answers on their way to a client (RFC 9110 §15.2). hyper writes none as a server, so they go past it.

use std::cell::{Cell, RefCell};

use http::header::{self, HeaderName};

use crate::message::account_fields::is_account_field;
use crate::message::hop::{self, Protocol};
use crate::upstream::Interim;

/// The most bytes that wait for the client.
const MAX_WAITING: usize = 16 << 10;

/// Interim answers that wait for the connection to write them.
#[derive(Debug, Default)]
pub(crate) struct Interims {
    bytes: RefCell<Vec<u8>>,
    /// Whether bytes that hyper wrote may not be out.
    is_busy: Cell<bool>,
}

impl Interims {
    /// Adds an interim answer, to be written before hyper's next bytes. It is dropped while the client has not taken hyper's
    /// last bytes: they may be the end of the last answer, and a client that does not read needs no hints.
    pub(crate) fn put(&self, mut interim: Interim) {
        // A length in an interim answer breaks RFC 9110 §8.6.
        let is_removed = |name: &HeaderName| *name == header::CONTENT_LENGTH || is_account_field(name);
        if self.is_busy.get() || hop::strip(&mut interim.fields, Protocol::Stays, is_removed).is_err() {
            return;
        }
        let mut bytes = self.bytes.borrow_mut();
        let before = bytes.len();
        write(&interim, &mut bytes);
        if bytes.len() > MAX_WAITING {
            bytes.truncate(before);
        }
    }

    /// Records whether bytes that hyper wrote may not be out.
    pub(crate) fn set_busy(&self, is_busy: bool) {
        self.is_busy.set(is_busy);
    }

    /// Returns the bytes that wait.
    pub(crate) const fn waiting(&self) -> &RefCell<Vec<u8>> {
        &self.bytes
    }
}

fn write(interim: &Interim, to: &mut Vec<u8>) {
    to.extend_from_slice(b"HTTP/1.1 ");
    to.extend_from_slice(interim.status.as_str().as_bytes());
    to.push(b' ');
    to.extend_from_slice(interim.status.canonical_reason().unwrap_or_default().as_bytes());
    for (name, value) in &interim.fields {
        to.extend_from_slice(b"\r\n");
        to.extend_from_slice(name.as_str().as_bytes());
        to.extend_from_slice(b": ");
        to.extend_from_slice(value.as_bytes());
    }
    to.extend_from_slice(b"\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;

    fn interim(status: u16, fields: &[(&'static str, &str)]) -> Interim {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        Interim { status: StatusCode::from_u16(status).unwrap(), fields: map }
    }

    #[track_caller]
    fn check(status: u16, fields: &[(&'static str, &str)], expected: &str) {
        let interims = Interims::default();
        interims.put(interim(status, fields));
        assert_eq!(String::from_utf8(interims.waiting().take()).unwrap(), expected);
    }

    #[test]
    fn an_interim_answer_goes_without_the_fields_of_this_hop() {
        check(102, &[], "HTTP/1.1 102 Processing\r\n\r\n");
        check(199, &[], "HTTP/1.1 199 \r\n\r\n");
        check(
            103,
            &[("link", "</a>"), ("link", "</b>"), ("x", "")],
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nlink: </b>\r\nx: \r\n\r\n",
        );
        check(
            103,
            &[
                ("connection", "x-a, close"),
                ("x-a", "1"),
                ("keep-alive", "5"),
                ("transfer-encoding", "chunked"),
                ("content-length", "5"),
                ("pbx-account", "40"),
                ("pbx-domain", "d"),
                ("pbx-lang", "de"),
                ("x-b", "2"),
            ],
            "HTTP/1.1 103 Early Hints\r\nx-b: 2\r\n\r\n",
        );
        check(103, &[("connection", "set-cookie"), ("set-cookie", "a")], "");
    }

    #[test]
    fn waiting_answers_have_a_bound_and_stay_whole() {
        let interims = Interims::default();
        let long = "x".repeat(3 << 10);
        for _ in 0..100 {
            interims.put(interim(103, &[("link", &long)]));
        }
        let waiting = interims.waiting().take();
        assert!((MAX_WAITING - (4 << 10)..=MAX_WAITING).contains(&waiting.len()) && waiting.ends_with(b"\r\n\r\n"));
    }

    #[test]
    fn no_answer_is_put_behind_bytes_that_are_not_out() {
        let interims = Interims::default();
        interims.set_busy(true);
        interims.put(interim(103, &[]));
        assert!(interims.waiting().borrow().is_empty());
        interims.set_busy(false);
        interims.put(interim(103, &[]));
        assert!(!interims.waiting().borrow().is_empty());
    }
}
