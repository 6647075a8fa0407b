//! A file whose lines form a hash chain. Several processes may write it, such as two during a hand-over: each locks the
//! file and continues from its last line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::hash_chain::{ChainHead, TORN};
use super::line::{self, LineStyle};

/// How much of the end of a file is searched for its last line.
const TAIL: u64 = 1 << 20;

/// A file that is appended to, opened again when its path names another file, and chained across rotations.
pub(super) struct ChainedFile {
    path: PathBuf,
    file: File,
    /// The style of its own lines.
    style: LineStyle,
    head: Option<ChainHead>,
    /// The length of the file after the last write of this process; nothing: the tail must be read.
    known: Option<u64>,
}

/// The end of a file.
struct FileTail {
    /// The last whole line, if it is part of a chain.
    head: Option<ChainHead>,
    /// Whether bytes follow the last whole line.
    is_torn: bool,
}

impl ChainedFile {
    /// Opens a file for appending; creates a missing file with mode 0600.
    pub(super) fn open(path: &Path, style: &LineStyle) -> io::Result<Self> {
        let style = style.json();
        Ok(Self { path: path.to_owned(), file: open(path)?, style, head: None, known: None })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends lines, each with its newline, to the chain; on an error, an unknown part of them.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let locked = self.lock()?;
        let written = self.append(lines);
        locked.unlock()?;
        written
    }

    /// Opens the path again and continues the chain of the old file.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.file.lock()?;
        let moved = self.open_path_again();
        self.file.unlock()?;
        moved
    }

    /// Locks the file that the path names. If that cannot be opened, lines continue in the old file.
    fn lock(&mut self) -> io::Result<File> {
        let locked = self.file.try_clone()?;
        locked.lock()?;
        if self.is_current() || self.open_path_again().is_err() {
            return Ok(locked);
        }
        locked.unlock()?;
        // If the file is moved again at this moment, lines go once to the moved file.
        let locked = self.file.try_clone()?;
        locked.lock()?;
        Ok(locked)
    }

    /// Opens the path and carries the head of the chain over. The old file is locked meanwhile, so that no other
    /// process appends to it unseen.
    fn open_path_again(&mut self) -> io::Result<()> {
        let file = open(&self.path)?;
        self.read_head()?;
        (self.file, self.known) = (file, None);
        Ok(())
    }

    fn is_current(&self) -> bool {
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let named = fs::metadata(&self.path).map(id).ok();
        named.is_some() && named == self.file.metadata().map(id).ok()
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let is_torn = self.read_head()?;
        let mut head = match self.head.clone() {
            Some(head) => head,
            None => predecessor(&self.path).unwrap_or_else(ChainHead::empty),
        };
        let mut text = String::new();
        if is_torn {
            text.push('\n');
            text.push_str(&head.link(&line::render(&self.style, Timestamp::now(), TORN, &[])));
            text.push('\n');
        }
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line));
            text.push_str(&head.link(&line));
            text.push('\n');
        }
        let length = self.known.take();
        self.file.write_all(text.as_bytes())?;
        (self.head, self.known) = (Some(head), length.map(|length| length + text.len() as u64));
        Ok(())
    }

    /// Reads the head again if another process has written. Returns whether the last line is unfinished.
    fn read_head(&mut self) -> io::Result<bool> {
        let length = self.file.metadata()?.len();
        if self.known == Some(length) {
            return Ok(false);
        }
        let tail = tail(&mut self.file, length)?;
        if tail.head.is_some() {
            self.head = tail.head;
        }
        self.known = Some(length);
        Ok(tail.is_torn)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

/// Reads the end of a file.
fn tail(file: &mut File, length: u64) -> io::Result<FileTail> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    file.take(TAIL).read_to_end(&mut bytes)?;
    let is_torn = bytes.last().is_some_and(|last| *last != b'\n');
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(&[][..], |end| &bytes[..end]);
    let last = whole.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(FileTail { head: ChainHead::of(last), is_torn })
}

/// Finds the head in the youngest rotated file: `audit.log.1`, `audit.log-20261123`.
fn predecessor(path: &Path) -> Option<ChainHead> {
    let name = path.file_name()?.to_str()?;
    let is_rotated = |entry: &fs::DirEntry| {
        let other = entry.file_name();
        let rest = other.to_str().and_then(|other| other.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with(['.', '-']) && rest.ends_with(|last: char| last.is_ascii_digit()))
    };
    let rotated = fs::read_dir(path.parent()?).ok()?.flatten().filter(is_rotated);
    let youngest = rotated.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).max()?.1;
    let mut file = File::open(youngest).ok()?;
    let length = file.metadata().ok()?.len();
    tail(&mut file, length).ok()?.head
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;
    use crate::observe::hash_chain::{ChainBreak, ChainReader};

    const LINE: &[u8] = b"{\"kind\":\"a\"}\n";

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn open(&self) -> ChainedFile {
            ChainedFile::open(&self.path("audit.log"), &LogFormat::Json.into()).unwrap()
        }

        fn rotate(&self) {
            fs::rename(self.path("audit.log"), self.path("audit.log.1")).unwrap();
        }

        /// Follows the chain over these files, and compares the number of its last line.
        #[track_caller]
        fn check(&self, names: &[&str], expected: Result<u64, ChainBreak>) {
            let text: String = names.iter().map(|name| fs::read_to_string(self.path(name)).unwrap()).collect();
            let mut follower = ChainReader::default();
            let followed = text.lines().try_for_each(|line| follower.follow(line.as_bytes()));
            let head = followed.and_then(|()| follower.end()).map(|head| head.unwrap().seq);
            assert_eq!(head, expected, "{text}");
        }
    }

    #[test]
    fn the_chain_goes_on_after_a_restart() {
        let folder = Folder::new();
        folder.open().write(LINE).unwrap();
        folder.open().write(&LINE.repeat(2)).unwrap();
        folder.check(&["audit.log"], Ok(3));
    }

    #[test]
    fn the_chain_goes_on_in_the_next_file() {
        let folder = Folder::new();
        let mut file = folder.open();
        file.write(LINE).unwrap();
        folder.rotate();
        file.write(LINE).unwrap();
        folder.check(&["audit.log.1", "audit.log"], Ok(2));
        fs::rename(folder.path("audit.log.1"), folder.path("audit.log.2")).unwrap();
        folder.rotate();
        // No process runs meanwhile.
        folder.open().write(LINE).unwrap();
        folder.check(&["audit.log.2", "audit.log.1", "audit.log"], Ok(3));
    }

    #[test]
    fn a_file_that_was_copied_and_emptied_goes_on() {
        let folder = Folder::new();
        let mut file = folder.open();
        file.write(LINE).unwrap();
        fs::copy(folder.path("audit.log"), folder.path("audit.log.1")).unwrap();
        fs::write(folder.path("audit.log"), "").unwrap();
        file.write(LINE).unwrap();
        folder.check(&["audit.log.1", "audit.log"], Ok(2));
    }

    #[test]
    fn two_processes_write_one_chain() {
        let folder = Folder::new();
        let (mut one, mut two) = (folder.open(), folder.open());
        for file in [&mut one, &mut two] {
            file.write(LINE).unwrap();
        }
        folder.rotate();
        for file in [&mut two, &mut one] {
            file.write(LINE).unwrap();
        }
        folder.check(&["audit.log.1", "audit.log"], Ok(4));
        let write = |mut file: ChainedFile| (0..200).for_each(|_| file.write(LINE).unwrap());
        std::thread::scope(|scope| {
            let threads = [one, two, folder.open()].map(|file| scope.spawn(move || write(file)));
            for thread in threads {
                thread.join().unwrap();
            }
        });
        folder.check(&["audit.log.1", "audit.log"], Ok(604));
    }

    #[test]
    fn what_was_never_finished_is_told() {
        let folder = Folder::new();
        let mut file = folder.open();
        file.write(LINE).unwrap();
        let mut other = OpenOptions::new().append(true).open(folder.path("audit.log")).unwrap();
        other.write_all(b"{\"kind\":\"half").unwrap();
        file.write(LINE).unwrap();
        folder.check(&["audit.log"], Ok(3));
        let text = fs::read_to_string(folder.path("audit.log")).unwrap();
        assert_eq!((text.lines().count(), text.matches(TORN).count()), (4, 1), "{text}");
    }

    #[test]
    fn a_line_that_others_put_in_shows() {
        let folder = Folder::new();
        let mut file = folder.open();
        file.write(LINE).unwrap();
        OpenOptions::new().append(true).open(folder.path("audit.log")).unwrap().write_all(LINE).unwrap();
        file.write(LINE).unwrap();
        folder.check(&["audit.log"], Err(ChainBreak::Foreign));
    }

    #[test]
    fn a_chain_begins_behind_lines_without_one() {
        let folder = Folder::new();
        fs::write(folder.path("audit.log"), LINE).unwrap();
        folder.open().write(LINE).unwrap();
        folder.check(&["audit.log"], Ok(1));
    }
}
