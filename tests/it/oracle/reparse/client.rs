//! Clients that send any bytes over HTTP/1, and any frames over HTTP/2.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::kit::gate::Gate;
use crate::kit::rfc9112::Field;

/// A silence of this length means that the gate waits for more.
const SILENCE: Duration = Duration::from_millis(400);

/// The bytes or frames of a client on one connection.
#[derive(Debug, Clone)]
pub enum ClientBytes {
    Http1(Vec<u8>),
    Http2(Frames),
}

/// One exchange of HTTP/2: fields with odd bytes in them, too.
#[derive(Debug, Clone)]
pub struct Frames {
    pub head: Vec<Field>,
    pub body: Vec<String>,
    pub trailers: Vec<Field>,
}

impl ClientBytes {
    /// Says it on a connection of its own, and listens until the gate closes or waits for more.
    pub async fn say(&self, gate: &Gate) -> Vec<u8> {
        let (protocol, bytes) = match self {
            Self::Http1(bytes) => ("http/1.1", bytes.clone()),
            Self::Http2(frames) => ("h2", frames.encode()),
        };
        let mut tls = gate.raw("app.test", protocol).await;
        // The gate may close at any time, which is seen by what it said.
        let _ = tls.write_all(&bytes).await;
        listen(&mut tls).await
    }
}

async fn listen(tls: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut heard = Vec::new();
    while let Ok(Ok(1..)) = tokio::time::timeout(SILENCE, tls.read_buf(&mut heard)).await {
        if is_over(&heard) {
            break;
        }
    }
    heard
}

/// Tells whether the end of stream 1, by END_STREAM, RST_STREAM or GOAWAY, is among the frames. HTTP/1 ends by closing.
fn is_over(heard: &[u8]) -> bool {
    let mut rest = heard;
    while let Some((head, more)) = rest.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags, stream) = (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        let Some(rest_of_frames) = more.get(length..) else { return false };
        if kind == GOAWAY || stream == 1 && (kind == RST_STREAM || kind <= HEADERS && flags & END_STREAM != 0) {
            return true;
        }
        rest = rest_of_frames;
    }
    false
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

impl Frames {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut bytes, SETTINGS, 0, 0, &[]);
        let alone = self.body.is_empty() && self.trailers.is_empty();
        frame(&mut bytes, HEADERS, END_HEADERS | if alone { END_STREAM } else { 0 }, 1, &block(&self.head));
        for (at, part) in self.body.iter().enumerate() {
            let last = at + 1 == self.body.len() && self.trailers.is_empty();
            frame(&mut bytes, DATA, if last { END_STREAM } else { 0 }, 1, &latin1_bytes(part));
        }
        if !self.trailers.is_empty() {
            frame(&mut bytes, HEADERS, END_HEADERS | END_STREAM, 1, &block(&self.trailers));
        }
        bytes
    }
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    bytes.extend_from_slice(&length[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

/// Writes fields as literals without indexing (RFC 7541 §6.2.2), so that any byte may be in them.
fn block(fields: &[Field]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let text = latin1_bytes(text);
            length(&mut block, text.len());
            block.extend_from_slice(&text);
        }
    }
    block
}

/// Writes an integer with a prefix of seven bits (RFC 7541 §5.1).
fn length(block: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(127) else {
        return block.push(u8::try_from(length).unwrap());
    };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

fn latin1_bytes(text: &str) -> Vec<u8> {
    crate::kit::rfc9112::bytes(text)
}
