//! The other members: whether they know of an order.

use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use crate::cli::{CommandResult, EX_PENDING, load, print_line, print_remark};

/// Prints whether the other members know an order, by the answer of the gate.
///
/// # Errors
/// Exit code 75 if they do not know it yet.
pub(super) fn tell(members: &Value) -> CommandResult {
    match members.as_str() {
        Some("told") => print_line(&"the other members that use the shared engine obey, too"),
        Some("later") => {
            print_remark(
                &"callgate: the shared engine cannot be used, so the other members do not know it yet: this one tells \
                  them when it can",
            );
            Err(ExitCode::from(EX_PENDING))
        }
        Some("full") => {
            print_remark(
                &"callgate: the shared engine holds as many freezes and thaws as it may, so the other members do not know it \
                  yet: thaw others; a thaw goes after seven days",
            );
            Err(ExitCode::from(EX_PENDING))
        }
        Some(_) | None => Ok(()),
    }
}

/// Prints what becomes of an order that was given while this member is stopped.
///
/// # Errors
/// Exit code 75 if there are other members.
pub(super) fn tell_stopped(path: &Path, becomes: &str) -> CommandResult {
    if load(path)?.shared.is_none() {
        return Ok(());
    }
    print_remark(&format_args!("callgate: this member is stopped: {becomes}"));
    Err(ExitCode::from(EX_PENDING))
}
