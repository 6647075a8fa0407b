//! Upstreams that break HTTP: an answer with two readings, or with none, becomes 502 or breaks off.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::client::{read_head, status};
use crate::kit::gate::Gate;
use crate::kit::upstream::RawUpstream;

/// A gate before an upstream that answers a request for `/n` with the nth of these, and closes.
async fn liar(answers: Vec<Vec<u8>>) -> (RawUpstream, Gate) {
    let answers = Arc::new(answers);
    let upstream = RawUpstream::serving(move |mut line| {
        let answers = answers.clone();
        async move {
            let request = line.request().await.unwrap();
            let nth: usize = request[5..].split(' ').next().unwrap().parse().unwrap();
            line.say(&answers[nth]).await;
        }
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    (upstream, gate)
}

fn get(nth: usize) -> String {
    format!("GET /{nth} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n")
}

/// Checks that none of these answers reaches a client, by HTTP/1.1 or by HTTP/2, and that none is asked for again.
async fn check_502<A: AsRef<[u8]>>(answers: impl IntoIterator<Item = A>) {
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.as_ref().to_vec()).collect();
    let (upstream, gate) = liar(answers.clone()).await;
    for (nth, answer) in answers.iter().enumerate() {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(200)]);
        let got = gate.exchange(get(nth).as_bytes()).await;
        assert_eq!(status(&got), 502, "{shown:?}: {got}");
        assert_eq!(gate.get(&format!("/{nth}")).h2().send().await.status, 502, "{shown:?}");
        assert_eq!(upstream.seen().len(), 2 * (nth + 1), "{shown:?}");
    }
}

#[tokio::test]
async fn statuses_have_three_digits() {
    let lines = [
        "HTTP/1.1 000 Zero",
        "HTTP/1.1 00 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 2 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 20x OK",
        "HTTP/1.1 +200 OK",
        "HTTP/1.1 -200 OK",
        "HTTP/1.1 600 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1",
        "HTTP/1.1 ",
    ];
    check_502(lines.map(|line| format!("{line}\r\nContent-Length: 2\r\n\r\nok"))).await;
}

#[tokio::test]
async fn bytes_that_are_no_http_1_are_no_answer() {
    let settings = b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\x04\0\x10\0\0\0\x06\0\0\x40\0";
    check_502([
        &b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nok"[..],
        b"HTTP/2 200\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/3.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/11 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTPS/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        settings,
        b"RTSP/1.0 200 OK\r\n\r\n",
        b"SIP/2.0 200 OK\r\n\r\n",
        b"+OK ready\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n",
        b"ok",
        b"\n\n",
        b"\0",
    ])
    .await;
}

#[tokio::test]
async fn fields_have_one_reading() {
    let fields = [
        "Content-Length: 2, 2",
        "Content-Length: 2,2",
        "Content-Length: 2 2",
        "Content-Length: 2;x",
        "Content-Length: 2.0",
        "Content-Length: \"2\"",
        "Content-Length: 18446744073709551616",
        "Content-Length: 2\r\nContent-Length: 02",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding:",
        "X: a\0b",
        "X: a\rb",
        "X: a\r\n b",
        "X: a\r\n\tb",
        "X: a\x0bb",
        "X: a\x7fb",
        "X : a",
        "X\t: a",
        " X: a",
        "X Y: a",
        "X\0: a",
        "X\r: a",
        "X(y): a",
        ": a",
        "X",
        "X: a\nb",
        "X: a\nSet-Cookie: b=c",
    ];
    let answer = |field| format!("HTTP/1.1 200 OK\r\n{field}\r\nServer: liar\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    check_502(fields.map(answer)).await;
    check_502([
        "HTTP/1.1 200 OK\nContent-Length: 2\r\n\nok",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok",
        "HTTP/1.1 200 OK\rContent-Length: 2\r\rok",
        "HTTP/1.1 200 a\0b\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 a\rb\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 103 Early Hints\nLink: </a>\r\n\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ])
    .await;
}

#[tokio::test]
async fn heads_are_bounded() {
    check_502([
        format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(200_000)),
        format!("HTTP/1.1 200 {}\r\n\r\n", "x".repeat(200_000)),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(101)),
    ])
    .await;
}

#[tokio::test]
async fn bad_chunks_never_look_whole() {
    let bodies = [
        "x\r\nok\r\n0\r\n\r\n",
        "-2\r\nok\r\n0\r\n\r\n",
        "+2\r\nok\r\n0\r\n\r\n",
        "0x2\r\nok\r\n0\r\n\r\n",
        "2 2\r\nok\r\n0\r\n\r\n",
        "\r\nok\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nok\r\n0\r\n\r\n",
        "10000000000000002\r\nok\r\n0\r\n\r\n",
        "2\r\nokk\r\n0\r\n\r\n",
        "2\r\nok0\r\n\r\n",
        "2\r\no\r\n0\r\n\r\n",
        "2\rok\r0\r\r",
        "2\nok\n0\n\n",
        "2;a\nok\r\n0\r\n\r\n",
        "2\r\nok\r\n",
        "2\r\nok\r\n0",
        "2\r\nok\r\n0\r\n",
        "2\r\nok\r\n0\r\nX: 1\r\n",
        "2\r\nok\r\n0\r\nx y\r\n\r\n",
        "2\r\nok\r\n0\r\n: x\r\n\r\n",
        "2\r\nok\r\n0\r\nX: a\0b\r\n\r\n",
    ];
    let answer = |body| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes();
    let (_upstream, gate) = liar(bodies.map(answer).into()).await;
    for (nth, body) in bodies.iter().enumerate() {
        let mut tls = gate.raw("app.test", "http/1.1").await;
        tls.write_all(get(nth).as_bytes()).await.unwrap();
        let mut got = Vec::new();
        let ended = tls.read_to_end(&mut got).await;
        let got = String::from_utf8_lossy(&got).into_owned();
        let refused = status(&got) == 502;
        assert!(refused || (ended.is_err() && !got.ends_with("0\r\n\r\n")), "{body:?}: {got}");
        let fate = h2_fate(&gate, nth).await;
        assert!(matches!(fate, Outcome::Status(502) | Outcome::Reset), "{body:?}: {fate:?}");
    }
}

/// The answer as an HTTP/2 client sees it.
#[derive(Debug)]
enum Outcome {
    /// It ended by END_STREAM.
    Status(u16),
    /// It ended by RST_STREAM.
    Reset,
}

async fn h2_fate(gate: &Gate, nth: usize) -> Outcome {
    let (mut send, connection) = h2::client::handshake(gate.raw("app.test", "h2").await).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(format!("https://app.test/{nth}")).body(()).unwrap();
    let (response, _) = send.send_request(request, true).unwrap();
    let all = async {
        let response = response.await?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            data?;
        }
        body.trailers().await?;
        Ok::<_, h2::Error>(status)
    };
    match all.await {
        Ok(status) => Outcome::Status(status),
        Err(error) if error.is_reset() => Outcome::Reset,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn trailers_cannot_say_what_a_head_says() {
    let trailers = "Content-Length: 7\r\nTransfer-Encoding: chunked\r\nHost: evil.test\r\nConnection: close\r\n\
                    Set-Cookie: a=b\r\nAuthorization: x\r\nContent-Type: text/html\r\nCache-Control: public\r\nX-Sum: 9";
    let names = "Content-Length, Transfer-Encoding, Host, Set-Cookie, Content-Type, Cache-Control, X-Sum";
    let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: {names}\r\n\r\n");
    let upstream = RawUpstream::closing(format!("{head}2\r\nok\r\n0\r\n{trailers}\r\n\r\n")).await;
    let gate = Gate::before(upstream.addr).await;
    let request = "GET / HTTP/1.1\r\nHost: app.test\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n";
    let answer = gate.exchange(request.as_bytes()).await;
    assert!(answer.ends_with("\r\n\r\n2\r\nok\r\n0\r\nx-sum: 9\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn informational_answers_without_end_are_no_answer() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.request().await;
        while line.stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await.is_ok() {}
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let asked = tokio::time::timeout(Duration::from_secs(20), gate.get("/").send());
    asked.await.expect("the flood holds the worker").expect(502);
}

#[tokio::test]
async fn informational_answers_do_not_move_the_deadline() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.request().await;
        while line.stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let gate = Gate::before_with(upstream.addr, "timeouts = { first_byte = \"400ms\" }", "").await;
    gate.get("/").send().await.expect(504);
}

#[tokio::test]
async fn an_answer_without_a_body_has_none_whatever_bytes_follow() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for (method, answer) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 50\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 50\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
    ] {
        let said = format!("{answer}{poison}");
        let upstream = RawUpstream::serving(move |mut line| {
            let said = said.clone();
            async move {
                while line.request().await.is_some() {
                    line.note(line.nth.to_string());
                    line.say(&said).await;
                }
            }
        })
        .await;
        let gate = Gate::before(upstream.addr).await;
        let mut tls = gate.raw("app.test", "http/1.1").await;
        for _ in 0..3 {
            tls.write_all(format!("{method} / HTTP/1.1\r\nHost: app.test\r\n\r\n").as_bytes()).await.unwrap();
            let head = read_head(&mut tls).await;
            assert_eq!(status(&head), status(answer), "{method} {answer:?}: {head}");
        }
        tls.shutdown().await.unwrap();
        let mut rest = String::new();
        let _ = tls.read_to_string(&mut rest).await;
        assert_eq!(rest, "", "{method} {answer:?}");
        let numbers: Vec<_> = upstream.seen().into_iter().skip(1).step_by(2).collect();
        assert_eq!(numbers, ["0", "1", "2"], "{method} {answer:?}");
    }
}
