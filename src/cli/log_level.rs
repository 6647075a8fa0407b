//! `callgate log level`: shows the level of the running gate's events, or changes it for a while.

use std::time::Duration;

use serde_json::json;

use super::{CommandResult, ConfigArgument, admin_client, print_line, time_args};

#[derive(Debug, clap::Subcommand)]
pub(super) enum LogCommand {
    /// Show the level of the running gate's events, or change it for a while
    Level(LevelArguments),
}

#[derive(Debug, clap::Args)]
pub(super) struct LevelArguments {
    /// The level that holds for a while; `configured` ends that. Without it, the level is shown
    #[arg(value_parser = ["error", "warn", "info", "debug", "trace", "configured"])]
    level: Option<String>,
    /// How long it holds, a day at most
    #[arg(long = "for", value_name = "DURATION", default_value = "10min", value_parser = time_args::duration)]
    length: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgument,
}

/// Prints the level that holds after the order, for how long, and which one follows.
pub(super) fn run(LogCommand::Level(arguments): &LogCommand) -> CommandResult {
    // A part of a second is one more: the order has whole ones.
    let seconds = arguments.length.as_secs_f64().ceil() as u64;
    let order =
        arguments.level.as_ref().map_or_else(|| json!({}), |level| json!({ "level": level, "seconds": seconds }));
    let levels = admin_client::ask_running(arguments.config.path(), "/log/level", &order)?;
    if arguments.json {
        return print_line(&format_args!("{levels:#}"));
    }
    let word = |key: &str| levels[key].as_str().unwrap_or_default().escape_debug().to_string();
    match levels["seconds_left"].as_u64() {
        Some(left) => print_line(&format_args!("{} for {left} s, then {}", word("level"), word("configured"))),
        None => print_line(&format_args!("{}, as configured", word("level"))),
    }
}
