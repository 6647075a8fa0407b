//! Files that are written as drafts, and then get their names: at any moment a name leads to a whole file.

use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::permissions::{GROUP_WRITE, OTHERS_WRITE, is_strangers};

/// How long another program may hold the lock of a folder. Less than a gate waits for a write to a file.
const LOCK_PATIENCE: Duration = Duration::from_secs(4);
/// The time between two tries to lock it.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Opens a folder and locks it, so that of two programs that write files there the second waits for the first.
///
/// # Errors
/// When the folder cannot be opened, or another program holds the lock for four seconds: each user who may read the folder can.
pub fn lock_folder(folder: &Path) -> io::Result<File> {
    lock_within(folder, LOCK_PATIENCE)
}

fn lock_within(folder: &Path, patience: Duration) -> io::Result<File> {
    let file = File::open(folder)?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if began.elapsed() < patience => thread::sleep(LOCK_RETRY),
            Err(TryLockError::WouldBlock) => {
                let message = format!("another program has locked {0}; to find it, run: lslocks", folder.display());
                return Err(io::Error::new(io::ErrorKind::WouldBlock, message));
            }
        }
    }
}

/// Returns the file at a path, whose rights a new file there is to keep ([`keep_rights`]).
///
/// There is none to keep in the folder of another user, or one that others may write to: the file may be of a user who waits
/// there for a secret.
#[must_use]
pub fn rights_to_keep(path: &Path) -> Option<Metadata> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let is_ours = |folder: Metadata| folder.mode() & (GROUP_WRITE | OTHERS_WRITE) == 0 && !is_strangers(folder.uid());
    path.symlink_metadata().ok().filter(|found| found.is_file() && fs::metadata(folder).is_ok_and(is_ours))
}

/// Gives a new file the owner, the group and the mode of the one that it is to replace.
///
/// # Errors
/// When only root may give it to that owner.
pub fn keep_rights(file: &File, before: &Metadata) -> io::Result<()> {
    let now = file.metadata()?;
    if (now.uid(), now.gid()) != (before.uid(), before.gid()) {
        fchown(file, Some(before.uid()), Some(before.gid()))?;
    }
    file.set_permissions(fs::Permissions::from_mode(before.mode() & 0o777))
}

/// Gives a draft its name, unless a file has it. The name of the draft may remain as well.
///
/// # Errors
/// `AlreadyExists` when a file has the name.
pub fn put_new(draft: &Path, path: &Path) -> io::Result<()> {
    match renameat_with(CWD, draft, CWD, path, RenameFlags::NOREPLACE) {
        // NFS knows no such rename.
        Err(Errno::INVAL | Errno::NOSYS) => fs::hard_link(draft, path),
        renamed => Ok(renamed?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn rights_are_kept_only_where_nobody_else_can_put_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert!(rights_to_keep(&path).is_none());
        fs::write(&path, "").unwrap();
        set_mode(&path, 0o4640);
        for (mode, are_kept) in [(0o700, true), (0o755, true), (0o770, false), (0o1777, false)] {
            set_mode(folder.path(), mode);
            assert_eq!(rights_to_keep(&path).is_some(), are_kept, "{mode:o}");
        }
        set_mode(folder.path(), 0o700);
        let new = tempfile::tempfile().unwrap();
        keep_rights(&new, &rights_to_keep(&path).unwrap()).unwrap();
        assert_eq!(new.metadata().unwrap().mode() & 0o7777, 0o640);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(rights_to_keep(&link).is_none());
    }

    #[test]
    fn a_lock_that_stays_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock_folder(folder.path()).unwrap();
        let error = lock_within(folder.path(), Duration::ZERO).unwrap_err();
        assert!(error.to_string().starts_with("another program has locked /"), "{error}");
        let waiting = thread::scope(|scope| {
            let waiting = scope.spawn(|| lock_folder(folder.path()));
            drop(held);
            waiting.join().unwrap()
        });
        waiting.unwrap();
    }

    #[test]
    fn a_draft_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let [draft, path] = ["draft", "path"].map(|name| folder.path().join(name));
        fs::write(&draft, "one").unwrap();
        put_new(&draft, &path).unwrap();
        fs::write(&draft, "two").unwrap();
        assert_eq!(put_new(&draft, &path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
    }
}
