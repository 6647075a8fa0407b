//! What a check found, as lines for people or as JSON.

use std::fmt::{self, Display, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::diagnosis::Fault;
use super::finding::{Finding, PartVerdict};
use crate::cli::{CommandResult, EX_CONFIG, EX_UNAVAILABLE, print_line, print_remark};

/// The width of the column of verdicts.
const VERDICTS: usize = 9;
/// The width of the column of times.
const TIMES: usize = 9;

/// Everything that a check found.
pub(super) struct CheckReport<'c> {
    /// The configuration, as the operator named it.
    pub(super) name: &'c str,
    /// What was found in the files.
    pub(super) of_files: Vec<Finding>,
    /// What was found at the servers that the files name; `None`: they were not asked.
    pub(super) of_servers: Option<Vec<Finding>>,
}

impl CheckReport<'_> {
    /// Prints remarks on the files to standard error, and the rest to standard output.
    ///
    /// # Errors
    /// The exit code says whose fault it is.
    pub(super) fn print(&self) -> CommandResult {
        for finding in self.of_files.iter().filter(|finding| finding.verdict != PartVerdict::Ok) {
            print_remark(&Remark(finding));
        }
        if let Some(findings) = &self.of_servers {
            print_line(&Lines(findings).to_string().trim_end())?;
        }
        let failing = self.findings().filter(|finding| finding.verdict.fault().is_some()).count();
        match (failing, &self.of_servers) {
            (0, None) => print_line(&format_args!("{}: ok", self.name))?,
            (0, Some(_)) => print_line(&format_args!("{}: ok, and everything it names answers", self.name))?,
            // The remarks have said it.
            (_, None) => {}
            (count, Some(_)) => print_line(&format_args!("{}: parts that do not work: {count}", self.name))?,
        }
        self.result()
    }

    /// Prints one JSON object.
    ///
    /// # Errors
    /// As [`CheckReport::print`].
    pub(super) fn print_json(&self) -> CommandResult {
        let findings: Vec<_> = self.findings().map(as_json).collect();
        print_line(&format_args!(
            "{:#}",
            json!({ "file": self.name, "online": self.of_servers.is_some(), "exit_code": self.code(), "findings": findings })
        ))?;
        self.result()
    }

    fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.of_files.iter().chain(self.of_servers.iter().flatten())
    }

    fn result(&self) -> CommandResult {
        match self.code() {
            0 => Ok(()),
            code => Err(ExitCode::from(code)),
        }
    }

    /// Returns the exit code. What the operator mends in the files comes first.
    fn code(&self) -> u8 {
        let is_at = |fault| self.findings().any(|finding| finding.verdict.fault() == Some(fault));
        match () {
            () if is_at(Fault::Configuration) => EX_CONFIG,
            () if is_at(Fault::Outside) => EX_UNAVAILABLE,
            () => 0,
        }
    }
}

fn as_json(finding: &Finding) -> Value {
    json!({
        "part": finding.part,
        "asked": finding.asked,
        "answer": finding.answer,
        "milliseconds": finding.took.map(|took| took.as_millis() as u64),
        "verdict": finding.verdict.as_str().to_lowercase(),
        "fault": finding.verdict.fault().map(Fault::as_str),
        "advice": finding.advice,
    })
}

/// A finding as compilers write it: `file:line:column: problem`, and the advice on an indented line of its own.
struct Remark<'f>(&'f Finding);

impl Display for Remark<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { asked, answer, verdict, advice, .. } = self.0;
        match verdict {
            PartVerdict::Note | PartVerdict::Warning => write!(f, "{}: ", verdict.as_str())?,
            PartVerdict::Ok | PartVerdict::Fail(_) => {}
        }
        write!(f, "{asked}: {answer}")?;
        advice.iter().try_for_each(|advice| write!(f, "\n    {advice}"))
    }
}

/// Findings in columns: verdict, part, what was asked, how long it took, what was answered; advice below.
struct Lines<'f>(&'f [Finding]);

impl Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |text: fn(&Finding) -> &str| {
            self.0.iter().map(|finding| shown(text(finding)).chars().count()).max().unwrap_or(0)
        };
        let (parts, asked) = (width(|finding| &finding.part), width(|finding| &finding.asked));
        for finding in self.0 {
            let verdict = finding.verdict.as_str();
            let took = finding.took.map(|took| format!("{} ms", took.as_millis())).unwrap_or_default();
            let (part, question) = (shown(&finding.part), shown(&finding.asked));
            write!(f, "{verdict:VERDICTS$}{part:parts$}  {question:asked$}  {took:>TIMES$}  ")?;
            writeln!(f, "{}", shown(&finding.answer))?;
            if let Some(advice) = &finding.advice {
                writeln!(f, "{:VERDICTS$}{}", "", shown(advice))?;
            }
        }
        Ok(())
    }
}

/// Returns a text on one line: an answer may quote what a server said.
fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let _ = shown.write_char(if c.is_control() { ' ' } else { c });
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn finding(part: &str, answer: &str, verdict: PartVerdict, advice: Option<&str>) -> Finding {
        let took = (verdict != PartVerdict::Note).then_some(Duration::from_millis(12));
        let (part, asked) = (part.to_owned(), "connect".to_owned());
        Finding { part, asked, answer: answer.to_owned(), took, verdict, advice: advice.map(str::to_owned) }
    }

    #[test]
    fn findings_stand_in_columns_with_advice_below() {
        let found = [
            finding("app", "connected", PartVerdict::Ok, None),
            finding("pbx north", "refused\n\u{1b}[2J", PartVerdict::Fail(Fault::Outside), Some("start it")),
            finding("app", "not tried", PartVerdict::Note, None),
        ];
        let expected = "\
ok       app        connect      12 ms  connected
FAIL     pbx north  connect      12 ms  refused  [2J
         start it
note     app        connect             not tried
";
        assert_eq!(Lines(&found).to_string(), expected);
    }

    #[test]
    fn the_exit_code_says_whose_fault_it_is() {
        #[track_caller]
        fn check(verdicts: &[PartVerdict], code: u8) {
            let found = verdicts.iter().map(|verdict| finding("app", "x", *verdict, None)).collect();
            assert_eq!(CheckReport { name: "proxy.toml", of_files: Vec::new(), of_servers: Some(found) }.code(), code);
        }
        let (own, others) = (PartVerdict::Fail(Fault::Configuration), PartVerdict::Fail(Fault::Outside));
        check(&[], 0);
        check(&[PartVerdict::Ok, PartVerdict::Note, PartVerdict::Warning], 0);
        check(&[PartVerdict::Ok, others], 69);
        check(&[others, own, PartVerdict::Ok], 78);
    }
}
