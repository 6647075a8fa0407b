//! Certificates for tenants of the PBX, ordered when the first client asks for them. The ACME server is `pebble`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use callgate::tls::dev;
use futures_util::future::join_all;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::{Instant, sleep};

use crate::kit::commands::Running;
use crate::kit::gate::secret;
use crate::kit::pebble::{Pebble, free_port};
use crate::kit::stage::until;
use crate::kit::upstream::RawUpstream;
use crate::kit::vodia::{Options, Tenant, Vodia};
use crate::operate::acme::AcmeGate;

const LIST: &str = "GET /rest/system/domains";

/// Writes a configuration with certificates for the tenants of a PBX.
fn configure(gate: &AcmeGate, pbx: std::net::SocketAddr, acme: &str) {
    secret(&gate.dir, "admin.password", &Options::default().admin_password);
    let tables = format!(
        "[pbx]\nurl = \"http://{pbx}\"\nhosts = [\"pbx.test\", \"*.pbx.test\"]\n\
         admin = {{ user = \"sso\", password = {{ file = \"admin.password\" }} }}\n"
    );
    gate.configure_with(acme, &gate.redirect(), &tables);
}

async fn vodia(names: &[&str]) -> Vodia {
    let tenants = names.iter().map(|name| Tenant::with_alice_and_bob(name)).collect();
    Vodia::start(Options { tenants, ..Options::default() }).await
}

fn questions(pbx: &Vodia) -> usize {
    pbx.requests().iter().filter(|seen| seen.target.starts_with("/rest/system/domains")).count()
}

fn count(gate: &AcmeGate, metric: &str, result: &str) -> u64 {
    let row = format!("{metric}_total{{result=\"{result}\"}} ");
    let metrics = gate.told("/metrics");
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(row.as_str()))
        .unwrap_or_else(|| panic!("{row}: {metrics}"))
        .parse()
        .unwrap()
}

fn demands(gate: &AcmeGate, result: &str) -> u64 {
    count(gate, "callgate_acme_demands", result)
}

/// Makes handshakes until one succeeds: an order may end with nonces that the server refused.
async fn served(gate: &AcmeGate, root: &CertificateDer<'static>, name: &str) {
    let due = Instant::now() + Duration::from_secs(60);
    while let Err(error) = gate.hand_shake(root, name).await {
        assert!(Instant::now() < due, "{name}: {error}");
        sleep(Duration::from_millis(200)).await;
    }
}

async fn refused(gate: &AcmeGate, root: &CertificateDer<'static>, name: &str) {
    let error = gate.hand_shake(root, name).await.unwrap_err().to_string();
    assert!(error.contains("UnrecognisedName"), "{name}: {error}");
}

async fn end(running: Running) {
    running.terminate();
    running.end().await;
}

#[tokio::test]
async fn a_tenant_gets_its_certificate_at_the_first_hello_and_other_names_get_none() {
    let Some(mut pebble) = Pebble::new() else { return };
    pebble.start().await;
    let (gate, pbx) = (AcmeGate::new(pebble.checks).await, vodia(&["one.pbx.test", "a.b.pbx.test"]).await);
    configure(&gate, pbx.addr, &format!("on_demand = true, {}", pebble.keys(&gate.dir)));
    let running = gate.run().await;
    let root = pebble.root().await;
    served(&gate, &root, "One.PBX.test").await;
    served(&gate, &root, "a.b.pbx.test").await;
    let (asked, ordered) = (questions(&pbx), count(&gate, "callgate_acme_orders", "ok"));
    assert_eq!(ordered, 2);
    assert!(demands(&gate, "issued") >= 2);
    // A name that the PBX does not know, the name of the PBX itself and foreign ones cost it nothing.
    for name in ["no.pbx.test", "xn--bcher-kva.pbx.test", "one.pbx.test.pbx.test", "pbx.test.pbx.test"] {
        refused(&gate, &root, name).await;
    }
    for name in ["pbx.test", "other.test", "onepbx.test"] {
        gate.hand_shake(&root, name).await.unwrap_err();
    }
    assert!(demands(&gate, "unknown") >= 4);
    assert!(questions(&pbx) <= asked + 1, "the list counts for 30 s");
    assert_eq!(count(&gate, "callgate_acme_orders", "ok"), ordered);
    end(running).await;
    // A restart orders nothing again.
    pebble.stop();
    let running = gate.run().await;
    gate.hand_shake(&root, "one.pbx.test").await.unwrap();
    assert!(
        gate.told("/metrics")
            .contains("callgate_certificate_expiry_timestamp_seconds{certificate=\"acme\",name=\"a.b.pbx.test\"} ")
    );
    end(running).await;
}

#[tokio::test]
async fn a_flood_of_names_costs_the_pbx_one_question_and_keeps_no_tenant_out() {
    let Some(mut pebble) = Pebble::new() else { return };
    pebble.start().await;
    let (gate, pbx) = (AcmeGate::new(pebble.checks).await, vodia(&["one.pbx.test"]).await);
    configure(&gate, pbx.addr, &format!("names = [\"*.pbx.test\"], {}", pebble.keys(&gate.dir)));
    let running = gate.run().await;
    let root = pebble.root().await;
    let names: Vec<_> = (0..400).map(|number| format!("{number}.pbx.test")).collect();
    let started = Instant::now();
    for names in names.chunks(100) {
        join_all(names.iter().map(|name| refused(&gate, &root, name))).await;
    }
    let windows = 1 + usize::try_from(started.elapsed().as_secs() / 30).unwrap();
    assert!((1..=windows).contains(&questions(&pbx)), "{}", questions(&pbx));
    assert_eq!(demands(&gate, "unknown") + demands(&gate, "full"), 400);
    served(&gate, &root, "one.pbx.test").await;
    end(running).await;
}

#[tokio::test]
async fn the_quota_of_orders_outlives_a_restart() {
    let Some(mut pebble) = Pebble::new() else { return };
    pebble.start().await;
    let (gate, pbx) = (AcmeGate::new(pebble.checks).await, vodia(&["one.pbx.test", "two.pbx.test"]).await);
    configure(&gate, pbx.addr, &format!("on_demand = {{ quota = \"1/24h\" }}, {}", pebble.keys(&gate.dir)));
    let root = pebble.root().await;
    for start in 0..2 {
        let mut running = gate.run().await;
        if start == 0 {
            // Whether this order succeeds does not matter.
            let _ = gate.hand_shake(&root, "one.pbx.test").await;
        }
        refused(&gate, &root, "two.pbx.test").await;
        running.complaint("`quota` of `on_demand` is used up").await;
        // For a minute the name is refused without a further line, and it counts as no failure of callgate.
        refused(&gate, &root, "two.pbx.test").await;
        assert_eq!(demands(&gate, "quota"), 1);
        assert!(gate.told("/readyz?verbose").contains("acme: ok"));
        end(running).await;
    }
}

#[tokio::test]
async fn a_pbx_that_answers_nonsense_is_not_asked_again_and_again() {
    let ports = (free_port(), free_port());
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull", "malformed"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfalse", "refused the administrator"),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "does not permit"),
        ("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "malformed"),
    ] {
        let (gate, pbx) = (AcmeGate::new(ports).await, RawUpstream::closing(answer).await);
        configure(&gate, pbx.addr, "on_demand = true, directory = \"http://127.0.0.1:9/dir\"");
        let mut running = gate.run().await;
        let root = dev::certificate(&["x.test"]).unwrap().ca;
        let root = CertificateDer::from_pem_slice(root.as_bytes()).unwrap();
        for name in ["one.pbx.test", "two.pbx.test", "one.pbx.test"] {
            refused(&gate, &root, name).await;
        }
        let told = running.complaint("the PBX does not list its tenants").await;
        assert!(told.contains(expected), "{told}");
        assert_eq!((demands(&gate, "no_answer"), pbx.seen().concat().matches(LIST).count()), (3, 1), "{answer}");
        end(running).await;
    }
}

#[tokio::test]
async fn the_renewals_of_a_tenant_that_is_gone_stop() {
    let Some(mut pebble) = Pebble::new() else { return };
    pebble.validity = 20;
    pebble.start().await;
    let list = Arc::new(Mutex::new("[{\"name\":\"one.pbx.test\"}]".to_owned()));
    let told = Arc::clone(&list);
    let pbx = RawUpstream::serving(move |mut line| {
        let list = told.lock().unwrap().clone();
        async move {
            if line.request().await.is_some() {
                line.say(format!("HTTP/1.1 200 Ok\r\nContent-Length: {}\r\n\r\n{list}", list.len())).await;
            }
        }
    })
    .await;
    let gate = AcmeGate::new(pebble.checks).await;
    configure(&gate, pbx.addr, &format!("on_demand = true, {}", pebble.keys(&gate.dir)));
    let mut running = gate.run().await;
    served(&gate, &pebble.root().await, "one.pbx.test").await;
    *list.lock().unwrap() = "[]".to_owned();
    running.complaint("a certificate is not renewed: the PBX does not say that the name is a tenant's").await;
    let ordered = count(&gate, "callgate_acme_orders", "ok");
    until("its certificate is shown until it ends", || gate.told("/status").contains("\"one.pbx.test\"")).await;
    assert_eq!(count(&gate, "callgate_acme_orders", "ok"), ordered);
    end(running).await;
}
