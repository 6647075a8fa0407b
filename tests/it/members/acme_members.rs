//! Members that share their certificates from an ACME server. The server is `pebble`, and its checks reach one member.

use std::net::TcpListener;

use rustls::pki_types::CertificateDer;
use tokio::time::{Duration, Instant, sleep};

use crate::kit::commands::Running;
use crate::kit::engine::Engine;
use crate::kit::gate::secret;
use crate::kit::pebble::{Pebble, free_port};
use crate::kit::stage::until;
use crate::kit::vodia::{Options, Tenant, Vodia};
use crate::operate::acme::AcmeGate;

const ISSUED: &str = "a certificate was issued";
const TAKEN: &str = "the certificate that another member got is used";

/// Writes the configuration of a member. `has_http`: names are checked over HTTP, else over TLS.
fn configure(gate: &AcmeGate, engine: &Engine, acme: &str, has_http: bool, tables: &str) {
    let top = if has_http { gate.redirect() } else { String::new() };
    let tables = format!("{tables}{}", engine.shared("deadline = \"5s\""));
    gate.configure_with(acme, &top, &tables);
}

/// Returns the tables of a PBX with tenants.
fn pbx(gate: &AcmeGate, vodia: &Vodia) -> String {
    secret(&gate.dir, "admin.password", &Options::default().admin_password);
    format!(
        "[pbx]\nurl = \"http://{}\"\nhosts = [\"pbx.test\", \"*.pbx.test\"]\n\
         admin = {{ user = \"sso\", password = {{ file = \"admin.password\" }} }}\n",
        vodia.addr
    )
}

async fn vodia() -> Vodia {
    let tenants = ["one.pbx.test", "two.pbx.test"].map(Tenant::with_alice_and_bob).into();
    Vodia::start(Options { tenants, ..Options::default() }).await
}

/// Runs a member, and waits until it uses the engine.
async fn run(gate: &AcmeGate) -> Running {
    let running = gate.run().await;
    until("the engine is used", || gate.told("/readyz?verbose").contains("shared: ok")).await;
    running
}

fn orders(gate: &AcmeGate, result: &str) -> u64 {
    let row = format!("callgate_acme_orders_total{{result=\"{result}\"}} ");
    let metrics = gate.told("/metrics");
    metrics.lines().find_map(|line| line.strip_prefix(row.as_str())).unwrap().parse().unwrap()
}

/// Makes handshakes until one succeeds, and returns the certificate: an order may end with nonces that the server refused.
async fn served(gate: &AcmeGate, root: &CertificateDer<'static>, name: &str) -> CertificateDer<'static> {
    let due = Instant::now() + Duration::from_secs(60);
    loop {
        match gate.hand_shake(root, name).await {
            Ok(tls) => return tls.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned(),
            Err(error) => assert!(Instant::now() < due, "{name}: {error}"),
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Returns the keys of a kind in the engine.
fn keys(engine: &Engine, kind: &str) -> Vec<String> {
    let keys = engine.tell(&["KEYS", &format!("callgate:{kind}:*")]);
    keys.lines().filter(|key| !key.is_empty()).map(str::to_owned).collect()
}

/// Lets one member order while the server's checks reach another one.
async fn check_answers_of_others(has_http: bool) {
    let (Some(mut pebble), Some(mut engine)) = (Pebble::new(), Engine::start().await) else { return };
    pebble.start().await;
    let vodia = vodia().await;
    let asked = AcmeGate::new(pebble.checks).await;
    let ordering = AcmeGate::new((free_port(), free_port())).await;
    let mut running = Vec::new();
    for gate in [&asked, &ordering] {
        let acme = format!("on_demand = true, {}", pebble.keys(&gate.dir));
        configure(gate, &engine, &acme, has_http, &pbx(gate, &vodia));
        running.push(run(gate).await);
    }
    let root = pebble.root().await;
    // Names on demand: the member that a client asks first is the one that orders.
    let issued = served(&ordering, &root, "one.pbx.test").await;
    assert_eq!((orders(&asked, "ok"), orders(&ordering, "ok")), (0, 1));
    let quota = keys(&engine, "order_quota");
    let used = engine.tell(&["GET", &quota[0]]);
    let taken = served(&asked, &root, "one.pbx.test").await;
    assert!(taken == issued, "each member has a certificate of its own");
    running[0].complaint(TAKEN).await;
    assert_eq!((orders(&asked, "ok"), orders(&asked, "failed")), (0, 0));
    assert_eq!(engine.tell(&["GET", &quota[0]]), used, "what is taken over costs the quota nothing");
    until("the order has ended", || keys(&engine, "order").is_empty()).await;
    check_engine(&engine);

    // The certificate is kept here, too.
    for member in running {
        member.terminate();
        member.end().await;
    }
    engine.kill();
    let _again = asked.run().await;
    assert!(served(&asked, &root, "one.pbx.test").await == issued, "it is not in the state file");
}

/// Checks that the engine cannot read what it has, and that all of it ends.
#[track_caller]
fn check_engine(engine: &Engine) {
    assert_eq!(keys(engine, "certificate").len(), 1);
    assert_eq!(keys(engine, "challenge"), [""; 0], "the order has ended");
    let all = [keys(engine, "certificate"), keys(engine, "order_quota")].concat();
    assert_eq!(all.len(), 2);
    for key in all {
        let value = engine.tell(&["--no-raw", "GET", &key]);
        for word in ["PRIVATE", "BEGIN", "pbx.test", "127.0.0.1"] {
            assert!(!value.contains(word) && !key.contains(word), "{key}: {word}");
        }
        let life: i64 = engine.tell(&["PTTL", &key]).trim().parse().unwrap();
        assert!(life > 0, "{key} stays for ever");
    }
}

#[tokio::test]
async fn a_member_answers_challenges_over_http_that_another_one_asked_for() {
    check_answers_of_others(true).await;
}

#[tokio::test]
async fn a_member_answers_challenges_over_tls_that_another_one_asked_for() {
    check_answers_of_others(false).await;
}

#[tokio::test]
async fn members_that_start_and_renew_together_order_once() {
    let (Some(mut pebble), Some(engine)) = (Pebble::new(), Engine::start().await) else { return };
    pebble.validity = 40;
    pebble.start().await;
    let members = [AcmeGate::new(pebble.checks).await, AcmeGate::new((free_port(), free_port())).await];
    for gate in &members {
        configure(gate, &engine, &format!("names = [\"one.test\"], {}", pebble.keys(&gate.dir)), true, "");
    }
    let _running = [members[0].run().await, members[1].run().await];
    let root = pebble.root().await;
    let mut last = None;
    for round in 1..=2 {
        let mut both = [served(&members[0], &root, "one.test").await, served(&members[1], &root, "one.test").await];
        let due = Instant::now() + Duration::from_secs(120);
        while both[0] != both[1] || last.as_ref() == Some(&both[0]) {
            assert!(Instant::now() < due, "round {round}");
            sleep(Duration::from_millis(100)).await;
            for (member, own) in members.iter().zip(&mut both) {
                *own = served(member, &root, "one.test").await;
            }
        }
        let orders: u64 = members.iter().map(|member| orders(member, "ok")).sum();
        assert_eq!(orders, round, "orders for both members");
        last = Some(both[0].clone());
    }
}

#[tokio::test]
async fn the_turn_of_a_member_that_dies_in_an_order_ends_by_itself() {
    let (Some(mut pebble), Some(engine)) = (Pebble::new(), Engine::start().await) else { return };
    pebble.start().await;
    // The checks of the server reach a port where no answer comes.
    let silent = [pebble.checks.0, pebble.checks.1].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    let dying = AcmeGate::new((free_port(), free_port())).await;
    let next = AcmeGate::new(pebble.checks).await;
    for gate in [&dying, &next] {
        configure(gate, &engine, &format!("names = [\"one.test\"], {}", pebble.keys(&gate.dir)), true, "");
    }
    let mut ordering = dying.run().await;
    until("it orders", || !keys(&engine, "challenge").is_empty()).await;
    ordering.signal("-KILL");
    ordering.child.wait().unwrap();
    drop(silent);
    let mut running = run(&next).await;
    running.complaint("another member orders the certificate").await;
    let turn = keys(&engine, "order");
    assert_eq!((turn.len(), orders(&next, "ok")), (1, 0));
    let life: i64 = engine.tell(&["PTTL", &turn[0]]).trim().parse().unwrap();
    assert!((1..=300_000).contains(&life), "{life}");
    for key in keys(&engine, "challenge") {
        let life: i64 = engine.tell(&["PTTL", &key]).trim().parse().unwrap();
        assert!((1..=300_000).contains(&life), "{life}");
    }
    engine.tell(&["PEXPIRE", &turn[0], "1"]);
    running.complaint(ISSUED).await;
}

#[tokio::test]
async fn an_order_that_failed_keeps_the_others_from_trying_at_once() {
    let (Some(mut pebble), Some(engine)) = (Pebble::new(), Engine::start().await) else { return };
    // The server's checks reach no member.
    let ports = pebble.checks;
    pebble.start().await;
    let members = [(); 2].map(|()| AcmeGate::new((free_port(), free_port())));
    let [one, other] = members;
    let (one, other) = (one.await, other.await);
    assert!(ports != (one.http, one.https));
    for gate in [&one, &other] {
        configure(gate, &engine, &format!("names = [\"one.test\"], {}", pebble.keys(&gate.dir)), true, "");
    }
    let mut running = run(&one).await;
    running.complaint("the server could not check the name: ").await;
    until("the others know", || keys(&engine, "order").len() == 1).await;
    let _other = run(&other).await;
    until("it waits, too", || {
        other.told("/readyz?verbose").contains("acme: one.test: the order of another member failed")
    })
    .await;
    assert_eq!((orders(&other, "ok"), orders(&other, "failed")), (0, 0));
}

#[tokio::test]
async fn no_certificate_is_ordered_while_the_engine_is_away() {
    let (Some(mut pebble), Some(mut engine)) = (Pebble::new(), Engine::start().await) else { return };
    pebble.start().await;
    let gate = AcmeGate::new(pebble.checks).await;
    let names = |names: &str| format!("names = [{names}], {}", pebble.keys(&gate.dir));
    configure(&gate, &engine, &names("\"one.test\""), true, "");
    let mut running = run(&gate).await;
    running.complaint(ISSUED).await;
    let root = pebble.root().await;
    served(&gate, &root, "one.test").await;
    let counts = || (orders(&gate, "ok"), orders(&gate, "failed"));
    // The server refuses nonces at random, so an order may have failed before.
    let before = counts();
    engine.kill();
    configure(&gate, &engine, &names("\"one.test\", \"two.test\""), true, "");
    running.signal("-HUP");
    let told = running.complaint("a certificate is due, and none is ordered").await;
    assert!(told.contains("WARN") && told.contains("two.test"), "{told}");
    let problem = "acme: two.test: no certificate is ordered while the shared engine cannot be used";
    until("it is reported", || gate.told("/readyz?verbose").contains(problem)).await;
    // What is there serves on.
    gate.hand_shake(&root, "one.test").await.unwrap();
    assert_eq!((before.0, counts()), (1, before));
    // An engine that is restarted empty gets what is in use, and then two.test.
    engine.restart().await;
    running.complaint(ISSUED).await;
    until("the engine has both", || keys(&engine, "certificate").len() == 2).await;
    served(&gate, &root, "two.test").await;
}

#[tokio::test]
async fn the_quota_on_demand_counts_for_all_members() {
    let (Some(mut pebble), Some(engine)) = (Pebble::new(), Engine::start().await) else { return };
    pebble.start().await;
    let vodia = vodia().await;
    let members = [AcmeGate::new(pebble.checks).await, AcmeGate::new((free_port(), free_port())).await];
    let mut running = Vec::new();
    for gate in &members {
        let acme = format!("on_demand = {{ quota = \"1/24h\" }}, {}", pebble.keys(&gate.dir));
        configure(gate, &engine, &acme, true, &pbx(gate, &vodia));
        running.push(run(gate).await);
    }
    let root = pebble.root().await;
    // Whether this order succeeds does not matter.
    let _ = members[0].hand_shake(&root, "one.pbx.test").await;
    let refused = members[1].hand_shake(&root, "two.pbx.test").await.unwrap_err().to_string();
    assert!(refused.contains("UnrecognisedName"), "{refused}");
    running[1].complaint("`quota` of `on_demand` is used up").await;
}
