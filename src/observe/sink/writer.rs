//! The thread that writes one log. It alone waits for a disk, a pipe, a lock or a daemon.

use std::error::Error;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::buffer::{self, LineBuffer, QueuedLines};
use super::queue::{LogQueue, WriterOrders};
use crate::observe::line::{self, FieldValue, LineStyle};
use crate::observe::log_destination::LogDestination;

/// How long a log that is closed goes on to deliver its lines to a server.
const LAST_DELIVERY: Duration = Duration::from_secs(5);

pub(super) struct LogWriter {
    shared: Arc<LogQueue>,
    destination: LogDestination,
    /// The style of notes about lost lines.
    style: LineStyle,
    spare: QueuedLines,
}

/// Marks the log as closed when the thread ends, also by a panic.
struct EndOnDrop(Arc<LogQueue>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl LogWriter {
    pub(super) fn new(shared: Arc<LogQueue>, destination: LogDestination, style: LineStyle) -> Self {
        Self { shared, destination, style, spare: QueuedLines::default() }
    }

    pub(super) fn run(mut self) {
        let _over = EndOnDrop(Arc::clone(&self.shared));
        loop {
            self.shared.sleep(self.destination.due());
            let orders = self.shared.take_orders();
            self.round(&orders);
            if self.destination.is_drained() {
                self.shared.report_flushed(orders.asked);
            } else if self.shared.losses.failing.load(Ordering::Relaxed) {
                self.shared.report_put_off(orders.asked);
            }
            if orders.close {
                return self.close();
            }
        }
    }

    /// Delivers the last lines, for a moment at most; what is left is lost.
    fn close(&mut self) {
        let end = Instant::now() + LAST_DELIVERY;
        while !self.destination.is_drained() && Instant::now() < end {
            self.shared.sleep(Some(self.destination.due().map_or(end, |due| due.min(end))));
            self.round(&WriterOrders::default());
        }
        let lost = self.destination.end();
        if lost > 0 {
            self.shared.losses.add(lost);
            tracing::error!(destination = %self.destination, lines = lost, "the last lines of the log are lost");
        }
    }

    /// Writes the waiting lines, then carries out the orders.
    fn round(&mut self, orders: &WriterOrders) {
        let losses = &self.shared.losses;
        let is_failing = losses.failing.load(Ordering::Relaxed);
        let is_due = self.destination.due().is_some_and(|due| due <= Instant::now()) || !self.destination.is_drained();
        if is_failing || is_due || self.shared.has_lines() || losses.unreported.load(Ordering::Relaxed) > 0 {
            self.shared.note_write();
            let followed = self.destination.follow(Instant::now());
            let noted = self.write_loss_note();
            let mut outcome = followed.and(noted);
            for buffer in self.shared.buffers() {
                let written = self.write(&buffer);
                outcome = outcome.and(written);
            }
            let delivered = self.destination.deliver();
            self.report(delivered.and(outcome));
        }
        if orders.reopen {
            self.shared.note_write();
            let reopened = self.destination.reopen();
            self.report(reopened);
        }
        self.shared.note_idle();
    }

    /// Writes the lines of one worker. Tries all; returns the first error.
    fn write(&mut self, buffer: &LineBuffer) -> io::Result<()> {
        let mut lines = buffer.take(mem::take(&mut self.spare));
        let (mut start, mut outcome) = (0, Ok(()));
        while start < lines.bytes.len() {
            let end = lines.piece(start, self.destination.most_at_once());
            let written = self.put(&lines.bytes[start..end]);
            self.shared.waiting.fetch_sub(end - start, Ordering::SeqCst);
            lines.answer(end, written.is_ok());
            outcome = outcome.and(written);
            start = end;
        }
        self.spare = lines.emptied();
        outcome
    }

    /// Writes some lines, or counts them as lost.
    fn put(&mut self, lines: &[u8]) -> io::Result<()> {
        self.shared.note_write();
        self.destination.write(lines).inspect_err(|_| self.shared.losses.add(buffer::count(lines)))
    }

    /// Writes a note about lost lines. A note that cannot be written is tried again in the next round.
    fn write_loss_note(&mut self) -> io::Result<()> {
        let losses = &self.shared.losses;
        let lost = losses.unreported.swap(0, Ordering::Relaxed);
        if lost == 0 {
            return Ok(());
        }
        let mut note = line::render(&self.style, Timestamp::now(), "lost", &[("lines", FieldValue::Count(lost))]);
        note.push('\n');
        self.shared.note_write();
        self.destination.write(note.as_bytes()).inspect_err(|_| {
            losses.unreported.fetch_add(lost, Ordering::Relaxed);
        })
    }

    /// Reports the first of several failures in a row: a full disk fails each round. The log of events itself reports
    /// none.
    fn report(&self, outcome: io::Result<()>) {
        let was_failing = self.shared.losses.failing.swap(outcome.is_err(), Ordering::Relaxed);
        let is_events = matches!(self.destination, LogDestination::Stderr(_) | LogDestination::Journal(_));
        if let (Err(error), false, false) = (outcome, was_failing, is_events) {
            tracing::error!(destination = %self.destination, error = &error as &dyn Error, "cannot write the log");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config::LogFormat;
    use crate::observe::log_destination::{LogFile, Memory};

    fn writer(destination: LogDestination) -> LogWriter {
        LogWriter::new(Arc::new(LogQueue::new(destination.to_string())), destination, LogFormat::Text.into())
    }

    /// Writes lines as one worker's, without a thread.
    fn write(writer: &mut LogWriter, lines: &[&str]) {
        let buffer = Arc::<LineBuffer>::default();
        for line in lines {
            let shared = Arc::clone(&writer.shared);
            buffer.push(|bytes| bytes.extend_from_slice(line.as_bytes()), |length| shared.reserve(length, usize::MAX));
        }
        writer.shared.add_buffer(&buffer);
        writer.round(&WriterOrders::default());
    }

    fn full() -> LogDestination {
        LogDestination::File(LogFile::open(Path::new("/dev/full")).unwrap())
    }

    #[test]
    fn a_failing_place_is_reported_once_and_again_after_it_worked() {
        let events = tempfile::NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt().with_writer(Arc::new(events.reopen().unwrap())).finish();
        tracing::subscriber::with_default(subscriber, || {
            let mut writer = writer(full());
            for destination in ["/dev/full", "/dev/full", "/dev/null", "/dev/full"] {
                writer.destination = LogDestination::File(LogFile::open(Path::new(destination)).unwrap());
                write(&mut writer, &["line"]);
            }
        });
        let events = fs::read_to_string(events.path()).unwrap();
        assert_eq!(events.matches("cannot write the log").count(), 2, "{events}");
        assert!(events.contains("/dev/full"), "{events}");
    }

    #[test]
    fn what_a_failing_place_did_not_take_is_counted_and_told_once_it_takes_lines_again() {
        let mut writer = writer(full());
        write(&mut writer, &["1", "2"]);
        write(&mut writer, &["3"]);
        let state = |writer: &LogWriter| {
            let losses = &writer.shared.losses;
            (losses.lines.load(Ordering::Relaxed), losses.failing.load(Ordering::Relaxed), writer.shared.has_lines())
        };
        assert_eq!(state(&writer), (3, true, false));
        let memory = Memory::default();
        writer.destination = LogDestination::Memory(memory.clone());
        // An attempt without a line, as health checks cause it.
        writer.round(&WriterOrders::default());
        assert!(memory.text().ends_with("lost lines=3\n"), "{}", memory.text());
        assert_eq!(state(&writer), (3, false, false));
    }

    #[test]
    fn a_name_that_could_not_be_opened_is_tried_again_without_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let mut writer = writer(LogDestination::File(LogFile::open(&folder.join("log")).unwrap()));
        fs::rename(&folder, dir.path().join("moved")).unwrap();
        writer.round(&WriterOrders { reopen: true, ..WriterOrders::default() });
        writer.round(&WriterOrders::default());
        assert!(writer.shared.losses.failing.load(Ordering::Relaxed));
        fs::create_dir(&folder).unwrap();
        writer.round(&WriterOrders::default());
        assert!(!writer.shared.losses.failing.load(Ordering::Relaxed));
    }
}
