//! Reload: a new configuration replaces the running one as a whole or not at all, and no active exchange is lost.

use std::fs;
use std::sync::Arc;

use callgate::model::ott::{VoximplantUser, users_line};
use callgate::tls::dev;
use rustix::fs::{CWD, Mode};
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::kit::client::{read_head, status};
use crate::kit::gate::{Gate, VOX_PASSWORD, secret};
use crate::kit::program::{Program, certify, check_echo, echo, tunnel};
use crate::kit::stage::{Plan, Stage};
use crate::kit::upstream::RawUpstream;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";

// === A program with its files ===

async fn get(tls: &mut TlsStream<TcpStream>) -> u16 {
    tls.write_all(GET).await.unwrap();
    let head = read_head(tls).await;
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(2)];
    tls.read_exact(&mut body).await.unwrap();
    status(&head)
}

// === What a reload does ===

#[tokio::test]
async fn under_load_neither_a_hangup_nor_a_new_certificate_costs_a_request() {
    let upstream = RawUpstream::ok().await;
    let mut program = Program::before(upstream.addr, "").await;
    program.change("[log]", "timeouts = { connect = \"1s\" }\n[log]");
    let load = program.load();
    for round in 0..10 {
        load.more(50).await;
        // Each time the upstream gets new connections, and the load another pool.
        program.change(&format!("connect = \"{}s\"", round + 1), &format!("connect = \"{}s\"", round + 2));
        program.running.signal("-HUP");
        program.running.complaint("reloaded").await;
    }
    load.more(200).await;
    load.stop().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_without_a_signal_and_resting_connections_go_on() {
    let upstream = RawUpstream::ok().await;
    let mut program = Program::before(upstream.addr, "").await;
    let mut before = program.connect().await;
    assert_eq!(get(&mut before).await, 200);
    program.roots.add(certify(program.dir.path())).unwrap();
    let load = program.load();
    let told = program.running.complaint("reloaded").await;
    assert!(told.contains("fullchain.pem") && told.contains("privkey.pem") && !told.contains("proxy.toml"), "{told}");
    load.more(200).await;
    load.stop().await;
    let mut after = program.connect().await;
    assert_eq!((get(&mut before).await, get(&mut after).await), (200, 200));
    let shown = |tls: &TlsStream<TcpStream>| tls.get_ref().1.peer_certificates().unwrap()[0].clone();
    assert_ne!(shown(&before), shown(&after));
}

#[tokio::test]
async fn a_resting_connection_meets_the_new_configuration_and_a_bad_one_changes_nothing() {
    let [one, two] = [
        RawUpstream::ok().await,
        RawUpstream::answering("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno").await,
    ];
    let mut program = Program::before(one.addr, "").await;
    let mut tls = program.connect().await;
    assert_eq!(get(&mut tls).await, 200);
    program.change("[app]", "[app]\nhots = [\"app.test\"]\nurk = 1");
    let told = program.running.complaint("unknown key").await;
    assert!(told.contains("proxy.toml:5:1: unknown key `app.hots`"), "{told}");
    program.running.complaint("`app.urk`").await;
    program.running.complaint("not reloaded").await;
    assert_eq!(get(&mut tls).await, 200);
    program.change("hots = [\"app.test\"]\nurk = 1", "hosts = [\"app.test\"]");
    program.change(&one.addr.to_string(), &two.addr.to_string());
    // The next thing told: what is wrong is told once, not at each look.
    let mended = program.running.next_complaint().await;
    assert!(mended.contains("reloaded: the error is corrected"), "{mended}");
    assert_eq!(get(&mut tls).await, 404);
}

#[tokio::test]
async fn a_key_without_its_certificate_is_not_taken_and_the_rest_is() {
    let [one, two] = [
        RawUpstream::ok().await,
        RawUpstream::answering("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno").await,
    ];
    let mut program = Program::before(one.addr, "").await;
    let other = dev::certificate(&["app.test"]).unwrap();
    fs::remove_file(program.file("privkey.pem")).unwrap();
    secret(&program.dir, "privkey.pem", &other.key);
    program.change(&one.addr.to_string(), &two.addr.to_string());
    program.running.signal("-HUP");
    // What is wrong with a certificate is said apart from the reload, before or after it.
    program.running.complaint("does not belong").await;
    while get(&mut program.connect().await).await != 404 {}
}

#[tokio::test]
async fn a_pipe_in_the_place_of_a_file_holds_up_neither_a_reload_nor_the_end() {
    let upstream = RawUpstream::ok().await;
    let mut program = Program::before(upstream.addr, "").await;
    for name in ["fullchain.pem", "proxy.toml"] {
        fs::remove_file(program.file(name)).unwrap();
        rustix::fs::mkfifoat(CWD, program.file(name), Mode::RUSR | Mode::WUSR).unwrap();
        program.running.signal("-HUP");
        program.running.complaint("it is a pipe or a device").await;
        assert_eq!(get(&mut program.connect().await).await, 200);
    }
    program.running.complaint("not reloaded").await;
    program.running.signal("-TERM");
    program.running.complaint("draining").await;
}

#[tokio::test]
async fn a_change_of_sockets_or_threads_is_refused_as_a_whole() {
    let upstream = RawUpstream::ok().await;
    let mut program = Program::before(upstream.addr, "").await;
    program.change("workers = 2", "workers = 1\nredirect_http = \"127.0.0.1:0\"");
    program.change("[app]", "[app]\nhosts = [\"nobody.test\"]");
    program.running.signal("-HUP");
    let told = program.running.complaint("not reloaded").await;
    assert!(told.contains("`redirect_http`, `workers` cannot change while the gate runs"), "{told}");
    assert_eq!(get(&mut program.connect().await).await, 200);
}

/// Caddy #5471.
#[tokio::test]
async fn a_tunnel_outlives_a_reload() {
    let upstream = echo().await;
    let mut program = Program::before(upstream.addr, "").await;
    let mut tunnel = tunnel(&program).await;
    check_echo(&mut tunnel).await;
    program.change("[app]", "[app]\nhosts = [\"elsewhere.test\"]");
    program.running.signal("-HUP");
    program.running.complaint("reloaded").await;
    check_echo(&mut tunnel).await;
}

#[tokio::test]
async fn log_files_that_were_moved_away_are_made_anew_at_a_hangup() {
    let upstream = RawUpstream::ok().await;
    let mut program = Program::before(upstream.addr, "").await;
    program.change("access = \"off\"", "access = \"./access.log\"");
    program.running.signal("-HUP");
    program.running.complaint("reloaded").await;
    assert_eq!(get(&mut program.connect().await).await, 200);
    crate::kit::stage::until("the line is there", || {
        fs::read_to_string(program.file("access.log")).is_ok_and(|text| text.contains("status=200"))
    })
    .await;
    fs::rename(program.file("access.log"), program.file("access.log.1")).unwrap();
    program.running.signal("-HUP");
    crate::kit::stage::until("the file is there", || program.file("access.log").exists()).await;
}

#[tokio::test]
async fn the_level_of_events_changes() {
    let upstream = RawUpstream::ok().await;
    let mut program = Program::before(upstream.addr, "").await;
    program.change("[log]", "[log]\nlevel = \"debug\"\nformat = \"json\"");
    program.running.signal("-HUP");
    program.running.complaint("{").await;
    drop(TcpStream::connect(program.addr).await.unwrap());
    program.running.complaint("\"no handshake\"").await;
}

// === What goes on ===

#[tokio::test]
async fn upstream_connections_are_kept_where_their_settings_are() {
    let upstream = RawUpstream::serving(|mut line| async move {
        while line.request().await.is_some() {
            let length = line.nth.to_string().len();
            let nth = line.nth;
            line.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{nth}")).await;
        }
    })
    .await;
    let text = |more: &str| format!("workers = 1\n[app]\nurl = \"http://{}\"\n{more}", upstream.addr);
    let mut gate = Gate::start(&text("")).await;
    assert_eq!(gate.get("/").send().await.text(), "0");
    gate.reload(&text("[server]\ndrain = \"7s\"")).await.unwrap();
    assert_eq!(gate.get("/").send().await.text(), "0");
    gate.reload(&text("timeouts = { keep_alive = \"3s\" }")).await.unwrap();
    assert_eq!(gate.get("/").send().await.text(), "1");
}

#[tokio::test]
async fn clients_resume_their_sessions_while_the_certificate_is_the_same() {
    let upstream = RawUpstream::ok().await;
    let text = |more: &str| format!("workers = 1\n[app]\nurl = \"http://{}\"\n{more}", upstream.addr);
    let mut gate = Gate::start(&text("")).await;
    let config = Arc::new(gate.client_config());
    let handshake = |config: &Arc<rustls::ClientConfig>, addr| {
        let connector = TlsConnector::from(Arc::clone(config));
        async move {
            let stream = TcpStream::connect(addr).await.unwrap();
            let mut tls = connector.connect(ServerName::try_from("app.test").unwrap(), stream).await.unwrap();
            assert_eq!(get(&mut tls).await, 200);
            tls.get_ref().1.handshake_kind().unwrap()
        }
    };
    assert_eq!(handshake(&config, gate.addr).await, HandshakeKind::Full);
    assert_eq!(handshake(&config, gate.addr).await, HandshakeKind::Resumed);
    gate.reload(&text("[server]\ndrain = \"7s\"")).await.unwrap();
    assert_eq!(handshake(&config, gate.addr).await, HandshakeKind::Resumed);
}

#[tokio::test]
async fn counts_go_on_until_their_limit_changes() {
    let mut stage = Plan { limits: "client = \"2/h\"", ..Plan::default() }.start().await;
    let ask = async |stage: &Stage| stage.gate.get("/auth/pbx").send().await.status.as_u16();
    assert_eq!([ask(&stage).await, ask(&stage).await, ask(&stage).await], [401, 401, 429]);
    let same = stage.gate.text.clone();
    stage.gate.reload(&same).await.unwrap();
    assert_eq!(ask(&stage).await, 429);
    stage.gate.reload(&same.replace("2/h", "3/h")).await.unwrap();
    assert_eq!(ask(&stage).await, 401);
}

#[tokio::test]
async fn a_new_line_of_the_users_file_is_a_new_user() {
    let mut stage = Stage::new().await;
    stage.claims(serde_json::json!({ "ext": "40", "tenant": "acme.test", "vox": "carol" }));
    let ask = async |stage: &Stage| {
        let form = "key=0123456789abcdef&appUser=carol";
        stage.alice_posts("/auth/ott", "application/x-www-form-urlencoded", form).send().await.status.as_u16()
    };
    assert_eq!(ask(&stage).await, 403);
    let carol = users_line(&"carol".parse::<VoximplantUser>().unwrap(), VOX_PASSWORD);
    secret(&stage.gate.dir, "voximplant.htdigest", &format!("{carol}\n"));
    let same = stage.gate.text.clone();
    stage.gate.reload(&same).await.unwrap();
    assert_eq!(ask(&stage).await, 200);
}
