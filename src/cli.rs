//! Floor 9: the commands.

mod admin_client;
mod audit;
mod check;
mod demo;
mod explain;
mod freeze;
mod hash;
mod link;
mod output;
mod provision;
mod reload;
mod run;
mod systemd;
mod time_args;
mod unstarted_gate;

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::output::{remark, say};
use crate::config::{self, Config, Problems};
use crate::observe::{causes, trace};

/// The exit code of arguments that make no sense, as the parser of arguments has it.
const EX_USAGE: u8 = 2;
/// The exit code of a configuration that is wrong (`EX_CONFIG` of sysexits.h).
const EX_CONFIG: u8 = 78;
/// The exit code of a gate that is not there, or does not do what it is told (`EX_UNAVAILABLE`).
const EX_UNAVAILABLE: u8 = 69;
/// The exit code of a drain that had to cut connections off.
const EX_CUT: u8 = 3;

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
    /// Serve. SIGTERM or SIGINT ends after the exchanges in flight, a second one at once; SIGHUP reads the files again,
    /// SIGUSR2 hands over to a new process
    Run {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = "proxy.toml")]
        config: PathBuf,
    },
    /// Show the whole story on this machine, with stand-ins for the app, the PBX and Voximplant; no set-up
    Demo(demo::Arguments),
    /// Say everything that is wrong with a configuration, and nothing else. Exit code 78 if anything is
    Check {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = "proxy.toml")]
        config: PathBuf,
        /// Also try what it names: upstreams, the app's whoami, the PBX administrator's credentials
        #[arg(long)]
        online: bool,
    },
    /// Let nobody log in as an account any more, and end its tunnels; at once, and until it is thawed
    Freeze(freeze::Freezing),
    /// Let callers log in again
    Thaw(freeze::Thawing),
    /// Look into the audit log
    #[command(subcommand)]
    Audit(audit::Command),
    /// Tell who a caller would become, by which rule, and why. Nobody is let in. Exit code 0 if granted, 1 if refused
    Explain(Box<explain::Arguments>),
    /// Turn a Voximplant password into a line for the users file, or make a key for another server
    Hash(hash::Arguments),
    /// Give a Voximplant user a random password that nobody knows, and write its HA1 into the users file
    Provision(provision::Arguments),
    /// Print a signed link that logs one person in, once
    Link(link::Arguments),
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(unparsed) => return explain_usage(&unparsed),
    };
    let done = match arguments.command {
        Command::Run { config } => run::run(&config),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Check { config, online } => check::run(&config, online),
        Command::Freeze(freezing) => freeze::freeze(&freezing),
        Command::Thaw(thawing) => freeze::thaw(&thawing),
        Command::Audit(command) => audit::run(&command),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Hash(arguments) => hash::run(&arguments),
        Command::Provision(arguments) => provision::run(&arguments),
        Command::Link(arguments) => link::run(&arguments),
    };
    trace::flush();
    done.err().unwrap_or(ExitCode::SUCCESS)
}

/// Says how the arguments are written: on standard output where that was asked for.
fn explain_usage(unparsed: &clap::Error) -> ExitCode {
    let written = unparsed.print().and_then(|()| io::stdout().flush());
    if unparsed.use_stderr() {
        return ExitCode::from(EX_USAGE);
    }
    output::finish("standard output", written).err().unwrap_or(ExitCode::SUCCESS)
}

/// What a command comes to: nothing more to say, or the exit code of what it has complained about.
type Done = Result<(), ExitCode>;

/// Loads a configuration, or says everything that is wrong with it.
fn load(path: &Path) -> Result<Config, ExitCode> {
    take(config::load(path, &environment))
}

/// Looks up a variable of the environment.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Takes a configuration that was read, or says everything that is wrong with it.
fn take(config: Result<Config, Problems>) -> Result<Config, ExitCode> {
    let config = config.map_err(|problems| refuse(&problems))?;
    for warning in &config.warnings {
        remark(&format_args!("warning: {warning}"));
    }
    Ok(config)
}

/// Says everything that is wrong with a configuration.
fn refuse(problems: &Problems) -> ExitCode {
    remark(problems);
    ExitCode::from(EX_CONFIG)
}

/// Says why something failed.
fn complain(what: &str, error: &dyn Error) -> ExitCode {
    remark(&format_args!("callgate: {what}: {}", causes(error)));
    ExitCode::FAILURE
}
