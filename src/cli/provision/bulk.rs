//! `callgate provision --from`: adds all users of a list. A user whose HA1 is known already is left as it is, so a run that was
//! interrupted is repeated.

use std::error::Error as StdError;
use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::sleep;

use super::list::{self, UserRow};
use super::{Provisioning, target};
use crate::backoff;
use crate::cli::{CommandResult, print_line, print_remark, report_error};
use crate::model::ott::users_line;
use crate::model::secret::Secret;
use crate::observe::audit::AuditEvent;
use crate::observe::causes;
use crate::voximplant::{ApiError, UserChange, UsersFileDraft, random_password};

/// How often a request is sent while Voximplant is busy or does not answer.
const TRIES: u32 = 6;
/// The pauses between them: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// What was done for a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowOutcome {
    Added,
    /// The user existed at Voximplant.
    Reset,
    Known,
    Frozen,
}

impl RowOutcome {
    const fn words(self) -> &'static str {
        match self {
            Self::Added => "added at Voximplant, and its HA1 is in the users file",
            Self::Reset => "existed at Voximplant; has a new password there, and its HA1 is in the users file",
            Self::Known => "is in the users file already",
            Self::Frozen => "is frozen, and was left as it is",
        }
    }
}

/// Why a user was not added.
#[derive(Debug, thiserror::Error)]
enum RowError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("the users file cannot be written")]
    File(#[from] io::Error),
}

/// Adds the users of a list. All of it is checked before the first request.
pub(super) async fn run(file: &Path, provisioning: &Provisioning<'_>) -> CommandResult {
    let rows = read(file, provisioning)?;
    let name = file.display();
    let (mut done, mut refused) = (Vec::new(), 0);
    for row in &rows {
        let UserRow { line, user, .. } = row;
        match add(row, provisioning).await {
            Ok(outcome) => {
                print_line(&format_args!("{name} line {line}: {user} {}", outcome.words()))?;
                done.push(outcome);
            }
            Err(RowError::Api(error)) if error.is_about_user() => {
                print_remark(&format_args!("{name} line {line}: {user}: {}", causes(&error)));
                refused += 1;
            }
            Err(error) => {
                let what = format!(
                    "{name} line {line}: {user}: stopped here; {} of {} users are done: run this again",
                    done.len(),
                    rows.len()
                );
                return Err(report_error(&what, &error as &dyn StdError));
            }
        }
    }
    let count = |wanted| done.iter().filter(|outcome| **outcome == wanted).count();
    print_line(&format_args!(
        "{} users: {} added, {} with a new password, {} known already, {} frozen, {refused} refused",
        rows.len(),
        count(RowOutcome::Added),
        count(RowOutcome::Reset),
        count(RowOutcome::Known),
        count(RowOutcome::Frozen),
    ))?;
    if refused == 0 { Ok(()) } else { Err(ExitCode::FAILURE) }
}

/// Reads and checks the whole list.
fn read(file: &Path, provisioning: &Provisioning<'_>) -> Result<Vec<UserRow>, ExitCode> {
    let name = file.display();
    let text = fs::read_to_string(file).map_err(|error| report_error(&format!("cannot read {name}"), &error))?;
    let rows = list::read(&text).map_err(|faults| {
        for fault in &faults {
            print_remark(&format_args!("{name} line {}: {}", fault.line, fault.problem));
        }
        print_remark(&"callgate: nothing was changed");
        ExitCode::FAILURE
    })?;
    let mut is_sound = true;
    for row in &rows {
        let checked = target(provisioning.voximplant, &row.user, None).map_err(|error| causes(&error)).and_then(|at| {
            // Shows missing rights before anything is changed.
            UsersFileDraft::open(at.users_file)
                .map(drop)
                .map_err(|error| format!("{}: {error}", at.users_file.display()))
        });
        if let Err(problem) = checked {
            print_remark(&format_args!("{name} line {}: {}: {problem}", row.line, row.user));
            is_sound = false;
        }
    }
    if is_sound {
        return Ok(rows);
    }
    print_remark(&"callgate: nothing was changed");
    Err(ExitCode::FAILURE)
}

async fn add(row: &UserRow, provisioning: &Provisioning<'_>) -> Result<RowOutcome, RowError> {
    let user = &row.user;
    if provisioning.voximplant.and_then(|voximplant| voximplant.ha1(user)).is_some() {
        return Ok(RowOutcome::Known);
    }
    if provisioning.is_frozen(user) {
        return Ok(RowOutcome::Frozen);
    }
    let at = target(provisioning.voximplant, user, None).map_err(|error| io::Error::other(causes(&error)))?;
    let password = random_password();
    let add = || UserChange::Add { display_name: &row.display_name, password: &password };
    let outcome = match ask(row, provisioning, &at.application, add).await {
        Ok(()) => RowOutcome::Added,
        // Of an interrupted run, or of another program. The list of the operator decides.
        Err(error) if error.is_taken() => {
            ask(row, provisioning, &at.application, || UserChange::SetPassword(&password)).await?;
            RowOutcome::Reset
        }
        Err(error) => return Err(error.into()),
    };
    write(row, at.users_file, &password)?;
    provisioning.audit(if outcome == RowOutcome::Added { AuditEvent::Create } else { AuditEvent::Rotate }, user);
    Ok(outcome)
}

/// Asks Voximplant, again after pauses while it is busy or does not answer.
async fn ask<'a>(
    row: &UserRow,
    provisioning: &Provisioning<'_>,
    application: &crate::voximplant::ApplicationRef,
    change: impl Fn() -> UserChange<'a>,
) -> Result<(), ApiError> {
    let mut failures = 0;
    loop {
        match provisioning.api.change(row.user.name(), application, change()).await {
            Err(error) if error.is_passing() && failures + 1 < TRIES => {
                failures += 1;
                let pause = backoff::jittered(backoff::after(failures, PAUSES[0], PAUSES[1]));
                print_remark(&format_args!("{}: {}; tried again in {pause:.0?}", row.user, causes(&error)));
                sleep(pause).await;
            }
            asked => return asked,
        }
    }
}

fn write(row: &UserRow, users_file: &Path, password: &Secret) -> io::Result<()> {
    UsersFileDraft::open(users_file)?.write(row.user.name(), &users_line(&row.user, password.expose()))
}
