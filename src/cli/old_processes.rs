//! The old processes of an upgrade, which keep tunnels: whether they obey an order, too.

use std::process::ExitCode;

use serde_json::Value;

use super::{CommandResult, EX_UNAVAILABLE, print_line, print_remark};

/// Prints how many old processes obey an order, and names those that do not.
///
/// # Errors
/// Exit code 69 if one does not obey.
pub(super) fn tell(processes: &Value) -> CommandResult {
    let all = processes.as_array().map(Vec::as_slice).unwrap_or_default();
    match all.iter().filter(|one| one["obeyed"] == true).count() {
        0 => {}
        1 => print_line(&"1 old process that keeps tunnels obeys, too")?,
        many => print_line(&format_args!("{many} old processes that keep tunnels obey, too"))?,
    }
    complain(processes)
}

/// Names the old processes that do not obey an order.
///
/// # Errors
/// Exit code 69 if there is one.
pub(super) fn complain(processes: &Value) -> CommandResult {
    let all = processes.as_array().map(Vec::as_slice).unwrap_or_default();
    let others: Vec<_> = all.iter().filter(|one| one["obeyed"] != true).collect();
    for one in &others {
        let id = &one["pid"];
        print_remark(&format_args!(
            "callgate: the old process {id} does not obey, and its tunnels go on: end it with kill -KILL {id}"
        ));
    }
    if others.is_empty() { Ok(()) } else { Err(ExitCode::from(EX_UNAVAILABLE)) }
}
