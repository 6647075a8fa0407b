//! Upstreams that answer with the bytes of a test and keep what they received.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An upstream that reads one request head (and what a given length promises) per answer, keeps the bytes, and writes given bytes.
pub struct RawUpstream {
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl RawUpstream {
    /// Answers every request on every connection with these bytes; closes when they say `Connection: close`.
    pub async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = Arc::<[u8]>::from(answer.into());
        let close = String::from_utf8_lossy(&answer).to_ascii_lowercase().contains("connection: close");
        Self::serving(move |mut line| {
            let answer = answer.clone();
            async move {
                while line.request().await.is_some() {
                    if line.stream.write_all(&answer).await.is_err() || close {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Answers one request on every connection with these bytes, and closes it.
    pub async fn closing(answer: impl Into<Vec<u8>>) -> Self {
        let answer = Arc::<[u8]>::from(answer.into());
        Self::serving(move |mut line| {
            let answer = answer.clone();
            async move {
                if line.request().await.is_some() {
                    line.say(&answer).await;
                }
            }
        })
        .await
    }

    /// Serves every connection with a script of the test; it is closed when the script ends.
    pub async fn serving<S: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(UpstreamConnection) -> S + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let kept = seen.clone();
        let task = tokio::spawn(async move {
            for nth in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(UpstreamConnection { stream, nth, seen: kept.clone() }));
            }
        });
        Self { addr, seen, task }
    }

    /// Answers 200 with a body of two bytes, `ok`.
    pub async fn ok() -> Self {
        Self::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await
    }

    /// Reads the head of a request on every connection, and never answers.
    pub async fn silent() -> Self {
        Self::serving(|mut line| async move {
            line.head().await;
            line.rest().await;
        })
        .await
    }

    /// Returns the bytes of all requests so far.
    pub fn bytes(&self) -> Vec<Vec<u8>> {
        self.seen.lock().unwrap().clone()
    }

    /// Returns the same as text.
    pub fn seen(&self) -> Vec<String> {
        self.bytes().iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}

impl Drop for RawUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection that an upstream accepted, the `nth` from 0.
pub struct UpstreamConnection {
    pub stream: TcpStream,
    pub nth: usize,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl UpstreamConnection {
    /// Reads a request and keeps its bytes for `RawUpstream::seen`.
    pub async fn request(&mut self) -> Option<String> {
        let request = read_request(&mut self.stream).await?;
        self.seen.lock().unwrap().push(request.clone());
        Some(String::from_utf8_lossy(&request).into_owned())
    }

    /// Reads the head of a request, and nothing behind it.
    pub async fn head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.ok()?);
        }
        self.seen.lock().unwrap().push(head.clone());
        Some(String::from_utf8_lossy(&head).into_owned())
    }

    /// Keeps a note for `RawUpstream::seen`.
    pub fn note(&self, text: String) {
        self.keep(text.into_bytes());
    }

    /// Keeps bytes for `RawUpstream::bytes`.
    pub fn keep(&self, bytes: Vec<u8>) {
        self.seen.lock().unwrap().push(bytes);
    }

    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        // The test checks at the other side whether the gate still reads.
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Waits until the other side has ended, and returns what it said until then.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest).await;
        rest
    }
}

/// Returns what the gate passed on of a request: its head without the fields that the gate adds, in order of name, and its body.
pub fn passed(request: &str) -> (String, Vec<String>, String) {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let (line, fields) = head.split_once("\r\n").unwrap();
    let ours = [
        "via: 1.1 callgate",
        "via: 1.0 callgate",
        "via: 2.0 callgate",
        "forwarded: ",
        "x-forwarded-",
        "x-request-id: ",
    ];
    let theirs = fields.split("\r\n").filter(|field| !ours.iter().any(|our| field.starts_with(our)));
    let mut fields: Vec<_> = theirs.map(str::to_owned).collect();
    // Equal names keep their order.
    fields.sort_by(|one, other| one.split(':').next().cmp(&other.split(':').next()));
    (line.to_owned(), fields, body.to_owned())
}

/// Reads one request: its head, and the body that `Content-Length` or chunks make.
pub async fn read_request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while !is_whole(&bytes) {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return (!bytes.is_empty()).then_some(bytes);
        }
    }
    Some(bytes)
}

fn is_whole(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    if head.contains("\r\ntransfer-encoding: chunked") {
        let body = &bytes[end + 2..];
        return body.ends_with(b"\r\n\r\n") && body.windows(5).any(|window| window == b"\r\n0\r\n");
    }
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok()).unwrap_or(0);
    bytes.len() >= end + 4 + length
}
