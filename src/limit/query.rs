//! Questions to limits: may this event happen? The memory of this member answers, or the engine that members share.

use std::sync::Arc;

use super::gcra_script::{self, EngineQuery};
use super::key::LimitKey;
use super::{Limited, Limiter};
use crate::members::{EngineDown, SharedEngine};
use crate::model::rate::Rate;

/// A question to one limit.
#[derive(Clone)]
pub(crate) struct LimitQuery<'l> {
    limiter: &'l Limiter,
    key: LimitKey,
    counts: bool,
}

impl<'l> LimitQuery<'l> {
    /// Asks whether an event is admitted, and counts it then.
    pub(crate) fn count(limiter: &'l Limiter, key: impl Into<LimitKey>) -> Self {
        Self { limiter, key: key.into(), counts: true }
    }

    /// Asks whether an event would be admitted. Counts nothing.
    pub(crate) fn look(limiter: &'l Limiter, key: impl Into<LimitKey>) -> Self {
        Self { limiter, key: key.into(), counts: false }
    }

    /// Returns the same question, which counts nothing.
    #[must_use]
    pub(crate) fn without_count(self) -> Self {
        Self { counts: false, ..self }
    }

    /// Returns the name of the limit.
    pub(crate) const fn limit(&self) -> &'static str {
        self.limiter.name()
    }

    /// Returns the limiter that answers.
    pub(super) const fn limiter(&self) -> &Limiter {
        self.limiter
    }

    /// Returns what it counts by.
    pub(super) const fn key(&self) -> &LimitKey {
        &self.key
    }

    /// Returns whether it counts an event.
    pub(super) const fn counts(&self) -> bool {
        self.counts
    }

    /// Answers by the memory of this member.
    ///
    /// # Errors
    /// When the limit is used up.
    pub(super) fn answer_here(&self) -> Result<(), Limited> {
        if self.counts { self.limiter.admit(&self.key) } else { self.limiter.peek(&self.key) }
    }

    fn of_engine(&self, engine: &SharedEngine) -> EngineQuery {
        let Rate { count, period, burst } = self.limiter.rate().shared;
        let rate = [u64::from(count.get()), period.as_secs(), u64::from(burst.get())].map(u64::to_be_bytes);
        // With another rate, the same arrival time means something else.
        let key = self.key.name();
        let item = [self.limiter.name().as_bytes(), rate.as_flattened(), &key];
        let node = self.limiter.node().map(str::as_bytes);
        let item: Vec<_> = item.into_iter().chain(node).collect();
        EngineQuery {
            key: engine.names().of("limit", &item),
            parameters: self.limiter.shared_parameters(),
            counts: self.counts,
        }
    }
}

/// Answers questions in their order; those behind the first limit that is used up count nothing.
///
/// With an engine, it answers all of them in one round trip. While it cannot, this member counts alone, with its part of
/// each quota.
///
/// # Errors
/// When a limit is used up.
pub(crate) async fn answer(engine: Option<&Arc<SharedEngine>>, queries: &[LimitQuery<'_>]) -> Result<(), Limited> {
    if let Some(engine) = engine
        && let Ok(answer) = answer_there(engine, queries).await
    {
        return answer;
    }
    queries.iter().try_for_each(LimitQuery::answer_here)
}

/// Lets the engine answer.
///
/// # Errors
/// When it does not.
pub(super) async fn answer_there(
    engine: &SharedEngine,
    queries: &[LimitQuery<'_>],
) -> Result<Result<(), Limited>, EngineDown> {
    if queries.is_empty() {
        return Ok(Ok(()));
    }
    let asked: Vec<_> = queries.iter().map(|query| query.of_engine(engine)).collect();
    let answer = gcra_script::ask(engine, &asked).await?;
    Ok(answer.map_err(|limited| queries[limited.index].limiter.limited_after(limited.retry_after)))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::super::{LimitRate, LimitSource};
    use super::*;
    use crate::members::TestEngine;

    #[tokio::test]
    async fn two_members_have_one_quota_and_each_its_part_while_alone() {
        let Some(server) = TestEngine::start() else { return };
        let rate = LimitRate::among("20/h burst 20".parse().unwrap(), NonZeroU32::new(2).unwrap());
        let limiters = [Limiter::new("client", rate, 100), Limiter::new("client", rate, 100)];
        let engines = [server.reach().await, server.reach().await];
        let source = LimitSource::address([192, 0, 2, 1].into());
        let mut admitted = 0;
        for round in 0..40 {
            let (limiter, engine) = (&limiters[round % 2], &engines[round % 2]);
            admitted += u32::from(answer(Some(engine), &[LimitQuery::count(limiter, &source)]).await.is_ok());
        }
        assert_eq!(admitted, 20);
        let limited = answer(Some(&engines[0]), &[LimitQuery::look(&limiters[0], &source)]).await.unwrap_err();
        assert_eq!((limited.limit, limited.window.as_secs()), (20, 3600));
        drop(server);
        let mut alone = 0;
        for _ in 0..40 {
            alone += u32::from(answer(Some(&engines[0]), &[LimitQuery::count(&limiters[0], &source)]).await.is_ok());
        }
        assert_eq!(alone, 10, "half of the quota, for one of two members");
    }
}
