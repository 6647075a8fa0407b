//! A reload that changes what a host asks of clients in the handshake ends the connections that were made before it.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::kit::app::{App, AppOptions};
use crate::kit::client::{read_head, status};
use crate::kit::client_certificates::{Authority, BOTH, BY_MAIL, CertificateFiles};
use crate::kit::commands::{Running, callgate};
use crate::kit::gate::secret;
use crate::kit::program::{Program, check_echo, echo, tunnel};
use crate::kit::stage::until;
use crate::kit::vodia::{Options, Tenant, Vodia};
use crate::telephony::socket::{PATH, ends, stands};

/// Longer than anything here takes, and shorter than an idle connection stays open.
const PATIENCE: Duration = Duration::from_secs(20);
const LOGIN: &str = "/auth/pbx";
const VERSIONS: [&str; 2] = ["http/1.1", "h2"];

/// `callgate run` before the stand-ins, in the folder of the certificates.
struct Door {
    files: CertificateFiles,
    running: Running,
    addr: SocketAddr,
    pbx: Vodia,
    app: App,
    rules: &'static str,
}

impl Door {
    async fn open(hosts: &[(&str, &str)], rules: &'static str) -> Self {
        let files = CertificateFiles::new();
        let tenants = vec![Tenant::with_alice_and_bob("acme.test")];
        let pbx = Vodia::start(Options { tenants, ..Options::default() }).await;
        let app = App::start(AppOptions::default()).await;
        secret(&files.dir, "pbx-admin", &Options::default().admin_password);
        secret(&files.dir, "proxy.toml", &configuration(&files, hosts, rules, &app, &pbx));
        let mut command = callgate(&["run", "--config"]);
        command.arg(files.dir.path().join("proxy.toml"));
        let mut running = Running::start(command);
        let line = running.complaint("listening").await;
        let addr = line.split("address=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        Self { files, running, addr, pbx, app, rules }
    }

    /// Writes another configuration and reloads.
    async fn reload(&mut self, hosts: &[(&str, &str)]) {
        let text = configuration(&self.files, hosts, self.rules, &self.app, &self.pbx);
        fs::write(self.files.dir.path().join("proxy.toml"), text).unwrap();
        self.hang_up().await;
    }

    /// Reloads what has changed.
    async fn hang_up(&mut self) {
        self.running.signal("-HUP");
        self.running.complaint("reloaded").await;
    }

    /// Renews the certificates of the hosts.
    async fn renew(&mut self, hosts: &[(&str, &str)]) {
        for (name, _) in hosts {
            let (chain, key) = self.files.servers.sign(&[name], ExtendedKeyUsagePurpose::ServerAuth, 2099);
            secret(&self.files.dir, name, &chain);
            secret(&self.files.dir, &format!("{name}.key"), &key);
        }
        self.hang_up().await;
    }

    /// A client that shows the certificate of extension 40, of the first authority or the second.
    fn ann(&self) -> ClientConfig {
        self.files.shows(Some(&self.files.staff.client_named(&["email:40@acme.test"])), &BOTH)
    }

    fn guest(&self) -> ClientConfig {
        self.files.shows(Some(&self.files.guests.client_named(&["email:40@acme.test"])), &BOTH)
    }

    fn none(&self) -> ClientConfig {
        self.files.shows(None, &BOTH)
    }

    async fn tls(&self, config: &ClientConfig, name: &str, version: &str) -> TlsStream<TcpStream> {
        let mut config = config.clone();
        config.alpn_protocols = vec![version.as_bytes().to_vec()];
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    async fn connect(&self, config: &ClientConfig, name: &str, version: &str) -> Client {
        let tls = self.tls(config, name, version).await;
        if version == "h2" { Client::by_h2(tls).await } else { Client::H1(Box::new(tls)) }
    }

    /// Asks over a new connection and returns the status of the answer; 0 without one. With TLS 1.3 a client learns only
    /// from the first read whether its certificate will do.
    async fn ask_anew(&self, config: &ClientConfig, name: &str) -> u16 {
        let mut tls = self.tls(config, name, "http/1.1").await;
        let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        let mut answer = Vec::new();
        match (tls.write_all(request.as_bytes()).await, tls.read_to_end(&mut answer).await) {
            (Ok(()), Ok(_)) => status(&String::from_utf8_lossy(&answer)),
            _ => 0,
        }
    }
}

fn configuration(files: &CertificateFiles, hosts: &[(&str, &str)], rules: &str, app: &App, pbx: &Vodia) -> String {
    format!(
        "listen = \"127.0.0.1:0\"\n{}\nworkers = 2\n[app]\nurl = \"http://{}\"\nwhoami = \"/api/me\"\n\
         [pbx]\nurl = \"http://{}\"\nhosts = [\"pbx.test\"]\nadmin = {{ user = \"sso\", password = {{ file = \"pbx-admin\" }} }}\n\
         {rules}\n[log]\naccess = \"stdout\"\n",
        files.tls(hosts),
        app.addr,
        pbx.addr
    )
}

/// One connection of a client.
enum Client {
    H1(Box<TlsStream<TcpStream>>),
    H2(SendRequest<Empty<Bytes>>, JoinHandle<hyper::Result<()>>),
}

impl Client {
    async fn by_h2(tls: TlsStream<TcpStream>) -> Self {
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
        Self::H2(sender, tokio::spawn(connection))
    }

    /// Asks, reads the whole answer, and returns its status.
    async fn ask(&mut self, host: &str, path: &str) -> u16 {
        match self {
            Self::H1(tls) => {
                tls.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
                let head = read_head(tls).await;
                let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
                let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
                tls.read_exact(&mut body).await.unwrap();
                assert_eq!(head.contains("connection: close"), status(&head) == 421, "{head}");
                status(&head)
            }
            Self::H2(sender, _) => {
                let request = http::Request::get(format!("https://{host}{path}")).body(Empty::new()).unwrap();
                let answer = sender.send_request(request).await.unwrap();
                let status = answer.status().as_u16();
                answer.into_body().collect().await.unwrap();
                status
            }
        }
    }

    /// Is refused, and then the connection ends, although the client would keep it.
    async fn expect_turned_away(mut self, host: &str, path: &str) {
        assert_eq!(self.ask(host, path).await, 421);
        match self {
            Self::H1(mut tls) => {
                assert_eq!(timeout(PATIENCE, tls.read_to_end(&mut Vec::new())).await.unwrap().unwrap(), 0);
            }
            Self::H2(_sender, connection) => timeout(PATIENCE, connection).await.unwrap().unwrap().unwrap(),
        }
    }
}

// === What changes ===

#[tokio::test]
async fn a_connection_without_a_certificate_ends_when_one_is_asked_for() {
    let mut door = Door::open(&[("open.test", "")], "").await;
    let none = door.none();
    let mut clients = Vec::new();
    for version in VERSIONS {
        let mut client = door.connect(&none, "open.test", version).await;
        assert_eq!(client.ask("open.test", "/").await, 200);
        clients.push(client);
    }
    let asked = door.app.requests().len();
    door.reload(&[("open.test", "staff.pem")]).await;
    for client in clients {
        client.expect_turned_away("open.test", "/").await;
    }
    assert_eq!(door.app.requests().len(), asked);
    assert_eq!(door.ask_anew(&none, "open.test").await, 0);
    assert_eq!(door.ask_anew(&door.ann(), "open.test").await, 200);
    door.running.story("status=421 ").await.iter().for_each(|line| assert!(!line.contains("reason=misdirected")));
}

#[tokio::test]
async fn a_certificate_of_an_authority_that_is_replaced_opens_nothing_more() {
    let mut door = Door::open(&[("staff.test", "staff.pem")], BY_MAIL).await;
    let (ann, guest) = (door.ann(), door.guest());
    let mut clients = Vec::new();
    for version in VERSIONS {
        for path in ["/", LOGIN] {
            let mut client = door.connect(&ann, "staff.test", version).await;
            assert_eq!(client.ask("staff.test", path).await, if path == LOGIN { 303 } else { 200 });
            clients.push((client, path));
        }
    }
    let (asked, minted) = (door.app.requests().len(), door.pbx.mints().len());
    // The same file with another authority.
    fs::copy(door.files.dir.path().join("guests.pem"), door.files.dir.path().join("staff.pem")).unwrap();
    door.hang_up().await;
    for (client, path) in clients {
        client.expect_turned_away("staff.test", path).await;
    }
    assert_eq!((door.app.requests().len(), door.pbx.mints().len()), (asked, minted));
    assert_eq!(door.ask_anew(&ann, "staff.test").await, 0);
    for version in VERSIONS {
        let mut client = door.connect(&guest, "staff.test", version).await;
        assert_eq!(client.ask("staff.test", LOGIN).await, 303);
        assert_eq!(client.ask("staff.test", "/").await, 200);
    }
}

#[tokio::test]
async fn a_certificate_that_becomes_optional_or_required_is_asked_for_anew() {
    const REQUIRED: [(&str, &str); 1] = [("lobby.test", "staff.pem")];
    const OPTIONAL: [(&str, &str); 1] = [("lobby.test", "staff.pem optional")];
    let mut door = Door::open(&REQUIRED, BY_MAIL).await;
    let (ann, none) = (door.ann(), door.none());
    for (next, shown, of_none) in [(&OPTIONAL, vec![&ann], 200), (&REQUIRED, vec![&ann, &none], 0)] {
        let mut clients = Vec::new();
        for version in VERSIONS {
            for config in &shown {
                let mut client = door.connect(config, "lobby.test", version).await;
                assert_eq!(client.ask("lobby.test", "/").await, 200);
                clients.push(client);
            }
        }
        door.reload(next).await;
        for client in clients {
            client.expect_turned_away("lobby.test", "/").await;
        }
        assert_eq!(door.ask_anew(&none, "lobby.test").await, of_none);
        assert_eq!(door.ask_anew(&ann, "lobby.test").await, 200);
    }
}

#[tokio::test]
async fn connections_that_were_made_without_asking_end_where_a_certificate_was_asked_for_too() {
    let mut door = Door::open(&[("staff.test", "staff.pem")], "").await;
    let ann = door.ann();
    let mut clients = Vec::new();
    for version in VERSIONS {
        let mut client = door.connect(&ann, "staff.test", version).await;
        assert_eq!(client.ask("staff.test", "/").await, 200);
        clients.push(client);
    }
    door.reload(&[("staff.test", "")]).await;
    for client in clients {
        client.expect_turned_away("staff.test", "/").await;
    }
    assert_eq!(door.ask_anew(&door.none(), "staff.test").await, 200);
}

// === What goes on ===

#[tokio::test]
async fn connections_go_on_where_their_host_asks_the_same_of_clients() {
    let mut hosts = vec![("open.test", ""), ("staff.test", "staff.pem"), ("lobby.test", "staff.pem optional")];
    let mut door = Door::open(&hosts, BY_MAIL).await;
    let (ann, none) = (door.ann(), door.none());
    let mut clients = Vec::new();
    for version in VERSIONS {
        for (name, config) in [("open.test", &none), ("staff.test", &ann), ("lobby.test", &none), ("lobby.test", &ann)]
        {
            clients.push((door.connect(config, name, version).await, name));
        }
    }
    let shown = |tls: &TlsStream<TcpStream>| tls.get_ref().1.peer_certificates().unwrap()[0].clone();
    let before = shown(&door.tls(&ann, "staff.test", "h2").await);
    door.renew(&hosts).await;
    assert_ne!(shown(&door.tls(&ann, "staff.test", "h2").await), before);
    for (client, name) in &mut clients {
        assert_eq!(client.ask(name, "/").await, 200, "{name}");
    }
    // Another order of the hosts, and one more.
    hosts.reverse();
    hosts.push(("also.test", ""));
    door.reload(&hosts).await;
    for (client, name) in &mut clients {
        assert_eq!(client.ask(name, "/").await, 200, "{name}");
    }
    // A change at one host.
    hosts.retain(|(name, _)| *name != "lobby.test");
    hosts.push(("lobby.test", "staff.pem"));
    door.reload(&hosts).await;
    for (mut client, name) in clients {
        match name {
            "lobby.test" => client.expect_turned_away(name, "/").await,
            _ => assert_eq!(client.ask(name, "/").await, 200, "{name}"),
        }
    }
}

#[tokio::test]
async fn a_host_that_was_never_of_the_connection_does_not_end_it() {
    let mut hosts = vec![("open.test", ""), ("staff.test", "staff.pem"), ("crew.test", "staff.pem")];
    let mut door = Door::open(&hosts, "").await;
    let mut client = door.connect(&door.ann(), "staff.test", "h2").await;
    hosts[0].1 = "guests.pem";
    door.reload(&hosts).await;
    for (host, expected) in [("open.test", 421), ("staff.test", 200), ("crew.test", 200), ("open.test", 421)] {
        assert_eq!(client.ask(host, "/").await, expected, "{host}");
    }
    // One that it covered, and does not any more.
    hosts[2].1 = "guests.pem";
    door.reload(&hosts).await;
    assert_eq!(client.ask("staff.test", "/").await, 200);
    client.expect_turned_away("crew.test", "/").await;
}

#[tokio::test]
async fn an_exchange_that_began_before_the_reload_is_finished() {
    let mut door = Door::open(&[("open.test", "")], "").await;
    let tls = door.tls(&door.none(), "open.test", "h2").await;
    let (mut sender, connection) = h2::client::handshake(tls).await.unwrap();
    let connection = tokio::spawn(connection);
    let asked = door.app.requests().len();
    let ask =
        |method: &str| http::Request::builder().method(method).uri("https://open.test/status/200").body(()).unwrap();
    let (begun, mut body) = sender.send_request(ask("POST"), false).unwrap();
    body.send_data(Bytes::from_static(b"one"), false).unwrap();
    // Answered by the same worker, so the one before has met the old configuration.
    assert_eq!(sender.send_request(ask("GET"), true).unwrap().0.await.unwrap().status(), 200);
    door.reload(&[("open.test", "staff.pem")]).await;
    assert_eq!(sender.send_request(ask("GET"), true).unwrap().0.await.unwrap().status(), 421);
    body.send_data(Bytes::from_static(b"two"), true).unwrap();
    let answer = begun.await.unwrap();
    assert_eq!(answer.status(), 200);
    drop((answer, body));
    // Other requests find no place on it.
    timeout(PATIENCE, connection).await.unwrap().unwrap().unwrap();
    assert!(sender.ready().await.is_err());
    assert_eq!(door.app.requests().len(), asked + 2);
}

// === Tunnels ===

/// A page's WebSocket, over one version of HTTP or the other.
enum Socket {
    H1(Box<WebSocketStream<TlsStream<TcpStream>>>),
    H2 { socket: Box<WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>>, _client: Client },
}

impl Socket {
    async fn by_h1(tls: TlsStream<TcpStream>, host: &str) -> Self {
        let mut request = format!("wss://{host}{PATH}").into_client_request().unwrap();
        request.headers_mut().insert("origin", format!("https://{host}").parse().unwrap());
        Self::H1(Box::new(tokio_tungstenite::client_async(request, tls).await.unwrap().0))
    }

    async fn by_h2(mut client: Client, host: &str) -> Self {
        // The offer comes with the first answer.
        assert_eq!(client.ask(host, "/").await, 200);
        let Client::H2(sender, _) = &mut client else { unreachable!() };
        let request = http::Request::connect(format!("https://{host}{PATH}"))
            .extension(hyper::ext::Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13")
            .header("origin", format!("https://{host}"));
        let response = sender.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        let stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        let socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
        Self::H2 { socket: Box::new(socket), _client: client }
    }

    async fn stands(&mut self) {
        match self {
            Self::H1(socket) => stands(socket).await,
            Self::H2 { socket, .. } => stands(socket).await,
        }
    }

    async fn ends(&mut self) {
        match self {
            Self::H1(socket) => ends(socket).await,
            Self::H2 { socket, .. } => ends(socket).await,
        }
    }
}

#[tokio::test]
async fn a_websocket_ends_when_its_host_asks_for_other_certificates() {
    const RULES: &str = "socket = \"/auth/pbx/socket\"\n[[auth]]\ntype = \"mtls\"\n[[allow]]\nauth = \"mtls\"\n\
                         pbx = { domain = \"acme.test\", account = \"{email|before:@}\" }";
    let mut hosts = vec![("staff.test", "staff.pem"), ("crew.test", "staff.pem")];
    let mut door = Door::open(&hosts, RULES).await;
    let ann = door.ann();
    let mut sockets = Vec::new();
    for host in ["staff.test", "crew.test"] {
        sockets.push((host, Socket::by_h1(door.tls(&ann, host, "http/1.1").await, host).await));
        sockets.push((host, Socket::by_h2(door.connect(&ann, host, "h2").await, host).await));
    }
    door.renew(&hosts).await;
    for (_, socket) in &mut sockets {
        socket.stands().await;
    }
    hosts[0].1 = "staff.pem optional";
    door.reload(&hosts).await;
    for (host, socket) in &mut sockets {
        match *host {
            "staff.test" => socket.ends().await,
            _ => socket.stands().await,
        }
    }
    // Those of the tunnels that ended are over at the PBX too.
    until("the end of two sessions", || door.pbx.sessions().len() == 2).await;
    door.running.story("ended=certificate_policy_changed").await;
}

#[tokio::test]
async fn a_websocket_of_the_app_ends_when_its_host_asks_for_certificates() {
    let upstream = echo().await;
    let mut program = Program::before(upstream.addr, "").await;
    let mut tunnel = tunnel(&program).await;
    check_echo(&mut tunnel).await;
    secret(&program.dir, "client-ca.pem", Authority::new("staff").pem());
    program.change("key = \"privkey.pem\"", "key = \"privkey.pem\", client_ca = \"client-ca.pem\"");
    program.running.signal("-HUP");
    program.running.complaint("reloaded").await;
    // It ends with close_notify or without, and no byte comes.
    let end = timeout(PATIENCE, tunnel.read_to_end(&mut Vec::new())).await.unwrap();
    assert_eq!(end.unwrap_or(0), 0);
}
