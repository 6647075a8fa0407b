//! Which file the commands read, and what they say about it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::commands::{Folder, check_code};
use crate::kit::commands::{callgate, piped, run, text, unprivileged};

const TEXT: &str = "listen = \"127.0.0.1:0\"\ntls = { cert = \"fullchain.pem\", key = \"privkey.pem\" }\n[app]\nurl = \"http://127.0.0.1:1\"\n";

#[tokio::test]
async fn a_variable_names_the_configuration_of_all_commands() {
    let (folder, elsewhere) = (Folder::new(TEXT), TempDir::new().unwrap());
    let command = |arguments: &[&str]| {
        let mut command = callgate(arguments);
        command.current_dir(elsewhere.path()).env("CALLGATE_CONFIG", folder.config());
        command
    };
    let config = folder.config();
    let note = format!("note: the configuration is {config}, because CALLGATE_CONFIG names it\n");
    for check in ["check", "validate"] {
        let output = run(command(&[check])).await;
        check_code(&output, 0);
        assert_eq!(text(&output.stdout), format!("{config}: ok\n"));
        assert!(text(&output.stderr).starts_with(&note), "{}", text(&output.stderr));
    }
    // A command that fails says which file it used; here the file has no admin listener.
    let asked = run(command(&["health"])).await;
    check_code(&asked, 78);
    assert!(text(&asked.stderr).starts_with(&format!("{config}: `admin.listen` is missing")));
    assert!(text(&asked.stderr).ends_with(&note), "{}", text(&asked.stderr));
    // An argument counts more than the variable.
    let named = run(command(&["check", "-c", "/nowhere/proxy.toml"])).await;
    check_code(&named, 78);
    assert!(text(&named.stderr).starts_with("/nowhere/proxy.toml: cannot read it"), "{}", text(&named.stderr));
    assert!(!text(&named.stderr).contains("note:"));
}

#[tokio::test]
async fn without_a_name_the_configuration_is_the_one_in_this_folder() {
    let folder = Folder::new(TEXT);
    let mut here = callgate(&["check"]);
    here.current_dir(folder.dir.path());
    let output = run(here).await;
    check_code(&output, 0);
    assert_eq!(text(&output.stdout), "proxy.toml: ok\n");
    assert!(!text(&output.stderr).contains("the configuration is"), "{}", text(&output.stderr));
    if Path::new("/etc/callgate/proxy.toml").exists() {
        return;
    }
    let elsewhere = TempDir::new().unwrap();
    let mut nowhere = callgate(&["check"]);
    nowhere.current_dir(elsewhere.path());
    let output = run(nowhere).await;
    check_code(&output, 78);
    let note = "note: there is neither proxy.toml in this folder nor /etc/callgate/proxy.toml, and CALLGATE_CONFIG is not set\n";
    assert_eq!(text(&output.stderr).matches(note).count(), 1, "{}", text(&output.stderr));
}

#[tokio::test]
async fn a_file_that_another_user_left_in_this_folder_is_passed_over() {
    // Only root can give a file away.
    if !rustix::process::geteuid().is_root() || Path::new("/etc/callgate/proxy.toml").exists() {
        return;
    }
    let folder = Folder::new(TEXT);
    std::os::unix::fs::chown(folder.config(), Some(65534), None).unwrap();
    let check = async |arguments: &[&str]| {
        let mut command = callgate(arguments);
        command.current_dir(folder.dir.path());
        run(command).await
    };
    let output = check(&["check"]).await;
    check_code(&output, 78);
    let note = "note: the configuration is /etc/callgate/proxy.toml, because proxy.toml in this folder belongs to another user: if you trust it, add --config proxy.toml\n";
    assert!(text(&output.stderr).starts_with(note), "{}", text(&output.stderr));
    let named = check(&["check", "--config", "proxy.toml"]).await;
    check_code(&named, 0);
    // A link counts as the file that it leads to, too.
    let own = Folder::new(TEXT);
    std::fs::remove_file(own.config()).unwrap();
    std::os::unix::fs::symlink(folder.config(), own.config()).unwrap();
    let mut linked = callgate(&["check"]);
    linked.current_dir(own.dir.path());
    assert!(text(&run(linked).await.stderr).starts_with(note));
}

#[tokio::test]
async fn a_folder_that_its_user_may_not_enter_holds_no_configuration() {
    let Some(program) = unprivileged() else { return };
    if Path::new("/etc/callgate/proxy.toml").exists() {
        return;
    }
    let folder = Folder::new(TEXT);
    let mut command = piped(Command::new("sh"));
    command.args(["-c", "cd \"$0\" && chmod 0 . && exec \"$@\""]).arg(folder.dir.path());
    command.arg(program.get_program()).args(program.get_args()).arg("check");
    let output = run(command).await;
    std::fs::set_permissions(folder.dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    check_code(&output, 78);
    assert!(text(&output.stderr).contains("there is neither proxy.toml in this folder"), "{}", text(&output.stderr));
}
