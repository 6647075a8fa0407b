//! The old processes of an upgrade, which keep tunnels: whether they obey an order, too.

use std::process::ExitCode;

use serde_json::Value;

use crate::cli::{CommandResult, EX_UNAVAILABLE, print_line, print_remark};

/// Prints how many old processes obey an order, and names those that do not.
///
/// # Errors
/// Exit code 69 if one does not obey.
pub(super) fn tell(processes: &Value) -> CommandResult {
    let processes = processes.as_array().map(Vec::as_slice).unwrap_or_default();
    let (obedient, others): (Vec<_>, Vec<_>) = processes.iter().partition(|one| one["obeyed"] == true);
    match obedient.len() {
        0 => {}
        1 => print_line(&"1 old process that keeps tunnels obeys, too")?,
        many => print_line(&format_args!("{many} old processes that keep tunnels obey, too"))?,
    }
    for one in &others {
        let id = &one["pid"];
        print_remark(&format_args!(
            "callgate: the old process {id} does not obey, and its tunnels go on: end it with kill -KILL {id}"
        ));
    }
    if others.is_empty() { Ok(()) } else { Err(ExitCode::from(EX_UNAVAILABLE)) }
}
