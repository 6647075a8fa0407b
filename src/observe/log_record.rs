//! An event or an access line as a record for a collector of OpenTelemetry, with the fields of the line.

use jiff::Timestamp;
use tracing::Level;

use super::attribute::{self, Attribute};
use super::export_queue::Exported;
use super::line::FieldValue;
use crate::model::trace_context::TraceContext;

/// One record.
#[derive(Debug, Clone)]
pub struct LogRecord {
    /// When it was written.
    pub time: Timestamp,
    /// How severe it is.
    pub level: Level,
    /// The message.
    pub body: String,
    /// The fields.
    pub attributes: Vec<Attribute>,
    /// The span of the exchange that it belongs to.
    pub trace: Option<TraceContext>,
}

impl LogRecord {
    /// Makes the record of a line of the access log.
    pub(super) fn of_line<'f>(
        now: Timestamp,
        (kind, body): (&'static str, String),
        fields: impl IntoIterator<Item = (&'static str, FieldValue<'f>)>,
        trace: Option<TraceContext>,
    ) -> Self {
        let fields = fields.into_iter().map(|(key, value)| (key, value.into()));
        let attributes = [("kind", kind.into())].into_iter().chain(fields).collect();
        Self { time: now, level: Level::INFO, body, attributes, trace }
    }
}

impl Exported for LogRecord {
    fn size(&self) -> usize {
        size_of::<Self>() + self.body.len() + attribute::size(&self.attributes)
    }
}
