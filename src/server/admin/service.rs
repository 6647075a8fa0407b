//! The endpoints of the admin listener.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::AdminContext;
use super::connections::OrderInProgress;
use super::log_level::{self, LogLevelOrder};
use super::order::{self, OrderError};
use super::sessions::{self, SessionChoice};
use super::status::{PartStatus, Sight, StatusReport, status_page};
use crate::freeze::MembersTold;
use crate::message::target;
use crate::model::freeze_target::{FreezeTarget, MAX_WHY};
use crate::model::session::EndReason;
use crate::observe::audit::{AuditEvent, EventRecord};
use crate::observe::health::PartReport;
use crate::observe::heartbeat::StuckWorker;
use crate::observe::metrics;
use crate::pbx::{SessionEnd, SessionFilter};
use crate::proxy::LoginQuestion;
use crate::server::client_io::ClientStream;
use crate::server::reload_orders::ReloadOutcome;
use crate::server::snapshot::Snapshot;
use crate::server::succession::{OldProcess, SuccessionOrder};
use crate::state::{Freeze, KeepError};

/// The most bytes of the head of a request.
const MAX_HEAD: usize = 16 << 10;
/// How long a connection may take: one request, one answer.
const LIFE: Duration = Duration::from_secs(10);
/// How long the head of a request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long `/explain` may take.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(8);
/// How long `/reload` may take.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(8);

/// How long an order waits for Voximplant, which goes on in the background.
const PHONE_TIMEOUT: Duration = Duration::from_secs(5);

/// The body of a 404.
const ENDPOINTS: &str = "here are /livez, /readyz, /metrics, /status, /status.json, /explain, /reload, /freeze, /thaw, \
                         /freezes, /phones, /sessions, /sessions/end, /limits, /log/level and /openapi.json\n";

/// The login endpoints in OpenAPI 3.1.
const OPENAPI: &str = include_str!("../../../docs/openapi.json");

type AdminResponse = Response<Full<Bytes>>;

/// Answers the requests of the admin listener.
pub(super) struct AdminService {
    context: AdminContext,
}

/// The endpoints.
#[derive(Clone, Copy)]
enum AdminEndpoint {
    Livez,
    Readyz,
    Metrics,
    Status,
    OpenApi,
    Explain,
    Reload,
    Freeze,
    Thaw,
    Freezes,
    Sessions,
    EndSessions,
    Phones,
    Limits,
    LogLevel,
}

/// The order to freeze a target.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FreezeOrder {
    whom: String,
    until: Option<Timestamp>,
    #[serde(default)]
    why: String,
}

/// The order to thaw a target.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ThawOrder {
    whom: String,
}

/// The order to list something, which has no fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListOrder {}

/// The other end of a connection.
struct AdminClient {
    may_order: bool,
    name: String,
    in_progress: OrderInProgress,
}

impl AdminEndpoint {
    fn at(path: &str) -> Option<Self> {
        Some(match path {
            "/livez" => Self::Livez,
            "/readyz" => Self::Readyz,
            "/metrics" => Self::Metrics,
            "/status" | "/status.json" => Self::Status,
            "/openapi.json" => Self::OpenApi,
            "/explain" => Self::Explain,
            "/reload" => Self::Reload,
            "/freeze" => Self::Freeze,
            "/thaw" => Self::Thaw,
            "/freezes" => Self::Freezes,
            "/sessions" => Self::Sessions,
            "/sessions/end" => Self::EndSessions,
            "/phones" => Self::Phones,
            "/limits" => Self::Limits,
            "/log/level" => Self::LogLevel,
            _ => return None,
        })
    }

    /// Returns its methods in the form of the `Allow` field.
    const fn methods(self) -> &'static str {
        match self {
            Self::Livez | Self::Readyz | Self::Metrics | Self::Status | Self::OpenApi => "GET, HEAD",
            Self::Explain
            | Self::Reload
            | Self::Freeze
            | Self::Thaw
            | Self::Freezes
            | Self::Phones
            | Self::Sessions
            | Self::EndSessions
            | Self::Limits
            | Self::LogLevel => "POST",
        }
    }

    fn takes(self, method: &Method) -> bool {
        self.methods().split(", ").any(|name| name == method.as_str())
    }
}

impl AdminService {
    pub(super) const fn new(context: AdminContext) -> Self {
        Self { context }
    }

    pub(super) async fn serve(self: Rc<Self>, stream: ClientStream, in_progress: OrderInProgress) {
        let client = &AdminClient { may_order: order::is_operator(&stream), name: order::name(&stream), in_progress };
        let service = service_fn(|request| {
            let this = Rc::clone(&self);
            async move { Ok::<_, Infallible>(this.answer(request, client).await) }
        });
        let connection = http1::Builder::new()
            .half_close(true)
            .timer(TokioTimer::new())
            .keep_alive(false)
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        // A connection without an answer in time is closed, and that is no error of callgate's.
        drop(timeout(LIFE, connection).await);
    }

    async fn answer(&self, request: Request<Incoming>, client: &AdminClient) -> AdminResponse {
        let Ok(authority) = target::authority(request.version(), request.uri(), request.headers()) else {
            return text(StatusCode::BAD_REQUEST, "the request names no host, or more than one\n");
        };
        // By DNS rebinding a web page can send a browser here, also to a unix socket that SSH forwards, but only under a host
        // name of the page's own site.
        let Some(origin) = order::own_origin(&authority) else {
            return text(StatusCode::MISDIRECTED_REQUEST, "ask for localhost or a loopback address\n");
        };
        let Some(endpoint) = AdminEndpoint::at(request.uri().path()) else {
            return text(StatusCode::NOT_FOUND, ENDPOINTS);
        };
        if !endpoint.takes(request.method()) {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, format!("possible here: {}\n", endpoint.methods()));
            refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static(endpoint.methods()));
            return refusal;
        }
        match endpoint {
            AdminEndpoint::Livez => self.live(),
            AdminEndpoint::Readyz => self.ready(&request),
            AdminEndpoint::Metrics => self.metrics().await,
            AdminEndpoint::Status => {
                let sight = sight(request.headers(), client.may_order);
                self.status(&request, sight).await
            }
            AdminEndpoint::OpenApi => answer(StatusCode::OK, "application/json", OPENAPI.to_owned()),
            AdminEndpoint::Explain => match order::read(request, client.may_order).await {
                Ok(question) => self.explain(&question).await,
                Err(refusal) => refused(refusal),
            },
            AdminEndpoint::Reload => match order::read(request, client.may_order).await {
                Ok(ListOrder {}) => self.reload(client).await,
                Err(refusal) => refused(refusal),
            },
            AdminEndpoint::Freeze => match order::read(request, client.may_order).await {
                Ok(order) => self.freeze(order, client).await.unwrap_or_else(|answer| *answer),
                Err(refusal) => refused(refusal),
            },
            AdminEndpoint::Thaw => match order::read(request, client.may_order).await {
                Ok(order) => self.thaw(order, client).await.unwrap_or_else(|answer| *answer),
                Err(refusal) => refused(refusal),
            },
            AdminEndpoint::Freezes => match order::read(request, client.may_order).await {
                Ok(ListOrder {}) => self.freezes(),
                Err(refusal) => refused(refusal),
            },
            AdminEndpoint::Phones => match order::read(request, client.may_order).await {
                Ok(ListOrder {}) => self.phones(),
                Err(refusal) => refused(refusal),
            },
            AdminEndpoint::Limits => match order::read(request, client.may_order).await {
                Ok(ListOrder {}) => json(StatusCode::OK, &self.limits()),
                Err(refusal) => refused(refusal),
            },
            AdminEndpoint::LogLevel => match order::read(request, client.may_order).await {
                Ok(order) => log_level(&order, client),
                Err(refusal) => refused(refusal),
            },
            AdminEndpoint::Sessions => match order::read(request, client.may_order).await {
                Ok(choice) => answered(sessions::list(&self.context.snapshots.borrow(), &choice)),
                Err(refusal) => refused(refusal),
            },
            AdminEndpoint::EndSessions => match order::read_from(request, client.may_order, Some(&origin)).await {
                Ok(choice) => {
                    client.in_progress.begin();
                    self.end_sessions(&choice, client).await
                }
                Err(refusal) => refused(refusal),
            },
        }
    }

    /// Freezes a target, on all workers at once.
    async fn freeze(&self, order: FreezeOrder, client: &AdminClient) -> Result<AdminResponse, Box<AdminResponse>> {
        client.in_progress.begin();
        let by = &*client.name;
        let whom = whom(&order.whom)?;
        let snapshot = Arc::clone(&self.context.snapshots.borrow());
        let FreezeOrder { until, why, .. } = order;
        if why.len() > MAX_WHY {
            return Err(Box::new(problem(StatusCode::BAD_REQUEST, "malformed", "the reason is longer than 500 bytes")));
        }
        let freeze = Freeze { since: Timestamp::now(), until, by: by.to_owned(), why: why.clone(), shared: None };
        let members = snapshot.shared().freeze(&whom, freeze.clone()).await.map_err(not_kept)?;
        let old = self.context.predecessors.ask(&SuccessionOrder::Freeze { whom: whom.to_string(), freeze }).await;
        snapshot.logs().write_note(&EventRecord::of(AuditEvent::Freeze, &whom, by.to_owned(), until, &why));
        let end = SessionEnd { reason: EndReason::Freeze, by: Some(by) };
        let filter = SessionFilter::Target { whom: whom.clone() };
        let ended = snapshot.sessions().end_everywhere(filter, end, snapshot.logs()).len();
        tracing::warn!(whom = whom.to_string(), by, ended, "frozen");
        let phones = settled_phones(&snapshot, &whom).await;
        let is_kept = snapshot.config.state.is_some();
        Ok(json(
            StatusCode::OK,
            &json!({
                "whom": whom.to_string(),
                "kept": is_kept,
                "phones": phones,
                "old_processes": processes(&old),
                "members": told(members),
            }),
        ))
    }

    /// Thaws a target.
    async fn thaw(&self, order: ThawOrder, client: &AdminClient) -> Result<AdminResponse, Box<AdminResponse>> {
        client.in_progress.begin();
        let by = &*client.name;
        let whom = whom(&order.whom)?;
        let snapshot = Arc::clone(&self.context.snapshots.borrow());
        let members = snapshot.shared().thaw(&whom).await.map_err(not_kept)?;
        let old = self.context.predecessors.ask(&SuccessionOrder::Thaw { whom: whom.to_string() }).await;
        if members.is_some() {
            snapshot.logs().write_note(&EventRecord::of(AuditEvent::Thaw, &whom, by.to_owned(), None, ""));
            tracing::warn!(whom = whom.to_string(), by, "thawed");
        }
        let phones = settled_phones(&snapshot, &whom).await;
        Ok(json(
            StatusCode::OK,
            &json!({
                "whom": whom.to_string(),
                "thawed": members.is_some(),
                "phones": phones,
                "old_processes": processes(&old),
                "members": members.and_then(told),
            }),
        ))
    }

    /// Ends sessions, here and in old processes.
    async fn end_sessions(&self, choice: &SessionChoice, client: &AdminClient) -> AdminResponse {
        let snapshot = Arc::clone(&self.context.snapshots.borrow());
        let (ended, orders) = match sessions::end(&snapshot, choice, &client.name) {
            Ok(done) => done,
            Err(message) => return problem(StatusCode::BAD_REQUEST, "malformed", &message),
        };
        let (mut old, mut elsewhere) = (Vec::new(), 0);
        for order in orders {
            // One that does not obey one order is not known to obey the others.
            let disobedient: Vec<_> = old.iter().filter(|one: &&OldProcess| !one.obeys()).map(|one| one.id).collect();
            old = self.context.predecessors.ask(&SuccessionOrder::EndSessions(order)).await;
            elsewhere += old.iter().filter_map(|one| one.report.as_ref()).map(|report| report.ended).sum::<u64>();
            old.iter_mut().filter(|one| disobedient.contains(&one.id)).for_each(|one| one.report = None);
        }
        json(
            StatusCode::OK,
            &json!({
                "ended": ended,
                "ended_in_old_processes": elsewhere,
                "old_processes": processes(&old),
                "members": sessions::told(&snapshot, choice),
            }),
        )
    }

    fn freezes(&self) -> AdminResponse {
        let freezes = self.context.snapshots.borrow().freezes().list();
        let entries = freezes.iter().map(|(whom, freeze)| {
            json!({ "whom": whom, "since": freeze.since, "until": freeze.until, "by": freeze.by, "why": freeze.why })
        });
        json(StatusCode::OK, &entries.collect())
    }

    /// Lists the phones of Voximplant users that are stopped, or are to be stopped or started.
    fn phones(&self) -> AdminResponse {
        let snapshot = Arc::clone(&self.context.snapshots.borrow());
        let phones = snapshot.config.voximplant.as_ref().map(|voximplant| snapshot.phones().report(voximplant));
        json(StatusCode::OK, &json!(phones.unwrap_or_default()))
    }

    /// Describes the limits, and what those in shadow have measured.
    fn limits(&self) -> Value {
        json!(self.context.snapshots.borrow().limits())
    }

    /// Explains the login that a request would get, by the configuration and state of this moment.
    async fn explain(&self, question: &LoginQuestion) -> AdminResponse {
        let snapshot = Arc::clone(&self.context.snapshots.borrow());
        let Ok(proxy) = snapshot.lone_proxy() else {
            return problem(StatusCode::INTERNAL_SERVER_ERROR, "unusable", "the configuration cannot be used");
        };
        match timeout(EXPLAIN_TIMEOUT, proxy.explain(question, &snapshot.tls)).await {
            Ok(Ok(explanation)) => json(StatusCode::OK, &json!(explanation)),
            Ok(Err(error)) => problem(StatusCode::BAD_REQUEST, "malformed", &error.to_string()),
            Err(_) => problem(
                StatusCode::GATEWAY_TIMEOUT,
                "timeout",
                "no answer in time from the app, a key server or the PBX",
            ),
        }
    }

    /// Has the files of the configuration read again, and tells whether the gate serves the new one.
    async fn reload(&self, client: &AdminClient) -> AdminResponse {
        client.in_progress.begin();
        tracing::info!(by = client.name, "a reload is ordered");
        match timeout(RELOAD_TIMEOUT, self.context.reloads.order()).await {
            Ok(Some(ReloadOutcome::Taken { file, changed, warnings })) => {
                json(StatusCode::OK, &json!({ "file": file, "changed": changed, "warnings": warnings }))
            }
            Ok(Some(ReloadOutcome::Refused { reason, problems })) => json(
                StatusCode::UNPROCESSABLE_ENTITY,
                &json!({ "error": "refused", "message": reason, "problems": problems }),
            ),
            Ok(None) => problem(
                StatusCode::CONFLICT,
                "not_here",
                "this process does not reload: it drains, or it runs without configuration files",
            ),
            Err(_) => problem(
                StatusCode::GATEWAY_TIMEOUT,
                "timeout",
                "the files cannot be read in time: the reload goes on, and the log says how it ends",
            ),
        }
    }

    fn live(&self) -> AdminResponse {
        alive(&self.context.heartbeats.stuck(Instant::now()))
    }

    fn ready(&self, request: &Request<Incoming>) -> AdminResponse {
        let findings = self.context.metrics.health.check();
        let is_ready = !findings.iter().any(PartReport::makes_unready);
        let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        if wants_json(request.headers()) {
            return json(status, &json!({ "ready": is_ready, "parts": parts(&findings) }));
        }
        let is_verbose = request.uri().query().is_some_and(|query| query.split('&').any(|word| word == "verbose"));
        let lines = findings.iter().filter(|found| is_verbose || found.makes_unready()).map(line);
        let end = if is_ready { "ok\n" } else { "not ready\n" };
        text(status, lines.chain([end.to_owned()]).collect::<String>())
    }

    async fn metrics(&self) -> AdminResponse {
        let old = self.context.predecessors.ask(&SuccessionOrder::Status).await;
        let tunnels = old.iter().filter_map(|one| one.report.as_ref()).map(|report| report.tunnels).sum();
        self.context.metrics.show_old_processes(old.len() as u64, tunnels);
        answer(StatusCode::OK, metrics::CONTENT_TYPE, self.context.metrics.text())
    }

    /// Answers `/status`: as a page where the reader asks for one, else as JSON.
    async fn status(&self, request: &Request<Incoming>, sight: Sight) -> AdminResponse {
        let old = self.context.predecessors.ask(&SuccessionOrder::Status).await;
        let report = StatusReport::of(&self.context, old, sight);
        if !request.uri().path().ends_with(".json") && accepts(request.headers(), b"text/html") {
            return status_page(&report, &self.context.sampler.steps());
        }
        json(StatusCode::OK, &json!(report))
    }
}

/// Tells the level of events, after it is changed if the order says so.
fn log_level(order: &LogLevelOrder, client: &AdminClient) -> AdminResponse {
    match log_level::carry_out(order, &client.name) {
        Some(levels) => json(StatusCode::OK, &levels),
        None => problem(StatusCode::CONFLICT, "not_here", "the events of this process do not go to standard error"),
    }
}

/// Answers `/livez`: names the workers that are stuck.
fn alive(still: &[StuckWorker]) -> AdminResponse {
    if still.is_empty() {
        return text(StatusCode::OK, "ok\n");
    }
    let line =
        |still: &StuckWorker| format!("worker {}: has not moved for {} s\n", still.worker, still.since.as_secs());
    text(StatusCode::SERVICE_UNAVAILABLE, still.iter().map(line).chain(["not alive\n".to_owned()]).collect::<String>())
}

fn whom(text: &str) -> Result<FreezeTarget, Box<AdminResponse>> {
    text.parse().map_err(|message: String| Box::new(problem(StatusCode::BAD_REQUEST, "malformed", &message)))
}

/// Stops or starts the phones of a Voximplant user, and returns their states; `null`: none can be.
async fn settled_phones(snapshot: &Snapshot, whom: &FreezeTarget) -> Value {
    match (whom, &snapshot.config.voximplant) {
        (FreezeTarget::User(user), Some(voximplant)) if voximplant.management.is_some() => {
            json!(snapshot.phones().settled(voximplant, user, PHONE_TIMEOUT).await)
        }
        _ => Value::Null,
    }
}

fn not_kept(error: KeepError) -> Box<AdminResponse> {
    Box::new(problem(StatusCode::SERVICE_UNAVAILABLE, "state", &error.to_string()))
}

/// Returns what is known of the old processes that keep tunnels. One that is stuck has only an id.
fn processes(old: &[OldProcess]) -> Value {
    let process = |one: &OldProcess| match &one.report {
        Some(report) => {
            json!({ "pid": one.id, "obeyed": report.obeyed, "since": report.since, "tunnels": report.tunnels })
        }
        None => json!({ "pid": one.id, "obeyed": false }),
    };
    old.iter().map(process).collect()
}

/// Says whether the other members know an order; nothing if there are none.
const fn told(members: MembersTold) -> Option<&'static str> {
    match members {
        MembersTold::Alone => None,
        MembersTold::Told => Some("told"),
        MembersTold::Later => Some("later"),
        MembersTold::Full => Some("full"),
    }
}

fn parts(findings: &[PartReport]) -> Value {
    findings.iter().cloned().map(|found| json!(PartStatus::from(found))).collect()
}

fn line(found: &PartReport) -> String {
    match (&found.problem, &found.detail) {
        (Some(problem), _) => format!("{}: {problem}\n", found.part),
        (None, Some(detail)) => format!("{}: ok, {detail}\n", found.part),
        (None, None) => format!("{}: ok\n", found.part),
    }
}

fn wants_json(headers: &HeaderMap) -> bool {
    accepts(headers, b"application/json")
}

fn accepts(headers: &HeaderMap, kind: &[u8]) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|line| line.as_bytes().windows(kind.len()).any(|window| window == kind))
}

/// Returns what the sender of a request for `/status` may see. Who may list sessions sees identities; a browser shows them only in
/// a window of its own.
fn sight(headers: &HeaderMap, may_order: bool) -> Sight {
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|found| found.as_bytes() == value.as_bytes());
    let is_own = || is("sec-fetch-site", "same-origin") || is("sec-fetch-site", "none");
    let is_window = || is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document");
    let may_show = !order::is_from_browser(headers) || is_own() || is_window();
    if may_order && may_show { Sight::Identities } else { Sight::Figures }
}

/// Answers an order that is not carried out.
fn problem(status: StatusCode, error: &str, message: &str) -> AdminResponse {
    json(status, &json!({ "error": error, "message": message }))
}

/// Answers an order about sessions.
fn answered(done: Result<Value, String>) -> AdminResponse {
    match done {
        Ok(sessions) => json(StatusCode::OK, &sessions),
        Err(message) => problem(StatusCode::BAD_REQUEST, "malformed", &message),
    }
}

fn refused(refusal: OrderError) -> AdminResponse {
    let (status, error) = refusal.status();
    problem(status, error, &refusal.to_string())
}

fn text(status: StatusCode, text: impl Into<String>) -> AdminResponse {
    answer(status, "text/plain; charset=utf-8", text.into())
}

fn json(status: StatusCode, value: &Value) -> AdminResponse {
    answer(status, "application/json", format!("{value:#}\n"))
}

/// Makes an answer. It is true only now, so no cache may keep it.
fn answer(status: StatusCode, content_type: &'static str, body: String) -> AdminResponse {
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

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_stuck_worker_is_named() {
        let answer_to = async |still: &[StuckWorker]| {
            let answer = alive(still);
            let status = answer.status();
            (status.as_u16(), answer.into_body().collect().await.unwrap().to_bytes())
        };
        assert_eq!(answer_to(&[]).await, (200, "ok\n".into()));
        let still = StuckWorker { worker: 1, since: Duration::from_millis(12_300) };
        assert_eq!(answer_to(&[still]).await, (503, "worker 1: has not moved for 12 s\nnot alive\n".into()));
    }
}
