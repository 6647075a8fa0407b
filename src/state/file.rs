//! The state file: an embedded database (redb), opened by one process at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend as _, StorageError,
    TableDefinition, TableError,
};
use zeroize::Zeroizing;

use super::Digest;
use super::backend::{GiveUpFlag, GuardedBackend};
use super::tables::{EndedLogins, FileRow, Freeze, SealedTicket, StateRecord, Suspension, Tables};
use crate::config::can_write;

/// The table that identifies the file: its version and the believed time.
const ABOUT: TableDefinition<'_, &str, u64> = TableDefinition::new("callgate");
const VERSION: &str = "version";
const CURRENT: u64 = 1;
/// The last believed time.
const TIME: &str = "time";

/// Times are milliseconds since 1970.
const MARKS: TableDefinition<'_, &Digest, i64> = TableDefinition::new("marks");
const TICKETS: TableDefinition<'_, &Digest, (i64, &[u8])> = TableDefinition::new("tickets");
const FREEZES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("freezes");
/// Files of earlier versions have no such table.
const ENDED: TableDefinition<'_, &Digest, (i64, i64)> = TableDefinition::new("ended logins");
/// Files of the first release lack this table.
const SUSPENSIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("suspensions");

/// Files of earlier versions lack this table.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");

/// The permission bits of group and others.
const OTHERS: u32 = 0o077;
/// How many bytes of the file are cached, besides the rows.
const CACHE: usize = 1 << 20;

/// A state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be opened or created.
    #[error("cannot open the state file {}", .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// Another process has it open.
    #[error("another process has the state file {} open: end it first, or name another file", .0.display())]
    Locked(PathBuf),
    /// Other users may read or write it.
    #[error("users other than its owner may read or write the state file {path} (mode {mode:04o}): run chmod 600 {path}", path = .0.display(), mode = .1)]
    Exposed(PathBuf, u32),
    /// It belongs to another program or another version of callgate.
    #[error("{} is not a state file of this version of callgate: name another file", .0.display())]
    Foreign(PathBuf),
    /// It was changed by another program, or its disk fails.
    #[error(
        "the state file {} is damaged ({}): put back a copy, or move it away to begin anew, which thaws every frozen account and lets links of the last 15 minutes be used once more",
        .0.display(), .1
    )]
    Damaged(PathBuf, String),
}

/// An open state file.
pub(super) struct StateFile {
    database: Database,
    path: PathBuf,
    /// The file after the last write of this process.
    left: FileStamp,
    given_up: GiveUpFlag,
}

/// Identifies a file and its last change, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    /// The device and the inode.
    inode: (u64, u64),
    length: u64,
    /// Seconds and nanoseconds since 1970.
    written: (i64, i64),
}

impl FileStamp {
    fn of(file: &fs::Metadata) -> Self {
        let (inode, written) = ((file.dev(), file.ino()), (file.mtime(), file.mtime_nsec()));
        Self { inode, length: file.len(), written }
    }
}

impl StateFile {
    /// Opens a file and reads it whole.
    pub(super) fn open(path: &Path) -> Result<(Self, FileContents), OpenError> {
        guarded(|| open(path)).unwrap_or_else(|panic| Err(OpenError::Damaged(path.to_owned(), panic)))
    }

    /// Creates a missing file. At any moment the file at its path is whole or missing.
    pub(super) fn make(path: &Path) -> Result<(), OpenError> {
        let io = |error| OpenError::Io(path.to_owned(), error);
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".new-{}", std::process::id()));
        let new = path.with_file_name(name);
        let _ = fs::remove_file(&new);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&new).map_err(io)?;
        let made = begin(file).map_err(|error| damaged(path, error)).and_then(|()| match fs::hard_link(&new, path) {
            // Another process created it first.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io(error)),
            _ => Ok(()),
        });
        let _ = fs::remove_file(&new);
        // The name is durable when its folder is synced.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        made.and_then(|()| File::open(folder).and_then(|folder| folder.sync_all()).map_err(io))
    }

    /// Writes rows durably, all or none.
    ///
    /// # Errors
    /// Also when another program has changed or replaced the file: a restart would not find what is written.
    pub(super) fn write(&mut self, rows: &[FileRow]) -> Result<(), String> {
        self.check()?;
        guarded(|| write(&self.database, rows).map_err(|error| error.to_string())).unwrap_or_else(Err)?;
        self.left = fs::metadata(&self.path).map(|found| FileStamp::of(&found)).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Checks that the file is at its path and unchanged since the last write. A changed file is given up.
    ///
    /// # Errors
    /// Says what happened to the file, and what to do.
    pub(super) fn check(&self) -> Result<(), String> {
        let found = fs::metadata(&self.path).map(|found| FileStamp::of(&found)).ok();
        let Some(found) = found.filter(|found| found.inode == self.left.inode) else {
            return Err("it was moved or removed; put it back, or restart to begin anew".to_owned());
        };
        if found == self.left {
            return Ok(());
        }
        self.given_up.set();
        let what = if found.length < self.left.length { "cut it short" } else { "changed it" };
        Err(format!("another program has {what}; put back a copy, or move it away and restart to begin anew"))
    }
}

/// The contents of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FileContents {
    pub(super) tables: Tables,
    /// The last believed time, if the file has one.
    pub(super) time: Option<Timestamp>,
}

/// Runs code that reads arbitrary bytes, and turns a panic into an error: the database asserts more than it checks.
fn guarded<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(act)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
        text.unwrap_or("the database gave up").lines().next().unwrap_or_default().to_owned()
    })
}

fn open(path: &Path) -> Result<(StateFile, FileContents), OpenError> {
    let io = |error| OpenError::Io(path.to_owned(), error);
    private(path, &fs::metadata(path).map_err(io)?)?;
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() == 0 {
        return Err(empty(path));
    }
    let given_up = GiveUpFlag::default();
    let backend = GuardedBackend::new(file, given_up.clone()).map_err(|error| opening(path, error))?;
    let (database, found) = load(path, |builder| builder.create_with_backend(backend))?;
    let left = FileStamp::of(&fs::metadata(path).map_err(io)?);
    Ok((StateFile { database, path: path.to_owned(), left, given_up }, found))
}

/// The error of an empty file, which the database would initialise.
fn empty(path: &Path) -> OpenError {
    OpenError::Damaged(path.to_owned(), "it is empty".to_owned())
}

/// Checks that only the owner may read or write a file.
fn private(path: &Path, metadata: &fs::Metadata) -> Result<(), OpenError> {
    let mode = metadata.mode();
    let is_exposed = mode & OTHERS != 0 && metadata.is_file();
    if is_exposed { Err(OpenError::Exposed(path.to_owned(), mode & 0o7777)) } else { Ok(()) }
}

/// Reads a file that could be opened, or created if it is missing. Changes and creates nothing; another process may
/// have the file open.
pub(super) fn inspect(path: &Path) -> Result<FileContents, OpenError> {
    let io = |error| OpenError::Io(path.to_owned(), error);
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return can_write(path).map(|()| FileContents::default()).map_err(io);
        }
        Err(error) => return Err(io(error)),
    };
    private(path, &file.metadata().map_err(io)?)?;
    match file.try_lock_shared() {
        Ok(()) => file.unlock().map_err(io)?,
        Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(path.to_owned())),
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(io)?;
    if bytes.is_empty() {
        return Err(empty(path));
    }
    let copy = InMemoryBackend::new();
    copy.set_len(bytes.len() as u64).and_then(|()| copy.write(0, &bytes)).map_err(io)?;
    let loaded = guarded(|| load(path, |builder| builder.create_with_backend(copy)).map(|(_, found)| found));
    loaded.unwrap_or_else(|panic| Err(OpenError::Damaged(path.to_owned(), panic)))
}

/// Opens a database and reads it whole. `path` is for error texts.
fn load(
    path: &Path,
    open: impl FnOnce(&Builder) -> Result<Database, DatabaseError>,
) -> Result<(Database, FileContents), OpenError> {
    let is_repaired = Arc::new(AtomicBool::new(false));
    let repaired = Arc::clone(&is_repaired);
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE).set_repair_callback(move |_| repaired.store(true, Ordering::Relaxed));
    let mut database = open(&builder).map_err(|error| opening(path, error))?;
    // After a crash, the database has checked everything itself.
    let is_checked = is_repaired.load(Ordering::Relaxed);
    let before = if is_checked { None } else { guarded(|| read(&database)).ok().and_then(Result::ok).flatten() };
    let is_whole = is_checked || database.check_integrity().map_err(|error| opening(path, error))?;
    let found = read(&database).map_err(|error| damaged(path, error))?;
    let found = found.ok_or_else(|| OpenError::Foreign(path.to_owned()))?;
    // A failed check means that it has repaired something: its list of free pages, which sometimes differs from its
    // count after a clean close, or rows, by those of an earlier write.
    if !is_whole && before.as_ref() != Some(&found) {
        return Err(OpenError::Damaged(path.to_owned(), "a checksum is wrong".to_owned()));
    }
    Ok((database, found))
}

fn opening(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => OpenError::Locked(path),
        DatabaseError::UpgradeRequired(_) => OpenError::Foreign(path),
        // The error of a file that does not begin as a database.
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
            OpenError::Foreign(path)
        }
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            OpenError::Damaged(path, "it is cut short".to_owned())
        }
        DatabaseError::Storage(StorageError::Io(error)) => OpenError::Io(path, error),
        error => OpenError::Damaged(path, error.to_string()),
    }
}

fn damaged(path: &Path, error: redb::Error) -> OpenError {
    match error {
        redb::Error::Io(error) => OpenError::Io(path.to_owned(), error),
        error => OpenError::Damaged(path.to_owned(), error.to_string()),
    }
}

/// Writes the first rows of a new file.
fn begin(file: File) -> Result<(), redb::Error> {
    let database = Database::builder().create_with_backend(FileBackend::new(file)?)?;
    let transaction = database.begin_write()?;
    transaction.open_table(ABOUT)?.insert(VERSION, CURRENT)?;
    transaction.open_table(MARKS)?;
    transaction.open_table(TICKETS)?;
    transaction.open_table(FREEZES)?;
    transaction.open_table(ENDED)?;
    transaction.open_table(SUSPENSIONS)?;
    Ok(transaction.commit()?)
}

/// Reads all rows; nothing if the file is not of this version.
fn read(database: &Database) -> Result<Option<FileContents>, redb::Error> {
    let transaction = database.begin_read()?;
    let (version, told) = match transaction.open_table(ABOUT) {
        Ok(about) => (about.get(VERSION)?.map(|version| version.value()), about.get(TIME)?.map(|time| time.value())),
        Err(TableError::TableDoesNotExist(_) | TableError::TableTypeMismatch { .. }) => (None, None),
        Err(error) => return Err(error.into()),
    };
    if version != Some(CURRENT) {
        return Ok(None);
    }
    let mut tables = Tables::default();
    for row in transaction.open_table(MARKS)?.iter()? {
        let (key, until) = row?;
        tables.marks.insert(*key.value(), time(until.value())?);
    }
    for row in transaction.open_table(TICKETS)?.iter()? {
        let (ticket, held) = row?;
        let (until, sealed) = held.value();
        tables.tickets.insert(*ticket.value(), SealedTicket { sealed: sealed.to_owned(), until: time(until)? });
    }
    for row in transaction.open_table(FREEZES)?.iter()? {
        let (account, freeze) = row?;
        let freeze: Freeze = serde_json::from_slice(freeze.value()).map_err(|_| wrong("a freeze"))?;
        tables.freezes.insert(account.value().to_owned(), freeze);
    }
    match transaction.open_table(ENDED) {
        Ok(ended) => {
            for row in ended.iter()? {
                let (key, times) = row?;
                let (at, until) = times.value();
                tables.ended.insert(*key.value(), EndedLogins { at: time(at)?, until: time(until)? });
            }
        }
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    match transaction.open_table(SUSPENSIONS) {
        Ok(suspensions) => {
            for row in suspensions.iter()? {
                let (user, suspension) = row?;
                let suspension: Suspension =
                    serde_json::from_slice(suspension.value()).map_err(|_| wrong("a suspension"))?;
                tables.suspensions.insert(user.value().to_owned(), suspension);
            }
        }
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    match transaction.open_table(RECORDS) {
        Ok(records) => {
            for row in records.iter()? {
                let (name, record) = row?;
                let record = StateRecord(Zeroizing::new(record.value().to_owned()));
                tables.records.insert(name.value().to_owned(), record);
            }
        }
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let told = told.map(|told| i64::try_from(told).map_err(|_| wrong("a time")).and_then(time)).transpose()?;
    Ok(Some(FileContents { tables, time: told }))
}

fn time(milliseconds: i64) -> Result<Timestamp, redb::Error> {
    Timestamp::from_millisecond(milliseconds).map_err(|_| wrong("a time"))
}

fn wrong(what: &str) -> redb::Error {
    redb::Error::Corrupted(format!("{what} is invalid"))
}

fn write(database: &Database, rows: &[FileRow]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut about = transaction.open_table(ABOUT)?;
        let mut marks = transaction.open_table(MARKS)?;
        let mut tickets = transaction.open_table(TICKETS)?;
        let mut freezes = transaction.open_table(FREEZES)?;
        let mut ended = transaction.open_table(ENDED)?;
        let mut suspensions = transaction.open_table(SUSPENSIONS)?;
        let mut records = transaction.open_table(RECORDS)?;
        for row in rows {
            match row {
                FileRow::Mark(key, Some(until)) => drop(marks.insert(key, until.as_millisecond())?),
                FileRow::Mark(key, None) => drop(marks.remove(key)?),
                FileRow::Ticket(ticket, Some(held)) => {
                    drop(tickets.insert(ticket, (held.until.as_millisecond(), held.sealed.as_slice()))?);
                }
                FileRow::Ticket(ticket, None) => drop(tickets.remove(ticket)?),
                FileRow::Freeze(account, Some(freeze)) => {
                    let freeze = serde_json::to_vec(freeze).expect("texts and times are JSON");
                    drop(freezes.insert(account.as_str(), freeze.as_slice())?);
                }
                FileRow::Freeze(account, None) => drop(freezes.remove(account.as_str())?),
                FileRow::Ended(key, Some(EndedLogins { at, until })) => {
                    drop(ended.insert(key, (at.as_millisecond(), until.as_millisecond()))?);
                }
                FileRow::Ended(key, None) => drop(ended.remove(key)?),
                FileRow::Suspension(user, Some(suspension)) => {
                    let suspension = serde_json::to_vec(suspension).expect("words and flags are JSON");
                    drop(suspensions.insert(user.as_str(), suspension.as_slice())?);
                }
                FileRow::Suspension(user, None) => drop(suspensions.remove(user.as_str())?),
                FileRow::Record(name, Some(record)) => drop(records.insert(name.as_str(), record.0.as_slice())?),
                FileRow::Record(name, None) => drop(records.remove(name.as_str())?),
                // A time before 1970 is not stored.
                FileRow::Time(now) => {
                    drop(about.insert(TIME, u64::try_from(now.as_millisecond()).unwrap_or_default())?)
                }
            }
        }
    }
    Ok(transaction.commit()?)
}
