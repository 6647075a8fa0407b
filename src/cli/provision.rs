//! `callgate provision`: sets a random password of a Voximplant user, and writes only its HA1 into the users file.
//!
//! The users file is prepared before Voximplant is asked, and written after it has agreed. After a failure in between the
//! password at Voximplant is unknown; the report says so, and a second run sets another one.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{CommandResult, load, print_line, report_error, run};
use crate::config::{ManagementConfig, VoximplantConfig};
use crate::model::ott::{VoximplantUser, users_line};
use crate::model::secret::Secret;
use crate::voximplant::{ApiError, ApplicationRef, ManagementApi, UserChange, UsersFileDraft, random_password};

/// How long one request to the API may take.
const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The user: its name, and @myapp.myaccount where `[[voximplant.applications]]` lists the application
    #[arg(long, value_name = "NAME")]
    user: VoximplantUser,
    /// Add the user at Voximplant. Without it, the user must exist and gets a new password
    #[arg(long)]
    create: bool,
    /// Name the application by its number instead of `application`
    #[arg(long, value_name = "NUMBER")]
    application_id: Option<u64>,
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "proxy.toml")]
    config: PathBuf,
}

/// Why the command stops before anything is changed.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error("there is no [voximplant] in the configuration")]
    NoVoximplant,
    #[error("[voximplant] has no `management`: add management = {{ service_account = {{ file = \"…\" }} }}")]
    NoManagement,
    #[error("[voximplant] has no `application`: add it, or name it by --application-id")]
    NoApplication,
    #[error("`users` is not a file, so the HA1 cannot be written; write users = {{ file = \"…\" }}")]
    NoFile,
    #[error("[[voximplant.applications]] lists no {0}")]
    UnknownApplication(String),
}

/// The user's file here and the user's application at Voximplant.
struct ProvisionTarget<'c> {
    users_file: &'c Path,
    application: ApplicationRef,
    management: &'c ManagementConfig,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let config = load(&arguments.config)?;
    let stop = |error: &dyn Error| report_error("nothing was changed", error);
    let target = target(config.voximplant.as_ref(), arguments).map_err(|error| stop(&error))?;
    let draft = UsersFileDraft::open(target.users_file).map_err(|error| stop(&error))?;
    let api = ManagementApi::new(target.management, DEADLINE).map_err(|error| stop(&error))?;
    let user = &arguments.user;
    let password = random_password();
    let change = match arguments.create {
        true => UserChange::Add { display_name: user.name(), password: &password },
        false => UserChange::SetPassword(&password),
    };
    let asked = api.change(user.name(), &target.application, change);
    run::runtime()?.block_on(asked).map_err(|error| report_unset(&error))?;
    write_ha1(draft, user, &password).map_err(|error| report_unwritten(user, &error))?;
    print_line(&format_args!(
        "{user}: the password is set at Voximplant, and {} has its HA1",
        target.users_file.display()
    ))
}

fn target<'c>(
    voximplant: Option<&'c VoximplantConfig>,
    arguments: &Arguments,
) -> Result<ProvisionTarget<'c>, PrepareError> {
    let voximplant = voximplant.ok_or(PrepareError::NoVoximplant)?;
    let management = voximplant.management.as_ref().ok_or(PrepareError::NoManagement)?;
    let named = arguments.user.application();
    let (users_file, name) = match named {
        None => (voximplant.users_file.as_deref(), voximplant.application.as_deref()),
        Some(named) => {
            let other = voximplant.others.iter().find(|other| other.name == named);
            let other = other.ok_or_else(|| PrepareError::UnknownApplication(named.to_owned()))?;
            (other.users_file.as_deref(), Some(other.name.as_str()))
        }
    };
    let application = match (arguments.application_id, name) {
        (Some(id), _) => ApplicationRef::Id(id),
        (None, Some(name)) => ApplicationRef::named(name),
        (None, None) => return Err(PrepareError::NoApplication),
    };
    Ok(ProvisionTarget { users_file: users_file.ok_or(PrepareError::NoFile)?, application, management })
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
