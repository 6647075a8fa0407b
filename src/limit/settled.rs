//! A limit of requests that pass through, which never wait: this member counts them by itself, and tells the shared engine
//! behind. What all members have counted together then holds for the next request.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::query::{LimitQuery, answer_there};
use super::{LimitSource, Limited, Limiter};
use crate::members::SharedEngine;

/// How many events may wait to be told. Beyond, this member alone counts them.
const QUEUE: usize = 4096;
/// How many events are told at the same time.
const AT_ONCE: usize = 64;
/// How many sources are known that have used up their quota at other members. Beyond, the one that is free first is
/// forgotten.
const USED_UP: usize = 10_000;

/// A limit that is settled behind.
pub(crate) struct SettledLimit {
    engine: Arc<SharedEngine>,
    /// The quota of all members, by what this one has seen.
    limiter: Arc<Limiter>,
    /// This member's part of the quota, which holds while the engine cannot be used.
    alone: Limiter,
    used_up: Mutex<UsedUpSources>,
    told: mpsc::Sender<LimitSource>,
    /// Taken by the task that tells the engine.
    waiting: tokio::sync::Mutex<mpsc::Receiver<LimitSource>>,
}

impl SettledLimit {
    /// Settles a limiter. `alone`: a limiter with this member's part of the quota.
    pub(super) fn new(engine: Arc<SharedEngine>, limiter: Arc<Limiter>, alone: Limiter) -> Arc<Self> {
        let (told, waiting) = mpsc::channel(QUEUE);
        Arc::new(Self { engine, limiter, alone, used_up: Mutex::default(), told, waiting: waiting.into() })
    }

    /// Counts an event of a source at all members. This member has counted it already.
    ///
    /// # Errors
    /// When the source has used up its quota at all members together, by what this one knows.
    pub(super) fn count(&self, source: &LimitSource) -> Result<(), Limited> {
        self.check(source)?;
        if self.engine.problem().is_some() {
            return self.alone.admit_source(source);
        }
        let _ = self.told.try_send(*source);
        Ok(())
    }

    /// Checks whether an event of a source would be admitted. Counts nothing.
    ///
    /// # Errors
    /// As [`SettledLimit::count`].
    pub(super) fn check(&self, source: &LimitSource) -> Result<(), Limited> {
        let until = self.used_up().until(source);
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        match left.filter(|left| !left.is_zero()) {
            Some(left) => Err(self.limiter.limited_after(left)),
            None => Ok(()),
        }
    }

    /// Tells the engine, for as long as the configuration is in use.
    pub(super) async fn settle(self: Arc<Self>) {
        let mut waiting = self.waiting.lock().await;
        let mut sources = Vec::new();
        while waiting.recv_many(&mut sources, AT_ONCE).await > 0 {
            join_all(sources.drain(..).map(|source| self.tell(source))).await;
        }
    }

    async fn tell(&self, source: LimitSource) {
        if let Ok(Err(limited)) = answer_there(&self.engine, &[LimitQuery::count(&self.limiter, &source)]).await {
            self.used_up().note(source, Instant::now() + limited.retry_after);
        }
    }

    fn used_up(&self) -> MutexGuard<'_, UsedUpSources> {
        self.used_up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sources that have used up their quota, each until it is free. Requests wait for it, so no step walks through all of them.
#[derive(Default)]
struct UsedUpSources {
    ends: HashMap<LimitSource, SourceEnd>,
    in_order: BTreeMap<SourceEnd, LimitSource>,
    noted: u64,
}

/// When a source is free, and a number, so that no two are equal.
type SourceEnd = (Instant, u64);

impl UsedUpSources {
    fn until(&self, source: &LimitSource) -> Option<Instant> {
        self.ends.get(source).map(|(until, _)| *until)
    }

    fn note(&mut self, source: LimitSource, until: Instant) {
        let end = (until, self.noted);
        self.noted += 1;
        if let Some(before) = self.ends.insert(source, end) {
            self.in_order.remove(&before);
        }
        self.in_order.insert(end, source);
        if self.ends.len() > USED_UP
            && let Some((_, first)) = self.in_order.pop_first()
        {
            self.ends.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use tokio::time::{Duration, sleep};

    use super::super::LimitRate;
    use super::*;
    use crate::members::TestEngine;
    use crate::model::rate::Rate;

    fn member(engine: Arc<SharedEngine>) -> Arc<SettledLimit> {
        let rate: Rate = "20/h".parse().unwrap();
        let alone = Limiter::new("pbx_logins", LimitRate::among(rate, NonZeroU32::new(2).unwrap()), 100);
        let settled = SettledLimit::new(engine, Arc::new(Limiter::new("pbx_logins", rate, 100)), alone);
        tokio::spawn(Arc::clone(&settled).settle());
        settled
    }

    #[tokio::test]
    async fn what_other_members_counted_holds_soon_after() {
        let Some(server) = TestEngine::start() else { return };
        let (one, other) = (member(server.reach().await), member(server.reach().await));
        let source = LimitSource::address([192, 0, 2, 1].into());
        for _ in 0..20 {
            one.count(&source).unwrap();
        }
        // The next event is beyond the quota: the engine says so to the member that tells of it.
        let mut limited = other.check(&source);
        while limited.is_ok() {
            let _ = other.count(&source);
            sleep(Duration::from_millis(5)).await;
            limited = other.check(&source);
        }
        assert_eq!(limited.unwrap_err().limit, 20);
        other.check(&LimitSource::address([192, 0, 2, 2].into())).unwrap();
        drop(server);
        let third = LimitSource::address([192, 0, 2, 3].into());
        while one.engine.problem().is_none() {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!((0..40).filter(|_| one.count(&third).is_ok()).count(), 10, "its part, while it is alone");
    }

    #[tokio::test]
    async fn a_full_memory_forgets_the_source_that_is_free_first() {
        let Some(server) = TestEngine::start() else { return };
        let settled = member(server.reach().await);
        let source = |number: u32| LimitSource::address(std::net::Ipv4Addr::from_bits(number).into());
        let start = Instant::now() + Duration::from_secs(60);
        for number in 0..=USED_UP as u32 {
            settled.used_up().note(source(number), start + Duration::from_millis(number.into()));
        }
        settled.used_up().note(source(1), start + Duration::from_secs(60));
        assert!(settled.check(&source(0)).is_ok());
        assert!(settled.check(&source(1)).is_err() && settled.check(&source(USED_UP as u32)).is_err());
    }
}
