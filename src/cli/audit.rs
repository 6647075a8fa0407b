//! `callgate audit`: what the audit log proves, and what it tells of one account.

mod report;
mod verify;

use super::Done;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Follow the chain of audit lines, and say where it was broken first. Exit code 1 if it was
    Verify(verify::Arguments),
    /// Tell who became an account, from where and when, and who was refused it
    Report(report::Arguments),
}

pub(super) fn run(command: &Command) -> Done {
    match command {
        Command::Verify(arguments) => verify::run(arguments),
        Command::Report(arguments) => report::run(arguments),
    }
}
