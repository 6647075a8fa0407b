//! `Expect: 100-continue` ends at callgate: the client gets 100 only when its body will be read.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::client::{read_head, status};
use crate::kit::gate::Gate;
use crate::kit::stage::Plan;
use crate::kit::upstream::RawUpstream;

/// Returns the statuses of all answers in what came, interim ones too.
fn statuses(came: &str) -> Vec<u16> {
    came.split("HTTP/1.").skip(1).map(|answer| status(&format!("HTTP/1.{answer}"))).collect()
}

fn post(target: &str, host: &str, fields: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\n{fields}\r\n")
}

#[tokio::test]
async fn a_100_comes_only_after_the_upstreams_connection_stands() {
    // TLS to a server that never says anything.
    let upstream = RawUpstream::serving(|mut line| async move { drop(line.rest().await) }).await;
    let text =
        format!("[app]\nurl = \"https://localhost:{}\"\ntimeouts = {{ connect = \"400ms\" }}", upstream.addr.port());
    let gate = Gate::start(&text).await;
    let answer = gate.exchange(post("/", "app.test", "Content-Length: 5\r\n").as_bytes()).await;
    assert_eq!(statuses(&answer), [504], "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn a_refused_client_gets_no_100() {
    let stage = Plan { limits: "pbx_logins = \"1/min\"", ..Plan::default() }.start().await;
    let alice = format!("Cookie: {}\r\n", stage.app.log_in("alice"));
    let session = "/rest/system/session";
    stage.gate.post(session, "application/json", "{}").host("pbx.test").send().await;
    let large = format!("{alice}Content-Type: application/x-www-form-urlencoded\r\n");
    for (target, host, fields, expected) in [
        ("/", "app.test\r\nHost: pbx.test", "", 400),
        ("/", "app.test", "Connection: host\r\n", 400),
        ("/auth//ott", "app.test", "", 400),
        (&*format!("/{}", "x".repeat(17 << 10)), "app.test", "", 414),
        (session, "pbx.test", "", 429),
        ("/auth/ott", "app.test", "", 401),
        ("/auth/ott", "app.test", &format!("{alice}Sec-Fetch-Site: cross-site\r\n"), 403),
        ("/auth/ott", "app.test", &format!("{alice}Content-Type: text/plain\r\n"), 415),
        ("/auth/ott", "app.test", &format!("{large}Content-Length: 5000\r\n"), 413),
        ("/auth/callgate/nothing", "app.test", "", 404),
    ] {
        let request = post(
            target,
            host,
            &if fields.contains("Length") { fields.to_owned() } else { format!("Content-Length: 5\r\n{fields}") },
        );
        let answer = stage.gate.exchange(request.as_bytes()).await;
        assert_eq!(statuses(&answer), [expected], "{} {fields:?}: {answer}", &target[..target.len().min(40)]);
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_login_says_continue_when_it_reads() {
    let stage = Plan::default().start().await;
    let fields = format!(
        "Cookie: {}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 6\r\nConnection: close\r\n",
        stage.app.log_in("alice")
    );
    let mut tls = stage.gate.raw("app.test", "http/1.1").await;
    tls.write_all(post("/auth/ott", "app.test", &fields).as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut tls).await, "HTTP/1.1 100 Continue\r\n\r\n");
    tls.write_all(b"key=k1").await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 200);
    let mut token = String::new();
    tls.read_to_string(&mut token).await.unwrap();
    stage.gate.canary(token);
}

#[tokio::test]
async fn an_http_1_0_client_never_gets_a_100() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let request = post("/", "app.test", "Content-Length: 5\r\n").replace("HTTP/1.1", "HTTP/1.0");
    let answer = gate.exchange(format!("{request}hello").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.0 200") && statuses(&answer) == [200], "{answer}");
    assert!(upstream.seen()[0].ends_with("\r\n\r\nhello"));
}

#[tokio::test]
async fn the_upstreams_verdict_on_the_body_passes() {
    for (says_first, says_then, expected) in [
        // It is told nothing of the expectation, and may refuse all the same.
        ("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n", "", [100, 417]),
        // Its own word to go on is not a second one for the client.
        ("HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", [100, 200]),
    ] {
        let upstream = RawUpstream::serving(move |mut line| async move {
            let head = line.head().await.unwrap_or_default();
            line.say(says_first).await;
            if !says_then.is_empty() {
                line.stream.read_exact(&mut [0; 5]).await.unwrap();
            }
            line.say(says_then).await;
            line.note(head);
            line.rest().await;
        })
        .await;
        let gate = Gate::before(upstream.addr).await;
        let mut tls = gate.raw("app.test", "http/1.1").await;
        let fields = "Content-Length: 5\r\nConnection: close\r\n";
        tls.write_all(post("/", "app.test", fields).as_bytes()).await.unwrap();
        let mut came = read_head(&mut tls).await;
        tls.write_all(b"hello").await.unwrap();
        let _ = tls.read_to_string(&mut came).await;
        assert_eq!(statuses(&came), expected, "{came}");
        assert!(!upstream.seen()[0].contains("expect"));
    }
}
