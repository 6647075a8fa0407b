//! `[shared]`: the engine that members share.

use super::*;
use crate::config::{EngineNode, EngineTopology, MarksWhenDown, SharedConfig};

const KEYS: &str = "keys = \"secrets/ring.keys\"";

fn read(lines: &str) -> SharedConfig {
    accepted(&format!("{TOP}{BOTH}[shared]\n{lines}\n{KEYS}")).shared.unwrap()
}

/// Checks the one problem of a table; its first line is line 8.
#[track_caller]
fn check(lines: &str, expected: &str) {
    check_beside(&format!("[shared]\n{lines}\n{KEYS}"), expected);
}

#[test]
fn an_engine_is_one_node_a_cluster_or_what_sentinels_name() {
    let node = |host: &str, port| HostPort { host: host.into(), port };
    for (url, expected, database) in [
        ("redis://127.0.0.1", EngineNode::Plain(node("127.0.0.1", 6379)), 0),
        ("redis://localhost:7000/3", EngineNode::Plain(node("localhost", 7000)), 3),
        ("rediss://Redis.example.com/", EngineNode::Tls(node("redis.example.com", 6379)), 0),
        ("rediss://[2001:db8::1]:6380", EngineNode::Tls(node("2001:db8::1", 6380)), 0),
        ("unix:/run/redis.sock", EngineNode::Unix("/run/redis.sock".into()), 0),
    ] {
        let shared = read(&format!("url = \"{url}\""));
        assert_eq!(
            (&shared.nodes[..], shared.topology, shared.database),
            (&[expected][..], EngineTopology::Single, database)
        );
    }
    let shared = read("url = [\"rediss://a.example.com\", \"rediss://b.example.com:7001\"]");
    assert_eq!((shared.nodes.len(), shared.topology), (2, EngineTopology::Cluster));
    let shared = read("url = [\"rediss://a.example.com\", \"rediss://b.example.com\"]\nsentinel = \"main\"");
    assert_eq!(shared.topology, EngineTopology::Sentinel { name: "main".into() });
    assert_eq!(shared.nodes[0], EngineNode::Tls(node("a.example.com", 26379)));
}

#[test]
fn the_rest_has_defaults() {
    let shared = read("url = \"redis://127.0.0.1\"");
    assert_eq!(
        (shared.prefix.as_str(), shared.deadline, shared.members.get()),
        ("callgate", Duration::from_millis(50), 1)
    );
    assert_eq!((shared.marks_when_down, shared.login, shared.client), (MarksWhenDown::Refuse, None, None));
    let shared = read(
        "url = \"rediss://a.example.com\"\nuser = \"callgate\"\npassword = { file = \"secrets/redis\" }\nprefix = \"a:b\"\n\
         deadline = \"1s\"\nmembers = 50\nmarks_when_down = \"local\"\nca = \"certs/redis-ca.pem\"\n\
         cert = \"certs/redis-client.pem\"\nkey = { file = \"secrets/redis-client-key\" }",
    );
    let login = shared.login.unwrap();
    assert_eq!((login.user.as_deref(), login.password.expose()), (Some("callgate"), SECRET));
    assert_eq!((shared.prefix.as_str(), shared.deadline, shared.members.get()), ("a:b", Duration::from_secs(1), 50));
    assert!(shared.ca.is_some() && shared.client.is_some() && shared.marks_when_down == MarksWhenDown::Local);
}

#[test]
fn wrong_values_are_told() {
    for (lines, expected) in [
        ("prefix = \"a\"", "7:1: `shared.url` is missing"),
        ("url = \"http://a\"", "8:7: `shared.url`: starts with neither redis://, rediss:// nor unix:"),
        (
            "url = \"rediss://:Admin-Passw0rd-canary@a\"",
            "8:7: `shared.url`: a user name or password does not belong here",
        ),
        ("url = \"rediss://a/16\"", "8:7: `shared.url`: not the number of a database"),
        ("url = \"rediss://a b\"", "8:7: `shared.url`: not a host name or IP address with an optional port"),
        ("url = []", "8:7: `shared.url`: is an empty list"),
        ("url = [\"rediss://a\", \"rediss://A:6379\"]", "8:22: `shared.url`: the same url twice"),
        ("url = [\"rediss://a/1\"]", "8:8: `shared.url`: has the number of a database"),
        ("url = [\"redis://127.0.0.1\", \"rediss://a\"]", "8:7: `shared.url`: some nodes use TLS and others do not"),
        (
            "url = \"redis://192.0.2.1\"",
            "8:7: `shared.url`: freezes, marks and the password would cross the network unencrypted",
        ),
        ("url = \"rediss://a\"\nuser = \"x\"", "9:8: `shared.user`: has no password"),
        ("url = \"rediss://a\"\ncert = \"certs/redis-client.pem\"", "9:8: `shared.cert`: has no private key"),
        ("url = \"rediss://a\"\nkey = { file = \"secrets/redis\" }", "9:7: `shared.key`: has no certificate"),
        (
            "url = \"rediss://a\"\ncert = \"certs/redis-client.pem\"\nkey = { file = \"secrets/redis\" }",
            "10:7: `shared.key`: has no private key in PEM",
        ),
        ("url = \"rediss://a\"\nca = \"certs/empty.pem\"", "9:6: `shared.ca`: certs/empty.pem is empty"),
        (
            "url = \"rediss://a\"\nprefix = \"a b\"",
            "9:10: `shared.prefix`: has other characters than letters, digits and - _ . :, or more than 64",
        ),
        ("url = \"rediss://a\"\ndeadline = \"6s\"", "9:12: `shared.deadline`: each login would wait so long"),
        ("url = \"rediss://a\"\nmembers = 0", "9:11: `shared.members`: is out of bounds"),
        ("url = \"rediss://a\"\nmarks_when_down = \"admit\"", "9:19: `shared.marks_when_down`: unknown word `admit`"),
        ("url = \"rediss://a\"\nsentinel = \"\"", "9:12: `shared.sentinel`: is empty"),
        (
            "url = \"rediss://a\"\npassword = \"Admin-Passw0rd-canary\"",
            "9:12: `shared.password`: a secret must not be written in this file",
        ),
    ] {
        check(lines, expected);
    }
    let only =
        |lines: &str, expected: &str| check_beside(&format!("[shared]\nurl = \"rediss://a\"\n{lines}"), expected);
    only("", "7:1: `shared.keys` is missing");
    only(
        "keys = \"open\"",
        "9:8: `shared.keys`: open is writable by group or world (mode 0602): a writer decides who logs in",
    );
    only("keys = \"secrets/two-lines\"", "9:8: `shared.keys`: line 1 is not the base64 of 32 bytes");
    check_hint(
        "[app]\nurl = \"http://a\"\n[shared]\nurl = \"rediss://a\"\nkeys = \"secrets/spaced\"",
        "callgate keys rotate",
    );
}

#[test]
fn plain_text_to_another_machine_is_a_choice() {
    let shared = read("url = \"redis://192.0.2.1\"\ninsecure_plaintext = true");
    assert_eq!(shared.nodes[0].to_string(), "192.0.2.1:6379");
}
