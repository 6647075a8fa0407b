//! The admin listener: health, metrics and state, told over plain HTTP to whoever is on this machine.
//!
//! It has a thread of its own, so it answers while workers are busy, and to the end of a drain.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::BACK_OFF;
use super::door::Door;
use super::io::Stream;
use super::listener::Listener;
use crate::config::{Listen, Upstream, Url};
use crate::message::target;
use crate::model::loopback::is_loopback;
use crate::observe::health::Finding;
use crate::observe::metrics::{self, Metrics, Protocol};

/// How many questions are answered at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// The most bytes of a question.
const MAX_HEAD: usize = 16 << 10;
/// How long a connection may take: one question, one answer.
const LIFE: Duration = Duration::from_secs(10);

type Answer = Response<Full<Bytes>>;

// === The listener ===

/// A running admin listener. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Admin {
    listener: Listener,
    running: oneshot::Sender<Infallible>,
    thread: JoinHandle<()>,
}

impl Admin {
    /// Begins to answer.
    pub(super) fn start(listener: Listener, metrics: Arc<Metrics>, workers: usize) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (running, mut ended) = oneshot::channel();
        let desk = Arc::new(Desk { metrics, workers, is_tcp: matches!(listener.address(), Some(Listen::Tcp(_))) });
        let socket = listener.try_clone()?;
        let thread = thread::Builder::new().name("callgate-admin".to_owned()).spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    served = serve(socket, desk) => {
                        let Err(error) = served;
                        tracing::error!(%error, "cannot answer at the admin listener");
                    }
                    _ = &mut ended => {}
                }
            });
        })?;
        Ok(Self { listener, running, thread })
    }

    pub(super) fn address(&self) -> Option<Listen> {
        self.listener.address()
    }

    /// Opens the listening socket once more.
    pub(super) fn listener(&self) -> io::Result<Listener> {
        self.listener.try_clone()
    }

    /// Ends, and waits until the address is free.
    pub(super) fn end(self) {
        self.listener.remove_name();
        self.leave();
    }

    /// Ends, and leaves the address to another process.
    pub(super) fn leave(self) {
        drop(self.running);
        if self.thread.join().is_err() {
            tracing::error!("the admin listener panicked");
        }
    }
}

async fn serve(listener: Listener, desk: Arc<Desk>) -> io::Result<Infallible> {
    let door = Door::open(listener)?;
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await.expect("nobody closes the semaphore");
        match door.accept().await {
            Ok((stream, _)) => {
                let desk = Arc::clone(&desk);
                tokio::spawn(async move {
                    desk.serve(stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept for now");
                sleep(BACK_OFF).await;
            }
        }
    }
}

// === The answers ===

/// Whoever answers.
struct Desk {
    metrics: Arc<Metrics>,
    workers: usize,
    is_tcp: bool,
}

impl Desk {
    async fn serve(self: Arc<Self>, stream: Stream) {
        let service = service_fn(|request| {
            let answer = self.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(false)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        // Whether it came to an answer in time is the other side's concern.
        drop(timeout(LIFE, connection).await);
    }

    fn answer<B>(&self, request: &Request<B>) -> Answer {
        let Ok(authority) = target::authority(request.version(), request.uri(), request.headers()) else {
            return text(StatusCode::BAD_REQUEST, "the request names no host, or more than one\n");
        };
        // A page of a stranger's site can send its visitor's browser here, but only under a name of that site.
        if self.is_tcp && !is_loopback(&authority.host) {
            return text(StatusCode::MISDIRECTED_REQUEST, "ask for localhost or a loopback address\n");
        }
        let tell: fn(&Self, &Request<B>) -> Answer = match request.uri().path() {
            "/livez" => |_, _| text(StatusCode::OK, "ok\n"),
            "/readyz" => Self::ready,
            "/metrics" => Self::metrics,
            "/status" => Self::status,
            _ => return text(StatusCode::NOT_FOUND, "here are /livez, /readyz, /metrics and /status\n"),
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are possible here\n");
            refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        tell(self, request)
    }

    fn ready<B>(&self, request: &Request<B>) -> Answer {
        let findings = self.metrics.health.ask();
        let is_ready = findings.iter().all(|found| found.problem.is_none());
        let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        if wants_json(request.headers()) {
            return json(status, &json!({ "ready": is_ready, "parts": parts(&findings) }));
        }
        let is_verbose = request.uri().query().is_some_and(|query| query.split('&').any(|word| word == "verbose"));
        let told = findings.iter().filter(|found| is_verbose || found.problem.is_some()).map(line);
        let end = if is_ready { "ok\n" } else { "not ready\n" };
        text(status, told.chain([end.to_owned()]).collect::<String>())
    }

    fn metrics<B>(&self, _: &Request<B>) -> Answer {
        answer(StatusCode::OK, metrics::CONTENT_TYPE, self.metrics.text())
    }

    fn status<B>(&self, _: &Request<B>) -> Answer {
        let (metrics, now) = (&self.metrics, Timestamp::now());
        let loaded = metrics.loaded();
        let config = &loaded.config;
        let certificates = config.certificates.iter();
        let certificates = certificates.map(|one| json!({ "names": one.names, "expires": one.not_after.to_string() }));
        let app = config.app.iter().map(|app| ("app", &app.upstream));
        let pbx = config.pbx.iter().map(|pbx| ("pbx", &pbx.upstream));
        let urls = |upstream: &Upstream| upstream.urls.iter().map(Url::text).collect::<Vec<_>>();
        let upstreams = app.chain(pbx).map(|(name, upstream)| json!({ "name": name, "urls": urls(upstream) }));
        let findings = metrics.health.ask();
        json(
            StatusCode::OK,
            &json!({
                "version": env!("CARGO_PKG_VERSION"),
                "started": metrics.started.to_string(),
                "uptime_seconds": now.as_second() - metrics.started.as_second(),
                "ready": findings.iter().all(|found| found.problem.is_none()),
                "parts": parts(&findings),
                "workers": self.workers,
                "connections": { "h1": metrics.open(Protocol::H1), "h2": metrics.open(Protocol::H2) },
                "exchanges_in_flight": metrics.in_flight(),
                "tunnels": metrics.tunnels(),
                "config": { "file": config.file, "loaded": loaded.at.to_string() },
                "certificates": certificates.collect::<Vec<_>>(),
                "upstreams": upstreams.collect::<Vec<_>>(),
            }),
        )
    }
}

fn parts(findings: &[Finding]) -> serde_json::Value {
    let part = |found: &Finding| match &found.problem {
        None => json!({ "name": found.part, "ready": true }),
        Some(problem) => json!({ "name": found.part, "ready": false, "problem": problem }),
    };
    findings.iter().map(part).collect()
}

fn line(found: &Finding) -> String {
    match &found.problem {
        None => format!("{}: ok\n", found.part),
        Some(problem) => format!("{}: {problem}\n", found.part),
    }
}

fn wants_json(headers: &HeaderMap) -> bool {
    let json = b"application/json";
    headers.get_all(header::ACCEPT).iter().any(|line| line.as_bytes().windows(json.len()).any(|window| window == json))
}

fn text(status: StatusCode, text: impl Into<String>) -> Answer {
    answer(status, "text/plain; charset=utf-8", text.into())
}

fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    answer(status, "application/json", format!("{value:#}\n"))
}

/// Answers with what is true now, and only now.
fn answer(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}
