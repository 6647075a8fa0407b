//! Users that a rule grants and the users file lacks. With `provision = "on-first-login"` callgate adds them at Voximplant while
//! their login waits, with a random password of which only the HA1 is kept: in the users file, and here until it is read.
//!
//! A user that exists at Voximplant already is refused: another program or a person has its password, and a new one would
//! take the phone away from them.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::file_work::{FileError, blocking};
use super::management::{ApiError, ApplicationRef, ManagementApi, UserChange};
use super::random_password;
use super::users_file::UsersFileDraft;
use crate::backoff;
use crate::config::{ApplicationUsers, ManagementConfig, VoximplantConfig};
use crate::model::ott::{Ha1, VoximplantUser, users_line};
use crate::model::secret::Secret;
use crate::observe::audit::{AuditEvent, EventRecord};
use crate::observe::metrics::{UserChangeKind, UserChanges};
use crate::observe::{Logs, causes};

/// How long one request to the API may take.
const API_DEADLINE: Duration = Duration::from_secs(4);
/// How long a login waits until its user is added. The work goes on after that.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a user that Voximplant refuses is not asked for again.
const REFUSED: Duration = Duration::from_secs(300);
/// The pauses after failures of the API itself, for all users: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(300)];
/// How long after it was added a user is known without a line in the file that was read: that file may be older.
const UNREAD: Duration = Duration::from_secs(60);
/// How many users may be added at the same time.
const FLIGHTS: usize = 32;
/// How many users are remembered, added ones and refused ones each.
const REMEMBERED: usize = 10_000;

/// The users that were added since the users file was read. They outlive every configuration.
pub(crate) struct Newcomers {
    counts: Arc<UserChanges>,
    memory: Mutex<NewcomerMemory>,
}

#[derive(Default)]
struct NewcomerMemory {
    added: HashMap<String, AddedUser>,
    flights: HashMap<String, watch::Receiver<Option<AddResult>>>,
    /// The users that Voximplant refuses: until when, and why.
    refused: HashMap<String, (Instant, String)>,
    /// The users that a request without an answer may have added: they are not another program's.
    unclear: HashSet<String>,
    /// How often in a row the API itself failed, and when it may be asked again.
    pause: Option<(u32, Instant)>,
}

/// The outcome of adding a user.
type AddResult = Result<Ha1, NewcomerError>;

struct AddedUser {
    ha1: Ha1,
    at: Instant,
    /// Whether the users file has it.
    is_written: bool,
}

/// Why a user was not added.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NewcomerError {
    /// Voximplant refuses this user.
    #[error("{0}")]
    Refused(String),
    /// Voximplant cannot be asked now, or not any more.
    #[error("the user cannot be added at Voximplant now: {reason}")]
    Unavailable {
        /// The reason, for the log.
        reason: String,
        /// When it may be tried again.
        retry_after: Duration,
    },
}

/// The user of one login, with what adding it takes.
struct Newcomer {
    user: VoximplantUser,
    /// `myapp.myaccount`.
    application: String,
    users_file: PathBuf,
    management: ManagementConfig,
    /// The caller whose login it is.
    subject: String,
    logs: Logs,
}

/// Why adding a user failed.
#[derive(Debug, thiserror::Error)]
enum AddError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("no trust roots")]
    Trust(#[from] rustls::Error),
}

/// The way of a login to the outcome.
enum Boarding {
    Known(Ha1),
    Waits(watch::Receiver<Option<AddResult>>),
    Leads(watch::Sender<Option<AddResult>>, watch::Receiver<Option<AddResult>>),
}

impl Newcomers {
    /// Starts without users. `counts`: where each change is counted.
    #[must_use]
    pub(crate) fn new(counts: Arc<UserChanges>) -> Self {
        Self { counts, memory: Mutex::default() }
    }

    /// Continues with another configuration: forgets the users that its users file has, and those that somebody has
    /// removed from the file.
    pub(crate) fn adopt(&self, voximplant: Option<&VoximplantConfig>) {
        let mut memory = self.memory();
        let has_line = |name: &str| {
            let user = name.parse::<VoximplantUser>().ok();
            user.is_some_and(|user| voximplant.is_some_and(|voximplant| voximplant.ha1(&user).is_some()))
        };
        memory.added.retain(|name, one| !has_line(name) && (!one.is_written || one.at.elapsed() < UNREAD));
    }

    /// Returns the HA1 of a user that was added here.
    #[must_use]
    pub(crate) fn ha1(&self, user: &VoximplantUser) -> Option<Ha1> {
        self.memory().added.get(user.as_str()).map(|added| added.ha1.clone())
    }

    /// Checks whether a user could be added now. Changes nothing.
    ///
    /// # Errors
    /// When it was refused a while ago, or the API has failed.
    pub(crate) fn check(&self, user: &VoximplantUser) -> Result<(), NewcomerError> {
        self.memory().check(user.as_str(), Instant::now())
    }

    /// Adds a user, unless another login adds it at this moment: then the outcome is shared. Goes on when the login has
    /// left.
    ///
    /// # Errors
    /// When the user was not added in time.
    pub(crate) async fn add(
        self: &Arc<Self>,
        user: &VoximplantUser,
        voximplant: &VoximplantConfig,
        subject: &str,
        logs: &Logs,
    ) -> AddResult {
        let newcomer = Newcomer::of(user, voximplant, subject, logs)
            .ok_or_else(|| NewcomerError::Refused("the user belongs to no application with a users file".to_owned()))?;
        let mut outcome = match self.board(user.as_str())? {
            Boarding::Known(ha1) => return Ok(ha1),
            Boarding::Waits(outcome) => outcome,
            Boarding::Leads(tell, outcome) => {
                let this = Arc::clone(self);
                tokio::spawn(async move { this.fly(&newcomer, &tell).await });
                outcome
            }
        };
        let late = |reason: &str| NewcomerError::Unavailable { reason: reason.to_owned(), retry_after: PAUSES[0] };
        match timeout(PATIENCE, outcome.wait_for(Option::is_some)).await {
            Ok(Ok(told)) => told.clone().unwrap_or_else(|| Err(late("it was not tried"))),
            Ok(Err(_)) => Err(late("the work has ended")),
            Err(_) => Err(late("it takes too long")),
        }
    }

    fn board(&self, user: &str) -> Result<Boarding, NewcomerError> {
        let mut memory = self.memory();
        if let Some(added) = memory.added.get(user) {
            return Ok(Boarding::Known(added.ha1.clone()));
        }
        if let Some(flight) = memory.flights.get(user) {
            return Ok(Boarding::Waits(flight.clone()));
        }
        memory.check(user, Instant::now())?;
        let busy = |reason: &str| NewcomerError::Unavailable { reason: reason.to_owned(), retry_after: PAUSES[0] };
        if memory.flights.len() >= FLIGHTS || memory.added.len() >= REMEMBERED {
            return Err(busy("too many users are added at the same time"));
        }
        let (tell, outcome) = watch::channel(None);
        memory.flights.insert(user.to_owned(), outcome.clone());
        Ok(Boarding::Leads(tell, outcome))
    }

    /// Adds a user, and tells the logins that wait for it.
    async fn fly(&self, newcomer: &Newcomer, tell: &watch::Sender<Option<AddResult>>) {
        // When the thread ends in between, logins need not wait for it.
        let _landing = Landing { newcomers: self, user: newcomer.user.as_str() };
        let may_be_ours = self.memory().unclear.contains(newcomer.user.as_str());
        let added = newcomer.add(may_be_ours).await;
        self.counts.note(UserChangeKind::Create, added.is_ok());
        let outcome = match added {
            Ok((ha1, is_written)) => {
                newcomer.audit();
                self.memory().remember(newcomer.user.as_str(), &ha1, is_written);
                Ok(ha1)
            }
            Err(error) => Err(self.memory().note_failure(newcomer, &error)),
        };
        tell.send_replace(Some(outcome));
    }

    fn memory(&self) -> MutexGuard<'_, NewcomerMemory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a flight.
struct Landing<'n> {
    newcomers: &'n Newcomers,
    user: &'n str,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.newcomers.memory().flights.remove(self.user);
    }
}

impl NewcomerMemory {
    fn check(&self, user: &str, now: Instant) -> Result<(), NewcomerError> {
        if let Some((_, reason)) = self.refused.get(user).filter(|(until, _)| now < *until) {
            return Err(NewcomerError::Refused(reason.clone()));
        }
        match self.pause {
            Some((_, until)) if now < until => Err(NewcomerError::Unavailable {
                reason: "Voximplant has failed a moment ago".to_owned(),
                retry_after: until - now,
            }),
            _ => Ok(()),
        }
    }

    fn remember(&mut self, user: &str, ha1: &Ha1, is_written: bool) {
        self.refused.remove(user);
        self.unclear.remove(user);
        self.pause = None;
        self.added.insert(user.to_owned(), AddedUser { ha1: ha1.clone(), at: Instant::now(), is_written });
    }

    /// Notes why a user was not added: one that is refused by itself, a failure of the API for all.
    fn note_failure(&mut self, newcomer: &Newcomer, error: &AddError) -> NewcomerError {
        let (user, now, reason) = (newcomer.user.as_str(), Instant::now(), causes(error));
        if let AddError::Api(error) = error
            && error.is_about_user()
        {
            let reason = match error.is_taken() {
                true => format!(
                    "{user} exists at Voximplant, and callgate did not add it: callgate provision --user {user}"
                ),
                false => reason,
            };
            tracing::warn!(user, reason, "the user is not added");
            self.refused.retain(|_, (until, _)| now < *until);
            if self.refused.len() < REMEMBERED {
                self.refused.insert(user.to_owned(), (now + REFUSED, reason.clone()));
            }
            return NewcomerError::Refused(reason);
        }
        if matches!(error, AddError::Api(error) if error.is_unclear()) && self.unclear.len() < REMEMBERED {
            self.unclear.insert(user.to_owned());
        }
        let failures = self.pause.map_or(0, |(count, _)| count).saturating_add(1);
        let retry_after = backoff::jittered(backoff::after(failures, PAUSES[0], PAUSES[1]));
        self.pause = Some((failures, now + retry_after));
        tracing::error!(user, reason, "users cannot be added at Voximplant for now");
        NewcomerError::Unavailable { reason, retry_after }
    }
}

impl Newcomer {
    fn of(user: &VoximplantUser, voximplant: &VoximplantConfig, subject: &str, logs: &Logs) -> Option<Self> {
        let main = voximplant.application.as_deref();
        let named = user.application().or(main)?;
        let ApplicationUsers { users_file, .. } = voximplant.applications().find(|one| one.name == named)?;
        Some(Self {
            user: user.clone(),
            application: named.to_owned(),
            users_file: users_file?.to_owned(),
            management: voximplant.management.clone()?,
            subject: subject.to_owned(),
            logs: logs.clone(),
        })
    }

    /// Adds the user at Voximplant and in the users file. Returns its HA1, and whether the file has it.
    async fn add(&self, may_be_ours: bool) -> Result<(Ha1, bool), AddError> {
        // Shows missing rights before anything is changed.
        let file = self.users_file.clone();
        blocking(move || UsersFileDraft::open(&file).map(drop)).await?;
        let api = ManagementApi::new(&self.management, API_DEADLINE)?;
        let (name, at) = (self.user.name(), ApplicationRef::named(&self.application));
        let password = random_password();
        let add = UserChange::Add { display_name: name, password: &password };
        match api.change(name, &at, add).await {
            Err(error) if error.is_taken() && may_be_ours => {
                api.change(name, &at, UserChange::SetPassword(&password)).await?;
            }
            asked => asked?,
        }
        Ok((Ha1::of(name, password.expose()), self.write(&password).await))
    }

    /// Writes the HA1. A failure is for the operator: the user exists by now, and can log in until callgate ends.
    async fn write(&self, password: &Secret) -> bool {
        let (file, user) = (self.users_file.clone(), self.user.clone());
        let line = users_line(&user, password.expose());
        let written = blocking(move || UsersFileDraft::open(&file)?.write(user.name(), &line)).await;
        if let Err(error) = &written {
            let (user, file) = (&self.user, self.users_file.display());
            let problem = causes(error);
            tracing::error!(
                %user, %file, problem,
                "the new user is not in the users file, and a restart forgets it: callgate provision --user sets a new password"
            );
        }
        written.is_ok()
    }

    fn audit(&self) {
        self.logs.write_note(&EventRecord {
            event: AuditEvent::Create,
            account: format!("{}@{}", self.user.name(), self.application),
            session: None,
            subject: Some(self.subject.clone()),
            by: None,
            until: None,
            reason: Some("first login".to_owned()),
        });
    }
}
