//! Tests of accepted and refused configurations, with the position of each problem.

mod allow;
mod auth;
mod example;
mod identity;
mod jwt;
mod mistakes;
mod oidc;
mod operate;
mod pages;
mod passthrough;
mod pbx;
mod pbx_nodes;
mod rules;
mod secrets;
mod server;
mod shared;
mod tls;
mod upstream;
mod voximplant;
mod whole;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::*;
use crate::config::{
    CertificateName, Confirm, CookieFilter, Handoff, HostPattern, HostPort, JwtKeySource, Listen, MethodKind,
    NodeLimits, TokenLocation, UpstreamUrl, WhenStuck,
};

const EXAMPLE: &str = include_str!("../../../proxy.toml");
const SECRET: &str = "Admin-Passw0rd-canary";
/// The base64 of 32 bytes.
const RING_KEY: &str = "cmluZy1rZXktY2FuYXJ5LXJpbmcta2V5LWNhbmFyeSE=";
const HA1: &str = "0d1b4aae7e388f745172210be3d30b41";

// === A folder with everything a configuration may name ===

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for name in ["certs", "secrets", "log", "state", "pages"] {
            fs::create_dir(folder.0.path().join(name)).unwrap();
        }
        let (chain, key) = certificate(2099);
        let (second, second_key) = certificate_for(&["second.example.com".to_owned()], 2099);
        let (old, old_key) = certificate_for(&["old.example.com".to_owned()], 2001);
        for (name, text) in [
            ("certs/fullchain.pem", chain.as_str()),
            ("certs/upstream-ca.pem", chain.as_str()),
            ("certs/client-ca.pem", chain.as_str()),
            ("certs/id.pem", chain.as_str()),
            ("secrets/jwt", &format!("{SECRET}-{SECRET}")),
            ("certs/empty.pem", ""),
            ("certs/privkey.pem", key.as_str()),
            ("certs/second.pem", second.as_str()),
            ("certs/second-key.pem", second_key.as_str()),
            ("certs/other.pem", certificate(2099).1.as_str()),
            ("certs/old.pem", old.as_str()),
            ("certs/old-key.pem", old_key.as_str()),
            ("certs/none.pem", &format!("-----BEGIN {SECRET}\n")),
            ("secrets/pbx-admin", &format!("{SECRET}\r\n")),
            ("secrets/ring.keys", &format!("{RING_KEY}\n")),
            ("secrets/redis", SECRET),
            ("secrets/redis-client-key", key.as_str()),
            ("certs/redis-ca.pem", chain.as_str()),
            ("certs/redis-client.pem", chain.as_str()),
            ("secrets/link-2026", "0123456789abcdef0123456789abcdef"),
            ("secrets/voximplant-api-key", SECRET),
            ("secrets/oidc-client", &format!("{SECRET}\n")),
            ("secrets/collector-token", &format!("{SECRET}\n")),
            ("secrets/cookie-key", &format!("{SECRET}{SECRET}\n")),
            ("secrets/marked", &format!("\u{feff}{SECRET}\r\n")),
            ("secrets/utf-16", &SECRET.chars().flat_map(|c| [c, '\0']).collect::<String>()),
            ("secrets/spaced", &format!(" {SECRET}\n")),
            ("secrets/empty", ""),
            ("secrets/short", "fifteen-letters"),
            ("secrets/sso", SECRET),
            ("secrets/newline", "\n"),
            ("secrets/two-lines", &format!("{SECRET}\n{SECRET}\n")),
            ("secrets/nul", &format!("{SECRET}\0\n")),
            ("pages/logo.svg", "<svg xmlns=\"http://www.w3.org/2000/svg\"/>"),
            ("people.csv", "email,ext\nann@example.com,40\n"),
            ("voximplant.htdigest", &format!("ann:voximplant.com:{HA1}\n")),
            ("bad.htdigest", &format!("ann:voximplant.com:{HA1}\n{SECRET}\n")),
            ("open", SECRET),
        ] {
            folder.write(name, text, if name == "open" { 0o602 } else { 0o600 });
        }
        folder
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn parse(&self, text: &str) -> Result<Config, Problems> {
        let credentials = self.0.path().join("secrets").display().to_string();
        parse(text, self.0.path(), &|name| match name {
            "PBX_ADMIN_PASSWORD" => Some(SECRET.to_owned()),
            "EMPTY" => Some(String::new()),
            "MARKED" => Some(format!("\u{feff}{SECRET}\r\n")),
            "USERS" => Some(format!("\u{feff}ann:voximplant.com:{HA1}\r\nbob:voximplant.com:{HA1}\r\n")),
            "BAD_USERS" => Some(format!("ann:voximplant.com:{HA1}\n{SECRET}\n")),
            "CREDENTIALS_DIRECTORY" => Some(credentials.clone()),
            _ => None,
        })
    }
}

fn certificate(end: i32) -> (String, String) {
    let names = ["WWW.example.com", "*.pbx.example.com", "127.0.0.1", "::1", "pbx.example.com", "*.test", "*.b.test"];
    certificate_for(&names.map(str::to_owned), end)
}

fn certificate_for(names: &[String], end: i32) -> (String, String) {
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(end, 1, 1);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

// === Asking ===

/// The first two lines of every configuration; the text of a test starts at line 3.
const TOP: &str = "listen = \"127.0.0.1:0\"\ntls = { cert = \"certs/fullchain.pem\", key = \"certs/privkey.pem\" }\n";
/// Four more lines; the text of a test starts at line 7.
const BOTH: &str = "[app]\nurl = \"http://127.0.0.1:3000\"\n[voximplant]\nusers = { file = \"voximplant.htdigest\" }\n";

fn accepted(text: &str) -> Config {
    Folder::new().parse(text).unwrap_or_else(|problems| panic!("{text}\n{problems}"))
}

fn refused(text: &str) -> Problems {
    let problems = Folder::new().parse(text).expect_err(text);
    let shown = problems.to_string();
    assert!(![SECRET, HA1, RING_KEY].iter().any(|secret| shown.contains(secret)), "{shown}");
    problems
}

/// Checks the positions and messages of all problems.
#[track_caller]
fn check_text(text: &str, expected: &[&str]) {
    let shown = |problem: &Problem| {
        let position = problem.position.unwrap();
        format!("{}:{}: {}", position.line, position.column, problem.message)
    };
    let found: Vec<_> = refused(text).as_slice().iter().map(shown).collect();
    assert_eq!(found, expected, "{text}");
}

/// Checks the only problem of a configuration with nothing but `[app]` before it.
#[track_caller]
fn check(tail: &str, expected: &str) {
    check_text(&format!("{TOP}{tail}"), &[expected]);
}

/// Checks the only problem of a table beside `[app]` and `[voximplant]`.
#[track_caller]
fn check_beside(tail: &str, expected: &str) {
    check_text(&format!("{TOP}{BOTH}{tail}"), &[expected]);
}

#[track_caller]
fn check_hint(tail: &str, expected: &str) {
    let problems = refused(&format!("{TOP}{tail}"));
    let hints: Vec<_> = problems.as_slice().iter().filter_map(|problem| problem.hint.as_deref()).collect();
    assert!(hints.iter().any(|hint| hint.contains(expected)), "{hints:?}");
}

fn pbx(url: &str, tail: &str) -> String {
    format!(
        "{TOP}[pbx]\nurl = \"{url}\"\n{tail}\n[[allow]]\nauth = \"redirect\"\npbx = {{ domain = \"a\", account = \"40\" }}\n"
    )
}

const HASH: &str = "sha256 = \"6ca13d52ca70c883e0f0bb101e425a89e8624de51db2d2392593af6a84118090\"";

const HASH_HEX: &str = "6ca13d52ca70c883e0f0bb101e425a89e8624de51db2d2392593af6a84118090";
