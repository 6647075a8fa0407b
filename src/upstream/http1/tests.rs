//! The reader of answers, alone and beside hyper's.

use std::cell::RefCell;

use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1 as hyper_http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::*;
use crate::message::framing::normalize_answer;
use crate::upstream::io::Transport;

/// What a reader made of an answer that the server sent before it closed.
#[derive(Debug, Default, PartialEq, Eq)]
struct ReadAnswer {
    interims: Vec<String>,
    status: u16,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
}

fn lines(fields: &http::HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut lines: Vec<_> = fields.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    lines.sort();
    lines
}

impl ReadAnswer {
    fn begin(head: &response::Parts) -> Self {
        Self { status: head.status.as_u16(), fields: lines(&head.headers), ..Self::default() }
    }

    fn push(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => self.body.extend_from_slice(&data),
            Err(frame) => self.trailers = lines(frame.trailers_ref().unwrap()),
        }
    }
}

fn request(method: &Method) -> Request<RequestBody> {
    Request::builder().method(method).uri("/").header("host", "a").body(RequestBody::Empty).unwrap()
}

/// Reads an answer, at most `most` bytes at once, from a server that closes after it.
async fn read(answer: &[u8], method: &Method, most: usize) -> Result<ReadAnswer, Http1Error> {
    let (near, mut far) = UnixStream::pair().unwrap();
    let descriptor = crate::descriptors::acquire_for_upstream().unwrap();
    let mut http = Http1::new(UpstreamIo::new(Transport::Unix(near), None, descriptor));
    http.set_read_limit(most);
    assert!(http.is_open());
    let server = async {
        // The reader may have closed the connection.
        let _ = far.write_all(answer).await;
        let _ = far.shutdown().await;
    };
    tokio::join!(exchange(http, method), server).0
}

async fn exchange(mut http: Http1, method: &Method) -> Result<ReadAnswer, Http1Error> {
    http.begin(&mut request(method), &[]);
    let interims = RefCell::new(Vec::new());
    let note =
        |interim: Interim| interims.borrow_mut().push(format!("{} {:?}", interim.status, lines(&interim.fields)));
    let (mut head, ()) = poll_fn(|cx| http.poll_head(cx, Some(&note))).await?.into_parts();
    normalize_answer(&mut head).map_err(|_| Http1Error::Invalid("two readings"))?;
    let mut read = ReadAnswer { interims: interims.into_inner(), ..ReadAnswer::begin(&head) };
    http.begin_body(&head)?;
    while let Some(frame) = poll_fn(|cx| http.poll_body(cx)).await {
        read.push(frame?);
    }
    assert!(http.has_whole_body() && http.size_hint().exact() == Some(0));
    Ok(read)
}

/// The same by hyper.
async fn read_by_hyper(answer: &[u8], method: &Method) -> Option<ReadAnswer> {
    let (near, mut far) = UnixStream::pair().unwrap();
    let server = async {
        assert!(far.read(&mut [0; 256]).await.unwrap() > 0);
        far.write_all(answer).await.unwrap();
        far.shutdown().await.unwrap();
        poll_fn(|cx| Pin::new(&mut far).poll_read(cx, &mut ReadBuf::new(&mut [0]))).await
    };
    let client = async {
        let (mut sender, connection) =
            hyper_http1::Builder::new().max_buf_size(LONG_READ).handshake(TokioIo::new(near)).await.ok()?;
        let connection = tokio::spawn(connection.without_shutdown());
        let request =
            Request::builder().method(method).uri("/").header("host", "a").body(Empty::<Bytes>::new()).unwrap();
        let read = async {
            let (mut head, mut body) = sender.send_request(request).await.ok()?.into_parts();
            normalize_answer(&mut head).ok()?;
            let mut read = ReadAnswer::begin(&head);
            while let Some(frame) = body.frame().await {
                read.push(frame.ok()?);
            }
            Some(read)
        }
        .await;
        connection.abort();
        read
    };
    tokio::join!(server, client).1
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
        let piece = PIECES[self.below(PIECES.len())].as_bytes();
        match self.below(4) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..end, piece.iter().copied())),
            2 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            _ => drop(bytes.splice(at..at, piece.iter().copied())),
        }
    }
}

const ANSWERS: [&str; 12] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 404 No such page\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nuntil the end",
    "HTTP/1.0 200 OK\r\nServer: old\r\n\r\nuntil the end",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n000a \r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n",
    "HTTP/1.1 200 OK\nContent-Length: 2\nX: a\n\nok",
    "\r\nHTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nframes",
];

/// What mutilation inserts.
const PIECES: [&str; 26] = [
    "\r\n",
    "\n",
    "\r",
    " ",
    "\t",
    ":",
    ",",
    ";",
    "\0",
    "\x7f",
    "\u{e9}",
    "0",
    "1",
    "5",
    "f",
    "-",
    "+",
    "x",
    "\"",
    "\r\n\r\n",
    "Content-Length: 3\r\n",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "HTTP/1.0",
    "0\r\n\r\n",
    "HTTP/1.1 103 H\r\n\r\n",
];

/// How often each answer is mutilated.
const ROUNDS: usize = 1000;

/// What callgate reads, hyper reads in the same way; and it makes no difference how the bytes arrive. callgate refuses
/// more: a head or trailers whose lines end in two ways.
#[tokio::test]
async fn hyper_reads_an_answer_in_the_same_way() {
    let mut chance = Random(0x9e37_79b9_7f4a_7c15);
    let (mut read_by_both, mut refused_by_both, mut stricter) = (0, 0, 0);
    for answer in ANSWERS {
        for round in 0..ROUNDS {
            let mut bytes = answer.as_bytes().to_vec();
            (0..round % 4).for_each(|_| chance.mutilate(&mut bytes));
            let method = if round % 9 == 8 { Method::HEAD } else { Method::GET };
            let whole = read(&bytes, &method, usize::MAX).await;
            let bytewise = read(&bytes, &method, 1).await;
            assert_eq!(
                whole.as_ref().ok(),
                bytewise.as_ref().ok(),
                "byte by byte: {} {bytewise:?} {whole:?}",
                bytes.escape_ascii()
            );
            let by_hyper = read_by_hyper(&bytes, &method).await;
            match (whole, by_hyper) {
                (Ok(mut ours), Some(by_hyper)) => {
                    ours.interims.clear();
                    assert_eq!(ours, by_hyper, "{}", bytes.escape_ascii());
                    read_by_both += 1;
                }
                (Err(_), None) => refused_by_both += 1,
                (Err(Http1Error::Invalid(_)), Some(_)) => stricter += 1,
                (ours, by_hyper) => panic!("{ours:?} {by_hyper:?}: {}", bytes.escape_ascii()),
            }
        }
    }
    assert!(
        read_by_both > 5_000 && refused_by_both > 5_000 && (100..300).contains(&stricter),
        "{read_by_both} {refused_by_both} {stricter}"
    );
}

async fn error_of(answer: &str) -> String {
    let whole = read(answer.as_bytes(), &Method::GET, usize::MAX).await.unwrap_err().to_string();
    let bytewise = read(answer.as_bytes(), &Method::GET, 1).await.unwrap_err().to_string();
    assert_eq!(whole, bytewise, "{answer:?}");
    whole
}

#[tokio::test]
async fn lines_of_a_head_end_in_one_way() {
    for answer in [
        "\r\n\r\nHTTP/1.1 200 OK\r\n\r\na\nb\n\n",
        "HTTP/1.1 103 Early Hints\r\nX: a\r\n\r\nHTTP/1.1 200 OK\r\n\r\na\nb",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\nX: a\n\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\na\nb",
        "HTTP/1.1 200 OK\n\na\r\nb\n",
        "\nHTTP/1.1 200 OK\nX: a\n\n",
    ] {
        read(answer.as_bytes(), &Method::GET, usize::MAX).await.unwrap();
    }
    for answer in [
        "HTTP/1.1 200 OK\nX: a\r\n\n",
        "HTTP/1.1 200 OK\nX: a\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\n\r\n",
        "\nHTTP/1.1 200 OK\r\n\r\n",
    ] {
        assert_eq!(error_of(answer).await, "some lines of the head end with CRLF and some with LF", "{answer:?}");
    }
}

#[tokio::test]
async fn interim_answers_are_passed_on_however_their_bytes_arrive() {
    let answer = b"HTTP/1.1 100 Continue\r\nX: 0\r\n\r\nHTTP/1.1 103 Early Hints\r\nX:  a \r\nX: b\r\n\r\n\
        HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nX: c\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n";
    for most in [1, 7, usize::MAX] {
        let read = read(answer, &Method::GET, most).await.unwrap();
        let x = |value: &str| ("x".to_owned(), value.as_bytes().to_vec());
        assert_eq!(read.interims, [format!("103 Early Hints {:?}", [x("a"), x("b")]), "102 Processing []".to_owned()]);
        assert_eq!((read.fields, &read.body[..]), (vec![x("c")], &b"HTTP/1.1 103 Early Hints\r\n\r\n"[..]));
    }
}

#[tokio::test]
async fn what_is_no_answer_is_refused_at_once() {
    for (answer, expected) in [
        ("\x15\x03\x03\0\x02\x02\x46", "it speaks TLS and not plain HTTP: should `url` begin with https://?"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "the head of the answer is not valid"),
        ("HTTP/1.1 200 OK\r\nX", "the connection was closed before the answer was complete"),
    ] {
        assert_eq!(error_of(answer).await, expected, "{answer:?}");
    }
    // A byte that a TLS alert begins with may be in a body.
    read(b"HTTP/1.1 200 OK\r\n\r\n\x15", &Method::GET, 19).await.unwrap();
}

#[tokio::test]
async fn heads_and_the_framing_of_bodies_have_a_size_limit() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(8_000);
    let field = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(128 << 10));
    for answer in [hints, field] {
        let error = read(answer.as_bytes(), &Method::GET, usize::MAX).await.err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("the heads of the answer are too long"));
    }
    let fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: a\r\n".repeat(101));
    assert_eq!(error_of(&fields).await, "the head of the answer is not valid");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let line = format!("{chunked}1;{}", "a".repeat(8 << 10));
    let extensions = format!("{chunked}{}", format!("1;{}\r\na\r\n", "a".repeat(2 << 10)).repeat(9));
    let trailers = format!("{chunked}0\r\nX: {}", "a".repeat(20 << 10));
    for answer in [line, extensions, trailers] {
        assert_eq!(error_of(&answer).await, "what frames the body of the answer is too long");
    }
}

#[tokio::test]
async fn chunks_are_framed_as_the_rfc_says() {
    for (chunks, expected) in [
        ("5\r\nhello\r\n", "the connection was closed before the answer was complete"),
        ("5\r\nhello!\r\n0\r\n\r\n", "a chunk is longer than its size says"),
        ("5\nhello\r\n0\r\n\r\n", "the line before a chunk does not end with CRLF"),
        ("5;a\rb\r\nhello\r\n0\r\n\r\n", "the line before a chunk does not end with CRLF"),
        ("x\r\n", "the size of a chunk is not a number"),
        ("+5\r\nhello\r\n0\r\n\r\n", "the size of a chunk is not a number"),
        ("5 5\r\nhello\r\n0\r\n\r\n", "the size of a chunk is not a number"),
        ("10000000000000000\r\nhello\r\n", "the size of a chunk is not a number"),
        ("\r\n0\r\n\r\n", "the size of a chunk is not a number"),
        ("0\r\nX: a\n\r\n", "a trailer does not end with CRLF"),
        ("0\r\nno trailer\r\n\r\n", "the head of the answer is not valid"),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        assert_eq!(error_of(&answer).await, expected, "{chunks:?}");
    }
}

/// Sends a body of callgate's own with a head that has this field, and returns what arrives.
async fn sent(body: &'static [u8], field: (&'static str, &'static str)) -> Result<String, Http1Error> {
    let (near, mut far) = UnixStream::pair().unwrap();
    let descriptor = crate::descriptors::acquire_for_upstream().unwrap();
    let mut http = Http1::new(UpstreamIo::new(Transport::Unix(near), None, descriptor));
    let mut request = request(&Method::POST);
    request.headers_mut().append(field.0, field.1.parse().unwrap());
    *request.body_mut() = RequestBody::Full((!body.is_empty()).then_some(Bytes::from_static(body)));
    http.begin(&mut request, &[]);
    let server = async {
        far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let mut arrived = Vec::new();
        // After a failure, the answer is unread, and the end of the stream is no clean one.
        let _ = far.read_to_end(&mut arrived).await;
        String::from_utf8(arrived).unwrap().split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned())
    };
    let client = async {
        let (head, ()) = poll_fn(|cx| http.poll_head(cx, None)).await?.into_parts();
        http.begin_body(&head)?;
        while !http.is_free() {
            poll_fn(|cx| Poll::Ready(http.poll_send(cx))).await?;
            tokio::task::yield_now().await;
        }
        drop(http);
        Ok(())
    };
    let (arrived, sent) = tokio::join!(server, client);
    sent.map(|()| arrived)
}

#[tokio::test]
async fn a_body_is_framed_as_its_head_says() {
    static LARGE: [u8; 1 << 20] = [b'a'; 1 << 20];
    assert_eq!(sent(b"hello", ("x", "y")).await.unwrap(), "hello");
    // Its length is known, so it has no coding, whatever the fields say.
    assert_eq!(sent(b"hello", ("transfer-encoding", "chunked")).await.unwrap(), "hello");
    assert!(sent(&LARGE, ("x", "y")).await.unwrap().as_bytes() == LARGE);
    // A body of another length would let the upstream see another request.
    for (body, length) in [("hello", "3"), ("hello", "7"), ("hello", "99999999999999999999"), ("", "1")] {
        let error = sent(body.as_bytes(), ("content-length", length)).await.unwrap_err();
        assert!(matches!(error, Http1Error::Client), "{length}: {error:?}");
    }
}
