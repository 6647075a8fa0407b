//! Several PBX nodes and SIGUSR2: sessions, their ends and the limits of a node go to the next process, whatever the nodes are
//! called there.

use std::fs;

use serde_json::json;

use crate::kit::app::Whoami;
use crate::kit::client::status;
use crate::kit::nodes::{SOUTH_ADMIN, node};
use crate::kit::office::Office;
use crate::kit::program::{Successor, code};
use crate::kit::stage::until;
use crate::kit::vodia::{Options, Tenant, Vodia};
use crate::operate::old_processes::{SHORT, done, ends, logged, stands};

const SHIELD: &str = "shield = { from = [\"127.0.0.7\"] }";

/// A program before one PBX, and a second PBX for the next one.
struct TwoNodes {
    office: Office,
    south: Vodia,
    /// The configuration with the first PBX alone.
    one: String,
}

impl TwoNodes {
    async fn start() -> Self {
        let south = Options {
            tenants: vec![Tenant::with_alice_and_bob("other.test")],
            admin_user: SOUTH_ADMIN.to_owned(),
            ..Options::default()
        };
        let office = Office::open(SHIELD, SHORT).await;
        let one = fs::read_to_string(office.program.file("proxy.toml")).unwrap();
        Self { office, south: Vodia::start(south).await, one }
    }

    /// Writes a configuration with both nodes, where the first has this name.
    fn write_both(&self, name: &str) {
        let north = format!("[[pbx]]\nname = \"{name}\"\ndomains = [\"acme.test\"]\n");
        let more = format!("{SHIELD}\nlimits = {{ account = \"1/h\" }}");
        let south = node("south", &["other.test"], SOUTH_ADMIN, &self.south, &more);
        let both = self.one.replace("[pbx]\n", &north).replace("[[allow]]", &format!("{south}\n[[allow]]"));
        fs::write(self.office.program.file("proxy.toml"), both).unwrap();
    }

    fn write_one(&self) {
        fs::write(self.office.program.file("proxy.toml"), &self.one).unwrap();
    }

    /// Lets the app say that every caller is extension 40 of a tenant, and logs in. Returns the status and the session.
    async fn log_in(&self, tenant: &str) -> (u16, String) {
        self.office.app.set(|faults| faults.whoami = Whoami::Claims(json!({ "ext": "40", "tenant": tenant })));
        let head = self.office.ask("app.test", "/auth/pbx", &self.office.app.log_in("alice")).await;
        let session = head.split_once("sessId=").map_or("", |(_, rest)| rest.split(['&', '\r']).next().unwrap());
        (status(&head), session.to_owned())
    }

    async fn land(&self, host: &str, session: &str) -> u16 {
        status(&self.office.ask(host, &format!("/welcome.htm?sessId={session}"), "").await)
    }

    async fn end(&self, domain: &str) {
        done(&self.office.command(&["sessions", "end", "--domain", domain]).await);
    }
}

fn has(pbx: &Vodia, id: &str) -> bool {
    pbx.sessions().iter().any(|one| one.id == id)
}

#[tokio::test]
async fn one_pbx_becomes_several_and_each_session_stays_at_its_own() {
    let mut nodes = TwoNodes::start().await;
    let (_, before) = nodes.log_in("acme.test").await;
    let mut tunnel = nodes.office.socket("", &before).await.unwrap();
    nodes.write_both("north");
    let first = Successor::of(&mut nodes.office.program).await;
    // The session of before is that of the node with the same `url`, and its tunnel goes on in the old process.
    stands(&mut tunnel).await;
    assert_eq!((nodes.land("pbx.test", &before).await, nodes.land("other.test", &before).await), (200, 403));
    let (answered, south) = nodes.log_in("other.test").await;
    assert_eq!((answered, nodes.log_in("other.test").await.0), (303, 429));
    assert_eq!((nodes.land("other.test", &south).await, nodes.land("pbx.test", &south).await), (200, 403));

    // Another name, and the counts of the node that keeps its own.
    nodes.write_both("oslo");
    let second = first.next(&mut nodes.office.program).await;
    assert_eq!((nodes.land("pbx.test", &before).await, nodes.land("other.test", &south).await), (200, 200));
    assert_eq!(nodes.log_in("other.test").await.0, 429);
    nodes.end("acme.test").await;
    ends(&mut tunnel).await;
    until("the end at the first node", || !has(&nodes.office.pbx, &before)).await;
    assert!(has(&nodes.south, &south));
    assert_eq!(code(&mut nodes.office.program).await, Some(0));
    nodes.end("other.test").await;
    until("the end at the second node", || !has(&nodes.south, &south)).await;
    logged(&nodes.office, &["target=\"/auth/pbx\"", "pbx=south", "account=40@other.test"]).await;
    assert!(second.is_running());
}

#[tokio::test]
async fn the_end_of_a_session_waits_through_hand_overs_for_its_node() {
    let mut nodes = TwoNodes::start().await;
    nodes.write_both("north");
    let first = Successor::of(&mut nodes.office.program).await;
    assert_eq!(code(&mut nodes.office.program).await, Some(0));
    let (_, north) = nodes.log_in("acme.test").await;
    let (_, south) = nodes.log_in("other.test").await;
    // Its node is not there, and then not even configured: the one PBX is not told of it.
    nodes.south.set(|faults| faults.refuse_connections = true);
    nodes.end("other.test").await;
    nodes.write_one();
    let second = first.next(&mut nodes.office.program).await;
    assert_eq!((nodes.land("pbx.test", &north).await, nodes.land("pbx.test", &south).await), (200, 403));
    nodes.south.set(|faults| faults.refuse_connections = false);
    nodes.end("acme.test").await;
    until("the end at the first node", || !has(&nodes.office.pbx, &north)).await;
    let told = nodes.office.pbx.requests().into_iter().filter(|seen| seen.method == "DELETE");
    assert!(told.map(|seen| seen.header("cookie").unwrap().to_owned()).all(|cookie| !cookie.contains(&south)));
    assert!(has(&nodes.south, &south));
    nodes.write_both("north");
    let third = second.next(&mut nodes.office.program).await;
    until("the end at the second node", || !has(&nodes.south, &south)).await;
    assert!(third.is_running());
}
