//! The client's address when proxies and balancers stand before the gate.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::client::status;
use crate::kit::gate::Gate;
use crate::kit::stage::{Plan, until};
use crate::kit::upstream::RawUpstream;

const BELIEVED: &str = "[server]\nbelieve_forwarded_from = [\"127.0.0.9\", \"10.0.0.0/8\"]";
const BALANCED: &str = "[server]\naccept_proxy_protocol_from = [\"127.0.0.9\"]";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";

/// Returns the values of a field, as they came.
fn values<'r>(request: &'r str, name: &str) -> Vec<&'r str> {
    request.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
}

#[tokio::test]
async fn a_believed_proxy_says_who_its_client_is() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before_with(upstream.addr, "", BELIEVED).await;
    for h2 in [false, true] {
        for (fields, chain, standard) in [
            (&[][..], "127.0.0.9", "for=127.0.0.9"),
            (&[("X-Forwarded-For", "192.0.2.1")], "192.0.2.1, 127.0.0.9", "for=192.0.2.1, for=127.0.0.9"),
            (
                &[("X-Forwarded-For", "6.6.6.6, 2001:db8::1"), ("X-Forwarded-For", "10.1.1.1:80")],
                "2001:db8::1, 10.1.1.1, 127.0.0.9",
                "for=\"[2001:db8::1]\", for=10.1.1.1, for=127.0.0.9",
            ),
            (
                &[("Forwarded", "for=6.6.6.6, for=\"[::ffff:192.0.2.1]:4711\";host=evil.test;proto=http")],
                "192.0.2.1, 127.0.0.9",
                "for=192.0.2.1, for=127.0.0.9",
            ),
            (
                &[("X-Forwarded-For", "192.0.2.1"), ("Forwarded", "for=192.0.2.1"), ("X-Forwarded-Host", "evil.test")],
                "192.0.2.1, 127.0.0.9",
                "for=192.0.2.1, for=127.0.0.9",
            ),
            (
                &[("X_Forwarded_For", "6.6.6.6"), ("X-Real-IP", "6.6.6.6"), ("X-Forwarded-Proto", "http")],
                "127.0.0.9",
                "for=127.0.0.9",
            ),
        ] {
            let asking = gate.get("/").from("127.0.0.9");
            let asking = fields.iter().fold(asking, |asking, (name, value)| asking.header(name, value));
            if h2 { asking.h2() } else { asking }.send().await.expect(200);
            let seen = upstream.seen().pop().unwrap();
            assert_eq!(values(&seen, "x-forwarded-for"), [chain], "{fields:?}");
            assert_eq!(values(&seen, "forwarded"), [format!("{standard};host=app.test;proto=https")], "{fields:?}");
            assert_eq!(values(&seen, "x-forwarded-proto"), ["https"], "{fields:?}");
            assert_eq!(values(&seen, "x-forwarded-host"), ["app.test"], "{fields:?}");
            assert!(!seen.contains("6.6.6.6") && !seen.contains("evil"), "{seen}");
        }
    }
}

#[tokio::test]
async fn fields_of_other_clients_do_not_count() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before_with(upstream.addr, "", BELIEVED).await;
    let asking = gate.get("/").header("X-Forwarded-For", "192.0.2.1").header("Forwarded", "for=192.0.2.2");
    asking.from("127.0.0.8").send().await.expect(200);
    let seen = upstream.seen().pop().unwrap();
    assert_eq!(values(&seen, "x-forwarded-for"), ["127.0.0.8"]);
    assert_eq!(values(&seen, "forwarded"), ["for=127.0.0.8;host=app.test;proto=https"]);
}

#[tokio::test]
async fn two_fields_that_name_two_clients_are_refused() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before_with(upstream.addr, "", BELIEVED).await;
    let asking = gate.get("/").header("X-Forwarded-For", "192.0.2.1").header("Forwarded", "for=192.0.2.2");
    asking.from("127.0.0.9").send().await.expect(400);
    assert!(upstream.seen().is_empty());
    gate.line(&["client=127.0.0.9", "malformed"]).await;
}

#[tokio::test]
async fn each_request_of_a_believed_proxy_has_its_own_client() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before_with(upstream.addr, "", "[server]\nbelieve_forwarded_from = [\"127.0.0.1\"]").await;
    let requests: String = ["192.0.2.1", "192.0.2.2"]
        .iter()
        .map(|client| format!("GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: {client}\r\n\r\n"))
        .collect();
    gate.exchange(format!("{requests}{}", String::from_utf8_lossy(GET)).as_bytes()).await;
    let seen = upstream.seen();
    let chains: Vec<_> = seen.iter().flat_map(|seen| values(seen, "x-forwarded-for")).collect();
    assert_eq!(chains, ["192.0.2.1, 127.0.0.1", "192.0.2.2, 127.0.0.1", "127.0.0.1"]);
}

#[tokio::test]
async fn limits_and_logs_know_the_client_that_the_proxy_names() {
    let plan = Plan { limits: "client = \"2/min\"", more: BELIEVED, ..Plan::default() };
    let stage = plan.start().await;
    let ask = |client: &'static str| {
        let asking = stage.as_alice("/auth/pbx").from("127.0.0.9");
        asking.header("X-Forwarded-For", client)
    };
    for (client, status) in [
        ("2001:db8::1", 303),
        ("2001:db8::2", 303),
        ("2001:db8::3", 429),
        ("6.6.6.6, 2001:db8::4", 429),
        ("2001:db8:0:1::1", 303),
        ("::ffff:192.0.2.1", 303),
        ("192.0.2.1:1234", 303),
        ("192.0.2.1", 429),
    ] {
        assert_eq!(ask(client).send().await.status, status, "{client}");
    }
    let log = stage.gate.line(&["/auth/pbx", "client=2001:db8:0:1::1"]).await;
    assert!(!log.contains("127.0.0.9"), "{log}");
    stage.gate.line(&["act=", "client=192.0.2.1"]).await;
}

#[tokio::test]
async fn a_key_is_bound_to_the_client_that_the_proxy_names() {
    let key = "a-key-of-sufficient-length";
    let digest = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes()));
    let more = format!(
        "[[auth]]\ntype = \"key\"\nname = \"crm\"\nsha256 = \"{digest}\"\nscopes = [\"pbx\"]\ndomains = [\"acme.test\"]\n\
         from = [\"192.0.2.1\"]\n[[allow]]\nauth = \"crm\"\npbx = {{ domain = \"{{domain}}\", account = \"{{account}}\" }}\n{BELIEVED}"
    );
    let stage = Plan { more: &more, ..Plan::default() }.start().await;
    let ask = |from: &str, client: &str| {
        let body = "{\"account\":\"40\",\"domain\":\"acme.test\"}";
        let asking = stage.gate.post("/auth/pbx", "application/json", body).bearer(key);
        asking.from(from).header("X-Forwarded-For", client).send()
    };
    assert_eq!(ask("127.0.0.9", "192.0.2.1").await.status, 200);
    assert_ne!(ask("127.0.0.9", "192.0.2.1, 192.0.2.2").await.status, 200);
    assert_ne!(ask("127.0.0.8", "192.0.2.1").await.status, 200);
}

// === PROXY protocol ===

/// Connects from a loopback address and says this before TLS; what the gate then answers to a request, if anything.
async fn ask_behind(gate: &Gate, from: &str, header: &[u8]) -> Option<String> {
    let mut stream = connect(gate.addr, from).await;
    stream.write_all(header).await.unwrap();
    let mut tls = gate.tls(stream, "app.test", "http/1.1").await.ok()?;
    tls.write_all(GET).await.ok()?;
    let mut answer = Vec::new();
    let _ = tls.read_to_end(&mut answer).await;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

async fn connect(to: SocketAddr, from: &str) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

const V2_TCP6: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\xdc\x04\x01\xbb";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

#[tokio::test]
async fn a_balancer_says_who_its_client_is() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before_with(upstream.addr, "", BALANCED).await;
    for (header, client) in [
        (&b"PROXY TCP4 192.0.2.1 127.0.0.1 5000 443\r\n"[..], "192.0.2.1"),
        (b"PROXY TCP6 ::ffff:192.0.2.2 ::1 5000 443\r\n", "192.0.2.2"),
        (V2_TCP6, "2001:db8::7"),
        (V2_LOCAL, "127.0.0.9"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.9"),
    ] {
        assert_eq!(status(&ask_behind(&gate, "127.0.0.9", header).await.unwrap()), 200, "{client}");
        assert_eq!(values(&upstream.seen().pop().unwrap(), "x-forwarded-for"), [client]);
        gate.line(&[&format!("client={client} ")]).await;
    }
}

#[tokio::test]
async fn only_a_balancer_sends_the_proxy_protocol_and_it_must() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before_with(upstream.addr, "", BALANCED).await;
    let line = &b"PROXY TCP4 192.0.2.1 127.0.0.1 5000 443\r\n"[..];
    assert_eq!(ask_behind(&gate, "127.0.0.9", b"").await, None);
    assert_eq!(ask_behind(&gate, "127.0.0.9", b"PROXY TCP4 192.0.2.1 127.0.0.1 5000 x\r\n").await, None);
    let events = gate.events();
    let told = "do not begin with a valid PROXY header";
    assert!(events.lines().any(|line| line.contains(told) && line.contains("balancer=127.0.0.9")), "{events}");
    assert_eq!(ask_behind(&gate, "127.0.0.9", &[line, line].concat()).await, None);
    for header in [line, V2_TCP6, V2_LOCAL] {
        assert_eq!(ask_behind(&gate, "127.0.0.8", header).await, None);
    }
    assert_eq!(status(&ask_behind(&gate, "127.0.0.8", b"").await.unwrap()), 200);
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn a_header_that_does_not_come_is_not_waited_for_long() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before_with(upstream.addr, "", BALANCED).await;
    let mut stream = connect(gate.addr, "127.0.0.9").await;
    stream.write_all(b"PROXY TCP4 192.0.2.1 ").await.unwrap();
    let begun = tokio::time::Instant::now();
    let closed = tokio::time::timeout(Duration::from_secs(9), stream.read_u8()).await;
    assert!(matches!(closed, Ok(Err(_))), "{closed:?}");
    // The handshake, which has 10 s of its own, has not even begun.
    assert!(begun.elapsed() >= Duration::from_secs(4));
}

#[tokio::test]
async fn behind_a_balancer_a_believed_proxy_is_believed() {
    let upstream = RawUpstream::ok().await;
    let more = format!("{BALANCED}\nbelieve_forwarded_from = [\"192.0.2.0/24\"]");
    let gate = Gate::before_with(upstream.addr, "", &more).await;
    let mut stream = connect(gate.addr, "127.0.0.9").await;
    stream.write_all(b"PROXY TCP4 192.0.2.1 127.0.0.1 5000 443\r\n").await.unwrap();
    let mut tls = gate.tls(stream, "app.test", "http/1.1").await.unwrap();
    tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n")
        .await
        .unwrap();
    tls.read_to_end(&mut Vec::new()).await.unwrap();
    assert_eq!(values(&upstream.seen().pop().unwrap(), "x-forwarded-for"), ["198.51.100.1, 192.0.2.1"]);
}

#[tokio::test]
async fn the_redirecting_listener_hears_balancers_too() {
    let upstream = RawUpstream::ok().await;
    let text =
        format!("workers = 1\nredirect_http = \"127.0.0.1:0\"\n[app]\nurl = \"http://{}\"\n{BALANCED}", upstream.addr);
    let gate = Gate::start(&text).await;
    for (from, header, expected) in
        [("127.0.0.9", "PROXY TCP4 192.0.2.1 127.0.0.1 5000 80\r\n", 308), ("127.0.0.9", "", 0), ("127.0.0.8", "", 308)]
    {
        let mut stream = connect(gate.redirect.unwrap(), from).await;
        stream.write_all(&[header.as_bytes(), GET].concat()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert_eq!(status(&String::from_utf8_lossy(&answer)), expected, "{from} {header}");
    }
}

// === How many may come ===

/// How long a place is waited for: shorter than a connection may rest.
const WHILE: Duration = Duration::from_secs(20);

/// Opens TLS connections from an address until one is not accepted, or there are so many.
async fn open(gate: &Gate, from: &str, count: usize) -> Vec<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut opened = Vec::new();
    while opened.len() < count {
        match gate.tls(connect(gate.addr, from).await, "app.test", "http/1.1").await {
            Ok(tls) => opened.push(tls),
            Err(_) => break,
        }
    }
    opened
}

/// Opens so many, as soon as there are places.
async fn open_all(gate: &Gate, from: &str, count: usize) -> Vec<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut opened = Vec::new();
    let all = async {
        while opened.len() < count {
            opened.extend(open(gate, from, count - opened.len()).await);
        }
    };
    let in_time = tokio::time::timeout(WHILE, all).await;
    assert!(in_time.is_ok(), "{} of {count} places for {from}", opened.len());
    opened
}

#[tokio::test]
async fn one_client_never_keeps_the_others_out() {
    let upstream = RawUpstream::ok().await;
    let more = "[server]\nmax_connections = 60\nmax_connections_per_client = 50";
    let gate = Gate::before_with(upstream.addr, "", more).await;
    let crowd = open(&gate, "127.0.0.2", 100).await;
    assert_eq!(crowd.len(), 50);
    for _ in 0..20 {
        gate.get("/").from("127.0.0.3").send().await.expect(200);
    }
    assert!(open(&gate, "127.0.0.2", 1).await.is_empty());
    drop(crowd);
    // Every place is free again, once the gate has noticed.
    let _again = open_all(&gate, "127.0.0.2", 50).await;
    assert!(open(&gate, "127.0.0.2", 1).await.is_empty());
}

#[tokio::test]
async fn every_end_of_a_connection_frees_its_place() {
    let upstream = RawUpstream::ok().await;
    let more = "[server]\nmax_connections = 4\nmax_connections_per_client = 2\naccept_proxy_protocol_from = [\"127.0.0.9\"]\n\
                timeouts = { handshake = \"200ms\", header = \"200ms\" }";
    let gate = Gate::before_with(upstream.addr, "", more).await;
    for round in 0..8 {
        // Garbage, silence, half a handshake, a broken PROXY header, a refusal, a head without an end, a whole exchange.
        for said in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], b"", b"\x16\x03\x01\x02\0\x01", b"PROXY nonsense with enough bytes"]
        {
            for from in ["127.0.0.2", "127.0.0.9"] {
                let mut stream = connect(gate.addr, from).await;
                let _ = stream.write_all(said).await;
                if round % 2 == 0 && from == "127.0.0.2" {
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                }
            }
        }
        let mut heads = open(&gate, "127.0.0.3", 2).await;
        for tls in &mut heads {
            let _ = tls.write_all(b"GET / HTT").await;
        }
        assert_eq!(heads.len(), 2);
        drop(heads);
        gate.get("/").from("127.0.0.4").send().await.expect(200);
        // All 127.0.0.3 had is free again: else the next round ends here.
        open_all(&gate, "127.0.0.3", 2).await;
    }
}

#[tokio::test]
async fn the_last_connection_waits_until_another_ends() {
    let upstream = RawUpstream::serving(|mut line| async move {
        while line.request().await.is_some() {
            tokio::time::sleep(Duration::from_millis(300)).await;
            line.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let gate =
        Gate::before_with(upstream.addr, "", "[server]\nmax_connections = 2\nmax_connections_per_client = 2").await;
    let (one, two, three) = tokio::join!(
        gate.get("/1").send(),
        gate.get("/2").from("127.0.0.2").send(),
        gate.get("/3").from("127.0.0.3").send()
    );
    for answer in [one, two, three] {
        answer.expect(200);
    }
}

#[tokio::test]
async fn the_longest_idle_connection_makes_room() {
    let upstream = RawUpstream::ok().await;
    let gate =
        Gate::before_with(upstream.addr, "", "[server]\nmax_connections = 3\nmax_connections_per_client = 3").await;
    let mut rested = open(&gate, "127.0.0.2", 3).await;
    for tls in &mut rested {
        tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
        let answer = crate::kit::client::read_head(tls).await;
        assert_eq!(status(&answer), 200);
        tls.read_exact(&mut [0; 2]).await.unwrap();
    }
    gate.get("/").from("127.0.0.3").send().await.expect(200);
    let closed = tokio::time::timeout(Duration::from_secs(5), rested[0].read_u8()).await;
    assert!(matches!(closed, Ok(Err(_))), "{closed:?}");
    for tls in &mut rested[1..] {
        tls.write_all(GET).await.unwrap();
        assert_eq!(status(&crate::kit::client::read_head(tls).await), 200);
    }
    until("the log", || gate.log().lines().count() == 6).await;
}

#[tokio::test]
async fn room_is_made_by_whichever_worker_has_it() {
    let upstream = RawUpstream::ok().await;
    let more = "[server]\nmax_connections = 1\nmax_connections_per_client = 1";
    let gate = Gate::start(&format!("workers = 4\n[app]\nurl = \"http://{}\"\n{more}", upstream.addr)).await;
    let mut held = Vec::new();
    for client in 2..8 {
        let mut tls = open_all(&gate, &format!("127.0.0.{client}"), 1).await.pop().unwrap();
        tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
        let answer = tokio::time::timeout(WHILE, crate::kit::client::read_head(&mut tls)).await;
        assert_eq!(status(&answer.unwrap()), 200);
        held.push(tls);
    }
}

#[tokio::test]
async fn caps_count_the_clients_of_a_balancer_and_not_the_balancer() {
    let upstream = RawUpstream::ok().await;
    let more = format!("{BALANCED}\nbelieve_forwarded_from = [\"127.0.0.7\"]\nmax_connections_per_client = 2");
    let gate = Gate::before_with(upstream.addr, "", &more).await;
    let mut held = Vec::new();
    for client in ["192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.2"] {
        let mut stream = connect(gate.addr, "127.0.0.9").await;
        stream.write_all(format!("PROXY TCP4 {client} 127.0.0.1 5000 443\r\n").as_bytes()).await.unwrap();
        held.push(gate.tls(stream, "app.test", "http/1.1").await);
    }
    assert_eq!(held.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true, true, false]);
    assert_eq!(open(&gate, "127.0.0.7", 10).await.len(), 10, "a believed proxy comes for many");
    for _ in 0..5 {
        held.push(Ok(locally(&gate).await));
    }
}

/// A connection of the balancer itself.
async fn locally(gate: &Gate) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut stream = connect(gate.addr, "127.0.0.9").await;
    stream.write_all(V2_LOCAL).await.unwrap();
    gate.tls(stream, "app.test", "http/1.1").await.unwrap()
}
