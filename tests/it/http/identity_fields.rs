//! Identity fields of a client are removed; callgate sets its own.

use crate::kit::gate::Gate;
use crate::kit::upstream::RawUpstream;

const CLAIMS: [&str; 47] = [
    "X-Forwarded-For",
    "x-forwarded-for",
    "X_Forwarded_For",
    "X.Forwarded.For",
    "x-forwarded_for",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Server",
    "X-Forwarded-User",
    "X-Forwarded-Anything",
    "X-Forwarded",
    "Forwarded",
    "X-Real-IP",
    "X_Real_IP",
    "X-Original-URL",
    "X-Original-Host",
    "X_Original_Uri",
    "X-Rewrite-URL",
    "X-Request-Id",
    "x_request_id",
    "Client-Cert",
    "Client-Cert-Chain",
    "X-SSL-Client-Verify",
    "SSL_Client_S_DN",
    "X-Client-Cert",
    "Client-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "CF-Connecting-IPv6",
    "Fastly-Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "Forwarded-For",
    "X-Remote-Addr",
    "Remote_User",
    "X-Remote-User",
    "X-ProxyUser-Ip",
    "WL-Proxy-Client-IP",
    "X-Azure-ClientIP",
    "Fly-Client-IP",
    "X-Appengine-User-IP",
    "X-Envoy-External-Address",
    "X-ARR-ClientCert",
    "X-WebAuth-User",
    "Proxy",
];

/// oauth2-proxy CVE-2025-64484, Caddy CVE-2026-30851.
#[tokio::test]
async fn cve_2025_64484_no_client_sent_identity_field_survives() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    let claims: String = CLAIMS.iter().map(|name| format!("{name}: 10.66.66.66\r\n{name}: evil\r\n")).collect();
    let request = format!("GET / HTTP/1.1\r\nHost: App.test:8443\r\nConnection: close\r\n{claims}\r\n");
    gate.exchange(request.as_bytes()).await;
    check(&upstream.seen().pop().unwrap(), "App.test:8443");
    let mut asking = gate.get("/").h2();
    for name in CLAIMS {
        asking = asking.header(name, "evil");
    }
    asking.send().await.expect(200);
    check(&upstream.seen().pop().unwrap(), "app.test");
}

#[track_caller]
fn check(seen: &str, host: &str) {
    assert!(!seen.contains("10.66.66.66") && !seen.contains("evil"), "{seen}");
    let quote = if host.contains(':') { "\"" } else { "" };
    for field in [
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: https",
        &format!("x-forwarded-host: {host}"),
        &format!("forwarded: for=127.0.0.1;host={quote}{host}{quote};proto=https"),
    ] {
        assert_eq!(seen.matches(&format!("{field}\r\n")).count(), 1, "{field}: {seen}");
    }
    let ids: Vec<_> = seen.lines().filter_map(|line| line.strip_prefix("x-request-id: ")).collect();
    assert!(ids.len() == 1 && ids[0].len() == 32, "{seen}");
}

#[tokio::test]
async fn more_fields_that_an_app_believes_go_no_further() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before_with(upstream.addr, "", "[server]\nstrip_fields = [\"X-Tenant\", \"x-who\"]").await;
    for name in ["X-Tenant", "x_tenant", "X.Tenant", "X-WHO"] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n{name}: evil\r\nX-Tenants: good\r\n\
             Trailer: {name}, x-sum\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{name}: evil\r\nX-Sum: 1\r\n\r\n"
        );
        gate.exchange(request.as_bytes()).await;
        let seen = upstream.seen().pop().unwrap();
        assert!(!seen.contains("evil") && seen.contains("x-tenants: good\r\n") && seen.contains("x-sum: 1"), "{seen}");
        gate.get("/").h2().header(name, "evil").send().await.expect(200);
        assert!(!upstream.seen().pop().unwrap().contains("evil"), "{name}");
    }
    let named = "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close, X-Tenant\r\n\r\n";
    assert!(gate.exchange(named.as_bytes()).await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn the_log_line_and_the_upstream_know_the_exchange_by_one_name() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before(upstream.addr).await;
    gate.get("/x").from("127.0.0.9").send().await.expect(200);
    let seen = upstream.seen().pop().unwrap();
    assert!(seen.contains("x-forwarded-for: 127.0.0.9\r\n"), "{seen}");
    let id = seen.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap().to_owned();
    // The line is written when the answer's body is gone, which is a moment after the client has it.
    let log = loop {
        let log = gate.log();
        if !log.is_empty() {
            break log;
        }
        tokio::task::yield_now().await;
    };
    assert!(log.contains(&id) && log.contains("127.0.0.9"), "{log}");
}
