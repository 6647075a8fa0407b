//! Engines of more than one node, and over TLS with a login and a certificate.

use std::fs;

use callgate::tls::dev;
use serde_json::{Value, json};

use crate::kit::client_certificates::Authority;
use crate::kit::commands::{callgate, run, text as text_of};
use crate::kit::engines::{Group, tell};
use crate::kit::gate::secret;
use crate::kit::stage::{Plan, Stage, until};
use crate::members::quotas::{LIMITS, admitted, reached};

/// Starts members with these lines.
async fn members(shared: &str, count: usize) -> Vec<Stage> {
    let mut members = Vec::new();
    for _ in 0..count {
        let member = Plan { limits: LIMITS, more: shared, ..Plan::default() }.start().await;
        member.gate.logins.are_not_explained();
        reached(&member).await;
        members.push(member);
    }
    members
}

#[tokio::test]
async fn members_share_a_cluster() {
    let Some(group) = Group::cluster().await else { return };
    let urls: Vec<_> = group.nodes.iter().map(|node| format!("\"redis://127.0.0.1:{}\"", node.port)).collect();
    let shared = group.shared(&format!("[{}]", urls[..2].join(", ")), "deadline = \"5s\"\nmembers = 2");
    let members = members(&shared, 2).await;
    assert_eq!(admitted(&members, 40).await, 20);
    let answer = members[0].gate.told("/status.json");
    let told: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let nodes: Vec<_> = group.nodes[..2].iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    assert_eq!(told["shared"], json!({ "nodes": nodes, "members": 2 }));
    // The limits of one login are at several nodes.
    let keys = |port: u16| tell(&["-p", &port.to_string(), "KEYS", "callgate:limit:*"]).lines().count();
    assert!(group.nodes.iter().map(|node| keys(node.port)).sum::<usize>() >= 3);
}

#[tokio::test]
async fn members_follow_the_sentinels_to_another_node() {
    let Some((mut group, [first, second, sentinel])) = Group::watched().await else { return };
    let shared = group
        .shared(&format!("[\"redis://127.0.0.1:{sentinel}\"]"), "sentinel = \"main\"\ndeadline = \"5s\"\nmembers = 2");
    let members = members(&shared, 2).await;
    assert_eq!(admitted(&members, 10).await, 10);
    let (first, second) = (first.to_string(), second.to_string());
    until("the replica has it all", || {
        tell(&["-p", &first, "DBSIZE"]) == tell(&["-p", &second, "DBSIZE"])
            && tell(&["-p", &second, "INFO"]).contains("role:slave")
    })
    .await;
    group.kill(first.parse().unwrap());
    until("the replica leads", || tell(&["-p", &second, "INFO"]).contains("role:master")).await;
    for member in &members {
        reached(member).await;
    }
    // What was counted before counts on, but for what had not reached the replica.
    let more = admitted(&members, 40).await;
    assert!((10..=20).contains(&more), "{more}");
}

#[tokio::test]
async fn the_engine_is_asked_over_tls_with_a_login_and_a_certificate() {
    let Some(mut group) = Group::new() else { return };
    let server = dev::certificate(&["localhost", "127.0.0.1"]).unwrap();
    let clients = Authority::new("members");
    let (chain, key) = clients.client();
    let folder = group.folder.path().to_owned();
    for (name, text) in [
        ("ca.pem", server.ca.as_str()),
        ("server.pem", &server.chain),
        ("server.key", &server.key),
        ("clients.pem", clients.pem()),
        ("client.pem", &chain),
        ("client.key", &key),
        ("password", "Engine-Passw0rd"),
    ] {
        secret(&group.folder, name, text);
    }
    let at = |name: &str| folder.join(name).display().to_string();
    // The plain port is for the test alone.
    let tls = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let (cert, server_key, ca) = (at("server.pem"), at("server.key"), at("clients.pem"));
    let more = [
        "--save",
        "",
        "--tls-port",
        &tls,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &server_key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "yes",
        "--user",
        "default",
        "off",
        "--user",
        "member",
        "on",
        ">Engine-Passw0rd",
        "~callgate:*",
        "&callgate:*",
        "+@all",
    ];
    let plain = group.add("redis-server", &[], &more).await.to_string();
    let with = |more: &str| {
        let more = format!(
            "ca = \"{}\"\nuser = \"member\"\npassword = {{ file = \"{}\" }}\ndeadline = \"5s\"\n{more}",
            at("ca.pem"),
            at("password")
        );
        group.shared(&format!("\"rediss://localhost:{tls}\""), &more)
    };
    let certificate = format!("cert = \"{}\"\nkey = {{ file = \"{}\" }}", at("client.pem"), at("client.key"));
    let all = members(&with(&certificate), 2).await;
    assert_eq!(admitted(&all, 40).await, 20);
    // Without the certificate, the engine is not reached, and the member goes on alone.
    let alone = Plan { limits: LIMITS, more: &with(""), ..Plan::default() }.start().await;
    alone.as_alice("/auth/pbx").send().await.expect(303);
    until("the engine is missed", || !crate::members::quotas::readiness(&alone).contains("shared: ok")).await;
    alone.gate.canary("Engine-Passw0rd");

    // What `check --online` says of the engine.
    let file = all[0].gate.file();
    let written = fs::read_to_string(&file).unwrap();
    let told = async |text: &str| {
        fs::write(&file, text).unwrap();
        let mut command = callgate(&["check", "--online", "--config", &file]);
        command.env("PBX_ADMIN", "x");
        let output = run(command).await;
        let told = format!("{}{}", text_of(&output.stdout), text_of(&output.stderr));
        assert!(!told.contains("Engine-Passw0rd"), "{told}");
        told.lines().skip_while(|line| !line.contains(" shared ")).collect::<Vec<_>>().join("\n")
    };
    let right = told(&written).await;
    let line = right.lines().next().unwrap();
    assert!(line.contains(&format!("what members ask of localhost:{tls} ")) && line.contains(" Redis "), "{right}");
    assert!(!right.contains("FAIL     shared "), "{right}");
    for (wrong, expected) in [
        (written.replace(&at("ca.pem"), &at("clients.pem")), "not known: name it in `ca`"),
        (written.replace(&format!("localhost:{tls}"), &format!("localhost:{plain}")), "speaks without TLS"),
        (written.replace("rediss://", "redis://"), "write rediss:// in `url`"),
        (written.replace("\"member\"", "\"nobody\""), "correct `user` and `password`"),
        (written.replace("keys = ", "prefix = \"other\"\nkeys = "), "give the user all rights"),
        (written.replace(&certificate, ""), "FAIL     shared "),
    ] {
        assert_ne!(wrong, written, "{expected}");
        let told = told(&wrong).await;
        assert!(told.contains(expected), "{expected}: {told}");
    }
}
