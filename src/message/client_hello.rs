//! The host that a ClientHello names (SNI, RFC 6066 §3), read without TLS: no version, cipher or extension of the client
//! has to be known.
//!
//! The hello may be of any version since SSL 3.0, and may be split over records (RFC 8446 §5.1). With encrypted
//! ClientHello the outer `server_name` counts, because only the outer hello can be read. Everything that is no well-formed
//! ClientHello names no host; rustls then says what is wrong with it.

use crate::model::account::host_name;

/// The most bytes that are read for a hello, records included: 16 times as many as browsers send.
pub const MAX_HELLO: usize = 32 << 10;
/// The longest fragment of a record (RFC 8446 §5.1).
const MAX_FRAGMENT: usize = 1 << 14;
/// The content type of records with handshake messages.
const HANDSHAKE: u8 = 22;
/// Type and length of a handshake message.
const MESSAGE_HEAD: usize = 4;
/// The handshake message that a client begins with.
const CLIENT_HELLO: u8 = 1;
/// The extension with the host.
const SERVER_NAME: u16 = 0;
/// The kind of name in that extension: a host name.
const HOST_NAME: u8 = 0;

/// The host that the first bytes of a connection name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedHost {
    /// More bytes are needed.
    Incomplete,
    /// This host, in lower case and without a final dot.
    Name(String),
    /// No host: there is no valid name in the hello, or no hello.
    None,
    /// More than one host, which two readers could choose from differently.
    Several,
}

/// Reads a hello from the bytes of a connection as they arrive, and keeps these.
#[derive(Debug, Default)]
pub struct HelloReader {
    bytes: Vec<u8>,
    /// The end of the last whole record.
    read: usize,
    /// The handshake messages in the whole records.
    messages: Vec<u8>,
}

impl HelloReader {
    /// Adds the next bytes of the connection, and returns the host that all of them name.
    pub fn push(&mut self, bytes: &[u8]) -> NamedHost {
        self.bytes.extend_from_slice(bytes);
        loop {
            match self.next_record() {
                Record::Handshake(end) => {
                    self.messages.extend_from_slice(&self.bytes[self.read + RECORD_HEAD..end]);
                    self.read = end;
                }
                Record::Incomplete if self.bytes.len() > MAX_HELLO => return NamedHost::None,
                Record::Incomplete => return NamedHost::Incomplete,
                Record::Other => return NamedHost::None,
            }
            match message(&self.messages) {
                Message::ClientHello(body) => return named_host(body),
                Message::Incomplete => {}
                Message::Other => return NamedHost::None,
            }
        }
    }

    /// Returns all bytes, as they arrived.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn next_record(&self) -> Record {
        let rest = &self.bytes[self.read..];
        let [kind, major, ..] = *rest else {
            return if rest.first().is_none_or(|kind| *kind == HANDSHAKE) { Record::Incomplete } else { Record::Other };
        };
        // The version of the record does not matter otherwise (RFC 8446 §5.1).
        if kind != HANDSHAKE || major != 3 {
            return Record::Other;
        }
        let Some([high, low]) = rest.get(3..RECORD_HEAD) else { return Record::Incomplete };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        // An empty fragment is forbidden.
        if length == 0 || length > MAX_FRAGMENT {
            return Record::Other;
        }
        if rest.len() < RECORD_HEAD + length {
            Record::Incomplete
        } else {
            Record::Handshake(self.read + RECORD_HEAD + length)
        }
    }
}

/// Type, version and length of a record.
const RECORD_HEAD: usize = 5;

/// The next record.
enum Record {
    Incomplete,
    /// A part of the handshake, which ends at this byte.
    Handshake(usize),
    /// No record, or none of the handshake.
    Other,
}

/// The first handshake message.
enum Message<'a> {
    Incomplete,
    /// The content of a ClientHello.
    ClientHello(&'a [u8]),
    Other,
}

fn message(messages: &[u8]) -> Message<'_> {
    if messages.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Message::Other;
    }
    let Some([_, high, middle, low]) = messages.first_chunk::<MESSAGE_HEAD>() else { return Message::Incomplete };
    let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
    if length > MAX_HELLO {
        return Message::Other;
    }
    messages.get(MESSAGE_HEAD..MESSAGE_HEAD + length).map_or(Message::Incomplete, Message::ClientHello)
}

// === The hello ===

fn named_host(hello: &[u8]) -> NamedHost {
    let Some(extensions) = HelloFields(hello).server_name_extensions() else { return NamedHost::None };
    match extensions[..] {
        [] => NamedHost::None,
        [list] => match HelloFields(list).server_names().as_deref() {
            Some([(HOST_NAME, name)]) => {
                let name = str::from_utf8(name).ok().and_then(host_name);
                name.map_or(NamedHost::None, NamedHost::Name)
            }
            Some([_, _, ..]) => NamedHost::Several,
            Some([] | [_]) | None => NamedHost::None,
        },
        [_, _, ..] => NamedHost::Several,
    }
}

/// The fields that are left to read. Each method returns `None` where the bytes end too early or too late.
struct HelloFields<'a>(&'a [u8]);

impl<'a> HelloFields<'a> {
    /// Reads a ClientHello (RFC 8446 §4.1.2). Returns the content of each `server_name` extension.
    fn server_name_extensions(mut self) -> Option<Vec<&'a [u8]>> {
        // Version and random.
        self.take(2 + 32)?;
        let session_id = self.vector8()?;
        let cipher_suites = self.vector16()?;
        let compression_methods = self.vector8()?;
        if session_id.len() > 32
            || cipher_suites.len() < 2
            || cipher_suites.len() % 2 != 0
            || compression_methods.is_empty()
        {
            return None;
        }
        // Hellos before TLS 1.2 may end here.
        let mut extensions = HelloFields(if self.0.is_empty() { &[] } else { self.vector16()? });
        if !self.0.is_empty() {
            return None;
        }
        let mut found = Vec::new();
        while !extensions.0.is_empty() {
            let (kind, content) = (extensions.number16()?, extensions.vector16()?);
            if kind == SERVER_NAME {
                found.push(content);
            }
        }
        Some(found)
    }

    /// Reads a list of names (RFC 6066 §3), each with its kind.
    fn server_names(mut self) -> Option<Vec<(u8, &'a [u8])>> {
        let mut list = HelloFields(self.vector16()?);
        if !self.0.is_empty() {
            return None;
        }
        let mut names = Vec::new();
        while !list.0.is_empty() {
            let ([kind], name) = (list.take(1)?, list.vector16()?) else { return None };
            names.push((*kind, name));
        }
        Some(names)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// Reads bytes with their length in front of them, in one byte.
    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    /// As `vector8`, with the length in two bytes.
    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.number16()?;
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests;
