//! The foreign parsers that read what the gate sent.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::recorder::Recorder;
use crate::kit::rfc9112::{self, Field, Reading::Whole, latin1};
use crate::kit::stage::until;

/// Where `tests/run` puts Python's parsers.
const PYTHON: &str = "target/oracle/bin/python";

/// A request as a reader understood it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request1 {
    pub method: String,
    pub target: String,
    pub fields: Vec<Field>,
    pub body: String,
    /// `None` where the reader does not tell them.
    pub trailers: Option<Vec<Field>>,
}

/// The result of one reader for one stream of bytes.
#[derive(Debug, Clone)]
pub struct ReadMessage {
    pub reader: String,
    /// The requests that were whole.
    pub requests: Vec<Request1>,
    /// The reason why it read no further.
    pub refused: Option<String>,
}

impl Request1 {
    /// Takes a message apart that our own reader has read.
    pub fn of(message: &rfc9112::Message) -> Self {
        let words = message.words();
        Self {
            method: words[0].into(),
            target: words.get(1).map_or("", |word| word).into(),
            fields: lower(&message.fields),
            body: message.body.clone(),
            trailers: Some(lower(&message.trailers)),
        }
    }
}

fn lower(fields: &[Field]) -> Vec<Field> {
    fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect()
}

/// Lets every reader read every stream. Returns what each stream looked like, in order.
pub async fn read_all(streams: &[Vec<u8>]) -> Vec<Vec<ReadMessage>> {
    let asked: String = streams.iter().enumerate().map(|(id, stream)| line(id, stream)).collect();
    let python = run(Command::new(PYTHON).arg("tests/oracle/reparse.py"), asked.clone());
    let node = run(Command::new("node").arg("tests/oracle/reparse.js"), asked);
    let nginx = Nginx::start().await;
    let mut sights: Vec<Vec<ReadMessage>> = vec![Vec::new(); streams.len()];
    for (stream, sights) in streams.iter().zip(&mut sights) {
        sights.push(hyper(stream).await);
        sights.push(nginx.read(stream).await);
    }
    for output in [python, node] {
        for line in output.await.unwrap().lines() {
            let told: Value = serde_json::from_str(line).unwrap();
            sights[usize::try_from(told["id"].as_u64().unwrap()).unwrap()].push(sight(&told));
        }
    }
    sights
}

// === Scripts ===

fn line(id: usize, stream: &[u8]) -> String {
    format!("{}\n", json!({ "id": id, "stream": latin1(stream) }))
}

fn run(command: &mut Command, asked: String) -> tokio::task::JoinHandle<String> {
    let hint = "what reads again is missing: let tests/run install it";
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect(hint);
    let mut input = child.stdin.take().unwrap();
    tokio::task::spawn_blocking(move || {
        let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, asked.as_bytes()));
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && writer.join().unwrap().is_ok(), "a script failed");
        String::from_utf8(output.stdout).unwrap()
    })
}

fn sight(told: &Value) -> ReadMessage {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let fields = |value: &Value| {
        value.as_array().map(|fields| fields.iter().map(|field| (text(&field[0]), text(&field[1]))).collect())
    };
    let request = |told: &Value| Request1 {
        method: text(&told["method"]),
        target: text(&told["target"]),
        fields: fields(&told["fields"]).unwrap(),
        body: text(&told["body"]),
        trailers: fields(&told["trailers"]),
    };
    ReadMessage {
        reader: text(&told["reader"]),
        requests: told["requests"].as_array().unwrap().iter().map(request).collect(),
        refused: told["refused"].as_str().map(str::to_owned),
    }
}

// === hyper ===

async fn hyper(stream: &[u8]) -> ReadMessage {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let seen = Arc::<Mutex<Vec<Request1>>>::default();
    let service = service_fn(|request| {
        let seen = seen.clone();
        async move {
            // Without its whole body it is no request.
            if let Some(request) = collect(request).await {
                seen.lock().unwrap().push(request);
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let serve = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(server), service);
    let client = async {
        // It may have refused before it has read all.
        let _ = client.write_all(stream).await;
        let _ = client.shutdown().await;
        let _ = client.read_to_end(&mut Vec::new()).await;
    };
    let (served, ()) = tokio::join!(serve, client);
    let refused = served.err().map(|error| error.to_string());
    let requests = seen.lock().unwrap().clone();
    ReadMessage { reader: "hyper".into(), requests, refused }
}

async fn collect(request: Request<Incoming>) -> Option<Request1> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.ok()?;
    let fields = |map: &http::HeaderMap| -> Vec<_> {
        map.iter().map(|(name, value)| (name.to_string(), latin1(value.as_bytes()))).collect()
    };
    let trailers = body.trailers().map(fields).unwrap_or_default();
    Some(Request1 {
        method: head.method.to_string(),
        // `http::Uri` keeps the bytes, in UTF-8 if they are.
        target: latin1(head.uri.to_string().as_bytes()),
        fields: fields(&head.headers),
        body: latin1(&body.to_bytes()),
        trailers: Some(trailers),
    })
}

// === nginx ===

/// nginx before a recorder: what it passes on is what it has understood.
struct Nginx {
    dir: TempDir,
    child: Child,
    behind: Recorder,
}

/// A request for which nginx itself answers shows that it found the end of the one before.
pub const SENTINEL: &str = "GET /sentinel HTTP/1.1\r\nHost: sentinel\r\n\r\n";

impl Nginx {
    async fn start() -> Self {
        let (dir, behind) = (TempDir::new().unwrap(), Recorder::start().await);
        let configuration = format!(
            "daemon off; master_process off; pid nginx.pid; error_log error.log;
            events {{}}
            http {{
                access_log off;
                client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
                underscores_in_headers on; ignore_invalid_headers off; merge_slashes off;
                large_client_header_buffers 8 80k; client_max_body_size 0;
                server {{
                    listen unix:nginx.sock;
                    location = /sentinel {{ return 204; }}
                    location / {{
                        proxy_pass http://{};
                        proxy_http_version 1.1; proxy_ignore_client_abort on; proxy_set_header Host $http_host;
                    }}
                }}
            }}",
            behind.addr
        );
        fs::write(dir.path().join("nginx.conf"), configuration).unwrap();
        let path = dir.path().display().to_string();
        let mut command = Command::new("nginx");
        command.current_dir(&dir).args(["-e", "error.log", "-p", &path, "-c", "nginx.conf"]);
        let child = command.spawn().expect("nginx is missing: let tests/run install it");
        let socket = dir.path().join("nginx.sock");
        until("nginx listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
        Self { dir, child, behind }
    }

    async fn read(&self, stream: &[u8]) -> ReadMessage {
        let socket = Path::new(self.dir.path()).join("nginx.sock");
        let mut client = UnixStream::connect(socket).await.unwrap();
        let mut answers = Vec::new();
        // It may have refused before it has read all.
        let _ = client.write_all(stream).await;
        let _ = client.shutdown().await;
        let _ = client.read_to_end(&mut answers).await;
        let answers = latin1(&answers);
        let passed = self.behind.settled().await;
        let mut requests: Vec<_> = passed
            .iter()
            .filter_map(|record| match rfc9112::request(&record.bytes) {
                Whole(message, _) => Some(Request1 { trailers: None, ..Request1::of(&message) }),
                _ => None,
            })
            .collect();
        if answers.contains("HTTP/1.1 204 ") {
            requests.push(Request1 { trailers: None, ..sentinel() });
        }
        let refusal = answers.lines().find(|line| line.starts_with("HTTP/1.1 4") || line.starts_with("HTTP/1.1 5"));
        ReadMessage { reader: "nginx".into(), requests, refused: refusal.map(str::to_owned) }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the request that follows every whole one.
pub fn sentinel() -> Request1 {
    let Whole(message, _) = rfc9112::request(SENTINEL.as_bytes()) else { unreachable!("it is a request") };
    Request1::of(&message)
}

// === Their ways ===

/// Fields that nginx makes anew for each hop.
const REMADE: [&str; 8] =
    ["host", "connection", "content-length", "transfer-encoding", "te", "upgrade", "keep-alive", "expect"];

/// Returns the fields of a request as far as a reader tells them: names in order, values in the order of their lines.
pub fn shown_by(reader: &str, fields: &[Field]) -> Vec<Field> {
    let is_shown = |name: &str| match reader {
        // It drops names that CGI could not tell apart, and makes chunks a length.
        "waitress" => !name.contains('_') && name != "content-length" && name != "transfer-encoding",
        "nginx" => !REMADE.contains(&name),
        _ => true,
    };
    let mut shown: Vec<_> = fields.iter().filter(|(name, _)| is_shown(name)).cloned().collect();
    shown.sort_by(|one, other| one.0.cmp(&other.0));
    if reader == "waitress" { joined(shown) } else { shown }
}

fn joined(fields: Vec<Field>) -> Vec<Field> {
    let mut joined: Vec<Field> = Vec::new();
    for (name, value) in fields {
        match joined.last_mut() {
            Some((last, values)) if *last == name => *values = format!("{values}, {value}"),
            _ => joined.push((name, value)),
        }
    }
    joined
}

/// Returns the reason for which a reader may refuse a request. A refusal is no second reading, but each needs a reason.
pub fn excuse(reader: &str, request: &Request1) -> Option<&'static str> {
    let Request1 { method, target, fields, .. } = request;
    let has = |name: &str| fields.iter().any(|(known, _)| known == name);
    let ascii = target.chars().all(|char| char.is_ascii_graphic());
    let reason = match reader {
        "httptools" | "node" if !KNOWN_TO_LLHTTP.contains(&method.as_str()) => "it knows its methods by name",
        "httptools" | "node" | "h11" | "waitress" if !ascii => "it wants targets in ASCII",
        "http.server" if has("transfer-encoding") => "it knows no chunks",
        "h11" if fields.iter().any(|(name, value)| name == "content-length" && value.len() > 20) => {
            "it wants lengths of no more than 20 digits"
        }
        "waitress" if method.bytes().any(|byte| byte.is_ascii_lowercase()) => "it wants methods in upper case",
        "nginx" if !method.bytes().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_')) => {
            "it wants methods in upper case"
        }
        "nginx" if leaves_the_root(target) => "it wants no path above the root",
        "nginx" if !is_decodable(target) => "it decodes the path",
        "gunicorn" | "waitress" if target.starts_with("//") && target.contains('[') => "it takes // for a host",
        "gunicorn" if method.contains('#') || !(3..=20).contains(&method.len()) => "it wants ordinary methods",
        _ => return None,
    };
    Some(reason)
}

const KNOWN_TO_LLHTTP: [&str; 11] =
    ["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "PROPFIND", "M-SEARCH", "PURGE", "TRACE"];

fn leaves_the_root(target: &str) -> bool {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let path = path.replace("%2e", ".").replace("%2E", ".").replace("%2f", "/").replace("%2F", "/");
    let depths = path.split('/').skip(1).scan(0_i32, |depth, segment| {
        *depth += match segment {
            ".." => -1,
            "." => 0,
            _ => 1,
        };
        Some(*depth)
    });
    depths.into_iter().any(|depth| depth < 0)
}

fn is_decodable(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    path.split('%').skip(1).all(|rest| {
        rest.get(..2).is_some_and(|digits| digits != "00" && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
    })
}

/// Counts how often each reader has read and how often it has refused.
pub fn tally(sights: &[Vec<ReadMessage>]) -> HashMap<String, (usize, usize)> {
    let mut counts = HashMap::<String, (usize, usize)>::new();
    for sight in sights.iter().flatten() {
        let (read, refused) = counts.entry(sight.reader.clone()).or_default();
        if sight.requests.is_empty() { *refused += 1 } else { *read += 1 }
    }
    counts
}
