//! `callgate config dump`: what takes effect, set or by default.

use std::fs;

use serde_json::Value;

use super::commands::{Folder, check_code};
use crate::kit::commands::{callgate, run, text};
use crate::kit::gate::secret;

const TEXT: &str = r#"listen = "127.0.0.1:8443"
tls = { cert = "fullchain.pem", key = "privkey.pem" }
[app]
url = "http://127.0.0.1:1"
timeouts = { connect = "1s" }
[pbx]
url = "http://127.0.0.1:2"
hosts = ["pbx.test"]
admin = { user = "sso", password = { file = "pbx-admin" } }
handoff = "cookie"
[[auth]]
type = "key"
sha256 = "6ca13d52ca70c883e0f0bb101e425a89e8624de51db2d2392593af6a84118090"
scopes = ["pbx"]
domains = ["acme.test"]
expires = 2099-12-31
[[allow]]
auth = "key"
pbx = { domain = "{domain}", account = "{account}" }
[server]
max_connections = 1000
"#;

#[tokio::test]
async fn what_takes_effect_is_shown_set_or_by_default() {
    let folder = Folder::new(TEXT);
    secret(&folder.dir, "pbx-admin", "Admin-Passw0rd-canary");
    let dumped = run(folder.command(&["config", "dump"])).await;
    check_code(&dumped, 0);
    let told = text(&dumped.stdout);
    assert!(!told.contains("canary"), "{told}");
    for line in [
        "listen = \"127.0.0.1:8443\"",
        "# workers: one per core",
        "timeouts = { connect = \"1s\", first_byte = \"60s\", keep_alive = \"4s\" }",
        "admin = { password = { file = \"pbx-admin\" }, user = \"sso\" }",
        // These follow from `handoff` and `max_connections`.
        "#landing = \"/thirdparty.htm\"",
        "#dialect = \"modern\"",
        "#max_connections_per_client = 750",
        "expires = 2099-12-31",
        "#drain = \"30s\"",
        "#timeouts = { body_idle = \"60s\", handshake = \"10s\", header = \"10s\", idle = \"75s\", tunnel_idle = \"1h\", write_stall = \"30s\" }",
        "[server]",
        "#[limits]",
        "#[audit]",
        "#format = \"text\"",
    ] {
        assert!(told.lines().any(|shown| shown == line), "{line} is not in {told}");
    }
    assert!(!told.lines().any(|shown| shown == "[voximplant]"), "{told}");

    // What is shown is the same configuration again, and so it is with its defaults set.
    for written in [told.clone(), told.replace("\n#landing", "\nlanding").replace("\n#drain =", "\ndrain =")] {
        fs::write(folder.dir.path().join("other.toml"), written).unwrap();
        let mut again = callgate(&["config", "dump", "--json", "-c"]);
        again.arg(folder.dir.path().join("other.toml"));
        let (again, first) = (run(again).await, run(folder.command(&["config", "dump", "--json"])).await);
        check_code(&again, 0);
        let [again, first] = [again, first].map(|output| serde_json::from_slice::<Value>(&output.stdout).unwrap());
        assert_eq!(again, first);
        assert_eq!((&first["auth"][0]["expires"], &first["server"]["drain"]), (&"2099-12-31".into(), &"30s".into()));
        assert_eq!(first["pbx"]["landing"], "/thirdparty.htm");
    }
}

#[tokio::test]
async fn a_wrong_configuration_is_not_shown() {
    let folder = Folder::new(&TEXT.replace("[app]", "[app]\nhots = 1"));
    let dumped = run(folder.command(&["config", "dump"])).await;
    check_code(&dumped, 78);
    assert_eq!(text(&dumped.stdout), "");
}

#[tokio::test]
async fn keys_are_explained_by_table_and_by_name() {
    let explained = async |arguments: &[&str], code| {
        let output = run(callgate(&[&["config", "explain"], arguments].concat())).await;
        check_code(&output, code);
        text(&output.stdout) + &text(&output.stderr)
    };
    let admin = explained(&["pbx.admin"], 0).await;
    assert!(
        admin.starts_with("pbx.admin\n  type: table\n  its keys: user (text), password (secret)\n  default: none\n")
    );
    assert!(admin.contains("of the PBX administrator"), "{admin}");
    let whoami = explained(&["whoami"], 0).await;
    assert!(whoami.contains("app.whoami\n") && whoami.contains("auth.whoami, where type = \"app\"\n"), "{whoami}");
    let timeouts = explained(&["server.timeouts"], 0).await;
    assert!(timeouts.starts_with("server.timeouts\n") && timeouts.contains("\n\nserver.timeouts.idle\n"), "{timeouts}");
    let all = explained(&[], 0).await;
    assert!(all.starts_with("above the first table\n  listen, tls, ") && all.contains("\n[[auth]]\n"), "{all}");
    for command in ["run", "check"] {
        let help = run(callgate(&[command, "--help"])).await;
        assert!(text(&help.stdout).ends_with(&all), "the help of {command} lists the same keys");
    }
    let unknown = explained(&["pbx.admn"], 2).await;
    assert!(unknown.contains("no table or key pbx.admn: did you mean pbx.admin?"), "{unknown}");
    let drain: Value = serde_json::from_str(&explained(&["server.drain", "--json"], 0).await).unwrap();
    assert_eq!((&drain[0]["key"], &drain[0]["default"]), (&"server.drain".into(), &"\"30s\"".into()));
    assert!(drain.as_array().is_some_and(|all| all.len() == 1) && drain[0]["required"] == false, "{drain}");
}
