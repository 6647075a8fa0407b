//! Where a log writes its lines: standard output, standard error, a file, a chained file, a syslog daemon or a syslog server.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
#[cfg(test)]
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::time::Instant;

use super::chained_file::ChainedFile;
use super::syslog::{DatagramAddress, SyslogClient};
use super::syslog_stream::SyslogStream;
use crate::config::SyslogConfig;

/// Where a log writes batches of lines.
pub(super) enum LogDestination {
    /// Standard output, without the buffer and the lock of the standard library.
    Stdout(File),
    /// Standard error.
    Stderr(File),
    /// The journal of systemd, for events.
    Journal(SyslogClient),
    /// The end of a file.
    File(LogFile),
    /// The end of a file whose lines form a hash chain.
    Chained(ChainedFile),
    /// A syslog daemon that receives datagrams.
    Syslog(SyslogClient),
    /// A syslog server, over TCP or TLS.
    SyslogStream(Box<SyslogStream>),
    /// Memory.
    #[cfg(test)]
    Memory(Memory),
}

impl LogDestination {
    /// Duplicates standard output.
    pub(super) fn stdout() -> io::Result<Self> {
        duplicate(&io::stdout()).map(Self::Stdout)
    }

    /// Duplicates standard error.
    pub(super) fn stderr() -> io::Result<Self> {
        duplicate(&io::stderr()).map(Self::Stderr)
    }

    /// Prepares the journal of systemd.
    pub(super) fn journal() -> Self {
        Self::Journal(SyslogClient::new(DatagramAddress::Journal(JOURNAL.into())))
    }

    /// Prepares a syslog daemon or server.
    pub(super) fn syslog(to: SyslogConfig) -> io::Result<Self> {
        let datagrams = |to| Self::Syslog(SyslogClient::new(to));
        let stream = |stream| Self::SyslogStream(Box::new(stream));
        Ok(match to {
            SyslogConfig::Unix(path) => datagrams(DatagramAddress::Unix(path)),
            SyslogConfig::Udp(address) => datagrams(DatagramAddress::Udp(address)),
            SyslogConfig::Tcp(at) => stream(SyslogStream::tcp(at)),
            SyslogConfig::Tls(to) => stream(SyslogStream::tls(&to)?),
        })
    }

    /// Returns how many bytes one write may have if it has several lines. A write succeeds or fails as a whole.
    pub(super) const fn most_at_once(&self) -> usize {
        match self {
            Self::Stdout(_) | Self::Stderr(_) | Self::File(_) | Self::Chained(_) => BATCH,
            #[cfg(test)]
            Self::Memory(_) => BATCH,
            // Each line is a message of its own.
            Self::Syslog(_) | Self::Journal(_) | Self::SyslogStream(_) => 1,
        }
    }

    /// Writes a whole batch, or accepts it for [`LogDestination::deliver`]; on an error, an unknown part of it.
    pub(super) fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout(file) | Self::Stderr(file) => file.write_all(batch),
            Self::File(log) => log.file.write_all(batch),
            Self::Chained(log) => log.write(batch),
            Self::Syslog(client) | Self::Journal(client) => client.write(batch),
            Self::SyslogStream(syslog) => syslog.accept(batch),
            #[cfg(test)]
            Self::Memory(memory) => memory.bytes().write_all(batch),
        }
    }

    /// Checks, at most once a second, that the path still names the open file; otherwise opens it again.
    pub(super) fn follow(&mut self, now: Instant) -> io::Result<()> {
        match self {
            Self::File(log) => log.follow(now),
            // A chained file checks at each write.
            Self::Stdout(_)
            | Self::Stderr(_)
            | Self::Journal(_)
            | Self::Chained(_)
            | Self::Syslog(_)
            | Self::SyslogStream(_) => Ok(()),
            #[cfg(test)]
            Self::Memory(_) => Ok(()),
        }
    }

    /// Sends lines that were accepted, for about a second at most. They go on waiting where that is not possible.
    pub(super) fn deliver(&mut self) -> io::Result<()> {
        self.stream().map_or(Ok(()), SyslogStream::deliver)
    }

    /// Returns when [`LogDestination::deliver`] has something to do without a new line.
    pub(super) fn due(&self) -> Option<Instant> {
        if let Self::SyslogStream(syslog) = self { syslog.due() } else { None }
    }

    /// Returns whether no accepted line waits.
    pub(super) fn is_drained(&self) -> bool {
        if let Self::SyslogStream(syslog) = self { syslog.is_drained() } else { true }
    }

    /// Ends, and returns how many accepted lines were not sent.
    pub(super) fn end(&mut self) -> u64 {
        self.stream().map_or(0, SyslogStream::end)
    }

    fn stream(&mut self) -> Option<&mut SyslogStream> {
        if let Self::SyslogStream(syslog) = self { Some(syslog) } else { None }
    }

    /// Opens the file again.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        match self {
            Self::File(log) => log.reopen(),
            Self::Chained(log) => log.reopen(),
            Self::Stdout(_) | Self::Stderr(_) | Self::Journal(_) | Self::Syslog(_) | Self::SyslogStream(_) => Ok(()),
            #[cfg(test)]
            Self::Memory(_) => Ok(()),
        }
    }
}

impl fmt::Display for LogDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout(_) => f.write_str("standard output"),
            Self::Stderr(_) => f.write_str("standard error"),
            Self::File(log) => write!(f, "{}", log.path.display()),
            Self::Chained(log) => write!(f, "{}", log.path().display()),
            Self::Syslog(client) | Self::Journal(client) => write!(f, "{client}"),
            Self::SyslogStream(syslog) => write!(f, "{syslog}"),
            #[cfg(test)]
            Self::Memory(_) => f.write_str("memory"),
        }
    }
}

/// A file that is appended to, and opened again when its path names another file.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// When the path last named the open file; nothing: it did not.
    checked: Option<Instant>,
}

impl LogFile {
    /// Opens a file for appending; creates a missing file with mode 0600.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: append(path)?, checked: Some(Instant::now()) })
    }

    fn follow(&mut self, now: Instant) -> io::Result<()> {
        if self.checked.is_some_and(|checked| now.duration_since(checked) < CHECK) {
            return Ok(());
        }
        self.checked = None;
        if !self.is_current()? {
            self.reopen()?;
        }
        self.checked = Some(now);
        Ok(())
    }

    /// Opens the path again. On an error the old file stays in use: a line in the wrong file is still a line.
    fn reopen(&mut self) -> io::Result<()> {
        self.checked = None;
        self.file = append(&self.path)?;
        self.checked = Some(Instant::now());
        Ok(())
    }

    /// Returns whether the path still names the open file.
    fn is_current(&self) -> io::Result<bool> {
        let Ok(named) = fs::metadata(&self.path) else {
            return Ok(false);
        };
        let open = self.file.metadata()?;
        Ok((named.dev(), named.ino()) == (open.dev(), open.ino()))
    }
}

fn duplicate(stream: &impl AsFd) -> io::Result<File> {
    stream.as_fd().try_clone_to_owned().map(File::from)
}

/// Opens a file for appending. A pipe without a reader is an error at once; writes to a pipe then wait for the reader.
fn append(path: &Path) -> io::Result<File> {
    let at_once = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(at_once).open(path)?;
    rustix::fs::fcntl_setfl(&file, OFlags::APPEND)?;
    Ok(file)
}

/// The lines of a log in memory.
#[cfg(test)]
#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<Vec<u8>>>);

#[cfg(test)]
impl Memory {
    /// Returns the lines written so far; after `Sink::flush`, all lines.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// Locks the lines; the log waits meanwhile.
    pub(super) fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the journal receives entries.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// How many bytes one write has, about.
const BATCH: usize = 64 << 10;

/// How often the path is checked.
const CHECK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Opens `log` in a fresh directory, applies `change`, writes after this time, and compares the content of `log`.
    #[track_caller]
    fn check(change: fn(&Path), after: Duration, expected: Option<&str>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut destination = LogDestination::File(LogFile::open(&path).unwrap());
        destination.write(b"one\n").unwrap();
        change(&path);
        destination.follow(Instant::now() + after).unwrap();
        destination.write(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(path).ok().as_deref(), expected);
    }

    fn move_away(path: &Path) {
        fs::rename(path, path.with_extension("1")).unwrap();
    }

    #[test]
    fn a_file_in_its_place_is_kept() {
        check(|_| (), CHECK, Some("one\ntwo\n"));
    }

    #[test]
    fn a_moved_file_is_opened_again() {
        check(move_away, CHECK, Some("two\n"));
    }

    #[test]
    fn a_replaced_file_is_opened_again() {
        check(
            |path| {
                move_away(path);
                fs::write(path, "new\n").unwrap();
            },
            CHECK,
            Some("new\ntwo\n"),
        );
    }

    #[test]
    fn the_name_is_looked_at_once_a_second() {
        check(move_away, Duration::ZERO, None);
    }

    #[test]
    fn lines_go_on_into_the_old_file_when_the_name_cannot_be_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (inner, moved) = (dir.path().join("inner"), dir.path().join("moved"));
        fs::create_dir(&inner).unwrap();
        let mut destination = LogDestination::File(LogFile::open(&inner.join("log")).unwrap());
        fs::rename(&inner, &moved).unwrap();
        assert!(destination.follow(Instant::now() + CHECK).is_err());
        destination.write(b"line\n").unwrap();
        assert_eq!(fs::read_to_string(moved.join("log")).unwrap(), "line\n");
    }

    #[test]
    fn a_new_file_is_its_owners_alone_and_an_old_one_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        LogFile::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "old\n").unwrap();
        LogDestination::File(LogFile::open(&path).unwrap()).write(b"new\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old\nnew\n");
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(LogFile::open(&path).is_err());
        let _reader = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&path).unwrap();
        let log = LogFile::open(&path).unwrap();
        assert!(!rustix::fs::fcntl_getfl(&log.file).unwrap().contains(OFlags::NONBLOCK));
    }
}
