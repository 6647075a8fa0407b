//! `callgate reload`: has the running gate read its files again, and prints the outcome.

use std::process::ExitCode;

use http::StatusCode;
use serde_json::{Value, json};

use super::{CommandResult, EX_CONFIG, JsonArguments, admin_client, print_line, print_remark, print_warnings};

/// Prints whether the new configuration was taken; if not, all its problems.
pub(super) fn run(arguments: &JsonArguments) -> CommandResult {
    let refused = StatusCode::UNPROCESSABLE_ENTITY;
    let outcome = admin_client::ask_or(arguments.config.path(), "/reload", &json!({}), refused)?;
    match (outcome, arguments.json) {
        (Ok(taken), true) => print_line(&format_args!("{taken:#}")),
        (Ok(taken), false) => tell_taken(&taken),
        (Err(refusal), true) => print_line(&format_args!("{refusal:#}")).and_then(|()| Err(ExitCode::from(EX_CONFIG))),
        (Err(refusal), false) => Err(tell_refused(&refusal)),
    }
}

fn tell_taken(taken: &Value) -> CommandResult {
    print_warnings(texts(&taken["warnings"]));
    let changed = texts(&taken["changed"]);
    let changed = if changed.is_empty() { "no file had changed".to_owned() } else { changed.join(", ") };
    print_line(&format_args!("reloaded {}: {changed}", taken["file"].as_str().unwrap_or_default()))
}

fn tell_refused(refusal: &Value) -> ExitCode {
    for problem in texts(&refusal["problems"]) {
        print_remark(&problem);
    }
    let reason = refusal["message"].as_str().unwrap_or_default();
    print_remark(&format_args!("callgate: not reloaded, everything stays as it was: {reason}"));
    ExitCode::from(EX_CONFIG)
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
