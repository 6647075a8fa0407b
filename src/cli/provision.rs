//! `callgate provision`: a random password for a Voximplant user, of which only HA1 is kept.
//!
//! The users file is prepared before Voximplant is asked and written after it has agreed. What goes wrong in between is
//! told: then a password is set that nobody knows, and the command is run again.

mod api;
mod users_file;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::api::{Api, ApiError};
use self::users_file::Pending;
use super::{Done, complain, hash, load, run, say};
use crate::config::{ManagementConfig, VoximplantConfig};
use crate::model::ott::{VoximplantUser, users_line};
use crate::model::secret::Secret;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The user: its name, and @myapp.myaccount where `[[voximplant.applications]]` lists the application
    #[arg(long, value_name = "NAME")]
    user: VoximplantUser,
    /// Add the user at Voximplant. Without it, the user is there and gets another password
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
enum Unprepared {
    #[error("there is no [voximplant] in the configuration")]
    NoVoximplant,
    #[error("[voximplant] has no `management`: add management = {{ service_account = {{ file = \"…\" }} }}")]
    NoManagement,
    #[error("[voximplant] has no `application`: add it, or name it by --application-id")]
    NoApplication,
    #[error("`users` is no file: there is nothing to write the HA1 into; write users = {{ file = \"…\" }}")]
    NoFile,
    #[error("[[voximplant.applications]] lists no {0}")]
    UnknownApplication(String),
}

/// Where a user is, here and at Voximplant.
struct Place<'c> {
    users_file: &'c Path,
    application: api::Application,
    management: &'c ManagementConfig,
}

pub(super) fn run(arguments: &Arguments) -> Done {
    let config = load(&arguments.config)?;
    let stop = |error: &dyn Error| complain("nothing was changed", error);
    let place = place(config.voximplant.as_ref(), arguments).map_err(|error| stop(&error))?;
    let pending = Pending::open(place.users_file).map_err(|error| stop(&error))?;
    let api = Api::new(place.management).map_err(|error| stop(&error))?;
    let user = &arguments.user;
    let password = hash::password();
    let asked = api.set_password(user.name(), &password, place.application, arguments.create);
    run::runtime()?.block_on(asked).map_err(|error| unset(&error))?;
    keep(pending, user, &password).map_err(|error| unkept(user, &error))?;
    say(&format_args!("{user}: the password is set at Voximplant, and {} has its HA1", place.users_file.display()))
}

fn place<'c>(voximplant: Option<&'c VoximplantConfig>, arguments: &Arguments) -> Result<Place<'c>, Unprepared> {
    let voximplant = voximplant.ok_or(Unprepared::NoVoximplant)?;
    let management = voximplant.management.as_ref().ok_or(Unprepared::NoManagement)?;
    let named = arguments.user.application();
    let (users_file, name) = match named {
        None => (voximplant.users_file.as_deref(), voximplant.application.as_deref()),
        Some(named) => {
            let other = voximplant.others.iter().find(|other| other.name == named);
            let other = other.ok_or_else(|| Unprepared::UnknownApplication(named.to_owned()))?;
            (other.users_file.as_deref(), Some(other.name.as_str()))
        }
    };
    let application = match (arguments.application_id, name) {
        (Some(id), _) => api::Application::Id(id),
        (None, Some(name)) => api::Application::Name(format!("{name}.voximplant.com")),
        (None, None) => return Err(Unprepared::NoApplication),
    };
    Ok(Place { users_file: users_file.ok_or(Unprepared::NoFile)?, application, management })
}

fn keep(pending: Pending, user: &VoximplantUser, password: &Secret) -> std::io::Result<()> {
    pending.write(user.name(), &users_line(user, password.expose()))
}

fn unset(error: &ApiError) -> ExitCode {
    complain(
        match error {
            ApiError::Refused { .. } | ApiError::Unsent(_) => "nothing was changed",
            ApiError::Unanswered(_) | ApiError::Nonsense(_) => {
                "the users file is as it was, but nobody knows whether Voximplant set another password: run this again"
            }
        },
        error,
    )
}

fn unkept(user: &VoximplantUser, error: &std::io::Error) -> ExitCode {
    let what =
        format!("the password of {user} is set at Voximplant, but the users file is not written: run this again");
    complain(&what, error)
}
