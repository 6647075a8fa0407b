//! Host and target of a request: exactly one host, and a target that arrives byte for byte.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::client::status;
use crate::kit::gate::Gate;
use crate::kit::upstream::{RawUpstream, passed};

/// A gate with two hosts before two upstreams.
async fn two_hosts() -> (Gate, RawUpstream, RawUpstream) {
    let app = RawUpstream::answering("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\napp").await;
    let pbx = RawUpstream::answering("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\npbx").await;
    let text = format!(
        "[app]\nurl = \"http://{}\"\n[pbx]\nurl = \"http://{}\"\nhosts = [\"pbx.test\", \"*.pbx.test\"]",
        app.addr, pbx.addr
    );
    (Gate::start(&text).await, app, pbx)
}

#[tokio::test]
async fn trap_hyper_accepts_no_host_and_we_do_not() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.test\r\nHost: app.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.test\r\nHost: pbx.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.test, pbx.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.test pbx.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.test/\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: http://app.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@app.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: :\r\n\r\n",
        "GET / HTTP/1.0\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.test:0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.test:99999\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.test:80:80\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.test#\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.test?\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app%2etest\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app..test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: .\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [app.test]\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: \u{e4}pp.test\r\n\r\n",
        "GET http://pbx.test/ HTTP/1.1\r\nHost: app.test\r\n\r\n",
        "GET http://app.test:81/ HTTP/1.1\r\nHost: app.test\r\n\r\n",
        "GET http://user@app.test/ HTTP/1.1\r\nHost: app.test\r\n\r\n",
        "GET ftp://app.test/ HTTP/1.1\r\nHost: app.test\r\n\r\n",
        "GET http:///x HTTP/1.1\r\nHost: app.test\r\n\r\n",
        "GET app.test:443 HTTP/1.1\r\nHost: app.test:443\r\n\r\n",
        "GET app.test HTTP/1.1\r\nHost: app.test\r\n\r\n",
        "GET x/y HTTP/1.1\r\nHost: app.test\r\n\r\n",
        "GET ?x HTTP/1.1\r\nHost: app.test\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ] {
        assert_eq!(status(&gate.exchange(request.as_bytes()).await), 400, "{request:?}");
    }
    assert_eq!(upstream.seen(), [""; 0]);
}

#[tokio::test]
async fn cve_2026_71324_connect_and_trace_go_nowhere() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for (line, expected) in [
        ("CONNECT app.test:443", 405),
        ("CONNECT /", 405),
        ("TRACE /", 405),
        ("TRACE /auth/pbx", 405),
        ("trace /", 405),
        ("OPTIONS *", 204),
    ] {
        let request = format!("{line} HTTP/1.1\r\nHost: app.test:443\r\nConnection: close\r\n\r\n");
        let answer = gate.exchange(request.as_bytes()).await;
        assert_eq!(status(&answer), expected, "{line}: {answer}");
        assert_eq!(answer.contains("\r\nallow: "), expected == 405, "{line}: {answer}");
    }
    assert_eq!(upstream.seen(), [""; 0]);
}

/// Envoy CVE-2021-29492, Traefik #12380.
#[tokio::test]
async fn envoy_2021_29492_targets_go_upstream_byte_for_byte() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for target in [
        "/",
        "/?",
        "/??a=b&&c==d&e",
        "//path",
        "///path//x//",
        "/./a/../b/.",
        "/a/%2e%2e/%2E/b",
        "/%00",
        "/%2f%2F%5c%5C",
        "/%zz/%/%e",
        "/a;b=c;d/e;",
        "/~!$&'()*+,=:@-._",
        "/{a}|[b]\"^?`",
        "/a\\b",
        "/\u{e9}/\u{4e2d}?\u{e9}=\u{1f600}",
        "/%c3%28%ff",
        "/A/b/%41",
        "/auth/other",
        "/x?url=https://other.test/a/../b#",
        "/x?q=%23%26+%2b",
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
        let answer = gate.exchange(request.as_bytes()).await;
        let Some(seen) = upstream.seen().pop() else { panic!("{target}: {answer}") };
        if target.ends_with('#') {
            continue;
        }
        assert_eq!(passed(&seen).0, format!("GET {target} HTTP/1.1"), "{answer}");
    }
}

#[tokio::test]
async fn a_matching_absolute_target_becomes_a_path() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for (target, host, path) in [
        ("http://app.test/a?b=c", "app.test", "/a?b=c"),
        ("https://app.test//a/../b", "app.test", "//a/../b"),
        ("http://APP.test:8443/", "app.TEST:8443", "/"),
        ("http://app.test", "app.test", "/"),
        ("http://app.test?b", "app.test", "/?b"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = gate.exchange(request.as_bytes()).await;
        assert_eq!(status(&answer), 200, "{target}: {answer}");
        let (line, fields, _) = passed(&upstream.seen().pop().unwrap());
        assert_eq!((line.as_str(), fields), (&*format!("GET {path} HTTP/1.1"), vec![format!("host: {host}")]));
    }
}

#[tokio::test]
async fn host_arrives_as_the_client_wrote_it() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for host in [
        "app.test",
        "App.Test:8443",
        "127.0.0.1",
        "[::1]:8443",
        "a_b.test",
        "app.test.",
        "app.test:",
        "xn--bcher-kva.test",
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(status(&gate.exchange(request.as_bytes()).await), 200, "{host}");
        assert_eq!(passed(&upstream.seen().pop().unwrap()).1, [format!("host: {host}")]);
    }
}

#[tokio::test]
async fn a_request_of_http_1_0_without_host_is_for_the_name_of_the_handshake() {
    let (gate, _app, _pbx) = two_hosts().await;
    for (name, expected) in [("app.test", "app"), ("pbx.test", "pbx")] {
        let mut tls = gate.raw(name, "http/1.1").await;
        tls.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        tls.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with(expected), "{name}: {answer}");
    }
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    assert_eq!(status(&gate.exchange(b"GET /a HTTP/1.0\r\n\r\n").await), 200);
    assert_eq!(passed(&upstream.seen().pop().unwrap()).1, ["host: app.test"]);
}

#[tokio::test]
async fn requests_are_routed_by_their_own_host() {
    let (gate, _app, _pbx) = two_hosts().await;
    for (host, expected) in [
        ("app.test", "app"),
        ("pbx.test", "pbx"),
        ("PBX.Test", "pbx"),
        ("pbx.test:8443", "pbx"),
        ("pbx.test.", "pbx"),
        ("acme.pbx.test", "pbx"),
        ("xpbx.test", "app"),
        ("pbx.test.evil", "app"),
    ] {
        // The name in the handshake is another one all the time.
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = gate.exchange(request.as_bytes()).await;
        assert!(answer.ends_with(&format!("\r\n\r\n{expected}")), "{host}: {answer}");
    }
}

#[tokio::test]
async fn an_unknown_host_is_misdirected() {
    let pbx = RawUpstream::ok().await;
    let gate = Gate::start(&format!("[pbx]\nurl = \"http://{}\"\nhosts = [\"pbx.test\"]", pbx.addr)).await;
    gate.get("/").host("app.test").send().await.expect(421);
    gate.get("/").host("pbx.test").send().await.expect(200);
}

/// Envoy CVE-2021-29492, Caddy CVE-2026-27587.
#[tokio::test]
async fn disguised_login_paths_are_refused() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    for path in [
        "//auth/ott",
        "/auth//ott",
        "/./auth/ott",
        "/x/../auth/ott",
        "/auth/%6ftt",
        "/auth%2fott",
        "/Auth/ott",
        "/auth/ott;x",
        "/auth/ott;",
        "/auth\\ott",
        "/auth/x/..;/ott",
        "/auth/%2e/pbx",
        "//auth/callgate/ticket",
        "/AUTH/callgate/ticket",
        "/auth/callgate/../pbx",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
        assert_eq!(status(&gate.exchange(request.as_bytes()).await), 400, "{path}");
    }
    assert_eq!(upstream.seen(), [""; 0]);
}

#[tokio::test]
async fn redirect_http_leads_to_the_same_place_over_tls() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let upstream = RawUpstream::ok().await;
    let gate =
        Gate::start(&format!("redirect_http = \"127.0.0.1:0\"\n[app]\nurl = \"http://{}\"", upstream.addr)).await;
    let (port, plain) = (gate.addr.port(), gate.redirect.unwrap().port());
    let named = format!("GET /a//b?c=%2f HTTP/1.1\r\nHost: app.test:{plain}\r\n\r\n");
    for (request, expected) in [
        (named.as_str(), Some(format!("https://app.test:{port}/a//b?c=%2f"))),
        // It came to port 80, which is not listened on: the ports outside are the usual ones.
        ("GET /a//b?c=%2f HTTP/1.1\r\nHost: app.test\r\n\r\n", Some("https://app.test/a//b?c=%2f".to_owned())),
        ("POST / HTTP/1.1\r\nHost: App.test:80\r\nContent-Length: 0\r\n\r\n", Some("https://app.test/".to_owned())),
        ("GET //evil.test HTTP/1.1\r\nHost: app.test\r\n\r\n", Some("https://app.test//evil.test".to_owned())),
        ("GET /x HTTP/1.1\r\nHost: evil.test@app.test\r\n\r\n", None),
        ("GET /x HTTP/1.1\r\nHost: app.test/evil\r\n\r\n", None),
        ("GET /x HTTP/1.1\r\nHost: app.test\r\nHost: evil.test\r\n\r\n", None),
        ("GET http://evil.test/ HTTP/1.1\r\nHost: app.test\r\n\r\n", None),
        ("GET /x HTTP/1.1\r\n\r\n", None),
        ("OPTIONS * HTTP/1.1\r\nHost: app.test\r\n\r\n", None),
    ] {
        let mut stream = tokio::net::TcpStream::connect(gate.redirect.unwrap()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(status(&answer), if expected.is_some() { 308 } else { 400 }, "{request:?}: {answer}");
        let location = answer.lines().find_map(|line| line.strip_prefix("location: ")).map(str::to_owned);
        assert_eq!(location, expected, "{request:?}");
    }
    assert_eq!(upstream.seen(), [""; 0]);
}

#[tokio::test]
async fn redirect_http_leads_to_the_port_that_is_configured() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let text = "redirect_http = { listen = \"127.0.0.1:0\", port = 9443 }\n[app]\nurl = \"http://127.0.0.1:1\"";
    let gate = Gate::start(text).await;
    for host in ["app.test", "app.test:80", "app.test:8000"] {
        let mut stream = tokio::net::TcpStream::connect(gate.redirect.unwrap()).await.unwrap();
        stream.write_all(format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("location: https://app.test:9443/x\r\n"), "{host}: {answer}");
    }
}

#[tokio::test]
async fn a_head_without_an_end_does_not_fill_memory_by_redirect_http() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let upstream = RawUpstream::ok().await;
    let gate =
        Gate::start(&format!("redirect_http = \"127.0.0.1:0\"\n[app]\nurl = \"http://{}\"", upstream.addr)).await;
    let mut stream = tokio::net::TcpStream::connect(gate.redirect.unwrap()).await.unwrap();
    let mut head = "GET / HTTP/1.1\r\nHost: app.test\r\nCookie: ".to_owned();
    // Not a byte more, which would be left unread and reset the answer.
    head.push_str(&"a".repeat((64 << 10) - head.len()));
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 431);
}
