//! `callgate freeze` and `callgate thaw`: nobody logs in as an account any more, and its tunnels end; and the way back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::admin_client::{self, Told};
use super::{Done, EX_CONFIG, EX_UNAVAILABLE, complain, load, remark, run, say, time_args};
use crate::config::Config;
use crate::model::freeze_target::{FreezeTarget, MAX_WHY};
use crate::observe::Logs;
use crate::observe::audit::{Event, Note};
use crate::state::{Freeze, KeepError, OpenError, Store};

/// How long a command waits for the audit log.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct Freezing {
    #[command(subcommand)]
    what: Frozen,
}

#[derive(Debug, clap::Subcommand)]
enum Frozen {
    /// An account of the PBX: callgate freeze account 40@acme.example.com
    Account(Order),
    /// A Voximplant user: callgate freeze user ann
    User(Order),
    /// All accounts of a PBX domain: callgate freeze domain acme.example.com
    Domain(Order),
    /// List who is frozen
    List(Listing),
}

#[derive(Debug, clap::Args)]
struct Order {
    /// The name
    name: String,
    /// For how long; without it, until it is thawed
    #[arg(long = "for", value_name = "DURATION", value_parser = time_args::duration)]
    length: Option<Duration>,
    /// Why, for the audit log and for whoever looks at the list
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = why)]
    why: String,
    /// The configuration of the gate
    #[arg(long, value_name = "FILE", default_value = "proxy.toml")]
    config: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Listing {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The configuration of the gate
    #[arg(long, value_name = "FILE", default_value = "proxy.toml")]
    config: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct Thawing {
    /// What is thawed
    #[arg(value_parser = ["account", "user", "domain"])]
    kind: String,
    /// The name
    name: String,
    /// The configuration of the gate
    #[arg(long, value_name = "FILE", default_value = "proxy.toml")]
    config: PathBuf,
}

pub(super) fn freeze(freezing: &Freezing) -> Done {
    let (kind, order) = match &freezing.what {
        Frozen::Account(order) => ("account", order),
        Frozen::User(order) => ("user", order),
        Frozen::Domain(order) => ("domain", order),
        Frozen::List(listing) => return list(listing),
    };
    let whom = whom(kind, &order.name)?;
    let since = Timestamp::now();
    let until = order.length.map(|length| since.checked_add(length)).transpose();
    let until = until.map_err(|error| complain("cannot freeze for so long", &error))?;
    let wish = json!({ "whom": whom.to_string(), "until": until, "why": order.why });
    let kept = match admin_client::tell(&order.config, "/freeze", &wish)? {
        Told::Answer(answer) => answer["kept"] == true,
        Told::Nobody => {
            let freeze = Freeze { since, until, by: me(), why: order.why.clone() };
            alone(&order.config, async |store| store.freeze(&whom.to_string(), freeze).await)?
                .map_err(|error| complain("cannot freeze", &error))?;
            note(&order.config, Event::Freeze, &whom, until, &order.why)?;
            true
        }
    };
    if !kept {
        remark(&"callgate: without `[state] file` the gate forgets this when it ends");
    }
    let end = until.map_or_else(|| "until it is thawed".to_owned(), |at| format!("until {at:.0}"));
    say(&format_args!("{whom} is frozen {end}"))
}

pub(super) fn thaw(thawing: &Thawing) -> Done {
    let whom = whom(&thawing.kind, &thawing.name)?;
    let was_frozen = match admin_client::tell(&thawing.config, "/thaw", &json!({ "whom": whom.to_string() }))? {
        Told::Answer(answer) => answer["thawed"] == true,
        Told::Nobody => {
            let thawed = alone(&thawing.config, async |store| store.thaw(&whom.to_string()).await)?
                .map_err(|error| complain("cannot thaw", &error))?;
            if thawed {
                note(&thawing.config, Event::Thaw, &whom, None, "")?;
            }
            thawed
        }
    };
    if !was_frozen {
        remark(&format_args!("callgate: {whom} is not frozen: callgate freeze list"));
        return Err(ExitCode::FAILURE);
    }
    say(&format_args!("{whom} is thawed"))
}

fn list(listing: &Listing) -> Done {
    let freezes = match admin_client::tell(&listing.config, "/freezes", &json!({}))? {
        Told::Answer(answer) => answer,
        Told::Nobody => {
            let freezes = alone(&listing.config, async |store| Ok::<_, KeepError>(store.freezes(Timestamp::now())))?;
            let freezes = freezes.map_err(|error| complain("cannot list", &error))?;
            freezes.iter().map(|(whom, freeze)| described(whom, freeze)).collect()
        }
    };
    if listing.json {
        return say(&format_args!("{freezes:#}"));
    }
    let freezes = freezes.as_array().map(Vec::as_slice).unwrap_or_default();
    for freeze in freezes {
        let text = |name: &str| freeze[name].as_str().unwrap_or_default().escape_debug().to_string();
        let time = |name: &str| freeze[name].as_str()?.parse::<Timestamp>().ok().map(|at| format!("{at:.0}"));
        let since = time("since").unwrap_or_default();
        let until = time("until").map_or_else(|| "until it is thawed".to_owned(), |at| format!("until {at}"));
        let why = if text("why").is_empty() { String::new() } else { format!(": {}", text("why")) };
        say(&format_args!("{}  since {since} {until}, by {}{why}", text("whom"), text("by")))?;
    }
    if freezes.is_empty() {
        say(&"nobody is frozen")?;
    }
    Ok(())
}

/// Describes a freeze as the gate does.
fn described(whom: &str, freeze: &Freeze) -> Value {
    json!({ "whom": whom, "since": freeze.since, "until": freeze.until, "by": freeze.by, "why": freeze.why })
}

fn whom(kind: &str, name: &str) -> Result<FreezeTarget, ExitCode> {
    format!("{kind} {name}").parse().map_err(|problem| {
        remark(&format_args!("callgate: {problem}"));
        ExitCode::from(super::EX_USAGE)
    })
}

fn why(text: &str) -> Result<String, String> {
    if text.len() <= MAX_WHY { Ok(text.to_owned()) } else { Err(format!("a reason is at most {MAX_WHY} bytes long")) }
}

fn me() -> String {
    format!("uid {}", rustix::process::getuid().as_raw())
}

// === Without a running gate ===

/// Opens the state file in the place of a gate that does not run.
fn alone<T>(path: &Path, act: impl AsyncFnOnce(&Store) -> T) -> Result<T, ExitCode> {
    let config = load(path)?;
    let Some(file) = config.state.as_deref().filter(|file| file.exists()) else { return Err(nowhere(&config)) };
    let store = Store::open(file).map_err(|error| match error {
        OpenError::Locked(_) if config.admin.is_none() => {
            remark(
                &"callgate: a gate runs, and without [admin] nobody can tell it anything: add `listen = \
                  \"unix:/run/callgate/admin.sock\"` to [admin], and start it again",
            );
            ExitCode::from(EX_CONFIG)
        }
        error => {
            complain("cannot open the state file", &error);
            ExitCode::from(EX_UNAVAILABLE)
        }
    })?;
    Ok(run::runtime()?.block_on(act(&store)))
}

/// Says that there is neither a gate to tell nor a file to write.
fn nowhere(config: &Config) -> ExitCode {
    let admin = config.admin.as_ref().map_or_else(
        || "add `listen` to [admin], so that a running gate can be told".to_owned(),
        |listen| format!("no gate answers at {listen}"),
    );
    let state = match &config.state {
        Some(file) => format!("there is no {} yet: start the gate once", file.display()),
        None => "add `file` to [state], so that a gate that starts later knows".to_owned(),
    };
    remark(&format_args!("callgate: {admin}; {state}"));
    ExitCode::from(EX_UNAVAILABLE)
}

/// Writes the audit line that the gate would write. A log that is not there yet is the gate's to make.
fn note(path: &Path, event: Event, whom: &FreezeTarget, until: Option<Timestamp>, why: &str) -> Result<(), ExitCode> {
    let config = load(path)?;
    if config.audit.file.as_ref().is_some_and(|file| file.exists()) {
        let logs = Logs::alone(&config).map_err(|error| complain("cannot open the audit log", &error))?;
        logs.write_note(&Note::of(event, whom, me(), until, why));
        if !logs.flush(Instant::now() + PATIENCE) || logs.check().is_err() {
            remark(&"callgate: it is done, and the audit log has no line of it: it cannot be written");
        }
    }
    Ok(())
}
