//! Floor 3: what works once, and what has ended: used links and tokens, tickets in transit, ended logins. This member's
//! store knows it, and the engine that members share, if there is one.
//!
//! Of all members, the first that marks a credential succeeds. While the engine cannot be used, `marks_when_down` decides:
//! a credential that works once is refused, or works once at each member. An engine that has lost what it knew gets it
//! back from the members.

mod generation;
mod shared_marks;
mod write_back;

use std::sync::Arc;

use jiff::Timestamp;

use self::shared_marks::{SharedMark, SharedMarks};
use crate::config::MarksWhenDown;
use crate::members::SharedEngine;
use crate::model::digest::Digest;
use crate::model::key_ring::KeyRing;
use crate::state::{KeepError, MarkError, Store};

/// The memory of what works once and what has ended: of this member, and of all members.
pub(crate) struct OnceStore {
    store: Arc<Store>,
    /// What members share; nothing: this one is alone.
    shared: Option<SharedMarks>,
}

impl OnceStore {
    /// Makes the memory of a member. Without an engine, it is the store.
    #[must_use]
    pub(crate) fn new(store: Arc<Store>, engine: Option<Arc<SharedEngine>>) -> Arc<Self> {
        Arc::new(Self { store, shared: engine.map(SharedMarks::new) })
    }

    /// Returns the same for another configuration, with the engine of that one.
    #[must_use]
    pub(crate) fn successor(self: &Arc<Self>, engine: Option<&Arc<SharedEngine>>) -> Arc<Self> {
        let is_same = match (&self.shared, engine) {
            (Some(shared), Some(engine)) => Arc::ptr_eq(shared.engine(), engine),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if is_same { Arc::clone(self) } else { Self::new(Arc::clone(&self.store), engine.cloned()) }
    }

    /// Returns the store's time.
    #[must_use]
    pub(crate) fn now(&self) -> Timestamp {
        self.store.now()
    }

    /// Returns the keys that all members have; nothing: this one is alone.
    #[must_use]
    pub(crate) fn ring(&self) -> Option<&KeyRing> {
        self.shared.as_ref().map(|shared| &shared.engine().config().keys)
    }

    /// Gives the engine what it lacks, for as long as the configuration is in use. Nothing to do: this member is alone.
    pub(crate) async fn keep_engine_informed(self: Arc<Self>) {
        if let Some(shared) = &self.shared {
            write_back::run(&self.store, shared).await;
        }
    }

    // === Marks ===

    /// Marks a credential as used; of all callers at all members, only the first succeeds.
    ///
    /// # Errors
    /// When it was marked before, or the mark cannot be kept. A mark that the engine did not confirm in time may be there:
    /// the credential may then count as used.
    pub(crate) async fn mark(&self, scope: &str, id: &[u8], until: Timestamp) -> Result<(), MarkError> {
        let Some(shared) = &self.shared else { return self.store.mark(scope, id, until).await };
        if self.store.is_marked(scope, id) {
            return Err(MarkError::AlreadyUsed);
        }
        match shared.mark(&Store::key(scope, id), self.store.life(until)).await {
            SharedMark::First => self.store.mark(scope, id, until).await,
            SharedMark::Used => Err(MarkError::AlreadyUsed),
            SharedMark::Down if shared.engine().config().marks_when_down == MarksWhenDown::Local => {
                let marked = self.store.mark(scope, id, until).await;
                // The engine may have come back meanwhile.
                shared.note_unwritten();
                marked
            }
            SharedMark::Down | SharedMark::Unclear => Err(MarkError::Unkept(KeepError::EngineDown)),
        }
    }

    /// Returns whether a credential is marked as used, by what is known now. Marks nothing.
    pub(crate) async fn is_marked(&self, scope: &str, id: &[u8]) -> bool {
        if self.store.is_marked(scope, id) {
            return true;
        }
        match &self.shared {
            Some(shared) => shared.is_marked(&Store::key(scope, id)).await.unwrap_or(false),
            None => false,
        }
    }

    // === Tickets ===

    /// Stores the sealed value of a ticket. Only the ticket opens it.
    ///
    /// # Errors
    /// When it cannot be stored. With [`KeepError::EngineDown`], the engine may have stored it: another ticket may be kept
    /// here alone by [`OnceStore::keep_ticket_here`].
    pub(crate) async fn keep_ticket(&self, ticket: Digest, sealed: Vec<u8>, until: Timestamp) -> Result<(), KeepError> {
        let Some(shared) = self.shared.as_ref().filter(|shared| shared.is_up()) else {
            return self.store.keep_ticket(ticket, sealed, until).await;
        };
        let life = until.duration_since(self.now()).try_into().unwrap_or_default();
        shared.keep_ticket(&ticket, sealed, life).await.map_err(|_| KeepError::EngineDown)
    }

    /// As [`OnceStore::keep_ticket`], at this member alone.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub(crate) async fn keep_ticket_here(
        &self,
        ticket: Digest,
        sealed: Vec<u8>,
        until: Timestamp,
    ) -> Result<(), KeepError> {
        self.store.keep_ticket(ticket, sealed, until).await
    }

    /// Takes the sealed value of a ticket out, so that no second call of any member finds it; nothing if the ticket is
    /// unknown or has expired.
    ///
    /// # Errors
    /// When the change cannot be stored.
    pub(crate) async fn take_ticket(&self, ticket: Digest) -> Result<Option<Vec<u8>>, KeepError> {
        if let Some(shared) = &self.shared
            && let Ok(Some(sealed)) = shared.take_ticket(&ticket).await
        {
            return Ok(Some(sealed));
        }
        // It was issued here while the engine could not be used.
        self.store.take_ticket(ticket).await
    }

    // === Ended logins ===

    /// Ends the logins of a kind (`scope`) and an id that began at `at` or before, at all members. It is remembered until
    /// `until`. While the engine cannot be used, this member knows it, and tells the engine later.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub(crate) async fn end_logins(
        &self,
        scope: &str,
        id: &[u8],
        at: Timestamp,
        until: Timestamp,
    ) -> Result<(), KeepError> {
        self.store.end_logins(scope, id, at, until).await?;
        if let Some(shared) = &self.shared
            && shared.end_logins(&Store::key(scope, id), at, self.store.life(until)).await.is_err()
        {
            shared.note_unwritten();
        }
        Ok(())
    }

    /// Returns whether this member knows that the login of a kind and an id that began at `began` has ended.
    #[must_use]
    pub(crate) fn is_ended_here(&self, scope: &str, id: &[u8], began: Timestamp) -> bool {
        self.store.is_ended(scope, id, began)
    }

    /// Returns whether the login of a kind and an id that began at `began` has ended at any member. While the engine cannot
    /// be used, this member answers by what it knows.
    pub(crate) async fn is_ended(&self, scope: &str, id: &[u8], began: Timestamp) -> bool {
        if self.is_ended_here(scope, id, began) {
            return true;
        }
        match &self.shared {
            Some(shared) => shared.is_ended(&Store::key(scope, id), began).await.unwrap_or(false),
            None => false,
        }
    }
}

impl std::fmt::Debug for OnceStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnceStore").field("store", &self.store).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
