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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use tokio::time::timeout;

    use super::*;

    fn write(folder: &Path, name: &str, text: &str) {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Returns a configuration with a certificate that has expired, one that ends soon, one that lasts, and one without its key.
    fn config() -> Arc<Config> {
        let folder = tempfile::tempdir().unwrap();
        let in_days =
            |days: u64| Duration::from_secs(u64::try_from(Timestamp::now().as_second()).unwrap() + days * 86_400);
        let ends =
            [("expired", Duration::ZERO), ("soon", in_days(20)), ("lasting", in_days(90)), ("keyless", in_days(90))];
        for (name, end) in ends {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new([format!("{name}.test")]).unwrap();
            params.not_before = date_time_ymd(1969, 1, 1);
            params.not_after = date_time_ymd(1970, 1, 1) + end;
            write(folder.path(), &format!("{name}.pem"), &params.self_signed(&key).unwrap().pem());
            write(folder.path(), &format!("{name}.key"), &key.serialize_pem());
        }
        write(folder.path(), "keyless.key", "");
        let entries = ends.map(|(name, _)| format!("{{ cert = \"{name}.pem\", key = \"{name}.key\" }}")).join(", ");
        let text =
            format!("listen = \"127.0.0.1:0\"\ntls = {{ certificates = [{entries}] }}\n[app]\nurl = \"http://a\"\n");
        Arc::new(crate::config::parse(&text, folder.path(), &|_| None).unwrap())
    }

    /// Returns the events of so many hours, and of half an hour more, without their advice.
    async fn events_of(config: &Arc<Config>, hours: u32) -> Vec<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let events = tracing_subscriber::fmt().with_ansi(false).with_writer(Arc::new(file.reopen().unwrap())).finish();
        let _recorded = tracing::subscriber::set_default(events);
        timeout(PERIOD * hours + PERIOD / 2, repeat(Arc::clone(config))).await.unwrap_err();
        let lines = fs::read_to_string(file.path()).unwrap();
        lines.lines().filter(|line| line.contains(" callgate::")).map(str::to_owned).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_must_be_replaced_is_an_error_each_hour_and_what_ends_soon_a_warning_each_day() {
        let config = config();
        for (hours, times, days) in [(0, 1, 0), (3, 4, 0), (23, 24, 0), (24, 25, 1), (49, 50, 2)] {
            let lines = events_of(&config, hours).await;
            let count = |level: &str, words: &str| {
                lines.iter().filter(|line| line.contains(level) && line.contains(words)).count()
            };
            let expired =
                count(" ERROR ", "expired.pem: the certificate for expired.test expired at 1970-01-01T00:00:00Z");
            let keyless = count(" ERROR ", "keyless.key is empty");
            let soon = count(" WARN ", "the certificate for soon.test ends at 2");
            assert_eq!((expired, keyless, soon), (times, times, days), "{hours} hours: {lines:#?}");
            assert_eq!(lines.len(), 2 * times + days, "{hours} hours: {lines:#?}");
        }
    }
}
