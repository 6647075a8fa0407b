//! Scripts of pages, and systemd units.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::blocks::{Kind, all_blocks, readme_configuration};
use crate::programs::{are_here, output};

/// The surroundings of a script: a page, an SDK, and a gate with given answers.
const PAGE: &str = r#"
const location = { href: "", host: "portal.example.com" };
const sockets = [], timers = [];
class WebSocket {
  static OPEN = 1;
  constructor(address) { Object.assign(this, { address, readyState: WebSocket.OPEN, sent: [] }); sockets.push(this); }
  send(text) { this.sent.push(text); }
  close() { this.readyState = 3; }
}
const leaving = [];
const addEventListener = (kind, act) => { same(kind, "pagehide"); leaving.push(act); };
const [setTimeout, setInterval] = [0, 1].map((again) => (act, wait, ...more) => timers.push({ again, act, wait, more }));
const clearInterval = (timer) => { timers[timer - 1].again = "cleared"; };
const answers = (ok) => { globalThis.fetch = async (address, { method, body, headers }) => ({ address, method, ok, status: ok ? 200 : 403,
  text: async () => [address, method, String(body), ...(headers?.authorization ? [headers.authorization] : [])].join(" "),
  headers: new Headers(),
  json: async () => Object.assign(new String("s1"), { url: "https://pbx.example.com/welcome.htm?sessId=s1", token: "t1", login: "/login" }) }); };
const client = { requestOneTimeLoginKey: async () => ({ name: "AuthResult", code: 302, key: "k +", result: false }),
  loginWithOneTimeKey: async (name, token) => [name, token].join(": ") };
const v5 = { requestOneTimeKey: async ({ username }) => "k +",
  loginOneTimeKey: async ({ username, hash }) => [username, hash].join(": ") };
const native = (code) => ({ requestOneTimeLoginKey: async () => { throw { code, key: "k +", result: false }; },
  loginWithOneTimeKey: client.loginWithOneTimeKey });
const button = {}, opened = [];
globalThis.document = { getElementById: () => button };
globalThis.window = { open: (address) => { opened.push(address.pathname); return {}; } };
location.assign = (address) => { location.href = address; };
const same = (one, other) => { if (one !== other) throw new Error(one + " instead of " + other); };
const fails = async (act) => { try { await act(); } catch { return; } throw new Error("no failure"); };
answers(true);
"#;

/// The expected behaviour of a script, by a text in it.
const EXPECTED: [(&str, &str); 7] = [
    ("onclick = () => openPbx()", r#"button.onclick(); same(opened[0], "/auth/pbx");"#),
    (
        "function connectPhone(",
        r#"same(await connectPhone(v5, "alice@a.b"), "alice@a.b: t1");
answers(false); await connectPhone(v5, "alice@a.b"); same(location.href, "file:///login");
await fails(() => connectPhone(native(404), "alice@a.b"));"#,
    ),
    ("function openPbx(", r#"await openPbx(); same(location.href, "https://pbx.example.com/welcome.htm?sessId=s1");"#),
    (
        "function openPhone(",
        r#"const [first] = sockets, [alive] = timers;
same(first.address, "wss://portal.example.com/auth/pbx/socket");
first.onopen(); alive.act();
same(first.sent.join(" "), '{"action":"own-calls","subscribe":true} {"action":"avoid-disconnect"}');
same(alive.wait, 30_000);
for (const least of [1, 2, 4, 8, 16, 30, 30].map((seconds) => seconds * 1000)) {
  sockets.at(-1).onclose();
  const { act, wait, more } = timers.at(-1);
  same(wait >= least && wait <= 2 * least, true);
  act(...more);
}
same(alive.again, "cleared");
sockets.at(-1).onopen(); sockets.at(-1).onclose();
same(timers.at(-1).wait <= 2000, true);
leaving[0]();
same(first.readyState, 3);"#,
    ),
    (
        "function logIn(",
        r#"same(await logIn(client, "alice@a.b"), "alice@a.b: /auth/ott POST key=k+%2B");
answers(false); await fails(() => logIn(client, "alice@a.b"));"#,
    ),
    (
        "function logInV5(",
        r#"same(await logInV5(v5, "alice@a.b"), "alice@a.b: /auth/ott POST key=k+%2B");
answers(false); await fails(() => logInV5(v5, "alice@a.b"));"#,
    ),
    (
        "function logInReactNative(",
        r#"same(await logInReactNative(native(302), "alice@a.b", "t"), "alice@a.b: https://portal.example.com/auth/ott POST key=k%20%2B Bearer t");
await fails(() => logInReactNative(native(404), "alice@a.b", "t"));
answers(false); await fails(() => logInReactNative(native(302), "alice@a.b", "t"));"#,
    ),
];

#[test]
fn scripts_log_in() {
    if !are_here(&["node"]) {
        return;
    }
    let scripts = all_blocks(Kind::Js);
    assert!(scripts.len() > 2);
    for block in scripts {
        let (_, expected) = EXPECTED.iter().find(|(part, _)| block.text.contains(part)).expect(&block.place);
        let module = concat!("file://", env!("CARGO_MANIFEST_DIR"), "/src/proxy/answer/client.js");
        let text = block.text.replace("/auth/callgate/client.js", module);
        let script = format!("{PAGE}{text}{expected}");
        let output = output(Command::new("node").args(["--input-type=module", "-e", &script]));
        assert!(output.status.success(), "{}: {}", block.place, String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_unit_that_is_shown_is_the_one_to_install() {
    let [block] = &all_blocks(Kind::Ini)[..] else { panic!("more units than one") };
    assert_eq!(block.text, fs::read_to_string("deploy/callgate.service").unwrap());
}

#[test]
fn units_are_units() {
    if !are_here(&["systemd-analyze"]) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let unit = folder.path().join("callgate.service");
    let text = fs::read_to_string("deploy/callgate.service").unwrap();
    // Older versions of systemd complain of this line, and ignore it.
    let (text, later) =
        (text.replace("/usr/bin/callgate", env!("CARGO_BIN_EXE_callgate")), "RefreshOnReload=credentials\n");
    assert!(text.contains(later));
    fs::write(&unit, text.replace(later, "")).unwrap();
    let socket = folder.path().join("callgate.socket");
    fs::copy("deploy/callgate.socket", &socket).unwrap();
    let verified = output(Command::new("systemd-analyze").args(["verify", "--man=no"]).args([&unit, &socket]));
    let told = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && !told.contains("callgate."), "{told}");
    // In tenths.
    let rated =
        output(Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=20"]).arg(&unit));
    assert!(rated.status.success(), "{}", String::from_utf8_lossy(&rated.stdout));
}

#[test]
fn the_unit_of_the_sockets_fits_the_configuration_of_the_readme() {
    let socket = fs::read_to_string("deploy/callgate.socket").unwrap();
    let opened: Vec<_> = socket.lines().filter_map(|line| line.strip_prefix("ListenStream=")).collect();
    let configuration = readme_configuration();
    assert!(!opened.is_empty());
    for address in opened {
        assert!(configuration.contains(&format!("listen = \"{address}\"")), "{address}");
    }
}

#[test]
fn the_files_of_the_package_are_those_of_the_documents() {
    let secret = r#"{ file = "/etc/callgate/pbx-admin" }"#;
    let configuration = readme_configuration();
    assert!(configuration.contains(secret));
    let configuration = configuration.replace(secret, r#"{ credential = "pbx-admin" }"#);
    assert!(fs::read_to_string("deploy/proxy.toml").unwrap().ends_with(&configuration));
    let rotation = fs::read_to_string("deploy/callgate.logrotate").unwrap();
    assert!(all_blocks(Kind::Text).iter().any(|block| block.text == rotation));
}
