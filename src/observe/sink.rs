//! Where lines go: a bounded queue, and one thread that writes what it finds there in one go.
//!
//! A worker never waits for a disk on account of an access line; a login waits for its audit line.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SendError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use jiff::Timestamp;
use tokio::time::Instant;

use super::chained::ChainedFile;
use super::line::{self, Value};
use super::place::{LogFile, Memory, Place};
use super::syslog::Syslog;
use crate::config::{self, Format};

/// A handle to one log. Dropping the last one writes what is queued and ends the thread.
#[derive(Clone)]
pub struct Sink(Arc<Shared>);

struct Shared {
    queue: SyncSender<Message>,
    /// What the place is called.
    place: String,
    losses: Arc<Losses>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What is known of lines that were not written.
#[derive(Debug, Default)]
struct Losses {
    /// All since the start.
    lines: AtomicU64,
    /// Those of which no note is written yet.
    unsaid: AtomicU64,
    /// The last batch could not be written.
    failing: AtomicBool,
}

impl Losses {
    fn add(&self, lines: u64) {
        self.lines.fetch_add(lines, Ordering::Relaxed);
        self.unsaid.fetch_add(lines, Ordering::Relaxed);
    }
}

enum Message {
    Line(String),
    Reopen,
    /// Answered by dropping the sender, once all before it is written.
    Flush(SyncSender<()>),
    Close,
}

// === The handle ===

impl Sink {
    /// Starts a log on standard output. The format is that of the note about lost lines.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn stdout(format: Format) -> io::Result<Self> {
        Self::start(Place::Stdout, format, QUEUE)
    }

    /// Starts a log at the end of a file, which is made for its owner alone (mode 0600) when it is missing.
    ///
    /// # Errors
    /// When the file cannot be opened or no thread can be started.
    pub fn file(path: &Path, format: Format) -> io::Result<Self> {
        Self::start(Place::File(LogFile::open(path)?), format, QUEUE)
    }

    /// Starts a log of JSON lines at the end of a file, in which each line is bound to the one before it.
    ///
    /// # Errors
    /// When the file cannot be opened or no thread can be started.
    pub fn chain(path: &Path) -> io::Result<Self> {
        Self::start(Place::Chained(ChainedFile::open(path)?), Format::Json, QUEUE)
    }

    /// Starts a log of JSON lines that a syslog daemon takes. Whether it is there shows when it gets a line.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn syslog(to: config::Syslog) -> io::Result<Self> {
        Self::start(Place::Syslog(Syslog::new(to)), Format::Json, QUEUE)
    }

    /// Starts a log in memory, for tests.
    ///
    /// # Panics
    /// When no thread can be started.
    #[must_use]
    pub fn memory(format: Format) -> (Self, Memory) {
        let memory = Memory::default();
        let sink = Self::start(Place::Memory(memory.clone()), format, QUEUE).expect("a test has threads to spare");
        (sink, memory)
    }

    fn start(place: Place, format: Format, queue: usize) -> io::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel(queue);
        let (name, losses) = (place.to_string(), Arc::<Losses>::default());
        let writer = Writer { place, format, losses: Arc::clone(&losses), batch: Vec::new(), lines: 0 };
        let thread = thread::Builder::new().name("callgate-log".to_owned()).spawn(move || writer.run(&receiver))?;
        Ok(Self(Arc::new(Shared { queue: sender, place: name, losses, writer: Mutex::new(Some(thread)) })))
    }

    /// Queues a line, or counts it as lost when the queue is full. Never waits.
    pub fn line(&self, line: String) {
        match self.0.queue.try_send(Message::Line(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.0.losses.add(1);
            }
        }
    }

    /// Queues a line that must not be lost; waits for room.
    pub fn sure_line(&self, line: String) {
        if let Err(SendError(Message::Line(line))) = self.0.queue.send(Message::Line(line)) {
            tracing::error!(line, "the log is closed, so a line goes here");
        }
    }

    /// Returns what the place is called.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.0.place
    }

    /// Tells whether another handle leads to the same log.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns how many lines were lost since the start: the queue was full, or the place took nothing.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.losses.lines.load(Ordering::Relaxed)
    }

    /// Tells whether the last lines could not be written, and if so, lets the writer try again: it has lines to tell of.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        let failing = self.0.losses.failing.load(Ordering::Relaxed);
        if failing {
            let (sender, _) = mpsc::sync_channel(0);
            // A full queue is a try as well.
            drop(self.0.queue.try_send(Message::Flush(sender)));
        }
        failing
    }

    /// Waits until all that was queued before is written.
    pub fn flush(&self) {
        let (sender, written) = mpsc::sync_channel(0);
        self.send(Message::Flush(sender));
        // An error is the answer: the writer has dropped its end.
        let _ = written.recv();
    }

    /// Opens the file again, once all that was queued before is written.
    pub fn reopen(&self) {
        self.send(Message::Reopen);
    }

    /// Writes all that is queued and ends the thread; waits for both. Later lines are lost.
    pub fn close(&self) {
        self.0.close();
    }

    /// Sends what a closed log has no use for.
    fn send(&self, message: Message) {
        drop(self.0.queue.send(message));
    }
}

impl Shared {
    fn close(&self) {
        let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        drop(self.queue.send(Message::Close));
        if writer.join().is_err() {
            tracing::error!("the log's thread panicked");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

// === The thread ===

struct Writer {
    place: Place,
    format: Format,
    losses: Arc<Losses>,
    batch: Vec<u8>,
    /// How many lines the batch has, notes of losses not counted.
    lines: u64,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Message>) {
        while let Ok(message) = queue.recv() {
            let mut next = Some(message);
            while let Some(message) = next {
                match message {
                    Message::Line(line) => self.take(&line),
                    Message::Reopen => self.reopen(),
                    Message::Flush(written) => {
                        self.write();
                        drop(written);
                    }
                    Message::Close => return self.write(),
                }
                next = queue.try_recv().ok();
            }
            self.write();
        }
    }

    fn take(&mut self, line: &str) {
        self.push(line);
        self.lines += 1;
        if self.batch.len() >= BATCH {
            self.write();
        }
    }

    fn push(&mut self, line: &str) {
        self.batch.extend_from_slice(line.as_bytes());
        self.batch.push(b'\n');
    }

    fn write(&mut self) {
        let unsaid = self.note_the_lost();
        if self.batch.is_empty() {
            return;
        }
        let followed = self.place.follow(Instant::now());
        let written = self.place.write(&self.batch);
        self.batch.clear();
        let lines = std::mem::take(&mut self.lines);
        if written.is_err() {
            self.losses.add(lines);
            self.losses.unsaid.fetch_add(unsaid, Ordering::Relaxed);
        }
        self.report(followed.and(written));
    }

    fn reopen(&mut self) {
        self.write();
        let reopened = self.place.reopen();
        self.report(reopened);
    }

    /// Adds a note of the lines that were lost, and returns how many they are.
    fn note_the_lost(&mut self) -> u64 {
        let lost = self.losses.unsaid.swap(0, Ordering::Relaxed);
        if lost > 0 {
            self.push(&line::render(self.format, Timestamp::now(), "lost", &[("lines", Value::Count(lost))]));
        }
        lost
    }

    /// Reports the first failure of a row: a full disk fails each batch.
    fn report(&self, outcome: io::Result<()>) {
        let was_failing = self.losses.failing.swap(outcome.is_err(), Ordering::Relaxed);
        if let (Err(error), false) = (outcome, was_failing) {
            tracing::error!(place = %self.place, error = &error as &dyn Error, "cannot write the log");
        }
    }
}

/// How many lines may wait to be written.
const QUEUE: usize = 8192;

/// How many bytes are written in one go, about.
const BATCH: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn writer(memory: &Memory) -> Writer {
        let place = Place::Memory(memory.clone());
        Writer { place, format: Format::Text, losses: Arc::default(), batch: Vec::new(), lines: 0 }
    }

    fn lines(memory: &Memory) -> Vec<String> {
        memory.text().lines().map(str::to_owned).collect()
    }

    #[test]
    fn writes_every_line_in_order_before_it_closes() {
        let (sink, memory) = Sink::memory(Format::Text);
        for number in 0..5000 {
            sink.line(number.to_string());
        }
        sink.close();
        assert_eq!(lines(&memory), (0..5000).map(|number| number.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn the_last_handle_writes_what_is_queued() {
        let (sink, memory) = Sink::memory(Format::Text);
        let other = sink.clone();
        drop(sink);
        other.line("late".to_owned());
        drop(other);
        assert_eq!(memory.text(), "late\n");
    }

    #[test]
    fn a_flush_waits_for_what_was_queued() {
        let (sink, memory) = Sink::memory(Format::Text);
        for expected in ["one\n", "one\none\n"] {
            sink.line("one".to_owned());
            sink.flush();
            assert_eq!(memory.text(), expected);
        }
    }

    #[test]
    fn a_closed_log_neither_waits_nor_panics() {
        let (sink, memory) = Sink::memory(Format::Text);
        sink.close();
        sink.close();
        sink.line("x".to_owned());
        sink.sure_line("x".to_owned());
        sink.flush();
        assert_eq!(memory.text(), "");
    }

    #[test]
    fn when_full_access_lines_are_counted_and_audit_lines_wait() {
        let memory = Memory::default();
        let sink = Sink::start(Place::Memory(memory.clone()), Format::Json, 1).unwrap();
        let stuck = memory.bytes();
        // The first is a batch of its own, on which the writer gets stuck; only then has the queue room for the second.
        sink.sure_line("1".repeat(BATCH));
        sink.sure_line("2".to_owned());
        sink.line("3".to_owned());
        sink.line("4".to_owned());
        let audit = thread::spawn({
            let sink = sink.clone();
            move || sink.sure_line("5".to_owned())
        });
        drop(stuck);
        audit.join().unwrap();
        sink.close();
        assert_eq!((sink.lost(), sink.is_failing()), (2, false));
        let (notes, lines): (Vec<_>, Vec<_>) = lines(&memory).into_iter().partition(|line| line.contains("lost"));
        assert_eq!(lines, ["1".repeat(BATCH).as_str(), "2", "5"]);
        let notes = notes.iter().map(|note| serde_json::from_str::<serde_json::Value>(note).unwrap());
        assert_eq!(notes.map(|note| note["lines"].as_u64().unwrap()).sum::<u64>(), 2);
    }

    #[test]
    fn a_batch_has_a_bound() {
        let memory = Memory::default();
        let mut writer = writer(&memory);
        writer.take("short");
        assert_eq!(memory.text(), "");
        writer.take(&"x".repeat(BATCH));
        assert_eq!(memory.text().len(), "short\n".len() + BATCH + 1);
    }

    #[test]
    fn a_failing_place_is_reported_once_and_again_after_it_worked() {
        let events = tempfile::NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt().with_writer(Arc::new(events.reopen().unwrap())).finish();
        tracing::subscriber::with_default(subscriber, || {
            let mut writer = writer(&Memory::default());
            for place in ["/dev/full", "/dev/full", "/dev/null", "/dev/full"] {
                writer.place = Place::File(LogFile::open(Path::new(place)).unwrap());
                writer.take("line");
                writer.write();
            }
        });
        let events = fs::read_to_string(events.path()).unwrap();
        assert_eq!(events.matches("cannot write the log").count(), 2, "{events}");
        assert!(events.contains("/dev/full"), "{events}");
    }

    #[test]
    fn what_a_failing_place_did_not_take_is_counted_and_told_once_it_takes_lines_again() {
        let memory = Memory::default();
        let mut writer = writer(&memory);
        let losses = Arc::clone(&writer.losses);
        writer.place = Place::File(LogFile::open(Path::new("/dev/full")).unwrap());
        for line in ["1", "2"] {
            writer.take(line);
            writer.write();
        }
        assert_eq!((losses.lines.load(Ordering::Relaxed), losses.failing.load(Ordering::Relaxed)), (2, true));
        writer.place = Place::Memory(memory.clone());
        // A try without a line of its own, as health checks make it.
        writer.write();
        assert!(memory.text().ends_with("lost lines=2\n"), "{}", memory.text());
        assert_eq!((losses.lines.load(Ordering::Relaxed), losses.failing.load(Ordering::Relaxed)), (2, false));
    }
}
