//! Tells the program what it is built from, for `callgate version --verbose`.

use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=CALLGATE_COMMIT");
    println!("cargo::rerun-if-changed=Cargo.lock");
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let lock = fs::read_to_string("Cargo.lock").unwrap_or_default();
    let version = |name: &str| locked(&lock, name).unwrap_or("unknown").to_owned();
    for (name, value) in [
        ("CALLGATE_COMMIT", commit().unwrap_or_else(|| "unknown".to_owned())),
        ("CALLGATE_TARGET", env::var("TARGET").unwrap_or_default()),
        ("CALLGATE_RUSTC", output(&rustc, &["--version"]).unwrap_or_else(|| "unknown".to_owned())),
        ("CALLGATE_RUSTLS", version("rustls")),
        ("CALLGATE_AWS_LC_RS", version("aws-lc-rs")),
        ("CALLGATE_HYPER", version("hyper")),
    ] {
        println!("cargo::rustc-env={name}={value}");
    }
}

/// Returns the commit: `CALLGATE_COMMIT` where sources come without their history, else the one that is checked out. A debug
/// build does not look for it, because each commit would compile the program again.
fn commit() -> Option<String> {
    if let Some(named) = env::var("CALLGATE_COMMIT").ok().filter(|named| !named.is_empty()) {
        return Some(named);
    }
    if env::var("PROFILE").as_deref() != Ok("release") {
        return None;
    }
    let moves = output("git", &["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo::rerun-if-changed={moves}");
    output("git", &["rev-parse", "--short=12", "HEAD"])
}

/// Returns the version of a package that `Cargo.lock` names.
fn locked<'l>(lock: &'l str, name: &str) -> Option<&'l str> {
    let (_, entry) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    entry.split('"').next()
}

/// Returns what a command prints, without its line end.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let done = Command::new(program).args(arguments).output().ok().filter(|done| done.status.success())?;
    Some(String::from_utf8(done.stdout).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}
