//! `callgate init` and `callgate certs`: a first configuration, and certificates for development.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use callgate::config;
use callgate::model::ott::Ha1;
use tempfile::TempDir;

use super::commands::check_code;
use crate::kit::commands::{callgate, run, text};
use crate::kit::gate::{VOX_PASSWORD, secret};

const PASSWORD: &str = "Admin-Passw0rd \"canary\"";

fn folder() -> TempDir {
    let dir = TempDir::new().unwrap();
    secret(&dir, "users", &format!("alice:voximplant.com:{}\n", Ha1::of("alice", VOX_PASSWORD).expose()));
    dir
}

/// The command in a folder, with lines on standard input.
fn command(dir: &Path, arguments: &[&str], lines: &str) -> Command {
    let mut command = callgate(arguments);
    fs::write(dir.join("lines"), lines).unwrap();
    command.current_dir(dir).stdin(File::open(dir.join("lines")).unwrap());
    command
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Checks the files that the answers of these tests make.
async fn check_files(dir: &Path) {
    assert_eq!((mode(&dir.join("pbx-admin")), mode(&dir.join("certs/privkey.pem"))), (0o600, 0o600));
    assert_eq!(fs::read_to_string(dir.join("pbx-admin")).unwrap(), format!("{PASSWORD}\n"));
    let config = config::load(&dir.join("proxy.toml"), &|_| None).unwrap();
    assert_eq!(config.warnings, []);
    assert_eq!(config.certificates[0].names, ["app.test", "pbx.test"]);
    assert_eq!(config.voximplant.unwrap().users.len(), 1);
    assert_eq!((config.rules.len(), config.methods.len(), config.pbx.iter().count()), (1, 1, 1));
    let checked = run(command(dir, &["check"], "")).await;
    check_code(&checked, 0);
}

#[tokio::test]
async fn options_make_a_configuration_that_passes_the_check() {
    let dir = folder();
    let all = "init --non-interactive --listen 127.0.0.1:8443 --app-host app.test --pbx-host pbx.test --development-certificate \
               --app-url http://127.0.0.1:3000 --whoami /api/me --pbx-url http://127.0.0.1:8080 --pbx-admin sso \
               --voximplant-users users";
    let arguments: Vec<_> = all.split_whitespace().collect();
    let made = run(command(dir.path(), &arguments, &format!("{PASSWORD}\n"))).await;
    check_code(&made, 0);
    let told = text(&made.stdout);
    assert!(
        told.contains("/pbx-admin (mode 600)\n") && told.contains("callgate check --online -c proxy.toml"),
        "{told}"
    );
    assert!(!format!("{told}{}", text(&made.stderr)).contains("Passw0rd"));
    assert_eq!(names(dir.path()), ["certs", "lines", "pbx-admin", "proxy.toml", "users"]);
    check_files(dir.path()).await;

    // What exists is kept, unless it is to be replaced.
    let before = fs::read(dir.path().join("certs/privkey.pem")).unwrap();
    for remove in ["", "proxy.toml"] {
        let _ = fs::remove_file(dir.path().join(remove));
        let again = run(command(dir.path(), &arguments, "Other-Passw0rd\n")).await;
        check_code(&again, 1);
        assert!(text(&again.stderr).contains("exists: --force replaces it"), "{}", text(&again.stderr));
        assert_eq!(fs::read(dir.path().join("certs/privkey.pem")).unwrap(), before);
    }
    let forced = run(command(dir.path(), &[&arguments[..], &["--force"]].concat(), &format!("{PASSWORD}\n"))).await;
    check_code(&forced, 0);
    assert_ne!(fs::read(dir.path().join("certs/privkey.pem")).unwrap(), before);
    check_files(dir.path()).await;
}

#[tokio::test]
async fn answers_to_the_questions_make_the_same() {
    let dir = folder();
    let lines = format!("\napp.test\npbx.test\n\n\n\n\n\n{PASSWORD}\n\nusers\n");
    let made = run(command(dir.path(), &["init"], &lines)).await;
    check_code(&made, 0);
    let asked = text(&made.stderr);
    for question in ["1. Where browsers find callgate", "2. Certificate", "3. The app", "4. The PBX", "5. Voximplant"] {
        assert!(asked.contains(question), "{asked}");
    }
    check_files(dir.path()).await;
    let ended = run(command(folder().path(), &["init"], "\napp.test\n")).await;
    check_code(&ended, 2);
    assert!(text(&ended.stderr).contains("the answers ended early"), "{}", text(&ended.stderr));
}

/// Returns the configuration that options make, beside those for an app and a PBX.
async fn made_by(options: &str) -> String {
    let dir = folder();
    let all = format!(
        "init --non-interactive --app-host app.test --pbx-host pbx.test --app-url http://127.0.0.1:3000 --whoami /api/me \
         --pbx-url http://127.0.0.1:8080 --pbx-admin sso {options}"
    );
    let arguments: Vec<_> = all.split_whitespace().collect();
    let made = run(command(dir.path(), &arguments, &format!("{PASSWORD}\n"))).await;
    check_code(&made, 0);
    assert_eq!(options.contains("--development-certificate"), dir.path().join("certs").exists());
    fs::read_to_string(dir.path().join("proxy.toml")).unwrap()
}

#[tokio::test]
async fn the_domain_of_callers_is_that_of_the_answer() {
    for (option, domain) in [("", "{tenant}"), ("--pbx-domain {tenant}.pbx.test", "{tenant}.pbx.test")] {
        let text = made_by(&format!("--development-certificate {option}")).await;
        assert!(text.contains(&format!("pbx = {{ domain = \"{domain}\", account = \"{{ext}}\" }}")), "{text}");
    }
}

#[tokio::test]
async fn callgate_can_order_the_certificate() {
    let text = made_by("--acme").await;
    assert!(text.contains("tls = { acme = { names = [\"app.test\", \"pbx.test\"] } }\n"), "{text}");
    assert!(text.contains("[state]\nfile = \"callgate.state\""), "{text}");
}

#[tokio::test]
async fn a_wrong_answer_leaves_no_file() {
    for (arguments, code, problem) in [
        ("--app-url nonsense --app-host app.test --development-certificate", 78, "`app.url`"),
        ("--app-url http://127.0.0.1:1 --certificate users --key users", 78, "proxy.toml:"),
        ("--app-url http://127.0.0.1:1 --app-host app.test", 2, "--development-certificate"),
        ("--app-host app.test --development-certificate", 2, "--app-url"),
        ("--app-url http://127.0.0.1:1 --development-certificate", 2, "--app-host"),
        ("--app-url http://127.0.0.1:1 --app-host späß.test --development-certificate", 1, "nothing was written"),
        ("--pbx-url http://127.0.0.1:1 --pbx-host pbx.test --pbx-admin sso --development-certificate", 2, "password"),
    ] {
        let dir = folder();
        let arguments: Vec<_> = ["init", "--non-interactive"].into_iter().chain(arguments.split(' ')).collect();
        let made = run(command(dir.path(), &arguments, "")).await;
        check_code(&made, code);
        assert!(text(&made.stderr).contains(problem), "{problem}: {}", text(&made.stderr));
        assert_eq!(names(dir.path()), ["lines", "users"]);
    }
}

#[tokio::test]
async fn a_certificate_for_development_is_made_once() {
    let dir = TempDir::new().unwrap();
    let make = |more: &[&str]| run(command(dir.path(), &[&["certs", "app.test", "127.0.0.1"][..], more].concat(), ""));
    let made = make(&[]).await;
    check_code(&made, 0);
    let told = text(&made.stdout);
    assert!(
        told.starts_with("wrote ca.pem, fullchain.pem and privkey.pem into certs, for app.test, 127.0.0.1\n"),
        "{told}"
    );
    assert!(told.contains("curl --cacert certs/ca.pem") && told.contains("update-ca-certificates"), "{told}");
    let key = dir.path().join("certs/privkey.pem");
    assert_eq!((mode(&key), mode(&dir.path().join("certs/ca.pem"))), (0o600, 0o644));
    let before = fs::read(&key).unwrap();
    check_code(&make(&[]).await, 1);
    assert_eq!(fs::read(&key).unwrap(), before);
    check_code(&make(&["--force"]).await, 0);
    assert_ne!(fs::read(&key).unwrap(), before);
    assert_eq!(mode(&key), 0o600);
    // A link counts as a file, wherever it leads, so no file is written beside it.
    fs::remove_file(&key).unwrap();
    let chain = dir.path().join("certs/fullchain.pem");
    fs::remove_file(&chain).unwrap();
    std::os::unix::fs::symlink(dir.path().join("nothing"), &chain).unwrap();
    let made = make(&[]).await;
    check_code(&made, 1);
    assert!(text(&made.stderr).contains("fullchain.pem exists") && !key.exists(), "{}", text(&made.stderr));
}

#[tokio::test]
async fn files_in_a_folder_of_another_user_come_with_a_warning() {
    let dir = TempDir::new().unwrap();
    let certs = dir.path().join("certs");
    fs::create_dir(&certs).unwrap();
    let warning = format!("{} belongs to the user with the id 65534, who can replace", certs.display());
    let make = async |force: &str| {
        let options =
            "init --non-interactive --app-host app.test --app-url http://127.0.0.1:1 --development-certificate";
        let arguments: Vec<_> = options.split(' ').chain((!force.is_empty()).then_some(force)).collect();
        let made = run(command(dir.path(), &arguments, "")).await;
        check_code(&made, 0);
        text(&made.stderr)
    };
    let told = make("").await;
    assert!(!told.contains("belongs to the user"), "{told}");
    // Only root can give a folder away.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&certs, Some(65534), None).unwrap();
        let told = make("--force").await;
        assert!(told.contains(&warning), "{told}");
        let made = run(command(dir.path(), &["certs", "--force", "app.test"], "")).await;
        assert!(text(&made.stderr).contains("warning: certs belongs to the user with the id 65534"));
    }
}

#[tokio::test]
async fn of_two_at_the_same_time_one_writes_and_the_other_says_so() {
    let options = "init --non-interactive --app-host app.test --app-url http://127.0.0.1:1 --development-certificate";
    let arguments: Vec<_> = options.split(' ').collect();
    for _ in 0..5 {
        let dir = folder();
        let made = || run(command(dir.path(), &arguments, ""));
        let (one, other) = tokio::join!(made(), made());
        let (made, refused) = if one.status.success() { (one, other) } else { (other, one) };
        check_code(&made, 0);
        check_code(&refused, 1);
        assert!(text(&refused.stderr).contains("exists: --force replaces it"), "{}", text(&refused.stderr));
        check_code(&run(command(dir.path(), &["check"], "")).await, 0);
        assert_eq!(names(dir.path()), ["certs", "lines", "proxy.toml", "users"]);
    }
}

#[tokio::test]
async fn a_key_that_is_replaced_keeps_its_owner_and_its_mode() {
    let dir = folder();
    let rights = |name: &str| {
        let found = dir.path().join("certs").join(name).metadata().unwrap();
        (found.uid(), found.gid(), found.mode() & 0o777)
    };
    let init =
        "init --non-interactive --app-host app.test --app-url http://127.0.0.1:1 --development-certificate --force";
    let key = dir.path().join("certs/privkey.pem");
    check_code(&run(command(dir.path(), &["certs", "app.test"], "")).await, 0);
    let own = rights("privkey.pem");
    let admit = |mode| fs::set_permissions(dir.path().join("certs"), fs::Permissions::from_mode(mode)).unwrap();
    admit(0o755);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    // Only root can give a key away, as to the user of a service.
    let is_root = rustix::process::geteuid().is_root();
    let owner = if is_root { (65534, 65533) } else { (own.0, own.1) };
    if is_root {
        std::os::unix::fs::chown(&key, Some(owner.0), Some(owner.1)).unwrap();
    }
    for arguments in ["certs --force app.test", init] {
        let before = fs::read(&key).unwrap();
        let arguments: Vec<_> = arguments.split(' ').collect();
        check_code(&run(command(dir.path(), &arguments, "")).await, 0);
        assert_ne!(fs::read(&key).unwrap(), before);
        assert_eq!(rights("privkey.pem"), (owner.0, owner.1, 0o640), "{arguments:?}");
        assert_eq!(rights("ca.pem"), (own.0, own.1, 0o644));
    }
    // Where others may write, the file may be that of a user who waits for a key.
    admit(0o777);
    check_code(&run(command(dir.path(), &["certs", "--force", "app.test"], "")).await, 0);
    assert_eq!(rights("privkey.pem"), (own.0, own.1, 0o600));
}
