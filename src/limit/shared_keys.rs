//! Different one-time keys of a user at all members: the engine counts them.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::time::Instant;

use super::{DistinctKeys, Limited, Novelty};
use crate::members::{EngineDown, EngineKey, EngineScript, SharedEngine};

static SCRIPT: LazyLock<EngineScript> = LazyLock::new(|| EngineScript::new(include_str!("distinct_keys.lua")));

/// Counts a key of a known user, unless it is counted already in this period. While the engine cannot be used, this member
/// counts by what it knows, with its part of the rate: one key at least.
///
/// # Errors
/// When the user has had as many different keys in this period as the rate permits.
pub(super) async fn admit(
    engine: Option<&Arc<SharedEngine>>,
    keys: &DistinctKeys,
    user: &str,
    key_id: [u8; 32],
) -> Result<Novelty, Limited> {
    let Some(engine) = engine else { return keys.admit(user, key_id, Instant::now()) };
    match admit_there(&SCRIPT, engine, keys, user, key_id, &[]).await {
        Ok(admitted) => {
            if admitted.is_ok() {
                keys.note(user, key_id, Instant::now());
            }
            admitted
        }
        Err(EngineDown) => keys.admit_among(engine.config().members, user, key_id, Instant::now()),
    }
}

async fn admit_there(
    script: &EngineScript,
    engine: &SharedEngine,
    keys: &DistinctKeys,
    user: &str,
    key_id: [u8; 32],
    more: &[Vec<u8>],
) -> Result<Result<Novelty, Limited>, EngineDown> {
    let rate = keys.rate();
    let (count, period) = (rate.count.get(), rate.period);
    let name = name_of_user(engine, keys, user);
    // The engine cannot tell which key it is.
    let key = engine.names().of("key", &[user.as_bytes(), &key_id]);
    let micros = period.as_micros().to_string();
    let arguments = [key.as_str().as_bytes().to_vec(), micros.into_bytes(), count.to_string().into_bytes()];
    let arguments: Vec<_> = arguments.into_iter().chain(more.iter().cloned()).collect();
    let (answer, left): (String, u64) = engine.run_script(script, &[name], &arguments).await?;
    Ok(match answer.as_str() {
        "new" => Ok(Novelty::New),
        "repeated" => Ok(Novelty::Repeated),
        _ => Err(keys.limited_after(Duration::from_micros(left))),
    })
}

/// With another rate, the same user has other keys: they live for another time.
fn name_of_user(engine: &SharedEngine, keys: &DistinctKeys, user: &str) -> EngineKey {
    let rate = keys.rate();
    let rate = [u64::from(rate.count.get()), rate.period.as_secs()].map(u64::to_be_bytes);
    engine.names().of("distinct_keys", &[rate.as_flattened(), user.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::{Numbers, TestEngine, script_with_test_clock};

    fn at(micros: u64) -> [Vec<u8>; 2] {
        [1_900_000_000 + micros / 1_000_000, micros % 1_000_000].map(|part| part.to_string().into_bytes())
    }

    #[tokio::test]
    async fn the_engine_counts_as_a_member_does() {
        let Some(server) = TestEngine::start() else { return };
        let (engine, script, mut numbers) =
            (server.reach().await, script_with_test_clock(include_str!("distinct_keys.lua")), Numbers(11));
        let mut sums = [0, 0, 0];
        for rate in ["2/5min", "1/24h", "5/15min", "20/24h", "3/min"] {
            let keys = DistinctKeys::new(rate.parse().unwrap());
            let (start, period) = (Instant::now(), keys.rate().period.as_micros() as u64);
            let mut micros = 0;
            for step in 0..400 {
                micros += match numbers.below(3) {
                    0 => 0,
                    1 => numbers.below(period / 4),
                    _ => numbers.below(period / 40),
                };
                let (user, key) = (["ann", "bob"][numbers.below(2) as usize], [numbers.below(40) as u8; 32]);
                let here = keys.admit(user, key, start + Duration::from_micros(micros));
                let there = admit_there(&script, &engine, &keys, user, key, &at(micros)).await.unwrap();
                assert_eq!(there, here, "{rate}: step {step} at {micros} µs");
                sums[match here {
                    Ok(Novelty::New) => 0,
                    Ok(Novelty::Repeated) => 1,
                    Err(_) => 2,
                }] += 1;
            }
        }
        assert!(sums.iter().all(|sum| *sum > 100), "{sums:?}");
    }

    #[tokio::test]
    async fn an_engine_whose_clock_is_set_back_keeps_no_key_for_longer_than_a_period() {
        let Some(server) = TestEngine::start() else { return };
        let (engine, script) = (server.reach().await, script_with_test_clock(include_str!("distinct_keys.lua")));
        let keys = DistinctKeys::new("1/5min".parse().unwrap());
        let admit = async |key: u8, seconds: u64| {
            admit_there(&script, &engine, &keys, "ann", [key; 32], &at(seconds * 1_000_000)).await.unwrap()
        };
        assert_eq!(admit(1, 1000).await, Ok(Novelty::New));
        assert_eq!(admit(2, 0).await.unwrap_err().retry_after.as_secs(), 300);
        assert_eq!(admit(2, 299).await.unwrap_err().retry_after.as_secs(), 1);
        assert_eq!(admit(2, 300).await, Ok(Novelty::New));
    }

    #[tokio::test]
    async fn members_count_together_and_each_its_part_while_alone() {
        let Some(server) = TestEngine::start() else { return };
        let config = crate::config::SharedConfig { members: 2.try_into().unwrap(), ..server.config() };
        let engines = [server.reach_with(config.clone()).await, server.reach_with(config).await];
        let keys = ["6/h", "6/h"].map(|rate| DistinctKeys::new(rate.parse().unwrap()));
        let admit = async |member: usize, key: u8| admit(Some(&engines[member]), &keys[member], "ann", [key; 32]).await;
        for key in 0..6 {
            assert_eq!(admit(usize::from(key % 3 == 0), key).await, Ok(Novelty::New), "{key}");
        }
        assert_eq!(admit(0, 6).await.unwrap_err().limit, 6);
        assert_eq!(admit(0, 0).await, Ok(Novelty::Repeated), "the other member answered it");
        let name = name_of_user(&engines[0], &keys[0], "ann");
        let (mut life, mut all) = (redis::cmd("PTTL"), redis::cmd("KEYS"));
        let life: i64 = engines[0].ask(life.arg(name.as_str())).await.unwrap();
        assert!((3_590_000..=3_600_000).contains(&life), "{life}");
        let all: Vec<String> = engines[0].ask(all.arg("*")).await.unwrap();
        assert!(all.iter().all(|name| !name.contains("ann")), "{all:?}");
        drop(server);
        assert_eq!(admit(1, 0).await, Ok(Novelty::Repeated), "this member answered it");
        assert_eq!(admit(1, 7).await, Ok(Novelty::New), "two keys and one more are half of six");
        assert_eq!(admit(1, 8).await.unwrap_err().limit, 6);
    }
}
