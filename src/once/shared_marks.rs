//! What the engine knows for all members: marks, tickets, ended logins.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

use super::generation::Generation;
use crate::config::{EngineTopology, MarksWhenDown};
use crate::members::{EngineDown, EngineKey, EngineScript, SharedEngine};
use crate::model::digest::Digest;

static MARK: LazyLock<EngineScript> = LazyLock::new(|| EngineScript::new(include_str!("mark.lua")));
static TAKE: LazyLock<EngineScript> = LazyLock::new(|| EngineScript::new(include_str!("take_ticket.lua")));
static END: LazyLock<EngineScript> = LazyLock::new(|| EngineScript::new(include_str!("end_logins.lua")));

/// The kinds of names in the engine.
const MARKS: &str = "mark";
const TICKETS: &str = "ticket";
const ENDED: &str = "ended";
/// The value of a mark.
const MARKED: &str = "1";

/// The engine as the memory of what works once and what has ended.
pub(super) struct SharedMarks {
    engine: Arc<SharedEngine>,
    /// The generation that this member knows; nothing before the engine was asked.
    generation: Mutex<Option<Generation>>,
    /// Wakes the task that writes back: the engine may lack something.
    unwritten: Notify,
}

/// What came of a mark at the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SharedMark {
    /// This caller is the first.
    First,
    /// It was marked before.
    Used,
    /// The engine was not asked: it cannot be used, or is not relied on.
    Down,
    /// The engine was asked, and did not answer in time. It may have marked it.
    Unclear,
}

impl SharedMarks {
    pub(super) fn new(engine: Arc<SharedEngine>) -> Self {
        Self { engine, generation: Mutex::default(), unwritten: Notify::new() }
    }

    pub(super) const fn engine(&self) -> &Arc<SharedEngine> {
        &self.engine
    }

    /// Tells whether questions go to the engine.
    pub(super) fn is_up(&self) -> bool {
        self.engine.problem().is_none()
    }

    /// Notes that the engine may lack something that this member knows.
    pub(super) fn note_unwritten(&self) {
        self.unwritten.notify_one();
    }

    /// Waits until the engine may lack something.
    pub(super) async fn unwritten(&self) {
        self.unwritten.notified().await;
    }

    // === The generation ===

    /// Reads the generation. With another one than before, or a clock that has jumped ahead, the engine may have lost what it
    /// knew, and gets it back.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(super) async fn look(&self) -> Result<Generation, EngineDown> {
        let found = Generation::read(&self.engine).await?;
        let mut known = self.generation();
        match &mut *known {
            // A clock of the engine that was set back makes it no younger.
            Some(known) if known.name == found.name => {
                if known.follow(&found) {
                    tracing::warn!(
                        "the clock of the shared engine has jumped ahead: this member writes back what may have expired early"
                    );
                    self.note_unwritten();
                }
                return Ok(known.clone());
            }
            Some(_) => {
                tracing::warn!(
                    "the shared engine has lost what it knew: this member writes back the used links and tokens and the \
                     ended logins that it knows"
                );
                self.note_unwritten();
            }
            None => {}
        }
        *known = Some(found.clone());
        Ok(found)
    }

    fn generation(&self) -> MutexGuard<'_, Option<Generation>> {
        self.generation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // === Marks ===

    /// Marks something as used, for `life` from now on.
    pub(super) async fn mark(&self, key: &Digest, life: Duration) -> SharedMark {
        // The engine may have another generation than this member knows, and once more meanwhile.
        for _ in 0..2 {
            let known = self.generation().clone();
            let known = match known {
                Some(known) => known,
                None => match self.look().await {
                    Ok(found) => found,
                    Err(EngineDown) => return SharedMark::Down,
                },
            };
            if !self.is_up() || (known.is_young() && self.engine.config().marks_when_down == MarksWhenDown::Refuse) {
                return SharedMark::Down;
            }
            match self.try_mark(key, life, &known).await.as_deref() {
                Ok("first") => return SharedMark::First,
                Ok("generation") => {}
                Ok(_) => return SharedMark::Used,
                Err(EngineDown) => return SharedMark::Unclear,
            }
            if self.look().await.is_err() {
                return SharedMark::Down;
            }
        }
        SharedMark::Down
    }

    async fn try_mark(&self, key: &Digest, life: Duration, known: &Generation) -> Result<String, EngineDown> {
        let mut keys = self.engine.names().all_of(MARKS, &[key]);
        // In a cluster, the generation may be at another node.
        let is_cluster = self.engine.config().topology == EngineTopology::Cluster;
        let generation = if is_cluster { "" } else { &known.name };
        if !is_cluster {
            keys.push(self.engine.names().plain("generation"));
        }
        let arguments = [millis(life).to_string().into_bytes(), generation.as_bytes().to_vec()];
        self.engine.run_script(&MARK, &keys, &arguments).await
    }

    /// Returns whether something is marked.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(super) async fn is_marked(&self, key: &Digest) -> Result<bool, EngineDown> {
        let mut exists = redis::cmd("EXISTS");
        for name in self.engine.names().all_of(MARKS, &[key]) {
            exists.arg(name.as_str());
        }
        let found: u64 = self.engine.ask(&exists).await?;
        Ok(found > 0)
    }

    /// Writes a mark that this member made.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(super) async fn write_mark(&self, key: &Digest, life: Duration) -> Result<(), EngineDown> {
        let name = self.engine.names().of(MARKS, &[key]);
        self.set(&name, MARKED.as_bytes(), life).await
    }

    async fn set(&self, name: &EngineKey, value: &[u8], life: Duration) -> Result<(), EngineDown> {
        let mut set = redis::cmd("SET");
        set.arg(name.as_str()).arg(value).arg("PX").arg(millis(life));
        self.engine.ask::<String>(&set).await.map(drop)
    }

    // === Tickets ===

    /// Keeps the sealed value of a ticket, for `life` from now on.
    ///
    /// # Errors
    /// When the engine does not answer. It may have kept it.
    pub(super) async fn keep_ticket(&self, ticket: &Digest, sealed: Vec<u8>, life: Duration) -> Result<(), EngineDown> {
        self.set(&self.engine.names().of(TICKETS, &[ticket]), &sealed, life).await
    }

    /// Takes the sealed value of a ticket out; nothing if it is not there.
    ///
    /// # Errors
    /// When the engine does not answer. It may have taken it out.
    pub(super) async fn take_ticket(&self, ticket: &Digest) -> Result<Option<Vec<u8>>, EngineDown> {
        self.engine.run_script(&TAKE, &self.engine.names().all_of(TICKETS, &[ticket]), &[]).await
    }

    // === Ended logins ===

    /// Ends the logins that began at `at` or before. It is remembered for `life` from now on.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(super) async fn end_logins(&self, key: &Digest, at: Timestamp, life: Duration) -> Result<(), EngineDown> {
        let arguments = [at.as_millisecond().to_string().into_bytes(), millis(life).to_string().into_bytes()];
        let written: Result<u64, _> =
            self.engine.run_script(&END, &[self.engine.names().of(ENDED, &[key])], &arguments).await;
        written.map(drop)
    }

    /// Returns whether the logins that began at `began` have ended.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(super) async fn is_ended(&self, key: &Digest, began: Timestamp) -> Result<bool, EngineDown> {
        let mut get = redis::cmd("MGET");
        for name in self.engine.names().all_of(ENDED, &[key]) {
            get.arg(name.as_str());
        }
        let ends: Vec<Option<i64>> = self.engine.ask(&get).await?;
        Ok(ends.into_iter().flatten().any(|at| began.as_millisecond() <= at))
    }
}

/// The engine keeps nothing for less than a millisecond.
fn millis(life: Duration) -> u64 {
    u64::try_from(life.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::TestEngine;

    #[tokio::test]
    async fn an_engine_whose_clock_jumped_ahead_is_written_back_and_not_relied_on() {
        let Some(server) = TestEngine::start() else { return };
        let shared = SharedMarks::new(server.reach().await);
        let mut set = redis::cmd("SET");
        let set = set.arg(shared.engine.names().plain("generation").as_str()).arg("kept 1000");
        shared.engine.ask::<String>(set).await.unwrap();
        assert_eq!(shared.mark(&[1; 32], Duration::from_secs(60)).await, SharedMark::First);
        // What the member expects is an hour before what the engine says.
        shared.generation().as_mut().unwrap().clock.0 -= Duration::from_secs(3600);
        assert!(shared.look().await.unwrap().is_young());
        shared.unwritten().await;
        assert_eq!(shared.mark(&[2; 32], Duration::from_secs(60)).await, SharedMark::Down);
    }
}
