//! NTLM and Negotiate prove a connection: only the client that showed the credentials uses that upstream connection.

use tokio::io::AsyncWriteExt;

use crate::kit::client::{read_head, status};
use crate::kit::gate::Gate;
use crate::kit::upstream::{RawUpstream, UpstreamConnection};

/// Serves an app that knows its user by the connection, as Windows' web server does. `{n}`: the connection.
pub async fn knows_connections(mut line: UpstreamConnection) {
    let mut user = "nobody".to_owned();
    while let Some(request) = line.request().await {
        let shown = request.lines().find_map(|line| line.strip_prefix("authorization: "));
        let step = shown.and_then(|shown| shown.rsplit(' ').next());
        let asks = match (step, shown) {
            (Some("hello"), Some(shown)) => Some(format!("{} challenge", &shown[..shown.find(' ').unwrap()])),
            (Some(step), _) if step.starts_with("proof-") => {
                step["proof-".len()..].clone_into(&mut user);
                None
            }
            _ if user == "nobody" && request.contains("/private") => Some("Basic realm=\"a\", nTLM".to_owned()),
            _ => None,
        };
        let answer = match asks {
            Some(asks) => format!("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {asks}\r\nContent-Length: 0\r\n\r\n"),
            None => {
                format!("HTTP/1.1 200 OK\r\nX-User: {user}\r\nX-Line: {}\r\nContent-Length: 0\r\n\r\n", line.nth)
            }
        };
        line.say(answer).await;
    }
}

/// Asks on an open connection, with more fields, and returns the head of the answer.
pub async fn ask<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    tls: &mut S,
    path: &str,
    fields: &str,
) -> String {
    tls.write_all(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n").as_bytes()).await.unwrap();
    read_head(tls).await
}

pub fn user(head: &str) -> &str {
    head.lines().find_map(|line| line.strip_prefix("x-user: ")).unwrap_or("-")
}

#[tokio::test]
async fn no_client_is_served_on_a_connection_that_another_has_proven() {
    let upstream = RawUpstream::serving(knows_connections).await;
    let gate = Gate::before(upstream.addr).await;
    for scheme in ["NTLM", "negotiate", "Kerberos", "Basic x,  NTLM"] {
        let (mut ann, mut bob) = (gate.raw("app.test", "http/1.1").await, gate.raw("app.test", "http/1.1").await);
        assert_eq!(status(&ask(&mut ann, "/", &format!("Authorization: {scheme} hello\r\n")).await), 401, "{scheme}");
        assert_eq!(user(&ask(&mut bob, "/", "").await), "nobody", "{scheme}");
        assert_eq!(
            user(&ask(&mut ann, "/", &format!("Authorization: {scheme} proof-ann\r\n")).await),
            "ann",
            "{scheme}"
        );
        for _ in 0..3 {
            // A proven connection does not show its credentials again.
            assert_eq!(user(&ask(&mut ann, "/", "").await), "ann", "{scheme}");
            assert_eq!(user(&ask(&mut bob, "/", "").await), "nobody", "{scheme}");
        }
        drop(ann);
        let mut eve = gate.raw("app.test", "http/1.1").await;
        assert_eq!(user(&ask(&mut eve, "/", "").await), "nobody", "{scheme}");
    }
}

#[tokio::test]
async fn a_connection_that_was_asked_for_such_a_proof_is_not_shared_either() {
    let upstream = RawUpstream::serving(knows_connections).await;
    let gate = Gate::before(upstream.addr).await;
    let mut ann = gate.raw("app.test", "http/1.1").await;
    assert_eq!(status(&ask(&mut ann, "/private", "").await), 401);
    let mut bob = gate.raw("app.test", "http/1.1").await;
    let head = ask(&mut bob, "/", "").await;
    assert!(head.contains("x-line: 1\r\n"), "{head}");
    assert!(ask(&mut ann, "/", "").await.contains("x-line: 0\r\n"));
}

#[tokio::test]
async fn other_credentials_share_connections_as_before() {
    let upstream = RawUpstream::serving(knows_connections).await;
    let gate = Gate::before(upstream.addr).await;
    for credential in ["Basic YTpi", "Bearer ntl.m", "Digest username=\"ann\""] {
        let mut tls = gate.raw("app.test", "http/1.1").await;
        let head = ask(&mut tls, "/", &format!("Authorization: {credential}\r\n")).await;
        assert!(head.contains("x-line: 0\r\n"), "{credential}: {head}");
    }
}

#[tokio::test]
async fn behind_a_believed_proxy_such_a_connection_serves_one_exchange() {
    let upstream = RawUpstream::serving(knows_connections).await;
    let gate = Gate::before_with(upstream.addr, "", "[server]\nbelieve_forwarded_from = [\"127.0.0.1\"]").await;
    let mut proxy = gate.raw("app.test", "http/1.1").await;
    let proof = "Authorization: NTLM proof-ann\r\nX-Forwarded-For: 192.0.2.1\r\n";
    assert_eq!(user(&ask(&mut proxy, "/", proof).await), "ann");
    for client in ["192.0.2.1", "192.0.2.2"] {
        let head = ask(&mut proxy, "/", &format!("X-Forwarded-For: {client}\r\n")).await;
        assert_eq!(user(&head), "nobody", "{client}");
    }
}

#[tokio::test]
async fn streams_of_one_client_take_turns_on_its_connection() {
    let upstream = RawUpstream::serving(knows_connections).await;
    let gate = Gate::before(upstream.addr).await;
    let ann = Streams::open(&gate).await;
    assert_eq!(ann.ask("NTLM hello").await, (401, None));
    assert_eq!(ann.ask("NTLM proof-ann").await, (200, Some("ann".to_owned())));
    assert_eq!(ann.ask("").await, (200, Some("ann".to_owned())));
    let proofs = futures_util::future::join_all((0..5).map(|_| ann.ask("NTLM proof-ann"))).await;
    assert!(proofs.iter().all(|told| *told == (200, Some("ann".to_owned()))), "{proofs:?}");
    // All over the one connection.
    assert!(upstream.bytes().len() == 8 && ann.lines() == ["0"], "{:?}", ann.lines());
    let bob = Streams::open(&gate).await;
    assert_eq!(bob.ask("").await, (200, Some("nobody".to_owned())));
}

/// A client of HTTP/2.
struct Streams {
    send: h2::client::SendRequest<bytes::Bytes>,
    lines: std::cell::RefCell<std::collections::BTreeSet<String>>,
}

impl Streams {
    async fn open(gate: &Gate) -> Self {
        let (send, connection) = h2::client::handshake(gate.raw("app.test", "h2").await).await.unwrap();
        tokio::spawn(connection);
        Self { send, lines: std::cell::RefCell::default() }
    }

    /// Sends a request on a stream of its own, and returns the status of the answer and whose it is.
    fn ask(&self, credential: &str) -> impl Future<Output = (u16, Option<String>)> + '_ {
        let mut request = http::Request::get("https://app.test/");
        if !credential.is_empty() {
            request = request.header("authorization", credential);
        }
        let (answer, _) = self.send.clone().send_request(request.body(()).unwrap(), true).unwrap();
        async move {
            let answer = answer.await.unwrap();
            let field = |name| Some(answer.headers().get(name)?.to_str().unwrap().to_owned());
            self.lines.borrow_mut().extend(field("x-line"));
            (answer.status().as_u16(), field("x-user"))
        }
    }

    /// Returns the connections that answers came by.
    fn lines(&self) -> Vec<String> {
        self.lines.borrow().iter().cloned().collect()
    }
}
