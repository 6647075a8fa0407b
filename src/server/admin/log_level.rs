//! The level of events, as the operator reads and changes it while the gate runs.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::Level;

use crate::observe::trace::{self, EventLevels, OrderedLevel};

/// How long an ordered level may last.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The order to change the level of events; without a level, to tell it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogLevelOrder {
    level: Option<OrderedName>,
    /// How long the level lasts. One that is left out, or too long, is the longest that is possible.
    seconds: Option<u64>,
}

/// The name of a level; `configured` ends an ordered one.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OrderedName {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
    Configured,
}

impl OrderedName {
    const fn level(self) -> Option<Level> {
        Some(match self {
            Self::Error => Level::ERROR,
            Self::Warn => Level::WARN,
            Self::Info => Level::INFO,
            Self::Debug => Level::DEBUG,
            Self::Trace => Level::TRACE,
            Self::Configured => return None,
        })
    }
}

/// Carries out an order, and returns the levels after it; nothing if the events of this process go elsewhere.
pub(super) fn carry_out(order: &LogLevelOrder, by: &str) -> Option<Value> {
    let before = trace::levels()?;
    if let Some(name) = order.level {
        let length = order.seconds.map_or(LONGEST, Duration::from_secs).min(LONGEST);
        let ordered = name.level().map(|level| OrderedLevel { level, until: Instant::now() + length });
        let level = ordered.map_or(before.configured, |ordered| ordered.level);
        let seconds = ordered.map(|_| length.as_secs());
        let tell = || tracing::warn!(by, %level, seconds, "the level of events is ordered");
        // The event is told by the one of the two levels that shows more.
        if level < before.current() {
            tell();
        }
        trace::order_level(ordered);
        if level >= before.current() {
            tell();
        }
    }
    trace::levels().map(report)
}

fn report(levels: EventLevels) -> Value {
    let name = |level: Level| level.as_str().to_ascii_lowercase();
    let left = levels.ordered.map(|ordered| ordered.until.duration_since(Instant::now()).as_secs_f64().ceil() as u64);
    json!({ "level": name(levels.current()), "configured": name(levels.configured), "seconds_left": left })
}
