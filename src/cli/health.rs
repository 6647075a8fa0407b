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
    let answer = printable(answer.trim_end());
    if status.is_success() {
        return print_line(&answer);
    }
    print_remark(&answer);
    Err(ExitCode::FAILURE)
}

/// Returns lines without what a terminal could obey: another process may listen there, and a problem may quote a server.
fn printable(lines: &str) -> String {
    lines.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_lines_and_no_orders() {
        assert_eq!(printable("app: \u{1b}[2Jgone\r\nnot ready\u{9b}"), "app:  [2Jgone \nnot ready ");
    }
}
