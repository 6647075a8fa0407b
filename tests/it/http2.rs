//! HTTP/2 toward clients, HTTP/1.1 toward upstreams: requests become the same ones, and streams do not harm each other.

mod conformance;
mod endings;
mod floods;
mod hostile;
mod websocket;

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;

use crate::kit::frames::{self, END_HEADERS, END_STREAM, Frames, HEADERS, REQUEST, block};
use crate::kit::gate::Gate;
use crate::kit::upstream::{RawUpstream, passed};

async fn connect(gate: &Gate) -> SendRequest<Bytes> {
    let (send, connection) = h2::client::handshake(gate.raw("app.test", "h2").await).await.unwrap();
    tokio::spawn(connection);
    send
}

fn get(path: &str) -> http::Request<()> {
    http::Request::get(format!("https://app.test{path}")).body(()).unwrap()
}

async fn body(response: http::Response<h2::RecvStream>) -> Result<Vec<u8>, h2::Error> {
    let (mut all, mut body) = (Vec::new(), response.into_body());
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok(all)
}

#[tokio::test]
async fn pingora_892_cookie_crumbs_are_joined() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let asking = gate.get("/").h2().cookie("a=1").cookie("#b=\"2\"").header("x", "1").cookie("c=;d").header("x", "2");
    asking.send().await.expect(200);
    let (line, fields, _) = passed(&upstream.seen().pop().unwrap());
    assert_eq!(line, "GET / HTTP/1.1");
    assert_eq!(fields, ["cookie: a=1; #b=\"2\"; c=;d", "host: app.test", "x: 1", "x: 2"]);
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways() {
    let upstream = RawUpstream::closing(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 9\r\n\r\n",
    )
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut send = connect(&gate).await;
    let request = http::Request::post("https://app.test/a?b").header("te", "trailers").header("trailer", "x-end");
    let (response, mut stream) = send.send_request(request.body(()).unwrap(), false).unwrap();
    stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-end", "1".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "ok");
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap()["x-sum"], "9");
    let (line, fields, body) = passed(&upstream.seen().pop().unwrap());
    assert_eq!(line, "POST /a?b HTTP/1.1");
    let expected = ["connection: te", "host: app.test", "te: trailers", "trailer: x-end", "transfer-encoding: chunked"];
    assert_eq!(fields, expected);
    assert_eq!(body, "5\r\nhello\r\n0\r\nx-end: 1\r\n\r\n");
}

#[tokio::test]
async fn trailers_carry_neither_names_of_accounts_nor_fields_of_a_hop() {
    let trailers = "PBX-Account: 41\r\npbx-domain: acme.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
                    Keep-Alive: 5\r\nUpgrade: h2c\r\nContent-Length: 7\r\nSet-Cookie: a=b\r\nX-Sum: 9";
    let upstream =
        RawUpstream::closing(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{trailers}\r\n\r\n"))
            .await;
    let gate = Gate::before(upstream.addr).await;
    let mut send = connect(&gate).await;
    let request = http::Request::post("https://app.test/").header("te", "trailers");
    let request = request.header("trailer", "cookie, connection, x-forwarded-for, x-end");
    let (response, mut stream) = send.send_request(request.body(()).unwrap(), false).unwrap();
    let mut sent = http::HeaderMap::new();
    for name in ["cookie", "x-forwarded-for", "x-end"] {
        sent.insert(name, "1".parse().unwrap());
    }
    stream.send_trailers(sent).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert!(body.data().await.is_none());
    let received = body.trailers().await.unwrap().unwrap();
    assert_eq!(received.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["x-sum"]);
    assert_eq!(passed(&upstream.seen().pop().unwrap()).2, "0\r\nx-end: 1\r\n\r\n");
}

#[tokio::test]
async fn a_body_with_a_length_keeps_it() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let mut send = connect(&gate).await;
    let request = http::Request::post("https://app.test/").header("content-length", "5").body(()).unwrap();
    let (response, mut stream) = send.send_request(request, false).unwrap();
    stream.send_data(Bytes::from_static(b"hello"), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    let (_, fields, body) = passed(&upstream.seen().pop().unwrap());
    assert_eq!((fields, body.as_str()), (vec!["content-length: 5".to_owned(), "host: app.test".into()], "hello"));
}

#[tokio::test]
async fn a_hundred_streams_run_at_once() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let send = connect(&gate).await;
    let mut answers = Vec::new();
    for n in 0..100 {
        let mut send = send.clone().ready().await.unwrap();
        answers.push(send.send_request(get(&format!("/{n}")), true).unwrap().0);
    }
    for answer in answers {
        assert_eq!(body(answer.await.unwrap()).await.unwrap(), b"ok");
    }
    assert_eq!(upstream.seen().len(), 100);
}

#[tokio::test]
async fn coalesced_hosts_are_kept_apart_by_authority() {
    let app = RawUpstream::answering("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\napp").await;
    let pbx = RawUpstream::answering("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\npbx").await;
    let text = format!(
        "[app]\nurl = \"http://{}\"\n[pbx]\nurl = \"http://{}\"\nhosts = [\"pbx.test\", \"*.pbx.test\"]",
        app.addr, pbx.addr
    );
    let gate = Gate::start(&text).await;
    let mut send = connect(&gate).await;
    for (host, expected) in [("app.test", "app"), ("pbx.test", "pbx"), ("acme.pbx.test", "pbx"), ("app.test", "app")] {
        let request = http::Request::get(format!("https://{host}/")).body(()).unwrap();
        let response = send.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(body(response).await.unwrap(), expected.as_bytes(), "{host}");
    }
}

#[tokio::test]
async fn a_length_that_lies_never_looks_whole_upstream() {
    let upstream = RawUpstream::serving(|mut line| async move { drop(line.request().await) }).await;
    let gate = Gate::before(upstream.addr).await;
    for (length, data) in [("10", "hello"), ("2", "hello")] {
        let mut frames = Frames::open(&gate).await;
        let mut fields = REQUEST;
        fields[0].1 = "POST";
        let fields: Vec<_> = fields.into_iter().chain([("content-length", length)]).collect();
        frames.send(HEADERS, END_HEADERS, 1, &block(&fields)).await;
        frames.send(0, END_STREAM, 1, data.as_bytes()).await;
        let fate = frames.fate().await;
        assert!(matches!(&*fate, "400" | "refused" | "closed"), "{length}: {fate}");
        for seen in upstream.seen() {
            let (_, body) = seen.split_once("\r\n\r\n").unwrap();
            assert!(body.len() < length.parse().unwrap(), "{length}: {seen}");
        }
    }
}

#[tokio::test]
async fn cve_2026_49975_a_list_of_fields_too_large_is_refused() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let mut send = connect(&gate).await;
    let request = http::Request::get("https://app.test/").header("x", "x".repeat(20_000)).body(()).unwrap();
    match send.send_request(request, true).unwrap().0.await {
        Ok(response) => assert_eq!(response.status(), 431),
        Err(error) => assert!(error.is_reset() || error.is_go_away(), "{error}"),
    }
    assert_eq!(upstream.seen(), [""; 0]);
    // A block that refers to one large entry again and again.
    let mut frames = Frames::open(&gate).await;
    let mut bomb = block(&REQUEST);
    bomb.extend([0x40, 1, b'x', 0x7f, 0xd1, 0x0f]);
    bomb.extend([b'y'; 2128]);
    bomb.extend([0xbe; 10_000]);
    frames.send(HEADERS, END_STREAM | END_HEADERS, 1, &bomb).await;
    let fate = tokio::time::timeout(Duration::from_secs(20), frames.fate()).await.unwrap();
    assert!(matches!(&*fate, "other" | "refused" | "closed"), "{fate}");
    assert_eq!(upstream.seen(), [""; 0]);
}

#[tokio::test]
async fn our_own_answers_to_head_have_no_body() {
    let stage = crate::kit::stage::Plan::default().start().await;
    for path in ["/auth/pbx", "/auth/callgate/none", "/auth/ott"] {
        for h2 in [true, false] {
            let asking = stage.gate.ask(http::Method::HEAD, path);
            let answer = if h2 { asking.h2() } else { asking }.send().await;
            assert!(answer.status.is_client_error() || answer.status.is_server_error(), "{path}");
            assert!(answer.body.is_empty(), "{path} {:?}", answer.body);
            assert_ne!(answer.header("content-length"), "0", "{path}");
        }
    }
}

#[tokio::test]
async fn an_end_that_comes_behind_the_head_invents_no_framing() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for method in ["GET", "HEAD", "DELETE", "POST"] {
        let fields: Vec<_> = [(":method", method)].into_iter().chain(REQUEST.into_iter().skip(1)).collect();
        let mut frames = Frames::open(&gate).await;
        frames.write(&frames::headers(1, END_HEADERS, &fields)).await;
        frames.write(&frames::data(1, 0, b"")).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        frames.write(&frames::data(1, END_STREAM, b"")).await;
        frames.until("an answer", |frame| frame.kind == HEADERS).await;
        let seen = upstream.seen().pop().unwrap();
        assert!(seen.starts_with(method) && !seen.contains("transfer-encoding"), "{seen}");
    }
    // A body that begins is passed on as it comes, also behind a longer pause.
    for pause in [10, 300] {
        let mut frames = Frames::open(&gate).await;
        frames.write(&frames::post(1)).await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        frames.write(&[frames::data(1, 0, b"one"), frames::data(1, END_STREAM, b"two")].concat()).await;
        frames.until("an answer", |frame| frame.kind == HEADERS).await;
        let seen = upstream.seen().pop().unwrap();
        assert!(seen.contains("transfer-encoding: chunked") && seen.ends_with("0\r\n\r\n"), "{seen}");
        assert!(seen.contains("\r\n3\r\none\r\n3\r\ntwo\r\n"), "{seen}");
    }
}
