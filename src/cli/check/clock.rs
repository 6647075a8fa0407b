//! The clock of this machine, beside those of the servers that answered.

use std::cell::RefCell;
use std::time::Duration;

use http::header::{self, HeaderMap};
use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};

use super::finding::{Finding, PartQuestion, PartVerdict};

/// From this difference on there is a warning: tokens have a leeway of 30 s.
const MAX_DIFFERENCE: Duration = Duration::from_secs(15);

/// The differences that the answers show in `Date` (RFC 9110 §6.6.1), which counts whole seconds.
#[derive(Debug, Default)]
pub(super) struct ClockDifferences(RefCell<Vec<(String, SignedDuration)>>);

impl ClockDifferences {
    /// Notes the time of an answer that has just arrived.
    pub(super) fn note(&self, part: &str, headers: &HeaderMap) {
        let date = headers.get(header::DATE).and_then(|date| date.to_str().ok());
        if let Some(date) = date.and_then(|date| DateTimeParser::new().parse_timestamp(date).ok()) {
            let difference = date.duration_since(Timestamp::now());
            self.0.borrow_mut().push((part.to_owned(), difference));
        }
    }

    /// Returns one finding for all servers that agree with this machine, and one for each that does not.
    pub(super) fn findings(self) -> Vec<Finding> {
        let (mut right, mut findings) = (Vec::new(), Vec::new());
        let mut noted = self.0.into_inner();
        // The servers were asked at the same time.
        noted.sort();
        for (part, difference) in noted {
            if difference.unsigned_abs() < MAX_DIFFERENCE {
                right.push(part);
                continue;
            }
            let (seconds, side) =
                (difference.as_secs().unsigned_abs(), if difference.is_negative() { "behind" } else { "ahead of" });
            let question = PartQuestion::new("clock", format!("the time at {part}"));
            let answer = format!("its clock is {seconds} s {side} that of this machine");
            let finding =
                question.warning(answer, "set the wrong clock by NTP: tokens and links of the wrong time are refused");
            findings.push(Finding { took: None, ..finding });
        }
        right.dedup();
        if !right.is_empty() {
            let question = format!("the time at {}", right.join(", "));
            findings.insert(0, Finding::of_file("clock", &question, "as on this machine".to_owned(), PartVerdict::Ok));
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_clock_that_differs_is_named() {
        let clock = ClockDifferences::default();
        for (part, seconds) in [("app", 0), ("pbx", -3600), ("method \"sso\"", 40), ("acme", 2)] {
            let at = Timestamp::now() + SignedDuration::from_secs(seconds);
            let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(header::DATE, HeaderValue::from_str(&date).unwrap());
            clock.note(part, &headers);
        }
        let mut odd = HeaderMap::new();
        odd.insert(header::DATE, HeaderValue::from_static("yesterday"));
        clock.note("odd", &odd);
        clock.note("none", &HeaderMap::new());
        let findings = clock.findings();
        let told: Vec<_> = findings.iter().map(|one| (one.asked.as_str(), one.verdict)).collect();
        let warned = PartVerdict::Warning;
        let expected = [
            ("the time at acme, app", PartVerdict::Ok),
            ("the time at method \"sso\"", warned),
            ("the time at pbx", warned),
        ];
        assert_eq!(told, expected);
        assert!(findings[1].answer.contains(" s ahead of that of this machine"), "{}", findings[1].answer);
        assert!(findings[2].answer.contains(" s behind that of this machine"), "{}", findings[2].answer);
    }
}
