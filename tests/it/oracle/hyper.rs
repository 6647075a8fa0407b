//! hyper reads every request that the guard accepts in the same way, ends it at the same byte, and reports no error.
//!
//! The requests are those of `request_bytes.txt`, whole and mutilated by a generator with a fixed seed.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use callgate::message::framing;
use callgate::message::guard::{Guard, Violation};
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http::request_bytes::requests;

/// How often each request of the table is mutilated.
const ROUNDS: usize = 8;
/// The bytes that mutilation inserts.
const PIECES: [&[u8]; 28] = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\0",
    b"\x7f",
    b"\xff",
    b"0",
    b"1",
    b"5",
    b"a",
    b"\"",
    b"#",
    b"*",
    b"/",
    b"?",
    b"Content-Length: 3\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"GET / HTTP/1.1\r\n",
    b"HTTP/1.0",
    b"0\r\n\r\n",
    b"Host: b\r\n",
];

#[tokio::test]
async fn hyper_reads_what_the_guard_lets_on_in_the_same_way() {
    let mut chance = Random(0x9e37_79b9_7f4a_7c15);
    let (mut requests_read, mut refused) = (0, 0);
    for request in requests().into_iter().filter(|request| request.len() < 4096) {
        for round in 0..ROUNDS {
            // In front and behind there are requests that are clear.
            let mut bytes = [CLEAR, &request[..], CLEAR].concat();
            for _ in 0..round {
                chance.mutilate(&mut bytes);
            }
            let whole = let_on(&bytes, usize::MAX, &mut chance);
            assert_eq!(let_on(&bytes, 7, &mut chance), whole, "in pieces: {}", bytes.escape_ascii());
            let read = hyper_reads(&whole.gone).await;
            let is_same = match read {
                Ok(HyperResult { count, is_last: false }) => count == whole.heads,
                Ok(HyperResult { count, is_last: true }) => count <= whole.heads,
                Err(_) => false,
            };
            assert!(is_same, "{read:?} {} {:?}: {}", whole.heads, whole.refusal, bytes.escape_ascii());
            requests_read += whole.heads;
            refused += u64::from(whole.refusal.is_some());
        }
    }
    assert!(requests_read > 8_000 && refused > 8_000, "{requests_read} {refused}");
}

const CLEAR: &[u8] = b"POST /clear HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";

/// The result of the guard for some bytes.
#[derive(Debug, PartialEq, Eq)]
struct GuardResult {
    gone: Vec<u8>,
    heads: u64,
    refusal: Option<Violation>,
}

/// Shows bytes to a guard, in pieces of at most `size`.
fn let_on(mut bytes: &[u8], size: usize, chance: &mut Random) -> GuardResult {
    let (mut guard, mut held, mut gone) = (Guard::default(), Vec::new(), Vec::new());
    loop {
        let (ready, looked) = guard.scan(&mut held);
        gone.extend(held.drain(..ready));
        if guard.is_open() {
            guard.stay();
            continue;
        }
        if looked.is_err() || bytes.is_empty() {
            return GuardResult { gone, heads: guard.heads(), refusal: looked.err() };
        }
        let (piece, rest) = bytes.split_at(bytes.len().min(size).min(1 + chance.below(size)));
        held.extend(piece);
        bytes = if size == usize::MAX { &[] } else { rest };
        if size == usize::MAX {
            held.extend(rest);
        }
    }
}

/// The result of hyper for the same bytes.
#[derive(Debug, Clone, Copy, Default)]
struct HyperResult {
    count: u64,
    /// It was told to read no more.
    is_last: bool,
}

/// Lets hyper read bytes until it complains.
async fn hyper_reads(bytes: &[u8]) -> Result<HyperResult, String> {
    let (near, far) = tokio::io::duplex(1 << 20);
    let read = Arc::new(Mutex::new(HyperResult::default()));
    let service = service_fn(|request: Request<Incoming>| {
        let mut read = read.lock().unwrap();
        read.count += 1;
        read.is_last |= request.version() == Version::HTTP_10 || request.headers().contains_key("connection");
        async move {
            drop(request.into_body().collect().await);
            // Whatever is asked for, the connection stays in HTTP.
            let mut response = Response::new(Empty::<Bytes>::new());
            *response.status_mut() = StatusCode::NOT_FOUND;
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = http1::Builder::new();
    let connection = builder.max_headers(framing::MAX_FIELDS).half_close(true);
    let connection = connection.serve_connection(TokioIo::new(far), service);
    let client = async {
        let (mut read, mut write) = tokio::io::split(near);
        write.write_all(bytes).await.unwrap();
        write.shutdown().await.unwrap();
        let mut answers = Vec::new();
        read.read_to_end(&mut answers).await.unwrap();
        String::from_utf8_lossy(&answers).into_owned()
    };
    let (_, answers) = tokio::join!(connection, client);
    if answers.contains(" 400 ") || answers.contains(" 414 ") || answers.contains(" 431 ") {
        return Err(answers);
    }
    let read = *read.lock().unwrap();
    Ok(read)
}

/// Random that is the same each time (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 1).unwrap() % end
    }

    fn mutilate(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        let end = (at + self.below(4)).min(bytes.len());
        let piece = PIECES[self.below(PIECES.len())];
        match self.below(4) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..end, piece.iter().copied())),
            2 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            _ => drop(bytes.splice(at..at, piece.iter().copied())),
        }
        if bytes.is_empty() {
            bytes.extend(CLEAR);
        }
    }
}
