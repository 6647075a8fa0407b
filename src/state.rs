//! Floor 2: state that must survive a restart: marks of used credentials, tickets in transit, ended logins, frozen accounts,
//! stopped phones, certificates that were issued.
//!
//! All state is in memory, where it is looked up. With a state file, each change is also in the file before its caller
//! continues. One thread writes the file; changes that arrive during a write share the next one. A change that cannot
//! be written is refused: a link that might be used twice does not log in.

mod backend;
mod clock;
mod file;
mod tables;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;
use zeroize::Zeroizing;

use self::clock::BelievedClock;
pub use self::file::OpenError;
pub(crate) use self::tables::EndedLogins;
use self::tables::{Change, ChangeError, StateRecord, Tables, TakenTicket};
pub use self::tables::{Freeze, SharedFreeze, Suspension};
use self::writer::StateWriter;
use crate::model::digest::{Digest, sha256_of};

/// How long a change may wait for the file.
const DEADLINE: Duration = Duration::from_secs(5);

/// The state of a gate, with a file or in memory only.
pub struct Store {
    shared: Arc<StoreState>,
    /// The writer of the file; nothing: the state is lost at a restart.
    writer: Option<StateWriter>,
}

/// The state that the callers and the writer's thread share.
#[derive(Default)]
struct StoreState {
    tables: Mutex<Tables>,
    clock: Mutex<BelievedClock>,
    /// Why the file cannot be written; nothing if it can.
    problem: Mutex<Option<String>>,
}

/// A credential was not marked as used. In either case it must not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MarkError {
    /// It was marked before.
    #[error("it was used before")]
    AlreadyUsed,
    /// The mark cannot be stored.
    #[error(transparent)]
    Unkept(KeepError),
}

/// A change was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// The table is full.
    #[error("the table is full")]
    Full,
    /// The file cannot be written, or another process has it now.
    #[error("the state file cannot be written")]
    Unavailable,
    /// The engine that members share cannot be used, or lost what it knew a moment ago.
    #[error("the shared engine cannot be used")]
    EngineDown,
}

impl Store {
    /// Makes a store without a file.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { shared: Arc::default(), writer: None }
    }

    /// Opens a state file; creates a missing one with mode 0600.
    ///
    /// # Errors
    /// When it belongs to another program, another process has it open, it is damaged, or its folder cannot be written.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let shared = Arc::<StoreState>::default();
        let writer = StateWriter::start(path, Arc::clone(&shared))?;
        Ok(Self { shared, writer: Some(writer) })
    }

    /// Checks that [`Store::open`] could open a file. Changes and creates nothing. A sound file that another process
    /// has open is [`OpenError::Locked`].
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn inspect(path: &Path) -> Result<(), OpenError> {
        file::inspect(path).map(drop)
    }

    /// Reads a state file into a store without a file. Changes and creates nothing; a missing file is an empty one.
    ///
    /// # Errors
    /// As [`Store::inspect`].
    pub(crate) fn read_copy(path: &Path) -> Result<Self, OpenError> {
        let store = Self::in_memory();
        *store.shared.tables() = file::inspect(path)?.tables;
        Ok(store)
    }

    /// Returns the path of the file; nothing if the store has none.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        self.writer.as_ref().map(|writer| writer.path().to_owned())
    }

    /// Checks that changes can be stored.
    ///
    /// # Errors
    /// Says what the operator must do, or names the table that is full.
    pub fn check(&self) -> Result<(), String> {
        if let Some(problem) = &*self.shared.problem() {
            return Err(problem.clone());
        }
        self.shared.tables().full(self.now()).map_or(Ok(()), |table| Err(format!("the table of {table} is full")))
    }

    /// Returns the time by which freezes end and state expires. It is never later than the real time: a wall clock that
    /// jumps ahead is not believed at once.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.now()
    }

    // === What members share ===

    /// Returns the key of an id within a scope, for a mark or an ended login.
    #[must_use]
    pub(crate) fn key(scope: &str, id: &[u8]) -> Digest {
        digest(scope, id)
    }

    /// Returns how much longer something is kept that is of use until `until`: longer than that, so that a clock that
    /// was set back, or another member's that is late, makes no credential usable again. Zero: it is over.
    #[must_use]
    pub(crate) fn life(&self, until: Timestamp) -> Duration {
        tables::life(until, self.now())
    }

    /// Lists the marks that are not over, by their keys.
    #[must_use]
    pub(crate) fn live_marks(&self) -> Vec<(Digest, Timestamp)> {
        let now = self.now();
        let tables = self.shared.tables();
        let live = tables.marks.iter().filter(|(_, until)| !tables::life(**until, now).is_zero());
        live.map(|(key, until)| (*key, *until)).collect()
    }

    /// Lists the ended logins that are not over, by their keys.
    #[must_use]
    pub(crate) fn live_ended(&self) -> Vec<(Digest, EndedLogins)> {
        let now = self.now();
        let tables = self.shared.tables();
        let live = tables.ended.iter().filter(|(_, ended)| !tables::life(ended.until, now).is_zero());
        live.map(|(key, ended)| (*key, *ended)).collect()
    }

    // === Marks ===

    /// Marks a credential as used; only the first caller succeeds. The mark then survives restarts until `until`.
    ///
    /// # Errors
    /// When it was marked before, or the mark cannot be stored.
    pub async fn mark(&self, scope: &str, id: &[u8], until: Timestamp) -> Result<(), MarkError> {
        match self.apply(Change::Mark { key: digest(scope, id), until }).await {
            Ok(_) => Ok(()),
            Err(ChangeError::Used) => Err(MarkError::AlreadyUsed),
            Err(refused) => Err(MarkError::Unkept(refused.into())),
        }
    }

    /// Returns whether a credential is marked as used.
    #[must_use]
    pub fn is_marked(&self, scope: &str, id: &[u8]) -> bool {
        self.shared.tables().is_marked(&digest(scope, id))
    }

    // === Tickets ===

    /// Stores the sealed value of a ticket. Only the ticket opens it.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn keep_ticket(&self, ticket: Digest, sealed: Vec<u8>, until: Timestamp) -> Result<(), KeepError> {
        self.apply(Change::KeepTicket { ticket, sealed, until }).await.map(drop).map_err(KeepError::from)
    }

    /// Takes the sealed value of a ticket out, so that no second call finds it, even after a restart; nothing if the
    /// ticket is unknown or has expired.
    ///
    /// # Errors
    /// When the change cannot be stored.
    pub async fn take_ticket(&self, ticket: Digest) -> Result<Option<Vec<u8>>, KeepError> {
        match self.apply(Change::TakeTicket { ticket }).await {
            Ok(given) => Ok(given),
            Err(ChangeError::Unknown) => Ok(None),
            Err(refused) => Err(refused.into()),
        }
    }

    // === Ended logins ===

    /// Ends the logins of a kind (`scope`) and an id that began at `at` or before. It is remembered until `until`.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn end_logins(&self, scope: &str, id: &[u8], at: Timestamp, until: Timestamp) -> Result<(), KeepError> {
        let change = Change::EndLogins { key: digest(scope, id), ended: EndedLogins { at, until } };
        self.apply(change).await.map(drop).map_err(KeepError::from)
    }

    /// Returns whether the login of a kind and an id that began at `began` has ended.
    #[must_use]
    pub fn is_ended(&self, scope: &str, id: &[u8], began: Timestamp) -> bool {
        self.shared.tables().is_ended(&digest(scope, id), began)
    }

    // === Freezes ===

    /// Freezes an account, or changes the end of its freeze.
    ///
    /// # Errors
    /// When the change cannot be stored.
    pub async fn freeze(&self, account: &str, freeze: Freeze) -> Result<(), KeepError> {
        let change = Change::Freeze { account: account.to_owned(), freeze };
        self.apply(change).await.map(drop).map_err(KeepError::from)
    }

    /// Ends a freeze. Returns whether there was one.
    ///
    /// # Errors
    /// When the change cannot be stored.
    pub async fn thaw(&self, account: &str) -> Result<bool, KeepError> {
        match self.apply(Change::Thaw { account: account.to_owned() }).await {
            Ok(_) => Ok(true),
            Err(ChangeError::Unknown) => Ok(false),
            Err(refused) => Err(refused.into()),
        }
    }

    /// Freezes or thaws an account in memory alone, as the process does that has the file now.
    pub fn follow(&self, account: &str, freeze: Option<Freeze>) {
        let account = account.to_owned();
        let change = match freeze {
            Some(freeze) => Change::Freeze { account, freeze },
            None => Change::Thaw { account },
        };
        // What is refused has no effect here: the table is full, or the account is not frozen.
        let _ = self.shared.tables().apply(change, self.now());
    }

    /// Returns the freeze of an account, if it is frozen now.
    #[must_use]
    pub fn frozen(&self, account: &str, now: Timestamp) -> Option<Freeze> {
        self.shared.tables().frozen(account, now).cloned()
    }

    /// Returns whether an account is frozen now.
    #[must_use]
    pub fn is_frozen(&self, account: &str, now: Timestamp) -> bool {
        self.shared.tables().frozen(account, now).is_some()
    }

    /// Returns the freeze of an account as it is stored, also if it is over.
    #[must_use]
    pub fn stored_freeze(&self, account: &str) -> Option<Freeze> {
        self.shared.tables().freezes.get(account).cloned()
    }

    /// Lists the freezes that are stored, also those that are over.
    #[must_use]
    pub fn stored_freezes(&self) -> Vec<(String, Freeze)> {
        self.shared.tables().freezes.iter().map(|(account, freeze)| (account.clone(), freeze.clone())).collect()
    }

    /// Lists the accounts that are frozen now.
    #[must_use]
    pub fn freezes(&self, now: Timestamp) -> Vec<(String, Freeze)> {
        self.shared.tables().freezes(now)
    }

    // === Phones of frozen users ===

    /// Stores that the phone of a user, `ann@myapp.myaccount`, is to be stopped, or was.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn suspend(&self, user: &str, suspension: Suspension) -> Result<(), KeepError> {
        let change = Change::Suspend { user: user.to_owned(), suspension };
        self.apply(change).await.map(drop).map_err(KeepError::from)
    }

    /// Removes what [`Store::suspend`] has stored; nothing happens if it stored nothing.
    ///
    /// # Errors
    /// When the change cannot be stored.
    pub async fn end_suspension(&self, user: &str) -> Result<(), KeepError> {
        match self.apply(Change::EndSuspension { user: user.to_owned() }).await {
            Ok(_) | Err(ChangeError::Unknown) => Ok(()),
            Err(refused) => Err(refused.into()),
        }
    }

    /// Lists the suspensions by user.
    #[must_use]
    pub fn suspensions(&self) -> BTreeMap<String, Suspension> {
        self.shared.tables().suspensions.clone()
    }

    // === Records ===

    /// Keeps a text under a name, such as a key, in the place of the one before.
    ///
    /// # Errors
    /// When it cannot be stored, or is longer than 64 KiB.
    pub(crate) async fn keep_record(&self, name: &str, text: Zeroizing<Vec<u8>>) -> Result<(), KeepError> {
        let change = Change::KeepRecord { name: name.to_owned(), record: StateRecord(text) };
        self.apply(change).await.map(drop).map_err(KeepError::from)
    }

    /// Returns the text that is kept under a name.
    #[must_use]
    pub(crate) fn record(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        self.shared.tables().records.get(name).map(|record| record.0.clone())
    }

    /// Lists the names of texts that begin with a prefix.
    #[must_use]
    pub(crate) fn record_names(&self, prefix: &str) -> Vec<String> {
        self.shared.tables().records.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    /// Removes the text that is kept under a name; nothing happens if there is none.
    ///
    /// # Errors
    /// When the change cannot be stored.
    pub(crate) async fn remove_record(&self, name: &str) -> Result<(), KeepError> {
        match self.apply(Change::RemoveRecord { name: name.to_owned() }).await {
            Ok(_) | Err(ChangeError::Unknown) => Ok(()),
            Err(refused) => Err(refused.into()),
        }
    }

    // === Its life ===

    /// Removes expired state.
    pub async fn sweep(&self) {
        // A later sweep removes what this one cannot; the writer's thread has reported the cause.
        let _ = self.apply(Change::Sweep).await;
    }

    /// Closes the file, so that another process can open it. Changes wait until [`Store::resume`] or [`Store::leave`].
    /// Returns whether it was closed in time.
    pub async fn pause(&self) -> bool {
        match &self.writer {
            Some(writer) => timeout(DEADLINE, writer.pause()).await.is_ok(),
            None => true,
        }
    }

    /// Opens the file again: no other process took over.
    pub fn resume(&self) {
        if let Some(writer) = &self.writer {
            writer.resume();
        }
    }

    /// Leaves the file to the process that took over. Changes are refused from now on.
    pub fn leave(&self) {
        if let Some(writer) = &self.writer {
            writer.leave();
        }
    }

    async fn apply(&self, change: Change) -> Result<TakenTicket, ChangeError> {
        let Some(writer) = &self.writer else {
            return self.shared.tables().apply(change, self.now()).map(|(given, _)| given);
        };
        timeout(DEADLINE, writer.write(change)).await.unwrap_or(Err(ChangeError::Unavailable))
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl From<ChangeError> for KeepError {
    fn from(refused: ChangeError) -> Self {
        match refused {
            ChangeError::Full => Self::Full,
            ChangeError::Used | ChangeError::Unknown | ChangeError::Unavailable => Self::Unavailable,
        }
    }
}

impl StoreState {
    /// Locks even after a panic elsewhere: rows are moved in and out whole.
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).now()
    }

    fn problem(&self) -> MutexGuard<'_, Option<String>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the digest of an id within a scope.
fn digest(scope: &str, id: &[u8]) -> Digest {
    sha256_of([scope.as_bytes(), id])
}

#[cfg(test)]
mod tests;
