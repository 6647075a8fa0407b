//! `callgate provision`: sets random passwords of Voximplant users, and writes only their HA1 into the users file.
//!
//! The users file is prepared before Voximplant is asked, and written after it has agreed. After a failure in between the
//! password at Voximplant is unknown; the report says so, and a second run sets another one.

mod bulk;
mod list;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::admin_client::{self, GateReply};
use super::freeze::operator;
use super::{CommandResult, ConfigArgument, load, print_line, print_remark, report_error, run};
use crate::config::{Config, ManagementConfig, VoximplantConfig};
use crate::model::freeze_target::FreezeTarget;
use crate::model::ott::{VoximplantUser, users_line};
use crate::model::secret::Secret;
use crate::observe::Logs;
use crate::observe::audit::{AuditEvent, EventRecord};
use crate::state::Store;
use crate::voximplant::{ApiError, ApplicationRef, ManagementApi, UserChange, UsersFileDraft, random_password};

/// How long one request to the API may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long the command waits until its audit lines are written.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("whom").required(true).args(["user", "from"]))]
pub(super) struct Arguments {
    /// The user: its name, and @myapp.myaccount where `[[voximplant.applications]]` lists the application
    #[arg(long, value_name = "NAME")]
    user: Option<VoximplantUser>,
    /// Add all users of a list: CSV with a header line, and the columns user and, if you like, display_name
    #[arg(long, value_name = "FILE", conflicts_with_all = ["create", "application_id"])]
    from: Option<PathBuf>,
    /// Add the user at Voximplant. Without it, the user must exist and gets a new password
    #[arg(long)]
    create: bool,
    /// Name the application by its number instead of `application`
    #[arg(long, value_name = "NUMBER")]
    application_id: Option<u64>,
    #[command(flatten)]
    config: ConfigArgument,
}

/// Why the command stops before anything is changed.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error("there is no [voximplant] in the configuration")]
    NoVoximplant,
    #[error("[voximplant] has no `management`: add management = {{ service_account = {{ file = \"…\" }} }}")]
    NoManagement,
    #[error("the access to Voximplant's users is a secret that only callgate's unit or container has: run this there")]
    UnseenManagement,
    #[error("[voximplant] has no `application`: add it, or name it by --application-id")]
    NoApplication,
    #[error("`users` is not a file, so the HA1 cannot be written; write users = {{ file = \"…\" }}")]
    NoFile,
    #[error("[[voximplant.applications]] lists no {0}")]
    UnknownApplication(String),
    #[error("{0} is frozen: thaw it first, or its phone could log in again")]
    Frozen(VoximplantUser),
}

/// The user's file here and the user's application at Voximplant.
struct ProvisionTarget<'c> {
    users_file: &'c Path,
    application: ApplicationRef,
}

/// What a run has for all its users.
struct Provisioning<'c> {
    voximplant: Option<&'c VoximplantConfig>,
    api: ManagementApi,
    /// The users that are frozen, as far as the running gate or the state file says.
    frozen: Vec<VoximplantUser>,
    /// The audit log, if it exists: the gate creates it.
    logs: Option<Logs>,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let config = load(arguments.config.path())?;
    let stop = |error: &dyn Error| report_error("nothing was changed", error);
    let management = management(config.voximplant.as_ref()).map_err(|error| stop(&error))?;
    let provisioning = Provisioning {
        voximplant: config.voximplant.as_ref(),
        api: ManagementApi::new(management, DEADLINE).map_err(|error| stop(&error))?,
        frozen: frozen(arguments.config.path(), &config)?,
        logs: audit_log(&config).map_err(|error| stop(&error))?,
    };
    let done = match (&arguments.from, &arguments.user) {
        (Some(file), _) => run::runtime()?.block_on(bulk::run(file, &provisioning)),
        (None, Some(user)) => run_one(user, arguments, &provisioning),
        (None, None) => Ok(()),
    };
    if provisioning.logs.is_some_and(|logs| !logs.flush(Instant::now() + PATIENCE) || logs.check().is_err()) {
        print_remark(&"callgate: the audit log cannot be written: it has no line about this");
    }
    done
}

/// Sets the password of one user.
fn run_one(user: &VoximplantUser, arguments: &Arguments, provisioning: &Provisioning<'_>) -> CommandResult {
    let stop = |error: &dyn Error| report_error("nothing was changed", error);
    let target = target(provisioning.voximplant, user, arguments.application_id).map_err(|error| stop(&error))?;
    if provisioning.is_frozen(user) {
        return Err(stop(&PrepareError::Frozen(user.clone())));
    }
    let draft = UsersFileDraft::open(target.users_file).map_err(|error| stop(&error))?;
    let password = random_password();
    let (change, event) = match arguments.create {
        true => (UserChange::Add { display_name: user.name(), password: &password }, AuditEvent::Create),
        false => (UserChange::SetPassword(&password), AuditEvent::Rotate),
    };
    let asked = provisioning.api.change(user.name(), &target.application, change);
    run::runtime()?.block_on(asked).map_err(|error| report_unset(&error))?;
    write_ha1(draft, user, &password).map_err(|error| report_unwritten(user, &error))?;
    provisioning.audit(event, user);
    print_line(&format_args!(
        "{user}: the password is set at Voximplant, and {} has its HA1",
        target.users_file.display()
    ))
}

impl Provisioning<'_> {
    /// Returns whether a user is frozen: a new password could let its phone in again.
    fn is_frozen(&self, user: &VoximplantUser) -> bool {
        let main = self.voximplant.and_then(|voximplant| voximplant.application.as_deref());
        let application = user.application().or(main);
        let covers = |frozen: &VoximplantUser| {
            frozen.name() == user.name() && frozen.application().is_none_or(|named| Some(named) == application)
        };
        self.frozen.iter().any(covers)
    }

    /// Writes an audit line.
    fn audit(&self, event: AuditEvent, user: &VoximplantUser) {
        let note = EventRecord {
            event,
            account: self.full_name(user),
            by: Some(operator()),
            until: None,
            reason: None,
            session: None,
            subject: None,
        };
        self.logs.iter().for_each(|logs| logs.write_note(&note));
    }

    fn full_name(&self, user: &VoximplantUser) -> String {
        let main = self.voximplant.and_then(|voximplant| voximplant.application.as_deref());
        match user.application().or(main) {
            Some(application) => format!("{}@{application}", user.name()),
            None => user.to_string(),
        }
    }
}

/// Asks the running gate, or the state file, which users are frozen.
fn frozen(path: &Path, config: &Config) -> Result<Vec<VoximplantUser>, ExitCode> {
    let targets: Vec<String> = match admin_client::ask_if_running(path, "/freezes", &json!({}))? {
        GateReply::Answer(answer) => {
            let listed = answer.as_array().map(Vec::as_slice).unwrap_or_default();
            listed.iter().filter_map(|freeze| freeze["whom"].as_str().map(str::to_owned)).collect()
        }
        // A gate without an admin listener may have the file open; then this command does not know.
        GateReply::NotRunning => {
            let store = config.state.as_deref().filter(|file| file.exists()).and_then(|file| Store::open(file).ok());
            let freezes = store.map(|store| store.freezes(store.now())).unwrap_or_default();
            freezes.into_iter().map(|(target, _)| target).collect()
        }
    };
    let user = |target: &String| match target.parse() {
        Ok(FreezeTarget::User(user)) => Some(user),
        Ok(FreezeTarget::Account(_) | FreezeTarget::Domain(_)) | Err(_) => None,
    };
    Ok(targets.iter().filter_map(user).collect())
}

fn audit_log(config: &Config) -> std::io::Result<Option<Logs>> {
    let exists = config.audit.file.as_ref().is_some_and(|file| file.exists());
    exists.then(|| Logs::open_audit(config)).transpose()
}

fn management(voximplant: Option<&VoximplantConfig>) -> Result<&ManagementConfig, PrepareError> {
    let management = voximplant.ok_or(PrepareError::NoVoximplant)?.management.as_ref();
    match management.ok_or(PrepareError::NoManagement)? {
        unseen if unseen.is_unseen() => Err(PrepareError::UnseenManagement),
        management => Ok(management),
    }
}

fn target<'c>(
    voximplant: Option<&'c VoximplantConfig>,
    user: &VoximplantUser,
    application_id: Option<u64>,
) -> Result<ProvisionTarget<'c>, PrepareError> {
    let voximplant = voximplant.ok_or(PrepareError::NoVoximplant)?;
    let (users_file, name) = match user.application() {
        None => (voximplant.users_file.as_deref(), voximplant.application.as_deref()),
        Some(named) => {
            let other = voximplant.others.iter().find(|other| other.name == named);
            let other = other.ok_or_else(|| PrepareError::UnknownApplication(named.to_owned()))?;
            (other.users_file.as_deref(), Some(other.name.as_str()))
        }
    };
    let application = match (application_id, name) {
        (Some(id), _) => ApplicationRef::Id(id),
        (None, Some(name)) => ApplicationRef::named(name),
        (None, None) => return Err(PrepareError::NoApplication),
    };
    Ok(ProvisionTarget { users_file: users_file.ok_or(PrepareError::NoFile)?, application })
}

fn write_ha1(draft: UsersFileDraft, user: &VoximplantUser, password: &Secret) -> std::io::Result<()> {
    draft.write(user.name(), &users_line(user, password.expose()))
}

fn report_unset(error: &ApiError) -> ExitCode {
    let what = match error.is_unclear() {
        true => "the users file is unchanged, but Voximplant may have set a new password: run this again",
        false => "nothing was changed",
    };
    report_error(what, error)
}

fn report_unwritten(user: &VoximplantUser, error: &std::io::Error) -> ExitCode {
    let what =
        format!("the password of {user} is set at Voximplant, but the users file is not written: run this again");
    report_error(&what, error)
}
