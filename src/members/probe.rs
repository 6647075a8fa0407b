//! A look at the engine, for `callgate check --online`: whether a member could use it, and what it is.

use tokio::sync::broadcast;
use tokio::time::timeout;

use super::link::EngineLink;
use super::{CONNECT_TIMEOUT, KeyNames, OTHER_KEYS, RingFound, ValueSeal, problem_of, ring_text};
use crate::config::SharedConfig;

/// The oldest engine that callgate uses.
const OLDEST: [u32; 2] = [6, 2];

/// What a look at the engine found.
#[derive(Debug, Default)]
pub(crate) struct EngineReport {
    /// What it is, in words for the operator; nothing if it does not tell.
    pub(crate) description: Option<String>,
    /// What is wrong with it.
    pub(crate) problems: Vec<String>,
}

/// Connects to the engine as a member does, and checks what members ask of it. Writes one key, which ends within a second.
pub(crate) async fn probe(config: &SharedConfig) -> EngineReport {
    match timeout(CONNECT_TIMEOUT * 2, look(config)).await {
        Ok(Ok(report)) => report,
        Ok(Err(error)) => EngineReport::of_problem(problem_of(&error)),
        Err(_) => EngineReport::of_problem(format!("no answer within {:?}", CONNECT_TIMEOUT * 2)),
    }
}

async fn look(config: &SharedConfig) -> redis::RedisResult<EngineReport> {
    let mut link = EngineLink::connect(config, broadcast::Sender::new(1)).await?;
    let (names, seal) = (KeyNames::new(&config.prefix, &config.keys), ValueSeal::new(&config.prefix, &config.keys));
    let check = names.plain("check");
    let mut write = redis::cmd("SET");
    link.send(write.arg(check.as_str()).arg(1).arg("PX").arg(1000)).await?;
    let mut script = redis::cmd("EVAL");
    link.send(script.arg("return redis.call('TIME')").arg(1).arg(check.as_str())).await?;
    link.subscribe(names.plain("messages").as_str()).await?;
    let mut report = EngineReport::default();
    let text: Option<Vec<u8>> = redis::from_redis_value(link.send(&ring_text::read(&names.plain("ring"))).await?)?;
    if ring_text::found(text.as_deref(), &seal) == RingFound::Other {
        report.problems.push(OTHER_KEYS.to_owned());
    }
    // Each node of a cluster has facts of its own. A user without the right to ask for them is none the worse.
    if let EngineLink::Node(_) = link
        && let Ok(told) = link.send(&redis::cmd("INFO")).await
        && let Ok(told) = redis::from_redis_value::<String>(told)
    {
        report.read(&told);
    }
    Ok(report)
}

impl EngineReport {
    fn of_problem(problem: String) -> Self {
        Self { description: None, problems: vec![problem] }
    }

    /// Reads what the engine tells of itself, in lines of the form `name:value`.
    fn read(&mut self, told: &str) {
        let of = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let numbers = |version: &str| version.split('.').map_while(|part| part.parse::<u32>().ok()).collect::<Vec<_>>();
        let (product, version) = match (of("valkey_version"), of("redis_version")) {
            (Some(version), _) => ("Valkey", version),
            (None, Some(version)) => ("Redis", version),
            (None, None) => return,
        };
        // Valkey counts on from Redis 7.2.
        if numbers(version) < OLDEST.to_vec() {
            self.problems.push(format!("{product} {} is too old: callgate uses Redis 6.2 or later", shown(version)));
        }
        let evicts = of("maxmemory").is_some_and(|most| most != "0")
            && of("maxmemory_policy").is_some_and(|policy| policy != "noeviction");
        if evicts {
            self.problems.push("it evicts keys, and so forgets used links: set maxmemory-policy noeviction".to_owned());
        }
        let replicas = of("connected_slaves").map(|count| format!(", replicas: {}", shown(count))).unwrap_or_default();
        self.description = Some(format!("{product} {}{replicas}", shown(version)));
    }
}

/// Shows a word of the engine, which may be long, or no word.
fn shown(word: &str) -> String {
    word.chars().take(32).collect::<String>().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::TestEngine;

    #[track_caller]
    fn check(told: &str, description: Option<&str>, problem: Option<&str>) {
        let mut report = EngineReport::default();
        report.read(told);
        assert_eq!(report.description.as_deref(), description, "{told}");
        assert_eq!(report.problems.first().map(String::as_str), problem, "{told}");
    }

    #[test]
    fn an_engine_that_is_too_old_or_forgets_is_found() {
        let evicts = "it evicts keys, and so forgets used links: set maxmemory-policy noeviction";
        check("redis_version:7.0.15\r\nconnected_slaves:1\r\n", Some("Redis 7.0.15, replicas: 1"), None);
        check("redis_version:7.2.4\r\nvalkey_version:8.0.1\r\n", Some("Valkey 8.0.1"), None);
        check("redis_version:6.2.0", Some("Redis 6.2.0"), None);
        let old = "Redis 6.0.16 is too old: callgate uses Redis 6.2 or later";
        check("redis_version:6.0.16", Some("Redis 6.0.16"), Some(old));
        check("redis_version:7.0\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru", Some("Redis 7.0"), None);
        check("redis_version:7.0\r\nmaxmemory:9\r\nmaxmemory_policy:allkeys-lru", Some("Redis 7.0"), Some(evicts));
        check("redis_version:7.0\r\nmaxmemory:9\r\nmaxmemory_policy:noeviction", Some("Redis 7.0"), None);
        check("nothing", None, None);
    }

    #[tokio::test]
    async fn an_engine_that_can_be_used_has_no_problems() {
        let Some(server) = TestEngine::start() else { return };
        let member = server.reach().await;
        let report = probe(&server.config()).await;
        assert!(report.description.unwrap().starts_with("Redis "));
        assert_eq!(report.problems, [""; 0]);
        let other = SharedConfig { keys: crate::members::tests::ring(&[9]), ..server.config() };
        assert_eq!(probe(&other).await.problems, [OTHER_KEYS]);
        let refused = SharedConfig { prefix: "other".to_owned(), ..server.config() };
        let rights: &[&str] = &["SETUSER", "default", "resetkeys", "resetchannels", "~test:*", "&test:*"];
        member.ask::<String>(redis::cmd("ACL").arg(rights)).await.unwrap();
        let problems = probe(&refused).await.problems;
        assert!(problems[0].starts_with("NOPERM: "), "{problems:?}");
        assert_eq!(probe(&server.config()).await.problems, [""; 0]);
        drop(server);
        assert_eq!(probe(&refused).await.problems.len(), 1);
    }
}
