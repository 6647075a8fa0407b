//! `[[passthrough]]`: connections for names of phones go on untouched, and no others do.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::kit::client::{read_head, status};
use crate::kit::client_certificates::Authority;
use crate::kit::gate::Gate;
use crate::kit::hello::{
    ILLEGAL_PARAMETER, alert, answer_to, extension, in_records, old_hello, old_hello_for, old_message, server_names,
};
use crate::kit::programs::{are_here, output};
use crate::kit::stage::{Plan, until};
use crate::kit::upstream::RawUpstream;

/// A name that the gate's certificate covers too, by its wildcard.
const PHONES: &str = "phones.app.test";

/// The table for these names.
fn passthrough(names: &str, to: impl std::fmt::Display, more: &str) -> String {
    format!("[[passthrough]]\nnames = [{names}]\nto = \"{to}\"\n{more}\n")
}

/// A gate that passes the phones' connections on to a target, and everything else to an app.
async fn gate(app: &RawUpstream, to: impl std::fmt::Display) -> Gate {
    Gate::before_with(app.addr, "", &passthrough(&format!("\"{PHONES}\", \"*.old.app.test\""), to, "")).await
}

/// A target that keeps all that it hears on a connection, and answers with the same bytes backwards.
async fn reversing() -> RawUpstream {
    RawUpstream::serving(|mut line| async move {
        let mut heard = line.rest().await;
        line.keep(heard.clone());
        heard.reverse();
        line.say(heard).await;
    })
    .await
}

fn backwards(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().rev().copied().collect()
}

// === Untouched ===

#[tokio::test]
async fn every_byte_goes_on_and_back_untouched() {
    let (app, target) = (RawUpstream::ok().await, reversing().await);
    let gate = gate(&app, target.addr).await;
    let odd: Vec<u8> = (0..300_000_u32).map(|nth| (nth.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let said = [old_hello_for(PHONES), odd].concat();
    assert_eq!(answer_to(&gate, &said).await, backwards(&said));
    assert_eq!(target.bytes(), [said]);
    assert_eq!(app.seen().len(), 0);
}

#[tokio::test]
async fn a_hello_in_pieces_is_the_same_hello() {
    let (app, target) = (RawUpstream::ok().await, reversing().await);
    let gate = gate(&app, target.addr).await;
    let message = old_message(&[extension(0x2a2a, &[0]), server_names(&[PHONES]), extension(0xfe0d, &[1; 300])]);
    for (nth, length) in [1, 3, 50, 1 << 14].into_iter().enumerate() {
        let said = in_records(&message, length);
        let mut stream = TcpStream::connect(gate.addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in &said {
            stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, backwards(&said), "records of {length}");
        assert_eq!(target.bytes()[nth], said);
    }
}

#[tokio::test]
async fn names_have_one_meaning_however_they_are_spelled() {
    let (app, target) = (RawUpstream::ok().await, reversing().await);
    let gate = gate(&app, target.addr).await;
    for name in ["PHONES.App.test", "phones.app.test.", "x.old.app.test", "a.B.old.app.test"] {
        let said = old_hello_for(name);
        assert_eq!(answer_to(&gate, &said).await, backwards(&said), "{name}");
    }
    assert_eq!((target.seen().len(), app.seen().len()), (4, 0));
}

#[tokio::test]
async fn a_unix_socket_can_be_the_target() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pbx.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let app = RawUpstream::ok().await;
    let gate = gate(&app, format!("unix:{}", path.display())).await;
    let said = old_hello_for(PHONES);
    let served = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        stream.write_all(b"from the socket").await.unwrap();
        heard
    };
    let (heard, answer) = tokio::join!(served, answer_to(&gate, &said));
    assert_eq!((heard, answer.as_slice()), (said, &b"from the socket"[..]));
}

// === The target's own TLS ===

/// A target with a certificate of its own that asks each client for one, and says the client's first bytes back.
async fn strict_target(servers: &Authority, clients: &Authority) -> SocketAddr {
    let (chain, key) = servers.sign(&[PHONES], ExtendedKeyUsagePurpose::ServerAuth, 2099);
    let roots = Arc::new(roots(clients));
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, callgate::tls::provider()).build().unwrap();
    let config = ServerConfig::builder_with_provider(callgate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate(&chain)], private_key(&key))
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(config.clone()));
            tokio::spawn(async move {
                let Ok(mut tls) = acceptor.accept(stream).await else { return };
                let mut said = [0; 5];
                tls.read_exact(&mut said).await.unwrap();
                tls.write_all(&said).await.unwrap();
                tls.shutdown().await.unwrap();
            });
        }
    });
    addr
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn private_key(pem: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn roots(authority: &Authority) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(authority.pem())).unwrap();
    roots
}

#[tokio::test]
async fn phones_see_the_targets_certificate_and_show_their_own() {
    let (servers, clients, app) = (Authority::new("pbx"), Authority::new("phones"), RawUpstream::ok().await);
    let gate = gate(&app, strict_target(&servers, &clients).await).await;
    let builder = || {
        ClientConfig::builder_with_provider(callgate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots(&servers))
    };
    let (chain, key) = clients.client();
    let phone = builder().with_client_auth_cert(vec![certificate(&chain)], private_key(&key)).unwrap();
    assert_eq!(echo(&gate, phone).await.unwrap(), "hello");
    let stranger = builder().with_no_client_auth();
    assert!(echo(&gate, stranger).await.is_err(), "the target has let a client in without a certificate");
    assert_eq!(app.seen().len(), 0);
}

/// Says `hello` under the name of the phones, and returns the answer.
async fn echo(gate: &Gate, config: ClientConfig) -> std::io::Result<String> {
    let stream = TcpStream::connect(gate.addr).await?;
    let name = ServerName::try_from(PHONES).unwrap();
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    tls.write_all(b"hello").await?;
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_phone_that_knows_only_tls_1_0_meets_a_pbx_that_speaks_it() {
    if !are_here(&["openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut make = std::process::Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=phones", "-days", "2"]);
    assert!(output(make.args(["-out", "chain.pem", "-keyout", "key.pem"]).current_dir(dir.path())).status.success());
    let socket = dir.path().join("pbx.sock");
    let _server = old_server(dir.path(), &socket);
    until("the server listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
    let app = RawUpstream::ok().await;
    let gate = gate(&app, format!("unix:{}", socket.display())).await;
    let said = old_client(gate.addr, PHONES).await;
    assert!(said.contains("New, TLSv1.0, Cipher is ") && !said.contains("alert"), "{said}");
    // The gate itself speaks no such version.
    let said = old_client(gate.addr, "app.test").await;
    assert!(said.contains("alert handshake failure"), "{said}");
    let reason = "error=peer is incompatible: SignatureAlgorithmsExtensionRequired";
    until("the gate tells why", || gate.events().contains(reason)).await;
}

/// OpenSSL as a server of TLS 1.0 alone, until this is dropped.
fn old_server(dir: &Path, socket: &Path) -> impl Drop {
    struct Ends(std::process::Child);
    impl Drop for Ends {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }
    let command = ["s_server", "-quiet", "-tls1", "-cipher", "ALL@SECLEVEL=0", "-cert", "chain.pem", "-key", "key.pem"];
    let mut server = std::process::Command::new("openssl");
    server.args(command).arg("-unix").arg(socket).current_dir(dir);
    server.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    Ends(server.spawn().unwrap())
}

/// What OpenSSL says as a client of TLS 1.0 alone.
async fn old_client(addr: SocketAddr, name: &str) -> String {
    let (connect, name) = (addr.to_string(), name.to_owned());
    let client = move || {
        let mut client = std::process::Command::new("openssl");
        client.args(["s_client", "-tls1", "-cipher", "ALL@SECLEVEL=0", "-connect", &connect, "-servername", &name]);
        output(client.stdin(std::process::Stdio::null()))
    };
    let output = tokio::task::spawn_blocking(client).await.unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

// === No crossing ===

#[tokio::test]
async fn only_the_names_of_the_table_reach_the_target() {
    let (app, target) = (RawUpstream::ok().await, reversing().await);
    let gate = gate(&app, target.addr).await;
    for name in ["app.test", "app.test.", "phones.app.test.evil.test", "xphones.app.test", "old.app.test", "pbx.test"] {
        let answer = answer_to(&gate, &old_hello_for(name)).await;
        assert!(alert(&answer).is_some(), "{name}: {answer:?}");
    }
    let nul = old_hello(&[server_names(&["phones.app.test\0"])]);
    let odd = old_hello(&[server_names(&["\u{ff}.old.app.test"])]);
    let (bare, other) = (old_hello(&[]), old_hello(&[extension(0, &[0, 3, 1, 0, 0])]));
    let (ssl2, http) =
        (&b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80"[..], &b"GET / HTTP/1.1\r\n\r\n"[..]);
    for said in [&nul[..], &odd, &bare, &other, ssl2, http, b"", b"\x16\x03\x01\x02\0\x01", &[0; 70_000]] {
        let answer = answer_to(&gate, said).await;
        assert!(answer.is_empty() || alert(&answer).is_some(), "{said:?}: {answer:?}");
    }
    gate.get("/").send().await.expect(200);
    gate.get("/").h2().send().await.expect(200);
    assert_eq!((target.seen().len(), app.seen().len()), (0, 2));
}

#[tokio::test]
async fn a_request_over_tls_is_served_although_its_hello_came_in_pieces() {
    let (app, target) = (RawUpstream::ok().await, reversing().await);
    let gate = gate(&app, target.addr).await;
    // Behind a proxy that passes single bytes on, of the client's first 2000.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, addr) = (listener.local_addr().unwrap(), gate.addr);
    let slow = async move {
        let (mut near, mut far) = (listener.accept().await.unwrap().0, TcpStream::connect(addr).await.unwrap());
        far.set_nodelay(true).unwrap();
        for _ in 0..1400 {
            let byte = near.read_u8().await.unwrap();
            far.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        tokio::io::copy_bidirectional(&mut near, &mut far).await
    };
    let client = async {
        let stream = TcpStream::connect(at).await.unwrap();
        let mut tls = gate.tls(stream, "app.test", "http/1.1").await.unwrap();
        tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        tls.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let (_, answer) = tokio::join!(slow, client);
    assert_eq!(status(&answer), 200, "{answer}");
}

/// A browser may send requests for each name of a certificate over one connection, and this certificate has `*.app.test`.
#[tokio::test]
async fn a_request_for_a_phones_host_reaches_neither_the_app_nor_the_pbx() {
    let target = reversing().await;
    let more = passthrough(&format!("\"{PHONES}\", \"*.old.app.test\""), target.addr, "");
    let stage = Plan { more: &more, ..Plan::default() }.start().await;
    let gate = &stage.gate;
    let before = stage.app.requests().len();
    for host in [PHONES, "PHONES.app.test", "phones.app.test.", "phones.app.test:443", "x.old.app.test"] {
        for path in ["/", "/welcome.htm", "/auth/pbx", "/auth/ott", "/auth/callgate/ticket"] {
            let ask = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            assert_eq!(status(&gate.exchange(ask.as_bytes()).await), 421, "{host}{path}");
        }
        let absolute = format!("GET https://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(status(&gate.exchange(absolute.as_bytes()).await), 421, "{host}");
        let upgrade = format!(
            "GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        let mut tls = gate.raw("pbx.test", "http/1.1").await;
        tls.write_all(upgrade.as_bytes()).await.unwrap();
        assert_eq!(status(&read_head(&mut tls).await), 421, "{host}");
    }
    let (mut send, connection) = h2::client::handshake(gate.raw("app.test", "h2").await).await.unwrap();
    tokio::spawn(connection);
    for (authority, expected) in [(PHONES, 421), ("x.old.app.test", 421), ("app.test", 404)] {
        let request = http::Request::get(format!("https://{authority}/nowhere")).body(()).unwrap();
        let response = send.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(response.status().as_u16(), expected, "{authority}");
    }
    assert_eq!((stage.app.requests().len() - before, target.seen().len()), (1, 0));
}

#[tokio::test]
async fn no_login_is_explained_for_a_phones_host() {
    let target = reversing().await;
    let stage = Plan { more: &passthrough(&format!("\"{PHONES}\""), target.addr, ""), ..Plan::default() }.start().await;
    let explained = |host: &str| {
        let question = format!("{{\"act\":\"pbx\",\"host\":\"{host}\",\"headers\":[]}}");
        let head = "POST /explain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ";
        stage.gate.tell(&format!("{head}{}\r\n\r\n{question}", question.len()))
    };
    assert!(explained("PHONES.app.test.").contains("connections for this host are passed on"), "{}", explained(PHONES));
    assert!(explained("app.test").starts_with("HTTP/1.1 200 "), "{}", explained("app.test"));
}

#[tokio::test]
async fn no_host_inside_a_passed_on_connection_matters() {
    let (app, target) = (RawUpstream::ok().await, reversing().await);
    let gate = gate(&app, target.addr).await;
    let said =
        [&old_hello_for(PHONES)[..], b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n", &old_hello_for("app.test")].concat();
    assert_eq!(answer_to(&gate, &said).await, backwards(&said));
    assert_eq!((target.bytes(), app.seen().len()), (vec![said], 0));
}

#[tokio::test]
async fn a_hello_with_two_names_is_refused() {
    let (app, target) = (RawUpstream::ok().await, reversing().await);
    let gate = gate(&app, target.addr).await;
    for extensions in [
        vec![server_names(&[PHONES, "app.test"])],
        vec![server_names(&["app.test", PHONES])],
        vec![server_names(&[PHONES]), server_names(&["app.test"])],
        vec![server_names(&["app.test"]), extension(16, b"\0\x03\x02h2"), server_names(&[PHONES])],
    ] {
        let answer = answer_to(&gate, &old_hello(&extensions)).await;
        assert_eq!(alert(&answer), Some(ILLEGAL_PARAMETER), "{extensions:?}");
    }
    assert_eq!((target.seen().len(), app.seen().len()), (0, 0));
}

// === The client's address ===

#[tokio::test]
async fn the_target_learns_the_clients_address_if_it_wants_to() {
    for (version, from) in [("v1", "127.0.0.7"), ("v2", "127.0.0.8")] {
        let (app, target) = (RawUpstream::ok().await, reversing().await);
        let table = passthrough(&format!("\"{PHONES}\""), target.addr, &format!("proxy_protocol = \"{version}\""));
        let gate = Gate::before_with(app.addr, "", &table).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from.parse::<std::net::IpAddr>().unwrap(), 0).into()).unwrap();
        let mut stream = socket.connect(gate.addr).await.unwrap();
        let (near, far) = (stream.local_addr().unwrap(), gate.addr);
        let said = old_hello_for(PHONES);
        stream.write_all(&said).await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        let header = match version {
            "v1" => format!("PROXY TCP4 {from} 127.0.0.1 {} {}\r\n", near.port(), far.port()).into_bytes(),
            _ => {
                let ports = [near.port().to_be_bytes(), far.port().to_be_bytes()].concat();
                [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x08\x7f\0\0\x01"[..], &ports].concat()
            }
        };
        assert_eq!(target.bytes(), [[&header[..], &said].concat()], "{version}");
        // The header is the gate's own, and does not count as the client's.
        gate.line(&[" passthrough ", &format!(" received={} ", said.len())]).await;
    }
}

#[tokio::test]
async fn the_address_that_a_balancer_names_is_passed_on() {
    let (app, target) = (RawUpstream::ok().await, reversing().await);
    let table = passthrough(&format!("\"{PHONES}\""), target.addr, "proxy_protocol = \"v1\"");
    let more = format!("{table}[server]\naccept_proxy_protocol_from = [\"127.0.0.1\"]");
    let gate = Gate::before_with(app.addr, "", &more).await;
    let hello = old_hello_for(PHONES);
    for (nth, line) in
        ["PROXY TCP4 192.0.2.1 192.0.2.2 5060 443\r\n", "PROXY TCP6 2001:db8::1 2001:db8::2 5061 443\r\n"]
            .into_iter()
            .enumerate()
    {
        answer_to(&gate, &[line.as_bytes(), &hello].concat()).await;
        assert_eq!(target.bytes()[nth], [line.as_bytes(), &hello].concat());
    }
    gate.line(&[" passthrough ", " client=192.0.2.1 "]).await;
    gate.line(&[" passthrough ", " client=2001:db8::1 "]).await;
}

// === Reload ===

/// A browser that is refused with 421 on a connection that it made for this very host asks again over it.
#[tokio::test]
async fn a_connection_for_a_host_that_a_reload_passes_on_closes_with_its_next_answer() {
    let (app, target) = (RawUpstream::ok().await, reversing().await);
    let before = format!("workers = 1\n[app]\nurl = \"http://{}\"\n", app.addr);
    let mut gate = Gate::start(&before).await;
    let (mut phones, mut other) = (gate.raw(PHONES, "http/1.1").await, gate.raw("app.test", "http/1.1").await);
    let (mut streams, connection) = h2::client::handshake(gate.raw(PHONES, "h2").await).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = format!("GET / HTTP/1.1\r\nHost: {PHONES}\r\n\r\n");
    for tls in [&mut phones, &mut other] {
        tls.write_all(ask.as_bytes()).await.unwrap();
        assert_eq!(status(&read_head(tls).await), 200);
        tls.read_exact(&mut [0; 2]).await.unwrap();
    }
    gate.reload(&format!("{before}{}", passthrough(&format!("\"{PHONES}\""), target.addr, ""))).await.unwrap();
    phones.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    phones.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 421);
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    let request = http::Request::get(format!("https://{PHONES}/")).body(()).unwrap();
    let response = streams.send_request(request, true).unwrap().0.await.unwrap();
    assert_eq!(response.status(), 421);
    drop(response);
    // It ends. The client may have been writing to it.
    drop(connection.await.unwrap());
    // One that was made for another host serves that one still.
    for (host, expected) in [(PHONES, 421), ("app.test", 200)] {
        other.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
        let head = read_head(&mut other).await;
        assert_eq!(status(&head), expected);
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        other.read_exact(&mut vec![0; length.parse().unwrap()]).await.unwrap();
    }
    assert_eq!((app.seen().len(), target.seen().len()), (3, 0));
}

#[tokio::test]
async fn a_reload_changes_where_new_connections_go() {
    let (app, first, second) = (RawUpstream::ok().await, reversing().await, reversing().await);
    let table = |to: SocketAddr| {
        format!("workers = 1\n[app]\nurl = \"http://{}\"\n{}", app.addr, passthrough(&format!("\"{PHONES}\""), to, ""))
    };
    let mut gate = Gate::start(&table(first.addr)).await;
    let said = old_hello_for(PHONES);
    // It goes on while the table changes.
    let mut open = TcpStream::connect(gate.addr).await.unwrap();
    open.write_all(&said).await.unwrap();
    until("the connection is open", || gate.told("/metrics").contains("callgate_tunnels_open 1")).await;
    gate.reload(&table(second.addr)).await.unwrap();
    assert_eq!(answer_to(&gate, &said).await, backwards(&said));
    assert_eq!((first.seen().len(), second.seen().len()), (0, 1));
    gate.reload(&format!("workers = 1\n[app]\nurl = \"http://{}\"\n", app.addr)).await.unwrap();
    assert!(alert(&answer_to(&gate, &said).await).is_some());
    gate.get("/").host(PHONES).send().await.expect(200);
    open.shutdown().await.unwrap();
    let mut answer = Vec::new();
    open.read_to_end(&mut answer).await.unwrap();
    assert_eq!((answer, first.bytes()), (backwards(&said), vec![said]));
}
