//! `callgate health`: asks the running gate whether it works, for containers without other programs.

use std::process::ExitCode;

use super::{CommandResult, ConfigArgument, admin_client, print_line, print_remark};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Ask whether it can serve requests (/readyz), and not only whether it makes progress (/livez)
    #[arg(long)]
    ready: bool,
}

/// Prints the gate's answer. Exit code 1 means that it does not work.
pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let path = if arguments.ready { "/readyz" } else { "/livez" };
    let (status, answer) = admin_client::fetch(arguments.config.path(), path)?;
    if status.is_success() {
        return print_line(&answer.trim_end());
    }
    print_remark(&answer.trim_end());
    Err(ExitCode::FAILURE)
}
