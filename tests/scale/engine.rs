//! A real engine, and the questions that members ask it.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, Script};
use tempfile::TempDir;

/// A `redis-server` with a port for TLS. It ends when this is dropped.
pub(crate) struct Engine {
    server: Child,
    folder: TempDir,
}

/// How members reach the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Plain,
    Tls,
}

/// A question of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// The limits of a step of a login: two are looked at, and one counts.
    ThreeLimits,
    /// The limit of the account.
    OneLimit,
    /// May the PBX be asked for a session?
    Breaker,
    /// A session that is handed out.
    Session,
    /// A used link.
    Mark,
    /// A used link that is written back to an engine that was emptied.
    MarkBack,
    /// A freeze, which the engine passes on to all members.
    Freeze,
    /// A part of the table of freezes.
    ReadFreezes,
}

impl Engine {
    /// Starts a server; nothing where the program is missing.
    pub(crate) fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(folder.path().join("cert.pem"), certificate.cert.pem()).unwrap();
        fs::write(folder.path().join("key.pem"), certificate.signing_key.serialize_pem()).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Command::new("redis-server");
        server.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", "engine.sock"]);
        server.args(["--tls-port", &port.to_string(), "--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"]);
        server.args(["--tls-auth-clients", "no", "--bind", "127.0.0.1"]);
        fs::write(folder.path().join("port"), port.to_string()).unwrap();
        let server = server.current_dir(folder.path()).stdout(Stdio::null()).stdin(Stdio::null()).spawn();
        match server {
            Ok(server) => Some(Self { server, folder }),
            Err(error) => {
                assert!(std::env::var_os("CALLGATE_TEST_PROGRAMS").is_none(), "redis-server: {error}");
                None
            }
        }
    }

    /// Connects a member as callgate does: one connection for all its questions.
    pub(crate) async fn connect(&self, transport: Transport) -> MultiplexedConnection {
        let file = |name: &str| fs::read(self.folder.path().join(name)).unwrap();
        let settings = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
        let client = match transport {
            Transport::Plain => {
                let at = format!("unix:{}", self.folder.path().join("engine.sock").display());
                Client::open(at.into_connection_info().unwrap().set_redis_settings(settings)).unwrap()
            }
            Transport::Tls => {
                let at = format!("rediss://localhost:{}", String::from_utf8(file("port")).unwrap());
                let certificates = redis::TlsCertificates { client_tls: None, root_cert: Some(file("cert.pem")) };
                let info = at.into_connection_info().unwrap().set_redis_settings(settings);
                Client::build_with_tls(info, certificates).unwrap()
            }
        };
        loop {
            // The messages of other members are read, and thrown away.
            let config = AsyncConnectionConfig::new()
                .set_push_sender(|_| Ok::<(), redis::aio::SendError>(()))
                .set_response_timeout(None);
            match client.get_multiplexed_async_connection_with_config(&config).await {
                Ok(link) => return link,
                // It has not begun to listen.
                Err(error) if error.is_connection_refusal() || error.is_io_error() => {
                    assert!(std::path::Path::new("/proc").join(self.server.id().to_string()).exists(), "{error}");
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

// === Questions ===

impl Question {
    /// All questions of a person who logs in with a cookie of the app, in their order.
    pub(crate) const LOGIN: [Self; 5] =
        [Self::ThreeLimits, Self::ThreeLimits, Self::OneLimit, Self::Breaker, Self::Session];

    /// Writes a question about someone or something that no question was about before.
    pub(crate) fn command(self) -> Cmd {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        match self {
            Self::ThreeLimits => {
                let keys = [key("limit", 3 * number), key("limit", 3 * number + 1), key("limit", 3 * number + 2)];
                let (look, count) = ([0, 60, 0, 540, 0], [1, 3600, 0, 0, 0]);
                call(include_str!("../../src/limit/gcra.lua"), &keys, &texts(&[look, look, count].concat()))
            }
            Self::OneLimit => {
                call(include_str!("../../src/limit/gcra.lua"), &[key("limit", number)], &texts(&[1, 3600, 0, 0, 0]))
            }
            Self::Breaker => {
                let arguments = ["ask", "60000", "3600000", "callgate:messages", "breaker changed"];
                call(include_str!("../../src/pbx/breaker/breaker.lua"), &[key("breaker", 0)], &texts(&arguments))
            }
            Self::Session => set(&key("session", number), &[b'x'; 480], 86_400_000),
            Self::Mark => {
                let keys = [key("mark", number), "callgate:generation".to_owned()];
                call(include_str!("../../src/once/mark.lua"), &keys, &texts(&["600000", GENERATION]))
            }
            Self::MarkBack => set(&key("mark", number), b"1", 600_000),
            Self::Freeze => {
                let value = format!("{number} {}", "x".repeat(230));
                let message = format!("freeze {value}");
                let (number, field) = (number.to_string(), key("freeze", number));
                let arguments =
                    [&number, "9007199254740991", &value, "callgate:messages", &message, "60000", "1000000"];
                let arguments = [&texts(&arguments)[..], &[field]].concat();
                call(include_str!("../../src/freeze/put_record.lua"), &["callgate:freezes".to_owned()], &arguments)
            }
            Self::ReadFreezes => {
                let mut scan = redis::cmd("HSCAN");
                scan.arg("callgate:freezes").arg(number % 4096).arg("COUNT").arg(200);
                scan
            }
        }
    }
}

/// What [`Question::Mark`] takes for the generation of the engine.
pub(crate) const GENERATION: &str = "an-engine-for-a-test 1000";

/// Makes a name as long as callgate's.
fn key(kind: &str, number: u64) -> String {
    format!("callgate:{kind}:{{{:02x}}}:{:032x}", number % 256, u128::from(number) * 0x9e37_79b9_7f4a_7c15)
}

fn set(key: &str, value: &[u8], millis: u64) -> Cmd {
    let mut set = redis::cmd("SET");
    set.arg(key).arg(value).arg("PX").arg(millis);
    set
}

/// Calls a script by its SHA-1. [`load`] lets the engine know it.
fn call(script: &'static str, keys: &[String], arguments: &[String]) -> Cmd {
    let mut call = redis::cmd("EVALSHA");
    call.arg(hash(script)).arg(keys.len()).arg(keys).arg(arguments);
    call
}

fn hash(script: &'static str) -> String {
    static KNOWN: std::sync::Mutex<Vec<(&str, String)>> = std::sync::Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap();
    if let Some((_, hash)) = known.iter().find(|(text, _)| *text == script) {
        return hash.clone();
    }
    let hash = Script::new(script).get_hash().to_owned();
    known.push((script, hash.clone()));
    hash
}

/// Lets the engine know all scripts, and its generation.
pub(crate) async fn load(link: &mut MultiplexedConnection) {
    for script in [
        include_str!("../../src/limit/gcra.lua"),
        include_str!("../../src/pbx/breaker/breaker.lua"),
        include_str!("../../src/once/mark.lua"),
        include_str!("../../src/freeze/put_record.lua"),
    ] {
        let _: String = redis::cmd("SCRIPT").arg("LOAD").arg(script).query_async(link).await.unwrap();
    }
    let () = redis::cmd("SET").arg("callgate:generation").arg(GENERATION).query_async(link).await.unwrap();
}

fn texts(arguments: &[impl ToString]) -> Vec<String> {
    arguments.iter().map(ToString::to_string).collect()
}
