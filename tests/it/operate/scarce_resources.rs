//! Scarce file descriptors and threads: callgate works with what it gets, logs that once, and ends in order.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use callgate::config::Listen;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::kit::client::{read_head, status};
use crate::kit::commands::{Running, limited};
use crate::kit::gate::{secret, tell};
use crate::kit::program::{Program, certify, configuration};
use crate::kit::upstream::RawUpstream;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";

// === Descriptors ===

impl Program {
    /// Connects from an address of this machine.
    async fn connect_from(&self, address: &str) -> Option<TcpStream> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
        timeout(Duration::from_secs(2), socket.connect(self.addr)).await.ok()?.ok()
    }

    /// Asks for a page from an address of this machine.
    async fn page(&self, address: &str) -> u16 {
        let stream = self.connect_from(address).await.unwrap();
        let mut tls = self.over(stream).await;
        tls.write_all(GET).await.unwrap();
        status(&read_head(&mut tls).await)
    }
}

#[tokio::test]
async fn few_descriptors_mean_fewer_connections_and_nothing_else() {
    let (upstream, dir) = (RawUpstream::ok().await, TempDir::new().unwrap());
    let admin = Listen::Unix(dir.path().join("admin.sock"));
    let more = format!("[admin]\nlisten = \"{admin}\"");
    let top = "listen = \"127.0.0.1:0\"\nworkers = 1";
    let program = Program::start_by(limited("-n 100"), upstream.addr, top, &more).await;
    let mut held = Vec::new();
    for nth in 0..110 {
        // Two clients, as one of them cannot hold all by itself.
        held.push(program.connect_from(["127.0.0.2", "127.0.0.3"][nth % 2]).await);
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(status(&tell(&admin, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))), 200, "{path}");
    }
    // A connection without a handshake makes room, long before the deadline of the handshake.
    let begun = Instant::now();
    assert_eq!(timeout(Duration::from_secs(8), program.page("127.0.0.4")).await.unwrap(), 200);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // An idle connection makes room as well.
    held.clear();
    let mut resting = Vec::new();
    for nth in 0..60 {
        let address = ["127.0.0.5", "127.0.0.6", "127.0.0.7"][nth % 3];
        let Some(stream) = program.connect_from(address).await else { continue };
        let mut tls = program.over(stream).await;
        tls.write_all(GET).await.unwrap();
        assert_eq!(status(&read_head(&mut tls).await), 200, "{nth}");
        resting.push(tls);
    }
    program.running.signal("-TERM");
    drop(resting);
    let (_, told) = program.running.end().await;
    assert_eq!(told.matches("cannot accept").count(), 0, "{told}");
    assert!(told.matches("as many connections are open").count() <= 1, "{told}");
}

#[tokio::test]
async fn a_lowered_max_connections_is_logged_once() {
    let upstream = RawUpstream::ok().await;
    let mut command = limited("-n 100");
    let dir = TempDir::new().unwrap();
    certify(dir.path());
    secret(&dir, "proxy.toml", &configuration(&upstream.addr.to_string(), "listen = \"127.0.0.1:0\"", ""));
    command.args(["run", "--config"]).arg(dir.path().join("proxy.toml"));
    let mut running = Running::start(command);
    let told = running.complaint("too few files").await;
    assert!(told.contains("open_files=100 ") && told.contains("configured=16384") && told.contains("used="), "{told}");
    running.signal("-TERM");
    assert!(!running.end().await.1.contains("too few files"));
}

// === Threads ===

/// A user of its own, as the system counts the threads of each.
const USER: u32 = 61_235;

/// A folder from which another user can run the program.
fn folder(upstream: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    let files = dir.path().join("files");
    fs::create_dir(&files).unwrap();
    let certificate = callgate::tls::dev::certificate(&["app.test"]).unwrap();
    let top = "listen = \"127.0.0.1:0\"\nworkers = 1";
    let text = configuration(upstream, top, "[admin]\nlisten = \"127.0.0.1:0\"");
    let text = text.replace("\"fullchain.pem\"", &format!("{:?}", files.join("fullchain.pem")));
    let text = text.replace("\"privkey.pem\"", &format!("{:?}", files.join("privkey.pem")));
    for (name, text) in
        [("fullchain.pem", &certificate.chain), ("privkey.pem", &certificate.key), ("proxy.toml", &text)]
    {
        fs::write(files.join(name), text).unwrap();
        fs::set_permissions(files.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        chown(files.join(name), Some(USER), Some(USER)).unwrap();
    }
    let program = dir.path().join("callgate");
    if fs::hard_link(env!("CARGO_BIN_EXE_callgate"), &program).is_err() {
        fs::copy(env!("CARGO_BIN_EXE_callgate"), &program).unwrap();
    }
    for path in [dir.path().to_owned(), files] {
        chown(&path, Some(USER), Some(USER)).unwrap();
    }
    dir
}

/// Runs the program as a user who may have so many threads.
fn with_threads(dir: &TempDir, most: u32) -> Running {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nproc={most}:{most}")).arg("setpriv").args(["--clear-groups", "--no-new-privs"]);
    command.arg(format!("--reuid={USER}")).arg(format!("--regid={USER}"));
    command.arg(dir.path().join("callgate")).args(["run", "--config"]).arg(dir.path().join("files/proxy.toml"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running::start(command)
}

/// However few threads there may be, the gate starts or says why not; then it serves, and ends in order.
#[tokio::test]
async fn where_no_thread_can_be_made_nothing_panics() {
    let has = |name: &str| Command::new(name).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !rustix::process::geteuid().is_root() || !has("prlimit") || !has("setpriv") {
        return eprintln!("skipped: needs root, prlimit and setpriv");
    }
    let upstream = RawUpstream::ok().await;
    let dir = folder(&format!("localhost:{}", upstream.addr.port()));
    let mut started = 0;
    for most in 1..=12 {
        let mut running = with_threads(&dir, most);
        let line = match running.listening().await {
            Ok(line) => line,
            Err(told) => {
                let code = running.end().await.0;
                assert!(code == Some(1) && told.contains("cannot"), "{most}: {code:?} {told}");
                assert!(!told.contains("panicked") && started == 0, "{most}: {told}");
                continue;
            }
        };
        started += 1;
        let address = line.split("address=").nth(1).unwrap().trim();
        let page = ask(address.parse().unwrap()).await;
        assert!([200, 502, 503].contains(&page), "{most}: {page}");
        running.signal("-TERM");
        let (code, told) = running.end().await;
        assert!(code == Some(0) && !told.contains("panicked"), "{most}: {code:?} {told}");
    }
    assert!((1..12).contains(&started), "{started}");
}

async fn ask(address: std::net::SocketAddr) -> u16 {
    let tls = callgate::tls::client::unverified_config().unwrap();
    let name = ServerName::try_from("app.test").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let mut tls = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await.unwrap();
    tls.write_all(GET).await.unwrap();
    let head = read_head(&mut tls).await;
    let _ = timeout(Duration::from_millis(10), tls.read(&mut [0; 16])).await;
    status(&head)
}
