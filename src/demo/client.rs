//! A client for the stand-ins' tests: one connection, one request, the answer byte for byte.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer as it came over the wire.
#[derive(Debug)]
pub(super) struct Raw {
    /// The status line and the header lines.
    pub(super) head: String,
    /// The bytes after them, framing included.
    pub(super) body: Vec<u8>,
}

impl Raw {
    pub(super) fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Returns every value of a header.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.all(name).first().copied().unwrap_or_default()
    }
}

/// Sends a request and reads to the end of the connection; `headers` are lines that end in CRLF.
pub(super) async fn ask(addr: SocketAddr, request: &str, headers: &str, body: &[u8]) -> Raw {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let length = body.len();
    let host = if headers.starts_with("Host:") { "" } else { "Host: acme.test\r\n" };
    let head = format!("{request} HTTP/1.1\r\n{host}Connection: close\r\nContent-Length: {length}\r\n{headers}\r\n");
    // A stand-in that closes early makes the write fail; the tests look at the answer alone.
    drop(socket.write_all(&[head.as_bytes(), body].concat()).await);
    let mut answer = Vec::new();
    drop(socket.read_to_end(&mut answer).await);
    split(&answer)
}

fn split(answer: &[u8]) -> Raw {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(answer.len(), |place| place + 4);
    Raw { head: String::from_utf8_lossy(&answer[..end]).into_owned(), body: answer[end..].to_vec() }
}
