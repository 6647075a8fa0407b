//! A rate as an operator writes it: `30/min burst 10`.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A number of events per period, of which `burst` may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// The number of events that are admitted in `period`.
    pub count: NonZeroU32,
    /// The length of the period.
    pub period: Duration,
    /// The number of events that may come at once; by default `count`.
    pub burst: NonZeroU32,
}

/// The text is not a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a rate looks like \"30/min\", \"5/15min\" or \"30/min burst 10\"")]
pub struct NotARate;

impl FromStr for Rate {
    type Err = NotARate;

    fn from_str(text: &str) -> Result<Self, NotARate> {
        let (rate, burst) = match text.split_once(" burst ") {
            Some((rate, burst)) => (rate, Some(number(burst)?)),
            None => (text, None),
        };
        let (count, period) = rate.split_once('/').ok_or(NotARate)?;
        let count = number(count)?;
        Ok(Self { count, period: period_of(period.trim())?, burst: burst.unwrap_or(count) })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.period.as_secs();
        let (number, unit) = match seconds {
            _ if seconds.is_multiple_of(3600) => (seconds / 3600, "h"),
            _ if seconds.is_multiple_of(60) => (seconds / 60, "min"),
            _ => (seconds, "s"),
        };
        write!(f, "{}/", self.count)?;
        if number != 1 {
            write!(f, "{number}")?;
        }
        f.write_str(unit)?;
        if self.burst == self.count { Ok(()) } else { write!(f, " burst {}", self.burst) }
    }
}

fn number(text: &str) -> Result<NonZeroU32, NotARate> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().map_err(|_| NotARate) } else { Err(NotARate) }
}

/// Reads `min`, `15min`, `s`, `2h`: a unit with an optional number before it, at most a day.
fn period_of(text: &str) -> Result<Duration, NotARate> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &text[..text.len() - unit.len()];
    let number = if digits.is_empty() { 1 } else { digits.parse::<u64>().map_err(|_| NotARate)? };
    let seconds = match unit {
        "s" | "sec" => 1,
        "m" | "min" => 60,
        "h" | "hour" => 3600,
        _ => return Err(NotARate),
    };
    match number.checked_mul(seconds) {
        Some(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err(NotARate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, count: u32, seconds: u64, burst: u32) {
        let rate: Rate = text.parse().unwrap();
        assert_eq!((rate.count.get(), rate.period.as_secs(), rate.burst.get()), (count, seconds, burst), "{text}");
    }

    #[test]
    fn reads_what_the_contract_shows() {
        check("30/min burst 10", 30, 60, 10);
        check("10/min", 10, 60, 10);
        check("5/15min", 5, 900, 5);
        check("5/5min", 5, 300, 5);
        check("2/s", 2, 1, 2);
        check("1/2h", 1, 7200, 1);
    }

    #[test]
    fn a_rate_is_written_as_it_is_read() {
        for text in ["30/min burst 10", "10/min", "5/15min", "2/s", "7/90s", "1/2h", "1/24h burst 3"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        assert_eq!("60/60min burst 60".parse::<Rate>().unwrap().to_string(), "60/h");
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "5",
            "/min",
            "0/min",
            "5/",
            "5/0min",
            "-5/min",
            "+5/min",
            "5/min burst 0",
            "5/min burst",
            "5/fortnight",
            "5/25h",
            "5/99999999999999999999h",
        ] {
            assert_eq!(text.parse::<Rate>(), Err(NotARate), "{text:?}");
        }
    }
}
