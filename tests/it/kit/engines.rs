//! Redis of more than one node, and over TLS: real servers of a test's own.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::kit::engine::write_ring;
use crate::kit::programs::{KillTimer, are_here, output};
use crate::kit::stage::until;

/// A server of a group. It ends when this is dropped.
pub struct Node {
    pub port: u16,
    child: Child,
    _watch: KillTimer,
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Servers that belong together, in a folder with the key ring of the members.
pub struct Group {
    pub folder: TempDir,
    pub nodes: Vec<Node>,
}

/// Returns a port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Group {
    /// Makes an empty group; nothing where a program is missing.
    pub fn new() -> Option<Self> {
        if !are_here(&["redis-server", "redis-cli", "redis-sentinel"]) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        write_ring(folder.path());
        Some(Self { folder, nodes: Vec::new() })
    }

    /// Starts a server at a port of its own, and returns the port.
    pub async fn add(&mut self, program: &str, before: &[&str], more: &[&str]) -> u16 {
        let port = free_port();
        let home = self.folder.path().join(port.to_string());
        fs::create_dir(&home).unwrap();
        let mut server = Command::new(program);
        server.args(before).args(["--port", &port.to_string(), "--bind", "127.0.0.1"]).args(more);
        let child = server.current_dir(home).stdout(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
        self.nodes.push(Node { port, _watch: KillTimer::over(&child), child });
        until("redis listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
        port
    }

    /// Kills the server at a port.
    pub fn kill(&mut self, port: u16) {
        self.nodes.retain(|node| node.port != port);
    }

    /// Starts a cluster of three nodes.
    pub async fn cluster() -> Option<Self> {
        let mut group = Self::new()?;
        for _ in 0..3 {
            let bus = free_port().to_string();
            let more = ["--save", "", "--cluster-enabled", "yes", "--cluster-port", &bus];
            group.add("redis-server", &[], &more).await;
        }
        let nodes: Vec<_> = group.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let mut make = vec!["--cluster", "create"];
        make.extend(nodes.iter().map(String::as_str));
        make.push("--cluster-yes");
        tell(&make);
        let port = group.nodes[0].port.to_string();
        until("the cluster agrees", || tell(&["-p", &port, "CLUSTER", "INFO"]).contains("cluster_state:ok")).await;
        Some(group)
    }

    /// Starts a node, its replica, and a sentinel that watches both. Returns their ports with the group.
    pub async fn watched() -> Option<(Self, [u16; 3])> {
        let mut group = Self::new()?;
        let first = group.add("redis-server", &[], &["--save", ""]).await;
        let port = first.to_string();
        let second = group.add("redis-server", &[], &["--save", "", "--replicaof", "127.0.0.1", &port]).await;
        until("the replica is in step", || tell(&["-p", &port, "INFO"]).contains("state=online")).await;
        let settings = group.folder.path().join("sentinel.conf");
        let lines = format!(
            "sentinel monitor main 127.0.0.1 {first} 1\nsentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 3000\n"
        );
        fs::write(&settings, lines).unwrap();
        let sentinel = group.add("redis-sentinel", &[&settings.display().to_string()], &[]).await;
        let port = sentinel.to_string();
        until("the sentinel knows the replica", || {
            tell(&["-p", &port, "SENTINEL", "REPLICAS", "main"]).contains(&second.to_string())
        })
        .await;
        Some((group, [first, second, sentinel]))
    }

    /// Returns `[shared]` for a member. `url`: the value of that key.
    pub fn shared(&self, url: &str, more: &str) -> String {
        shared(self.folder.path(), url, more)
    }
}

fn shared(folder: &Path, url: &str, more: &str) -> String {
    format!("\n[shared]\nurl = {url}\nkeys = \"{}\"\n{more}\n", folder.join("ring.keys").display())
}

/// Runs `redis-cli`, and returns what it prints: nothing where no server answers, as in the middle of a fail-over.
pub fn tell(words: &[&str]) -> String {
    let output = output(Command::new("redis-cli").args(words).stdin(Stdio::null()));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
