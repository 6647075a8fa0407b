//! One quota for all members.

use crate::kit::engine::Engine;
use crate::kit::stage::{Plan, Stage};

/// Quotas of which a test reaches only `client`. A count stays at the engine for half a minute at least.
pub const LIMITS: &str = "client = \"20/h burst 20\"\ncaller = \"100/h\"\naccount = \"100/h\"\nfailures = \"1000/min\"";

/// Starts members that share an engine.
pub async fn members(engine: &Engine, count: usize, more: &str) -> Vec<Stage> {
    let shared = engine.shared(more);
    let mut members = Vec::new();
    for _ in 0..count {
        let member = Plan { limits: LIMITS, more: &shared, ..Plan::default() }.start().await;
        // An explanation asks the engine too, and a test counts what it is asked.
        member.gate.logins.are_not_explained();
        members.push(member);
    }
    for member in &members {
        reached(member).await;
    }
    members
}

/// Waits until a member uses the engine.
pub async fn reached(member: &Stage) {
    let told = || member.gate.told("/readyz?verbose");
    crate::kit::stage::until("the engine is used", || told().contains("shared: ok")).await;
}

/// Returns what a member says of its readiness.
pub fn readiness(member: &Stage) -> String {
    let answer = member.gate.told("/readyz?verbose");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    answer
}

/// Lets members log alice in, in turn, and returns how many logins are admitted.
pub async fn admitted(members: &[Stage], logins: usize) -> usize {
    let mut admitted = 0;
    for round in 0..logins {
        let answer = members[round % members.len()].as_alice("/auth/pbx").send().await;
        match answer.status.as_u16() {
            303 => admitted += 1,
            _ => drop(answer.expect(429)),
        }
    }
    admitted
}

#[tokio::test]
async fn two_and_four_members_admit_exactly_one_budget() {
    for count in [2, 4] {
        let Some(engine) = Engine::start().await else { return };
        let members = members(&engine, count, &format!("members = {count}\ndeadline = \"5s\"")).await;
        assert_eq!(admitted(&members, 40).await, 20, "{count} members");
        let limited = members[0].as_alice("/auth/pbx").send().await.expect(429);
        assert_eq!(limited.header("ratelimit-policy"), "\"client\";q=20;w=3600");
    }
}

#[tokio::test]
async fn the_engine_holds_no_names_and_no_addresses() {
    let Some(engine) = Engine::start().await else { return };
    let members = members(&engine, 1, "deadline = \"5s\"").await;
    assert_eq!(admitted(&members, 3).await, 3);
    let keys = engine.tell(&["KEYS", "*"]);
    let limits: Vec<_> = keys.lines().filter(|key| key.starts_with("callgate:limit:{")).collect();
    // client, caller, account
    assert_eq!(limits.len(), 3, "{keys}");
    let values: String = limits.iter().map(|key| engine.tell(&["GET", key])).collect();
    for name in ["127.0.0.1", "alice", "acme", "client"] {
        assert!(!keys.contains(name), "{name}: {keys}");
    }
    assert!(values.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_whitespace()), "{values}");
    for key in limits {
        let life: i64 = engine.tell(&["PTTL", key]).trim().parse().unwrap();
        assert!(life > 0, "{key} stays for ever");
    }
}

#[tokio::test]
async fn members_with_another_prefix_or_key_count_apart() {
    let Some(engine) = Engine::start().await else { return };
    let one = members(&engine, 1, "deadline = \"5s\"").await;
    let other = members(&engine, 1, "deadline = \"5s\"\nprefix = \"other\"").await;
    assert_eq!(admitted(&one, 21).await, 20);
    assert_eq!(admitted(&other, 21).await, 20);
}
