use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::future::join_all;
use jiff::SignedDuration;
use rustix::process::Signal;
use tokio::time::sleep;

use super::*;
use crate::config::SharedConfig;
use crate::members::TestEngine;

fn later(seconds: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_secs(seconds)
}

/// A ring of keys, each of one byte.
fn ring(keys: &[u8]) -> KeyRing {
    let lines: Vec<_> = keys.iter().map(|byte| BASE64_STANDARD.encode([*byte; 32])).collect();
    KeyRing::parse(&lines.join("\n")).unwrap()
}

/// Starts a member whose engine has known its generation for long.
async fn member_with(server: &TestEngine, config: SharedConfig) -> Arc<OnceStore> {
    let engine = server.reach_with(config).await;
    let mut set = redis::cmd("SET");
    set.arg(engine.names().plain("generation").as_str()).arg("kept 1000").arg("NX");
    engine.ask::<Option<String>>(&set).await.unwrap();
    let once = OnceStore::new(Arc::new(Store::in_memory()), Some(engine));
    tokio::spawn(Arc::clone(&once).keep_engine_informed());
    once
}

async fn member(server: &TestEngine) -> Arc<OnceStore> {
    member_with(server, server.config()).await
}

fn local(server: &TestEngine) -> SharedConfig {
    SharedConfig { marks_when_down: MarksWhenDown::Local, ..server.config() }
}

fn engine(member: &OnceStore) -> &SharedEngine {
    member.shared.as_ref().unwrap().engine()
}

async fn until_missed(member: &OnceStore) {
    while engine(member).problem().is_none() {
        sleep(Duration::from_millis(5)).await;
    }
}

/// What a mark is refused with while the engine cannot be used.
const DOWN: Result<(), MarkError> = Err(MarkError::Unkept(KeepError::EngineDown));
const USED: Result<(), MarkError> = Err(MarkError::AlreadyUsed);

#[tokio::test]
async fn of_four_members_one_wins_each_of_a_thousand_races() {
    let Some(server) = TestEngine::start() else { return };
    let members = [member(&server).await, member(&server).await, member(&server).await, member(&server).await];
    for race in 0..1_000_u32 {
        let racers = members.iter().map(|member| {
            let member = Arc::clone(member);
            tokio::spawn(async move { member.mark("link", &race.to_be_bytes(), later(60)).await })
        });
        let results: Vec<_> = join_all(racers).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "race {race}: {results:?}");
        assert_eq!(results.iter().filter(|result| **result == USED).count(), 3, "race {race}: {results:?}");
    }
}

#[tokio::test]
async fn a_mark_of_one_member_is_known_to_all() {
    let Some(server) = TestEngine::start() else { return };
    let (one, other) = (member(&server).await, member(&server).await);
    assert_eq!(one.mark("link", b"a", later(60)).await, Ok(()));
    for member in [&one, &other] {
        assert!(member.is_marked("link", b"a").await && !member.is_marked("jti", b"a").await);
        assert_eq!(member.mark("link", b"a", later(60)).await, USED);
    }
    assert!(!other.is_marked("link", b"b").await);
    assert_eq!(other.mark("link", b"b", later(60)).await, Ok(()), "looking marks nothing");
}

#[tokio::test]
async fn members_in_the_middle_of_a_rotation_know_each_others_marks() {
    let Some(server) = TestEngine::start() else { return };
    let with = |keys: &[u8]| SharedConfig { keys: ring(keys), ..server.config() };
    let (before, after) = (member_with(&server, with(&[1, 2])).await, member_with(&server, with(&[2, 1])).await);
    for (first, second, id) in [(&before, &after, b"a"), (&after, &before, b"b")] {
        assert_eq!(first.mark("link", id, later(60)).await, Ok(()));
        assert_eq!(second.mark("link", id, later(60)).await, USED);
        assert!(second.is_marked("link", id).await);
        first.keep_ticket([id[0]; 32], vec![1], later(60)).await.unwrap();
        assert_eq!(second.take_ticket([id[0]; 32]).await, Ok(Some(vec![1])));
        assert_eq!(first.take_ticket([id[0]; 32]).await, Ok(None));
        first.end_logins("sub", id, later(0), later(60)).await.unwrap();
        assert!(second.is_ended("sub", id, later(-1)).await);
    }
}

#[tokio::test]
async fn while_the_engine_is_away_marks_are_refused_or_made_here() {
    let Some(mut server) = TestEngine::start() else { return };
    let (strict, lenient) = (member(&server).await, member_with(&server, local(&server)).await);
    let other = member_with(&server, local(&server)).await;
    for (member, id) in [(&strict, b"a"), (&lenient, b"b")] {
        assert_eq!(member.mark("link", id, later(60)).await, Ok(()));
    }
    server.kill();
    for member in [&strict, &lenient, &other] {
        until_missed(member).await;
    }
    assert_eq!(strict.mark("link", b"c", later(60)).await, DOWN);
    assert_eq!(strict.mark("link", b"a", later(60)).await, USED, "it knows its own marks");
    assert!(strict.is_marked("link", b"a").await && !strict.is_marked("link", b"b").await);
    for member in [&lenient, &other] {
        assert_eq!(member.mark("link", b"c", later(60)).await, Ok(()), "once at each member");
        assert_eq!(member.mark("link", b"c", later(60)).await, USED);
    }
    assert_eq!(lenient.mark("link", b"b", later(60)).await, USED);
    // What was made meanwhile is written back.
    assert_eq!(lenient.mark("link", b"d", later(60)).await, Ok(()));
    server.start_again();
    while !other.is_marked("link", b"d").await {
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(other.mark("link", b"d", later(60)).await, USED);
}

#[tokio::test]
async fn an_engine_that_was_emptied_makes_nothing_usable_again() {
    let Some(server) = TestEngine::start() else { return };
    let (one, other) = (member(&server).await, member(&server).await);
    assert_eq!(one.mark("link", b"a", later(60)).await, Ok(()));
    let at = later(0);
    one.end_logins("sub", b"ann", at, later(60)).await.unwrap();
    assert_eq!(other.mark("link", b"b", later(60)).await, Ok(()));
    // Its connections stay.
    engine(&one).ask::<String>(&redis::cmd("FLUSHALL")).await.unwrap();
    assert_eq!(other.mark("link", b"c", later(60)).await, DOWN, "the engine is not relied on at first");
    loop {
        match other.mark("link", b"a", later(60)).await {
            Ok(()) => panic!("it was used twice"),
            Err(MarkError::AlreadyUsed) => break,
            Err(MarkError::Unkept(error)) => assert_eq!(error, KeepError::EngineDown),
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert!(other.is_ended("sub", b"ann", at).await);
    assert_eq!(other.mark("link", b"c", later(60)).await, Ok(()));
}

#[tokio::test]
async fn a_new_engine_is_not_relied_on_at_first() {
    let Some(server) = TestEngine::start() else { return };
    let start = |config| async { OnceStore::new(Arc::new(Store::in_memory()), Some(server.reach_with(config).await)) };
    let (strict, lenient) = (start(server.config()).await, start(local(&server)).await);
    assert_eq!(strict.mark("link", b"a", later(60)).await, DOWN);
    assert_eq!(lenient.mark("link", b"a", later(60)).await, Ok(()));
    while strict.mark("link", b"b", later(60)).await == DOWN {
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(strict.mark("link", b"a", later(60)).await, USED);
    let mut life = redis::cmd("PTTL");
    let life: i64 = engine(&strict).ask(life.arg("test:generation")).await.unwrap();
    assert_eq!(life, -1, "it does not expire");
}

#[tokio::test]
async fn a_mark_that_the_engine_does_not_confirm_is_refused() {
    let Some(server) = TestEngine::start() else { return };
    let patient = member_with(&server, local(&server)).await;
    let hasty = SharedConfig { deadline: Duration::from_millis(200), ..local(&server) };
    let hasty = member_with(&server, hasty).await;
    while hasty.mark("link", b"first", later(60)).await == DOWN {
        sleep(Duration::from_millis(20)).await;
    }
    server.signal(Signal::STOP);
    assert_eq!(hasty.mark("link", b"a", later(60)).await, DOWN, "nothing is made here: the engine may have made it");
    assert!(!hasty.store.is_marked("link", b"a"));
    server.signal(Signal::CONT);
    while !patient.is_marked("link", b"a").await {
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(patient.mark("link", b"a", later(60)).await, USED, "the engine has made it");
}

#[tokio::test]
async fn what_is_kept_expires_by_the_engine_s_clock_and_after_that_of_a_late_member() {
    let Some(server) = TestEngine::start() else { return };
    let member = member(&server).await;
    let names = engine(&member).names();
    member.mark("link", b"a", later(60)).await.unwrap();
    member.mark("link", b"over", later(-300)).await.unwrap();
    member.keep_ticket([1; 32], vec![1], later(30)).await.unwrap();
    member.end_logins("sub", b"ann", later(0), later(3600)).await.unwrap();
    let minutes = 10 * 60_000;
    for (name, least, most) in [
        (names.of("mark", &[&Store::key("link", b"a")]), minutes, minutes + 60_000),
        (names.of("mark", &[&Store::key("link", b"over")]), minutes / 4, minutes / 2),
        (names.of("ticket", &[&[1; 32]]), 1, 30_000),
        (names.of("ended", &[&Store::key("sub", b"ann")]), minutes, minutes + 3_600_000),
    ] {
        let mut life = redis::cmd("PTTL");
        let life: i64 = engine(&member).ask(life.arg(name.as_str())).await.unwrap();
        assert!((least..=most).contains(&life), "{name:?}: {life}");
    }
}

#[tokio::test]
async fn a_ticket_of_one_member_is_taken_once_at_any() {
    let Some(mut server) = TestEngine::start() else { return };
    let (one, other) = (member(&server).await, member(&server).await);
    for ticket in 0..50 {
        one.keep_ticket([ticket; 32], b"sealed".to_vec(), later(60)).await.unwrap();
        let taken = join_all([&one, &other, &other, &one].map(|member| member.take_ticket([ticket; 32]))).await;
        let taken: Vec<_> = taken.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(taken, [b"sealed".to_vec()]);
    }
    one.keep_ticket([60; 32], b"lost".to_vec(), later(60)).await.unwrap();
    server.kill();
    until_missed(&one).await;
    assert_eq!(one.take_ticket([60; 32]).await, Ok(None));
    one.keep_ticket([61; 32], b"here".to_vec(), later(60)).await.unwrap();
    assert_eq!(other.take_ticket([61; 32]).await, Ok(None));
    server.start_again();
    engine(&one).reached().wait_for(|times| *times > 1).await.unwrap();
    assert_eq!(one.take_ticket([61; 32]).await, Ok(Some(b"here".to_vec())));
    assert_eq!(one.take_ticket([61; 32]).await, Ok(None));
}

#[tokio::test]
async fn a_login_that_ends_at_one_member_has_ended_at_all() {
    let Some(mut server) = TestEngine::start() else { return };
    let (one, other) = (member(&server).await, member(&server).await);
    let at = later(0);
    one.end_logins("sub", b"ann", at, later(60)).await.unwrap();
    for member in [&one, &other] {
        assert!(member.is_ended("sub", b"ann", at).await && member.is_ended("sub", b"ann", later(-3600)).await);
        assert!(!member.is_ended("sub", b"ann", at + SignedDuration::from_secs(1)).await, "a later login is another");
        assert!(!member.is_ended("sub", b"bob", at).await && !member.is_ended("sid", b"ann", at).await);
    }
    // An older logout that arrives late makes no later one forgotten.
    other.end_logins("sub", b"ann", at - SignedDuration::from_secs(5), later(1)).await.unwrap();
    let third = member(&server).await;
    assert!(third.is_ended("sub", b"ann", at).await);
    server.kill();
    until_missed(&one).await;
    until_missed(&third).await;
    assert!(one.is_ended("sub", b"ann", at).await && !third.is_ended("sub", b"ann", at).await, "by what it knows");
    one.end_logins("sub", b"bob", at, later(60)).await.unwrap();
    server.start_again();
    while !third.is_ended("sub", b"bob", at).await {
        sleep(Duration::from_millis(5)).await;
    }
    assert!(third.is_ended("sub", b"ann", at).await, "what the engine lost is written back");
}

#[tokio::test]
async fn a_new_engine_gets_another_memory_and_the_same_one_keeps_it() {
    let Some(server) = TestEngine::start() else { return };
    let one = member(&server).await;
    let engine = Arc::clone(one.shared.as_ref().unwrap().engine());
    assert!(Arc::ptr_eq(&one, &one.successor(Some(&engine))));
    let alone = one.successor(None);
    assert!(alone.shared.is_none() && Arc::ptr_eq(&alone, &alone.successor(None)));
    let again = alone.successor(Some(&server.reach().await));
    assert!(again.ring().is_some() && Arc::ptr_eq(&again.store, &one.store));
}

#[tokio::test]
async fn the_engine_holds_neither_ids_nor_scopes() {
    let Some(server) = TestEngine::start() else { return };
    let member = member(&server).await;
    member.mark("canary-scope", b"canary-id", later(60)).await.unwrap();
    member.end_logins("canary-scope", b"canary-id", later(0), later(60)).await.unwrap();
    let mut all = redis::cmd("KEYS");
    let names: Vec<String> = engine(&member).ask(all.arg("*")).await.unwrap();
    assert_eq!(
        names.iter().filter(|name| name.starts_with("test:mark:{") || name.starts_with("test:ended:{")).count(),
        2
    );
    assert!(names.iter().all(|name| !name.contains("canary")), "{names:?}");
}
