//! `[pbx] socket`: a page opens the PBX's WebSocket at the gate, with a session that never leaves the gate.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Method, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::kit::client::{RequestBuilder, read_head, status};
use crate::kit::links;
use crate::kit::records::Seen;
use crate::kit::stage::{Plan, Stage, until};
use crate::kit::vodia::{Dialect, Level, Scope, Wrong};

pub const PATH: &str = "/auth/pbx/socket";
pub const SOCKET: &str = "socket = \"/auth/pbx/socket\"";
pub const BY_COOKIE: &str = "handoff = \"cookie\"\nsocket = \"/auth/pbx/socket\"";
/// App and PBX on one host.
const ONE_HOST: &str = "paths = [\"/rest/\", \"/welcome.htm\", \"/thirdparty.htm\", \"/websocket\"]";
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

pub type Socket = WebSocketStream<TlsStream<TcpStream>>;

pub async fn start(pbx: &str) -> Stage {
    Plan { pbx, ..Plan::default() }.start().await
}

/// The fields of a handshake as a browser sends them, from a page of the same origin.
pub fn handshake<'s>(asking: RequestBuilder<'s>) -> RequestBuilder<'s> {
    let asking = asking.header("connection", "keep-alive, Upgrade").header("upgrade", "websocket");
    asking.header("sec-websocket-version", "13").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
}

/// Asks for a socket as alice, from a page of her own origin.
pub fn asking<'s>(stage: &'s Stage) -> RequestBuilder<'s> {
    handshake(stage.as_alice(PATH)).header("origin", "https://app.test")
}

/// Opens a socket over HTTP/1.1, as a page of the app does. An error has the status of the answer.
pub async fn open_as(stage: &Stage, name: &str, query: &str) -> Result<Socket, StatusCode> {
    open_with(stage, &stage.app.log_in(name), query).await
}

/// Opens a socket with a cookie of the app.
pub async fn open_with(stage: &Stage, cookie: &str, query: &str) -> Result<Socket, StatusCode> {
    let tls = stage.gate.raw("app.test", "http/1.1").await;
    let mut request = format!("wss://app.test{PATH}{query}").into_client_request().unwrap();
    request.headers_mut().insert("cookie", cookie.parse().unwrap());
    request.headers_mut().insert("origin", "https://app.test".parse().unwrap());
    match tokio_tungstenite::client_async(request, tls).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(answer)) => Err(answer.status()),
        Err(error) => panic!("{error}"),
    }
}

pub async fn open(stage: &Stage) -> Socket {
    open_as(stage, "alice", "").await.unwrap()
}

/// Opens a socket over HTTP/2.
pub async fn open_by_h2(stage: &Stage) -> (http::HeaderMap, WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>) {
    let tls = TokioIo::new(stage.gate.raw("app.test", "h2").await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, String>(TokioExecutor::new(), tls).await.unwrap();
    tokio::spawn(connection);
    // The offer comes with the first answer.
    sender.send_request(http::Request::get("https://app.test/").body(String::new()).unwrap()).await.unwrap();
    let request = http::Request::connect(format!("https://app.test{PATH}"))
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("origin", "https://app.test")
        .header("cookie", stage.app.log_in("alice"));
    let response = sender.send_request(request.body(String::new()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    let headers = response.headers().clone();
    let stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    (headers, WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
}

/// Says something and hears it.
pub async fn stands<S>(socket: &mut WebSocketStream<S>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    socket.send(Message::text("{\"action\":\"own-calls\",\"subscribe\":true}")).await.unwrap();
    let heard = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap();
    assert!(matches!(&heard, Some(Ok(Message::Text(text))) if text.contains("own-calls")), "{heard:?}");
}

/// Waits until the socket has ended.
pub async fn ends<S>(socket: &mut WebSocketStream<S>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let ended = tokio::time::timeout(PATIENCE, socket.next()).await.expect("the socket stands");
    assert!(!matches!(ended, Some(Ok(_))), "{ended:?}");
}

/// Waits until no session is open at the PBX.
pub async fn no_session_is_left(stage: &Stage) {
    until("the end of every session", || stage.pbx.sessions().is_empty()).await;
}

fn seen_at_socket(stage: &Stage) -> Vec<Seen> {
    stage.pbx.requests().into_iter().filter(|seen| seen.target.starts_with("/websocket")).collect()
}

// === The way of a socket ===

async fn check_way(plan: Plan<'_>, host: &str, upstream_host: &str) {
    let stage = plan.start().await;
    let tls = stage.gate.raw(host.split(':').next().unwrap(), "http/1.1").await;
    let mut request = format!("wss://{host}{PATH}?account=40").into_client_request().unwrap();
    for (name, value) in [
        ("cookie", stage.app.log_in("alice").as_str()),
        ("cookie", "session=planted"),
        ("origin", &format!("https://{host}")),
        ("user-agent", "a browser"),
        ("accept-language", "fr"),
        ("sec-websocket-extensions", "x"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-host", "evil.test"),
        ("pbx-account", "41"),
    ] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let (mut socket, answer) = tokio_tungstenite::client_async(request, tls).await.unwrap();
    let mut fields: Vec<_> = answer.headers().keys().map(ToString::to_string).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["connection", "date", "sec-websocket-accept", "upgrade", "x-request-id"], "{answer:?}");
    let session = stage.pbx.last_session().unwrap();
    stage.gate.canary(&session);
    assert!(!format!("{answer:?}").contains(&session));
    stands(&mut socket).await;
    let seen = seen_at_socket(&stage);
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].target, "/websocket?domain=acme.test&user=40");
    for (name, value) in [
        ("host", Some(upstream_host)),
        ("origin", Some(&*format!("https://{upstream_host}"))),
        ("cookie", Some(&*format!("session={session}"))),
        ("x-forwarded-host", Some(upstream_host)),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("sec-websocket-extensions", Some("x")),
        ("user-agent", Some("a browser")),
        ("accept-language", None),
        ("authorization", None),
        ("pbx-account", None),
    ] {
        assert_eq!(seen[0].header(name), value, "{name}");
    }
    assert!(!stage.pbx.saw_admin_elsewhere());
    assert_eq!(stage.minted(), ["40@acme.test"]);
    socket.close(None).await.unwrap();
    drop(socket);
    no_session_is_left(&stage).await;
    let line = stage.gate.line(&["target=\"/auth/pbx/socket?account=40\"", "status=101"]).await;
    for part in ["upstream=pbx", "method=GET", "subject=alice", "account=40@acme.test"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    stage.gate.line(&["audit grant", "act=pbx_session", "account=40@acme.test", "rule=staff"]).await;
    let told = stage.gate.told("/metrics");
    assert!(told.contains("callgate_exchanges_total{route=\"auth_pbx_socket\",status=\"1xx\"} 1\n"), "{told}");
}

#[tokio::test]
async fn a_page_gets_the_pbxs_socket_and_the_session_stays_here() {
    for dialect in [Dialect::A, Dialect::B, Dialect::C] {
        let pbx = if dialect == Dialect::A { SOCKET } else { BY_COOKIE };
        check_way(Plan { dialect, pbx, ..Plan::default() }, "app.test", "pbx.test").await;
        check_way(Plan { dialect, pbx, ..Plan::default() }, "app.test:8443", "pbx.test:8443").await;
        // On one host, the PBX's is that of the page.
        check_way(Plan { dialect, pbx, hosts: ONE_HOST, ..Plan::default() }, "app.test", "app.test").await;
        // The PBX picks the tenant by its host.
        let hosts = "hosts = [\"pbx.test\", \"acme.test\"]";
        check_way(Plan { dialect, pbx, hosts, ..Plan::default() }, "app.test", "acme.test").await;
    }
}

#[tokio::test]
async fn over_http2_a_socket_is_one_stream() {
    for (dialect, pbx) in [(Dialect::A, SOCKET), (Dialect::C, BY_COOKIE)] {
        let stage = Plan { dialect, pbx, ..Plan::default() }.start().await;
        let (fields, mut socket) = open_by_h2(&stage).await;
        let mut names: Vec<_> = fields.keys().map(ToString::to_string).collect();
        names.sort_unstable();
        assert_eq!(names, ["date", "x-request-id"]);
        let session = stage.pbx.last_session().unwrap();
        stage.gate.canary(&session);
        stands(&mut socket).await;
        let seen = &seen_at_socket(&stage)[0];
        assert_eq!(seen.target, "/websocket?domain=acme.test&user=40");
        assert_eq!(seen.header("cookie"), Some(&*format!("session={session}")));
        assert_eq!(seen.header("upgrade"), Some("websocket"));
        socket.close(None).await.unwrap();
        drop(socket);
        no_session_is_left(&stage).await;
        let line = stage.gate.line(&["target=\"/auth/pbx/socket\"", "method=CONNECT"]).await;
        assert!(line.contains("status=200") && line.contains("http=2") && line.contains("upstream=pbx"), "{line}");
    }
}

/// Sockets are decided as links are, so that an explanation is true for both.
#[tokio::test]
async fn a_socket_is_granted_and_refused_as_a_link_is() {
    let stage = start(SOCKET).await;
    let as_user = |name: &str, path: &str| {
        let asking = handshake(stage.as_user(name, path));
        asking.header("origin", "https://app.test")
    };
    as_user("alice", PATH).send().await.expect(101);
    as_user("bob", "/auth/pbx/socket?account=41&domain=acme.test").send().await.expect(101);
    as_user("alice", "/auth/pbx/socket?account=41").send().await.expect(403);
    as_user("alice", "/auth/pbx/socket?account=40&account=41").send().await.expect(400);
    handshake(stage.gate.get(PATH)).header("origin", "https://app.test").send().await.expect(401);
    let stale = handshake(stage.gate.get(PATH)).header("origin", "https://app.test").cookie("app_session=stale");
    stale.send().await.expect(401);
    stage.gate.line(&["audit refusal", "grants something else than was asked for"]).await;
    no_session_is_left(&stage).await;
}

#[tokio::test]
async fn an_administrators_socket_names_no_user() {
    let rules = "[[allow]]\nname = \"admins\"\nauth = \"app\"\npbx = { domain = \"{tenant}\", level = \"domain\" }\n";
    for (dialect, pbx) in [(Dialect::A, SOCKET), (Dialect::C, BY_COOKIE)] {
        let stage = Plan { dialect, pbx, rules, ..Plan::default() }.start().await;
        let mut socket = open(&stage).await;
        stands(&mut socket).await;
        assert_eq!(seen_at_socket(&stage)[0].target, "/websocket?domain=acme.test");
        assert_eq!(stage.pbx.sessions()[0].identity.level, Level::Domain);
    }
}

#[tokio::test]
async fn another_path_is_reserved_like_the_default() {
    let stage = start("socket = \"/phone/socket\"").await;
    stage.gate.logins.are_not_explained();
    handshake(stage.as_alice("/phone/socket")).header("origin", "https://app.test").send().await.expect(101);
    asking(&stage).send().await.expect(404);
    for path in ["/Phone/socket", "/phone%2fsocket", "//phone/socket", "/phone/socket;x", "/auth/PBX/socket"] {
        handshake(stage.as_alice(path)).header("origin", "https://app.test").send().await.expect(400);
    }
    let without = start("").await;
    without.gate.logins.are_not_explained();
    asking(&without).send().await.expect(404);
    assert!(stage.app.requests().iter().all(|seen| seen.target == "/api/me"), "{:?}", stage.app.requests());
}

// === What is no handshake ===

#[tokio::test]
async fn only_a_handshake_is_answered() {
    let stage = start(SOCKET).await;
    stage.gate.logins.are_not_explained();
    let page = stage.as_alice(PATH).header("accept", "text/html").send().await.expect(426);
    assert!(page.text().contains("<h1>The request cannot be read</h1>"), "{}", page.text());
    for name in ["upgrade", "connection", "sec-websocket-version"] {
        assert!(!page.header(name).is_empty(), "{name}: {:?}", page.headers);
    }
    assert_eq!((page.header("upgrade"), page.header("sec-websocket-version")), ("websocket", "13"));
    let by_h2 = stage.as_alice(PATH).h2().send().await.expect(426);
    assert_eq!((by_h2.header("upgrade"), by_h2.header("sec-websocket-version")), ("", "13"));
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let answer = handshake(stage.gate.ask(method, PATH)).send().await.expect(405);
        assert_eq!(answer.header("allow"), "GET");
    }
    stage.gate.ask(Method::HEAD, PATH).send().await.expect(426);
    let with = |name: &'static str, value: &'static str| {
        let mut asking = asking(&stage);
        asking.headers.remove(name);
        if value.is_empty() { asking } else { asking.header(name, value) }
    };
    for (name, value, expected) in [
        ("upgrade", "h2c", 426),
        ("upgrade", "", 426),
        ("connection", "keep-alive", 426),
        ("sec-websocket-version", "8", 426),
        ("sec-websocket-version", "", 426),
        ("sec-websocket-key", "", 400),
        ("sec-websocket-key", "short", 400),
        ("connection", "upgrade, sec-websocket-key", 400),
        ("connection", "upgrade, cookie", 400),
    ] {
        let answer = with(name, value).send().await;
        assert_eq!(answer.status, expected, "{name}: {value}");
    }
    asking(&stage).header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==").send().await.expect(400);
    asking(&stage).body("a body").send().await.expect(426);
    assert!(stage.minted().is_empty());
    assert!(stage.app.requests().is_empty(), "nobody is asked who the caller is: {:?}", stage.app.requests());
}

// === Pages of other origins ===

#[tokio::test]
async fn pages_of_other_origins_open_no_socket() {
    // The quota of the client is that of this test: what a foreign page does uses up nothing.
    let limits = "client = \"2/h\"\ncaller = \"2/h\"\naccount = \"2/h\"\nfailures = \"1/h\"";
    let stage = Plan { pbx: SOCKET, limits, ..Plan::default() }.start().await;
    stage.gate.logins.are_not_explained();
    let foreign: [&[(&str, &str)]; 13] = [
        &[("origin", "https://evil.test")],
        &[("origin", "https://evil.app.test")],
        &[("origin", "https://pbx.test")],
        &[("origin", "http://app.test")],
        &[("origin", "https://app.test:8443")],
        &[("origin", "https://app.test.evil.test")],
        &[("origin", "HTTPS://APP.TEST")],
        &[("origin", "null")],
        &[("origin", "")],
        &[("origin", "https://app.test"), ("origin", "https://app.test")],
        &[("origin", "https://app.test"), ("origin", "https://evil.test")],
        &[("origin", "https://app.test"), ("sec-fetch-site", "cross-site")],
        &[],
    ];
    for fields in foreign {
        let asking =
            fields.iter().fold(handshake(stage.as_alice(PATH)), |asking, (name, value)| asking.header(name, value));
        let answer = asking.send().await.expect(403);
        assert_eq!(answer.json()["error"], "cross_site", "{fields:?}");
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
    // With a bearer credential, a page is still a page.
    let bearer = handshake(stage.gate.get(PATH)).bearer("0123456789abcdef").header("origin", "https://evil.test");
    bearer.send().await.expect(403);
    assert!(stage.minted().is_empty() && stage.app.requests().is_empty());
    assert!(!stage.gate.log().contains("audit"), "{}", stage.gate.log());
    // A bearer credential that no method knows does not vouch for the cookie beside it.
    handshake(stage.as_alice(PATH)).bearer("0123456789abcdef").send().await.expect(403);
    assert!(stage.minted().is_empty());
    asking(&stage).send().await.expect(101);
}

#[tokio::test]
async fn a_page_of_a_listed_origin_may() {
    for (pbx, voximplant) in [
        (format!("{SOCKET}\norigins = [\"https://crm.test\", \"capacitor://localhost\"]"), ""),
        (SOCKET.to_owned(), "origins = [\"https://crm.test\", \"capacitor://localhost\"]"),
    ] {
        let stage = Plan { pbx: &pbx, voximplant, ..Plan::default() }.start().await;
        for origin in ["https://crm.test", "capacitor://localhost"] {
            let asking = handshake(stage.as_alice(PATH)).header("origin", origin);
            let answer = asking.header("sec-fetch-site", "cross-site").send().await.expect(101);
            assert_eq!(answer.header("access-control-allow-origin"), "");
            // The PBX knows no such page.
            assert_eq!(seen_at_socket(&stage).pop().unwrap().header("origin"), Some("https://pbx.test"));
        }
        handshake(stage.as_alice(PATH)).header("origin", "https://crm.test.evil.test").send().await.expect(403);
    }
}

#[tokio::test]
async fn a_program_needs_no_origin_and_a_link_opens_no_socket() {
    let key = "a-key-of-another-server-0123456789";
    let digest = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes()));
    let more = format!(
        "[[auth]]\nname = \"crm\"\ntype = \"key\"\nscopes = [\"pbx\"]\nsha256 = \"{digest}\"\ndomains = [\"acme.test\"]\n\
         accounts = [\"40\"]\n{}[[allow]]\nname = \"crm\"\nauth = \"crm\"\n\
         pbx = {{ domain = \"{{domain}}\", account = \"{{account}}\" }}\n",
        links::method("")
    );
    let stage = Plan { pbx: SOCKET, rules: "", more: &more, ..Plan::default() }.start().await;
    let program = |path: &str| handshake(stage.gate.get(path)).bearer(key);
    program("/auth/pbx/socket?account=40&domain=acme.test").send().await.expect(101);
    program("/auth/pbx/socket?account=41&domain=acme.test").send().await.expect(403);
    let link = links::link();
    let query = link.split_once('?').unwrap().1;
    let asking = handshake(stage.gate.get(&format!("{PATH}?{query}"))).header("origin", "https://app.test");
    asking.send().await.expect(401);
    assert_eq!(stage.minted(), ["40@acme.test"]);
}

// === Bounds ===

#[tokio::test]
async fn a_page_that_reconnects_in_a_loop_is_told_to_wait() {
    let limits = "client = \"1000/min\"\ncaller = \"1000/min\"\naccount = \"3/h\"";
    let stage = Plan { pbx: SOCKET, limits, ..Plan::default() }.start().await;
    for _ in 0..3 {
        let mut socket = open(&stage).await;
        socket.close(None).await.unwrap();
    }
    let refused = asking(&stage).send().await.expect(429);
    assert!(!refused.header("retry-after").is_empty() && !refused.header("ratelimit-policy").is_empty(), "{refused:?}");
    assert_eq!(stage.minted().len(), 3);
    // Other people's phones ring on, and one who waits is let in: refusals count nothing.
    open_as(&stage, "bob", "").await.unwrap();
    no_session_is_left_but(&stage, "41").await;
}

pub async fn no_session_is_left_but(stage: &Stage, user: &str) {
    until("the end of the other sessions", || stage.pbx.sessions().iter().all(|session| session.identity.user == user))
        .await;
}

#[tokio::test]
async fn sockets_of_one_person_live_and_end_each_by_itself() {
    let stage = Plan { dialect: Dialect::C, pbx: BY_COOKIE, ..Plan::default() }.start().await;
    let (mut one, mut other) = tokio::join!(open(&stage), open(&stage));
    assert_eq!((stage.pbx.sessions().len(), seen_at_socket(&stage).len()), (2, 2));
    one.close(None).await.unwrap();
    drop(one);
    until("the end of one session", || stage.pbx.sessions().len() == 1).await;
    stands(&mut other).await;
    drop(other);
    no_session_is_left(&stage).await;
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let stage = start(SOCKET).await;
    let last = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: sip\r\nSet-Cookie: session=told\r\nX-Session: told\r\n\r\nlast words";
    stage.pbx_does(|faults| {
        faults.scope = Scope::Socket;
        faults.wrong = Wrong::Raw(Bytes::from_static(last.as_bytes()));
    });
    let mut tls = stage.gate.raw("app.test", "http/1.1").await;
    let cookie = stage.app.log_in("alice");
    let ask = format!(
        "GET {PATH} HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nCookie: {cookie}\r\n\
         Origin: https://app.test\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: sip\r\n\r\n"
    );
    tls.write_all(ask.as_bytes()).await.unwrap();
    let head = read_head(&mut tls).await;
    assert_eq!(status(&head), 101);
    assert!(head.to_lowercase().contains("sec-websocket-protocol: sip\r\n"), "{head}");
    assert_eq!(seen_at_socket(&stage)[0].header("sec-websocket-protocol"), Some("sip"));
    assert!(!head.contains("told") && !head.to_lowercase().contains("set-cookie"), "{head}");
    let mut rest = String::new();
    tls.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "last words");
    // The PBX's direction has ended, that of the page goes on.
    assert_eq!(stage.pbx.sessions().len(), 1);
    tls.shutdown().await.unwrap();
    no_session_is_left(&stage).await;
}

// === A PBX that fails ===

#[tokio::test]
async fn a_pbx_that_opens_no_socket_is_left_without_a_session() {
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let raw = |text: String| Wrong::Raw(Bytes::from(text));
    let cases = [
        (Wrong::Status(StatusCode::FORBIDDEN), 502, "upstream_bad_response"),
        (Wrong::Status(StatusCode::UNAUTHORIZED), 502, "upstream_bad_response"),
        (Wrong::Status(StatusCode::SERVICE_UNAVAILABLE), 502, "upstream_bad_response"),
        (Wrong::Html, 502, "upstream_bad_response"),
        (raw(format!("HTTP/1.1 101 Go\r\n{upgrade}Sec-WebSocket-Accept: AAAA\r\n\r\n")), 502, "upstream_bad_response"),
        (raw(format!("HTTP/1.1 101 Go\r\n{upgrade}\r\n")), 502, "upstream_bad_response"),
        (
            raw("HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\
                Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
                .to_owned()),
            502,
            "upstream_bad_response",
        ),
        (
            raw("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_owned()),
            502,
            "upstream_bad_response",
        ),
        (raw("nonsense\r\n\r\n".to_owned()), 502, "upstream_bad_response"),
        (Wrong::Drop, 502, "upstream_bad_response"),
        (Wrong::Hang, 504, "pbx_timeout"),
    ];
    for (dialect, pbx) in [(Dialect::A, SOCKET), (Dialect::C, BY_COOKIE)] {
        let pbx = format!("{pbx}\ntimeout = \"1s\"");
        let stage = Plan { dialect, pbx: &pbx, ..Plan::default() }.start().await;
        for (wrong, expected, code) in cases.clone() {
            stage.pbx_does(|faults| {
                faults.scope = Scope::Socket;
                faults.wrong = wrong.clone();
            });
            let answer = asking(&stage).send().await;
            assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (expected, &code.into()), "{wrong:?}");
            no_session_is_left(&stage).await;
        }
        stage.pbx_does(|faults| faults.wrong = Wrong::Nothing);
        let mut socket = open(&stage).await;
        stands(&mut socket).await;
    }
}

#[tokio::test]
async fn without_a_session_there_is_no_socket() {
    for (scope, wrong, expected, code) in [
        (Scope::Mint, Wrong::Status(StatusCode::FORBIDDEN), 502, "pbx_not_permitted"),
        (Scope::Mint, Wrong::Status(StatusCode::NOT_FOUND), 403, "forbidden"),
        (Scope::Mint, Wrong::Hang, 504, "pbx_timeout"),
        (Scope::Mint, Wrong::Drop, 502, "pbx_unreachable"),
        (Scope::Exchange, Wrong::Html, 502, "pbx_bad_response"),
        (Scope::Exchange, Wrong::Status(StatusCode::OK), 502, "pbx_bad_response"),
        (Scope::Exchange, Wrong::Hang, 504, "pbx_timeout"),
    ] {
        let pbx = format!("{BY_COOKIE}\ntimeout = \"1s\"");
        let stage = Plan { dialect: Dialect::C, pbx: &pbx, ..Plan::default() }.start().await;
        stage.pbx_does(|faults| (faults.scope, faults.wrong) = (scope, wrong.clone()));
        let answer = asking(&stage).send().await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (expected, &code.into()), "{scope:?} {wrong:?}");
        assert!(seen_at_socket(&stage).is_empty());
        stage.gate.line(&["audit refusal", "account=40@acme.test"]).await;
    }
    let stage = Plan { dialect: Dialect::C, pbx: BY_COOKIE, ..Plan::default() }.start().await;
    stage.pbx_does(|faults| faults.tokens_expire = true);
    asking(&stage).send().await.expect(502);
    assert!(seen_at_socket(&stage).is_empty());
    // The breaker is that of every login.
    stage.pbx_does(|faults| faults.refuse_after = Some(0));
    asking(&stage).send().await.expect(503);
    let open = asking(&stage).send().await.expect(503);
    assert!(!open.header("retry-after").is_empty());
    assert_eq!(stage.pbx.mints().len(), 2, "while the breaker is open the PBX is not asked");
}
