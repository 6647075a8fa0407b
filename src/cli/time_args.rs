//! Times and durations in arguments: `24h`, `7d`, `2026-11-23`, `2026-11-23T08:00:00Z`.

use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, SpanRelativeTo, Timestamp};

/// Parses a duration, such as `30min`, `2h` or `7d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let span: Span = text.parse().map_err(|_| FORM.to_owned())?;
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| FORM.to_owned())?;
    // A day has 24 hours here and a week seven days; months and years have no fixed length and are refused above.
    match Duration::try_from(length) {
        Ok(length) if !length.is_zero() && length < LONGEST => Ok(length),
        Ok(_) | Err(_) => Err("a duration must be longer than zero and shorter than a hundred years".to_owned()),
    }
}

/// Parses a time in the past: an age such as `24h`, a date (its start in UTC) or a timestamp.
pub(super) fn past_time(text: &str) -> Result<Timestamp, String> {
    let date = |text: &str| text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|day| day.timestamp());
    let ago = |text: &str| Timestamp::now().checked_sub(duration(text).ok()?).ok();
    let at = text.parse::<Timestamp>().ok().or_else(|| date(text)).or_else(|| ago(text));
    at.ok_or_else(|| "write an age, such as 24h or 7d, or a time: 2026-11-23, 2026-11-23T08:00:00Z".to_owned())
}

const FORM: &str = "a duration looks like 30min, 2h or 7d";
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [("30min", 1800), ("2h", 7200), ("7d", 604_800), ("1h30m", 5400), ("90s", 90)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "2", "0h", "-2h", "h", "2 hours ago", "1mo", "9999999h", "2026-11-23"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_an_age_a_date_or_a_timestamp() {
        assert_eq!(past_time("2026-11-23").unwrap().to_string(), "2026-11-23T00:00:00Z");
        assert_eq!(past_time("2026-11-23T08:00:00+01:00").unwrap().to_string(), "2026-11-23T07:00:00Z");
        let ago = Timestamp::now().duration_since(past_time("24h").unwrap()).as_secs();
        assert!((86_399..86_402).contains(&ago), "{ago}");
        for text in ["yesterday", "", "24"] {
            assert!(past_time(text).is_err(), "{text}");
        }
    }
}
