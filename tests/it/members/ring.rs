//! The keys that members share: what one member gives to a browser, the others know.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::kit::client_certificates::{BOTH, CertificateFiles, HOSTS, LOBBY};
use crate::kit::commands::{callgate, run, text};
use crate::kit::engine::Engine;
use crate::kit::gate::{Gate, secret};
use crate::kit::oidc::provider::Provider;
use crate::kit::oidc::{OidcStage, RULES, method};
use crate::kit::program::{Program, Successor};
use crate::kit::stage::{Plan, Stage};
use crate::kit::upstream::RawUpstream;
use crate::kit::visitor::Visitor;
use crate::login::mtls::{ask, careless};
use crate::members::quotas::reached;

/// Two keys, as lines of a ring.
const KEYS: [&str; 2] =
    ["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="];

/// The rings of a rotation, by the places of their keys.
const STEPS: [&[usize]; 4] = [&[0], &[0, 1], &[1, 0], &[1]];

/// The rings of members, each in a file of its own.
struct Rings(TempDir);

impl Rings {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn file(&self, member: &str) -> PathBuf {
        self.0.path().join(member)
    }

    /// Writes a member's ring.
    fn set(&self, member: &str, keys: &[usize]) {
        let lines: String = keys.iter().map(|&key| format!("{}\n", KEYS[key])).collect();
        secret(&self.0, member, &lines);
    }

    /// Returns `[shared]` of a member, for an engine that is never there.
    fn shared(&self, member: &str) -> String {
        shared(&self.file(member))
    }
}

fn shared(ring: &Path) -> String {
    let none = ring.with_file_name("no-engine.sock");
    format!("\n[shared]\nurl = \"unix:{}\"\nkeys = \"{}\"\n", none.display(), ring.display())
}

// === TLS sessions ===

/// A client of several programs, which offers the sessions of one to the others.
struct Client(Vec<ClientConfig>);

impl Client {
    /// Speaks TLS 1.2 by one configuration, and TLS 1.3 by the other.
    fn of(members: &[&Program]) -> Self {
        let config = |version: &'static SupportedProtocolVersion| {
            let mut roots = rustls::RootCertStore::empty();
            members.iter().for_each(|member| roots.extend(member.roots.roots.iter().cloned()));
            let builder = ClientConfig::builder_with_provider(callgate::tls::provider());
            builder.with_protocol_versions(&[version]).unwrap().with_root_certificates(roots).with_no_client_auth()
        };
        Self([&rustls::version::TLS12, &rustls::version::TLS13].map(config).into())
    }

    /// Asks a member by each version, and checks the kind of the handshake.
    #[track_caller]
    fn check(&self, member: &Program, expected: HandshakeKind, place: &str) -> impl Future<Output = ()> {
        let (configs, addr, place) = (self.0.clone(), member.addr, place.to_owned());
        async move {
            for (config, version) in configs.into_iter().zip(["1.2", "1.3"]) {
                let stream = TcpStream::connect(addr).await.unwrap();
                let name = ServerName::try_from("app.test").unwrap();
                let mut tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
                tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await.unwrap();
                // To the end, behind the new tickets.
                tls.read_to_end(&mut Vec::new()).await.unwrap();
                assert_eq!(tls.get_ref().1.handshake_kind(), Some(expected), "{place}, TLS {version}");
            }
        }
    }
}

async fn member(upstream: &RawUpstream, ring: &Path) -> Program {
    Program::before(upstream.addr, &shared(ring)).await
}

#[tokio::test]
async fn tls_sessions_are_resumed_at_every_member_and_after_a_hand_over() {
    let (upstream, rings) = (RawUpstream::ok().await, Rings::new());
    rings.set("ring", &[0]);
    rings.set("other", &[1]);
    let one = member(&upstream, &rings.file("ring")).await;
    let mut two = member(&upstream, &rings.file("ring")).await;
    let stranger = member(&upstream, &rings.file("other")).await;
    let client = Client::of(&[&one, &two, &stranger]);
    client.check(&one, HandshakeKind::Full, "at first").await;
    client.check(&two, HandshakeKind::Resumed, "at another member").await;
    client.check(&one, HandshakeKind::Resumed, "back again").await;
    let _successor = Successor::of(&mut two).await;
    client.check(&two, HandshakeKind::Resumed, "after a hand-over").await;
    client.check(&stranger, HandshakeKind::Full, "under another ring").await;
    client.check(&one, HandshakeKind::Full, "a session of another ring").await;
}

/// Does a step of a rotation at a ring.
async fn rotate(ring: &Path, step: &[&str]) {
    let mut command = callgate(&["keys", "rotate"]);
    command.arg(ring).args(step);
    let output = run(command).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Reads the files of a member again.
async fn reload(member: &mut Program) {
    member.running.signal("-HUP");
    member.running.complaint("reloaded").await;
}

#[tokio::test]
async fn a_rotation_ends_no_tls_session() {
    let (upstream, rings) = (RawUpstream::ok().await, Rings::new());
    rotate(&rings.file("one"), &[]).await;
    fs::copy(rings.file("one"), rings.file("two")).unwrap();
    let mut one = member(&upstream, &rings.file("one")).await;
    let mut two = member(&upstream, &rings.file("two")).await;
    let client = Client::of(&[&one, &two]);
    let idle = Client::of(&[&one, &two]);
    client.check(&one, HandshakeKind::Full, "at first").await;
    idle.check(&one, HandshakeKind::Full, "at first").await;
    for step in [&[][..], &["--promote"], &["--drop", "--at-once"]] {
        rotate(&rings.file("one"), step).await;
        reload(&mut one).await;
        // The other member still has the ring of the step before.
        for member in [&two, &one, &two, &one] {
            client.check(member, HandshakeKind::Resumed, &format!("{step:?}, while members differ")).await;
        }
        fs::copy(rings.file("one"), rings.file("two")).unwrap();
        reload(&mut two).await;
        for member in [&two, &one] {
            client.check(member, HandshakeKind::Resumed, &format!("{step:?}, at all members")).await;
        }
    }
    idle.check(&two, HandshakeKind::Full, "the key of the first session is dropped").await;
}

#[tokio::test]
async fn cve_2025_23419_a_session_is_resumed_at_another_member_under_its_own_policy_alone() {
    let (files, upstream, rings) = (CertificateFiles::new(), RawUpstream::ok().await, Rings::new());
    rings.set("ring", &[0]);
    let start = async |hosts: &[(&str, &str)]| {
        let method = format!("[[auth]]\ntype = \"mtls\"\nclient_ca = \"{}/staff.pem\"\n", files.dir.path().display());
        let more = format!("{}\n{method}", rings.shared("ring"));
        Gate::start(&format!("{}\n[app]\nurl = \"http://{}\"\n{more}", files.tls(hosts), upstream.addr)).await
    };
    let hosts = [HOSTS[0], HOSTS[2], LOBBY[2]];
    let (one, two) = (start(&hosts).await, start(&hosts).await);
    // Hosts of the same names under other policies.
    let strict = start(&[("open.test", "staff.pem"), ("staff.test", "guests.pem"), ("lobby.test", "staff.pem")]).await;
    let ann = files.staff.client();
    for version in BOTH {
        for (name, certificate, at_strict) in [
            ("open.test", None, None),
            ("staff.test", Some(&ann), None),
            ("lobby.test", None, None),
            ("lobby.test", Some(&ann), Some(HandshakeKind::Full)),
        ] {
            let mut config = files.shows(certificate, &[version]);
            config.resumption = careless();
            let place = format!("{name}, {:?}", version.version);
            assert_eq!(ask(&one, &config, name, name).await, (200, Some(HandshakeKind::Full)), "{place}");
            assert_eq!(ask(&two, &config, name, name).await, (200, Some(HandshakeKind::Resumed)), "{place}");
            let (status, kind) = ask(&strict, &config, name, name).await;
            assert_eq!((status != 0).then_some(kind).flatten(), at_strict, "{place}");
        }
    }
}

// === Logins at a provider ===

/// Returns the cookie of a login at a member.
async fn cookie_at(stage: &mut Stage, scene: &mut OidcStage) -> String {
    std::mem::swap(&mut scene.stage, stage);
    let cookie = scene.cookie().await;
    std::mem::swap(&mut scene.stage, stage);
    cookie
}

#[track_caller]
fn check_logged_in<'s>(stage: &'s Stage, cookie: &'s str, status: u16) -> impl Future<Output = ()> + 's {
    let place = std::panic::Location::caller();
    async move {
        let answer = stage.gate.get("/auth/pbx").cookie(cookie).send().await;
        assert_eq!(answer.status.as_u16(), status, "{place}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_rotation_ends_no_login_at_any_member() {
    let Some(engine) = Engine::start().await else { return };
    let (rings, provider) = (Rings::new(), Provider::start().await);
    for member in ["one", "two", "stranger"] {
        rings.set(member, STEPS[0]);
    }
    rings.set("stranger", &[1]);
    let method = method("sso", &provider, "");
    let start = async |member: &str| {
        let ring = engine.folder.path().join("ring.keys").display().to_string();
        let shared = engine.shared("deadline = \"5s\"").replace(&ring, &rings.file(member).display().to_string());
        Plan { app: "", rules: RULES, more: &format!("{method}{shared}"), ..Plan::default() }.start().await
    };
    let (mut scene, mut other) = (OidcStage { stage: start("one").await, provider }, start("two").await);
    for member in [&scene.stage, &other] {
        reached(member).await;
    }
    // It has other keys, so it does not use the engine.
    let stranger = start("stranger").await;
    let first = scene.cookie().await;
    check_logged_in(&scene.stage, &first, 303).await;
    check_logged_in(&other, &first, 303).await;
    check_logged_in(&stranger, &first, 401).await;
    for step in &STEPS[1..] {
        let before = scene.cookie().await;
        rings.set("one", step);
        let text = scene.stage.gate.text.clone();
        scene.stage.gate.reload(&text).await.unwrap();
        // The other member still has the ring of the step before.
        let (here, there) = (scene.cookie().await, cookie_at(&mut other, &mut scene).await);
        check_logged_in(&other, &here, 303).await;
        check_logged_in(&scene.stage, &there, 303).await;
        // What the old key wrote is worth nothing once it is dropped, and good until then.
        check_logged_in(&scene.stage, &first, if step.contains(&0) { 303 } else { 401 }).await;
        check_logged_in(&scene.stage, &before, 303).await;
        rings.set("two", step);
        let text = other.gate.text.clone();
        other.gate.reload(&text).await.unwrap();
        for cookie in [&before, &here, &there] {
            check_logged_in(&other, cookie, 303).await;
        }
    }
}

#[tokio::test]
async fn a_login_that_begins_at_one_member_ends_at_another() {
    let Some(engine) = Engine::start().await else { return };
    let provider = Provider::start().await;
    let more = method("sso", &provider, "") + &engine.shared("deadline = \"5s\"");
    let start = async || Plan { app: "", rules: RULES, more: &more, ..Plan::default() }.start().await;
    let (mut scene, mut other) = (OidcStage { stage: start().await, provider }, start().await);
    reached(&scene.stage).await;
    reached(&other).await;
    let way = scene.begin("/auth/pbx").await;
    std::mem::swap(&mut scene.stage, &mut other);
    let (cookie, _) = scene.end(&way).await;
    check_logged_in(&other, &cookie, 303).await;
}

// === Automatic logins ===

#[tokio::test]
async fn an_automatic_login_that_begins_at_one_member_ends_at_another() {
    const PAGE: &str = "/usr_index.htm?view=calls";
    let Some(engine) = Engine::start().await else { return };
    let more = engine.shared("deadline = \"5s\"");
    let pbx = "handoff = \"link\"\nauto = \"https://app.test\"";
    let start = async || Plan { pbx, more: &more, ..Plan::default() }.start().await;
    let (one, other) = (start().await, start().await);
    reached(&one).await;
    reached(&other).await;
    let window = one.gate.get(PAGE).host("pbx.test").header("accept", "text/html");
    let window = window.header("sec-fetch-mode", "navigate").header("sec-fetch-dest", "document");
    let led = window.header("sec-fetch-site", "none").send().await.expect(303).header("location").to_owned();
    assert!(led.starts_with("https://app.test/auth/pbx?"), "{led}");
    let mut alice = Visitor::new(&other.gate).has("app.test", &other.app.log_in("alice"));
    let (end, _) = alice.open(&led).await;
    assert_eq!(end, format!("https://pbx.test{PAGE}"), "{:#?}", alice.asked);
}
