//! RFC 9113 and RFC 7541, clause by clause: the cases of the `h2spec` tool, each with the answer that the RFC requires.
//!
//! The numbers are the tool's, and so is what counts as right: an error that ends the connection may be told by
//! `PROTOCOL_ERROR` where the law has a code of its own, as the library does, but then the connection must end.

use crate::kit::frames::*;
use crate::kit::gate::Gate;
use crate::kit::upstream::RawUpstream;

/// One step of a case.
enum Step {
    Send(Vec<u8>),
    See(Expect),
}

/// The expected outcome.
#[derive(Debug, Clone, Copy)]
enum Expect {
    /// A GOAWAY with one of these codes, then the end of the connection.
    Goaway(&'static [u32]),
    /// A reset of the stream, or of the connection, with one of these codes.
    Reset(&'static [u32]),
    /// The end of the connection, in whatever way.
    Closed,
    /// The head of an answer on this stream.
    Answer(u32),
    /// The last frame of the answer on the first stream.
    Ended,
    /// A ping's answer.
    Pong,
    /// Settings, or their acknowledgement.
    Settings(u8),
    /// A frame of data with so many bytes.
    Data(usize),
}

use Expect::{Answer, Closed, Data, Ended, Goaway, Pong, Reset, Settings};

impl Expect {
    /// Tells whether this is it; `Err` when it no longer can be.
    fn is_met(self, frame: Option<&Frame>) -> Result<bool, ()> {
        let Some(frame) = frame else { return if matches!(self, Closed) { Ok(true) } else { Err(()) } };
        match (self, frame.kind) {
            (Reset(codes), RST_STREAM) => frame.code().filter(|code| codes.contains(code)).map(|_| true).ok_or(()),
            (Goaway(codes) | Reset(codes), GOAWAY) => {
                frame.code().filter(|code| codes.contains(code) || *code == PROTOCOL_ERROR).map(|_| true).ok_or(())
            }
            (Closed, _) => Ok(false),
            (_, GOAWAY | RST_STREAM) => Err(()),
            (Answer(stream), HEADERS) => Ok(frame.stream == stream),
            (Ended, DATA | HEADERS) => Ok(frame.ends_stream()),
            (Pong, PING) => {
                if frame.payload == PINGED {
                    Ok(frame.flags == ACK)
                } else {
                    Err(())
                }
            }
            (Settings(flags), SETTINGS) => Ok(frame.flags == flags),
            (Data(bytes), DATA) => {
                if frame.payload.len() == bytes {
                    Ok(true)
                } else {
                    Err(())
                }
            }
            _ => Ok(false),
        }
    }
}

type Case = (&'static str, Vec<Step>);

/// A case whose frames are all sent before its answer is looked for.
fn case(name: &'static str, sent: &[Vec<u8>], expect: Expect) -> Case {
    (name, vec![Step::Send(sent.concat()), Step::See(expect)])
}

/// A case that looks for something before it goes on.
fn cases(name: &'static str, steps: Vec<Step>) -> Case {
    (name, steps)
}

fn send(frames: &[Vec<u8>]) -> Step {
    Step::Send(frames.concat())
}

const fn see(expect: Expect) -> Step {
    Step::See(expect)
}

/// Plays each case on a connection of its own, and looks whether the gate still serves.
async fn check(cases: Vec<Case>) {
    let upstream = RawUpstream::answering("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789").await;
    let gate = Gate::before(upstream.addr).await;
    let mut failures = Vec::new();
    for (name, steps) in cases {
        let mut frames = Frames::open(&gate).await;
        for step in steps {
            match step {
                // The gate may have refused the first half already.
                Step::Send(bytes) => drop(frames.try_write(&bytes).await),
                Step::See(expect) => {
                    if let Err(seen) = look(&mut frames, expect).await {
                        failures.push(format!("{name}: expected {expect:?}, seen {seen:?}"));
                        break;
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    gate.get("/").h2().send().await.expect(200);
}

async fn look(frames: &mut Frames, expect: Expect) -> Result<(), Vec<Frame>> {
    let mut seen = Vec::new();
    loop {
        let Ok(next) = tokio::time::timeout(std::time::Duration::from_secs(5), frames.next()).await else {
            return Err(seen);
        };
        let met = expect.is_met(next.as_ref());
        seen.extend(next);
        match met {
            // GOAWAY with an error closes the connection.
            Ok(true) if seen.last().is_some_and(|last| last.kind == GOAWAY) => {
                return Box::pin(look(frames, Closed)).await;
            }
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(()) => return Err(seen),
        }
    }
}

/// The fields of a request, and more.
fn with(more: &[(&str, &str)]) -> Vec<u8> {
    let fields: Vec<_> = REQUEST.iter().chain(more).copied().collect();
    block(&fields)
}

/// A request with some fields changed or taken away.
fn without(name: &str) -> Vec<u8> {
    let fields: Vec<_> = REQUEST.into_iter().filter(|field| field.0 != name).collect();
    block(&fields)
}

fn whole(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, block)
}

/// A request whose block ends with these bytes.
fn coded(tail: &[u8]) -> Vec<u8> {
    whole(&[&block(&REQUEST), tail].concat())
}

const EXCLUSIVE: u32 = 1 << 31;
/// The largest window (RFC 9113 §6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;

#[tokio::test]
async fn valid_requests_are_answered() {
    let padded = [&[8][..], &block(&REQUEST), &[0; 8]].concat();
    let depending = [dependency(0, 255), block(&REQUEST)].concat();
    let request = block(&REQUEST);
    check(vec![
        cases("generic/1/1 a preface", vec![send(&[ping()]), see(Pong)]),
        case("generic/2/1 PRIORITY on an idle stream", &[priority(1, 0, 255), ping()], Pong),
        case(
            "generic/2/2 WINDOW_UPDATE on a half-closed stream",
            &[window_size(0), get(1), window_update(1, 1)],
            Data(1),
        ),
        case(
            "generic/2/3 PRIORITY on a half-closed stream",
            &[window_size(0), get(1), priority(1, 0, 255), window_update(1, 1)],
            Data(1),
        ),
        case("generic/2/4 RST_STREAM on a half-closed stream", &[get(1), reset(1, CANCEL), ping()], Pong),
        cases(
            "generic/2/5 PRIORITY on a closed stream",
            vec![send(&[get(1)]), see(Ended), send(&[priority(1, 0, 255), ping()]), see(Pong)],
        ),
        case("generic/3.1/1 DATA", &[post(1), data(1, END_STREAM, b"test")], Answer(1)),
        case("generic/3.1/2 several DATA", &[post(1), data(1, 0, b"test"), data(1, END_STREAM, b"test")], Answer(1)),
        case("generic/3.1/3 padded DATA", &[post(1), data(1, END_STREAM | PADDED, b"\x06test\0\0\0\0\0\0")], Answer(1)),
        case("generic/3.2/1 HEADERS", &[get(1)], Answer(1)),
        case("generic/3.2/2 padded HEADERS", &[frame(HEADERS, WHOLE | PADDED, 1, &padded)], Answer(1)),
        case(
            "generic/3.2/3 HEADERS with a priority",
            &[frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &depending)],
            Answer(1),
        ),
        case("generic/3.3/1 PRIORITY 1", &[priority(1, 0, 0), get(1)], Answer(1)),
        case("generic/3.3/2 PRIORITY 256", &[priority(1, 0, 255), get(1)], Answer(1)),
        case(
            "generic/3.3/3 PRIORITY with a dependency",
            &[priority(1, 0, 255), priority(3, 1, 255), get(1)],
            Answer(1),
        ),
        case("generic/3.3/4 exclusive PRIORITY", &[priority(3, 1 | EXCLUSIVE, 255), get(1)], Answer(1)),
        case("generic/3.3/5 PRIORITY of a later stream", &[priority(5, 0, 255), get(3)], Answer(3)),
        case("generic/3.4/1 RST_STREAM", &[post(1), reset(1, CANCEL), ping()], Pong),
        case("generic/3.5/1 SETTINGS", &[settings(&[(3, 100)])], Settings(ACK)),
        case("generic/3.7/1 PING", &[ping()], Pong),
        case("generic/3.8/1 GOAWAY", &[frame(GOAWAY, 0, 0, &[0; 8])], Closed),
        case("generic/3.9/1 WINDOW_UPDATE of the connection", &[window_update(0, 1), get(1)], Answer(1)),
        case(
            "generic/3.9/2 WINDOW_UPDATE of a stream",
            &[post(1), window_update(1, 1), data(1, END_STREAM, b"")],
            Answer(1),
        ),
        case(
            "generic/3.10/1 CONTINUATION",
            &[frame(HEADERS, END_STREAM, 1, &request[..5]), continuation(1, END_HEADERS, &request[5..])],
            Answer(1),
        ),
        case(
            "generic/3.10/2 several CONTINUATION",
            &[
                frame(HEADERS, END_STREAM, 1, &request[..5]),
                continuation(1, 0, &request[5..10]),
                continuation(1, END_HEADERS, &request[10..]),
            ],
            Answer(1),
        ),
        case("generic/4/1 GET", &[get(1)], Answer(1)),
        case("generic/4/2 HEAD", &[whole(&[without(":method"), block(&[(":method", "HEAD")])].concat())], Answer(1)),
        case("generic/4/3 POST", &[post(1), data(1, END_STREAM, b"test")], Answer(1)),
        case(
            "generic/4/4 POST with trailers",
            &[post(1), data(1, 0, b"test"), headers(1, WHOLE, &[("x-test", "ok")])],
            Answer(1),
        ),
    ])
    .await;
}

#[tokio::test]
async fn every_way_to_write_a_field_is_read() {
    const NAME: &[u8] = b"\x0auser-agent";
    const NAME_CODED: &[u8] = b"\x87\xb5\x05\xb1\x61\xcc\x5a\x93";
    const OTHER: &[u8] = b"\x06x-test";
    const OTHER_CODED: &[u8] = b"\x85\xf2\xb2\x4a\x84\xff";
    const VALUE: &[u8] = b"\x06h2spec";
    const VALUE_CODED: &[u8] = b"\x84\x9c\x48\xac\xa4";
    let update = |updates: &[u8]| whole(&[updates, &block(&REQUEST)].concat());
    let mut all = vec![
        case("generic/5/1 an indexed field", &[coded(b"\xba")], Answer(1)),
        case("generic/5/14 one update of the table's size", &[update(b"\x20")], Answer(1)),
        case("generic/5/15 two updates of the table's size", &[update(b"\x20\x3f\xe1\x1f")], Answer(1)),
    ];
    for (kind, first) in [
        ("generic/5/2-5 with indexing", 0x40),
        ("generic/5/6-9 without indexing", 0),
        ("generic/5/10-13 never indexed", 0x10),
    ] {
        for (name, value) in [(NAME, VALUE), (NAME_CODED, VALUE_CODED), (OTHER, VALUE), (OTHER_CODED, VALUE_CODED)] {
            all.push(case(kind, &[coded(&[&[first], name, value].concat())], Answer(1)));
        }
    }
    // The name may be one of the table, too: 58 is `user-agent`.
    for first in [&[0x7a][..], &[0x0f, 0x2b], &[0x1f, 0x2b]] {
        all.push(case("a name of the table", &[coded(&[first, VALUE].concat())], Answer(1)));
    }
    // 62 is what was put there last.
    all.push(case("an entry of our own", &[coded(&[b"\x40", OTHER, VALUE, b"\xbe"].concat())], Answer(1)));
    check(all).await;
}

#[tokio::test]
async fn a_line_that_is_no_field_ends_the_connection() {
    let broken: &[(&str, &[u8])] = &[
        ("hpack/2.3.3/1 an index of nothing", b"\xc6"),
        ("hpack/2.3.3/2 a name of nothing", b"\x7f\x07\x06h2spec"),
        ("hpack/4.2/1 an update of the table's size at the end", b"\x3f\xe1\x1f"),
        ("hpack/5.2/1 more than seven bits of padding", b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"),
        ("hpack/5.2/2 padding with zeros", b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"),
        ("hpack/5.2/3 the end of the string within it", b"\x00\x85\xf2\xb2\x4a\x87\xff\xff\xff\xfd\x25\x42\x7f"),
        ("hpack/6.1/1 the index 0", b"\x80"),
        ("a number without an end", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("a string without its end", b"\x00\x0auser"),
    ];
    let mut all: Vec<_> =
        broken.iter().map(|(name, tail)| case(name, &[coded(tail)], Goaway(&[COMPRESSION_ERROR]))).collect();
    let update = whole(&[b"\x3f\xe2\x1f", &block(&REQUEST)[..]].concat());
    all.push(case("hpack/6.3/1 a table larger than allowed", &[update], Goaway(&[COMPRESSION_ERROR])));
    check(all).await;
}

#[tokio::test]
async fn frames_have_their_form() {
    let request = block(&REQUEST);
    let large = headers(1, WHOLE, &[("x-dummy", &"x".repeat(20_000))]);
    check(vec![
        case("http2/4.1/1 an unknown kind of frame", &[frame(0x16, 0, 0, &[0; 8]), ping()], Pong),
        case("http2/4.1/2 unknown flags", &[frame(PING, 0x16, 0, PINGED)], Pong),
        case("http2/4.1/3 the reserved bit", &[frame(PING, 0, 1 << 31, PINGED)], Pong),
        case("http2/4.2/1 DATA as large as allowed", &[post(1), data(1, END_STREAM, &[b'x'; 1 << 14])], Answer(1)),
        case(
            "http2/4.2/2 larger DATA",
            &[post(1), data(1, END_STREAM, &[b'x'; (1 << 14) + 1])],
            Reset(&[FRAME_SIZE_ERROR]),
        ),
        case("http2/4.2/3 larger HEADERS", &[large], Goaway(&[FRAME_SIZE_ERROR])),
        case("http2/4.3/1 a broken block", &[frame(HEADERS, WHOLE, 1, &[0x40])], Goaway(&[COMPRESSION_ERROR])),
        case(
            "http2/4.3/2 PRIORITY within a block",
            &[frame(HEADERS, END_STREAM, 1, &request), priority(1, 0, 255), continuation(1, END_HEADERS, &[])],
            Goaway(&[PROTOCOL_ERROR]),
        ),
        case(
            "http2/4.3/3 HEADERS of another stream within a block",
            &[frame(HEADERS, END_STREAM, 1, &request), get(3)],
            Goaway(&[PROTOCOL_ERROR]),
        ),
        case("http2/5.5/1 an unknown frame", &[frame(0x16, 0, 0, &[0; 8]), ping()], Pong),
        case(
            "http2/5.5/2 an unknown frame within a block",
            &[frame(HEADERS, END_STREAM, 1, &request), frame(0x16, 0, 0, &[0; 8]), continuation(1, END_HEADERS, &[])],
            Goaway(&[PROTOCOL_ERROR]),
        ),
        case("http2/6.1/1 DATA of no stream", &[data(0, END_STREAM, b"test")], Goaway(&[PROTOCOL_ERROR])),
        case("http2/6.1/2 DATA behind the end", &[get(1), data(1, END_STREAM, b"test")], Reset(&[STREAM_CLOSED])),
        case(
            "http2/6.1/3 more padding than DATA",
            &[post(1), data(1, END_STREAM | PADDED, b"\x06test")],
            Goaway(&[PROTOCOL_ERROR]),
        ),
        case(
            "http2/6.2/1 PRIORITY behind open HEADERS",
            &[frame(HEADERS, 0, 1, &request), priority(1, 0, 255)],
            Goaway(&[PROTOCOL_ERROR]),
        ),
        case(
            "http2/6.2/2 another stream's HEADERS behind open ones",
            &[frame(HEADERS, 0, 1, &request), get(3)],
            Goaway(&[PROTOCOL_ERROR]),
        ),
        case("http2/6.2/3 HEADERS of no stream", &[get(0)], Goaway(&[PROTOCOL_ERROR])),
        case(
            "http2/6.2/4 more padding than HEADERS",
            &[frame(HEADERS, WHOLE | PADDED, 1, &[&[0xff][..], &request].concat())],
            Goaway(&[PROTOCOL_ERROR]),
        ),
        case("http2/6.3/1 PRIORITY of no stream", &[priority(0, 0, 255)], Goaway(&[PROTOCOL_ERROR])),
        case("http2/6.3/2 a short PRIORITY", &[frame(PRIORITY, 0, 1, &[0; 4])], Reset(&[FRAME_SIZE_ERROR])),
        case("http2/6.4/1 RST_STREAM of no stream", &[reset(0, CANCEL)], Goaway(&[PROTOCOL_ERROR])),
        case("http2/6.4/2 RST_STREAM of an idle stream", &[reset(1, CANCEL)], Goaway(&[PROTOCOL_ERROR])),
        case(
            "http2/6.4/3 a short RST_STREAM",
            &[post(1), frame(RST_STREAM, 0, 1, &[0; 3])],
            Goaway(&[FRAME_SIZE_ERROR]),
        ),
        case(
            "http2/6.5/1 acknowledged SETTINGS with a value",
            &[frame(SETTINGS, ACK, 0, &[0])],
            Goaway(&[FRAME_SIZE_ERROR]),
        ),
        case("http2/6.5/2 SETTINGS of a stream", &[frame(SETTINGS, 0, 1, &[])], Goaway(&[PROTOCOL_ERROR])),
        case("http2/6.5/3 half of a setting", &[frame(SETTINGS, 0, 0, &[0; 3])], Goaway(&[FRAME_SIZE_ERROR])),
        case("http2/6.5.2/1 ENABLE_PUSH 2", &[settings(&[(2, 2)])], Goaway(&[PROTOCOL_ERROR])),
        case("http2/6.5.2/2 a window too large", &[window_size(1 << 31)], Goaway(&[FLOW_CONTROL_ERROR])),
        case("http2/6.5.2/3 frames too small", &[settings(&[(5, (1 << 14) - 1)])], Goaway(&[PROTOCOL_ERROR])),
        case("http2/6.5.2/4 frames too large", &[settings(&[(5, 1 << 24)])], Goaway(&[PROTOCOL_ERROR])),
        case("http2/6.5.2/5 an unknown setting", &[settings(&[(0xff, 1)]), ping()], Pong),
        case(
            "http2/6.5.3/1 one setting twice",
            &[settings(&[(INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 1)]), get(1)],
            Data(1),
        ),
        case("http2/6.5.3/2 settings are acknowledged", &[settings(&[(INITIAL_WINDOW_SIZE, 100)])], Settings(ACK)),
        case("http2/6.7/1 PING", &[ping()], Pong),
        case("http2/6.7/2 an acknowledged PING", &[frame(PING, ACK, 0, b"another!"), ping()], Pong),
        case("http2/6.7/3 PING of a stream", &[frame(PING, 0, 1, PINGED)], Goaway(&[PROTOCOL_ERROR])),
        case("http2/6.7/4 a short PING", &[frame(PING, 0, 0, &[0; 6])], Goaway(&[FRAME_SIZE_ERROR])),
        case("http2/6.8/1 GOAWAY of a stream", &[frame(GOAWAY, 0, 1, &[0; 8])], Goaway(&[PROTOCOL_ERROR])),
        case("http2/7/1 GOAWAY with an unknown code", &[frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff])], Closed),
        case("http2/7/2 RST_STREAM with an unknown code", &[post(1), reset(1, 0xff), ping()], Pong),
        case(
            "http2/8.2/1 PUSH_PROMISE",
            &[frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 3][..], &request].concat())],
            Goaway(&[PROTOCOL_ERROR]),
        ),
    ])
    .await;
}

#[tokio::test]
async fn an_unknown_preface_ends_the_connection() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for preface in ["INVALID CONNECTION PREFACE\r\n\r\n", "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"] {
        let mut tls = gate.raw("app.test", "h2").await;
        tls.write_all(preface.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        let read = tokio::time::timeout(std::time::Duration::from_secs(10), tls.read_to_end(&mut all)).await;
        assert!(read.is_ok(), "{preface:?}");
    }
    assert_eq!(upstream.seen(), [""; 0]);
}

#[tokio::test]
async fn an_error_of_the_connection_ends_it_with_goaway() {
    let bad = || frame(PING, 0, 3, PINGED);
    check(vec![
        case("http2/5.4.1/1 the connection ends", &[bad()], Closed),
        case("http2/5.4.1/2 behind a GOAWAY", &[bad()], Goaway(&[PROTOCOL_ERROR])),
    ])
    .await;
}

#[tokio::test]
async fn streams_have_their_states() {
    let rest = block(&[("x-dummy0", "x")]);
    let request = block(&REQUEST);
    let depending = |on| [dependency(on, 255), request.clone()].concat();
    let closed = || vec![send(&[get(1)]), see(Ended)];
    let and = |mut steps: Vec<Step>, frames: Vec<u8>, expect| {
        steps.extend([send(&[frames]), see(expect)]);
        steps
    };
    let many: Vec<_> = std::iter::once(window_size(0)).chain((0..=100).map(|n| get(2 * n + 1))).collect();
    check(vec![
        case("http2/5.1/1 idle: DATA", &[data(1, END_STREAM, b"test")], Goaway(&[PROTOCOL_ERROR])),
        case("http2/5.1/2 idle: RST_STREAM", &[reset(1, CANCEL)], Goaway(&[PROTOCOL_ERROR])),
        case("http2/5.1/3 idle: WINDOW_UPDATE", &[window_update(1, 100)], Goaway(&[PROTOCOL_ERROR])),
        case("http2/5.1/4 idle: CONTINUATION", &[continuation(1, END_HEADERS, &request)], Goaway(&[PROTOCOL_ERROR])),
        case("http2/5.1/5 half-closed: DATA", &[get(1), data(1, END_STREAM, b"test")], Reset(&[STREAM_CLOSED])),
        case("http2/5.1/6 half-closed: HEADERS", &[get(1), get(1)], Reset(&[STREAM_CLOSED])),
        case(
            "http2/5.1/7 half-closed: CONTINUATION",
            &[get(1), continuation(1, END_HEADERS, &request)],
            Reset(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        case(
            "http2/5.1/8 reset: DATA",
            &[post(1), reset(1, CANCEL), data(1, END_STREAM, b"test")],
            Reset(&[STREAM_CLOSED]),
        ),
        case("http2/5.1/9 reset: HEADERS", &[post(1), reset(1, CANCEL), get(1)], Reset(&[STREAM_CLOSED])),
        case(
            "http2/5.1/10 reset: CONTINUATION",
            &[post(1), reset(1, CANCEL), continuation(1, END_HEADERS, &rest)],
            Reset(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        cases("http2/5.1/11 closed: DATA", and(closed(), data(1, END_STREAM, b"test"), Reset(&[STREAM_CLOSED]))),
        cases("http2/5.1/12 closed: HEADERS", and(closed(), get(1), Goaway(&[STREAM_CLOSED]))),
        cases(
            "http2/5.1/13 closed: CONTINUATION",
            and(closed(), continuation(1, END_HEADERS, &rest), Goaway(&[STREAM_CLOSED, PROTOCOL_ERROR])),
        ),
        case("http2/5.1.1/1 an even stream", &[get(2)], Goaway(&[PROTOCOL_ERROR])),
        case("http2/5.1.1/2 a smaller stream", &[get(5), get(3)], Goaway(&[PROTOCOL_ERROR])),
        case("http2/5.1.2/1 more streams than allowed", &many, Reset(&[PROTOCOL_ERROR, REFUSED_STREAM])),
        case(
            "http2/5.3.1/1 HEADERS that depend on themselves",
            &[frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &depending(1))],
            Reset(&[PROTOCOL_ERROR]),
        ),
        case("http2/5.3.1/2 PRIORITY that depends on itself", &[priority(2, 2, 255)], Reset(&[PROTOCOL_ERROR])),
        case(
            "http2/6.10/1 several CONTINUATION",
            &[frame(HEADERS, END_STREAM, 1, &request), continuation(1, 0, &rest), continuation(1, END_HEADERS, &rest)],
            Answer(1),
        ),
        case(
            "http2/6.10/2 DATA within a block",
            &[frame(HEADERS, 0, 1, &request), continuation(1, 0, &rest), data(1, END_STREAM, b"test")],
            Goaway(&[PROTOCOL_ERROR]),
        ),
        case(
            "http2/6.10/3 CONTINUATION of no stream",
            &[frame(HEADERS, 0, 1, &request), continuation(0, END_HEADERS, &rest)],
            Goaway(&[PROTOCOL_ERROR]),
        ),
        case(
            "http2/6.10/4 CONTINUATION behind whole HEADERS",
            &[post(1), continuation(1, END_HEADERS, &rest)],
            Goaway(&[PROTOCOL_ERROR]),
        ),
        case(
            "http2/6.10/5 CONTINUATION behind the last",
            &[frame(HEADERS, 0, 1, &request), continuation(1, END_HEADERS, &rest), continuation(1, END_HEADERS, &rest)],
            Goaway(&[PROTOCOL_ERROR]),
        ),
        case(
            "http2/6.10/6 CONTINUATION behind DATA",
            &[frame(HEADERS, 0, 1, &request), data(1, END_STREAM, b"test"), continuation(1, END_HEADERS, &rest)],
            Goaway(&[PROTOCOL_ERROR]),
        ),
        case("http2/8.1/1 HEADERS again that are no trailers", &[post(1), post(1)], Reset(&[PROTOCOL_ERROR])),
    ])
    .await;
}

#[tokio::test]
async fn windows_are_kept_to() {
    check(vec![
        case("http2/6.9/1 the connection's window, by 0", &[window_update(0, 0)], Goaway(&[PROTOCOL_ERROR])),
        case("http2/6.9/2 a stream's window, by 0", &[post(1), window_update(1, 0)], Reset(&[PROTOCOL_ERROR])),
        case("http2/6.9/3 a short WINDOW_UPDATE", &[frame(WINDOW_UPDATE, 0, 0, &[0; 3])], Goaway(&[FRAME_SIZE_ERROR])),
        case("http2/6.9.1/1 a window of 1", &[window_size(1), get(1)], Data(1)),
        case(
            "http2/6.9.1/2 the connection's window, too large",
            &[window_update(0, MAX_WINDOW), window_update(0, MAX_WINDOW)],
            Goaway(&[FLOW_CONTROL_ERROR]),
        ),
        case(
            "http2/6.9.1/3 a stream's window, too large",
            &[window_size(0), get(1), window_update(1, MAX_WINDOW), window_update(1, MAX_WINDOW)],
            Reset(&[FLOW_CONTROL_ERROR]),
        ),
        cases(
            "http2/6.9.2/1 settings move the windows of open streams",
            vec![
                send(&[window_size(0)]),
                see(Settings(ACK)),
                send(&[get(1), window_size(1)]),
                see(Settings(ACK)),
                see(Data(1)),
            ],
        ),
        cases(
            "http2/6.9.2/2 even below zero",
            vec![
                send(&[window_size(3)]),
                see(Settings(ACK)),
                send(&[get(1)]),
                see(Data(3)),
                send(&[window_size(2)]),
                see(Settings(ACK)),
                send(&[window_update(1, 2)]),
                see(Data(1)),
            ],
        ),
        case("http2/6.9.2/3 and not above the largest", &[window_size(1 << 31)], Goaway(&[FLOW_CONTROL_ERROR])),
    ])
    .await;
}

#[tokio::test]
async fn malformed_fields_reset_their_stream() {
    let malformed = |name, block: Vec<u8>| case(name, &[whole(&block)], Reset(&[PROTOCOL_ERROR]));
    let trailers = |fields: &[(&str, &str)]| [post(1), data(1, 0, b"test"), headers(1, END_HEADERS, fields)].concat();
    let counted = |sent: &[&[u8]]| {
        let fields: Vec<_> = POST.into_iter().chain([("content-length", "1")]).collect();
        let (last, rest) = sent.split_last().unwrap();
        let mut frames = vec![headers(1, END_HEADERS, &fields)];
        frames.extend(rest.iter().map(|bytes| data(1, 0, bytes)));
        frames.push(data(1, END_STREAM, last));
        frames.concat()
    };
    let behind = [block(&[("x-test", "ok")]), block(&REQUEST)].concat();
    check(vec![
        malformed("http2/8.1.2/1 a name in capitals", with(&[("X-TEST", "ok")])),
        malformed("http2/8.1.2.1/1 an unknown pseudo-field", with(&[(":test", "ok")])),
        malformed("http2/8.1.2.1/2 an answer's pseudo-field", with(&[(":status", "200")])),
        case(
            "http2/8.1.2.1/3 a pseudo-field in trailers",
            &[trailers(&[(":method", "200")])],
            Reset(&[PROTOCOL_ERROR]),
        ),
        case(
            "a pseudo-field in trailers that end their stream",
            &[post(1), data(1, 0, b"test"), headers(1, WHOLE, &[("x-sum", "1"), (":method", "GET")])],
            Reset(&[PROTOCOL_ERROR]),
        ),
        malformed("a target with a fragment", [without(":path"), block(&[(":path", "/a?b#c")])].concat()),
        malformed("http2/8.1.2.1/4 pseudo-fields behind others", behind),
        malformed("http2/8.1.2.2/1 a field of the connection", with(&[("connection", "keep-alive")])),
        malformed("http2/8.1.2.2/2 TE other than trailers", with(&[("trailers", "test"), ("te", "trailers, deflate")])),
        malformed("http2/8.1.2.3/1 an empty path", [without(":path"), block(&[(":path", "")])].concat()),
        malformed("http2/8.1.2.3/2 no method", without(":method")),
        malformed("http2/8.1.2.3/3 no scheme", without(":scheme")),
        malformed("http2/8.1.2.3/4 no path", without(":path")),
        malformed("http2/8.1.2.3/5 two methods", with(&[(":method", "GET")])),
        malformed("http2/8.1.2.3/6 two schemes", with(&[(":scheme", "https")])),
        malformed("http2/8.1.2.3/7 two paths", with(&[(":path", "/")])),
        malformed("two authorities", with(&[(":authority", "app.test")])),
        case("http2/8.1.2.6/1 another length than that of DATA", &[counted(&[b"test"])], Reset(&[PROTOCOL_ERROR])),
        case("http2/8.1.2.6/2 or of several", &[counted(&[b"te", b"st"])], Reset(&[PROTOCOL_ERROR])),
    ])
    .await;
}

/// An error of a stream is reported also where the upstream would answer before the request has ended.
#[tokio::test]
async fn a_wrong_window_resets_a_stream_whose_answer_would_come_early() {
    let upstream = RawUpstream::serving(|mut line| async move {
        while line.head().await.is_some() {
            line.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789").await;
        }
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    for _ in 0..20 {
        for (wrong, code) in [
            (&[window_update(1, MAX_WINDOW), window_update(1, MAX_WINDOW)][..], &[FLOW_CONTROL_ERROR]),
            (&[window_update(1, 0)], &[PROTOCOL_ERROR]),
        ] {
            let mut frames = Frames::open(&gate).await;
            frames.write(&headers(1, END_HEADERS, &REQUEST)).await;
            for frame in wrong {
                drop(frames.try_write(frame).await);
            }
            look(&mut frames, Reset(code)).await.unwrap();
        }
    }
}
