//! `callgate freeze` refuses logins as an account and ends its tunnels; `callgate thaw` allows them again.

mod members;
mod phones;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::admin_client::{self, GateReply};
use super::{
    CommandResult, ConfigArgument, EX_CONFIG, EX_UNAVAILABLE, load, old_processes, print_line, print_remark,
    report_error, run, time_args,
};
use crate::config::Config;
use crate::model::freeze_target::{FreezeTarget, MAX_WHY};
use crate::observe::Logs;
use crate::observe::audit::{AuditEvent, EventRecord};
use crate::state::{Freeze, KeepError, OpenError, Store};

/// How long a command waits until its audit line is written.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
#[command(subcommand_value_name = "account|user|domain|list")]
pub(super) struct FreezeArguments {
    #[command(subcommand)]
    command: FreezeCommand,
}

#[derive(Debug, clap::Subcommand)]
enum FreezeCommand {
    /// An account of the PBX: callgate freeze account 40@acme.example.com
    Account(TargetArguments),
    /// A Voximplant user: callgate freeze user ann
    User(TargetArguments),
    /// All accounts of a PBX domain: callgate freeze domain acme.example.com
    Domain(TargetArguments),
    /// List what is frozen
    List(ListArguments),
}

#[derive(Debug, clap::Args)]
struct TargetArguments {
    /// The name
    name: String,
    /// How long the freeze lasts; without it, until the account is thawed
    #[arg(long = "for", value_name = "DURATION", value_parser = time_args::duration)]
    length: Option<Duration>,
    /// The reason, for the audit log and the list
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = why)]
    why: String,
    #[command(flatten)]
    config: ConfigArgument,
}

#[derive(Debug, clap::Args)]
struct ListArguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgument,
}

#[derive(Debug, clap::Args)]
pub(super) struct ThawArguments {
    /// What to thaw
    #[arg(value_parser = ["account", "user", "domain"])]
    kind: String,
    /// The name
    name: String,
    #[command(flatten)]
    config: ConfigArgument,
}

pub(super) fn freeze(freezing: &FreezeArguments) -> CommandResult {
    let (kind, target) = match &freezing.command {
        FreezeCommand::Account(target) => ("account", target),
        FreezeCommand::User(target) => ("user", target),
        FreezeCommand::Domain(target) => ("domain", target),
        FreezeCommand::List(listing) => return list(listing),
    };
    let whom = whom(kind, &target.name)?;
    let since = Timestamp::now();
    let until = target.length.map(|length| since.checked_add(length)).transpose();
    let until = until.map_err(|error| report_error("cannot freeze for so long", &error))?;
    let order = json!({ "whom": whom.to_string(), "until": until, "why": target.why });
    let (mut old, mut shared) = (Value::Null, None);
    let (kept, phones) = match admin_client::ask_if_running(target.config.path(), "/freeze", &order)? {
        GateReply::Answer(mut answer) => {
            old = answer["old_processes"].take();
            shared = Some(answer["members"].take());
            (answer["kept"] == true, phones::read(&answer))
        }
        GateReply::NotRunning => {
            let freeze = Freeze { since, until, by: operator(), why: target.why.clone(), shared: None };
            with_state_file(target.config.path(), async |store: &Arc<Store>| {
                store.freeze(&whom.to_string(), freeze).await
            })?
            .map_err(|error| report_error("cannot freeze", &error))?;
            write_audit_line(target.config.path(), AuditEvent::Freeze, &whom, until, &target.why)?;
            (true, phones::settle(target.config.path(), &whom)?)
        }
    };
    if !kept {
        print_remark(&"callgate: without `[state] file` the gate forgets this freeze when it stops");
    }
    let end = until.map_or_else(|| "until it is thawed".to_owned(), |at| format!("until {at:.0}"));
    print_line(&format_args!("{whom} is frozen {end}"))?;
    let (told, stopped) = (old_processes::tell(&old), phones::tell_frozen(&whom, phones));
    let shared = match shared {
        Some(answer) => members::tell(&answer),
        None => members::tell_stopped(target.config.path(), "the other members learn of the freeze when it starts"),
    };
    told.and(stopped).and(shared)
}

pub(super) fn thaw(thawing: &ThawArguments) -> CommandResult {
    let whom = whom(&thawing.kind, &thawing.name)?;
    let order = json!({ "whom": whom.to_string() });
    let (mut old, mut shared) = (Value::Null, None);
    let (was_frozen, phones) = match admin_client::ask_if_running(thawing.config.path(), "/thaw", &order)? {
        GateReply::Answer(mut answer) => {
            old = answer["old_processes"].take();
            shared = Some(answer["members"].take());
            (answer["thawed"] == true, phones::read(&answer))
        }
        GateReply::NotRunning => {
            let thawed =
                with_state_file(thawing.config.path(), async |store: &Arc<Store>| store.thaw(&whom.to_string()).await)?
                    .map_err(|error| report_error("cannot thaw", &error))?;
            if thawed {
                write_audit_line(thawing.config.path(), AuditEvent::Thaw, &whom, None, "")?;
            }
            (thawed, phones::settle(thawing.config.path(), &whom)?)
        }
    };
    if !was_frozen {
        print_remark(&format_args!("callgate: {whom} is not frozen: callgate freeze list"));
        return Err(ExitCode::FAILURE);
    }
    print_line(&format_args!("{whom} is thawed"))?;
    let (told, started) = (old_processes::tell(&old), phones::tell_thawed(phones));
    let shared = match shared {
        Some(answer) => members::tell(&answer),
        None => members::tell_stopped(
            thawing.config.path(),
            "the other members keep the freeze and give it back when this one starts; thaw at one that runs",
        ),
    };
    told.and(started).and(shared)
}

fn list(listing: &ListArguments) -> CommandResult {
    let freezes = match admin_client::ask_if_running(listing.config.path(), "/freezes", &json!({}))? {
        GateReply::Answer(answer) => answer,
        GateReply::NotRunning => {
            let freezes = with_state_file(listing.config.path(), async |store: &Arc<Store>| {
                Ok::<_, KeepError>(store.freezes(Timestamp::now()))
            })?;
            let freezes = freezes.map_err(|error| report_error("cannot list", &error))?;
            freezes.iter().map(|(whom, freeze)| as_json(whom, freeze)).collect()
        }
    };
    if listing.json {
        return print_line(&format_args!("{freezes:#}"));
    }
    let freezes = freezes.as_array().map(Vec::as_slice).unwrap_or_default();
    for freeze in freezes {
        let text = |name: &str| freeze[name].as_str().unwrap_or_default().escape_debug().to_string();
        let time = |name: &str| freeze[name].as_str()?.parse::<Timestamp>().ok().map(|at| format!("{at:.0}"));
        let since = time("since").unwrap_or_default();
        let until = time("until").map_or_else(|| "until it is thawed".to_owned(), |at| format!("until {at}"));
        let why = if text("why").is_empty() { String::new() } else { format!(": {}", text("why")) };
        print_line(&format_args!("{}  since {since} {until}, by {}{why}", text("whom"), text("by")))?;
    }
    if freezes.is_empty() {
        print_line(&"nothing is frozen")?;
    }
    phones::list(listing.config.path())
}

/// Returns a freeze as JSON, as the admin listener does.
fn as_json(whom: &str, freeze: &Freeze) -> Value {
    json!({ "whom": whom, "since": freeze.since, "until": freeze.until, "by": freeze.by, "why": freeze.why })
}

fn whom(kind: &str, name: &str) -> Result<FreezeTarget, ExitCode> {
    format!("{kind} {name}").parse().map_err(|problem| {
        print_remark(&format_args!("callgate: {problem}"));
        ExitCode::from(super::EX_USAGE)
    })
}

fn why(text: &str) -> Result<String, String> {
    if text.len() <= MAX_WHY { Ok(text.to_owned()) } else { Err(format!("a reason is at most {MAX_WHY} bytes long")) }
}

/// Returns the user who gives this command, for the audit log.
pub(super) fn operator() -> String {
    format!("uid {}", rustix::process::getuid().as_raw())
}

// === Without a running gate ===

/// Opens the state file, since no gate has it open, and acts on it.
fn with_state_file<T>(path: &Path, act: impl AsyncFnOnce(&Arc<Store>) -> T) -> Result<T, ExitCode> {
    let config = load(path)?;
    let Some(file) = config.state.as_deref().filter(|file| file.exists()) else { return Err(report_nowhere(&config)) };
    let store = Store::open(file).map_err(|error| match error {
        OpenError::Locked(_) if config.admin.is_none() => {
            print_remark(
                &"callgate: a gate runs, and without [admin] it takes no orders: add `listen = \
                  \"unix:/run/callgate/admin.sock\"` to [admin], and start it again",
            );
            ExitCode::from(EX_CONFIG)
        }
        error => {
            report_error("cannot open the state file", &error);
            ExitCode::from(EX_UNAVAILABLE)
        }
    })?;
    Ok(run::runtime()?.block_on(act(&Arc::new(store))))
}

/// Reports that there is neither a gate that answers nor a state file to write.
fn report_nowhere(config: &Config) -> ExitCode {
    let admin = config.admin.as_ref().map_or_else(
        || "add `listen` to [admin], so that a running gate takes orders".to_owned(),
        |listen| format!("no gate answers at {listen}"),
    );
    let state = match &config.state {
        Some(file) => format!("there is no {} yet: start the gate once", file.display()),
        None => "add `file` to [state], so that a gate that starts later knows the freeze".to_owned(),
    };
    print_remark(&format_args!("callgate: {admin}; {state}"));
    ExitCode::from(EX_UNAVAILABLE)
}

/// Writes the audit line that the gate would write. Does nothing when the log does not exist yet: the gate creates it.
fn write_audit_line(
    path: &Path,
    event: AuditEvent,
    whom: &FreezeTarget,
    until: Option<Timestamp>,
    why: &str,
) -> Result<(), ExitCode> {
    let config = load(path)?;
    if config.audit.file.as_ref().is_some_and(|file| file.exists()) {
        let logs = Logs::open_audit(&config).map_err(|error| report_error("cannot open the audit log", &error))?;
        logs.write_note(&EventRecord::of(event, whom, operator(), until, why));
        if !logs.flush(Instant::now() + PATIENCE) || logs.check().is_err() {
            print_remark(&"callgate: done, but the audit log cannot be written: it has no line about this");
        }
    }
    Ok(())
}
