//! A real engine for tests.

use std::io::{self, Write, stderr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{EngineScript, SharedEngine};
use crate::config::{EngineNode, EngineTopology, MarksWhenDown, SharedConfig};
use crate::model::key_ring::KeyRing;

/// A `redis-server` of its own at a unix socket. It ends when this is dropped.
pub(crate) struct TestEngine {
    server: Child,
    folder: TempDir,
}

impl TestEngine {
    /// Starts a server; nothing where the program is missing, which `tests/run` does not permit.
    pub(crate) fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        match server_in(&folder) {
            Ok(server) => Some(Self { server, folder }),
            Err(error) => {
                assert!(env::var_os("CALLGATE_TEST_PROGRAMS").is_none(), "redis-server: {error}");
                drop(writeln!(stderr(), "skipped: no redis-server"));
                None
            }
        }
    }

    /// Ends the server.
    pub(crate) fn kill(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
        drop(fs::remove_file(self.folder.path().join("engine.sock")));
    }

    /// Starts an empty server in the place of one that has ended.
    pub(crate) fn start_again(&mut self) {
        self.server = server_in(&self.folder).unwrap();
    }

    /// Stops the server, with its connections open, or lets it go on.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.server), signal).unwrap();
    }

    /// Returns the settings of a member.
    pub(crate) fn config(&self) -> SharedConfig {
        Self::config_at(self.folder.path().join("engine.sock"))
    }

    /// Returns the settings of a member whose engine is at a socket.
    pub(crate) fn config_at(socket: PathBuf) -> SharedConfig {
        SharedConfig {
            nodes: vec![EngineNode::Unix(socket)],
            topology: EngineTopology::Single,
            database: 0,
            login: None,
            ca: None,
            client: None,
            prefix: "test".to_owned(),
            deadline: Duration::from_secs(5),
            members: std::num::NonZeroU32::MIN,
            marks_when_down: MarksWhenDown::default(),
            keys: KeyRing::parse(&BASE64_STANDARD.encode([1; 32])).unwrap(),
        }
    }

    /// Returns the engine as a member sees it, once it is reached.
    pub(crate) async fn reach(&self) -> Arc<SharedEngine> {
        self.reach_with(self.config()).await
    }

    /// As [`TestEngine::reach`], for a member with other settings.
    pub(crate) async fn reach_with(&self, config: SharedConfig) -> Arc<SharedEngine> {
        let engine = SharedEngine::new(config);
        tokio::spawn(Arc::clone(&engine).run());
        engine.reached().wait_for(|times| *times > 0).await.unwrap();
        engine
    }
}

impl Drop for TestEngine {
    fn drop(&mut self) {
        self.kill();
    }
}

fn server_in(folder: &TempDir) -> io::Result<Child> {
    let mut server = Command::new("redis-server");
    server.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", "engine.sock"]);
    server.current_dir(folder.path()).stdout(Stdio::null()).stdin(Stdio::null());
    server.spawn()
}

/// Numbers that look random, the same in each run.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    /// Returns the next number below a bound.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Takes the last two arguments of a script, seconds and microseconds, in the place of the engine's clock.
pub(crate) fn script_with_test_clock(text: &str) -> EngineScript {
    let clock = "local time = redis.call('TIME')";
    assert_eq!(text.matches(clock).count(), 1);
    EngineScript::new(String::leak(text.replace(clock, "local time = { ARGV[#ARGV - 1], ARGV[#ARGV] }")))
}
