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
use crate::kit::program::{Program, Successor};
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
    /// Starts it as the documents say, but for where things are.
    async fn before(members: [&Program; 2]) -> Self {
        let text = fs::read_to_string("docs/scale.md").unwrap();
        let (_, block) = text.split_once("```haproxy\n").unwrap();
        let mut settings = block.split_once("```").unwrap().0.to_owned();
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let [one, two] = members.map(|member| member.addr.to_string());
        for (shown, real) in [("bind :443", format!("bind {addr}")), ("192.0.2.11:443", one), ("192.0.2.12:443", two)] {
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

/// Starts two members, each before an upstream, and HAProxy before both; nothing where that is missing.
async fn two_members(upstreams: [&RawUpstream; 2]) -> Option<([Program; 2], Balancer)> {
    if !are_here(&["haproxy"]) {
        return None;
    }
    let [one, two] = upstreams.map(|upstream| upstream.addr);
    let members = [Program::before(one, BELIEVES).await, Program::before(two, BELIEVES).await];
    let balancer = Balancer::before([&members[0], &members[1]]).await;
    Some((members, balancer))
}

/// Asks on an open connection, and returns the number of the upstream that answers; nothing if the connection has ended.
async fn served_by(tls: &mut TlsStream<TcpStream>) -> Option<char> {
    tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.ok()?;
    let mut answer = Vec::new();
    loop {
        let read = tls.read_buf(&mut answer).await.ok().filter(|read| *read > 0)?;
        let text = String::from_utf8_lossy(&answer);
        if read > 0
            && let Some((_, body)) = text.split_once("\r\n\r\n")
            && !body.is_empty()
        {
            return body.chars().next();
        }
    }
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
    let numbered = |number: u8| format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}");
    let upstreams = [RawUpstream::answering(numbered(1)).await, RawUpstream::answering(numbered(2)).await];
    let Some(([one, mut two], balancer)) = two_members([&upstreams[0], &upstreams[1]]).await else { return };
    let mut open = Vec::new();
    for _ in 0..8 {
        let mut tls = connect(&balancer, [&one, &two]).await;
        open.push((served_by(&mut tls).await.unwrap(), tls));
    }
    assert!(['1', '2'].iter().all(|member| open.iter().any(|(by, _)| by == member)), "one member gets all");
    two.running.signal("-KILL");
    // Until its end the system still takes connections for it.
    two.running.child.wait().unwrap();
    for (by, tls) in &mut open {
        assert_eq!(served_by(tls).await, (*by == '1').then_some('1'));
    }
    for _ in 0..8 {
        let mut tls = connect(&balancer, [&one, &two]).await;
        assert_eq!(served_by(&mut tls).await, Some('1'), "a new connection is lost");
    }
}

#[tokio::test]
async fn members_are_upgraded_and_drained_in_turn_without_a_lost_request() {
    let upstream = RawUpstream::ok().await;
    let Some(([mut one, two], balancer)) = two_members([&upstream, &upstream]).await else { return };
    let load = Load::start(balancer.addr, roots([&one, &two]));
    load.more(100).await;
    let _successor = Successor::of(&mut one).await;
    load.more(300).await;
    two.running.terminate();
    let (code, told) = two.running.end().await;
    assert!(matches!(code, Some(0 | 3)), "{code:?}: {told}");
    load.more(300).await;
    load.stop().await;
}
