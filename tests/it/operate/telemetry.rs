//! `[telemetry]`: traces go on through callgate, and a collector of OpenTelemetry gets spans without secrets.

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::kit::program::Program;
use crate::kit::stage::{Plan, until};
use crate::kit::upstream::RawUpstream;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

async fn collector(status: &str) -> RawUpstream {
    RawUpstream::answering(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}")).await
}

fn telemetry(collector: &RawUpstream, more: &str) -> String {
    format!("[telemetry]\notlp = \"http://{}/\"\n{more}\n", collector.addr)
}

/// Returns the spans that a collector has got.
fn spans(collector: &RawUpstream) -> Vec<Value> {
    let bodies = collector.seen().into_iter().map(|request| {
        assert!(request.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("content-type: application/json\r\n"), "{request}");
        serde_json::from_str::<Value>(request.split_once("\r\n\r\n").unwrap().1).unwrap()
    });
    let of_body = |body: Value| body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone();
    bodies.flat_map(of_body).collect()
}

fn fact<'s>(span: &'s Value, key: &str) -> &'s Value {
    let facts = span["attributes"].as_array().unwrap();
    facts.iter().find(|fact| fact["key"] == key).map_or(&Value::Null, |fact| &fact["value"])
}

/// Sends a request with more fields, and returns the fields that the upstream got.
async fn passed(program: &Program, upstream: &RawUpstream, fields: &str) -> String {
    let mut stream = program.connect().await;
    let request = format!("GET /a?token=s3cret HTTP/1.1\r\nHost: app.test\r\n{fields}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    upstream.seen().pop().unwrap()
}

/// Returns the value of a field in a message.
fn field<'m>(message: &'m str, name: &str) -> Option<&'m str> {
    message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[tokio::test]
async fn a_trace_goes_on_through_callgate() {
    let (upstream, collector) = (RawUpstream::ok().await, collector("200 OK").await);
    let program = Program::before(upstream.addr, &telemetry(&collector, "service = \"edge\"")).await;
    let known = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: vendor=1\r\nCookie: sid=s3cret\r\n");
    let continued = passed(&program, &upstream, &known).await;
    let parent: Vec<_> = field(&continued, "traceparent").unwrap().split('-').collect();
    assert_eq!((parent[0], parent[1], parent[3]), ("00", TRACE, "01"));
    assert_ne!(parent[2], SPAN);
    assert_eq!(field(&continued, "tracestate"), Some("vendor=1"));
    let replaced = passed(&program, &upstream, "traceparent: 00-1-2-3\r\ntracestate: vendor=1\r\n").await;
    let begun = field(&replaced, "traceparent").unwrap();
    assert!(begun.len() == 55 && begun.ends_with("-01") && !begun.contains(TRACE), "{begun}");
    assert_eq!(field(&replaced, "tracestate"), None);

    until("the spans arrive", || spans(&collector).len() == 2).await;
    let spans = spans(&collector);
    let span = spans.iter().find(|span| span["traceId"] == TRACE).unwrap();
    assert_eq!((&span["parentSpanId"], &span["spanId"]), (&SPAN.into(), &parent[2].into()));
    assert_eq!((&span["name"], &span["kind"]), (&"GET".into(), &2.into()));
    assert_eq!(fact(span, "url.path")["stringValue"], "/a");
    assert_eq!(fact(span, "server.address")["stringValue"], "app.test");
    assert_eq!(fact(span, "client.address")["stringValue"], "127.0.0.1");
    assert_eq!(fact(span, "http.response.status_code")["intValue"], "200");
    assert_eq!(fact(span, "callgate.route")["stringValue"], "app");
    let nanos = |key: &str| span[key].as_str().unwrap().parse::<u128>().unwrap();
    assert!(nanos("startTimeUnixNano") <= nanos("endTimeUnixNano"));
    let other = spans.iter().find(|span| span["traceId"] != TRACE).unwrap();
    assert_eq!((&other["parentSpanId"], begun.contains(other["spanId"].as_str().unwrap())), (&Value::Null, true));
    let told = collector.seen().concat();
    assert!(told.contains("\"service.name\"") && told.contains("\"edge\"") && !told.contains("s3cret"), "{told}");
}

#[tokio::test]
async fn without_a_collector_traces_pass_untouched() {
    let upstream = RawUpstream::ok().await;
    let program = Program::before(upstream.addr, "").await;
    for fields in ["traceparent: 00-1-2-3\r\ntracestate: vendor=1\r\n", "traceparent: what\r\ntraceparent: ever\r\n"] {
        let got = passed(&program, &upstream, fields).await;
        assert!(got.contains(&fields.to_ascii_lowercase()), "{got}");
    }
    assert!(!passed(&program, &upstream, "").await.contains("traceparent"));
}

#[tokio::test]
async fn the_opening_of_a_session_is_a_part_of_its_exchange() {
    let collector = collector("200 OK").await;
    let more = telemetry(&collector, "headers = [{ header = \"authorization\", value = { env = \"OIDC_SECRET\" } }]");
    let stage = Plan { more: &more, ..Plan::default() }.start().await;
    stage.as_alice("/auth/pbx?lang=fr").send().await.expect(303);
    until("the spans arrive", || spans(&collector).len() == 2).await;
    let spans = spans(&collector);
    let of = |name: &str| spans.iter().find(|span| span["name"] == name).unwrap();
    let (exchange, opening) = (of("GET"), of("open PBX session"));
    assert_eq!((&opening["parentSpanId"], &opening["traceId"]), (&exchange["spanId"], &exchange["traceId"]));
    assert_eq!(fact(exchange, "callgate.route")["stringValue"], "auth_pbx");
    assert!(collector.seen()[0].contains("authorization: "), "{:?}", collector.seen());
}

#[tokio::test]
async fn spans_that_the_collector_refuses_are_counted() {
    let collector = collector("400 Bad Request").await;
    let stage = Plan { more: &telemetry(&collector, ""), ..Plan::default() }.start().await;
    stage.as_alice("/").send().await.expect(200);
    stage.gate.counts("callgate_spans_total{result=lost}", 1.0).await;
    assert_eq!(stage.gate.metric("callgate_spans_total{result=sent}"), 0.0);
    assert!(stage.gate.events().contains("spans are lost: the collector refuses them"), "{}", stage.gate.events());
}

#[tokio::test]
async fn a_trace_is_recorded_by_chance_where_it_begins_and_as_told_where_it_goes_on() {
    let (upstream, collector) = (RawUpstream::ok().await, collector("200 OK").await);
    let program = Program::before(upstream.addr, &telemetry(&collector, "sample = 0")).await;
    for _ in 0..5 {
        let begun = passed(&program, &upstream, "").await;
        assert!(field(&begun, "traceparent").unwrap().ends_with("-00"), "{begun}");
    }
    passed(&program, &upstream, &format!("traceparent: 00-{TRACE}-{SPAN}-00\r\n")).await;
    passed(&program, &upstream, &format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n")).await;
    until("the span arrives", || !spans(&collector).is_empty()).await;
    assert_eq!(spans(&collector).len(), 1);
}
