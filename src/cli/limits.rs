//! `callgate limits report` shows what the limits in shadow of a running gate have measured, and proposes rates.

use std::fmt;
use std::process::ExitCode;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::text_table::write_table;
use super::{CommandResult, ConfigArgument, EX_UNAVAILABLE, admin_client, print_line, print_remark};

#[derive(Debug, clap::Subcommand)]
pub(super) enum LimitsCommand {
    /// Show what the limits in shadow have measured, and propose rates
    Report(LimitReportArguments),
}

#[derive(Debug, clap::Args)]
pub(super) struct LimitReportArguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgument,
}

pub(super) fn run(command: &LimitsCommand) -> CommandResult {
    let LimitsCommand::Report(report) = command;
    let answer = admin_client::ask_running(report.config.path(), "/limits", &json!({}))?;
    let Some(limits) = answer.as_array() else {
        print_remark(&"callgate: the gate does not describe its limits: is it another version?");
        return Err(ExitCode::from(EX_UNAVAILABLE));
    };
    match report.json {
        true => print_line(&format_args!("{answer:#}")),
        false => print_line(&LimitTable(limits)),
    }
}

/// The report for people.
struct LimitTable<'v>(&'v [Value]);

impl fmt::Display for LimitTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles = ["limit", "rate", "since", "events", "at once", "refusals", "proposal"];
        write_table(f, &titles, self.0.iter().map(row).collect())?;
        let is_shadow = |limit: &&Value| limit["shadow"] == true;
        let refuses = |limit: &Value| limit["would_refuse"].as_u64().is_some_and(|requests| requests > 0);
        match self.0.iter().find(is_shadow) {
            None => f.write_str("\nNo limit is in shadow, so nothing is measured: write shadow = true into [limits]."),
            Some(_) if self.0.iter().any(refuses) => f.write_str(
                "\nAttacks are in these numbers too. Before you raise a limit, look who came so often: at the access lines\n\
                 with shadow=, and in the audit log.",
            ),
            Some(_) => f.write_str("\nNo request was beyond a limit in shadow."),
        }
    }
}

/// Describes a limit in the columns of the table.
fn row(limit: &Value) -> Vec<String> {
    let text = |name: &str| limit[name].as_str().unwrap_or_default().escape_debug().to_string();
    let number = |name: &str| limit[name].as_u64().unwrap_or_default().to_string();
    let of = if text("pbx").is_empty() { String::new() } else { format!(" of {}", text("pbx")) };
    let name_and_rate = vec![text("limit") + &of, text("rate")];
    if limit["shadow"] != true {
        let dashes = ["-"; 4].map(str::to_owned).to_vec();
        return [name_and_rate, dashes, vec!["in force: not measured".to_owned()]].concat();
    }
    let since = text("since").parse::<Timestamp>().map(|since| format!("{since:.0}")).unwrap_or_default();
    let proposal = match &*text("verdict") {
        "wait" => "nothing came yet".to_owned(),
        "raise" => format!("\"{}\"", text("proposal")),
        verdict => verdict.to_owned(),
    };
    let numbers = ["events", "most_at_once", "would_refuse"].map(number).to_vec();
    [name_and_rate, vec![since], numbers, vec![proposal]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(name: &str, numbers: [u64; 3], verdict: &str, proposal: Option<&str>) -> Value {
        let [events, most_at_once, would_refuse] = numbers;
        json!({
            "limit": name, "rate": "5/min", "shadow": true, "since": "2026-11-22T21:00:00.5Z", "events": events,
            "most_at_once": most_at_once, "would_refuse": would_refuse, "verdict": verdict, "proposal": proposal,
        })
    }

    #[test]
    fn the_table_tells_what_each_limit_needs() {
        let limits = [
            limit("client", [0; 3], "wait", None),
            limit("caller", [40, 3, 0], "fits", None),
            limit("account", [40, 9, 12], "raise", Some("5/min burst 12")),
            json!({ "limit": "admin", "rate": "3/h", "shadow": false }),
        ];
        let told = LimitTable(&limits).to_string();
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(
            lines[..5],
            [
                "limit    rate   since                 events  at once  refusals  proposal",
                "client   5/min  2026-11-22T21:00:00Z  0       0        0         nothing came yet",
                "caller   5/min  2026-11-22T21:00:00Z  40      3        0         fits",
                "account  5/min  2026-11-22T21:00:00Z  40      9        12        \"5/min burst 12\"",
                "admin    3/h    -                     -       -        -         in force: not measured",
            ]
        );
        assert!(told.contains("Attacks are in these numbers too"), "{told}");
        assert!(LimitTable(&limits[..2]).to_string().contains("No request was beyond"));
        assert!(LimitTable(&limits[3..]).to_string().contains("No limit is in shadow"));
    }
}
