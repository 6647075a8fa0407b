//! The phone of a frozen Voximplant user: whether it is stopped, in words and as an exit code.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::{CommandResult, EX_PENDING, load, print_line, print_remark, report_error};
use super::admin_client::{self, GateReply};
use super::{PATIENCE, with_state_file};
use crate::config::ManagementConfig;
use crate::model::freeze_target::FreezeTarget;
use crate::observe::Logs;
use crate::observe::audit::EventRecord;
use crate::state::Store;
use crate::voximplant::{PhoneReport, PhoneState, Phones};

/// The phones of a user; nothing: there is no access to Voximplant's users.
pub(super) type UserPhones = Option<Vec<PhoneReport>>;

/// Reads the phones in the answer of a gate.
pub(super) fn read(answer: &Value) -> UserPhones {
    serde_json::from_value(answer["phones"].clone()).ok()
}

/// Stops or starts the phones of a user while no gate runs. What fails stays in the state file for the next start.
pub(super) fn settle(path: &Path, whom: &FreezeTarget) -> Result<UserPhones, ExitCode> {
    let (FreezeTarget::User(user), config) = (whom, load(path)?) else { return Ok(None) };
    let Some(voximplant) = config.voximplant.as_ref().filter(|one| one.management.is_some()) else { return Ok(None) };
    let logs = match &config.audit.file {
        Some(file) if file.exists() => Some(Logs::open_audit(&config)),
        _ => None,
    };
    let logs = logs.transpose().map_err(|error| report_error("cannot open the audit log", &error))?;
    let audit = |note: &EventRecord| logs.iter().for_each(|logs| logs.write_note(note));
    let reports = with_state_file(path, async |store: &Arc<Store>| {
        let phones = Phones::new(Arc::clone(store));
        if voximplant.management.as_ref().is_some_and(ManagementConfig::is_unseen) {
            print_remark(
                &"callgate: only the gate can see the access to Voximplant's users: it goes on when it starts",
            );
        } else {
            phones.settle(voximplant, &audit).await;
        }
        phones.report_of(voximplant, user)
    })?;
    if logs.is_some_and(|logs| !logs.flush(Instant::now() + PATIENCE)) {
        print_remark(&"callgate: the audit log cannot be written: it has no line about the phone");
    }
    Ok(Some(reports))
}

/// Tells whether the phone of a frozen user is stopped.
pub(super) fn tell_frozen(whom: &FreezeTarget, phones: UserPhones) -> CommandResult {
    let FreezeTarget::User(user) = whom else { return Ok(()) };
    let Some(phones) = phones else {
        print_remark(
            &"callgate: the user gets no login token, but a phone that is logged in stays so until its tokens end, \
              which may take weeks: deactivate the user in Voximplant's control panel, or add `management` to \
              [voximplant]",
        );
        return Ok(());
    };
    if phones.is_empty() {
        let what = format_args!(
            "callgate: {user} belongs to no application of [voximplant], so nothing was changed at Voximplant"
        );
        print_remark(&what);
    }
    tell(&phones)
}

/// Tells whether the phone of a thawed user is started.
pub(super) fn tell_thawed(phones: UserPhones) -> CommandResult {
    tell(&phones.unwrap_or_default())
}

/// Lists all phones that are stopped, or are to be stopped or started.
pub(super) fn list(path: &Path) -> CommandResult {
    let phones: Vec<PhoneReport> = match admin_client::ask_if_running(path, "/phones", &json!({}))? {
        GateReply::Answer(answer) => serde_json::from_value(answer).unwrap_or_default(),
        GateReply::NotRunning => match load(path)?.voximplant.filter(|voximplant| voximplant.management.is_some()) {
            Some(voximplant) => {
                with_state_file(path, async |store: &Arc<Store>| Phones::new(Arc::clone(store)).report(&voximplant))?
            }
            None => Vec::new(),
        },
    };
    phones.iter().try_for_each(|phone| print_line(&line(phone)))
}

/// Prints the state of each phone. The exit code says whether one is pending.
fn tell(phones: &[PhoneReport]) -> CommandResult {
    for phone in phones {
        match phone.state {
            PhoneState::Stopped => print_line(&line(phone))?,
            PhoneState::Stopping | PhoneState::Starting => print_remark(&format_args!("callgate: {}", line(phone))),
        }
    }
    let is_settled = phones.iter().all(|phone| phone.state == PhoneState::Stopped);
    if is_settled { Ok(()) } else { Err(ExitCode::from(EX_PENDING)) }
}

fn line(phone: &PhoneReport) -> String {
    let user = &phone.user;
    let why = phone
        .problem
        .as_ref()
        .map_or_else(|| "Voximplant has not answered yet".to_owned(), |problem| problem.escape_debug().to_string());
    match phone.state {
        PhoneState::Stopped => format!("the phone of {user} is stopped at Voximplant"),
        PhoneState::Stopping => {
            format!("the phone of {user} is not stopped yet, and callgate tries again until it is: {why}")
        }
        PhoneState::Starting => {
            format!("the phone of {user} is not started yet, and callgate tries again until it is: {why}")
        }
    }
}
