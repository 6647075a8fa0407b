//! The users besides the owner that a file's mode admits, and the consequences for its contents. Pure except for
//! [`Permissions::of`].

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::StatVfsMountFlags;

/// The contents of a file, by who may read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileRole {
    /// Public data: certificates, tables, the configuration itself.
    Public,
    /// A secret.
    Secret,
    /// The private key of a certificate, which the operator may share with other programs through a group.
    CertificateKey,
    /// A systemd credential, whose readers systemd controls.
    Credential,
}

/// The mode of an open file, with everything else that decides who may read or write it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Permissions {
    mode: u32,
    owner: u32,
    /// Whether the file is on a read-only mount.
    is_read_only: bool,
}

/// The finding that other users have too many rights on a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exposure {
    /// Whether the file is refused; otherwise this is a warning.
    pub(super) is_refused: bool,
    /// The problem, to be appended to the name of the file.
    pub(super) message: String,
    /// The remedy.
    pub(super) hint: String,
}

/// Returns why a file of secrets is refused for the rights of other users, and what to do.
///
/// # Errors
/// When the rights cannot be read.
pub fn exposed_secret(file: &File, path: &Path) -> io::Result<Option<String>> {
    let us = rustix::process::geteuid().as_raw();
    let exposure = Permissions::of(file)?.exposure(FileRole::Secret, us, path);
    Ok(exposure.filter(|exposure| exposure.is_refused).map(|found| format!("it {}; {}", found.message, found.hint)))
}

const GROUP_READ: u32 = 0o040;
const OTHERS_READ: u32 = 0o004;
pub(super) const GROUP_WRITE: u32 = 0o020;
pub(super) const OTHERS_WRITE: u32 = 0o002;

impl Permissions {
    /// Reads the permissions of an open file. Its name could lead to another file a moment later.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let is_read_only =
            rustix::fs::fstatvfs(file).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::RDONLY));
        Ok(Self { mode: metadata.mode(), owner: metadata.uid(), is_read_only })
    }

    /// Returns the rights of other users on the file at `path` that they should not have. `us`: the user id of
    /// callgate.
    pub(super) fn exposure(self, role: FileRole, us: u32, path: &Path) -> Option<Exposure> {
        self.writable(role, path).or_else(|| self.readable(role, us, path))
    }

    /// A user who can write a secret, a CA, a table or a rule can become any caller.
    fn writable(self, role: FileRole, path: &Path) -> Option<Exposure> {
        if self.mode & (GROUP_WRITE | OTHERS_WRITE) == 0 {
            return None;
        }
        // A group may often write files that people edit together; no one else may write a secret.
        let is_shared = role == FileRole::Public && self.mode & OTHERS_WRITE == 0;
        Some(Exposure {
            is_refused: !is_shared && !self.is_read_only,
            message: format!("is writable by group or world (mode {:04o}): a writer decides who logs in", self.shown()),
            hint: format!("run: chmod go-w {}", shell_word(path)),
        })
    }

    fn readable(self, role: FileRole, us: u32, path: &Path) -> Option<Exposure> {
        let is_readable = self.mode & (GROUP_READ | OTHERS_READ) != 0;
        if !is_readable || matches!(role, FileRole::Public | FileRole::Credential) {
            return None;
        }
        // A file of another owner, such as root's in a mounted secret, is readable only through such a bit, and we
        // cannot change it.
        let is_ours = self.owner == us && us != ROOT;
        Some(Exposure {
            is_refused: is_ours && role == FileRole::Secret,
            message: format!("is readable by group or world (mode {:04o})", self.shown()),
            hint: self.way_to_close(us, path),
        })
    }

    fn way_to_close(self, us: u32, path: &Path) -> String {
        let path = shell_word(path);
        if self.owner == us {
            return format!("run: chmod 600 {path}");
        }
        format!(
            "run: chown {us} {path} && chmod 600 {path}; of a Kubernetes secret: `defaultMode: 0440`, and no other member of its \
             `fsGroup`; of a Docker secret: `uid: \"{us}\"` and `mode: 0400`"
        )
    }

    const fn shown(self) -> u32 {
        self.mode & 0o7777
    }
}

/// The user id that file modes do not restrict.
const ROOT: u32 = 0;

/// Tells whether the owner of a file is neither the user of this process nor root.
#[must_use]
pub fn is_strangers(owner: u32) -> bool {
    is_foreign(owner, rustix::process::geteuid().as_raw())
}

const fn is_foreign(owner: u32, own: u32) -> bool {
    owner != own && owner != ROOT
}

/// Quotes a path so that a shell reads it as one word.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@,:=".contains(&byte);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u32 = 990;
    const SOMEBODY: u32 = 1000;

    #[track_caller]
    fn check(role: FileRole, owner: u32, us: u32, mode: u32, expected: &str) {
        let permissions = Permissions { mode: mode | 0o100_000, owner, is_read_only: false };
        assert_eq!(verdict(permissions, role, us), expected, "{role:?} of {owner} for {us}, {mode:04o}");
    }

    fn verdict(permissions: Permissions, role: FileRole, us: u32) -> &'static str {
        match permissions.exposure(role, us, Path::new("/f")) {
            None => "fine",
            Some(exposure) if exposure.is_refused => "refused",
            Some(_) => "warned",
        }
    }

    #[test]
    fn the_files_of_root_and_of_ourselves_are_no_strangers() {
        assert!(is_foreign(SOMEBODY, ROOT) && is_foreign(SOMEBODY, US));
        assert!(!is_foreign(ROOT, US) && !is_foreign(US, US) && !is_foreign(ROOT, ROOT));
    }

    #[test]
    fn a_secret_of_ours_is_ours_alone() {
        for mode in [0o400, 0o600, 0o700] {
            check(FileRole::Secret, US, US, mode, "fine");
        }
        for mode in [0o440, 0o640, 0o604, 0o444, 0o644] {
            check(FileRole::Secret, US, US, mode, "refused");
        }
    }

    #[test]
    fn a_mounted_secret_of_another_owner_starts_with_a_warning() {
        for owner in [ROOT, SOMEBODY] {
            // Kubernetes with and without `fsGroup`, PostgreSQL, Docker.
            for mode in [0o440, 0o644, 0o640, 0o444] {
                check(FileRole::Secret, owner, US, mode, "warned");
            }
            check(FileRole::Secret, owner, US, 0o600, "fine");
        }
        for mode in [0o444, 0o440] {
            check(FileRole::Secret, ROOT, ROOT, mode, "warned");
        }
    }

    #[test]
    fn what_others_write_is_refused() {
        for mode in [0o620, 0o602, 0o622, 0o660, 0o666, 0o777] {
            for role in [FileRole::Secret, FileRole::CertificateKey, FileRole::Credential] {
                for (owner, us) in [(US, US), (ROOT, US), (SOMEBODY, US), (ROOT, ROOT)] {
                    check(role, owner, us, mode, "refused");
                }
            }
        }
        for (mode, expected) in [(0o644, "fine"), (0o664, "warned"), (0o646, "refused"), (0o666, "refused")] {
            check(FileRole::Public, US, US, mode, expected);
        }
    }

    #[test]
    fn a_mount_that_is_read_only_is_not_written() {
        let permissions = Permissions { mode: 0o777, owner: ROOT, is_read_only: true };
        for role in [FileRole::Public, FileRole::Secret, FileRole::CertificateKey] {
            assert_eq!(verdict(permissions, role, US), "warned");
        }
    }

    #[test]
    fn the_key_of_a_certificate_may_be_shared() {
        for (owner, us) in [(US, US), (ROOT, US), (ROOT, ROOT)] {
            check(FileRole::CertificateKey, owner, us, 0o640, "warned");
            check(FileRole::CertificateKey, owner, us, 0o600, "fine");
        }
        check(FileRole::Credential, ROOT, US, 0o440, "fine");
    }

    #[test]
    fn a_remedy_can_be_followed() {
        let hint = |owner, mode| {
            let permissions = Permissions { mode, owner, is_read_only: false };
            permissions.exposure(FileRole::Secret, US, Path::new("/a b")).unwrap().hint
        };
        assert_eq!(hint(US, 0o644), "run: chmod 600 '/a b'");
        assert_eq!(hint(US, 0o666), "run: chmod go-w '/a b'");
        assert!(hint(ROOT, 0o444).starts_with("run: chown 990 '/a b' && chmod 600 '/a b'; "));
    }

    #[test]
    fn a_command_can_be_pasted() {
        for (path, word) in [("/etc/a-b.key", "/etc/a-b.key"), ("/a b", "'/a b'"), ("/it's", r"'/it'\''s'")] {
            assert_eq!(shell_word(Path::new(path)), word);
        }
    }
}
