//! `[telemetry]`: the collector of OpenTelemetry that gets spans.

use std::sync::Arc;

use http::{HeaderName, Uri};
use rustls::pki_types::CertificateDer;

use crate::config::OutboundProxy;
use crate::model::secret::Secret;

/// `[telemetry]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// Where spans are posted: `otlp` with `/v1/traces` behind it.
    pub traces: Uri,
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
