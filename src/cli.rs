//! Floor 9: the commands of the program.

mod admin_client;
mod audit;
mod certs;
mod check;
mod config_file;
mod demo;
mod dump;
mod explain;
mod explain_keys;
mod freeze;
mod hash;
mod health;
mod init;
mod keys;
mod limits;
mod link;
mod log_level;
mod manual;
mod old_processes;
mod order_reload;
mod output;
mod provision;
mod reload;
mod run;
mod sandbox;
mod sessions;
mod status;
mod systemd;
mod text_table;
mod time_args;
mod unstarted_gate;
mod version;

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use self::config_file::{ConfigArgument, JsonArguments};
use self::output::{print_line, print_remark, print_warnings};
use crate::config::{self, Config, Problems};
use crate::observe::{causes, trace};

/// The exit code for wrong arguments, the same as clap's.
const EX_USAGE: u8 = 2;
/// The exit code for a wrong configuration (`EX_CONFIG` of sysexits.h).
const EX_CONFIG: u8 = 78;
/// The exit code when no gate answers, or the gate refuses the order (`EX_UNAVAILABLE` of sysexits.h).
const EX_UNAVAILABLE: u8 = 69;
/// The exit code when Voximplant has not confirmed a change yet, which goes on in the background (`EX_TEMPFAIL` of
/// sysexits.h).
const EX_PENDING: u8 = 75;
/// The exit code when connections were still open at the drain deadline and were cut off.
const EX_CUT: u8 = 3;

/// What the short help says of the configuration's keys.
const KEYS_HINT: &str = "`callgate config explain` explains the keys of the configuration.";

#[derive(Debug, Parser)]
#[command(
    name = "callgate",
    version,
    about = "TLS reverse proxy that logs proven callers in to a Vodia PBX and a Voximplant web phone",
    max_term_width = 100
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve requests. SIGTERM or SIGINT stops after the requests in flight, a second one at once; SIGHUP reloads the
    /// files, SIGUSR2 hands over to a new process
    #[command(after_help = KEYS_HINT, after_long_help = explain_keys::help())]
    Run {
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Write a first configuration, from the answers to five questions or from options
    Init(Box<init::Arguments>),
    /// Make a certificate for development, and say how to trust it
    Certs(certs::Arguments),
    /// Show all logins on this machine, with stand-ins for the app, the PBX and Voximplant; needs no set-up
    Demo(demo::Arguments),
    /// Report every error in a configuration, without serving it. Exit code 78 if there is one, 69 if only another server
    /// does not work
    #[command(visible_alias = "validate", after_help = KEYS_HINT, after_long_help = explain_keys::help())]
    Check(check::Arguments),
    /// Refuse every login as an account and end its tunnels, at once and until it is thawed
    Freeze(freeze::FreezeArguments),
    /// Allow logins as a frozen account again
    Thaw(freeze::ThawArguments),
    /// List the sessions that callgate opened at the PBX, or end them
    #[command(subcommand)]
    Sessions(sessions::SessionsCommand),
    /// Read the audit log
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Explain which account a caller would get, by which rule, and why; opens no session. Exit code 0 if granted, 1 if
    /// refused
    Explain(Box<explain::Arguments>),
    /// Ask the running gate whether it works. Exit code 0 if it does, 1 if not, 69 if no gate answers
    Health(health::Arguments),
    /// Show what the running gate is, serves and has done. Exit code 0 if it is ready, 1 if not, 69 if no gate answers
    Status(JsonArguments),
    /// Have the running gate read its files again, and print the outcome. Exit code 78 if the new configuration is not taken
    Reload(JsonArguments),
    /// Turn a Voximplant password into a line for the users file, or make a key for another server
    Hash(hash::Arguments),
    /// Give a Voximplant user a random password, and write only its HA1 into the users file
    Provision(provision::Arguments),
    /// Print a signed link that logs one person in, once
    Link(link::Arguments),
    /// Make or replace the keys that several machines share
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Show what the limits in shadow have measured
    #[command(subcommand)]
    Limits(limits::LimitsCommand),
    /// Control the events of the running gate
    #[command(subcommand)]
    Log(log_level::LogCommand),
    /// Print the version
    Version(version::Arguments),
    /// Show the configuration, or explain its keys
    #[command(subcommand)]
    Config(dump::ConfigCommand),
    /// Print the JSON Schema of proxy.toml, by which editors complete and check it
    Schema,
    /// Print the script that lets a shell complete the commands
    Completions(manual::CompletionsArguments),
    /// Write the pages for `man` into a folder
    Man(manual::ManArguments),
}

/// Parses the arguments, runs the command, and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(unparsed) => return print_usage(&unparsed),
    };
    // Memory has passwords and keys: the system writes no core dump of it, and no other process of this user reads it.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        print_remark(&format_args!("warning: core dumps are not off: {error}"));
    }
    let done = match arguments.command {
        Command::Run { config } => run::run(&config),
        Command::Init(arguments) => init::run(&arguments),
        Command::Certs(arguments) => certs::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Freeze(freezing) => freeze::freeze(&freezing),
        Command::Thaw(thawing) => freeze::thaw(&thawing),
        Command::Sessions(command) => sessions::run(&command),
        Command::Audit(command) => audit::run(&command),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Health(arguments) => health::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Reload(arguments) => order_reload::run(&arguments),
        Command::Hash(arguments) => hash::run(&arguments),
        Command::Provision(arguments) => provision::run(&arguments),
        Command::Link(arguments) => link::run(&arguments),
        Command::Keys(command) => keys::run(&command),
        Command::Limits(command) => limits::run(&command),
        Command::Log(command) => log_level::run(&command),
        Command::Config(command) => dump::run(&command),
        Command::Schema => print_line(&format_args!("{:#}", config::schema())),
        Command::Version(arguments) => version::run(&arguments),
        Command::Completions(arguments) => manual::completions(&arguments),
        Command::Man(arguments) => manual::man(&arguments),
    };
    trace::flush();
    done.err().inspect(|_| config_file::tell_used()).unwrap_or(ExitCode::SUCCESS)
}

/// Prints the usage: to standard output for `--help` and `--version`, else to standard error.
fn print_usage(unparsed: &clap::Error) -> ExitCode {
    let written = unparsed.print().and_then(|()| io::stdout().flush());
    if unparsed.use_stderr() {
        return ExitCode::from(EX_USAGE);
    }
    output::exit_code("standard output", written).err().unwrap_or(ExitCode::SUCCESS)
}

/// The result of a command: success, or the exit code after an error that was already reported.
type CommandResult = Result<(), ExitCode>;

/// Loads a configuration, or reports every error in it. Secrets that only callgate's unit or container has may be missing: a
/// command that needs one looks whether it is there. Warnings are for `run` and `check`.
fn load(path: &Path) -> Result<Config, ExitCode> {
    config::load_elsewhere(path, &environment).map_err(|problems| report_problems(&problems))
}

/// Returns the value of an environment variable, with U+FFFD for what is not UTF-8.
fn environment(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// Returns a configuration that was read and prints its warnings, or reports every error in it.
fn accept(config: Result<Config, Problems>) -> Result<Config, ExitCode> {
    let config = config.map_err(|problems| report_problems(&problems))?;
    print_warnings(&config.warnings);
    Ok(config)
}

/// Prints every error in a configuration, and returns the exit code for it.
fn report_problems(problems: &Problems) -> ExitCode {
    print_remark(problems);
    ExitCode::from(EX_CONFIG)
}

/// Prints why something failed, with all causes, and returns exit code 1.
fn report_error(what: &str, error: &dyn Error) -> ExitCode {
    print_remark(&format_args!("callgate: {what}: {}", causes(error)));
    ExitCode::FAILURE
}
