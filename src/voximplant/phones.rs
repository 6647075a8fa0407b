//! The phones of frozen users. A phone holds tokens of Voximplant that live for weeks, so a freeze deactivates its user
//! there, or sets another password, and the end of the freeze undoes that.
//!
//! The store has the freezes, and a row for each phone that was stopped or may have been. One task compares both and
//! asks the Management API until they agree, so the last order wins, and work that was pending goes on after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::file_work::{FileError, blocking};
use super::management::{ApiError, ApplicationRef, ManagementApi, UserChange};
use super::random_password;
use super::users_file::UsersFileDraft;
use crate::backoff;
use crate::config::VoximplantConfig;
use crate::model::freeze_target::{FreezeMeans, FreezeTarget};
use crate::model::ott::{VoximplantUser, users_line};
use crate::observe::audit::{AuditEvent, EventRecord};
use crate::observe::metrics::{UserChangeKind, UserChanges};
use crate::observe::{Logs, causes};
use crate::state::{KeepError, Store, Suspension};

/// How long one request to the API may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// The pauses after failures of the API: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(300)];
/// The pauses after the API has refused one user: the first, and the longest.
const REFUSED_PAUSES: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(3600)];
/// The longest time between two looks at the freezes, which end by a clock that may be set.
const LOOK: Duration = Duration::from_secs(30);

/// The phones of frozen users. It outlives every configuration.
pub(crate) struct Phones {
    store: Arc<Store>,
    counts: Arc<UserChanges>,
    failures: Mutex<Failures>,
    wake: Notify,
    /// Changes after each attempt.
    attempts: watch::Sender<()>,
}

/// The failures since the last success.
#[derive(Default)]
struct Failures {
    by_user: BTreeMap<String, Failure>,
    /// How often in a row the API itself failed, and when it may be asked again.
    of_api: Option<(u32, Instant)>,
}

/// The last failure of one user.
struct Failure {
    count: u32,
    /// When the attempt began.
    begun: Instant,
    due: Instant,
    problem: String,
}

/// What there is to do for one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PhoneStep {
    Stop(FreezeMeans),
    /// Undoes [`FreezeMeans::Deactivate`].
    Start,
    /// Another password is not undone.
    Forget,
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Unkept(#[from] KeepError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// The state of one phone, for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PhoneReport {
    /// `ann@myapp.myaccount`.
    pub user: String,
    pub state: PhoneState,
    /// Why the last attempt failed.
    pub problem: Option<String>,
}

/// Whether a phone is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PhoneState {
    /// It is to be stopped.
    Stopping,
    /// Voximplant has confirmed it.
    Stopped,
    /// It is to be started again.
    Starting,
}

impl Phones {
    /// Takes the freezes and the phones of a store. Nothing is asked before [`Phones::keep_settled`] runs.
    #[must_use]
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            counts: Arc::default(),
            failures: Mutex::default(),
            wake: Notify::new(),
            attempts: watch::Sender::new(()),
        }
    }

    /// Returns the counts of changes at Voximplant.
    #[must_use]
    pub(crate) const fn counts(&self) -> &Arc<UserChanges> {
        &self.counts
    }

    /// Stops and starts phones whenever there is something to do. Never returns where `management` is configured.
    pub(crate) async fn keep_settled(self: Arc<Self>, voximplant: VoximplantConfig, logs: Logs) {
        loop {
            self.settle(&voximplant, &|note| logs.write_note(note)).await;
            let wait = self.pause(&voximplant);
            tokio::select! {
                () = sleep(wait) => {}
                () = self.wake.notified() => self.hurry(),
            }
        }
    }

    /// Takes each step that is due, once. `audit`: writes an audit line.
    pub(crate) async fn settle(&self, voximplant: &VoximplantConfig, audit: &(dyn Fn(&EventRecord) + Sync)) {
        let Some(management) = &voximplant.management else { return };
        let api = match ManagementApi::new(management, DEADLINE) {
            Ok(api) => api,
            Err(error) => return tracing::error!(%error, "no trust roots for the Management API"),
        };
        for user in self.due(voximplant) {
            if self.is_api_paused() {
                break;
            }
            // The orders may have changed meanwhile: the last one counts.
            let Some(step) = self.step(&user, voximplant) else { continue };
            let begun = Instant::now();
            let taken = self.take(&user, step, voximplant, &api).await;
            self.note(&user, step, begun, &taken, audit);
        }
        self.counts.set_pending(self.unsettled(voximplant).len() as u64);
        self.attempts.send_replace(());
    }

    async fn take(
        &self,
        user: &str,
        step: PhoneStep,
        voximplant: &VoximplantConfig,
        api: &ManagementApi,
    ) -> Result<(), StepError> {
        let (name, application) = user.split_once('@').unwrap_or((user, ""));
        let at = ApplicationRef::named(application);
        let keep = async |means, is_done| self.store.suspend(user, Suspension { means, is_done }).await;
        match step {
            // The row is kept before the request: a crash in between is made good, and a process that has left the state
            // file sends nothing.
            PhoneStep::Stop(FreezeMeans::Deactivate) => {
                keep(FreezeMeans::Deactivate, false).await?;
                api.change(name, &at, UserChange::SetActive(false)).await?;
                keep(FreezeMeans::Deactivate, true).await?;
            }
            PhoneStep::Stop(FreezeMeans::Rotate) => {
                keep(FreezeMeans::Rotate, false).await?;
                rotate(user, voximplant, api).await?;
                keep(FreezeMeans::Rotate, true).await?;
            }
            PhoneStep::Start => {
                keep(FreezeMeans::Deactivate, false).await?;
                api.change(name, &at, UserChange::SetActive(true)).await?;
                self.store.end_suspension(user).await?;
            }
            PhoneStep::Forget => self.store.end_suspension(user).await?,
        }
        Ok(())
    }

    /// Notes the outcome of a step: for the next attempt, the metrics, the log and the audit log.
    fn note(
        &self,
        user: &str,
        step: PhoneStep,
        begun: Instant,
        taken: &Result<(), StepError>,
        audit: &(dyn Fn(&EventRecord) + Sync),
    ) {
        let (kind, event, reason) = match step {
            PhoneStep::Stop(FreezeMeans::Deactivate) => (UserChangeKind::Deactivate, AuditEvent::Deactivate, "frozen"),
            PhoneStep::Stop(FreezeMeans::Rotate) => (UserChangeKind::Rotate, AuditEvent::Rotate, "frozen"),
            PhoneStep::Start => (UserChangeKind::Activate, AuditEvent::Activate, "no longer frozen"),
            PhoneStep::Forget => return,
        };
        self.counts.note(kind, taken.is_ok());
        match taken {
            Ok(()) => {
                tracing::warn!(user, change = ?kind, "Voximplant has changed the user");
                let reason = Some(reason.to_owned());
                let account = user.to_owned();
                audit(&EventRecord { event, account, session: None, subject: None, by: None, until: None, reason });
                self.failures().forget(user);
            }
            Err(error) => {
                let problem = causes(error);
                if self.failures().add(user, begun, error, &problem) {
                    tracing::error!(user, change = ?kind, problem, "Voximplant has not changed the user, and is asked again");
                }
            }
        }
    }

    // === What there is to do ===

    /// Lists the users whose phones a freeze covers now. Of several members, the one that was given the order asks Voximplant.
    fn frozen(&self, voximplant: &VoximplantConfig) -> BTreeSet<String> {
        let freezes = self.store.freezes(self.store.now());
        let own = freezes.iter().filter(|(_, freeze)| freeze.shared.is_none_or(|shared| !shared.is_foreign));
        let users = own.filter_map(|(target, _)| match target.parse() {
            Ok(FreezeTarget::User(user)) => Some(phones_of(&user, voximplant)),
            Ok(FreezeTarget::Account(_) | FreezeTarget::Domain(_)) | Err(_) => None,
        });
        users.flatten().collect()
    }

    /// Returns what there is to do for a user, by the orders of this moment.
    fn step(&self, user: &str, voximplant: &VoximplantConfig) -> Option<PhoneStep> {
        let is_frozen = self.frozen(voximplant).contains(user);
        next_step(is_frozen, self.store.suspensions().get(user).copied(), voximplant.freeze)
    }

    /// Lists the users for whom there is something to do.
    fn unsettled(&self, voximplant: &VoximplantConfig) -> Vec<String> {
        let (frozen, rows) = (self.frozen(voximplant), self.store.suspensions());
        let users: BTreeSet<_> = frozen.iter().chain(rows.keys()).collect();
        let has_step =
            |user: &&String| next_step(frozen.contains(*user), rows.get(*user).copied(), voximplant.freeze).is_some();
        users.into_iter().filter(has_step).cloned().collect()
    }

    /// Lists those whose time has come. Users that failed come last, so that none of them keeps others waiting.
    fn due(&self, voximplant: &VoximplantConfig) -> Vec<String> {
        let mut users = self.unsettled(voximplant);
        let (failures, now) = (self.failures(), Instant::now());
        users.retain(|user| failures.by_user.get(user).is_none_or(|failure| failure.due <= now));
        users.sort_by_key(|user| failures.by_user.get(user).map_or(0, |failure| failure.count));
        users
    }

    /// Returns how long there is nothing to do.
    fn pause(&self, voximplant: &VoximplantConfig) -> Duration {
        let users = self.unsettled(voximplant);
        let (failures, now) = (self.failures(), Instant::now());
        let due = users.iter().map(|user| failures.by_user.get(user).map_or(now, |failure| failure.due)).min();
        let paused = failures.of_api.map_or(now, |(_, until)| until);
        let wait = due.map_or(LOOK, |due| due.max(paused).saturating_duration_since(now));
        let clock = self.store.now();
        let ends = self.store.freezes(clock).into_iter().filter_map(|(_, freeze)| freeze.until);
        let end = ends.min().map_or(LOOK, |end| Duration::try_from(end.duration_since(clock)).unwrap_or_default());
        wait.min(end).min(LOOK).max(Duration::from_millis(10))
    }

    fn is_api_paused(&self) -> bool {
        self.failures().of_api.is_some_and(|(_, until)| Instant::now() < until)
    }

    /// Lets the next attempt come at once: the operator has given an order.
    fn hurry(&self) {
        let (mut failures, now) = (self.failures(), Instant::now());
        failures.by_user.values_mut().for_each(|failure| failure.due = now);
        failures.of_api = failures.of_api.map(|(count, _)| (count, now));
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // === For the operator ===

    /// Acts on the orders at once.
    pub(crate) fn look(&self) {
        self.wake.notify_one();
    }

    /// Acts on the orders at once, and waits until the phones of a user are settled, an attempt for each has failed, or
    /// `patience` is over. Returns their states.
    pub(crate) async fn settled(
        &self,
        voximplant: &VoximplantConfig,
        user: &VoximplantUser,
        patience: Duration,
    ) -> Vec<PhoneReport> {
        let (ordered, mut attempts) = (Instant::now(), self.attempts.subscribe());
        self.look();
        loop {
            let is_tried =
                |user: &String| self.failures().by_user.get(user).is_some_and(|failure| failure.begun >= ordered);
            let all = self.unsettled(voximplant);
            let open = all.iter().filter(|phone| is_of(phone, user));
            if open.into_iter().all(is_tried) {
                break;
            }
            if !matches!(timeout_at(ordered + patience, attempts.changed()).await, Ok(Ok(()))) {
                break;
            }
        }
        self.report_of(voximplant, user)
    }

    /// Lists those phones of [`Phones::report`] that belong to a user.
    #[must_use]
    pub(crate) fn report_of(&self, voximplant: &VoximplantConfig, user: &VoximplantUser) -> Vec<PhoneReport> {
        self.report(voximplant).into_iter().filter(|report| is_of(&report.user, user)).collect()
    }

    /// Lists the phones that are stopped, or to be stopped or started.
    #[must_use]
    pub(crate) fn report(&self, voximplant: &VoximplantConfig) -> Vec<PhoneReport> {
        let (frozen, rows) = (self.frozen(voximplant), self.store.suspensions());
        let users: BTreeSet<_> = frozen.iter().chain(rows.keys()).collect();
        let failures = self.failures();
        let report = |user: &String| {
            let row = rows.get(user).copied();
            let state = match next_step(frozen.contains(user), row, voximplant.freeze) {
                None => PhoneState::Stopped,
                Some(PhoneStep::Stop(_)) => PhoneState::Stopping,
                Some(PhoneStep::Start) => PhoneState::Starting,
                Some(PhoneStep::Forget) => return None,
            };
            let failure = failures.by_user.get(user).filter(|_| state != PhoneState::Stopped);
            Some(PhoneReport { user: user.clone(), state, problem: failure.map(|failure| failure.problem.clone()) })
        };
        users.into_iter().filter_map(report).collect()
    }
}

impl Failures {
    fn forget(&mut self, user: &str) {
        self.by_user.remove(user);
        self.of_api = None;
    }

    /// Adds a failure and sets the time of the next attempt. Returns whether the problem is another one than before.
    fn add(&mut self, user: &str, begun: Instant, error: &StepError, problem: &str) -> bool {
        let now = Instant::now();
        let before = self.by_user.get(user);
        let is_news = before.is_none_or(|before| before.problem != problem);
        let count = before.map_or(0, |before| before.count).saturating_add(1);
        let is_refused = matches!(error, StepError::Api(error) if error.is_about_user());
        if !is_refused {
            let failed = self.of_api.map_or(0, |(count, _)| count).saturating_add(1);
            self.of_api = Some((failed, now + pause_after(failed, PAUSES)));
        }
        let due = now + pause_after(count, if is_refused { REFUSED_PAUSES } else { PAUSES });
        self.by_user.insert(user.to_owned(), Failure { count, begun, due, problem: problem.to_owned() });
        is_news
    }
}

fn pause_after(failures: u32, [first, longest]: [Duration; 2]) -> Duration {
    backoff::jittered(backoff::after(failures, first, longest))
}

/// Returns what there is to do for a user.
const fn next_step(is_frozen: bool, row: Option<Suspension>, means: FreezeMeans) -> Option<PhoneStep> {
    match (is_frozen, row) {
        (true, Some(Suspension { is_done: true, .. })) | (false, None) => None,
        (true, _) => Some(PhoneStep::Stop(means)),
        (false, Some(Suspension { means: FreezeMeans::Deactivate, .. })) => Some(PhoneStep::Start),
        (false, Some(Suspension { means: FreezeMeans::Rotate, .. })) => Some(PhoneStep::Forget),
    }
}

/// Lists the phones of a user: in the application that it names; else in each whose users file has the name, or in the main one.
fn phones_of(user: &VoximplantUser, voximplant: &VoximplantConfig) -> Vec<String> {
    let all = || voximplant.applications();
    let phone = |application: &str| format!("{}@{application}", user.name());
    if let Some(named) = user.application() {
        return all().filter(|one| one.name == named).map(|one| phone(one.name)).collect();
    }
    let known: Vec<_> = all().filter(|one| one.users.contains_key(user.name())).map(|one| phone(one.name)).collect();
    if known.is_empty() { all().take(1).map(|one| phone(one.name)).collect() } else { known }
}

/// Returns whether a phone belongs to a user that an operator names: in one application, or in any.
fn is_of(phone: &str, user: &VoximplantUser) -> bool {
    match user.application() {
        Some(_) => phone == user.as_str(),
        None => phone.split('@').next() == Some(user.name()),
    }
}

/// Sets another password of a user. Where the users file has the user, its HA1 follows, so that a thaw has nothing to do.
async fn rotate(user: &str, voximplant: &VoximplantConfig, api: &ManagementApi) -> Result<(), StepError> {
    let (name, application) = user.split_once('@').unwrap_or((user, ""));
    let one = voximplant.applications().find(|one| one.name == application);
    let file = one.and_then(|one| one.users_file).map(ToOwned::to_owned);
    let draft = match file {
        Some(file) => Some(blocking(move || UsersFileDraft::open(&file)).await?),
        None => None,
    };
    let password = random_password();
    api.change(name, &ApplicationRef::named(application), UserChange::SetPassword(&password)).await?;
    if let (Some(draft), Ok(user)) = (draft, name.parse::<VoximplantUser>()) {
        let line = users_line(&user, password.expose());
        blocking(move || draft.replace(user.name(), &line)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_order_decides() {
        use FreezeMeans::{Deactivate, Rotate};
        let row = |means, is_done| Some(Suspension { means, is_done });
        for (is_frozen, row, expected) in [
            (false, None, None),
            (true, None, Some(PhoneStep::Stop(Deactivate))),
            (true, row(Deactivate, false), Some(PhoneStep::Stop(Deactivate))),
            (true, row(Deactivate, true), None),
            (true, row(Rotate, true), None),
            (false, row(Deactivate, true), Some(PhoneStep::Start)),
            // The request may have arrived without an answer.
            (false, row(Deactivate, false), Some(PhoneStep::Start)),
            (false, row(Rotate, true), Some(PhoneStep::Forget)),
            (false, row(Rotate, false), Some(PhoneStep::Forget)),
        ] {
            assert_eq!(next_step(is_frozen, row, Deactivate), expected, "{is_frozen} {row:?}");
        }
        assert_eq!(next_step(true, None, Rotate), Some(PhoneStep::Stop(Rotate)));
    }

    #[test]
    fn a_refusal_of_one_user_delays_no_other() {
        let mut failures = Failures::default();
        let now = Instant::now();
        let refused = StepError::Api(ApiError::Refused { code: 121, message: String::new() });
        assert!(failures.add("ann", now, &refused, "refused"));
        assert!(!failures.add("ann", now, &refused, "refused"), "told before");
        assert!(failures.of_api.is_none());
        let down = StepError::Api(ApiError::Nonsense(http::StatusCode::BAD_GATEWAY));
        assert!(failures.add("bob", now, &down, "down"));
        assert_eq!(failures.of_api.map(|(count, _)| count), Some(1));
        failures.forget("bob");
        assert!(failures.of_api.is_none() && failures.by_user.contains_key("ann"));
    }
}
