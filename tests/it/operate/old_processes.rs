//! Old processes of an upgrade obey the newest one: freezes, thaws, logs, the end.

use std::fs;
use std::process::Output;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::kit::client::status;
use crate::kit::commands::text;
use crate::kit::office::{Office, Socket};
use crate::kit::program::{Successor, code};
use crate::kit::programs;
use crate::kit::stage::until;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
pub const SHORT: &str = "[server]\ndrain = \"500ms\"";

/// Says something and hears it: the tunnel stands.
pub async fn stands(socket: &mut Socket) {
    socket.send(Message::text("{\"action\":\"ping\"}")).await.unwrap();
    let heard = timeout(PATIENCE, socket.next()).await.unwrap();
    assert!(matches!(heard, Some(Ok(Message::Text(_)))), "{heard:?}");
}

/// Waits until the tunnel has ended.
pub async fn ends(socket: &mut Socket) {
    let ended = timeout(PATIENCE, socket.next()).await.expect("the tunnel stands");
    assert!(!matches!(ended, Some(Ok(_))), "{ended:?}");
}

#[track_caller]
pub fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

pub async fn logged(office: &Office, parts: &[&str]) {
    until(&format!("{parts:?}"), || {
        let text = fs::read_to_string(office.program.file("access.log")).unwrap_or_default();
        text.lines().any(|line| parts.iter().all(|part| line.contains(part)))
    })
    .await;
}

/// Asks the newest process.
pub fn told(office: &Office, path: &str) -> String {
    office.program.told(path)
}

#[tokio::test]
async fn a_freeze_cuts_a_tunnel_that_has_lived_through_three_upgrades() {
    let mut office = Office::open("", SHORT).await;
    let (alice, bob) = (office.log_in("alice").await, office.log_in("bob").await);
    let mut hers = office.socket("", &alice).await.unwrap();
    let mut his = office.socket("", &bob).await.unwrap();
    let first = Successor::of(&mut office.program).await;
    let mut in_first = office.socket("domain=acme.test&user=40", &alice).await.unwrap();
    let second = first.next(&mut office.program).await;
    let third = second.next(&mut office.program).await;
    for socket in [&mut hers, &mut his, &mut in_first] {
        stands(socket).await;
    }
    until("the process without a tunnel ends", || !second.is_running()).await;
    let metrics = told(&office, "/metrics");
    assert!(metrics.contains("callgate_old_processes 2\n"), "{metrics}");
    assert!(metrics.contains("callgate_old_process_tunnels 3\n"), "{metrics}");

    let answer = done(&office.command(&["freeze", "account", "40@acme.test"]).await);
    assert!(answer.ends_with("2 old processes that keep tunnels obey, too\n"), "{answer}");
    ends(&mut hers).await;
    ends(&mut in_first).await;
    stands(&mut his).await;
    logged(&office, &["/websocket", " ended=frozen"]).await;
    until("the process whose tunnel was cut ends", || !first.is_running()).await;
    let listed = told(&office, "/status");
    let listed: serde_json::Value = serde_json::from_str(listed.split_once("\r\n\r\n").unwrap().1).unwrap();
    let old = &listed["old_processes"];
    assert_eq!(
        (old[0]["pid"].as_u64(), old[0]["tunnels"].as_u64()),
        (Some(office.program.running.child.id().into()), Some(1))
    );
    assert!(old[0]["since"].is_string() && old[1].is_null(), "{old}");

    let answer = done(&office.command(&["thaw", "account", "40@acme.test"]).await);
    assert!(answer.ends_with("1 old process that keeps tunnels obeys, too\n"), "{answer}");
    drop(his);
    // Tunnels that were cut by a freeze were not cut off at a deadline.
    assert_eq!(code(&mut office.program).await, Some(0));
    until("no old process is shown", || told(&office, "/metrics").contains("callgate_old_processes 0\n")).await;
    assert!(third.is_running());
}

#[tokio::test]
async fn an_old_process_that_is_stuck_is_named_and_delays_no_order() {
    let mut office = Office::open("", SHORT).await;
    let alice = office.log_in("alice").await;
    let mut hers = office.socket("domain=acme.test&user=40", &alice).await.unwrap();
    let _successor = Successor::of(&mut office.program).await;
    stands(&mut hers).await;
    office.program.running.signal("-STOP");
    let id = office.program.running.child.id();
    let output = office.command(&["freeze", "account", "40@acme.test"]).await;
    assert_eq!(output.status.code(), Some(69));
    assert!(text(&output.stdout).starts_with("account 40@acme.test is frozen"), "{}", text(&output.stdout));
    let complaint = text(&output.stderr);
    assert!(complaint.contains(&format!("the old process {id} does not obey")), "{complaint}");
    let head = office.ask("app.test", "/auth/pbx", &office.app.log_in("alice")).await;
    assert_eq!(status(&head), 403);
    // Once it goes on, it obeys all the same.
    office.program.running.signal("-CONT");
    ends(&mut hers).await;
    assert_eq!(code(&mut office.program).await, Some(0));
}

#[tokio::test]
async fn a_signal_to_stop_the_newest_process_ends_the_old_ones_after_drain() {
    let mut office = Office::open("", SHORT).await;
    let alice = office.log_in("alice").await;
    let mut hers = office.socket("", &alice).await.unwrap();
    let first = Successor::of(&mut office.program).await;
    let mut in_first = office.socket("", &alice).await.unwrap();
    let second = first.next(&mut office.program).await;
    for socket in [&mut hers, &mut in_first] {
        stands(socket).await;
    }
    second.signal("-TERM");
    for socket in [&mut hers, &mut in_first] {
        ends(socket).await;
    }
    logged(&office, &["/websocket", " ended=drained"]).await;
    assert_eq!(code(&mut office.program).await, Some(3));
    until("the first successor ends", || !first.is_running()).await;
    until("the newest process ends", || !second.is_running()).await;
}

#[tokio::test]
async fn sighup_to_the_newest_process_opens_the_logs_of_the_old_ones_again() {
    let mut office = Office::open("", SHORT).await;
    let alice = office.log_in("alice").await;
    let mut hers = office.socket("", &alice).await.unwrap();
    let successor = Successor::of(&mut office.program).await;
    stands(&mut hers).await;
    // The newest process writes nothing: a new file would be its own as well.
    fs::rename(office.program.file("access.log"), office.program.file("access.log.1")).unwrap();
    successor.signal("-HUP");
    office.program.running.complaint("reloaded").await;
    // An order is answered after those before it.
    assert!(told(&office, "/metrics").contains("callgate_old_processes 1\n"));
    drop(hers);
    assert_eq!(code(&mut office.program).await, Some(0));
    logged(&office, &["/websocket"]).await;
}

#[tokio::test]
async fn without_a_newest_process_the_old_ones_end_with_drain() {
    let mut office = Office::open("", SHORT).await;
    let alice = office.log_in("alice").await;
    let mut hers = office.socket("", &alice).await.unwrap();
    let successor = Successor::of(&mut office.program).await;
    stands(&mut hers).await;
    programs::signal(successor.0, "-KILL");
    office.program.running.complaint("the process that accepts connections is gone").await;
    ends(&mut hers).await;
    assert_eq!(code(&mut office.program).await, Some(3));
}
