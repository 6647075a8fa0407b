use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::time::sleep;

use super::super::record::fields;
use super::*;
use crate::config::SharedConfig;
use crate::members::{EngineScript, TestEngine};
use crate::model::key_ring::KeyRing;
use crate::state::Store;

/// A member, with the changes that it learned of from others.
struct Member {
    engine: Arc<SharedEngine>,
    freezes: Arc<Freezes>,
    sharing: Arc<FreezeSharing>,
    changes: Arc<Mutex<Vec<(String, bool)>>>,
}

impl Member {
    /// Starts a member that knows what a store holds, and does not follow the others yet.
    async fn start(engine: &TestEngine, store: Store) -> Self {
        let freezes = Arc::new(Freezes::new(Arc::new(store)));
        let sharing = Arc::new(FreezeSharing::new(Arc::clone(&freezes)));
        Self { engine: engine.reach().await, freezes, sharing, changes: Arc::default() }
    }

    async fn following(engine: &TestEngine) -> Self {
        let member = Self::start(engine, Store::in_memory()).await;
        member.follow();
        member
    }

    fn follow(&self) {
        let changes = Arc::clone(&self.changes);
        let note = move |target: &FreezeTarget, freeze: Option<&Freeze>| {
            changes.lock().unwrap().push((target.to_string(), freeze.is_some()));
        };
        tokio::spawn(Arc::clone(&self.sharing).follow(Arc::clone(&self.engine), note));
    }

    async fn freeze(&self, whom: &str, why: &str) -> MembersTold {
        self.sharing.freeze(&self.engine, &whom.parse().unwrap(), freeze(why)).await.unwrap()
    }

    async fn thaw(&self, whom: &str) -> Option<MembersTold> {
        self.sharing.thaw(&self.engine, &whom.parse().unwrap()).await.unwrap()
    }

    /// Reads everything again, as after a connection.
    async fn synchronize(&self) -> bool {
        self.sharing.synchronize(&self.engine, &|_: &FreezeTarget, _: Option<&Freeze>| {}).await
    }

    fn why(&self, whom: &str) -> Option<String> {
        self.freezes.list().into_iter().find(|(name, _)| name == whom).map(|(_, freeze)| freeze.why)
    }

    async fn until(&self, whom: &str, why: Option<&str>) {
        for _ in 0..2000 {
            if self.why(whom).as_deref() == why {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{whom}: {:?}, not {why:?}", self.why(whom));
    }
}

fn freeze(why: &str) -> Freeze {
    Freeze { since: Timestamp::now(), until: None, by: "uid 0".to_owned(), why: why.to_owned(), shared: None }
}

const ANN: &str = "account 40@acme.test";

/// Lets members whose engine is away decide alone.
fn away() -> Arc<SharedEngine> {
    SharedEngine::new(TestEngine::config_at("/nowhere.sock".into()))
}

#[tokio::test]
async fn a_freeze_and_a_thaw_of_one_member_reach_the_others_once() {
    let Some(engine) = TestEngine::start() else { return };
    let (one, other) = (Member::following(&engine).await, Member::following(&engine).await);
    assert_eq!(one.freeze(ANN, "calls").await, MembersTold::Told);
    other.until(ANN, Some("calls")).await;
    assert_eq!(other.freeze(ANN, "more calls").await, MembersTold::Told);
    one.until(ANN, Some("more calls")).await;
    assert_eq!(one.thaw(ANN).await, Some(MembersTold::Told));
    other.until(ANN, None).await;
    assert_eq!(other.thaw(ANN).await, None);
    one.freeze(ANN, "again").await;
    other.until(ANN, Some("again")).await;
    let changes =
        |member: &Member| member.changes.lock().unwrap().iter().map(|(_, is_frozen)| *is_frozen).collect::<Vec<_>>();
    assert_eq!(changes(&other), [true, false, true]);
    assert_eq!(changes(&one), [true], "its own orders are no news");
}

#[tokio::test]
async fn a_member_that_starts_learns_all_and_tells_what_only_it_knows() {
    let Some(engine) = TestEngine::start() else { return };
    let one = Member::following(&engine).await;
    for number in 0..500 {
        one.freeze(&format!("account {number}@acme.test"), "many").await;
    }
    let store = Store::in_memory();
    store.freeze("domain other.test", freeze("while it was alone")).await.unwrap();
    let late = Member::start(&engine, store).await;
    late.follow();
    one.until("domain other.test", Some("while it was alone")).await;
    assert_eq!(late.freezes.list().len(), 501);
    assert_eq!(one.freezes.list().len(), 501);
}

#[tokio::test]
async fn an_engine_that_was_emptied_is_told_everything_again() {
    let Some(engine) = TestEngine::start() else { return };
    let (one, other) =
        (Member::start(&engine, Store::in_memory()).await, Member::start(&engine, Store::in_memory()).await);
    one.freeze(ANN, "calls").await;
    one.freeze("user ann", "calls").await;
    assert!(other.synchronize().await);
    other.thaw("user ann").await;
    assert_eq!(other.engine.ask::<String>(&redis::cmd("FLUSHALL")).await.unwrap(), "OK");
    // The one that does not know of the thaw comes first.
    assert!(one.synchronize().await && other.synchronize().await && one.synchronize().await);
    for member in [&one, &other] {
        assert_eq!(member.why(ANN).as_deref(), Some("calls"));
        assert_eq!(member.why("user ann"), None);
    }
}

#[tokio::test]
async fn orders_that_were_given_apart_meet_and_no_freeze_is_lost() {
    let Some(engine) = TestEngine::start() else { return };
    let (one, other) =
        (Member::start(&engine, Store::in_memory()).await, Member::start(&engine, Store::in_memory()).await);
    one.freeze(ANN, "known").await;
    one.freeze("user ann", "known").await;
    one.freeze("domain acme.test", "known").await;
    assert!(other.synchronize().await);
    let target = |whom: &str| whom.parse::<FreezeTarget>().unwrap();
    // One cannot reach the engine, thaws all three, and freezes one of them again.
    for whom in [ANN, "user ann", "domain acme.test"] {
        assert_eq!(one.sharing.thaw(&away(), &target(whom)).await, Ok(Some(MembersTold::Later)));
    }
    let again = one.sharing.freeze(&away(), &target("domain acme.test"), freeze("again")).await;
    assert_eq!(again, Ok(MembersTold::Later));
    // Meanwhile the other one freezes one of them anew, and thaws another.
    other.freeze(ANN, "anew").await;
    other.thaw("domain acme.test").await;
    assert!(one.synchronize().await && other.synchronize().await && one.synchronize().await);
    for member in [&one, &other] {
        assert_eq!(member.why(ANN).as_deref(), Some("anew"), "a thaw ends the freeze that it was given for");
        assert_eq!(member.why("user ann"), None);
        assert_eq!(member.why("domain acme.test").as_deref(), Some("again"), "the freeze is the later order");
    }
}

#[tokio::test]
async fn a_member_with_a_slow_clock_gives_later_orders() {
    let Some(engine) = TestEngine::start() else { return };
    let (fast, slow) = (Member::following(&engine).await, Member::following(&engine).await);
    let ahead = u64::try_from(Timestamp::now().as_microsecond()).unwrap() + 600_000_000;
    fast.sharing.latest.store(ahead, Ordering::Release);
    fast.freeze(ANN, "calls").await;
    slow.until(ANN, Some("calls")).await;
    assert_eq!(slow.thaw(ANN).await, Some(MembersTold::Told));
    fast.until(ANN, None).await;
    slow.freeze(ANN, "again").await;
    fast.until(ANN, Some("again")).await;
    // One that has not heard of the latest order yet gives a later one all the same.
    let deaf = Member::start(&engine, Store::in_memory()).await;
    assert_eq!(deaf.freeze(ANN, "deaf").await, MembersTold::Told);
    fast.until(ANN, Some("deaf")).await;
}

#[tokio::test]
async fn the_engine_sees_no_names_and_changes_no_order() {
    let Some(engine) = TestEngine::start() else { return };
    let one = Member::start(&engine, Store::in_memory()).await;
    one.freeze(ANN, "calls to Cuba").await;
    let key = one.engine.names().plain("freezes");
    let rows: Vec<(Vec<u8>, Vec<u8>)> = one.engine.ask(redis::cmd("HGETALL").arg(key.as_str())).await.unwrap();
    let [(field, value)] = &rows[..] else { panic!("{rows:?}") };
    for secret in ["acme", "40", "Cuba", "uid"] {
        let is_in = |bytes: &[u8]| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
        assert!(!is_in(&value[17..]) && !is_in(field.split(|byte| *byte == b'}').next().unwrap()), "{secret}");
    }
    let life: i64 = one.engine.ask(redis::cmd("PTTL").arg(key.as_str())).await.unwrap();
    assert!(life > 0, "{life}");
    // A version that no member gave is not read, and neither is what only looks like a record.
    let mut forged = b"9".to_vec();
    forged.extend(value);
    for (name, value) in [(&field[..], &forged[..]), (b"other", b"1 forged"), (b"third", b"")] {
        one.engine.ask::<u64>(redis::cmd("HSET").arg(key.as_str()).arg(name).arg(value)).await.unwrap();
    }
    let table = table::read(&one.engine, |_| false).await.unwrap();
    assert_eq!((table.by_target.len(), table.unreadable), (0, 3));
    assert!(one.synchronize().await);
    assert_eq!(one.why(ANN).as_deref(), Some("calls to Cuba"));
}

#[tokio::test]
async fn a_version_above_all_that_members_give_is_not_followed() {
    let Some(engine) = TestEngine::start() else { return };
    let one = Member::start(&engine, Store::in_memory()).await;
    let value = |version| {
        let record = FreezeRecord { version, whom: ANN.to_owned(), freeze: Some(freeze("far ahead")) };
        FreezeRecord::of_value(&one.engine, &record.to_value(&one.engine)).map(|record| record.version)
    };
    assert_eq!([u64::MAX, ANY_VERSION, ANY_VERSION - 1].map(value), [None, None, Some(ANY_VERSION - 1)]);
    assert_eq!(one.freeze(ANN, "calls").await, MembersTold::Told);
}

/// Puts a value into the field of a target.
async fn plant(member: &Member, whom: &str, value: &[u8]) {
    let field = fields(&member.engine, whom).remove(0);
    let mut set = redis::cmd("HSET");
    set.arg(member.engine.names().plain("freezes").as_str()).arg(field.as_str()).arg(value);
    member.engine.ask::<u64>(&set).await.unwrap();
}

#[tokio::test]
async fn a_value_that_no_member_wrote_stands_in_no_order_s_way() {
    let Some(engine) = TestEngine::start() else { return };
    let (one, other) = (Member::start(&engine, Store::in_memory()).await, Member::following(&engine).await);
    let planted = b"9007199254740990 planted";
    let unreadable = async || table::read(&one.engine, |_| false).await.unwrap().unreadable;
    for value in [&planted[..], &[planted, &[b'x'; 1 << 20][..]].concat()] {
        plant(&one, ANN, value).await;
        plant(&one, "user ann", value).await;
        assert_eq!(unreadable().await, 2);
        assert_eq!(one.freeze(ANN, "calls").await, MembersTold::Told);
        other.until(ANN, Some("calls")).await;
        assert_eq!(one.thaw("user ann").await, Some(MembersTold::Told), "it is removed");
        assert_eq!((one.thaw("user ann").await, unreadable().await), (None, 0));
        // A freeze that all know is written again.
        plant(&one, ANN, value).await;
        assert!(one.synchronize().await);
        assert_eq!(table::read(&one.engine, |_| false).await.unwrap().by_target.len(), 1);
        assert_eq!(one.thaw(ANN).await, Some(MembersTold::Told));
        other.until(ANN, None).await;
    }
}

#[tokio::test]
async fn a_full_table_takes_no_order_and_is_no_reason_to_ask_again_at_once() {
    let Some(engine) = TestEngine::start() else { return };
    let one = Member::start(&engine, Store::in_memory()).await;
    let fill = EngineScript::new("for at = 1, 20000 do redis.call('HSET', KEYS[1], at, 'x') end return 0");
    assert_eq!(one.engine.run_script::<u64>(&fill, &[one.engine.names().plain("freezes")], &[]).await, Ok(0));
    assert_eq!(one.freeze(ANN, "calls").await, MembersTold::Full);
    // On a busy machine, so many fields may not be read before the deadline.
    let is_read = async || table::read(&one.engine, |_| false).await.is_ok_and(|table| table.unreadable == 20_000);
    let mut done = (false, false);
    for _ in 0..20 {
        done = (done.0 || one.synchronize().await, done.1 || is_read().await);
        if done == (true, true) {
            break;
        }
        sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(done, (true, true));
}

#[tokio::test]
async fn what_is_over_for_long_leaves_the_engine_and_comes_back_to_no_member() {
    let Some(engine) = TestEngine::start() else { return };
    let one = Member::start(&engine, Store::in_memory()).await;
    let days = |days: i64| Timestamp::now() - SignedDuration::from_hours(24 * days);
    let ended = Freeze { until: Some(days(8)), ..freeze("over") };
    let old_version = u64::try_from(days(8).as_microsecond()).unwrap();
    for (whom, version, freeze) in [
        ("user ann", 1, Some(ended)),
        ("user bob", old_version, None),
        ("user eve", old_version, Some(freeze("holds"))),
    ] {
        let record = FreezeRecord { version, whom: whom.to_owned(), freeze };
        assert_eq!(table::put(&one.engine, &record, ANY_VERSION).await, Ok(PutOutcome::Stored));
    }
    assert!(one.synchronize().await);
    assert_eq!(one.freezes.list().into_iter().map(|(whom, _)| whom).collect::<Vec<_>>(), ["user eve"]);
    let table = table::read(&one.engine, |_| false).await.unwrap();
    assert_eq!(table.by_target.into_keys().collect::<Vec<_>>(), ["user eve"]);
}

#[tokio::test]
async fn an_order_is_told_once_the_engine_is_there() {
    let Some(engine) = TestEngine::start() else { return };
    let other = Member::following(&engine).await;
    let one = Member::start(&engine, Store::in_memory()).await;
    one.follow();
    assert_eq!(one.sharing.freeze(&away(), &ANN.parse().unwrap(), freeze("later")).await, Ok(MembersTold::Later));
    other.until(ANN, Some("later")).await;
}

#[tokio::test]
async fn freezes_and_thaws_get_the_key_that_writes_before_the_old_one_is_dropped() {
    let Some(engine) = TestEngine::start() else { return };
    let ring = |keys: &[u8]| {
        let lines: Vec<_> = keys.iter().map(|byte| BASE64_STANDARD.encode([*byte; 32])).collect();
        SharedConfig { keys: KeyRing::parse(&lines.join("\n")).unwrap(), ..engine.config() }
    };
    let mut one = Member::start(&engine, Store::in_memory()).await;
    one.freeze(ANN, "calls").await;
    one.freeze("domain other.test", "calls").await;
    one.thaw("domain other.test").await;
    one.engine = engine.reach_with(ring(&[2, 1])).await;
    let dropped = engine.reach_with(ring(&[2])).await;
    for _ in 0..2 {
        assert!(one.synchronize().await);
        let table = table::read(&one.engine, |_| false).await.unwrap();
        assert_eq!((table.by_target.len(), table.unreadable), (2, 0));
    }
    let table = table::read(&dropped, |_| false).await.unwrap();
    assert_eq!((table.by_target.len(), table.unreadable, table.under_older_key.len()), (2, 0, 0));
}
