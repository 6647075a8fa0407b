//! Limits in shadow: they count and are measured, and refuse nothing.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use super::Limiter;
use super::backlog::BacklogMeter;
use super::query::LimitQuery;
use crate::model::limit_proposal::{LimitProposal, ShadowCounts};
use crate::model::limit_set::LimitSet;

/// How long a limit is silent after an event that tells what it would have refused.
const SILENCE: Duration = Duration::from_secs(60);

/// A limit in shadow. Its limiter counts as if it were in force, so that it begins with its counts when it is.
pub(super) struct ShadowLimit {
    pub(super) limiter: Arc<Limiter>,
    backlog: BacklogMeter,
    since: Timestamp,
    events: AtomicU64,
    most_at_once: AtomicU64,
    would_refuse: AtomicU64,
    untold: Mutex<Untold>,
}

/// The requests that no event of the log has told of.
#[derive(Default)]
struct Untold {
    requests: u64,
    /// When the last event was logged.
    told: Option<Instant>,
}

/// A limit, as `/status` and `callgate limits report` show it.
#[derive(Debug, Serialize)]
pub(crate) struct LimitReport {
    limit: &'static str,
    /// The PBX node that counts it apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pbx: Option<String>,
    /// As in `[limits]`.
    rate: String,
    shadow: bool,
    #[serde(flatten)]
    measured: Option<ShadowMeasures>,
}

/// What a limit in shadow has measured.
#[derive(Debug, Serialize)]
struct ShadowMeasures {
    since: Timestamp,
    events: u64,
    most_at_once: u64,
    would_refuse: u64,
    /// A word: what the numbers say.
    verdict: &'static str,
    /// The rate that would have refused none of these events, if it is another one.
    proposal: Option<String>,
}

impl ShadowLimit {
    /// Begins to measure a limiter. `cap`: how many keys are told apart.
    pub(super) fn begin(limiter: Arc<Limiter>, cap: usize) -> Self {
        Self {
            backlog: BacklogMeter::new(limiter.rate().shared, cap),
            limiter,
            since: Timestamp::now(),
            events: AtomicU64::default(),
            most_at_once: AtomicU64::default(),
            would_refuse: AtomicU64::default(),
            untold: Mutex::default(),
        }
    }

    /// Takes note of a question that would have been asked. `refusers`: the limits that would have refused this request; the
    /// request counts once for each.
    pub(super) fn meet(&self, query: &LimitQuery<'_>, refusers: &Cell<LimitSet>) {
        if query.counts() {
            self.events.fetch_add(1, Ordering::Relaxed);
            self.most_at_once.fetch_max(self.backlog.count(query.key()), Ordering::Relaxed);
        }
        let (before, name) = (refusers.get(), self.limiter.name());
        if query.answer_here().is_err() && !before.has(name) {
            refusers.set(before.with(name));
            self.would_refuse.fetch_add(1, Ordering::Relaxed);
            if let Some(requests) = self.untold().add(Instant::now()) {
                let pbx = self.limiter.node();
                tracing::warn!(limit = name, pbx, requests, "a limit in shadow would have refused requests");
            }
        }
    }

    fn untold(&self) -> std::sync::MutexGuard<'_, Untold> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn measures(&self) -> ShadowMeasures {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let counts = ShadowCounts {
            events: read(&self.events),
            most_at_once: read(&self.most_at_once),
            would_refuse: read(&self.would_refuse),
        };
        let proposal = LimitProposal::of(self.limiter.rate().shared, counts);
        let ShadowCounts { events, most_at_once, would_refuse } = counts;
        ShadowMeasures {
            since: self.since,
            events,
            most_at_once,
            would_refuse,
            verdict: proposal.word(),
            proposal: match proposal {
                LimitProposal::Raise(rate) => Some(rate.to_string()),
                LimitProposal::Wait | LimitProposal::Fits => None,
            },
        }
    }
}

impl Untold {
    /// Adds a request. Returns how many are to be told of now, if an event is due.
    fn add(&mut self, now: Instant) -> Option<u64> {
        self.requests += 1;
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < SILENCE) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.requests))
    }
}

impl LimitReport {
    /// Describes a limit.
    pub(super) fn of(limiter: &Limiter, shadow: Option<&ShadowLimit>) -> Self {
        let (limit, rate) = (limiter.name(), limiter.rate().shared.to_string());
        let pbx = limiter.node().map(str::to_owned);
        Self { limit, pbx, rate, shadow: shadow.is_some(), measured: shadow.map(ShadowLimit::measures) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::LimitKey;
    use super::*;

    fn shadow(rate: &str) -> ShadowLimit {
        ShadowLimit::begin(
            Arc::new(Limiter::new("client", rate.parse::<crate::model::rate::Rate>().unwrap(), 100)),
            100,
        )
    }

    fn measured(shadow: &ShadowLimit) -> Value {
        let mut report = json!(LimitReport::of(&shadow.limiter, Some(shadow)));
        assert!(report["since"].as_str().unwrap().parse::<Timestamp>().is_ok());
        report.as_object_mut().unwrap().remove("since");
        report
    }

    #[test]
    fn a_limit_in_shadow_measures_what_it_would_refuse() {
        let (shadow, refusers) = (shadow("2/h"), Cell::default());
        let wait = json!({ "limit": "client", "rate": "2/h", "shadow": true, "events": 0, "most_at_once": 0,
            "would_refuse": 0, "verdict": "wait", "proposal": null });
        assert_eq!(measured(&shadow), wait);
        for number in 1..=7 {
            refusers.set(LimitSet::default());
            shadow.meet(&LimitQuery::count(&shadow.limiter, LimitKey::of(&[b"key"])), &refusers);
            assert_eq!(refusers.get().has("client"), number > 2, "{number}");
        }
        let raise = json!({ "limit": "client", "rate": "2/h", "shadow": true, "events": 7, "most_at_once": 7,
            "would_refuse": 5, "verdict": "raise", "proposal": "2/h burst 9" });
        assert_eq!(measured(&shadow), raise);
    }

    #[test]
    fn a_question_that_counts_nothing_is_no_event_and_a_request_is_refused_once() {
        let (shadow, refusers) = (shadow("1/h"), Cell::default());
        let query = LimitQuery::count(&shadow.limiter, LimitKey::of(&[b"key"]));
        shadow.meet(&query.clone().without_count(), &refusers);
        assert_eq!((measured(&shadow)["events"].as_u64(), refusers.get().is_empty()), (Some(0), true));
        shadow.meet(&query, &refusers);
        assert!(refusers.get().is_empty());
        shadow.meet(&query.clone().without_count(), &refusers);
        shadow.meet(&query.clone().without_count(), &refusers);
        let told = measured(&shadow);
        assert_eq!((told["events"].as_u64(), told["would_refuse"].as_u64()), (Some(1), Some(1)));
    }

    #[test]
    fn a_limit_is_told_of_once_a_minute_with_the_number() {
        let (mut untold, start) = (Untold::default(), Instant::now());
        let mut add = |seconds| untold.add(start + Duration::from_secs(seconds));
        assert_eq!(
            [add(0), add(1), add(59), add(60), add(61), add(300)],
            [Some(1), None, None, Some(3), None, Some(2)]
        );
    }

    #[test]
    fn a_limit_in_force_shows_its_rate_alone() {
        let limiter = Limiter::new("account", "5/min burst 9".parse::<crate::model::rate::Rate>().unwrap(), 100);
        assert_eq!(
            json!(LimitReport::of(&limiter, None)),
            json!({ "limit": "account", "rate": "5/min burst 9", "shadow": false })
        );
    }
}
