//! Requests to a gate, answers, and the secrets in both.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::explain_agrees;
use crate::kit::gate::Gate;

/// A request in the making.
pub struct RequestBuilder<'g> {
    gate: &'g Gate,
    pub method: Method,
    pub path: String,
    pub host: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    h2: bool,
    pub from: Option<std::net::IpAddr>,
}

impl<'g> RequestBuilder<'g> {
    pub fn new(gate: &'g Gate, method: Method, path: &str) -> Self {
        Self {
            gate,
            method,
            path: path.into(),
            host: "app.test".into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            h2: false,
            from: None,
        }
    }

    pub fn host(mut self, host: &str) -> Self {
        self.host = host.into();
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        self
    }

    pub fn cookie(self, cookie: &str) -> Self {
        self.header("cookie", cookie)
    }

    pub fn bearer(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub fn h2(mut self) -> Self {
        self.h2 = true;
        self
    }

    /// Comes from another loopback address, such as 127.0.0.7.
    pub fn from(mut self, ip: &str) -> Self {
        self.from = Some(ip.parse().unwrap());
        self
    }

    /// Sends the request on a connection of its own, and notes the secrets that go to and fro.
    pub async fn send(self) -> Answer {
        let gate = self.gate;
        let mut secrets = secrets_of_request(&self.path, &self.headers, &self.body);
        let is_login = self.path.starts_with("/auth/");
        let (explained, is_explained) = (explain_agrees::explain(gate, &self).await, explain_agrees::is_login(&self));
        let answer = self.exchange().await;
        explain_agrees::compare(gate, is_explained, explained, &answer);
        secrets.extend(secrets_of_answer(&answer, is_login));
        for secret in secrets.into_iter().filter(|secret| secret.len() >= 16) {
            gate.canary(secret);
        }
        answer
    }

    async fn exchange(self) -> Answer {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        if let Some(ip) = self.from {
            socket.bind((ip, 0).into()).unwrap();
        }
        let stream = socket.connect(self.gate.addr).await.unwrap();
        let name = self.host.split(':').next().unwrap().to_owned();
        let tls = self.gate.tls(stream, &name, if self.h2 { "h2" } else { "http/1.1" }).await.unwrap();
        let uri = if self.h2 { format!("https://{}{}", self.host, self.path) } else { self.path.clone() };
        let mut request = Request::builder().method(self.method).uri(uri).body(Full::new(self.body)).unwrap();
        *request.headers_mut() = self.headers;
        if self.h2 {
            *request.version_mut() = Version::HTTP_2;
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
            tokio::spawn(connection);
            Answer::read(sender.send_request(request).await.unwrap()).await
        } else {
            request.headers_mut().insert("host", self.host.parse().unwrap());
            let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.unwrap();
            tokio::spawn(connection);
            Answer::read(sender.send_request(request).await.unwrap()).await
        }
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    async fn read(response: http::Response<hyper::body::Incoming>) -> Self {
        let (head, body) = response.into_parts();
        Self { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{:?} {:?}", self.headers, self.body);
        self
    }
}

/// The parameters that carry a session, a ticket, a one-time key, a password or what makes a link.
const PARAMETERS: [&str; 6] = ["sessId", "t", "key", "appUserPassword", "sig", "nonce"];

fn secrets_of_request(path: &str, headers: &HeaderMap, body: &[u8]) -> Vec<String> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let cookies = headers.get_all("cookie").iter().map(text).collect::<Vec<_>>().join(";");
    let cookies = cookies.split(';').filter_map(|pair| Some(pair.split_once('=')?.1.trim().to_owned()));
    let keys = headers.get_all("authorization").iter().map(text);
    let keys = keys.filter_map(|line| Some(line.split_once(' ')?.1.trim().to_owned()));
    cookies.chain(keys).chain(secrets_of_query(path)).chain(secrets_of_form(body)).collect()
}

fn secrets_of_answer(answer: &Answer, is_login: bool) -> Vec<String> {
    let cookies = answer.headers.get_all("set-cookie").iter().filter_map(|line| line.to_str().ok());
    let cookies = cookies.filter_map(|line| Some(line.split(';').next()?.split_once('=')?.1.to_owned()));
    let mut secrets: Vec<_> = cookies.chain(secrets_of_query(answer.header("location"))).collect();
    if is_login && answer.status == StatusCode::OK {
        match serde_json::from_slice::<serde_json::Value>(&answer.body) {
            Ok(serde_json::Value::String(session)) => secrets.push(session),
            Ok(object) => {
                let members = ["session", "token", "url"].iter().filter_map(|name| object[*name].as_str());
                secrets.extend(members.flat_map(|text| secrets_of_query(text).into_iter().chain([text.to_owned()])));
            }
            Err(_) if answer.header("content-type") == "text/plain" => secrets.push(answer.text().to_owned()),
            Err(_) => {}
        }
    }
    secrets
}

fn secrets_of_query(url: &str) -> Vec<String> {
    let url = url.split('#').next().unwrap_or_default();
    url.split_once('?').map_or_else(Vec::new, |(_, query)| secrets_of_form(query.as_bytes()))
}

fn secrets_of_form(form: &[u8]) -> Vec<String> {
    let pairs = form_urlencoded::parse(form).filter(|(name, _)| PARAMETERS.contains(&name.as_ref()));
    pairs.map(|(_, value)| value.into_owned()).collect()
}

/// Returns the status of an answer as it came, 0 for none.
pub fn status(answer: &str) -> u16 {
    answer.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok()).unwrap_or(0)
}

/// Reads the head of an answer, and nothing behind it.
pub async fn read_head<R: tokio::io::AsyncRead + Unpin>(from: &mut R) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match from.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Says what is no TLS, and hears no HTTP.
pub async fn say_garbage(gate: &Gate, garbage: &[u8]) {
    let mut stream = TcpStream::connect(gate.addr).await.unwrap();
    stream.write_all(garbage).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{garbage:?}");
}
