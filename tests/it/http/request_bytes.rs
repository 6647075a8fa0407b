//! Every byte of an HTTP/1 request: the cases of `request_bytes.txt`, one connection each, with their outcomes.
//!
//! A line is `statuses :: request` or `statuses :: request :: what the upstream sees`. Behind every request comes another
//! one: `open` behind the statuses says that it is answered, else the connection has ended before. `cut` says that the
//! upstream may have seen a beginning. What is passed on is seen as it was sent, unless the line says otherwise.
//! In a request `␤` is CRLF, `\xNN` a byte, `{{x*N}}` a repetition.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{Duration, timeout};

use crate::kit::gate::Gate;
use crate::kit::upstream::RawUpstream;

const CASES: &str = include_str!("request_bytes.txt");
const PROBE: &str = "GET /probe HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";

/// One line of the table.
struct Case {
    line: &'static str,
    statuses: Vec<u16>,
    is_open: bool,
    is_cut: bool,
    request: Vec<u8>,
    seen: Option<Vec<u8>>,
}

impl Case {
    fn parse(line: &'static str) -> Self {
        let mut parts = line.split(" :: ");
        let (outcome, request) = (parts.next().unwrap(), parts.next().unwrap_or_else(|| panic!("no request: {line}")));
        Self {
            line,
            statuses: outcome.split(' ').filter_map(|word| word.parse().ok()).collect(),
            is_open: outcome.contains("open"),
            is_cut: outcome.contains("cut"),
            request: unescape(request),
            seen: parts.next().map(unescape),
        }
    }

    fn expected(&self) -> &[u8] {
        self.seen.as_ref().unwrap_or(&self.request)
    }

    /// Runs the case and tells what is not as it should be.
    async fn run(&self, gate: &Gate, upstream: &RawUpstream) -> Result<(), String> {
        let before = upstream.bytes().len();
        let answer = exchange(gate, &[&self.request, PROBE.as_bytes()].concat()).await?;
        let mut seen = upstream.bytes().split_off(before);
        let is_probe = |seen: &Vec<u8>| seen.starts_with(b"GET /probe ");
        let probes = seen.iter().filter(|seen| is_probe(seen)).count();
        seen.retain(|seen| !is_probe(seen));
        let mut statuses = statuses(&answer);
        if (probes == 1) != self.is_open || (self.is_open && statuses.pop() != Some(200)) {
            return Err(format!("open: {}: {answer}", probes == 1));
        }
        if statuses != self.statuses {
            return Err(format!("{statuses:?}: {answer}"));
        }
        if self.is_cut {
            let whole = seen.iter().any(|seen| seen.ends_with(b"0\r\n\r\n"));
            return if whole { Err("it looks whole upstream".into()) } else { Ok(()) };
        }
        let passed = statuses.iter().filter(|status| **status == 200).count();
        if seen.len() != passed {
            return Err(format!("{} requests upstream", seen.len()));
        }
        if let [seen] = &seen[..] {
            let (seen, expected) = (Message::parse(seen).without_ours(), Message::parse(self.expected()));
            // Bytes behind a request do not belong to it.
            if seen.line != expected.line || (seen != expected && (self.seen.is_some() || statuses.len() == 1)) {
                return Err(format!("\n  expected {expected:?}\n  passed   {seen:?}"));
            }
        }
        for answer in ours(&answer) {
            check_answer(gate, answer, self.is_open).await?;
        }
        Ok(())
    }
}

/// Returns the requests of all cases.
pub fn requests() -> Vec<Vec<u8>> {
    let lines = CASES.lines().filter(|line| line.contains(" :: "));
    lines.map(|line| Case::parse(line).request).collect()
}

/// Runs all cases of a chapter.
async fn run(chapter: &str) {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let text = CASES.split("\n= ").find_map(|text| text.strip_prefix(chapter)).expect("there is such a chapter");
    let cases: Vec<_> = text.lines().filter(|line| line.contains(" :: ")).map(Case::parse).collect();
    assert!(cases.len() > 10, "{chapter}: {}", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        if let Err(error) = case.run(&gate, &upstream).await {
            wrong.push(format!("{}\n  {error}", case.line));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

macro_rules! chapters {
    ($($name:ident: $chapter:literal,)+) => {
        $(#[tokio::test]
        async fn $name() {
            run($chapter).await;
        })+

        #[test]
        fn every_chapter_is_run() {
            let chapters: Vec<_> = CASES.lines().filter_map(|line| line.strip_prefix("= ")).collect();
            assert_eq!(chapters, [$($chapter),+]);
        }
    };
}

chapters! {
    request_lines_have_one_reading: "request line",
    targets_pass_byte_for_byte_or_not_at_all: "target",
    hosts_are_said_once: "host",
    field_names_are_words: "field names",
    field_values_pass_as_they_are: "field values",
    lines_end_in_crlf: "line ends",
    lengths_are_one_number: "length",
    chunked_is_the_only_coding: "coding",
    chunks_have_one_reading: "chunks",
    requests_follow_each_other: "pipelines",
    fields_of_one_hop_end_here: "hop by hop",
    versions_and_methods: "versions and methods",
    sizes_are_bounded: "sizes",
}

// === What takes time ===

#[tokio::test]
async fn a_refusal_waits_for_its_turn() {
    let go = Arc::new(Notify::new());
    let upstream = RawUpstream::serving({
        let go = go.clone();
        move |mut line| {
            let go = go.clone();
            async move {
                line.request().await;
                go.notified().await;
                line.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                line.rest().await;
            }
        }
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\nGET / HT").await.unwrap();
    tls.write_all(b"TP/1.1\r\n bad\r\n").await.unwrap();
    crate::kit::stage::until("the first request arrives", || upstream.seen().len() == 1).await;
    go.notify_one();
    let mut answers = String::new();
    tls.read_to_string(&mut answers).await.unwrap();
    assert_eq!(statuses(&answers), [200, 400]);
}

#[tokio::test]
async fn requests_that_drip_are_read_alike() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let (mut read, mut write) = tokio::io::split(gate.raw("app.test", "http/1.1").await);
    let requests = format!(
        "POST /1 HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello\r\n\
         POST /2 HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n5;a\r\nhello\r\n0\r\n\r\n{PROBE}"
    );
    let mut answers = String::new();
    let drip = async {
        for byte in requests.bytes() {
            write.write_all(&[byte]).await.unwrap();
            write.flush().await.unwrap();
        }
    };
    tokio::join!(drip, async { read.read_to_string(&mut answers).await.unwrap() });
    assert_eq!(statuses(&answers), [200, 200, 200]);
    let bodies: Vec<_> = upstream.bytes().iter().map(|seen| Message::parse(seen).body).collect();
    assert_eq!(bodies, ["hello", "hello|\\r\\n", ""]);
}

#[tokio::test]
async fn an_answer_before_its_time_reaches_a_client_that_goes_on() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for (head, expected) in [
        ("GET / HTTP/1.1\r\nHost : app.test\r\n", 400),
        ("TRACE / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 9000000\r\n\r\n", 405),
        ("TRACE / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n895440\r\n", 405),
    ] {
        let mut tls = gate.raw("app.test", "http/1.1").await;
        tls.write_all(head.as_bytes()).await.unwrap();
        tls.write_all(&vec![b'x'; 4 << 20]).await.unwrap();
        let mut answer = String::new();
        tls.read_to_string(&mut answer).await.unwrap();
        assert_eq!(statuses(&answer), [expected], "{head}");
        // It is not waited for without end.
        let goes_on = async { while tls.write_all(&[b'x'; 1 << 14]).await.is_ok() {} };
        timeout(Duration::from_secs(20), goes_on).await.unwrap();
    }
}

// === Reading ===

async fn exchange(gate: &Gate, bytes: &[u8]) -> Result<String, String> {
    let (mut read, mut write) = tokio::io::split(gate.raw("app.test", "http/1.1").await);
    let mut answer = Vec::new();
    let all = async {
        // A refused request may not be read to its end.
        let _ = tokio::join!(write.write_all(bytes), read.read_to_end(&mut answer));
    };
    match timeout(Duration::from_secs(20), all).await {
        Ok(()) => Ok(String::from_utf8_lossy(&answer).into_owned()),
        Err(_) => Err(format!("the connection does not end: {}", String::from_utf8_lossy(&answer))),
    }
}

/// Returns the statuses of all answers.
fn statuses(answers: &str) -> Vec<u16> {
    let heads = answers.split("HTTP/1.").skip(1);
    heads.filter_map(|head| head.get(1..5)?.strip_prefix(' ')?.parse().ok()).collect()
}

/// Returns the answers that the upstream did not give.
fn ours(answers: &str) -> impl Iterator<Item = &str> {
    let answers = answers.split("HTTP/1.1 ").skip(1);
    answers.filter(|answer| answer.as_bytes()[0] > b'2' && answer.contains("\r\n"))
}

/// An answer of the gate names the exchange, is not stored, ends the connection unless it goes on, and is logged.
async fn check_answer(gate: &Gate, answer: &str, is_open: bool) -> Result<(), String> {
    for field in ["cache-control: no-store", "x-content-type-options: nosniff"] {
        if !answer.contains(field) {
            return Err(format!("no {field}: {answer}"));
        }
    }
    if answer.contains("\r\nconnection: close\r\n") == is_open {
        return Err(format!("open: {is_open}: {answer}"));
    }
    let id = answer
        .split("x-request-id: ")
        .nth(1)
        .and_then(|rest| rest.get(..32))
        .ok_or_else(|| format!("no id: {answer}"))?;
    gate.line(&[id, &format!(" status={} ", &answer[..3])]).await;
    Ok(())
}

/// A request as the upstream sees it: chunks are taken apart, for they are made anew.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    line: String,
    fields: Vec<String>,
    body: String,
}

impl Message {
    fn parse(bytes: &[u8]) -> Self {
        let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let (head, body) = (bytes[..end].escape_ascii().to_string(), &bytes[end + 4..]);
        let mut lines = head.split("\\r\\n");
        let line = lines.next().unwrap().to_owned();
        let mut fields: Vec<_> = lines.map(field).collect();
        // Lines of one name come together, where the first of them was.
        let names: Vec<_> = fields.iter().map(|field| name(field).to_owned()).collect();
        fields.sort_by_key(|field| names.iter().position(|known| known == name(field)));
        let chunked = fields.iter().any(|field| field == "transfer-encoding: chunked");
        let body = if chunked { data(body) } else { body.to_vec() };
        Self { line, fields, body: body.escape_ascii().to_string() }
    }

    fn without_ours(mut self) -> Self {
        let ours = ["forwarded: ", "x-forwarded-", "x-request-id: "];
        self.fields.retain(|field| !ours.iter().any(|our| field.starts_with(our)) && !field.ends_with(" callgate"));
        self
    }
}

/// Returns a field as it is passed on: its name in lower case, its value without blanks around it.
fn field(line: &str) -> String {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    let value = value.replace("\\t", "\t");
    format!("{}: {}", name.to_ascii_lowercase(), value.trim_matches([' ', '\t']))
}

fn name(field: &str) -> &str {
    field.split(':').next().unwrap_or_default()
}

/// Returns the data of chunks, and the trailers behind a `|`.
fn data(mut chunks: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let end = chunks.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = chunks[..end].split(|byte| !byte.is_ascii_hexdigit()).next().unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(size).unwrap(), 16).unwrap();
        let rest = &chunks[end + 2..];
        if size == 0 {
            return [&data[..], b"|", &rest.to_ascii_lowercase()].concat();
        }
        data.extend(&rest[..size]);
        chunks = &rest[size + 2..];
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        if let Some(inside) = rest.strip_prefix("{{") {
            let (inside, behind) = inside.split_once("}}").unwrap();
            let (what, times) = inside.rsplit_once('*').unwrap();
            bytes.extend(unescape(what).repeat(times.parse().unwrap()));
            rest = behind;
            continue;
        }
        let mut taken = letter.len_utf8();
        match (letter, rest.as_bytes().get(1)) {
            ('␤', _) => bytes.extend(b"\r\n"),
            ('\\', Some(code)) => {
                taken = 2;
                bytes.push(match code {
                    b'r' => b'\r',
                    b'n' => b'\n',
                    b't' => b'\t',
                    b's' => b' ',
                    b'\\' => b'\\',
                    b'x' => {
                        taken = 4;
                        u8::from_str_radix(&rest[2..4], 16).unwrap()
                    }
                    _ => panic!("unknown escape: {rest}"),
                });
            }
            _ => bytes.extend(&rest.as_bytes()[..taken]),
        }
        rest = &rest[taken..];
    }
    bytes
}
