//! Hours of the week in a time zone: `Mon-Fri 08:00-18:00 Europe/Berlin`. They are compared with the local time of the
//! zone, daylight saving time included.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The words for the days, Monday first.
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
/// The number of minutes in a day.
const DAY: u16 = 24 * 60;

/// A span of time on some days of the week.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hours {
    /// The days on which it begins, Monday first.
    days: [bool; 7],
    /// The minute of the day at which it begins.
    from: u16,
    /// The minute before which it ends. If this is not after `from`, it is a minute of the next day.
    until: u16,
    zone: TimeZone,
}

/// The reason why a text does not name hours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotHours {
    /// The text does not have three parts: days, times and a zone.
    #[error("hours have days, times and a time zone")]
    Form,
    /// The first part does not name days.
    #[error("{0:?} names no days")]
    Days(String),
    /// The second part is not a span of time.
    #[error("{0:?} is not a span of time")]
    Times(String),
    /// The third part is not a known time zone.
    #[error("there is no time zone {0:?}")]
    Zone(String),
}

impl Hours {
    /// Reads a text; `zone` looks a time zone up by its name.
    ///
    /// # Errors
    /// When the text has another form, or the zone is unknown.
    pub fn read(text: &str, zone: impl FnOnce(&str) -> Option<TimeZone>) -> Result<Self, NotHours> {
        let mut words = text.split(' ');
        let (Some(days), Some(times), Some(name), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(NotHours::Form);
        };
        let (from, until) = span(times).ok_or_else(|| NotHours::Times(times.to_owned()))?;
        Ok(Self {
            days: week(days).ok_or_else(|| NotHours::Days(days.to_owned()))?,
            from,
            until,
            zone: zone(name).ok_or_else(|| NotHours::Zone(name.to_owned()))?,
        })
    }

    /// Tells whether a time is within these hours.
    #[must_use]
    pub fn include(&self, now: Timestamp) -> bool {
        let local = self.zone.to_datetime(now);
        let minute = local.hour().unsigned_abs() as u16 * 60 + local.minute().unsigned_abs() as u16;
        let begins_on = |day: jiff::civil::Weekday| self.days[day.to_monday_zero_offset().unsigned_abs() as usize];
        let (today, yesterday) = (begins_on(local.weekday()), begins_on(local.weekday().previous()));
        if self.from < self.until {
            return today && (self.from..self.until).contains(&minute);
        }
        today && minute >= self.from || yesterday && minute < self.until
    }
}

/// Reads `Mon-Fri,Sun`.
fn week(text: &str) -> Option<[bool; 7]> {
    let day = |name: &str| DAYS.iter().position(|day| *day == name);
    let mut week = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        for step in 0..=(last + 7 - first) % 7 {
            week[(first + step) % 7] = true;
        }
    }
    Some(week)
}

/// Reads `08:00-18:00`: two different minutes of a day.
fn span(text: &str) -> Option<(u16, u16)> {
    let (from, until) = text.split_once('-')?;
    let (from, until) = (minute(from)?, minute(until)?);
    (from != until && from < DAY).then_some((from, until))
}

fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |digits: &str| {
        let is_number = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|_| is_number)
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    (minutes < 60 && hours * 60 + minutes <= DAY).then_some(hours * 60 + minutes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(text: &str) -> Result<Hours, NotHours> {
        Hours::read(text, |name| TimeZone::get(name).ok())
    }

    /// Checks times, written in UTC.
    #[track_caller]
    fn check(text: &str, inside: &[&str], outside: &[&str]) {
        let hours = hours(text).unwrap();
        for (moments, expected) in [(inside, true), (outside, false)] {
            for moment in moments {
                assert_eq!(hours.include(moment.parse().unwrap()), expected, "{text}: {moment}");
            }
        }
    }

    // 2026-11-23 is a Monday.

    #[test]
    fn days_and_times_are_those_of_the_zone() {
        check(
            "Mon-Fri 08:00-18:00 Europe/Berlin",
            &["2026-11-23T07:00:00Z", "2026-11-23T16:59:59Z", "2026-11-27T12:00:00Z"],
            &["2026-11-23T06:59:59Z", "2026-11-23T17:00:00Z", "2026-11-28T12:00:00Z", "2026-11-22T12:00:00Z"],
        );
        // Monday morning in Tokyo is Sunday night in UTC.
        check("Mon 08:00-09:00 Asia/Tokyo", &["2026-11-22T23:30:00Z"], &["2026-11-23T08:30:00Z"]);
    }

    #[test]
    fn days_are_listed_or_wrap_around_the_week() {
        check("Mon,Wed 00:00-24:00 UTC", &["2026-11-23T00:00:00Z", "2026-11-25T23:59:59Z"], &["2026-11-24T12:00:00Z"]);
        check(
            "Sat-Mon 00:00-24:00 UTC",
            &["2026-11-21T12:00:00Z", "2026-11-22T12:00:00Z", "2026-11-23T12:00:00Z"],
            &["2026-11-24T12:00:00Z", "2026-11-27T12:00:00Z"],
        );
        check("Mon-Sun 00:00-24:00 UTC", &["2026-11-24T00:00:00Z", "2026-11-24T23:59:59Z"], &[]);
    }

    #[test]
    fn a_night_belongs_to_the_day_it_begins_on() {
        check(
            "Fri 22:00-06:00 UTC",
            &["2026-11-27T22:00:00Z", "2026-11-28T05:59:59Z"],
            &["2026-11-27T05:00:00Z", "2026-11-27T21:59:59Z", "2026-11-28T06:00:00Z", "2026-11-28T22:00:00Z"],
        );
        check("Sun 23:00-01:00 UTC", &["2026-11-22T23:30:00Z", "2026-11-23T00:30:00Z"], &["2026-11-22T00:30:00Z"]);
        check("Mon 22:00-00:00 UTC", &["2026-11-23T23:59:59Z"], &["2026-11-24T00:00:00Z"]);
    }

    #[test]
    fn the_clock_on_the_wall_counts_when_it_is_put_forward_or_back() {
        let summer_and_winter = ["2026-07-06T06:00:00Z", "2026-11-23T07:00:00Z"];
        check("Mon 08:00-18:00 Europe/Berlin", &summer_and_winter, &["2026-11-23T06:00:00Z", "2026-07-06T16:00:00Z"]);
        // On 2026-03-29 02:00 is followed by 03:00, which is 01:00 in UTC.
        check(
            "Sun 02:30-03:30 Europe/Berlin",
            &["2026-03-29T01:00:00Z"],
            &["2026-03-29T00:59:59Z", "2026-03-29T01:30:00Z"],
        );
        // On 2026-10-25 there are two times 02:30.
        check(
            "Sun 02:00-03:00 Europe/Berlin",
            &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"],
            &["2026-10-24T23:59:59Z", "2026-10-25T02:00:00Z"],
        );
    }

    #[test]
    fn says_what_is_no_hours() {
        let error = |text: &str| hours(text).unwrap_err();
        for text in ["", "Mon", "Mon 08:00-18:00", "Mon  08:00-18:00 UTC", "Mon 08:00-18:00 UTC x"] {
            assert_eq!(error(text), NotHours::Form, "{text}");
        }
        for days in ["mon", "Mon-", "-Fri", "Mon,", "Mon-Wed-Fri", "Monday", "*"] {
            assert_eq!(error(&format!("{days} 08:00-18:00 UTC")), NotHours::Days(days.to_owned()));
        }
        for times in
            ["8:00-18:00", "08:00", "08:00-08:00", "24:00-06:00", "08:00-24:01", "08:60-10:00", "+8:00-09:00", "08-18"]
        {
            assert_eq!(error(&format!("Mon {times} UTC")), NotHours::Times(times.to_owned()));
        }
        assert_eq!(error("Mon 08:00-18:00 Europe/Nowhere"), NotHours::Zone("Europe/Nowhere".to_owned()));
    }
}
