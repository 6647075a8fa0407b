//! The name of a member: in its lines, in its metrics, and in what is read from the audit logs of several.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::kit::commands::{callgate, run, text};
use crate::kit::stage::{Plan, Stage};

const CHAIN: &str = "[audit]\nfile = \"audit.log\"\nchain = true";

/// Starts a gate with a name and an audit chain.
async fn member(name: &str, more: &str) -> Stage {
    Plan { top: &format!("member = \"{name}\""), more: &format!("{CHAIN}\n{more}"), ..Plan::default() }.start().await
}

/// Copies the audit log of a member to a file in a folder.
fn fetch(member: &Stage, folder: &Path, name: &str) {
    fs::write(folder.join(name), member.gate.audit()).unwrap();
}

async fn audit(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = callgate(&["audit"]);
    command.args(arguments).current_dir(folder);
    run(command).await
}

#[tokio::test]
async fn each_line_names_its_member() {
    let text = member("edge-1", "").await;
    let json = member("edge.2", "[log]\nformat = \"json\"").await;
    for stage in [&text, &json] {
        stage.as_alice("/auth/pbx").send().await.expect(303);
        let line: Value = serde_json::from_str(stage.gate.audit().lines().next().unwrap()).unwrap();
        assert_eq!((&line["kind"], &line["account"]), (&json!("audit grant"), &json!("40@acme.test")));
    }
    let of = |stage: &Stage| serde_json::from_str::<Value>(stage.gate.audit().lines().next().unwrap()).unwrap();
    assert_eq!((&of(&text)["member"], &of(&json)["member"]), (&json!("edge-1"), &json!("edge.2")));
    text.gate.line(&[" access member=edge-1 id="]).await;
    json.gate.line(&["\"kind\":\"access\",\"member\":\"edge.2\",\"id\":"]).await;
    assert!(text.gate.told("/metrics").contains("member=\"edge-1\"} 1\n"), "{}", text.gate.told("/metrics"));
    assert!(text.gate.told("/status").contains("\"edge-1\""), "{}", text.gate.told("/status"));
}

#[tokio::test]
async fn a_gate_without_a_name_shows_none() {
    let stage = Plan { more: CHAIN, ..Plan::default() }.start().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    stage.gate.line(&["access id="]).await;
    for told in [stage.gate.audit(), stage.gate.log(), stage.gate.told("/metrics")] {
        assert!(!told.contains("member"), "{told}");
    }
}

#[tokio::test]
async fn another_name_counts_from_the_next_line_after_a_reload() {
    let mut stage = member("old", "").await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    stage.gate.audit();
    let config = stage.gate.text.replace("member = \"old\"", "member = \"new\"");
    stage.gate.reload(&config).await.unwrap();
    stage.as_alice("/auth/pbx").send().await.expect(303);
    let told = stage.gate.audit();
    let names: Vec<_> =
        told.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["member"].clone()).collect();
    assert_eq!(names, ["old", "new"]);
    let output = audit(stage.gate.dir.path(), &["verify", "audit.log"]).await;
    let mixed = "old: audit.log:2: a line of new among those of old: give each member a file of its own";
    assert!(text(&output.stderr).starts_with(mixed), "{}", text(&output.stderr));
}

#[tokio::test]
async fn the_chains_of_members_are_verified_and_their_logins_are_merged() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (member("edge-1", "").await, member("edge-2", "").await);
    for stage in [&one, &two, &one] {
        stage.as_alice("/auth/pbx").send().await.expect(303);
    }
    two.as_alice("/auth/pbx?account=41").send().await.expect(403);
    fetch(&one, folder.path(), "1.log");
    fetch(&two, folder.path(), "2.log");
    let heads = |names: &[&str]| -> Vec<String> {
        let last = |name: &&str| {
            let text = fs::read_to_string(folder.path().join(name)).unwrap();
            let line: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
            format!("{}:{}", line["seq"], line["hash"].as_str().unwrap())
        };
        names.iter().map(last).collect()
    };
    let heads = heads(&["1.log", "2.log"]);
    let verified = audit(folder.path(), &["verify", "--head", &heads[0], "--head", &heads[1], "1.log", "2.log"]).await;
    let expected = format!(
        "edge-1: lines 1 to 2 follow each other\nedge-1: head: {}\n\
         edge-2: lines 1 to 2 follow each other\nedge-2: head: {}\n",
        heads[0], heads[1]
    );
    assert_eq!((text(&verified.stdout), verified.status.code()), (expected, Some(0)));

    let report = audit(folder.path(), &["report", "--account", "40@acme.test", "--json", "1.log", "2.log"]).await;
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    let members: Vec<_> = report["logins"].as_array().unwrap().iter().map(|login| &login["member"]).collect();
    assert_eq!(members, ["edge-1", "edge-2", "edge-1"]);
    assert_eq!(report["refusals"][0]["member"], "edge-2");
    let report = audit(folder.path(), &["report", "--account", "40@acme.test", "1.log", "2.log"]).await;
    let rows: Vec<_> = text(&report.stdout).lines().map(|row| row.trim_end().to_owned()).collect();
    let ends = |end: &str| rows.iter().filter(|row| row.ends_with(end)).count();
    assert_eq!((ends("  edge-1"), ends("  edge-2"), ends("  member")), (2, 2, 2), "{rows:#?}");

    // One broken chain leaves the other whole.
    let broken = fs::read_to_string(folder.path().join("1.log")).unwrap().replace("127.0.0.1", "192.0.2.1");
    fs::write(folder.path().join("1.log"), broken).unwrap();
    let output = audit(folder.path(), &["verify", "1.log", "2.log"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).starts_with("edge-2: lines 1 to 2 follow each other\n"), "{}", text(&output.stdout));
    assert!(text(&output.stderr).starts_with("edge-1: 1.log:1: the line was changed"), "{}", text(&output.stderr));
}
