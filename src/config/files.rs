//! The files that a configuration was read from, and the detection of changes in them.
//!
//! Every look opens the files by name again: a mounted secret changes by a link to another file.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use rustix::fs::{Access, OFlags};

/// The largest file that is read, in bytes.
pub(super) const MAX_FILE: u64 = 64 << 20;

/// The state of each file. Two snapshots are equal when every file has the same contents and mode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileSnapshot(BTreeMap<PathBuf, Option<FileState>>);

impl FileSnapshot {
    /// Adds a file, before it is read.
    pub(super) fn note(&mut self, path: &Path) {
        self.0.insert(path.to_owned(), FileState::read(path, None));
    }

    /// Returns the paths of the files, also of those that could not be read.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// Takes a snapshot of the same files now.
    fn again(&self) -> Self {
        let look = |(path, held): (&PathBuf, &Option<FileState>)| (path.clone(), FileState::read(path, held.as_ref()));
        Self(self.0.iter().map(look).collect())
    }

    /// Returns the files that differ from another snapshot, or are missing in it.
    #[must_use]
    pub fn changed_since(&self, before: &Self) -> Vec<&Path> {
        let changed = self.0.iter().filter(|(path, held)| before.0.get(*path) != Some(held));
        changed.map(|(path, _)| path.as_path()).collect()
    }
}

/// Watches the files of a configuration for changes.
#[derive(Debug)]
pub struct FileWatch {
    read: FileSnapshot,
    /// The snapshot of the last look, if it differs from `read`.
    found: Option<FileSnapshot>,
}

impl FileWatch {
    /// Starts with the snapshot of the configuration in use.
    #[must_use]
    pub const fn new(read: FileSnapshot) -> Self {
        Self { read, found: None }
    }

    /// Returns the snapshot of the configuration in use.
    #[must_use]
    pub const fn read(&self) -> &FileSnapshot {
        &self.read
    }

    /// Looks at the files, and tells whether they have changed. A change counts when two looks in a row find the same
    /// state, because someone may still be writing.
    pub fn has_changed(&mut self) -> bool {
        let now = self.read.again();
        let is_settled = self.found.as_ref() == Some(&now);
        self.found = (now != self.read).then_some(now);
        self.found.is_some() && is_settled
    }
}

/// The state of a readable file: its mode and the hash of its contents.
#[derive(Debug, Clone)]
struct FileState {
    mode: u32,
    digest: [u8; SHA256_OUTPUT_LEN],
    /// The identity and times of the file; `None` when it changed so recently that the next change could have the same
    /// time.
    stamp: Option<Stamp>,
}

/// Device, inode, size, and the times of the last change of contents and attributes, in nanoseconds.
type Stamp = [i128; 5];

impl PartialEq for FileState {
    fn eq(&self, other: &Self) -> bool {
        (self.mode, self.digest) == (other.mode, other.digest)
    }
}

impl Eq for FileState {}

impl FileState {
    /// Reads a file, unless it is unchanged since `before`.
    fn read(path: &Path, before: Option<&Self>) -> Option<Self> {
        let mut file = open(path).ok()?;
        let metadata = file.metadata().ok()?;
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        let changed = nanoseconds(metadata.ctime(), metadata.ctime_nsec());
        let stamp = [
            metadata.dev().into(),
            metadata.ino().into(),
            metadata.len().into(),
            nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed,
        ];
        if let Some(before) = before.filter(|before| before.stamp == Some(stamp)) {
            return Some(before.clone());
        }
        let settled = (SystemTime::now() - SETTLED).duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let stamp = (i128::try_from(settled.as_nanos()).ok()? > changed).then_some(stamp);
        Some(Self { mode: metadata.mode(), digest: digest(&mut file).ok()?, stamp })
    }
}

/// Opens a regular file for reading. Others are refused: opening a pipe may block forever, and a device may never end.
pub(super) fn open(path: &Path) -> io::Result<File> {
    // Without this flag, opening a pipe waits for its other end.
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(rustix::io::Errno::ISDIR.into());
    }
    if kind.is_file() { Ok(file) } else { Err(io::Error::other("it is a pipe or a device")) }
}

/// Tells whether a file could be opened for writing, or be created. The check does neither.
///
/// # Errors
/// The reason why the file cannot be written.
pub fn can_write(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(rustix::io::Errno::ISDIR.into()),
        Ok(_) => Ok(rustix::fs::access(path, Access::WRITE_OK)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            Ok(rustix::fs::access(folder.unwrap_or_else(|| Path::new(".")), Access::WRITE_OK | Access::EXEC_OK)?)
        }
        Err(error) => Err(error),
    }
}

/// The age of a change above which file times tell the next change apart.
const SETTLED: Duration = Duration::from_secs(2);

fn digest(file: &mut File) -> io::Result<[u8; SHA256_OUTPUT_LEN]> {
    let (mut context, mut buffer) = (Context::new(&SHA256), [0; 16 << 10]);
    // The reader refuses larger files.
    let mut file = file.take(MAX_FILE + 1);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")),
            read => context.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::fs::{FileType, Mode};
    use tempfile::TempDir;

    use super::*;

    /// Watches a file that holds `one`, changes it between looks, and returns the results of three looks.
    fn looks(happen: impl Fn(&Path, usize)) -> [bool; 3] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "one").unwrap();
        let mut files = FileSnapshot::default();
        files.note(&path);
        let mut watch = FileWatch::new(files);
        assert!(!watch.has_changed() && !watch.has_changed());
        [0, 1, 2].map(|look| {
            happen(&path, look);
            watch.has_changed()
        })
    }

    #[test]
    fn a_change_counts_once_it_holds_still() {
        assert_eq!(looks(|_, _| ()), [false; 3]);
        assert_eq!(looks(|path, _| fs::write(path, "two").unwrap()), [false, true, true]);
        assert_eq!(looks(|path, look| fs::write(path, look.to_string()).unwrap()), [false; 3]);
        assert_eq!(looks(|path, look| fs::write(path, ["two", "one", "one"][look]).unwrap()), [false; 3]);
    }

    #[test]
    fn a_file_that_goes_or_changes_its_mode_has_changed() {
        assert_eq!(looks(|path, _| drop(fs::remove_file(path))), [false, true, true]);
        let open = fs::Permissions::from_mode(0o644);
        assert_eq!(looks(|path, _| fs::set_permissions(path, open.clone()).unwrap()), [false; 3]);
        let closed = fs::Permissions::from_mode(0o600);
        assert_eq!(looks(|path, _| fs::set_permissions(path, closed.clone()).unwrap()), [false, true, true]);
    }

    #[test]
    fn a_name_that_leads_elsewhere_has_changed() {
        let swap = |path: &Path, look: usize| {
            let other = path.with_extension("new");
            fs::write(&other, "two").unwrap();
            if look == 0 {
                fs::remove_file(path).unwrap();
                symlink(&other, path).unwrap();
            }
        };
        assert_eq!(looks(swap), [false, true, true]);
    }

    #[test]
    fn a_pipe_in_the_place_of_a_file_is_not_waited_for() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        for path in [&path, Path::new("/dev/zero")] {
            assert_eq!(open(path).unwrap_err().to_string(), "it is a pipe or a device");
            assert!(FileState::read(path, None).is_none());
        }
    }

    #[test]
    fn what_could_be_written_is_not_made() {
        let dir = TempDir::new().unwrap();
        let (path, nowhere) = (dir.path().join("log"), dir.path().join("no/log"));
        can_write(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "lines").unwrap();
        can_write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "lines");
        assert_eq!(can_write(&nowhere).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(can_write(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn names_what_changed() {
        let dir = TempDir::new().unwrap();
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        let mut before = FileSnapshot::default();
        before.note(&one);
        before.note(&two);
        fs::write(&two, "here now").unwrap();
        assert_eq!(before.again().changed_since(&before), [two.as_path()]);
    }
}
