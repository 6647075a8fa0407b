//! Load: thousands of clients and gigabytes stay within the bounds of `docs/operate.md`, and other clients are served.
//!
//! The gate is its own process here, so that its memory can be measured alone.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use callgate::tls::dev;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::kit::client::{read_head, status};
use crate::kit::gate::secret;
use crate::kit::programs::KillTimer;
use crate::kit::upstream::RawUpstream;

const GIB: u64 = 1 << 30;
/// Larger than any 32-bit length.
const LARGE: u64 = 4 * GIB + 1;
/// The most that the process may grow while large bodies pass: the bounds of a few connections.
const FLOW: u64 = 16 << 10;
/// The most that an idle connection may cost, with the larger futures of an unoptimised build.
const IDLE: u64 = 24;

/// A gate in a process of its own.
struct Process {
    child: Child,
    addr: SocketAddr,
    connector: TlsConnector,
    h2: TlsConnector,
    _dir: TempDir,
    _watch: KillTimer,
}

impl Process {
    fn before(upstream: SocketAddr) -> Self {
        let dir = TempDir::new().unwrap();
        let certificate = dev::certificate(&["app.test"]).unwrap();
        secret(&dir, "fullchain.pem", &certificate.chain);
        secret(&dir, "privkey.pem", &certificate.key);
        let config = dir.path().join("proxy.toml");
        fs::write(&config, configuration(upstream)).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_callgate"))
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let watch = KillTimer::over(&child);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines.by_ref().map(Result::unwrap).find(|line| line.contains("address=")).unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        let addr = line.split("address=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let ca = CertificateDer::from_pem_slice(certificate.ca.as_bytes()).unwrap();
        Self {
            child,
            addr,
            connector: connector(&ca, b"http/1.1"),
            h2: connector(&ca, b"h2"),
            _dir: dir,
            _watch: watch,
        }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        open(&self.connector, self.addr).await
    }

    async fn is_serving(&self) {
        let asked = async {
            let mut tls = self.connect().await;
            tls.write_all(b"GET /ok HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await.unwrap();
            read_head(&mut tls).await
        };
        assert_eq!(status(&timeout(Duration::from_secs(10), asked).await.expect("others are served")), 200);
    }

    /// Returns a figure of the process's memory, in KiB.
    fn memory(&self, name: &str) -> u64 {
        let all = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = all.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
    }

    fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    #[track_caller]
    fn check_peak(&self, before: u64) {
        let grown = self.peak().saturating_sub(before);
        assert!(grown < FLOW, "{grown} KiB for {LARGE} bytes");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(upstream: SocketAddr) -> String {
    format!(
        r#"
        listen = "127.0.0.1:0"
        tls = {{ cert = "fullchain.pem", key = "privkey.pem" }}
        workers = 1
        [app]
        url = "http://{upstream}"
        [log]
        access = "off"
        [server]
        timeouts = {{ idle = "10min", header = "10min", body_idle = "10min", write_stall = "10min" }}
        "#
    )
}

fn connector(ca: &CertificateDer<'static>, alpn: &[u8]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(callgate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    TlsConnector::from(Arc::new(config))
}

async fn open(connector: &TlsConnector, addr: SocketAddr) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    connector.connect(ServerName::try_from("app.test").unwrap(), stream).await.unwrap()
}

/// An app with a `/large` body and an ear for one; it tells how many bytes of uploads arrived.
async fn app() -> (RawUpstream, Arc<AtomicU64>) {
    let taken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&taken);
    let app = RawUpstream::serving(move |mut line| {
        let count = Arc::clone(&count);
        async move {
            while let Some(head) = line.head().await {
                if head.starts_with("GET /large") {
                    line.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n")).await;
                    pour(&mut line.stream, LARGE).await;
                } else if head.starts_with("POST") {
                    let mut buffer = vec![0; 256 << 10];
                    while count.load(Ordering::Relaxed) < LARGE {
                        match line.stream.read(&mut buffer).await {
                            Ok(0) | Err(_) => return,
                            Ok(read) => count.fetch_add(read as u64, Ordering::Relaxed),
                        };
                    }
                    line.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                } else if head.starts_with("GET /ws") {
                    line.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                        .await;
                    line.rest().await;
                } else {
                    line.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            }
        }
    })
    .await;
    (app, taken)
}

/// Writes this many bytes, or as many as are taken.
async fn pour<W: AsyncWriteExt + Unpin>(to: &mut W, mut left: u64) {
    let zeros = vec![0; 256 << 10];
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
        if to.write_all(&zeros[..length]).await.is_err() {
            return;
        }
        left -= length as u64;
    }
    // TLS holds bytes back while the socket is full; nothing else would send them.
    let _ = to.flush().await;
}

#[tokio::test]
#[ignore = "takes long: tests/run"]
async fn ten_thousand_idle_connections_keep_no_other_client_out() {
    const COUNT: u64 = 10_000;
    let (app, _) = app().await;
    let gate = Arc::new(Process::before(app.addr));
    gate.is_serving().await;
    let before = gate.resident();
    let mut opening = JoinSet::new();
    for _ in 0..50 {
        let gate = Arc::clone(&gate);
        opening.spawn(async move {
            let mut resting = Vec::new();
            for _ in 0..COUNT / 50 {
                let mut tls = gate.connect().await;
                tls.write_all(b"GET /ok HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
                assert_eq!(status(&read_head(&mut tls).await), 200);
                resting.push(tls);
            }
            resting
        });
    }
    let resting = opening.join_all().await;
    // Idle connections give their buffers up after five seconds.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let each = (gate.resident() - before) / COUNT;
    assert!(each <= IDLE, "{each} KiB each");
    gate.is_serving().await;
    drop(resting);
}

#[tokio::test]
#[ignore = "takes long: tests/run"]
async fn websockets_at_rest_cost_no_more_than_connections() {
    const COUNT: u64 = 1000;
    const ASK: &[u8] = b"GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let (app, _) = app().await;
    let gate = Process::before(app.addr);
    gate.is_serving().await;
    let before = gate.resident();
    let mut resting = Vec::new();
    for _ in 0..COUNT {
        let mut tls = gate.connect().await;
        tls.write_all(ASK).await.unwrap();
        assert_eq!(status(&read_head(&mut tls).await), 101);
        resting.push(tls);
    }
    gate.is_serving().await;
    let each = (gate.resident() - before) / COUNT;
    assert!(each <= IDLE, "{each} KiB each");
}

#[tokio::test]
#[ignore = "takes long: tests/run"]
async fn readers_that_do_not_read_cost_their_buffers_and_no_more() {
    const COUNT: u64 = 500;
    /// 128 KiB come from the upstream, 128 KiB wait to be encrypted, 64 KiB wait for the client; and the connection itself, which
    /// does not rest.
    const EACH: u64 = 128 + 128 + 64 + 2 * IDLE;
    let (app, _) = app().await;
    let gate = Process::before(app.addr);
    gate.is_serving().await;
    let before = gate.resident();
    let mut stuck = Vec::new();
    for _ in 0..COUNT {
        let mut tls = gate.connect().await;
        tls.write_all(b"GET /large HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
        assert_eq!(status(&read_head(&mut tls).await), 200);
        stuck.push(tls);
    }
    gate.is_serving().await;
    let each = (gate.peak() - before) / COUNT;
    assert!(each <= EACH, "{each} KiB each");
}

#[tokio::test]
#[ignore = "takes long: tests/run"]
async fn heads_and_bodies_that_drip_keep_no_other_client_out() {
    let (app, _) = app().await;
    let gate = Process::before(app.addr);
    gate.is_serving().await;
    let before = gate.resident();
    let mut slow = Vec::new();
    for nth in 0..1000 {
        let mut tls = gate.connect().await;
        let start: &[u8] = if nth % 2 == 0 {
            b"GET / HTTP/1.1\r\nHost: app.test\r\nX-Drip: "
        } else {
            b"POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1000000\r\n\r\nx"
        };
        tls.write_all(start).await.unwrap();
        slow.push(tls);
    }
    for tls in &mut slow {
        tls.write_all(b"y").await.unwrap();
    }
    gate.is_serving().await;
    let each = (gate.peak() - before) / 1000;
    // Heads and bodies that are under way, with their upstream connections.
    assert!(each <= 4 * IDLE, "{each} KiB each");
}

#[tokio::test]
#[ignore = "takes long: tests/run"]
async fn four_gibibytes_go_down_in_little_memory() {
    let (app, _) = app().await;
    let gate = Process::before(app.addr);
    gate.is_serving().await;
    let before = gate.peak();
    let mut tls = gate.connect().await;
    tls.write_all(b"GET /large HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 200);
    let mut buffer = vec![0; 256 << 10];
    let mut left = LARGE;
    while left > 0 {
        let read = tls.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "{left} bytes are missing");
        left -= read as u64;
    }
    gate.check_peak(before);
    // The length was right to the byte: the connection goes on.
    tls.write_all(b"GET /ok HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 200);
}

#[tokio::test]
#[ignore = "takes long: tests/run"]
async fn four_gibibytes_go_up_in_little_memory() {
    let (app, taken) = app().await;
    let gate = Process::before(app.addr);
    gate.is_serving().await;
    let before = gate.peak();
    let mut tls = gate.connect().await;
    tls.write_all(format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    pour(&mut tls, LARGE).await;
    assert_eq!(status(&read_head(&mut tls).await), 200);
    assert_eq!(taken.load(Ordering::Relaxed), LARGE);
    gate.check_peak(before);
}

#[tokio::test]
#[ignore = "takes long: tests/run"]
async fn four_gibibytes_go_both_ways_over_http2_in_little_memory() {
    let (app, taken) = app().await;
    let gate = Process::before(app.addr);
    gate.is_serving().await;
    let before = gate.peak();
    let (mut client, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(2 << 20)
        .handshake::<_, Bytes>(open(&gate.h2, gate.addr).await)
        .await
        .unwrap();
    tokio::spawn(connection);

    let request = http::Request::get("https://app.test/large").body(()).unwrap();
    let mut body = client.send_request(request, true).unwrap().0.await.unwrap().into_body();
    let mut left = LARGE;
    while let Some(data) = body.data().await {
        let length = data.unwrap().len();
        body.flow_control().release_capacity(length).unwrap();
        left -= length as u64;
    }
    assert_eq!(left, 0);
    gate.check_peak(before);

    let request = http::Request::post("https://app.test/").header("content-length", LARGE).body(()).unwrap();
    let (answer, mut up) = client.send_request(request, false).unwrap();
    let zeros = Bytes::from(vec![0; 64 << 10]);
    let mut left = LARGE;
    while left > 0 {
        up.reserve_capacity(zeros.len());
        let room = std::future::poll_fn(|cx| up.poll_capacity(cx)).await.unwrap().unwrap();
        let length = room.min(zeros.len()).min(usize::try_from(left).unwrap_or(usize::MAX));
        left -= length as u64;
        up.send_data(zeros.slice(..length), left == 0).unwrap();
    }
    assert_eq!(answer.await.unwrap().status(), 200);
    // Chunk sizes are the app's to count: it takes at least the body.
    assert!(taken.load(Ordering::Relaxed) >= LARGE);
    gate.check_peak(before);
}
