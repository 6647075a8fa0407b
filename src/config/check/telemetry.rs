//! `[telemetry]`: the collector of OpenTelemetry that gets spans, metrics and logs.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};

use super::tls;
use super::values::duration;
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{MetricPosts, TelemetryConfig};
use crate::model::loopback::is_loopback;
use crate::model::secret::Secret;

/// The paths of spans, metrics and log records (OTLP, "OTLP/HTTP Request").
const PATHS: [&str; 3] = ["/v1/traces", "/v1/metrics", "/v1/logs"];
/// The shortest time from one post of metrics to the next.
const LEAST_PAUSE: Duration = Duration::from_secs(1);
const SERVICE: &str = "callgate";
/// Every trace.
const SAMPLE: u8 = 100;

/// Reads the table.
pub(super) fn telemetry(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> Option<TelemetryConfig> {
    let urls = table.require("otlp").and_then(|node| urls(&node));
    let every = table.get("metrics").map(|node| pause(&node));
    let has_logs = table.get("logs").map_or(Some(false), |node| node.boolean());
    let ca = table.get("ca").map(|node| tls::authorities(&node, around));
    let headers = table.get("headers").map_or(Some(Vec::new()), |node| {
        node.list()?.iter().map(|node| node.table(|table| header(table, around))).collect()
    });
    let sample = table.get("sample").map_or(Some(SAMPLE), |node| Some(node.integer(0..=usize::from(SAMPLE))? as u8));
    let service = table.get("service").map_or(Some(SERVICE), |node| node.word());
    let [traces, metrics, logs] = urls?;
    let every = every.map_or(Some(None), |every| every.map(Some))?;
    Some(TelemetryConfig {
        traces,
        metrics: every.map(|every| MetricPosts { to: metrics, every }),
        logs: has_logs?.then_some(logs),
        ca: ca.map_or(Some(None), |ca| ca.map(Some))?,
        headers: headers?,
        sample: sample?,
        service: service?.to_owned(),
        outbound_proxy: around.outbound_proxy(),
    })
}

/// Reads the URL of the collector, and adds the paths. What is posted tells who asked for what, so it leaves this machine only
/// over TLS.
fn urls(node: &TomlNode<'_, '_>) -> Option<[Uri; PATHS.len()]> {
    let text = node.word()?;
    let is_safe = |uri: &Uri| match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => true,
        (Some("http"), Some(host)) => is_loopback(host),
        _ => false,
    };
    let url = |path: &str| format!("{}{path}", text.trim_end_matches('/')).parse::<Uri>().ok().filter(is_safe);
    let [traces, metrics, logs] = PATHS.map(url);
    let urls = traces.zip(metrics).zip(logs).map(|((traces, metrics), logs)| [traces, metrics, logs]);
    urls.filter(|_| !text.contains(['@', '?', '#'])).or_else(|| {
        node.refuse(
            "not the URL of a collector",
            "write \"https://collector.example.com:4318\"; http only for this machine",
        )
    })
}

fn pause(node: &TomlNode<'_, '_>) -> Option<Duration> {
    let pause = duration(node)?;
    if pause < LEAST_PAUSE {
        return node.refuse("metrics are posted too often", "write \"1s\" or more, such as \"1min\"");
    }
    Some(pause)
}

fn header(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> Option<(HeaderName, Secret)> {
    let name = table.require("header").and_then(|node| {
        let name = HeaderName::from_bytes(node.string()?.as_bytes()).ok();
        let is_free = |name: &HeaderName| !["host", "content-type", "content-length"].contains(&name.as_str());
        name.filter(is_free)
            .or_else(|| node.refuse("not the name of a field", "write a name such as \"authorization\""))
    });
    let value = table.require("value").and_then(|node| {
        let value = around.secret(&node)?;
        if HeaderValue::from_str(value.expose()).is_err() {
            return node.refuse("has a character that a field cannot have", "write it on one line, in ASCII");
        }
        Some(value)
    });
    Some((name?, value?))
}
