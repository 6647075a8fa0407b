//! GCRA at the shared engine, with the same quotas as governor's.

use std::sync::LazyLock;
use std::time::Duration;

use futures_util::future::join_all;
use governor::Quota;

use crate::config::EngineTopology;
use crate::members::{EngineDown, EngineKey, EngineScript, SharedEngine};

/// The script, which the engine runs in one step.
static SCRIPT: LazyLock<EngineScript> = LazyLock::new(|| EngineScript::new(include_str!("gcra.lua")));

/// The parameters of GCRA, as the script takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GcraParameters {
    /// The interval of one event.
    interval: Duration,
    /// How much earlier than its interval an event may come.
    tolerance: Duration,
}

impl GcraParameters {
    /// Takes the parameters of a quota.
    pub(super) fn of(quota: Quota) -> Self {
        let interval = quota.replenish_interval();
        Self { interval, tolerance: interval * (quota.burst_size().get() - 1) }
    }
}

/// One limit in a question to the engine.
#[derive(Debug, Clone)]
pub(super) struct EngineQuery {
    pub(super) key: EngineKey,
    pub(super) parameters: GcraParameters,
    /// Whether the event counts; otherwise the limit is looked at only.
    pub(super) counts: bool,
}

/// A limit of a question admits no event now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EngineLimited {
    /// The place of the limit in the question.
    pub(super) index: usize,
    /// How long until the next event is admitted.
    pub(super) retry_after: Duration,
}

/// Asks the engine for several limits in one step. Those behind the first that is used up count nothing.
///
/// # Errors
/// When the engine does not answer.
pub(super) async fn ask(
    engine: &SharedEngine,
    queries: &[EngineQuery],
) -> Result<Result<(), EngineLimited>, EngineDown> {
    if engine.config().topology == EngineTopology::Cluster {
        return ask_each(engine, queries).await;
    }
    ask_at_once(engine, queries).await
}

/// Asks a cluster, whose nodes each answer for their own limits, all at the same time. Limits behind one that is used up
/// count the event too.
async fn ask_each(engine: &SharedEngine, queries: &[EngineQuery]) -> Result<Result<(), EngineLimited>, EngineDown> {
    let asked = queries.iter().map(|query| ask_at_once(engine, std::slice::from_ref(query)));
    for (index, answer) in join_all(asked).await.into_iter().enumerate() {
        if let Err(limited) = answer? {
            return Ok(Err(EngineLimited { index, ..limited }));
        }
    }
    Ok(Ok(()))
}

async fn ask_at_once(engine: &SharedEngine, queries: &[EngineQuery]) -> Result<Result<(), EngineLimited>, EngineDown> {
    let keys: Vec<_> = queries.iter().map(|query| query.key.clone()).collect();
    let arguments: Vec<_> = queries.iter().flat_map(arguments).collect();
    let answer: Vec<u64> = engine.run_script(&SCRIPT, &keys, &arguments).await?;
    match answer[..] {
        [] => Ok(Ok(())),
        [index, seconds, nanos] if (1..=queries.len() as u64).contains(&index) && nanos < 1_000_000_000 => {
            let retry_after = Duration::new(seconds, nanos as u32);
            Ok(Err(EngineLimited { index: index as usize - 1, retry_after }))
        }
        _ => Err(EngineDown),
    }
}

fn arguments(query: &EngineQuery) -> [Vec<u8>; 5] {
    let GcraParameters { interval, tolerance } = query.parameters;
    let numbers = [
        u64::from(query.counts),
        interval.as_secs(),
        interval.subsec_nanos().into(),
        tolerance.as_secs(),
        tolerance.subsec_nanos().into(),
    ];
    numbers.map(|number| number.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::super::limiter::{Limiter, quota};
    use super::*;
    use crate::members::{Numbers, TestEngine, script_with_test_clock};
    use crate::model::rate::Rate;

    /// Asks as [`ask`], at a time in microseconds since the engine's beginning.
    async fn ask_at(
        script: &EngineScript,
        engine: &SharedEngine,
        query: &EngineQuery,
        micros: u64,
    ) -> Result<(), Duration> {
        let start = 1_900_000_000;
        let time = [start + micros / 1_000_000, micros % 1_000_000].map(|part| part.to_string().into_bytes());
        let arguments: Vec<_> = arguments(query).into_iter().chain(time).collect();
        let answer: Vec<u64> = engine.run_script(script, std::slice::from_ref(&query.key), &arguments).await.unwrap();
        match answer[..] {
            [] => Ok(()),
            [1, seconds, nanos] => Err(Duration::new(seconds, nanos as u32)),
            _ => panic!("{answer:?}"),
        }
    }

    /// Compares the answers of the engine and of governor over many events, and the waits with them.
    async fn compare(text: &str, numbers: &mut Numbers, engine: &SharedEngine, script: &EngineScript) -> [u32; 2] {
        let rate: Rate = text.parse().unwrap();
        let clock = FakeRelativeClock::default();
        let limiter = Limiter::with_clock("client", rate.into(), 10, clock.clone());
        let quota = quota(rate);
        let query = |counts| EngineQuery {
            key: engine.names().of("limit", &[text.as_bytes()]),
            parameters: GcraParameters::of(quota),
            counts,
        };
        let interval = quota.replenish_interval().as_micros().max(1) as u64;
        let mut micros = 0;
        let (mut admitted, mut refused) = (0, 0);
        for step in 0..300 {
            let pause = match numbers.below(4) {
                0 => 0,
                1 => numbers.below(interval.min(1 << 40)),
                2 => interval,
                _ => numbers.below(interval.saturating_mul(3).min(1 << 40)) / 2,
            };
            micros += pause;
            clock.advance(Duration::from_micros(pause));
            let counts = numbers.below(4) > 0;
            let here = if counts { limiter.admit("key") } else { limiter.peek("key") };
            let there = ask_at(script, engine, &query(counts), micros).await;
            assert_eq!(there, here.map_err(|limited| limited.retry_after), "{text}: step {step} at {micros} µs");
            if there.is_ok() { admitted += 1 } else { refused += 1 }
        }
        [admitted, refused]
    }

    #[tokio::test]
    async fn the_engine_counts_as_governor_does() {
        let Some(server) = TestEngine::start() else { return };
        // Keys expire by the engine's own clock, which runs on while that of the test stands.
        let expiry = ", 'PX', life[1] * 1000 + math.ceil(life[2] / 1e6)";
        let lasting = include_str!("gcra.lua").replace(expiry, "");
        assert_ne!(lasting, include_str!("gcra.lua"));
        let (engine, script, mut numbers) = (server.reach().await, script_with_test_clock(&lasting), Numbers(7));
        let vectors = [
            "30/min burst 10",
            "10/min",
            "5/15min",
            "1/s",
            "2/h burst 1",
            "3/h",
            "3000/min",
            "7/s burst 3",
            "1/24h",
            "10/min burst 300",
            "1/24h burst 36500",
            "13/min burst 2",
            "4294967295/s burst 5",
        ];
        let mut sums = [0, 0];
        let mut add = |counts: [u32; 2]| sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        for rate in vectors {
            add(compare(rate, &mut numbers, &engine, &script).await);
        }
        for _ in 0..20 {
            let (count, seconds, burst) = (1 + numbers.below(500), 1 + numbers.below(5_000), 1 + numbers.below(40));
            add(compare(&format!("{count}/{seconds}s burst {burst}"), &mut numbers, &engine, &script).await);
        }
        assert!(sums.iter().all(|sum| *sum > 1_000), "{sums:?}");
    }

    #[tokio::test]
    async fn limits_behind_the_first_that_is_used_up_count_nothing() {
        let Some(server) = TestEngine::start() else { return };
        let engine = server.reach().await;
        let query = |name: &str, rate: &str| EngineQuery {
            key: engine.names().of("limit", &[name.as_bytes()]),
            parameters: GcraParameters::of(quota(rate.parse().unwrap())),
            counts: true,
        };
        let all = [query("one", "3/h"), query("other", "1/h"), query("last", "2/h")];
        assert_eq!(ask(&engine, &all).await.unwrap(), Ok(()));
        for _ in 0..2 {
            let limited = ask(&engine, &all).await.unwrap().unwrap_err();
            assert_eq!(limited.index, 1);
            assert!((3_500..=3_600).contains(&limited.retry_after.as_secs()), "{limited:?}");
        }
        assert_eq!(ask(&engine, &all).await.unwrap().unwrap_err().index, 0);
        assert_eq!(ask(&engine, &[query("last", "2/h")]).await.unwrap(), Ok(()), "it has counted once");
        assert_eq!(ask(&engine, &[query("last", "2/h")]).await.unwrap().map_err(|limited| limited.index), Err(0));
    }

    #[tokio::test]
    async fn a_limit_leaves_nothing_behind() {
        let Some(server) = TestEngine::start() else { return };
        let engine = server.reach().await;
        let query = EngineQuery {
            key: engine.names().of("limit", &[b"one"]),
            parameters: GcraParameters::of(quota("10/s".parse().unwrap())),
            counts: true,
        };
        ask(&engine, std::slice::from_ref(&query)).await.unwrap().unwrap();
        let mut life = redis::cmd("PTTL");
        let life: i64 = engine.ask(life.arg(query.key.as_str())).await.unwrap();
        assert!((1..=100).contains(&life), "{life}");
    }
}
