//! Freezes that all members share. Each member has them all in its own store, where they are looked up; the engine has a
//! table of them, and passes each order on to the other members.
//!
//! Each order has a version, which is the time of the member that was given it, in microseconds, and higher than each version
//! that this member has seen. Of two orders about one target the one with the higher version holds. An order that the engine
//! does not know yet has none: a freeze gets one that is higher than what the engine holds, so that no freeze is lost; a thaw
//! replaces only the freeze that it ended.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use redis::PushInfo;
use tokio::sync::{Notify, broadcast};
use tokio::time::{Instant, sleep_until};

use super::Freezes;
use super::record::{ANY_VERSION, FreezeRecord, KIND};
use super::table::{self, FreezeTable, PutOutcome};
use crate::backoff;
use crate::members::{EngineDown, SharedEngine, content};
use crate::model::freeze_target::FreezeTarget;
use crate::state::{Freeze, KeepError, SharedFreeze};

/// How long a thaw is remembered: a member that was stopped meanwhile learns of it.
const THAW_LIFE: SignedDuration = SignedDuration::from_hours(7 * 24);
/// The most thaws that are remembered here.
const MOST_THAWS: usize = 10_000;
/// The interval at which everything is read again, although messages tell of each change.
const INTERVAL: Duration = Duration::from_secs(5 * 60);
/// How long to wait after the engine did not answer.
const PAUSE: Duration = Duration::from_secs(1);
/// How many bytes of the name of a field are shown: those of callgate's are no longer.
const SHOWN: usize = 128;
/// How often an order gets a higher version than one that another member gave in the same moment.
const TRIES: usize = 5;

/// Freezes and thaws as members tell each other of them. It outlives every configuration.
#[derive(Debug)]
pub(crate) struct FreezeSharing {
    freezes: Arc<Freezes>,
    thaws: Mutex<BTreeMap<String, Thaw>>,
    /// The highest version that was seen.
    latest: AtomicU64,
    /// One change at a time: an order of this member is not replaced by one that another member gave before.
    changing: tokio::sync::Mutex<()>,
    /// There is an order that the engine does not know.
    untold: Notify,
}

/// Whether other members know an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MembersTold {
    /// There are no other members.
    Alone,
    /// They know it.
    Told,
    /// The engine cannot be used: they learn of it when it can.
    Later,
    /// The engine holds as many orders as it may: they learn of it when there is room.
    Full,
}

/// A target that was thawed.
#[derive(Debug, Clone)]
struct Thaw {
    /// Its version; nothing: the engine does not know it yet.
    version: Option<u64>,
    /// When the order was given or learned.
    at: Timestamp,
    /// The freeze that this member ended.
    ended: Option<Freeze>,
}

impl FreezeSharing {
    /// Shares these freezes.
    #[must_use]
    pub(crate) fn new(freezes: Arc<Freezes>) -> Self {
        Self {
            freezes,
            thaws: Mutex::default(),
            latest: AtomicU64::default(),
            changing: tokio::sync::Mutex::default(),
            untold: Notify::new(),
        }
    }

    // === Orders of this member ===

    /// Freezes a target here, and tells the other members.
    ///
    /// # Errors
    /// When this member's store cannot keep it.
    pub(crate) async fn freeze(
        &self,
        engine: &SharedEngine,
        target: &FreezeTarget,
        freeze: Freeze,
    ) -> Result<MembersTold, KeepError> {
        let changing = self.changing.lock().await;
        self.freezes.freeze(target, freeze).await?;
        self.thaws().remove(&target.to_string());
        drop(changing);
        Ok(self.tell(engine, &target.to_string()).await)
    }

    /// Thaws a target here, and tells the other members. Removes what the engine has of it and no member can read. Returns
    /// nothing if it was not frozen.
    ///
    /// # Errors
    /// When this member's store cannot keep it.
    pub(crate) async fn thaw(
        &self,
        engine: &SharedEngine,
        target: &FreezeTarget,
    ) -> Result<Option<MembersTold>, KeepError> {
        let changing = self.changing.lock().await;
        let whom = target.to_string();
        let ended = self.freezes.store.stored_freeze(&whom);
        if !self.freezes.thaw(target).await? {
            drop(changing);
            return Ok(table::clear(engine, &whom).await.is_ok_and(|cleared| cleared).then_some(MembersTold::Told));
        }
        self.remember(&whom, Thaw { version: None, at: Timestamp::now(), ended });
        drop(changing);
        Ok(Some(self.tell(engine, &whom).await))
    }

    async fn tell(&self, engine: &SharedEngine, whom: &str) -> MembersTold {
        let told = self.push(engine, whom).await;
        if told == MembersTold::Later {
            self.untold.notify_one();
        }
        told
    }

    // === The other members ===

    /// Follows the other members, for as long as the configuration is in use. `on_change` is told of each target that they
    /// freeze or thaw.
    pub(crate) async fn follow(
        self: Arc<Self>,
        engine: Arc<SharedEngine>,
        on_change: impl Fn(&FreezeTarget, Option<&Freeze>) + Send + Sync,
    ) -> Infallible {
        let (mut reached, mut messages) = (engine.reached(), engine.messages());
        loop {
            let pause = if self.synchronize(&engine, &on_change).await { INTERVAL } else { PAUSE };
            let due = Instant::now() + backoff::jittered(pause);
            loop {
                tokio::select! {
                    Ok(()) = reached.changed() => break,
                    () = self.untold.notified() => break,
                    () = sleep_until(due) => break,
                    message = messages.recv() => match message {
                        Ok(message) => self.read_message(&engine, &message, &on_change).await,
                        // Too many at once: all is read again.
                        Err(broadcast::error::RecvError::Lagged(_) | broadcast::error::RecvError::Closed) => break,
                    },
                }
            }
        }
    }

    async fn read_message(
        &self,
        engine: &SharedEngine,
        message: &PushInfo,
        on_change: &impl Fn(&FreezeTarget, Option<&Freeze>),
    ) {
        let record = content(message, KIND).and_then(|value| FreezeRecord::of_value(engine, value));
        if let Some(record) = record {
            self.adopt(&record, on_change).await;
        }
    }

    /// Takes over what other members ordered, and tells what they do not know. Returns whether the engine answered.
    async fn synchronize(&self, engine: &SharedEngine, on_change: &impl Fn(&FreezeTarget, Option<&Freeze>)) -> bool {
        let now = self.freezes.store.now();
        let Ok(table) = table::read(engine, |record| is_old(record, now)).await else { return false };
        if table.unreadable > 0 {
            let field = String::from_utf8_lossy(&table.unreadable_field[..table.unreadable_field.len().min(SHOWN)]);
            tracing::warn!(
                records = table.unreadable,
                field = %field.escape_debug(),
                "the shared engine has freezes that no key of this member opens: thaw their targets, or remove the fields \
                 from the hash with HDEL"
            );
        }
        for record in table.by_target.values() {
            self.adopt(record, on_change).await;
        }
        self.thaws().retain(|_, thaw| thaw.at.checked_add(THAW_LIFE).is_ok_and(|end| now < end));
        for whom in self.untold_targets(&table) {
            if self.push(engine, &whom).await == MembersTold::Later {
                return false;
            }
        }
        table::renew(engine, &table).await.is_ok()
    }

    /// Lists the targets about which the engine lacks the latest order, or has it under a key that will be dropped.
    fn untold_targets(&self, table: &FreezeTable) -> Vec<String> {
        let is_untold = |whom: &str, version: Option<u64>| {
            table.under_older_key.contains(whom)
                || version.is_none_or(|version| table.by_target.get(whom).is_none_or(|record| record.version < version))
        };
        let now = self.freezes.store.now();
        let freezes = self.freezes.store.stored_freezes().into_iter();
        let freezes = freezes.filter(|(whom, freeze)| {
            !freeze.is_forgotten(now) && is_untold(whom, freeze.shared.map(|shared| shared.version))
        });
        let thaws = self.thaws();
        let thaws = thaws.iter().filter(|(whom, thaw)| is_untold(whom, thaw.version));
        freezes.map(|(whom, _)| whom).chain(thaws.map(|(whom, _)| whom.clone())).collect()
    }

    /// Takes over an order of another member, unless this one knows a newer one.
    async fn adopt(&self, record: &FreezeRecord, on_change: &impl Fn(&FreezeTarget, Option<&Freeze>)) {
        self.latest.fetch_max(record.version, Ordering::AcqRel);
        let Ok(target) = record.whom.parse::<FreezeTarget>() else { return };
        let _changing = self.changing.lock().await;
        let known = self.freezes.store.stored_freeze(&record.whom);
        if !self.is_news(record, known.as_ref()) {
            return;
        }
        match &record.freeze {
            Some(freeze) => {
                let is_foreign = known.and_then(|known| known.shared).is_none_or(|shared| shared.is_foreign);
                let shared = Some(SharedFreeze { version: record.version, is_foreign });
                self.keep(&target, Some(Freeze { shared, ..freeze.clone() })).await;
                self.thaws().remove(&record.whom);
            }
            None => {
                self.keep(&target, None).await;
                self.remember(
                    &record.whom,
                    Thaw { version: Some(record.version), at: self.freezes.store.now(), ended: None },
                );
                if known.is_none() {
                    return;
                }
            }
        }
        on_change(&target, record.freeze.as_ref());
    }

    /// Returns whether an order of another member holds here. An order of this one that the engine does not know yet comes
    /// later, except that a thaw ends only the freeze that it was given for.
    fn is_news(&self, record: &FreezeRecord, known: Option<&Freeze>) -> bool {
        if let Some(freeze) = known {
            return freeze.shared.is_some_and(|shared| shared.version < record.version);
        }
        match self.thaws().get(&record.whom) {
            None => true,
            Some(Thaw { version: Some(version), .. }) => *version < record.version,
            Some(thaw) => record.freeze.as_ref().is_some_and(|freeze| !thaw.ends(freeze, record.version)),
        }
    }

    /// Stores what another member ordered; in memory alone if the file cannot be written.
    async fn keep(&self, target: &FreezeTarget, freeze: Option<Freeze>) {
        let kept = match &freeze {
            Some(freeze) => self.freezes.freeze(target, freeze.clone()).await,
            None => self.freezes.thaw(target).await.map(drop),
        };
        if let Err(error) = kept {
            self.freezes.follow(&target.to_string(), freeze);
            tracing::error!(whom = target.to_string(), %error, "an order of another member is not in the state file");
        }
    }

    // === Telling the engine ===

    /// Tells the engine the latest order about a target.
    async fn push(&self, engine: &SharedEngine, whom: &str) -> MembersTold {
        let told = if let Some(freeze) = self.freezes.store.stored_freeze(whom) {
            self.push_freeze(engine, whom, freeze).await
        } else {
            let thaw = self.thaws().get(whom).cloned();
            match thaw {
                Some(thaw) => self.push_thaw(engine, whom, thaw).await,
                None => Ok(MembersTold::Told),
            }
        };
        told.unwrap_or(MembersTold::Later)
    }

    async fn push_freeze(&self, engine: &SharedEngine, whom: &str, freeze: Freeze) -> Result<MembersTold, EngineDown> {
        let record = |version| {
            let freeze = Some(Freeze { shared: None, ..freeze.clone() });
            FreezeRecord { version, whom: whom.to_owned(), freeze }
        };
        if let Some(SharedFreeze { version, .. }) = freeze.shared {
            return push_again(engine, &record(version)).await;
        }
        for _ in 0..TRIES {
            let record = record(self.next_version());
            match table::put(engine, &record, ANY_VERSION).await? {
                PutOutcome::Stored => {
                    self.confirm_freeze(whom, freeze, record.version).await;
                    return Ok(MembersTold::Told);
                }
                PutOutcome::Newer(newer) => drop(self.latest.fetch_max(newer.version, Ordering::AcqRel)),
                PutOutcome::Full => return Ok(report_full(whom)),
            }
        }
        Ok(MembersTold::Later)
    }

    async fn push_thaw(&self, engine: &SharedEngine, whom: &str, thaw: Thaw) -> Result<MembersTold, EngineDown> {
        let record = |version| FreezeRecord { version, whom: whom.to_owned(), freeze: None };
        if let Some(version) = thaw.version {
            return push_again(engine, &record(version)).await;
        }
        let mut replaceable = thaw.ended.as_ref().and_then(|freeze| freeze.shared).map_or(0, |shared| shared.version);
        for _ in 0..TRIES {
            let record = record(self.next_version());
            match table::put(engine, &record, replaceable).await? {
                PutOutcome::Stored => {
                    if let Some(told) = self.thaws().get_mut(whom).filter(|told| told.version.is_none()) {
                        told.version = Some(record.version);
                    }
                    return Ok(MembersTold::Told);
                }
                PutOutcome::Newer(newer) => {
                    self.latest.fetch_max(newer.version, Ordering::AcqRel);
                    match &newer.freeze {
                        // Another member has frozen the target meanwhile, which the next reading brings here.
                        Some(freeze) if !thaw.ends(freeze, newer.version) => return Ok(MembersTold::Told),
                        Some(_) | None => replaceable = newer.version,
                    }
                }
                PutOutcome::Full => return Ok(report_full(whom)),
            }
        }
        Ok(MembersTold::Later)
    }

    /// Notes that the engine knows a freeze, unless another order has come meanwhile.
    async fn confirm_freeze(&self, whom: &str, freeze: Freeze, version: u64) {
        let _changing = self.changing.lock().await;
        let Ok(target) = whom.parse::<FreezeTarget>() else { return };
        if self.freezes.store.stored_freeze(whom).as_ref() == Some(&freeze) {
            let shared = Some(SharedFreeze { version, is_foreign: false });
            self.keep(&target, Some(Freeze { shared, ..freeze })).await;
        }
    }

    /// Returns a version for an order that is given now. A clock that is centuries ahead is not believed.
    fn next_version(&self) -> u64 {
        let now = u64::try_from(Timestamp::now().as_microsecond()).ok().filter(|now| *now < ANY_VERSION);
        let now = now.unwrap_or_default();
        let next = |latest: u64| Some(now.max(latest + 1));
        let latest = self.latest.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).unwrap_or_default();
        now.max(latest + 1)
    }

    fn remember(&self, whom: &str, thaw: Thaw) {
        let mut thaws = self.thaws();
        if thaws.len() >= MOST_THAWS && !thaws.contains_key(whom) {
            let oldest = thaws.iter().min_by_key(|(_, thaw)| thaw.at).map(|(whom, _)| whom.clone());
            oldest.and_then(|whom| thaws.remove(&whom));
        }
        thaws.insert(whom.to_owned(), thaw);
    }

    fn thaws(&self) -> MutexGuard<'_, BTreeMap<String, Thaw>> {
        self.thaws.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Thaw {
    /// Returns whether it was given for this freeze, of which this member may not have learned the version.
    fn ends(&self, freeze: &Freeze, version: u64) -> bool {
        self.ended.as_ref().is_some_and(|ended| match ended.shared {
            Some(shared) => version <= shared.version,
            None => Freeze { shared: None, ..freeze.clone() } == *ended,
        })
    }
}

/// Returns whether no member needs a record any more.
fn is_old(record: &FreezeRecord, now: Timestamp) -> bool {
    match &record.freeze {
        Some(freeze) => freeze.is_forgotten(now),
        None => {
            let given =
                i64::try_from(record.version).ok().and_then(|version| Timestamp::from_microsecond(version).ok());
            given.and_then(|given| given.checked_add(THAW_LIFE).ok()).is_some_and(|end| end < now)
        }
    }
}

/// Tells the engine an order that it knew. It may know a newer one, which comes as a message or with the next reading.
async fn push_again(engine: &SharedEngine, record: &FreezeRecord) -> Result<MembersTold, EngineDown> {
    Ok(match table::put(engine, record, record.version).await? {
        PutOutcome::Stored | PutOutcome::Newer(_) => MembersTold::Told,
        PutOutcome::Full => report_full(&record.whom),
    })
}

fn report_full(whom: &str) -> MembersTold {
    tracing::error!(whom, "the shared engine holds as many freezes as it may: other members do not learn of an order");
    MembersTold::Full
}

#[cfg(test)]
mod tests;
