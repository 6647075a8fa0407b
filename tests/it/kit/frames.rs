//! An HTTP/2 client that sends single frames, also those that no library sends.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use crate::kit::gate::Gate;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const WITH_PRIORITY: u8 = 0x20;
/// A whole request without a body.
pub const WHOLE: u8 = END_STREAM | END_HEADERS;

pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const INTERNAL_ERROR: u32 = 2;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The pseudo-fields of an ordinary request.
pub const REQUEST: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "app.test")];
/// Those of one with a body.
pub const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "https"), (":path", "/"), (":authority", "app.test")];

// === What is sent ===

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

pub fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags, stream, &block(fields))
}

/// A whole request without a body.
pub fn get(stream: u32) -> Vec<u8> {
    headers(stream, WHOLE, &REQUEST)
}

/// The head of a request whose body is to come.
pub fn post(stream: u32) -> Vec<u8> {
    headers(stream, END_HEADERS, &POST)
}

pub fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, flags, stream, bytes)
}

pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        values.iter().flat_map(|(name, value)| name.to_be_bytes().into_iter().chain(value.to_be_bytes())).collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// Settings that say how many bytes a stream may be sent at first.
pub fn window_size(bytes: u32) -> Vec<u8> {
    settings(&[(INITIAL_WINDOW_SIZE, bytes)])
}

pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub fn priority(stream: u32, on: u32, weight: u8) -> Vec<u8> {
    frame(PRIORITY, 0, stream, &dependency(on, weight))
}

pub fn dependency(on: u32, weight: u8) -> Vec<u8> {
    on.to_be_bytes().into_iter().chain([weight]).collect()
}

pub const PINGED: &[u8; 8] = b"callgate";

pub fn ping() -> Vec<u8> {
    frame(PING, 0, 0, PINGED)
}

pub fn continuation(stream: u32, flags: u8, fragment: &[u8]) -> Vec<u8> {
    frame(CONTINUATION, flags, stream, fragment)
}

/// Writes fields without any compression.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend(text.bytes());
        }
    }
    block
}

/// Writes a number with seven bits in its first byte (RFC 7541 §5.1).
fn length(block: &mut Vec<u8>, mut number: usize) {
    if number < 127 {
        return block.push(u8::try_from(number).unwrap());
    }
    block.push(127);
    number -= 127;
    while number >= 128 {
        block.push(u8::try_from(number % 128 + 128).unwrap());
        number /= 128;
    }
    block.push(u8::try_from(number).unwrap());
}

// === What is seen ===

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Returns the code of a RST_STREAM or GOAWAY.
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        Some(self.number(at))
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// Returns the last stream that a GOAWAY counts as served.
    pub fn last_stream(&self) -> u32 {
        self.number(0)
    }

    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// A connection of frames, its preface sent and its settings agreed.
pub struct Frames {
    pub tls: TlsStream<TcpStream>,
    /// The settings of the gate, by number.
    pub allowed: Vec<(u16, u32)>,
}

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

impl Frames {
    pub async fn open(gate: &Gate) -> Self {
        Self::open_with(gate, &[]).await
    }

    /// As `open`, with settings of the client's.
    pub async fn open_with(gate: &Gate, ours: &[(u16, u32)]) -> Self {
        Self::over(gate.raw("app.test", "h2").await, ours).await
    }

    /// As `open`, with little room for what is not read.
    pub async fn open_deaf(gate: &Gate) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(gate.addr).await.unwrap();
        Self::over(gate.tls(stream, "app.test", "h2").await.unwrap(), &[]).await
    }

    async fn over(tls: TlsStream<TcpStream>, ours: &[(u16, u32)]) -> Self {
        let mut frames = Self { tls, allowed: Vec::new() };
        frames.write(PREFACE).await;
        frames.write(&settings(ours)).await;
        let first = frames.next().await.unwrap();
        assert_eq!((first.kind, first.flags, first.stream), (SETTINGS, 0, 0), "the first frame is the gate's settings");
        frames.allowed = first.payload.chunks_exact(6).map(setting).collect();
        frames.write(&frame(SETTINGS, ACK, 0, &[])).await;
        frames.until("its settings' acknowledgement", |frame| frame.kind == SETTINGS && frame.flags == ACK).await;
        frames
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes).await.unwrap();
    }

    /// Writes to a gate that may have ended the connection.
    pub async fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.tls.write_all(bytes).await?;
        self.tls.flush().await
    }

    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.write(&frame(kind, flags, stream, payload)).await;
    }

    /// Returns the next frame; nothing when the connection has ended.
    pub async fn next(&mut self) -> Option<Frame> {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("the gate says nothing")
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.tls.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.tls.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Returns the first frame that is like this, and fails when the connection ends without.
    pub async fn until(&mut self, what: &str, is_it: impl Fn(&Frame) -> bool) -> Frame {
        let mut seen = Vec::new();
        loop {
            match self.next().await {
                Some(frame) if is_it(&frame) => return frame,
                Some(frame) => seen.push(frame),
                None => panic!("the connection ended without {what}: {seen:?}"),
            }
        }
    }

    /// Answers a ping, after which all that came before it has been dealt with.
    pub async fn settle(&mut self) {
        self.write(&ping()).await;
        self.until("a pong", |frame| frame.kind == PING && frame.flags == ACK && frame.payload == PINGED).await;
    }

    /// Returns what became of the first stream: a status, or the reset that ended it or the whole connection.
    pub async fn fate(&mut self) -> String {
        loop {
            match self.next().await {
                None => return "closed".into(),
                Some(frame) if frame.kind == HEADERS => return status(&frame.payload),
                Some(frame) if frame.code().is_some() => return "refused".into(),
                Some(_) => {}
            }
        }
    }

    /// Returns the body of a stream and how it ended: by its last frame (nothing) or by the code of a reset.
    pub async fn body(&mut self, stream: u32) -> (Vec<u8>, Option<u32>) {
        let mut body = Vec::new();
        loop {
            let frame = self.until("the end of the stream", |frame| frame.stream == stream).await;
            match frame.kind {
                DATA => body.extend(&frame.payload),
                RST_STREAM => return (body, frame.code()),
                _ => {}
            }
            if frame.ends_stream() {
                return (body, None);
            }
        }
    }
}

fn setting(bytes: &[u8]) -> (u16, u32) {
    (u16::from_be_bytes([bytes[0], bytes[1]]), u32::from_be_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]))
}

/// Reads the status that stands first in a block: indexed in the static table (RFC 7541, appendix A), or literal.
pub fn status(block: &[u8]) -> String {
    let indexed = ["200", "204", "206", "304", "400", "404", "500"];
    match block[0] {
        byte @ 0x88..=0x8e => indexed[usize::from(byte - 0x88)].into(),
        // A literal value of an indexed name, as three digits or in their Huffman code.
        0x48 if block[1] == 3 => String::from_utf8_lossy(&block[2..5]).into_owned(),
        0x48 if block[1] & 0x80 != 0 => digits(&block[2..5]),
        _ => "other".into(),
    }
}

/// Reads three digits in Huffman code: 0, 1 and 2 have five bits, the others six (RFC 7541, appendix B).
fn digits(code: &[u8]) -> String {
    let bits = u32::from_be_bytes([code[0], code[1], code[2], 0]);
    let mut at = 0;
    let digit = |at: &mut u32| {
        let (short, long) = ((bits << *at) >> 27, (bits << *at) >> 26);
        let (digit, length) = if short < 3 { (short, 5) } else { (long - 0b01_1001 + 3, 6) };
        *at += length;
        char::from_digit(digit, 10).unwrap()
    };
    (0..3).map(|_| digit(&mut at)).collect()
}
