use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::LocalOptions;

use super::*;
use crate::budget::{Budget, WorkerBudget};
use crate::config::{self, HostPort, Trust, UpstreamUrl};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n";

fn upstream_at(port: u16) -> Rc<Upstream> {
    let timeout = Duration::from_secs(10);
    let config = config::UpstreamConfig {
        policy: config::UpstreamPolicy::First,
        urls: vec![UpstreamUrl::Http(HostPort { host: "127.0.0.1".into(), port })],
        hosts: Vec::new(),
        paths: Vec::new(),
        trust: Trust::roots(None),
        timeouts: UpstreamTimeouts { connect: timeout, first_byte: timeout, keep_alive: timeout },
        max_connections: 2,
    };
    Upstream::new(
        Connector::new(&config, UpstreamName::App).unwrap(),
        config.timeouts,
        timeout,
        UpstreamName::App,
        &Tally::default(),
    )
}

/// Answers the first request of each connection, and closes it at the second.
async fn serve(listener: TcpListener) {
    let mut byte = [0; 4096];
    for answer in [OK.to_owned(), format!("{HINTS}{OK}")] {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut byte).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.read(&mut byte).await.unwrap();
    }
}

async fn send_twice() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream_at(listener.local_addr().unwrap().port());
    let server = tokio::spawn(serve(listener));
    let received = RefCell::new(Vec::new());
    let on_interim = |interim: Interim| {
        received.borrow_mut().push((interim.status.as_u16(), interim.fields[header::LINK].clone()));
    };
    for _ in 0..2 {
        let request = request(Method::GET, Uri::from_static("/"), HeaderMap::new(), RequestBody::Empty);
        let ledger = WorkerBudget::new(Budget::new(1 << 20)).open(None);
        let requester = Requester::client(ledger.client_at([192, 0, 2, 1].into()), &ledger);
        let context = SendContext { requester, on_interim: Some(&on_interim), ..SendContext::default() };
        let answer = upstream.send_for(context, request).await.unwrap();
        let UpstreamResponse::Final(response) = answer else { panic!("switched") };
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert_eq!(received.take(), [(103, "</style.css>".parse().unwrap())]);
    drop(upstream);
    server.await.unwrap();
}

/// Answers every request, and counts the connections.
async fn count(listener: TcpListener, connections: Rc<Cell<usize>>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        connections.set(connections.get() + 1);
        tokio::task::spawn_local(async move {
            let mut bytes = [0; 4096];
            while matches!(stream.read(&mut bytes).await, Ok(1..)) {
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
        });
    }
}

async fn send_with_credentials() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream_at(listener.local_addr().unwrap().port());
    let connections = Rc::default();
    tokio::task::spawn_local(count(listener, Rc::clone(&connections)));
    for (credential, expected) in
        [("Basic a", 1), ("Bearer b", 1), ("NTLM c", 1), ("Basic a", 2), ("x, negotiate", 2), ("-", 3)]
    {
        let fields = [(header::AUTHORIZATION, credential.parse().unwrap())].into_iter().collect();
        let request = request(Method::GET, Uri::from_static("/"), fields, RequestBody::Empty);
        assert!(matches!(upstream.send(request).await, Ok(UpstreamResponse::Final(_))));
        assert_eq!(connections.get(), expected, "{credential}");
    }
}

#[test]
fn without_a_client_a_proven_connection_serves_one_exchange() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build_local(LocalOptions::default()).unwrap().block_on(send_with_credentials());
}

#[test]
fn interim_answers_of_a_second_attempt_are_passed_on_too() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build_local(LocalOptions::default()).unwrap().block_on(send_twice());
}
