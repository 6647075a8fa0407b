//! What the gate exports to a collector of OpenTelemetry.

use std::sync::Arc;

use super::export_queue::{ExportCounts, ExportQueue};
use super::log_record::LogRecord;
use super::spans::Tracer;
use crate::config::Config;

/// The queues of a configuration. A clone is cheap.
#[derive(Debug, Clone, Default)]
pub(super) struct Exports {
    pub(super) tracer: Option<Arc<Tracer>>,
    pub(super) records: Option<Arc<ExportQueue<LogRecord>>>,
    pub(super) totals: Arc<ExportTotals>,
}

/// The counts of all configurations of the process.
#[derive(Debug, Default)]
pub struct ExportTotals {
    /// Those of spans.
    pub spans: Arc<ExportCounts>,
    /// Those of log records.
    pub records: Arc<ExportCounts>,
}

impl Exports {
    /// Makes the queues of a configuration, which go on counting here.
    pub(super) fn new(config: &Config, totals: Arc<ExportTotals>) -> Self {
        let telemetry = config.telemetry.as_ref();
        let tracer = telemetry.map(|telemetry| Arc::new(Tracer::new(telemetry.sample, &totals.spans)));
        let logs = telemetry.and_then(|telemetry| telemetry.logs.as_ref());
        let records = logs.map(|_| Arc::new(ExportQueue::new(&totals.records)));
        Self { tracer, records, totals }
    }

    /// Makes those of another configuration; keeps these if both have the same collector.
    pub(super) fn successor(&self, before: &Config, config: &Config) -> Self {
        let is_same = before.telemetry == config.telemetry && before.member == config.member;
        if is_same { self.clone() } else { Self::new(config, Arc::clone(&self.totals)) }
    }

    /// From now on nothing gathers: the process ends.
    pub(super) fn hurry(&self) {
        if let Some(tracer) = &self.tracer {
            tracer.queue().hurry();
        }
        if let Some(records) = &self.records {
            records.hurry();
        }
    }

    /// Returns whether it is known of all of it whether the collector has it.
    pub(super) fn are_settled(&self) -> bool {
        self.tracer.as_ref().is_none_or(|tracer| tracer.queue().is_settled())
            && self.records.as_ref().is_none_or(|records| records.is_settled())
    }
}
