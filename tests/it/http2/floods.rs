//! Floods of frames that are cheap to send: callgate stops them or spends little on them, and serves other clients.

use std::time::Duration;

use crate::kit::frames::*;
use crate::kit::gate::Gate;
use crate::kit::upstream::RawUpstream;

/// The outcome of a flood.
#[derive(Debug, PartialEq, Eq)]
enum FloodOutcome {
    /// It was told to stop, with this code.
    Goaway(u32),
    /// All of it was taken.
    Taken,
    /// It was no longer read, because its sender reads nothing.
    Blocked,
    /// The connection ended without a word that was still heard.
    Closed,
}

/// How long a flood may stand still before it counts as blocked.
const STILL: Duration = Duration::from_secs(1);

/// Sends a flood in pieces, reading what comes, until it is taken or told to stop.
async fn flood(frames: &mut Frames, pieces: impl Iterator<Item = Vec<u8>>) -> FloodOutcome {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut read, mut write) = tokio::io::split(&mut frames.tls);
    let answers = async {
        let mut head = [0; 9];
        while read.read_exact(&mut head).await.is_ok() {
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            if read.read_exact(&mut payload).await.is_err() {
                break;
            }
            let frame = Frame { kind: head[3], flags: head[4], stream: 0, payload };
            match frame.code() {
                Some(code) if frame.kind == GOAWAY => return FloodOutcome::Goaway(code),
                _ if frame.kind == PING && frame.payload == PINGED => return FloodOutcome::Taken,
                _ => {}
            }
        }
        FloodOutcome::Closed
    };
    let sent = async {
        for piece in pieces {
            if write.write_all(&piece).await.is_err() {
                break;
            }
        }
        // The pong comes when all before it has been dealt with.
        let _ = write.write_all(&ping()).await;
        let _ = write.flush().await;
        std::future::pending::<FloodOutcome>().await
    };
    let ended = async {
        tokio::select! {
            end = answers => end,
            end = sent => end,
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("the flood neither ends nor is stopped")
}

/// Sends a flood and reads nothing of what comes.
async fn deaf_flood(frames: &mut Frames, pieces: impl Iterator<Item = Vec<u8>>) -> FloodOutcome {
    for piece in pieces {
        match tokio::time::timeout(STILL, frames.try_write(&piece)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return FloodOutcome::Closed,
            Err(_) => return FloodOutcome::Blocked,
        }
    }
    FloodOutcome::Taken
}

/// A gate with one thread, whose other clients must not notice anything.
struct Bystanders {
    upstream: RawUpstream,
    gate: Gate,
}

impl Bystanders {
    async fn new() -> Self {
        let upstream = RawUpstream::ok().await;
        let gate = Gate::before(upstream.addr).await;
        Self { upstream, gate }
    }

    /// Runs a flood while another client asks again and again.
    async fn during(&self, flood: impl Future<Output = FloodOutcome>) -> FloodOutcome {
        let others = async {
            let mut served = 0_u32;
            loop {
                let asking = self.gate.get("/other").h2().send();
                tokio::time::timeout(Duration::from_secs(10), asking).await.expect("another client waits").expect(200);
                served += 1;
                if served > 10_000 {
                    return FloodOutcome::Taken;
                }
            }
        };
        let end = tokio::select! {
            end = flood => end,
            end = others => end,
        };
        self.gate.get("/other").h2().send().await.expect(200);
        end
    }

    /// Returns how many requests but those of the other client reached the upstream.
    fn reached(&self) -> usize {
        self.upstream.seen().iter().filter(|seen| !seen.starts_with("GET /other")).count()
    }
}

fn times(count: u32, piece: impl Fn(u32) -> Vec<u8>) -> impl Iterator<Item = Vec<u8>> {
    // In pieces of a hundred frames, so that the flood is one.
    (0..count / 100).map(move |n| (0..100).flat_map(|m| piece(100 * n + m)).collect())
}

#[tokio::test]
async fn cve_2023_44487_rapid_resets_do_not_touch_others() {
    let crowd = Bystanders::new().await;
    let mut frames = Frames::open(&crowd.gate).await;
    let flooding = flood(&mut frames, times(3000, |n| [get(2 * n + 1), reset(2 * n + 1, CANCEL)].concat()));
    let end = crowd.during(flooding).await;
    assert!(matches!(end, FloodOutcome::Goaway(ENHANCE_YOUR_CALM) | FloodOutcome::Closed), "{end:?}");
    assert!(crowd.reached() < 1000, "{}", crowd.reached());
}

/// The client makes the gate reset its streams, so that they no longer count while their requests go on.
#[tokio::test]
async fn cve_2025_8671_made_you_reset_is_stopped() {
    for fault in [
        |stream| window_update(stream, 0),
        |stream| priority(stream, stream, 1),
        |stream| headers(stream, END_HEADERS, &[("x", "1")]),
        |stream| [window_update(stream, u32::MAX >> 1), window_update(stream, u32::MAX >> 1)].concat(),
        |stream| data(stream, END_STREAM, b"too long"),
    ] {
        let crowd = Bystanders::new().await;
        let mut frames = Frames::open(&crowd.gate).await;
        let fields: Vec<_> = POST.into_iter().chain([("content-length", "1")]).collect();
        let flooding =
            flood(&mut frames, times(1000, |n| [headers(2 * n + 1, END_HEADERS, &fields), fault(2 * n + 1)].concat()));
        let end = crowd.during(flooding).await;
        assert!(
            matches!(end, FloodOutcome::Goaway(ENHANCE_YOUR_CALM | PROTOCOL_ERROR) | FloodOutcome::Closed),
            "{end:?}"
        );
        assert!(crowd.reached() < 1000, "{}", crowd.reached());
    }
}

#[tokio::test]
async fn cve_2024_27316_continuations_without_end_are_stopped() {
    for fragment in [block(&[("x", "1")]), Vec::new(), vec![b'x'; 10_000]] {
        let crowd = Bystanders::new().await;
        let mut frames = Frames::open(&crowd.gate).await;
        frames.write(&frame(HEADERS, END_STREAM, 1, &block(&REQUEST))).await;
        let end = crowd.during(flood(&mut frames, times(3000, |_| continuation(1, 0, &fragment)))).await;
        assert!(matches!(end, FloodOutcome::Goaway(_) | FloodOutcome::Closed), "{end:?}");
        assert_eq!(crowd.reached(), 0);
    }
}

#[tokio::test]
async fn cve_2019_9512_pings_are_answered_or_no_longer_read() {
    let crowd = Bystanders::new().await;
    let mut frames = Frames::open(&crowd.gate).await;
    let other = || frame(PING, 0, 0, b"12345678");
    let end = crowd.during(flood(&mut frames, times(3000, |_| other()))).await;
    assert!(matches!(end, FloodOutcome::Taken | FloodOutcome::Goaway(ENHANCE_YOUR_CALM)), "{end:?}");
    // Callgate stops reading from a client that reads none of the answers; they would pile up.
    let mut deaf = Frames::open_deaf(&crowd.gate).await;
    let end = crowd.during(deaf_flood(&mut deaf, times(300_000, |_| other()))).await;
    assert!(matches!(end, FloodOutcome::Blocked | FloodOutcome::Closed), "{end:?}");
}

#[tokio::test]
async fn cve_2019_9515_settings_are_acknowledged_or_no_longer_read() {
    let crowd = Bystanders::new().await;
    let mut frames = Frames::open(&crowd.gate).await;
    let end = crowd.during(flood(&mut frames, times(3000, |n| window_size(n + 1)))).await;
    assert!(matches!(end, FloodOutcome::Taken | FloodOutcome::Goaway(ENHANCE_YOUR_CALM)), "{end:?}");
    let mut deaf = Frames::open_deaf(&crowd.gate).await;
    let end = crowd.during(deaf_flood(&mut deaf, times(300_000, |n| window_size(n + 1)))).await;
    assert!(matches!(end, FloodOutcome::Blocked | FloodOutcome::Closed), "{end:?}");
}

#[tokio::test]
async fn cve_2019_9518_empty_frames_cost_nothing() {
    let crowd = Bystanders::new().await;
    for empty in [data(1, 0, b""), data(1, PADDED, b"\0"), data(1, PADDED, b"\x02\0\0")] {
        let mut frames = Frames::open(&crowd.gate).await;
        frames.write(&post(1)).await;
        let end = crowd.during(flood(&mut frames, times(3000, |_| empty.clone()))).await;
        assert!(matches!(end, FloodOutcome::Taken | FloodOutcome::Goaway(ENHANCE_YOUR_CALM)), "{end:?}");
    }
}

#[tokio::test]
async fn cve_2019_9513_priorities_cost_nothing() {
    let crowd = Bystanders::new().await;
    let mut frames = Frames::open(&crowd.gate).await;
    let end = crowd.during(flood(&mut frames, times(3000, |n| priority(2 * n + 1, 2 * n + 3, 255)))).await;
    assert!(matches!(end, FloodOutcome::Taken | FloodOutcome::Goaway(ENHANCE_YOUR_CALM)), "{end:?}");
}

#[tokio::test]
async fn cve_2019_9511_windows_opened_byte_by_byte_delay_no_other_client() {
    let crowd = Bystanders::new().await;
    let mut frames = Frames::open_with(&crowd.gate, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    let requests = (0..100).map(|n| get(2 * n + 1));
    let dribble = times(3000, |n| window_update(2 * (n % 100) + 1, 1));
    let end = crowd.during(flood(&mut frames, requests.chain(dribble))).await;
    assert!(matches!(end, FloodOutcome::Taken | FloodOutcome::Goaway(_)), "{end:?}");
}

#[tokio::test]
async fn cve_2019_9516_fields_without_a_name_go_nowhere() {
    let crowd = Bystanders::new().await;
    let mut frames = Frames::open(&crowd.gate).await;
    let fields: Vec<_> = REQUEST.into_iter().chain([("", ""); 400]).collect();
    let end = crowd.during(flood(&mut frames, times(300, |n| headers(2 * n + 1, WHOLE, &fields)))).await;
    assert!(matches!(end, FloodOutcome::Goaway(_) | FloodOutcome::Closed), "{end:?}");
    assert_eq!(crowd.reached(), 0);
}

#[tokio::test]
async fn unknown_frames_and_windows_of_the_connection_cost_nothing() {
    let crowd = Bystanders::new().await;
    for piece in [frame(0x16, 0xff, 77, b"unknown"), window_update(0, 1)] {
        let mut frames = Frames::open(&crowd.gate).await;
        let end = crowd.during(flood(&mut frames, times(3000, |_| piece.clone()))).await;
        assert!(matches!(end, FloodOutcome::Taken | FloodOutcome::Goaway(ENHANCE_YOUR_CALM)), "{end:?}");
    }
}

#[tokio::test]
async fn data_in_single_bytes_is_bounded_while_the_upstream_reads_nothing() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    let mut frames = Frames::open(&gate).await;
    frames.write(&post(1)).await;
    let end = flood(&mut frames, times(20_000, |_| data(1, 0, b"x"))).await;
    assert!(matches!(end, FloodOutcome::Taken | FloodOutcome::Goaway(ENHANCE_YOUR_CALM)), "{end:?}");
}
