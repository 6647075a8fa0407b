//! `callgate sessions list` shows who is in at the PBX through callgate; `callgate sessions end` ends their sessions.

use std::process::ExitCode;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{CommandResult, ConfigArgument, EX_UNAVAILABLE, admin_client, old_processes, print_line, print_remark};
use crate::model::freeze_target::FreezeTarget;

#[derive(Debug, clap::Subcommand)]
pub(super) enum SessionsCommand {
    /// List the sessions that callgate opened at the PBX and that are not over
    List(SessionListArguments),
    /// End sessions: at the PBX, and with their WebSockets
    End(SessionEndArguments),
}

#[derive(Debug, clap::Args)]
pub(super) struct SessionListArguments {
    /// Only those of an account: 40@acme.example.com
    #[arg(long, conflicts_with = "domain", value_parser = account)]
    account: Option<String>,
    /// Only those of a PBX domain
    #[arg(long)]
    domain: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgument,
}

#[derive(Debug, clap::Args)]
pub(super) struct SessionEndArguments {
    #[command(flatten)]
    choice: EndedSessions,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgument,
}

/// The sessions to end: one of these.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct EndedSessions {
    /// The number of the session, as in the list
    number: Option<u64>,
    /// Those of an account: 40@acme.example.com
    #[arg(long, value_parser = account)]
    account: Option<String>,
    /// Those of a PBX domain, its administrators' too
    #[arg(long)]
    domain: Option<String>,
    /// All of them
    #[arg(long)]
    all: bool,
}

pub(super) fn run(command: &SessionsCommand) -> CommandResult {
    match command {
        SessionsCommand::List(listing) => list(listing),
        SessionsCommand::End(ending) => end(ending),
    }
}

fn list(listing: &SessionListArguments) -> CommandResult {
    let choice = json!({ "account": listing.account, "domain": listing.domain });
    let sessions = admin_client::ask_running(listing.config.path(), "/sessions", &choice)?;
    if listing.json {
        return print_line(&format_args!("{sessions:#}"));
    }
    let sessions = sessions.as_array().map(Vec::as_slice).unwrap_or_default();
    sessions.iter().try_for_each(|session| print_line(&line(session)))?;
    if sessions.is_empty() {
        print_line(&"no session is open that callgate knows")?;
    }
    Ok(())
}

fn end(ending: &SessionEndArguments) -> CommandResult {
    let EndedSessions { number, account, domain, all } = &ending.choice;
    let choice = json!({ "number": number, "account": account, "domain": domain, "all": all });
    let answer = admin_client::ask_running(ending.config.path(), "/sessions/end", &choice)?;
    let ended = answer["ended"].as_array().map(Vec::as_slice).unwrap_or_default();
    let elsewhere = answer["ended_in_old_processes"].as_u64().unwrap_or_default();
    if ending.json {
        print_line(&format_args!("{answer:#}"))?;
    } else {
        ended.iter().try_for_each(|session| print_line(&format_args!("ended {}", line(session))))?;
        tell_elsewhere(elsewhere)?;
    }
    let told = match ending.json {
        true => old_processes::complain(&answer["old_processes"]),
        false => old_processes::tell(&answer["old_processes"]),
    };
    let shared = tell_members(&answer["members"], ending.json);
    let told = told.and(shared);
    if told.is_ok() && ended.is_empty() && elsewhere == 0 && answer["members"].is_null() {
        print_remark(&"callgate: there is no such session: callgate sessions list");
        return Err(ExitCode::FAILURE);
    }
    told
}

/// Prints whether the other members end the sessions that they know.
///
/// # Errors
/// Exit code 69 if they do not learn of the order.
fn tell_members(members: &Value, is_json: bool) -> CommandResult {
    match members.as_str() {
        Some("told") if !is_json => print_line(&"the other members that use the shared engine end theirs, too"),
        Some("unreached") => {
            print_remark(
                &"callgate: the shared engine cannot be used, so the other members keep theirs: give the order again when \
                  /readyz?verbose says shared: ok",
            );
            Err(ExitCode::from(EX_UNAVAILABLE))
        }
        Some(_) | None => Ok(()),
    }
}

/// Prints how many sessions only old processes knew.
fn tell_elsewhere(ended: u64) -> CommandResult {
    match ended {
        0 => Ok(()),
        1 => print_line(&"ended 1 session that an old process knew"),
        many => print_line(&format_args!("ended {many} sessions that old processes knew")),
    }
}

/// Takes an account in the form that the gate knows.
fn account(text: &str) -> Result<String, String> {
    format!("account {text}").parse::<FreezeTarget>().map(|_| text.to_owned())
}

/// Describes a session on one line.
fn line(session: &Value) -> String {
    let text = |name: &str| session[name].as_str().unwrap_or_default().escape_debug().to_string();
    let since = session["since"].as_str().and_then(|since| since.parse::<Timestamp>().ok());
    let since = since.map(|since| format!("{since:.0}")).unwrap_or_default();
    let level = if text("level") == "user" { String::new() } else { format!(" ({})", text("level")) };
    let (number, account, host) = (&session["number"], text("account"), text("host"));
    let (subject, method, client) = (text("subject"), text("method"), text("client"));
    let at = if host.is_empty() { String::new() } else { format!(" at {host}") };
    let of = if text("pbx").is_empty() { String::new() } else { format!(" of {}", text("pbx")) };
    format!("{number}  {account}{level}{at}{of} since {since}, for {subject} by {method} from {client}")
}
