//! Members behind HAProxy, as the documents set it up (docs/scale.md).

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::kit::load::Load;
use crate::kit::program::Program;
use crate::kit::programs::{KillTimer, are_here};
use crate::kit::stage::until;
use crate::kit::upstream::RawUpstream;

/// What a member must believe of the balancer.
const BELIEVES: &str = "[server]\naccept_proxy_protocol_from = [\"127.0.0.1\"]";

/// A running HAProxy before two members.
struct Balancer {
    addr: SocketAddr,
    child: Child,
    _watch: KillTimer,
    _folder: TempDir,
}

impl Drop for Balancer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Balancer {
    /// Starts it as the documents say, but for where things are, and so that tests wait less.
    async fn before(members: [&Program; 2]) -> Self {
        let text = fs::read_to_string("docs/scale.md").unwrap();
        let (_, block) = text.split_once("```haproxy\n").unwrap();
        let mut settings = block.split_once("```").unwrap().0.to_owned();
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let [one, two] = members.map(|member| member.addr.to_string());
        for (shown, real) in [
            ("bind :443", format!("bind {addr}")),
            ("192.0.2.11:443", one),
            ("192.0.2.12:443", two),
            ("inter 1s", "inter 100ms".to_owned()),
        ] {
            assert!(settings.contains(shown), "the document no longer says {shown}");
            settings = settings.replace(shown, &real);
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, settings).unwrap();
        let mut haproxy = Command::new("haproxy");
        haproxy.arg("-f").arg(&file).arg("-db").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = haproxy.spawn().unwrap();
        let balancer = Self { addr, _watch: KillTimer::over(&child), child, _folder: folder };
        until("haproxy listens", || std::net::TcpStream::connect(addr).is_ok()).await;
        balancer
    }
}

/// Returns the certificates that a client of both members must trust.
fn roots(members: [&Program; 2]) -> RootCertStore {
    let mut roots = members[0].roots.clone();
    roots.roots.extend(members[1].roots.roots.clone());
    roots
}

/// Starts two members before one upstream, and HAProxy before both; nothing where that is missing.
async fn two_members() -> Option<(RawUpstream, [Program; 2], Balancer)> {
    if !are_here(&["haproxy"]) {
        return None;
    }
    let upstream = RawUpstream::ok().await;
    let members = [Program::before(upstream.addr, BELIEVES).await, Program::before(upstream.addr, BELIEVES).await];
    let balancer = Balancer::before([&members[0], &members[1]]).await;
    Some((upstream, members, balancer))
}

/// Asks on an open connection, and tells whether the upstream's `ok` comes.
async fn is_served(tls: &mut TlsStream<TcpStream>) -> bool {
    let mut answer = Vec::new();
    let asked = tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    while asked.is_ok() && !answer.ends_with(b"\r\n\r\nok") {
        if !matches!(tls.read_buf(&mut answer).await, Ok(1..)) {
            return false;
        }
    }
    asked.is_ok()
}

/// Opens a connection through the balancer to whichever member it chooses.
async fn connect(balancer: &Balancer, members: [&Program; 2]) -> TlsStream<TcpStream> {
    let config = ClientConfig::builder_with_provider(callgate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(members))
        .with_no_client_auth();
    let name = ServerName::try_from("app.test").unwrap();
    let stream = TcpStream::connect(balancer.addr).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

#[tokio::test]
async fn a_member_that_dies_costs_only_its_own_connections() {
    let Some((_upstream, [one, two], balancer)) = two_members().await else { return };
    let mut open = Vec::new();
    for _ in 0..8 {
        let mut tls = connect(&balancer, [&one, &two]).await;
        assert!(is_served(&mut tls).await);
        open.push(tls);
    }
    two.running.signal("-KILL");
    let mut served = 0;
    for tls in &mut open {
        served += usize::from(is_served(tls).await);
    }
    // HAProxy gave each member half of them.
    assert_eq!(served, 4);
    for _ in 0..8 {
        assert!(is_served(&mut connect(&balancer, [&one, &two]).await).await, "a new connection is lost");
    }
}

#[tokio::test]
async fn members_are_upgraded_and_drained_in_turn_without_a_lost_request() {
    let Some((_upstream, [mut one, two], balancer)) = two_members().await else { return };
    let load = Load::start(balancer.addr, roots([&one, &two]));
    load.more(100).await;
    one.running.signal("-USR2");
    one.running.complaint("handed over").await;
    load.more(300).await;
    two.running.terminate();
    let (code, told) = two.running.end().await;
    assert!(matches!(code, Some(0 | 3)), "{code:?}: {told}");
    load.more(300).await;
    load.stop().await;
}
