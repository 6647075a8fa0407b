//! The admin listener: health, metrics and state, for clients on this machine only.

use std::net::Shutdown;

use callgate::config::{Config, Listen};
use callgate::observe::Logs;
use callgate::server::Server;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::client::{read_head, status};
use crate::kit::commands::{callgate, run, text};
use crate::kit::gate::{self, Gate};
use crate::kit::openmetrics;
use crate::kit::program::Program;
use crate::kit::stage::{Plan, STAFF, Stage, until};
use crate::kit::upstream::RawUpstream;

const TCP: &str = "[admin]\nlisten = \"127.0.0.1:0\"";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";

/// Returns a field of an answer as it came.
fn field<'a>(answer: &'a str, name: &str) -> &'a str {
    answer.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap_or_default()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// Returns a configuration that a test starts a server with by itself.
fn config(dir: &TempDir, rest: &str) -> Config {
    let certificate = callgate::tls::dev::certificate(&["app.test"]).unwrap();
    gate::secret(dir, "chain.pem", &certificate.chain);
    gate::secret(dir, "key.pem", &certificate.key);
    let text = format!(
        "listen = \"127.0.0.1:0\"\ntls = {{ cert = \"chain.pem\", key = \"key.pem\" }}\n\
         [app]\nurl = \"http://127.0.0.1:9\"\n{rest}"
    );
    callgate::config::parse(&text, dir.path(), &|_: &str| None).unwrap()
}

impl Gate {
    /// Returns the value of a series, as `name{label="value"}`, read strictly.
    pub fn metric(&self, series: &str) -> f64 {
        let answer = self.told("/metrics");
        let families = openmetrics::read(body(&answer));
        let shown = |name: &str, labels: &openmetrics::Labels| {
            let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("{name}{{{}}}", labels.join(","))
        };
        let mut samples = families.iter().flat_map(|family| &family.samples);
        let found = samples.find(|(name, labels, _)| shown(name, labels) == series);
        found.unwrap_or_else(|| panic!("{series} is not in {answer}")).2
    }

    /// Waits until a series has a value: a connection and an exchange end a moment after their last byte.
    pub async fn counts(&self, series: &str, value: f64) {
        let mut last = 0.0;
        let so = || {
            last = self.metric(series);
            last == value
        };
        until(&format!("{series} {value}"), so).await;
    }
}

#[tokio::test]
async fn four_paths_are_answered_and_nothing_else() {
    let gate = Gate::before(RawUpstream::ok().await.addr).await;
    for (path, content_type) in [
        ("/livez", "text/plain; charset=utf-8"),
        ("/readyz", "text/plain; charset=utf-8"),
        ("/metrics", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("/status", "application/json"),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = gate.tell(&format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            assert_eq!(status(&answer), 200, "{answer}");
            let fields = ["content-type", "cache-control", "x-content-type-options"].map(|name| field(&answer, name));
            assert_eq!(fields, [content_type, "no-store", "nosniff"], "{method} {path}");
            assert_eq!(body(&answer).is_empty(), method == "HEAD", "{answer}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "X"] {
            let answer = gate.tell(&format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            assert_eq!((status(&answer), field(&answer, "allow")), (405, "GET, HEAD"), "{method} {path}");
        }
    }
    for path in ["/", "/livez/", "/metrics/x", "/debug", "/auth/pbx", "//metrics"] {
        assert_eq!(status(&gate.told(path)), 404, "{path}");
    }
}

#[tokio::test]
async fn health_is_never_answered_on_the_public_listener() {
    let app = RawUpstream::answering("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nthe app").await;
    let gate = Gate::before(app.addr).await;
    for path in ["/livez", "/readyz", "/metrics", "/status"] {
        for h2 in [false, true] {
            let asking = gate.get(path);
            let asking = if h2 { asking.h2() } else { asking };
            assert_eq!(asking.send().await.expect(200).text(), "the app", "{path}");
        }
    }
}

#[tokio::test]
async fn dns_rebinding_a_page_cannot_reach_it_under_the_name_of_its_own_site() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before_with(upstream.addr, "", TCP).await;
    let Listen::Tcp(address) = gate.admin().clone() else { panic!("{}", gate.admin()) };
    let port = address.port();
    for (host, expected) in [
        ("Host: localhost", 200),
        (&format!("Host: localhost:{port}"), 200),
        (&format!("Host: 127.0.0.1:{port}"), 200),
        (&format!("Host: [::1]:{port}"), 200),
        (&format!("Host: evil.test:{port}"), 421),
        ("Host: localhost.evil.test", 421),
        ("Host: 127.0.0.1.evil.test", 421),
        ("Host: 192.0.2.1", 421),
        ("Host: localhost\r\nHost: evil.test", 400),
        ("X: y", 400),
    ] {
        let answer = gate.tell(&format!("GET /status HTTP/1.1\r\n{host}\r\n\r\n"));
        assert_eq!(status(&answer), expected, "{host}");
        assert!(expected == 200 || !answer.contains("version"), "{answer}");
    }
    let answer = gate.tell("GET http://evil.test/status HTTP/1.1\r\nHost: evil.test\r\n\r\n");
    assert_eq!(status(&answer), 421);
}

#[tokio::test]
async fn a_question_has_a_size() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let mut question = "GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ".to_owned();
    // Not a byte more, which would be left unread and reset the answer.
    question.push_str(&"a".repeat((16 << 10) - question.len()));
    assert_eq!(status(&gate.tell(&question)), 431);
}

#[tokio::test]
async fn a_silent_client_delays_no_other() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before_with(upstream.addr, "", TCP).await;
    let Listen::Tcp(address) = gate.admin().clone() else { panic!("{}", gate.admin()) };
    let silent: Vec<_> = (0..50).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    assert_eq!(status(&gate.told("/livez")), 200);
    for stream in silent {
        stream.shutdown(Shutdown::Both).unwrap();
    }
}

#[tokio::test]
async fn readyz_names_what_is_not_ready_and_livez_does_not_mind() {
    let stage = Stage::new().await;
    assert_eq!(body(&stage.gate.told("/readyz")), "ok\n");
    assert_eq!(
        body(&stage.gate.told("/readyz?verbose")),
        "app: ok\npbx: ok\nbreaker: ok\nstate: ok\ncertificates: ok\nlog: ok\ndrain: ok\nok\n"
    );
    stage.pbx_does(|faults| faults.refuse_after = Some(0));
    stage.as_alice("/auth/pbx").send().await.expect(503);
    let answer = stage.gate.told("/readyz");
    assert_eq!(status(&answer), 503);
    assert!(body(&answer).starts_with("breaker: the PBX refused the administrator's credentials"), "{answer}");
    assert!(body(&answer).ends_with(" s\nnot ready\n"), "{answer}");
    let answer = stage.gate.tell("GET /readyz HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n");
    let told: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!((status(&answer), &told["ready"], &told["parts"][0]["name"]), (503, &false.into(), &"app".into()));
    assert_eq!((&told["parts"][2]["name"], &told["parts"][2]["ready"]), (&"breaker".into(), &false.into()));
    assert_eq!(status(&stage.gate.told("/livez")), 200);
    stage.gate.counts("callgate_ready{part=breaker}", 0.0).await;
    assert_eq!(stage.gate.metric("callgate_ready{part=log}"), 1.0);
    assert_eq!(stage.gate.metric("callgate_breaker_openings_total{}"), 1.0);
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_not_ready_until_it_can() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let gate = Gate::before(address).await;
    gate.get("/").send().await.expect(502);
    let answer = gate.told("/readyz");
    assert_eq!((status(&answer), body(&answer)), (503, format!("app: cannot reach {address}\nnot ready\n").as_str()));
    gate.counts("callgate_upstream_connects_total{result=failed,upstream=app}", 1.0).await;
    // Without any request the gate notices by itself.
    let _listener = std::net::TcpListener::bind(address).unwrap();
    until("the app is ready", || status(&gate.told("/readyz")) == 200).await;
}

#[tokio::test]
async fn the_command_for_probes_says_whether_the_gate_works() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let more = "[admin]\nlisten = \"unix:admin.sock\"";
    let mut program = Program::start(closed, "listen = \"127.0.0.1:0\"", more).await;
    let configuration = program.file("proxy.toml");
    let health = |more: &[&str]| {
        let mut command = callgate(&["health", "--config"]);
        command.arg(&configuration).args(more);
        run(command)
    };
    let live = health(&[]).await;
    assert_eq!((live.status.code(), &*text(&live.stdout)), (Some(0), "ok\n"));
    let mut tls = program.connect().await;
    tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 502);
    let ready = health(&["--ready"]).await;
    assert_eq!(ready.status.code(), Some(1));
    assert_eq!(text(&ready.stderr), format!("app: cannot reach {closed}\nnot ready\n"));
    program.running.child.kill().unwrap();
    program.running.child.wait().unwrap();
    let gone = health(&[]).await;
    assert_eq!(gone.status.code(), Some(69));
    assert!(text(&gone.stderr).contains("no process listens there"), "{}", text(&gone.stderr));
}

#[tokio::test]
async fn a_draining_gate_is_alive_and_not_ready() {
    let upstream = RawUpstream::silent().await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(GET).await.unwrap();
    until("the request is on its way", || !upstream.seen().is_empty()).await;
    gate.begin_drain();
    let answer = gate.told("/readyz");
    assert_eq!((status(&answer), body(&answer)), (503, "drain: draining\nnot ready\n"));
    assert_eq!(status(&gate.told("/livez")), 200);
    assert_eq!(gate.metric("callgate_exchanges_in_flight{}"), 1.0);
}

#[tokio::test]
async fn a_log_that_cannot_be_written_is_not_ready_and_its_lines_are_counted() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir, "[log]\naccess = \"/dev/full\"\n[admin]\nlisten = \"unix:admin.sock\"");
    let logs = Logs::open(&config).unwrap();
    let server = Server::start(config, logs.clone()).unwrap();
    let tell = |path: &str| {
        gate::tell(&server.admin_address().unwrap(), &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    };
    assert_eq!(body(&tell("/readyz")), "ok\n");
    let entry = callgate::observe::audit::LoginRecord {
        pbx: None,
        id: callgate::observe::RequestId::next(),
        client: "192.0.2.1".parse().unwrap(),
        begun: None,
        redeemed_from: None,
        act: callgate::observe::audit::AuditedAct::Login(callgate::model::login::LoginKind::Pbx),
        is_guess: false,
        outcome: callgate::model::login::LoginOutcome::Refused,
        method: None,
        subject: None,
        rule: None,
        account: None,
        level: None,
        reason: None,
        claims: Vec::new(),
    };
    logs.write_refusal(&entry);
    assert!(logs.flush(tokio::time::Instant::now() + std::time::Duration::from_secs(20)));
    assert_eq!(body(&tell("/readyz")), "log: cannot write /dev/full\nnot ready\n");
    assert!(tell("/metrics").contains("callgate_log_lines_lost_total{log=\"audit\"} 1\n"));
    server.drain();
    server.join().await;
    assert!(!dir.path().join("admin.sock").exists());
}

#[tokio::test]
async fn status_shows_what_runs() {
    let gate = Gate::before(RawUpstream::ok().await.addr).await;
    let _tls = gate.raw("app.test", "h2").await;
    gate.counts("callgate_connections_open{protocol=h2}", 1.0).await;
    let told: serde_json::Value = serde_json::from_str(body(&gate.told("/status"))).unwrap();
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&told["ready"], &told["workers"]), (&true.into(), &1.into()));
    assert_eq!(told["connections"]["h2"], 1);
    assert_eq!(told["config"]["file"], "proxy.toml");
    assert_eq!(told["certificates"][0]["names"][0], "app.test");
    assert_eq!(told["upstreams"][0]["name"], "app");
    assert!(told["upstreams"][0]["urls"][0].as_str().unwrap().starts_with("http://127.0.0.1:"));
}

#[tokio::test]
async fn exchanges_are_counted_by_who_answered_and_how() {
    let rules = format!(
        "{STAFF}\n[[allow]]\nauth = \"redirect\"\npbx = {{ domain = \"{{domain}}\", account = \"{{account}}\" }}"
    );
    let stage = Plan { rules: &rules, ..Plan::default() }.start().await;
    let gate = &stage.gate;
    gate.get("/nowhere").send().await;
    gate.get("/").host("pbx.test").send().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    stage.alice_posts("/auth/ott", "application/x-www-form-urlencoded", "key=k1").send().await.expect(200);
    gate.get("/auth/pbx").send().await.expect(401);
    gate.get("/auth/callgate/x").send().await.expect(404);
    gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
    for (series, value) in [
        ("callgate_exchanges_total{route=app,status=4xx}", 1.0),
        ("callgate_exchanges_total{route=pbx,status=2xx}", 1.0),
        ("callgate_exchanges_total{route=auth_pbx,status=3xx}", 1.0),
        ("callgate_exchanges_total{route=auth_pbx,status=4xx}", 1.0),
        ("callgate_exchanges_total{route=auth_ott,status=2xx}", 1.0),
        ("callgate_exchanges_total{route=auth_callgate,status=4xx}", 1.0),
        ("callgate_exchanges_total{route=own,status=4xx}", 1.0),
        ("callgate_answer_seconds_count{route=auth_pbx}", 2.0),
        ("callgate_exchanges_in_flight{}", 0.0),
        ("callgate_auth_verdicts_total{method=app,verdict=admit}", 2.0),
        ("callgate_auth_verdicts_total{method=none,verdict=abstain}", 1.0),
        ("callgate_logins_total{act=pbx_session,outcome=granted}", 1.0),
        ("callgate_logins_total{act=voximplant_token,outcome=granted}", 1.0),
        ("callgate_pbx_mints_total{outcome=ok}", 1.0),
    ] {
        gate.counts(series, value).await;
    }
}

#[tokio::test]
async fn an_injected_redirect_is_counted_as_one() {
    let app = RawUpstream::answering(
        "HTTP/1.1 302 Found\r\nLocation: https://pbx.test/welcome.htm\r\nPBX-Account: 40\r\nPBX-Domain: acme.test\r\n\
         Content-Length: 0\r\n\r\n",
    )
    .await;
    let rules = "[[allow]]\nauth = \"redirect\"\npbx = { domain = \"{domain}\", account = \"{account}\" }";
    let stage = Plan { rules, app_at: Some(app.addr), ..Plan::default() }.start().await;
    let answer = stage.gate.get("/go").send().await.expect(302);
    assert!(answer.header("location").contains("sessId="));
    stage.gate.counts("callgate_exchanges_total{route=injected,status=3xx}", 1.0).await;
    stage.gate.counts("callgate_auth_verdicts_total{method=redirect,verdict=admit}", 1.0).await;
}

#[tokio::test]
async fn limits_and_refusals_are_counted() {
    let limits = "client = \"1/min\"\nfailures = \"100/min\"\ncaller = \"100/min\"\naccount = \"100/min\"\npbx_logins = \"100/min\"";
    let stage = Plan { limits, ..Plan::default() }.start().await;
    stage.gate.get("/auth/pbx").cookie("session=0123456789abcdef").send().await.expect(401);
    stage.gate.get("/auth/pbx").send().await.expect(429);
    stage.gate.counts("callgate_limited_total{limit=client}", 1.0).await;
    stage.gate.counts("callgate_logins_total{act=pbx_session,outcome=refused}", 1.0).await;
    stage.gate.counts("callgate_auth_verdicts_total{method=app,verdict=stranger}", 1.0).await;
}

#[tokio::test]
async fn connections_handshakes_and_upstream_connections_are_counted() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    for _ in 0..3 {
        tls.write_all(GET).await.unwrap();
        assert_eq!(status(&read_head(&mut tls).await), 200);
        tls.read_exact(&mut [0; 2]).await.unwrap();
    }
    let mut stranger = TcpStream::connect(gate.addr).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    stranger.read_to_end(&mut Vec::new()).await.unwrap_or_default();
    for (series, value) in [
        ("callgate_connections_accepted_total{}", 2.0),
        ("callgate_connections_total{protocol=h1}", 1.0),
        ("callgate_connections_open{protocol=h1}", 1.0),
        ("callgate_tls_handshakes_total{result=full,version=1.3}", 1.0),
        ("callgate_tls_handshakes_total{result=failed,version=none}", 1.0),
        ("callgate_upstream_connects_total{result=ok,upstream=app}", 1.0),
        ("callgate_upstream_requests_total{connection=new,upstream=app}", 1.0),
        ("callgate_upstream_requests_total{connection=reused,upstream=app}", 2.0),
        ("callgate_body_bytes_total{direction=sent}", 6.0),
    ] {
        gate.counts(series, value).await;
    }
    drop(tls);
    gate.counts("callgate_connections_open{protocol=h1}", 0.0).await;
}

#[tokio::test]
async fn a_resumed_session_is_counted_apart_from_a_new_one() {
    let gate = Gate::before(RawUpstream::ok().await.addr).await;
    let config = std::sync::Arc::new(gate.client_config());
    for _ in 0..2 {
        let connector = tokio_rustls::TlsConnector::from(config.clone());
        let stream = TcpStream::connect(gate.addr).await.unwrap();
        let mut tls = connector.connect("app.test".try_into().unwrap(), stream).await.unwrap();
        // The tickets come with the first answer.
        tls.write_all(GET).await.unwrap();
        read_head(&mut tls).await;
    }
    gate.counts("callgate_tls_handshakes_total{result=full,version=1.3}", 1.0).await;
    gate.counts("callgate_tls_handshakes_total{result=resumed,version=1.3}", 1.0).await;
}

#[tokio::test]
async fn a_retry_and_a_broken_answer_are_counted() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.request().await;
        if line.nth == 0 {
            line.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            // The second request on this connection is read and not answered.
            line.request().await;
        } else {
            line.say("nonsense\r\n\r\n").await;
        }
    })
    .await;
    let gate = Gate::before(upstream.addr).await;
    gate.get("/").send().await.expect(200);
    gate.get("/").send().await.expect(502);
    gate.counts("callgate_upstream_retries_total{upstream=app}", 1.0).await;
    gate.counts("callgate_upstream_errors_total{error=broken,upstream=app}", 1.0).await;
    gate.counts("callgate_upstream_connects_total{result=ok,upstream=app}", 2.0).await;
}

#[tokio::test]
async fn tunnels_are_counted_with_their_ends() {
    let upstream = RawUpstream::serving(|mut line| async move {
        line.head().await;
        line.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello").await;
        line.rest().await;
    })
    .await;
    let gate = Gate::before_with(upstream.addr, "", "[server.timeouts]\ntunnel_idle = \"300ms\"").await;
    let open = async || {
        let mut tls = gate.raw("app.test", "http/1.1").await;
        let ask = b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        tls.write_all(ask).await.unwrap();
        assert_eq!(status(&read_head(&mut tls).await), 101);
        tls.read_exact(&mut [0; 5]).await.unwrap();
        tls
    };
    let mut closed = open().await;
    assert_eq!(gate.metric("callgate_tunnels_open{}"), 1.0);
    closed.shutdown().await.unwrap();
    gate.counts("callgate_tunnels_ended_total{reason=closed}", 1.0).await;
    let _idle = open().await;
    gate.counts("callgate_tunnels_ended_total{reason=idle}", 1.0).await;
    gate.counts("callgate_tunnels_open{}", 0.0).await;
    assert_eq!(gate.metric("callgate_tunnels_total{}"), 2.0);
    assert_eq!(gate.metric("callgate_exchanges_total{route=app,status=1xx}"), 2.0);
    gate.counts("callgate_exchanges_in_flight{}", 0.0).await;
    gate.counts("callgate_body_bytes_total{direction=sent}", 10.0).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_is_counted_as_that() {
    let upstream = RawUpstream::silent().await;
    let gate = Gate::before(upstream.addr).await;
    let mut tls = gate.raw("app.test", "http/1.1").await;
    tls.write_all(GET).await.unwrap();
    until("the request is on its way", || !upstream.seen().is_empty()).await;
    drop(tls);
    gate.counts("callgate_exchanges_total{route=app,status=none}", 1.0).await;
    gate.counts("callgate_exchanges_aborted_total{route=app}", 1.0).await;
}

#[tokio::test]
async fn reloads_are_counted_and_counts_live_on() {
    let upstream = RawUpstream::ok().await;
    let mut gate = Gate::before(upstream.addr).await;
    gate.get("/").send().await.expect(200);
    let loaded = gate.metric("callgate_config_loaded_timestamp_seconds{}");
    assert!(loaded > 1e9, "{loaded}");
    let text = format!("workers = 1\n[app]\nurl = \"http://{}\"\nlogin = \"/login\"", upstream.addr);
    gate.reload(&text).await.unwrap();
    gate.reload(&text.replace("workers = 1", "workers = 2")).await.unwrap_err();
    gate.get("/").send().await.expect(200);
    for (series, value) in [
        ("callgate_config_reloads_total{result=ok}", 1.0),
        ("callgate_config_reloads_total{result=failed}", 1.0),
        ("callgate_exchanges_total{route=app,status=2xx}", 2.0),
    ] {
        gate.counts(series, value).await;
    }
    assert_eq!(body(&gate.told("/readyz?verbose")), "app: ok\nstate: ok\ncertificates: ok\nlog: ok\ndrain: ok\nok\n");
}

#[tokio::test]
async fn an_address_that_is_taken_is_said_with_its_name() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = TempDir::new().unwrap();
    let address = taken.local_addr().unwrap();
    let config = config(&dir, &format!("[admin]\nlisten = \"{address}\""));
    let logs = Logs::discarding(gate::FORMAT).unwrap();
    let error = Server::start(config, logs).err().unwrap();
    assert_eq!(error.to_string(), format!("cannot listen at {address}"));
}

/// Programs that connect and say nothing, or do not take their answer, hold up no probe.
#[tokio::test]
async fn silent_connections_make_room_for_a_probe() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before_with(upstream.addr, "", TCP).await;
    let Listen::Tcp(address) = *gate.admin() else { panic!("it is on TCP") };
    let mut held = Vec::new();
    for nth in 0..200 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if nth % 2 == 0 {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: local").await.unwrap();
        }
        held.push(stream);
    }
    let begun = std::time::Instant::now();
    for path in ["/livez", "/readyz"] {
        assert_eq!(status(&gate.told(path)), 200, "{path}");
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
    // The newest are still heard.
    let last = held.last_mut().unwrap();
    last.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(last).await), 200);
}
