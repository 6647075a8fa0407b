//! What callgate itself fetches goes through the proxy of the environment; what leads to the operator's own machines does
//! not.

use std::net::SocketAddr;
use std::process::{Command, Output};

use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::commands::{callgate, run, text};
use crate::kit::gate::secret;
use crate::kit::issuer::{AUDIENCE, ISSUER, Publisher, Signer};
use crate::kit::oidc::SECRET;
use crate::kit::oidc::provider::{CLIENT, Provider};
use crate::kit::outbound_proxy::{BEHIND, TlsFront, USER, USER_SECRETS, leading_to, with_proxies};
use crate::kit::program::{Program, Successor, written};
use crate::kit::stage::until;
use crate::kit::upstream::RawUpstream;

/// Lines after `[log]`: everything is logged, and a method fetches its keys from an address.
fn fetching(address: &str, more: &str) -> String {
    format!(
        "level = \"trace\"\n[[auth]]\ntype = \"jwt\"\nname = \"tokens\"\njwks = \"{address}\"\nissuer = \"{ISSUER}\"\n\
         audience = \"{AUDIENCE}\"\n{more}"
    )
}

fn folder(app: SocketAddr, more: &str) -> TempDir {
    written(app, "listen = \"127.0.0.1:0\"\nworkers = 1", more).0
}

fn command(dir: &TempDir, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = with_proxies(callgate(arguments), variables);
    command.args(["--config", "proxy.toml"]).current_dir(dir.path());
    command
}

/// Runs `check --online`, and returns what it prints.
async fn checked(dir: &TempDir, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = run(command(dir, &["check", "--online"], variables)).await;
    (status.code(), text(&stdout) + &text(&stderr))
}

#[track_caller]
fn check_discreet(told: &str) {
    for secret in USER_SECRETS {
        assert!(!told.contains(secret), "{told}");
    }
}

/// Keys that a server publishes, with TLS before it and a proxy that leads to it.
struct Keys {
    publisher: Publisher,
    front: TlsFront,
    proxy: RawUpstream,
}

impl Keys {
    async fn behind(names: &[&str]) -> Self {
        let publisher = Publisher::start(&[Signer::ec().jwk("1")]).await;
        let front = TlsFront::before(publisher.addr, names).await;
        let proxy = leading_to(front.addr).await;
        Self { publisher, front, proxy }
    }
}

#[tokio::test]
async fn keys_are_fetched_through_the_proxy() {
    let (app, keys) = (RawUpstream::ok().await, Keys::behind(&[BEHIND]).await);
    let dir = folder(app.addr, &fetching(&format!("https://{BEHIND}/keys"), &keys.front.ca()));
    let proxy = keys.proxy.addr;
    let (code, told) = checked(&dir, &[("HTTPS_PROXY", &format!("http://{USER}@{proxy}"))]).await;
    assert_eq!(code, Some(0), "{told}");
    let way = format!("method \"tokens\"  keys at https://{BEHIND}/keys through the proxy {proxy} of HTTPS_PROXY ");
    assert!(told.contains(&way) && told.contains("keys: 1, for "), "{told}");
    check_discreet(&told);
    // The proxy learns the host and the port, and nothing else.
    let asked = format!(
        "CONNECT {BEHIND}:443 HTTP/1.1\r\nhost: {BEHIND}:443\r\nproxy-authorization: Basic {}\r\n\r\n",
        USER_SECRETS[2]
    );
    assert_eq!(keys.proxy.seen(), [asked]);

    // Any other certificate is refused, as without a proxy.
    let other = TlsFront::before(keys.publisher.addr, &["other.test"]).await;
    let dir = folder(app.addr, &fetching(&format!("https://{BEHIND}/keys"), &other.ca()));
    let proxy = leading_to(other.addr).await;
    let (code, told) = checked(&dir, &[("all_proxy", &format!("http://{}", proxy.addr))]).await;
    assert_eq!((code, proxy.seen().len()), (Some(78), 1), "{told}");
    assert!(told.contains("invalid peer certificate: certificate not valid for name"), "{told}");
}

#[tokio::test]
async fn a_gate_and_its_successor_use_the_proxy_but_not_for_the_app() {
    let (app, keys) = (RawUpstream::ok().await, Keys::behind(&[BEHIND]).await);
    let proxy = format!("http://{USER}@{}", keys.proxy.addr);
    let command = with_proxies(callgate(&[]), &["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"].map(|name| (name, &*proxy)));
    // An address of this machine that is not a loopback address.
    let app_at = SocketAddr::from(([0, 0, 0, 0], app.addr.port()));
    let more = fetching(&format!("https://{BEHIND}/keys"), &keys.front.ca());
    let mut program = Program::start_by(command, app_at, "listen = \"127.0.0.1:0\"\nworkers = 1", &more).await;
    until("the keys are fetched", || keys.publisher.asked() == 1).await;
    let mut tls = program.connect().await;
    tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let successor = Successor::of(&mut program).await;
    until("the successor fetches the keys", || keys.publisher.asked() == 2).await;
    assert_eq!((keys.proxy.seen().len(), app.seen().len()), (2, 1));
    successor.signal("-TERM");
    program.running.terminate();
    let (_, told) = program.running.end().await;
    check_discreet(&told);
}

#[tokio::test]
async fn exceptions_and_loopback_addresses_are_reached_directly() {
    let (app, keys) = (RawUpstream::ok().await, Keys::behind(&["0.0.0.0", "localhost"]).await);
    let (proxy, port) = (format!("http://{}", keys.proxy.addr), keys.front.addr.port());
    let dir = |host| folder(app.addr, &fetching(&format!("https://{host}:{port}/keys"), &keys.front.ca()));
    let here = dir("0.0.0.0");
    for (dir, no_proxy, through_proxy) in [
        (&here, "", 1),
        (&here, "example.com, 10.0.0.0/8", 1),
        (&here, "example.com, 0.0.0.0/8", 0),
        (&here, "*", 0),
        (&dir("localhost"), "", 0),
    ] {
        let before = keys.proxy.seen().len();
        let (code, told) = checked(dir, &[("HTTPS_PROXY", &proxy), ("NO_PROXY", no_proxy)]).await;
        assert_eq!(code, Some(0), "{told}");
        assert_eq!(keys.proxy.seen().len() - before, through_proxy, "{no_proxy}: {told}");
        assert_eq!(told.contains("through the proxy"), through_proxy == 1, "{told}");
    }
    assert_eq!(keys.publisher.asked(), 5);
    let (_, told) = checked(&here, &[("HTTPS_PROXY", &proxy), ("no_proxy", "*.example.com")]).await;
    let warning =
        "warning: proxy.toml: the environment variable no_proxy has the entry \"*.example.com\", which matches no host";
    assert!(told.contains(warning), "{told}");
}

/// What `check --online` says of a proxy, after the part that names the target and the proxy.
async fn fault(proxy: SocketAddr, user: &str) -> String {
    let app = RawUpstream::ok().await;
    let dir = folder(app.addr, &fetching(&format!("https://{BEHIND}/keys"), ""));
    let (code, told) = checked(&dir, &[("HTTPS_PROXY", &format!("http://{user}{proxy}"))]).await;
    assert_eq!(code, Some(69), "{told}");
    check_discreet(&told);
    let part = format!("no connection to {BEHIND}:443 through the proxy {proxy}: ");
    told.split(&part).nth(1).unwrap_or_else(|| panic!("{told}")).trim_end().to_owned()
}

#[tokio::test]
async fn a_proxy_that_refuses_is_told_from_one_that_fails() {
    let user = format!("{USER}@");
    let answer = |status, fields| format!("HTTP/1.1 {status}\r\n{fields}Content-Length: 2\r\n\r\nno");
    let basic = "Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: Basic realm=\"office\"\r\n";
    let ntlm = "Proxy-Authenticate: NTLM\r\nProxy-Authenticate: Negotiate\r\n";
    let must = "HTTPS_PROXY must name an HTTP proxy";
    let invalid = format!("the proxy gave no valid answer to CONNECT: {must}");
    for (user, answer, expected) in [
        (
            "",
            answer("407 Who", basic),
            "the proxy answered 407 Proxy Authentication Required: write its user and password into HTTPS_PROXY, as in http://user:password@",
        ),
        (
            "",
            answer("407 Who", ""),
            "the proxy answered 407 Proxy Authentication Required: write its user and password",
        ),
        (
            &user,
            answer("407 Who", basic),
            "the proxy answered 407 Proxy Authentication Required: it refuses the user and the password: correct them in HTTPS_PROXY",
        ),
        (
            &user,
            answer("407 Who", ntlm),
            "the proxy answered 407 Proxy Authentication Required: it wants a login of another kind than Basic",
        ),
        (
            "",
            answer("403 No", ""),
            "the proxy answered 403 Forbidden: let it open connections to idp.test:443, or add idp.test to NO_PROXY",
        ),
        ("", answer("502 No", ""), "the proxy answered 502 Bad Gateway: it cannot reach idp.test:443 itself"),
        ("", answer("504 No", ""), "the proxy answered 504 Gateway Timeout: it cannot reach idp.test:443 itself"),
        ("", "SSH-2.0-OpenSSH\r\n".to_owned(), &invalid),
        ("", String::new(), &invalid),
        ("", format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(100_000)), &invalid),
        ("", "HTTP/1.1 200 OK\r\n\r\nHello".to_owned(), &format!("the proxy sent bytes before TLS began: {must}")),
    ] {
        let proxy = RawUpstream::closing(answer).await;
        let told = fault(proxy.addr, user).await;
        assert!(told.starts_with(expected), "{expected}: {told}");
    }
    // Nothing listens on port 1.
    let refused = fault(SocketAddr::from(([127, 0, 0, 1], 1)), &user).await;
    assert!(refused.starts_with("cannot connect to the proxy: Connection refused"), "{refused}");
}

#[tokio::test]
async fn a_proxy_that_hangs_or_never_ends_its_answer_is_given_up() {
    let endless = RawUpstream::serving(|mut line| async move {
        line.head().await;
        line.say("HTTP/1.1 200 OK\r\n").await;
        while line.stream.write_all(b"x-more: and more\r\n").await.is_ok() {}
    })
    .await;
    let told = fault(endless.addr, "").await;
    assert!(told.starts_with("the proxy gave no valid answer to CONNECT"), "{told}");
    let silent = RawUpstream::silent().await;
    let told = fault(silent.addr, "").await;
    assert!(told.starts_with("the proxy did not open it in time"), "{told}");
}

#[tokio::test]
async fn a_value_that_cannot_be_used_ends_the_start() {
    let app = RawUpstream::ok().await;
    let dir = folder(app.addr, &fetching(&format!("https://{BEHIND}/keys"), ""));
    for (variable, value, message) in [
        ("HTTPS_PROXY", format!("https://{USER}@proxy.test"), "names a proxy of a kind that callgate cannot use"),
        ("https_proxy", format!("socks5://{USER}@proxy.test"), "names a proxy of a kind that callgate cannot use"),
        ("ALL_PROXY", format!("http://{USER}@proxy.test:31x8"), "is not the address of a proxy"),
        ("all_proxy", format!("http://{USER}@/proxy.test"), "is not the address of a proxy"),
    ] {
        for name in ["check", "run"] {
            let output = run(command(&dir, &[name], &[(variable, &value)])).await;
            let told = text(&output.stdout) + &text(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{told}");
            let start = format!("proxy.toml: the environment variable {variable} {message}\n    ");
            assert!(told.starts_with(&start) && told.contains("unset the variable"), "{told}");
            check_discreet(&told);
        }
    }
    // A gate that fetches nothing does not need it.
    let output = run(command(&folder(app.addr, ""), &["check"], &[("HTTPS_PROXY", "socks5://proxy.test")])).await;
    assert!(output.status.success(), "{output:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_value_that_is_not_utf_8_is_not_passed_over() {
    use std::os::unix::ffi::OsStrExt;
    let app = RawUpstream::ok().await;
    let dir = folder(app.addr, &fetching(&format!("https://{BEHIND}/keys"), ""));
    let mut command = command(&dir, &["check"], &[]);
    command.env("HTTPS_PROXY", std::ffi::OsStr::from_bytes(b"http://ann:\xe9@proxy.test"));
    let output = run(command).await;
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(text(&output.stderr).contains("HTTPS_PROXY is not the address of a proxy"), "{output:?}");
}

#[tokio::test]
async fn a_login_asks_the_provider_through_the_proxy() {
    let (app, provider) = (RawUpstream::ok().await, Provider::start().await);
    let front = TlsFront::before(provider.issuer().strip_prefix("http://").unwrap().parse().unwrap(), &[BEHIND]).await;
    let proxy = leading_to(front.addr).await;
    let issuer = format!("https://{BEHIND}");
    provider.set(|says| {
        says.discovery = json!({
            "issuer": issuer, "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/jwks"),
            "userinfo_endpoint": format!("{issuer}/userinfo"),
        });
        says.claims = json!({ "iss": issuer });
    });
    let method = format!(
        "level = \"trace\"\n[[auth]]\ntype = \"oidc\"\nname = \"sso\"\nissuer = \"{issuer}\"\nclient_id = \"{CLIENT}\"\n\
         client_secret = {{ env = \"OIDC_SECRET\" }}\nuserinfo = true\n{}",
        front.ca()
    );
    let mut command = with_proxies(callgate(&[]), &[("HTTPS_PROXY", &format!("http://{USER}@{}", proxy.addr))]);
    command.env("OIDC_SECRET", SECRET);
    let program = Program::start_by(command, app.addr, "listen = \"127.0.0.1:0\"\nworkers = 1", &method).await;
    let page = opened(&program, "/auth/callgate/login", "").await;
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    let address = page.split("<a href=\"").nth(1).unwrap().split('"').next().unwrap().replace("&amp;", "&");
    let cookie = page.split("set-cookie: ").nth(1).unwrap().split(';').next().unwrap();
    let (code, asked) = provider.log_in(&address);
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("code", &code), ("state", &asked["state"])])
        .finish();
    let page = opened(&program, &format!("/auth/callgate/oidc/sso?{query}"), cookie).await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("set-cookie: __Host-callgate="), "{page}");
    // Discovery document, keys, token and userinfo, with a connection for each.
    let targets: Vec<_> = provider.seen().iter().map(|seen| seen.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(targets, ["/.well-known/openid-configuration", "/jwks", "/token", "/userinfo"]);
    assert_eq!(proxy.seen().len(), targets.len());
    program.running.terminate();
    check_discreet(&program.running.end().await.1);
}

/// Opens a path of the gate as a person does, and returns the whole answer.
async fn opened(program: &Program, path: &str, cookie: &str) -> String {
    let mut tls = program.connect().await;
    let cookie = if cookie.is_empty() { String::new() } else { format!("Cookie: {cookie}\r\n") };
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: app.test\r\nAccept: text/html\r\n{cookie}Connection: close\r\n\r\n");
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn voximplant_is_asked_through_the_proxy() {
    let proxy = RawUpstream::closing("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
    let dir = folder(
        proxy.addr,
        "[voximplant]\nusers = { file = \"users\" }\napplication = \"phone.acme\"\n\
         management = { account_id = 7, api_key = { file = \"api-key\" } }\n[[allow]]\nauth = \"redirect\"\nvoximplant = \"ann\"\n",
    );
    secret(&dir, "users", "ann:voximplant.com:0123456789abcdef0123456789abcdef\n");
    secret(&dir, "api-key", "0123456789abcdef");
    let variables = [("HTTPS_PROXY", &*format!("http://{USER}@{}", proxy.addr))];
    let output = run(command(&dir, &["provision", "--user", "ann"], &variables)).await;
    let told = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let message = format!(
        "cannot ask Voximplant: no connection to api.voximplant.com:443 through the proxy {}: the proxy answered 403",
        proxy.addr
    );
    assert!(told.contains(&message), "{told}");
    check_discreet(&told);
    let seen = proxy.seen().concat();
    assert!(seen.starts_with("CONNECT api.voximplant.com:443 HTTP/1.1\r\n") && !seen.contains("0123456789"), "{seen}");
}
