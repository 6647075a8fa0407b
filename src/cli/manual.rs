//! `callgate completions` and `callgate man`: what shells and `man` know of the commands.

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Arguments, CommandResult, output, report_error};

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArguments {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct ManArguments {
    /// The folder, which is made where it is missing
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Prints the completions for a shell.
pub(super) fn completions(arguments: &CompletionsArguments) -> CommandResult {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "callgate", &mut script);
    output::print_line(&String::from_utf8_lossy(&script).trim_end())
}

/// Writes a page for `man` of the program and of each command.
pub(super) fn man(arguments: &ManArguments) -> CommandResult {
    let folder: &Path = &arguments.folder;
    let written = fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Arguments::command(), folder));
    written.map_err(|error| report_error(&format!("cannot write the pages to {}", folder.display()), &error))
}
