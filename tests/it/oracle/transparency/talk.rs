//! One exchange, direct or through the gate: client and upstream follow their scripts, and all they receive is recorded.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::cases::{Ask, Body, Case, Client, Step};
use crate::kit::gate::Gate;
use crate::kit::rfc9112::{self, Field, Framing, Message, Reading, latin1};
use crate::kit::upstream::RawUpstream;

/// The exchange as the upstream and the client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    pub requests: Vec<Message>,
    /// Interim answers are among them.
    pub answers: Vec<Message>,
}

/// The part of a body that an upstream with [`Step::AwaitClient`] waits to be seen.
pub const FIRST: &str = "data: 1\n\n";
/// The sign for the body of a message that broke off.
pub const BROKEN: &str = "(broken off)";
const PATIENCE: Duration = Duration::from_secs(20);

/// How a client reaches the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Direct,
    Gate,
    /// Through the gate, in HTTP/2.
    Gate2,
}

/// An upstream for one exchange at a time, and a gate before it.
pub struct Exchanges {
    upstream: RawUpstream,
    gate: Gate,
    scene: Arc<Mutex<Arc<SharedState>>>,
}

/// The state that both sides of an exchange share.
#[derive(Default)]
struct SharedState {
    script: Vec<Step>,
    /// All that the upstream has heard.
    heard: Mutex<Vec<u8>>,
    /// The client has seen the first event of a stream.
    first: Notify,
    /// The client has heard all.
    over: Notify,
    /// The upstream has gone.
    gone: Notify,
}

impl Exchanges {
    pub async fn open() -> Self {
        let scene = Arc::<Mutex<Arc<SharedState>>>::default();
        let current = scene.clone();
        let upstream = RawUpstream::serving(move |mut line| {
            let scene = current.lock().unwrap().clone();
            async move {
                let mut bytes = follow(&mut line.stream, &scene.script, &scene.first).await;
                let _ = line.stream.shutdown().await;
                scene.over.notified().await;
                // All bytes that still arrive count, whatever the script reads.
                while let Ok(1..) = line.stream.try_read_buf(&mut bytes) {}
                scene.heard.lock().unwrap().extend_from_slice(&bytes);
                drop(line);
                scene.gone.notify_one();
            }
        })
        .await;
        let gate = Gate::before(upstream.addr).await;
        Self { upstream, gate, scene }
    }

    /// Plays a case.
    pub async fn play(&self, case: &Case, way: Route) -> Observed {
        let scene = Arc::new(SharedState { script: case.upstream.clone(), ..SharedState::default() });
        *self.scene.lock().unwrap() = scene.clone();
        let answers = match (way, &case.client) {
            (Route::Direct, _) => {
                let stream = TcpStream::connect(self.upstream.addr).await.unwrap();
                in_time(case, http1(stream, case, &scene.first)).await
            }
            (Route::Gate2, Client::Asks(ask)) => in_time(case, http2(&self.gate, ask, &scene.first)).await,
            _ => {
                let stream = self.gate.raw("app.test", "http/1.1").await;
                in_time(case, http1(stream, case, &scene.first)).await
            }
        };
        scene.over.notify_one();
        in_time(case, scene.gone.notified()).await;
        let requests = requests(&scene.heard.lock().unwrap());
        Observed { requests, answers }
    }
}

async fn in_time<T>(case: &Case, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{}: it takes too long", case.name))
}

async fn follow<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, script: &[Step], first: &Notify) -> Vec<u8> {
    let (mut heard, mut at) = (Vec::new(), 0);
    for step in script {
        match step {
            Step::Say(bytes) => {
                // The other side may have heard enough.
                let _ = stream.write_all(bytes).await;
                let _ = stream.flush().await;
            }
            Step::Hear(text) => loop {
                if let Some(found) = heard[at..].windows(text.len()).position(|window| window == text.as_bytes()) {
                    at += found + text.len();
                    break;
                }
                if !matches!(stream.read_buf(&mut heard).await, Ok(1..)) {
                    return heard;
                }
            },
            Step::AwaitClient => first.notified().await,
        }
    }
    heard
}

// === Clients ===

async fn http1<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, case: &Case, first: &Notify) -> Vec<Message> {
    let (script, wanted) = case.client.script();
    let mut heard = follow(&mut stream, &script, first).await;
    loop {
        if latin1(&heard).contains(FIRST) {
            first.notify_one();
        }
        let answers = answers(&heard, case, false);
        if answers.iter().filter(|answer| !is_interim(answer)).count() >= wanted {
            return answers;
        }
        if !matches!(stream.read_buf(&mut heard).await, Ok(1..)) {
            return self::answers(&heard, case, true);
        }
    }
}

async fn http2(gate: &Gate, ask: &Ask, first: &Notify) -> Vec<Message> {
    let (mut send, connection) = h2::client::handshake(gate.raw("app.test", "h2").await).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::builder().method(ask.method).uri(format!("https://app.test{}", ask.target));
    for (name, value) in &ask.fields {
        request =
            request.header(name.to_ascii_lowercase(), http::HeaderValue::from_bytes(&rfc9112::bytes(value)).unwrap());
    }
    let (request, alone) = match &ask.body {
        Body::None => (request, true),
        Body::Sized(body) => (request.header("content-length", body.chars().count()), false),
        Body::Chunks(..) => (request, false),
    };
    let (response, mut stream) = send.send_request(request.body(()).unwrap(), alone).unwrap();
    match &ask.body {
        Body::None => {}
        Body::Sized(body) => send_all(&mut stream, body, true).await,
        Body::Chunks(chunks, trailers) => {
            for chunk in chunks {
                send_all(&mut stream, chunk, false).await;
            }
            if trailers.is_empty() {
                stream.send_data(Bytes::new(), true).unwrap();
            } else {
                stream.send_trailers(map(trailers)).unwrap();
            }
        }
    }
    match response.await {
        Ok(response) => vec![heard(response, first).await],
        Err(error) => vec![Message { start: format!("HTTP/2 000 {error}"), ..Message::default() }],
    }
}

async fn send_all(stream: &mut h2::SendStream<Bytes>, body: &str, end: bool) {
    let mut rest = Bytes::from(rfc9112::bytes(body));
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        let part = rest.split_to(room.min(rest.len()));
        stream.send_data(part, end && rest.is_empty()).unwrap();
    }
}

async fn heard(response: http::Response<h2::RecvStream>, first: &Notify) -> Message {
    let (head, mut body) = response.into_parts();
    let mut message = Message {
        start: format!("HTTP/2 {}", head.status.as_str()),
        fields: list(&head.headers),
        framing: Framing::Frames,
        ..Message::default()
    };
    while let Some(data) = body.data().await {
        let Ok(data) = data else {
            message.body = BROKEN.into();
            return message;
        };
        body.flow_control().release_capacity(data.len()).unwrap();
        message.body.push_str(&latin1(&data));
        if message.body.contains(FIRST) {
            first.notify_one();
        }
    }
    message.trailers = body.trailers().await.unwrap().as_ref().map(list).unwrap_or_default();
    message
}

fn map(fields: &[Field]) -> http::HeaderMap {
    let pairs = fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    pairs.map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect()
}

fn list(map: &http::HeaderMap) -> Vec<Field> {
    map.iter().map(|(name, value)| (name.to_string(), latin1(value.as_bytes()))).collect()
}

// === What was said ===

fn is_interim(answer: &Message) -> bool {
    answer.words()[1].starts_with('1') && answer.words()[1] != "101"
}

fn requests(heard: &[u8]) -> Vec<Message> {
    let (mut requests, mut at) = (Vec::new(), 0);
    while at < heard.len() {
        match rfc9112::request(&heard[at..]) {
            Reading::Whole(mut message, end) => {
                at += end;
                if message.all("upgrade").any(|value| value.eq_ignore_ascii_case("websocket")) {
                    // The bytes that follow are no HTTP.
                    message.body = latin1(&heard[at..]);
                    at = heard.len();
                }
                requests.push(message);
            }
            other => {
                requests.push(broken(&heard[at..], other));
                break;
            }
        }
    }
    requests
}

fn answers(heard: &[u8], case: &Case, ended: bool) -> Vec<Message> {
    let (mut answers, mut at) = (Vec::new(), 0);
    while at < heard.len() {
        match rfc9112::answer(&heard[at..], case.client.asks_head(), ended) {
            Reading::Whole(mut message, end) => {
                at += end;
                if message.words()[1] == "101" {
                    if !ended {
                        return Vec::new();
                    }
                    message.body = latin1(&heard[at..]);
                    at = heard.len();
                }
                answers.push(message);
            }
            Reading::Partial if !ended => break,
            other => {
                answers.push(broken(&heard[at..], other));
                break;
            }
        }
    }
    answers
}

/// Keeps what can be said of a message that has no end.
fn broken(bytes: &[u8], reading: Reading) -> Message {
    assert_eq!(reading, Reading::Partial, "{:?}", latin1(bytes));
    let mut head = bytes[..bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4].to_vec();
    // Its head is that of a message without a body.
    let framing = ["content-length", "transfer-encoding"];
    let text = latin1(&head);
    let lines = text.split_inclusive("\r\n");
    let kept: String =
        lines.clone().filter(|line| !framing.iter().any(|name| line.to_ascii_lowercase().starts_with(name))).collect();
    head = rfc9112::bytes(&kept);
    let Reading::Whole(mut message, _) = rfc9112::request(&head) else { panic!("no head: {kept:?}") };
    let framing = lines.filter(|line| framing.iter().any(|name| line.to_ascii_lowercase().starts_with(name)));
    message.fields.extend(framing.map(|line| {
        let (name, value) = line.trim_end().split_once(": ").unwrap();
        (name.to_owned(), value.to_owned())
    }));
    message.body = BROKEN.into();
    message
}
