//! `[telemetry] metrics` and `logs`: a collector gets what `/metrics` and the logs show, and nothing else; what it does not take is
//! counted, and the end of the process loses nothing.

use std::collections::BTreeSet;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::kit::gate::Gate;
use crate::kit::oidc::SECRET;
use crate::kit::openmetrics;
use crate::kit::program::{Program, Successor, check_echo, code, echo, tunnel};
use crate::kit::stage::{Plan, until};
use crate::kit::upstream::RawUpstream;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";
/// The paths and lists of the three kinds.
const TRACES: [&str; 4] = ["traces", "resourceSpans", "scopeSpans", "spans"];
const METRICS: [&str; 4] = ["metrics", "resourceMetrics", "scopeMetrics", "metrics"];
const LOGS: [&str; 4] = ["logs", "resourceLogs", "scopeLogs", "logRecords"];

async fn collector(status: &str, body: &str) -> RawUpstream {
    RawUpstream::answering(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await
}

fn telemetry(collector: &RawUpstream, more: &str) -> String {
    format!("[telemetry]\notlp = \"http://{}\"\n{more}\n", collector.addr)
}

/// Returns the requests of one kind that a collector has got.
fn posts(collector: &RawUpstream, [path, resources, _, _]: [&str; 4]) -> Vec<Value> {
    let line = format!("POST /v1/{path} HTTP/1.1\r\n");
    let posts = collector.seen().into_iter().filter(|request| request.starts_with(&line));
    let read = |request: String| {
        assert!(request.contains("content-type: application/json\r\n"), "{request}");
        let body: Value = serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
        let resource = &body[resources][0]["resource"];
        assert_eq!(fact(resource, "service.name"), "callgate");
        body
    };
    posts.map(read).collect()
}

fn list(post: &Value, [_, resources, scopes, items]: [&str; 4]) -> Vec<Value> {
    let scope = &post[resources][0][scopes][0];
    assert_eq!(scope["scope"]["name"], "callgate");
    scope[items].as_array().unwrap().clone()
}

fn items(collector: &RawUpstream, kind: [&str; 4]) -> Vec<Value> {
    posts(collector, kind).iter().flat_map(|post| list(post, kind)).collect()
}

/// Returns the value of an attribute, whatever its type.
fn fact<'i>(item: &'i Value, key: &str) -> &'i Value {
    let facts = item["attributes"].as_array().unwrap();
    let fact = facts.iter().find(|fact| fact["key"] == key);
    fact.map_or(&Value::Null, |fact| fact["value"].as_object().unwrap().values().next().unwrap())
}

fn number(text: &Value) -> u128 {
    text.as_str().unwrap_or_else(|| panic!("{text} is no text")).parse().unwrap()
}

/// Returns the log records with a kind, `access` or `passthrough`; those of events have none.
fn records(collector: &RawUpstream, kind: Option<&str>) -> Vec<Value> {
    let is_so = |record: &Value| fact(record, "kind").as_str() == kind;
    items(collector, LOGS).into_iter().filter(is_so).collect()
}

/// Sends a request, and waits for the end of its answer.
async fn ask(program: &Program, fields: &str) {
    let mut stream = program.connect().await;
    let request = format!("GET /a?token=s3cret HTTP/1.1\r\nHost: app.test\r\n{fields}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
}

#[tokio::test]
async fn a_collector_gets_the_metrics_of_the_page() {
    let (upstream, collector) = (RawUpstream::ok().await, collector("200 OK", "{}").await);
    let gate = Gate::before_with(upstream.addr, "", &telemetry(&collector, "metrics = \"1s\"")).await;
    gate.get("/a").send().await.expect(200);
    let newest = || posts(&collector, METRICS).pop().map(|post| list(&post, METRICS)).unwrap_or_default();
    let metric = |name: &str| newest().into_iter().find(|metric| metric["name"] == name).unwrap_or_default();
    let point = |points: &Value, label: &str, value: &str| {
        let mut points = points["dataPoints"].as_array().into_iter().flatten();
        points.find(|point| fact(point, label) == value).cloned().unwrap_or_default()
    };
    let answers = || point(&metric("callgate_answer_seconds")["histogram"], "route", "app");
    until("the histogram counts the answer", || answers()["count"] == "1").await;

    let exchanges = metric("callgate_exchanges_total");
    assert_eq!((&exchanges["unit"], &exchanges["description"]), (&"".into(), &"Requests with their answers.".into()));
    assert_eq!(
        (&exchanges["sum"]["isMonotonic"], &exchanges["sum"]["aggregationTemporality"]),
        (&true.into(), &2.into())
    );
    let row = point(&exchanges["sum"], "route", "app");
    assert!(number(&row["startTimeUnixNano"]) < number(&row["timeUnixNano"]), "{row}");
    assert_eq!(row["asInt"].as_str().map(str::is_empty), Some(false));
    let (histogram, answers) = (metric("callgate_answer_seconds"), answers());
    assert_eq!((&histogram["unit"], &histogram["histogram"]["aggregationTemporality"]), (&"s".into(), &2.into()));
    let counts: Vec<_> = answers["bucketCounts"].as_array().unwrap().iter().map(number).collect();
    let bounds: Vec<_> =
        answers["explicitBounds"].as_array().unwrap().iter().map(|bound| bound.as_f64().unwrap()).collect();
    assert_eq!((counts.iter().sum::<u128>(), counts.len()), (1, bounds.len() + 1));
    assert!(bounds.is_sorted() && bounds[0] == 0.001 && answers["sum"].as_f64().unwrap() > 0.0, "{answers}");
    let memory = metric("process_resident_memory_bytes");
    assert_eq!(memory["unit"], "By");
    assert!(number(&memory["gauge"]["dataPoints"][0]["asInt"]) > 0, "{memory}");
    let build = &metric("callgate_build_info")["sum"];
    let version = fact(&build["dataPoints"][0], "version");
    assert_eq!((&build["isMonotonic"], version), (&false.into(), &env!("CARGO_PKG_VERSION").into()));
    until("posts are counted", || gate.metric("callgate_metric_posts_total{result=sent}") >= 1.0).await;

    let page = gate.told("/metrics");
    let page = openmetrics::read(page.split_once("\r\n\r\n").unwrap().1);
    let shown: BTreeSet<_> = page.into_iter().flat_map(|family| family.samples).collect_names();
    let posted: BTreeSet<_> = newest().iter().map(|metric| metric["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(shown, posted);
}

trait SampleNames {
    /// Returns the names of samples, those of a histogram as one.
    fn collect_names(self) -> BTreeSet<String>;
}

impl<L, I: Iterator<Item = (String, L, f64)>> SampleNames for I {
    fn collect_names(self) -> BTreeSet<String> {
        let of_histogram = |name: &str| {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end))?;
            Some(base.to_owned())
        };
        self.map(|(name, _, _)| of_histogram(&name).unwrap_or(name)).collect()
    }
}

#[tokio::test]
async fn a_collector_gets_access_lines_and_events_without_secrets() {
    let (upstream, collector) = (RawUpstream::ok().await, collector("200 OK", "{}").await);
    let program = Program::before(upstream.addr, &telemetry(&collector, "logs = true")).await;
    ask(&program, &format!("traceparent: 00-{TRACE}-{SPAN}-01\r\nCookie: sid=s3cret\r\nReferer: /s3cret\r\n")).await;
    until("the access line arrives", || !records(&collector, Some("access")).is_empty()).await;
    let line = records(&collector, Some("access")).remove(0);
    assert_eq!((&line["severityNumber"], &line["severityText"]), (&9.into(), &"INFO".into()));
    assert_eq!(line["body"]["stringValue"], "GET /a?token=*** 200");
    assert_eq!(line["timeUnixNano"], line["observedTimeUnixNano"]);
    // Since 2020 and as nanoseconds.
    assert!(number(&line["timeUnixNano"]) > 1_577_836_800_000_000_000, "{line}");
    let facts =
        ["method", "host", "target", "status", "upstream", "ended", "client"].map(|key| fact(&line, key).clone());
    assert_eq!(facts, ["GET", "app.test", "/a?token=***", "200", "app", "complete", "127.0.0.1"]);
    assert!(fact(&line, "ms").is_f64(), "{line}");
    let upstream = upstream.seen().pop().unwrap();
    let parent = upstream.split(&format!("traceparent: 00-{TRACE}-")).nth(1).unwrap();
    assert_eq!((&line["traceId"], &line["spanId"]), (&TRACE.into(), &parent[..16].into()));
    assert_eq!(line["flags"], 1);
    let events = records(&collector, None);
    let listening = events.iter().find(|event| event["body"]["stringValue"] == "listening").unwrap();
    assert_eq!(fact(listening, "address"), &program.addr.to_string());
    assert!(fact(listening, "target").as_str().unwrap().starts_with("callgate::"), "{listening}");
    assert_eq!((&listening["severityNumber"], &listening["traceId"]), (&9.into(), &Value::Null));
    let told = collector.seen().concat();
    assert!(!told.contains("s3cret") && posts(&collector, METRICS).is_empty(), "{told}");
}

#[tokio::test]
async fn an_event_names_the_span_of_its_exchange() {
    let (upstream, collector) = (RawUpstream::closing("no HTTP\r\n\r\n").await, collector("200 OK", "{}").await);
    let program = Program::before(upstream.addr, &telemetry(&collector, "logs = true")).await;
    ask(&program, &format!("traceparent: 00-{TRACE}-{SPAN}-00\r\n")).await;
    let warning = || records(&collector, None).into_iter().find(|event| event["traceId"] == TRACE);
    until("the warning arrives", || warning().is_some()).await;
    let (warning, line) = (warning().unwrap(), records(&collector, Some("access")).remove(0));
    assert_eq!((&warning["spanId"], &warning["flags"]), (&line["spanId"], &0.into()));
    assert_eq!(fact(&warning, "id"), fact(&line, "id"));
    assert_eq!((&warning["severityNumber"], fact(&line, "status")), (&13.into(), &"502".into()));
    // A trace that is not recorded has no span.
    assert!(items(&collector, TRACES).is_empty());
}

#[tokio::test]
async fn only_events_of_the_level_are_exported() {
    let (upstream, collector) = (RawUpstream::ok().await, collector("200 OK", "{}").await);
    let more = format!("level = \"error\"\n{}", telemetry(&collector, "logs = true"));
    let program = Program::writing_to(upstream.addr, &more, Stdio::null(), Stdio::null()).await;
    ask(&program, "").await;
    until("the access line arrives", || !records(&collector, Some("access")).is_empty()).await;
    assert_eq!(records(&collector, None), Vec::<Value>::new());
}

#[tokio::test]
async fn the_export_does_not_export_its_own_complaints() {
    let (upstream, collector) = (RawUpstream::ok().await, collector("400 Bad Request", "").await);
    let mut program = Program::before(upstream.addr, &telemetry(&collector, "logs = true\nmetrics = \"1s\"")).await;
    program.running.complaint("log records are lost: the collector refuses them").await;
    ask(&program, "").await;
    until("the access line arrives", || !records(&collector, Some("access")).is_empty()).await;
    let told: Vec<_> = records(&collector, None).iter().map(|event| event["body"]["stringValue"].clone()).collect();
    assert!(!told.iter().any(|told| told.as_str().unwrap().contains("collector")), "{told:?}");
}

#[tokio::test]
async fn what_a_collector_rejects_is_counted_and_told_once() {
    let rejected = "\"rejectedSpans\":\"1\",\"rejectedLogRecords\":1,\"rejectedDataPoints\":\"7\"";
    let answer = format!("{{\"partialSuccess\":{{{rejected},\"errorMessage\":\"bad value, {SECRET}\"}}}}");
    let collector = collector("200 OK", &answer).await;
    let header = "headers = [{ header = \"authorization\", value = { env = \"OIDC_SECRET\" } }]";
    let more = telemetry(&collector, &format!("logs = true\nmetrics = \"1s\"\n{header}"));
    let stage = Plan { more: &more, ..Plan::default() }.start().await;
    stage.gate.canary(SECRET);
    stage.as_alice("/").send().await.expect(200);
    for kind in ["spans", "log_records"] {
        stage.gate.counts(&format!("callgate_{kind}_total{{result=lost}}"), 1.0).await;
    }
    until("two posts of metrics", || stage.gate.metric("callgate_metric_posts_total{result=lost}") >= 2.0).await;
    assert_eq!(stage.gate.metric("callgate_metric_posts_total{result=sent}"), 0.0);
    let events = stage.gate.events();
    for kind in ["spans", "log records", "metrics"] {
        let notice = format!("the collector accepts only a part of the {kind}");
        assert_eq!(events.matches(&notice).count(), 1, "{events}");
    }
    assert!(events.contains("bad value, ***"), "{events}");
}

#[tokio::test]
async fn telemetry_of_the_last_moment_arrives() {
    let (upstream, collector) = (RawUpstream::silent().await, collector("200 OK", "{}").await);
    let more = format!("[server]\ndrain = \"1500ms\"\n{}", telemetry(&collector, "logs = true\nmetrics = \"1h\""));
    let mut program = Program::before(upstream.addr, &more).await;
    let mut stream = program.connect().await;
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    until("the request arrives", || !upstream.seen().is_empty()).await;
    until("the first metrics arrive", || !posts(&collector, METRICS).is_empty()).await;
    program.running.terminate();
    // The exchange is cut off at the drain deadline, just before the end.
    program.running.complaint("cut off at the drain deadline").await;
    program.running.end().await;
    let spans = items(&collector, TRACES);
    assert_eq!(fact(&spans[0], "url.path"), "/slow");
    assert_eq!(fact(&records(&collector, Some("access"))[0], "ended"), "drained");
    assert!(records(&collector, None).iter().any(|event| event["body"]["stringValue"] == "draining"));
    let last = list(&posts(&collector, METRICS)[1], METRICS);
    let exchanges = last.iter().find(|metric| metric["name"] == "callgate_exchanges_aborted_total").unwrap();
    let rows = exchanges["sum"]["dataPoints"].as_array().unwrap();
    let app = rows.iter().find(|row| fact(row, "route") == "app").unwrap();
    assert_eq!(app["asInt"], "1");
}

#[tokio::test]
async fn a_collector_that_hangs_does_not_keep_the_process() {
    let (upstream, collector) = (RawUpstream::ok().await, RawUpstream::silent().await);
    let mut program = Program::before(upstream.addr, &telemetry(&collector, "logs = true\nmetrics = \"1h\"")).await;
    ask(&program, "").await;
    until("the collector is asked", || !collector.seen().is_empty()).await;
    program.running.terminate();
    program.running.complaint("the collector does not answer, and the last telemetry is lost").await;
    assert_eq!(program.running.end().await.0, Some(0));
}

#[tokio::test]
async fn an_old_process_posts_the_spans_of_its_tunnels_and_no_metrics() {
    let (upstream, collector) = (echo().await, collector("200 OK", "{}").await);
    let mut program = Program::before(upstream.addr, &telemetry(&collector, "logs = true\nmetrics = \"1h\"")).await;
    let mut tunnel = tunnel(&program).await;
    check_echo(&mut tunnel).await;
    let _successor = Successor::of(&mut program).await;
    until("both processes have posted metrics", || posts(&collector, METRICS).len() == 2).await;
    drop(tunnel);
    assert_eq!(code(&mut program).await, Some(0));
    assert_eq!(fact(&items(&collector, TRACES)[0], "http.response.status_code"), "101");
    assert_eq!(fact(&records(&collector, Some("access"))[0], "status"), "101");
    assert_eq!(posts(&collector, METRICS).len(), 2);
}
