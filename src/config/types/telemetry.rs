//! `[telemetry]`: the collector of OpenTelemetry that gets spans, metrics and logs.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Uri};
use rustls::pki_types::CertificateDer;

use crate::config::OutboundProxy;
use crate::model::secret::Secret;

/// `[telemetry]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// Where spans are posted: `otlp` with `/v1/traces` behind it.
    pub traces: Uri,
    /// Where metrics are posted, and how often; `None`: they are not.
    pub metrics: Option<MetricPosts>,
    /// Where log records are posted: `otlp` with `/v1/logs` behind it; `None`: they are not.
    pub logs: Option<Uri>,
    /// The authorities that may sign the certificate of the collector; `None`: the public ones.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    /// Fields of each request to the collector.
    pub headers: Vec<(HeaderName, Secret)>,
    /// How many of a hundred traces that begin here are recorded.
    pub sample: u8,
    /// The name of this service.
    pub service: String,
    /// The proxy between callgate and the internet.
    pub outbound_proxy: Option<Arc<OutboundProxy>>,
}

/// The posts of metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricPosts {
    /// Where they go: `otlp` with `/v1/metrics` behind it.
    pub to: Uri,
    /// How long it is from one to the next.
    pub every: Duration,
}
