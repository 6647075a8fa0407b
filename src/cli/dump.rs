//! `callgate config`: the configuration as it takes effect, with the defaults of the keys that are not set; and its keys.

use super::explain_keys::{self, KeyArguments};
use super::{CommandResult, JsonArguments, load, print_line};
use crate::config::EffectiveConfig;

#[derive(Debug, clap::Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the configuration as it takes effect: what the file sets, and below it the defaults. Secrets are not read
    Dump(JsonArguments),
    /// Explain the keys of proxy.toml: type, default, meaning
    Explain(KeyArguments),
}

pub(super) fn run(command: &ConfigCommand) -> CommandResult {
    match command {
        ConfigCommand::Dump(arguments) => dump(arguments),
        ConfigCommand::Explain(arguments) => explain_keys::run(arguments),
    }
}

fn dump(arguments: &JsonArguments) -> CommandResult {
    let effective = EffectiveConfig::of(&load(arguments.config.path())?);
    match arguments.json {
        true => print_line(&format_args!("{:#}", effective.to_json())),
        false => print_line(&effective.to_string().trim_end()),
    }
}
