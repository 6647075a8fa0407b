//! `callgate check`: reports errors in a configuration, without serving it.

mod acme;
mod app;
mod certificates;
mod clock;
mod diagnosis;
mod engine;
mod finding;
mod online;
mod pbx;
mod providers;
mod report;
mod syslog;
mod upstreams;

use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::runtime::{self, LocalOptions};

use self::diagnosis::Fault;
use self::finding::{Finding, PartVerdict};
use self::report::CheckReport;
use super::unstarted_gate::UnstartedGate;
use super::{CommandResult, JsonArguments, environment, report_error, report_problems};
use crate::config::{self, ChainFlaw, Config, Listen, LoginOrigin, PbxConfig, Problems};
use crate::observe::{Logs, causes};
use crate::state::{OpenError, Store};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    output: JsonArguments,
    /// Also try what the configuration names: upstreams, the app's whoami, the PBX administrator's password, and all others
    #[arg(long)]
    online: bool,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let JsonArguments { config, json } = &arguments.output;
    config.tell();
    let path = config.path();
    let name = path.display().to_string();
    let config = match config::load_elsewhere(path, &environment) {
        Ok(config) => Arc::new(config),
        Err(problems) => return refuse(&name, &problems, *json),
    };
    let (mut of_files, mut certificates) =
        (of_files(&config, &name), certificates::findings(&config, Timestamp::now()));
    // What `run` refuses is mended first.
    let is_online = arguments.online && of_files.iter().all(|finding| finding.verdict.fault().is_none());
    let of_servers = if is_online {
        certificates.extend(certificates::issued(&config, Timestamp::now()));
        certificates.extend(try_servers(&config)?);
        Some(certificates)
    } else {
        of_files.extend(certificates);
        None
    };
    let report = CheckReport { name: &name, of_files, of_servers };
    if *json { report.print_json() } else { report.print() }
}

/// Reports a configuration that is not read.
fn refuse(name: &str, problems: &Problems, is_json: bool) -> CommandResult {
    if !is_json {
        return Err(report_problems(problems));
    }
    let failing = PartVerdict::Fail(Fault::Configuration);
    let of_files = problems.as_slice().iter().map(|problem| Finding::of_problem(FILE, problem, failing)).collect();
    CheckReport { name, of_files, of_servers: None }.print_json()
}

fn try_servers(config: &Config) -> Result<Vec<Finding>, ExitCode> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = runtime.map_err(|error| report_error("cannot start", &error))?;
    Ok(runtime.block_on(online::findings(config)))
}

/// The part of findings in `proxy.toml`.
const FILE: &str = "configuration";

/// Returns what is found without a look at another server. Certificates are apart.
fn of_files(config: &Arc<Config>, name: &str) -> Vec<Finding> {
    let unseen = config.unseen.iter().map(|unseen| &unseen.problem);
    let warnings = config.warnings.iter().chain(unseen);
    let warnings = warnings.map(|problem| Finding::of_problem(FILE, problem, PartVerdict::Warning));
    let failing = PartVerdict::Fail(Fault::Configuration);
    let problems = start_problems(config).into_iter().map(|problem| Finding::of_file(FILE, &name, problem, failing));
    let notes = notes(config).into_iter().map(|note| Finding::of_file(FILE, &name, note, PartVerdict::Note));
    warnings.chain(problems).chain(notes).collect()
}

/// Returns what `run` would refuse, without opening a port and without creating or changing a file.
fn start_problems(config: &Arc<Config>) -> Vec<String> {
    let mut problems = Vec::new();
    if let Err(error) = UnstartedGate::build(Arc::clone(config)) {
        problems.push(causes(&*error));
    }
    if let Err(error) = Logs::inspect(config) {
        problems.push(format!("cannot open the log {error}: let the user callgate runs as write it"));
    }
    match config.state.as_deref().map(Store::inspect) {
        // A running gate has it open.
        None | Some(Ok(()) | Err(OpenError::Locked(_))) => {}
        Some(Err(error)) => problems.push(causes(&error)),
    }
    problems
}

/// Returns facts that are right only where they are intended.
fn notes(config: &Config) -> Vec<String> {
    let state = config.state.as_deref().filter(|path| matches!(Store::inspect(path), Err(OpenError::Locked(_))));
    let state = state.map(|path| {
        format!(
            "another process has the state file {} open: a gate runs with it, and a second one could not start",
            path.display()
        )
    });
    let chains = config.certificates.iter().filter_map(|certificate| match certificate.flaw() {
        Some(ChainFlaw::Private(issuer)) => Some(format!(
            "the chain for {} ends below {issuer}, which is not a public authority: clients must trust it, or its certificate must be in the file",
            certificate.name()
        )),
        Some(ChainFlaw::Disordered(_) | ChainFlaw::Incomplete(_)) | None => None,
    });
    state.into_iter().chain(chains).chain(config.pbx.iter().filter_map(|pbx| unseen_port(config, pbx))).collect()
}

/// Tells that `auto` names a port at which callgate does not listen: another program may lead browsers from there to here.
fn unseen_port(config: &Config, pbx: &PbxConfig) -> Option<String> {
    let LoginOrigin::Other { port, origin, .. } = &pbx.auto.as_ref()?.at else { return None };
    let is_seen = |at: &Listen| at.tcp().is_none_or(|at| at.port() == *port);
    let is_mapped = config.redirect_http.as_ref().is_some_and(|redirect| redirect.port == Some(*port));
    let is_hidden = !is_mapped && !config.listen.iter().any(is_seen);
    is_hidden.then(|| {
        format!(
            "`auto` is {origin}, at port {port}, where callgate does not listen: right only where browsers see callgate at port {port}"
        )
    })
}
