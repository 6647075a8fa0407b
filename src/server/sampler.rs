//! Notes counts of all workers every 10 s, on the control thread, for the operator's page. Workers take no part in it.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};

use crate::limit::LimitUsage;
use crate::observe::history::{History, HistoryStep};
use crate::observe::metrics::Metrics;

/// The counts of the last hour, and how full the limits are.
#[derive(Debug)]
pub(super) struct Sampler {
    metrics: Arc<Metrics>,
    history: History,
    limits: Mutex<Vec<LimitUsage>>,
}

impl Sampler {
    /// Begins with the counts of this moment.
    pub(super) fn new(metrics: &Arc<Metrics>) -> Arc<Self> {
        let history = History::begin(metrics.totals(), Instant::now());
        Arc::new(Self { metrics: Arc::clone(metrics), history, limits: Mutex::default() })
    }

    /// Takes notes, for as long as a configuration is in use. `usage`: how full its limits are.
    pub(super) async fn run(self: Arc<Self>, usage: impl Fn() -> Vec<LimitUsage>) {
        loop {
            // Looks at each key of each limit: so here, and not for each request of the page.
            *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = usage();
            sleep_until(self.history.due()).await;
            self.history.record(self.metrics.totals(), Instant::now(), Timestamp::now());
        }
    }

    /// Returns the steps of the last hour, the oldest first.
    pub(super) fn steps(&self) -> Vec<HistoryStep> {
        self.history.steps()
    }

    /// Returns how full the limits were 10 s ago or later.
    pub(super) fn limits(&self) -> Vec<LimitUsage> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
