//! Makes certificates for development: `cargo run --example certs -- app.example.com pbx.example.com`.
//!
//! Writes `ca.pem`, `fullchain.pem` and `privkey.pem` into `certs/`, or into the folder that `CERTS` names.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that ends after these lines")]

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use callgate::tls::dev;

fn main() -> ExitCode {
    let names: Vec<_> = std::env::args().skip(1).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    if names.is_empty() || names.iter().any(|name| name.starts_with('-')) {
        eprintln!("usage: cargo run --example certs -- NAME…   (host names or addresses, such as app.example.com)");
        return ExitCode::from(2);
    }
    let folder = std::env::var_os("CERTS").map_or_else(|| PathBuf::from("certs"), PathBuf::from);
    match make(&names, &folder) {
        Ok(()) => {
            println!("wrote ca.pem, fullchain.pem and privkey.pem into {}", folder.display());
            println!("for {}; let a browser trust ca.pem to use them", names.join(", "));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("no certificate made: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Makes a certificate and writes its three files. If one of them exists, it writes no file.
fn make(names: &[&str], folder: &Path) -> io::Result<()> {
    dev::certificate(names).map_err(io::Error::other)?.write(folder, false)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn makes_what_a_configuration_accepts_and_overwrites_nothing() {
        let folder = tempfile::TempDir::new().unwrap();
        let certs = folder.path().join("certs");
        make(&["app.example.com", "pbx.example.com"], &certs).unwrap();
        let key = certs.join("privkey.pem");
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let text = "listen = \"127.0.0.1:0\"\ntls = { cert = \"certs/fullchain.pem\", key = \"certs/privkey.pem\" }\n\
                    [app]\nurl = \"http://127.0.0.1:1\"\n";
        callgate::config::parse(text, folder.path(), &|_| None).unwrap();

        let before = std::fs::read(&key).unwrap();
        std::fs::remove_file(certs.join("ca.pem")).unwrap();
        make(&["other.example.com"], &certs).unwrap_err();
        assert_eq!(std::fs::read(&key).unwrap(), before);
        assert!(!certs.join("ca.pem").exists(), "all files or none");
    }

    #[test]
    fn an_invalid_name_leaves_no_file() {
        let folder = tempfile::TempDir::new().unwrap();
        make(&["späß.example"], folder.path()).unwrap_err();
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }
}
