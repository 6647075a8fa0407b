//! One breaker for all members: the PBX bans addresses that show a wrong administrator's password.

use crate::kit::engine::Engine;
use crate::kit::stage::{Plan, until};
use crate::members::freezes::two_members;

#[tokio::test]
async fn a_refused_administrator_at_one_member_stops_all_and_one_of_them_probes() {
    let Some(engine) = Engine::start().await else { return };
    let [one, other] = two_members(&engine, Plan::default).await;
    let alice = one.app.log_in("alice");
    one.pbx_does(|faults| faults.refuse_after = Some(0));
    one.gate.get("/auth/pbx").cookie(&alice).send().await.expect(503);
    assert_eq!(one.minted().len(), 1);
    until("the other member knows it", || {
        other.gate.told("/readyz").contains("breaker: the PBX refused the administrator's credentials")
    })
    .await;
    for member in [&one, &other] {
        let refused = member.gate.get("/auth/pbx").cookie(&alice).send().await.expect(503);
        assert!((1..=60).contains(&refused.header("retry-after").parse::<u32>().unwrap()));
    }
    assert_eq!(one.minted().len(), 1, "none of them asked");

    // The minute is over, and many ask at once.
    let key = engine.tell(&["KEYS", "callgate:breaker:*"]).trim().to_owned();
    engine.tell(&["HSET", &key, "open", "1"]);
    let logins = (0..10).flat_map(|_| [&one, &other]).map(|member| async {
        member.gate.get("/auth/pbx").cookie(&alice).send().await.expect(503);
    });
    futures_util::future::join_all(logins).await;
    assert_eq!(one.minted().len(), 2, "one probe");

    one.pbx_does(|faults| faults.refuse_after = None);
    engine.tell(&["HSET", &key, "open", "1"]);
    other.gate.get("/auth/pbx").cookie(&alice).send().await.expect(303);
    one.gate.get("/auth/pbx").cookie(&alice).send().await.expect(303);
    until("it is closed at both", || [&one, &other].iter().all(|one| one.gate.told("/readyz").contains(" 200 "))).await;
}

#[tokio::test]
async fn while_the_engine_is_away_each_member_has_a_breaker_of_its_own() {
    let Some(mut engine) = Engine::start().await else { return };
    let [one, other] = two_members(&engine, Plan::default).await;
    let alice = one.app.log_in("alice");
    engine.kill();
    for member in [&one, &other] {
        until("the engine is missed", || !member.gate.told("/readyz?verbose").contains("shared: ok")).await;
    }
    one.pbx_does(|faults| faults.refuse_after = Some(0));
    for _ in 0..3 {
        for member in [&one, &other] {
            member.gate.get("/auth/pbx").cookie(&alice).send().await.expect(503);
        }
    }
    assert_eq!(one.minted().len(), 2, "one request of each");
}
