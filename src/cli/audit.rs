//! `callgate audit`: verifies the chain of the audit log, and reports the logins of an account.

mod report;
mod verify;

use super::CommandResult;

#[derive(Debug, clap::Subcommand)]
pub(super) enum AuditCommand {
    /// Verify the chain of audit lines, and name the first break. Exit code 1 if there is one
    Verify(verify::Arguments),
    /// List who logged in as an account, from where and when, and who was refused
    Report(report::Arguments),
}

pub(super) fn run(command: &AuditCommand) -> CommandResult {
    match command {
        AuditCommand::Verify(arguments) => verify::run(arguments),
        AuditCommand::Report(arguments) => report::run(arguments),
    }
}
