//! `[telemetry]`: the collector of OpenTelemetry that gets spans.

use http::{HeaderName, HeaderValue, Uri};

use super::tls;
use crate::config::TelemetryConfig;
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::model::loopback::is_loopback;
use crate::model::secret::Secret;

/// The path of spans (OTLP, "OTLP/HTTP Request").
const TRACES: &str = "/v1/traces";
const SERVICE: &str = "callgate";
/// Every trace.
const SAMPLE: u8 = 100;

/// Reads the table.
pub(super) fn telemetry(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> Option<TelemetryConfig> {
    let traces = table.require("otlp").and_then(|node| traces(&node));
    let ca = table.get("ca").map(|node| tls::authorities(&node, around));
    let headers = table.get("headers").map_or(Some(Vec::new()), |node| {
        node.list()?.iter().map(|node| node.table(|table| header(table, around))).collect()
    });
    let sample = table.get("sample").map_or(Some(SAMPLE), |node| Some(node.integer(0..=usize::from(SAMPLE))? as u8));
    let service = table.get("service").map_or(Some(SERVICE), |node| node.word());
    Some(TelemetryConfig {
        traces: traces?,
        ca: ca.map_or(Some(None), |ca| ca.map(Some))?,
        headers: headers?,
        sample: sample?,
        service: service?.to_owned(),
        outbound_proxy: around.outbound_proxy(),
    })
}

/// Reads the URL of the collector. Spans tell who asked for what, so they leave this machine only over TLS.
fn traces(node: &TomlNode<'_, '_>) -> Option<Uri> {
    let text = node.word()?;
    let is_safe = |uri: &Uri| match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => true,
        (Some("http"), Some(host)) => is_loopback(host),
        _ => false,
    };
    let uri = format!("{}{TRACES}", text.trim_end_matches('/')).parse::<Uri>().ok();
    uri.filter(|uri| is_safe(uri) && !text.contains(['@', '?', '#'])).or_else(|| {
        node.refuse(
            "not the URL of a collector",
            "write \"https://collector.example.com:4318\"; http only for this machine",
        )
    })
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
