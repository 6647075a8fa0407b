//! Faults of the engine that members share: it is away, slow, full, restarted empty, or lies. The documents say what each
//! decision does then (docs/scale.md).

use crate::kit::engine::Engine;
use crate::kit::stage::until;
use crate::members::quotas::{admitted, members, reached, readiness};

#[tokio::test]
async fn while_the_engine_is_away_each_member_has_its_part_of_a_quota() {
    let Some(mut engine) = Engine::start().await else { return };
    let members = members(&engine, 2, "members = 2\ndeadline = \"5s\"").await;
    engine.kill();
    for member in &members {
        until("the engine is missed", || !readiness(member).contains("shared: ok")).await;
    }
    assert_eq!(admitted(&members, 60).await, 20, "ten of each");
    engine.restart().await;
    for member in &members {
        reached(member).await;
    }
    // It is empty: what was counted before is forgotten.
    assert_eq!(admitted(&members, 40).await, 20);
}

#[tokio::test]
async fn a_member_starts_while_the_engine_is_away() {
    let Some(mut engine) = Engine::start().await else { return };
    engine.kill();
    let shared = engine.shared("members = 4");
    let plan = crate::kit::stage::Plan { more: &shared, ..crate::kit::stage::Plan::default() };
    let member = plan.start().await;
    until("the engine is missed", || !readiness(&member).contains("shared: ok")).await;
    member.as_alice("/auth/pbx").send().await.expect(303);
    let events = engine.lines_of(&member.gate.events());
    assert_eq!(events.matches("the shared engine cannot be used: ").count(), 1, "{events}");
    engine.restart().await;
    reached(&member).await;
    member.as_alice("/auth/pbx").send().await.expect(303);
    let events = engine.lines_of(&member.gate.events());
    assert_eq!(events.matches("the shared engine is used").count(), 1, "{events}");
}

#[tokio::test]
async fn an_engine_that_refuses_to_name_its_generation_is_complained_of() {
    let Some(engine) = Engine::start().await else { return };
    let members = members(&engine, 1, "deadline = \"5s\"").await;
    until("it has a generation", || engine.tell(&["EXISTS", "callgate:generation"]).trim() == "1").await;
    engine.tell(&["DEL", "callgate:generation"]);
    engine.tell(&["HSET", "callgate:generation", "a", "1"]);
    until("it is told", || readiness(&members[0]).contains("shared: WRONGTYPE: ")).await;
    let events = engine.lines_of(&members[0].gate.events());
    assert_eq!(events.matches("the shared engine is used, with a problem: WRONGTYPE").count(), 1, "{events}");
}

#[tokio::test]
async fn an_engine_that_does_not_answer_is_left_after_three_deadlines() {
    let Some(engine) = Engine::start().await else { return };
    let members = members(&engine, 1, "members = 2\ndeadline = \"100ms\"").await;
    engine.stop();
    assert_eq!(admitted(&members, 30).await, 10, "its part, from the first login on");
    let problem = readiness(&members[0]);
    assert!(problem.contains("shared: it did not answer within 100ms"), "{problem}");
    engine.go_on();
    reached(&members[0]).await;
    let events = engine.lines_of(&members[0].gate.events());
    for said in ["the shared engine cannot be used: ", "the shared engine is used again"] {
        assert_eq!(events.matches(said).count(), 1, "{said}: {events}");
    }
}

#[tokio::test]
async fn a_full_engine_is_left() {
    let Some(engine) = Engine::start().await else { return };
    let members = members(&engine, 1, "members = 2\ndeadline = \"5s\"").await;
    engine.tell(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(admitted(&members, 30).await, 10);
    until("the engine is full", || readiness(&members[0]).contains("shared: OOM")).await;
    engine.tell(&["CONFIG", "SET", "maxmemory", "0"]);
    reached(&members[0]).await;
}

#[tokio::test]
async fn values_that_are_none_of_ours_count_as_missing_or_as_a_fault() {
    let Some(engine) = Engine::start().await else { return };
    let members = members(&engine, 1, "members = 2\ndeadline = \"5s\"").await;
    assert_eq!(admitted(&members, 1).await, 1);
    let keys = engine.tell(&["KEYS", "callgate:limit:*"]);
    let keys: Vec<_> = keys.lines().collect();
    // A time in a far future keeps out for no longer than the quota, and a word for no time.
    engine.tell(&["SET", keys[0], "99999999999999 0"]);
    for key in &keys[1..] {
        engine.tell(&["SET", key, "nonsense"]);
    }
    let answer = members[0].as_alice("/auth/pbx").send().await;
    if answer.status == 429 {
        assert!(answer.header("retry-after").parse::<u32>().unwrap() <= 3600);
    }
    // A value of another type is a fault: this member decides alone.
    for key in &keys {
        engine.tell(&["DEL", key]);
        engine.tell(&["RPUSH", key, "x"]);
    }
    assert_eq!(admitted(&members, 30).await, 10);
}
