//! `callgate keys rotate`: the file of the keys that members share.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use tempfile::TempDir;

use crate::kit::commands::{callgate, run, text};

/// A folder with a ring, or without one yet.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn ring(&self) -> PathBuf {
        self.0.path().join("ring.keys")
    }

    fn write(&self, text: &str, mode: u32) {
        fs::write(self.ring(), text).unwrap();
        fs::set_permissions(self.ring(), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Returns the keys in the file.
    fn keys(&self) -> Vec<String> {
        let text = fs::read_to_string(self.ring()).unwrap();
        text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
    }

    /// Runs the command, and returns its exit code and what it says.
    async fn rotate(&self, more: &[&str]) -> (i32, String) {
        let mut command = callgate(&["keys", "rotate", "ring.keys"]);
        command.args(more).current_dir(self.0.path());
        let output = run(command).await;
        let told = format!("{}{}", text(&output.stdout), text(&output.stderr));
        if self.ring().is_file() {
            for key in self.keys() {
                assert!(!told.contains(&key), "a key is shown: {told}");
            }
        }
        (output.status.code().unwrap(), told)
    }

    async fn rotated(&self, more: &[&str], part: &str) {
        let (code, told) = self.rotate(more).await;
        assert!(code == 0 && told.contains(part), "{more:?}: {told}");
    }

    /// Runs the command, which must leave everything in the folder as it is.
    async fn refused(&self, more: &[&str], part: &str) {
        let before = self.contents();
        let (code, told) = self.rotate(more).await;
        assert!(code == 1 && told.contains(part), "{more:?}: {code} {told}");
        assert_eq!(before, self.contents());
    }

    fn contents(&self) -> Vec<(PathBuf, u32, Option<String>)> {
        let files = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut found: Vec<_> = files
            .map(|path| {
                let mode = fs::symlink_metadata(&path).unwrap().mode();
                let text = path.is_file().then(|| fs::read_to_string(&path).unwrap());
                (path, mode, text)
            })
            .collect();
        found.sort();
        found
    }
}

#[tokio::test]
async fn a_key_reads_then_writes_then_goes() {
    let folder = Folder::new();
    folder.rotated(&[], "ring.keys has 1 key; the first writes, all read\n").await;
    assert_eq!(fs::metadata(folder.ring()).unwrap().mode() & 0o7777, 0o600);
    let first = folder.keys();
    folder.rotated(&[], "has 2 keys; the first writes, all read\nnext: copy it to all members").await;
    let both = folder.keys();
    assert_eq!(both[0], first[0]);
    folder.refused(&[], "a new key waits to write already").await;
    folder.refused(&["--drop"], "run it with --promote before --drop").await;
    folder.rotated(&["--promote"], "callgate keys rotate ring.keys --drop").await;
    assert_eq!(folder.keys(), [both[1].clone(), both[0].clone()]);
    folder.refused(&["--promote"], "no new key waits").await;
    // The old key's texts have not expired.
    folder.refused(&["--drop"], "expires at").await;
    let text = fs::read_to_string(folder.ring()).unwrap();
    let since = text.split("writes since ").nth(1).unwrap().lines().next().unwrap();
    folder.write(&text.replace(since, "2026-01-01T00:00:00Z"), 0o600);
    folder.rotated(&["--drop"], "has 1 key").await;
    assert_eq!(folder.keys(), both[1..]);
    folder.refused(&["--drop"], "has one key only").await;
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 1, "no draft stays behind");
}

#[tokio::test]
async fn keys_that_others_know_go_at_once() {
    let folder = Folder::new();
    for step in [&[][..], &[], &["--promote"], &[], &["--promote"]] {
        folder.rotated(step, "has ").await;
    }
    let first = folder.keys().remove(0);
    folder.rotated(&["--drop", "--at-once"], "has 1 key; ").await;
    assert_eq!(folder.keys(), [first]);
}

#[tokio::test]
async fn comments_and_mode_stay() {
    let folder = Folder::new();
    folder.rotated(&[], "1 key").await;
    folder.write(&format!("# of the portal\n{}\n# the end\n", folder.keys()[0]), 0o400);
    folder.rotated(&[], "2 keys").await;
    folder.rotated(&["--promote"], "2 keys").await;
    let text = fs::read_to_string(folder.ring()).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines[0], lines[4]), ("# of the portal", "# the end"), "{text}");
    assert_eq!(fs::metadata(folder.ring()).unwrap().mode() & 0o7777, 0o400);
}

#[tokio::test]
async fn what_is_no_ring_stays_as_it_is() {
    let folder = Folder::new();
    let output = run(callgate(&["keys", "rotate", "/nowhere/ring.keys"])).await;
    let told = "callgate: no key ring at /nowhere/ring.keys: the folder /nowhere does not exist\n";
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), told.into()));
    folder.refused(&["--promote"], "no key ring at ring.keys: it does not exist yet").await;
    folder.refused(&["--drop"], "does not exist yet").await;
    folder.write("a password\n", 0o600);
    folder.refused(&[], "line 1 is not the base64 of 32 bytes; it is no key ring").await;
    folder.write("", 0o600);
    folder.refused(&[], "has no key").await;
    folder.write(&"#\n".repeat(40_000), 0o600);
    folder.refused(&[], "too long").await;
    fs::remove_file(folder.ring()).unwrap();
    fs::create_dir(folder.ring()).unwrap();
    folder.refused(&[], "not a regular file").await;
}

#[tokio::test]
async fn a_ring_that_others_could_change_or_know_stays_as_it_is() {
    let folder = Folder::new();
    folder.rotated(&[], "1 key").await;
    let key = folder.keys().remove(0);
    folder.write(&key, 0o660);
    folder.refused(&[], "run: chmod go-w").await;
    // Of root's files, the group may be the gate's.
    if !rustix::process::geteuid().is_root() {
        folder.write(&key, 0o640);
        folder.refused(&[], "run: chmod 600").await;
    }
    let elsewhere = folder.0.path().join("elsewhere");
    fs::rename(folder.ring(), &elsewhere).unwrap();
    symlink(&elsewhere, folder.ring()).unwrap();
    folder.refused(&[], "it is a symbolic link: name the file that it leads to").await;
    fs::remove_file(&elsewhere).unwrap();
    folder.refused(&[], "it is a symbolic link").await;
}

#[tokio::test]
async fn a_full_ring_takes_no_key() {
    let folder = Folder::new();
    for _ in 0..7 {
        folder.rotated(&[], "has").await;
        let text = fs::read_to_string(folder.ring()).unwrap();
        // By hand, so that none waits.
        folder.write(
            &text.lines().filter(|line| !line.starts_with('#')).fold(String::new(), |all, line| all + line + "\n"),
            0o600,
        );
    }
    folder.rotated(&[], "has 8 keys").await;
    folder.rotated(&["--promote"], "has 8 keys").await;
    folder.refused(&[], "the most of a ring; remove the oldest with --drop").await;
}

#[tokio::test]
async fn the_folder_must_be_there() {
    let folder = TempDir::new().unwrap();
    let mut command = callgate(&["keys", "rotate", "secrets/ring.keys"]);
    command.current_dir(folder.path());
    let output = run(command).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("the folder secrets does not exist"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn the_configuration_names_the_file() {
    let folder = Folder::new();
    let config = folder.0.path().join("proxy.toml");
    let rotate = async |part: &str, code: i32| {
        let output = run({
            let mut command = callgate(&["keys", "rotate", "--config"]);
            command.arg(&config);
            command
        })
        .await;
        let told = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert!(output.status.code() == Some(code) && told.contains(part), "{told}");
    };
    rotate("proxy.toml", 78).await;
    fs::write(&config, "listen = 5\n").unwrap();
    rotate("has no `keys` in [shared]: name the file", 2).await;
    // The rest need not be valid, and the file is relative to the configuration.
    fs::write(&config, "listen = 5\n[shared]\nkeys = \"ring.keys\"\n").unwrap();
    rotate("has 1 key", 0).await;
    assert_eq!(folder.keys().len(), 1);
}
