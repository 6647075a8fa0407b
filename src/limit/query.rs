//! Questions to limits: may this event happen? The memory of this member answers, or the engine that members share.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::gcra_script::{self, EngineQuery};
use super::{LimitSource, Limited, Limiter};
use crate::members::{EngineDown, SharedEngine};
use crate::model::rate::Rate;

/// What a limit counts by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct LimitKey {
    /// Its parts, each behind its length.
    bytes: Vec<u8>,
    /// The client, by [`super::client_key`]; nothing for what belongs to no address.
    client: Option<IpAddr>,
}

impl LimitKey {
    /// Makes a key of parts that name something. Other parts are another key.
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        let mut bytes = Vec::new();
        for part in parts {
            bytes.extend((part.len() as u64).to_be_bytes());
            bytes.extend(*part);
        }
        Self { bytes, client: None }
    }
}

impl From<&LimitSource> for LimitKey {
    fn from(source: &LimitSource) -> Self {
        let (kind, credential) = source.parts();
        let address = source.client.to_string();
        Self { client: Some(source.client), ..Self::of(&[kind.as_bytes(), address.as_bytes(), credential]) }
    }
}

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

    /// Answers by the memory of this member.
    fn answer_here(&self) -> Result<(), Limited> {
        match (self.counts, self.key.client) {
            (true, None) => self.limiter.admit(&self.key),
            (false, None) => self.limiter.peek(&self.key),
            (true, Some(client)) => self.limiter.admit_at(client, &self.key),
            (false, Some(client)) => self.limiter.peek_at(client, &self.key),
        }
    }

    fn of_engine(&self, engine: &SharedEngine) -> EngineQuery {
        let Rate { count, period, burst } = self.limiter.rate().shared;
        let rate = [u64::from(count.get()), period.as_secs(), u64::from(burst.get())].map(u64::to_be_bytes);
        // With another rate, the same arrival time means something else.
        let item = [self.limiter.name().as_bytes(), rate.as_flattened(), &self.key.bytes];
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

/// A quota, and the part of it that one member has while it is alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LimitRate {
    /// What this member admits by itself.
    pub(crate) own: Rate,
    /// What all members admit together.
    pub(crate) shared: Rate,
}

impl From<Rate> for LimitRate {
    fn from(rate: Rate) -> Self {
        Self { own: rate, shared: rate }
    }
}

impl LimitRate {
    /// Divides a quota among members: each has its part of the burst, one event at least, and refills so much slower.
    pub(crate) fn among(rate: Rate, members: NonZeroU32) -> Self {
        let burst = NonZeroU32::new(rate.burst.get() / members).unwrap_or(NonZeroU32::MIN);
        Self { own: Rate { period: rate.period * members.get(), burst, ..rate }, shared: rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::TestEngine;

    #[test]
    fn keys_of_other_parts_are_others() {
        let sources = [
            LimitSource::address([192, 0, 2, 1].into()),
            LimitSource::address([192, 0, 2, 2].into()),
            LimitSource::elsewhere([192, 0, 2, 1].into()),
            LimitSource::credential([192, 0, 2, 1].into(), [1; 32]),
            LimitSource::credential([192, 0, 2, 1].into(), [2; 32]),
        ];
        let mut keys: Vec<_> = sources.iter().map(LimitKey::from).collect();
        keys.extend([LimitKey::of(&[b"a", b"b"]), LimitKey::of(&[b"ab"]), LimitKey::of(&[b"a", b"b", b""])]);
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{key:?}");
        }
    }

    #[test]
    fn members_that_are_alone_admit_no_more_together_than_the_quota() {
        for (text, members, expected) in [
            ("30/min burst 10", 4, (30, 240, 2)),
            ("5/15min", 4, (5, 3600, 1)),
            ("10/min", 1, (10, 60, 10)),
            ("1/24h", 50, (1, 50 * 86_400, 1)),
        ] {
            let LimitRate { own, shared } = LimitRate::among(text.parse().unwrap(), NonZeroU32::new(members).unwrap());
            assert_eq!((own.count.get(), own.period.as_secs(), own.burst.get()), expected, "{text}");
            assert_eq!(shared, text.parse().unwrap());
        }
    }

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
