//! Floor 2: what must outlive a restart: marks of what was used once, tickets on their way, frozen accounts.
//!
//! Everything is in memory, where it is looked up; with a file, whatever changes is in that as well before anybody is told
//! so. One thread writes the file, and whoever waits while it does shares the next write with all others. What cannot be
//! written is refused: a link that might be used twice logs nobody in.

mod backend;
mod clock;
mod file;
mod tables;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;

use self::clock::BelievedClock;
pub use self::file::OpenError;
pub use self::tables::Freeze;
use self::tables::{Change, ChangeError, Tables, TakenTicket};
use self::writer::StateWriter;
use crate::model::digest::{Digest, sha256_of};

/// How long a change may wait for the file.
const DEADLINE: Duration = Duration::from_secs(5);

/// The store: a file's, or one that a restart forgets.
pub struct Store {
    shared: Arc<StoreState>,
    /// None: nothing is written.
    writer: Option<StateWriter>,
}

/// What the callers and the writer's thread share.
#[derive(Default)]
struct StoreState {
    tables: Mutex<Tables>,
    clock: Mutex<BelievedClock>,
    /// Why the file cannot be written.
    problem: Mutex<Option<String>>,
}

/// Why something was not marked as used. In either case it must not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MarkError {
    /// It was marked before.
    #[error("it was used before")]
    AlreadyUsed,
    /// The mark cannot be kept.
    #[error(transparent)]
    Unkept(KeepError),
}

/// Why a change was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// The table is full.
    #[error("the table is full")]
    Full,
    /// The file cannot be written, or another process has it now.
    #[error("the state file cannot be written")]
    Unavailable,
}

impl Store {
    /// Makes a store that a restart forgets.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { shared: Arc::default(), writer: None }
    }

    /// Opens a file, or makes it where there is none, for its owner alone.
    ///
    /// # Errors
    /// When it is another program's or another process has it open, when it is damaged, or its folder cannot be written.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let shared = Arc::<StoreState>::default();
        let writer = StateWriter::start(path, Arc::clone(&shared))?;
        Ok(Self { shared, writer: Some(writer) })
    }

    /// Tells whether [`Store::open`] could open a file, without changing or making one. A file that is as it should be and
    /// that another process has open is [`OpenError::Locked`].
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn inspect(path: &Path) -> Result<(), OpenError> {
        file::inspect(path)
    }

    /// Returns the file; nothing when a restart forgets all.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        self.writer.as_ref().map(|writer| writer.path().to_owned())
    }

    /// Tells why not everything can be kept, if so.
    ///
    /// # Errors
    /// With words for the operator.
    pub fn check(&self) -> Result<(), String> {
        if let Some(problem) = &*self.shared.problem() {
            return Err(problem.clone());
        }
        self.shared.tables().full(self.now()).map_or(Ok(()), |table| Err(format!("the table of {table} is full")))
    }

    /// Returns the time by which freezes last and the store forgets. It is never later than it is: a wall clock that jumps
    /// ahead is not believed at once.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.now()
    }

    // === Marks ===

    /// Marks something as used; only the first caller succeeds. When it returns, no restart forgets it until `until`.
    ///
    /// # Errors
    /// When it was marked before, or the mark cannot be kept.
    pub async fn mark(&self, scope: &str, id: &[u8], until: Timestamp) -> Result<(), MarkError> {
        match self.change(Change::Mark { key: digest(scope, id), until }).await {
            Ok(_) => Ok(()),
            Err(ChangeError::Used) => Err(MarkError::AlreadyUsed),
            Err(refused) => Err(MarkError::Unkept(refused.into())),
        }
    }

    /// Tells whether something is marked as used.
    #[must_use]
    pub fn is_marked(&self, scope: &str, id: &[u8]) -> bool {
        self.shared.tables().is_marked(&digest(scope, id))
    }

    // === Tickets ===

    /// Keeps what a ticket stands for, which nobody can read who has not the ticket.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn keep(&self, ticket: Digest, sealed: Vec<u8>, until: Timestamp) -> Result<(), KeepError> {
        self.change(Change::Keep { ticket, sealed, until }).await.map(drop).map_err(KeepError::from)
    }

    /// Takes out what a ticket stands for. No second call finds it, also after a restart; nothing when it is unknown or
    /// has expired.
    ///
    /// # Errors
    /// When nobody can tell.
    pub async fn take(&self, ticket: Digest) -> Result<Option<Vec<u8>>, KeepError> {
        match self.change(Change::Take { ticket }).await {
            Ok(given) => Ok(given),
            Err(ChangeError::Unknown) => Ok(None),
            Err(refused) => Err(refused.into()),
        }
    }

    // === Freezes ===

    /// Freezes an account, or changes for how long it is frozen.
    ///
    /// # Errors
    /// When that cannot be kept.
    pub async fn freeze(&self, account: &str, freeze: Freeze) -> Result<(), KeepError> {
        let change = Change::Freeze { account: account.to_owned(), freeze };
        self.change(change).await.map(drop).map_err(KeepError::from)
    }

    /// Ends a freeze. Tells whether there was one.
    ///
    /// # Errors
    /// When that cannot be kept.
    pub async fn thaw(&self, account: &str) -> Result<bool, KeepError> {
        match self.change(Change::Thaw { account: account.to_owned() }).await {
            Ok(_) => Ok(true),
            Err(ChangeError::Unknown) => Ok(false),
            Err(refused) => Err(refused.into()),
        }
    }

    /// Returns the freeze of an account, if it is frozen now.
    #[must_use]
    pub fn frozen(&self, account: &str, now: Timestamp) -> Option<Freeze> {
        self.shared.tables().frozen(account, now).cloned()
    }

    /// Tells whether an account is frozen now.
    #[must_use]
    pub fn is_frozen(&self, account: &str, now: Timestamp) -> bool {
        self.shared.tables().frozen(account, now).is_some()
    }

    /// Lists the accounts that are frozen now.
    #[must_use]
    pub fn freezes(&self, now: Timestamp) -> Vec<(String, Freeze)> {
        self.shared.tables().freezes(now)
    }

    // === Its life ===

    /// Forgets what has expired.
    pub async fn sweep(&self) {
        // What cannot be swept now is swept later, and the thread that failed has said so.
        let _ = self.change(Change::Sweep).await;
    }

    /// Lets go of the file, so that another process can open it. Changes wait until [`Store::resume`] or [`Store::leave`].
    /// Tells whether it was let go in time.
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

    async fn change(&self, change: Change) -> Result<TakenTicket, ChangeError> {
        let Some(writer) = &self.writer else {
            return self.shared.tables().change(change, self.now()).map(|(given, _)| given);
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

/// Names something within a scope.
fn digest(scope: &str, id: &[u8]) -> Digest {
    sha256_of([scope.as_bytes(), id])
}

#[cfg(test)]
mod tests;
