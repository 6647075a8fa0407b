//! Certificates that have expired or cannot be read: everything else goes on, so the log says it again and again.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::Config;

/// How often the log names the certificates that an operator must replace.
const PERIOD: Duration = Duration::from_secs(60 * 60);
/// After how many of these periods the log names those that end soon. The first time is the start or the reload, whose
/// warnings have them already.
const PERIODS_OF_WARNINGS: u64 = 24;

/// Logs the certificates that have expired or cannot be read, each hour, and those that end soon, each day.
pub(super) async fn repeat(config: Arc<Config>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for tick in 0_u64.. {
        ticks.tick().await;
        let now = Timestamp::now();
        for alarm in config.certificate_alarms(now) {
            tracing::error!("{alarm}");
        }
        if tick > 0 && tick.is_multiple_of(PERIODS_OF_WARNINGS) {
            warn(&config, now);
        }
    }
}

fn warn(config: &Config, now: Timestamp) {
    for one in config.certificates.iter().filter(|one| one.is_overdue(now)) {
        tracing::warn!(
            "the certificate for {} ends at {}: renew {}",
            one.name(),
            one.not_after,
            one.files.cert.display()
        );
    }
}

/// Returns an error naming the certificates that have expired or cannot be read.
pub(super) fn check(config: &Config) -> Result<(), String> {
    let alarms = config.certificate_alarms(Timestamp::now());
    // A problem of the configuration has its remedy on a line of its own.
    let lines: Vec<_> = alarms.iter().filter_map(|alarm| alarm.lines().next()).collect();
    if lines.is_empty() { Ok(()) } else { Err(lines.join("; ")) }
}
